"""One thread of this process does a piece of work, the others that want the same wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.landed = threading.Event()
        self.result: T | None = None


class Flights(Generic[T]):
    """Work that is going on, by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[str, _Flight[T]] = {}

    def join(self, key: str, work: Callable[[], T], seconds: float) -> tuple[T | None, bool]:
        """Do the work, or wait up to `seconds` for the thread that does it.

        Returns:
            The result, and whether it is this call's own. None of another one's: it failed, or takes too long.
        """
        with self._lock:
            flight = self._flying.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flying[key] = _Flight()
        if not mine:
            flight.landed.wait(seconds)
            return flight.result, False
        try:
            flight.result = work()
            return flight.result, True
        finally:
            with self._lock:
                del self._flying[key]
            flight.landed.set()
