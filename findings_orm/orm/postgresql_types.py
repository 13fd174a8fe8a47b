"""The columns of the tables as PostgreSQL has them: how they are read as text, and written as binary rows.

Both are made from the models, once. Everything is read as text, by casts in the statements: so nothing depends on the
settings of a session (time zone, date style) or on the types that an application registered with the driver, and the
text of a ``json`` column arrives as it was stored.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from pydantic_core import to_json
from sqlalchemy.dialects import postgresql

from findings_orm.fields import Kind
from findings_orm.finding import FIELD_KINDS, FindingDocument, Objects
from findings_orm.orm.mapping import FINDING_COLUMNS, IDENTITY_COLUMNS, LISTS_AT, OBJECTS_AT, Row
from findings_orm.orm.models import TABLES

Encoder = Callable[[Any], Any]

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy does not say its type
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

TYPES: dict[str, dict[str, str]] = {
    table.name: {
        column.name: column.type.compile(_DIALECT).removesuffix(' COLLATE "C"') for column in table.columns
    }
    for table in TABLES
}
"""Table and column to type."""

_TEXT = "{}::text"
_SHOWN = {
    "UUID": _TEXT,
    "JSON": _TEXT,
    "JSONB": _TEXT,
    "TIMESTAMP WITH TIME ZONE": "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
}


def select_expression(table: str, column: str, alias: str = "") -> str:
    """Return the expression that reads a column as `mapping` takes it."""
    return _SHOWN.get(TYPES[table][column], "{}").format(alias + column)


@lru_cache(64)
def select_expressions(table: str, columns: tuple[str, ...], alias: str = "") -> str:
    """Return the expressions for several columns."""
    return ", ".join(select_expression(table, column, alias) for column in columns)


@lru_cache(4096)
def binary_time(text: str) -> bytes:
    """Return a canonical time as the microseconds since 2000 that PostgreSQL counts."""
    return struct.pack("!q", (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND)


def _binary_uuid(text: str) -> bytes:
    return bytes.fromhex(text.replace("-", ""))


def _binary_jsonb(text: str) -> bytes:
    return b"\x01" + text.encode()


_ENCODERS: dict[str, Encoder | None] = {
    "TEXT": None,
    "UUID": _binary_uuid,
    "TIMESTAMP WITH TIME ZONE": binary_time,
    "JSON": str.encode,
    "JSONB": _binary_jsonb,
    "BYTEA": None,
    "SMALLINT": struct.Struct("!h").pack,
    "INTEGER": struct.Struct("!i").pack,
    "BIGINT": struct.Struct("!q").pack,
    "DOUBLE PRECISION": struct.Struct("!d").pack,
}


class BinaryRows:
    """Rows for a binary ``COPY`` into columns of a table: text, and bytes that need no conversion by the driver."""

    def __init__(self, table: str, columns: Sequence[str]) -> None:
        self.table = table
        self.columns = tuple(columns)
        self._encoders = [
            (position, encoder)
            for position, column in enumerate(columns)
            if (encoder := _ENCODERS[TYPES[table][column]]) is not None
        ]

    def copy_into(self, table: str) -> str:
        """Return the statement that takes the rows."""
        return f"COPY {table} ({', '.join(self.columns)}) FROM STDIN (FORMAT BINARY)"

    def encode(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield rows as `mapping` makes them as rows for the driver."""
        encoders = self._encoders
        for row in rows:
            values = list(row)
            for position, encoder in encoders:
                value = values[position]
                if value is not None:
                    values[position] = encoder(value)
            yield values


FINDING_ROWS = BinaryRows("findings", FINDING_COLUMNS)
IDENTITY_ROWS = BinaryRows("finding_identities", ("project_id", *IDENTITY_COLUMNS))


def binary_finding(document: FindingDocument, objects: Objects | None = None) -> Row:
    """Return what `FINDING_ROWS` makes of the row of a canonical document, by the shortest way."""
    values = list(document.values())
    for at, encode in _FIELD_ENCODERS:
        value = values[at]
        if value is not None:
            values[at] = encode(value)
    for at in LISTS_AT:
        items = values[at]
        values[at] = b"\x01" + to_json(items) if items else b"\x01[]"
    for at, data in zip(OBJECTS_AT, objects or [to_json(values[at]) for at in OBJECTS_AT], strict=True):
        values[at] = data
    return values


def _field_encoder(name: str) -> Encoder | None:
    """Return what encodes the value of a field that is no list and no object."""
    if FIELD_KINDS[name] is Kind.RECORD:
        return to_json
    encoder = _ENCODERS[TYPES["findings"][name]]
    return lru_cache(64)(encoder) if encoder is _binary_uuid and name != "id" else encoder


_FIELD_ENCODERS = [
    (at, encoder)
    for at, name in enumerate(FINDING_COLUMNS)
    if FIELD_KINDS[name] not in (Kind.LIST, Kind.OBJECT) and (encoder := _field_encoder(name)) is not None
]
