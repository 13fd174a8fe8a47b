"""How much the databases do for each call: statements are counted, and what is read grows with the answer only.

Work is counted by the databases themselves, not timed: instructions of SQLite's virtual machine; rows and blocks that
PostgreSQL's statistics say were read. Each call is measured in a project of some size and in one four times as large.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import psycopg
import pytest
from servers import PostgresServer
from sqlalchemy import event

from findings_orm import FindingQuery, FindingStore, open_storage
from findings_orm.clock import uuid7
from findings_orm.finding import FindingDocument, StatusName
from findings_orm.observe import Ended, Observer, Statement
from findings_orm.query import SORTS

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

FEW = 25_000 if os.environ.get("FINDINGS_TEST_SCALE") == "full" else 3_000
MANY = 4 * FEW
CLOSED = 40
RARE = 20
SEVERITIES = ("info", "low", "medium", "high", "critical")
DAY = "2024-05-{:02}T12:00:00Z"
ALL_SORTS: list[Any] = [sign + name for name in SORTS for sign in ("", "-")]


def document(project: str, n: int, count: int) -> dict[str, Any]:
    """Return a finding; a thirtieth of the project has the same time, so that ids decide in every page.

    `RARE` of them have values that no other one has.
    """
    common: dict[str, Any] = {
        "id": uuid7(),
        "project_id": project,
        "detector_id": f"scan.tool{n % 7}",
        "rule_id": f"R{n % 31}",
        "title": f"rule {n % 31} was broken {n}",
        "severity": SEVERITIES[n % 5],
        "resource": f"src/package{n % 97}/module{n}.py",
        "created_at": DAY.format(n % 30 + 1),
        "tags": [f"team{n % 9}"],
        "cwe_ids": [n % 50 + 1],
    }
    if n % (count // RARE):
        return common
    return {
        **common,
        "detector_id": "rare.tool",
        "rule_id": "RARE",
        "resource": f"rare/module{n}.py",
        "tags": ["rare", "team1"],
        "cwe_ids": [4242],
        "cve_ids": ["CVE-2024-4242"],
    }


@dataclass
class Filled:
    """A store with two projects, ``few`` and ``many``, and what to ask for in them."""

    store: FindingStore
    count_work: Callable[[], Any]
    ids: dict[str, str] = field(default_factory=dict)
    deep: dict[tuple[str, str], FindingDocument] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)

    @cached_property
    def copy(self) -> FindingStore:
        """The larger project in memory."""
        memory = open_storage("memory:")
        memory.save_findings(self.store.list_findings("many"))
        return memory

    def work(self, call: Callable[[], object]) -> int:
        """Return what a call costs, the second time it is made."""
        call()
        with self.count_work() as counted:
            call()
        return int(counted[0])


def fill(store: FindingStore, filled: Filled) -> None:
    for project, count in (("few", FEW), ("many", MANY)):
        store.ingest(project, [document(project, n, count) for n in range(count)])
        filled.runs[project] = store.runs(project)[0].id
        filled.ids[project] = store.find(FindingQuery(project_id=project, limit=1)).items[0]["id"]
        for finding in store.find(FindingQuery(project_id=project, limit=CLOSED, sort="-created_at")).items:
            store.set_status(project, finding["id"], "false_positive", actor="ann")
        for sort in ALL_SORTS:
            deep = FindingQuery(project_id=project, limit=min(count // 2, 10_000), sort=sort)
            filled.deep[project, sort] = store.find(deep).items[-1]


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    url = f"sqlite:///{tmp_path_factory.mktemp('plans')}/findings.db?synchronous=NORMAL"
    instructions = [0]

    def stepped() -> None:
        instructions[0] += 10

    @contextmanager
    def counted() -> Iterator[list[int]]:
        instructions[0] = 0
        found: list[int] = []
        yield found
        found.append(instructions[0])

    with open_storage(url) as store:
        filled = Filled(store, counted)
        fill(store, filled)
        with store.engine.begin() as connection:  # type: ignore[attr-defined]
            connection.exec_driver_sql("ANALYZE")
    with open_storage(url) as store:
        engine = store.engine  # type: ignore[attr-defined]
        engine.dispose()
        event.listen(engine, "connect", lambda driver, _record: driver.set_progress_handler(stepped, 10))
        filled.store = store
        yield filled


@pytest.fixture(scope="module")
def postgresql(server_18: PostgresServer) -> Iterator[Filled]:
    name = server_18.create_database()
    url = server_18.url(name)
    open_storage(url, migrate=True).close()
    with (
        psycopg.connect(url, autocommit=True) as watcher,
        open_storage(url, pool_size=1, max_overflow=0) as store,
    ):

        def total() -> int:
            with store.engine.connect() as connection:  # type: ignore[attr-defined]
                connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
            row = watcher.execute(
                "SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes) + "
                "(SELECT sum(seq_tup_read) FROM pg_stat_user_tables) + "
                "(SELECT sum(heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0)) "
                "FROM pg_statio_user_tables)"
            ).fetchone()
            assert row is not None
            return int(row[0])

        @contextmanager
        def counted() -> Iterator[list[int]]:
            before = total()
            found: list[int] = []
            yield found
            found.append(total() - before)

        filled = Filled(store, counted)
        watcher.execute("ALTER TABLE findings SET (autovacuum_enabled = off)")
        watcher.execute("ALTER TABLE finding_identities SET (autovacuum_enabled = off)")
        fill(store, filled)
        watcher.execute("VACUUM ANALYZE")
        yield filled
    server_18.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest) -> Filled:
    found: Filled = request.getfixturevalue(request.param)
    return found


class Shape(NamedTuple):
    """A call, and how many statements it makes on SQLite and PostgreSQL, those that begin and end a transaction included."""

    call: Callable[[Filled, str], object]
    sqlite: int
    postgresql: int


def finding(filled: Filled, project: str, **conditions: Any) -> object:
    return filled.store.find(FindingQuery(project_id=project, **{"limit": 20, **conditions}))


def deeper(filled: Filled, project: str, **conditions: Any) -> object:
    query = FindingQuery(project_id=project, **conditions)  # a cursor is good for its own conditions only
    cursor = query.cursor_after(filled.deep[project, query.sort])
    return finding(filled, project, cursor=cursor, **conditions)


def counting(filled: Filled, project: str, **conditions: Any) -> int:
    return filled.store.count(FindingQuery(project_id=project, **conditions))


def setting(filled: Filled, project: str) -> None:
    store, key = filled.store, filled.ids[project]
    status: StatusName = "triaged" if store.get_finding(project, key)["status"] == "open" else "open"
    store.set_status(project, key, status, actor="ann")


def saving(filled: Filled, project: str) -> None:
    known = filled.store.get_finding(project, filled.ids[project])
    filled.store.save_finding({**known, "title": f"{known['title'][:50]} {uuid7()}"})


def importing(filled: Filled, project: str, *, changed: int) -> None:
    """Import 200 known findings, some of them changed."""
    documents = [document(project, n, FEW if project == "few" else MANY) for n in range(200)]
    for one in documents[:changed]:
        one["title"] = f"{one['title']} {uuid7()}"
    assert filled.store.ingest(project, documents).updated >= changed


CONSTANT = {
    "get": Shape(lambda f, p: f.store.get_finding(p, f.ids[p]), 1, 1),
    "revision": Shape(lambda f, p: f.store.revision(p), 1, 1),
    "history": Shape(lambda f, p: f.store.history(p, f.ids[p]), 1, 1),
    "sighting": Shape(lambda f, p: f.store.sighting(p, f.ids[p]), 3, 3),
    "runs": Shape(lambda f, p: f.store.runs(p), 1, 1),
    "list of projects": Shape(lambda f, _: f.store.list_projects(), 1, 1),
    "first page": Shape(finding, 1, 1),
    "page in the middle": Shape(deeper, 1, 1),
    "page in the middle, from a day on": Shape(partial(deeper, created_from=DAY.format(1)), 1, 1),
    "newest page": Shape(partial(finding, sort="-created_at"), 1, 1),
    "what a purge would remove": Shape(
        lambda f, p: f.store.purge(p, closed_before="2100-01-01T00:00:00Z", dry_run=True), 2, 1
    ),
    "save": Shape(saving, 8, 8),
    "set a status": Shape(setting, 10, 10),
}
"""Calls whose answer does not grow with the project."""

CONSTANT |= {f"first page by {sort}": Shape(partial(finding, sort=sort), 1, 1) for sort in ALL_SORTS}
CONSTANT |= {f"page in the middle by {sort}": Shape(partial(deeper, sort=sort), 1, 1) for sort in ALL_SORTS}
ORDERED: dict[str, dict[str, Any]] = {
    "a day": {"created_from": DAY.format(9), "created_before": DAY.format(10)},
    "a severity": {"severity": "high"},
    "severities": {"min_severity": "high"},
    "a status that many have": {"status": "open"},
    "a status that few have": {"status": ["false_positive", "triaged"]},
    "a status that few have, worst first": {"status": "false_positive", "sort": "-severity"},
    "a severity and a status": {"severity": "high", "status": "open", "sort": "-created_at"},
    "a detector that many have": {"detector_id": "scan.tool3"},
    "a detector that few have": {"detector_id": "rare.tool"},
    "a rule that many have": {"rule_id": "R3"},
    "a rule that few have": {"rule_id": "RARE"},
}
CONSTANT |= {
    f"page of {name}": Shape(partial(finding, **conditions), 1, 1) for name, conditions in ORDERED.items()
}
CONSTANT["page of a run"] = Shape(lambda f, p: finding(f, p, run_id=f.runs[p]), 1, 1)
FEW_MATCH: dict[str, dict[str, Any]] = {
    "detectors by prefix": {"detector_id": "rare.*"},
    "rules": {"rule_id": ["RARE", "NONE"]},
    "a resource prefix": {"resource_prefix": "rare/"},
    "a CWE": {"cwe": 4242},
    "a CVE": {"cve_id": "CVE-2024-4242"},
    "a tag": {"tag": "rare"},
    "a tag and a status": {"tag": "rare", "status": "open"},
}
CONSTANT |= {
    f"page of {name} that few have": Shape(partial(finding, **conditions), 2, 1)
    for name, conditions in FEW_MATCH.items()
}
CONSTANT |= {
    f"count of {name} that few have": Shape(partial(counting, **conditions), 1, 1)
    for name, conditions in FEW_MATCH.items()
}
BY_LIST = [name for name in CONSTANT if " of a C" in name or " of a tag" in name]
"""PostgreSQL combines two indexes: that of the members of lists, in all projects, and one with all of the project."""

CONSTANT["count of a status that few have"] = Shape(partial(counting, status="false_positive"), 1, 1)

FILTERED = {
    "page of a tag": Shape(partial(finding, tag="team3"), 2, 1),
    "count of a tag": Shape(partial(counting, tag="team3"), 1, 1),
    "page of a resource prefix": Shape(partial(finding, resource_prefix="src/"), 2, 1),
    "page of a tag by title": Shape(partial(finding, tag="team3", sort="title"), 2, 1),
    "page of a detector by severity": Shape(
        partial(finding, detector_id="scan.tool3", sort="-severity"), 2, 1
    ),
}
"""Pages of what a share of the project has: the databases look it up and sort it, or walk the order and leave out."""

LINEAR = {
    "count": Shape(counting, 1, 1),
    "count of a severity": Shape(partial(counting, severity="high"), 1, 1),
    "count of a status": Shape(partial(counting, status="open"), 1, 1),
    "count of a detector": Shape(partial(counting, detector_id="scan.*"), 1, 1),
    "count of a resource prefix": Shape(partial(counting, resource_prefix="src/"), 1, 1),
    "summary": Shape(lambda f, p: f.store.summarize(p), 5, 5),
    "list": Shape(lambda f, p: f.store.list_findings(p), 2, 1),
}
"""Calls that look at all (or a share) of the project, once."""


class Counter(Observer):
    def __init__(self) -> None:
        self.statements: list[str] = []

    def statement(self, statement: Statement) -> Ended | None:
        self.statements.append(statement.text)
        return None


@pytest.mark.parametrize("name", [*CONSTANT, *FILTERED, *LINEAR])
def test_calls_make_as_many_statements_as_they_need(filled: Filled, name: str) -> None:
    shape = {**CONSTANT, **FILTERED, **LINEAR}[name]
    shape.call(filled, "few")
    counter = Counter()
    stop = filled.store.observe(counter)  # type: ignore[attr-defined]
    shape.call(filled, "few")
    stop()
    assert len(counter.statements) == getattr(shape, filled.store.adapter), counter.statements  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", CONSTANT)
def test_what_is_read_grows_with_the_answer_only(filled: Filled, name: str) -> None:
    few, many = (filled.work(partial(CONSTANT[name].call, filled, project)) for project in ("few", "many"))
    assert few > 0
    if name in BY_LIST and filled.store.adapter == "postgresql":  # type: ignore[attr-defined]
        assert many < MANY * 1.2
        return
    assert many <= few * 1.2 + 30, f"{few} for {FEW} findings, {many} for {MANY}"


@pytest.mark.parametrize("changed", [1, 200])
def test_a_small_import_reads_no_more_in_a_large_project(filled: Filled, changed: int) -> None:
    few, many = (
        filled.work(partial(importing, filled, project, changed=changed)) for project in ("few", "many")
    )
    assert many <= few * 2, f"{few} for {FEW} findings, {many} for {MANY}"


@pytest.mark.parametrize("name", FILTERED)
def test_a_page_with_conditions_reads_no_more_than_its_project_once(filled: Filled, name: str) -> None:
    many = filled.work(partial(FILTERED[name].call, filled, "many"))
    assert many < filled.work(partial(LINEAR["list"].call, filled, "many")) * 1.2


@pytest.mark.parametrize("name", LINEAR)
def test_what_looks_at_everything_does_so_once(filled: Filled, name: str) -> None:
    few, many = (filled.work(partial(LINEAR[name].call, filled, project)) for project in ("few", "many"))
    assert few * 2.5 < many < few * 5, f"{few} for {FEW} findings, {many} for {MANY}"


@pytest.mark.parametrize("sort", ALL_SORTS)
def test_a_page_deep_down_costs_what_the_first_one_does(filled: Filled, sort: str) -> None:
    first, deep = (filled.work(partial(call, filled, "many", sort=sort)) for call in (finding, deeper))
    of_ties = 1.3 if filled.store.adapter == "sqlite" else 1.2  # type: ignore[attr-defined]  # SQLite compares their ids too
    assert deep <= of_ties * first
    if not sort.endswith(
        "severity"
    ):  # there the first page looks for all severities, a later one for what is left
        assert 0.8 * first <= deep


@pytest.mark.parametrize("name", [*FEW_MATCH, "a share"])
def test_pages_are_those_of_memory(filled: Filled, name: str) -> None:
    """Few matches and many go other ways."""
    memory = filled.copy
    conditions: dict[str, Any] = FEW_MATCH.get(name, {"detector_id": "scan.*", "resource_prefix": "src"})
    assert counting(filled, "many", **conditions) == memory.count(
        FindingQuery(project_id="many", **conditions)
    )
    for sort in ALL_SORTS:
        query = FindingQuery(project_id="many", limit=150, sort=sort, **conditions)
        for _ in range(3):
            page, expected = filled.store.find(query), memory.find(query)
            assert page == expected, sort
            if page.next_cursor is not None:
                query = replace(query, cursor=page.next_cursor)
