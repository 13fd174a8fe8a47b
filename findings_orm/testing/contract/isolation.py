"""The suite, part 12: what a unit of work has read is still so when it commits, and one for reading sees one instant."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pytest

from findings_orm.errors import ReadOnlyError, StorageConflictError
from findings_orm.port import FindingStore
from findings_orm.testing.contract.base import Capabilities, Reopen, needs_capability, project_contents
from findings_orm.testing.contract.transactions import CALLS, UndoError, write_everything
from findings_orm.testing.samples import OTHER, PROJECT, finding, ids, run_id_of, scanned, uuid_of

T = TypeVar("T")
READS = (
    *(
        "list_findings",
        "get_finding",
        "iter_findings",
        "find",
        "count",
        "summarize",
        "list_projects",
        "revision",
    ),
    *("rejected_originals", "history", "sighting", "runs", "diff_runs"),
)
WRITES = CALLS.keys() - {*READS, "transaction"}
A_WHILE = 0.1
"""Seconds in which others are given the time to do what they must not."""


def _in_thread(work: Callable[[], T]) -> T:
    """Return what `work` does in a new thread, which has a context of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=60)


@contextlib.contextmanager
def _beside(work: Callable[[], T]) -> Iterator[Future[T]]:
    """Let a thread work while the block goes on, and end well some time."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        with contextlib.suppress(TimeoutError):
            done.exception(timeout=A_WHILE)
        yield done
    done.result()


def _until_no_conflict(work: Callable[[], T]) -> T:
    """Do a whole unit of work until nobody comes between."""
    while True:
        try:
            return work()
        except StorageConflictError as error:
            if not error.retryable:
                raise


def _counter(store: FindingStore, project_id: str = PROJECT) -> int:
    found: int = store.get_finding(project_id, uuid_of(1))["evidence"]["n"]
    return found


def _save_counter(store: FindingStore, number: int, project_id: str = PROJECT) -> None:
    store.save_finding(finding(1, project_id=project_id, evidence={"n": number}))


def _count_up(store: FindingStore) -> None:
    def count_up() -> None:
        with store.transaction() as unit:
            number = _counter(unit)
            time.sleep(0.001)
            _save_counter(unit, number + 1)

    _until_no_conflict(count_up)


def _count_up_in_threads(stores: list[FindingStore], each: int) -> None:
    with ThreadPoolExecutor(len(stores)) as pool:
        for done in [pool.submit(_count_up, store) for store in stores * each]:
            done.result()


class IsolationContract(Capabilities):
    """What units of work see of each other."""

    def test_read_modify_write_from_threads_loses_nothing(self, store: FindingStore) -> None:
        _save_counter(store, 0)
        _count_up_in_threads([store] * 4, 8)
        assert _counter(store) == 32

    @needs_capability("shared_between_processes")
    def test_read_modify_write_through_stores_loses_nothing(
        self, store: FindingStore, reopen: Reopen
    ) -> None:
        _save_counter(store, 0)
        with reopen() as second, reopen() as third:
            _count_up_in_threads([store, second, third], 6)
            assert _counter(store) == _counter(second) == _counter(third) == 18

    def test_project_that_is_missing_stays_so(self, store: FindingStore) -> None:
        def make_project(number: int) -> bool:
            with store.transaction() as unit:
                missing = unit.revision(PROJECT) == 0 and unit.list_findings(PROJECT) == []
                time.sleep(0.001)
                if missing:
                    unit.save_finding(finding(number))
                return missing

        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda number: _until_no_conflict(lambda: make_project(number)), range(4)))
        assert sum(made) == len(store.list_findings(PROJECT)) == 1

    def test_reads_in_a_unit_agree(self, store: FindingStore) -> None:
        """A write that comes meanwhile waits for the end of the unit, or the unit fails."""
        writes: list[Callable[[], object]] = [
            lambda: store.save_finding(finding(1, title="changed")),
            lambda: store.ingest(PROJECT, [scanned("R1"), {}], on_invalid="quarantine"),
            lambda: store.save_finding(finding(1, project_id=OTHER)),
            lambda: store.delete_project("third"),
        ]

        def read_twice() -> None:
            with store.transaction() as unit:
                before = project_contents(unit), unit.list_findings(OTHER)
                while writes:
                    later.enter_context(_beside(writes.pop()))
                assert (project_contents(unit), unit.list_findings(OTHER)) == before

        store.save_findings([finding(1), finding(2), finding(3, project_id="third")])
        with contextlib.ExitStack() as later:
            _until_no_conflict(read_twice)
        assert len(store.list_findings(PROJECT)) == 3
        assert store.list_projects() == [PROJECT, OTHER]

    def test_units_that_read_two_projects_in_other_orders_end(self, store: FindingStore) -> None:
        meeting = threading.Barrier(2)

        def move(first: str, second: str) -> None:
            with store.transaction() as unit:
                number = _counter(unit, first)
                with contextlib.suppress(threading.BrokenBarrierError):
                    meeting.wait(A_WHILE)
                other = _counter(unit, second)
                _save_counter(unit, number - 1, first)
                _save_counter(unit, other + 1, second)

        for project_id in (PROJECT, OTHER):
            _save_counter(store, 10, project_id)
        with ThreadPoolExecutor(2) as pool:
            ways = [pool.submit(_until_no_conflict, lambda: move(PROJECT, OTHER))]
            ways += [pool.submit(_until_no_conflict, lambda: move(OTHER, PROJECT))]
            for way in ways:
                way.result(timeout=60)
        assert (_counter(store), _counter(store, OTHER)) == (10, 10)

    def test_what_was_read_in_an_undone_block_counts(self, store: FindingStore) -> None:
        """As its lock may be gone with it: then the unit fails where somebody wrote."""
        others = [lambda: _count_up(store)]

        def count_up() -> None:
            with store.transaction() as unit:
                with contextlib.suppress(UndoError), unit.transaction() as inner:
                    number = _counter(inner)
                    raise UndoError
                if others:
                    later.enter_context(_beside(others.pop()))
                _save_counter(unit, number + 1)

        _save_counter(store, 0)
        with contextlib.ExitStack() as later:
            _until_no_conflict(count_up)
        assert _counter(store) == 2

    def test_what_was_read_in_an_undone_block_may_be_as_it_was(self, store: FindingStore) -> None:
        with store.transaction() as unit:
            unit.save_findings([finding(1), finding(2), finding(3)])
            with contextlib.suppress(UndoError), unit.transaction() as inner:
                write_everything(inner)
                inner.save_finding(finding(1, project_id="third"))
                assert "third" in inner.list_projects()
                inner.delete_project(PROJECT)
                raise UndoError
            assert unit.list_projects() == [PROJECT]
            unit.save_finding(finding(4))
            unit.save_finding(finding(1, project_id="third"))
        assert len(store.list_findings(PROJECT)) == 4

    # -- for reading ----------------------------------------------------------------------------------------

    def test_unit_for_reading_sees_one_state_and_keeps_nobody_waiting(self, store: FindingStore) -> None:
        store.save_findings([finding(1), finding(2), finding(3)])
        with store.transaction(read_only=True) as unit:
            before = project_contents(unit)
            found = unit.iter_findings(PROJECT)
            assert next(found)["id"] == uuid_of(1)
            _in_thread(lambda: write_everything(store))
            after = _in_thread(lambda: project_contents(store))
            assert after != before
            assert project_contents(unit) == project_contents(store) == before
            assert _in_thread(lambda: project_contents(unit)) == before
            assert unit.summarize(PROJECT).total == len(list(unit.iter_findings_json(PROJECT))) == 3
            assert unit.list_findings(OTHER) == []
            assert ids(list(found)) == [uuid_of(2), uuid_of(3)]
        assert project_contents(store) == after

    def test_units_for_reading_keep_each_other_from_nothing(self, store: FindingStore) -> None:
        """Each sees what was there when it began; they end in any order."""
        units, blocks = [], []
        for number in range(3):
            store.save_finding(finding(number))
            blocks.append(store.transaction(read_only=True))
            units.append(contextvars.Context().run(blocks[-1].__enter__))
            assert len(units[-1].list_findings(PROJECT)) == number + 1
        for number in (1, 2, 0):
            assert len(units[number].list_findings(PROJECT)) == number + 1
            blocks[number].__exit__(None, None, None)
        assert len(store.list_findings(PROJECT)) == 3

    @needs_capability("reads_beside_writers")
    def test_unit_for_reading_waits_for_nobody(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        with store.transaction() as unit:
            unit.save_finding(finding(2))
            unit.delete_project(OTHER)

            def read() -> list[str]:
                with store.transaction(read_only=True) as reading:
                    return ids(reading.list_findings(PROJECT)) + reading.list_projects()

            expected = [uuid_of(1), PROJECT]
            assert _in_thread(read) == contextvars.Context().run(read) == expected
        assert read() == [uuid_of(1), uuid_of(2), PROJECT]

    def test_unit_for_reading_answers_every_read(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.ingest(PROJECT, [], run=run_id_of(1))
        expected = {name: CALLS[name](store) for name in READS}
        with store.transaction(read_only=True) as unit:
            for name in READS:
                assert CALLS[name](unit) == expected[name], name
            assert unit.purge(PROJECT, closed_before="9999-01-01T00:00:00Z", dry_run=True).purged == 0
            assert unit.health().ok

    def test_unit_for_reading_refuses_writes(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        before = project_contents(store)
        with store.transaction(read_only=True) as unit:
            for name in sorted(WRITES):
                for each in (unit, store):
                    with pytest.raises(ReadOnlyError, match="read_only=True"):
                        CALLS[name](each)
            assert project_contents(unit) == before
        assert project_contents(store) == before
        store.save_finding(finding(2))

    def test_blocks_inside_of_one_for_reading_are_for_reading(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        with store.transaction(read_only=True) as unit, store.transaction() as inner:
            for each in (unit, inner, store):
                assert ids(each.list_findings(PROJECT)) == [uuid_of(1)]
                with pytest.raises(ReadOnlyError):
                    each.save_finding(finding(2))
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]

    def test_block_for_reading_inside_of_a_unit_sees_what_that_wrote(self, store: FindingStore) -> None:
        with store.transaction() as unit:
            unit.save_finding(finding(1))
            with store.transaction(read_only=True) as inner:
                assert ids(inner.list_findings(PROJECT)) == ids(store.list_findings(PROJECT)) == [uuid_of(1)]
                for each in (inner, store):
                    with pytest.raises(ReadOnlyError):
                        each.save_finding(finding(2))
            store.save_finding(finding(3))
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1), uuid_of(3)]
