"""What an application has made over the tables of findings, while a migration changes them: views and triggers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import count
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from findings_orm.driver_errors import sqlstate_of
from findings_orm.errors import StorageError, readable
from findings_orm.process import block


class Dependent(NamedTuple):
    """A view or a trigger on SQLite: its kind, its name, the table that a trigger is on (or the view's name), its statement."""

    kind: str
    name: str
    table: str
    sql: str


@block
def keep_dependents(connection: Connection, ours: Collection[str]) -> Iterator[None]:
    """Run a migration in the block; afterwards the application's views and triggers are there as before, or it is refused.

    SQLite rewrites tables, and fails where a view or a trigger has the name of one that it just dropped, so these are put aside
    meanwhile (no trigger runs) and made again. PostgreSQL keeps them, unless a column that one uses changes.

    Args:
        connection: a connection in the transaction of the migration.
        ours: the names of triggers that belong to this package.

    Raises:
        StorageError: one of them can't be as it was. The migration has to be rolled back.
    """
    if connection.dialect.name == "sqlite":
        yield from _keep_on_sqlite(connection, ours)
        return
    try:
        yield
    except DBAPIError as error:
        if sqlstate_of(error.orig) not in _DEPENDED_ON:
            raise
        raise StorageError(
            "a view or another object of the application uses what this migration changes; drop it, migrate, and make it again "
            f"(pg_get_viewdef() has the definition of a view); nothing was changed: {error.orig}"
        ) from error


_DEPENDED_ON = ("2BP01", "0A000")
"""A column with dependents is dropped; its type is changed."""


def _keep_on_sqlite(connection: Connection, ours: Collection[str]) -> Iterator[None]:
    faults = {one: _faults_of(connection, one) for one in _dependents(connection) if one.name not in ours}
    for one in reversed(list(faults)):
        connection.exec_driver_sql(f"DROP {one.kind} {_quoted(one.name)}")
    yield
    for one in faults:
        if one.kind == "view":
            connection.exec_driver_sql(one.sql)
    there = set(
        connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type <> 'trigger'").scalars()
    )
    for one, known in faults.items():
        if one.kind == "trigger" and one.table in there:
            connection.exec_driver_sql(one.sql)
            _refuse_new(connection, one, known)  # alone: a fault is that of the table, with all triggers
    for one, known in faults.items():
        _refuse_new(connection, one, known)


def _refuse_new(connection: Connection, one: Dependent, known: Collection[str]) -> None:
    for fault in sorted(_faults_of(connection, one) - set(known)):
        raise StorageError(
            f"the {one.kind} {readable(one.name)} of the application can't be made again after this migration ({fault}): "
            f"drop it, migrate, and make another one. Nothing was changed. It is {one.sql}"
        )


def _dependents(connection: Connection) -> list[Dependent]:
    sql = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE type IN ('view', 'trigger') ORDER BY type DESC, rowid"
    return [Dependent(*row) for row in connection.exec_driver_sql(sql)]


def _faults_of(connection: Connection, one: Dependent) -> set[str]:
    """Return what SQLite says as it compiles the view, or the changes of the table that may run the trigger; nothing for a
    trigger whose table was dropped, which it goes with."""
    table = _quoted(one.table)
    if one.kind == "view":
        return _errors_of(connection, [f"SELECT * FROM {table}"])  # noqa: S608  # a name
    try:
        rows = connection.exec_driver_sql(f"PRAGMA table_info({table})").all()
    except OperationalError as error:
        return {str(error.orig)}
    if not rows:
        return set()
    columns = [_quoted(row[1]) for row in rows]
    sets = ", ".join(f"{column} = {column}" for column in columns)
    changes = [f"DELETE FROM {table}", f"INSERT INTO {table} DEFAULT VALUES", f"UPDATE {table} SET {sets}"]  # noqa: S608  # a name
    watched = _WATCHED.search(one.sql)
    named = {name.strip(' \t\r\n"`[]') for name in watched[1].split(",")} if watched else set()
    missing = {name for name in named if name.lower() not in {row[1].lower() for row in rows}}
    return _errors_of(connection, changes) | {f"no such column: {name}" for name in missing}


_WATCHED = re.compile(r"\bUPDATE\s+OF\s+(.+?)\s+ON\s", re.IGNORECASE | re.DOTALL)
"""The columns of a trigger; SQLite takes one that is not there, and never runs it."""


_NUMBERS = count()


def _errors_of(connection: Connection, statements: Collection[str]) -> set[str]:
    errors = set()
    for statement in statements:
        try:
            # A number, as a statement that the driver has kept is explained as it was.
            connection.exec_driver_sql(f"EXPLAIN /* {next(_NUMBERS)} */ {statement}").close()
        except OperationalError as error:
            errors.add(str(error.orig))
    return {
        error for error in errors if not error.startswith("cannot modify")
    }  # a view that has not all its triggers


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
