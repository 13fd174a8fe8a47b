"""The conditions of a query as PostgreSQL expresses them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import ClassVar

from findings_orm.orm.models import INDEXED, SORTED_TEXTS
from findings_orm.orm.postgresql_text_index import IS_ASCII, has_words
from findings_orm.orm.postgresql_types import TYPES, select_expressions
from findings_orm.orm.queries import (
    FEW,
    Clause,
    Dialect,
    Select,
    any_of,
    joined,
    select_count,
    select_places,
    select_project,
)
from findings_orm.orm.types import json_text
from findings_orm.query import FindingQuery

_TYPES = TYPES["findings"]


def _fits_index(column: str) -> str:
    """As the conditions of the indexes say it; a parameter would not do."""
    return f"length({column}) <= {INDEXED}"


def _exceeds_index(column: str) -> str:
    return f"length({column}) > {INDEXED}"


class PostgreSQLDialect(Dialect):
    """Conditions as PostgreSQL expresses them."""

    beside_others: ClassVar[frozenset[str]] = frozenset()

    def columns(self, columns: Iterable[str]) -> str:
        """Return columns of findings, as `mapping` takes them."""
        return select_expressions("findings", tuple(columns), "findings.")

    def value_mark(self, name: str) -> str:
        """Return the mark of a value that is compared with a column."""
        return f"?::{_TYPES[name]}"

    def is_any(self, name: str, column: str, values: tuple[object, ...]) -> Clause:
        """Return whether a column has one of the values, which are one array; of one value the order of an index is known."""
        if len(values) == 1:
            return Clause(f"{column} = {self.value_mark(name)}", values)
        return Clause(f"{column} = ANY({self.value_mark(name)}[])", (list(values),))

    def is_any_text(self, name: str, column: str, values: tuple[str, ...]) -> Clause:
        """Return whether a column of any length has one of the values; an index serves if none of them is too long for it."""
        found = self.is_any(name, column, values)
        if any(len(value) > INDEXED for value in values):
            return found
        return Clause(f"({found.sql} AND {_fits_index(column)})", found.values)

    def starts_with(self, column: str, prefix: str) -> Clause:
        """Return whether a text starts with a prefix, by the two indexes that it may be in."""
        found = super().starts_with(column, prefix)
        return any_of(
            Clause(f"{part(column)} AND {found.sql}", found.values) for part in (_fits_index, _exceeds_index)
        )

    def starts_with_any(self, column: str, prefixes: Collection[str]) -> Clause:
        """Return whether a text starts with one of some prefixes."""
        return any_of(self.starts_with(column, prefix) for prefix in prefixes)

    def index_parts(self, sort: str) -> Sequence[tuple[Clause, ...]]:
        """Return the conditions of the two indexes that have a text between them."""
        if sort not in SORTED_TEXTS:
            return [()]
        return [(Clause(_fits_index(f"findings.{sort}")),), (Clause(_exceeds_index(f"findings.{sort}")),)]

    def holds_any(
        self, project_id: str, name: str, values: tuple[object, ...], hidden: frozenset[str] = frozenset()
    ) -> Clause:
        """Return whether a JSON list has one of the values: what an index by member can serve, if they are few."""
        if len(values) <= FEW:
            return any_of(Clause(f"findings.{name} @> ?::jsonb", (json_text([value]),)) for value in values)
        members = f"jsonb_array_elements_text(findings.{name}) AS member (value)"
        sql = f"EXISTS (SELECT 1 FROM {members} WHERE member.value = ANY(?::text[]))"  # noqa: S608  # constants
        return Clause(sql, ([str(value) for value in values],))

    def confine_to_ids(self, select: Select, ids: Clause) -> Clause:
        """Confine a SELECT to a few ids. For a list of them the planner may read another index that has them, whole."""
        return select_by_key(select, ids)

    def holds_words(self, words: tuple[str, ...]) -> Clause:
        """Return whether the searched text may have all words.

        Exact where that text is ASCII. Other text needs Python's Unicode tables (NFKC, case folding), of which
        PostgreSQL's differ by version: such rows stay, and `PostgreSQLRecords` decides about them.
        """
        return any_of((Clause(f"NOT {IS_ASCII}"), has_words(words)))


def select_by_key(select: Select, ids: Clause) -> Clause:
    """Return a SELECT of a project for some ids: each row is looked up by its key, in a ``LATERAL`` with a limit, which the
    planner can't turn round."""
    found = select.with_conditions(Clause("findings.id = ids.id"))._replace(limit=1).full_statement()
    sql = f"SELECT found.* FROM ({ids.sql}) AS ids CROSS JOIN LATERAL ({found.sql}) AS found"  # noqa: S608  # parts
    return Clause(sql, (*ids.values, *found.values))


def page_statement(query: FindingQuery, dialect: Dialect, limit: int) -> Clause:
    """Return the statement that looks up the ids of a page, and then each row by its key.

    For the ids alone the index in their order is the cheapest one, however few findings the planner takes a project for.
    """
    way = " DESC" if query.descending else ""
    found = select_by_key(select_project(query.project_id, dialect), select_places(query, dialect, limit))
    return Clause(f"{found.sql} ORDER BY ids.place{way}, ids.id{way} LIMIT {limit}", found.values)


class _PartDialect(PostgreSQLDialect):
    """Looks for a prefix in one of the two indexes of a text only: no combination of both is counted by the indexes alone."""

    def __init__(self, part: Callable[[str], str]) -> None:
        self._part = part

    def starts_with(self, column: str, prefix: str) -> Clause:
        """Return whether a text starts with a prefix, and is in the index."""
        found = Dialect.starts_with(self, column, prefix)
        return Clause(f"({self._part(column)} AND {found.sql})", found.values)


_PARTS = (_PartDialect(_fits_index), _PartDialect(_exceeds_index))


def count(query: FindingQuery, dialect: Dialect) -> Clause:
    """Return the statement that counts what matches."""
    prefixes = [one.endswith("*") for one in query.detector_id]
    by_one_prefix = bool(query.resource_prefix) != any(prefixes) and (
        bool(query.resource_prefix) or all(prefixes)
    )
    if not by_one_prefix:
        return select_count(query, dialect).full_statement()
    index_parts = (select_count(query, part).full_statement() for part in _PARTS)
    found = joined(" + ", (Clause(f"({sql})", values) for sql, values in index_parts))
    return Clause(f"SELECT {found.sql}", found.values)
