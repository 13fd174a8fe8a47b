"""A `FindingQuery` as SQL: conditions, order, keyset."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from sqlalchemy import (
    CTE,
    ColumnElement,
    Select,
    Table,
    Text,
    TextClause,
    and_,
    case,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
    type_coerce,
    union_all,
)
from sqlalchemy.types import NullType

from findings_orm.adapters.sql.mapping import FINDING_COLUMNS
from findings_orm.adapters.sql.models import Finding
from findings_orm.adapters.sql.types import json_text
from findings_orm.finding import MAX_NUMBER, Severity
from findings_orm.freetext import WHOLE
from findings_orm.query import FindingQuery, time_key

TABLE: Table = Finding.__table__  # type: ignore[assignment]  # declarative gives the wider FromClause
C = TABLE.c
FEW = 500
MAX_CODE_POINT, FIRST_SURROGATE, FIRST_AFTER_SURROGATES = 0x10FFFF, 0xD800, 0xE000
RAW: list[ColumnElement[Any]] = [type_coerce(C[name], NullType()) for name in FINDING_COLUMNS]
"""The columns of a document without result processing; `mapping` does it."""

_FOUND: list[ColumnElement[Any]] = [literal_column(f"found.{name}") for name in FINDING_COLUMNS]

RANKED = ("id", "title", "resource", "detector_id", "rule_id", "location")
"""The columns that relevance depends on, in the order of `scored`."""

SEVERITY_RANK = case({severity.value: severity.rank for severity in Severity}, value=C.severity)
OTHERS = ("detector_id", "rule_id", "cwe", "cve_id", "run_id", "tag", "resource_prefix")
"""The conditions of a query besides those on severity, status and time, and free text."""

_FILTERS = frozenset(C.keys()) - {"project_id", "id"}
_LISTED = {name: TABLE.alias(f"{name}_listed") for name in ("cwe_ids", "cve_ids", "tags")}
_LISTS = {"cwe": "cwe_ids", "cve_id": "cve_ids", "tag": "tags"}
_NOTHING: frozenset[str] = frozenset()


def _column(name: str, hidden: frozenset[str]) -> Any:
    """Return a column; a hidden one has a plus before it, so that no index of SQLite serves the condition or the order."""
    return literal_column(f"+findings.{name}", C[name].type) if name in hidden else C[name]


def _sort(name: str, hidden: frozenset[str]) -> ColumnElement[Any]:
    return SEVERITY_RANK if name == "severity" else _column(name, hidden)


class Dialect:
    """What databases express differently; this is SQLite's way."""

    columns: Sequence[ColumnElement[Any]] = RAW
    """The columns of a document, as `mapping.document_of` takes them."""

    by_id: ClassVar[TextClause]
    """The row ``found`` of an id of ``ids``, for `ids_first`; as text: SQLAlchemy takes a millisecond to put it together."""

    def is_any(self, column: ColumnElement[Any], values: tuple[Any, ...]) -> ColumnElement[bool]:
        """Return whether a column has one of the values; many go as one JSON list, as variables are limited."""
        if len(values) <= FEW:
            return column.in_(values)
        return column.in_(select(func.json_each(json_text(values)).table_valued("value").c.value))

    def is_any_text(self, column: ColumnElement[Any], values: tuple[str, ...]) -> ColumnElement[bool]:
        """Return whether a column of any length has one of the values."""
        return self.is_any(column, values)

    def starts_with(self, column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
        """Return whether a text starts with a prefix: compared by code point, without wildcards."""
        end = _end_of(prefix)
        if end is None:
            return and_(column >= prefix, func.substr(column, 1, len(prefix)) == prefix)
        return and_(column >= prefix, column < end)

    beside_others: ClassVar[frozenset[str]] = frozenset({"severity", "status"})
    """The columns to hide where there are other conditions, which mostly fewer findings meet."""

    def parts(self, sort: str) -> Sequence[tuple[ColumnElement[bool], ...]]:
        """Return the conditions that part the findings so that each part has an index in an order."""
        return [()]

    def holds_any(
        self, project_id: str, name: str, values: tuple[Any, ...], hidden: frozenset[str] = _NOTHING
    ) -> ColumnElement[bool]:
        """Return whether a JSON list has one of the values; a number that no column can hold is in none.

        Equal lists are looked at once: an index leads from one to the next. If the column is hidden, the list of each row is.
        """
        values = tuple(value for value in values if isinstance(value, str) or 0 < value <= MAX_NUMBER)
        if name in hidden:
            return self._has_any(C[name], values)
        lists = _lists_of(project_id, name)
        wanted = select(lists.c.value).where(lists.c.value.is_not(None), self._has_any(lists.c.value, values))
        return and_(_not_empty(C[name]), type_coerce(C[name], Text).in_(wanted))

    def _has_any(self, column: ColumnElement[Any], values: tuple[Any, ...]) -> ColumnElement[bool]:
        members = func.json_each(column).table_valued("value")
        return select(1).select_from(members).where(self.is_any(members.c.value, values)).exists()

    def looked_up(self, statement: Select[Any], ids: Select[Any]) -> Select[Any]:
        """Confine a statement about findings of a project to a few ids, each of them looked up by its key."""
        return statement.where(C.id.in_(ids))

    def holds_words(self, words: tuple[str, ...]) -> ColumnElement[bool]:
        """Return whether the searched text has all words; compare `findings_orm.query.search_text`."""
        columns = (C.title, C.resource, C.detector_id, C.rule_id, C.location)
        return func.findings_hold_words(json_text(words), *(type_coerce(c, NullType()) for c in columns)) == 1


def _not_empty(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """As the condition of the index says it."""
    return type_coerce(column, Text) != literal_column("'[]'")


def _lists_of(project_id: str, name: str) -> CTE:
    """Return the different lists that a column of a project has, in order, each found after the one before."""

    def first(*more: ColumnElement[bool]) -> Select[Any]:
        column = _LISTED[name].c
        of_project = (column.project_id == project_id, _not_empty(column[name]))
        after = (type_coerce(column[name], Text) > other for other in more)
        return select(func.min(type_coerce(column[name], Text)).label("value")).where(*of_project, *after)

    lists = first().cte(f"lists_of_{name}", recursive=True)
    following = first(lists.c.value).scalar_subquery()
    return lists.union_all(select(following).where(lists.c.value.is_not(None)))


def _end_of(prefix: str) -> str | None:
    """Return the first text, by code point, after all that start with a prefix; None if there is none."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last <= MAX_CODE_POINT:
            return prefix[:-1] + chr(FIRST_AFTER_SURROGATES if last == FIRST_SURROGATE else last)
        prefix = prefix[:-1]
    return None


def selected(
    query: FindingQuery, dialect: Dialect, limit: int | None, hidden: frozenset[str] = _NOTHING
) -> Select[Any]:
    """Return the statement for the first `limit` documents (None: all) in the query's order after its cursor.

    The position is one comparison of rows, and no other bound on the column that is sorted by is beside it: SQLite would
    begin at that, and pass over all findings with the same value before the position.
    """
    return _page(query, dialect, limit, dialect.columns, hidden)


def ids_first(query: FindingQuery, dialect: Dialect, limit: int) -> Select[Any]:
    """Return the statement that looks up the ids of a page, and then each row by its key: for PostgreSQL.

    For the ids alone the index in their order is the cheapest one, however few findings the planner takes a project for. The
    rows are looked up in a ``LATERAL`` with a limit, which the planner can't turn round.
    """
    columns = [C.id, _sort(query.sort_field, _NOTHING).label("place")]
    pages = [_page(query, dialect, limit, columns).where(*part) for part in dialect.parts(query.sort_field)]
    ids = (pages[0] if len(pages) == 1 else union_all(*pages)).subquery("ids")
    order = (ids.c.place.desc(), ids.c.id.desc()) if query.descending else (ids.c.place, ids.c.id)
    found = dialect.by_id.bindparams(project_of_ids=query.project_id)
    return select(*_FOUND).select_from(ids, found).order_by(*order).limit(limit)


def walked(query: FindingQuery, dialect: Dialect, limit: int) -> Select[Any]:
    """Return the statement that follows the order and leaves out what does not match: for SQLite."""
    return selected(query, dialect, limit, _FILTERS - {query.sort_field})


def matched_first(query: FindingQuery, dialect: Dialect, limit: int) -> Select[Any]:
    """Return the statement that looks up what matches, and sorts that: for SQLite."""
    hidden = dialect.beside_others | {"id", "created_at", query.sort_field}
    ids = _page(query, dialect, limit, [C.id], hidden)
    found = select(*dialect.columns).where(C.project_id == query.project_id, C.id.in_(ids))
    return found.order_by(*_order(query, hidden))


def few(query: FindingQuery, dialect: Dialect, limit: int) -> Select[Any]:
    """Return the statement that counts what meets the conditions on other things than severity and status, up to a limit."""
    hidden = dialect.beside_others
    some: Select[Any] = (
        select(literal_column("1")).select_from(TABLE).where(*conditions(query, dialect, hidden)).limit(limit)
    )
    return select(func.count()).select_from(some.subquery())


def by_one_value(query: FindingQuery) -> bool:
    """Return whether a condition is on one value of a column whose index goes on in the order of the query."""
    exact = [wanted for wanted in query.detector_id if not wanted.endswith("*")]
    lists = (query.rule_id, query.run_id, exact if len(exact) == len(query.detector_id) else ())
    return query.sort_field == "created_at" and any(len(values) == 1 for values in lists)


def _page(
    query: FindingQuery,
    dialect: Dialect,
    limit: int | None,
    columns: Sequence[ColumnElement[Any]],
    hidden: frozenset[str] = _NOTHING,
) -> Select[Any]:
    after = query.after
    statement = select(*columns).select_from(TABLE)
    bounded = query if after is None else beyond(query, after[0])
    statement = statement.where(*conditions(bounded, dialect, hidden))
    if after is not None:
        sort = _sort(query.sort_field, hidden)
        position = tuple_(sort, _column("id", hidden))
        key = tuple_(literal(after[0], sort.type), literal(after[1], C.id.type))
        statement = statement.where(position < key if query.descending else position > key)
    return statement.order_by(*_order(query, hidden)).limit(limit)


def _order(query: FindingQuery, hidden: frozenset[str]) -> tuple[ColumnElement[Any], ...]:
    columns = (_sort(query.sort_field, hidden), _column("id", hidden))
    return tuple(column.desc() for column in columns) if query.descending else columns


def beyond(query: FindingQuery, value: Any) -> FindingQuery:
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


def latest(query: FindingQuery, dialect: Dialect, limit: int) -> Select[Any] | None:
    """Return the statement for what `scored` reads of the findings with the largest ids, which are first among equals.

    None where the order is another one, the position is below the best score, or other conditions leave findings out.
    """
    after = query.after
    plain = without_text(query)
    below_best = after is not None and after[0] != WHOLE * len(query.words)
    if not query.descending or below_best or len(conditions(plain, dialect)) > 1:
        return None
    newest = TABLE.alias("newest")
    ids = select(newest.c.id).where(newest.c.project_id == query.project_id)
    if after is not None:
        ids = ids.where(newest.c.id < literal(after[1], C.id.type))
    return dialect.looked_up(scored(plain, dialect), ids.order_by(newest.c.id.desc()).limit(limit))


def without_text(query: FindingQuery) -> FindingQuery:
    """Return a query without its text, and without the order and the position that may depend on it."""
    return replace(query, text="", sort="created_at", cursor=None)


def counted(query: FindingQuery, dialect: Dialect) -> Select[Any]:
    """Return the statement that counts what matches."""
    hidden = dialect.beside_others if any(getattr(query, name) for name in OTHERS) else _NOTHING
    return select(func.count()).select_from(TABLE).where(*conditions(query, dialect, hidden))


def conditions(
    query: FindingQuery, dialect: Dialect, hidden: frozenset[str] = _NOTHING
) -> list[ColumnElement[bool]]:
    """Return the conditions of a query, the project's first."""
    found: list[ColumnElement[bool]] = [C.project_id == query.project_id]
    for name, values in (("severity", query.severities), ("status", query.status), ("run_id", query.run_id)):
        if values:
            found.append(dialect.is_any(_column(name, hidden), tuple(values)))
    if query.rule_id:
        found.append(dialect.is_any_text(_column("rule_id", hidden), tuple(query.rule_id)))
    if query.detector_id:
        found.append(_detected(_column("detector_id", hidden), query.detector_id, dialect))
    for condition, name in _LISTS.items():
        if wanted := tuple(getattr(query, condition)):
            found.append(dialect.holds_any(query.project_id, name, wanted, hidden))
    if query.resource_prefix:
        found.append(dialect.starts_with(_column("resource", hidden), query.resource_prefix))
    found += _in_time(query, _column("created_at", hidden))
    if query.words:
        found.append(dialect.holds_words(query.words))
    return found


def _in_time(query: FindingQuery, created_at: Any) -> Iterator[ColumnElement[bool]]:
    if query.created_from is not None:
        yield created_at >= query.created_from
    if query.created_before is not None:
        yield created_at < query.created_before


def _detected(column: Any, wanted: Collection[str], dialect: Dialect) -> ColumnElement[bool]:
    exact = tuple(one for one in wanted if not one.endswith("*"))
    found = [dialect.starts_with(column, one[:-1]) for one in wanted if one.endswith("*")]
    if exact:
        found.append(dialect.is_any_text(column, exact))
    return or_(false(), *found)
