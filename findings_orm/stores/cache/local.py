"""What the process itself keeps in front of Redis."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import NamedTuple


class _Entry(NamedTuple):
    data: bytes
    project_id: str
    until: float


class NearCache:
    """Results as JSON bytes, the least recently used ones leaving first. Safe for many threads.

    It keeps the entries of one revision of a project: those of another one can't be asked for again.

    Args:
        limit: bytes to hold at most; 0: none.
        seconds: how long an entry stays at most.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._projects: dict[str, tuple[int, set[str]]] = {}
        self._size = 0

    def get(self, key: str) -> bytes | None:
        """Return what is kept under a key, or None."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            if found.until <= time.monotonic():
                self._remove(key)
                return None
            self._entries.move_to_end(key)
            return found.data

    def put(self, key: str, project_id: str, revision: int, data: bytes, seconds: float) -> None:
        """Keep the result of a project's revision, for up to `seconds`."""
        if len(data) > self._limit:
            return
        with self._lock:
            if self._projects.get(project_id, (revision,))[0] != revision:
                self._drop(project_id)
            if key in self._entries:
                self._remove(key)
            until = time.monotonic() + min(seconds, self._seconds)
            self._entries[key] = _Entry(data, project_id, until)
            self._projects.setdefault(project_id, (revision, set()))[1].add(key)
            self._size += len(data)
            while self._size > self._limit:
                self._remove(next(iter(self._entries)))

    def drop(self, project_id: str | None) -> None:
        """Forget what is kept of a project, or of all."""
        with self._lock:
            for one in [project_id] if project_id is not None else list(self._projects):
                self._drop(one)

    def figures(self) -> dict[str, int]:
        """Return how many entries there are and how many bytes they hold."""
        with self._lock:
            return {"entries": len(self._entries), "bytes": self._size}

    def _drop(self, project_id: str) -> None:
        for key in list(self._projects.get(project_id, (0, ()))[1]):
            self._remove(key)

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._size -= len(entry.data)
        keys = self._projects[entry.project_id][1]
        keys.discard(key)
        if not keys:
            del self._projects[entry.project_id]
