"""Documents and operations of a store in files as JSON and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import to_json

from findings_orm.errors import StorageIntegrityError
from findings_orm.finding import FIELDS, SCHEMA_VERSION, Finding, FindingDocument
from findings_orm.imports.intake import current_document
from findings_orm.records import (
    StatusChange,
    Stored,
    Streak,
    decode_event,
    decode_identity,
    decode_original,
    decode_run,
    encode_event,
    encode_identity,
    encode_original,
    encode_run,
)

_DEFAULTS: dict[str, Any] = {
    name: field.get_default(call_default_factory=True)
    for name, field in Finding.model_fields.items()
    if not field.is_required()
}
_LEFT_OUT = {name: default for name, default in _DEFAULTS.items() if default in (None, [], {})}


def slim_document(document: FindingDocument) -> dict[str, Any]:
    """Return a document without its version and without what is null or empty by default."""
    return {
        name: value
        for name, value in document.items()
        if name != "finding_schema_version"
        and not (name in _LEFT_OUT and type(value) is type(_LEFT_OUT[name]) and value == _LEFT_OUT[name])
    }


def full_document(short: Mapping[str, Any], version: str = SCHEMA_VERSION) -> FindingDocument:
    """Return the document that `slim_document` made short, in the current version."""
    if version != SCHEMA_VERSION:
        short = current_document({**short, "finding_schema_version": version})
    document: dict[str, Any] = {}
    for name in FIELDS:
        if name in short:
            document[name] = short[name]
        else:
            default = _DEFAULTS[name]
            document[name] = default.copy() if isinstance(default, (list, dict)) else default
    return document  # type: ignore[return-value]  # has all fields: a dict by names that are looked up


def document_digest(document: FindingDocument) -> str:
    """Return 16 hexadecimal digits for a document as `findings.json` has it."""
    return hashlib.blake2b(to_json(slim_document(document)), digest_size=8).hexdigest()


def _put_stored(row: Stored) -> list[Any]:
    return [slim_document(row.document), encode_identity(row.identity)]


def _get_stored(version: str) -> Callable[[Any], Stored]:
    return lambda row: Stored(full_document(row[0], version), decode_identity(row[1]))


_Coder = Callable[[Any], Any]
_ROWS: dict[str, tuple[_Coder, _Coder | None]] = {
    "insert": (_put_stored, None),
    "replace": (_put_stored, None),
    "reidentify": (encode_identity, decode_identity),
    "change_status": (list, lambda row: StatusChange(*row)),
    "add_streaks": (list, lambda row: Streak(*row)),
    "add_events": (encode_event, decode_event),
    "put_rejected": (encode_original, decode_original),
}
_PLAIN = {"advance", "put_project", "seen", "remove", "remove_rejected", "delete_project"}


def encode_operation(operation: tuple[Any, ...]) -> list[Any]:
    """Return a call of a writing method of `Records`, as (name, project, argument, ...), as JSON."""
    name, project_id, *arguments = operation
    if name in _ROWS:
        put = _ROWS[name][0]
        return [name, project_id, [put(row) for row in arguments[0]]]
    return [name, project_id, *(map(encode_run, arguments) if name == "put_run" else arguments)]


def decode_operation(row: list[Any], version: str) -> tuple[Any, ...]:
    """Return what `encode_operation` was given; documents of an older `version` become current ones."""
    name, project_id, *arguments = row
    if name in _ROWS:
        get = _ROWS[name][1] or _get_stored(version)
        return (name, project_id, [get(one) for one in arguments[0]])
    if name == "put_run":
        return (name, project_id, decode_run(arguments[0]))
    if name not in _PLAIN:
        raise StorageIntegrityError(f"has an unknown operation {name!r}")
    return (name, project_id, *arguments)
