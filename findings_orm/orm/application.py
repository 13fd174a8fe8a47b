"""Engines that an application made: what the store needs of them, put right where that can be done, else refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import OperationalError

from findings_orm.errors import SchemaVersionError, StorageError, StorageValidationError, readable
from findings_orm.migrations.scripts import VERSION_TABLE
from findings_orm.migrations.transaction import quoted_name, schema_of, set_locally
from findings_orm.orm.models import TABLES
from findings_orm.orm.sqlite_text_index import TABLES as TEXT_TABLES
from findings_orm.orm.types import ByDialect
from findings_orm.process import block

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    AnyEngine = TypeVar("AnyEngine", Engine, AsyncEngine)

BUSY_TIMEOUT = 60_000
"""Milliseconds that a connection waits for another writer, where nobody chose that."""

_USUAL_TIMEOUT = 5_000
_KEY = "findings_settings"
_DRIVERS = {
    "sqlite": ("pysqlite", "aiosqlite"),
    "postgresql": ("psycopg", "psycopg_async", "psycopg2", "asyncpg"),
}
"""The drivers of each kind of database whose statements `route` knows."""


# -- an engine, once ------------------------------------------------------------------------------------------------------


def configure(engine: AnyEngine) -> AnyEngine:
    """Give an application's own engine what findings in its database rely on, and return it.

    On SQLite: foreign keys hold, readers don't wait for writers (WAL), a writer waits a minute for another one (unless the
    application chose a timeout), and a transaction begins before a savepoint, so that a rollback undoes what came after it. The
    rest is as SQLAlchemy has it. Connections that are open already have the settings from their next use on.

    On PostgreSQL there is nothing to change. Call it once for an engine, before it is used; once more does no harm.

    Args:
        engine: an `Engine`, or an `AsyncEngine`.

    Raises:
        StorageValidationError: it is no engine, or one of neither SQLite nor PostgreSQL.
    """
    target: object = getattr(engine, "sync_engine", engine)
    if not isinstance(target, Engine) or target.dialect.name not in _DRIVERS:
        raise StorageValidationError.of_field(
            "engine", "must be a SQLAlchemy engine of SQLite or PostgreSQL", engine
        )
    if target.dialect.name == "sqlite" and not event.contains(target, "savepoint", _begin_before_savepoint):
        event.listen(target, "checkout", _apply_settings)
        event.listen(target, "savepoint", _begin_before_savepoint)
    return engine


def _apply_settings(driver: Any, record: Any, _proxy: object) -> None:
    """Give a connection of SQLite its settings as it is taken out of the pool, once: it may be older than `configure`."""
    if _KEY in record.info:
        return
    always_begins = getattr(driver, "autocommit", None) is False
    if always_begins:
        driver.autocommit = True  # the settings have no effect inside a transaction
    if not record.driver_connection.in_transaction:  # that of another thread, where all share one connection
        cursor = driver.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA busy_timeout")
        if cursor.fetchone()[0] == _USUAL_TIMEOUT:
            cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not _means_read_only(error):
                raise
        cursor.close()
        record.info[_KEY] = True
    if always_begins:
        driver.autocommit = False


def _means_read_only(error: object) -> bool:
    return str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_READONLY")


def _begin_before_savepoint(connection: Connection, _name: str) -> None:
    """A savepoint outside of any transaction would be one, and its release a commit."""
    if not _driver_of(connection).in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


# -- an application's own Alembic chain -----------------------------------------------------------------------------------

_OURS = frozenset(
    {
        *(table.name for table in TABLES),
        *(VERSION_TABLE, "finding_kept"),  # the second is there between a downgrade and the next upgrade
        *TEXT_TABLES,
        *(
            f"finding_text_{part}" for part in ("config", "content", "data", "docsize", "idx")
        ),  # FTS5 makes these
    }
)


def include_name(name: str | None, type_: str, _parents: Mapping[str, str | None]) -> bool:
    """Leave the tables of findings to their own migrations: give it to ``context.configure`` in an application's ``env.py``,
    together with `include_object`, so that ``alembic revision --autogenerate`` drops, changes and makes none of them.

    Args:
        name: the name of what was found in the database.
        type_: what that is.
        _parents: the names of what it belongs to.
    """
    return type_ != "table" or name not in _OURS


def include_object(_found: object, name: str | None, type_: str, _reflected: bool, _compared: object) -> bool:
    """See `include_name`; this one is asked about the tables of the application's metadata, which may have ours among them."""
    return type_ != "table" or name not in _OURS


def render_item(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Write columns that have types of our models into generated revisions with plain types of SQLAlchemy: give it to
    ``context.configure``, too, where a table of the application has such columns."""
    return item.rendered if kind == "type" and isinstance(item, ByDialect) else False


# -- a transaction, at each `joined` --------------------------------------------------------------------------------------


def join_transaction(connection: Connection, dialect: str) -> None:
    """Let a store work on an application's connection: the application's rollback has to undo what is done from here on.

    Raises:
        StorageError: the connection is one to another kind of database or of a driver that is not supported, or it commits each
            statement by itself.
    """
    if connection.dialect.name != dialect:
        raise StorageError(
            f"this store is one in {dialect}: it can't work on a connection to {connection.dialect.name}"
        )
    if connection.dialect.driver not in _DRIVERS[dialect]:
        known = ", ".join(_DRIVERS[dialect])
        raise StorageError(
            f"findings are not stored by the driver {connection.dialect.driver}; use one of {known}"
        )
    if not connection.in_transaction():
        connection.begin()
    if dialect == "sqlite":
        _join_on_sqlite(connection)
    elif connection.dialect.detect_autocommit_setting(_adapted_driver_of(connection)):
        raise _without_transactions()


@block
def find_tables(
    connection: Connection, schema: str | None = None, project_id: str | None = None
) -> Iterator[None]:
    """Let an application's transaction find the tables by their bare names as long as the block lasts.

    Args:
        connection: an application's connection, in a transaction.
        schema: the schema of the tables on PostgreSQL, where the connection has no ``schema_translate_map`` that says it.
        project_id: the one project that row-level security shows.

    Raises:
        StorageError: see `schema_of`.
        SchemaVersionError: the schema has not the tables.
    """
    settings = {}
    schema = schema_of(connection, schema)
    if schema is not None and connection.dialect.name == "postgresql":
        name = quoted_name(schema)
        there = text("SELECT to_regclass(:table) IS NOT NULL, current_setting('search_path')")
        has_tables, path = connection.execute(there, {"table": f"{name}.findings"}).one()
        if not has_tables:
            raise SchemaVersionError(
                f"the schema {readable(schema)} has no tables of findings-orm: "
                f"migrations.upgrade(connection, schema={schema!r}) makes them"
            )
        settings["search_path"] = f"{name}, {path}" if path else name
    if project_id is not None:
        settings["findings.project_id"] = project_id
    with set_locally(connection, settings):
        yield


def _join_on_sqlite(connection: Connection) -> None:
    driver = _driver_of(connection)
    if getattr(driver, "autocommit", None) is True:  # its commit() and rollback() do nothing (Python 3.12)
        raise _without_transactions()
    if not driver.in_transaction:
        if connection.dialect.detect_autocommit_setting(_adapted_driver_of(connection)):
            raise _without_transactions()
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except OperationalError as error:
            if not _means_read_only(error.orig):
                raise
            connection.exec_driver_sql("BEGIN")  # to read
        return
    if connection.in_nested_transaction() and not event.contains(
        connection, "release_savepoint", _keep_transaction
    ):
        event.listen(connection, "release_savepoint", _keep_transaction)
    with suppress(OperationalError):  # what only reads does without; a write says then what is the matter
        connection.exec_driver_sql(
            "UPDATE finding_projects SET revision = revision WHERE false"
        )  # locks out writers


def _keep_transaction(connection: Connection, name: str, _context: object) -> None:
    """Let the release of a savepoint not be a commit. It is one where nothing began a transaction before it, which SQLite does
    not tell: so one of the same name is released, and that of the application stays until its transaction ends."""
    connection.exec_driver_sql(f"SAVEPOINT {connection.dialect.identifier_preparer.quote(name)}")


def _without_transactions() -> StorageError:
    return StorageError(
        "this connection commits each statement by itself (AUTOCOMMIT), so that a rollback of the application would undo "
        "nothing: join one with transactions, of an engine like findings_orm.orm.configure(create_engine(url))"
    )


def _driver_of(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _adapted_driver_of(connection: Connection) -> Any:
    """Return the driver's connection as the dialect takes it: one of an async driver behind SQLAlchemy's sync face."""
    return connection.connection.dbapi_connection
