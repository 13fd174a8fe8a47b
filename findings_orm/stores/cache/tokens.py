"""The revisions of projects, as old as they may be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

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

    def ask(self, name: str, question: Callable[[], T]) -> T:
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

    def current(self, project_id: str) -> tuple[int, bool]:
        """Return the revision, and whether the store was asked for it just now."""
        found = None if self.strict else self._remembered.get(project_id)
        return (self.ask(project_id), True) if found is None else (found, False)

    def ask(self, project_id: str) -> int:
        """Ask the store now."""
        return self._remembered.ask(project_id, lambda: self._revision(project_id))

    def forget(self, project_id: str | None) -> None:
        """Forget the revision of a project, or of all."""
        self._remembered.forget(project_id)
