"""Column types: how the values of a document look in a database."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic_core import from_json, to_json
from sqlalchemy import DateTime, Dialect, String, Text, types
from sqlalchemy.dialects import postgresql

from findings_orm.finding import format_time
from findings_orm.query import time_key

SortedText = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""Text that is compared and sorted by code point on every database, as Python does."""

Uuid = String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
"""A UUID as text in its canonical form."""


class Timestamp(types.TypeDecorator[str]):
    """A time as canonical RFC 3339 text. PostgreSQL keeps a ``timestamptz``, SQLite text of one width."""

    impl = String(27)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        """Return the database's own type."""
        return dialect.type_descriptor(
            DateTime(timezone=True) if dialect.name == "postgresql" else String(27)
        )

    def process_bind_param(self, value: str | None, dialect: Dialect) -> object:
        """Canonical text to what is stored."""
        if value is None:
            return None
        return datetime.fromisoformat(value) if dialect.name == "postgresql" else time_key(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """What is stored to canonical text."""
        if value is None:
            return None
        return format_time(value) if isinstance(value, datetime) else stored_time(value)


class Json(types.TypeDecorator[Any]):
    """A JSON value as the text that it was written as: key order, ``1.0``, large integers, an escaped NUL stay.

    PostgreSQL's ``json`` keeps the text (``jsonb`` would not); SQLite has plain text.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        """Return the database's own type."""
        return dialect.type_descriptor(
            postgresql.JSON(none_as_null=True) if dialect.name == "postgresql" else Text()
        )

    def process_bind_param(self, value: object, dialect: Dialect) -> object:
        """A JSON value to what is stored."""
        if value is None or dialect.name == "postgresql":
            return value
        return json_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """What is stored to a JSON value."""
        return from_json(value) if isinstance(value, str) else value


class JsonList(Json):
    """A list of plain text as JSON. PostgreSQL has ``jsonb``, which can be indexed by member."""

    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        """Return the database's own type."""
        return dialect.type_descriptor(
            postgresql.JSONB(none_as_null=True) if dialect.name == "postgresql" else Text()
        )


def stored_time(text: str) -> str:
    """Return the canonical form of a time of one width, as `time_key` made it."""
    return text[:19] + "Z" if text.endswith(".000000Z") else text


def json_text(value: object) -> str:
    """Return a JSON value as text."""
    return to_json(value).decode()
