"""The one place where exceptions of drivers and of SQLAlchemy become those of the package."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import CO_GENERATOR
from types import FrameType
from typing import NoReturn

from sqlalchemy import exc

from findings_orm.errors import (
    StorageConflictError,
    StorageError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
)

_BUSY = ("locked", "busy")
_DAMAGED = ("malformed", "not a database", "disk image", "corrupt")

_UNDONE = ("40001", "40P01")
_LOST = ("08", "57P")
_NO_MEMORY_OR_SPACE = "53"
_TAKEN_OR_GONE = ("23505", "23503")
_NO_PERMISSION = "42501"
_ADVICE = {
    "55P03": "another writer kept the project (or its tables) for longer than lock_timeout: an import of the same "
    "project, or a migration; try again later, or raise lock_timeout",
    "57014": "the statement took longer than statement_timeout, or somebody canceled it",
    _NO_PERMISSION: "this database role may not do that; an administrator has to grant it the project "
    "('findings access grant')",
}
_OTHER_STATEMENTS = ("26000", "42P05")
"""A prepared statement that is missing, or taken."""
_PROTOCOL_BROKEN, _STATEMENT = "08P01", "prepared statement"
"""What a server says of one that takes other parameters, in English."""
_UNPREPARED = {
    "psycopg": 'create_engine(url, connect_args={"prepare_threshold": None}), a store without prepare',
    "asyncpg": 'create_async_engine(url, connect_args={"statement_cache_size": 0, "prepared_statement_cache_size": 0, '
    '"prepared_statement_name_func": lambda: ""})',
}
_OTHER_SCHEMA = ("42P01", "42703", "3F000", "42P07", "42701", "42710")
"""A name that is missing, or taken."""
_OTHER_SQLITE_SCHEMA = ("no such table", "no such column", "already exists")
_REFUSED = ("authentication failed", "no pg_hba.conf entry", "does not exist")
"""What a server says that lets nobody in, in English; a failure to connect has no SQLSTATE."""

_DROPPED = "user-defined function raised exception"
"""What SQLite says where a function of ours raised; it drops what that was."""
_local = threading.local()

_LIBRARIES = {
    *("findings_orm", "sqlalchemy", "contextlib"),
    *("psycopg", "psycopg_binary", "psycopg2", "asyncpg", "aiosqlite"),
}
_KNOWN = {*_LIBRARIES, *sys.stdlib_module_names}


@contextmanager
def translate_driver_errors(where: str) -> Iterator[None]:
    """Turn driver errors raised inside the block into the package's, the original chained; let others pass as they are.

    Args:
        where: what was worked on, for the message: a file, a server without its password.
    """
    outer = sys.exc_info()[1]
    try:
        yield
    except BaseException as error:  # noqa: BLE001  # raised again, or what it stands for
        raise_failure(error, where, outer)


def raise_failure(error: BaseException, where: str, outer: BaseException | None) -> NoReturn:
    """Raise the error of the package for one of a driver; any other as it is.

    What a handler of signals raised leaves as the object that came, even where a driver failed in its wake.

    Args:
        error: what was raised.
        where: what was worked on, for the message.
        outer: what was being handled before the work began: not an interruption of this work.
    """
    first = first_cause(error, outer)
    found = first if first is not error else _wrapped_in(error) or _package_error(error, where)
    try:
        if isinstance(found, StorageError) and found is not error:
            raise found from error
        raise found
    finally:
        # Else the error would keep itself, and all that the frames hold, until Python looks for cycles.
        del error, first, found, outer


def is_interruption(error: BaseException) -> bool:
    """Return whether an exception may come at any instant. That of a worker's time limit may be an `Exception` too, which this
    can't tell."""
    return isinstance(error, MemoryError) or not isinstance(error, (Exception, GeneratorExit))


def came_between_calls(error: BaseException) -> bool:
    """Return whether an exception came while neither SQLAlchemy nor the driver was at work, so that their state is known: an
    error of theirs or of this package, or one that an application raised in its own block."""
    if is_interruption(error):
        return False
    if (
        isinstance(error, (GeneratorExit, sqlite3.Error))
        or _top_package(type(error).__module__) in _LIBRARIES
    ):
        return True
    trace = error.__traceback__
    while (
        trace is not None and trace.tb_frame.f_code.co_flags & CO_GENERATOR and _is_of_library(trace.tb_frame)
    ):
        trace = trace.tb_next  # the blocks that it has left
    while trace is not None and not _is_of_library(trace.tb_frame):
        trace = trace.tb_next
    return trace is None


def first_cause(error: BaseException, outer: BaseException | None) -> BaseException:
    """Return what came from outside, where an error was raised only as it left this package and the libraries below; else
    the error. What was handled before the work began (`outer`) is none of it."""
    _restore_dropped(error)
    latest, before = error, error.__context__
    while before is not None and before is not outer and not (is_interruption(latest) or _is_foreign(latest)):
        handled = before is latest.__cause__ or latest.__suppress_context__
        came = is_interruption(before) or (_is_foreign(before) and not handled)
        if came and before.__traceback__ is not None and _is_of_library(before.__traceback__.tb_frame):
            return before
        latest, before = before, before.__context__
    return error


def keep_dropped(error: BaseException) -> None:
    """Keep an exception that a driver is about to drop, until `first_cause` is asked about the error that it raises for it."""
    _local.dropped = error


def _restore_dropped(error: BaseException) -> None:
    """Put what the driver dropped where Python would have put it: at the beginning of what led to its error."""
    dropped, _local.dropped = getattr(_local, "dropped", None), None
    if dropped is None or _DROPPED not in str(error):
        return
    while error.__context__ is not None:
        error = error.__context__
    error.__context__ = dropped


def _is_foreign(error: BaseException) -> bool:
    """Return whether an exception is of neither Python nor a library that raises its own here."""
    return isinstance(error, TimeoutError) or _top_package(type(error).__module__) not in _KNOWN


def _is_of_library(frame: FrameType) -> bool:
    return _top_package(frame.f_globals.get("__name__", "")) in _LIBRARIES


def _top_package(module: str) -> str:
    return module.partition(".")[0]


def _wrapped_in(error: BaseException) -> BaseException | None:
    """Return what SQLAlchemy wrapped: what is raised while it prepares a statement, it takes for an error of that."""
    if isinstance(error, exc.StatementError) and not isinstance(error, exc.DBAPIError):
        return error.orig
    return None


def _package_error(error: BaseException, where: str) -> BaseException:
    if isinstance(error, exc.DBAPIError):
        return _translate_error(error if error.orig is None else error.orig, where)
    if isinstance(error, exc.TimeoutError):
        return StorageUnavailableError(
            f"{where}: no connection became free in time; the pool is too small for the load, or connections "
            "are held too long (unfinished iterators, long transactions)",
            retryable=True,
        )
    if isinstance(error, exc.PendingRollbackError):
        return StorageUnavailableError(
            f"{where}: the connection was given up inside of this transaction, so nothing of it was written; do it again",
            retryable=True,
        )
    if isinstance(error, exc.SQLAlchemyError):
        return StorageError(f"{where}: {error}")
    if isinstance(error, sqlite3.Error) or _is_psycopg(error):
        return _translate_error(error, where)
    return error


def was_rolled_back(error: BaseException) -> bool:
    """Return whether the server rolled everything back for a concurrent transaction: trying again is safe."""
    return sqlstate_of(_driver_error_of(error)) in _UNDONE


def is_connection_lost(error: BaseException) -> bool:
    """Return whether the connection to the server broke, or the server is going down."""
    origin = _driver_error_of(error)
    return _is_psycopg(origin) and _means_lost_connection(origin)


def _driver_error_of(error: BaseException) -> BaseException:
    """Return the driver's error that an error of the package was made of, or the innermost there is."""
    while not _is_psycopg(error) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_psycopg(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "psycopg"


def sqlstate_of(error: BaseException | None) -> str:
    """Return the SQLSTATE of a driver's error; empty if it has none."""
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""  # psycopg2 has the second


def _means_lost_connection(error: BaseException) -> bool:
    state = sqlstate_of(error)
    return state.startswith(_LOST) or (not state and type(error).__name__ == "OperationalError")


def _translate_error(error: BaseException, where: str) -> StorageError:
    if isinstance(error, sqlite3.Error):
        return _translate_sqlite(error, where)
    return _translate_postgresql(error, where)


def _translate_postgresql(error: BaseException, where: str) -> StorageError:
    """Turn an error by its SQLSTATE (appendix A of PostgreSQL's manual)."""
    state = sqlstate_of(error)
    text = f"{where}: {str(error).strip() or type(error).__name__}"
    if state in _ADVICE:
        return StorageUnavailableError(
            f"{where}: {_ADVICE[state]} ({error})", retryable=state != _NO_PERMISSION
        )
    if state in _UNDONE:
        return StorageConflictError(f"{where}: a concurrent change won: {error}", retryable=True)
    if state in _OTHER_STATEMENTS or (state == _PROTOCOL_BROKEN and _STATEMENT in text):
        way = _UNPREPARED["psycopg" if _is_psycopg(error) else "asyncpg"]
        return StorageUnavailableError(
            f"{text}; a pooler in transaction mode (PgBouncer) gives each transaction another connection to the server, "
            f"which has not its prepared statements: do without them ({way}), or let the pooler follow them "
            "(PgBouncer 1.21 or later with max_prepared_statements)"
        )
    if _means_lost_connection(error):
        return StorageUnavailableError(text, retryable=not any(word in text for word in _REFUSED))
    if state.startswith("23"):
        kind = StorageConflictError if state in _TAKEN_OR_GONE else StorageValidationError
        return kind(f"{where}: the database refuses the data: {error}")
    return _translate_state_class(state, text)


def _translate_state_class(state: str, text: str) -> StorageError:
    if state.startswith(_NO_MEMORY_OR_SPACE):
        return StorageUnavailableError(text, retryable=True)
    if state.startswith("22"):
        return StorageValidationError(text)
    if state in _OTHER_SCHEMA:
        return StorageIntegrityError(f"{text}; the schema is not that of this release")
    if state.startswith(("XX", "58")):
        return StorageIntegrityError(text) if state in ("XX001", "XX002") else StorageUnavailableError(text)
    if state.startswith(("28", "3D", "25006", "55", "57")):
        return StorageUnavailableError(text)
    return StorageError(text)


def _translate_sqlite(error: sqlite3.Error, where: str) -> StorageError:
    text = str(error)
    name = getattr(error, "sqlite_errorname", "") or ""
    if isinstance(error, sqlite3.IntegrityError):
        if "CHECK" in name or "NOTNULL" in name or "DATATYPE" in name:
            return StorageValidationError(f"{where}: the database refuses the data: {text}")
        return StorageConflictError(f"{where}: a concurrent change won: {text}")
    if any(word in text for word in _BUSY):
        return StorageUnavailableError(
            f"{where}: the database stayed locked by another writer ({text}); try again, or raise busy_timeout",
            retryable=True,
        )
    if any(word in text for word in _DAMAGED):
        return StorageIntegrityError(f"{where}: the file is damaged or no SQLite database: {text}")
    if any(words in text for words in _OTHER_SQLITE_SCHEMA):
        return StorageIntegrityError(f"{where}: the schema is not that of this release: {text}")
    return StorageUnavailableError(f"{where}: {text}", retryable="FULL" in name)
