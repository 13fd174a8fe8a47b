"""Prepared statements that are not those of the server: what an application meets behind a pooler in transaction mode.

What such a pooler does is done to a real server: the statements of a connection are others when its next transaction begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sessions import sql_store, with_driver
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from findings_orm import StorageError, StorageUnavailableError, migrations, open_storage
from findings_orm.orm import route
from findings_orm.orm.storage import SqlStore
from findings_orm.testing.samples import PROJECT, finding, scanned

GONE = "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"
"""The driver does not see what that does."""
OTHERS = """DO $$ DECLARE each record; BEGIN
    FOR each IN SELECT name FROM pg_prepared_statements LOOP
        EXECUTE format('DEALLOCATE %I', each.name);
        EXECUTE format('PREPARE %I (text, text, text, text, text, text, text) AS SELECT $1, $2, $3, $4, $5, $6, $7', each.name);
    END LOOP;
END $$"""
TAKEN = """DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT unnest(ARRAY['_pg3_' || n, '__asyncpg_stmt_' || to_hex(n) || '__']) FROM generate_series(0, 1000) n
        EXCEPT SELECT p.name FROM pg_prepared_statements p LOOP
        EXECUTE format('PREPARE %I AS SELECT 1', name);
    END LOOP;
END $$"""
CAUSE = r"a pooler in transaction mode \(PgBouncer\) gives each transaction another connection to the server"
PSYCOPG = rf"{CAUSE}.*\"prepare_threshold\": None.*max_prepared_statements"
ASYNCPG = (
    rf"{CAUSE}.*\"statement_cache_size\": 0, \"prepared_statement_cache_size\": 0.*max_prepared_statements"
)
EAGER = {"connect_args": {"prepare_threshold": 0}}


def write_and_read(store: SqlStore, connection: Connection) -> None:
    with store.joined(connection) as unit:
        unit.ingest(PROJECT, [scanned("R1")])
        unit.list_findings(PROJECT)


def refuse(message: str, work: Callable[[], object], *known: str) -> None:
    with pytest.raises(StorageUnavailableError, match=message) as caught:
        work()
    assert not caught.value.retryable
    assert any(words in str(caught.value) for words in known)


def run_with_engine(url: str, driver: str, options: dict[str, Any], work: Callable[[Engine], object]) -> None:
    """Call `work` with an engine of an application; of a driver for asyncio with its sync face, in a greenlet."""

    async def main() -> None:
        engine = create_async_engine(with_driver(url, driver), **options)
        try:
            await greenlet_spawn(work, engine.sync_engine)
        finally:
            await engine.dispose()

    if driver != "psycopg":
        asyncio.run(main())
        return
    engine = create_engine(with_driver(url, driver), **options)
    try:
        work(engine)
    finally:
        engine.dispose()


def change_statements(engine: Engine, sql: str) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql(sql.replace("%", "%%") if engine.dialect.driver == "psycopg" else sql)
        connection.commit()


@pytest.mark.parametrize(
    ("change", "known"),
    [(GONE, "does not exist"), (TAKEN, "already exists"), (OTHERS, "requires 7")],
    ids=["gone", "taken", "others"],
)
@pytest.mark.parametrize("driver", ["psycopg", "async psycopg", "asyncpg"])
def test_an_engine_of_an_application_is_told_the_setting(
    emptied_postgresql_url: str, driver: str, change: str, known: str
) -> None:
    def work(engine: Engine) -> None:
        with engine.connect() as connection:
            if change != TAKEN:
                write_and_read(store, connection)
                connection.commit()
        change_statements(engine, change)
        with engine.connect() as connection:
            message = ASYNCPG if driver == "asyncpg" else PSYCOPG
            refuse(message, lambda: write_and_read(store, connection), known)

    with sql_store(emptied_postgresql_url) as store:
        run_with_engine(emptied_postgresql_url, driver, {} if driver == "asyncpg" else EAGER, work)


def test_a_store_that_prepares_is_told_the_setting(emptied_postgresql_url: str) -> None:
    with open_storage(emptied_postgresql_url, prepare=True, pool_size=1, max_overflow=0) as store:
        assert isinstance(store, SqlStore)
        store.save_finding(finding(1))
        for _ in range(8):
            store.get_finding(PROJECT, finding(1)["id"])
        change_statements(store.engine, GONE)
        refuse(PSYCOPG, lambda: store.get_finding(PROJECT, finding(1)["id"]), "does not exist")


def test_a_migration_on_such_a_connection_is_told_the_setting(emptied_postgresql_url: str) -> None:
    def work(engine: Engine) -> None:
        with engine.begin() as connection:
            migrations.check(connection)
        change_statements(engine, GONE)
        with engine.connect() as connection:
            refuse(PSYCOPG, lambda: migrations.check(connection), "does not exist")

    run_with_engine(emptied_postgresql_url, "psycopg", EAGER, work)


def test_an_error_leaves_no_statement_in_the_way_of_the_next_session(
    emptied_postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What asks the server for the types of parameters is refused half-way, as by its statement_timeout."""

    def work(engine: Engine) -> None:
        @event.listens_for(engine, "before_cursor_execute", retval=True)
        def break_question(_c: object, _d: object, sql: str, given: object, *_: object) -> tuple[str, object]:
            return (sql.replace("parameter_types::text[]", "1 / 0"), given) if broken else (sql, given)

        broken = True
        with engine.connect() as connection, pytest.raises(StorageError, match="division by zero"):
            write_and_read(store, connection)
        broken = False
        with engine.connect() as connection:
            write_and_read(store, connection)

    monkeypatch.setattr(route, "_TYPED", {})
    with sql_store(emptied_postgresql_url) as store:
        run_with_engine(emptied_postgresql_url, "asyncpg", {}, work)
