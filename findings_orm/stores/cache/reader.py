"""One read through the cache.

Why no read is stale (strict): the revision is read from the store during the read, and it names one state of the project for
ever. An entry under that revision holds the result for that state: it is stored only if the revision was the same before the
result was loaded and after, so no write was committed in between. Whoever waits for another one's result waits for
that of the revision that it read itself. Redis may lose, delay and repeat entries, and none is wrong thereby.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from findings_orm.process import block
from findings_orm.stores.cache.entries import Codec, DamagedError, Form, TooLargeError, decode, encode
from findings_orm.stores.cache.keys import Keys
from findings_orm.stores.cache.local import NearCache, Tokens
from findings_orm.stores.cache.options import CacheOptions
from findings_orm.stores.cache.remote import Remote
from findings_orm.stores.cache.statistics import Statistics

# -- one thread of this process does a piece of work, the others that want the same wait for it -----------


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
        mine: _Flight[T] | None = None
        try:
            with self._lock:
                flight = self._flying.get(key)
                if flight is None:
                    mine = flight = _Flight()
                    self._flying[key] = flight
            if mine:
                flight.result = work()
            else:
                flight.landed.wait(seconds)
            return flight.result, mine is not None
        finally:
            if mine:
                del self._flying[key]  # no call, and so nothing that a signal could interrupt
                mine.landed.set()


# -- keeping the locks of loads that take long, so that they can end soon after a process that died -------


class Keeper:
    """Extends the locks of this process again and again, in a thread that lives while there are any.

    Args:
        remote: the Redis that has the locks.
        seconds: how long a lock lives from each extension on.
        every: seconds between two extensions.
    """

    def __init__(self, remote: Remote, seconds: float, every: float) -> None:
        self._remote = remote
        self._seconds = seconds
        self._every = every
        self._changed = threading.Condition()
        self._held: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    @block
    def hold_lock(self, key: str, name: str) -> Iterator[None]:
        """Keep a lock that `Remote.lock` gave during the block, and release it then; an empty name is no lock."""
        if not name:
            yield
            return
        try:
            with self._changed:
                self._held[key] = name
                if self._thread is None:
                    thread = threading.Thread(target=self._keep, name="findings-cache-locks", daemon=True)
                    thread.start()
                    self._thread = thread
            yield
        finally:
            with self._changed:
                self._held.pop(key, None)
                if not self._held:
                    self._changed.notify_all()
            self._remote.unlock(key, name)

    def _keep(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._held, self._every)
                if not self._held:
                    self._thread = None
                    return
                held = list(self._held.items())
            for key, name in held:
                self._remote.extend_lock(key, name, self._seconds)


# -- one read through the cache ---------------------------------------------------------------------------
# Why no read is stale (strict): the revision is read from the store during the read, and it names one state of the project
# for ever. An entry under that revision holds the result for that state: it is stored only if the revision was the same
# before the result was loaded and after, so no write was committed in between. Whoever waits for another one's result waits
# for that of the revision that it read itself. Redis may lose, delay and repeat entries, and none is wrong thereby.


_ATTEMPTS = 3
_JITTER = 0.1
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.05


@dataclass(frozen=True, slots=True)
class Wanted(Generic[T]):
    """What is to be read.

    Attributes:
        operation: one of `OPERATIONS`.
        project_id: the project that it depends on.
        arguments: what else it depends on, as JSON.
        load: asks the store.
        form: how the result is kept.
    """

    operation: str
    project_id: str
    arguments: object
    load: Callable[[], T]
    form: Form[T]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a thread found: the result itself (its own to give away), and as JSON where others may have it too.

    Attributes:
        moved: the project was written to meanwhile.
    """

    values: tuple[Any, ...] = ()
    data: bytes | None = None
    moved: bool = False


class Reader:
    """Reads through memory, Redis and the store, in this order."""

    def __init__(
        self,
        options: CacheOptions,
        keys: Keys,
        tokens: Tokens,
        near: NearCache,
        remote: Remote,
        statistics: Statistics,
    ) -> None:
        self._options = options
        self._keys = keys
        self._tokens = tokens
        self._near = near
        self._remote = remote
        self._statistics = statistics
        self._codec = Codec(options)
        self._flights: Flights[_Outcome] = Flights()
        self._keeper = Keeper(remote, options.lock_seconds, options.lock_seconds / 3)

    def read(self, wanted: Wanted[T]) -> T:
        """Return the result, new and the caller's own."""
        try:
            return self._read_through(wanted)
        except DamagedError:
            # What a store of another package returned became JSON that can't be read, too deep for one.
            self._statistics.add(wanted.operation, "damaged")
            return wanted.load()

    def _read_through(self, wanted: Wanted[T]) -> T:
        for _ in range(_ATTEMPTS):
            revision, fresh = self._tokens.project_revision(wanted.project_id)
            if not revision:
                self._statistics.add(wanted.operation, "bypasses")
                return wanted.load()
            key = self._keys.entry(wanted.operation, wanted.project_id, revision, wanted.arguments)
            kept = self._near.get(key)
            if kept is not None:
                self._statistics.add(wanted.operation, "near_hits")
                return decode(kept, wanted.form)
            found, mine = self._flights.join(
                key,
                lambda: self._fetch_result(wanted, key, revision, fresh=fresh),  # noqa: B023  # called before the next round
                self._options.wait_seconds,
            )
            if mine and found is not None and found.values:
                return found.values[0]  # type: ignore[no-any-return]
            if found is not None and found.data is not None:
                self._statistics.add(wanted.operation, "shared")
                return decode(found.data, wanted.form)
            if found is None or not found.moved:
                break
        self._statistics.add(wanted.operation, "loads")
        return wanted.load()

    def _fetch_result(self, wanted: Wanted[Any], key: str, revision: int, *, fresh: bool) -> _Outcome:
        """Get the result from Redis, else from the store; for this thread and those that wait for it."""
        try:
            found = self._read_entry(wanted, key, revision)
            if found is not None:
                self._statistics.add(wanted.operation, "hits")
                return found
            self._statistics.add(wanted.operation, "misses")
            if not fresh and self._tokens.ask_store(wanted.project_id) != revision:
                return _Outcome(moved=True)
            return self._load_alone(wanted, key, revision)
        except TooLargeError:
            return _Outcome()

    def _read_entry(self, wanted: Wanted[object], key: str, revision: int) -> _Outcome | None:
        """Return what Redis has; an entry that can't be read is deleted. Raises TooLargeError."""
        entry = self._remote.get(wanted.operation, key)
        if entry is None:
            return None
        try:
            data = self._codec.unpack_entry(key, entry)
            value = decode(data, wanted.form)
        except DamagedError:
            self._statistics.add(wanted.operation, "damaged")
            self._remote.delete(wanted.operation, key)
            return None
        self._keep_near(wanted, key, revision, data)
        return _Outcome((value,), data)

    def _load_alone(self, wanted: Wanted[object], key: str, revision: int) -> _Outcome:
        """Load while no other process does; or take what another one loaded. Raises TooLargeError."""
        lock = self._keys.lock(key)
        deadline = time.monotonic() + self._options.wait_seconds
        pause = _FIRST_PAUSE
        while (name := self._remote.lock(wanted.operation, lock, self._options.lock_seconds)) is None:
            if pause == _FIRST_PAUSE:
                self._statistics.add(wanted.operation, "waits")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            found = self._read_entry(wanted, key, revision)
            if found is not None:
                return found
            if time.monotonic() > deadline:
                name = ""
                break
        with self._keeper.hold_lock(lock, name):
            # Somebody may have loaded it between the first look and the lock.
            found = self._read_entry(wanted, key, revision) if name else None
            return found or self._load_result(wanted, key, revision)

    def _load_result(self, wanted: Wanted[object], key: str, revision: int) -> _Outcome:
        """Ask the store, and keep the answer if the project was not written to meanwhile."""
        self._statistics.add(wanted.operation, "loads")
        value = wanted.load()
        if self._tokens.ask_store(wanted.project_id) != revision:
            self._statistics.add(wanted.operation, "moved")
            return _Outcome((value,), moved=True)
        return _Outcome((value,), self._keep(wanted, key, revision, value))

    def _keep(self, wanted: Wanted[object], key: str, revision: int, value: object) -> bytes | None:
        """Keep a result near and in Redis; return it as JSON, None where it is too large or can't be JSON."""
        seconds = self._seconds(wanted)
        try:
            data = encode(wanted.form.write(value), self._options.max_plain_bytes)
            self._keep_near(wanted, key, revision, data)
            entry = self._codec.pack_entry(key, data)
        except (TooLargeError, ValueError, TypeError, RecursionError):
            self._statistics.add(wanted.operation, "too_large")
            self._remote.put(wanted.operation, key, self._codec.too_large_entry(key), seconds)
            return None
        self._remote.put(wanted.operation, key, entry, seconds)
        return data

    def _keep_near(self, wanted: Wanted[object], key: str, revision: int, data: bytes) -> None:
        self._near.put(key, wanted.project_id, revision, data, self._options.seconds(wanted.operation))

    def _seconds(self, wanted: Wanted[object]) -> float:
        chance = random.uniform(1 - _JITTER, 1)  # noqa: S311  # nosec B311  # spreads load, no secret
        return self._options.seconds(wanted.operation) * chance
