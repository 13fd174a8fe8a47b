"""From a URL, an engine or a connection to a connection, and from driver errors to those of the package."""

from __future__ import annotations

import pathlib
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, exc, make_url

from findings_orm.driver_errors import translate_driver_errors
from findings_orm.errors import StorageUnavailableError
from findings_orm.migrations.transaction import schema_of, work_in_schema
from findings_orm.private import Access, make_file
from findings_orm.process import block
from findings_orm.secrecy import is_secret, shown_url

Target = str | Engine | Connection
"""What a migration works on: the URL of a database, a SQLAlchemy `Engine` or a `Connection`."""

BUSY_TIMEOUT = 60
"""Seconds that a migration waits for other writers of a SQLite file."""

STORE_OPTIONS = frozenset(
    {
        "application_name",
        "busy_timeout",
        "connect_timeout",
        "group",
        "lock_timeout",
        "max_overflow",
        "migrate",
        "pool_recycle",
        "pool_size",
        "pool_timeout",
        "pre_ping",
        "prepare",
        "project_id",
        "schema",
        "statement_timeout",
        "synchronous",
    }
)
"""The query parameters of a URL that are meant for a store; of them a migration takes ``schema``."""

_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}
_DIALECTS = ("sqlite", "postgresql")


@block
def open_connection(
    target: Target, *, create: bool = False, schema: str | None = None
) -> Iterator[Connection]:
    """Yield a connection to `target`; one that was given is left as it was, in its transaction or outside of any.

    Args:
        target: a URL, an engine or a connection.
        create: let a SQLite file, or a schema, that is not there be made.
        schema: the schema of PostgreSQL to work in; that of the URL, or of the ``schema_translate_map`` of an engine or a
            connection, if None.

    Raises:
        StorageUnavailableError: the URL is malformed, the server can't be reached, the file does not exist.
        StorageError: everything else that the driver refuses inside the block.
    """
    where = describe_target(target)
    with translate_driver_errors(where):
        if isinstance(target, Connection):
            yield from _lend_connection(target, schema, create=create)
            return
        if isinstance(target, Engine):
            yield from _connect_engine(target, where, schema, create=create)
            return
        engine = engine_of(target, create=create)
        opened = _record_opened(engine)
        try:
            yield from _connect_engine(engine, where, schema, create=create)
        finally:
            for driver in opened:  # SQLAlchemy may have been interrupted while it closed one
                if engine.dialect.name == "sqlite":
                    _end_transaction(driver)
                driver.close()


def _record_opened(engine: Engine) -> list[Any]:
    """Return where the driver's connections of an engine will be."""
    opened: list[Any] = []

    @event.listens_for(engine, "do_connect")
    def record_opened(dialect: Any, _record: object, arguments: Any, options: Any) -> Any:
        opened.append(dialect.connect(*arguments, **options))
        return opened[-1]

    return opened


def _end_transaction(driver: Any, _record: object = None) -> None:
    """Give up the locks of a SQLite database. A closed connection keeps them as long as a traceback has a cursor of it."""
    with suppress(sqlite3.Error):
        driver.rollback()


def _end_transactions_on_close(engine: Engine) -> None:
    """SQLAlchemy closes a connection of which a statement was interrupted."""
    if engine.dialect.name == "sqlite" and not event.contains(engine, "close", _end_transaction):
        event.listen(engine, "close", _end_transaction)


def _connect_engine(engine: Engine, where: str, schema: str | None, *, create: bool) -> Iterator[Connection]:
    _check_dialect(engine.dialect.name, where)
    _end_transactions_on_close(engine)
    try:
        connection = engine.connect()
    except TypeError as error:
        raise StorageUnavailableError(f"{where}: the URL has an option that is unknown: {error}") from error
    with connection, work_in_schema(connection, schema_of(connection, schema), create=create):
        yield connection


def _lend_connection(connection: Connection, schema: str | None, *, create: bool) -> Iterator[Connection]:
    _check_dialect(connection.dialect.name, describe_target(connection))
    _end_transactions_on_close(connection.engine)
    joined = connection.in_transaction()
    try:
        with work_in_schema(connection, schema_of(connection, schema), create=create):
            yield connection
    finally:
        if not joined and connection.in_transaction():
            connection.rollback()


def engine_of(url: str, *, create: bool = False) -> Engine:
    """Return an engine without a pool for the URL of a database.

    Raises:
        StorageUnavailableError: the URL is malformed or of a database that is not supported, its driver is not
            installed, or it names a SQLite file that does not exist (unless `create`).
    """
    parsed = parse_url(url)
    where = _show_without_options(parsed)
    schema, group = parsed.query.get("schema"), parsed.query.get("group")
    parsed, arguments = take_secrets(parsed.difference_update_query(list(STORE_OPTIONS)))
    if parsed.get_backend_name() == "postgresql":
        arguments["prepare_threshold"] = None  # leaves no prepared statements behind a pooler
    if parsed.get_backend_name() == "sqlite":
        foreign = [*arguments, *(("schema",) if schema is not None else ())]
        if foreign:
            raise StorageUnavailableError(f"{where}: a SQLite database has no {', '.join(foreign)}")
        make_database(parsed, where, create=create, access=Access.of_group(str(group) if group else None))
        if "timeout" not in parsed.query:
            arguments["timeout"] = BUSY_TIMEOUT
    try:
        engine = create_engine(parsed, poolclass=NullPool, connect_args=arguments)
        return (
            engine if schema is None else engine.execution_options(schema_translate_map={None: str(schema)})
        )
    except ImportError as error:
        raise StorageUnavailableError(
            f"{where}: the driver is not installed ({error}); pip install 'findings-orm[postgresql]'"
        ) from error
    except (exc.ArgumentError, TypeError, ValueError) as error:
        raise StorageUnavailableError(f"{where}: the URL is not understood: {error}") from error


def parse_url(url: str) -> URL:
    """Return the URL of a database in parts; ``postgresql://`` means psycopg.

    Raises:
        StorageUnavailableError: it is malformed, or of a database that is not supported.
    """
    parsed = split_url(url)
    if parsed is None or (parsed.get_backend_name() == "sqlite" and parsed.host):
        raise StorageUnavailableError(
            f"{shown_url(url)}: the URL of the database is malformed; it must be like sqlite:///findings.db or "
            "postgresql://user@host/database"
        )
    parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
    try:
        parsed.get_dialect()
    except exc.NoSuchModuleError as error:
        raise StorageUnavailableError(f"{shown_url(url)}: such databases are not supported") from error
    except ImportError:
        pass  # create_engine says which module is missing
    _check_dialect(parsed.get_backend_name(), _show_without_options(parsed))
    return parsed


def split_url(url: str) -> URL | None:
    """Return the URL of a database in parts; None for one that is malformed.

    An ``@`` in a password may stand as it is. What SQLAlchemy says of a malformed one may show parts of a password: it is not
    passed on.
    """
    scheme, mark, rest = url.partition("://")
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    account, _, host = authority.rpartition("@")
    if "@" in account:
        url = f"{scheme}{mark}{account.replace('@', '%40')}@{host}{url[len(scheme + mark + authority) :]}"
    if "\0" in url or (account and "@" in path) or ("@" in query and "=" not in query.partition("@")[0]):
        return None  # where the password ends can't be told
    with suppress(exc.ArgumentError, ValueError):
        url.encode()
        return make_url(url)
    return None


def take_secrets(url: URL) -> tuple[URL, dict[str, Any]]:
    """Return a URL without the secrets of its query, and these for the driver: SQLAlchemy shows what is left."""
    secrets = {name: value for name, value in url.query.items() if is_secret(name)}
    return url.difference_update_query(list(secrets)), secrets


def _check_dialect(name: str, where: str) -> None:
    if name not in _DIALECTS:
        raise StorageUnavailableError(f"{where}: only SQLite and PostgreSQL are supported, not {name}")


def make_database(url: URL, where: str, *, create: bool, access: Access) -> None:
    """Make the file of a SQLite database, if there is none: for its owner alone, or a group. SQLite gives the files beside
    it the same permissions.

    Raises:
        StorageUnavailableError: the folder does not exist, or (unless `create`) the file; or it can't be made.
    """
    name = url.database
    if name in (None, "", ":memory:") or str(name).startswith("file:"):
        return
    path = pathlib.Path(str(name))
    try:
        if create and not path.absolute().parent.is_dir():
            raise StorageUnavailableError(
                f"{where}: the folder {path.absolute().parent} does not exist; create it first"
            )
        if not create and not path.exists():
            raise StorageUnavailableError(f"{where}: there is no such file; 'findings db upgrade' makes it")
        make_file(path, access)
    except OSError as error:
        raise StorageUnavailableError(f"{where}: can't be made: {error.strerror or error}") from error


def describe_target(target: Target) -> str:
    """Return what `target` is for a message: its URL without password and options."""
    if isinstance(target, str):
        return _show_without_options(parse_url(target))
    return _show_without_options((target if isinstance(target, Engine) else target.engine).url)


def _show_without_options(url: URL) -> str:
    return shown_url(url.set(query={}).render_as_string(hide_password=False))
