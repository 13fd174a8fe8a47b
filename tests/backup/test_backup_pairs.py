"""A backup of every kind of store, restored into every kind of store: nothing is lost, nothing changes."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import lowest_binaries
from stores import FULL, KINDS, Open, assert_equal

from findings_orm import FindingStore, StorageError, open_storage
from findings_orm.backup import copy_store, restore_backup, verify_backup, write_backup
from findings_orm.formats import open_report
from findings_orm.testing.contract.base import relaxed
from findings_orm.testing.contract.runs import NO_JSON
from findings_orm.testing.samples import assert_equal_values, finding, scanned
from findings_orm.testing.sequence import run_sequence
from findings_orm.testing.strategies import documents, hostile_values, scans

SAMPLES = pathlib.Path(__file__).parents[1] / "samples"
REPORTS = ("bandit.sarif", "ruff.sarif", "detect-secrets.json")
PAIRS = list(itertools.product(KINDS, KINDS))
PROJECT = "acme-api"


@pytest.mark.no_cover
@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_every_pair(source: str, destination: str, new_store: Open, target: pathlib.Path) -> None:
    store = new_store(source)
    run_sequence(store, 15, 400 if FULL else 60)
    assert write_backup(store, target).verified
    other = new_store(destination)
    report = restore_backup(other, target)
    assert report.projects == store.list_projects() != []
    assert min(report.records.values()) > 0, "the sequence makes records of every kind"
    assert_equal(other, store)


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_imported_again_is_all_unchanged(kind: str, new_store: Open, target: pathlib.Path) -> None:
    store = new_store("sqlite")
    for name in REPORTS[:2]:
        with open_report(SAMPLES / name) as scan:
            assert store.ingest(PROJECT, scan, close_missing=True).created
    for one in store.list_findings(PROJECT)[:3]:
        store.set_status(PROJECT, one["id"], "false_positive", actor="ana", comment="ours")
    write_backup(store, target)
    other = new_store(kind)
    restore_backup(other, target)
    for name in REPORTS[:2]:
        with open_report(SAMPLES / name) as scan:
            count = len(list(scan))
        with open_report(SAMPLES / name) as scan:
            report = other.ingest(PROJECT, scan, close_missing=True)
        assert (report.unchanged, report.created, report.updated, report.resolved) == (count, 0, 0, 0)


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", KINDS)
def test_worst_documents(kind: str, new_store: Open, target: pathlib.Path) -> None:
    """Documents, refused originals and reports that hypothesis makes up come through every kind of store."""
    store = new_store(kind)

    @relaxed
    @given(
        st.lists(documents(project_id=PROJECT), max_size=4), scans(4), st.lists(hostile_values(), max_size=3)
    )
    def check(saved: list[Any], scan: list[Any], broken: list[Any]) -> None:
        store.delete_project(PROJECT)
        store.save_findings(saved)
        store.ingest(PROJECT, [*scan, *broken], on_invalid="quarantine")
        write_backup(store, target)
        with open_storage("memory:") as other:
            restore_backup(other, target)
            assert_equal(other, store)
            store.delete_project(PROJECT)
            write_backup(other, target)
        restore_backup(store, target)
        with open_storage("memory:") as third:
            restore_backup(third, target)
            assert_equal(store, third)

    check()


if lowest_binaries():

    def test_the_lowest_postgresql(
        postgresql_15_url: str, lived: FindingStore, new_store: Open, target: pathlib.Path
    ) -> None:
        write_backup(lived, target)
        with open_storage(postgresql_15_url) as store:
            restore_backup(store, target)
            assert_equal(store, lived)
            write_backup(store, target)
        other = new_store("sqlite")
        restore_backup(other, target)
        assert_equal(other, lived)


@pytest.mark.parametrize("kind", KINDS)
def test_originals_that_json_lacks(kind: str, new_store: Open, target: pathlib.Path) -> None:
    store, restored, copied = new_store(kind), new_store(kind), new_store("memory")
    hard = {"nan": float("nan"), "infinity": [float("-inf")], "\ud800": "\udfff", "\0": 10**400, "1": 1.0}
    store.ingest(PROJECT, given := [hard, "text", None, [], *NO_JSON], on_invalid="quarantine")
    write_backup(store, target)
    restore_backup(restored, target)
    copy_store(store, copied)
    for other in (store, restored, copied):
        kept = other.rejected_originals(PROJECT)
        assert_equal_values([one.original for one in kept], given)
        again = other.retry_rejected(PROJECT)
        assert [one.rejected_id for one in again.rejected] == [one.rejected_id for one in kept]


def test_only_some_projects(lived: FindingStore, new_store: Open, target: pathlib.Path) -> None:
    one, *others = lived.list_projects()
    write_backup(lived, target, projects=[one])
    assert verify_backup(target).manifest.projects == [one]
    other = new_store("sqlite")
    restore_backup(other, target)
    assert other.list_projects() == [one]
    with pytest.raises(StorageError, match="no project 'none'"):
        write_backup(lived, target, projects=["none"])
    write_backup(lived, target)
    third = new_store("memory")
    restore_backup(third, target, projects=others)
    assert third.list_projects() == others


def test_restore_wants_an_empty_store(lived: FindingStore, new_store: Open, target: pathlib.Path) -> None:
    write_backup(lived, target)
    for kind in KINDS:
        other = new_store(kind)
        other.save_finding(finding(1, project_id="theirs"))
        with pytest.raises(StorageError, match="holds 1 project"):
            restore_backup(other, target)
        assert other.list_projects() == ["theirs"]


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", KINDS)
def test_replace(kind: str, lived: FindingStore, new_store: Open, target: pathlib.Path) -> None:
    write_backup(lived, target)
    other = new_store(kind)
    other.save_finding(finding(1, project_id="theirs"))
    other.ingest(PROJECT, [scanned("R7")])
    restore_backup(other, target, mode="replace", projects=[PROJECT])
    assert other.list_projects() == [PROJECT, "theirs"]
    assert other.list_findings(PROJECT) == lived.list_findings(PROJECT)
    assert other.revision(PROJECT) == lived.revision(PROJECT)
    other.set_status(
        PROJECT, lived.list_findings(PROJECT)[0]["id"], "open", actor="ana", comment="still works"
    )
    assert other.revision(PROJECT) > lived.revision(PROJECT)


def test_dry_run_writes_nothing(lived: FindingStore, new_store: Open, target: pathlib.Path) -> None:
    made = write_backup(lived, target)
    other = new_store("sqlite")
    report = restore_backup(other, target, dry_run=True)
    assert report.dry_run
    assert report.records == made.records
    assert other.list_projects() == []
