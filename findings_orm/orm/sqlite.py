"""Findings in a SQLite database: the embedded default."""

from __future__ import annotations

import os
import pathlib
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, suppress
from typing import Any, ClassVar, cast

from sqlalchemy import URL, Connection, Engine, Pool, StaticPool, create_engine

from findings_orm.arguments import checked
from findings_orm.diagnosis import Problem
from findings_orm.driver_errors import translate_driver_errors
from findings_orm.errors import SchemaVersionError, StorageUnavailableError, StorageValidationError
from findings_orm.migrations.connecting import make_database, split_url
from findings_orm.observe import Pool as PoolFigures
from findings_orm.orm.application import find_tables
from findings_orm.orm.records import SqlRecords
from findings_orm.orm.sqlite_engine import (
    READING,
    Lasting,
    Synchronous,
    check_reading,
    file_of,
    in_memory,
    prepare_driver,
    reading_url,
    reads_only,
    share_files,
    sqlite_engine,
    sqlite_files,
)
from findings_orm.orm.sqlite_records import SQLiteRecords
from findings_orm.orm.storage import SqlStore, Taken, connection_of
from findings_orm.private import Access
from findings_orm.process import FORK_TIMEOUT, INHERITED, block
from findings_orm.records import Records
from findings_orm.secrecy import shown_url
from findings_orm.store import BusyError
from findings_orm.units import Turn

_UNSAFE: set[str] = set()
"""Files that a parent of this process had open when it forked."""

_FORK = object()
"""Has the turn of a database in memory while the process forks."""


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
        pool_size: connections that are kept open for the next units of work.
        group: a group of the system whose members may read and write too. A file is made for its owner alone; those beside
            it (``-wal``, ``-shm``) are always like it, so that the others need not name the group.

    Raises:
        SchemaVersionError: the database is behind (the message names the command that upgrades it) or ahead.
        StorageUnavailableError: the file can't be opened.
    """

    adapter: ClassVar[str] = "sqlite"
    records: ClassVar[type[SQLiteRecords]] = SQLiteRecords

    @checked
    def __init__(
        self,
        url: str | pathlib.Path | URL,
        *,
        migrate: bool = False,
        synchronous: Synchronous = "FULL",
        busy_timeout: float = 60.0,
        pool_size: int = 10,
        group: str | None = None,
    ) -> None:
        target = _url_of(url)
        self._reads_only = reads_only(target)
        if self._reads_only or str(target.database).startswith("file:"):
            check_reading(target)
        self._opened: set[object] = set()
        engine = sqlite_engine(
            target,
            synchronous=synchronous,
            busy_timeout=busy_timeout,
            pool_size=pool_size,
            opened=self._opened,
        )
        self._in_memory = in_memory(target)
        self._milliseconds = int(busy_timeout * 1000)
        self._busy_timeout = busy_timeout
        self._at_rest = True
        self._idle: deque[Taken] = deque()
        self._most_idle = pool_size
        self._former: list[Pool] = []
        self._file = "" if self._in_memory else file_of(target)
        super().__init__(engine, target.render_as_string(), owned=True)
        self._turn = Turn(self._where, self._units, busy_timeout)
        try:
            self._check_schema(target, migrate=migrate, access=Access.of_group(group))
        except BaseException:
            engine.dispose()
            raise
        self._guard_engine()

    def _guard_engine(self) -> None:
        self._set_finalizer(self._where, _close_all, self.engine, self._idle, self._former, self._opened)

    def _check_schema(self, url: URL, *, migrate: bool, access: Access) -> None:
        """Create an empty database at head; refuse one that is not at head, before anything is touched."""
        from findings_orm import migrations

        make_database(url, self._where, create=True, access=access)
        if access.group is not None and self._file:
            share_files(self._file, access)
        try:
            with translate_driver_errors(self._where), self._open_connection(self.engine) as connection:
                current = migrations.require_current(connection, migrate=migrate)
        except StorageUnavailableError as error:
            if not os.path.isfile(self._file) or _can_write(self._file, os.path.dirname(self._file)):
                raise
            raise StorageUnavailableError(
                f"{error}. The file, or its folder, can't be written: open it for reading by {reading_url(self._file)}, with "
                "&immutable=1 too where nobody writes it meanwhile, as on read-only media"
            ) from error
        if not current:
            if self._reads_only:
                raise SchemaVersionError(
                    f"{self._where} has not the tables of this release, and is opened for reading only: upgrade {self._file}"
                )
            migrations.upgrade(self.engine)

    def _begin_transaction(self, taken: Taken, *, write: bool) -> None:
        if write and self._reads_only:
            raise StorageUnavailableError(f"{self._where} is opened for reading only")
        if write and self._units:  # in an application's transaction, which has no turn
            self._turn.queue.leave(self._turn.queue.join(lambda unit: unit.opened is None))
        with self._watch_statement("BEGIN"):
            taken.driver.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            taken.connection.begin()

    def _commit_transaction(self, records: SqlRecords, driver: Any) -> None:
        try:
            driver.commit()
        except sqlite3.Error:
            raise
        except BaseException:
            records.committed = not driver.in_transaction
            raise
        records.committed = True

    @block
    def _settle(self, connection: Connection) -> Iterator[None]:
        prepare_driver(connection.connection.dbapi_connection)
        with find_tables(connection):
            yield

    @block
    def _open_alone(self, *, write: bool, single: bool) -> Iterator[Records]:
        """Open a unit of work while no other is open: a database in memory has one connection."""
        with self._turn.hold():
            for driver in self._opened:
                if (
                    isinstance(driver, Lasting)
                    and driver.in_transaction
                    and driver.total_changes > driver.changes_before
                ):
                    raise StorageUnavailableError(
                        f"{self._where}: a session of the application has changes on the one connection of this database, "
                        "which it has not committed: commit them first, or work in joined(session)",
                        retryable=True,
                    )
            with super().open_unit(write=write, single=single) as unit:
                yield unit

    # A block has no name in the function that enters it: were the leaving interrupted, the traceback would keep it, and with
    # it a transaction that nobody ends.

    def open_unit(self, *, write: bool, single: bool = False) -> AbstractContextManager[Records]:
        if self._in_memory:
            return self._open_alone(write=write, single=single)
        if write:
            return self._open_in_turn(single=single)
        return super().open_unit(write=False, single=single)

    @block
    def _open_in_turn(self, *, single: bool) -> Iterator[Records]:
        """Open a unit of work that writes while no other of this store does: SQLite would wait without a look at who waits."""
        with self._turn.hold(), super().open_unit(write=True, single=single) as unit:
            yield unit

    def open_snapshot(self) -> AbstractContextManager[Records]:
        """See `Store.open_snapshot`. A database in memory has one connection, so it is copied when nobody writes."""
        return self._open_copy() if self._in_memory else self.open_unit(write=False)

    @block
    def _open_copy(self) -> Iterator[Records]:
        with closing(sqlite3.connect(":memory:", check_same_thread=False)) as copy:
            with self.open_unit(write=False) as unit:
                driver: Any = cast(SqlRecords, unit).connection.connection.driver_connection
                driver.backup(copy)
            prepare_driver(copy)
            engine = create_engine("sqlite://", creator=lambda: copy, poolclass=StaticPool)
            with translate_driver_errors(self._where), engine.connect() as connection:
                yield self.records(connection)

    def open_reading(self) -> AbstractContextManager[Records]:
        """See `Store.open_reading`."""
        return self.open_unit(write=False, single=True)

    def _take_connection(self) -> Taken:
        """See `SqlStore._take_connection`.

        Connections wait for the next unit of work here: to take one out of the pool and to put it back takes longer than most
        answers, and an interruption in there may lose it.
        """
        try:
            taken = self._idle.pop()
        except IndexError:
            taken = None
        if taken is None:
            taken = super()._take_connection()
        if taken.driver.in_transaction:  # an application left it so
            taken.driver.rollback()
        return taken

    def _give_back(self, taken: Taken) -> None:
        if taken.connection.in_transaction() or taken.driver.in_transaction:
            taken.driver.rollback()
            taken.connection.rollback()
        full = len(self._idle) >= self._most_idle
        if self._in_memory or full or taken.pool is not self.engine.pool:
            super()._give_back(taken)
            return
        self._idle.append(taken)
        if self._closed:
            self._close_waiting()

    def _is_clean(self, driver: Any) -> bool:
        return not driver.in_transaction

    @staticmethod
    def _end_unit(driver: Any, _record: object = None) -> None:
        """See `SqlStore._end`. A closed connection keeps its locks as long as a cursor of it is there, in a traceback."""
        with suppress(sqlite3.Error):
            driver.rollback()

    def _renew_pool(self) -> None:
        if not self._in_memory:
            self._close_waiting()
            super()._renew_pool()

    def _close_waiting(self) -> None:
        _close_idle(self._idle)

    def pool(self) -> PoolFigures | None:
        """See `Observable.pool`."""
        found = super().pool()
        if found is None:
            return None
        idle = found.idle + len(self._idle)
        return found._replace(in_use=max(len(self._opened) - idle, 0), idle=idle)

    def release(self) -> None:
        _close_all(self.engine, self._idle, self._former, self._opened)

    # -- forks ----------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """See `Forking.before_fork`.

        SQLite keeps account of its locks by process. A child that inherits an open connection believes in locks that it has
        not got, on connections of its own too: when the parent closes the file, what the child wrote is gone
        (https://www.sqlite.org/howtocorrupt.html, section 2.6). So there must be none.
        """
        if self._in_memory:
            self._at_rest = False
            has_turn = self._current_unit in self._units
            self._at_rest = has_turn or self._turn.take(_FORK, FORK_TIMEOUT)
            return
        self._former.append(self.engine.pool)
        self.engine.dispose(close=False)
        self._close_idle()

    def _close_idle(self) -> None:
        """Close the connections that nobody uses; those in use at an earlier fork are in the pools of that time."""
        self._close_waiting()
        for pool in self._former:
            pool.dispose()
        if not self._opened:
            self._former.clear()

    def after_fork_in_parent(self) -> None:
        """See `Forking.after_fork_in_parent`."""
        self._turn.give_back(_FORK)

    def _leave_connections(self) -> None:
        """See `SqlStore._leave_connections`. A database in memory is a copy, as the thread that forked sees it."""
        self._turn = Turn(self._where, self._units, self._busy_timeout)
        if self._in_memory:
            self._closed = self._closed or not self._at_rest
            if self._at_rest:
                for driver in self._opened:
                    cast(sqlite3.Connection, driver).commit()
            return
        if self._opened:
            _UNSAFE.add(self._file)
        INHERITED.append((self._former, self._idle, self._opened.copy()))
        self._opened.clear()
        self._former, self._idle = [], deque()
        super()._leave_connections()

    def _open_connection(self, engine: Engine) -> Connection:
        if self._file in _UNSAFE:
            raise StorageUnavailableError(
                f"{self._where}: this process was forked while its parent was inside a unit of work on this file, so SQLite's "
                "locks don't hold in it; fork between units of work, or start a new process instead ('spawn')"
            )
        return super()._open_connection(engine)

    def _iterate_findings(self, project_id: str, *, as_json: bool) -> Iterator[object]:
        """See `Store._iterate_findings`.

        A database in memory has one connection, and inside `transaction()` the iterator would see what is written
        after it began: both are read at once.
        """
        at_once = self._in_memory or self._current_unit is not None
        found = super()._iterate_findings(project_id, as_json=as_json)
        yield from list(found) if at_once else found

    def _store_files(self) -> list[pathlib.Path]:
        return sqlite_files(self._file) if self._file else []

    def _find_own_problems(self, unit: Records) -> Iterator[Problem]:
        from findings_orm.orm.sqlite_examination import database_problems

        file = None if self._in_memory else pathlib.Path(str(self.engine.url.database))
        return database_problems(connection_of(unit), file)

    def _size_on_disk(self, unit: Records) -> int | None:
        if self._in_memory:
            return None
        database = pathlib.Path(str(self.engine.url.database))
        return sum(file.stat().st_size for file in sqlite_files(database)[:2] if file.exists())

    def _database_figures(self, connection: Connection) -> dict[str, object]:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "page_count", "page_size", "freelist_count")
        patience = connection.exec_driver_sql(
            "PRAGMA busy_timeout"
        ).scalar()  # that of an application, inside joined()
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        try:
            figures = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas}
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {patience}")
        version = connection.exec_driver_sql("SELECT sqlite_version()").scalar()
        return {"sqlite_version": version, **figures}

    def _health_figures(self) -> dict[str, object]:
        if not self._in_memory:
            return super()._health_figures()
        if self._turn.is_taken and not self.in_transaction:
            raise BusyError("a unit of work has the one connection of this database in memory")
        return super()._health_figures()


def _close_idle(idle: deque[Taken]) -> None:
    with suppress(IndexError):
        while True:
            idle.pop().connection.close()


def _close_all(engine: Engine, idle: deque[Taken], former: list[Pool], opened: set[object]) -> None:
    """Close the connections of a store; not in it, for it may be gone."""
    _close_idle(idle)
    for pool in former:
        pool.dispose()
    engine.dispose()
    for driver in opened:
        if isinstance(driver, Lasting):
            driver.end()


def _can_write(*paths: str) -> bool:
    effective = os.access in os.supports_effective_ids
    return all(os.access(path, os.W_OK, effective_ids=effective) for path in paths)


def _url_of(given: str | pathlib.Path | URL) -> URL:
    if isinstance(given, os.PathLike) or (
        isinstance(given, str) and not given.startswith("sqlite:") and "://" not in given
    ):
        return URL.create("sqlite", database=os.fspath(given))
    url = given if isinstance(given, URL) else split_url(given)
    if url is None or url.get_backend_name() != "sqlite" or url.host or url.username or url.password:
        raise StorageValidationError.of_field("url", "must be sqlite:///PATH", shown_url(given))
    return url


def open_url(url: str, **options: object) -> SQLiteStorageAdapter:
    """Open ``sqlite:///PATH``; query parameters are options, e.g. ``?synchronous=NORMAL``."""
    parsed = _url_of(url)
    given: dict[str, Any] = dict(parsed.query)
    reading = {name: given.pop(name) for name in READING if name in given}
    for name, kind in (("busy_timeout", float), ("pool_size", int)):
        if name in given:
            try:
                given[name] = kind(given[name])
            except (TypeError, ValueError) as error:
                raise StorageValidationError.of_field(
                    f"url?{name}", "must be a number", given[name]
                ) from error
    unknown = sorted(set(given) - {"busy_timeout", "group", "pool_size", "synchronous"})
    if unknown:
        raise StorageValidationError.of_field(
            "url", "knows the options busy_timeout, group, pool_size, synchronous", unknown[0]
        )
    return SQLiteStorageAdapter(parsed.set(query=reading), **{**given, **options})
