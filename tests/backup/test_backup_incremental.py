"""Incremental backups: a chain restores to what a full backup would, at each of its links."""

from __future__ import annotations

import pathlib
import random

import pytest
from stores import FULL, Open, assert_equal
from test_backup_damage import rewrite, text_of

from findings_orm import FindingStore, SchemaVersionError, StorageIntegrityError
from findings_orm.backup import restore_backup, verify_backup, write_backup
from findings_orm.testing.samples import finding, scanned
from findings_orm.testing.sequence import run_sequence

PROJECT = "acme-api"


@pytest.mark.no_cover
@pytest.mark.parametrize("seed", range(20 if FULL else 3))
def test_each_link_restores_to_its_instant(seed: int, new_store: Open, tmp_path: pathlib.Path) -> None:
    """Whole projects are deleted and made again on the way, findings purged, originals discarded."""
    store = new_store(random.Random(seed).choice(["memory", "sqlite"]))
    path: pathlib.Path | None = None
    for link in range(6):
        run_sequence(store, seed * 100 + link, 25)
        if link == 3:
            store.delete_project(store.list_projects()[0])
        before, path = path, tmp_path / f"{link}.jsonl.zst"
        write_backup(store, path, since=before)
        copy = new_store("memory")
        restore_backup(copy, path)
        assert_equal(copy, store)


def test_only_changes_are_written(new_store: Open, tmp_path: pathlib.Path) -> None:
    full, first, second = (tmp_path / name for name in ("full", "first", "second"))
    store = new_store("sqlite")
    store.save_findings(finding(number) for number in range(100))
    store.save_findings(finding(number, project_id="other") for number in range(50))
    write_backup(store, full)
    report = write_backup(store, first, since=full)
    assert sum(report.records.values()) == 0
    assert report.findings == 150
    store.set_status(PROJECT, finding(7)["id"], "resolved", actor="ana")
    store.save_finding(finding(200))
    store.discard_rejected(PROJECT, [])
    report = write_backup(store, second, since=first)
    assert report.records == {"runs": 0, "findings": 2, "events": 1, "rejected": 0}
    assert report.since == verify_backup(first).manifest.id
    store.purge(PROJECT, closed_before="9999-01-01T00:00:00Z")
    report = write_backup(store, tmp_path / "third", since=second)
    assert report.records == {"runs": 0, "findings": 1, "events": 1, "rejected": 0}, "a removal and its event"


def test_an_unchanged_project_is_not_read(new_store: Open, tmp_path: pathlib.Path) -> None:
    store = new_store("memory")
    store.save_findings(finding(number) for number in range(3))
    write_backup(store, tmp_path / "full")
    with store.snapshot() as unit:  # type: ignore[attr-defined]
        unit.state[PROJECT].findings[finding(1)["id"]].document["title"] = "changed behind the store's back"
    report = write_backup(store, tmp_path / "next", since=tmp_path / "full")
    assert report.records["findings"] == 0


def test_links_that_are_missing_or_others(
    lived: FindingStore, new_store: Open, tmp_path: pathlib.Path
) -> None:
    full, second = tmp_path / "full", tmp_path / "second"
    write_backup(lived, full)
    lived.ingest(PROJECT, [scanned("R99")])
    write_backup(lived, second, since=full)
    content = full.read_bytes()
    full.unlink()
    for attempt in (
        lambda: restore_backup(new_store("memory"), second),
        lambda: write_backup(lived, tmp_path / "third", since=second),
    ):
        with pytest.raises(StorageIntegrityError, match="continues the backup"):
            attempt()
    full.write_bytes(content[:-1] + b" ")
    with pytest.raises(StorageIntegrityError, match="full"):
        restore_backup(new_store("memory"), second)
    full.write_bytes(content)
    restore_backup(new_store("memory"), second)


def test_another_backup_of_the_same_id_is_refused(new_store: Open, tmp_path: pathlib.Path) -> None:
    full, second = tmp_path / "full", tmp_path / "second"
    store = new_store("memory")
    store.save_finding(finding(1))
    write_backup(store, full)
    store.save_finding(finding(2))
    write_backup(store, second, since=full)
    rewrite(full, text_of(full).splitlines(keepends=True), level=19)
    assert verify_backup(full).records["findings"] == 1, "it is a backup, but another one"
    with pytest.raises(StorageIntegrityError, match="its seal differs"):
        restore_backup(new_store("memory"), second)


def test_another_schema_needs_a_full_backup(lived: FindingStore, tmp_path: pathlib.Path) -> None:
    old = pathlib.Path(__file__).parent / "assets" / "1.0.0.jsonl.zst"
    with pytest.raises(SchemaVersionError, match="make a full backup"):
        write_backup(lived, tmp_path / "next", since=old)


def test_the_newest_of_a_folder(new_store: Open, tmp_path: pathlib.Path) -> None:
    store = new_store("memory")
    store.save_finding(finding(1))
    made = []
    for name in ("c", "a", "b"):
        made.append(write_backup(store, tmp_path / name, since=tmp_path))
        store.save_finding(finding(len(made) + 1))
    assert [report.since for report in made] == [None, made[0].id, made[1].id]
    assert [report.records["findings"] for report in made] == [1, 1, 1]
    other = new_store("sqlite")
    restore_backup(other, tmp_path / "b")
    assert len(other.list_findings(PROJECT)) == 3
