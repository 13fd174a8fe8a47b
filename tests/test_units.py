"""Units of work in a web framework and in greenlets; what they mean is in the suite (`findings_orm.testing.contract.units`)."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import greenlet  # type: ignore[import-untyped]  # it has no types
import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse
from redis_servers import RedisServer

from findings_orm import (
    FindingStore,
    RedisCacheAdapter,
    StorageUnavailableError,
    open_storage,
)
from findings_orm.testing.samples import PROJECT, finding, ids, uuid_of
from findings_orm.units import Turn

pytestmark = pytest.mark.no_cover

KINDS = ["/plain/plain", "/plain/async", "/async/plain", "/async/async", "/async/joining"]
STORES = ["memory", "files", "sqlite", "sqlite_in_memory", "postgresql", "cached"]
REQUESTS = 60
"""More than the threads that FastAPI has for plain functions."""


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[FindingStore]:
    """Return a store of each kind."""
    name = request.param
    if name in ("memory", "sqlite_in_memory"):
        opened: Any = open_storage("memory:" if name == "memory" else "sqlite://")
    elif name == "postgresql":
        url = request.getfixturevalue("emptied_postgresql_url")
        opened = open_storage(f"{url}?pool_size=50&max_overflow=30")
    elif name == "cached":
        redis: RedisServer = request.getfixturevalue("redis")
        opened = RedisCacheAdapter(request.getfixturevalue("open_sqlite")(), redis.url, secret=b"x" * 32)
    else:
        opened = request.getfixturevalue(f"open_{name}")()
    with opened as store:
        yield store


# -- FastAPI --------------------------------------------------------------------------------------------------


def end(number: int) -> dict[str, int]:
    if number % 3 == 0:
        raise HTTPException(409, "undone")
    return {"saved": number}


def plain_endpoint(_store: FindingStore, depends: Any) -> Callable[..., object]:
    def endpoint(number: int, unit: Any = depends) -> object:
        unit.save_finding(finding(number))
        return end(number)

    return endpoint


def async_endpoint(_store: FindingStore, depends: Any) -> Callable[..., object]:
    async def endpoint(number: int, unit: Any = depends) -> object:
        unit.save_finding(finding(number))
        await asyncio.sleep(0)
        return end(number)

    return endpoint


def joining_endpoint(store: FindingStore, depends: Any) -> Callable[..., object]:
    async def endpoint(number: int, unit: Any = depends) -> object:
        await asyncio.to_thread(store.save_finding, finding(number))
        assert unit.summarize(PROJECT).total >= 1
        return end(number)

    return endpoint


def application(store: FindingStore) -> FastAPI:
    """Return an application with a dependency and an endpoint of each kind."""

    def plain_unit() -> Iterator[FindingStore]:
        with store.transaction() as unit:
            yield unit

    async def async_unit() -> AsyncIterator[FindingStore]:
        with store.transaction() as unit:
            yield unit

    async def refuse(_request: object, error: Exception) -> JSONResponse:
        assert isinstance(error, StorageUnavailableError)
        return JSONResponse({"retryable": error.retryable}, 503)

    app = FastAPI()
    app.add_exception_handler(StorageUnavailableError, refuse)
    for path, endpoint, unit in (
        ("/plain/plain", plain_endpoint, plain_unit),
        ("/plain/async", async_endpoint, plain_unit),
        ("/async/plain", plain_endpoint, async_unit),
        ("/async/async", async_endpoint, async_unit),
        ("/async/joining", joining_endpoint, async_unit),
    ):
        app.post(path + "/{number}")(endpoint(store, Depends(unit)))
    return app


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve an application in a thread, and return its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


async def post_all(url: str, paths: list[str]) -> dict[str, list[int]]:
    """Post to all paths at once, again where the answer is 503; return the answers of each."""
    answers: dict[str, list[int]] = {path: [] for path in paths}

    async def post(client: httpx.AsyncClient, path: str) -> None:
        while not answers[path] or (answers[path][-1] == 503 and len(answers[path]) < 2_000):
            answers[path].append((await client.post(url + path)).status_code)
            await asyncio.sleep(0.005 * (answers[path][-1] == 503))

    limits = httpx.Limits(max_connections=REQUESTS)
    async with httpx.AsyncClient(limits=limits, timeout=15) as client:
        await asyncio.gather(*(post(client, path) for path in paths))
    return answers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "kinds"),
    [("sqlite", KINDS[:1]), *((name, KINDS) for name in STORES)],
    ids=["plain", *STORES],
    indirect=["store"],
)
def test_requests_are_stored_as_they_were_answered(store: FindingStore, kinds: list[str]) -> None:
    paths = [f"{kinds[number % len(kinds)]}/{number}" for number in range(REQUESTS)]
    with served(application(store)) as url:
        answers = asyncio.run(post_all(url, paths))
    last = [answers[path][-1] for path in paths]
    assert last == [200 if number % 3 else 409 for number in range(REQUESTS)]
    assert sorted(ids(store.list_findings(PROJECT))) == sorted(
        uuid_of(number) for number in range(REQUESTS) if number % 3
    )


# -- greenlets ------------------------------------------------------------------------------------------------


def test_greenlets_of_a_thread_have_units_of_their_own(store: FindingStore) -> None:
    class UndoneError(Exception):
        pass

    main = greenlet.getcurrent()

    def undo() -> None:
        with pytest.raises(UndoneError), store.transaction():
            store.save_finding(finding(1))
            main.switch()
            raise UndoneError

    undoing = greenlet.greenlet(undo)
    undoing.switch()
    with pytest.raises(StorageUnavailableError, match="another task of this thread") as caught:
        store.save_finding(finding(2))
    assert caught.value.retryable
    undoing.switch()
    store.save_finding(finding(2))
    assert ids(store.list_findings(PROJECT)) == [uuid_of(2)]


def test_greenlet_does_not_call_into_a_call_of_another(store: FindingStore) -> None:
    main = greenlet.getcurrent()

    def documents() -> Iterator[Any]:
        main.switch()
        yield {"id": str(uuid.uuid4()), "detector_id": "scan.demo", "title": "x", "severity": "low"}

    with store.transaction() as unit:
        importing = greenlet.greenlet(lambda: unit.ingest(PROJECT, documents()))
        importing.switch()
        with pytest.raises(StorageUnavailableError, match="another greenlet"):
            unit.save_finding(finding(1))
        importing.switch()
        unit.save_finding(finding(1))
    assert len(store.list_findings(PROJECT)) == 2


# -- garbage --------------------------------------------------------------------------------------------------

COLLECTING = """
import contextlib, gc, sys, threading, time
from findings_orm import open_storage
from findings_orm.testing.samples import finding

store = open_storage("memory:")
sys.setswitchinterval(1e-6)
gc.callbacks.append(lambda phase, info: time.sleep(0.0001))  # what a finalizer may do: let another thread run
held = store.transaction()
held.__enter__().save_finding(finding(1))
gc.set_threshold(1)

def wait():
    with contextlib.suppress(Exception):
        store.save_finding(finding(2))

waiting = [threading.Thread(target=wait) for _ in range(4)]
for thread in waiting:
    thread.start()
for _ in range(500):
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
held.__exit__(None, None, None)
for thread in waiting:
    thread.join()
print(gc.isenabled())
"""


@pytest.mark.slow
def test_garbage_is_collected_beside_who_waits_for_a_unit() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", COLLECTING], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "True\n"


# -- what a context keeps -------------------------------------------------------------------------------------


def test_blocks_of_two_stores_are_left_in_any_order() -> None:
    with open_storage("memory:") as one, open_storage("memory:") as other:
        first, second = one.transaction(), other.transaction()
        first.__enter__()
        second.__enter__()
        one.save_finding(finding(1))
        other.save_finding(finding(1))
        first.__exit__(None, None, None)
        other.save_finding(finding(2))
        one.save_finding(finding(2))
        second.__exit__(KeyError, KeyError(), None)
        assert len(one.list_findings(PROJECT)) == 2
        assert other.list_findings(PROJECT) == []


def test_store_is_dropped_though_a_context_knew_a_unit_of_it() -> None:
    kept: list[contextvars.Context] = []
    gone: list[bool] = []

    def use() -> None:
        store = open_storage("memory:")
        with store.transaction():
            store.save_finding(finding(1))
            kept.append(contextvars.copy_context())
        store.close()
        weakref.finalize(store, gone.append, True)

    use()
    assert gone == [True]


def test_unit_of_a_thread_is_waited_for_on_an_event_loop(open_sqlite: Callable[[], FindingStore]) -> None:
    """It goes on by itself."""
    began, ended = threading.Event(), threading.Event()

    def work(store: FindingStore) -> None:
        with store.transaction() as unit:
            unit.save_finding(finding(1))
            began.set()
            ended.wait(0.2)

    async def main(store: FindingStore) -> None:
        thread = threading.Thread(target=work, args=(store,))
        thread.start()
        began.wait(30)
        store.save_finding(finding(2))
        thread.join()

    with open_sqlite() as store:
        asyncio.run(main(store))
        assert len(store.list_findings(PROJECT)) == 2


def test_turn_is_had_though_others_take_it_again_and_again(tmp_path: Path) -> None:
    turn, ended = Turn("it", set(), seconds=5), threading.Event()

    def take_it_again() -> None:
        while not ended.is_set():
            with suppress(StorageUnavailableError), turn.hold():
                for _ in range(50):
                    tmp_path.stat()  # lets other threads run, always while it has the turn

    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(take_it_again)
        try:
            for _ in range(20):
                with turn.hold():
                    pass
        finally:
            ended.set()
