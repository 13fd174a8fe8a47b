"""The files that backups are: replaced only by a whole new one, opened as what they hold."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from findings_orm.backup.encryption import AGE_HEAD, Key, decrypting
from findings_orm.backup.frames import MAGIC
from findings_orm.errors import StorageConflictError, StorageUnavailableError, StorageValidationError
from findings_orm.layout import fsync_folder

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two backups to one file apart
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: pathlib.Path) -> Iterator[tuple[pathlib.Path, BinaryIO]]:
    """Yield a file beside `path` that takes its place, durably, when the block ends well; else it vanishes.

    Only the owner may read it. What a killed process left of it is written over.

    Raises:
        StorageConflictError: another process writes the same backup.
        StorageUnavailableError: the file can't be written.
    """
    beside = path.with_name(f".{path.name[:200]}.tmp")
    try:
        with _locked(beside) as file:
            try:
                yield beside, file
                file.flush()
                os.fsync(file.fileno())
                if path.exists():
                    beside.chmod(path.stat().st_mode & 0o7777)
                beside.replace(path)
                fsync_folder(path.parent)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StorageUnavailableError(
            f"{error.filename or path}: can't be written: {error.strerror or error}"
        ) from error


@contextmanager
def _locked(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Yield a file, emptied, that this process alone writes."""
    while True:
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "wb") as file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise StorageConflictError(f"{path}: another process writes this backup") from error
                if not _is_at(file, path):
                    continue  # the one who had the lock has just renamed or removed it
            file.truncate(0)
            yield file
            return


def _is_at(file: BinaryIO, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def remove_leftovers(folder: pathlib.Path) -> list[pathlib.Path]:
    """Remove what killed backups left in a folder; return it. What a running one writes is locked, and stays."""
    removed = []
    for path in sorted(folder.glob(".*.tmp")):
        if fcntl is None or not path.is_file():
            continue
        with path.open("rb") as file:
            head = file.read(len(AGE_HEAD))
            if head and not head.startswith((MAGIC, AGE_HEAD)):
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if _is_at(file, path):
                path.unlink()
                removed.append(path)
    return removed


@contextmanager
def opened(path: pathlib.Path, key: Key | None) -> Iterator[BinaryIO]:
    """Yield what a backup holds, decrypted where it is encrypted.

    Raises:
        StorageUnavailableError: the file can't be read.
        StorageValidationError: it is encrypted and there is no key.
        StorageIntegrityError: it can't be decrypted.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise StorageUnavailableError(f"{path}: can't be read: {error.strerror or error}") from error
    with file:
        if not is_encrypted(file):
            yield file
            return
        if key is None:
            raise StorageValidationError(f"{path}: is encrypted; opening it takes a secret key", field="key")
        with decrypting(file, str(path), key) as stream:
            yield stream


def is_encrypted(file: BinaryIO) -> bool:
    """Return whether a file is encrypted; it is at its beginning afterwards."""
    head = file.read(len(AGE_HEAD))
    file.seek(0)
    return head == AGE_HEAD
