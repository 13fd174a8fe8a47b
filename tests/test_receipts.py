"""A report that comes again is recognised as a whole, and the store is left as if it had been compared finding by finding."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from findings_orm import FindingStore, Run, open_storage
from findings_orm.imports import importer, receipts
from findings_orm.imports.receipts import Recognition
from findings_orm.observe import Observer, Statement
from findings_orm.stores.memory import MemoryRecords
from findings_orm.testing.machine import digest, run_sequence
from findings_orm.testing.samples import PROJECT, run_id_of, scanned

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
REPORT = [scanned(f"R{number}", line=number + 1) for number in range(10)]


@pytest.fixture(autouse=True)
def batches_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "BATCH", 3)


@pytest.fixture
def recognised(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that tells of each import whether its report was recognised."""
    told: list[bool] = []
    ask = Recognition.recognised

    def recorded(self: Recognition) -> int | None:
        told[-1] = bool(found := ask(self))
        return found

    begin = Recognition.__init__

    def began(self: Recognition, *arguments: Any) -> None:
        told.append(False)
        begin(self, *arguments)

    monkeypatch.setattr(Recognition, "__init__", began)
    monkeypatch.setattr(Recognition, "recognised", recorded)
    return told


def opened(kind: str, request: pytest.FixtureRequest) -> FindingStore:
    if kind == "postgresql":
        return open_storage(request.getfixturevalue("postgresql_url"))
    return open_storage({"memory": "memory:", "sqlite": "sqlite://"}[kind])


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[FindingStore]:
    with opened(request.param, request) as made:
        yield made


def test_the_same_report_changes_only_when_it_was_seen(store: FindingStore, recognised: list[bool]) -> None:
    first = store.ingest(PROJECT, REPORT, run=run_id_of(1))
    before = store.list_findings(PROJECT)
    again = store.ingest(PROJECT, iter(REPORT), run=run_id_of(2))
    assert (first.created, again.unchanged, again.created, again.updated) == (10, 10, 0, 0)
    assert store.list_findings(PROJECT) == before
    assert {store.sighting(PROJECT, each["id"]).last_run for each in before} == {run_id_of(2)}
    assert all(store.history(PROJECT, each["id"]) == [] for each in before)
    assert [run.detectors for run in store.runs(PROJECT)] == [("scan.demo",)] * 2
    assert store.diff_runs(PROJECT, run_id_of(1), run_id_of(2)).common == 10
    assert store.ingest(PROJECT, REPORT, close_missing=True).unchanged == 10
    assert recognised == [False, True, True]


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda store: store.ingest(PROJECT, [scanned(detector_id="scan.other")]), True),
        (lambda store: store.ingest(PROJECT, REPORT[:4]), False),
        (
            lambda store: store.ingest(PROJECT, [], run=Run(detectors=["scan.demo"]), close_missing=True),
            False,
        ),
        (lambda store: store.set_status(PROJECT, _any(store), "triaged", actor="ann"), False),
        (
            lambda store: store.save_finding({**store.get_finding(PROJECT, _any(store)), "title": "new"}),
            False,
        ),
        (lambda store: store.delete_project(PROJECT), False),
        (lambda store: store.ingest(PROJECT, REPORT, dry_run=True), True),
        (lambda store: store.ingest("other", REPORT), True),
    ],
)
def test_it_is_recognised_while_its_findings_are_as_it_left_them(
    store: FindingStore, recognised: list[bool], change: Callable[[FindingStore], object], same: bool
) -> None:
    store.ingest(PROJECT, REPORT)
    change(store)
    done = store.ingest(PROJECT, REPORT)
    assert recognised[-1] is same
    assert done.unchanged + done.updated + done.created + done.reopened == len(REPORT)
    assert sorted(each["rule_id"] or "" for each in store.list_findings(PROJECT) if each["status"] == "open")[
        -10:
    ]


def _any(store: FindingStore) -> str:
    return str(store.list_findings(PROJECT)[4]["id"])


@pytest.mark.parametrize(
    "report",
    [
        REPORT[:9],
        [*REPORT, scanned("R10")],
        [*REPORT[:7], scanned("R7", line=99), *REPORT[8:]],
        REPORT[::-1],
        [*REPORT[:3], {**REPORT[3], "severity": "high"}, *REPORT[4:]],
        [*REPORT[:3], {**REPORT[3], "tags": ()}, *REPORT[4:]],
        [],
    ],
    ids=["shorter", "longer", "other line", "other order", "other content", "no JSON", "empty"],
)
def test_another_report_is_compared_finding_by_finding(
    store: FindingStore, recognised: list[bool], report: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "_IN_MEMORY", 1)
    store.ingest(PROJECT, REPORT)
    run = Run(detectors=["scan.demo"])
    done = store.ingest(PROJECT, iter(report), run=run, on_invalid="quarantine", close_missing=True)
    assert recognised[-1] is False
    assert [refused.index for refused in done.rejected] == [
        index for index, each in enumerate(report) if each.get("tags") == ()
    ]
    assert done.unchanged + done.updated + done.created + len(done.rejected) == len(report)
    # what was refused counts as seen
    assert len([each for each in store.list_findings(PROJECT) if each["status"] == "open"]) == len(report)


@pytest.mark.parametrize("size", [0, 100, 500, 1_000_000])
def test_a_full_disk_leads_to_the_comparison(
    size: int, recognised: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "_IN_MEMORY", 1000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_storage("memory:") as store:
        store.ingest(PROJECT, REPORT)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            done = store.ingest(PROJECT, iter(REPORT))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (done.unchanged, len(store.list_findings(PROJECT))) == (10, 10)
    assert recognised[-1] is (size == 1_000_000)


def test_a_report_with_refused_documents_is_not_recognised(
    store: FindingStore, recognised: list[bool]
) -> None:
    report = [*REPORT, scanned(severity="bad")]
    for _ in range(2):
        assert len(store.ingest(PROJECT, report, on_invalid="quarantine").rejected) == 1
    assert recognised == [False, False]


def test_several_reports_in_one_transaction(store: FindingStore, recognised: list[bool]) -> None:
    with store.transaction():
        for _ in range(3):
            store.ingest(PROJECT, REPORT)
    assert recognised == [False, True, True]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_recognised_report_takes_as_many_statements_as_an_empty_one(
    kind: str, request: pytest.FixtureRequest
) -> None:
    with opened(kind, request) as store:
        counted: list[str] = []

        class Counter(Observer):
            def statement(self, statement: Statement) -> None:
                counted.append(statement.text)

        store.ingest(PROJECT, REPORT)
        stop = store.observe(Counter())  # type: ignore[attr-defined]  # every adapter has it
        store.ingest("empty", [])
        statements_of_an_empty_one = len(counted)
        counted.clear()
        assert store.ingest(PROJECT, REPORT).unchanged == len(REPORT)
        stop()
        assert len(counted) == statements_of_an_empty_one + 1, counted


@pytest.mark.no_cover
@pytest.mark.parametrize("seed", range(200 if FULL else 8))
def test_a_store_with_receipts_ends_as_one_without(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for keeps in (True, False):
        if not keeps:
            monkeypatch.setattr(MemoryRecords, "receipts", lambda *_: [])
        with open_storage("memory:") as store:
            run_sequence(store, seed, 200)
            found.append(digest(store))
    assert found[0] == found[1]
