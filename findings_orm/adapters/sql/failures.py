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


def _translate(error: BaseException, where: str) -> StorageError:
    if isinstance(error, sqlite3.Error):
        return _translate_sqlite(error, where)
    return StorageError(f"{where}: {error}")


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
