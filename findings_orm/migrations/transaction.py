"""The one transaction of a migration: it has the database to itself, and leaves all of it done or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import SQLAlchemyError

from findings_orm.arguments import checked
from findings_orm.errors import StorageError, StorageIntegrityError, readable
from findings_orm.finding import check_plain_text
from findings_orm.process import block

LOCK = int.from_bytes(b"findings", "big")
"""The key of the advisory lock on PostgreSQL."""


@checked
def make_schema(connection: Connection, name: str) -> None:
    """Make a schema on PostgreSQL if it is not there, in the transaction that has begun; of several at once, one does.

    Raises:
        StorageError: the database is no PostgreSQL, which alone has schemas.
    """
    check_plain_text("name", name, empty=False)
    if connection.dialect.name != "postgresql":
        raise StorageError(f"only PostgreSQL has schemas, {connection.dialect.name} has none")
    known = text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
    if connection.execute(known, {"name": name}).first():
        return
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    if not connection.execute(known, {"name": name}).first():
        connection.exec_driver_sql(
            f"CREATE SCHEMA {connection.dialect.identifier_preparer.quote_identifier(name)}"
        )


def schema_of(connection: Connection, given: str | None = None) -> str | None:
    """Return the schema that the tables are in: the one that is given, or that of the ``schema_translate_map`` by which an
    application's ORM finds them on this connection. None leaves that to the ``search_path``.

    Raises:
        StorageError: they differ, or the database is SQLite, which has no schemas.
    """
    translated = (connection.get_execution_options().get("schema_translate_map") or {}).get(None)
    if given is not None and translated not in (None, given):
        raise StorageError(
            f"the schema is to be {readable(given)}, but the schema_translate_map of this connection (or its URL) says "
            f"{readable(translated)}"
        )
    schema = translated if given is None else given
    if connection.dialect.name == "sqlite" and schema not in (None, "main"):
        raise StorageError(
            f"a SQLite database has no schema, so that the tables can't be in {readable(schema)}: "
            "leave out the schema, or the schema_translate_map"
        )
    return schema


@block
def work_in_schema(connection: Connection, schema: str | None, *, create: bool = False) -> Iterator[None]:
    """Let names of tables mean those in a schema of PostgreSQL, in the transaction that has begun or in all that begin in the
    block. After it they mean what they meant before.

    Args:
        connection: a connection to PostgreSQL, unless `schema` is None.
        schema: the schema; None changes nothing.
        create: make the schema if it is not there.
    """
    if schema is None or connection.dialect.name != "postgresql":
        yield
        return
    path = {"search_path": quoted_name(schema)}

    def enter(connection: Connection) -> None:
        if create:
            make_schema(connection, schema)
        _set(connection, path)

    if connection.in_transaction():
        with set_locally(connection, path):
            enter(connection)
            yield
        return
    event.listen(connection, "begin", enter)
    try:
        yield
    finally:
        event.remove(connection, "begin", enter)


@block
def set_locally(connection: Connection, settings: Mapping[str, str]) -> Iterator[None]:
    """Give settings of PostgreSQL other values in the transaction that has begun, and at the end of the block those that they
    had."""
    before = {name: connection.execute(_ASK, {"name": name}).scalar_one() for name in settings}
    _set(connection, settings)
    try:
        yield
    finally:
        with suppress(SQLAlchemyError):  # the transaction failed, and its rollback does that
            _set(connection, before)


def _set(connection: Connection, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        connection.execute(_SET, {"name": name, "value": value})


_ASK = text("SELECT coalesce(current_setting(:name, true), '')")
_SET = text("SELECT set_config(:name, :value, true)")


def quoted_name(name: str) -> str:
    """Return an identifier of PostgreSQL in quotation marks."""
    return '"' + name.replace('"', '""') + '"'


@block
def migration_transaction(
    connection: Connection, tables: frozenset[str], *, lock_timeout: str | None = None
) -> Iterator[None]:
    """Run the block in a transaction in which no other migration runs; others wait.

    Inside a transaction of the caller the block joins it, and the caller commits. Otherwise it is committed here when
    the block ends well, and rolled back when it raises.

    Args:
        connection: a connection to SQLite or PostgreSQL.
        tables: the tables whose foreign keys are checked before the commit on SQLite.
        lock_timeout: how long to wait for a lock on a table on PostgreSQL, as ``5s``; the server's setting if None.

    Raises:
        StorageIntegrityError: rows of a table refer to rows that don't exist.
    """
    if connection.dialect.name == "sqlite":
        yield from _run_on_sqlite(connection, tables)
    else:
        yield from _run_on_postgresql(connection, lock_timeout)


def _run_on_postgresql(connection: Connection, lock_timeout: str | None) -> Iterator[None]:
    if connection.in_transaction():
        _lock_database(connection, lock_timeout)
        yield
        return
    # Read committed: what others committed while this one waited for the lock has to be seen.
    isolation = _isolation_level(connection)
    connection.execution_options(isolation_level="READ COMMITTED")
    try:
        with connection.begin():
            _lock_database(connection, lock_timeout)
            yield
    finally:
        if not connection.closed and not connection.invalidated:
            _driver_of(connection).rollback()  # a failed commit leaves it inside the transaction
            connection.execution_options(isolation_level=isolation)


def _isolation_level(connection: Connection) -> object:
    if connection.dialect.detect_autocommit_setting(_driver_of(connection)):
        return "AUTOCOMMIT"
    return connection.get_isolation_level()


def _driver_of(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


def _lock_database(connection: Connection, lock_timeout: str | None) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    if lock_timeout is not None:
        connection.execute(
            text("SELECT set_config('lock_timeout', :timeout, true)"), {"timeout": lock_timeout}
        )


def _run_on_sqlite(connection: Connection, tables: frozenset[str]) -> Iterator[None]:
    driver = _driver_of(connection)
    state: Any = connection.connection.driver_connection  # the same, unless that is of asyncio
    if connection.in_transaction():
        if not state.in_transaction:  # the driver would begin one only before data are changed
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield from _check_references(connection, state, tables)
        return
    isolation = driver.isolation_level
    # The driver would commit before DDL; and a pragma has no effect inside a transaction.
    driver.isolation_level = None
    enforced = driver.execute("PRAGMA foreign_keys").fetchone()[0]
    driver.execute("PRAGMA foreign_keys = OFF")
    try:
        with connection.begin():
            if state.in_transaction:  # a listener of the application began one that does not lock
                driver.execute("ROLLBACK")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield from _check_references(connection, state, tables)
    finally:
        if state.in_transaction:  # a failed commit; to set the level would commit it after all
            driver.execute("ROLLBACK")
        driver.execute(f"PRAGMA foreign_keys = {enforced}")
        driver.isolation_level = isolation


def _check_references(connection: Connection, state: Any, tables: frozenset[str]) -> Iterator[None]:
    before = state.total_changes
    yield
    if state.total_changes == before:  # nothing to do, so nothing to read through
        return
    for table in sorted(name for name in tables if connection.dialect.has_table(connection, name)):
        broken = connection.exec_driver_sql(f'PRAGMA foreign_key_check("{table}")').fetchall()
        if broken:
            raise StorageIntegrityError(
                f"{len(broken)} rows of {table} refer to rows of {broken[0][2]} that don't exist; nothing was changed"
            )
