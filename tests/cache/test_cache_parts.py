"""The parts of the cache, where a whole one would show their faults by chance only."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from redis_servers import RedisServer

from findings_orm.stores.cache.client import client_maker
from findings_orm.stores.cache.entries import COUNT, Codec, DamagedError, TooLargeError, decode
from findings_orm.stores.cache.keys import Keys
from findings_orm.stores.cache.local import NearCache, Tokens
from findings_orm.stores.cache.maintenance import remove_entries
from findings_orm.stores.cache.options import CacheOptions
from findings_orm.stores.cache.reader import Flights, Keeper
from findings_orm.stores.cache.remote import Breaker, Remote
from findings_orm.stores.cache.statistics import Statistics
from findings_orm.testing.interruption import interrupt_at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a callable that lets time pass for what remembers."""
    now = [1_000.0]
    fake = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("findings_orm.stores.cache.local.time", fake)

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


# -- revisions ----------------------------------------------------------------------------------------------


def test_answer_that_was_on_its_way_during_a_write_is_not_remembered() -> None:
    answers = iter([1, 2, 2])

    def ask(project_id: str) -> int:
        answer = next(answers)
        if answer == 1:
            tokens.forget(project_id)
        return answer

    tokens = Tokens(ask, 3600.0)
    assert tokens.project_revision("p") == (1, True)
    assert tokens.project_revision("p") == (2, True)
    assert tokens.project_revision("p") == (2, False)


def test_age_of_an_answer_counts_from_the_question(clock: Callable[[float], None]) -> None:
    def ask(_: str) -> int:
        clock(4)
        return 7

    tokens = Tokens(ask, 10.0)
    tokens.project_revision("p")
    clock(6)
    assert tokens.project_revision("p") == (7, False)
    clock(0.1)
    assert tokens.project_revision("p") == (7, True)


def test_strict_asks_each_time_and_remembers_nothing() -> None:
    answers = iter(range(1, 5))
    tokens = Tokens(lambda _: next(answers), 0)
    assert [tokens.project_revision("p") for _ in range(3)] == [(1, True), (2, True), (3, True)]


# -- the memory of the process ------------------------------------------------------------------------------


def test_near_entries_end(clock: Callable[[float], None]) -> None:
    near = NearCache(100, 60)
    near.put("short", "p", 1, b"1", 10)
    near.put("long", "p", 1, b"2", 1_000)
    clock(9.9)
    assert (near.get("short"), near.get("long")) == (b"1", b"2")
    clock(0.2)
    assert (near.get("short"), near.get("long")) == (None, b"2")
    clock(50)
    assert near.get("long") is None
    assert near.figures() == {"entries": 0, "bytes": 0}


def test_near_entries_that_were_not_used_leave_first() -> None:
    near = NearCache(30, 60)
    for name in "abc":
        near.put(name, f"project {name}", 1, bytes(10), 60)
    near.get("a")
    near.put("d", "project d", 1, bytes(10), 60)
    assert [near.get(name) is not None for name in "abcd"] == [True, False, True, True]
    near.put("e", "project a", 2, bytes(5), 60)
    assert [near.get(name) is not None for name in "acde"] == [False, True, True, True]
    near.put("huge", "project h", 1, bytes(31), 60)
    assert near.figures() == {"entries": 3, "bytes": 25}
    near.drop_project("project c")
    assert near.figures() == {"entries": 2, "bytes": 15}
    near.drop_project(None)
    assert near.figures() == {"entries": 0, "bytes": 0}


# -- entries ------------------------------------------------------------------------------------------------


def test_entry_belongs_to_its_key() -> None:
    codec = Codec(CacheOptions())
    for data in (b"1", b"[" + b"1," * 5_000 + b"1]"):
        entry = codec.pack_entry("findings:a", data)
        assert codec.unpack_entry("findings:a", entry) == data
        with pytest.raises(DamagedError, match="checksum"):
            codec.unpack_entry("findings:b", entry)
    with pytest.raises(TooLargeError):
        codec.unpack_entry("findings:a", codec.too_large_entry("findings:a"))
    with pytest.raises(DamagedError):
        codec.unpack_entry("findings:b", codec.too_large_entry("findings:a"))


def test_entry_does_not_unpack_to_more_than_allowed() -> None:
    entry = Codec(CacheOptions()).pack_entry("k", b" " * 100_000)
    assert len(entry) < 200
    with pytest.raises(DamagedError, match="larger"):
        Codec(CacheOptions(max_plain_bytes=99_999)).unpack_entry("k", entry)


@pytest.mark.parametrize("data", [b"-1", b"1.0", b"true", b"null", b'"1"', b"[1]", b"", b"1 2", b"NaN"])
def test_only_a_count_is_a_count(data: bytes) -> None:
    assert decode(b"1", COUNT) == 1
    with pytest.raises(DamagedError):
        decode(data, COUNT)


# -- waiting ------------------------------------------------------------------------------------------------


def test_waiting_for_another_thread_ends() -> None:
    flights: Flights[int] = Flights()
    entered, go = threading.Event(), threading.Event()

    def work() -> int:
        entered.set()
        go.wait(60)
        return 5

    leader = threading.Thread(target=lambda: flights.join("k", work, 60))
    leader.start()
    entered.wait(60)
    assert flights.join("k", work, 0.01) == (None, False)
    assert flights.join("other", lambda: 6, 60) == (6, True)
    go.set()
    leader.join()
    assert flights.join("k", lambda: 7, 60) == (7, True)


# -- Redis --------------------------------------------------------------------------------------------------


def _remote(redis: RedisServer, statistics: Statistics, timeout: float = 5.0) -> Remote:
    return Remote(redis.client, Breaker(3600.0), timeout, statistics)


def test_lock_that_somebody_else_has_by_now_is_left_to_them(redis: RedisServer) -> None:
    statistics = Statistics()
    mine, theirs = _remote(redis, statistics), _remote(redis, statistics)
    first = mine.lock("find", "lock", 0.01)
    assert first
    while redis.do("EXISTS", "lock"):
        time.sleep(0.005)
    second = theirs.lock("find", "lock", 60)
    assert second
    assert mine.lock("find", "lock", 60) is None
    mine.unlock("lock", first)
    mine.extend_lock("lock", first, 1)
    assert redis.do("PTTL", "lock") > 1_000
    assert redis.do("GET", "lock") == second.encode()
    theirs.unlock("lock", second)
    assert not redis.do("EXISTS", "lock")
    for remote in (mine, theirs):
        remote.close()
    assert statistics.counts() == {}


def test_lock_is_kept_while_its_load_lasts(redis: RedisServer) -> None:
    statistics = Statistics()
    remote = _remote(redis, statistics)
    keeper = Keeper(remote, 60, 0.01)
    for _ in range(2):
        names = {key: remote.lock("find", key, 60) for key in ("a", "b")}
        with keeper.hold_lock("a", names["a"] or ""), keeper.hold_lock("b", names["b"] or ""):
            for key in names:
                redis.do("PEXPIRE", key, 30_000)
                while redis.do("PTTL", key) <= 30_000:
                    time.sleep(0.005)
        assert redis.do("DBSIZE") == 0
        with keeper.hold_lock("c", ""):
            assert redis.do("DBSIZE") == 0
    while any(thread.name == "findings-cache-locks" for thread in threading.enumerate()):
        time.sleep(0.005)
    remote.close()
    assert statistics.counts() == {}


def test_call_that_took_too_long_opens_the_breaker(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    statistics = Statistics()
    remote = _remote(redis, statistics, 0.01)

    def slow(_: Any) -> str:
        time.sleep(0.03)
        return "late"

    assert remote._call_redis("find", slow, "") == "late"
    assert not remote.reachable
    assert remote._call_redis("find", slow, "passed over") == "passed over"
    assert statistics.counts() == {"find": {"errors": 1}}
    (said,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert said.startswith("the cache is passed over: an answer took 0.")
    remote.close()


# -- what people do with it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 1_000, 1_003])
def test_every_removed_entry_is_reported(redis: RedisServer, count: int) -> None:
    """The last batch too, which is not full."""
    client = client_maker(redis.url, timeout=5.0)()
    keys = Keys(CacheOptions().namespace)
    told: list[int] = []
    try:
        if count:
            client.mset({keys.key_pattern().replace("*", f"{number}"): b"" for number in range(count)})
        assert remove_entries(client, keys, None, told.append) == count == sum(told)
        assert redis.do("DBSIZE") == 0
    finally:
        client.close()


# -- exceptions of signal handlers, at every call -----------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_kept_near_is_whole_wherever_a_change_of_it_is_interrupted() -> None:
    def change(near: NearCache) -> None:
        near.put("b", "p", 1, b"2", 60)
        near.put("a", "p", 2, b"three", 60)  # of another revision: the others leave
        near.put("c", "q", 1, b"four", 60)  # there is no room for both
        near.drop_project("q")

    for call in itertools.count(1):
        near = NearCache(8, 60.0)
        near.put("a", "p", 1, b"1", 60)
        outcome = interrupt_at(call, functools.partial(change, near))
        for key in "abc":
            near.put(key, "p", 3, b"x", 60)
        assert near.figures() == {"entries": 3, "bytes": 3}, outcome.place
        near.drop_project("p")
        assert near.figures() == {"entries": 0, "bytes": 0}, outcome.place
        if not outcome.reached:
            break
    assert call > 30


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_work_that_was_interrupted_keeps_nobody_waiting() -> None:
    for call in itertools.count(1):
        flights: Flights[int] = Flights()
        outcome = interrupt_at(call, functools.partial(flights.join, "key", lambda: 1, 0.0))
        reached, place = outcome.reached, outcome.place
        del outcome
        assert flights.join("key", lambda: 2, 0.0) == (2, True), place
        if not reached:
            break
    assert call > 5
