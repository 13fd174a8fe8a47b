"""Alembic at work: the only module that runs it, and loaded only for that."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import alembic.context
import alembic.op
from alembic import command
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData

from findings_orm.errors import SchemaVersionError
from findings_orm.migrations.prebuilding import prebuild
from findings_orm.migrations.scripts import new_config, script_directory
from findings_orm.migrations.transaction import migration_transaction
from findings_orm.process import block

_ONE_AT_A_TIME = threading.RLock()  # Alembic keeps the running migration in module globals


def run(
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
            prebuild(connection, current, revision, lock_timeout, say)
        turn = migration_transaction(connection, frozenset(), lock_timeout=lock_timeout)
    with turn, _alone(where):
        move(config, revision)


def written(
    where: str, dialect: str, direction: Literal["upgrade", "downgrade"], start: str, end: str
) -> str:
    """Return the SQL of the revisions between two, for a dialect.

    Raises:
        SchemaVersionError: a revision can't be written as SQL.
    """
    config = new_config()
    config.attributes["url"] = f"{dialect}://"
    config.output_buffer = io.StringIO()
    move: Callable[..., None] = getattr(command, direction)
    with _alone(where):
        move(config, f"{start}:{end}", sql=True)
    return config.output_buffer.getvalue()


def target_metadata(connection: Connection, where: str) -> MetaData:
    """Return the metadata of the models, which ``env.py`` names."""
    found: list[MetaData] = []

    def work(_: object, context: MigrationContext) -> list[Any]:
        found.append(context.opts["target_metadata"])
        return []

    config = new_config()
    config.attributes["connection"] = connection
    config.attributes["read_only"] = True
    script = script_directory()
    with _alone(where), EnvironmentContext(config, script, fn=work, dont_mutate=True):
        script.run_env()
    return found[0]


@block
def _alone(where: str) -> Iterator[None]:
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
                    proxy._install_proxy()  # Alembic has no public way
