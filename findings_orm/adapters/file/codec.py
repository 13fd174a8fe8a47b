"""Records as JSON and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from pydantic_core import to_json

from findings_orm.errors import StorageIntegrityError
from findings_orm.finding import FIELDS, SCHEMA_VERSION, Finding
from findings_orm.importing import current_document
from findings_orm.port import Document, Event, Rejected, RejectedOriginal, Run
from findings_orm.records import Identity, StatusChange, Stored, Streak

_DEFAULTS: dict[str, Any] = {
    name: field.get_default(call_default_factory=True)
    for name, field in Finding.model_fields.items()
    if not field.is_required()
}
_LEFT_OUT = {name: default for name, default in _DEFAULTS.items() if default in (None, [], {})}
_EVENT = tuple(field.name for field in fields(Event))
_ORIGINAL = tuple(field.name for field in fields(RejectedOriginal))
_REFUSAL = tuple(field.name for field in fields(Rejected))
_RUN = ("id", "detectors", "started_at", "tool", "number", "counts")
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError)
"""What a decoder raises when the JSON has not the shape that it was written in."""


def slim(document: Document) -> dict[str, Any]:
    """Return a document without its version and without what is null or empty by default."""
    return {
        name: value
        for name, value in document.items()
        if name != "finding_schema_version"
        and not (name in _LEFT_OUT and type(value) is type(_LEFT_OUT[name]) and value == _LEFT_OUT[name])
    }


def full(short: Mapping[str, Any], version: str = SCHEMA_VERSION) -> Document:
    """Return the document that `slim` made short, in the current version."""
    if version != SCHEMA_VERSION:
        short = current_document({**short, "finding_schema_version": version})
    document = {}
    for name in FIELDS:
        if name in short:
            document[name] = short[name]
        else:
            default = _DEFAULTS[name]
            document[name] = default.copy() if isinstance(default, (list, dict)) else default
    return document


def document_digest(document: Document) -> str:
    """Return 16 hexadecimal digits for a document as `findings.json` has it."""
    return hashlib.blake2b(to_json(slim(document)), digest_size=8).hexdigest()


def put_identity(identity: Identity) -> dict[str, Any]:
    """Return an identity as JSON."""
    return {
        **identity._asdict(),
        "fingerprint": identity.fingerprint.hex(),
        "content": identity.content.hex(),
    }


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


def _put_stored(row: Stored) -> list[Any]:
    return [slim(row.document), put_identity(row.identity)]


def _get_stored(version: str) -> Callable[[Any], Stored]:
    return lambda row: Stored(full(row[0], version), get_identity(row[1]))


_Coder = Callable[[Any], Any]
_ROWS: dict[str, tuple[_Coder, _Coder | None]] = {
    "insert": (_put_stored, None),
    "replace": (_put_stored, None),
    "reidentify": (put_identity, get_identity),
    "change_status": (list, lambda row: StatusChange(*row)),
    "add_streaks": (list, lambda row: Streak(*row)),
    "add_events": (put_event, get_event),
    "put_rejected": (put_original, get_original),
}
_PLAIN = {"advance", "seen", "remove", "remove_rejected", "delete_project"}


def put_operation(operation: tuple[Any, ...]) -> list[Any]:
    """Return a call of a writing method of `Records`, as (name, project, argument, ...), as JSON."""
    name, project_id, *arguments = operation
    if name in _ROWS:
        put = _ROWS[name][0]
        return [name, project_id, [put(row) for row in arguments[0]]]
    return [name, project_id, *(map(put_run, arguments) if name == "put_run" else arguments)]


def get_operation(row: list[Any], version: str) -> tuple[Any, ...]:
    """Return what `put_operation` was given; documents of an older `version` become current ones."""
    name, project_id, *arguments = row
    if name in _ROWS:
        get = _ROWS[name][1] or _get_stored(version)
        return (name, project_id, [get(one) for one in arguments[0]])
    if name == "put_run":
        return (name, project_id, get_run(arguments[0]))
    if name not in _PLAIN:
        raise StorageIntegrityError(f"has an unknown operation {name!r}")
    return (name, project_id, *arguments)
