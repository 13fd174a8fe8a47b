"""Findings in PostgreSQL: the production store for many projects."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import replace
from functools import wraps
from selectors import EVENT_READ, DefaultSelector
from typing import Any, ClassVar, TypeVar, cast

import psycopg
from psycopg import errors
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from sqlalchemy import URL, Connection, text

from findings_orm.arguments import checked
from findings_orm.diagnosis import Problem
from findings_orm.driver_errors import is_connection_lost, translate_driver_errors, was_rolled_back
from findings_orm.errors import (
    SchemaVersionError,
    StorageError,
    StorageUnavailableError,
    StorageValidationError,
)
from findings_orm.finding import GivenFinding, check_project_id
from findings_orm.observe import Figures
from findings_orm.orm.application import find_tables
from findings_orm.orm.models import TABLES
from findings_orm.orm.postgresql_engine import Options, parsed_url, postgresql_engine
from findings_orm.orm.postgresql_records import PostgreSQLRecords
from findings_orm.orm.records import SqlRecords
from findings_orm.orm.storage import SqlStore, Taken, connection_of
from findings_orm.port import GivenRun, IngestReport, OnInvalid, RunDiff, Sighting
from findings_orm.process import block
from findings_orm.query import FindingQuery, Page, Summary
from findings_orm.records import Records
from findings_orm.secrecy import shown_url
from findings_orm.units import Queue, Unit

# -- the end of a transaction on PostgreSQL, whatever comes while the server is asked for it --------------


SECONDS = 5.0
"""How long an interruption waits for the answer to a COMMIT or a cancel request."""

_DONE = b"COMMIT"
_WAITING = (TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR)
_INTERVAL = 0.1
"""Seconds after which a wait lets handlers of signals run where the system does not wake it (Windows)."""


def commit(driver: psycopg.Connection[object], records: SqlRecords) -> None:
    """Commit, and let the records know when it is done.

    An interruption first waits for the answer of the server: what was asked for can't be taken back, and it has to be known.
    psycopg's own `commit` cancels the statement then, which a COMMIT hardly notices, and drops its answer.

    Raises:
        psycopg.Error: the server did not commit.
    """
    server = driver.pgconn
    failed = server.transaction_status != TransactionStatus.INTRANS
    answer: PGresult | None = None
    try:
        server.send_query(b"COMMIT")
        answer = _await_answer(server)
        records.committed = answer.command_status == _DONE  # no call in between
    except BaseException:
        if server.transaction_status == TransactionStatus.ACTIVE:
            with suppress(psycopg.Error, TimeoutError):
                answer = _await_answer(server, SECONDS)
        if answer is not None:
            records.committed = answer.command_status == _DONE
        else:  # it may have been read, and lost as the call returned
            idle = server.transaction_status == TransactionStatus.IDLE
            records.committed = idle and not failed and not server.error_message
        raise
    if answer.status == ExecStatus.COMMAND_OK and not records.committed:  # the answer is ROLLBACK
        raise errors.InFailedSqlTransaction(
            "a statement of this transaction had failed, so the server rolled it back instead"
        )
    if not records.committed:
        raise errors.error_from_result(answer, encoding=driver.info.encoding)


def _await_answer(server: PGconn, seconds: float = float("inf")) -> PGresult:
    """Wait for the answer to one statement; handlers of signals run meanwhile.

    Raises:
        TimeoutError: it did not come in time.
        psycopg.OperationalError: the connection broke.
    """
    end = time.monotonic() + seconds
    with DefaultSelector() as selector:
        selector.register(server.socket, EVENT_READ)
        while server.is_busy():
            server.flush()
            if selector.select(_INTERVAL):
                server.consume_input()
            elif time.monotonic() > end:
                raise TimeoutError("the server did not answer a COMMIT in time")
    answer = server.get_result()
    if answer is None:
        raise psycopg.OperationalError("the server gave no answer to a COMMIT")
    while server.get_result():
        pass
    return answer


def cancel_statement(driver: object) -> None:
    """Let the server give up the statement that it works on, if there is one: it would keep its locks until that ends."""
    if not isinstance(driver, psycopg.Connection) or driver.closed:
        return  # an application may have joined on another driver
    if driver.pgconn.transaction_status == TransactionStatus.ACTIVE:
        with suppress(psycopg.Error):
            driver.cancel_safe(timeout=SECONDS)


def is_usable(driver: object) -> bool:
    """Return whether the server waits for a statement, in a transaction or not, and the answer to each is read at once."""
    if not isinstance(driver, psycopg.Connection):
        return True  # not known
    server = driver.pgconn
    return server.transaction_status in _WAITING and server.pipeline_status == PipelineStatus.OFF


def is_idle(driver: psycopg.Connection[object]) -> bool:
    """Return whether a connection is usable and in no transaction."""
    return driver.pgconn.transaction_status == TransactionStatus.IDLE and is_usable(driver)


# -- findings in PostgreSQL: the production store for many projects ---------------------------------------


ATTEMPTS = 5
"""How often a unit of work of the store's own is tried that the server undoes for a concurrent one."""

LOWEST_VERSION = 15

_T = TypeVar("_T")
_Method = TypeVar("_Method", bound=Callable[..., object])


def _retry_read(method: _Method) -> _Method:
    """Let a read be done once more when its connection turns out to be broken."""
    return _retry_method(method, read=True)


def _retry_write(method: _Method) -> _Method:
    """Let a write be done again when the server undid all of it."""
    return _retry_method(method, read=False)


def _retry_method(method: _Method, *, read: bool) -> _Method:
    @wraps(method)
    def retried_method(self: PostgreSQLStorageAdapter, *args: object, **options: object) -> object:
        return self._retry_work(lambda: method(self, *args, **options), read=read)

    return cast("_Method", retried_method)


class PostgreSQLStorageAdapter(SqlStore):
    """A `FindingStore` in a PostgreSQL database (15 to 18), for many threads, processes and machines.

    Isolation: a write is one transaction at READ COMMITTED that first takes the lock of its project, so writers of one
    project queue (up to `lock_timeout`), those of different projects don't meet, and readers wait for nobody. A read is
    one statement, or a transaction at REPEATABLE READ where it needs several: it sees one instant. Deadlocks and
    serialization failures in calls of the store's own are tried again a few times; inside `transaction()`, where only
    the caller can do that, they raise `StorageConflictError`. A broken connection is replaced; a read is tried once
    more then, a write is not (it may have been committed) and raises `StorageUnavailableError`.

    Works behind a pooler in transaction mode (PgBouncer), and in processes that fork.

    Args:
        url: ``postgresql://USER@HOST/DATABASE``; query parameters may give the options below (``?pool_size=20``), the
            others go to libpq (``sslmode``).
        migrate: create the tables in an empty database, or bring those of an older release to the current schema,
            instead of refusing it.
        options: the attributes of `findings_orm.orm.postgresql_engine.Options`, as keyword arguments:
            pool_size, max_overflow, pool_timeout, pool_recycle, pre_ping, prepare, statement_timeout, lock_timeout,
            connect_timeout, application_name, schema, project_id.

    Raises:
        SchemaVersionError: the database is empty or behind (the message names the command that helps), or ahead.
        StorageUnavailableError: the server can't be reached, or refuses the role.
        StorageValidationError: the URL or an option is malformed.
    """

    adapter: ClassVar[str] = "postgresql"
    records: ClassVar[type[PostgreSQLRecords]] = PostgreSQLRecords

    @checked
    def __init__(self, url: str | URL, *, migrate: bool = False, **options: object) -> None:
        target, given = parsed_url(url)
        migrate = bool(given.pop("migrate", False)) or migrate
        try:
            self.options = replace(Options(), **{**given, **options})
        except TypeError as error:
            unknown = sorted(set(options) - set(Options.__dataclass_fields__))
            raise StorageValidationError.of_field(
                "options", f"must be some of {', '.join(Options.__dataclass_fields__)}", unknown
            ) from error
        if self.options.project_id is not None:
            check_project_id(self.options.project_id)
        shown = {"schema": self.options.schema} if self.options.schema else {}
        where = shown_url(target.set(query=shown).render_as_string(hide_password=False))
        super().__init__(postgresql_engine(target, self.options), where, owned=True)
        self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        read, write = (self.options.local_settings(write=write) for write in (False, True))
        self._read_settings = read
        self._begin_read = _driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", *read)
        self._begin_write = _driver_sql("BEGIN ISOLATION LEVEL READ COMMITTED", *write)
        self._consistent = threading.local()
        self._queue = Queue(f"a project of {where}", self._units)
        try:
            self._check_schema(migrate=migrate)
        except BaseException:
            self.engine.dispose()
            raise
        self._guard_engine()

    def _check_schema(self, *, migrate: bool) -> None:
        """Refuse a server that is too old, and a database that is not at head, before anything is touched."""
        from findings_orm import migrations
        from findings_orm.migrations.database import OR_MIGRATE

        with translate_driver_errors(self._where), self.engine.connect() as connection:
            self._check_server(connection)
            current = migrations.require_current(connection, migrate=migrate)
            connection.rollback()
            if current:
                return
            if not migrate:
                raise SchemaVersionError(
                    f"{self._where} has no tables of findings-orm yet: run 'findings db upgrade --url {self._where}', "
                    f"{OR_MIGRATE}"
                )
            with connection.begin():
                if self.options.schema is not None:
                    migrations.make_schema(connection, self.options.schema)
                migrations.upgrade(connection)

    def _check_server(self, connection: Connection) -> None:
        info: Any = connection.connection.driver_connection.info  # type: ignore[union-attr]
        if info.server_version < LOWEST_VERSION * 10_000:
            raise StorageUnavailableError(
                f"{self._where}: PostgreSQL {info.server_version // 10_000} is too old; {LOWEST_VERSION} is the oldest"
            )
        encoding = info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise StorageUnavailableError(
                f"{self._where}: the database has the encoding {encoding}; findings need one with UTF8"
            )

    # -- units of work --------------------------------------------------------------------------------------

    def _open_transaction(self, *, write: bool) -> Taken:
        """See `SqlStore._open_transaction`: where a transaction is needed; on a new connection if the first is broken."""
        consistent = getattr(self._consistent, "wanted", False)
        self._consistent.wanted = False  # for this unit only: what holds it may be left in another thread
        if not (write or consistent or self._read_settings):
            return self._take_connection()
        try:
            return super()._open_transaction(write=write)
        except Exception as error:
            if not is_connection_lost(error):
                raise
        return super()._open_transaction(write=write)

    def _begin_transaction(self, taken: Taken, *, write: bool) -> None:
        begin = self._begin_write if write else self._begin_read
        self.records(taken.connection, self._watch).begin(begin)

    def _take_connection(self) -> Taken:
        """See `SqlStore._take_connection`: outside of any transaction statements commit themselves."""
        taken = self._take_from_engine(self._single)
        try:
            if is_idle(taken.driver):
                return taken
        except BaseException:
            taken.connection.close()
            raise
        self._throw_away(taken)  # an interrupted application left it so
        return self._take_from_engine(self._single)

    def _commit_transaction(self, records: SqlRecords, driver: Any) -> None:
        commit(driver, records)

    def _is_usable(self, driver: object) -> bool:
        return is_usable(driver)

    def _is_clean(self, driver: Any) -> bool:
        return is_idle(driver)

    @staticmethod
    def _end_unit(driver: object, _record: object = None) -> None:
        cancel_statement(driver)

    def _settle(self, connection: Connection) -> AbstractContextManager[None]:
        return find_tables(connection, self.options.schema, self.options.project_id)

    def _make_records(self, connection: Connection) -> SqlRecords:
        records = PostgreSQLRecords(connection, self._watch)
        records.queue = self._queue_for_project
        return records

    @block
    def _queue_for_project(self, records: PostgreSQLRecords, names: frozenset[str]) -> Iterator[None]:
        """See `Queue.join`: for the units of work that keep one of the names (`PostgreSQLRecords.queued`)."""
        queue, ticket = self._queue, None
        try:
            if self._units:
                ticket = queue.join(lambda unit: _keeps(unit, records, names))
            yield
        finally:
            queue.leave(ticket)

    @block
    def _one_instant(self) -> Iterator[None]:
        """Let the unit that the calling thread opens inside the block see one instant in all its statements."""
        self._consistent.wanted = True
        try:
            yield
        finally:
            self._consistent.wanted = False

    def _retry_work(self, work: Callable[[], _T], *, read: bool) -> _T:
        """Do the work of one unit, and again where that is safe."""
        for attempt in range(ATTEMPTS):
            try:
                return work()
            except StorageError as error:
                broken = read and attempt == 0 and is_connection_lost(error)
                if (
                    not (broken or was_rolled_back(error))
                    or self._current_unit is not None
                    or attempt == ATTEMPTS - 1
                ):
                    raise
                self._watch.retried("connection" if broken else "conflict")
            time.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311  # nosec B311  # jitter, no secret
        raise AssertionError("the last attempt returned or raised")

    def after_fork(self) -> None:
        """See `Forking.after_fork`."""
        super().after_fork()
        self._consistent = threading.local()

    @block
    def open_snapshot(self) -> Iterator[Records]:
        """See `Store.open_snapshot`."""
        with self._one_instant(), self.open_unit(write=False) as unit:
            yield unit

    # -- reading --------------------------------------------------------------------------------------------

    get_finding = _retry_read(SqlStore.get_finding)
    list_findings = _retry_read(SqlStore.list_findings)
    list_projects = _retry_read(SqlStore.list_projects)
    revision = _retry_read(SqlStore.revision)
    history = _retry_read(SqlStore.history)
    runs = _retry_read(SqlStore.runs)
    rejected_originals = _retry_read(SqlStore.rejected_originals)

    @_retry_read
    @checked
    def find(self, query: FindingQuery) -> Page:
        """See `FindingStore.find`."""
        if not query.words:
            return super().find(query)
        with self._one_instant():
            return super().find(query)

    @_retry_read
    @checked
    def count(self, query: FindingQuery) -> int:
        """See `FindingStore.count`."""
        if not query.words:
            return super().count(query)
        with self._one_instant():
            return super().count(query)

    @_retry_read
    def summarize(self, project_id: str) -> Summary:
        """See `FindingStore.summarize`."""
        with self._one_instant():
            return super().summarize(project_id)

    @_retry_read
    def sighting(self, project_id: str, finding_id: str) -> Sighting:
        """See `FindingStore.sighting`."""
        with self._one_instant():
            return super().sighting(project_id, finding_id)

    @_retry_read
    def diff_runs(self, project_id: str, a: str, b: str) -> RunDiff:
        """See `FindingStore.diff_runs`."""
        with self._one_instant():
            return super().diff_runs(project_id, a, b)

    def _iterate_findings(self, project_id: str, *, as_json: bool) -> Iterator[object]:
        """See `Store._iterate_findings`. A cursor on the server keeps the memory constant."""
        found = super()._iterate_findings(project_id, as_json=as_json)
        with closing(found):  # type: ignore[type-var]  # a generator
            with self._one_instant():
                first = next(found, None)
            if first is not None:
                yield first
                yield from found

    # -- writing --------------------------------------------------------------------------------------------

    save_finding = _retry_write(SqlStore.save_finding)
    delete_project = _retry_write(SqlStore.delete_project)
    discard_rejected = _retry_write(SqlStore.discard_rejected)
    retry_rejected = _retry_write(SqlStore.retry_rejected)
    set_status = _retry_write(SqlStore.set_status)

    def save_findings(self, documents: Iterable[GivenFinding]) -> None:
        """See `FindingStore.save_findings`; only a sequence can be read again for another attempt."""
        if isinstance(documents, Sequence):
            self._retry_work(
                lambda: super(PostgreSQLStorageAdapter, self).save_findings(documents), read=False
            )
        else:
            super().save_findings(documents)

    def ingest(
        self,
        project_id: str,
        documents: Iterable[GivenFinding],
        *,
        run: GivenRun = None,
        close_missing: bool = False,
        dry_run: bool = False,
        on_invalid: OnInvalid = "raise",
    ) -> IngestReport:
        """See `FindingStore.ingest`; only a sequence can be read again for another attempt."""
        plain = super().ingest

        def work() -> IngestReport:
            return plain(
                project_id,
                documents,
                run=run,
                close_missing=close_missing,
                dry_run=dry_run,
                on_invalid=on_invalid,
            )

        return self._retry_work(work, read=False) if isinstance(documents, Sequence) else work()

    # -- the store itself -----------------------------------------------------------------------------------

    def figures(self) -> Figures:
        """See `Observable.figures`."""
        with self._one_instant():
            return super().figures()

    def _find_own_problems(self, unit: Records) -> Iterator[Problem]:
        from findings_orm.orm.postgresql_examination import database_problems

        pool = self.pool()
        return database_problems(connection_of(unit), pool.limit if pool else None)

    def _size_on_disk(self, unit: Records) -> int:
        names = [table.name for table in TABLES]
        sql = (
            "SELECT sum(pg_total_relation_size(coalesce(part.relid, named.oid))) "
            "FROM unnest(CAST(CAST(:names AS text[]) AS regclass[])) AS named (oid) "
            "LEFT JOIN LATERAL pg_partition_tree(named.oid) AS part ON true"
        )
        return int(connection_of(unit).execute(text(sql), {"names": names}).scalar() or 0)

    def _database_figures(self, connection: Connection) -> dict[str, object]:
        sql = "SELECT current_setting('server_version'), current_database()::text, current_user::text"
        figures = zip(
            ("server_version", "database", "role"), connection.exec_driver_sql(sql).one(), strict=True
        )
        return {**dict(figures), "schema": self.options.schema}

    def _pool_figures(self) -> dict[str, object]:
        pool: Any = self.engine.pool
        return {
            "size": pool.size(),
            "max_overflow": self.options.max_overflow,
            "in_use": pool.checkedout(),
            "idle": pool.checkedin(),
        }


def _keeps(unit: Unit[Records], records: Records, names: frozenset[str]) -> bool:
    """Return whether a unit of work keeps what others wait for."""
    other = unit.records
    return (
        isinstance(other, PostgreSQLRecords)
        and other is not records
        and not names.isdisjoint(other.queued.copy())
    )


def _driver_sql(*statements: str) -> str:
    return "; ".join(statements).replace("%", "%%")


def open_url(url: str, **options: Any) -> PostgreSQLStorageAdapter:
    """Open ``postgresql://USER@HOST/DATABASE``; query parameters may give options, e.g. ``?pool_size=20``."""
    return PostgreSQLStorageAdapter(url, **options)
