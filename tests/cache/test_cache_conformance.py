"""The conformance suite and the state machine through the cache, over memory, SQLite and PostgreSQL, in both modes."""

from __future__ import annotations

import os
import pathlib
import shutil
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from redis_servers import RedisServer
from servers import TEMPLATE, PostgresServer

from findings_orm import FindingStore, open_storage
from findings_orm.testing.contract import FindingStoreContract
from findings_orm.testing.machine import store_machine

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
STRICT: dict[str, Any] = {"consistency": "strict", "ttls": {"get_finding": 60.0}}
# What another instance wrote is seen once its message has come, so the bound is short enough for the suite's own patience.
BOUNDED: dict[str, Any] = {"consistency": "bounded", "max_staleness": 60.0}
MODES = [pytest.param(STRICT, id="strict"), pytest.param(BOUNDED, id="bounded")]
SCALE = settings(
    max_examples=200 if FULL else 4,
    stateful_step_count=50 if FULL else 20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class _Cached(FindingStoreContract):
    mode: ClassVar[dict[str, Any]] = STRICT

    @pytest.fixture
    def store(self, reopen: Callable[[], FindingStore]) -> Iterator[FindingStore]:
        with reopen() as store:
            yield store


@pytest.mark.no_cover
class TestMemoryStrict(_Cached):
    mode = STRICT

    @pytest.fixture
    def reopen(self, redis: RedisServer) -> Callable[[], FindingStore]:
        return lambda: open_storage("memory:", cache=redis.url, cache_options=self.mode)


@pytest.mark.no_cover
class TestMemoryBounded(TestMemoryStrict):
    mode = BOUNDED


@pytest.mark.no_cover
class TestSQLiteStrict(_Cached):
    mode = STRICT
    persistent = True
    shared_between_processes = True

    @pytest.fixture
    def reopen(
        self, redis: RedisServer, tmp_path: pathlib.Path, empty_sqlite: pathlib.Path
    ) -> Callable[[], FindingStore]:
        path = shutil.copy(empty_sqlite, tmp_path / "findings.db")
        return lambda: open_storage(f"sqlite:///{path}", cache=redis.url, cache_options=self.mode)


@pytest.mark.no_cover
class TestSQLiteBounded(TestSQLiteStrict):
    mode = BOUNDED


@pytest.mark.no_cover
class TestPostgreSQLStrict(_Cached):
    mode = STRICT
    persistent = True
    shared_between_processes = True

    @pytest.fixture
    def reopen(self, redis: RedisServer, emptied_postgresql_url: str) -> Callable[[], FindingStore]:
        return lambda: open_storage(emptied_postgresql_url, cache=redis.url, cache_options=self.mode)


class TestPostgreSQLBounded(TestPostgreSQLStrict):
    mode = BOUNDED


@pytest.mark.no_cover
@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgresql"])
def test_any_sequence_leaves_the_store_as_the_model_says(
    kind: str,
    mode: dict[str, Any],
    redis: RedisServer,
    tmp_path: pathlib.Path,
    empty_sqlite: pathlib.Path,
    request: pytest.FixtureRequest,
) -> None:
    urls: weakref.WeakKeyDictionary[FindingStore, str] = weakref.WeakKeyDictionary()

    def opened(url: str) -> FindingStore:
        store = open_storage(url, cache=redis.url, cache_options=mode)
        urls[store] = url
        return store

    def new() -> FindingStore:
        if kind == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgresql_18")
            return opened(server.url(server.create_database(TEMPLATE)))
        if kind == "sqlite":
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}.db"
            shutil.copy(empty_sqlite, path)
            return opened(f"sqlite:///{path}")
        return opened("memory:")

    def reopened(store: FindingStore) -> FindingStore:
        store.close()
        return opened(urls[store])

    machine = store_machine(new, reopened if kind != "memory" else None)
    run_state_machine_as_test(machine, settings=SCALE)
