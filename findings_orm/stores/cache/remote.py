"""Redis, as the cache uses it: every call is short, and none raises."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import uuid4

from redis.exceptions import ResponseError

from findings_orm.secrecy import hide_secrets
from findings_orm.stores.cache.client import limit_answer_time
from findings_orm.stores.cache.statistics import Statistics

# -- A circuit breaker: what failed is left alone for a while, then one caller tries it -------------------


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

    def take_ticket(self) -> int | None:
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

    def note_success(self, ticket: int) -> None:
        """Close, unless the call began before the failure that opened."""
        with self._lock:
            if ticket == self._epoch:
                self._retry_at = None

    def note_failure(self, ticket: int) -> None:
        """Open, unless the call began before an earlier failure, which opened already."""
        with self._lock:
            if ticket == self._epoch:
                self._epoch += 1
                self._retry_at = self._clock() + self._seconds


# -- redis, as the cache uses it: every call is short, and none raises ------------------------------------


T = TypeVar("T")

_SLOW = 2
"""A call that took this many timeouts was too slow: Redis is left alone for a while."""

_IF_MINE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call({}) end return 0"
_UNLOCK = _IF_MINE.format("'DEL', KEYS[1]")
_EXTEND = _IF_MINE.format("'PEXPIRE', KEYS[1], ARGV[2]")

_log = logging.getLogger(__name__)


class Remote:
    """A Redis that may be slow, gone or wrong.

    Args:
        make: makes the client, on first use.
        breaker: decides whether Redis is asked at all.
        timeout: seconds that one answer may take.
        statistics: where errors are counted.
    """

    def __init__(
        self, make: Callable[[], object], breaker: Breaker, timeout: float, statistics: Statistics
    ) -> None:
        self._make = make
        self._breaker = breaker
        self._slow = _SLOW * timeout
        self._statistics = statistics
        self._lock = threading.Lock()
        self._client: Any = None

    @property
    def reachable(self) -> bool:
        """Whether Redis is asked; False for a while after it failed."""
        return self._breaker.closed

    def get(self, operation: str, key: str) -> bytes | None:
        """Return what is stored under a key, or None; what is no string is deleted."""

        def work(client: Any) -> bytes | None:
            try:
                found = client.get(key)
            except ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                self._statistics.add(operation, "damaged")
                client.delete(key)
                return None
            return found if isinstance(found, bytes) else None

        return self._call_redis(operation, work, None)

    def put(self, operation: str, key: str, entry: bytes, seconds: float) -> None:
        """Store an entry for a time."""
        self._call_redis(
            operation, lambda client: client.set(key, entry, px=_whole_milliseconds(seconds)), None
        )

    def delete(self, operation: str, key: str) -> None:
        """Remove an entry."""
        self._call_redis(operation, lambda client: client.delete(key), None)

    def lock(self, operation: str, key: str, seconds: float) -> str | None:
        """Take a lock that ends by itself after `seconds`.

        Returns:
            What `unlock` and `extend_lock` want, or ``""`` where Redis can't be asked; None: somebody else has it.
        """
        name = uuid4().hex

        def work(client: Any) -> str | None:
            return name if client.set(key, name, nx=True, px=_whole_milliseconds(seconds)) else None

        unlocked: str | None = ""
        return self._call_redis(operation, work, unlocked)

    def extend_lock(self, key: str, name: str, seconds: float) -> None:
        """Let a lock live for `seconds` from now on, if it is still the one that `lock` gave."""
        self._call_redis(
            "locks", lambda client: client.eval(_EXTEND, 1, key, name, _whole_milliseconds(seconds)), None
        )

    def unlock(self, key: str, name: str) -> None:
        """Release a lock, if it is still the one that `lock` gave."""
        self._call_redis("locks", lambda client: client.eval(_UNLOCK, 1, key, name), None)

    def publish(self, channel: str, message: str) -> None:
        """Tell all listeners."""
        self._call_redis("writes", lambda client: client.publish(channel, message), None)

    def reset(self) -> None:
        """Begin anew in a forked process; connections of the parent are left to it."""
        self._lock = threading.Lock()
        self._client = None

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            try:
                client.close()
            except Exception:  # noqa: BLE001  # Redis may be in any state; closing must not fail
                _log.debug("closing the connections to Redis failed", exc_info=True)

    def _call_redis(self, operation: str, work: Callable[[Any], T], default: T) -> T:
        ticket = self._breaker.take_ticket()
        if ticket is None:
            return default
        start = time.monotonic()
        try:
            with limit_answer_time(self._slow):
                result = work(self._get_client())
        except ResponseError as error:
            # The server answers, but not as hoped (no permission, out of memory, read only): no reason to leave it alone.
            self._count_error(operation, f"{type(error).__name__}: {error}")
            self._breaker.note_success(ticket)
            return default
        except Exception as error:  # noqa: BLE001  # nothing that a client of Redis can raise may reach a caller
            self._count_error(operation, f"{type(error).__name__}: {error}")
            self._breaker.note_failure(ticket)
            return default
        taken = time.monotonic() - start
        if taken > self._slow:
            self._count_error(operation, f"an answer took {taken:.3f} s")
            self._breaker.note_failure(ticket)
        else:
            self._breaker.note_success(ticket)
        return result

    def _count_error(self, operation: str, reason: str) -> None:
        self._statistics.add(operation, "errors")
        _log.warning("the cache is passed over: %s", hide_secrets(reason))

    def _get_client(self) -> Any:
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = self._make()
        return self._client


def _whole_milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
