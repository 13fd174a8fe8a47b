"""The lock that the processes working on one store share."""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from findings_orm.errors import StorageUnavailableError
from findings_orm.private import OWNER, Access, new_file

try:
    import fcntl
except ImportError:  # Windows has locks of its own kind, which filelock knows
    fcntl = None  # type: ignore[assignment]

POLL = 0.002
"""Seconds between two looks whether the lock is free."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


class StoreLock:
    """A lock file. The operating system frees it when its process ends, however that happens.

    An exception that comes at any call leaves a lock of which `held` says the truth, and that `release` gives back.

    Args:
        path: the file, which is made, and stays.
        soft: where the file system has no locks, mark the store by the existence of another file. That file stays when its
            process is killed; another one on the same computer notices.
    """

    def __init__(self, path: Path, *, soft: bool = False) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._other: Any = None
        if soft or fcntl is None:
            try:
                import filelock
            except ImportError as error:
                raise StorageUnavailableError(
                    "these locks need the library filelock; run: pip install 'findings-orm[file]'"
                ) from error
            self._other = (
                filelock.FileLock(path, thread_local=False)
                if fcntl is None
                else filelock.SoftFileLock(path.with_name(f"{path.name}.soft"), thread_local=False)
            )

    @property
    def held(self) -> bool:
        """Whether this object has the lock."""
        return self._file is not None or (self._other is not None and self._other.is_locked)

    def acquire(self, timeout: float) -> None:
        """Take the lock; wait for it so many seconds.

        Raises:
            StorageUnavailableError: another process kept it for too long, or the file system has no locks.
            OSError: the lock file can't be made.
        """
        deadline = time.monotonic() + timeout
        while not self.try_acquire():
            if time.monotonic() > deadline:
                raise busy_error(self._path.parent, timeout)
            time.sleep(POLL)

    def try_acquire(self, access: Access = OWNER) -> bool:
        """Take the lock if nobody has it; return whether it was taken.

        Args:
            access: who may open the lock file, and so write; if there is none yet.

        Raises:
            StorageUnavailableError: the file system has no locks.
            OSError: the lock file can't be made.
        """
        if not os.path.lexists(self._path):
            with suppress(FileExistsError):
                os.close(new_file(self._path, access))
        if fcntl is None:
            return self._try_other_lock()
        # Opened by one call, so that no exception leaves it open; a link is refused below.
        self._file = file = open(self._path, "r+b", buffering=0)  # noqa: SIM115  # open while it is held
        taken = False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.lstat(self._path)
            if stat.S_ISLNK(found.st_mode):
                raise OSError(errno.ELOOP, "is a link; remove it", str(self._path))
            taken = os.path.samestat(os.fstat(file.fileno()), found)
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if self._other is not None:
                return self._try_other_lock()
            raise StorageUnavailableError(
                f"{self._path.parent}: the file system has no locks (flock: {error.strerror}); two processes could write "
                "at once; put the store on one that has, or open it with lock='soft' (file:///FOLDER?lock=soft)"
            ) from error
        finally:
            if not taken:
                self._file = None
                file.close()
        return taken

    def _try_other_lock(self) -> bool:
        import filelock

        try:
            self._other.acquire(timeout=0)
        except filelock.Timeout:
            return False
        return True

    def release(self) -> None:
        """Give the lock back, if it is held."""
        file = self._file
        if file is not None:
            # No `suppress`: it is a call, at which an exception may come. If these two fail, the lock is free nevertheless.
            try:
                fcntl.flock(file, fcntl.LOCK_UN)  # a forked child may keep the file open
            except OSError:
                pass
            finally:
                self._file = None
                try:  # noqa: SIM105
                    file.close()
                except OSError:
                    pass
        elif self._other is not None:
            self._other.release()

    def is_free(self) -> bool:
        """Return whether nobody writes, as far as can be told."""
        if fcntl is None:
            probe = StoreLock(self._path)
            taken = probe._try_other_lock()
            probe.release()
            return taken
        try:
            with open(self._path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True


def busy_error(folder: Path, timeout: float) -> StorageUnavailableError:
    """Return the error for a lock that another process kept."""
    return StorageUnavailableError(
        f"{folder}: another process kept writing for {timeout} seconds; try again, or raise lock_timeout",
        retryable=True,
    )
