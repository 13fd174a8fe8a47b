"""The way that SQLite takes to a page with conditions.

It knows neither how many findings meet a condition nor where in the order of the page they lie. So ways are tried with a
budget of rows that grows until it is enough for one of them: to look up what meets a condition and sort that, or to walk along
an index in the order of the page and leave out what does not match. What is spent in vain is a few times what the best of
them takes, wherever the findings lie.

What is found out beforehand is advice only: others may write meanwhile. Each answer is that of one statement, and exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from findings_orm.orm import queries, ranges
from findings_orm.orm.mapping import FINDING_COLUMNS, Row
from findings_orm.orm.queries import LISTS, Clause, Dialect, Select
from findings_orm.orm.sqlite_text_index import Run
from findings_orm.orm.types import json_text
from findings_orm.query import FindingQuery

PAGES = 20
"""The first budget of a page, as a multiple of its size."""

LEAST = 1_000
"""The first budget of small pages."""

GROWTH = 6

FOUND, WALKED, LISTED = 2, 4, 12
"""What it takes to sort a row that an index has found, to look at a row on the way, and to look at one of the different lists
of a project; the unit is an entry of an index."""

_LEAST = ":least"
"""Stands in expressions for the smallest size that is known."""

_COLUMNS = frozenset(FINDING_COLUMNS) - {"project_id"}
_RANGED = frozenset({"severity", "status"})
_EXACT = ("rule_id", "run_id", "detector_id")


class Way(NamedTuple):
    """One way to all that matches.

    Attributes:
        size: an expression for what it takes; as soon as it is no less than `_LEAST`, about that.
        full_statement: the one that takes it to its end.
        part: the statement that takes it as far as the budget goes: a full page of it is the page.
    """

    size: Clause
    full_statement: Clause
    part: Clause = Clause("")


def rows_of_page(run: Run, query: FindingQuery, dialect: Dialect, limit: int) -> list[Row]:
    """Return the rows of a page of a query without text."""
    groups = _condition_groups(query)
    if groups <= _served_groups(query):
        return run(*queries.select_documents(query, dialect, limit).full_statement())
    budget = max(LEAST, PAGES * limit)
    while True:
        walks = list(_walk_ways(query, dialect, limit, groups, budget))
        if best := _shortest_way(run, [*_lookup_ways(query, dialect, limit, groups, budget), *walks], budget):
            return run(*best.full_statement)
        for walk in walks:
            rows = run(*walk.part)
            if len(rows) == limit:
                return rows
        budget *= GROWTH


def _shortest_way(run: Run, ways: Sequence[Way], budget: int) -> Way | None:
    """Return the shortest of the ways that are shorter than the budget. None is looked at longer than the shortest before."""
    least, tables = str(budget), []
    for n, way in enumerate(ways):
        size = way.size.sql.replace(_LEAST, least)
        known = f"SELECT s, min(s, {least}) FROM (SELECT {size} AS s)"  # noqa: S608  # parts
        tables.append(f"size{n} (size, least) AS MATERIALIZED ({known})")
        least = f"(SELECT least FROM size{n})"  # noqa: S608  # constants
    columns, of = (", ".join(f"size{n}{end}" for n in range(len(ways))) for end in (".size", ""))
    values = [value for way in ways for value in way.size.values]
    sizes = run(f"WITH {', '.join(tables)} SELECT {columns} FROM {of}", values)[0]  # noqa: S608  # parts
    size, position = min(zip(sizes, range(len(ways)), strict=True))
    return ways[position] if size < budget else None


# -- what is asked ----------------------------------------------------------------------------------------------------


def _condition_groups(query: FindingQuery) -> frozenset[str]:
    """Return the columns with conditions, as far as each has an index; severity and status have one, by the latter's name."""
    given = {
        "status": query.severities or query.status,
        "created_at": query.created_from or query.created_before,
        "resource": query.resource_prefix,
        **{name: getattr(query, name) for name in _EXACT},
        **{name: getattr(query, condition) for condition, name in LISTS.items()},
    }
    return frozenset(name for name, values in given.items() if values)


def _by_likely_size(groups: frozenset[str]) -> list[str]:
    """Return groups, those first that mostly few findings meet."""
    return sorted(groups, key=(*_EXACT, *LISTS.values(), "resource", "created_at", "status").index)


def _columns_of_group(group: str) -> frozenset[str]:
    return _RANGED if group == "status" else frozenset({group})


def _served_groups(query: FindingQuery) -> frozenset[str]:
    """Return the groups of conditions that leave the order of the page to the index that serves them."""
    if query.sort_field == "created_at":
        return frozenset({"created_at", *_single_value_columns(query)[:1]})
    one = len(query.detector_id) == 1 if query.sort_field == "detector_id" else query.sort_field == "resource"
    return frozenset({query.sort_field}) if one else frozenset()


def _single_value_columns(query: FindingQuery) -> list[str]:
    """Return the columns with a condition on one value whose index goes on by time."""
    given = ((name, getattr(query, name)) for name in _EXACT)
    return [
        name
        for name, values in given
        if len(values) == 1 and not (name == "detector_id" and values[0].endswith("*"))
    ]


# -- look up ----------------------------------------------------------------------------------------------------------


def _lookup_ways(
    query: FindingQuery, dialect: Dialect, limit: int, groups: frozenset[str], budget: int
) -> Iterator[Way]:
    """Yield the ways by what meets one of the conditions."""
    beside = groups - {"created_at"}
    if query.sort_field == "created_at" and len(beside) == 1 and beside <= {*LISTS.values(), *_EXACT}:
        yield _merged_way(query, dialect, limit, budget, *beside)
        return
    for name in _by_likely_size(beside if query.sort_field == "created_at" else groups):
        only = _columns_beside(groups, name)
        page = queries.select_page(query, dialect, limit, "findings.id", _COLUMNS, only=only)
        ids = page.with_conditions(*_leading_conditions(query, dialect, name)).full_statement()
        found = queries.select_project(query.project_id, dialect)._replace(
            order=queries.order_of(query, _COLUMNS)
        )
        yield Way(_lookup_size(query, dialect, name), dialect.confine_to_ids(found, ids))


def _leading_conditions(query: FindingQuery, dialect: Dialect, name: str) -> list[Clause]:
    """Return the conditions of a group, for which SQLite shall take an index whatever its statistics say."""
    found = [
        clause
        for each, clause in queries.conditions_by_column(query, dialect)
        if each in _columns_of_group(name)
    ]
    return found if name in LISTS.values() else [Clause(f"unlikely({sql})", values) for sql, values in found]


def _columns_beside(groups: frozenset[str], name: str) -> frozenset[str]:
    """Return the columns of all groups but one."""
    return frozenset().union(*map(_columns_of_group, groups - {name}))


def _way_size(rows: Clause, each: int) -> Clause:
    """Return the expression for the size of a way along the rows of a SELECT."""
    sql = f"{each} * (SELECT count(*) FROM ({rows.sql} LIMIT {_LEAST} / {each} + 1))"  # noqa: S608  # parts
    return Clause(sql, rows.values)


def _lookup_size(query: FindingQuery, dialect: Dialect, name: str) -> Clause:
    """Return the size of the way by what meets the conditions of a group."""
    if name in LISTS.values():
        return _size_by_lists(query, dialect, name)
    rows = Select("1", (queries.project_condition(query.project_id),)).with_conditions(
        *_leading_conditions(query, dialect, name)
    )
    return _way_size(rows.full_statement(), FOUND)


def _size_by_lists(query: FindingQuery, dialect: Dialect, name: str, limit: int | None = None) -> Clause:
    """Return the size of the way by the different values of a column: of all that has them, or of so many of each."""
    lists, wanted = _distinct_lists(query, dialect, name, f"{_LEAST} / {LISTED} + 1")
    some = f"FROM lists WHERE value IS NOT NULL AND {wanted.sql}"
    kept = f"{name} <> '[]' AND " if name in LISTS.values() else ""
    rows = Clause(
        f"SELECT 1 FROM findings WHERE project_id = ? AND {kept}unlikely({name} IN (SELECT value {some}))",  # noqa: S608
        (query.project_id, *wanted.values),
    )
    size = _way_size(rows, FOUND)
    if limit is not None:
        of_each = f"{FOUND * limit} * (SELECT count(*) {some})"
        size = Clause(
            f"CASE WHEN {of_each} < {_LEAST} THEN {of_each} ELSE {size.sql} END",
            (*wanted.values, *wanted.values, *size.values),
        )
    sql = (
        f"(WITH RECURSIVE {lists.sql} SELECT CASE WHEN count(*) > {_LEAST} / {LISTED} THEN {_LEAST} "  # noqa: S608  # constants
        f"ELSE {LISTED} * count(*) + {size.sql} END FROM lists)"
    )
    return Clause(sql, (*lists.values, *size.values))


def _distinct_lists(
    query: FindingQuery, dialect: Dialect, name: str, most: str = ""
) -> tuple[Clause, Clause]:
    """Return the different values of a column, and whether one of them is among those asked for."""
    lists = queries.distinct_values(query.project_id, name, most)
    if name == "detector_id":
        return lists, queries.detector_condition("lists.value", query.detector_id, dialect)
    condition = next(condition for condition, column in LISTS.items() if column == name)
    values = queries.wanted_members(query, condition)
    return lists, dialect.has_any("lists.value", values) if values else Clause("false")


def _merged_way(query: FindingQuery, dialect: Dialect, limit: int, budget: int, name: str) -> Way:
    """Return the way along the first findings of each value of a column, of which an index goes on by time."""
    given = tuple(dict.fromkeys(getattr(query, name, ())))
    if name in LISTS.values() or any(value.endswith("*") for value in given if name == "detector_id"):
        size = _size_by_lists(query, dialect, name, limit)
        lists, wanted = _distinct_lists(query, dialect, name)
        lists = Clause(f"RECURSIVE {lists.sql}", lists.values)
        where = Clause(f"lists.value IS NOT NULL AND {wanted.sql}", wanted.values)
    else:
        of_each = Clause(str(FOUND * limit * len(given)))
        size = of_each if FOUND * limit * len(given) < budget else _lookup_size(query, dialect, name)
        lists = Clause("lists (value) AS (SELECT value FROM json_each(?))", (json_text(given),))
        where = Clause("true")
    hidden = _COLUMNS - {"created_at", "id", name}
    columns = "findings.created_at, findings.id"
    rest = queries.select_page(query, dialect, limit, columns, hidden, only={"created_at"})
    same = Clause(f"findings.{name} = lists.value")
    kept = (Clause(f"findings.{name} <> '[]'"),) if name in LISTS.values() else ()
    first = rest.with_conditions(*kept, same).full_statement()
    way = " DESC" if query.descending else ""
    pairs = f"SELECT json_group_array(json_array(created_at, id)) FROM ({first.sql})"  # noqa: S608  # parts
    place_and_id = "json_extract(first.value, '$[0]') AS place, json_extract(first.value, '$[1]') AS id"
    sql = (
        f"WITH {lists.sql}, found AS (SELECT {place_and_id} FROM lists CROSS JOIN json_each(({pairs})) AS first "  # noqa: S608
        f"WHERE {where.sql} ORDER BY place{way}, id{way} LIMIT {limit}) "
        f"SELECT {dialect.columns(FINDING_COLUMNS)} FROM found CROSS JOIN findings "
        f"ON findings.project_id = ? AND findings.id = found.id ORDER BY found.place{way}, found.id{way}"
    )
    values = (*lists.values, *first.values, *where.values, query.project_id)
    return Way(size, Clause(sql, values))


# -- walk -------------------------------------------------------------------------------------------------------------


def _walk_ways(
    query: FindingQuery, dialect: Dialect, limit: int, groups: frozenset[str], budget: int
) -> Iterator[Way]:
    """Yield the ways along an index in the order of the page."""
    by_time = query.sort_field == "created_at"
    ranged = query.sort_field == "severity" or (by_time and "status" in groups)
    if ranged:
        yield _way_along_ranges(query, dialect, limit, budget)
    single = _single_value_columns(query) if by_time else []
    for name in single:
        yield _way_along_index(query, dialect, limit, budget, frozenset({"created_at", name}))
    if not ranged and not single:
        yield _way_along_index(query, dialect, limit, budget, _served_groups(query))


def _way_along_ranges(query: FindingQuery, dialect: Dialect, limit: int, budget: int) -> Way:
    merge, bounds = ranges.merge_of(query, limit)
    values = (query.project_id, *bounds)
    served = _RANGED if merge.sort == "severity" else _RANGED | {"created_at"}
    rest = [one for name, one in queries.conditions_by_column(query, dialect, _COLUMNS) if name not in served]
    where = queries.joined(" AND ", rest) if rest else Clause("true")
    columns = dialect.columns(FINDING_COLUMNS)
    if not merge.severities:
        return Way(Clause("0"), Clause("SELECT 1 WHERE false"))
    return Way(
        _way_size(ranges.sqlite_all_ranges(merge, values), WALKED),
        ranges.sqlite_walk(merge, columns, values, where, None),
        ranges.sqlite_walk(merge, columns, values, where, budget // WALKED),
    )


def _way_along_index(
    query: FindingQuery, dialect: Dialect, limit: int, budget: int, served: frozenset[str]
) -> Way:
    """Return the way along the index that is in the order of the page and serves some of the conditions."""
    hidden = _COLUMNS - served - {query.sort_field, "id"}
    place = f"findings.{query.sort_field}, findings.id"
    stream = queries.select_page(query, dialect, None, place, hidden, only=served)
    end, sign = ("''", ">=") if query.descending else ("x'ff'", "<=")
    bound = ranges.bound_of(stream.full_statement().sql, budget // WALKED, end)
    until = Clause(f"({place}) {sign} (SELECT place, id FROM bound)")  # noqa: S608  # constants
    page = queries.select_documents(query, dialect, limit, hidden)
    far = {"created_from" if query.descending else "created_before"}
    part = (
        queries.select_documents(query, dialect, limit, hidden | far).with_conditions(until).full_statement()
    )
    return Way(
        _way_size(stream._replace(order="").full_statement(), WALKED),
        page.full_statement(),
        Clause(f"WITH {bound} {part.sql}", (*stream.full_statement().values, *part.values)),
    )
