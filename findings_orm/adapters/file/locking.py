"""The lock that the processes working on one store share."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from findings_orm.errors import StorageUnavailableError
from findings_orm.private import OWNER, Access, new_file

_POLL = 0.002


class StoreLock:
    """A lock file. The operating system frees it when its process ends, however that happens."""

    def __init__(self, path: Path, timeout: float) -> None:
        try:
            import filelock
        except ImportError as error:
            raise StorageUnavailableError(
                "stores in files need the library filelock; run: pip install 'findings-orm[file]'"
            ) from error
        self._timeout_error = filelock.Timeout
        self._path = path
        self._timeout = timeout
        self._lock: Any = filelock.FileLock(path, thread_local=False)

    def acquire(self, access: Access = OWNER) -> None:
        """Take the lock.

        Args:
            access: who may open the lock file, and so write; if there is none yet.

        Raises:
            StorageUnavailableError: another process kept it for too long.
            OSError: the lock file can't be made.
        """
        if not os.path.lexists(self._path):
            with suppress(FileExistsError):
                os.close(new_file(self._path, access))
        try:
            self._lock.acquire(timeout=self._timeout, poll_interval=_POLL)
        except self._timeout_error as error:
            raise StorageUnavailableError(
                f"{self._path.parent}: another process kept writing for {self._timeout} seconds; "
                "try again, or raise lock_timeout",
                retryable=True,
            ) from error

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def is_free(self) -> bool:
        """Return whether nobody writes, as far as can be told."""
        if not os.path.lexists(self._path):
            return True
        probe = type(self._lock)(self._path)
        try:
            with probe.acquire(timeout=0):
                return True
        except self._timeout_error:
            return False
        except OSError:
            return True
