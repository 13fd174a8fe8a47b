"""The files that backups are: replaced only by a whole new one, opened as what they hold."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from findings_orm.backup.container import MAGIC
from findings_orm.backup.encryption import AGE_HEAD, Key, decrypting
from findings_orm.errors import StorageUnavailableError, StorageValidationError
from findings_orm.private import remove_abandoned


def remove_leftovers(folder: pathlib.Path) -> list[pathlib.Path]:
    """Remove what killed backups left in a folder; return it. What a running one writes is locked, and stays."""
    return [
        path
        for path in sorted(folder.glob(".*.tmp"))
        if path.is_file() and remove_abandoned(path, MAGIC, AGE_HEAD)
    ]


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
