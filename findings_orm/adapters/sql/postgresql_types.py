"""The columns of the tables as PostgreSQL has them: how they are read as text, and written as binary rows.

Both are made from the models, once. Everything is read as text, by casts in the statements: so nothing depends on the
settings of a session (time zone, date style) or on the types that an application registered with the driver, and the
text of a ``json`` column arrives as it was stored.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy.dialects import postgresql

from findings_orm.adapters.sql.mapping import FINDING_COLUMNS, IDENTITY_COLUMNS, Row
from findings_orm.adapters.sql.models import Base

Encoder = Callable[[Any], Any]

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy does not say its type
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

TYPES: dict[str, dict[str, str]] = {
    table.name: {
        column.name: column.type.compile(_DIALECT).removesuffix(' COLLATE "C"') for column in table.columns
    }
    for table in Base.metadata.tables.values()
}
"""Table and column to type."""

_TEXT = "{}::text"
_SHOWN = {
    "UUID": _TEXT,
    "JSON": _TEXT,
    "JSONB": _TEXT,
    "TIMESTAMP WITH TIME ZONE": "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
}


def shown(table: str, column: str, alias: str = "") -> str:
    """Return the expression that reads a column as `mapping` takes it."""
    return _SHOWN.get(TYPES[table][column], "{}").format(alias + column)


@lru_cache(64)
def shown_all(table: str, columns: tuple[str, ...], alias: str = "") -> str:
    """Return the expressions for several columns."""
    return ", ".join(shown(table, column, alias) for column in columns)


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
    """Rows for a binary ``COPY`` into columns of a table: values that need no conversion by the driver."""

    def __init__(self, table: str, columns: Sequence[str]) -> None:
        self.table = table
        self.columns = tuple(columns)
        types = [TYPES[table][column] for column in columns]
        self.driver_types = ["text" if kind == "TEXT" else "bytea" for kind in types]
        """What the driver is to take the values for; only text is encoded by it."""
        self._encoders = [
            (position, encoder)
            for position, kind in enumerate(types)
            if (encoder := _ENCODERS[kind]) is not None
        ]

    def encode(self, rows: Iterable[Row]) -> Iterable[Row]:
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
