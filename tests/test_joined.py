"""Findings in a transaction of the application's own engine, whatever driver and settings that has."""

from __future__ import annotations

import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sessions import SessionStore
from sqlalchemy import Connection, Engine, NullPool, StaticPool, create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from findings_orm import (
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
from findings_orm.orm.models import TABLES
from findings_orm.orm.storage import SqlStore
from findings_orm.testing.contract import FindingStoreContract
from findings_orm.testing.contract.history import PurgeContract
from findings_orm.testing.contract.transactions import LifeContract, ThreadContract, TransactionContract
from findings_orm.testing.samples import PROJECT, finding, ids, scanned, uuid_of

# -- the suite --------------------------------------------------------------------------------------------------------


class Part(TransactionContract, ThreadContract, PurgeContract, LifeContract):
    """The part that depends most on whose connection it is."""


Suite: Any = FindingStoreContract if os.environ.get("FINDINGS_TEST_SCALE") == "full" else Part


class InSession(Suite):  # type: ignore[misc]  # one or the other
    """The suite through sessions of an application's engine."""

    persistent = True
    shared_between_processes = True
    nested = False

    @pytest.fixture
    def store(self, reopen: Callable[[], FindingStore]) -> Iterator[FindingStore]:
        with reopen() as store:
            yield store


class InPlainSQLite(InSession):
    @pytest.fixture
    def reopen(self, open_sqlite: Callable[[], SqlStore]) -> Callable[[], FindingStore]:
        def reopen() -> FindingStore:
            store = open_sqlite()
            return SessionStore(store, create_engine(store.engine.url), nested=self.nested)

        return reopen


@pytest.mark.no_cover
class TestPlainSQLite(InPlainSQLite):
    pass


@pytest.mark.no_cover
class TestPlainSQLiteInSavepoint(InPlainSQLite):
    nested = True


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
