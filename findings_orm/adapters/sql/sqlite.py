"""Findings in a SQLite database: the embedded default."""

from __future__ import annotations

import pathlib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, ClassVar, Literal, cast

from pydantic_core import from_json
from sqlalchemy import URL, Connection, Engine, StaticPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from findings_orm.adapters.sql.failures import translated
from findings_orm.adapters.sql.records import SqlRecords
from findings_orm.adapters.sql.sqlite_records import SQLiteRecords
from findings_orm.adapters.sql.storage import SqlStore, connection_of
from findings_orm.diagnosis import Problem
from findings_orm.errors import StorageUnavailableError, StorageValidationError
from findings_orm.freetext import holds_all, search_text
from findings_orm.records import Records

Synchronous = Literal["FULL", "NORMAL"]


@lru_cache(8)
def _words(words: str) -> tuple[str, ...]:
    return tuple(from_json(words))


def _hold_words(
    words: str, title: str, resource: str, detector_id: str, rule_id: str | None, location: str | None
) -> bool:
    text = search_text(
        {
            "title": title,
            "resource": resource,
            "detector_id": detector_id,
            "rule_id": rule_id,
            "location": from_json(location) if location else None,
        }
    )
    return holds_all(_words(words), text)


def _prepare_driver(driver: Any) -> None:
    driver.create_function("findings_hold_words", 6, _hold_words, deterministic=True)


def sqlite_engine(
    url: URL, *, synchronous: Synchronous = "FULL", busy_timeout: float = 60.0, pool_size: int = 10
) -> Engine:
    """Return an engine for a SQLite database, with the settings that the store relies on.

    The driver's own transaction handling is off (``isolation_level=None``), so that a transaction begins where the
    store says so, and DDL is part of it.
    """
    arguments: dict[str, Any] = {"timeout": busy_timeout, "check_same_thread": False, "isolation_level": None}
    if _in_memory(url):
        engine = create_engine(url, poolclass=StaticPool, connect_args=arguments)
    else:
        engine = create_engine(url, pool_size=pool_size, max_overflow=-1, connect_args=arguments)

    @event.listens_for(engine, "connect")
    def settings(driver: Any, _record: object) -> None:
        driver.execute("PRAGMA journal_mode = WAL")
        driver.execute(f"PRAGMA synchronous = {synchronous}")
        driver.execute("PRAGMA foreign_keys = ON")
        driver.execute("PRAGMA trusted_schema = OFF")
        driver.execute("PRAGMA cache_size = -16000")
        _prepare_driver(driver)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        """For an application that uses this engine itself; the store has begun already."""
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            driver.execute("BEGIN")

    return engine


def _in_memory(url: URL) -> bool:
    return url.database in (None, "", ":memory:")


class SQLiteStorageAdapter(SqlStore):
    """A `FindingStore` in a SQLite file (or a private one in memory), for many threads and processes.

    Readers don't wait for writers (WAL); writers wait for each other, up to `busy_timeout`.

    Args:
        url: ``sqlite:///findings.db``, or the path of the file. ``sqlite://`` is a private database in memory.
        migrate: bring a database of an older release to the current schema, instead of refusing it.
        synchronous: ``"FULL"``: a saved finding survives a power cut, at the price of one fsync a transaction.
            ``"NORMAL"`` is several times as fast for single saves; a power cut (not a crash of the process) may
            then lose the last transactions, but never damages the database.
        busy_timeout: seconds to wait for another writer before `StorageUnavailableError`.
        pool_size: connections that are kept open.

    Raises:
        SchemaVersionError: the database is behind (the message names the command that upgrades it) or ahead.
        StorageUnavailableError: the file can't be opened.
    """

    adapter: ClassVar[str] = "sqlite"
    records: ClassVar[type[SQLiteRecords]] = SQLiteRecords

    def __init__(
        self,
        url: str | pathlib.Path | URL,
        *,
        migrate: bool = False,
        synchronous: Synchronous = "FULL",
        busy_timeout: float = 60.0,
        pool_size: int = 10,
    ) -> None:
        target = _url_of(url)
        if synchronous not in ("FULL", "NORMAL"):
            raise StorageValidationError.of_field("synchronous", "must be FULL or NORMAL", synchronous)
        engine = sqlite_engine(
            target, synchronous=synchronous, busy_timeout=busy_timeout, pool_size=pool_size
        )
        super().__init__(engine, target.render_as_string(), owned=True)
        self._in_memory = _in_memory(target)
        self._one_at_a_time = threading.RLock() if _in_memory(target) else nullcontext()
        try:
            self._check_schema(target, migrate=migrate)
        except BaseException:
            engine.dispose()
            raise

    def _check_schema(self, url: URL, *, migrate: bool) -> None:
        """Create an empty database at head; refuse one that is not at head, before anything is touched."""
        from findings_orm import migrations

        if not _in_memory(url):
            folder = pathlib.Path(str(url.database)).absolute().parent
            if not folder.is_dir():
                raise StorageUnavailableError(
                    f"{self._where}: the folder {folder} does not exist; create it first"
                )
        with translated(self._where), self.engine.connect() as connection:
            current = migrations.require_current(connection, migrate=migrate)
        if not current:
            migrations.upgrade(self.engine)

    def _begin(self, connection: Connection, *, write: bool) -> None:
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        connection.begin()

    def _prepare(self, connection: Connection) -> None:
        _prepare_driver(connection.connection.driver_connection)

    @contextmanager
    def _open_unit(self, *, write: bool) -> Iterator[Records]:
        with self._one_at_a_time, super()._open_unit(write=write) as unit:
            yield unit

    @contextmanager
    def snapshot(self) -> Iterator[Records]:
        """See `Store.snapshot`. A database in memory has one connection, so it is copied."""
        if not self._in_memory:
            with super().snapshot() as unit:
                yield unit
            return
        with closing(sqlite3.connect(":memory:")) as copy:
            with self._unit() as unit:
                driver: Any = cast(SqlRecords, unit).connection.connection.driver_connection
                driver.backup(copy)
            engine = create_engine("sqlite://", creator=lambda: copy, poolclass=StaticPool)
            with translated(self._where), engine.connect() as connection:
                yield self.records(connection)

    @contextmanager
    def _open_reading(self) -> Iterator[Records]:
        """One statement sees one instant, without a transaction around it."""
        with self._one_at_a_time, translated(self._where), self._connect(self.engine) as connection:
            yield self._records(connection)

    def _iterate(self, project_id: str, *, as_json: bool) -> Iterator[Any]:
        """See `Store._iterate`.

        A database in memory has one connection, and inside `transaction()` the iterator would see what is written
        after it began: both are read at once.
        """
        at_once = self._in_memory or self._current is not None
        found = super()._iterate(project_id, as_json=as_json)
        yield from list(found) if at_once else found

    def _examine(self, unit: Records) -> Iterator[Problem]:
        from findings_orm.adapters.sql.sqlite_examining import problems

        file = None if self._in_memory else pathlib.Path(str(self.engine.url.database))
        return problems(connection_of(unit), file)

    def _size(self, unit: Records) -> int | None:
        if self._in_memory:
            return None
        database = pathlib.Path(str(self.engine.url.database))
        files = (database, database.with_name(f"{database.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def _figures(self, connection: Connection) -> dict[str, Any]:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "page_count", "page_size", "freelist_count")
        figures = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas}
        version = connection.exec_driver_sql("SELECT sqlite_version()").scalar()
        return {"sqlite_version": version, **figures, "pool": self.engine.pool.status()}


def _url_of(given: str | pathlib.Path | URL) -> URL:
    if isinstance(given, pathlib.Path) or (
        isinstance(given, str) and "://" not in given and given != "sqlite:"
    ):
        return URL.create("sqlite", database=str(given))
    try:
        url = make_url(given)
    except ArgumentError as error:
        raise StorageValidationError.of_field("url", "must be sqlite:///PATH", given) from error
    if url.get_backend_name() != "sqlite":
        raise StorageValidationError.of_field("url", "must be sqlite:///PATH", given)
    return url


def open_url(url: str, **options: Any) -> SQLiteStorageAdapter:
    """Open ``sqlite:///PATH``; query parameters are options, e.g. ``?synchronous=NORMAL``."""
    parsed = _url_of(url)
    given: dict[str, Any] = dict(parsed.query)
    for name, kind in (("busy_timeout", float), ("pool_size", int)):
        if name in given:
            try:
                given[name] = kind(given[name])
            except (TypeError, ValueError) as error:
                raise StorageValidationError.of_field(
                    f"url?{name}", "must be a number", given[name]
                ) from error
    unknown = sorted(set(given) - {"busy_timeout", "pool_size", "synchronous"})
    if unknown:
        raise StorageValidationError.of_field(
            "url", "knows the options busy_timeout, pool_size, synchronous", unknown[0]
        )
    return SQLiteStorageAdapter(parsed.set(query={}), **{**given, **options})
