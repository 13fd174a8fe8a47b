"""Pages that are merged from ranges of an index, one for each severity and status.

`findings` has an index by severity, status and id, and one by status, severity, time and id. Within one severity and one
status each is in the order of a page, so that the page is made of the first findings of each range: what is read does not
depend on how many findings there are of which kind. The statements are driver SQL, as there are up to 35 ranges.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import count, product
from typing import NamedTuple
from uuid import UUID

from findings_orm.finding import Severity, Status
from findings_orm.orm.queries import OTHERS, Clause, without_implied_bound
from findings_orm.query import FindingQuery, time_key

_ZERO, _MAX = UUID(int=0), UUID(int=2**128 - 1)


class Merge(NamedTuple):
    """What decides about the text of a statement.

    Attributes:
        severities: each with whether the page begins within it, in the order of the page.
        statuses: the statuses.
        sort: ``created_at`` or ``severity``.
        descending: whether the order is reversed.
        bounds: which bounds on the time there are, of ``from``, ``before`` and ``after``.
        limit: how many findings.
    """

    severities: tuple[tuple[str, bool], ...]
    statuses: tuple[str, ...]
    sort: str
    descending: bool
    bounds: tuple[str, ...]
    limit: int

    @property
    def direction(self) -> str:
        """The direction of the order."""
        return " DESC" if self.descending else ""


def can_merge_ranges(query: FindingQuery) -> bool:
    """Return whether a page is made of ranges: by severity, or by time with a condition on severity or status."""
    if query.words or any(getattr(query, name) for name in OTHERS):
        return False
    if query.sort_field == "severity":
        return query.created_from is None and query.created_before is None
    return query.sort_field == "created_at" and bool(query.severities or query.status)


def merge_of(query: FindingQuery, limit: int) -> tuple[Merge, tuple[str, ...]]:
    """Return the form of a page, and the values of its bounds (on the time, and the position)."""
    if query.sort_field == "severity":
        return _merge_by_severity(query, limit)
    return _merge_by_time(query, limit)


def _merge_by_time(query: FindingQuery, limit: int) -> tuple[Merge, tuple[str, ...]]:
    after = query.after
    bounded = query if after is None else without_implied_bound(query, after[0])
    given = {"from": bounded.created_from, "before": bounded.created_before}
    bounds = {name: time_key(value) for name, value in given.items() if value is not None}
    values = (*bounds.values(), *(after or ()))
    names = (*bounds, *(() if after is None else ("after",)))
    severities = tuple((one.value, False) for one in _wanted_severities(query))
    return Merge(severities, _wanted_statuses(query), "created_at", query.descending, names, limit), values


def _merge_by_severity(query: FindingQuery, limit: int) -> tuple[Merge, tuple[str, ...]]:
    after = query.after
    if after is None:
        severities = tuple((one.value, False) for one in _wanted_severities(query))
        return Merge(severities, _wanted_statuses(query), "severity", query.descending, (), limit), ()
    rank, finding_id = after
    sign, last = (-1, _ZERO) if query.descending else (1, _MAX)
    within = [one for one in _wanted_severities(query) if one.rank == rank and UUID(finding_id) != last]
    behind = [one for one in _wanted_severities(query) if sign * one.rank > sign * rank]
    severities = (*((one.value, True) for one in within), *((one.value, False) for one in behind))
    merge = Merge(severities, _wanted_statuses(query), "severity", query.descending, (), limit)
    return merge, (finding_id,) if within else ()


def _wanted_severities(query: FindingQuery) -> list[Severity]:
    found = [one for one in Severity if not query.severities or one.value in query.severities]
    return found[::-1] if query.descending else found


def _wanted_statuses(query: FindingQuery) -> tuple[str, ...]:
    return tuple(one.value for one in Status if not query.status or one.value in query.status)


# -- SQLite: a SELECT for each range ----------------------------------------------------------------------------------


def sqlite_walk(
    merge: Merge, columns: str, values: tuple[str, ...], where: Clause, budget: int | None
) -> Clause:
    """Return the statement for the findings that meet other conditions too, among the first `budget` of all ranges together.

    Args:
        merge: the form of the page.
        columns: what is read of ``findings``.
        values: the project and the values of `merge_of`.
        where: the other conditions, none of which an index serves.
        budget: up to how many findings are looked at; None: all.
    """
    numbers = count(len(values) + 1)
    numbered = re.sub(r"\?", lambda _: f"?{next(numbers)}", where.sql)
    return Clause(_walk_statement(merge, columns, numbered, budget), (*values, *where.values))


@lru_cache(256)
def _walk_statement(merge: Merge, columns: str, where: str, budget: int | None) -> str:
    way = merge.direction
    walks = " UNION ALL ".join(
        _select_range_start(merge, f"{_select_range(merge, severity, status, within, until)} AND {where}")
        for (severity, within), status in product(merge.severities, merge.statuses)
        for until in [_bound_condition(merge, severity) if budget else ""]
    )
    end = ("-1" if merge.sort == "severity" else "''") if merge.descending else "x'ff'"
    bound = f"WITH {bound_of(_ordered_ranges(merge), budget, end)} " if budget else ""
    return (
        f"{bound}SELECT {columns} FROM ("  # noqa: S608  # parts
        f"SELECT place, id FROM ({walks}) ORDER BY place{way}, id{way} LIMIT {merge.limit}) k "
        f"CROSS JOIN findings ON findings.project_id = ?1 AND findings.id = k.id ORDER BY k.place{way}, k.id{way}"
    )


def bound_of(stream: str, budget: int, end: str) -> str:
    """Return ``bound (place, id)`` for a ``WITH``: the place of the last of the first `budget` rows of a SELECT of both in
    their order, else `end`, a place behind all. SQLite reads no more than that, also where ``UNION ALL`` joins several."""
    return (
        f"bound (place, id) AS MATERIALIZED (SELECT * FROM ({stream} LIMIT 1 OFFSET {budget - 1}) "  # noqa: S608  # parts
        f"UNION ALL SELECT {end}, {end} LIMIT 1)"
    )


def sqlite_all_ranges(merge: Merge, values: tuple[str, ...]) -> Clause:
    """Return the SELECT of all ranges together, in no order."""
    sql, numbers = _select_all_ranges(merge)
    return Clause(sql, tuple(values[number - 1] for number in numbers))


@lru_cache(256)
def _select_all_ranges(merge: Merge) -> tuple[str, tuple[int, ...]]:
    """Return the SELECT with the numbers of its parameters, in their order."""
    sql = " UNION ALL ".join(_selects_by_severity(merge))
    return re.sub(r"\?\d+", "?", sql), tuple(map(int, re.findall(r"\?(\d+)", sql)))


def _selects_by_severity(merge: Merge) -> list[str]:
    return [
        " UNION ALL ".join(_select_range(merge, severity, status, within) for status in merge.statuses)
        for severity, within in merge.severities
    ]


def _ordered_ranges(merge: Merge) -> str:
    """Return the SELECT of all ranges in the order of the page: by time all together, else one severity after the other."""
    way = merge.direction
    of_severities = _selects_by_severity(merge)
    if merge.sort != "severity":
        return f"{' UNION ALL '.join(of_severities)} ORDER BY place{way}, id{way}"
    return " UNION ALL ".join(f"SELECT * FROM ({each} ORDER BY id{way})" for each in of_severities)  # noqa: S608


def _bound_condition(merge: Merge, severity: str) -> str:
    sign = ">=" if merge.descending else "<="
    if merge.sort != "severity":
        return f"(created_at, id) {sign} (SELECT place, id FROM bound)"  # noqa: S608  # constants
    rank = Severity(severity).rank
    return f"id {sign} (SELECT CASE WHEN place = {rank} THEN id WHEN place > {rank} THEN x'ff' ELSE '' END FROM bound)"  # noqa: S608


def _select_range_start(merge: Merge, stream: str) -> str:
    """Return the SELECT of the first findings of a range; one severity is in the order of ids."""
    way = merge.direction
    order = f"id{way}" if merge.sort == "severity" else f"created_at{way}, id{way}"
    return f"SELECT * FROM ({stream} ORDER BY {order} LIMIT {merge.limit})"  # noqa: S608  # constants


def _select_range(merge: Merge, severity: str, status: str, within: bool, until: str = "") -> str:
    """Return the SELECT of the findings of a range, up to a place: SQLite would end at a bound on the time instead, if an index
    could serve that."""
    sign = "<" if merge.descending else ">"
    where = f"project_id = ?1 AND severity = '{severity}' AND status = '{status}'"
    if merge.sort == "severity":
        where += f" AND id {sign} ?2" if within else ""
    else:
        texts = {
            "from": f"{'+' if until and merge.descending else ''}created_at >= ?{{}}",
            "before": f"{'+' if until and not merge.descending else ''}created_at < ?{{}}",
            "after": f"(created_at, id) {sign} (?{{}}, ?{{}})",
        }
        for position, name in enumerate(merge.bounds, 2):
            where += f" AND {texts[name].format(position, position + 1)}"
    where += f" AND {until}" if until else ""
    place = Severity(severity).rank if merge.sort == "severity" else "created_at"
    return f"SELECT {place} AS place, id FROM findings WHERE {where}"  # noqa: S608  # constants


# -- PostgreSQL: one lateral SELECT for all ranges --------------------------------------------------------------------


def postgresql_statement(
    merge: Merge, columns: str, project_id: str, values: tuple[str, ...]
) -> tuple[str, tuple[object, ...]]:
    """Return the statement for `columns` of ``f``, and its parameters."""
    severities = [severity for severity, _ in merge.severities]
    parameters: list[object] = [severities, [Severity(one).rank for one in severities]]
    if merge.sort == "severity":
        parameters.append(
            [_next_id(merge, values) if within else _start_id(merge) for _, within in merge.severities]
        )
    parameters += [list(merge.statuses), project_id]
    if merge.sort != "severity":
        parameters += values
    return _lateral_statement(merge, columns), (*parameters, project_id)


@lru_cache(256)
def _lateral_statement(merge: Merge, columns: str) -> str:
    way, sign = merge.direction, "<" if merge.descending else ">"
    bound, place, where, order = "", "a.created_at", "", f"a.created_at{way}, a.id{way}"
    if merge.sort == "severity":
        bound, place, where, order = ", ?::uuid[]", "s.rank", f" AND a.id {sign}= s.bound", f"a.id{way}"
    texts = {
        "from": "a.created_at >= ?::timestamptz",
        "before": "a.created_at < ?::timestamptz",
        "after": f"(a.created_at, a.id) {sign} (?::timestamptz, ?::uuid)",
    }
    where += "".join(f" AND {texts[name]}" for name in merge.bounds)
    named = "severity, rank, bound" if bound else "severity, rank"
    return (
        f"SELECT {columns} FROM (SELECT k.id, k.place FROM unnest(?::text[], ?::integer[]{bound}) AS s ({named}) "  # noqa: S608
        "CROSS JOIN unnest(?::text[]) AS t (status) CROSS JOIN LATERAL ("
        f"SELECT a.id, {place} AS place FROM findings a WHERE a.project_id = ? AND a.severity = s.severity "
        f"AND a.status = t.status{where} ORDER BY {order} LIMIT {merge.limit}) k "
        f"ORDER BY k.place{way}, k.id{way} LIMIT {merge.limit}) p "
        f"CROSS JOIN LATERAL (SELECT * FROM findings WHERE project_id = ? AND id = p.id LIMIT 1) f "
        f"ORDER BY p.place{way}, p.id{way}"
    )


def _start_id(merge: Merge) -> str:
    return str(_MAX if merge.descending else _ZERO)


def _next_id(merge: Merge, values: tuple[str, ...]) -> str:
    """Return the first id that a page may have which begins after an id."""
    number = UUID(values[0]).int + (-1 if merge.descending else 1)
    return str(UUID(int=number))
