"""Processes with caches of their own on one project, while Redis is harmed: what every read may return.

Each thread of each process owns one register (a finding whose `resource` counts up), so the order of the writes to it is
known, and every read shows the values of some registers at one moment.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from proxy import Proxy
from redis_servers import RedisServer, redis_server
from worker import PROCESSES, REGISTERS, register

from findings_orm import open_storage
from findings_orm.testing.samples import PROJECT, finding

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
OPERATIONS = 2_000 if FULL else 300
ROUNDS = 3 if FULL else 1
"""How often Redis is harmed in every way, at least; a round takes about two seconds."""
WAYS = ("kill", "flush", "pause", "cut", "refuse", "delay")
BOUND = 0.5
QUICK = {
    "breaker_seconds": 0.05,
    "timeout": 0.1,
    "wait_seconds": 2.0,
    "lock_seconds": 0.5,
    "ttls": {"get_finding": 60.0},
}


class Operation(NamedTuple):
    """One entry of a history. Times are nanoseconds of the machine's monotonic clock."""

    client: int
    kind: str
    begin: int
    end: int
    values: dict[int, int]


# -- the checker --------------------------------------------------------------------------------------------


class _Rising:
    """The largest value that was there before a time."""

    def __init__(self, points: list[tuple[int, int]]) -> None:
        points = sorted(points)
        self._times = [time for time, _ in points]
        self._values = list(itertools.accumulate((value for _, value in points), max))

    def before(self, time: int) -> int:
        at = bisect.bisect_left(self._times, time)
        return self._values[at - 1] if at else 0


def violations(history: list[Operation], bound: float | None = None) -> list[str]:
    """Return what no linearizable store (or, with `bound`, none that is stale by at most that many seconds) would do.

    Every register has one writer, so the store is linearizable if no read returns a value older than a write that had ended,
    older than what a read that had ended returned, or not begun to be written; and all reads agree on one order of the states.
    """
    late = int((bound or 0) * 1e9)
    writes: defaultdict[int, list[Operation]] = defaultdict(list)
    reads: defaultdict[int, list[Operation]] = defaultdict(list)
    for one in history:
        for number in one.values:
            (writes if one.kind.startswith("write") else reads)[number].append(one)
    found = []
    for number in reads:
        ended = _Rising([(one.end, one.values[number]) for one in writes[number]])
        begun = {one.values[number]: one.begin for one in writes[number]} | {0: 0}
        shown = _Rising([(one.end, one.values[number]) for one in reads[number]] if bound is None else [])
        own = _Rising([(one.end, one.values[number]) for one in writes[number] if one.kind == "write"])
        for one in reads[number]:
            value = one.values[number]
            if value < ended.before(one.begin - late):
                found.append(f"stale: {one}, {ended.before(one.begin - late)} was written")
            if value < shown.before(one.begin):
                found.append(f"back: {one}, {shown.before(one.begin)} was read")
            if begun.get(value, one.end) >= one.end:
                found.append(f"from nowhere: {one}")
            if one.client // 2 == number // 2 and value < own.before(one.begin):
                found.append(f"not its own: {one}")
    return found + _contradictions(history)


def _contradictions(history: list[Operation]) -> list[str]:
    """Return pairs of whole reads of which each is older than the other in some register."""
    whole = {
        tuple(one.values[number] for number in range(REGISTERS))
        for one in history
        if one.kind == "read" and len(one.values) == REGISTERS
    }
    ordered = sorted(whole, key=sum)
    return [
        f"no order: {a} and {b}"
        for a, b in itertools.pairwise(ordered)
        if any(x > y for x, y in zip(a, b, strict=True))
    ]


def _state(*known: int) -> dict[int, int]:
    return dict(enumerate([*known, *[0] * (REGISTERS - len(known))]))


@pytest.mark.parametrize(
    ("last", "bound", "expected"),
    [
        (Operation(2, "read", 300, 400, _state(1)), None, ""),
        (Operation(2, "read", 300, 400, _state(0)), None, "stale"),
        (Operation(2, "read", 150, 400, _state(0)), None, ""),
        (Operation(2, "read", 300, 400, _state(2)), None, ""),
        (Operation(2, "read", 300, 400, _state(3)), None, "from nowhere"),
        (Operation(2, "read", 300, 310, _state(2)), None, "from nowhere"),
        (Operation(2, "read", 800, 900, _state(1)), None, "back"),
        (Operation(2, "read", 300, 400, _state(0)), 1e-6, ""),
        (Operation(2, "read", 2_000, 2_001, _state(0)), 1e-6, "stale"),
        (Operation(2, "read", 2_000, 2_001, _state(0)), 1, ""),
        (Operation(1, "read", 300, 400, _state(0)), 1, "not its own"),
        (Operation(2, "read", 300, 2_000, _state(0, 5)), None, "no order"),
    ],
)
def test_checker_knows_what_may_be_read(last: Operation, bound: float | None, expected: str) -> None:
    history = [
        Operation(0, "write", 100, 200, {0: 1}),
        Operation(0, "write", 350, 1_000, {0: 2}),
        Operation(1, "write", 250, 5_000, {1: 5}),
        Operation(3, "read", 500, 600, _state(2)),
        last,
    ]
    found = violations(history, bound)
    assert any(one.startswith(expected) for one in found) if expected else found == []


# -- processes ----------------------------------------------------------------------------------------------


@contextmanager
def workers(
    kind: str, url: str, redis_url: str, options: dict[str, Any], *numbers: Any
) -> Iterator[list[Any]]:
    """Run processes, let them begin together, and yield them; `numbers` are called with the number of each."""
    script = str(pathlib.Path(__file__).with_name("worker.py"))
    started = [
        subprocess.Popen(
            [sys.executable, script, kind, url, redis_url, json.dumps(options)]
            + [str(one(number) if callable(one) else one) for one in numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    try:
        for each in started:
            assert each.stdout is not None
            assert each.stderr is not None
            assert each.stdout.readline() == "ready\n", each.stderr.read()
        for each in started:
            assert each.stdin
            each.stdin.write("\n")
            each.stdin.flush()
        yield started
    finally:
        for each in started:
            each.kill()
            each.communicate()


def harm(
    server: RedisServer, proxy: Proxy, enough: threading.Event, ended: threading.Event
) -> dict[str, int]:
    """Harm a Redis in every way until the end, telling when it was enough; return how often in which."""
    chance = random.Random(1)
    done: defaultdict[str, int] = defaultdict(int)
    ways = itertools.cycle(WAYS)
    while not ended.wait(chance.uniform(0.05, 0.3)):
        if sum(done.values()) == ROUNDS * len(WAYS):
            enough.set()
        way = next(ways)
        done[way] += 1
        pause = chance.uniform(0.05, 0.4)
        if way == "kill":
            server.kill()
            time.sleep(pause)
            server.start()
        elif way == "flush":
            server.do("FLUSHALL")
        elif way == "pause":
            server.pause()
            time.sleep(pause)
            server.resume()
        elif way == "cut":
            proxy.cut()
        elif way == "refuse":
            proxy.refuse = True
            proxy.cut()
            time.sleep(pause)
            proxy.refuse = False
        else:
            proxy.delay = pause
            time.sleep(pause)
            proxy.delay = 0.0
    return dict(done)


def campaign(url: str, options: dict[str, Any], operations: int) -> tuple[list[Operation], dict[str, int]]:
    """Run the processes while Redis is harmed; return the history and the counts of all together."""
    with open_storage(url) as store:
        store.save_findings(register(number, 0) for number in range(REGISTERS))
    history: list[Operation] = []
    counts: defaultdict[str, int] = defaultdict(int)
    enough, ended = threading.Event(), threading.Event()
    with redis_server() as server, Proxy(server.port) as proxy:
        harming = threading.Thread(target=lambda: counts.update(harm(server, proxy, enough, ended)))
        address = f"redis://127.0.0.1:{proxy.port}"
        with workers(
            "random", url, address, {**QUICK, **options}, lambda number: number, operations
        ) as all_of_them:
            harming.start()
            try:
                enough.wait(60)
                for out, errors in _together(all_of_them):
                    assert not errors, errors
                    *lines, last = out.splitlines()
                    history += [_operation(line) for line in lines]
                    for events in json.loads(last).values():
                        for name, count in events.items():
                            counts[name] += count
            finally:
                ended.set()
                harming.join()
    return history, dict(counts)


def _together(processes: list[Any]) -> list[tuple[str, str]]:
    """Read from all processes at once, so that none waits for its reader."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(lambda each: each.communicate(timeout=600), processes))


def _operation(line: str) -> Operation:
    client, kind, begin, end, values = json.loads(line)
    return Operation(client, kind, begin, end, {int(number): value for number, value in values.items()})


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    if request.param == "postgresql":
        found: str = request.getfixturevalue("postgresql_url")
        return found
    return f"sqlite:///{tmp_path}/findings.db"


def test_strict_reads_are_linearizable_whatever_happens_to_redis(url: str) -> None:
    history, counts = campaign(url, {}, OPERATIONS)
    print(f"{len(history)} operations", counts)  # with -s, to see what a campaign was made of
    assert len(history) >= PROCESSES * OPERATIONS
    assert violations(history) == []
    for needed in ("hits", "near_hits", "loads", "errors", "moved", "kill", "flush", "pause", "cut"):
        assert counts.get(needed), f"the campaign had no {needed}: {counts}"


def test_bounded_reads_are_no_older_than_the_bound_whatever_happens_to_redis(url: str) -> None:
    options = {"consistency": "bounded", "max_staleness": BOUND}
    history, counts = campaign(url, options, OPERATIONS)
    print(f"{len(history)} operations", counts)  # with -s, to see what a campaign was made of
    assert len(history) >= PROCESSES * OPERATIONS
    assert violations(history, BOUND) == []
    for needed in ("hits", "near_hits", "loads", "errors", "kill", "flush", "pause", "cut"):
        assert counts.get(needed), f"the campaign had no {needed}: {counts}"


def test_campaign_would_find_stale_reads(postgresql_url: str) -> None:
    history, _ = campaign(postgresql_url, {"consistency": "bounded", "max_staleness": 60.0}, OPERATIONS)
    assert any(one.startswith("stale") for one in violations(history))


@pytest.mark.parametrize("options", [{}, {"consistency": "bounded"}, {"near_bytes": 0}], ids=str)
def test_hot_summary_is_loaded_once(options: dict[str, Any], redis: RedisServer, postgresql_url: str) -> None:
    threads = 16
    with open_storage(postgresql_url) as store:
        store.ingest(PROJECT, (finding(n) for n in range(3_000)))
    with workers("summary", postgresql_url, redis.url, {"timeout": 5.0, **options}, threads) as started:
        answers = [json.loads(out) for out, errors in _together(started)]
    assert [answer["totals"] for answer in answers] == [[3_000] * threads] * PROCESSES
    assert sum(answer["asked"] for answer in answers) == 1, answers
