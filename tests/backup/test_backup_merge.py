"""A backup merged into a store that went on: the newer version of each finding wins, nothing else is lost."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from stores import FULL, KINDS, Open, assert_equal, whole

from findings_orm import FindingStore, StorageConflictError
from findings_orm.backup import Conflict, restore_backup, write_backup
from findings_orm.backup.merging import united_runs
from findings_orm.port import Run
from findings_orm.testing.contract.base import summarize_events
from findings_orm.testing.samples import finding, run_id_of, scanned, uuid_of
from findings_orm.testing.sequence import run_sequence

PROJECT = "acme-api"


def forked(new_store: Open, kind: str, target: pathlib.Path, base: Callable[[FindingStore], object]) -> Any:
    """Return two stores that have the same past."""
    one, other = new_store("memory"), new_store(kind)
    base(one)
    write_backup(one, target)
    restore_backup(other, target)
    return one, other


@pytest.mark.parametrize("kind", [*KINDS, "sqlite in memory"])
def test_the_newer_version_wins(kind: str, new_store: Open, target: pathlib.Path) -> None:
    documents = [finding(number) for number in range(6)]
    backed, store = forked(new_store, kind, target, lambda store: store.save_findings(documents))
    ids = [one["id"] for one in documents]
    backed.set_status(PROJECT, ids[0], "triaged", actor="ana", comment="in the backup, first")
    store.set_status(PROJECT, ids[1], "triaged", actor="bob")
    store.set_status(PROJECT, ids[0], "in_progress", actor="bob", comment="in the store, last")
    backed.set_status(PROJECT, ids[1], "resolved", actor="ana")
    backed.save_finding(finding(100, title="only in the backup"))
    store.save_finding(finding(200, title="only in the store"))
    write_backup(backed, target)
    before = store.revision(PROJECT)
    planned = restore_backup(store, target, mode="merge", dry_run=True)
    assert store.revision(PROJECT) == before
    report = restore_backup(store, target, mode="merge")
    assert (
        report.conflicts
        == planned.conflicts
        == [
            Conflict(PROJECT, ids[0], "store", "differs in status"),
            Conflict(PROJECT, ids[1], "backup", "differs in status"),
        ]
    )
    assert store.get_finding(PROJECT, ids[0])["status"] == "in_progress"
    assert store.get_finding(PROJECT, ids[1])["status"] == "resolved"
    assert [event[1] for event in summarize_events(store.history(PROJECT, ids[0]))] == ["ana", "bob"]
    assert [event[1] for event in summarize_events(store.history(PROJECT, ids[1]))] == ["bob", "ana"]
    assert {uuid_of(100), uuid_of(200)} < {one["id"] for one in store.list_findings(PROJECT)}
    assert store.revision(PROJECT) > before
    again = restore_backup(store, target, mode="merge")
    assert [one.kept for one in again.conflicts] == ["store"], "what the backup knows is there now"


@pytest.mark.parametrize("kind", KINDS)
def test_runs_are_united_by_their_times(kind: str, new_store: Open, target: pathlib.Path) -> None:
    def scan(store: FindingStore, number: int, *rules: str) -> None:
        run = Run(run_id_of(number), ["scan.demo"], f"2026-01-{number:02}T00:00:00Z")
        store.ingest(PROJECT, [scanned(rule) for rule in rules], run=run, close_missing=True)

    backed, store = forked(new_store, kind, target, lambda store: scan(store, 1, "A", "B"))
    scan(backed, 2, "A")
    scan(store, 3, "A", "B", "C")
    scan(backed, 4, "B")
    scan(store, 5, "C")
    write_backup(backed, target)
    restore_backup(store, target, mode="merge")
    assert [(run.number, run.id) for run in store.runs(PROJECT)] == [(n, run_id_of(n)) for n in range(1, 6)]
    rules = {one["id"]: one["rule_id"] for one in store.list_findings(PROJECT)}

    def only_in_a(a: int, b: int) -> list[str]:
        return sorted(
            rules[one["id"]] for one in store.diff_runs(PROJECT, run_id_of(a), run_id_of(b)).removed
        )

    assert [only_in_a(n, n + 1) for n in range(1, 5)] == [["B"], [], ["A", "C"], ["B"]]
    assert len(rules) == 3
    report = store.ingest(PROJECT, [scanned("C")], close_missing=True)
    assert (report.unchanged, report.created) == (1, 0)


def test_one_identity_under_two_ids(new_store: Open, target: pathlib.Path) -> None:
    backed, store = new_store("memory"), new_store("sqlite")
    store.ingest(PROJECT, [scanned("A"), scanned("B")])
    time.sleep(0.01)
    backed.ingest(PROJECT, [scanned("A"), scanned("C")])
    theirs = {one["rule_id"]: one["id"] for one in store.list_findings(PROJECT)}
    ours = {one["rule_id"]: one["id"] for one in backed.list_findings(PROJECT)}
    write_backup(backed, target)
    report = restore_backup(store, target, mode="merge")
    reason = f"left out: has the identity of {ours['A']}, which is newer"
    assert report.conflicts == [Conflict(PROJECT, theirs["A"], "backup", reason)]
    merged = {one["rule_id"]: one["id"] for one in store.list_findings(PROJECT)}
    assert merged == {"A": ours["A"], "B": theirs["B"], "C": ours["C"]}


def test_purges(new_store: Open, target: pathlib.Path) -> None:
    """What was purged later on one side is gone, what changed later on the other is there."""
    documents = [finding(number, status="resolved") for number in range(4)]
    backed, store = forked(new_store, "sqlite", target, lambda store: store.save_findings(documents))
    ids = [one["id"] for one in documents]
    for number in (1, 3):
        backed.set_status(PROJECT, ids[number], "open", actor="ana", comment="reopened before")
    for number in (0, 2):
        store.set_status(PROJECT, ids[number], "open", actor="bob", comment="reopened before")
    backed.purge(PROJECT, closed_before="9999-01-01T00:00:00Z")
    store.purge(PROJECT, closed_before="9999-01-01T00:00:00Z")
    store.set_status(PROJECT, ids[2], "triaged", actor="bob", comment="after the purge of the other side")
    write_backup(backed, target)
    report = restore_backup(store, target, mode="merge")
    assert [one["id"] for one in store.list_findings(PROJECT)] == [ids[2]]
    assert sorted((one.finding_id, one.kept) for one in report.conflicts) == [
        (ids[0], "backup"),
        (ids[1], "store"),
        (ids[3], "store"),
    ]
    assert [event[0] for event in summarize_events(store.history(PROJECT, ids[0]))] == ["status", "purge"]


@pytest.mark.parametrize("seed", range(12 if FULL else 3))
def test_merging_what_is_there_or_nothing(seed: int, new_store: Open, target: pathlib.Path) -> None:
    """Into an empty store it is a restore; an old backup of the same store changes nothing but adds nothing either."""
    store, empty = new_store("sqlite"), new_store("memory")
    run_sequence(store, seed, 40)
    write_backup(store, target)
    restore_backup(empty, target, mode="merge")
    assert_equal(empty, store)
    before = whole(store)
    report = restore_backup(store, target, mode="merge")
    assert (report.conflicts, sum(report.records.values())) == ([], 0)
    assert whole(store) == before


@pytest.mark.parametrize("seed", range(30 if FULL else 4))
def test_two_lives_of_one_store(seed: int, new_store: Open, target: pathlib.Path) -> None:
    """Every finding, run and event of either side is in the merged store, or reported."""
    backed, store = forked(new_store, "sqlite", target, lambda store: run_sequence(store, seed, 30))
    run_sequence(backed, seed + 1_000, 30)
    run_sequence(store, seed + 2_000, 30)
    write_backup(backed, target)

    there = {
        one: [store.list_findings(one), backed.list_findings(one), store.runs(one), backed.runs(one)]
        for one in backed.list_projects()
    }
    report = restore_backup(store, target, mode="merge")
    reported = {(one.project_id, one.finding_id) for one in report.conflicts}
    for project_id, (theirs, ours, runs, other_runs) in there.items():
        merged = {one["id"]: one for one in store.list_findings(project_id)}
        versions: dict[str, list[Any]] = {}
        for one in [*theirs, *ours]:
            versions.setdefault(one["id"], []).append(one)
        for finding_id, each in versions.items():
            if (project_id, finding_id) not in reported:
                assert merged[finding_id] in each
        assert merged.keys() <= versions.keys()
        assert {run.id for run in store.runs(project_id)} == {run.id for run in [*runs, *other_runs]}
        assert [run.number for run in store.runs(project_id)] == [*range(1, len(store.runs(project_id)) + 1)]
        store.ingest(project_id, [scanned("R9")], close_missing=True)


def test_a_store_that_changes_meanwhile_is_not_merged(new_store: Open, target: pathlib.Path) -> None:
    from findings_orm.backup.progress import Silent

    backed, store = forked(new_store, "sqlite", target, lambda store: store.save_finding(finding(1)))
    backed.save_finding(finding(2))
    store.save_finding(finding(3))
    write_backup(backed, target)

    class Meddling(Silent):
        def phase(self, doing: str, total: int | None = None) -> None:
            if doing == "merging, ":
                store.save_finding(finding(4))

    with pytest.raises(StorageConflictError, match="changed while it was merged"):
        restore_backup(store, target, mode="merge", progress=Meddling())
    assert [one["id"] for one in store.list_findings(PROJECT)] == [uuid_of(1), uuid_of(3), uuid_of(4)]


def test_united_runs_keep_the_order_of_both_sides() -> None:
    def runs(*days: tuple[int, int]) -> list[Run]:
        return [
            Run(run_id_of(number), (), f"2026-01-{day:02}T00:00:00Z", {}, position)
            for position, (number, day) in enumerate(days, 1)
        ]

    store = runs((1, 1), (2, 9), (3, 3), (5, 5))
    backup = runs((1, 1), (7, 30), (3, 3), (8, 4), (9, 31))
    united, theirs, ours = united_runs(store, backup)
    assert [run.id for run in united] == [run_id_of(n) for n in (1, 2, 7, 3, 8, 5, 9)]
    assert theirs == {1: 1, 2: 2, 3: 4, 4: 6}
    assert ours == {1: 1, 2: 3, 3: 4, 4: 5, 5: 7}
