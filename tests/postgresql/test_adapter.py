"""PostgreSQL: opening, options, pool, transactions, and the statements themselves."""

from __future__ import annotations

import gc
import os
import random
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial
from typing import Any

import psycopg
import pytest
from servers import PostgresServer
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session

from findings_orm import (
    FindingQuery,
    FindingStore,
    PostgreSQLStorageAdapter,
    SchemaVersionError,
    StorageConflictError,
    StorageError,
    StorageUnavailableError,
    StorageValidationError,
    migrations,
    open_storage,
)
from findings_orm.migrations.connecting import STORE_OPTIONS
from findings_orm.orm.models import Finding
from findings_orm.orm.postgresql_engine import Options
from findings_orm.testing.contract.transactions import CALLS
from findings_orm.testing.machine import digest, run_sequence
from findings_orm.testing.samples import PROJECT, finding, ids, scanned, uuid_of

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"


@pytest.fixture
def store(postgresql_url: str) -> Iterator[PostgreSQLStorageAdapter]:
    with PostgreSQLStorageAdapter(postgresql_url) as store:
        yield store


@pytest.fixture
def empty_url(postgresql_18: PostgresServer) -> Iterator[str]:
    name = postgresql_18.create_database()
    yield postgresql_18.url(name)
    postgresql_18.drop_database(name)


def _rows(url: str, sql: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql).fetchall()


# -- opening ----------------------------------------------------------------------------------------------------------


def test_empty_database_is_refused_and_left_empty(empty_url: str) -> None:
    with pytest.raises(SchemaVersionError, match="findings db upgrade"):
        open_storage(empty_url)
    assert _rows(empty_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_empty_database_is_made_with_migrate(empty_url: str) -> None:
    with open_storage(empty_url, migrate=True) as store:
        store.save_finding(finding(1))
    with open_storage(f"{empty_url}?migrate=true") as store:
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]
    assert migrations.check(empty_url) == []


def test_database_behind_is_refused_with_the_command(postgresql_url: str) -> None:
    migrations.downgrade(postgresql_url, "r0001")
    with pytest.raises(SchemaVersionError, match="findings db upgrade --url"):
        open_storage(postgresql_url)
    with open_storage(postgresql_url, migrate=True) as store:
        assert store.health().ok


def test_database_ahead_is_always_refused(postgresql_url: str) -> None:
    _rows(postgresql_url, "UPDATE findings_orm_version SET version_num = 'r9999' RETURNING 1")
    for migrate in (False, True):
        with pytest.raises(SchemaVersionError, match="newer"):
            open_storage(postgresql_url, migrate=migrate)


def test_other_encoding_is_refused(postgresql_18: PostgresServer) -> None:
    postgresql_18.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    with pytest.raises(StorageUnavailableError, match="UTF8"):
        open_storage(postgresql_18.url("latin"), migrate=True)
    postgresql_18.drop_database("latin")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_schemes_of_the_url(postgresql_url: str, scheme: str) -> None:
    url = postgresql_url.replace("postgresql://", f"{scheme}://")
    with open_storage(url) as store:
        assert isinstance(store, PostgreSQLStorageAdapter)


@pytest.mark.parametrize(
    "query",
    ["pool_size=x", "pool_size=0", "pre_ping=maybe", "lock_timeout=-1", "pool_size=1&pool_size=2"],
)
def test_wrong_options_are_refused(postgresql_url: str, query: str) -> None:
    with pytest.raises(StorageValidationError):
        open_storage(f"{postgresql_url}?{query}")
    with pytest.raises(StorageValidationError, match="pool_size"):
        open_storage(postgresql_url, pool_sise=3)  # type: ignore[call-arg]  # misspelled on purpose


@pytest.mark.parametrize("url", ["postgresql+asyncpg://h/d", "postgresql://h:x/d"])
def test_wrong_urls_are_refused(url: str) -> None:
    with pytest.raises(StorageValidationError):
        open_storage(url)


def test_password_is_in_no_message_and_no_health(postgresql_18: PostgresServer, postgresql_url: str) -> None:
    url = postgresql_url.replace("postgres@", "postgres:geheim@")
    with open_storage(url) as store:
        assert "geheim" not in repr(store.health())
    for broken in (url.replace("/findings", "/no_findings"), url.replace(str(postgresql_18.port), "1")):
        with pytest.raises(StorageUnavailableError) as caught:
            open_storage(broken, connect_timeout=2)
        assert "geheim" not in str(caught.value)


def test_migrations_know_every_option_of_a_store() -> None:
    assert set(Options.__dataclass_fields__) <= STORE_OPTIONS


def test_options_reach_the_server(postgresql_url: str) -> None:
    with open_storage(
        f"{postgresql_url}?application_name=tester&statement_timeout=7.5&lock_timeout=3"
    ) as store:
        assert isinstance(store, PostgreSQLStorageAdapter)
        with store.transaction():
            connection = store.session().connection()
            shown = {
                name: connection.exec_driver_sql(f"SHOW {name}").scalar()
                for name in ("application_name", "statement_timeout", "lock_timeout", "transaction_isolation")
            }
    assert shown == {
        "application_name": "tester",
        "statement_timeout": "7500ms",
        "lock_timeout": "3s",
        "transaction_isolation": "read committed",
    }


def test_store_works_in_another_schema(empty_url: str) -> None:
    url = f"{empty_url}?schema=Odd%20%22%25name"
    with open_storage(url, migrate=True) as store:
        store.ingest(PROJECT, [scanned(f"R{n}", n + 1) for n in range(100)])
        assert len(store.list_findings(PROJECT)) == len(list(store.iter_findings(PROJECT))) == 100
        assert isinstance(store, PostgreSQLStorageAdapter)
        with Session(store.engine) as session:
            assert session.query(Finding).count() == 100
    with open_storage(empty_url, migrate=True) as other:
        assert other.list_projects() == []
    assert migrations.check(url) == []
    assert migrations.status(url).current == migrations.status(url).head


@pytest.mark.no_cover
@pytest.mark.parametrize("through", ["store", "migrations"])
def test_schema_is_made_once_by_many_at_once(empty_url: str, through: str) -> None:
    ready = threading.Barrier(6)

    def make(number: int) -> None:
        url = f"{empty_url}?schema=shared{number // 6}"
        ready.wait(60)
        if through == "store":
            open_storage(url, migrate=True).close()
        else:
            migrations.upgrade(url)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(make, range(18))) == [None] * 18
    for number in range(3):
        assert migrations.check(f"{empty_url}?schema=shared{number}") == []


def test_location_that_is_none_is_null(postgresql_url: str) -> None:
    with open_storage(postgresql_url) as store:
        store.save_finding(finding())
        with store.transaction(), store.session() as session:
            row = session.get(Finding, (PROJECT, uuid_of(1)))
            values = {column.name: getattr(row, column.name) for column in Finding.__table__.columns}
            session.add(Finding(**{**values, "id": uuid_of(2), "location": None}))
            session.commit()
        with psycopg.connect(postgresql_url) as connection:
            found = connection.execute("SELECT count(*) FROM findings WHERE location IS NULL").fetchone()
        assert found == (2,)


def test_application_joins_with_its_own_engine(store: PostgreSQLStorageAdapter, postgresql_url: str) -> None:
    """Its connections have the driver's own types, another time zone and another date style."""
    document = finding(
        1, created_at="0001-01-01T00:00:00.000001Z", run_id=uuid_of(5), evidence={"b": 1, "a": "\0"}
    )
    late = finding(2, created_at="9999-12-31T23:59:59.999999Z", location={"path": "x"}, tags=["t"])
    options = "-c timezone=Pacific/Kiritimati -c datestyle=SQL,DMY -c intervalstyle=sql_standard"
    engine = create_engine(
        postgresql_url.replace("postgresql:", "postgresql+psycopg:"), connect_args={"options": options}
    )
    with Session(engine) as session:
        with store.joined(session):
            store.save_findings([document, late, *(finding(n) for n in range(10, 100))])
            store.save_finding(late | {"title": "changed"})
            store.ingest(PROJECT, [scanned(f"R{n}", n + 1) for n in range(100)])
            store.ingest(PROJECT, [scanned(f"R{n}", n + 1, severity="low") for n in range(100)])
            inside = [store.list_findings(PROJECT), list(store.iter_findings(PROJECT)), store.runs(PROJECT)]
            inside += [store.history(PROJECT, uuid_of(2)), store.sighting(PROJECT, uuid_of(2))]
            inside += [store.find(FindingQuery(project_id=PROJECT, text="finding", limit=1000)).items]
        assert store.list_projects() == []
        session.commit()
    engine.dispose()
    outside = [store.list_findings(PROJECT), list(store.iter_findings(PROJECT)), store.runs(PROJECT)]
    outside += [store.history(PROJECT, uuid_of(2)), store.sighting(PROJECT, uuid_of(2))]
    outside += [store.find(FindingQuery(project_id=PROJECT, text="finding", limit=1000)).items]
    assert inside == outside
    assert store.get_finding(PROJECT, uuid_of(1))["evidence"] == {"b": 1, "a": "\0"}
    assert list(store.get_finding(PROJECT, uuid_of(1))["evidence"]) == ["b", "a"]


# -- search -----------------------------------------------------------------------------------------------------------


def test_search_means_the_same_in_any_script(store: PostgreSQLStorageAdapter) -> None:
    titles = [
        "STRASSE",
        "Straße",
        "ſtrasse",
        "ﬁle",
        "FILE",
        "ΣΊΣΥΦΟΣ",
        "İstanbul",
        "istanbul",
        "K",
        "Kelvin",
        "e\u0301t",
        "ét",
    ]
    store.save_findings([finding(n, title=title) for n, title in enumerate(titles)])
    with open_storage("memory:") as memory:
        memory.save_findings([finding(n, title=title) for n, title in enumerate(titles)])
        for word in [*titles, "i", "k", "ss", "ß", "σίσυφος", "ét", "st", "finding", "1"]:
            for limit in (1, 3, 100):
                query = FindingQuery(project_id=PROJECT, text=word, sort="-title", limit=limit)
                assert store.find(query) == memory.find(query), word
            assert store.count(query) == memory.count(query), word


# -- pool -------------------------------------------------------------------------------------------------------------


def test_empty_pool_raises_after_its_timeout(postgresql_url: str) -> None:
    with open_storage(postgresql_url, pool_size=1, max_overflow=0, pool_timeout=0.3) as store:
        store.save_findings([finding(n) for n in range(3)])
        held = store.iter_findings(PROJECT)
        next(held)
        start = time.monotonic()
        with pytest.raises(StorageUnavailableError, match="pool") as caught:
            store.list_projects()
        assert caught.value.retryable
        assert time.monotonic() - start < 5
        held.close()  # type: ignore[attr-defined]
        assert store.list_projects() == [PROJECT]


def test_health_reports_the_pool(store: PostgreSQLStorageAdapter) -> None:
    health = store.health()
    assert health.ok
    assert health.details["pool"] == {"size": 5, "max_overflow": 10, "in_use": 1, "idle": 0}
    assert health.details["server_version"].startswith("18")


def test_health_of_an_exhausted_pool_waits_for_nobody(postgresql_url: str) -> None:
    url = f"{postgresql_url}?pool_size=1&max_overflow=0&pool_timeout=600"
    with ThreadPoolExecutor(1) as other, open_storage(url) as store:
        with store.transaction():
            store.save_finding(finding(1))
            assert store.health().ok, "the unit of work has a connection that can be asked"
            health = other.submit(store.health).result(60)
        assert (health.ok, health.problem) == (True, "")
        assert health.details["pool"] == {"size": 1, "max_overflow": 0, "in_use": 1, "idle": 0}
        assert "all connections of postgresql+psycopg://" in health.details["busy"]
        assert "busy" not in store.health().details
        with store.transaction() as unit:
            unit.list_projects()  # it begins with the first call
            waiting = other.submit(store.list_projects)
            with pytest.raises(TimeoutError):
                waiting.result(0.2)  # everybody else goes on waiting
        assert waiting.result(60) == [PROJECT]


@pytest.mark.no_cover
def test_sixteen_threads_share_five_connections(postgresql_url: str) -> None:
    operations = 1_000 if FULL else 60
    with PostgreSQLStorageAdapter(postgresql_url, pool_size=5, max_overflow=0, pool_timeout=60) as store:

        def work(thread: int) -> None:
            chance = random.Random(thread)
            project = f"p{thread % 4}"
            for n in range(operations):
                one = finding(thread * 10_000 + n, project_id=project)
                actions: list[Callable[[], object]] = [
                    partial(store.save_finding, one),
                    lambda: store.ingest(project, [scanned(f"R{chance.randrange(50)}") for _ in range(60)]),
                    store.list_projects,
                    lambda: store.find(FindingQuery(project_id=project, limit=20, text="finding")),
                    lambda: next(iter(store.iter_findings(project)), None),
                    lambda: store.summarize(project),
                    lambda: _rolled_back(store, project),
                    store.health,
                ]
                chance.choice(actions)()

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))
        gc.collect()
        assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        states = _rows(
            postgresql_url,
            "SELECT DISTINCT state FROM pg_stat_activity WHERE application_name = 'findings_orm'",
        )
        assert states == [("idle",)]
        for n in range(4):
            listed = store.list_findings(f"p{n}")
            assert len(listed) == store.summarize(f"p{n}").total


def _rolled_back(store: FindingStore, project: str) -> None:
    with pytest.raises(KeyError), store.transaction():
        store.save_finding(finding(1, project_id=project))
        raise KeyError


def test_forked_child_makes_its_own_connections(store: PostgreSQLStorageAdapter) -> None:
    store.save_finding(finding(1))
    with warnings.catch_warnings(), store.transaction():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork
        store.save_finding(finding(2))
        pid = os.fork()
        if pid == 0:
            try:
                gc.collect()
                found = ids(store.list_findings(PROJECT))
                store.save_finding(finding(3, project_id="child"))
                os._exit(0 if found == [uuid_of(1)] else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ids(store.list_findings(PROJECT)) == [uuid_of(1), uuid_of(2)]
    assert store.list_projects() == [PROJECT, "child"]


# -- concurrency ------------------------------------------------------------------------------------------------------


def test_second_importer_waits_and_says_why_it_gave_up(postgresql_url: str) -> None:
    with open_storage(postgresql_url, lock_timeout=0.3) as store, store.transaction():
        store.save_finding(finding(1))
        with open_storage(postgresql_url, lock_timeout=0.3) as other:
            with pytest.raises(StorageUnavailableError, match="lock_timeout") as caught:
                other.ingest(PROJECT, [scanned()])
            assert caught.value.retryable
            other.ingest("another project", [scanned()])  # they don't meet
            assert other.list_findings(PROJECT) == []  # readers don't wait


def test_long_statement_is_ended(postgresql_url: str) -> None:
    with PostgreSQLStorageAdapter(postgresql_url, statement_timeout=0.2) as store:
        with pytest.raises(StorageUnavailableError, match="statement_timeout"), store.transaction():
            store.save_finding(finding(1))
            store._current_unit.records._run_sql("SELECT pg_sleep(5)")  # type: ignore[union-attr]
        assert store.list_projects() == []


@pytest.mark.no_cover
def test_deadlock_is_tried_again(store: PostgreSQLStorageAdapter) -> None:
    """Two callers that write two projects in opposite orders, batch by batch."""
    one = [finding(n, project_id=f"p{n // 1000}") for n in range(2_000)]
    other = [finding(n + 5_000, project_id=f"p{1 - n // 1000}") for n in range(2_000)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            list(pool.map(store.save_findings, (one, other)))
    assert [len(store.list_findings(f"p{n}")) for n in range(2)] == [2_000, 2_000]


def test_deadlock_inside_a_transaction_is_a_conflict(store: PostgreSQLStorageAdapter) -> None:
    barrier = threading.Barrier(2)

    def work(order: tuple[str, str]) -> bool:
        try:
            with store.transaction():
                store.save_finding(finding(1, project_id=order[0]))
                barrier.wait(10)
                store.save_finding(finding(1, project_id=order[1]))
        except StorageConflictError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(work, [("a", "b"), ("b", "a")])) == [False, True]
    assert store.list_projects() == ["a", "b"]


def test_deleting_while_importing_leaves_no_orphans(
    store: PostgreSQLStorageAdapter, postgresql_url: str
) -> None:
    report = [scanned(f"R{n}", n + 1) for n in range(300)]
    for _ in range(10 if FULL else 4):
        with ThreadPoolExecutor(3) as pool:
            imports = [pool.submit(store.ingest, PROJECT, report) for _ in range(2)]
            pool.submit(store.delete_project, PROJECT).result()
            [each.result() for each in imports]
        for table in ("finding_identities", "finding_runs", "finding_events", "findings"):
            orphans = f"SELECT count(*) FROM {table} WHERE project_id NOT IN (SELECT project_id FROM finding_projects)"
            assert _rows(postgresql_url, orphans) == [(0,)]
        assert len(store.list_findings(PROJECT)) in (0, 300)


def test_eight_importers_of_one_project_give_one_row_an_identity(store: PostgreSQLStorageAdapter) -> None:
    report = [scanned(f"R{n % 90}", n + 1) for n in range(500)]
    with ThreadPoolExecutor(8) as pool:
        reports = list(pool.map(lambda _: store.ingest(PROJECT, report), range(8)))
    assert sum(each.created for each in reports) == len(store.list_findings(PROJECT)) == 500


@pytest.mark.no_cover
def test_iteration_takes_constant_memory_on_the_client(store: PostgreSQLStorageAdapter) -> None:
    import tracemalloc

    store.ingest(PROJECT, (scanned(f"R{n}", n + 1, evidence={"x": "y" * 1_000}) for n in range(20_000)))
    tracemalloc.start()
    assert sum(1 for _ in store.iter_findings(PROJECT)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000, f"peak {peak}"


# -- what a unit of work has read -------------------------------------------------------------------------------------

_ADVISORY_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


def test_a_unit_locks_each_project_once_and_others_work_on(store: PostgreSQLStorageAdapter) -> None:
    store.save_findings([finding(1), finding(1, project_id="b"), finding(1, project_id="c")])
    with store.transaction() as unit, store.engine.connect() as connection:
        for _ in range(2):
            assert (
                len(unit.list_findings("b")) == len(unit.list_findings(PROJECT)) == unit.summarize("b").total
            )
        assert connection.exec_driver_sql(_ADVISORY_LOCKS).scalar() == 2
        Context().run(store.save_finding, finding(2, project_id="c"))
        assert Context().run(store.list_findings, "b") == unit.list_findings("b")
        with pytest.raises(StorageUnavailableError, match="can't end while this call waits") as caught:
            Context().run(store.save_finding, finding(2))
        assert caught.value.retryable


def test_a_unit_that_read_the_list_of_projects_keeps_it(store: PostgreSQLStorageAdapter) -> None:
    store.save_finding(finding(1))
    with store.transaction() as unit:
        assert unit.list_projects() == [PROJECT]
        calls: list[Callable[[], object]] = [
            lambda: store.save_finding(finding(1, project_id="b")),
            lambda: store.delete_project(PROJECT),
        ]
        for call in calls:
            with pytest.raises(StorageUnavailableError, match="can't end while this call waits"):
                Context().run(call)
        assert unit.list_projects() == [PROJECT]
    store.save_finding(finding(1, project_id="b"))


def test_a_unit_for_reading_takes_no_lock(store: PostgreSQLStorageAdapter) -> None:
    store.save_finding(finding(1))
    with store.transaction(read_only=True) as unit, store.engine.connect() as connection:
        assert unit.list_projects() == [unit.list_findings(PROJECT)[0]["project_id"]]
        assert connection.exec_driver_sql(_ADVISORY_LOCKS).scalar() == 0


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_joined_transaction_with_a_snapshot_loses_nothing(
    store: PostgreSQLStorageAdapter, level: Any
) -> None:
    store.save_finding(finding(1))
    engine = create_engine(store.engine.url, isolation_level=level)
    with Session(engine) as session:
        session.execute(text("SELECT count(*) FROM findings"))
        store.save_finding(finding(1, title="by another one"))
        with pytest.raises(StorageConflictError) as caught, store.joined(session) as unit:
            (found,) = unit.list_findings(PROJECT)
            assert found["title"] == "Finding 1"
            unit.save_finding({**found, "severity": "low"})
        assert caught.value.retryable
    engine.dispose()


def test_a_joined_transaction_that_only_reads_takes_no_lock(store: PostgreSQLStorageAdapter) -> None:
    store.save_finding(finding(1))
    engine = create_engine(store.engine.url)
    with Session(engine) as session:
        session.execute(text("SET TRANSACTION READ ONLY"))
        with store.joined(session) as unit:
            assert len(unit.list_findings(PROJECT)) == 1
            assert session.execute(text(_ADVISORY_LOCKS)).scalar() == 0
    with Session(engine) as session, store.joined(session) as unit:
        assert len(unit.list_findings(PROJECT)) == 1
        assert session.execute(text(_ADVISORY_LOCKS)).scalar() == 1
    engine.dispose()


# -- statements -------------------------------------------------------------------------------------------------------

_NOT_OF_A_PROJECT = re.compile(
    r"SELECT project_id FROM finding_projects ORDER BY project_id"
    r"|SELECT row_security_active.*|SELECT current_user.*|BEGIN .*|SAVEPOINT \w+|(ROLLBACK TO|RELEASE) SAVEPOINT \w+"
    r"|SELECT pg_advisory_xact_lock.*|SELECT version_num.*findings_orm_version|SELECT pg_catalog.*"
    r"|.*pg_catalog\.pg_class.*|DISCARD PLANS",
    re.DOTALL,
)


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Collects every statement that any engine runs."""
    collected: list[str] = []

    def collect(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        collected.append(statement)

    event.listen(Engine, "before_cursor_execute", collect)
    yield collected
    event.remove(Engine, "before_cursor_execute", collect)


def test_every_statement_names_its_project(postgresql_url: str, statements: list[str]) -> None:
    """So the tables can be distributed by project: no statement looks through all of them."""
    with open_storage(postgresql_url) as store:
        run_sequence(store, 1, 200 if FULL else 60)
        store.ingest(PROJECT, [scanned(f"R{n}", n + 1) for n in range(200)])
        store.ingest(
            PROJECT, [scanned(f"R{n}", n + 1, severity="low") for n in range(150)], close_missing=True
        )
        store.save_findings([finding(n) for n in range(100)])
        for name, call in CALLS.items():
            try:
                call(store)
            except StorageError:
                assert name in ("diff_runs", "get_finding", "sighting", "set_status"), name
    assert len(statements) > 500
    for statement in set(statements):
        if not _NOT_OF_A_PROJECT.fullmatch(statement.strip()):
            assert _names_its_project(statement), statement


def _names_its_project(statement: str) -> bool:
    if statement.startswith(("INSERT", "CREATE TEMPORARY")):
        return "project_id" in statement
    return re.search(r"project_id = %", statement) is not None


def test_store_leaves_no_prepared_statements(postgresql_url: str) -> None:
    with PostgreSQLStorageAdapter(postgresql_url, pool_size=1, max_overflow=0) as store:
        run_sequence(store, 2, 40)
        with store.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar() == 0
            changed = connection.exec_driver_sql(
                "SELECT name FROM pg_settings WHERE source = 'session' AND name <> 'transaction_isolation'"
            ).fetchall()
            assert changed == []


def test_a_large_import_after_a_small_one_reads_each_finding_once(postgresql_url: str) -> None:
    """The server keeps the plan of a foreign key's check, which it may have made while the table was tiny."""
    few, many = 70, 6_000
    with open_storage(postgresql_url) as store:
        for project_id, count in (("small", few), ("large", many)):
            store.ingest(project_id, [scanned("R", resource=f"src/{n}.py") for n in range(count)])
    sql = "SELECT n_tup_ins, seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'findings'"
    inserted = read = 0
    for _ in range(100):
        ((inserted, read),) = _rows(postgresql_url, sql)
        if inserted == few + many:
            break
        time.sleep(0.1)
    assert inserted == few + many
    assert read < 3 * many


def test_store_keeps_plans_where_that_is_wanted(postgresql_url: str) -> None:
    url = f"{postgresql_url}?prepare=true&pool_size=1&max_overflow=0"
    with open_storage(url) as store, open_storage("memory:") as memory:
        for each in (store, memory):
            run_sequence(each, 2, 60)
        assert digest(store) == digest(memory)
        for number in range(20):
            store.save_finding(finding(number))
        with store.transaction(), store.session() as session:
            kept = session.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar_one()
        assert kept > 3
        store.delete_project(PROJECT)
        assert store.list_findings(PROJECT) == []
