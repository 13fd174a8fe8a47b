"""Every change of a file goes through `Disk`, one method an operation, so that a test can record and replay them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from findings_orm.errors import StorageUnavailableError
from findings_orm.private import NO_LINKS, OWNER, Access, fsync_folder, make_folder, new_file, temporary_name
from findings_orm.process import block

_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE}


class Disk:
    """Changes files. Nothing is durable before `sync` of the file and `sync_folder` of the names in its folder.

    No file is written through a link.

    Attributes:
        access: who may open the files and folders that are made.
    """

    access: Access = OWNER

    def make_folder(self, path: Path) -> None:
        """Make a folder."""
        make_folder(path, self.access)

    def write(self, path: Path, content: bytes) -> None:
        """Write a new file, which takes the place of one that may be there."""
        self.unlink(path)
        _put(new_file(path, self.access), content)

    def append(self, path: Path, content: bytes) -> None:
        """Append to a file that exists."""
        _put(os.open(path, os.O_WRONLY | os.O_APPEND | NO_LINKS), content)

    def sync(self, path: Path) -> None:
        """Make the content of a file durable."""
        handle = os.open(path, os.O_RDWR | NO_LINKS)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        fsync_folder(path)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file, over another one if there is one."""
        os.replace(old, new)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file."""
        handle = os.open(path, os.O_RDWR | NO_LINKS)
        try:
            os.ftruncate(handle, size)
        finally:
            os.close(handle)

    def unlink(self, path: Path) -> None:
        """Remove a file that may be gone already."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove a folder, unless somebody else keeps files in it."""
        with suppress(OSError):
            path.rmdir()

    def replace(self, path: Path, content: bytes) -> None:
        """Write a file so that a reader, or a crash, sees the old one or the new one."""
        temporary = path.with_name(temporary_name(path.name))
        try:
            self.write(temporary, content)
            self.sync(temporary)
            self.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                self.unlink(temporary)
            raise
        self.sync_folder(path.parent)


def _put(handle: int, content: bytes) -> None:
    """Write to an open file, and close it."""
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
    finally:
        os.close(handle)


@block
def translated(what: object) -> Iterator[None]:
    """Turn an `OSError` raised inside the block into `StorageUnavailableError`."""
    try:
        yield
    except OSError as error:
        place = error.filename or what
        raise StorageUnavailableError(
            f"{place}: {error.strerror or error}; what was stored is as it was",
            retryable=error.errno in _PASSING,
        ) from error
