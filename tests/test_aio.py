"""Stores for asyncio: the same meaning as the stores inside, whatever becomes of the tasks that wait for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from awaited import AwaitedStore
from sessions import sql_store
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from findings_orm import (
    FindingStore,
    StorageError,
    StorageUnavailableError,
    StorageValidationError,
    open_storage,
)
from findings_orm.aio import BATCH, DONE, AsyncFindingStore
from findings_orm.orm import Finding
from findings_orm.testing.contract.arguments import ArgumentContract
from findings_orm.testing.contract.documents import DocumentContract
from findings_orm.testing.contract.history import HistoryContract, PurgeContract
from findings_orm.testing.contract.ingest import IngestContract
from findings_orm.testing.contract.port import BasicContract
from findings_orm.testing.contract.queries import QueryContract
from findings_orm.testing.contract.runs import QuarantineContract, RunContract
from findings_orm.testing.contract.transactions import LifeContract, TransactionContract
from findings_orm.testing.samples import PROJECT, finding, ids, scanned, uuid_of


@pytest.mark.no_cover
class TestAwaitedSQLite(
    BasicContract,
    DocumentContract,
    QueryContract,
    IngestContract,
    RunContract,
    QuarantineContract,
    HistoryContract,
    PurgeContract,
    TransactionContract,
    LifeContract,
    ArgumentContract,
):
    """The suite, without what is about threads and event loops of who calls: here that is always the loop of the store."""

    test_save_findings_may_write_the_store_while_it_takes_documents = None  # type: ignore[assignment]  # an iterator can't await

    @pytest.fixture
    def store(self, open_sqlite: Callable[[], FindingStore]) -> Iterator[FindingStore]:
        store = AwaitedStore(open_sqlite())
        yield store
        store.stop()


# -- tasks ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite", "files", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Any) -> FindingStore:
    if request.param == "memory":
        return open_storage("memory:")
    if request.param == "files":
        return open_storage((tmp_path / "files").as_uri())
    if request.param == "sqlite":
        return request.getfixturevalue("open_sqlite")()  # type: ignore[no-any-return]
    return open_storage(request.getfixturevalue("emptied_postgresql_url"))


class _UndoneError(Exception):
    """What the tests raise inside of units."""


def test_a_block_commits_or_is_rolled_back_with_the_tasks_that_it_started(opened: FindingStore) -> None:
    async def work(*, raises: bool) -> None:
        async with store.transaction() as unit:
            await unit.save_finding(finding(1))
            async with asyncio.TaskGroup() as group:
                for number in (2, 3, 4):
                    group.create_task(store.save_finding(finding(number)))
            with pytest.raises(_UndoneError):
                async with store.transaction():
                    await store.delete_project(PROJECT)
                    raise _UndoneError
            assert await store.count_of() == 4
            if raises:
                raise _UndoneError

    class Counting(AsyncFindingStore):
        async def count_of(self) -> int:
            return (await self.summarize(PROJECT)).total

    async def main() -> None:
        async with store:
            with pytest.raises(_UndoneError):
                await work(raises=True)
            assert await store.count_of() == 0
            await work(raises=False)
            assert await store.count_of() == 4
            await store.save_finding(finding(5))
            assert await store.count_of() == 5
        with pytest.raises(StorageError):
            await store.list_findings(PROJECT)

    store = Counting(opened)
    asyncio.run(main())


def test_overlapping_blocks_of_tasks_stay_apart(opened: FindingStore) -> None:
    async def request(number: int) -> bool:
        for _ in range(1_000):
            try:
                async with store.transaction() as unit:
                    await unit.save_finding(finding(number, project_id=f"p{number % 3}"))
                    await asyncio.sleep(0.001)
                    if number % 2:
                        raise _UndoneError
                return True
            except StorageUnavailableError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(0.01)
            except _UndoneError:
                return False
        raise AssertionError("there was never room")

    async def main() -> list[list[str]]:
        async with store:
            assert await asyncio.gather(*map(request, range(12))) == [True, False] * 6
            return [ids(await store.list_findings(f"p{number}")) for number in range(3)]

    store = AsyncFindingStore(opened)
    assert asyncio.run(main()) == [
        [uuid_of(n) for n in range(12) if n % 2 == 0 and n % 3 == k] for k in range(3)
    ]


def test_a_cancelled_call_has_ended_when_its_task_goes_on(opened: FindingStore) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def documents() -> Iterator[Any]:
        yield scanned("R1")
        begun.set()
        assert go_on.wait(30)
        yield scanned("R2")

    async def main() -> None:
        async with store:
            task = asyncio.create_task(store.ingest(PROJECT, documents()))
            await asyncio.to_thread(begun.wait)
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert DONE in caught.value.__notes__
            assert len(await store.list_findings(PROJECT)) == 2

    store = AsyncFindingStore(opened)
    asyncio.run(main())


def test_a_cancelled_block_is_rolled_back(opened: FindingStore) -> None:
    async def work(entered: asyncio.Event) -> None:
        async with store.transaction() as unit:
            await unit.save_finding(finding(1))
            entered.set()
            await asyncio.sleep(60)

    async def main() -> None:
        async with store:
            entered = asyncio.Event()
            task = asyncio.create_task(work(entered))
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await store.list_findings(PROJECT) == []
            await store.save_finding(finding(2))

    store = AsyncFindingStore(opened)
    asyncio.run(main())


def test_streams_take_batches_and_can_be_left_early(opened: FindingStore) -> None:
    async def main() -> None:
        async with store:
            await store.save_findings(finding(number) for number in range(3 * BATCH + 1))
            async with aclosing(store.iter_findings(PROJECT)) as found:
                async for one in found:
                    assert one["id"] == uuid_of(0)
                    break
            await store.save_finding(finding(3 * BATCH + 1))
            assert len([one async for one in store.iter_findings(PROJECT)]) == 3 * BATCH + 2
            assert len([one async for one in store.iter_findings_json(PROJECT)]) == 3 * BATCH + 2

    store = AsyncFindingStore(opened)
    asyncio.run(main())


def test_health_answers_when_all_threads_are_busy() -> None:
    go_on = threading.Event()

    def documents() -> Iterator[Any]:
        assert go_on.wait(30)
        yield scanned("R1")

    async def main() -> None:
        async with AsyncFindingStore(open_storage("memory:"), threads=5) as store:
            imports = [asyncio.create_task(store.ingest(f"p{n}", documents())) for n in range(5)]
            await asyncio.sleep(0.05)
            assert (await store.health()).ok
            go_on.set()
            await asyncio.gather(*imports)

    asyncio.run(main())


@pytest.mark.parametrize("threads", [0, 4, -1])
def test_too_few_threads_are_refused(threads: int) -> None:
    with open_storage("memory:") as store, pytest.raises(StorageValidationError, match="threads"):
        AsyncFindingStore(store, threads=threads)


# -- in the transaction of an application -----------------------------------------------------------------------------


@pytest.fixture(params=["aiosqlite", "psycopg", "asyncpg"])
def application(
    request: pytest.FixtureRequest, open_sqlite: Callable[[], Any]
) -> tuple[FindingStore, Callable[[], Any]]:
    if request.param == "aiosqlite":
        store = open_sqlite()
        url = f"sqlite+aiosqlite:///{store.engine.url.database}"
        return store, lambda: _session(url)
    store = sql_store(request.getfixturevalue("emptied_postgresql_url"))
    return store, lambda: _session(store.engine.url.set(drivername=f"postgresql+{request.param}"))


@asynccontextmanager
async def _session(url: Any) -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(url)
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


def test_what_joined_a_session_is_committed_by_the_application(
    application: tuple[FindingStore, Callable[[], Any]],
) -> None:
    opened, new_session = application

    async def main() -> None:
        async with AsyncFindingStore(opened) as store:
            for number, commits in enumerate((False, True)):
                async with new_session() as session:
                    async with store.joined(session, actor="ann") as unit:
                        await unit.save_finding(finding(number))
                        report = await unit.ingest(PROJECT, [scanned("R1")])
                        assert report.created == 1
                        session.add(Finding(**{**finding(number + 5), "finding_schema_version": "2.0.0"}))
                        assert len([one async for one in unit.iter_findings(PROJECT)]) == 3
                    assert len((await session.scalars(select(Finding))).all()) == 3
                    await (session.commit() if commits else session.rollback())
                assert len(await store.list_findings(PROJECT)) == (3 if commits else 0)

    asyncio.run(main())


def test_only_what_is_of_asyncio_is_joined() -> None:
    async def main() -> None:
        async with AsyncFindingStore(open_storage("memory:")) as store:
            bind: Any = object()
            with pytest.raises(StorageValidationError, match="AsyncSession"):
                store.joined(bind)

    asyncio.run(main())
