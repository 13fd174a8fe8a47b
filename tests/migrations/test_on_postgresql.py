from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rows import canonical_documents, children_in, documents_in, fill, tables_in
from sqlalchemy import Connection, Engine, create_engine, event, text

from findings_orm import StorageError, StorageUnavailableError, migrations
from findings_orm.migrations.connecting import engine_of
from findings_orm.migrations.scripts import revision_chain
from findings_orm.migrations.transaction import LOCK

HEAD = revision_chain()[-1].id


@contextmanager
def session(url: str) -> Iterator[Connection]:
    """Yield a connection in a transaction that is rolled back at the end."""
    engine = engine_of(url)
    with engine.connect() as connection:
        yield connection


def in_schema(url: str, name: str) -> Engine:
    """Return an engine whose search path names a schema, which is made."""
    with session(url) as connection:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {name}"))
        connection.commit()
    return create_engine(engine_of(url).url, connect_args={"options": f"-csearch_path={name}"})


def test_another_schema_than_public(postgresql: str) -> None:
    first, second = in_schema(postgresql, "first"), in_schema(postgresql, "second")
    migrations.upgrade(first)
    assert migrations.status(first).current == HEAD
    assert migrations.check(first) == []
    assert migrations.status(second).current is None
    assert migrations.status(postgresql).current is None
    migrations.upgrade(second, "r0001")
    migrations.upgrade(postgresql)
    with first.connect() as connection:
        assert migrations.require_current(connection)
    migrations.downgrade(first, "base")
    assert migrations.status(second).current == "r0001"
    assert migrations.check(postgresql) == []
    first.dispose()
    second.dispose()


def test_another_schema_with_findings_in_it(postgresql: str) -> None:
    engine = in_schema(postgresql, "mine")
    url = f"{postgresql}?options=-csearch_path%3Dmine"
    migrations.upgrade(url)
    documents = canonical_documents()
    fill(url, documents)
    children = children_in(url)
    migrations.downgrade(engine, "r0001")
    migrations.upgrade(engine)
    assert documents_in(url) == documents
    assert children_in(url) == children
    assert migrations.status(postgresql).current is None
    engine.dispose()


def test_a_lock_on_a_table_is_waited_for_no_longer_than_asked(postgresql: str) -> None:
    migrations.upgrade(postgresql, "r0001")
    with session(postgresql) as connection:
        connection.execute(text("LOCK TABLE findings IN ACCESS SHARE MODE"))
        start = time.monotonic()
        with pytest.raises(StorageUnavailableError, match="lock timeout") as refused:
            migrations.upgrade(postgresql, lock_timeout="100ms")
        assert refused.value.retryable
        assert time.monotonic() - start < 5
        assert migrations.status(postgresql).current == "r0001"
    migrations.upgrade(postgresql, lock_timeout="5s")
    assert migrations.check(postgresql) == []


def test_a_lock_timeout_that_makes_no_sense(postgresql: str) -> None:
    with pytest.raises(StorageError, match="lock_timeout"):
        migrations.upgrade(postgresql, lock_timeout="soon'; DROP TABLE x")
    assert tables_in(postgresql) == set()


def test_a_migration_waits_for_another_one_whatever_the_lock_timeout(postgresql: str) -> None:
    with session(postgresql) as connection:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        done = threading.Event()

        def work() -> None:
            migrations.upgrade(postgresql, lock_timeout="50ms")
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        assert not done.wait(0.5)
        connection.rollback()
        thread.join(30)
        assert done.is_set()
    assert migrations.check(postgresql) == []


def test_who_waited_sees_what_the_other_did_whatever_the_isolation(postgresql: str) -> None:
    engine = create_engine(engine_of(postgresql).url, isolation_level="SERIALIZABLE")
    with session(postgresql) as connection:
        migrations.upgrade(connection)
        thread = threading.Thread(target=lambda: migrations.upgrade(engine))
        with connection.begin() if not connection.in_transaction() else connection.begin_nested():
            connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            thread.start()
            time.sleep(0.2)
        connection.commit()
        thread.join(30)
    assert migrations.check(postgresql) == []
    engine.dispose()


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"postgresql://someone:secret@127.0.0.1:{probe.getsockname()[1]}/findings?password=secret"
    for work in (migrations.status, migrations.check, migrations.upgrade):
        with pytest.raises(StorageUnavailableError, match="refused") as refused:
            work(url)
        assert refused.value.retryable
        assert "secret" not in str(refused.value)


def test_a_database_that_is_not_there(postgresql: str) -> None:
    with pytest.raises(StorageUnavailableError, match="does not exist"):
        migrations.status(f"{postgresql}_not")


def test_a_connection_that_breaks_in_the_middle(postgresql: str) -> None:
    engine = engine_of(postgresql)

    def cut(connection: Connection, _: object, statement: str, *__: object) -> None:
        if "ALTER TABLE findings" in statement:
            driver: Any = connection.connection.driver_connection
            own = driver.info.backend_pid
            with session(postgresql) as other:
                other.execute(text(f"SELECT pg_terminate_backend({own}, 5000)"))

    event.listen(engine, "before_cursor_execute", cut)
    with pytest.raises(StorageUnavailableError) as refused:
        migrations.upgrade(engine)
    assert refused.value.retryable
    assert tables_in(postgresql) == set()
    event.remove(engine, "before_cursor_execute", cut)
    migrations.upgrade(engine)
    assert migrations.check(engine) == []


def test_a_role_that_may_not_make_tables(postgresql: str) -> None:
    with session(postgresql) as connection:
        connection.execute(text("DROP ROLE IF EXISTS reader"))
        connection.execute(text("CREATE ROLE reader LOGIN"))
        connection.commit()
    url = postgresql.replace("postgres@", "reader@")
    assert migrations.status(url).current is None
    with pytest.raises(StorageError, match="permission denied"):
        migrations.upgrade(url)
    assert tables_in(postgresql) == set()


@pytest.mark.parametrize("joined", [False, True])
def test_threads_with_the_turn_of_a_database_and_of_alembic_do_not_wait_for_each_other(
    postgresql: str, joined: bool
) -> None:
    """One has made its schema, and waits for Alembic; the other one came first there, and waits for the database."""
    engine = engine_of(postgresql)
    ended = threading.Event()

    def move_mine(connection: Connection) -> None:
        migrations.upgrade(connection)
        connection.commit()
        ended.set()

    def move_others() -> None:
        with engine.connect() as connection:
            if joined:
                connection.begin()
            migrations.upgrade(connection)
            connection.commit()

    with engine.connect() as connection, session(postgresql) as watcher:
        connection.begin()
        migrations.make_schema(connection, "mine")
        threads = [
            threading.Thread(target=move_others),
            threading.Thread(target=move_mine, args=(connection,)),
        ]
        threads[0].start()
        waiting = text("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        while not (found := watcher.execute(waiting).all()):
            time.sleep(0.01)
        threads[1].start()
        if not ended.wait(30):
            watcher.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": found[0][0]})
        for thread in threads:
            thread.join()
        assert found
    assert migrations.status(postgresql).current == HEAD
