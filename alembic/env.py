"""How Alembic reaches a database of findings: from its command line, and from `findings_orm.migrations`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from logging.config import fileConfig
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection

from findings_orm.errors import StorageError
from findings_orm.migrations.connecting import open_connection, parse_url
from findings_orm.migrations.database import current_revision
from findings_orm.migrations.dependents import keep_dependents
from findings_orm.migrations.running import prebuild_indexes
from findings_orm.migrations.scripts import VERSION_TABLE
from findings_orm.migrations.transaction import LOCK, migration_transaction, quoted_name
from findings_orm.orm import text_index
from findings_orm.orm.models import OPTIONAL_INDEXES, TABLES, Base, exists_on
from findings_orm.orm.sqlite_text_index import TRIGGERS

URL_VARIABLE = "FINDINGS_DATABASE_URL"
WRITING = ("upgrade", "downgrade", "stamp")

config = context.config
tables = frozenset(table.name for table in TABLES)


def is_ours(name: str | None, kind: str, _: Any) -> bool:
    """Leave the tables of an embedding application alone."""
    return kind != "table" or name in tables


def is_here(found: Any, name: str | None, kind: str, *_: Any) -> bool:
    """Leave out what databases of this dialect don't have, the indexes that only operators make, and tables that an application
    declares on our base."""
    if kind == "index" and name in OPTIONAL_INDEXES:
        return False
    if not is_ours(name, kind, None):
        return False
    return kind not in ("table", "index") or exists_on(found, context.get_context().dialect.name)


OPTIONS: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "version_table": VERSION_TABLE,
    "transactional_ddl": True,
    "include_name": is_ours,
    "include_object": is_here,
    "compare_type": True,
    "compare_server_default": True,
    "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
}


def read_option(name: str) -> str | None:
    """Return an option given as ``-x name=value``."""
    value = context.get_x_argument(as_dictionary=True).get(name) if config.cmd_opts else None
    return value if isinstance(value, str) else None


def database_url() -> str:
    """Return the URL that the caller, the command line or the environment names."""
    found = config.attributes.get("url") or read_option("url") or os.environ.get(URL_VARIABLE)
    if not found:
        raise CommandError(
            f"no database was named: say alembic -x url=sqlite:///findings.db ..., or set {URL_VARIABLE}"
        )
    return found


def read_only() -> bool:
    """Tell whether the command only looks at the database."""
    command = config.cmd_opts.cmd[0].__name__ if config.cmd_opts else ""
    return bool(command) and command not in WRITING


def moves() -> bool:
    """Tell whether the command, for which all is configured, leads the database elsewhere."""
    database = context.get_context()
    goal = database.opts.get("destination_rev")
    return (
        goal is not None
        and (context.get_head_revision() if goal == "head" else goal) != database.get_current_revision()
    )


def run_online(connection: Connection) -> None:
    """Run the command on a connection: a change in one transaction, and alone."""
    if read_only():
        context.configure(connection=connection, **OPTIONS)
        context.run_migrations()
        return
    lock_timeout = config.attributes.get("lock_timeout") or read_option("lock_timeout")
    line = config.cmd_opts
    if line and line.cmd[0].__name__ == "upgrade" and not connection.in_transaction():
        current = current_revision(connection)
        connection.rollback()
        prebuild_indexes(connection, current, line.revision, lock_timeout, config.print_stdout)
    with migration_transaction(connection, tables, lock_timeout=lock_timeout):
        context.configure(connection=connection, **OPTIONS)
        with ExitStack() as kept:
            if moves():
                kept.enter_context(keep_dependents(connection, TRIGGERS))
                kept.enter_context(text_index.keep_text_index(connection))
            context.run_migrations()


def run_offline() -> None:
    """Write the SQL of the command instead of running it."""
    url = parse_url(database_url())
    dialect, schema = url.get_backend_name(), url.query.get("schema")
    # Another style of parameters would double each %.
    context.configure(
        dialect_name=dialect, dialect_opts={"paramstyle": "named"}, literal_binds=True, **OPTIONS
    )
    with context.begin_transaction():
        if dialect == "postgresql":
            if schema is not None:
                name = quoted_name(str(schema)).replace(":", "\\:")
                if config.attributes.get("new_schema"):
                    context.execute(f"CREATE SCHEMA {name}")
                context.execute(f"SET LOCAL search_path TO {name}")
            context.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
        context.run_migrations()


@contextmanager
def translate_errors() -> Iterator[None]:
    """On the command line, an error is a message."""
    try:
        yield
    except StorageError as error:
        if not config.cmd_opts:
            raise
        raise CommandError(str(error)) from error


if config.cmd_opts and config.config_file_name:
    fileConfig(config.config_file_name, disable_existing_loggers=False)
with translate_errors():
    if context.is_offline_mode():
        run_offline()
    elif "connection" in config.attributes:
        run_online(config.attributes["connection"])
    else:
        with open_connection(database_url(), create=not read_only()) as opened:
            run_online(opened)
