"""The text index of a database, which an operator makes and drops: searches give the same answers with it and without.

It is no part of the schema that revisions make: it costs imports more than most stores gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from sqlalchemy import Connection, inspect

from findings_orm.arguments import checked
from findings_orm.errors import SchemaVersionError, StorageUnavailableError
from findings_orm.migrations.connecting import Target, describe_target, open_connection
from findings_orm.migrations.transaction import migration_transaction
from findings_orm.orm import postgresql_text_index, sqlite_text_index
from findings_orm.process import block

STEPS = 20
"""How many batches are indexed between two commits, at which others may write."""

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class TextIndexStatus:
    """What a database has of a text index.

    Attributes:
        state: ``ready``; ``absent``; ``incomplete``: parts are missing or invalid, and searches read the projects (make it
            again).
        findings: how many findings it knows; on PostgreSQL an estimate.
        waiting: those of them that are not indexed yet, and that every search of their project reads.
        removed: entries of findings that were changed or removed since; to make the index again removes them.
        size: its bytes.
    """

    state: Literal["ready", "absent", "incomplete"]
    findings: int = 0
    waiting: int = 0
    removed: int = 0
    size: int = 0


@checked
def create(target: Target, *, progress: Progress | None = None) -> TextIndexStatus:
    """Make the text index of a database, or complete it; one that is ready stays as it is.

    Others may read and write meanwhile. Interrupted, it leaves an index that is exact and goes on when it is called again.

    Args:
        target: a URL, an `Engine`, or a `Connection` (inside a transaction all is done in that).
        progress: is told how many findings each step indexed (SQLite).

    Raises:
        SchemaVersionError: the database has no tables of this package.
        StorageUnavailableError: the database can't be reached; SQLite is built without FTS5 or older than 3.34; PostgreSQL
            lacks an extension, or the role the right to it.
    """
    with open_connection(target) as connection:
        if connection.dialect.name == "postgresql":
            postgresql_text_index.create(connection, describe_target(target))
        else:
            _create_on_sqlite(connection, describe_target(target), progress or (lambda _: None))
        return _read_status(connection)


@checked
def drop(target: Target) -> bool:
    """Drop the text index of a database; return whether there was any of it.

    Raises:
        StorageUnavailableError: the database can't be reached, or SQLite is built without FTS5.
    """
    with open_connection(target) as connection:
        joined = connection.in_transaction()
        found = _read_status(connection).state
        if not joined:
            connection.rollback()
        if found != "absent":
            with migration_transaction(connection, frozenset()):
                _drop_index(connection, describe_target(target))
        return found != "absent"


@checked
def status(target: Target) -> TextIndexStatus:
    """Say what a database has of a text index.

    Raises:
        StorageUnavailableError: the database can't be reached.
    """
    with open_connection(target) as connection:
        return _read_status(connection)


@block
def keep_text_index(connection: Connection) -> Iterator[None]:
    """Run a migration in the block, and make the index of SQLite again where that rebuilt the table below it.

    Where the older schema has not the columns, what is left of the index waits, unused, for the way up.
    """
    if connection.dialect.name != "sqlite" or not sqlite_text_index.is_supported():
        yield
        return
    run = _run_on(connection)
    wanted, whole = sqlite_text_index.count_parts(run) > 0, sqlite_text_index.has_index(run)
    if wanted:
        sqlite_text_index.stop_watching_columns(run)
    yield
    if not wanted:
        return
    if not inspect(connection).has_table("findings"):
        sqlite_text_index.drop_index(run)
    elif {"rule_id", "location"} <= {
        column["name"] for column in inspect(connection).get_columns("findings")
    }:
        if whole and sqlite_text_index.watch_columns(run):
            return
        sqlite_text_index.drop_index(run)
        sqlite_text_index.make_index(run)
        for project_id in sqlite_text_index.waiting(run):
            for _ in sqlite_text_index.index_waiting(run, _run_many_on(connection), project_id):
                pass


def _read_status(connection: Connection) -> TextIndexStatus:
    if connection.dialect.name == "postgresql":
        named, valid, findings, size = postgresql_text_index.index_figures(connection)
        if not named:
            return TextIndexStatus("absent")
        return TextIndexStatus("ready" if named == 2 and valid else "incomplete", findings, size=size)
    run = _run_on(connection)
    if sqlite_text_index.count_parts(run) == 0:
        return TextIndexStatus("absent")
    if not sqlite_text_index.has_index(run):
        return TextIndexStatus("incomplete")
    findings, waiting, removed, size = sqlite_text_index.index_figures(run)
    return TextIndexStatus("ready", findings, waiting, removed, size)


def _drop_index(connection: Connection, where: str) -> None:
    if connection.dialect.name == "postgresql":
        postgresql_text_index.drop(connection)
    else:
        _need_fts5(where)
        sqlite_text_index.drop_index(_run_on(connection))


def _create_on_sqlite(connection: Connection, where: str, progress: Progress) -> None:
    _need_fts5(where)
    joined = connection.in_transaction()
    run, run_many = _run_on(connection), _run_many_on(connection)
    if not inspect(connection).has_table("findings"):
        raise SchemaVersionError(f"{where} has no tables of findings-orm yet: run 'findings db upgrade'")
    if not joined:
        connection.rollback()
    with migration_transaction(connection, frozenset()):
        if not sqlite_text_index.has_index(run):
            sqlite_text_index.drop_index(run)
            sqlite_text_index.make_index(run)
        projects = sqlite_text_index.waiting(run)
    for project_id in projects:
        counts = [0]
        while counts:
            with migration_transaction(connection, frozenset()):
                steps = sqlite_text_index.index_waiting(run, run_many, project_id)
                counts = list(islice(steps, STEPS))
            progress(sum(counts))


def _need_fts5(where: str) -> None:
    if not sqlite_text_index.is_supported():
        raise StorageUnavailableError(
            f"{where}: a text index needs SQLite 3.34 or newer with FTS5, which Python here is not built with; searches give "
            "the same answers without it, and read the project"
        )


def _run_on(connection: Connection) -> sqlite_text_index.Run:
    def run(sql: str, parameters: Any) -> list[Any]:
        result = connection.exec_driver_sql(sql, tuple(parameters))
        return list(result.all()) if result.returns_rows else []

    return run


def _run_many_on(connection: Connection) -> sqlite_text_index.RunMany:
    def run_many(sql: str, rows: Any) -> None:
        if rows:
            connection.exec_driver_sql(sql, list(rows))

    return run_many
