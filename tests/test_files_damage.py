"""Damaged stores in files: never another exception, never a silent loss; and what a repair saves."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from ast import literal_eval
from pathlib import Path
from typing import Any

import pytest
from files import whole

from findings_orm import (
    FileStorageAdapter,
    FindingStore,
    SchemaVersionError,
    StorageError,
    StorageIntegrityError,
)
from findings_orm.errors import StorageUnavailableError
from findings_orm.finding import FindingDocument
from findings_orm.stores.files import edits, repair
from findings_orm.testing.samples import finding, run_id_of, scanned, uuid_of

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
P = "acme-api"
OUTCOMES = {"refused", "edited", "right", "unfinished", "whole records missing at the end"}


def _make(root: Path, *, folded: bool) -> list[list[Any]]:
    """Make a store with everything in it; return its states, each as it was after a transaction since the last fold."""
    with FileStorageAdapter(root) as store:
        report = [scanned("R1", 3, evidence={"a": {"b": [1, 2.5, "\x00é"]}}), scanned("R2"), {"bad": 1}]
        store.ingest(P, report, run=run_id_of(1), on_invalid="quarantine")
        store.ingest(P, report[:1], run=run_id_of(2), close_missing=True)
        store.save_findings([finding(n, project_id="Beta é") for n in range(4)])
    states = []
    with FileStorageAdapter(root, fold_on_close=folded) as store:
        states.append(whole(store))
        store.save_findings([finding(11), finding(5, project_id="Beta é")])
        states.append(whole(store))
        store.set_status(P, uuid_of(11), "triaged", actor="ann")
        states.append(whole(store))
        store.ingest(P, report[:2], run=run_id_of(3))
        states.append(whole(store))
    return states


def _mutate(data: bytes, chance: random.Random) -> bytes:
    """Flip bytes; cut, swap or double lines; cut the end off."""
    lines = data.split(b"\n")
    kind = chance.randrange(6)
    if kind == 0:
        changed = bytearray(data)
        for _ in range(chance.choice([1, 1, 1, 3])):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed)
    if kind == 1:
        changed = bytearray(data)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    if kind == 2:
        del lines[chance.randrange(len(lines))]
    elif kind == 3:
        a, b = chance.randrange(len(lines)), chance.randrange(len(lines))
        lines[a], lines[b] = lines[b], lines[a]
    elif kind == 4:
        number = chance.randrange(len(lines))
        lines.insert(number, lines[number])
    else:
        return data[: chance.randrange(len(data))]
    return b"\n".join(lines)


def _assert_as_the_file_says(store: FindingStore, path: Path, original: bytes, last: list[list[Any]]) -> None:
    """Assert that an edit was taken over, with the journal's records on top of it."""

    def by_id(documents: list[FindingDocument]) -> dict[str, str]:
        return {one["id"]: repr(one) for one in documents}

    was = edits.read_layout(path, original)[1]
    project_id = was[0]["project_id"]
    says = by_id(edits.read_layout(path, path.read_bytes())[1])
    written = next(literal_eval(one[1]) for one in last if one[0] == project_id)
    journaled = {each: text for each, text in by_id(written).items() if by_id(was).get(each) != text}
    there = by_id(store.list_findings(project_id))
    assert there.keys() >= says.keys() | (journaled.keys() - by_id(was).keys())
    for finding_id, text in there.items():
        assert text in (says.get(finding_id), journaled.get(finding_id)), "the store is not as the file says"


def _judge(root: Path, path: Path, original: bytes, states: list[list[Any]]) -> str:
    """Open the store and return how it went; raise for what must not be."""
    try:
        store = FileStorageAdapter(root, fold_on_close=False)
    except StorageError as error:
        return "refused" if path.name in str(error) or "journal.jsonl" in str(error) else str(error)
    with store:
        found = whole(store)
        details = store.health().details
        if details["edited"]:
            assert str(path) in details["edited"][0]
            _assert_as_the_file_says(store, path, original, states[-1])
            return "edited"
    if found == states[-1]:
        return "right"
    assert path.name == "journal.jsonl", path
    assert found in states
    if details["unfinished_record"]:
        return "unfinished"
    assert path.read_bytes().endswith(b"\n"), "part of a line is missing, and nobody says so"
    return "whole records missing at the end"


@pytest.mark.no_cover
@pytest.mark.parametrize("folded", [True, False])
def test_any_mutation_is_refused_or_harmless_or_told(
    tmp_path: Path, folded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    root, chance = tmp_path / "store", random.Random(int(folded))
    states = _make(root, folded=folded)
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    outcomes: dict[str, int] = {}
    for _ in range(10_000 if FULL else 300):
        path = chance.choice(paths)
        original = path.read_bytes()
        path.write_bytes(_mutate(original, chance))
        caplog.clear()
        outcome = _judge(root, path, original, states)
        if outcome in ("edited", "unfinished"):
            assert str(path) in caplog.text, "nothing was logged"
        assert outcome in OUTCOMES, outcome
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        path.write_bytes(original)
    assert outcomes.keys() >= {"refused", "right", "edited"}, outcomes
    assert outcomes["refused"] > sum(outcomes.values()) / 3, outcomes
    print(outcomes)  # with -s: how often each was


def test_damage_inside_the_journal_names_file_and_line(tmp_path: Path) -> None:
    _make(tmp_path, folded=False)
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")
    for number in range(1, 5):
        broken = [*lines]
        broken[number - 1] = broken[number - 1].replace(b"a", b"b", 1)
        path.write_bytes(b"\n".join(broken))
        with pytest.raises(StorageIntegrityError) as caught:
            FileStorageAdapter(tmp_path)
        assert f"{path}, line {number}:" in str(caught.value)


def test_missing_files_are_damage(tmp_path: Path) -> None:
    _make(tmp_path, folded=True)
    for path in sorted(path for path in tmp_path.rglob("*.json*")):
        path.rename(tmp_path / "away")
        with pytest.raises(StorageIntegrityError) as caught:
            FileStorageAdapter(tmp_path)
        assert path.name in str(caught.value)
        (tmp_path / "away").rename(path)


# -- repair ------------------------------------------------------------------------------------------------


def test_a_store_without_damage_is_left_alone(tmp_path: Path) -> None:
    states = _make(tmp_path, folded=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert repair(tmp_path) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with FileStorageAdapter(tmp_path) as store:
        assert whole(store) == states[-1]


def test_no_store_is_not_repaired(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StorageUnavailableError, match="holds no store"):
            repair(path)


def _repaired(root: Path) -> tuple[FindingStore, list[str]]:
    before = {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    said = repair(root)
    (aside,) = root.glob("damaged~*")
    kept = {path.relative_to(aside): path.read_bytes() for path in aside.rglob("*") if path.is_file()}
    assert kept == {path: content for path, content in before.items() if path.name != ".lock"}
    store = FileStorageAdapter(root)
    assert store.check_store_layout(root) == []
    return store, said


def test_repair_keeps_every_other_record_of_the_journal(tmp_path: Path) -> None:
    _make(tmp_path, folded=False)
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"triaged"', b'"tri-ged"', 1))
    store, said = _repaired(tmp_path)
    with store:
        assert any("line 3: is lost" in line for line in said)
        assert store.get_finding(P, uuid_of(11))["status"] == "open"
        assert [run.id for run in store.runs(P)] == [run_id_of(n) for n in (1, 2, 3)]
        assert len(store.list_findings("Beta é")) == 5


def test_repair_keeps_every_other_finding(tmp_path: Path) -> None:
    states = _make(tmp_path, folded=True)
    (path,) = (one for one in tmp_path.glob("*/findings.json") if one.parent.name != P)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"Finding 2"', '"Finding 2', 1), encoding="utf-8")
    store, said = _repaired(tmp_path)
    with store:
        assert [one["title"] for one in store.list_findings("Beta é")] == [
            f"Finding {n}" for n in (0, 1, 3, 5)
        ]
        assert [one for one in whole(store) if one[0] == P] == [one for one in states[-1] if one[0] == P]
        assert any(f"{uuid_of(2)} is lost" in line for line in said)


@pytest.mark.parametrize("name", ["identities.jsonl", "events.jsonl", "runs.jsonl", "rejected.jsonl"])
def test_repair_loses_only_the_damaged_lines_of_a_companion(tmp_path: Path, name: str) -> None:
    _make(tmp_path, folded=True)
    path = tmp_path / P / name
    path.write_bytes(b'{"sum":"' + path.read_bytes()[9:])
    store, said = _repaired(tmp_path)
    with store:
        assert any(f"{name}, line 1: is lost" in line for line in said)
        assert len(store.list_findings(P)) == 3
        assert len(store.runs(P)) == 3 - (name == "runs.jsonl")
        assert len(store.rejected_originals(P)) == 1 - (name == "rejected.jsonl")
        assert all(store.sighting(P, one["id"]).fingerprint for one in store.list_findings(P))


def test_repair_makes_a_lost_manifest_anew(tmp_path: Path) -> None:
    states = _make(tmp_path, folded=True)
    (tmp_path / "store.json").write_bytes(b"{}")
    store, said = _repaired(tmp_path)
    with store:
        assert any("made anew" in line for line in said)
        assert [one[:6] for one in whole(store)] == [one[:6] for one in states[-1]]


def test_repair_of_a_store_without_its_journal(tmp_path: Path) -> None:
    states = _make(tmp_path, folded=True)
    (tmp_path / "journal.jsonl").unlink()
    store, _ = _repaired(tmp_path)
    with store:
        assert whole(store) == states[-1]


def test_repair_of_anything_leaves_a_store_that_opens(tmp_path: Path) -> None:
    chance = random.Random(3)
    states = _make(tmp_path / "store", folded=False)
    refused: list[str] = []
    for number in range(400 if FULL else 30):
        root = tmp_path / f"copy{number}"
        shutil.copytree(tmp_path / "store", root)
        for path in chance.sample(sorted(one for one in root.rglob("*.json*") if one.is_file()), 2):
            path.write_bytes(_mutate(path.read_bytes(), chance))
        try:
            repair(root)
        except SchemaVersionError as error:  # a flipped version looks like that of another release
            refused.append(str(error))
            continue
        with FileStorageAdapter(root) as store:
            assert len(store.list_projects()) == len(states[-1])
            assert store.check_store_layout(root) == []
        assert repair(root) == []
    assert all(str(tmp_path) in message for message in refused)
    assert len(refused) < number / 4


# -- the command line --------------------------------------------------------------------------------------


def _findings(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "findings_orm.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_commands_check_and_repair(tmp_path: Path) -> None:
    root = tmp_path / "store"
    _make(root, folded=False)
    done = _findings("file", "check", str(root))
    assert (done.returncode, done.stdout) == (0, f"{root} is as it should be\n")
    done = _findings("--url", root.as_uri(), "file", "repair")
    assert (done.returncode, "nothing to do" in done.stdout) == (0, True)
    path = root / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"triaged"', b'"tri-ged"', 1))
    done = _findings("--url", root.as_uri(), "file", "check")
    assert (done.returncode, "line 3" in done.stdout, "1 problem" in done.stderr) == (1, True, True)
    done = _findings("--url", root.as_uri(), "list", "--project", P)
    assert (done.returncode, "findings file repair" in done.stderr) == (1, True)
    done = _findings("file", "repair", str(root))
    assert (done.returncode, "is lost" in done.stdout, "damaged~" in done.stdout) == (0, True, True)
    done = _findings("--url", root.as_uri(), "list", "--project", P)
    assert (done.returncode, "Finding 11" in done.stdout) == (0, True)
    done = _findings("--url", "memory:", "file", "check")
    assert (done.returncode, "no store in files" in done.stderr) == (2, True)
