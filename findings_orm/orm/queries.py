"""A `FindingQuery` as driver SQL: conditions, order, keyset.

It is text, in parts that can be put together: from expressions, SQLAlchemy makes a statement in 0.2 to 0.6 ms, which is longer
than the databases take for most answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

from findings_orm.finding import MAX_NUMBER, Severity
from findings_orm.freetext import WHOLE
from findings_orm.orm.mapping import FINDING_COLUMNS, aliased_columns
from findings_orm.orm.statements import value_marks
from findings_orm.orm.types import json_text
from findings_orm.query import FindingQuery, time_key

FEW = 500
_RANGES = 50
"""More ranges of a text are compared as one: SQLite plans each, in a time that grows with their square."""
MAX_CODE_POINT, FIRST_SURROGATE, FIRST_AFTER_SURROGATES = 0x10FFFF, 0xD800, 0xE000

RANKED = ("id", "title", "resource", "detector_id", "rule_id", "location")
"""The columns that relevance depends on, in the order of `select_ranked`."""

OTHERS = ("detector_id", "rule_id", "cwe", "cve_id", "run_id", "tag", "resource_prefix")
"""The conditions of a query besides those on severity, status and time, and free text."""

_RANKS = " ".join(f"WHEN '{severity.value}' THEN {severity.rank}" for severity in Severity)
_SEVERITY_RANK = f"CASE findings.severity {_RANKS} END"
LISTS = {"cwe": "cwe_ids", "cve_id": "cve_ids", "tag": "tags"}
"""The conditions on members of lists, each with its column."""

_NOTHING: frozenset[str] = frozenset()


class Clause(NamedTuple):
    """A piece of driver SQL, and a value for each mark in it."""

    sql: str
    values: tuple[object, ...] = ()


class Select(NamedTuple):
    """A SELECT of findings by conditions."""

    columns: str
    where: tuple[Clause, ...]
    order: str = ""
    limit: int | None = None

    def with_conditions(self, *conditions: Clause) -> Select:
        """Return it with more conditions."""
        return self._replace(where=(*self.where, *conditions))

    def full_statement(self) -> Clause:
        """Return it as one text."""
        where = joined(" AND ", self.where)
        order = f" ORDER BY {self.order}" if self.order else ""
        limit = "" if self.limit is None else f" LIMIT {self.limit}"
        return Clause(f"SELECT {self.columns} FROM findings WHERE {where.sql}{order}{limit}", where.values)  # noqa: S608


def joined(separator: str, clauses: Iterable[Clause]) -> Clause:
    """Return several pieces as one."""
    texts, values = zip(*clauses, strict=True)
    return Clause(separator.join(texts), tuple(value for each in values for value in each))


def any_of(clauses: Iterable[Clause]) -> Clause:
    """Return whether one of some conditions holds."""
    found = joined(" OR ", clauses)
    return Clause(f"({found.sql})", found.values)


def _column_expression(name: str, hidden: frozenset[str] = _NOTHING) -> str:
    """Return a column; a hidden one has a plus before it, so that no index of SQLite serves the condition or the order."""
    return f"+findings.{name}" if name in hidden else f"findings.{name}"


def _sort_expression(name: str, hidden: frozenset[str] = _NOTHING) -> str:
    return _SEVERITY_RANK if name == "severity" else _column_expression(name, hidden)


class Dialect:
    """What databases express differently; this is SQLite's way."""

    beside_others: ClassVar[frozenset[str]] = frozenset({"severity", "status"})
    """The columns to hide from a count where there are other conditions, which mostly fewer findings meet."""

    def columns(self, columns: Iterable[str]) -> str:
        """Return columns of findings, as `mapping` takes them."""
        return aliased_columns(tuple(columns), "findings.")

    def value_mark(self, name: str) -> str:
        """Return the mark of a value that is compared with a column."""
        return "?"

    def is_any(self, name: str, column: str, values: tuple[object, ...]) -> Clause:
        """Return whether a column, by its name and as it is written here, has one of the values; many go as one JSON list,
        as variables are limited."""
        if len(values) == 1:
            return Clause(f"{column} = ?", values)
        if len(values) <= FEW:
            return Clause(f"{column} IN ({value_marks(values)})", values)
        return Clause(f"{column} IN (SELECT value FROM json_each(?))", (json_text(values),))  # noqa: S608

    def is_any_text(self, name: str, column: str, values: tuple[str, ...]) -> Clause:
        """Return whether a column of any length has one of the values."""
        return self.is_any(name, column, values)

    def starts_with(self, column: str, prefix: str) -> Clause:
        """Return whether a text starts with a prefix: compared by code point, without wildcards."""
        end = _end_of_prefix(prefix)
        if end is None:
            return Clause(f"({column} >= ? AND substr({column}, 1, {len(prefix)}) = ?)", (prefix, prefix))
        return Clause(f"({column} >= ? AND {column} < ?)", (prefix, end))

    def starts_with_any(self, column: str, prefixes: Collection[str]) -> Clause:
        """Return whether a text starts with one of some prefixes."""
        if len(prefixes) <= _RANGES:
            return any_of(self.starts_with(column, prefix) for prefix in prefixes)
        found = f"substr({column}, 1, length(prefix.value)) = prefix.value"
        return Clause(
            f"EXISTS (SELECT 1 FROM json_each(?) AS prefix WHERE {found})",  # noqa: S608  # constants
            (json_text([*prefixes]),),
        )

    def index_parts(self, sort: str) -> Sequence[tuple[Clause, ...]]:
        """Return the conditions that part the findings so that each part has an index in an order."""
        return [()]

    def holds_any(
        self, project_id: str, name: str, values: tuple[object, ...], hidden: frozenset[str] = _NOTHING
    ) -> Clause:
        """Return whether a JSON list has one of the values.

        Equal lists are looked at once: an index leads from one to the next. That few have one of them is what SQLite has to
        believe to take that index. If the column is hidden, the list of each row is looked at.
        """
        if name in hidden:
            return self.has_any(_column_expression(name), values)
        lists, wanted = distinct_values(project_id, name), self.has_any("lists.value", values)
        sql = (
            f"(findings.{name} <> '[]' AND unlikely(findings.{name} IN ("  # noqa: S608  # constants
            f"WITH RECURSIVE {lists.sql} SELECT value FROM lists WHERE value IS NOT NULL AND {wanted.sql})))"
        )
        return Clause(sql, (*lists.values, *wanted.values))

    def has_any(self, column: str, values: tuple[object, ...]) -> Clause:
        """Return whether the JSON list in a column has one of the values."""
        found = self.is_any("", "member.value", values)
        sql = f"EXISTS (SELECT 1 FROM json_each({column}) AS member WHERE {found.sql})"  # noqa: S608  # constants
        return Clause(sql, found.values)

    def confine_to_ids(self, select: Select, ids: Clause) -> Clause:
        """Confine a SELECT of a project to a few ids, each of them looked up by its key."""
        return select.with_conditions(Clause(f"findings.id IN ({ids.sql})", ids.values)).full_statement()

    def holds_words(self, words: tuple[str, ...]) -> Clause:
        """Return whether the searched text has all words; compare `findings_orm.query.search_text`."""
        texts = " || char(10) || ".join(f"findings.{name}" for name in ("title", "resource", "detector_id"))
        texts += (
            " || char(10) || coalesce(findings.rule_id, '') || char(0) || coalesce(findings.location, '')"
        )
        return Clause(f"findings_hold_words(? || char(0) || {texts}) = 1", (json_text(words),))


def distinct_values(project_id: str, name: str, limit: str = "") -> Clause:
    """Return ``lists (value)`` for a ``WITH RECURSIVE``: the different values of a column, and NULL at their end, or the first
    `limit` of them. An index leads from one to the next."""
    kept = f" AND {name} <> '[]'" if name in LISTS.values() else ""
    first, following = (
        f"SELECT min({name}) FROM findings WHERE project_id = ?{kept}{after}"  # noqa: S608  # constants
        for after in ("", f" AND {name} > lists.value")
    )
    end = f" LIMIT {limit}" if limit else ""
    sql = f"lists (value) AS ({first} UNION ALL SELECT ({following}) FROM lists WHERE value IS NOT NULL{end})"  # noqa: S608
    return Clause(sql, (project_id, project_id))


def _end_of_prefix(prefix: str) -> str | None:
    """Return the first text, by code point, after all that start with a prefix; None if there is none."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last <= MAX_CODE_POINT:
            return prefix[:-1] + chr(FIRST_AFTER_SURROGATES if last == FIRST_SURROGATE else last)
        prefix = prefix[:-1]
    return None


def select_documents(
    query: FindingQuery,
    dialect: Dialect,
    limit: int | None,
    hidden: frozenset[str] = _NOTHING,
    *,
    words: bool = True,
) -> Select:
    """Return the SELECT of the first `limit` documents (None: all) in the query's order after its cursor.

    The position is one comparison of rows, and no other bound on the column that is sorted by is beside it: SQLite would
    begin at that, and pass over all findings with the same value before the position.
    """
    return select_page(query, dialect, limit, dialect.columns(FINDING_COLUMNS), hidden, words=words)


def select_project(project_id: str, dialect: Dialect) -> Select:
    """Return the SELECT of all documents of a project."""
    return Select(dialect.columns(FINDING_COLUMNS), (project_condition(project_id),))


def project_condition(project_id: str) -> Clause:
    """Return the condition that everything has."""
    return Clause("findings.project_id = ?", (project_id,))


def select_places(query: FindingQuery, dialect: Dialect, limit: int) -> Clause:
    """Return the statement for the ids of a page, and what each is sorted by as ``place``."""
    columns = f"findings.id, {_sort_expression(query.sort_field)} AS place"
    pages = [
        select_page(query, dialect, limit, columns).with_conditions(*part).full_statement()
        for part in dialect.index_parts(query.sort_field)
    ]
    return joined(" UNION ALL ", (Clause(f"({sql})", values) for sql, values in pages))


def select_page(
    query: FindingQuery,
    dialect: Dialect,
    limit: int | None,
    columns: str,
    hidden: frozenset[str] = _NOTHING,
    *,
    words: bool = True,
    only: Collection[str] | None = None,
) -> Select:
    """Return the SELECT of some columns of the first `limit` findings in the query's order after its cursor; by the conditions
    on some columns only, if they are given."""
    after = query.after
    bounded = query if after is None else without_implied_bound(query, after[0])
    where = conditions(bounded, dialect, hidden, words=words, only=only)
    if after is not None:
        sort, sign = query.sort_field, "<" if query.descending else ">"
        position = f"({_sort_expression(sort, hidden)}, {_column_expression('id', hidden)})"
        value_mark = "?" if sort == "severity" else dialect.value_mark(sort)
        where = (*where, Clause(f"{position} {sign} ({value_mark}, {dialect.value_mark('id')})", after))
    return Select(columns, where, order_of(query, hidden), limit)


def order_of(query: FindingQuery, hidden: frozenset[str] = _NOTHING) -> str:
    """Return the order of a query."""
    way = " DESC" if query.descending else ""
    return f"{_sort_expression(query.sort_field, hidden)}{way}, {_column_expression('id', hidden)}{way}"


def without_implied_bound(query: FindingQuery, value: Any) -> FindingQuery:
    """Return a query without the bound on the time that a position at `value` in its order implies.

    Without that bound it is another query, so that its cursor would be refused: it has none then.
    """
    if query.sort == "created_at" and query.created_from and value >= time_key(query.created_from):
        return replace(query, created_from=None, cursor=None)
    if query.sort == "-created_at" and query.created_before and value < time_key(query.created_before):
        return replace(query, created_before=None, cursor=None)
    return query


def select_ranked(query: FindingQuery, dialect: Dialect) -> Select:
    """Return the SELECT of what decides about the relevance of all that matches: see `orm.records`."""
    return Select(dialect.columns(RANKED), conditions(query, dialect))


def latest(query: FindingQuery, dialect: Dialect, limit: int) -> Clause | None:
    """Return the statement for what `select_ranked` reads of the findings with the largest ids, which are first among equals.

    None where the order is another one, the position is below the best score, or other conditions leave findings out.
    """
    after = query.after
    plain = without_text(query)
    below_best = after is not None and after[0] != WHOLE * len(query.words)
    if not query.descending or below_best or len(conditions(plain, dialect)) > 1:
        return None
    ids = Select("findings.id", conditions(plain, dialect), "findings.id DESC", limit)
    if after is not None:
        ids = ids.with_conditions(Clause(f"findings.id < {dialect.value_mark('id')}", (after[1],)))
    return dialect.confine_to_ids(select_ranked(plain, dialect), ids.full_statement())


def without_text(query: FindingQuery) -> FindingQuery:
    """Return a query without its text, and without the order and the position that may depend on it."""
    return replace(query, text="", sort="created_at", cursor=None)


def select_count(query: FindingQuery, dialect: Dialect) -> Select:
    """Return the SELECT that counts what matches."""
    hidden = dialect.beside_others if any(getattr(query, name) for name in OTHERS) else _NOTHING
    return Select("count(*)", conditions(query, dialect, hidden))


def conditions(
    query: FindingQuery,
    dialect: Dialect,
    hidden: frozenset[str] = _NOTHING,
    *,
    words: bool = True,
    only: Collection[str] | None = None,
) -> tuple[Clause, ...]:
    """Return the conditions of a query, the project's first; without that on its text if need be, or those on some columns."""
    given = conditions_by_column(query, dialect, hidden)
    found = (
        project_condition(query.project_id),
        *(clause for name, clause in given if only is None or name in only),
    )
    return (*found, dialect.holds_words(query.words)) if words and query.words else found


def conditions_by_column(
    query: FindingQuery, dialect: Dialect, hidden: frozenset[str] = _NOTHING
) -> Iterator[tuple[str, Clause]]:
    """Yield the conditions of a query besides the project and its text, each with its column; ``created_from`` and
    ``created_before`` may be hidden one by one."""
    for name, values in (("severity", query.severities), ("status", query.status), ("run_id", query.run_id)):
        if values:
            yield name, dialect.is_any(name, _column_expression(name, hidden), tuple(values))
    if query.rule_id:
        yield (
            "rule_id",
            dialect.is_any_text("rule_id", _column_expression("rule_id", hidden), tuple(query.rule_id)),
        )
    if query.detector_id:
        yield (
            "detector_id",
            detector_condition(_column_expression("detector_id", hidden), query.detector_id, dialect),
        )
    for condition, name in LISTS.items():
        if getattr(query, condition):
            yield name, _list_condition(query, condition, dialect, hidden)
    if query.resource_prefix:
        yield "resource", dialect.starts_with(_column_expression("resource", hidden), query.resource_prefix)
    value_mark = dialect.value_mark("created_at")
    for name, sign, time in (
        ("created_from", ">=", query.created_from),
        ("created_before", "<", query.created_before),
    ):
        if time is not None:
            column = _column_expression("created_at", hidden | {"created_at"} if name in hidden else hidden)
            yield "created_at", Clause(f"{column} {sign} {value_mark}", (time_key(time),))


def wanted_members(query: FindingQuery, condition: str) -> tuple[object, ...]:
    """Return the values of which a list has to have one; a number that no column can hold is in none."""
    wanted = getattr(query, condition)
    return tuple(value for value in wanted if isinstance(value, str) or 0 < value <= MAX_NUMBER)


def _list_condition(query: FindingQuery, condition: str, dialect: Dialect, hidden: frozenset[str]) -> Clause:
    values = wanted_members(query, condition)
    return (
        dialect.holds_any(query.project_id, LISTS[condition], values, hidden) if values else Clause("false")
    )


def detector_condition(column: str, wanted: Collection[str], dialect: Dialect) -> Clause:
    """Return whether a detector is one of those wanted, or begins with one that ends in ``*``."""
    exact = tuple(one for one in wanted if not one.endswith("*"))
    prefixes = [one[:-1] for one in wanted if one.endswith("*")]
    found = [dialect.starts_with_any(column, prefixes)] if prefixes else []
    if exact:
        found.append(dialect.is_any_text("detector_id", column, exact))
    return any_of(found)
