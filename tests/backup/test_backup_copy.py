"""Copies of whole installations: compared, resumed, followed."""

from __future__ import annotations

import logging
import pathlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable

import pytest
from stores import FULL, KINDS, Open, assert_equal, whole

from findings_orm import (
    FindingStore,
    StorageConflictError,
    StorageIntegrityError,
    StorageValidationError,
    open_storage,
)
from findings_orm.backup import CopyReport, copy_store, restore_backup, write_backup
from findings_orm.testing.samples import broken, finding, scanned
from findings_orm.testing.sequence import run_sequence

PROJECT = "acme-api"
PAIRS = [(a, b) for a in KINDS for b in KINDS if a != b or a == "sqlite"]


@pytest.mark.no_cover
@pytest.mark.parametrize(("kind", "other"), PAIRS)
def test_every_pair(kind: str, other: str, new_store: Open) -> None:
    source, target = new_store(kind), new_store(other)
    run_sequence(source, 15, 60)
    report = copy_store(source, target)
    assert report.copied == source.list_projects() != []
    assert min(report.records.values()) > 0
    assert_equal(target, source)
    again = copy_store(source, target)
    assert (again.copied, again.same) == ([], source.list_projects())


OF_RECORDS = ("adapter", "limits", "snapshot", "writing")


def wrapper_of(store: FindingStore, *names: str) -> FindingStore:
    """Return a store of another making, which hands on the methods of `FindingStore` and these names to a store inside."""
    port = [name for name in dir(FindingStore) if not name.startswith("_")]
    attributes = {name: getattr(store, name) for name in (*port, *names)}
    made = type("Wrapper", (), {**attributes, "__enter__": lambda self: self, "__exit__": store.__exit__})()
    assert isinstance(made, FindingStore)
    return made


@pytest.mark.parametrize("missing", OF_RECORDS)
def test_a_store_without_records_is_refused_with_what_it_lacks(
    missing: str, new_store: Open, tmp_path: pathlib.Path
) -> None:
    wrapper = wrapper_of(new_store("memory"), *(name for name in OF_RECORDS if name != missing))
    said = rf"^store: must show whole records .* lacks {missing} of findings_orm\.records\.RecordStore.*docs/adapters"
    with pytest.raises(StorageValidationError, match=said):
        copy_store(new_store("memory"), wrapper)
    with pytest.raises(StorageValidationError, match=said):
        copy_store(wrapper, new_store("memory"))
    with pytest.raises(StorageValidationError, match=said):
        write_backup(wrapper, tmp_path / "b.zst")


@pytest.mark.no_cover
def test_a_store_of_another_making_that_shows_its_records(
    lived: FindingStore, new_store: Open, tmp_path: pathlib.Path
) -> None:
    """Copied from, copied to, backed up and restored."""
    inside, last = new_store("sqlite"), new_store("memory")
    wrapper = wrapper_of(inside, *OF_RECORDS)
    copy_store(lived, wrapper)
    assert_equal(inside, lived)
    write_backup(wrapper, tmp_path / "b.zst")
    copy_store(wrapper, last)
    assert_equal(last, lived)
    restore_backup(wrapper, tmp_path / "b.zst", mode="replace")
    assert_equal(inside, lived)


def test_a_copy_is_resumed(lived: FindingStore, new_store: Open) -> None:
    target = new_store("sqlite")
    copy_store(lived, target, projects=lived.list_projects()[:1])
    report = copy_store(lived, target)
    assert report.same == lived.list_projects()[:1]
    assert report.copied == lived.list_projects()[1:]
    assert_equal(target, lived)


@pytest.mark.no_cover
def test_projects_that_differ_are_not_written_over(lived: FindingStore, new_store: Open) -> None:
    target = new_store("sqlite")
    target.save_finding(finding(1, title="theirs"))
    target.save_finding(finding(1, project_id="another"))
    before = whole(target)
    with pytest.raises(StorageConflictError, match="'acme-api' that differs"):
        copy_store(lived, target)
    assert {name: whole(target)[name] for name in before} == before
    copy_store(lived, target, replace=True)
    assert target.list_projects() == sorted([*lived.list_projects(), "another"])
    target.delete_project("another")
    assert_equal(target, lived)


def test_what_does_not_arrive_is_not_committed(lived: FindingStore, new_url: Callable[[str], str]) -> None:
    """A database that drops a row of the history."""
    url = new_url("sqlite")
    with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
        database.execute(
            "CREATE TRIGGER lossy BEFORE INSERT ON finding_events WHEN NEW.position = 7 BEGIN SELECT RAISE(IGNORE); END"
        )
    database.close()
    with open_storage(url) as target:
        with pytest.raises(StorageIntegrityError, match="did not arrive as it was: the events differ"):
            copy_store(lived, target)
        assert target.list_projects() == []


def test_a_project_that_was_tampered_with_is_found(lived: FindingStore, new_store: Open) -> None:
    target = new_store("sqlite")
    copy_store(lived, target)
    with target.writing() as unit:  # type: ignore[attr-defined]
        victim = target.list_findings(PROJECT)[0]["id"]
        unit.remove(PROJECT, [victim])
    with pytest.raises(StorageIntegrityError, match="the findings differ"):
        copy_store(lived, target)


@pytest.mark.parametrize("kind", KINDS)
def test_following(kind: str, new_store: Open) -> None:
    source, target = new_store("sqlite"), new_store(kind)
    source.save_findings(finding(number) for number in range(30))
    source.save_finding(finding(1, project_id="doomed"))
    source.save_finding(finding(1, project_id="calm"))
    steps: list[Callable[[], object]] = [
        lambda: source.ingest(PROJECT, [scanned("R1")]),
        lambda: source.delete_project("doomed"),
        lambda: source.save_finding(finding(1, project_id="new")),
        lambda: source.set_status(PROJECT, finding(3)["id"], "resolved", actor="ana"),
    ]

    def follow(report: CopyReport) -> bool:
        assert report.passes == 5 - len(steps)
        steps.pop(0)()
        return bool(steps)

    report = copy_store(source, target, follow=follow)
    assert_equal(target, source)
    assert report.copied == [PROJECT, "calm", "doomed", PROJECT, "new", PROJECT]
    assert report.removed == ["doomed"]
    assert report.passes == 5
    assert sorted(report.states) == [PROJECT, "calm", "new"]


@pytest.mark.parametrize("kind", KINDS)
def test_catching_up_writes_only_what_changed(
    kind: str, new_store: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Findings seen again, changed, new, purged; runs, events, originals kept and discarded: nothing is copied whole."""
    source, target = new_store("memory"), new_store(kind)
    source.ingest(
        PROJECT, [scanned("A", 1), scanned("A", 2), scanned("B"), broken(broken=1)], on_invalid="quarantine"
    )
    with source.snapshot() as unit:  # type: ignore[attr-defined]
        rejected = [one.rejected_id for some in unit.all_rejected(PROJECT) for one in some]
    first = source.list_findings(PROJECT)
    steps: list[Callable[[], object]] = [
        lambda: source.ingest(PROJECT, [scanned("A", 1), scanned("A", 2), scanned("B")]),
        lambda: source.ingest(PROJECT, [scanned("A", 2), scanned("A", 1)], close_missing=True),
        lambda: source.set_status(PROJECT, first[0]["id"], "false_positive", actor="ana"),
        lambda: source.ingest(
            PROJECT, [scanned("A", 7), scanned("A", 1), scanned("C"), broken(x=2)], on_invalid="quarantine"
        ),
        lambda: source.discard_rejected(PROJECT, rejected),
        lambda: source.purge(PROJECT, closed_before="9999-01-01T00:00:00Z"),
        lambda: source.ingest(PROJECT, [scanned("B"), scanned("A", 2)]),
    ]

    def follow(_report: CopyReport) -> bool:
        assert_equal(target, source)
        steps.pop(0)()
        return bool(steps)

    caplog.set_level(logging.DEBUG, "findings_orm.backup")
    report = copy_store(source, target, follow=follow)
    assert_equal(target, source)
    assert report.copied == [PROJECT] * 8
    assert "copying all of it" not in caplog.text


@pytest.mark.parametrize("seed", range(20 if FULL else 3))
def test_following_a_lively_store(seed: int, new_store: Open) -> None:
    source, target = new_store("memory"), new_store("sqlite")
    run_sequence(source, seed, 20)
    numbers = iter(range(6))

    def follow(_report: CopyReport) -> bool:
        assert_equal(target, source)
        number = next(numbers)
        run_sequence(source, seed * 100 + number, 10)
        return number < 5

    copy_store(source, target, follow=follow)
    assert_equal(target, source)


def test_following_stops_where_somebody_writes_to_the_target(new_store: Open) -> None:
    source, target = new_store("memory"), new_store("memory")
    source.save_finding(finding(1))

    def follow(_report: CopyReport) -> bool:
        for store in (source, target):
            store.save_finding(finding(2, title=f"of {id(store)}"))
        return True

    with pytest.raises(StorageConflictError, match="somebody wrote to project"):
        copy_store(source, target, follow=follow)
    assert len(target.list_findings(PROJECT)) == 2


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_following_with_a_last_pass(new_url: Callable[[str], str], by: signal.Signals) -> None:
    here, there = new_url("sqlite"), new_url("sqlite")
    with open_storage(here) as store:
        store.save_findings(finding(number) for number in range(10))
        command = [sys.executable, "-m", "findings_orm.cli", "copy", here, there, "--follow", "--every", "60"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert any("in step" in line for line in process.stderr)
        store.save_finding(finding(11))
        process.send_signal(by)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "1 projects are the same on both sides: 0 runs, 11 findings" in output
        with open_storage(there) as other:
            assert_equal(other, store)
