"""The suite, part 8: units of work, threads, closing, and persistence."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from findings_orm.errors import StorageError, StorageValidationError
from findings_orm.port import FindingStore, Run
from findings_orm.query import FindingQuery
from findings_orm.testing.contract.base import (
    Capabilities,
    Reopen,
    error_of_call,
    found,
    list_statuses,
    needs_capability,
    project_contents,
)
from findings_orm.testing.contract.ingest import assert_counts
from findings_orm.testing.samples import OTHER, PROJECT, finding, ids, run_id_of, scanned, uuid_of

FUTURE = "9999-01-01T00:00:00Z"


class UndoError(Exception):
    """What the tests raise inside transactions."""


def write_everything(store: FindingStore) -> None:
    """Do every kind of write, on a store that holds findings 1 to 3."""
    store.save_finding(finding(1, title="changed"))
    store.save_findings([finding(4), finding(5, project_id=OTHER)])
    store.set_status(PROJECT, uuid_of(2), "resolved", actor="ann")
    store.purge(PROJECT, closed_before=FUTURE)
    store.ingest(PROJECT, [scanned("R1"), {}], run=Run(run_id_of(7), ["scan.demo"]), on_invalid="quarantine")
    store.ingest(PROJECT, [finding(3, severity="high")], run=run_id_of(8), close_missing=True)
    name = store.rejected_originals(PROJECT)[0].rejected_id
    store.retry_rejected(PROJECT, {name: scanned("R2")})
    store.save_finding(finding(6, project_id="gone"))
    store.delete_project("gone")


CALLS: dict[str, Callable[[FindingStore], Any]] = {
    "save_finding": lambda store: store.save_finding(finding(1)),
    "save_findings": lambda store: store.save_findings([finding(1)]),
    "list_findings": lambda store: store.list_findings(PROJECT),
    "delete_project": lambda store: store.delete_project(PROJECT),
    "get_finding": lambda store: store.get_finding(PROJECT, uuid_of(1)),
    "iter_findings": lambda store: list(store.iter_findings(PROJECT)),
    "find": lambda store: store.find(FindingQuery(project_id=PROJECT)),
    "count": lambda store: store.count(FindingQuery(project_id=PROJECT)),
    "summarize": lambda store: store.summarize(PROJECT),
    "list_projects": lambda store: store.list_projects(),
    "revision": lambda store: store.revision(PROJECT),
    "ingest": lambda store: store.ingest(PROJECT, [scanned()]),
    "ingest (dry run)": lambda store: store.ingest(PROJECT, [scanned()], dry_run=True),
    "rejected_originals": lambda store: store.rejected_originals(PROJECT),
    "discard_rejected": lambda store: store.discard_rejected(PROJECT, []),
    "retry_rejected": lambda store: store.retry_rejected(PROJECT),
    "set_status": lambda store: store.set_status(PROJECT, uuid_of(1), "triaged", actor="ann"),
    "history": lambda store: store.history(PROJECT, uuid_of(1)),
    "sighting": lambda store: store.sighting(PROJECT, uuid_of(1)),
    "runs": lambda store: store.runs(PROJECT),
    "diff_runs": lambda store: store.diff_runs(PROJECT, run_id_of(1), run_id_of(1)),
    "purge": lambda store: store.purge(PROJECT, closed_before=FUTURE),
    "transaction": lambda store: store.transaction().__enter__(),
}
"""A call of every method that uses the storage."""


class TransactionContract(Capabilities):
    """`transaction`."""

    def test_transaction_commits_together(self, store: FindingStore) -> None:
        with store.transaction() as unit:
            unit.save_finding(finding(1))
            store.save_finding(finding(2))
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1), uuid_of(2)]

    @pytest.mark.parametrize("error", [UndoError, KeyboardInterrupt, GeneratorExit, StorageError])
    def test_transaction_that_raises_leaves_nothing(
        self, store: FindingStore, error: type[BaseException]
    ) -> None:
        store.save_findings([finding(1), finding(2), finding(3)])
        before = project_contents(store)
        with pytest.raises(error), store.transaction():  # noqa: PT012  # the block is what is tested
            write_everything(store)
            raise error
        assert project_contents(store) == before
        assert project_contents(store, OTHER)[:5] == [[], [], [], [], []]
        store.save_finding(finding(4))
        assert len(store.list_findings(PROJECT)) == 4, "the store does not work after a rollback"

    def test_revision_never_comes_back(self, store: FindingStore) -> None:
        seen = set()
        for number in range(20):
            store.save_finding(finding(number))
            seen.add(store.revision(PROJECT))
            with contextlib.suppress(UndoError), store.transaction():
                store.save_finding(finding(number, title="undone"))
                seen.add(store.revision(PROJECT))
                raise UndoError
            store.save_finding(finding(number, title="done"))
            seen.add(store.revision(PROJECT))
            store.delete_project(PROJECT)
            assert store.revision(PROJECT) == 0
        assert len(seen) == 60, "a revision named two states"

    def test_transaction_does_the_same_as_without(self, store: FindingStore) -> None:
        store.save_findings([finding(1), finding(2), finding(3)])
        with store.transaction():
            write_everything(store)
        inside = store.list_findings(PROJECT)
        assert sorted(document["rule_id"] or document["title"] for document in inside) == [
            "Finding 3", "Finding 4", "R1", "R2", "changed"
        ]  # fmt: skip
        assert [run.number for run in store.runs(PROJECT)] == [1, 2, 3]
        assert store.list_projects() == [PROJECT, OTHER]

    def test_reads_inside_see_own_writes(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        with store.transaction():
            store.save_finding(finding(1, title="changed"))
            store.save_finding(finding(2))
            assert store.get_finding(PROJECT, uuid_of(1))["title"] == "changed"
            assert found(store) == [uuid_of(1), uuid_of(2)]
            assert ids(list(store.iter_findings(PROJECT))) == [uuid_of(1), uuid_of(2)]
            assert store.count(FindingQuery(project_id=PROJECT)) == store.summarize(PROJECT).total == 2
            assert_counts(store.ingest(PROJECT, [finding(2)]), unchanged=1)
            assert len(store.history(PROJECT, uuid_of(1))) == 1
            store.delete_project(PROJECT)
            assert store.list_findings(PROJECT) == []
            assert store.list_projects() == []
        assert store.list_projects() == []

    def test_iterating_inside_shows_one_instant_too(self, store: FindingStore) -> None:
        store.save_findings(finding(number) for number in range(2_500))
        seen = 0
        with store.transaction():
            for document in store.iter_findings(PROJECT):
                seen += 1
                if seen % 500 == 1:
                    store.save_finding({**document, "severity": "low"})
                    store.save_finding(finding(5_000 + seen, created_at="2025-01-01T00:00:00Z"))
        assert seen == 2_500
        assert len(store.list_findings(PROJECT)) == 2_505

    def test_inner_block_that_raises_undoes_only_itself(self, store: FindingStore) -> None:
        with store.transaction():
            store.save_finding(finding(1))
            with pytest.raises(UndoError), store.transaction():  # noqa: PT012  # the block is what is tested
                store.save_finding(finding(1, title="changed"))
                store.save_finding(finding(2))
                raise UndoError
            assert [document["title"] for document in store.list_findings(PROJECT)] == ["Finding 1"]
            with store.transaction():
                store.save_finding(finding(3))
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1), uuid_of(3)]

    def test_outer_block_that_raises_undoes_inner_ones(self, store: FindingStore) -> None:
        with pytest.raises(UndoError), store.transaction():  # noqa: PT012  # the block is what is tested
            with store.transaction(), store.transaction():
                store.save_finding(finding(1))
            raise UndoError
        assert store.list_projects() == []

    def test_deeper_blocks_undo_to_their_own_beginning(self, store: FindingStore) -> None:
        with store.transaction():
            store.save_finding(finding(1))
            with contextlib.suppress(UndoError), store.transaction():
                store.delete_project(PROJECT)
                with store.transaction():
                    store.save_finding(finding(2))
                with contextlib.suppress(UndoError), store.transaction():
                    store.save_finding(finding(3))
                    raise UndoError
                assert ids(store.list_findings(PROJECT)) == [uuid_of(2)]
                raise UndoError
            assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]

    def test_refused_call_inside_undoes_only_itself(self, store: FindingStore) -> None:
        with store.transaction():
            store.save_finding(finding(1))
            with pytest.raises(StorageValidationError):
                store.save_findings([finding(2), finding(3, title="")])
            with pytest.raises(StorageValidationError):
                store.ingest(PROJECT, [scanned(), {}])
            with pytest.raises(StorageError):
                store.set_status(PROJECT, uuid_of(1), "nonsense", actor="ann")  # type: ignore[arg-type]  # it is none
            store.ingest(PROJECT, [scanned("R9")], dry_run=True)
            store.save_finding(finding(4))
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1), uuid_of(4)]
        assert store.runs(PROJECT) == []

    def test_store_works_after_many_transactions(self, store: FindingStore) -> None:
        for number in range(40):
            with contextlib.suppress(UndoError), store.transaction():
                store.save_finding(finding(number))
                if number % 2:
                    raise UndoError
        assert ids(store.list_findings(PROJECT)) == [uuid_of(number) for number in range(0, 40, 2)]


class ThreadContract(Capabilities):
    """Many threads on one store."""

    def test_eight_threads_saving_lose_nothing(self, store: FindingStore) -> None:
        def save_ten(thread: int) -> None:
            for number in range(10):
                store.save_finding(finding(thread * 100 + number, project_id=f"p{thread % 3}"))

        _run_in_threads(save_ten, range(8))
        expected = sorted(uuid_of(thread * 100 + number) for thread in range(8) for number in range(10))
        assert sorted(each for n in range(3) for each in ids(store.list_findings(f"p{n}"))) == expected

    def test_eight_threads_saving_the_same_finding_leave_one(self, store: FindingStore) -> None:
        _run_in_threads(lambda n: store.save_finding(finding(1, title=f"by {n}")), range(8))
        last = store.list_findings(PROJECT)
        assert len(last) == 1
        events = store.history(PROJECT, uuid_of(1))
        assert len(events) == 7, "a change is missing in the history"
        titles = [event.changes["title"] for event in events]
        assert [old for old, _ in titles[1:]] + [last[0]["title"]] == [new for _, new in titles]

    def test_importers_at_once_give_one_row_an_identity(self, store: FindingStore) -> None:
        report = [scanned(f"R{n % 40}", n + 1) for n in range(80)]
        reports = _run_in_threads(lambda n: store.ingest(PROJECT, report, run=run_id_of(n)), range(4))
        assert sum(each.created for each in reports) == len(store.list_findings(PROJECT)) == 80
        assert sum(each.unchanged for each in reports) == 240
        assert [run.number for run in store.runs(PROJECT)] == [1, 2, 3, 4]

    def test_same_run_at_once_is_imported_once(self, store: FindingStore) -> None:
        reports = _run_in_threads(
            lambda _: store.ingest(PROJECT, [scanned()] * 3, run=run_id_of(1)), range(4)
        )
        assert sorted(each.repeated for each in reports) == [False, True, True, True]
        assert len(store.list_findings(PROJECT)) == 3
        assert len(store.runs(PROJECT)) == 1

    def test_readers_never_see_half_a_transaction(self, store: FindingStore) -> None:
        done = threading.Event()

        def read_parities() -> set[int]:
            seen = set()
            while not done.is_set():
                seen.add(len(store.list_findings(PROJECT)) % 2)
                seen.add(sum(1 for _ in store.iter_findings(PROJECT)) % 2)
            return seen

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read_parities) for _ in range(3)]
            try:
                for number in range(0, 40, 2):
                    with store.transaction():
                        store.save_finding(finding(number))
                        store.save_finding(finding(number + 1))
            finally:
                done.set()
            assert set().union(*(reader.result() for reader in readers)) <= {0}

    def test_transaction_of_one_thread_is_not_that_of_another(self, store: FindingStore) -> None:
        def work(number: int) -> None:
            with contextlib.suppress(UndoError), store.transaction():
                store.save_finding(finding(number))
                if number % 2:
                    raise UndoError

        _run_in_threads(work, range(16))
        assert ids(store.list_findings(PROJECT)) == [uuid_of(number) for number in range(0, 16, 2)]

    def test_store_works_in_another_thread_than_the_one_that_made_it(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        assert _run_in_threads(lambda _: len(store.list_findings(PROJECT)), range(3)) == [1, 1, 1]


class LifeContract(Capabilities):
    """Closing and opening again."""

    def test_closed_store_raises_on_every_use(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.close()
        store.close()
        for name, call in CALLS.items():
            assert error_of_call(partial(call, store)) is not None, f"{name} worked on a closed store"
        health = store.health()
        assert (health.ok, bool(health.problem)) == (False, True)

    def test_leaving_the_block_closes(self, store: FindingStore) -> None:
        with store as entered:
            entered.save_finding(finding(1))
        with pytest.raises(StorageError):
            store.list_findings(PROJECT)

    def test_error_leaves_the_block(self, store: FindingStore) -> None:
        with pytest.raises(UndoError), store:
            raise UndoError

    @needs_capability("persistent")
    def test_everything_is_there_after_closing(self, store: FindingStore, reopen: Reopen) -> None:
        store.save_findings([finding(1), finding(2), finding(3, evidence={"\x00": [1.0, 10**50]})])
        write_everything(store)
        before, histories = project_contents(store), store.history(PROJECT, uuid_of(2))
        store.close()
        with reopen() as again:
            assert project_contents(again) == before
            assert again.history(PROJECT, uuid_of(2)) == histories
            assert_counts(again.ingest(PROJECT, [finding(3, severity="high", evidence={})]), unchanged=1)
            assert again.ingest(PROJECT, [], run=run_id_of(7)).repeated

    @needs_capability("shared_between_processes")
    def test_second_store_sees_what_the_first_writes(self, store: FindingStore, reopen: Reopen) -> None:
        with reopen() as second:
            store.save_finding(finding(1))
            assert ids(second.list_findings(PROJECT)) == [uuid_of(1)]
            second.set_status(PROJECT, uuid_of(1), "triaged", actor="ann")
            assert list_statuses(store) == ["triaged"]
            assert store.revision(PROJECT) == second.revision(PROJECT)
            second.delete_project(PROJECT)
            assert store.list_projects() == []

    @needs_capability("shared_between_processes")
    def test_stores_importing_at_once_give_one_row_an_identity(
        self, store: FindingStore, reopen: Reopen
    ) -> None:
        report = [scanned(f"R{n}") for n in range(60)]
        with reopen() as second, reopen() as third:
            stores = [store, second, third, second]
            reports = _run_in_threads(lambda n: stores[n].ingest(PROJECT, report, run=run_id_of(n)), range(4))
        assert sum(each.created for each in reports) == len(store.list_findings(PROJECT)) == 60
        assert sum(each.unchanged for each in reports) == 180

    @needs_capability("shared_between_processes")
    def test_stores_saving_at_once_lose_nothing(self, store: FindingStore, reopen: Reopen) -> None:
        with reopen() as second:
            stores = (store, second)

            def save_ten(thread: int) -> None:
                for number in range(10):
                    stores[thread % 2].save_finding(finding(thread * 100 + number))

            _run_in_threads(save_ten, range(4))
            assert len(store.list_findings(PROJECT)) == len(second.list_findings(PROJECT)) == 40


def _run_in_threads(work: Callable[[int], Any], numbers: range) -> list[Any]:
    """Call `work` with each number at once, each in a thread of its own; return the results in order."""
    barrier = threading.Barrier(len(numbers))

    def start_work(number: int) -> Any:
        barrier.wait(timeout=30)
        return work(number)

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(start_work, numbers))
