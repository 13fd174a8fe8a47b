"""Every shape of query against hand-written SQL for the same answer, in a store of many projects, one of which has half of all.

Called by ``scripts/benchmark queries``. Hand-written is the plain statement that a developer who knows the indexes writes,
through the driver, its rows made into the same documents. Both take turns; 1.0 is as fast as by hand, more is faster.
"""

from __future__ import annotations

import argparse
import gc
import json
import pathlib
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import psycopg

from findings_orm import FindingQuery, FindingStore, open_storage
from findings_orm.finding import FindingDocument
from findings_orm.orm.mapping import (
    EVENT_COLUMNS,
    FINDING_COLUMNS,
    RUN_COLUMNS,
    document_from_row,
    event_from_row,
    names,
    run_from_row,
)
from findings_orm.orm.postgresql_types import select_expressions
from findings_orm.query import SORTS, time_key

Findings = Callable[[int], Iterable[dict[str, Any]]]
PROJECTS = 200
LARGE = "project-007"
PAGE = 50
SECONDS, SECONDS_OF_SMALLER = 1.5, 0.3
"""For how long a shape is measured, in the largest store and in smaller ones; at least `LEAST`, at most `MOST` times."""
LEAST, MOST = 3, 200
STATUSES = ("open",) * 12 + ("resolved",) * 5 + ("triaged", "false_positive", "risk_accepted")
FITS = "length({0}) <= 400 AND "
RANK = "CASE severity WHEN 'critical' THEN 4 WHEN 'high' THEN 3 WHEN 'medium' THEN 2 WHEN 'low' THEN 1 ELSE 0 END"


def documents(findings: Findings, count: int, project: int) -> Iterator[dict[str, Any]]:
    """Yield the findings of a project: of 60 days, one in ten with a CVE, one in a thousand with a tag that few have."""
    for n, one in enumerate(findings(count)):
        one["created_at"] = f"2024-{4 + n % 2:02}-{n % 30 + 1:02}T12:{n % 60:02}:{project % 60:02}Z"
        one["status"] = STATUSES[n * 7 % len(STATUSES)]
        if n % 10 == 0:
            one["cve_ids"] = [f"CVE-2024-{10_000 + n % 5_000}"]
        if n % 1_000 == 0:
            one["tags"] = [*one["tags"], "urgent"]
        yield one


def fill(store: FindingStore, findings: Findings, count: int) -> None:
    """Import `count` findings into `PROJECTS` projects, half of them into the `LARGE` one."""
    small = (count - count // 2) // (PROJECTS - 1)
    for number in range(PROJECTS):
        name = f"project-{number:03}"
        many = count - small * (PROJECTS - 1) if name == LARGE else small
        store.ingest(name, documents(findings, many, number))
    for finding in store.find(FindingQuery(project_id=LARGE, limit=20, status="open")).items:
        store.set_status(LARGE, finding["id"], "triaged", actor="benchmark")


class Shape(NamedTuple):
    """A question to the store, and the same by hand."""

    name: str
    ours: Callable[[FindingStore], object]
    raw: Callable[[Driver], object]


class Driver:
    """Hand-written SQL on a database: ``?`` are its parameters, and ``{columns}`` those of a document."""

    def __init__(self, kind: str, run: Callable[[str, Sequence[Any]], list[Any]]) -> None:
        self.kind = kind
        self._run = run
        self.columns = self.shown("findings", FINDING_COLUMNS, "f.")

    def shown(self, table: str, columns: tuple[str, ...], alias: str) -> str:
        """Return columns for a SELECT, as the store's functions for rows take them."""
        return names(columns) if self.kind == "SQLite" else select_expressions(table, columns, alias)

    def rows(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """Return the rows of a statement."""
        return self._run(sql if self.kind == "SQLite" else sql.replace("?", "%s"), parameters)

    def page(self, where: str, parameters: Sequence[Any], order: str) -> list[FindingDocument]:
        """Return the documents of a page."""
        sql = f"SELECT {self.columns} FROM findings f WHERE f.project_id = ? {where} ORDER BY {order} LIMIT {PAGE + 1}"  # noqa: S608
        return [document_from_row(row) for row in self.rows(sql, (LARGE, *parameters))]

    def count(self, where: str, parameters: Sequence[Any]) -> int:
        """Return how many match."""
        sql = f"SELECT count(*) FROM findings f WHERE f.project_id = ? {where}"  # noqa: S608
        return int(self.rows(sql, (LARGE, *parameters))[0][0])


class Filter(NamedTuple):
    """A condition: ours, and by hand on SQLite and PostgreSQL."""

    name: str
    ours: dict[str, Any]
    sqlite: str
    postgresql: str
    values: tuple[Any, ...]


def filters(store: FindingStore) -> list[Filter]:
    """Return each condition that a query may have."""
    run = store.runs(LARGE)[0].id
    in_list = "AND EXISTS (SELECT 1 FROM json_each(f.{0}) m WHERE m.value = ?)"

    def listed(name: str, ours: dict[str, Any], column: str, value: Any) -> Filter:
        by_hand = f"AND f.{column} @> jsonb_build_array(?::{'integer' if isinstance(value, int) else 'text'})"
        return Filter(name, ours, in_list.format(column), by_hand, (value,))

    def exact(name: str, column: str, value: str) -> Filter:
        return Filter(
            name, {column: value}, f"AND {column} = ?", f"AND {FITS.format(column)}{column} = ?", (value,)
        )

    def prefixed(name: str, ours: dict[str, Any], column: str, first: str, end: str) -> Filter:
        between = f"{column} >= ? AND {column} < ?"
        return Filter(name, ours, f"AND {between}", f"AND {FITS.format(column)}{between}", (first, end))

    def same(name: str, ours: dict[str, Any], sql: str, *values: Any) -> Filter:
        return Filter(name, ours, sql, sql, values)

    days = ("2024-04-09T00:00:00.000000Z", "2024-04-10T00:00:00.000000Z")
    return [
        same("severity", {"severity": "high"}, "AND severity = ?", "high"),
        same("minimum severity", {"min_severity": "high"}, "AND severity IN (?, ?)", "high", "critical"),
        same("status, of many", {"status": "open"}, "AND status = ?", "open"),
        same("status, of few", {"status": "risk_accepted"}, "AND status = ?", "risk_accepted"),
        same("status, of none", {"status": "archived"}, "AND status = ?", "archived"),
        same("severity and status", {"severity": "high", "status": "open"}, "AND severity = ? AND status = ?", "high", "open"),
        exact("detector", "detector_id", "scan.tool3"),
        prefixed("detector prefix", {"detector_id": "scan.tool3*"}, "detector_id", "scan.tool3", "scan.tool4"),
        exact("rule", "rule_id", "RULE0007"),
        same("run", {"run_id": run}, "AND run_id = ?", run),
        listed("CWE", {"cwe": 79}, "cwe_ids", 79),
        listed("CVE", {"cve_id": "CVE-2024-10010"}, "cve_ids", "CVE-2024-10010"),
        listed("tag, of many", {"tag": "team3"}, "tags", "team3"),
        listed("tag, of few", {"tag": "urgent"}, "tags", "urgent"),
        prefixed("resource prefix", {"resource_prefix": "src/package42/"}, "resource", "src/package42/", "src/package420"),
        Filter(
            "time", {"created_from": "2024-04-09T00:00:00Z", "created_before": "2024-04-10T00:00:00Z"},
            *("AND created_at >= ? AND created_at < ?",) * 2, days,
        ),
    ]  # fmt: skip


def _finding(one: Filter) -> Shape:
    query = FindingQuery(project_id=LARGE, limit=PAGE, **one.ours)
    return Shape(
        f"page of a {one.name}",
        partial(_page_of, query),
        lambda driver: driver.page(_sql(driver, one), one.values, "f.created_at, f.id")[:PAGE],
    )


def _counting(one: Filter) -> Shape:
    query = FindingQuery(project_id=LARGE, **one.ours)
    return Shape(
        f"count of a {one.name}",
        lambda store: store.count(query),
        lambda driver: driver.count(_sql(driver, one), one.values),
    )


def _sql(driver: Driver, one: Filter) -> str:
    return one.sqlite if driver.kind == "SQLite" else one.postgresql


def _page_of(query: FindingQuery, store: FindingStore) -> object:
    return store.find(query).items


def _page_by_hand(where: str, values: tuple[Any, ...], order: str, driver: Driver) -> object:
    return driver.page(where, values, order)[:PAGE]


def sorted_shapes(store: FindingStore, driver: Driver, count: int) -> Iterator[Shape]:
    """Yield the first page in each order, and one nine tenths down."""
    sorts: list[Any] = [sign + name for name in SORTS for sign in ("", "-")]
    for sort in sorts:
        name, way = sort.removeprefix("-"), " DESC" if sort.startswith("-") else ""
        column = RANK if name == "severity" else f"f.{name}"
        fits = (
            FITS.format(name)
            if driver.kind != "SQLite" and name in ("detector_id", "resource", "title")
            else ""
        )
        order = f"{column}{way}, f.id{way}"
        first = FindingQuery(project_id=LARGE, limit=PAGE, sort=sort)
        yield Shape(
            f"first page by {sort}",
            partial(_page_of, first),
            partial(_page_by_hand, f"AND {fits} true", (), order),
        )
        sql = f"SELECT f.id FROM findings f WHERE f.project_id = ? ORDER BY {order} LIMIT 1 OFFSET {count * 9 // 10}"  # noqa: S608
        last = store.get_finding(LARGE, str(driver.rows(sql, (LARGE,))[0][0]))
        deep = FindingQuery(project_id=LARGE, limit=PAGE, sort=sort, cursor=first.cursor_after(last))
        value = SORTS[name](last)
        if name == "created_at":
            value = time_key(value)
        sign, kinds = ("<" if way else ">"), ("::timestamptz" if name == "created_at" else "", "::uuid")
        marks = "?, ?" if driver.kind == "SQLite" else f"?{kinds[0]}, ?{kinds[1]}"
        where = f"AND {fits} ({column}, f.id) {sign} ({marks})"
        yield Shape(
            f"deep page by {sort}",
            partial(_page_of, deep),
            partial(_page_by_hand, where, (value, last["id"]), order),
        )


def other_shapes(store: FindingStore) -> Iterator[Shape]:
    """Yield what is no page."""
    triaged = store.find(FindingQuery(project_id=LARGE, limit=1, status="triaged")).items[0]["id"]
    by = "SELECT {0}, count(*) FROM findings WHERE project_id = ? GROUP BY {0}"
    listed = {
        "SQLite": "SELECT m.value, count(*) FROM findings f, json_each(f.cwe_ids) m WHERE f.project_id = ? GROUP BY m.value",
        "PostgreSQL": "SELECT m.value, count(*) FROM findings f, jsonb_array_elements(f.cwe_ids) m (value) "
        "WHERE f.project_id = ? GROUP BY m.value",
    }

    def counts(driver: Driver) -> object:
        columns = ("severity, status", "detector_id", "resource")
        return [driver.rows(sql, (LARGE,)) for sql in (*map(by.format, columns), listed[driver.kind])]

    everything = FindingQuery(project_id=LARGE)
    yield Shape("count", lambda store: store.count(everything), lambda driver: driver.count("", ()))
    yield Shape("summary", lambda store: store.summarize(LARGE), counts)
    never = "2100-01-01T00:00:00Z"
    one = Select("findings", FINDING_COLUMNS, document_from_row, "id = ?", (triaged,))
    yield Shape("get", lambda store: store.get_finding(LARGE, triaged), one)
    runs = Select("finding_runs", RUN_COLUMNS, run_from_row, "true ORDER BY number")
    yield Shape("runs", lambda store: store.runs(LARGE), runs)
    events = Select(
        "finding_events",
        EVENT_COLUMNS,
        event_from_row,
        "finding_id = ? ORDER BY revision, position",
        (triaged,),
    )
    yield Shape("history", lambda store: store.history(LARGE, triaged), events)
    purged = "SELECT count(*) FROM finding_identities WHERE project_id = ? AND closed_at < ?"
    yield Shape(
        "purge, dry run",
        lambda store: store.purge(LARGE, closed_before=never, dry_run=True),
        lambda driver: driver.rows(purged, (LARGE, time_key(never)))[0][0],
    )


@dataclass(frozen=True)
class Select:
    """Rows of the large project by hand, made into what the store returns."""

    table: str
    columns: tuple[str, ...]
    made: Callable[[Any], object]
    where: str
    values: tuple[Any, ...] = ()

    def __call__(self, driver: Driver) -> object:
        """Return all of them."""
        columns = driver.shown(self.table, self.columns, f"{self.table}.")
        sql = f"SELECT {columns} FROM {self.table} WHERE project_id = ? AND {self.where}"  # noqa: S608
        return [self.made(row) for row in driver.rows(sql, (LARGE, *self.values))]


@dataclass
class Measured:
    """What a shape took, in milliseconds; `ratio` is the median by hand divided by ours."""

    database: str
    findings: int
    work: str
    raw_p50: float
    raw_p99: float
    ours_p50: float
    ours_p99: float
    ratio: float
    rounds: int


def race(shape: Shape, store: FindingStore, driver: Driver, findings: int, seconds: float) -> Measured:
    """Let both take turns for some seconds, and check that the answers are the same."""
    ours, raw = shape.ours(store), shape.raw(driver)
    if isinstance(ours, int | list) and ours != raw:
        raise SystemExit(f"{driver.kind}: {shape.name}: not the same answer")
    times: tuple[list[float], list[float]] = ([], [])
    gc.collect()
    gc.disable()
    begin = time.perf_counter()
    while len(times[0]) < LEAST or (len(times[0]) < MOST and time.perf_counter() - begin < seconds):
        for side, call in zip(times, (partial(shape.raw, driver), partial(shape.ours, store)), strict=True):
            start = time.perf_counter()
            call()
            side.append((time.perf_counter() - start) * 1e3)
    gc.enable()
    (a, b), rounds = times, len(times[0])
    middle = (statistics.median(a), statistics.median(b))
    return Measured(
        driver.kind,
        findings,
        shape.name,
        middle[0],
        _p99(a),
        middle[1],
        _p99(b),
        middle[0] / middle[1],
        rounds,
    )


def _p99(times: list[float]) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * 0.99))]


def measure(store: FindingStore, driver: Driver, count: int, seconds: float) -> Iterator[Measured]:
    """Yield what each shape takes in a filled store."""
    large = store.count(FindingQuery(project_id=LARGE))
    conditions = filters(store)
    shapes = [
        *sorted_shapes(store, driver, large),
        *map(_finding, conditions),
        *map(_counting, conditions),
        *other_shapes(store),
    ]
    for shape in shapes:
        found = race(shape, store, driver, count, seconds)
        print(
            f"{found.database:10} {count:9,} {found.work:32} raw {found.raw_p50:9.3f} {found.raw_p99:9.3f}  "
            f"ours {found.ours_p50:9.3f} {found.ours_p99:9.3f} ms  {found.ratio:6.2f}",
            file=sys.stderr,
        )
        yield found


@contextmanager
def on_sqlite(findings: Findings, count: int) -> Iterator[tuple[FindingStore, Driver]]:
    """Yield a filled store in a SQLite file, and the driver on the same file."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/findings.db"
        with open_storage(f"sqlite:///{path}", synchronous="NORMAL") as store:
            fill(store, findings, count)
            driver = sqlite3.connect(path, isolation_level=None)
            driver.execute("PRAGMA cache_size = -16000")
            yield store, Driver("SQLite", lambda sql, values: driver.execute(sql, values).fetchall())
            driver.close()


@contextmanager
def on_postgresql(findings: Findings, count: int) -> Iterator[tuple[FindingStore, Driver]]:
    """Yield a filled store on a PostgreSQL server of its own with its default settings, and the driver on the same database."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
    from servers import embedded_binaries, postgresql_server

    with postgresql_server(embedded_binaries(), shared_buffers="128MB") as server:
        url = server.url(server.create_database())
        with (
            open_storage(url, migrate=True) as store,
            psycopg.connect(url, autocommit=True, prepare_threshold=None) as driver,
        ):
            fill(store, findings, count)
            driver.execute("VACUUM ANALYZE")
            yield store, Driver("PostgreSQL", lambda sql, values: driver.execute(sql, values).fetchall())


def run(arguments: argparse.Namespace, findings: Findings) -> None:
    """Measure stores of 1,000 findings and ten times more each, up to `--count`; print a table or JSON, and draw a plot."""
    sizes = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size < arguments.count] + [
        arguments.count
    ]
    results: list[Measured] = []
    for make in (on_sqlite, on_postgresql):
        for size in sizes:
            with make(findings, size) as (store, driver):
                seconds = SECONDS if size == sizes[-1] else SECONDS_OF_SMALLER
                results += measure(store, driver, size, seconds)
            if arguments.plot:  # what there is, should the rest fail
                pathlib.Path(arguments.plot).with_suffix(".json").write_text(
                    json.dumps([*map(asdict, results)])
                )
    if arguments.json:
        print(json.dumps({"area": "queries", "count": arguments.count, "results": [*map(asdict, results)]}))
    else:
        show([one for one in results if one.findings == arguments.count])
    if arguments.plot:
        plot(results, arguments.plot)


def show(results: Iterable[Measured]) -> None:
    """Print a table."""
    print(
        f"{'database':10} {'work':32} {'by hand p50':>12} {'p99':>9} {'ours p50':>9} {'p99':>9} {'ratio':>6}"
    )
    for one in results:
        print(
            f"{one.database:10} {one.work:32} {one.raw_p50:12.3f} {one.raw_p99:9.3f} "
            f"{one.ours_p50:9.3f} {one.ours_p99:9.3f} {one.ratio:6.2f}"
        )
    print("milliseconds a call; ratio: the median by hand divided by ours")


def plot(results: list[Measured], path: str) -> None:
    """Draw the ratios at the largest size, and how the times of ours grow with the store, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.fonttype"] = "none"  # text as text
    from matplotlib import pyplot as plt

    databases = [name for name in ("SQLite", "PostgreSQL") if any(one.database == name for one in results)]
    largest = max(one.findings for one in results)
    figure, axes = plt.subplots(
        2, len(databases), figsize=(7 * len(databases), 18), height_ratios=(3, 2), squeeze=False
    )
    for column, database in enumerate(databases):
        of_database = [one for one in results if one.database == database]
        last = [one for one in of_database if one.findings == largest][::-1]
        bars, lines = axes[0][column], axes[1][column]
        bars.barh([one.work for one in last], [one.ratio for one in last], color="#4477aa")
        bars.axvline(0.5, color="#cc3311", linestyle="--")
        bars.set(
            xscale="log",
            title=f"{database}, {largest:,} findings",
            xlabel="hand-written / ours (dashed: 0.5)",
        )
        bars.tick_params(axis="y", labelsize=6)
        for work in (one.work for one in last):
            grown = [one for one in of_database if one.work == work]
            pages = "page" in work
            lines.plot(
                [one.findings for one in grown],
                [one.ours_p50 for one in grown],
                color="#4477aa" if pages else "#ee7733",
                alpha=0.5,
            )
        lines.set(
            xscale="log",
            yscale="log",
            xlabel="findings in the store",
            ylabel="median, ms",
            title=f"{database}: growth (blue: pages)",
        )
    figure.tight_layout()
    figure.savefig(path)
