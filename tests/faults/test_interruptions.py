"""An exception at any call of any write: it leaves as it came, and the store holds all of the write or nothing, as it says.

A handler of signals (Ctrl-C, a worker's time limit) raises between any two calls, a full memory at any of them. Each work is
done once for every point, with the exception there. At CI size some points are chosen, with ``FINDINGS_TEST_SCALE=full``
all, each with every kind of exception.
"""

from __future__ import annotations

import functools
import gc
import itertools
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis_servers import RedisServer
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from findings_orm import (
    FileStorageAdapter,
    FindingQuery,
    FindingStore,
    RedisCacheAdapter,
    StorageUnavailableError,
    StorageValidationError,
    layout,
    migrations,
    open_storage,
)
from findings_orm.backup import write_backup
from findings_orm.metrics import MetricsAdapter, TracingAdapter
from findings_orm.orm.storage import SqlStore
from findings_orm.process import COMMITTED
from findings_orm.stores.files.tree import Disk
from findings_orm.testing.interruption import Interruption, Outcome, interrupt_at
from findings_orm.testing.samples import finding, run_id_of, scanned, uuid_of

# A generator that is dropped is closed by Python, which tells of an exception in there instead of raising it.
pytestmark = [
    pytest.mark.no_cover,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    # An error raised for what Python drops would keep it. A connection that no one had yet is closed by being dropped.
    pytest.mark.filterwarnings("ignore:.* was deleted while still open:ResourceWarning"),
]

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
POINTS = 12
ROOT = Path(__file__).resolve().parents[2]
ERRORS = (Interruption, KeyboardInterrupt, MemoryError, SystemExit)
P = "acme-api"

Work = Callable[[FindingStore], object]
Opened = Callable[[], FindingStore]


@pytest.fixture(scope="module", autouse=True)
def _collect_what_was_interrupted() -> Iterator[None]:
    """Drop connections that were interrupted while they were made, which no one can close, before other tests hear of them."""
    yield
    gc.collect()


# -- the stores: a callable that opens one place as often as it is called ----------------------------------


@pytest.fixture
def open_memory() -> Opened:
    store = open_storage("memory:")
    return lambda: store


@pytest.fixture
def open_sqlite_in_memory() -> Iterator[Opened]:
    with open_storage("sqlite://") as store:
        yield lambda: store


@pytest.fixture
def open_postgresql(postgresql_url: str) -> Opened:
    return lambda: open_storage(postgresql_url, pool_size=2, max_overflow=1, pool_timeout=5)


@pytest.fixture
def open_cached_sqlite(open_sqlite: Opened, redis: RedisServer) -> Opened:
    return lambda: RedisCacheAdapter(open_sqlite(), redis.url)


@pytest.fixture
def open_observed_sqlite(open_sqlite: Opened) -> Opened:
    return lambda: TracingAdapter(MetricsAdapter(open_sqlite(), registry=CollectorRegistry()))


STORES = ("memory", "files", "sqlite", "sqlite_in_memory", "postgresql", "cached_sqlite", "observed_sqlite")


@pytest.fixture(params=STORES)
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Return a callable that opens one place, as often as it is called."""
    open_one: Opened = request.getfixturevalue(f"open_{request.param}")
    stores = weakref.WeakSet[FindingStore]()

    def open_and_keep() -> FindingStore:
        store = open_one()
        stores.add(store)
        return store

    yield open_and_keep
    for store in stores:
        store.close()


# -- the works ---------------------------------------------------------------------------------------------


def _several_calls(store: FindingStore) -> None:
    with store.transaction():
        store.save_finding(finding(1, title="changed"))
        store.ingest(P, [scanned("R1"), scanned("R2", 3)], run=run_id_of(1))
        with store.transaction():
            store.set_status(P, uuid_of(2), "resolved", actor="ann")
        store.save_finding(finding(7, project_id="other"))


def _a_call_that_fails(store: FindingStore) -> None:
    with store.transaction():
        store.save_finding(finding(1, title="changed"))
        try:
            store.save_findings([finding(8), {}])
        except StorageValidationError:
            store.save_finding(finding(9))


def _a_dry_run(store: FindingStore) -> None:
    store.ingest(P, [scanned("R1"), scanned("R2", 3)], run=run_id_of(1), dry_run=True)


WORKS: dict[str, Work] = {
    "save_finding": lambda store: store.save_finding(finding(1, title="changed")),
    "save_a_new_finding": lambda store: store.save_finding(finding(5, project_id="new")),
    "save_findings": lambda store: store.save_findings(
        [finding(1, title="x"), finding(6), finding(6, project_id="b")]
    ),
    "ingest": lambda store: store.ingest(
        P,
        [scanned("R1"), scanned("R2", 3), {}],
        run=run_id_of(1),
        on_invalid="quarantine",
        close_missing=True,
    ),
    "dry_run": _a_dry_run,
    "set_status": lambda store: store.set_status(P, uuid_of(1), "resolved", actor="ann", comment="done"),
    "delete_project": lambda store: store.delete_project(P),
    "purge": lambda store: store.purge(P, closed_before="9999-01-01T00:00:00Z"),
    "transaction": _several_calls,
    "transaction_with_a_call_that_fails": _a_call_that_fails,
}


def prepare(store: FindingStore) -> None:
    """Make the store what each work begins with."""
    for project_id in store.list_projects():
        store.delete_project(project_id)
    store.save_findings([finding(1), finding(2), finding(3, status="resolved")])


def seen_in(store: FindingStore) -> list[Any]:
    """Return what a store holds, without the times and ids that it gives itself."""
    found = []
    for project_id in store.list_projects():
        documents = store.list_findings(project_id)
        histories = [[event.kind for event in store.history(project_id, one["id"])] for one in documents]
        rows = [(one["title"], one["status"], kinds) for one, kinds in zip(documents, histories, strict=True)]
        purged = [event.kind for event in store.history(project_id, uuid_of(3))]
        runs = [(run.id, run.counts) for run in store.runs(project_id)]
        rejected = [one.original for one in store.rejected_originals(project_id)]
        found.append((project_id, sorted(rows), purged, runs, rejected))
    return found


# -- the check ---------------------------------------------------------------------------------------------


def check(outcome: Outcome, seen: list[Any], before: list[Any], after: list[Any]) -> None:
    """Assert that interrupted work says the truth of what it left."""
    assert seen in (before, after), "half of a write"
    if outcome.raised is None:
        assert seen == after, "it returned, and is not there"
        return
    assert outcome.raised is outcome.injected, repr(outcome.raised)
    if before != after:
        noted = COMMITTED in getattr(outcome.raised, "__notes__", ())
        assert noted == (seen == after), f"it {'is' if seen == after else 'is not'} there, and says otherwise"


def probe(store: FindingStore, others: ThreadPoolExecutor, number: int) -> None:
    """Assert that another thread can write at once."""
    others.submit(store.save_finding, finding(number, project_id="probe")).result(timeout=20)


def points(calls: int, seed: str, most: int = POINTS) -> Iterator[tuple[int, type[BaseException]]]:
    """Yield the calls at which to interrupt, each with an exception."""
    if FULL:
        yield from ((call, error) for call in range(1, calls + 1) for error in ERRORS)
        return
    step = max(1, calls // most)
    for number, call in enumerate(range(1 + random.Random(seed).randrange(step), calls + 1, step)):
        yield call, ERRORS[number % len(ERRORS)]


@pytest.fixture
def without_collection() -> Iterator[None]:
    """Keep Python from calling finalizers of what other tests left, where an exception would be lost."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize("name", WORKS)
def test_a_write_is_there_as_it_says_wherever_it_is_interrupted(
    opened: Opened, name: str, others: ThreadPoolExecutor, request: pytest.FixtureRequest
) -> None:
    work, store = WORKS[name], opened()
    prepare(store)
    work(store)  # what is kept from the first time on is not made again
    prepare(store)
    before = seen_in(store)
    calls = interrupt_at(0, lambda: work(store)).calls
    after = seen_in(store)
    prepare(store)
    calls = min(calls, interrupt_at(0, lambda: work(store)).calls)  # one that meets a slow Redis makes more
    tried = 0
    for call, error in points(calls, name):
        if isinstance(
            store, RedisCacheAdapter
        ):  # an interrupted one may pass Redis over for a while, and make fewer calls
            store.close()
            store = opened()
        prepare(store)
        outcome = interrupt_at(call, functools.partial(work, store), error)
        place = f"{error.__name__} at call {call} of {calls}: {outcome.place}"
        try:
            seen = seen_in(store)
            check(outcome, seen, before, after)
            probe(store, others, 1)
            other = opened()
            assert [one for one in seen_in(other) if one[0] != "probe"] == seen
            probe(other, others, 2)
            if other is not store:
                other.close()
            assert [one for one in seen_in(store) if one[0] != "probe"] == seen
            assert len(store.list_findings("probe")) == 2
        except BaseException as problem:
            problem.add_note(place)
            raise
        tried += outcome.reached
    print(f"{request.node.name}: {tried} points of {calls * (len(ERRORS) if FULL else 1)}")
    assert tried >= min(POINTS - 1, calls)


@pytest.mark.parametrize("name", WORKS if FULL else ["dry_run", "transaction_with_a_call_that_fails"])
def test_no_traceback_keeps_a_block_whose_leaving_was_interrupted(
    opened: Opened, name: str, others: ThreadPoolExecutor
) -> None:
    work, store = WORKS[name], opened()
    prepare(store)
    before = seen_in(store)
    blocks = interrupt_at(0, lambda: work(store), function="_leave_block").calls
    after = seen_in(store)
    kept = []  # with their tracebacks
    for number in range(1, blocks + 1):
        prepare(store)
        outcome = interrupt_at(number, lambda: work(store), function="_leave_block")
        kept.append(outcome)
        check(outcome, seen_in(store), before, after)
        probe(store, others, 1)
    assert any(outcome.reached for outcome in kept)


@pytest.mark.parametrize("inside", ["save_finding", "ingest", "set_status", "delete_project"])
def test_a_transaction_that_goes_on_after_an_interrupted_call_holds_nothing_half(
    opened: Opened, inside: str, others: ThreadPoolExecutor
) -> None:
    store = opened()

    def work(call: int) -> Outcome:
        with store.transaction():
            store.save_finding(finding(2, title="changed too"))
            outcome = interrupt_at(call, lambda: WORKS[inside](store))
            store.save_finding(finding(7, project_id="other"))
        return outcome

    prepare(store)
    before = seen_in(store)
    calls = work(0).calls
    after = seen_in(store)
    prepare(store)
    with store.transaction():
        store.save_finding(finding(2, title="changed too"))
        store.save_finding(finding(7, project_id="other"))
    without = seen_in(store)
    for call, _ in points(calls, inside):
        prepare(store)
        try:
            outcome = work(call)
        except StorageUnavailableError:
            assert seen_in(store) == before
        else:
            assert seen_in(store) == (without if outcome.raised else after), outcome.place
        probe(store, others, 1)


@pytest.mark.parametrize("goes_on", [False, True], ids=["rolls_back", "goes_on"])
@pytest.mark.parametrize("opened", ["sqlite", "postgresql"], indirect=True)
def test_a_transaction_of_an_application_holds_all_of_an_interrupted_import_or_nothing(
    opened: Opened, goes_on: bool, others: ThreadPoolExecutor
) -> None:
    store = opened()
    assert isinstance(store, SqlStore)
    engine = create_engine(store.engine.url, pool_size=1, max_overflow=0, pool_timeout=5)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE ours (number INTEGER)"))

    def work(number: int, call: int) -> Outcome:
        def import_it() -> None:
            with store.joined(connection):
                store.ingest(P, [scanned("R1"), scanned("R2", 3)], run=run_id_of(1))

        with engine.begin() as connection:
            connection.execute(text("INSERT INTO ours VALUES (:number)"), {"number": number})
            outcome = interrupt_at(call, import_it, ERRORS[number % len(ERRORS)])
            assert outcome.raised in (None, outcome.injected), repr(outcome.raised)
            if outcome.raised is not None and not goes_on:
                raise outcome.raised
        return outcome

    def ours() -> list[int]:
        with engine.connect() as connection:
            return list(connection.scalars(text("SELECT number FROM ours ORDER BY number")))

    prepare(store)
    before = seen_in(store)
    calls = work(0, 0).calls
    after = seen_in(store)
    expected = [0]
    for number, (call, _) in enumerate(points(calls, "joined"), 1):
        prepare(store)
        try:
            outcome = work(number, call)
        except SQLAlchemyError:
            assert goes_on  # its commit is refused
        except ERRORS:
            assert not goes_on
        else:
            assert goes_on or outcome.raised is None
            expected.append(number)
        seen = seen_in(store)
        assert ours() == expected
        assert seen in (before, after)
        assert seen == before or expected[-1] == number
        probe(store, others, number)
    engine.dispose()


@pytest.mark.usefixtures("without_collection")
@pytest.mark.parametrize("name", ["save_finding", "ingest"])
def test_interrupted_writes_keep_no_connection_as_long_as_their_tracebacks(
    postgresql_url: str, name: str
) -> None:
    work = WORKS[name]
    engine = create_engine(postgresql_url, poolclass=NullPool, connect_args={"application_name": "counts"})
    count = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'findings_orm'")
    with open_storage(postgresql_url, pool_size=1, max_overflow=0, pool_timeout=5) as store:
        prepare(store)
        work(store)
        calls = interrupt_at(0, lambda: work(store)).calls
        # Most of what may be lost is lost while a connection is taken, which comes first.
        tried = sorted({*range(1, 250, 1 if FULL else 7), *(call for call, _ in points(calls, name, 30))})
        kept = []
        for call in tried:
            kept.append(interrupt_at(call, functools.partial(work, store)))
            store.list_projects()  # the one connection is to be had
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            end = time.monotonic() + 10
            while connection.scalar(count) > 1 and time.monotonic() < end:
                time.sleep(0.01)  # the server takes its time to end one that was closed
            assert connection.scalar(count) <= 1
        assert sum(outcome.reached for outcome in kept) > 40


# -- files -------------------------------------------------------------------------------------------------


def _folder_after(prepared: Path, tmp_path: Path, number: int) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / f"copy{number}"))


def _opens_and_writes(root: Path) -> None:
    with FileStorageAdapter(root) as store:
        store.save_finding(finding(1, title="changed"))


def _folds(root: Path) -> None:
    with FileStorageAdapter(root, fold_at=0, fold_on_close=False) as store:
        store.save_finding(finding(1, title="changed"))
        store.save_finding(finding(2, title="x"))


def _edits(root: Path) -> None:
    path = root / P / "findings.json"
    edited = path.with_name("edited")
    edited.write_bytes(path.read_bytes().replace(b'"Finding 2"', b'"x"'))
    edited.replace(path)
    with FileStorageAdapter(root) as store:
        store.save_finding(finding(1, title="changed"))


@pytest.mark.parametrize("work", [_opens_and_writes, _folds, _edits], ids=lambda work: work.__name__)
def test_files_are_whole_wherever_opening_folding_or_closing_is_interrupted(
    tmp_path: Path, work: Callable[[Path], None]
) -> None:
    def titles(root: Path) -> list[str]:
        with FileStorageAdapter(root, lock_timeout=0) as store:
            store.save_finding(finding(1, project_id="probe"))  # no lock is left
            return [one["title"] for one in store.list_findings(P)]

    prepared = tmp_path / "prepared"
    with FileStorageAdapter(prepared) as store:
        prepare(store)
    with FileStorageAdapter(prepared, fold_on_close=False) as store:
        store.save_finding(finding(3, title="in the journal"))
    work(_folder_after(prepared, tmp_path, 2))  # what is kept from the first time on is not made again
    root = _folder_after(prepared, tmp_path, 0)
    calls = interrupt_at(0, lambda: work(root)).calls
    tried = 0
    for call, error in points(calls, work.__name__):
        root = _folder_after(prepared, tmp_path, 1)
        outcome = interrupt_at(call, functools.partial(work, root), error)
        found = titles(root)
        assert outcome.raised in (None, outcome.injected), outcome.place
        assert found[0] in ("Finding 1", "changed"), outcome.place
        assert found[1] in ("Finding 2", "x"), outcome.place
        assert found[2:] == ["in the journal"], outcome.place
        noted = COMMITTED in getattr(outcome.raised, "__notes__", ())
        assert not noted or found[0] == "changed", outcome.place
        assert outcome.raised or found[0] == "changed", outcome.place
        assert not list(root.rglob("*.tmp")), outcome.place
        tried += outcome.reached
        place = outcome.place
        del outcome  # its traceback may keep a file
        assert not _open_locks(root), place
        shutil.rmtree(root)
    print(f"{work.__name__}: {tried} points of {calls * (len(ERRORS) if FULL else 1)}")
    assert tried >= POINTS - 1


def _downgrade_by_url(url: str) -> None:
    migrations.downgrade(url, "r0005")


def _downgrade_by_engine(url: str) -> None:
    migrations.downgrade(create_engine(url, poolclass=NullPool), "r0005")


def _downgrade_by_connection(url: str) -> None:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        migrations.downgrade(connection, "r0005")


@pytest.mark.usefixtures("without_collection")
@pytest.mark.parametrize("work", [_downgrade_by_url, _downgrade_by_engine, _downgrade_by_connection])
def test_an_interrupted_migration_leaves_no_lock(
    empty_sqlite: Path, tmp_path: Path, work: Callable[[str], None]
) -> None:
    def new_file() -> Path:
        return Path(shutil.copy(empty_sqlite, tmp_path / f"{next(numbers)}.db"))

    numbers = itertools.count()
    work(f"sqlite:///{new_file()}")  # what is kept from the first time on is not made again
    path = new_file()
    calls = interrupt_at(0, lambda: work(f"sqlite:///{path}")).calls
    tried = 0
    for call, error in points(calls, work.__name__, most=5 * POINTS):
        path = new_file()
        outcome = interrupt_at(call, functools.partial(work, f"sqlite:///{path}"), error)
        assert outcome.raised in (None, outcome.injected), outcome.place
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # while the traceback is there
            (revision,) = other.execute("SELECT version_num FROM findings_orm_version").fetchone()
        assert revision == "r0005" or outcome.raised, outcome.place
        tried += outcome.reached
    print(f"{work.__name__}: {tried} points of {calls * (len(ERRORS) if FULL else 1)}")
    assert tried >= POINTS - 1


@pytest.mark.parametrize("error", ERRORS)
def test_a_thread_that_is_interrupted_while_it_writes_for_others_tells_them(
    tmp_path: Path, error: type[BaseException]
) -> None:
    """Three threads join one group while another one is written; the one that then writes it is interrupted."""
    begun, joined = threading.Event(), threading.Event()

    class Interrupted(Disk):
        syncs = 0

        def sync(self, path: Path) -> None:
            super().sync(path)
            if begun.is_set() and path.name == "journal.jsonl":
                self.syncs += 1
                if self.syncs == 1:
                    joined.wait()
                elif self.syncs == 2:
                    raise error

    with FileStorageAdapter(tmp_path / "store", disk=Interrupted()) as store:

        def save(number: int) -> BaseException | None:
            try:
                store.save_finding(finding(number))
            except BaseException as raised:  # noqa: BLE001  # any at all is what this is about
                return raised
            return None

        assert save(0) is None
        begun.set()
        with ThreadPoolExecutor(4) as pool:
            first = pool.submit(save, 1)
            told = [pool.submit(save, number) for number in range(2, 5)]
            while len(store._group.operations) < 3:
                time.sleep(0.001)
            joined.set()
            assert first.result() is None
            raised = [each.result() for each in told]
        assert sum(type(each) is error for each in raised) == 1, raised
        assert sum(isinstance(each, StorageUnavailableError) for each in raised) == 2, raised
        assert all(each.retryable for each in raised if isinstance(each, StorageUnavailableError))
        assert [one["id"] for one in store.list_findings(P)] == [uuid_of(0), uuid_of(1)]
        assert save(9) is None
    with FileStorageAdapter(tmp_path / "store") as again:
        assert [one["id"] for one in again.list_findings(P)] == [uuid_of(0), uuid_of(1), uuid_of(9)]


class Waiting(Disk):
    """Calls what it is given, once, when a file is synced."""

    then: Callable[[], object] | None = None

    def sync(self, path: Path) -> None:
        super().sync(path)
        then, self.then = self.then, None
        if then is not None:
            then()


def _open_locks(folder: Path) -> list[str]:
    """Return the lock files under a folder that this process has open, where the system tells; those are not meant that only
    a traceback keeps."""
    for collect in (lambda: None, gc.collect):
        collect()
        found = []
        for link in Path("/proc/self/fd").glob("*"):
            with suppress(OSError):
                found.append(os.readlink(link))
        found = [path for path in found if path.startswith(str(folder)) and path.endswith(".lock")]
        if not found:
            break
    return found


def test_each_of_a_group_is_told_the_truth_wherever_one_of_them_is_interrupted(tmp_path: Path) -> None:
    """Three threads join one group while another one is written; one of the three is interrupted, at every call in turn."""
    disk = Waiting()
    with FileStorageAdapter(tmp_path / "store", disk=disk) as store, ThreadPoolExecutor(4) as pool:

        def save(number: int, title: str) -> None:
            store.save_finding(finding(number, title=title))

        def group(call: int, error: type[BaseException], name: str) -> tuple[Outcome, list[Any]]:
            begun, joined = threading.Event(), threading.Event()

            def wait() -> None:
                begun.set()
                joined.wait()

            disk.then = wait
            first = pool.submit(save, 0, name)
            begun.wait()
            interrupted = pool.submit(interrupt_at, call, lambda: save(1, name), error)
            told = [pool.submit(save, number, name) for number in (2, 3)]
            for _ in range(1_000):
                if len(store._group.operations) + interrupted.done() >= 3:
                    break
                time.sleep(0.001)
            joined.set()
            return interrupted.result(), [each.exception() for each in (first, *told)]

        save(0, "before")
        calls = max(group(0, Interruption, f"count {number}")[0].calls for number in range(3))
        threads = threading.active_count()
        tried = failed = 0
        for call, error in points(calls, "group"):
            name = f"{error.__name__} at {call}"
            outcome, others = group(call, error, name)
            seen = {one["id"] for one in store.list_findings(P) if one["title"] == name}
            with FileStorageAdapter(tmp_path / "store", lock_timeout=0, fold_at=50_000) as other:
                assert other.list_findings(P) == store.list_findings(P), outcome.place
                other.save_finding(finding(9, title=name))
            assert others[0] is None, outcome.place
            for number, raised in ((0, others[0]), (2, others[1]), (3, others[2])):
                assert (uuid_of(number) in seen) == (raised is None), (outcome.place, others)
                assert raised is None or (isinstance(raised, StorageUnavailableError) and raised.retryable)
            assert outcome.raised in (None, outcome.injected), outcome.place
            noted = COMMITTED in getattr(outcome.raised, "__notes__", ())
            assert (uuid_of(1) in seen) == (outcome.raised is None or noted), outcome.place
            tried += outcome.reached
            failed += any(others)
            place = outcome.place
            del outcome, others, raised  # their tracebacks may keep a file
            assert not _open_locks(tmp_path), place
        assert threading.active_count() == threads
        print(
            f"group: {tried} points of {calls * (len(ERRORS) if FULL else 1)}, of which {failed} failed the others"
        )
        assert tried >= POINTS // 2


def _writes_json(path: Path) -> None:
    layout.atomic_write(path, {"finding_schema_version": "2.0.0", "findings": []})


BACKED_UP = open_storage("memory:")
BACKED_UP.save_finding(finding(1))


def _backs_up(path: Path) -> None:
    write_backup(BACKED_UP, path)


@pytest.mark.parametrize("work", [_writes_json, _backs_up], ids=lambda work: work.__name__)
def test_a_file_is_the_old_or_the_new_one_wherever_its_writing_is_interrupted(
    tmp_path: Path, work: Callable[[Path], None]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    work(path)
    calls = interrupt_at(0, lambda: work(path)).calls
    tried = 0
    for call, error in points(calls, work.__name__):
        path.write_bytes(b"old")
        outcome = interrupt_at(call, lambda: work(path), error)
        assert outcome.raised in (None, outcome.injected), outcome.place
        assert sorted(tmp_path.iterdir()) == [path], outcome.place
        replaced = path.read_bytes() != b"old"
        assert replaced or outcome.raised, outcome.place
        if outcome.raised:
            assert replaced == (COMMITTED in getattr(outcome.raised, "__notes__", ())), outcome.place
        tried += outcome.reached
    print(f"{work.__name__}: {tried} points of {calls * (len(ERRORS) if FULL else 1)}")
    assert tried >= POINTS - 1


# -- signals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["sqlite", "postgresql"])
def test_imports_that_signals_interrupt_leave_no_lock_and_say_the_truth(
    adapter: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    postgresql = adapter == "postgresql"
    url = request.getfixturevalue("postgresql_url") if postgresql else f"sqlite:///{tmp_path / 'findings.db'}"
    interrupts, size = (500, 200) if FULL else (40, 20)
    command = [sys.executable, "-m", "tests.faults.interrupted", url, str(interrupts), str(size)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=500)
    told = json.loads(done.stdout)
    print(f"{adapter}: {told}")
    assert told.pop("interrupted") == interrupts
    assert (
        told.pop("swallowed") + told.pop("untold") < interrupts // 10
    )  # in a finalizer; as the caller went on
    assert not any(told.values()), told


# -- functions of ours that a driver calls, whose exceptions it drops --------------------------------------------------


class SoftTimeLimit(Exception):  # noqa: N818  # named as that of a task queue
    """A task takes too long."""


@pytest.mark.usefixtures("without_collection")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SoftTimeLimit, MemoryError])
def test_an_interruption_of_a_search_by_text_leaves_as_it_came(
    error: type[BaseException], tmp_path: Path
) -> None:
    """SQLite calls Python for each finding then, and drops what is raised in there."""
    query = FindingQuery(project_id=P, text="none")
    with open_storage(f"sqlite:///{tmp_path}/findings.db") as store:
        store.ingest(P, [scanned(f"R{n}") for n in range(20)])
        inside = 0
        for point in itertools.count(1, 1 if FULL else 11):
            outcome = interrupt_at(point, lambda: store.count(query), error)
            if not outcome.reached:
                break
            inside += "freetext.py" in outcome.place
            assert outcome.raised is outcome.injected, outcome
            assert store.count(query) == 0
        assert inside >= 5
