"""Databases up and down the chain of revisions."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Literal, ParamSpec, TypeVar

from sqlalchemy import Connection, column, select, table
from sqlalchemy.engine.mock import MockConnection

from findings_orm.arguments import checked
from findings_orm.errors import SchemaVersionError, StorageError, StorageIntegrityError, readable
from findings_orm.migrations.connecting import Target, describe_target, open_connection
from findings_orm.migrations.scripts import VERSION_TABLE, position_of, revision_chain

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)

OR_MIGRATE = "or open it with migrate=True"
"""How the message about a database that is empty or behind ends, in Python's words."""


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """Where a database stands on the chain of revisions.

    Attributes:
        current: its revision; None for a database without the package's tables.
        head: the newest revision of this release.
        schema_version: the schema version of the findings in it; None without tables, and for a revision that this
            release does not know.
        head_schema_version: the schema version of this release.
        pending: the revisions that an upgrade would run, in order.
    """

    current: str | None
    head: str
    schema_version: str | None
    head_schema_version: str
    pending: list[str]


@checked
def status(target: Target, *, schema: str | None = None) -> DatabaseStatus:
    """Say where a database stands. Nothing is changed or created. For the arguments see `upgrade`.

    Raises:
        StorageUnavailableError: the database can't be reached, or the SQLite file does not exist.
    """
    with open_connection(target, schema=schema) as connection:
        current = current_revision(connection)
    ids = [revision.id for revision in revision_chain()]
    position = -1 if current is None else ids.index(current) if current in ids else len(ids)
    return DatabaseStatus(
        current=current,
        head=ids[-1],
        schema_version=revision_chain()[position].schema_version if current in ids else None,
        head_schema_version=revision_chain()[-1].schema_version,
        pending=ids[position + 1 :],
    )


@checked
def require_current(connection: Connection, *, migrate: bool = False) -> bool:
    """Check, with two statements where it is so, that a database is at the head revision. Nothing is changed or created.

    Args:
        connection: a connection to the database.
        migrate: the caller is going to upgrade, so a database that is behind is no error.

    Returns:
        True: it is at head. False: `upgrade` has to make the tables (an empty database), or to change them (only with
        `migrate`).

    Raises:
        SchemaVersionError: the database is behind (the message has the command that upgrades it), was made by a newer
            release, or has a table ``findings`` that is not the package's.
    """
    current = current_revision(connection)
    where = describe_target(connection)
    if current is None and _has_table(connection, "findings"):
        current = current_revision(connection)  # somebody may have made the tables since the first look
        if current is None:
            raise SchemaVersionError(
                f"{where} has a table findings that findings-orm did not make; use another database or schema"
            )
    if current is None:
        return False
    position_of(current, where)  # refuses what a newer release made
    head = revision_chain()[-1]
    if current == head.id or migrate:
        return current == head.id
    raise SchemaVersionError(
        f"{where} is at revision {current}, this release needs {head.id} (finding schema {head.schema_version}): "
        f"run 'findings db upgrade --url {where}', {OR_MIGRATE}"
    )


def _on_database(function: Callable[P, T]) -> Callable[P, T]:
    """Say why there is nothing to migrate where a revision of an application is written as SQL."""

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        target = args[0] if args else options.get("target")
        if isinstance(target, MockConnection):
            raise StorageError(
                "Alembic has no database where it writes SQL (--sql), so nothing tells what findings need: run this revision "
                "on the database, or have migrations.script(url, revision) write their part"
            )
        return function(*args, **options)

    return call


@_on_database
@checked
def upgrade(
    target: Target,
    revision: str = "head",
    *,
    schema: str | None = None,
    lock_timeout: str | None = None,
    progress: Callable[[str], None] = _log.info,
) -> None:
    """Bring a database up to a revision, with the findings in it, in one transaction: all of it or nothing.

    On PostgreSQL large indexes are built before that transaction, while others write, unless the target is a `Connection`
    inside a transaction, or an earlier pending revision writes all rows anew.

    A SQLite file that does not exist is made. Several upgrades at once are safe: one runs, the others wait and
    find nothing to do. A `Connection` inside a transaction is used as it is, and the caller commits.

    Args:
        target: a URL, an `Engine`, or a `Connection` (which may be inside a transaction).
        revision: a revision, ``head``, or relative as ``+1``. One that the database has passed is left alone.
        schema: the schema of PostgreSQL with the tables, made if it is not there. None: that of the ``schema_translate_map`` of
            an engine or a connection, else the first one of the ``search_path``.
        lock_timeout: how long to wait for a lock on a table on PostgreSQL, as ``5s``.
        progress: is told, in words, what is done now that may take long.

    Raises:
        SchemaVersionError: the revision is unknown, or the database was made by a newer release.
        StorageUnavailableError: the database can't be reached, or stays locked (retryable).
        StorageIntegrityError: what is stored is damaged.
    """
    _check_revision(revision)
    with open_connection(target, create=True, schema=schema) as connection:
        _migrate_connection(connection, describe_target(target), "upgrade", revision, lock_timeout, progress)


@_on_database
@checked
def downgrade(
    target: Target, revision: str, *, schema: str | None = None, lock_timeout: str | None = None
) -> None:
    """Bring a database down to a revision, with the findings in it, in one transaction.

    What the older schema has no room for is kept in `provenance` and comes back with the next upgrade. ``base``
    drops the tables with everything in them. For the rest see `upgrade`.

    Raises:
        SchemaVersionError: the revision is unknown or not below the database's, or the database was made by a newer
            release.
        StorageUnavailableError: the database can't be reached, does not exist, or stays locked (retryable).
        StorageIntegrityError: what is stored is damaged.
    """
    _check_revision(revision)
    with open_connection(target, schema=schema) as connection:
        _migrate_connection(connection, describe_target(target), "downgrade", revision, lock_timeout)


def _migrate_connection(
    connection: Connection,
    where: str,
    direction: Literal["upgrade", "downgrade"],
    revision: str,
    lock_timeout: str | None,
    say: Callable[[str], None] = _log.info,
) -> None:
    from findings_orm.migrations.running import run_revisions

    joined = connection.in_transaction()
    current = current_revision(connection)
    if not joined:
        connection.rollback()
    position_of(current, where)  # refuses what a newer release made
    run_revisions(connection, where, direction, current, revision, lock_timeout, say)


def _check_revision(revision: str) -> None:
    known = [each.id for each in revision_chain()]
    if revision not in ("head", "base", *known) and not re.fullmatch(r"[+-][0-9]{1,9}", revision):
        raise SchemaVersionError(
            f"there is no revision {readable(revision)}; known are {', '.join(known)}, base and head"
        )


def current_revision(connection: Connection) -> str | None:
    """Return the revision of a database; None without the package's tables."""
    if not _has_table(connection, VERSION_TABLE):
        return None
    rows: Sequence[str] = (
        connection.execute(select(column("version_num")).select_from(table(VERSION_TABLE))).scalars().all()
    )
    if len(rows) > 1:
        raise StorageIntegrityError(
            f"{describe_target(connection)}: the table {VERSION_TABLE} has {len(rows)} rows, not one"
        )
    return rows[0] if rows else None


def _has_table(connection: Connection, name: str) -> bool:
    return connection.dialect.has_table(connection, name)
