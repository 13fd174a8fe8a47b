"""What happens on an engine, told to observers: statements with their fetches, waits for connections, new attempts.

The listeners are there only while somebody observes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from findings_orm.observe import Ended, Observer, Statement
from findings_orm.process import block

_EXPLAINABLE = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
_EXECUTION = "_findings_execution"


class Execution:
    """One execution of a statement: adds up the time in the database and the rows, and ends once."""

    __slots__ = ("_ends", "_rows", "_seconds", "_since")

    def __init__(self, ends: Iterable[Ended]) -> None:
        self._ends = ends
        self._seconds = 0.0
        self._rows = 0
        self._since = perf_counter()

    def resume(self) -> None:
        """The database works again."""
        self._since = perf_counter()

    def pause(self, rows: int = 0) -> None:
        """The database has answered, with some rows."""
        self._seconds += perf_counter() - self._since
        self._rows += rows

    def succeed(self, rows: int) -> None:
        """The database has done all of it, for that many rows (-1: it does not know)."""
        self.pause(max(rows, 0))
        self.end()

    def fail(self, error: BaseException) -> None:
        """The database has refused."""
        self.pause()
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """There is nothing more to come."""
        ends, self._ends = self._ends, ()
        for end in ends:
            end(self._seconds, self._rows, error)


class WatchedCursor:
    """A driver's cursor whose fetches are timed and counted; SQLite does most of its work in them."""

    def __init__(self, cursor: Any, execution: Execution) -> None:
        self._cursor = cursor
        self._execution = execution

    def __getattr__(self, name: str) -> object:
        return getattr(self._cursor, name)

    def fetchone(self) -> object:
        """Fetch the next row, or None."""
        row = self._fetch_watched(self._cursor.fetchone, lambda row: int(row is not None))
        if row is None:
            self._execution.end()
        return row

    def fetchmany(self, size: int | None = None) -> list[object]:
        """Fetch up to `size` rows."""
        fetch = self._cursor.fetchmany
        rows: list[object] = self._fetch_watched(fetch if size is None else lambda: fetch(size), len)
        if not rows:
            self._execution.end()
        return rows

    def fetchall(self) -> list[object]:
        """Fetch the rest."""
        rows: list[object] = self._fetch_watched(self._cursor.fetchall, len)
        self._execution.end()
        return rows

    def close(self) -> None:
        """Close the cursor."""
        try:
            self._cursor.close()
        finally:
            self._execution.end()

    def __del__(self) -> None:
        self._execution.end()

    def _fetch_watched(self, fetch: Callable[[], object], count: Callable[[Any], int]) -> Any:
        self._execution.resume()
        try:
            found = fetch()
        except BaseException as error:
            self._execution.fail(error)
            raise
        self._execution.pause(count(found))
        return found


class Watch:
    """The observers of an engine, and its listeners while there are any."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._observers: tuple[Observer, ...] = ()
        self._lock = threading.Lock()
        self.waiting = 0
        self._listeners: dict[str, Callable[..., None]] = {
            "before_cursor_execute": self._before_statement,
            "after_cursor_execute": self._after_statement,
            "handle_error": self._after_failure,
        }

    def __bool__(self) -> bool:
        return bool(self._observers)

    def add(self, observer: Observer) -> Callable[[], None]:
        """Tell an observer from now on, until the returned callable is called."""
        with self._lock:
            if not self._observers:
                for name, listener in self._listeners.items():
                    event.listen(self._engine, name, listener)
            self._observers = (*self._observers, observer)
        return lambda: self._remove_observer(observer)

    def _remove_observer(self, observer: Observer) -> None:
        with self._lock:
            had = bool(self._observers)
            self._observers = tuple(one for one in self._observers if one is not observer)
            if had and not self._observers:
                for name, listener in self._listeners.items():
                    event.remove(self._engine, name, listener)

    # -- statements -----------------------------------------------------------------------------------------

    def start_execution(self, connection: Connection, text: str, parameters: Sequence[object]) -> Execution:
        """Tell of a statement that goes to the driver without SQLAlchemy."""
        return self._tell_statement(Statement(text, 1, _make_explainer(connection, text, parameters)))

    def _tell_statement(self, statement: Statement) -> Execution:
        ends = [end for one in self._observers if (end := one.statement(statement)) is not None]
        return Execution(ends)

    @block
    def block(self, text: str) -> Iterator[Callable[[int], None]]:
        """Watch a block that executes a statement past SQLAlchemy; yields what takes the number of rows."""
        rows: list[int] = []
        execution = self._tell_statement(Statement(text))
        try:
            yield rows.append
        except BaseException as error:
            execution.fail(error)
            raise
        execution.succeed(sum(rows))

    def _before_statement(
        self, connection: Connection, _cursor: object, text: str, parameters: Any, context: object, many: bool
    ) -> None:
        statement = Statement(
            text,
            len(parameters) if many else 1,
            _make_explainer(connection, text, parameters[0] if many else parameters),
        )
        setattr(context, _EXECUTION, self._tell_statement(statement))

    def _after_statement(
        self, _connection: Connection, cursor: Any, _text: str, parameters: Any, context: Any, many: bool
    ) -> None:
        execution: Execution | None = getattr(context, _EXECUTION, None)
        if execution is None:
            return
        if cursor.description is not None:
            execution.pause()
            context.cursor = WatchedCursor(cursor, execution)
            return
        execution.succeed(len(parameters) if many and cursor.rowcount < 0 else cursor.rowcount)

    def _after_failure(self, failure: Any) -> None:
        execution: Execution | None = getattr(failure.execution_context, _EXECUTION, None)
        if execution is not None:
            execution.fail(failure.original_exception)

    # -- connections ----------------------------------------------------------------------------------------

    def connect(self, engine: Engine) -> Connection:
        """Return a connection of an engine (or of one that shares its pool), and tell how long that took."""
        with self._lock:
            self.waiting += 1
        start = perf_counter()
        try:
            connection = engine.connect()
        except BaseException as error:
            self._tell_connected(start, error)
            raise
        self._tell_connected(start, None)
        return connection

    def _tell_connected(self, start: float, error: BaseException | None) -> None:
        with self._lock:
            self.waiting -= 1
        for one in self._observers:
            one.connected(perf_counter() - start, error, timed_out=isinstance(error, PoolTimeoutError))

    def retried(self, reason: str) -> None:
        """Tell that a unit of work is tried again."""
        for one in self._observers:
            one.retried(reason)


def others_listen(connection: Connection, watch: Watch | None) -> bool:
    """Return whether somebody beside `watch` listens to the statements of a connection."""
    mine = 1 if watch else 0
    dispatch = connection.engine.dispatch
    # `dispatch` is public, but making it for a new connection takes as long as a short statement; this tells if there is need.
    if connection._has_events:
        dispatch = connection.dispatch
    return len(dispatch.before_cursor_execute) > mine or len(dispatch.after_cursor_execute) > mine


def _make_explainer(connection: Connection, text: str, parameters: object) -> Callable[[], list[str]] | None:
    if not text.lstrip("( \n").upper().startswith(_EXPLAINABLE):
        return None
    return lambda: _explain_statement(connection, text, parameters)


def _explain_statement(connection: Connection, text: str, parameters: object) -> list[str]:
    """Return the plan of a statement; nothing where the database refuses, whose transaction goes on regardless."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        with suppress(Exception):
            return [str(row[3]) for row in driver.execute(f"EXPLAIN QUERY PLAN {text}", parameters)]
        return []
    with suppress(Exception), driver.transaction(force_rollback=True):
        return [str(row[0]) for row in driver.execute(f"EXPLAIN {text}", parameters)]
    return []
