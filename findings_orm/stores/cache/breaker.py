"""A circuit breaker: what failed is left alone for a while, then one caller tries it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Closed while calls succeed. One failure opens it; after `seconds` one call is let through, and only if that
    succeeds are the others. So a dead or hung server costs one timeout each period.

    Args:
        seconds: the period.
        clock: seconds that only grow.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Close, and begin anew."""
        self._lock = threading.Lock()
        self._epoch = 0
        self._retry_at: float | None = None

    @property
    def closed(self) -> bool:
        """Whether calls are let through."""
        return self._retry_at is None

    def enter(self) -> int | None:
        """Return a ticket for one call, or None where there must be no call now."""
        with self._lock:
            if self._retry_at is None:
                return self._epoch
            now = self._clock()
            if now < self._retry_at:
                return None
            self._retry_at = now + self._seconds
            self._epoch += 1
            return self._epoch

    def succeeded(self, ticket: int) -> None:
        """Close, unless the call began before the failure that opened."""
        with self._lock:
            if ticket == self._epoch:
                self._retry_at = None

    def failed(self, ticket: int) -> None:
        """Open, unless the call began before an earlier failure, which opened already."""
        with self._lock:
            if ticket == self._epoch:
                self._epoch += 1
                self._retry_at = self._clock() + self._seconds
