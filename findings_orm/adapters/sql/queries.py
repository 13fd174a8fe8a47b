"""A `FindingQuery` as SQL: conditions, order, keyset."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    and_,
    case,
    false,
    func,
    literal,
    or_,
    select,
    tuple_,
    type_coerce,
)
from sqlalchemy.types import NullType

from findings_orm.adapters.sql.mapping import FINDING_COLUMNS
from findings_orm.adapters.sql.models import Finding
from findings_orm.adapters.sql.types import json_text
from findings_orm.finding import MAX_NUMBER, Severity
from findings_orm.query import FindingQuery, time_key

TABLE: Table = Finding.__table__  # type: ignore[assignment]  # declarative gives the wider FromClause
C = TABLE.c
FEW = 500
RAW: list[ColumnElement[Any]] = [type_coerce(C[name], NullType()) for name in FINDING_COLUMNS]
"""The columns of a document without result processing; `mapping` does it."""

RANKED = ("id", "title", "resource", "detector_id", "rule_id", "location")
"""The columns that relevance depends on, in the order of `scored`."""

SEVERITY_RANK = case({severity.value: severity.rank for severity in Severity}, value=C.severity)
_SORTS: dict[str, ColumnElement[Any]] = {
    "created_at": C.created_at,
    "severity": SEVERITY_RANK,
    "detector_id": C.detector_id,
    "resource": C.resource,
    "title": C.title,
}


class Dialect:
    """What databases express differently; this is SQLite's way."""

    columns: Sequence[ColumnElement[Any]] = RAW
    """The columns of a document, as `mapping.document_of` takes them."""

    def is_any(self, column: ColumnElement[Any], values: tuple[Any, ...]) -> ColumnElement[bool]:
        """Return whether a column has one of the values; many go as one JSON list, as variables are limited."""
        if len(values) <= FEW:
            return column.in_(values)
        return column.in_(select(func.json_each(json_text(values)).table_valued("value").c.value))

    def holds_any(self, column: ColumnElement[Any], values: tuple[Any, ...]) -> ColumnElement[bool]:
        """Return whether a JSON list has one of the values; a number that no column can hold is in none."""
        values = tuple(value for value in values if isinstance(value, str) or 0 < value <= MAX_NUMBER)
        members = func.json_each(column).table_valued("value")
        return select(1).select_from(members).where(self.is_any(members.c.value, values)).exists()

    def holds_words(self, words: tuple[str, ...]) -> ColumnElement[bool]:
        """Return whether the searched text has all words; compare `findings_orm.query.search_text`."""
        columns = (C.title, C.resource, C.detector_id, C.rule_id, C.location)
        return func.findings_hold_words(json_text(words), *(type_coerce(c, NullType()) for c in columns)) == 1


def selected(query: FindingQuery, dialect: Dialect, limit: int | None) -> Select[Any]:
    """Return the statement for the first `limit` documents (None: all) in the query's order after its cursor.

    The position is one comparison of rows, and no other bound on the column that is sorted by is beside it: SQLite would
    begin at that, and pass over all findings with the same value before the position.
    """
    sort = _SORTS[query.sort_field]
    after = query.after
    statement = select(*dialect.columns).select_from(TABLE)
    statement = statement.where(*conditions(query if after is None else _beyond(query, after[0]), dialect))
    if after is not None:
        position = tuple_(sort, C.id)
        key = tuple_(literal(after[0], sort.type), literal(after[1], C.id.type))
        statement = statement.where(position < key if query.descending else position > key)
    order = (sort.desc(), C.id.desc()) if query.descending else (sort, C.id)
    return statement.order_by(*order).limit(limit)


def _beyond(query: FindingQuery, value: Any) -> FindingQuery:
    """Return a query without the bound on the time that a position at `value` in its order implies."""
    if query.sort == "created_at" and query.created_from and value >= time_key(query.created_from):
        return replace(query, created_from=None)
    if query.sort == "-created_at" and query.created_before and value < time_key(query.created_before):
        return replace(query, created_before=None)
    return query


def scored(query: FindingQuery, dialect: Dialect) -> Select[Any]:
    """Return the statement for what decides about the relevance of all that matches: see `ranking`."""
    columns = (dialect.columns[FINDING_COLUMNS.index(name)].label(name) for name in RANKED)
    return select(*columns).select_from(TABLE).where(*conditions(query, dialect))


def counted(query: FindingQuery, dialect: Dialect) -> Select[Any]:
    """Return the statement that counts what matches."""
    return select(func.count()).select_from(TABLE).where(*conditions(query, dialect))


def conditions(query: FindingQuery, dialect: Dialect) -> list[ColumnElement[bool]]:
    """Return the conditions of a query, the project's first."""
    found: list[ColumnElement[bool]] = [C.project_id == query.project_id]
    for column, values in (
        (C.severity, query.severities),
        (C.status, query.status),
        (C.rule_id, query.rule_id),
        (C.run_id, query.run_id),
    ):
        if values:
            found.append(dialect.is_any(column, tuple(values)))
    if query.detector_id:
        found.append(or_(false(), *(_detector(wanted) for wanted in query.detector_id)))
    lists: tuple[tuple[Any, Collection[Any]], ...] = (
        (C.cwe_ids, query.cwe),
        (C.cve_ids, query.cve_id),
        (C.tags, query.tag),
    )
    found += [dialect.holds_any(column, tuple(wanted)) for column, wanted in lists if wanted]
    if query.resource_prefix:
        found.append(_starts_with(C.resource, query.resource_prefix))
    if query.created_from is not None:
        found.append(C.created_at >= query.created_from)
    if query.created_before is not None:
        found.append(C.created_at < query.created_before)
    if query.words:
        found.append(dialect.holds_words(query.words))
    return found


def _detector(wanted: str) -> ColumnElement[bool]:
    return _starts_with(C.detector_id, wanted[:-1]) if wanted.endswith("*") else C.detector_id == wanted


def _starts_with(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """The bound lets an index serve; the exact comparison has no wildcards and no case folding."""
    return and_(column >= prefix, func.substr(column, 1, len(prefix)) == prefix)
