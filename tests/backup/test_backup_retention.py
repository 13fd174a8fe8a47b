"""Pruning: what is kept, and that nothing goes which a kept backup needs."""

from __future__ import annotations

import datetime as dt
import pathlib

import pytest
from stores import Open

from findings_orm import StorageConflictError, StorageError, StorageValidationError
from findings_orm.backup import Keep, Key, prune_backups, restore_backup, write_backup
from findings_orm.backup.reading import reading
from findings_orm.backup.writing import Writer
from findings_orm.private import writing
from findings_orm.testing.samples import finding


def backup_at(path: pathlib.Path, moment: dt.datetime, number: int) -> pathlib.Path:
    """Make an empty backup of a time."""
    with path.open("wb") as stream:
        from findings_orm.backup.manifest import Manifest

        manifest = Manifest(
            format=1,
            id=f"00000000-0000-7000-8000-{number:012x}",
            created_at=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            schema_version="1.1.0",
            release="",
            source="memory",
            projects=[],
            findings=0,
        )
        Writer(stream, manifest).seal()
    return path


@pytest.fixture
def year(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a folder with two backups a day of 400 days, the last on Sunday, 2026-11-22."""
    end = dt.datetime(2026, 11, 22, 23, 0, tzinfo=dt.UTC)
    for number in range(800):
        moment = end - dt.timedelta(hours=12 * number)
        backup_at(tmp_path / f"{moment:%Y-%m-%dT%H}.jsonl.zst", moment, 10_000 - number)
    (tmp_path / "notes.txt").write_text("not a backup")
    return tmp_path


def test_one_a_period_is_kept(year: pathlib.Path) -> None:
    keep = Keep(last=2, daily=3, weekly=3, monthly=3, yearly=2)
    planned = prune_backups(year, keep, dry_run=True)
    assert len(list(year.iterdir())) == 801
    report = prune_backups(year, keep)
    assert {path.name[:13]: reasons for path, reasons in report.kept.items()} == {
        "2026-11-22T23": ["last", "daily", "weekly", "monthly", "yearly"],
        "2026-11-22T11": ["last"],
        "2026-11-21T23": ["daily"],
        "2026-11-20T23": ["daily"],
        "2026-11-15T23": ["weekly"],
        "2026-11-08T23": ["weekly"],
        "2026-10-31T23": ["monthly"],
        "2026-09-30T23": ["monthly"],
        "2025-12-31T23": ["yearly"],
    }
    assert planned == report
    assert sorted(path.name for path in year.iterdir()) == sorted(
        [*(path.name for path in report.kept), "notes.txt"]
    )
    assert prune_backups(year, keep).removed == []


def test_what_is_continued_is_kept(new_store: Open, tmp_path: pathlib.Path) -> None:
    store = new_store("memory")
    paths = [tmp_path / name for name in ("a", "b", "c", "d")]
    write_backup(store, paths[0])
    for number in (1, 2):
        store.save_finding(finding(number))
        write_backup(store, paths[number], since=paths[number - 1])
    write_backup(store, paths[3], since=paths[1])
    report = prune_backups(tmp_path, Keep(last=1))
    assert report.kept == {paths[3]: ["last"], paths[1]: ["continued"], paths[0]: ["continued"]}
    assert report.removed == [paths[2]]
    restore_backup(new_store("sqlite"), paths[3])


def test_encrypted_ones_take_the_key(new_store: Open, tmp_path: pathlib.Path) -> None:
    store, key = new_store("memory"), Key.generate()
    for name in ("a", "b"):
        write_backup(store, tmp_path / name, key=key)
    with pytest.raises(StorageValidationError, match="takes the secret key"):
        prune_backups(tmp_path, Keep(last=1))
    assert prune_backups(tmp_path, Keep(last=1), key=key).removed == [tmp_path / "a"]


def test_something_is_always_kept(tmp_path: pathlib.Path) -> None:
    for numbers in ({}, {"last": 0}, {"daily": -1, "last": 1}):
        with pytest.raises(StorageValidationError, match="at least one"):
            Keep(**numbers)
    with pytest.raises(StorageError, match="none"):
        prune_backups(tmp_path / "none", Keep(last=1))
    path = backup_at(tmp_path / "x", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 1)
    with reading(path) as reader:
        assert list(reader.read_parts()) == []


def test_what_killed_backups_left_is_removed(new_store: Open, tmp_path: pathlib.Path) -> None:
    """But not what a running one writes, nor the file of another program."""
    write_backup(new_store("memory"), tmp_path / "a")
    for name, content in ((".b.tmp", b"\x28\xb5\x2f\xfdxx"), (".c.tmp", b""), (".d.tmp", b"not ours")):
        (tmp_path / name).write_bytes(content)
    with writing(tmp_path / "e", alone=True) as (beside, _):
        prune_backups(tmp_path, Keep(last=1), dry_run=True)
        assert len(list(tmp_path.iterdir())) == 5
        prune_backups(tmp_path, Keep(last=1))
        assert beside.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".d.tmp", "a", "e"]


def test_two_backups_to_one_file(new_store: Open, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a"
    with writing(path, alone=True), pytest.raises(StorageConflictError, match="another process writes"):
        write_backup(new_store("memory"), path)
    write_backup(new_store("memory"), path)
    assert path.stat().st_mode & 0o077 == 0
