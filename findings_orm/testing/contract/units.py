"""The suite, part 11: a unit of work is an object, of whatever thread or task."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from findings_orm.errors import FindingNotFoundError, StorageError, StorageUnavailableError
from findings_orm.port import FindingStore
from findings_orm.testing.contract.base import Capabilities
from findings_orm.testing.samples import PROJECT, finding, ids, scanned, uuid_of

T = TypeVar("T")


class _UndoneError(Exception):
    """What the tests raise inside of units."""


def _in_thread(work: Callable[[], T]) -> T:
    """Return what `work` does in a new thread, which has a context of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=30)


def _elsewhere(work: Callable[[], T]) -> T:
    """Return what `work` does in this thread, and in another context."""
    return contextvars.Context().run(work)


async def _until_there_is_room(work: Callable[[], T]) -> T:
    """Do what may be refused for the sake of another task, which goes on then."""
    for _ in range(1_000):
        try:
            return work()
        except StorageUnavailableError as error:
            if not error.retryable:
                raise
            await asyncio.sleep(0)
    raise AssertionError("there was never room")


def _stored(store: FindingStore) -> list[str]:
    return ids(store.list_findings(PROJECT))


class UnitContract(Capabilities):
    """The object that `transaction` gives."""

    def test_unit_is_a_store(self, store: FindingStore) -> None:
        with store.transaction() as unit:
            assert isinstance(unit, type(store))
            assert isinstance(unit, FindingStore)
            assert unit is not store

    @pytest.mark.parametrize("raises", [False, True])
    def test_calls_of_a_unit_belong_to_it_in_any_context(self, store: FindingStore, raises: bool) -> None:
        def work() -> None:
            unit.save_finding(finding(1))
            unit.ingest(PROJECT, [scanned("R1")])
            unit.set_status(PROJECT, uuid_of(1), "triaged", actor="ann")
            with pytest.raises(_UndoneError), unit.transaction() as inner:  # noqa: PT012  # the block is what is tested
                inner.delete_project(PROJECT)
                raise _UndoneError
            assert unit.summarize(PROJECT).total == len(list(unit.iter_findings(PROJECT))) == 2

        with contextlib.suppress(_UndoneError), store.transaction() as unit:
            _elsewhere(work)
            if raises:
                raise _UndoneError
        assert len(store.list_findings(PROJECT)) == (0 if raises else 2)

    def test_calls_elsewhere_are_not_in_it(self, store: FindingStore) -> None:
        """They see nothing of it, or are refused at once where they could only wait for it."""
        store.save_finding(finding(1))
        with store.transaction() as unit:
            unit.save_finding(finding(2))
            with pytest.raises(StorageUnavailableError, match="can't end while this call waits") as caught:
                _elsewhere(lambda: store.save_finding(finding(3)))
            assert caught.value.retryable
            with contextlib.suppress(StorageUnavailableError):
                assert _elsewhere(lambda: _stored(store)) == [uuid_of(1)]
            assert _stored(store) == _elsewhere(lambda: _stored(unit)) == [uuid_of(1), uuid_of(2)]
        assert _elsewhere(lambda: _stored(store)) == [uuid_of(1), uuid_of(2)]

    @pytest.mark.parametrize("raises", [False, True])
    def test_entered_used_and_left_in_three_threads(self, store: FindingStore, raises: bool) -> None:
        """As a web framework does with a dependency that yields, each time in a copy of the request's context."""

        def depend() -> Iterator[FindingStore]:
            with store.transaction() as unit:
                yield unit

        for number in (1, 2):
            block = contextlib.contextmanager(depend)()
            unit = _in_thread(block.__enter__)
            _in_thread(lambda: unit.save_finding(finding(number)))  # noqa: B023  # called at once
            error = _UndoneError() if raises else None
            kind = _UndoneError if raises else None
            with contextlib.suppress(_UndoneError):
                _in_thread(lambda: block.__exit__(kind, error, None))  # noqa: B023  # called at once
            assert len(_stored(store)) == (0 if raises else number)
        store.save_finding(finding(3))
        _in_thread(lambda: store.save_finding(finding(4)))

    def test_left_in_another_context_than_entered(self, store: FindingStore) -> None:
        def depend() -> Iterator[FindingStore]:
            with store.transaction():
                store.save_finding(finding(1))
                yield store

        depending = depend()
        next(depending)
        assert _stored(store) == [uuid_of(1)]
        _in_thread(lambda: next(depending, None))
        store.save_finding(finding(2))
        with contextlib.suppress(_UndoneError), store.transaction():
            store.save_finding(finding(3))
            raise _UndoneError
        assert _in_thread(lambda: _stored(store)) == [uuid_of(1), uuid_of(2)]

    def test_unit_that_has_ended_refuses(self, store: FindingStore) -> None:
        with store.transaction() as unit:
            unit.save_finding(finding(1))
        with contextlib.suppress(_UndoneError), store.transaction() as undone:
            raise _UndoneError
        for each in (unit, undone):
            for call in (
                lambda: each.save_finding(finding(2)),  # noqa: B023  # called at once
                lambda: each.ingest(PROJECT, []),  # noqa: B023  # called at once
                lambda: each.list_findings(PROJECT),  # noqa: B023  # called at once
                lambda: list(each.iter_findings(PROJECT)),  # noqa: B023  # called at once
                lambda: each.transaction().__enter__(),  # noqa: B023  # called at once
            ):
                with pytest.raises(StorageError, match="this unit of work has ended"):
                    call()
        assert _stored(store) == [uuid_of(1)]

    def test_unit_is_not_closed(self, store: FindingStore) -> None:
        with store.transaction() as unit:
            unit.save_finding(finding(1))
            with pytest.raises(StorageError, match="ends with its block"):
                unit.close()
        assert _stored(store) == [uuid_of(1)]

    def test_iterator_of_a_unit_goes_on_in_another_thread(self, store: FindingStore) -> None:
        store.save_findings(finding(number) for number in range(1_200))
        with store.transaction() as unit:
            found = unit.iter_findings(PROJECT)
            first = next(found)
            unit.save_finding(finding(2_000))
            rest = _in_thread(lambda: [next(found) for _ in range(700)])
            assert len({one["id"] for one in (first, *rest, *found)}) == 1_200

    def test_import_in_a_unit_may_ask_it(self, store: FindingStore) -> None:
        def documents(asked: FindingStore) -> Iterator[Any]:
            assert asked.summarize(PROJECT).total == 1
            yield scanned("R1")

        store.save_finding(finding(1))
        with store.transaction() as unit:
            unit.ingest(PROJECT, documents(unit))
        store.delete_project(PROJECT)
        store.save_finding(finding(1))
        store.ingest(PROJECT, documents(store))
        assert len(_stored(store)) == 2

    def test_import_does_not_wait_for_a_thread_that_waits_for_it(self, store: FindingStore) -> None:
        def documents() -> Iterator[Any]:
            context = contextvars.copy_context()
            with pytest.raises(StorageError, match="takes one call at a time"):
                _in_thread(lambda: context.run(store.list_projects))
            yield scanned("R1")

        with store.transaction():
            store.ingest(PROJECT, documents())
        assert len(_stored(store)) == 1

    def test_blocks_inside_are_left_in_reverse_order(self, store: FindingStore) -> None:
        """Else the first one would undo the second, or keep what it is to undo."""
        with pytest.raises(StorageError), store.transaction() as unit:  # noqa: PT012  # the block is what is tested
            unit.save_finding(finding(1))
            outer, inner = unit.transaction(), unit.transaction()
            _elsewhere(outer.__enter__)
            _elsewhere(inner.__enter__)
            unit.save_finding(finding(2))
            with contextlib.suppress(StorageError):
                outer.__exit__(None, None, None)
            with contextlib.suppress(StorageError):
                inner.__exit__(None, None, None)
        assert _stored(store) == []


class TaskContract(Capabilities):
    """Units of work of asyncio's tasks, of which many share a thread."""

    @pytest.mark.parametrize("in_thread", [False, True])
    def test_rollback_of_a_task_undoes_nothing_of_another(self, store: FindingStore, in_thread: bool) -> None:
        async def undo(inside: asyncio.Event) -> None:
            with contextlib.suppress(_UndoneError), store.transaction():
                store.save_finding(finding(1))
                inside.set()
                for _ in range(5):
                    await asyncio.sleep(0)
                raise _UndoneError

        async def save(inside: asyncio.Event) -> None:
            await inside.wait()
            if in_thread:
                await asyncio.to_thread(store.save_finding, finding(2))
            else:
                await _until_there_is_room(lambda: store.save_finding(finding(2)))

        async def main() -> None:
            inside = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(undo(inside))
                tasks.create_task(save(inside))

        asyncio.run(main())
        assert _stored(store) == [uuid_of(2)]

    def test_blocks_of_tasks_that_overlap_are_two_units(self, store: FindingStore) -> None:
        async def work(number: int) -> None:
            for attempt in range(1_000):
                try:
                    with store.transaction() as unit:
                        (store if number % 3 else unit).save_finding(finding(number))
                        await asyncio.sleep(0)
                        store.save_finding(finding(number, title=f"after {attempt}"))
                        if number % 2:
                            raise _UndoneError
                except _UndoneError:
                    return
                except StorageUnavailableError as error:
                    if not error.retryable:
                        raise
                    await asyncio.sleep(0)
                else:
                    return
            raise AssertionError("there was never room")

        async def main() -> None:
            await asyncio.gather(*(work(number) for number in range(8)))

        asyncio.run(main())
        assert _stored(store) == [uuid_of(number) for number in range(0, 8, 2)]

    @pytest.mark.parametrize("raises", [False, True])
    def test_threads_and_tasks_started_inside_belong_to_it(self, store: FindingStore, raises: bool) -> None:
        async def save(number: int) -> None:
            store.save_finding(finding(number))

        async def main() -> None:
            with contextlib.suppress(_UndoneError), store.transaction() as unit:
                await asyncio.to_thread(store.ingest, PROJECT, [scanned("R1")])
                async with asyncio.TaskGroup() as tasks:
                    for number in (1, 2):
                        tasks.create_task(save(number))
                    for number in (3, 4):
                        tasks.create_task(asyncio.to_thread(store.save_finding, finding(number)))
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(None, unit.save_finding, finding(5))
                assert store.summarize(PROJECT).total == 6
                if raises:
                    raise _UndoneError
            assert store.summarize(PROJECT).total == (0 if raises else 6)

        asyncio.run(main())
        assert len(_stored(store)) == (0 if raises else 6)

    def test_task_that_outlives_the_block_is_refused(self, store: FindingStore) -> None:
        """What it does would be kept though the block may have been undone. The task of the block itself goes on outside."""

        async def save_late(ended: asyncio.Event) -> None:
            await ended.wait()
            store.save_finding(finding(1))

        async def main() -> None:
            ended = asyncio.Event()
            with store.transaction():
                inherited = asyncio.create_task(save_late(ended))
                fresh = asyncio.create_task(save_late(ended), context=contextvars.Context())
                await asyncio.sleep(0)
            store.save_finding(finding(2))
            ended.set()
            with pytest.raises(StorageError, match="started inside of a unit of work that has ended"):
                await inherited
            await fresh

        asyncio.run(main())
        assert _stored(store) == [uuid_of(1), uuid_of(2)]

    def test_call_of_a_task_is_not_undone_by_the_inner_block_of_another(self, store: FindingStore) -> None:
        async def undo(inside: asyncio.Event, tried: asyncio.Event) -> None:
            with contextlib.suppress(_UndoneError), store.transaction():
                store.save_finding(finding(1))
                inside.set()
                await tried.wait()
                raise _UndoneError

        async def main() -> None:
            inside, tried = asyncio.Event(), asyncio.Event()
            with store.transaction() as unit:
                task = asyncio.create_task(undo(inside, tried))
                await inside.wait()
                with pytest.raises(StorageError, match="another task is in a transaction"):
                    store.save_finding(finding(2))
                tried.set()
                await task
                store.save_finding(finding(2))
                with pytest.raises(FindingNotFoundError):
                    unit.get_finding(PROJECT, uuid_of(1))

        asyncio.run(main())
        assert _stored(store) == [uuid_of(2)]

    def test_cancelled_task_leaves_nothing(self, store: FindingStore) -> None:
        async def work(began: threading.Event, go_on: threading.Event) -> None:
            def documents() -> Iterator[Any]:
                began.set()
                go_on.wait(30)
                yield scanned("R1")

            with store.transaction():
                store.save_finding(finding(1))
                await asyncio.to_thread(store.ingest, PROJECT, documents())

        async def main() -> None:
            began, go_on = threading.Event(), threading.Event()
            task = asyncio.create_task(work(began, go_on))
            await asyncio.to_thread(began.wait, 30)
            task.cancel()
            asyncio.get_running_loop().call_soon(go_on.set)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert _stored(store) == []
        store.save_finding(finding(2))
