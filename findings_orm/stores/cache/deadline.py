"""A time for whole answers. redis-py's timeout is for each piece of one, and a slow line has many pieces."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

from findings_orm.process import block

_local = threading.local()


@block
def within(seconds: float) -> Iterator[None]:
    """Let connections of `bounded` classes raise TimeoutError in the calling thread, once this much time is over."""
    _local.until = time.monotonic() + seconds
    try:
        yield
    finally:
        _local.until = None


class _Socket:
    """A socket that gives nothing after the deadline of the thread that reads."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def recv(self, *arguments: Any) -> bytes:
        _check()
        data: bytes = self._inner.recv(*arguments)
        return data

    def recv_into(self, *arguments: Any) -> int:
        _check()
        count: int = self._inner.recv_into(*arguments)
        return count


def _check() -> None:
    until = getattr(_local, "until", None)
    if until is not None and time.monotonic() > until:
        raise TimeoutError("the whole answer took too long")


class _Bounded:
    def _connect(self) -> Any:
        return _Socket(super()._connect())  # type: ignore[misc]  # mixed into a connection


@cache
def bounded(connection: type[Any]) -> type[Any]:
    """Return a class of connections of redis-py with deadlines."""
    return type(f"Bounded{connection.__name__}", (_Bounded, connection), {})
