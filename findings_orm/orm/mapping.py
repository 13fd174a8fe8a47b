"""Documents to rows and back, without ORM entities: this is the hot path of reading and writing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from functools import lru_cache
from itertools import repeat
from json.encoder import encode_basestring
from typing import Any

from pydantic_core import from_json, to_json

from findings_orm.fields import Kind
from findings_orm.finding import FIELD_KINDS, FIELDS, OBJECT_FIELDS, FindingDocument, Objects, fields_of
from findings_orm.orm.types import stored_time
from findings_orm.port import Event, Rejected, RejectedOriginal, Run
from findings_orm.query import time_key
from findings_orm.records import Identity

Row = Sequence[Any]
"""A row as a driver gives it."""

IdentityRow = tuple[str, bytes, int, int, bytes, str, int | None, str, str, int, int, str | None, str | None]
RunRow = tuple[str, str, str, str, int, str, str, str | None]
EventRow = tuple[str, str, str, str, str, str, str | None]
RejectedRow = tuple[str, str, int, str, str, str, str]

FINDING_COLUMNS = FIELDS
LISTS = fields_of(Kind.LIST)
JSON_FIELDS = fields_of(Kind.LIST, Kind.OBJECT, Kind.RECORD)
"""The fields that are JSON in a column."""


def _column_positions(*kinds: Kind) -> tuple[int, ...]:
    return tuple(FINDING_COLUMNS.index(name) for name in fields_of(*kinds))


LISTS_AT, OBJECTS_AT, _RECORDS_AT = (
    _column_positions(Kind.LIST),
    _column_positions(Kind.OBJECT),
    _column_positions(Kind.RECORD),
)
NUMBERS = fields_of(Kind.NUMBER)
_TIMES, _RECORDS = fields_of(Kind.TIME), fields_of(Kind.RECORD)
_TIMES_AT = _column_positions(Kind.TIME)

IDENTITY_COLUMNS = (
    "finding_id",
    "fingerprint",
    "ordinal",
    "fingerprint_version",
    "content",
    "reported",
    "line",
    "first_seen",
    "last_seen",
    "first_run",
    "last_run",
    "closed_as",
    "closed_at",
)
RUN_COLUMNS = ("run_id", "detectors", "started_at", "tool", "number", "counts", "category", "categories")
RECEIPT_COLUMNS = ("revision_before", "revision_after", "digests")
EVENT_COLUMNS = ("finding_id", "at", "actor", "kind", "changes", "comment", "run_id")
REJECTED_COLUMNS = ("rejected_id", "run_id", "position", "at", "field", "reason", "original")

_EMPTY_LIST = "[]"
_EMPTY_OBJECT = "{}"
_REFUSALS, _CONTENT = "refusals", "content"


def _json_or_empty(value: object, empty: str) -> str:
    return to_json(value).decode() if value else empty


def finding_row(document: FindingDocument, objects: Objects | None = None) -> tuple[Any, ...]:
    """Return the values of a canonical document in the order of `FINDING_COLUMNS`, as SQLite stores them."""
    values: list[Any] = [*document.values()]
    for position in _TIMES_AT:
        if values[position] is not None:
            values[position] = time_key(values[position])
    for position in _RECORDS_AT:
        if values[position] is not None:
            values[position] = to_json(values[position]).decode()
    for position in LISTS_AT:
        items = values[position]
        values[position] = to_json(items).decode() if items else _EMPTY_LIST
    for position, data in zip(OBJECTS_AT, objects or repeat(None), strict=False):
        values[position] = data.decode() if data else _json_or_empty(values[position], _EMPTY_OBJECT)
    return tuple(values)


def document_from_row(row: Row) -> FindingDocument:
    """Return the document of a row in the order of `FINDING_COLUMNS`."""
    document: dict[str, Any] = dict(zip(FINDING_COLUMNS, row, strict=True))
    for name in _TIMES:
        if document[name] is not None:
            document[name] = stored_time(document[name])
    for name in LISTS:
        text = document[name]
        document[name] = [] if text == _EMPTY_LIST else from_json(text)
    for name in OBJECT_FIELDS:
        text = document[name]
        document[name] = {} if text == _EMPTY_OBJECT else from_json(text)
    for name in _RECORDS:
        if document[name] is not None:
            document[name] = from_json(document[name])
    for name in NUMBERS:
        number = document[name]
        if number is not None and number == int(number):
            document[name] = int(number)
    return document  # type: ignore[return-value]  # has all fields: a dict by names that are looked up


def json_from_row(row: Row) -> bytes:
    """Return the document of a row in the order of `FINDING_COLUMNS` as JSON; columns of JSON are taken as they are."""
    values = list(row)
    for position, encode in _JSON_ENCODERS:
        values[position] = "null" if values[position] is None else encode(values[position])
    data: bytes = (_JSON_OBJECT % tuple(values)).encode()
    return to_json(from_json(data)) if b"\n" in data else data  # somebody wrote JSON of several lines


def _json_number(value: float) -> str:
    return to_json(int(value) if value == int(value) else value).decode()


_JSON_ENCODER: dict[Kind, Callable[[Any], str]] = {
    Kind.TEXT: encode_basestring,
    Kind.UUID: encode_basestring,
    Kind.TIME: lambda text: f'"{stored_time(text)}"',
    Kind.RECORD: str,
    Kind.INTEGER: str,
    Kind.NUMBER: _json_number,
    Kind.FLOAT: repr,
}
_JSON_ENCODERS = [
    (position, _JSON_ENCODER[FIELD_KINDS[name]])
    for position, name in enumerate(FINDING_COLUMNS)
    if FIELD_KINDS[name] not in (Kind.LIST, Kind.OBJECT)
]
_JSON_OBJECT = "{" + ",".join(f'"{name}":%s' for name in FINDING_COLUMNS) + "}"


def identity_row(identity: Identity) -> IdentityRow:
    """Return the values of an identity in the order of `IDENTITY_COLUMNS`."""
    return (
        *identity[:7],
        time_key(identity.first_seen),
        time_key(identity.last_seen),
        *identity[9:12],
        optional_time(identity.closed_at),
    )


def identity_from_row(row: Row) -> Identity:
    """Return the identity of a row in the order of `IDENTITY_COLUMNS`."""
    closed_at = row[12]
    return Identity._make(
        (
            *row[:7],
            stored_time(row[7]),
            stored_time(row[8]),
            *row[9:12],
            None if closed_at is None else stored_time(closed_at),
        )
    )


def optional_time(text: str | None) -> str | None:
    """Return what is stored for a time that may be absent."""
    return None if text is None else time_key(text)


def run_row(run: Run) -> RunRow:
    """Return the values of a run in the order of `RUN_COLUMNS`."""
    return (
        run.id,
        to_json(list(run.detectors)).decode(),
        time_key(run.started_at),
        to_json(dict(run.tool)).decode(),
        run.number,
        to_json(
            {**run.counts, _REFUSALS: [astuple(one) for one in run.rejected], _CONTENT: run.content}
        ).decode(),
        run.category,
        to_json(dict(run.categories)).decode() if run.categories else None,
    )


def run_from_row(row: Row) -> Run:
    """Return the run of a row in the order of `RUN_COLUMNS`."""
    counts = from_json(row[5])
    rejected = tuple(Rejected(*one) for one in counts.pop(_REFUSALS))
    content = counts.pop(_CONTENT, "")
    detectors = tuple(from_json(row[1]))
    tool, categories = from_json(row[3]), from_json(row[7]) if row[7] else {}
    return Run(
        row[0], detectors, stored_time(row[2]), tool, row[4], counts, rejected, content, row[6], categories
    )


def event_row(event: Event) -> EventRow:
    """Return the values of an event in the order of `EVENT_COLUMNS`."""
    changes = to_json(dict(event.changes)).decode()
    return (
        event.finding_id,
        time_key(event.at),
        event.actor,
        event.kind,
        changes,
        event.comment,
        event.run_id,
    )


def event_from_row(row: Row) -> Event:
    """Return the event of a row in the order of `EVENT_COLUMNS`."""
    return Event(row[0], stored_time(row[1]), row[2], row[3], from_json(row[4]), row[5], row[6])


def rejected_row(original: RejectedOriginal, text: str) -> RejectedRow:
    """Return the values of a refused original in the order of `REJECTED_COLUMNS`; `text` is it as JSON."""
    return (
        original.rejected_id,
        original.run_id,
        original.index,
        time_key(original.at),
        original.field,
        original.reason,
        text,
    )


def names(columns: Iterable[str]) -> str:
    """Return column names for a statement."""
    return ", ".join(columns)


@lru_cache(64)
def aliased_columns(columns: tuple[str, ...], alias: str) -> str:
    """Return column names for a statement, each after an alias such as ``f.``."""
    return names(f"{alias}{column}" for column in columns)
