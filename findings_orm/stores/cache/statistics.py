"""What a cache did, counted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from findings_orm.observe import Observer

EVENTS = {
    "near_hits": "answered from the memory of this process",
    "hits": "answered from Redis",
    "shared": "answered by what another thread of this process was loading or fetching",
    "waits": "waited for another process that was loading",
    "misses": "found in neither",
    "loads": "answered by the store, to be cached",
    "moved": "loaded while the project was written to: not cached",
    "bypasses": "left to the store: inside a transaction, an unknown project, an operation that is not cached",
    "too_large": "larger than the cache takes: not cached",
    "damaged": "entries that were not ours or not whole: deleted",
    "errors": "Redis failed or was too slow",
    "invalidations": "writes that were made known",
}
"""The events that are counted, with their meanings."""


class Statistics:
    """Counts of events by operation. What is not about one is counted under ``writes``, ``locks`` and
    ``redis``."""

    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()
        self.reset()

    def reset(self) -> None:
        """Begin at zero."""
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, operation: str, event: str) -> None:
        """Count an event."""
        with self._lock:
            self._counts[operation, event] += 1
        for observer in self._observers:
            observer.cached(operation, event)

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Tell an observer of every event from now on, until the returned callable is called."""
        with self._lock:
            self._observers = (*self._observers, observer)

        def stop_observing() -> None:
            with self._lock:
                self._observers = tuple(one for one in self._observers if one is not observer)

        return stop_observing

    def counts(self) -> dict[str, dict[str, int]]:
        """Return operation to event to count; what did not happen is absent."""
        found: dict[str, dict[str, int]] = {}
        with self._lock:
            for (operation, event), count in sorted(self._counts.items()):
                found.setdefault(operation, {})[event] = count
        return found
