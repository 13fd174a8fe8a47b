"""Findings in a transaction of the application's own engine, whatever driver and settings that has."""

from __future__ import annotations

import asyncio
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from sessions import SessionStore, engine_with, run_in_greenlet, sql_store
from sqlalchemy import Connection, Engine, NullPool, StaticPool, create_engine, event, text
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.util import await_only

from findings_orm import (
    FindingQuery,
    FindingStore,
    SQLiteStorageAdapter,
    StorageError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
    migrations,
    open_storage,
)
from findings_orm.orm import configure
from findings_orm.orm.models import TABLES, Base, Finding
from findings_orm.orm.storage import SqlStore
from findings_orm.testing.contract import FindingStoreContract
from findings_orm.testing.contract.history import PurgeContract
from findings_orm.testing.contract.isolation import IsolationContract
from findings_orm.testing.contract.transactions import LifeContract, ThreadContract, TransactionContract
from findings_orm.testing.samples import PROJECT, finding, ids, run_id_of, scanned, uuid_of

# -- the suite --------------------------------------------------------------------------------------------------------


def left_out(*names: str) -> dict[str, None]:
    """Return what keeps tests of a base class from being collected."""
    return dict.fromkeys(names)


THREADS = tuple(name for name in vars(ThreadContract) if name.startswith("test_"))


class Part(TransactionContract):
    """What depends most on whose connection it is. The whole suite takes minutes: FINDINGS_TEST_SCALE=full."""

    locals().update(
        left_out(
            "test_revision_never_comes_back",
            "test_iterating_inside_shows_one_instant_too",
            "test_store_works_after_many_transactions",
        )
    )


class Kept(IsolationContract):
    """Of what a unit of work reads, that which an application's transaction can keep."""

    locals().update(
        left_out(
            *(name for name in vars(IsolationContract) if "for_reading" in name or "undone_block" in name)
        )
    )


class Half(TransactionContract, ThreadContract, PurgeContract, LifeContract):
    """More of it, for SQLite, where it costs little."""


WHOLE = os.environ.get("FINDINGS_TEST_SCALE") == "full"
Suite: Any = FindingStoreContract if WHOLE else Part
SQLiteSuite: Any = FindingStoreContract if WHOLE else Half
DRIVERS = ("psycopg", "psycopg2", "async psycopg", "asyncpg")


class Joined:
    """A part of the suite, through sessions of an application's engine."""

    persistent = True
    shared_between_processes = True
    driver: ClassVar[str] = "sqlite"
    nested: ClassVar[bool] = False

    @pytest.fixture
    def store(self, reopen: Callable[[], FindingStore]) -> Iterator[FindingStore]:
        with reopen() as store:
            yield store

    def in_sessions(self, store: SqlStore) -> FindingStore:
        return SessionStore(store, engine_with(self.driver, store), nested=self.nested)


class InSQLite(Joined):
    @pytest.fixture
    def reopen(self, open_sqlite: Callable[[], SqlStore]) -> Callable[[], FindingStore]:
        return lambda: self.in_sessions(open_sqlite())


class InPostgreSQL(Joined):
    @pytest.fixture
    def reopen(self, emptied_postgresql_url: str) -> Callable[[], FindingStore]:
        return lambda: self.in_sessions(sql_store(emptied_postgresql_url))


class InGreenlet:
    """Each test runs in a greenlet of an event loop; other threads have none."""

    shared_between_processes = False
    locals().update(left_out(*THREADS))

    @pytest.fixture(autouse=True)
    def in_greenlet(self, request: pytest.FixtureRequest) -> None:
        test = request.node.obj
        request.node.obj = lambda **given: run_in_greenlet(test, **given)


@pytest.mark.no_cover
class TestPlainSQLite(InSQLite, SQLiteSuite):  # type: ignore[misc]
    pass


@pytest.mark.no_cover
class TestReadsAreKeptInSQLite(InSQLite, Kept):
    pass


@pytest.mark.no_cover
class TestReadsAreKeptByPsycopg(InPostgreSQL, Kept):
    driver = "psycopg"


@pytest.mark.no_cover
class TestReadsAreKeptByPsycopg2(InPostgreSQL, Kept):
    driver = "psycopg2"


@pytest.mark.no_cover
class TestPlainSQLiteInSavepoint(InSQLite, Suite):  # type: ignore[misc]
    nested = True


@pytest.mark.no_cover
class TestAiosqlite(InGreenlet, InSQLite, Suite):  # type: ignore[misc]
    driver = "aiosqlite"


@pytest.mark.no_cover
class TestPsycopg(InPostgreSQL, Suite):  # type: ignore[misc]
    driver = "psycopg"
    nested = True


@pytest.mark.no_cover
class TestPsycopg2(InPostgreSQL, Suite):  # type: ignore[misc]
    driver = "psycopg2"


@pytest.mark.no_cover
class TestAsyncpg(InGreenlet, InPostgreSQL, Suite):  # type: ignore[misc]
    driver = "asyncpg"


if WHOLE:

    class TestPsycopgCommits(TestPsycopg):
        nested = False

    class TestPsycopg2InSavepoint(TestPsycopg2):
        nested = True

    class TestAiosqliteInSavepoint(TestAiosqlite):
        nested = True

    class TestAsyncPsycopg(InGreenlet, InPostgreSQL, Suite):  # type: ignore[misc]
        driver = "async psycopg"

    class TestAsyncPsycopgInSavepoint(TestAsyncPsycopg):
        nested = True

    class TestAsyncpgInSavepoint(TestAsyncpg):
        nested = True


# -- every driver -----------------------------------------------------------------------------------------------------

LATE = "9999-12-31T23:59:59.999999Z"


def work_with(store: FindingStore) -> list[Any]:
    """Write and ask in every way, with more rows than one statement takes, and return the answers that don't hold a time."""
    documents = [
        finding(
            1,
            created_at="0001-01-01T00:00:00.000001Z",
            run_id=uuid_of(5),
            evidence={"b": 1, "a": "\0", "%s": "?"},
        ),
        finding(
            2, created_at=LATE, location={"path": "x", "snippet": "a % b"}, tags=["t"], cvss=7, confidence=50
        ),
        finding(
            3,
            cwe_ids=[79, 89],
            cve_ids=["CVE-2024-1234"],
            rule_id="R",
            detector_id="scan.other",
            title="Ä ? %s $1",
        ),
        *(
            finding(n, resource=f"https://host/{n}", severity="high" if n % 2 else "low")
            for n in range(10, 240)
        ),
    ]
    store.save_findings(documents)
    store.save_findings([one | {"title": f"{one['title']} again"} for one in documents])
    report = [scanned(f"R{n}", n + 1) for n in range(300)]
    answers: list[Any] = [
        store.ingest(PROJECT, [*report, {}], run=run_id_of(1), on_invalid="quarantine", close_missing=True),
        store.ingest(PROJECT, report[:120], run=run_id_of(2), close_missing=True),
        store.ingest(
            PROJECT, [scanned(f"R{n}", n + 1, severity="high") for n in range(300)], run=run_id_of(3)
        ),
        store.ingest(PROJECT, report[:5], run=run_id_of(4), dry_run=True),
        store.ingest(PROJECT, report[:7], run=run_id_of(5), close_missing=True),
    ]
    store.set_status(PROJECT, uuid_of(1), "open", actor="ann", comment="a % ?")
    for number, conditions in enumerate(QUERIES):
        for sort in (SORTS[number % 5], SORTS[(number + 2) % 5]):
            query = FindingQuery(project_id=PROJECT, limit=7, **{**conditions, "sort": sort})
            page = store.find(query)
            answers += [[one["title"] for one in page.items], store.count(query)]
            if page.next_cursor:
                answers.append(
                    [one["title"] for one in store.find(replace(query, cursor=page.next_cursor)).items]
                )
    answers += [store.get_finding(PROJECT, uuid_of(n)) for n in (1, 2, 3)]
    answers += [[(event.kind, event.changes, event.comment) for event in store.history(PROJECT, uuid_of(1))]]
    answers += [[(run.number, run.counts) for run in store.runs(PROJECT)], store.summarize(PROJECT)]
    difference = store.diff_runs(PROJECT, run_id_of(2), run_id_of(3))
    answers += [len(difference.added), len(difference.removed), difference.common]
    answers += [store.sighting(PROJECT, uuid_of(3)).last_run, len(store.rejected_originals(PROJECT))]
    answers += [
        store.discard_rejected(PROJECT, [one.rejected_id for one in store.rejected_originals(PROJECT)])
    ]
    answers += [len(list(store.iter_findings(PROJECT))), sum(map(len, store.iter_findings_json("nobody")))]
    answers += [
        store.purge(PROJECT, closed_before="9999-01-01T00:00:00Z").purged,
        store.count(FindingQuery(project_id=PROJECT)),
    ]
    store.delete_project(PROJECT)
    return [*answers, store.list_projects()]


SORTS = ("created_at", "-severity", "title", "-detector_id", "-resource")
QUERIES: list[dict[str, Any]] = [
    {},
    {"severity": ["high", "low"], "status": ["open"]},
    {"min_severity": "medium", "detector_id": ["scan.*", "scan.other"]},
    {"rule_id": ["R"], "cwe": [79], "cve_id": ["CVE-2024-1234"]},
    {"cwe": list(range(1, 100))},
    {"run_id": [uuid_of(5)]},
    {"tag": ["t"], "created_from": "2000-01-01T00:00:00Z"},
    {"created_before": "2000-01-01T00:00:00Z"},
    {"resource_prefix": "https://host/1"},
    {"text": "again"},
    {"text": "ä %"},
]


@pytest.mark.no_cover
@pytest.mark.parametrize("driver", ["sqlite", "aiosqlite", *DRIVERS])
def test_answers_are_the_same_through_every_driver(driver: str, request: pytest.FixtureRequest) -> None:
    if driver in DRIVERS:
        store = sql_store(request.getfixturevalue("emptied_postgresql_url"))
    else:
        store = request.getfixturevalue("open_sqlite")()
    with SessionStore(store, engine_with(driver, store)) as joined, open_storage("memory:") as memory:
        run = run_in_greenlet if joined.engine.dialect.is_async else lambda work, **given: work(**given)

        def work(store: FindingStore) -> list[Any]:
            with store.transaction():
                return work_with(store)

        answers, expected = run(work, store=joined), work(memory)
        for number, (one, other) in enumerate(zip(answers, expected, strict=True)):
            assert one == other, number


@pytest.mark.parametrize("driver", ["aiosqlite", "async psycopg", "asyncpg"])
def test_an_application_of_asyncio_decides_about_everything_inside(
    driver: str, request: pytest.FixtureRequest
) -> None:
    """Migrations too; a cancelled task leaves nothing, and a connection that works."""
    if driver == "aiosqlite":
        store = request.getfixturevalue("open_sqlite")()
    else:
        store = sql_store(request.getfixturevalue("postgresql_url"))

    def work(session: Session, number: int) -> list[str]:
        with store.joined(session):
            store.save_finding(finding(number))
            return ids(store.list_findings(PROJECT))

    async def cancelled(session: AsyncSession) -> None:
        def wait(session: Session) -> None:
            with store.joined(session):
                store.save_findings([finding(8)])
                await_only(asyncio.sleep(60))

        task = asyncio.create_task(session.run_sync(wait))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main() -> None:
        engine = AsyncEngine(engine_with(driver, store))
        async with AsyncSession(engine) as session:
            assert await session.run_sync(work, 1) == [uuid_of(1)]
            await session.rollback()
            await session.run_sync(work, 2)
            await session.commit()
        async with AsyncSession(engine) as session:
            await cancelled(session)
        async with AsyncSession(engine) as session:
            assert await session.run_sync(work, 3) == [uuid_of(2), uuid_of(3)]
            await session.commit()
        async with engine.connect() as connection:
            await connection.run_sync(migrations.downgrade, "r0003")
            assert (await connection.run_sync(migrations.status)).current == "r0003"
            await connection.run_sync(migrations.upgrade)
            assert await connection.run_sync(migrations.check) == []

    asyncio.run(main())
    assert ids(store.list_findings(PROJECT)) == [uuid_of(2), uuid_of(3)]
    store.close()


class OwnDriver(SQLiteDialect_pysqlite):
    driver = "own"
    supports_statement_cache = True


def test_an_unknown_driver_is_refused(store: SQLiteStorageAdapter) -> None:
    registry.register("sqlite.own", __name__, "OwnDriver")
    engine = create_engine(store.engine.url.set(drivername="sqlite+own"))
    refused = pytest.raises(
        StorageError, match="not stored by the driver own; use one of pysqlite, aiosqlite"
    )
    with engine.connect() as connection, refused, store.joined(connection):
        pass
    engine.dispose()


# -- engines of SQLite, as applications make them ---------------------------------------------------------------------


@pytest.fixture
def store(open_sqlite: Callable[[], SQLiteStorageAdapter]) -> Iterator[SQLiteStorageAdapter]:
    with open_sqlite() as store:
        yield store


def plain(url: Any) -> Engine:
    return create_engine(url)


def configured(url: Any) -> Engine:
    return configure(create_engine(url))


def with_begin(url: Any) -> Engine:
    """The recipe of SQLAlchemy's documentation."""
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def connect(driver: Any, _record: object) -> None:
        driver.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def always_in_transaction(url: Any) -> Engine:
    return create_engine(url, connect_args={"autocommit": False})


def both(url: Any) -> Engine:
    return configure(always_in_transaction(url))


modern = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="sqlite3 has the attribute from Python 3.12 on"
)
every_engine = pytest.mark.parametrize(
    "make_engine",
    [
        plain,
        configured,
        with_begin,
        *(pytest.param(one, marks=modern) for one in (always_in_transaction, both)),
    ],
)


@pytest.fixture
def engine(store: SQLiteStorageAdapter, request: pytest.FixtureRequest) -> Iterator[Engine]:
    made: Engine = getattr(request, "param", plain)(store.engine.url)
    yield made
    made.dispose()


def rows_left(store: SQLiteStorageAdapter) -> dict[str, int]:
    with store.engine.connect() as connection:
        names = [table.name for table in TABLES if table.name != "finding_access"]
        counts = {
            name: connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one() for name in names
        }
    return {name: count for name, count in counts.items() if count}


WRITES: dict[str, Callable[[FindingStore], Any]] = {
    "ingest": lambda store: store.ingest(PROJECT, [scanned()]),
    "save_finding": lambda store: store.save_finding(finding(2)),
    "save_findings": lambda store: store.save_findings([finding(2)]),
    "set_status": lambda store: store.set_status(PROJECT, uuid_of(1), "triaged", actor="ann"),
    "purge": lambda store: store.purge(PROJECT, closed_before="9999-01-01T00:00:00Z"),
    "delete_project": lambda store: store.delete_project(PROJECT),
}


@every_engine
@pytest.mark.parametrize("write", WRITES)
def test_rollback_of_the_application_undoes_every_write(
    store: SQLiteStorageAdapter, make_engine: Callable[[Any], Engine], write: str
) -> None:
    engine = make_engine(store.engine.url)
    store.save_findings([finding(1), finding(3)])
    store.set_status(PROJECT, uuid_of(3), "resolved", actor="ann")
    before = rows_left(store), store.revision(PROJECT)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE app (name TEXT)"))
    with Session(engine) as session:
        session.execute(text("SELECT count(*) FROM app"))
        with store.joined(session):
            WRITES[write](store)
        session.execute(text("INSERT INTO app VALUES ('lost')"))
        session.rollback()
        assert (rows_left(store), store.revision(PROJECT)) == before
        session.execute(text("INSERT INTO app VALUES ('first')"))
        with store.joined(session):
            WRITES[write](store)
        session.rollback()
        session.rollback()
        assert (rows_left(store), store.revision(PROJECT)) == before
        with store.joined(session):
            WRITES[write](store)
        session.commit()
        assert (rows_left(store), store.revision(PROJECT)) != before
        assert session.scalar(text("SELECT count(*) FROM app")) == 0
    engine.dispose()


@every_engine
@pytest.mark.parametrize("kept", [False, True], ids=["rolled_back", "committed"])
@pytest.mark.parametrize("depth", [1, 2])
def test_release_of_a_savepoint_is_no_commit(
    store: SQLiteStorageAdapter, make_engine: Callable[[Any], Engine], depth: int, kept: bool
) -> None:
    engine = make_engine(store.engine.url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE app (name TEXT)"))
    with Session(engine) as session:
        outer = session.begin_nested()
        for _ in range(1, depth):
            session.begin_nested()
        session.execute(text("INSERT INTO app VALUES ('in the savepoint')"))
        with store.joined(session):
            store.ingest(PROJECT, [scanned()])
        for _ in range(1, depth):
            session.get_nested_transaction().commit()  # type: ignore[union-attr]
        outer.commit()
        assert rows_left(store) == {}, "others see it"
        with session.begin_nested() as undone:
            session.execute(text("INSERT INTO app VALUES ('undone')"))
            with store.joined(session):
                store.ingest(PROJECT, [scanned("R2")])
            undone.rollback()
        session.commit() if kept else session.rollback()
        assert session.scalar(text("SELECT count(*) FROM app")) == int(kept)
    assert len(store.list_findings(PROJECT)) == int(kept)
    engine.dispose()


@every_engine
def test_rollback_to_a_savepoint_of_the_application_undoes_what_came_after_it(
    store: SQLiteStorageAdapter, make_engine: Callable[[Any], Engine]
) -> None:
    engine = make_engine(store.engine.url)
    with Session(engine) as session:
        with store.joined(session):
            store.save_finding(finding(1))
        with pytest.raises(KeyError), session.begin_nested(), store.joined(session):
            store.save_finding(finding(2))
            raise KeyError
        with session.begin_nested(), store.joined(session):
            store.save_finding(finding(3))
        session.commit()
    assert ids(store.list_findings(PROJECT)) == [uuid_of(1), uuid_of(3)]
    engine.dispose()


@pytest.mark.parametrize("setting", ["ON", "OFF"])
def test_nothing_is_left_behind_whether_foreign_keys_hold_or_not(
    store: SQLiteStorageAdapter, engine: Engine, setting: str
) -> None:
    @event.listens_for(engine, "connect")
    def set_foreign_keys(driver: Any, _record: object) -> None:
        driver.execute(f"PRAGMA foreign_keys = {setting}")

    report = [scanned("R1"), scanned("R2")]
    store.ingest(PROJECT, report, run=uuid_of(1))
    store.ingest(PROJECT, report[:1], run=uuid_of(2), close_missing=True)
    store.ingest(
        PROJECT, [*report, {}], run=uuid_of(3), on_invalid="quarantine"
    )  # reopened, so with a streak
    store.ingest(PROJECT, report[:1], run=uuid_of(4), close_missing=True)
    assert len(rows_left(store)) == 7
    with Session(engine) as session:
        with store.joined(session):
            assert store.purge(PROJECT, closed_before="9999-01-01T00:00:00Z").purged == 1
        session.commit()
        assert [one.check for one in store.diagnose()] == ["rejected"], "the refused original"
        assert store.ingest(PROJECT, report).created == 1
        with store.joined(session):
            store.delete_project(PROJECT)
        session.commit()
        assert session.execute(text("PRAGMA foreign_keys")).scalar() == int(setting == "ON")
    assert rows_left(store) == {}


@every_engine
def test_threads_of_an_application_wait_for_each_other(
    store: SQLiteStorageAdapter, make_engine: Callable[[Any], Engine]
) -> None:
    engine = make_engine(store.engine.url)
    everybody = threading.Barrier(8)

    def work(number: int) -> None:
        everybody.wait(30)
        with Session(engine) as session:
            with store.joined(session):
                known = len(store.list_findings(PROJECT))
                store.save_finding(finding(number, title=f"after {known}"))
            session.commit()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    titles = {each["title"] for each in store.list_findings(PROJECT)}
    assert titles == {f"after {known}" for known in range(8)}, (
        "what was read was no longer so when it was written"
    )
    engine.dispose()


def test_a_connection_without_transactions_is_refused_with_the_way_out(store: SQLiteStorageAdapter) -> None:
    url = store.engine.url
    engines = [
        create_engine(url, isolation_level="AUTOCOMMIT"),
        create_engine(url).execution_options(isolation_level="AUTOCOMMIT"),
        create_engine(url, connect_args={"isolation_level": None}),
    ]
    if sys.version_info >= (3, 12):
        engines.append(create_engine(url, connect_args={"autocommit": True}))
    for engine in engines:
        with Session(engine) as session:
            with (
                pytest.raises(StorageError, match=r"findings_orm.orm.configure\(create_engine"),
                store.joined(session),
            ):
                pass
            session.commit()
        engine.dispose()
    store.save_finding(finding(1))  # no lock is left


@pytest.mark.parametrize("driver", DRIVERS)
def test_no_driver_of_postgresql_is_joined_without_transactions(driver: str, postgresql_url: str) -> None:
    store = sql_store(postgresql_url)
    engine = engine_with(driver, store)

    def work() -> None:
        with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
            with pytest.raises(StorageError, match="commits each statement by itself"), store.joined(session):
                store.save_finding(finding(1))
            assert store.list_projects() == []

    run_in_greenlet(work) if engine.dialect.is_async else work()
    engine.dispose()
    store.close()


class Other(DeclarativeBase):
    pass


class Note(Other):
    __tablename__ = "app_notes"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.mark.parametrize(("ours", "theirs"), [(Finding, Note), (Base, Other), (Base, None)], ids=str)
def test_a_session_of_several_databases_is_joined_where_it_has_findings(
    store: SQLiteStorageAdapter, engine: Engine, tmp_path: pathlib.Path, ours: type, theirs: type | None
) -> None:
    other = create_engine(f"sqlite:///{tmp_path / 'notes.db'}")
    Other.metadata.create_all(other)
    binds: Any = {ours: engine} | ({theirs: other} if theirs else {})
    with Session(None if theirs else other, binds=binds) as session:
        session.add(Note())
        with store.joined(session):
            store.save_finding(finding(1))
        session.rollback()
        assert store.list_projects() == []
        with store.joined(session):
            store.save_finding(finding(1))
        session.commit()
    assert store.list_projects() == [PROJECT]
    other.dispose()


@pytest.mark.parametrize("make_engine", [plain, configured])
def test_a_connection_that_only_reads_can_be_joined_to_read(
    store: SQLiteStorageAdapter, make_engine: Callable[[Any], Engine]
) -> None:
    engine = make_engine(store.engine.url)
    store.save_finding(finding(1))
    with Session(engine) as session:
        session.execute(text("PRAGMA query_only = ON"))
        with store.joined(session):
            assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]
        with pytest.raises(StorageUnavailableError, match="readonly"), store.joined(session):
            store.save_finding(finding(2))
        session.rollback()
        session.execute(text("PRAGMA query_only = OFF"))
    engine.dispose()


def test_another_kind_of_database_is_refused(store: SQLiteStorageAdapter, postgresql_url: str) -> None:
    refused = pytest.raises(StorageError, match="one in postgresql: it can't work on a connection to sqlite")
    with (
        open_storage(postgresql_url) as other,
        store.engine.connect() as connection,
        refused,
        other.joined(connection),
    ):
        pass


def test_a_database_in_memory_of_the_application() -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    migrations.upgrade(engine)
    with open_storage("sqlite://") as store, Session(engine) as session:
        with store.joined(session):
            store.save_finding(finding(1))
        session.rollback()
        with store.joined(session):
            assert store.list_findings(PROJECT) == []
            store.save_finding(finding(2))
        session.commit()
        with store.joined(session):
            assert ids(store.list_findings(PROJECT)) == [uuid_of(2)]
        session.rollback()
        assert store.list_projects() == []
    engine.dispose()


def test_a_store_in_memory_undoes_nothing_of_an_application() -> None:
    with SQLiteStorageAdapter("sqlite://") as store, Session(store.engine) as session:
        with store.joined(session):
            store.save_finding(finding(1))
        with pytest.raises(
            StorageUnavailableError, match="has changes on the one connection of this database"
        ) as refused:
            store.list_findings(PROJECT)
        assert refused.value.retryable
        session.commit()
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]
        session.execute(text("SELECT 1"))
        store.save_finding(finding(2))  # nothing is lost by it
    assert not store.health().ok


def test_a_finding_that_somebody_removed_past_the_store_is_told_as_damage(
    store: SQLiteStorageAdapter, engine: Engine
) -> None:
    store.ingest(PROJECT, [scanned()])
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM findings"))
    with pytest.raises(StorageIntegrityError, match="findings doctor"):
        store.ingest(PROJECT, [scanned(severity="low")])


# -- configure --------------------------------------------------------------------------------------------------------


def settings_of(engine: Engine) -> dict[str, object]:
    with engine.connect() as connection:
        names = ("foreign_keys", "journal_mode", "busy_timeout")
        return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}


RIGHT = {"foreign_keys": 1, "journal_mode": "wal", "busy_timeout": 60_000}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"poolclass": NullPool},
        {"isolation_level": "AUTOCOMMIT"},
        pytest.param({"connect_args": {"autocommit": False}}, marks=modern),
    ],
    ids=str,
)
def test_configure_makes_an_engine_right(tmp_path: pathlib.Path, options: dict[str, Any]) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}", **options)
    before = settings_of(engine)
    assert before["foreign_keys"] == 0
    with engine.connect() as taken:
        taken.exec_driver_sql("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        taken.exec_driver_sql("CREATE TABLE b (a INTEGER REFERENCES a)")
        taken.commit()
        assert configure(engine) is engine
        configure(engine)
    assert settings_of(engine) == RIGHT, "a connection that was open already"
    with Session(engine) as session, pytest.raises(IntegrityError):
        session.execute(text("INSERT INTO b VALUES (1)"))
        session.commit()
    if options.get("isolation_level") != "AUTOCOMMIT":
        with Session(engine) as session:
            with session.begin_nested():
                session.execute(text("INSERT INTO a VALUES (1)"))
            session.rollback()
            assert session.scalar(text("SELECT count(*) FROM a")) == 0
    engine.dispose()


def test_configure_makes_an_engine_of_asyncio_right(tmp_path: pathlib.Path) -> None:
    engine = configure(create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"))

    def work() -> None:
        assert settings_of(engine.sync_engine) == RIGHT
        with Session(engine.sync_engine) as session:
            session.execute(text("CREATE TABLE a (id INTEGER PRIMARY KEY)"))
            session.commit()
            with session.begin_nested():
                session.execute(text("INSERT INTO a VALUES (1)"))
            session.rollback()
            assert session.scalar(text("SELECT count(*) FROM a")) == 0
        engine.sync_engine.dispose()

    run_in_greenlet(work)


def test_configure_keeps_what_the_application_chose(tmp_path: pathlib.Path) -> None:
    engine = configure(create_engine(f"sqlite:///{tmp_path / 'app.db'}", connect_args={"timeout": 7}))
    assert settings_of(engine) == {**RIGHT, "busy_timeout": 7_000}
    engine.dispose()


def test_configure_takes_engines_of_the_two_databases_only() -> None:
    engine = create_engine("postgresql+psycopg://nobody@localhost/none")
    assert configure(engine) is engine
    for wrong in ("sqlite://", None, engine.connect):
        with pytest.raises(StorageValidationError, match="engine: must be a SQLAlchemy engine"):
            configure(wrong)  # type: ignore[type-var]
