"""Alembic at work: the only module that runs it, and loaded only for that."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import alembic.context
import alembic.op
from alembic import command
from alembic.util import CommandError
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DBAPIError

from findings_orm.driver_errors import sqlstate_of
from findings_orm.errors import SchemaVersionError
from findings_orm.migrations.scripts import goal_of, large_indexes, new_config, revision_chain
from findings_orm.migrations.transaction import migration_transaction
from findings_orm.process import block

# -- large indexes on PostgreSQL, built before the transaction of an upgrade, while others write ----------
# A revision names them as ``LARGE_INDEXES``: name to the rest of ``CREATE INDEX``, the table first. In its `upgrade` it makes
# them ``IF NOT EXISTS``, so that it does the same without this. An index that was built for an upgrade which then failed does
# no harm.


ATTEMPTS = 5
POLL = 0.1
"""Seconds between two looks at an index that another migrator is building."""

_MET_ANOTHER = ("42P07", "23505", "40P01", "XX000")
"""Another migrator makes or drops the same index. XX000: where two drop one at once, that is an internal error for PostgreSQL
("tuple concurrently updated")."""
_NOT_YET = ("42P01", "42703", "42704", "42804", "42883")
"""The table or a column is not there, or not yet of its type: the revisions before make it so."""


def prebuild_indexes(
    connection: Connection,
    current: str | None,
    goal: str,
    lock_timeout: str | None,
    say: Callable[[str], None],
) -> None:
    """Build the large indexes of the revisions that an upgrade is going to run. Does nothing inside a transaction.

    What an interrupted build left is dropped first. Several migrators at once are safe: one builds, the others wait.

    Args:
        connection: to the database; on others than PostgreSQL there is nothing to do.
        current: its revision.
        goal: where the upgrade leads.
        lock_timeout: how long to wait for a lock, as ``5s``; the server's setting if None.
        say: is told of each index.
    """
    if connection.dialect.name != "postgresql" or connection.in_transaction():
        return
    wanted = _pending_indexes(current, goal)
    places = {
        table: _schema_of_table(connection, table)
        for table in {_table_of_index(each) for each in wanted.values()}
    }
    connection.rollback()
    left = {name: each for name, each in wanted.items() if places[_table_of_index(each)] is not None}
    if not left:
        return
    with _outside_of_transactions(connection, lock_timeout):
        for number, (name, definition) in enumerate(left.items(), 1):
            say(f"building index {name} ({number} of {len(left)}), others go on")
            _build_index(connection, str(places[_table_of_index(definition)]), name, definition)


def _pending_indexes(current: str | None, goal: str) -> dict[str, str]:
    """Return the indexes of the pending revisions, up to one that writes all rows, and so all indexes, anew."""
    ids = [revision.id for revision in revision_chain()]
    if current not in ids:
        return {}
    try:
        end = goal_of(current, goal)
    except SchemaVersionError:  # Alembic knows other names too, as the beginning of one; or refuses it
        return {}
    found: dict[str, str] = {}
    for revision in revision_chain()[ids.index(current) + 1 : end]:
        if revision.work:
            break
        found |= large_indexes(revision.id)
    return found


def _table_of_index(definition: str) -> str:
    return definition.partition(" ")[0]


def _schema_of_table(connection: Connection, table: str) -> str | None:
    """Return the quoted schema of a table; None if it is not there, or partitioned, which PostgreSQL has no such builds for."""
    found = connection.execute(
        text(
            "SELECT quote_ident(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.oid = to_regclass(:name) AND c.relkind = 'r'"
        ),
        {"name": table},
    )
    return found.scalar()


@block
def _outside_of_transactions(connection: Connection, lock_timeout: str | None) -> Iterator[None]:
    driver: Any = connection.connection.dbapi_connection
    isolation = "AUTOCOMMIT" if driver.autocommit else connection.get_isolation_level()
    connection.rollback()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    before = connection.execute(text("SELECT current_setting('lock_timeout')")).scalar_one()
    try:
        _wait_at_most(connection, lock_timeout or before)
        yield
    finally:
        if not connection.closed and not connection.invalidated:
            _wait_at_most(connection, before)
            connection.rollback()
            connection.execution_options(isolation_level=isolation)


def _wait_at_most(connection: Connection, lock_timeout: str) -> None:
    connection.execute(text("SELECT set_config('lock_timeout', :timeout, false)"), {"timeout": lock_timeout})


def _build_index(connection: Connection, schema: str, name: str, definition: str) -> None:
    for attempt in range(ATTEMPTS):
        if _is_index_valid(connection, schema, name, definition):
            return
        try:
            connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {_escape_colons(schema)}.{name}"))
            connection.execute(
                text(
                    f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {_escape_colons(schema)}.{definition}"
                )
            )
        except DBAPIError as error:
            state = sqlstate_of(error.orig)
            if state in _NOT_YET:
                return
            if state not in _MET_ANOTHER or attempt == ATTEMPTS - 1:
                raise


def _escape_colons(schema: str) -> str:
    """Return a name for `text`."""
    return schema.replace(":", "\\:")


def _is_index_valid(connection: Connection, schema: str, name: str, definition: str) -> bool:
    """Return whether there is a whole index, once nobody builds one of the table any more."""
    building = text(
        "SELECT 1 FROM pg_stat_progress_create_index WHERE relid = to_regclass(:table) AND pid <> pg_backend_pid()"
    )
    while connection.execute(building, {"table": f"{schema}.{_table_of_index(definition)}"}).first():
        time.sleep(POLL)
    valid = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:index)")
    return bool(connection.execute(valid, {"index": f"{schema}.{name}"}).scalar())


# -- alembic at work: the only module that runs it, and loaded only for that ------------------------------


_ONE_AT_A_TIME = threading.RLock()  # Alembic keeps the running migration in module globals


def run_revisions(
    connection: Connection,
    where: str,
    direction: Literal["upgrade", "downgrade"],
    current: str | None,
    revision: str,
    lock_timeout: str | None,
    say: Callable[[str], None],
) -> None:
    """Run the revisions between where a database stands (`current`) and `revision`, as ``env.py`` says; `say` is told what
    takes time.

    On PostgreSQL the turn of this database comes before the turn of this process: a caller's transaction may have the one
    already, and would wait for ever for a thread that has the other.

    Raises:
        SchemaVersionError: there is no way to the revision.
    """
    config = new_config()
    config.attributes["connection"] = connection
    config.attributes["lock_timeout"] = lock_timeout
    move: Callable[..., None] = getattr(command, direction)
    turn: AbstractContextManager[None] = nullcontext()
    if connection.dialect.name == "postgresql":
        if direction == "upgrade":
            prebuild_indexes(connection, current, revision, lock_timeout, say)
        turn = migration_transaction(connection, frozenset(), lock_timeout=lock_timeout)
    with turn, _lock_alembic(where):
        move(config, revision)


def write_sql(
    where: str,
    url: URL,
    direction: Literal["upgrade", "downgrade"],
    start: str,
    end: str,
    *,
    new_schema: bool = False,
) -> str:
    """Return the SQL of the revisions between two.

    Args:
        where: the database, for messages.
        url: says which dialect, and which schema of PostgreSQL.
        direction: up or down.
        start: the revision of the database.
        end: the revision afterwards.
        new_schema: make that schema.

    Raises:
        SchemaVersionError: a revision can't be written as SQL.
    """
    config = new_config()
    config.attributes["url"] = url.render_as_string()
    config.attributes["new_schema"] = new_schema
    config.output_buffer = io.StringIO()
    move: Callable[..., None] = getattr(command, direction)
    with _lock_alembic(where):
        move(config, f"{start}:{end}", sql=True)
    return config.output_buffer.getvalue()


@block
def _lock_alembic(where: str) -> Iterator[None]:
    """Let one thread work with Alembic, turn its errors, give a migration of the application its state back."""
    with _ONE_AT_A_TIME:
        outer: list[Any] = [getattr(module, "_proxy", None) for module in (alembic.context, alembic.op)]
        try:
            yield
        except CommandError as error:
            raise SchemaVersionError(f"{where}: {error}") from error
        finally:
            for proxy in outer:
                if proxy is not None:
                    proxy._install_proxy()  # Alembic runs one at a time, and has no public way to give the turn back
