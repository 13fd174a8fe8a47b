"""A pooled engine for PostgreSQL: options of a URL, connections that are tested before use."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, exc

from findings_orm.arguments import check_fields
from findings_orm.errors import StorageUnavailableError, StorageValidationError
from findings_orm.finding import check_plain_text
from findings_orm.migrations.connecting import split_url, take_secrets
from findings_orm.orm.pools import AskedPool
from findings_orm.secrecy import shown_url

DRIVERS = ("postgres", "postgresql", "postgresql+psycopg")
_IDLE_SECONDS = 1.0
_TRUE = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


@dataclass(frozen=True, slots=True)
class Options:
    """How a store uses its server. Times are in seconds.

    Attributes:
        schema: the schema with the tables; None leaves that to the role's ``search_path``.
        project_id: narrows a role under row-level security to one of its projects.
        pool_size: connections that are kept open.
        max_overflow: how many more may be opened under load.
        pool_timeout: how long to wait for a free connection.
        pool_recycle: connections older than this are replaced.
        pre_ping: test a connection that was idle (for more than a second) before it is used.
        prepare: let the server keep the plans of statements that come often, for each connection. Not behind a pooler in
            transaction mode that does not follow them (PgBouncer before 1.21, or with ``max_prepared_statements = 0``).
        statement_timeout: the longest a statement may take; None leaves that to the server.
        lock_timeout: how long a writer waits for another one of its project; None: for ever.
        connect_timeout: how long to wait for a new connection.
        application_name: what the server calls the connections.
    """

    schema: str | None = None
    project_id: str | None = None
    pool_size: int = 5
    max_overflow: int = 10
    pool_timeout: float = 30.0
    pool_recycle: float = 1800.0
    pre_ping: bool = True
    prepare: bool = False
    statement_timeout: float | None = None
    lock_timeout: float | None = 60.0
    connect_timeout: float = 10.0
    application_name: str = "findings_orm"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("pool_size", "max_overflow", "pool_timeout", "connect_timeout"):
            _check_number(name, getattr(self, name))
        for name in ("pool_recycle", "statement_timeout", "lock_timeout"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name))
        if self.pool_size < 1:
            raise StorageValidationError.of_field("pool_size", "must be 1 or more", self.pool_size)
        for name in ("schema", "project_id", "application_name"):
            value = getattr(self, name)
            if value is not None:
                check_plain_text(name, value, empty=False)

    def local_settings(self, *, write: bool) -> list[str]:
        """Return the statements that make a transaction what these options say; they end with it."""
        settings: list[tuple[str, str]] = []
        if self.schema is not None:
            settings.append(("search_path", _quote_text(self.schema, '"')))
        if self.project_id is not None:
            settings.append(("findings.project_id", _quote_literal(self.project_id)))
        if self.statement_timeout is not None:
            settings.append(("statement_timeout", str(_whole_milliseconds(self.statement_timeout))))
        if write and self.lock_timeout is not None:
            settings.append(("lock_timeout", str(_whole_milliseconds(self.lock_timeout))))
        return [f"SET LOCAL {name} = {value}" for name, value in settings]


def _whole_milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000)) if seconds > 0 else 0


def _quote_text(text: str, mark: str) -> str:
    return mark + text.replace(mark, mark * 2) + mark


def _quote_literal(text: str) -> str:
    """Return a string literal whatever ``standard_conforming_strings`` says."""
    return "E" + _quote_text(text.replace("\\", "\\\\"), "'")


def _check_number(name: str, value: float) -> None:
    if not 0 <= value < 2**31 / 1000:
        raise StorageValidationError.of_field(name, "must be a number, not negative", value)


def parsed_url(url: str | URL) -> tuple[URL, dict[str, Any]]:
    """Return the URL for the driver, and the options of a store that its query parameters give.

    Raises:
        StorageValidationError: it is no URL of PostgreSQL, or an option has no value of its kind.
    """
    target = url if isinstance(url, URL) else split_url(str(url))
    if target is None:
        raise StorageValidationError.of_field(
            "url", "must be postgresql://USER@HOST/DATABASE", shown_url(url)
        )
    if target.drivername not in DRIVERS:
        raise StorageValidationError.of_field(
            "url", "must be postgresql:// or postgresql+psycopg://", target.drivername
        )
    target = target.set(drivername="postgresql+psycopg")
    kinds = {field.name: str(field.type) for field in fields(Options)} | {"migrate": "bool"}
    given = {
        name: _option_value(name, target.query[name], kind)
        for name, kind in kinds.items()
        if name in target.query
    }
    return target.difference_update_query(list(given)), given


def _option_value(name: str, text: str | tuple[str, ...], kind: str) -> object:
    try:
        if not isinstance(text, str):
            raise TypeError("given twice")
        if kind == "bool":
            return _TRUE[text.lower()]
        if kind == "int":
            return int(text)
        return float(text) if kind.startswith("float") else text
    except (KeyError, TypeError, ValueError) as error:
        wanted = "true or false" if kind == "bool" else "one number" if kind != "str | None" else "given once"
        raise StorageValidationError.of_field(f"url?{name}", f"must be {wanted}", text) from error


def postgresql_engine(url: URL, options: Options) -> Engine:
    """Return an engine for a PostgreSQL server.

    Nothing that it does needs the state of a session, so that it works behind a pooler in transaction mode: no
    prepared statements (unless `Options.prepare`), no ``SET``.
    """
    url, secrets = take_secrets(url)
    arguments: dict[str, object] = {
        **secrets,
        "prepare_threshold": _OFTEN if options.prepare else None,
        "application_name": options.application_name,
        "connect_timeout": max(2, int(options.connect_timeout)),
        **{name: value for name, value in _ALIVE.items() if name not in url.query},
    }
    try:
        engine = create_engine(
            url,
            connect_args=arguments,
            client_encoding="utf8",
            use_native_hstore=False,
            poolclass=AskedPool,
            pool_size=options.pool_size,
            max_overflow=options.max_overflow,
            pool_timeout=options.pool_timeout,
            pool_recycle=int(options.pool_recycle),
            pool_use_lifo=True,
        )
    except ImportError as error:
        raise StorageUnavailableError(
            f"the driver of PostgreSQL is not installed ({error}): pip install 'findings-orm[postgresql]'"
        ) from error
    _close_cursors_quietly(engine)
    if options.pre_ping:
        _test_idle_connections(engine)
    if options.schema is not None:
        _set_schema(engine, options.local_settings(write=False)[0])
    return engine


_OFTEN = 5
_ALIVE = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""A server that vanished without a word is noticed after a minute."""


def _set_schema(engine: Engine, statement: str) -> None:
    """Let every transaction of an engine find the tables; those that the store begins itself say it themselves."""

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        driver = connection.connection.driver_connection
        if not driver.autocommit:
            connection.exec_driver_sql(statement.replace("%", "%%"))


def _close_cursors_quietly(engine: Engine) -> None:
    """Let a cursor on the server be closed where its connection broke: it went with it, and that is no error."""
    import psycopg

    class Cursor(psycopg.ServerCursor[object]):
        def close(self) -> None:
            try:
                super().close()
            except psycopg.OperationalError:
                if not self.connection.closed:
                    raise
                super().close()

        def __del__(self, *given: object) -> None:
            if not self.connection.closed:
                super().__del__(*given)

    @event.listens_for(engine, "connect")
    def set_cursor_factory(driver: Any, _record: object) -> None:
        driver.server_cursor_factory = Cursor


def _test_idle_connections(engine: Engine) -> None:
    """Like the pool's own ``pre_ping``, without its price where a connection was used just now."""

    @event.listens_for(engine, "checkin")
    def used(_driver: object, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ping_idle(driver: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("used", float("inf")) < _IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(driver)
        except Exception as error:
            if not engine.dialect.is_disconnect(error, driver, None):  # type: ignore[arg-type]
                raise
            raise exc.InvalidatePoolError(str(error)) from error
