"""Wherever in the order of a page the findings lie that meet its conditions: SQLite takes a way that is no worse than a few
times the best one. It is measured by the instructions of its virtual machine, not by time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from findings_orm import FindingQuery, open_storage
from findings_orm.clock import uuid7
from findings_orm.finding import FindingDocument
from findings_orm.orm import ranges, sqlite_plans
from findings_orm.orm.mapping import Row
from findings_orm.orm.queries import Dialect
from findings_orm.query import matches

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

COUNT = 4_500
LIMIT = 20
PLACES: dict[str, Callable[[int], bool]] = {
    "begin": lambda n: n < COUNT // 2,
    "end": lambda n: n >= COUNT // 2,
    "spread": lambda n: n % 10 == 3,
    "rare": lambda n: n % (COUNT // 8) == 7,
    "everywhere": lambda _: True,
    "nowhere": lambda _: False,
}
"""Which findings have the values that are named so, by their number in the order of time."""

CODES = {place: number for number, place in enumerate(PLACES, 1)}
MIDDLE = "2024-05-15T12:00:00Z"
SORTS = ("created_at", "-created_at", "title", "-severity")
KINDS: dict[str, Any] = {
    "CWE": lambda place: {"cwe": CODES[place]},
    "tag, where all lists differ": lambda place: {"tag": place},
    "rules": lambda place: {"rule_id": [f"{place}1", f"{place}2"]},
    "detector prefix": lambda place: {"detector_id": f"{place}.*"},
    "resource prefix": lambda place: {"resource_prefix": f"{place}/"},
    "CWE and status": lambda place: {"cwe": CODES[place], "status": ["triaged", "in_progress"]},
    "rule and severity": lambda place: {"rule_id": f"{place}1", "severity": "critical"},
    "CWE and time": lambda place: {"cwe": CODES[place], "created_from": MIDDLE},
    "severity": lambda place: {"severity": "critical" if place == "spread" else "high"},
    "time": lambda place: {"created_before" if place == "begin" else "created_from": MIDDLE},
}
AT_MOST, AND = 12, 30_000
"""How many times the instructions of the best way may be spent, and how many more: those of a millisecond. On the average it is
twice as many, and most where there are two conditions that many meet."""


def document(n: int) -> dict[str, Any]:
    here = [place for place, holds in PLACES.items() if holds(n)]
    return {
        "id": uuid7(),
        "project_id": "p",
        "detector_id": f"{here[0]}.{n % 3}",
        "rule_id": f"{here[0]}{n % 4}",
        "title": f"t{n * 7919 % COUNT:05}",
        "severity": "critical" if "rare" in here else ("info", "low", "medium", "high")[n % 4],
        "status": "triaged" if "end" in here else "open",
        "resource": f"{here[0]}/{n}",
        "created_at": f"2024-05-{n * 30 // COUNT + 1:02}T{n // 4 % 24:02}:00:00Z",
        "tags": [f"own{n}", *here],
        "cwe_ids": [CODES[place] for place in here],
    }


@dataclass
class Placed:
    """A project on SQLite, its documents by time, and the instructions that statements take."""

    driver: sqlite3.Connection
    documents: list[FindingDocument]
    spent: int = 0
    orders: dict[str, list[FindingDocument]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.driver.set_progress_handler(self._step, 50)
        sorts: list[Any] = list(SORTS)
        for sort in sorts:
            value = FindingQuery(project_id="p", sort=sort).sort_value
            key = partial(_key, value)
            self.orders[sort] = sorted(self.documents, key=key, reverse=sort.startswith("-"))

    def _step(self) -> None:
        self.spent += 50

    def run(self, sql: str, values: Any = ()) -> list[Row]:
        return self.driver.execute(sql, values).fetchall()

    def cost(self, sql: str, values: Any) -> int:
        self.spent = 0
        self.run(sql, values)
        return self.spent

    def best(self, query: FindingQuery) -> int:
        """Return what the best way takes, each to its end."""
        groups = sqlite_plans._condition_groups(query)
        known = (query, Dialect(), LIMIT, groups, 1_000)
        ways = [*sqlite_plans._lookup_ways(*known), *sqlite_plans._walk_ways(*known)]
        return min(self.cost(*way.full_statement) for way in ways)

    def page(self, query: FindingQuery) -> tuple[list[str], int]:
        self.spent = 0
        rows = sqlite_plans.rows_of_page(self.run, query, Dialect(), LIMIT)
        return [row[1] for row in rows], self.spent


def _key(value: Any, document: Mapping[str, Any]) -> Any:
    return value(document), document["id"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("placements") / "findings.db"
    with open_storage(f"sqlite:///{path}?synchronous=NORMAL") as store:
        store.ingest("p", [document(n) for n in range(COUNT)])
    return path


@pytest.fixture(scope="module")
def placed(file: Path) -> Iterator[Placed]:
    with open_storage(f"sqlite:///{file}") as store:
        documents = store.list_findings("p")
    with closing(sqlite3.connect(file, isolation_level=None)) as driver:
        yield Placed(driver, documents)


@pytest.fixture(scope="module")
def analyzed(placed: Placed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Placed]:
    """A copy with statistics, by which SQLite chooses otherwise where it is free to."""
    with closing(sqlite3.connect(tmp_path_factory.mktemp("analyzed") / "findings.db")) as driver:
        placed.driver.backup(driver)
        driver.execute("ANALYZE")
        yield Placed(driver, placed.documents)


@pytest.mark.parametrize("kind", KINDS)
def test_no_placement_is_worse_than_a_few_times_the_best_way(placed: Placed, kind: str) -> None:
    check_placements(placed, kind, SORTS)


@pytest.mark.parametrize("kind", ["CWE", "rules", "CWE and status"])
def test_statistics_mislead_nobody(analyzed: Placed, kind: str) -> None:
    check_placements(analyzed, kind, ("-created_at", "title"))


def check_placements(placed: Placed, kind: str, sorts: Sequence[Any]) -> None:
    for place in PLACES:
        conditions = KINDS[kind](place)
        found = {d["id"] for d in placed.documents if matches(FindingQuery(project_id="p", **conditions), d)}
        for sort in sorts:
            query = FindingQuery(project_id="p", sort=sort, limit=LIMIT, **conditions)
            expected = [document for document in placed.orders[sort] if document["id"] in found]
            last = max(0, len(expected) - LIMIT // 2)
            for start in {0, len(expected) // 2, last}:
                cursor = query.cursor_after(expected[start - 1]) if start else None
                page = replace(query, cursor=cursor)
                if ranges.can_merge_ranges(page):
                    continue
                ids, spent = placed.page(page)
                assert ids == [document["id"] for document in expected[start : start + LIMIT]]
                best = placed.best(page)
                assert spent <= AT_MOST * best + AND, (
                    f"{kind} {place} by {sort} from {start}: {spent}, best {best}"
                )
