"""A detector gets another name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, cast

import pytest

from findings_orm.errors import StorageConflictError, StorageValidationError
from findings_orm.finding import StatusName
from findings_orm.imports.renaming import rename_detector
from findings_orm.port import Run
from findings_orm.records import RecordStore
from findings_orm.registry import open_storage
from findings_orm.stores.memory import InMemoryStorageAdapter
from findings_orm.testing.contract.base import project_contents
from findings_orm.testing.contract.ingest import assert_counts
from findings_orm.testing.samples import OTHER, PROJECT, assert_same, finding, ids, run_id_of, scanned

KINDS = ["memory", "files", "sqlite", "postgresql"]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[RecordStore]:
    """Return an empty store of each kind."""
    opened: RecordStore
    if request.param == "memory":
        opened = InMemoryStorageAdapter()
    elif request.param == "postgresql":
        opened = cast("RecordStore", open_storage(request.getfixturevalue("emptied_postgresql_url")))
    else:
        opened = request.getfixturevalue(f"open_{request.param}")()
    with closing(opened):
        yield opened


def report(detector: str) -> list[dict[str, Any]]:
    lines = [scanned("R1", line, detector_id=detector) for line in (10, 20, 20, None)]
    return [*lines, scanned("R2", detector_id=detector, fingerprint="f"), scanned("R3", detector_id=detector)]


def test_a_report_under_the_new_name_finds_its_findings(store: RecordStore) -> None:
    store.ingest(PROJECT, report("old"), run=run_id_of(1))
    store.ingest(
        PROJECT, [*report("old")[:5], scanned(detector_id="else")], run=run_id_of(2), close_missing=True
    )
    decisions: dict[str, StatusName] = {"R2": "false_positive", "R3": "open"}
    for rule, status in decisions.items():
        one = next(each for each in store.list_findings(PROJECT) if each["rule_id"] == rule)
        store.set_status(PROJECT, one["id"], status, actor="ann")
    store.ingest(OTHER, report("old"))
    before, other = store.list_findings(PROJECT), project_contents(store, OTHER)
    apart = store.diff_runs(PROJECT, run_id_of(1), run_id_of(2))

    assert rename_detector(store, PROJECT, "old", "new", actor="ben") == 6
    after = store.list_findings(PROJECT)
    named = [{**one, "detector_id": one["detector_id"].replace("old", "new")} for one in before]
    assert_same(after, named)
    for one in after[:6]:
        last = store.history(PROJECT, one["id"])[-1]
        if one["detector_id"] == "new":
            assert (last.actor, dict(last.changes)) == ("ben", {"detector_id": ["old", "new"]})
    assert [sorted(run.detectors) for run in store.runs(PROJECT)] == [["new"], ["else", "new"]]
    again = store.diff_runs(PROJECT, run_id_of(1), run_id_of(2))
    assert (ids(again.added), ids(again.removed), again.common) == (
        ids(apart.added),
        ids(apart.removed),
        apart.common,
    )

    assert_counts(store.ingest(PROJECT, report("new"), close_missing=True), unchanged=6)
    assert_same(store.list_findings(PROJECT), after)
    moved = [scanned("R1", line, detector_id="new") for line in (12, 22, 22, None)]
    run = Run(detectors=["new"])
    assert_counts(
        store.ingest(PROJECT, moved, run=run, close_missing=True), updated=3, unchanged=1, resolved=1
    )
    assert ids(store.list_findings(PROJECT)) == ids(before)
    assert store.ingest(PROJECT, report("new"), run=run_id_of(1)).repeated
    assert project_contents(store, OTHER) == other


def test_categories_of_runs_are_renamed(store: RecordStore) -> None:
    for category in ("web", "api"):
        documents = [scanned(category, detector_id="old"), scanned(detector_id="else")]
        store.ingest(PROJECT, documents, run=Run(category=category), close_missing=True)
    named = {"old": ["a", "b"], "else": ["a"]}
    store.ingest(PROJECT, [], run=Run(detectors=["old", "else"], categories=named))
    assert rename_detector(store, PROJECT, "old", "new", actor="ben") == 2
    assert [run.category for run in store.runs(PROJECT)] == ["web", "api", ""]
    assert {name: [*found] for name, found in store.runs(PROJECT)[2].categories.items()} == {
        "new": ["a", "b"],
        "else": ["a"],
    }
    report = [scanned("more", detector_id="new")]
    assert_counts(
        store.ingest(PROJECT, report, run=Run(category="web"), close_missing=True), created=1, resolved=1
    )


def test_a_name_that_is_taken_is_refused(store: RecordStore) -> None:
    store.ingest(PROJECT, [*report("old"), scanned(detector_id="new")])
    before = project_contents(store)
    with pytest.raises(StorageConflictError, match="'new' already"):
        rename_detector(store, PROJECT, "old", "new", actor="ben")
    for new in ("a b", "", "old"):
        with pytest.raises(StorageValidationError) as caught:
            rename_detector(store, PROJECT, "old", new, actor="ben")
        assert caught.value.field == "new"
    with pytest.raises(StorageValidationError):
        rename_detector(store, PROJECT, "old", "newer", actor="")
    assert project_contents(store) == before
    assert rename_detector(store, PROJECT, "unknown", "newer", actor="ben") == 0
    assert rename_detector(store, "no project", "old", "newer", actor="ben") == 0
    assert store.list_projects() == [PROJECT]


def test_more_findings_than_a_batch_has(open_sqlite: Callable[[], RecordStore]) -> None:
    with closing(open_sqlite()) as store:
        store.ingest(PROJECT, [scanned("R1", n + 1, detector_id="old") for n in range(2_500)])
        store.save_finding(finding(1, detector_id="old"))
        assert rename_detector(store, PROJECT, "old", "new", actor="ben") == 2_501
        again = [scanned("R1", n + 1, detector_id="new") for n in range(2_500)]
        assert_counts(store.ingest(PROJECT, again, close_missing=True), unchanged=2_500, resolved=1)
