"""What an upgrade or a downgrade would do to a database, said before it is done."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sqlalchemy import URL, Connection, inspect, text

from findings_orm.arguments import checked
from findings_orm.errors import SchemaVersionError, StorageError
from findings_orm.migrations.connecting import Target, describe_target, open_connection
from findings_orm.migrations.database import status
from findings_orm.migrations.scripts import Revision, goal_of, position_of, revision_chain
from findings_orm.migrations.transaction import schema_of

Direction = Literal["upgrade", "downgrade"]

ROWS_A_SECOND = {"postgresql": 2_500, "sqlite": 5_000}
"""How many findings a revision that writes them all does at least: measured where each has values that are put aside, on a
small and busy server. Where few have such values it is five times as fast."""

SIZES_NEEDED = {"postgresql": 5, "sqlite": 2}
"""How many times the size of the findings such a revision needs at most: old rows, which stay until the end, rows that are
written twice, and the log (WAL, journal)."""

_TOUCHED = (
    r"^(?:ALTER TABLE|DROP TABLE|UPDATE|DELETE FROM|INSERT INTO|CREATE POLICY \w+ ON|DROP POLICY \w+ ON|"
    r"CREATE (?:UNIQUE )?INDEX (?:IF NOT EXISTS )?\w+ ON) (\w+)"
)


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One revision that would run.

    Attributes:
        revision: its identifier.
        schema_version: the schema version of findings afterwards; None below the first revision.
        work: what it does to the rows, in words; "" where that takes no time.
        rows: how many findings it has to write anew.
        space: bytes that it needs meanwhile, besides those in use.
        locks: the tables that nobody else can use from then on until the end (PostgreSQL); ``database`` on SQLite, where
            nobody else can write.
    """

    revision: str
    schema_version: str | None
    work: str
    rows: int
    space: int
    locks: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """What a migration would do. All steps are one transaction, which can be killed at any time.

    Attributes:
        database: which one, without its password.
        direction: ``upgrade`` or ``downgrade``.
        current: the revision of the database now; None without tables.
        target: the revision afterwards; None for no tables.
        findings: how many findings there are.
        size: bytes of the table of findings with its indexes on PostgreSQL, of the whole file on SQLite.
        steps: the revisions, in order; none where there is nothing to do.
        space: bytes that are needed meanwhile, besides those in use.
        free: bytes that are free where a SQLite file is; None where that is not known.
        seconds: about how long it takes at most, and others have to wait; see `ROWS_A_SECOND`.
        readers, writers: what others meet meanwhile, in words.
        backup: why a backup is advised before, in words; "" where it is not.
    """

    database: str
    direction: Direction
    current: str | None
    target: str | None
    findings: int
    size: int
    steps: list[PlannedStep]
    space: int
    free: int | None
    seconds: int
    readers: str
    writers: str
    backup: str


@checked
def plan(
    target: Target, revision: str = "head", *, direction: Direction | None = None, schema: str | None = None
) -> MigrationPlan:
    """Say what `upgrade` or `downgrade` to a revision would do. Changes nothing.

    Args:
        target: as in `upgrade`.
        revision: a revision, ``head``, ``base``, or relative as ``+1`` and ``-1``.
        direction: ``upgrade`` or ``downgrade``; the one that leads to the revision if None. Upgrading to a revision that the
            database has passed is nothing to do.
        schema: as in `upgrade`.

    Raises:
        SchemaVersionError: the revision is unknown, or the database was made by a newer release.
        StorageUnavailableError: the database can't be reached, or does not exist.
    """
    where = describe_target(target)
    with open_connection(target, schema=schema) as connection:
        current = status(connection).current
        here, there, direction = _find_way(current, revision, where, direction)
        pending = (
            revision_chain()[here:there] if direction == "upgrade" else revision_chain()[there:here][::-1]
        )
        findings, size = _measure_findings(connection) if current is not None else (0, 0)
        steps = [_plan_step(connection, one, direction, findings, size) for one in pending]
        locked = sorted({name for step in steps for name in step.locks})
        readers, writers = _describe_waiting(connection, locked)
        return MigrationPlan(
            database=where,
            direction=direction,
            current=current,
            target=revision_chain()[there - 1].id if there else None,
            findings=findings,
            size=size,
            steps=steps,
            space=sum(step.space for step in steps),
            free=_free_space(connection),
            seconds=-(-sum(step.rows for step in steps) // ROWS_A_SECOND[connection.dialect.name]),
            readers=readers,
            writers=writers,
            backup=_advise_backup(direction, there, steps, findings),
        )


@checked
def script(
    target: Target, revision: str = "head", *, direction: Direction | None = None, schema: str | None = None
) -> str:
    """Return the SQL that brings a database to a revision, for administrators (Alembic's offline mode). Changes nothing.

    What only Python can move is guarded: the script fails where rows hold such values. Where `plan` would look into a schema of
    PostgreSQL, the script works in that, and makes it on the way up if it is not there.

    Raises:
        SchemaVersionError: as `plan`, or the way can't be written as SQL.
    """
    from findings_orm.migrations.running import write_sql

    where = describe_target(target)
    with open_connection(target, schema=schema) as connection:
        current = status(connection).current
        dialect = connection.dialect.name
        place = schema_of(connection, schema) if dialect == "postgresql" else None
        is_new = place is not None and not inspect(connection).has_schema(place)
    here, there, direction = _find_way(current, revision, where, direction)
    ids = ["base", *(one.id for one in revision_chain())]
    if here == there:
        return ""
    url = URL.create(dialect, query={} if place is None else {"schema": place})
    return write_sql(where, url, direction, ids[here], ids[there], new_schema=is_new)


def _find_way(
    current: str | None, revision: str, where: str, direction: Direction | None
) -> tuple[int, int, Direction]:
    """Return how many revisions the database has, how many it will have, and the direction."""
    here, there = position_of(current, where), goal_of(current, revision, where)
    if direction == "upgrade":
        there = max(here, there)
    if direction == "downgrade" and there > here:
        raise SchemaVersionError(f"{where} is at revision {current or 'base'}, which is below {revision}")
    return here, there, direction or ("upgrade" if there >= here else "downgrade")


def _measure_findings(connection: Connection) -> tuple[int, int]:
    """Return how many findings there are, and their size in bytes."""
    rows = connection.execute(text("SELECT count(*) FROM findings")).scalar_one()
    if connection.dialect.name == "postgresql":
        return rows, connection.execute(text("SELECT pg_total_relation_size('findings')")).scalar_one()
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    return rows, pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one()


def _plan_step(
    connection: Connection, revision: Revision, direction: Direction, findings: int, size: int
) -> PlannedStep:
    position = revision_chain().index(revision)
    drops = direction == "downgrade" and position == 0
    after = revision if direction == "upgrade" else revision_chain()[position - 1]
    work = "drops the tables with everything in them" if drops else revision.work
    rewrites = bool(revision.work) and findings > 0 and not drops
    return PlannedStep(
        revision=revision.id,
        schema_version=None if drops else after.schema_version,
        work=work,
        rows=findings if rewrites else 0,
        space=SIZES_NEEDED[connection.dialect.name] * size if rewrites else 0,
        locks=_locked_tables(connection, revision, direction),
    )


def _locked_tables(connection: Connection, revision: Revision, direction: Direction) -> list[str]:
    """Return what a revision locks against everybody else: the tables that its statements name."""
    if connection.dialect.name == "sqlite":
        return ["database"]
    from findings_orm.migrations.running import write_sql

    ids = ["base", *(one.id for one in revision_chain())]
    position = ids.index(revision.id)
    ends = (
        (ids[position - 1], ids[position]) if direction == "upgrade" else (ids[position], ids[position - 1])
    )
    statements = write_sql(describe_target(connection), URL.create("postgresql"), direction, *ends)
    touched = set(re.findall(_TOUCHED, statements, re.MULTILINE))
    there = {name for name in touched if connection.dialect.has_table(connection, name)}
    return sorted(there - {"findings_orm_version"})


def _describe_waiting(connection: Connection, locked: list[str]) -> tuple[str, str]:
    """Return what readers and writers meet while a migration runs."""
    if not locked:
        return "go on", "go on"
    if connection.dialect.name == "postgresql":
        return ("wait until it ends, as do all who come after them",) * 2
    mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    readers = "go on, and see the state before" if mode == "wal" else "wait while it writes to the file"
    return readers, "wait until it ends, or get an error after their busy_timeout"


def _free_space(connection: Connection) -> int | None:
    name = connection.engine.url.database
    if connection.dialect.name != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return None
    try:
        return shutil.disk_usage(Path(name).absolute().parent).free
    except OSError as error:
        raise StorageError(f"{name}: the free space can't be told: {error.strerror or error}") from error


def _advise_backup(direction: Direction, there: int, steps: list[PlannedStep], findings: int) -> str:
    if not steps or not findings:
        return ""
    if there == 0:
        return "everything is dropped"
    if direction == "downgrade":
        return "older releases don't know what is put aside"
    return "findings are rewritten" if any(step.rows for step in steps) else ""
