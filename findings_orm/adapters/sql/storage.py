"""What the SQL adapters share: an engine, units of work over its connections, and joining an application's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Self

from sqlalchemy import Connection, Engine, QueuePool
from sqlalchemy.orm import Session

from findings_orm.adapters.sql.records import SqlRecords
from findings_orm.adapters.sql.watching import Watch
from findings_orm.arguments import checked
from findings_orm.errors import StorageError
from findings_orm.failures import translated
from findings_orm.forking import INHERITED, survives_fork
from findings_orm.observing import Observer, Pool
from findings_orm.records import Records
from findings_orm.store import Store


class SqlStore(Store):
    """A `FindingStore` over a SQLAlchemy engine."""

    records: ClassVar[type[SqlRecords]] = SqlRecords

    def __init__(self, engine: Engine, where: str, *, owned: bool) -> None:
        super().__init__()
        self.engine = engine
        self._where = where
        self._owned = owned
        self._watch = Watch(engine)
        survives_fork(self)

    def _begin(self, connection: Connection, *, write: bool) -> None:
        """Begin a transaction on a fresh connection."""
        raise NotImplementedError

    def _prepare(self, connection: Connection) -> None:
        """Give an application's own connection what the records need."""

    @contextmanager
    def _open_unit(self, *, write: bool) -> Iterator[Records]:
        with translated(self._where), self._connect(self.engine) as connection:
            with self._watched("BEGIN"):
                self._begin(connection, write=write)
            records = self._records(connection)
            yield records
            if write:
                records.finish()
                with self._watched("COMMIT"):
                    connection.commit()

    def _connect(self, engine: Engine) -> Connection:
        return self._watch.connect(engine) if self._watch else engine.connect()

    def _watched(self, text: str) -> AbstractContextManager[object]:
        """Return a block for a statement that SQLAlchemy does not see."""
        return self._watch.block(text) if self._watch else nullcontext()

    def _records(self, connection: Connection) -> SqlRecords:
        return self.records(connection, self._watch)

    @checked
    @contextmanager
    def joined(self, bind: Session | Connection) -> Iterator[Self]:
        """Work inside an application's own transaction.

        What the calling thread does with this store inside the block happens on the connection of `bind` and commits or
        rolls back with the application's rows, when the application says so; nothing is committed here.

        Args:
            bind: a SQLAlchemy `Session` or `Connection` on the database that has the tables of this store.

        Raises:
            StorageError: the calling thread is inside `transaction()` already.
        """
        if self._current is not None:
            raise StorageError("this thread is inside a transaction of the store; join before it begins")
        with translated(self._where):
            if isinstance(bind, Session):
                bind.flush()
                connection = bind.connection()
            else:
                connection = bind
            if not connection.in_transaction():
                connection.begin()
            self._prepare(connection)
            records = self._records(connection)
            with self._bound(records):
                yield self
            records.finish()

    def session(self) -> Session:
        """Return an ORM session inside the unit of work of the calling thread, for the models in
        `findings_orm.adapters.sql.models` or the application's own; it commits when `transaction()` does.

        Raises:
            StorageError: the calling thread is not inside `transaction()`.
        """
        unit = self._current
        if not isinstance(unit, SqlRecords):
            raise StorageError("a session needs a unit of work: open one with transaction()")
        return Session(unit.connection, join_transaction_mode="create_savepoint")

    def _iterate(self, project_id: str, *, as_json: bool) -> Iterator[Any]:
        """See `Store._iterate`."""
        found = super()._iterate(project_id, as_json=as_json)
        with translated(self._where):
            yield from found

    def after_fork(self) -> None:
        """See `Forking.after_fork`."""
        super().after_fork()
        self._leave_connections()

    def _leave_connections(self) -> None:
        """Leave all connections to the parent, in a forked child."""
        INHERITED.append(self.engine.pool)
        self.engine.dispose(close=False)

    # -- figures --------------------------------------------------------------------------------------------

    @checked
    def observe(self, observer: Observer) -> Callable[[], None]:
        """See `Observable.observe`. Statements of an application on this engine are told too."""
        return self._watch.add(observer)

    def pool(self) -> Pool | None:
        """See `Observable.pool`."""
        pool: Any = self.engine.pool
        if not isinstance(pool, QueuePool):
            return None
        limit = pool.size() + pool._max_overflow if pool._max_overflow >= 0 else None
        return Pool(pool.checkedout(), pool.checkedin(), limit, self._watch.waiting)

    def _revision_of_schema(self, unit: Records) -> str | None:
        from findings_orm import migrations

        return migrations.status(connection_of(unit)).current

    def _ping(self) -> dict[str, Any]:
        with self._unit() as unit:
            figures = self._figures(unit.connection) if isinstance(unit, SqlRecords) else {}
            return {"url": self._where, **figures}

    def _figures(self, connection: Connection) -> dict[str, Any]:
        return {}

    def _release(self) -> None:
        if self._owned:
            self.engine.dispose()


def connection_of(unit: Records) -> Connection:
    """Return the connection that a unit of work of a SQL store is on."""
    if not isinstance(unit, SqlRecords):
        raise TypeError("a unit of work of a SQL store has a connection")
    return unit.connection
