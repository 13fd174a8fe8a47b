"""Keeping the locks of loads that take long, so that they can end soon after a process that died."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from findings_orm.process import block
from findings_orm.stores.cache.remote import Remote


class Keeper:
    """Extends the locks of this process again and again, in a thread that lives while there are any.

    Args:
        remote: the Redis that has the locks.
        seconds: how long a lock lives from each extension on.
        every: seconds between two extensions.
    """

    def __init__(self, remote: Remote, seconds: float, every: float) -> None:
        self._remote = remote
        self._seconds = seconds
        self._every = every
        self._changed = threading.Condition()
        self._held: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    @block
    def holding(self, key: str, name: str) -> Iterator[None]:
        """Keep a lock that `Remote.lock` gave during the block, and release it then; an empty name is no lock."""
        if not name:
            yield
            return
        with self._changed:
            self._held[key] = name
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="findings-cache-locks", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._held.pop(key, None)
                if not self._held:
                    self._changed.notify_all()
            self._remote.unlock(key, name)

    def _keep(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._held, self._every)
                if not self._held:
                    self._thread = None
                    return
                held = list(self._held.items())
            for key, name in held:
                self._remote.extend(key, name, self._seconds)
