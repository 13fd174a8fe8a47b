"""The one place where exceptions of drivers and of SQLAlchemy become those of the package."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

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
_UNKNOWN_NAMES = ("42P01", "42703", "3F000")


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn driver errors raised inside the block into the package's, the original chained.

    Args:
        where: what was worked on, for the message: a file, a server without its password.
    """
    try:
        yield
    except exc.DBAPIError as error:
        cause = error.orig if error.orig is not None else error
        raise _translate(cause, where) from error
    except sqlite3.Error as error:
        raise _translate(error, where) from error
    except exc.TimeoutError as error:
        raise StorageUnavailableError(
            f"{where}: no connection became free in time; the pool is too small for the load, or connections "
            "are held too long (unfinished iterators, long transactions)",
            retryable=True,
        ) from error
    except exc.SQLAlchemyError as error:
        raise StorageError(f"{where}: {error}") from error
    except Exception as error:
        if not _is_psycopg(error):
            raise
        raise _translate(error, where) from error


def undone(error: BaseException) -> bool:
    """Return whether the server rolled everything back for a concurrent transaction: trying again is safe."""
    return _state(_origin(error)) in _UNDONE


def lost(error: BaseException) -> bool:
    """Return whether the connection to the server broke, or the server is going down."""
    origin = _origin(error)
    return _is_psycopg(origin) and _is_lost(origin)


def _origin(error: BaseException) -> BaseException:
    """Return the driver's error that an error of the package was made of, or the innermost there is."""
    while not _is_psycopg(error) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_psycopg(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "psycopg"


def _state(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or ""


def _is_lost(error: BaseException) -> bool:
    state = _state(error)
    return state.startswith(_LOST) or (not state and type(error).__name__ == "OperationalError")


def _translate(error: BaseException, where: str) -> StorageError:
    if isinstance(error, sqlite3.Error):
        return _translate_sqlite(error, where)
    if _is_psycopg(error):
        return _translate_postgresql(error, where)
    return StorageError(f"{where}: {error}")


def _translate_postgresql(error: BaseException, where: str) -> StorageError:
    """Turn an error by its SQLSTATE (appendix A of PostgreSQL's manual)."""
    state = _state(error)
    text = f"{where}: {str(error).strip() or type(error).__name__}"
    if state in _ADVICE:
        return StorageUnavailableError(
            f"{where}: {_ADVICE[state]} ({error})", retryable=state != _NO_PERMISSION
        )
    if state in _UNDONE:
        return StorageConflictError(f"{where}: a concurrent change won: {error}")
    if _is_lost(error):
        return StorageUnavailableError(text, retryable=True)
    if state.startswith("23"):
        kind = StorageConflictError if state in _TAKEN_OR_GONE else StorageValidationError
        return kind(f"{where}: the database refuses the data: {error}")
    return _translate_class(state, text)


def _translate_class(state: str, text: str) -> StorageError:
    if state.startswith(_NO_MEMORY_OR_SPACE):
        return StorageUnavailableError(text, retryable=True)
    if state.startswith("22"):
        return StorageValidationError(text)
    if state in _UNKNOWN_NAMES:
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
    if "no such table" in text or "no such column" in text:
        return StorageIntegrityError(f"{where}: the schema is not that of this release: {text}")
    return StorageUnavailableError(f"{where}: {text}", retryable="FULL" in name)
