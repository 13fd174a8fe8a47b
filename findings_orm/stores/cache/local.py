"""What the process itself remembers: results, and the revisions of projects."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

# -- what the process itself keeps in front of Redis ------------------------------------------------------


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
                self._remove_entry(key)
                return None
            self._entries.move_to_end(key)
            return found.data

    def put(self, key: str, project_id: str, revision: int, data: bytes, seconds: float) -> None:
        """Keep the result of a project's revision, for up to `seconds`."""
        if len(data) > self._limit:
            return
        with self._lock:
            if self._projects.get(project_id, (revision,))[0] != revision:
                self._drop_entries(project_id)
            if key in self._entries:
                self._remove_entry(key)
            until = time.monotonic() + min(seconds, self._seconds)
            self._entries[key] = _Entry(data, project_id, until)
            self._projects.setdefault(project_id, (revision, set()))[1].add(key)
            self._size += len(data)
            while self._size > self._limit:
                self._remove_entry(next(iter(self._entries)))

    def drop_project(self, project_id: str | None) -> None:
        """Forget what is kept of a project, or of all."""
        with self._lock:
            for one in [project_id] if project_id is not None else list(self._projects):
                self._drop_entries(one)

    def figures(self) -> dict[str, int]:
        """Return how many entries there are and how many bytes they hold."""
        with self._lock:
            return {"entries": len(self._entries), "bytes": self._size}

    def _drop_entries(self, project_id: str) -> None:
        for key in list(self._projects.get(project_id, (0, ()))[1]):
            self._remove_entry(key)

    def _remove_entry(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._size -= len(entry.data)
        keys = self._projects[entry.project_id][1]
        keys.discard(key)
        if not keys:
            del self._projects[entry.project_id]


# -- the revisions of projects, as old as they may be -----------------------------------------------------


T = TypeVar("T")

_MOST = 10_000


class _Timed(NamedTuple, Generic[T]):
    value: T
    asked_at: float


class Remembered(Generic[T]):
    """Answers of the store by name, each used for `seconds` from the moment in which it was asked for.

    An answer that was on its way while something was forgotten is not remembered: it may be from before the write.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._answers: dict[str, _Timed[T]] = {}
        self._generation = 0

    def get(self, name: str) -> T | None:
        """Return an answer that is young enough, or None."""
        found = self._answers.get(name)
        return found.value if found and time.monotonic() - found.asked_at <= self._seconds else None

    def ask_store(self, name: str, question: Callable[[], T]) -> T:
        """Ask the store now, and remember the answer."""
        generation = self._generation
        asked_at = time.monotonic()
        value = question()
        with self._lock:
            if generation == self._generation and self._seconds:
                if len(self._answers) >= _MOST:
                    self._answers.clear()
                self._answers[name] = _Timed(value, asked_at)
        return value

    def forget(self, name: str | None) -> None:
        """Forget the answer under a name, or all."""
        with self._lock:
            self._generation += 1
            if name is None:
                self._answers.clear()
            else:
                self._answers.pop(name, None)


class Tokens:
    """The revision of each project: asked for each time (strict), or remembered for a while (bounded).

    Args:
        revision: asks the store.
        seconds: how long an answer may be used; 0: strict.
    """

    def __init__(self, revision: Callable[[str], int], seconds: float) -> None:
        self._revision = revision
        self._remembered: Remembered[int] = Remembered(seconds)
        self.strict = not seconds

    def project_revision(self, project_id: str) -> tuple[int, bool]:
        """Return the revision, and whether the store was asked for it just now."""
        found = None if self.strict else self._remembered.get(project_id)
        return (self.ask_store(project_id), True) if found is None else (found, False)

    def ask_store(self, project_id: str) -> int:
        """Ask the store now."""
        return self._remembered.ask_store(project_id, lambda: self._revision(project_id))

    def forget(self, project_id: str | None) -> None:
        """Forget the revision of a project, or of all."""
        self._remembered.forget(project_id)
