"""A pool of connections that can also be asked for one at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import QueuePool

T = TypeVar("T")


class AskedPool(QueuePool):
    """A pool in which a thread may refuse to wait."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._asking = threading.local()
        super().__init__(*args, **options)

    @property
    def refuses_to_wait(self) -> bool:
        """Whether the calling thread is inside of `run_at_once`."""
        return bool(getattr(self._asking, "now", False))

    @property
    def _timeout(self) -> float:
        return 0.0 if self.refuses_to_wait else self._patience

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        self._patience = seconds

    def run_at_once(self, work: Callable[[], T]) -> T:
        """Return what `work` does, which gets a connection at once or `sqlalchemy.exc.TimeoutError`."""
        try:
            self._asking.now = True
            return work()
        finally:
            self._asking.now = False
