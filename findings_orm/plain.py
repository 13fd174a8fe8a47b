"""Records as plain JSON values and back: the same in the files of a store and in a backup."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from findings_orm.port import Event, Rejected, RejectedOriginal, Run
from findings_orm.records import Identity

_EVENT = tuple(field.name for field in fields(Event))
_ORIGINAL = tuple(field.name for field in fields(RejectedOriginal))
_REFUSAL = tuple(field.name for field in fields(Rejected))
_RUN = ("id", "detectors", "started_at", "tool", "number", "counts")
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError)
"""What a decoder raises when the JSON has not the shape that it was written in."""


def put_identity(identity: Identity) -> dict[str, Any]:
    """Return an identity as JSON."""
    row = dict(zip(Identity._fields, identity, strict=True))
    row["fingerprint"] = identity.fingerprint.hex()
    row["content"] = identity.content.hex()
    return row


def get_identity(row: Mapping[str, Any]) -> Identity:
    """Return what `put_identity` was given."""
    return Identity(
        **{
            **{name: row[name] for name in Identity._fields},
            "fingerprint": bytes.fromhex(row["fingerprint"]),
            "content": bytes.fromhex(row["content"]),
        }
    )


def put_event(event: Event) -> dict[str, Any]:
    """Return an event as JSON."""
    return {name: getattr(event, name) for name in _EVENT}


def get_event(row: Mapping[str, Any]) -> Event:
    """Return what `put_event` was given."""
    return Event(**{name: row[name] for name in _EVENT})


def put_run(run: Run) -> dict[str, Any]:
    """Return a run as JSON."""
    refused = [{name: getattr(one, name) for name in _REFUSAL} for one in run.rejected]
    return {**{name: getattr(run, name) for name in _RUN}, "rejected": refused}


def get_run(row: Mapping[str, Any]) -> Run:
    """Return what `put_run` was given."""
    refused = tuple(Rejected(**{name: one[name] for name in _REFUSAL}) for one in row["rejected"])
    given = {name: row[name] for name in _RUN}
    return Run(**{**given, "detectors": tuple(row["detectors"])}, rejected=refused)


def put_original(original: RejectedOriginal) -> dict[str, Any]:
    """Return a refused original as JSON; what only Python's JSON has (NaN, infinities) as a text."""
    row = {name: getattr(original, name) for name in _ORIGINAL}
    text = json.dumps(original.original)
    try:
        json.loads(text, parse_constant=_refuse)
    except ValueError:
        return {**row, "original": text, "as_text": True}
    return row


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def get_original(row: Mapping[str, Any]) -> RejectedOriginal:
    """Return what `put_original` was given."""
    given = {name: row[name] for name in _ORIGINAL}
    if row.get("as_text"):
        given["original"] = json.loads(given["original"])
    return RejectedOriginal(**given)
