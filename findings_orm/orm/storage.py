"""What the SQL adapters share: an engine, units of work over its connections, and joining an application's own."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, ClassVar, NamedTuple, Self, cast

from sqlalchemy import Connection, Engine, Pool, QueuePool, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from findings_orm.arguments import checked
from findings_orm.driver_errors import (
    came_between_calls,
    first_cause,
    is_interruption,
    raise_failure,
    translate_driver_errors,
)
from findings_orm.errors import StorageError, StorageUnavailableError, StorageValidationError
from findings_orm.finding import check_plain_text
from findings_orm.observe import Observer
from findings_orm.observe import Pool as PoolFigures
from findings_orm.orm.application import join_transaction
from findings_orm.orm.flushing import Mirror, Shared, share_records, shared
from findings_orm.orm.models import Finding
from findings_orm.orm.observation import Watch
from findings_orm.orm.pools import AskedPool
from findings_orm.orm.records import SqlRecords
from findings_orm.orm.route import Route
from findings_orm.process import INHERITED, block, survives_fork
from findings_orm.records import Records, refuse_interrupted
from findings_orm.store import BusyError, Store


class Taken(NamedTuple):
    """A connection that is in use: SQLAlchemy's, the driver's own below it, and the pool that both are of."""

    connection: Connection
    driver: Any
    pool: Pool


class SqlStore(Store):
    """A `FindingStore` over a SQLAlchemy engine."""

    records: ClassVar[type[SqlRecords]] = SqlRecords

    def __init__(self, engine: Engine, where: str, *, owned: bool) -> None:
        super().__init__()
        self.engine = engine
        self._where = where
        self._owned = owned
        self._watch = Watch(engine)
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        self._driver_class: type[object] = engine.dialect.loaded_dbapi.Connection
        self._end_unit_on_close(engine)
        survives_fork(self)

    def _begin_transaction(self, taken: Taken, *, write: bool) -> None:
        """Begin a transaction on a connection that is in none."""
        raise NotImplementedError

    def _commit_transaction(self, records: SqlRecords, driver: object) -> None:
        """Commit on the driver's connection and let the records know, whatever comes meanwhile."""
        raise NotImplementedError

    @staticmethod
    def _end_unit(driver: object, _record: object = None) -> None:
        """Give up the driver's locks, before its connection is closed; SQLAlchemy closes one that was interrupted."""
        raise NotImplementedError

    def _end_unit_on_close(self, engine: Engine) -> None:
        if not event.contains(engine, "close", self._end_unit):
            event.listen(engine, "close", self._end_unit)

    def _settle(self, connection: Connection) -> AbstractContextManager[None]:
        """Return a block in which an application's own connection has what the records need, and is as it was afterwards."""
        raise NotImplementedError

    @block
    def open_unit(self, *, write: bool, single: bool = False) -> Iterator[Records]:
        """See `Store.open_unit`; one (`single`) statement needs no transaction to see one instant."""
        outer = sys.exc_info()[1]
        taken, leaving = None, False
        try:
            taken = self._take_connection() if single else self._open_transaction(write=write)
            records = self._make_records(taken.connection)
            yield records
            if write:
                records.finish_writes()
                with self._watch_statement("COMMIT"):
                    self._commit_transaction(records, taken.driver)
                taken.connection.commit()
            leaving = True
            self._give_back(taken)
        except BaseException as error:  # noqa: BLE001  # raised again
            if taken is not None:
                try:
                    self._abandon_transaction(taken, error, outer, leaving=leaving)
                except BaseException as interruption:  # noqa: BLE001  # raised again; it came as the error was handled
                    self._throw_away(taken)
                    self._renew_pool()
                    raise_failure(interruption, self._where, outer)
            raise_failure(error, self._where, outer)

    # -- connections ----------------------------------------------------------------------------------------

    def _open_transaction(self, *, write: bool) -> Taken:
        """Return a connection inside a transaction."""
        taken = self._take_connection()
        try:
            self._begin_transaction(taken, write=write)
        except BaseException as error:
            try:
                self._abandon_transaction(taken, error, None)
            except BaseException:
                self._throw_away(taken)
                self._renew_pool()
                raise
            raise
        return taken

    def _take_connection(self) -> Taken:
        """Return a connection that is in no transaction."""
        return self._take_from_engine(self.engine)

    def _take_from_engine(self, engine: Engine) -> Taken:
        pool = self.engine.pool
        connection = self._open_connection(engine)
        try:
            return Taken(connection, connection.connection.driver_connection, pool)
        except BaseException:
            connection.close()
            raise

    def _give_back(self, taken: Taken) -> None:
        """Let others use a connection."""
        if taken.pool is not self.engine.pool:
            taken.connection.invalidate()  # nobody would take it out of there again
        taken.connection.close()

    def _abandon_transaction(
        self, taken: Taken, error: BaseException, outer: BaseException | None, *, leaving: bool = False
    ) -> None:
        """End the transaction of a connection after an error: roll back and keep it, or throw it away.

        What came inside of a call (from a handler of signals, a full memory) may have left SQLAlchemy's objects, and what was
        said to the server, in any state. Where it came as the connection was given back, the pool may count it as in use for
        ever.
        """
        first = first_cause(error, outer)
        with suppress(SQLAlchemyError, self._driver_error):  # what led here is what the caller has to know
            if not leaving and came_between_calls(first):
                taken.driver.rollback()
                if self._is_clean(taken.driver):
                    taken.connection.close()
                    return
        self._throw_away(taken)
        if leaving or is_interruption(first):
            self._renew_pool()

    def _is_usable(self, driver: object) -> bool:
        """Return whether the driver's connection takes another statement, in a transaction or not."""
        return True

    def _is_clean(self, driver: object) -> bool:
        """Return whether the driver's connection waits for a statement, in no transaction."""
        raise NotImplementedError

    def _throw_away(self, taken: Taken) -> None:
        try:
            self._end_unit(taken.driver)
        finally:
            taken.driver.close()
            # An interrupted transaction of SQLAlchemy fails its own assertions.
            with suppress(SQLAlchemyError, AssertionError, self._driver_error):
                taken.connection.invalidate()
                taken.connection.close()

    def _open_connection(self, engine: Engine) -> Connection:
        try:
            return self._watch.connect(engine) if self._watch else engine.connect()
        except (SQLAlchemyError, StorageError):
            raise
        except BaseException as error:
            # Nothing but the interrupted frames of SQLAlchemy holds what was on its way here; it is closed with the pool.
            traceback.clear_frames(error.__traceback__)
            self._renew_pool()
            raise

    def _renew_pool(self) -> None:
        """Leave the pool; a connection that is in use is closed when it is given back."""
        former = self.engine.pool
        self.engine.dispose(close=False)
        former.dispose()

    def _watch_statement(self, text: str) -> AbstractContextManager[object]:
        """Return a block for a statement that SQLAlchemy does not see."""
        return self._watch.block(text) if self._watch else nullcontext()

    def _make_records(self, connection: Connection) -> SqlRecords:
        return self.records(connection, self._watch)

    @checked
    @block
    def joined(self, bind: Session | Connection, *, actor: str | None = None) -> Iterator[Self]:
        """See `ApplicationStore.joined`."""
        self._check_open()
        session = bind if isinstance(bind, Session) else None
        if actor is not None:
            check_plain_text("actor", actor, empty=False)
            if session is None:
                rule = "is that of objects in a session; a connection has none"
                raise StorageValidationError.of_field("actor", rule, actor)
        if self._current_unit is not None:
            raise StorageError("this call is inside a transaction of the store; join before it begins")
        with translate_driver_errors(self._where):
            if isinstance(bind, Session):
                connection = bind.connection(bind_arguments={"mapper": Finding.__mapper__})
            else:
                connection = bind
            join_transaction(connection, self.engine.dialect.name)
            driver = connection.connection.driver_connection
            if isinstance(driver, self._driver_class):
                self._end_unit_on_close(connection.engine)
            records = self._records_on(connection)
            records.session = session
            sharing = (
                nullcontext() if session is None else shared(session, Shared(records, self.limits), actor)
            )
            with self._settle(connection), sharing:
                try:
                    with self._bind_unit(records, None if session is None else Mirror(session)) as unit:
                        yield unit
                        if session is not None:
                            session.flush()
                    refuse_interrupted(records)
                    records.finish_writes()
                except BaseException:
                    if records.interrupted or not self._is_usable(driver):
                        with suppress(SQLAlchemyError):
                            connection.invalidate()  # the application can only roll back
                    raise

    def _records_on(self, connection: Connection) -> SqlRecords:
        """Return records on a connection that an application made."""
        records = self._make_records(connection)
        if not isinstance(connection.connection.driver_connection, self._driver_class):
            records.route = Route(connection)
        return records

    def session(self) -> Session:
        """See `ApplicationStore.session`."""
        if not self.in_transaction:
            raise StorageError("a session needs a unit of work: open one with transaction()")
        with self._enter_unit(write=True) as unit:
            session = Session(connection_of(unit), join_transaction_mode="create_savepoint")
            share_records(session, Shared(cast("SqlRecords", unit), self.limits))
            return session

    def _iterate_findings(self, project_id: str, *, as_json: bool) -> Iterator[object]:
        """See `Store._iterate_findings`."""
        found = super()._iterate_findings(project_id, as_json=as_json)
        with translate_driver_errors(self._where):
            yield from found

    def after_fork(self) -> None:
        """See `Forking.after_fork`."""
        super().after_fork()
        self._leave_connections()

    def _leave_connections(self) -> None:
        """Leave all connections to the parent, in a forked child."""
        INHERITED.append(self.engine.pool)
        self.engine.dispose(close=False)
        self._guard_engine()

    # -- figures --------------------------------------------------------------------------------------------

    @checked
    def observe(self, observer: Observer) -> Callable[[], None]:
        """See `Observable.observe`. Statements of an application on this engine are told too."""
        return self._watch.add(observer)

    def pool(self) -> PoolFigures | None:
        """See `Observable.pool`."""
        pool: object = self.engine.pool
        if not isinstance(pool, QueuePool):
            return None
        # A pool tells in public how many connections it has beyond its size, not how many it may have.
        overflow: int = pool._max_overflow
        limit = pool.size() + overflow if overflow >= 0 else None
        return PoolFigures(pool.checkedout(), pool.checkedin(), limit, self._watch.waiting)

    def _revision_of_schema(self, unit: Records) -> str | None:
        from findings_orm import migrations

        return migrations.status(connection_of(unit)).current

    def ping(self) -> dict[str, object]:
        pool = self.engine.pool
        try:
            return (
                pool.run_at_once(self._health_figures)
                if isinstance(pool, AskedPool)
                else self._health_figures()
            )
        except StorageUnavailableError as error:
            if not isinstance(error.__cause__, PoolTimeoutError):
                raise
            raise BusyError(f"all connections of {self._where} are in use") from error

    def _health_figures(self) -> dict[str, object]:
        with self._enter_unit() as unit:
            figures = self._database_figures(unit.connection) if isinstance(unit, SqlRecords) else {}
            return {"url": self._where, **figures, "pool": self._pool_figures()}

    def _unasked_figures(self) -> dict[str, object]:
        return {"url": self._where, "pool": self._pool_figures()}

    def _pool_figures(self) -> dict[str, object] | None:
        pool = self.pool()
        return pool and pool._asdict()

    def _database_figures(self, connection: Connection) -> dict[str, object]:
        return {}

    def release(self) -> None:
        if self._owned:
            self.engine.dispose()

    def _guard_engine(self) -> None:
        """Let the connections be closed when the store is dropped; an application's engine is its own affair."""
        if self._owned:
            self._set_finalizer(self._where, Engine.dispose, self.engine)


def connection_of(unit: Records) -> Connection:
    """Return the connection that a unit of work of a SQL store is on."""
    if not isinstance(unit, SqlRecords):
        raise TypeError("a unit of work of a SQL store has a connection")
    return unit.connection
