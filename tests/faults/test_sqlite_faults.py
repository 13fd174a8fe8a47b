"""Processes are killed, and many import at once: the database holds all or nothing of each import."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from faults.importer import findings
from findings_orm import StorageIntegrityError, StorageUnavailableError, open_storage

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
ROOT = pathlib.Path(__file__).resolve().parents[2]


def start_importer(url: str, first: int, count: int, runs: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.importer", url, "acme", str(first), str(count), str(runs)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def check(path: pathlib.Path) -> None:
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        assert (
            database.execute("SELECT count(*) FROM findings").fetchone()
            == database.execute("SELECT count(*) FROM finding_identities").fetchone()
        )


def test_killed_imports_are_there_or_not(tmp_path: pathlib.Path) -> None:
    """Kill -9 in the middle of an import; what was acknowledged is whole, the rest absent, a retry completes it."""
    count, kills = (100_000, 20) if FULL else (4_000, 5)
    chance = random.Random(20)
    path = tmp_path / "findings.db"
    url = f"sqlite:///{path}"
    open_storage(url).close()
    start = time.monotonic()
    process = start_importer(f"sqlite:///{tmp_path / 'timing.db'}", 0, count, 1)
    assert process.communicate()[0].count("acknowledged") == 1
    whole = time.monotonic() - start
    killed = 0
    for _ in range(kills):
        process = start_importer(url, 0, count, 50)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, whole))
        process.send_signal(signal.SIGKILL)
        acknowledged = [line.split()[1] for line in process.communicate()[0].splitlines()]
        killed += process.returncode == -signal.SIGKILL
        check(path)
        with open_storage(url) as store:
            runs = {run.id: run for run in store.runs("acme")}
            assert set(acknowledged) <= set(runs)
            total = len(store.list_findings("acme"))
            assert total == len(runs) * count
            assert all(run.counts["created"] == count for run in runs.values())
            store.delete_project("acme")
    assert killed == kills
    process = start_importer(url, 0, count, 2)
    assert process.communicate()[0].count("acknowledged") == 2
    with open_storage(url) as store:
        assert len(store.list_findings("acme")) == 2 * count
        again = store.ingest("acme", findings(0, 2 * count))
        assert (again.created, again.unchanged) == (0, 2 * count)


def test_eight_processes_import_overlapping_reports(tmp_path: pathlib.Path) -> None:
    """Each finding that several report exists once, and nobody sees an error."""
    count = 10_000 if FULL else 1_000
    path = tmp_path / "findings.db"
    url = f"sqlite:///{path}"
    processes = [start_importer(url, number * count // 2, count, 2) for number in range(8)]
    for process in processes:
        output, _ = process.communicate()
        assert (process.returncode, output.count("acknowledged")) == (0, 2)
    check(path)
    with open_storage(url) as store:
        expected = 7 * count // 2 + 2 * count
        numbers = [document["evidence"]["number"] for document in store.iter_findings("acme")]
        assert sorted(numbers) == list(range(expected))
        assert [run.number for run in store.runs("acme")] == list(range(1, 17))


def test_a_lock_held_too_long_is_an_error_that_says_so(tmp_path: pathlib.Path) -> None:
    url = f"sqlite:///{tmp_path / 'findings.db'}"
    open_storage(url).close()
    with sqlite3.connect(tmp_path / "findings.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with open_storage(url, busy_timeout=0.1) as store:
            with pytest.raises(StorageUnavailableError, match="locked by another writer") as caught:
                store.ingest("acme", findings(0, 3))
            assert caught.value.retryable
            assert store.list_findings("acme") == []
            other.execute("ROLLBACK")
            assert store.ingest("acme", findings(0, 3)).created == 3


def test_a_full_disk_is_an_error_and_keeps_the_old_state(tmp_path: pathlib.Path) -> None:
    """`max_page_count` makes SQLite report a full disk (SQLITE_FULL) exactly as the file system would."""
    url = f"sqlite:///{tmp_path / 'findings.db'}"
    with open_storage(url) as store:
        store.ingest("acme", findings(0, 10))
    with open_storage(url, pool_size=1) as store:
        with store.engine.connect() as connection:  # type: ignore[attr-defined]
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
        before = store.list_findings("acme")
        with pytest.raises(StorageUnavailableError, match="full"):
            store.ingest("acme", findings(0, 5_000))
        assert store.list_findings("acme") == before
    check(tmp_path / "findings.db")


def test_a_read_only_database_can_be_read_and_refuses_writes(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "findings.db"
    with open_storage(f"sqlite:///{path}") as store:
        store.ingest("acme", findings(0, 3))
    with open_storage(f"sqlite:///{path}", pool_size=1) as store:
        with store.engine.connect() as connection:  # type: ignore[attr-defined]
            connection.exec_driver_sql("PRAGMA query_only = ON")
        assert len(store.list_findings("acme")) == 3
        with pytest.raises(StorageUnavailableError, match="readonly"):
            store.delete_project("acme")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "findings.db"
    path.write_text("these are no findings\n" * 1000)
    with pytest.raises(StorageIntegrityError, match="damaged or no SQLite database"):
        open_storage(f"sqlite:///{path}")
    assert path.read_text() == "these are no findings\n" * 1000


def test_a_missing_folder_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(StorageUnavailableError, match="does not exist; create it first"):
        open_storage(f"sqlite:///{tmp_path}/nowhere/findings.db")
