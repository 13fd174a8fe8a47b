"""Metrics: what is counted, that it parses, that the contract holds through the decorators."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from servers import POSTGRESQL

from findings_orm import FindingQuery, FindingStore, StorageError, StorageUnavailableError, open_storage
from findings_orm.metrics import MetricsAdapter, SlowQueries, TracingAdapter
from findings_orm.metrics.instruments import IMPORTED, exported_series
from findings_orm.testing.contract import FindingStoreContract
from findings_orm.testing.samples import PROJECT, finding

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(registry: CollectorRegistry) -> Samples:
    """Return all samples, as prometheus_client's own parser reads what it wrote."""
    text = generate_latest(registry).decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """Return the sum of the samples of a name that have these labels."""
    wanted = set(labels.items())
    return sum(n for (each, have), n in samples(registry).items() if each == name and wanted <= have)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def decorated(store: FindingStore) -> FindingStore:
    return SlowQueries(
        TracingAdapter(MetricsAdapter(store, registry=CollectorRegistry())), threshold=0, plan=True
    )


@pytest.mark.no_cover
class TestDecoratedMemory(FindingStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[FindingStore]:
        with decorated(open_storage("memory:")) as store:
            yield store


@pytest.mark.no_cover
class TestDecoratedSQLite(FindingStoreContract):
    persistent = True
    shared_between_processes = True

    @pytest.fixture
    def reopen(self, open_sqlite: Callable[[], FindingStore]) -> Callable[[], FindingStore]:
        return lambda: decorated(open_sqlite())

    @pytest.fixture
    def store(self, reopen: Callable[[], FindingStore]) -> Iterator[FindingStore]:
        with reopen() as store:
            yield store


@pytest.mark.no_cover
class TestDecoratedPostgreSQL(FindingStoreContract):
    persistent = True
    shared_between_processes = True

    @pytest.fixture
    def reopen(self, emptied_postgresql_url: str) -> Callable[[], FindingStore]:
        return lambda: decorated(open_storage(emptied_postgresql_url))

    @pytest.fixture
    def store(self, reopen: Callable[[], FindingStore]) -> Iterator[FindingStore]:
        with reopen() as store:
            yield store


STORES = ["memory", "files", "sqlite", *POSTGRESQL]


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Iterator[FindingStore]:
    """Return an open store of the kind that a test asks for."""
    kind = request.param
    if kind == "memory":
        store = open_storage("memory:")
    elif kind in ("files", "sqlite"):
        store = request.getfixturevalue(f"open_{kind}")()
    else:
        store = open_storage(request.getfixturevalue(f"{kind}_url"))
    with store:
        yield store


def report(count: int) -> list[dict[str, Any]]:
    return [{"detector_id": "scan.a", "title": f"title {n}", "severity": "high"} for n in range(count)]


# -- operations and imports ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", STORES, indirect=True)
def test_operations_are_counted_by_name_and_outcome(
    opened: FindingStore, registry: CollectorRegistry
) -> None:
    store = MetricsAdapter(opened, registry=registry)
    store.save_finding(finding())
    store.save_finding(finding())
    with pytest.raises(StorageError):
        store.save_finding({})
    with pytest.raises(StorageError):
        store.get_finding(PROJECT, "nothing")
    for _ in store.iter_findings(PROJECT):
        pass
    name = "findings_orm_operation_duration_seconds_count"
    assert value(registry, name, operation="save_finding", outcome="ok") == 2
    assert value(registry, name, operation="save_finding", outcome="invalid") == 1
    assert value(registry, name, operation="get_finding", outcome="not_found") == 1
    assert value(registry, name, operation="iter_findings", outcome="ok") == 1
    assert value(registry, name, operation="iter_findings", adapter=store.adapter, store="default") == 1
    assert value(registry, "findings_orm_operation_duration_seconds_sum", operation="save_finding") > 0


def test_every_method_of_the_port_that_works_with_findings_is_an_operation() -> None:
    plain = {
        "check_store_layout", "close", "get_schema_version", "iter_findings", "iter_findings_json", "transaction",
        "validate_store_layout",
    }  # fmt: skip
    methods = {name for name in dir(FindingStore) if not name.startswith("_")}
    for name in methods - plain:
        assert hasattr(getattr(MetricsAdapter, name), "__wrapped__"), name


@pytest.mark.parametrize("opened", STORES, indirect=True)
def test_what_imports_did_is_counted_once_they_are_committed(
    opened: FindingStore, registry: CollectorRegistry
) -> None:
    def imported() -> dict[str, float]:
        return {
            each: value(registry, "findings_orm_imported_findings_total", outcome=each) for each in IMPORTED
        }

    store = MetricsAdapter(opened, registry=registry)
    assert imported() == dict.fromkeys(IMPORTED, 0)
    store.ingest("p", report(3), dry_run=True)
    run = store.ingest("p", report(3)).run_id
    store.ingest("p", report(3), run=run)
    expected = {**dict.fromkeys(IMPORTED, 0), "created": 3}
    assert imported() == expected

    with pytest.raises(ZeroDivisionError), store.transaction():
        store.ingest("p", report(9))
        raise ZeroDivisionError
    assert imported() == expected

    with store.transaction():
        store.ingest("p", [*report(1), {}], on_invalid="quarantine")
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.ingest("p", report(9))
            raise ZeroDivisionError
        with store.transaction():
            store.ingest("p", report(5))
        assert imported() == expected
    assert imported() == {**expected, "created": 5, "unchanged": 4, "rejected": 1}


def test_an_iterator_that_is_left_early_ends_its_operation(
    open_sqlite: Callable[[], FindingStore], registry: CollectorRegistry
) -> None:
    with MetricsAdapter(open_sqlite(), registry=registry) as store:
        store.ingest("p", report(3))
        documents: Any = store.iter_findings("p")
        next(documents)
        documents.close()
        assert value(registry, "findings_orm_pool_connections", state="in_use") == 0
        name = "findings_orm_operation_duration_seconds_count"
        assert value(registry, name, operation="iter_findings", outcome="ok") == 1


# -- statements ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", ["sqlite", *POSTGRESQL], indirect=True)
def test_statements_and_their_rows_are_counted(opened: FindingStore, registry: CollectorRegistry) -> None:
    def rows(statement: str) -> float:
        return value(registry, "findings_orm_statement_rows_total", statement=statement, table="findings")

    store = MetricsAdapter(opened, registry=registry)
    store.ingest("p", report(120))
    wrote = "COPY" if store.adapter == "postgresql" else "INSERT"
    assert rows(wrote) == 120
    figures = rows("SELECT")  # those of the gauges, which are kept from now on
    assert len(store.list_findings("p")) == 120
    assert rows("SELECT") == figures + 120
    store.find(FindingQuery(project_id="p", limit=10))
    assert rows("SELECT") == figures + 131
    store.count(FindingQuery(project_id="p"))
    assert rows("SELECT") == figures + 132
    for _ in store.iter_findings("p"):
        pass
    assert rows("SELECT") == figures + 252
    count = "findings_orm_statement_duration_seconds_count"
    assert value(registry, count, statement="SELECT", table="findings") == figures + 4
    assert value(registry, count, statement="COMMIT") == 1


@pytest.mark.parametrize("opened", ["sqlite", "postgresql"], indirect=True)
def test_an_import_is_told_in_batches(opened: FindingStore, registry: CollectorRegistry) -> None:
    def told() -> float:
        return value(registry, "findings_orm_statement_duration_seconds_count") - figures

    store = MetricsAdapter(opened, registry=registry)
    figures = 0.0
    value(registry, "findings_orm_up")
    figures = told()
    store.ingest("p", report(100))
    few = told()
    store.ingest("q", report(2_000))
    many = told() - few
    assert 5 <= few <= many <= few + 5


@pytest.mark.parametrize("opened", ["sqlite", "postgresql"], indirect=True)
def test_a_statement_that_fails_is_counted(opened: FindingStore, registry: CollectorRegistry) -> None:
    store = MetricsAdapter(opened, registry=registry)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE finding_runs RENAME TO gone")
    with pytest.raises(StorageError):
        store.runs("p")
    assert (
        value(registry, "findings_orm_statement_errors_total", statement="SELECT", table="finding_runs") == 1
    )
    assert (
        value(
            registry, "findings_orm_operation_duration_seconds_count", operation="runs", outcome="integrity"
        )
        == 1
    )


def test_nothing_listens_to_an_engine_that_nobody_observes(open_sqlite: Callable[[], FindingStore]) -> None:
    inner: Any = open_sqlite()

    def listeners() -> list[int]:
        engine = inner.engine
        places = (engine.dispatch.before_cursor_execute, engine.dispatch.after_cursor_execute)
        return [len(list(place)) for place in (*places, engine.dialect.dispatch.handle_error)]

    before = listeners()
    store = MetricsAdapter(inner, registry=CollectorRegistry())
    assert all(now > then for now, then in zip(listeners(), before, strict=True))
    store.close()
    assert listeners() == before


# -- connections --------------------------------------------------------------------------------------------------------


def test_the_pool_is_watched(postgresql_url: str, registry: CollectorRegistry) -> None:
    inner = open_storage(postgresql_url, pool_size=1, max_overflow=1, pool_timeout=0.3)
    with MetricsAdapter(inner, registry=registry) as store:
        store.ingest("p", report(2))
        assert value(registry, "findings_orm_pool_limit_connections") == 2
        with store.transaction() as unit, store.engine.connect():
            unit.list_projects()  # a unit takes its connection at its first call
            assert value(registry, "findings_orm_pool_connections", state="in_use") == 2
            failed: list[StorageError] = []

            def wait() -> None:
                try:
                    store.list_findings("p")
                except StorageUnavailableError as error:
                    failed.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            thread.join()
        assert len(failed) == 1
        assert value(registry, "findings_orm_pool_timeouts_total") == 1
        assert value(registry, "findings_orm_pool_waiting_threads") == 0
        assert value(registry, "findings_orm_pool_connections", state="in_use") == 0
        assert value(registry, "findings_orm_pool_wait_seconds_bucket", le="0.1") < value(
            registry, "findings_orm_pool_wait_seconds_count"
        )


def test_a_scrape_does_not_wait_for_an_exhausted_pool(
    postgresql_url: str, registry: CollectorRegistry
) -> None:
    inner = open_storage(postgresql_url, pool_size=1, max_overflow=0, pool_timeout=600)
    with ThreadPoolExecutor(1) as other, MetricsAdapter(inner, registry=registry, figures_every=0) as store:
        store.ingest("p", report(2))
        assert value(registry, "findings_orm_projects") == 1
        with store.transaction() as unit:
            unit.list_projects()  # a unit takes its connection at its first call
            in_use = other.submit(value, registry, "findings_orm_pool_connections", state="in_use")
            assert in_use.result(60) == 1
            assert other.submit(value, registry, "findings_orm_up").result(60) == 1
            assert other.submit(store.health).result(60).ok


def test_units_of_work_that_are_tried_again_are_counted(
    postgresql_url: str, registry: CollectorRegistry
) -> None:
    with MetricsAdapter(open_storage(postgresql_url, pre_ping=False), registry=registry) as store:
        store.ingest("p", report(2))
        with psycopg.connect(postgresql_url) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert len(store.list_findings("p")) == 2
        assert value(registry, "findings_orm_retries_total", reason="connection") == 1
        assert value(registry, "findings_orm_operation_duration_seconds_count", outcome="unavailable") == 0


# -- gauges -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", STORES, indirect=True)
def test_figures_of_a_store_are_gauges(opened: FindingStore, registry: CollectorRegistry) -> None:
    store = MetricsAdapter(opened, registry=registry, figures_every=0)
    store.ingest("p", report(3))
    store.ingest("q", report(2))
    store.set_status("p", store.list_findings("p")[0]["id"], "triaged", actor="ann")
    name = "findings_orm_findings"
    assert value(registry, name, severity="high", status="open") == 4
    assert value(registry, name, severity="high", status="triaged") == 1
    assert value(registry, name) == 5
    assert value(registry, "findings_orm_projects") == 2
    assert value(registry, "findings_orm_up") == 1
    assert value(registry, "findings_orm_schema_info", version=store.get_schema_version()) == 1
    size = value(registry, "findings_orm_store_size_bytes")
    assert size == 0 if store.adapter == "memory" else size > 500


def test_figures_are_kept_for_a_while(
    open_sqlite: Callable[[], FindingStore], registry: CollectorRegistry
) -> None:
    with MetricsAdapter(open_sqlite(), registry=registry, figures_every=3600) as store:
        store.ingest("p", report(3))
        assert value(registry, "findings_orm_findings") == 3
        store.ingest("p", report(9))
        assert value(registry, "findings_orm_findings") == 3
        count = "findings_orm_operation_duration_seconds_count"
        assert value(registry, count, operation="figures") == 1


def test_a_store_that_does_not_answer_is_down_and_the_others_are_not(
    open_sqlite: Callable[[], FindingStore], registry: CollectorRegistry
) -> None:
    broken = MetricsAdapter(open_sqlite(), registry=registry, name="broken")
    well = MetricsAdapter(open_storage("memory:"), registry=registry, name="well")
    with broken.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE findings")
    assert value(registry, "findings_orm_up", store="broken") == 0
    assert value(registry, "findings_orm_up", store="well") == 1
    broken.close()
    assert not [key for key in samples(registry) if ("store", "broken") in key[1] and key[0].endswith("_up")]
    well.close()


def test_a_foreign_store_has_operations_and_no_gauges(registry: CollectorRegistry) -> None:
    within = open_storage("memory:")
    names = ["__enter__", "__exit__", *(name for name in dir(FindingStore) if not name.startswith("_"))]
    foreign = type("Foreign", (), {name: staticmethod(getattr(within, name)) for name in names})
    within.save_finding(finding())
    store = MetricsAdapter(foreign(), registry=registry)
    assert store.list_projects() == [PROJECT]
    assert value(registry, "findings_orm_operation_duration_seconds_count", adapter="Foreign") == 1
    assert value(registry, "findings_orm_up") == 0


def test_the_names_of_series_are_those_that_are_exported(
    postgresql_url: str, registry: CollectorRegistry
) -> None:
    with MetricsAdapter(open_storage(postgresql_url), registry=registry) as store:
        store.ingest("p", report(2))
        labels = store.labels
        store._instruments.counters["retries_total"].labels(*labels, "conflict")
        store._instruments.counters["pool_timeouts_total"].labels(*labels)
        store._instruments.counters["cache_events_total"].labels(*labels, "find", "hits")
        exported: dict[str, set[str]] = {}
        for name, have in samples(registry):
            if not name.endswith("_created"):
                exported.setdefault(name, set()).update(label for label, _ in have)
    assert exported == exported_series()
