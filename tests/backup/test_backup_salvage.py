"""What is intact of a damaged backup is saved, wherever the damage is."""

from __future__ import annotations

import itertools
import pathlib
import random

import pytest
from stores import FULL, Open, assert_equal
from test_backup_damage import text_of

from findings_orm import FindingStore, StorageError, StorageIntegrityError
from findings_orm.backup import (
    Key,
    restore_backup,
    salvage_backup,
    verify_backup,
    write_backup,
)
from findings_orm.backup.container import kind_of
from findings_orm.testing.samples import finding
from findings_orm.testing.sequence import run_sequence

PROJECT = "acme-api"


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let frames end early, so that a small backup has many."""
    monkeypatch.setattr("findings_orm.backup.writing.FRAME_TEXT", 5_000)


@pytest.mark.no_cover
@pytest.mark.slow
def test_damages_anywhere(new_store: Open, target: pathlib.Path) -> None:
    store = new_store("memory")
    run_sequence(store, 5, 200)
    made = write_backup(store, target)
    content = target.read_bytes()
    sizes = [0]
    for line in text_of(target).splitlines():
        sizes += [0] if kind_of(line) == "frame" else []
        sizes[-1] += kind_of(line) in ("run", "finding", "event", "rejected")
    assert len(sizes) > 5
    at_most = max(a + b for a, b in itertools.pairwise(sizes))
    saved = target.with_name("saved")
    chance = random.Random(4)
    total = sum(made.records.values())
    for _ in range(300 if FULL else 40):
        damaged = bytearray(content)
        offset = chance.randrange(len(content))
        damaged[offset : offset + chance.choice([1, 50])] = chance.randbytes(1)
        target.write_bytes(damaged)
        report = salvage_backup(target, saved)
        assert verify_backup(saved).records == report.records
        kept = sum(report.records.values())
        assert kept >= total - at_most, "all but the damaged frame, or two where the damage is between them"
        assert kept == total or report.damages
        other = new_store("memory")
        restore_backup(other, saved)
        for project_id in other.list_projects():
            known = {one["id"]: one for one in store.list_findings(project_id)}
            assert all(known[one["id"]] == one for one in other.list_findings(project_id))
            assert other.revision(project_id) not in (0, store.revision(project_id)), "it is another state"


@pytest.mark.no_cover
def test_an_intact_backup_is_saved_whole(lived: FindingStore, new_store: Open, target: pathlib.Path) -> None:
    write_backup(lived, target)
    saved = target.with_name("saved")
    report = salvage_backup(target, saved)
    assert (report.damages, report.lost) == ([], {})
    assert verify_backup(saved).manifest.salvaged
    other = new_store("sqlite")
    restore_backup(other, saved)
    assert other.list_projects() == lived.list_projects()
    assert [other.list_findings(one) for one in other.list_projects()] == [
        lived.list_findings(one) for one in lived.list_projects()
    ]
    third = new_store("memory")
    restore_backup(third, target)
    assert_equal(third, lived)


def test_what_is_lost_is_counted(new_store: Open, target: pathlib.Path) -> None:
    store = new_store("memory")
    store.save_findings(finding(number, evidence={"text": "x" * 900}) for number in range(3_000))
    write_backup(store, target)
    content = bytearray(target.read_bytes())
    second = content.index(b"\x28\xb5\x2f\xfd", 5)
    content[second + 40] ^= 0xFF
    target.write_bytes(content)
    report = salvage_backup(target, target.with_name("saved"))
    lost = report.lost[PROJECT]["findings"]
    assert 0 < lost <= 1_000, "a frame has a batch of findings"
    assert report.records["findings"] == 3_000 - lost
    assert len(report.damages) == 1
    assert str(second) in report.damages[0]


@pytest.mark.no_cover
def test_the_first_frame_may_be_lost(lived: FindingStore, target: pathlib.Path) -> None:
    made = write_backup(lived, target)
    content = target.read_bytes()
    target.write_bytes(content[50:])
    report = salvage_backup(target, target.with_name("saved"))
    assert 0 < sum(report.records.values()) < sum(made.records.values())


@pytest.mark.no_cover
def test_incremental_and_encrypted_ones(lived: FindingStore, new_store: Open, tmp_path: pathlib.Path) -> None:
    full, second, saved = tmp_path / "full", tmp_path / "second", tmp_path / "saved"
    write_backup(lived, full)
    run_sequence(lived, 77, 30)
    write_backup(lived, second, since=full)
    salvage_backup(second, saved)
    second.unlink()
    other = new_store("memory")
    restore_backup(other, saved)
    assert [other.list_findings(one) for one in other.list_projects()] == [
        lived.list_findings(one) for one in lived.list_projects()
    ]
    lived.save_findings(
        finding(n, project_id="large", evidence={"t": random.randbytes(200).hex()}) for n in range(3_000)
    )
    key, path = Key.generate(), tmp_path / "secret.age"
    made = write_backup(lived, path, key=key)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    report = salvage_backup(path, tmp_path / "saved.age", key=key)
    assert 0 < sum(report.records.values()) < sum(made.records.values())
    assert any("decrypted" in damage for damage in report.damages)
    with pytest.raises(StorageError, match="takes a secret key"):
        verify_backup(tmp_path / "saved.age")
    verify_backup(tmp_path / "saved.age", key=key)


def test_nothing_to_save(tmp_path: pathlib.Path, target: pathlib.Path) -> None:
    for content in (b"", b"not a backup at all" * 100, b"\x28\xb5\x2f\xfd\x04" * 9):
        target.write_bytes(content)
        with pytest.raises(StorageIntegrityError, match="nothing of it is intact"):
            salvage_backup(target, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(StorageError, match="another file"):
        salvage_backup(target, target)
