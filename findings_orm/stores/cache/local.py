"""What the process itself remembers: results, and the revisions of projects."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
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
                self._remove_entries([key])
                return None
            self._entries.move_to_end(key)
            return found.data

    def put(self, key: str, project_id: str, revision: int, data: bytes, seconds: float) -> None:
        """Keep the result of a project's revision, for up to `seconds`."""
        if len(data) > self._limit:
            return
        entry = _Entry(data, project_id, time.monotonic() + min(seconds, self._seconds))
        with self._lock:
            try:
                self._put_entry(key, revision, entry)
            except BaseException:
                self._forget_all()
                raise

    def drop_project(self, project_id: str | None) -> None:
        """Forget what is kept of a project, or of all."""
        with self._lock:
            if project_id is None:
                self._forget_all()
            else:
                self._remove_entries(self._projects.get(project_id, (0, ()))[1])

    def figures(self) -> dict[str, int]:
        """Return how many entries there are and how many bytes they hold."""
        with self._lock:
            return {"entries": len(self._entries), "bytes": self._size}

    def _put_entry(self, key: str, revision: int, entry: _Entry) -> None:
        if self._projects.get(entry.project_id, (revision,))[0] != revision:
            self._remove_entries(self._projects[entry.project_id][1])
        if key in self._entries:
            self._remove_entries([key])
        self._entries[key] = entry
        self._projects.setdefault(entry.project_id, (revision, set()))[1].add(key)
        self._size += len(entry.data)
        while self._size > self._limit:
            self._remove_entries([next(iter(self._entries))])

    def _remove_entries(self, keys: Iterable[str]) -> None:
        try:
            for key in list(keys):
                entry = self._entries.pop(key)
                self._size -= len(entry.data)
                left = self._projects[entry.project_id][1]
                left.discard(key)
                if not left:
                    del self._projects[entry.project_id]
        except BaseException:
            self._forget_all()
            raise

    def _forget_all(self) -> None:
        """Begin anew; so does what a signal interrupted half way."""
        self._entries, self._projects, self._size = OrderedDict(), {}, 0


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
