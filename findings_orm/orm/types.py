"""Column types: how values look in a database, and to an application that uses the models.

The store itself reads and writes by `mapping`; these types serve the mapped classes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from operator import ge, gt, le, lt
from typing import Any, cast

from pydantic_core import from_json, to_json
from sqlalchemy import ColumnElement, DateTime, Dialect, String, Text, bindparam, case, false, types
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement
from sqlalchemy.sql.functions import FunctionElement

from findings_orm.errors import StorageValidationError
from findings_orm.finding import Severity, canonical_time, format_time
from findings_orm.orm.frozen import freeze_json
from findings_orm.query import time_key

Processor = Callable[[Any], Any]

SortedText = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""Text that is compared and sorted by code point on every database, as Python does."""


class ByDialect(types.TypeDecorator[Any]):
    """A type with one of its own on PostgreSQL, and text on SQLite."""

    impl = Text
    cache_ok = True
    on_postgresql: types.TypeEngine[Any]
    on_sqlite: types.TypeEngine[Any] = Text()
    rendered: str
    """The same in a revision of Alembic, which has nothing to do with values."""

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        """Return the database's own type."""
        return dialect.type_descriptor(self.on_postgresql if dialect.name == "postgresql" else self.on_sqlite)


class Uuid(ByDialect):
    """A `uuid.UUID`; SQLite keeps the canonical text. Its text is taken for a value, too."""

    cache_ok = True
    on_postgresql = postgresql.UUID(as_uuid=True)
    on_sqlite = String(36)
    rendered = "sa.String(length=36).with_variant(sa.UUID(), 'postgresql')"

    def process_bind_param(self, value: uuid.UUID | str | None, dialect: Dialect) -> object:
        """Return what is stored."""
        if value is None:
            return None
        try:
            given = value if isinstance(value, uuid.UUID) else uuid.UUID(value)
        except (ValueError, AttributeError, TypeError):
            raise StorageValidationError.of_field("value", "must be a UUID", value) from None
        return given if dialect.name == "postgresql" else str(given)

    def process_result_value(self, value: Any, dialect: Dialect) -> uuid.UUID | None:
        """Return the value of what is stored."""
        return value if value is None or isinstance(value, uuid.UUID) else uuid.UUID(value)


class _Plain(FunctionElement[Any]):
    """A column as every driver reads it alike, whatever the settings of the session and of the driver are."""

    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], type_: types.TypeEngine[Any]) -> None:
        super().__init__(column)
        self.type = type_


class _UtcTime(_Plain):
    """A time in UTC, without a zone: with one, drivers can't have the years 1 and 9999 in every zone."""

    inherit_cache = True


class _JsonText(_Plain):
    """JSON as text: drivers make of JSON what the application told them."""

    inherit_cache = True


@compiles(_Plain)
def _compile_column(element: FunctionElement[Any], compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses.clauses[0], **options)


@compiles(_UtcTime, "postgresql")
def _compile_utc_time(element: _Plain, compiler: SQLCompiler, **options: Any) -> str:
    return f"timezone('UTC', {_compile_column(element, compiler, **options)})"


@compiles(_JsonText, "postgresql")
def _compile_json_text(element: _Plain, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST({_compile_column(element, compiler, **options)} AS TEXT)"


class Timestamp(ByDialect):
    """An aware `datetime` in UTC. PostgreSQL keeps a ``timestamptz``, SQLite text of one width.

    Canonical text (`findings_orm.finding.canonical_time`) is taken for a value, too; a time without a zone is refused.
    """

    cache_ok = True
    on_postgresql = DateTime(timezone=True)
    on_sqlite = String(27)
    rendered = "sa.String(length=27).with_variant(sa.DateTime(timezone=True), 'postgresql')"

    def process_bind_param(self, value: datetime | str | None, dialect: Dialect) -> object:
        """Return what is stored."""
        if value is None:
            return None
        text = _time_text(value)
        return datetime.fromisoformat(text) if dialect.name == "postgresql" else time_key(text)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the value of what is stored."""
        if value is None or isinstance(value, datetime):
            return value and (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))
        return datetime.fromisoformat(value)

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the expression that reads a column."""
        return _UtcTime(column, self)


def _time_text(value: datetime | str) -> str:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return format_time(value)
    try:
        return canonical_time(cast("str", value))
    except (ValueError, TypeError):
        rule = "must be an aware datetime, or an RFC 3339 time in UTC that ends in Z"
        raise StorageValidationError.of_field("value", rule, value) from None


class Word(ByDialect):
    """A member of an enumeration, stored as its text."""

    cache_ok = True
    rendered = "sa.Text().with_variant(sa.TEXT(collation='C'), 'postgresql')"

    def __init__(self, members: type[StrEnum]) -> None:
        super().__init__()
        self.members = members

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        """Return the database's own type; that of a driver would be a ``VARCHAR``."""
        return postgresql.TEXT(collation="C") if dialect.name == "postgresql" else self.on_sqlite

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return what is stored."""
        return None if value is None else _member(self.members, value).value

    def process_result_value(self, value: Any, dialect: Dialect) -> StrEnum | None:
        """Return the value of what is stored."""
        return None if value is None else self.members(value)


def _member(members: type[StrEnum], value: Any) -> StrEnum:
    try:
        return members(value)
    except ValueError:
        rule = f"must be one of {', '.join(members)}"
        raise StorageValidationError.of_field(members.__name__.lower(), rule, value) from None


def severity_rank(severity: Any) -> ColumnElement[int]:
    """Return the rank of a severity: 0 for `info` up to 4 for `critical`."""
    return case({one.value: one.rank for one in Severity}, value=severity)


class RankedWord(Word):
    """A severity: compared by rank, as a list of the severities that are meant, which an index serves."""

    cache_ok = True

    def __init__(self) -> None:
        super().__init__(Severity)

    class Comparator(types.TypeDecorator.Comparator[Any]):
        """What makes a comparison by rank of one by text."""

        def operate(self, op: Any, *other: Any, **kwargs: Any) -> Any:
            """Return an expression of an operator."""
            if op not in (lt, le, gt, ge, operators.between_op):
                return super().operate(op, *other, **kwargs)
            if any(hasattr(one, "__clause_element__") or isinstance(one, ClauseElement) for one in other):
                return op(severity_rank(self.expr), *map(severity_rank, other), **kwargs)
            bounds = [Severity(_member(Severity, one)) for one in other]
            if op is operators.between_op:
                lowest, highest = sorted(bounds) if kwargs.get("symmetric") else bounds
                meant = [one for one in Severity if lowest <= one <= highest]
            else:
                meant = [one for one in Severity if op(one, bounds[0])]
            return self.expr.in_(meant)

    comparator_factory = Comparator


class Json(ByDialect):
    """A JSON value as the text that it was written as: key order, ``1.0``, large integers, an escaped NUL stay.

    PostgreSQL's ``json`` keeps the text (``jsonb`` would not); SQLite has plain text. What is read can't be changed in
    place (`findings_orm.orm.frozen`).
    """

    cache_ok = True
    on_postgresql: types.TypeEngine[Any] = postgresql.JSON(none_as_null=True)
    rendered = "sa.Text().with_variant(sa.JSON(), 'postgresql')"

    def bind_processor(self, dialect: Dialect) -> Processor:
        """Return what makes the text that is stored: on every driver, whatever it makes of JSON itself."""
        return _optional_json_text

    def literal_processor(self, dialect: Dialect) -> Processor:
        """Return what makes a literal."""
        return lambda value: "NULL" if value is None else _quote(json_text(value), dialect)

    def result_processor(self, dialect: Dialect, coltype: object) -> Processor:
        """Return what makes a value of what is read."""
        return lambda value: freeze_json(from_json(value) if isinstance(value, str) else value)

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the expression that reads a column."""
        return _JsonText(column, self)

    def compare_values(self, x: Any, y: Any) -> bool:
        """Return whether an assigned value is the one that was there: as text, since 1 == 1.0 == True for Python."""
        return x is y or (x == y and json_text(x) == json_text(y))


def _quote(text: str, dialect: Dialect) -> str:
    return str(cast("Processor", String().literal_processor(dialect))(text))  # type: ignore[no-untyped-call]


def _optional_json_text(value: object) -> str | None:
    return None if value is None else json_text(value)


class JsonList(Json):
    """A list of texts or integers as JSON. PostgreSQL has ``jsonb``, which can be indexed by member."""

    cache_ok = True
    on_postgresql = postgresql.JSONB(none_as_null=True)
    rendered = "sa.Text().with_variant(sa.dialects.postgresql.JSONB(), 'postgresql')"

    class Comparator(types.TypeDecorator.Comparator[Any]):
        """What asks for members, in a form that the indexes of findings serve."""

        def has(self, value: object) -> ColumnElement[bool]:
            """Return whether a list has a value."""
            return self.has_any([value])

        def has_any(self, values: Iterable[object]) -> ColumnElement[bool]:
            """Return whether a list has one of some values."""
            wanted = [
                _MemberText(value)
                if isinstance(value, ClauseElement)
                else bindparam(None, value, type_=_Member(), unique=True)
                for value in values
            ]
            return _HasAny(self.expr, *wanted) if wanted else false()

    comparator_factory = Comparator


class _Member(JsonList):
    """A value that is looked for: SQLite compares members with it, PostgreSQL lists with one that has it alone."""

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Processor:
        if dialect.name == "postgresql":
            return lambda value: json_text([value])
        return lambda value: value

    def literal_processor(self, dialect: Dialect) -> Processor:
        if dialect.name == "postgresql":
            return lambda value: _quote(json_text([value]), dialect)
        return lambda value: str(value) if isinstance(value, int) else _quote(value, dialect)


class _MemberText(FunctionElement[Any]):
    """A text of the database that is looked for, as `_Member` has one that is given."""

    inherit_cache = True


compiles(_MemberText)(_compile_column)


@compiles(_MemberText, "postgresql")
def _compile_member_text(element: _MemberText, compiler: SQLCompiler, **options: Any) -> str:
    return f"to_jsonb({_compile_column(element, compiler, **options)})"


class _HasAny(FunctionElement[bool]):
    """Whether the list in the first column has one of the values behind it."""

    type = types.Boolean()
    inherit_cache = True

    def self_group(self, against: object = None) -> _HasAny:
        """Return it as it stands in a condition: beside ``= 1``, which SQLAlchemy puts there for SQLite, no index serves it."""
        return self


@compiles(_HasAny, "postgresql")
def _compile_contains(element: _HasAny, compiler: SQLCompiler, **options: Any) -> str:
    column, *values = (compiler.process(clause, **options) for clause in element.clauses.clauses)
    return f"({' OR '.join(f'{column} @> {value}' for value in values)})"


@compiles(_HasAny)
def _compile_member_exists(element: _HasAny, compiler: SQLCompiler, **options: Any) -> str:
    """As the partial indexes of lists say it: without the first condition they serve nothing."""
    column, *values = (compiler.process(clause, **options) for clause in element.clauses.clauses)
    found = f"SELECT 1 FROM json_each({column}) AS member WHERE member.value IN ({', '.join(values)})"  # noqa: S608
    return f"({column} <> '[]' AND EXISTS ({found}))"


def stored_time(text: str) -> str:
    """Return the canonical form of a time of one width, as `time_key` made it."""
    return text[:19] + "Z" if text.endswith(".000000Z") else text


def json_text(value: object) -> str:
    """Return a JSON value as text."""
    return to_json(value).decode()
