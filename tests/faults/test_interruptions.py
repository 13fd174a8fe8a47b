"""An exception at any call of any write: it leaves as it came, and the store holds all of the write or nothing, as it says.

A handler of signals (Ctrl-C, a worker's time limit) raises between any two calls, a full memory at any of them. Each work is
done once for every point, with the exception there. At CI size some points are chosen, with ``FINDINGS_TEST_SCALE=full``
all, each with every kind of exception.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from findings_orm import FindingStore, StorageUnavailableError, StorageValidationError, open_storage
from findings_orm.blocks import COMMITTED
from findings_orm.testing.interruption import Interruption, Outcome, interrupt_at
from findings_orm.testing.samples import finding, run_of, scanned, uuid_of

# A generator that is dropped is closed by Python, which tells of an exception in there instead of raising it.
pytestmark = [
    pytest.mark.no_cover,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
POINTS = 12
ERRORS = (Interruption, KeyboardInterrupt, MemoryError, SystemExit)
P = "acme-api"

Work = Callable[[FindingStore], object]
Opened = Callable[[], FindingStore]


# -- the stores: a callable that opens one place as often as it is called ----------------------------------


@pytest.fixture
def open_memory() -> Opened:
    store = open_storage("memory:")
    return lambda: store


@pytest.fixture(params=["memory"])
def opened(request: pytest.FixtureRequest) -> Opened:
    found: Opened = request.getfixturevalue(f"open_{request.param}")
    return found


# -- the works ---------------------------------------------------------------------------------------------


def _several_calls(store: FindingStore) -> None:
    with store.transaction():
        store.save_finding(finding(1, title="changed"))
        store.ingest(P, [scanned("R1"), scanned("R2", 3)], run=run_of(1))
        with store.transaction():
            store.set_status(P, uuid_of(2), "resolved", actor="ann")
        store.save_finding(finding(7, project_id="other"))


def _a_call_that_fails(store: FindingStore) -> None:
    with store.transaction():
        store.save_finding(finding(1, title="changed"))
        try:
            store.save_findings([finding(8), {}])
        except StorageValidationError:
            store.save_finding(finding(9))


def _a_dry_run(store: FindingStore) -> None:
    store.ingest(P, [scanned("R1"), scanned("R2", 3)], run=run_of(1), dry_run=True)


WORKS: dict[str, Work] = {
    "save_finding": lambda store: store.save_finding(finding(1, title="changed")),
    "save_a_new_finding": lambda store: store.save_finding(finding(5, project_id="new")),
    "save_findings": lambda store: store.save_findings(
        [finding(1, title="x"), finding(6), finding(6, project_id="b")]
    ),
    "ingest": lambda store: store.ingest(
        P, [scanned("R1"), scanned("R2", 3), {}], run=run_of(1), on_invalid="quarantine", close_missing=True
    ),
    "dry_run": _a_dry_run,
    "set_status": lambda store: store.set_status(P, uuid_of(1), "resolved", actor="ann", comment="done"),
    "delete_project": lambda store: store.delete_project(P),
    "purge": lambda store: store.purge(P, closed_before="9999-01-01T00:00:00Z"),
    "transaction": _several_calls,
    "transaction_with_a_call_that_fails": _a_call_that_fails,
}


def prepare(store: FindingStore) -> None:
    """Make the store what each work begins with."""
    for project_id in store.list_projects():
        store.delete_project(project_id)
    store.save_findings([finding(1), finding(2), finding(3, status="resolved")])


def seen_in(store: FindingStore) -> list[Any]:
    """Return what a store holds, without the times and ids that it gives itself."""
    found = []
    for project_id in store.list_projects():
        documents = store.list_findings(project_id)
        histories = [[event.kind for event in store.history(project_id, one["id"])] for one in documents]
        rows = [(one["title"], one["status"], kinds) for one, kinds in zip(documents, histories, strict=True)]
        purged = [event.kind for event in store.history(project_id, uuid_of(3))]
        runs = [(run.id, run.counts) for run in store.runs(project_id)]
        rejected = [one.original for one in store.rejected_originals(project_id)]
        found.append((project_id, sorted(rows), purged, runs, rejected))
    return found


# -- the check ---------------------------------------------------------------------------------------------


def check(outcome: Outcome, seen: list[Any], before: list[Any], after: list[Any]) -> None:
    """Assert that interrupted work says the truth of what it left."""
    assert seen in (before, after), "half of a write"
    if outcome.raised is None:
        assert seen == after, "it returned, and is not there"
        return
    assert outcome.raised is outcome.injected, repr(outcome.raised)
    if before != after:
        noted = COMMITTED in getattr(outcome.raised, "__notes__", ())
        assert noted == (seen == after), f"it {'is' if seen == after else 'is not'} there, and says otherwise"


def probe(store: FindingStore, others: ThreadPoolExecutor, number: int) -> None:
    """Assert that another thread can write at once."""
    others.submit(store.save_finding, finding(number, project_id="probe")).result(timeout=20)


def points(calls: int, seed: str) -> Iterator[tuple[int, type[BaseException]]]:
    """Yield the calls at which to interrupt, each with an exception."""
    if FULL:
        yield from ((call, error) for call in range(1, calls + 1) for error in ERRORS)
        return
    step = max(1, calls // POINTS)
    for number, call in enumerate(range(1 + random.Random(seed).randrange(step), calls + 1, step)):
        yield call, ERRORS[number % len(ERRORS)]


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize("name", WORKS)
def test_a_write_is_there_as_it_says_wherever_it_is_interrupted(
    opened: Opened, name: str, others: ThreadPoolExecutor, request: pytest.FixtureRequest
) -> None:
    work, store = WORKS[name], opened()
    prepare(store)
    work(store)  # what is kept from the first time on is not made again
    prepare(store)
    before = seen_in(store)
    calls = interrupt_at(0, lambda: work(store)).calls
    after = seen_in(store)
    tried = 0
    for call, error in points(calls, name):
        prepare(store)
        outcome = interrupt_at(call, lambda: work(store), error)
        place = f"{error.__name__} at call {call} of {calls}: {outcome.place}"
        try:
            seen = seen_in(store)
            check(outcome, seen, before, after)
            probe(store, others, 1)
            other = opened()
            assert [one for one in seen_in(other) if one[0] != "probe"] == seen
            probe(other, others, 2)
            if other is not store:
                other.close()
            assert [one for one in seen_in(store) if one[0] != "probe"] == seen
            assert len(store.list_findings("probe")) == 2
        except BaseException as problem:
            problem.add_note(place)
            raise
        tried += outcome.reached
    print(f"{request.node.name}: {tried} points of {calls * (len(ERRORS) if FULL else 1)}")
    assert tried >= min(POINTS - 1, calls)


@pytest.mark.parametrize("inside", ["save_finding", "ingest", "set_status", "delete_project"])
def test_a_transaction_that_goes_on_after_an_interrupted_call_holds_nothing_half(
    opened: Opened, inside: str, others: ThreadPoolExecutor
) -> None:
    store = opened()

    def work(call: int) -> Outcome:
        with store.transaction():
            store.save_finding(finding(2, title="changed too"))
            outcome = interrupt_at(call, lambda: WORKS[inside](store))
            store.save_finding(finding(7, project_id="other"))
        return outcome

    prepare(store)
    before = seen_in(store)
    calls = work(0).calls
    after = seen_in(store)
    prepare(store)
    with store.transaction():
        store.save_finding(finding(2, title="changed too"))
        store.save_finding(finding(7, project_id="other"))
    without = seen_in(store)
    for call, _ in points(calls, inside):
        prepare(store)
        try:
            outcome = work(call)
        except StorageUnavailableError:
            assert seen_in(store) == before
        else:
            assert seen_in(store) == (without if outcome.raised else after), outcome.place
        probe(store, others, 1)
