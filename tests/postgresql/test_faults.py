"""Servers that die, networks that break: nothing acknowledged is missing, nothing half is there, and work goes on."""

from __future__ import annotations

import os
import pathlib
import threading
import time
from collections.abc import Iterator

import pytest
from proxy import Proxy
from servers import PostgresServer, embedded_binaries, postgresql_server
from sqlalchemy import text

from findings_orm import FindingStore, StorageError, StorageUnavailableError, open_storage
from findings_orm.testing.contract.base import project_contents
from findings_orm.testing.samples import PROJECT, finding, run_id_of, scanned

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
KILLS = 20 if FULL else 3
SIZE = 1_500


@pytest.fixture(scope="module")
def durable() -> Iterator[PostgresServer]:
    """A server that may be killed: what it acknowledged is in its log."""
    with postgresql_server(embedded_binaries(), synchronous_commit="on", full_page_writes="on") as server:
        yield server


@pytest.mark.no_cover
@pytest.mark.slow
def test_server_killed_during_imports_loses_nothing(durable: PostgresServer) -> None:
    url = durable.url(durable.create_database())
    acknowledged: list[str] = []
    refusals: list[StorageUnavailableError] = []
    with open_storage(url, migrate=True, connect_timeout=2, pool_size=2) as store:
        for kill in range(KILLS):
            done = threading.Event()
            importer = threading.Thread(
                target=_import_until, args=(store, done, kill, acknowledged, refusals)
            )
            importer.start()
            time.sleep(0.3 + 0.15 * (kill % 5))
            durable.crash()
            done.set()
            importer.join(60)
            assert not importer.is_alive(), "an import hangs"
            health = store.health()
            assert not health.ok
            durable.start()
            assert store.health().ok, "the same store does not work again"
            _assert_whole(store, acknowledged)
        assert all(refusal.retryable for refusal in refusals)
        assert acknowledged, "no import was fast enough to be acknowledged"


def test_what_an_application_raises_itself_costs_no_connection(postgresql_url: str) -> None:
    with open_storage(postgresql_url, pool_size=1, max_overflow=0) as store:

        def connection() -> int:
            with store.transaction(), store.session() as session:
                found: int = session.scalar(text("SELECT pg_backend_pid()"))
                return found

        first = connection()
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.save_finding(finding(1))
            1 // 0  # noqa: B018
        store.ingest(PROJECT, [scanned("R1")], run=run_id_of(1), dry_run=True)
        assert store.list_findings(PROJECT) == []
        assert connection() == first


def _import_until(
    store: FindingStore,
    done: threading.Event,
    kill: int,
    acknowledged: list[str],
    refusals: list[StorageUnavailableError],
) -> None:
    number = kill * 1_000
    while not done.is_set():
        number += 1
        report = [scanned(f"R{number}-{n}", n + 1) for n in range(SIZE)]
        try:
            acknowledged.append(store.ingest(PROJECT, report, run=run_id_of(number)).run_id)
        except StorageUnavailableError as error:
            refusals.append(error)
            return


def _assert_whole(store: FindingStore, acknowledged: list[str]) -> None:
    """Every acknowledged run is there, and each run that is there is whole."""
    runs = store.runs(PROJECT)
    assert set(acknowledged) <= {run.id for run in runs}
    assert len(runs) <= len(acknowledged) + KILLS
    assert all(run.counts["created"] == SIZE for run in runs)
    assert len(store.list_findings(PROJECT)) == SIZE * len(runs)


# -- the network ------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(postgresql_18: PostgresServer) -> Iterator[Proxy]:
    with Proxy(postgresql_18.port) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: Proxy, postgresql_18: PostgresServer, postgresql_url: str) -> Iterator[FindingStore]:
    url = postgresql_url.replace(str(postgresql_18.port), str(proxy.port))
    with open_storage(url, pool_size=3, connect_timeout=2) as store:
        store.save_findings([finding(n) for n in range(100)])
        yield store


def test_reads_go_on_after_a_cut(store: FindingStore, proxy: Proxy) -> None:
    before = project_contents(store)[:6]
    for pause in (0.0, 1.1):
        proxy.cut()
        time.sleep(pause)
        assert project_contents(store)[:6] == before


def test_writes_go_on_after_a_cut(store: FindingStore, proxy: Proxy) -> None:
    for number, pause in enumerate((0.0, 1.1)):
        proxy.cut()
        time.sleep(pause)
        store.save_finding(finding(200 + number))
    assert len(store.list_findings(PROJECT)) == 102


def test_cut_inside_a_transaction_undoes_it(store: FindingStore, proxy: Proxy) -> None:
    with pytest.raises(StorageUnavailableError) as caught, store.transaction():
        store.save_finding(finding(300))
        proxy.cut()
        store.save_finding(finding(301))
    assert caught.value.retryable
    assert len(store.list_findings(PROJECT)) == 100
    store.save_finding(finding(300))


def test_cut_during_iteration_is_an_error_not_an_end(store: FindingStore, proxy: Proxy) -> None:
    store.save_findings([finding(n) for n in range(1_000, 4_000)])
    documents = store.iter_findings(PROJECT)
    next(documents)
    proxy.cut()
    with pytest.raises(StorageUnavailableError):
        list(documents)


@pytest.mark.no_cover
@pytest.mark.parametrize("size", [500, 20_000, 200_000, 600_000])
def test_import_that_is_cut_leaves_nothing(store: FindingStore, proxy: Proxy, size: int) -> None:
    """In the middle of a COPY, too."""
    before = project_contents(store)[:6]
    proxy.cut()
    proxy.cut_after = size
    with pytest.raises(StorageUnavailableError):
        store.ingest(PROJECT, [scanned(f"R{n}", n + 1) for n in range(5_000)], run=run_id_of(1))
    proxy.cut_after = None
    proxy.cut()
    assert project_contents(store)[:6] == before
    assert (
        store.ingest(PROJECT, [scanned(f"R{n}", n + 1) for n in range(5_000)], run=run_id_of(1)).created
        == 5_000
    )


def test_slow_network_is_only_slow(store: FindingStore, proxy: Proxy) -> None:
    proxy.delay = 0.05
    store.ingest(PROJECT, [scanned(f"R{n}", n + 1) for n in range(100)])
    assert store.list_projects() == [PROJECT]


def test_dropped_connections_are_an_error_and_then_forgotten(store: FindingStore, proxy: Proxy) -> None:
    proxy.refuse = True
    proxy.cut()
    for _ in range(3):
        with pytest.raises(StorageUnavailableError) as caught:
            store.list_projects()
        assert caught.value.retryable
        assert not store.health().ok
    proxy.refuse = False
    assert store.list_projects() == [PROJECT]
    assert store.health().ok


def test_server_that_ends_connections_is_no_problem(
    store: FindingStore, postgresql_18: PostgresServer
) -> None:
    for _ in range(2):
        postgresql_18.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'findings_orm'"
        )
        assert store.list_projects() == [PROJECT]
        store.save_finding(finding(1))


def test_full_server_is_unavailable(postgresql_url: str, postgresql_18: PostgresServer) -> None:
    postgresql_18.execute(f"ALTER DATABASE {pathlib.PurePosixPath(postgresql_url).name} CONNECTION LIMIT 0")
    url = postgresql_url.replace("postgres@", "limited@")
    postgresql_18.execute("CREATE ROLE limited LOGIN")
    with pytest.raises(StorageUnavailableError) as caught:
        open_storage(url)
    assert caught.value.retryable
    postgresql_18.execute("DROP ROLE limited")


def test_errors_are_all_of_the_package(store: FindingStore, proxy: Proxy) -> None:
    stop = threading.Event()
    wrong: list[BaseException] = []

    def work(thread: int) -> None:
        while not stop.is_set():
            try:
                store.ingest(f"p{thread}", [scanned(f"R{n}", n + 1) for n in range(80)])
                list(store.iter_findings(f"p{thread}"))
            except StorageError:
                continue
            except BaseException as error:  # noqa: BLE001  # is what the test looks for
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(60 if FULL else 15):
        time.sleep(0.1)
        proxy.cut()
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)
    for thread_number in range(4):
        assert len(store.list_findings(f"p{thread_number}")) in (0, 80)
