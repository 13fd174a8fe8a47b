"""Stores that are dropped without `close()`: nothing of them stays, and a warning says which it was."""

from __future__ import annotations

import gc
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry
from redis_servers import RedisServer

from findings_orm import FindingStore, open_storage
from findings_orm.metrics import MetricsAdapter, TracingAdapter
from findings_orm.testing.samples import PROJECT, finding

KINDS = ("sqlite", "sqlite in memory", "file", "postgresql", "cache", "metrics", "tracing")
FEW = 5
MANY = 50


@pytest.fixture
def open_new(
    tmp_path: pathlib.Path, empty_sqlite: pathlib.Path, request: pytest.FixtureRequest
) -> Callable[[str], FindingStore]:
    """Return a callable that opens a store of a kind, and leaves closing it to the caller."""

    def opened(kind: str) -> FindingStore:
        place = tmp_path / f"store{len(list(tmp_path.iterdir()))}"
        if kind == "file":
            return open_storage(place.as_uri())
        if kind == "sqlite in memory":
            return open_storage("sqlite://")
        if kind == "postgresql":
            url = request.getfixturevalue("postgresql_url")
            return open_storage(url.replace("postgres@", "postgres:geheim@"))
        url = f"sqlite:///{shutil.copy(empty_sqlite, place)}"
        if kind == "cache":
            redis: RedisServer = request.getfixturevalue("redis")
            return open_storage(url, cache=redis.url)
        store = open_storage(url)
        if kind == "metrics":
            return MetricsAdapter(store, registry=CollectorRegistry())
        return TracingAdapter(store) if kind == "tracing" else store

    return opened


def held() -> tuple[int, int]:
    """Return how many files are open, and how many threads there are."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def until_held(most: tuple[int, int]) -> None:
    """Wait until no more is held: a thread that listens looks every moment whether it is wanted."""
    deadline = time.monotonic() + 60
    while any(now > then for now, then in zip(held(), most, strict=True)):
        assert time.monotonic() < deadline, (held(), most, threading.enumerate())
        time.sleep(0.05)


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", KINDS)
def test_a_dropped_store_leaves_nothing_and_is_named(
    open_new: Callable[[str], FindingStore], kind: str
) -> None:
    open_new(kind).close()  # what is made once for all
    before = held()
    number = MANY if kind == "sqlite" else FEW
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for n in range(number):
            store = open_new(kind)
            store.save_finding(finding(n))
            assert len(store.list_findings(PROJECT)) == (n + 1 if kind == "postgresql" else 1)
            next(store.iter_findings(PROJECT))
            del store
        until_held(before)
    said = [str(each.message) for each in caught if each.category is ResourceWarning]
    ours = [line for line in said if re.match(r"unclosed \w+ of .+: call close\(\)", line)]
    assert len(ours) == number * (2 if kind == "cache" else 1), said
    assert said == ours, "something of it was left to the driver"
    assert not [line for line in said if "geheim" in line]


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_store_is_dropped_in_silence(open_new: Callable[[str], FindingStore], kind: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_new(kind) as store:
            store.save_finding(finding(1))
        del store
        gc.collect()
    assert [str(each.message) for each in caught if each.category is ResourceWarning] == []


@pytest.mark.no_cover
def test_the_end_of_a_process_is_silent(
    tmp_path: pathlib.Path, postgresql_url: str, redis: RedisServer
) -> None:
    code = (
        "import sys; from findings_orm import open_storage\n"
        "from findings_orm.testing.samples import finding\n"
        f"kept = [open_storage(url, cache={redis.url!r}) for url in sys.argv[1:]]\n"
        "for store in kept: store.save_finding(finding(1)); store.list_findings('acme-api')\n"
    )
    urls = [f"sqlite:///{tmp_path / 'a.db'}", (tmp_path / "files").as_uri(), postgresql_url]
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", code, *urls],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not re.search(r"unclosed \w+ of", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
