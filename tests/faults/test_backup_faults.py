"""Backup, restore and copy are killed, and importers run meanwhile: old backups stay, targets are empty or whole."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import TEMPLATE, PostgresServer

from faults.importer import findings
from findings_orm import FindingStore, Run, open_storage
from findings_orm.backup import copy_store, restore_backup, verify_backup, write_backup
from findings_orm.backup.copying import states_of
from findings_orm.testing.samples import run_id_of

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
ROOT = pathlib.Path(__file__).resolve().parents[2]
KILLS = 30 if FULL else 3
PROJECTS = 6
COUNT = 1_500 if FULL else 400


def whole(store: FindingStore) -> dict[str, Any]:
    """Return counts and digests of all records, and revisions, by project."""
    with store.snapshot() as unit:  # type: ignore[attr-defined]
        return {one: (unit.revision(one), states_of(unit, one)) for one in unit.projects()}


@pytest.fixture
def source(tmp_path: pathlib.Path, empty_sqlite: pathlib.Path) -> str:
    """Return the URL of a store with a few projects."""
    url = f"sqlite:///{shutil.copy(empty_sqlite, tmp_path / 'source.db')}"
    with open_storage(url) as store:
        for number in range(PROJECTS):
            store.ingest(f"project{number}", findings(number * COUNT, COUNT))
    return url


@pytest.fixture(params=["sqlite", "postgresql", "file"])
def new_target(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, empty_sqlite: pathlib.Path
) -> Callable[[int], str]:
    """Return a callable that gives the URL of a new, empty store of a kind."""

    def url_of(number: int) -> str:
        path = tmp_path / f"target{number}"
        if request.param == "file":
            return path.as_uri()
        if request.param == "sqlite":
            return f"sqlite:///{shutil.copy(empty_sqlite, path)}"
        server: PostgresServer = request.getfixturevalue("postgresql_18")
        name = server.create_database(TEMPLATE)
        request.addfinalizer(lambda: server.drop_database(name))
        return server.url(name)

    return url_of


def start(what: str, source: object, target: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.mover", what, str(source), str(target)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def seconds_of(what: str, source: object, target: object) -> float:
    """Return how long it takes when nobody kills it."""
    process = start(what, source, target)
    begun = time.monotonic()
    assert process.communicate()[0] == "done\n"
    return time.monotonic() - begun


def killed(what: str, source: object, target: object, after: float) -> bool:
    """Do it and kill it after some time; return whether it was too late."""
    process = start(what, source, target)
    time.sleep(after)
    process.kill()
    output, _ = process.communicate()
    return "done" in output


def instants(longest: float, seed: int) -> Iterator[float]:
    chance = random.Random(seed)
    for _ in range(KILLS):
        yield chance.uniform(0, longest)


def test_killed_backups_leave_the_one_before(source: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "backup.jsonl.zst"
    longest = seconds_of("backup", source, path)
    ids, late = {verify_backup(path).manifest.id}, 0
    for after in instants(longest, 1):
        before = path.read_bytes()
        late += killed("backup", source, path, after)
        found = verify_backup(path)
        assert found.records["findings"] == PROJECTS * COUNT
        assert found.manifest.id not in ids or path.read_bytes() == before
        ids.add(found.manifest.id)
    assert late < KILLS, "some were killed in time"
    seconds_of("backup", source, path)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".backup")] == []


def test_killed_restores_leave_nothing_or_all(
    source: str, new_target: Callable[[int], str], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "backup.jsonl.zst"
    with open_storage(source) as store:
        write_backup(store, path)
        expected = whole(store)
    longest = seconds_of("restore", path, new_target(0))
    empty = 0
    for number, after in enumerate(instants(longest, 2), 1):
        url = new_target(number)
        late = killed("restore", path, url, after)
        with open_storage(url) as target:
            found = target.list_projects()
            if not found:
                assert not late
                empty += 1
                restore_backup(target, path)
            assert whole(target) == expected
    assert empty > 0, "some were killed in time"


def test_killed_copies_are_resumed(source: str, new_target: Callable[[int], str]) -> None:
    with open_storage(source) as store:
        expected = whole(store)
    longest = seconds_of("copy", source, new_target(0))
    partial = 0
    for number, after in enumerate(instants(longest, 3), 1):
        url = new_target(number)
        killed("copy", source, url, after)
        with open_storage(url) as target:
            there = whole(target)
            assert there == {name: expected[name] for name in there}, "a project is there whole or not at all"
            partial += 0 < len(there) < PROJECTS
            with open_storage(source) as store:
                report = copy_store(store, target)
            assert report.same == sorted(there)
            assert whole(target) == expected
    assert partial > 0 or not FULL


@pytest.fixture(params=["memory", "file", "sqlite", "postgresql"])
def live(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, empty_sqlite: pathlib.Path
) -> Iterator[FindingStore]:
    if request.param == "memory":
        url = "memory:"
    elif request.param == "file":
        url = (tmp_path / "live").as_uri()
    elif request.param == "sqlite":
        url = f"sqlite:///{shutil.copy(empty_sqlite, tmp_path / 'live.db')}"
    else:
        url = request.getfixturevalue("postgresql_url")
    with open_storage(url) as store:
        yield store


def wait_for_imports(more: int, done: dict[int, list[str]], failed: list[BaseException]) -> None:
    """Wait until so many more imports are done, or one has failed."""
    wanted = more + sum(map(len, done.values()))
    while not failed and sum(map(len, done.values())) < wanted:
        time.sleep(0.001)


def test_a_backup_during_imports_is_of_one_instant(live: FindingStore, tmp_path: pathlib.Path) -> None:
    """Four importers, two to a project: each import is in the backup whole or not at all, and their order is kept."""
    size, enough = 50, threading.Event()
    done: dict[int, list[str]] = {number: [] for number in range(4)}
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            while not enough.is_set():
                run = run_id_of(number * 100_000 + len(done[number]))
                live.ingest(
                    f"project{number % 2}",
                    findings((number * 1_000 + len(done[number])) * size, size),
                    run=Run(run, ["scan.fault"]),
                )
                done[number].append(run)
        except BaseException as error:  # noqa: BLE001  # shown by the main thread
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    instants: list[tuple[list[int], list[int], pathlib.Path]] = []
    try:
        for number in range(12 if FULL else 3):
            wait_for_imports(6, done, failed)
            path = tmp_path / f"{number}.jsonl.zst"
            before = [len(done[importer]) for importer in range(4)]
            write_backup(live, path)
            instants.append((before, [len(done[importer]) for importer in range(4)], path))
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    assert not failed
    moved = 0
    for before, after, path in instants:
        with open_storage("memory:") as store:
            restore_backup(store, path)
            for project in range(2):
                name = f"project{project}"
                runs = [run.id for run in store.runs(name)]
                assert len(store.list_findings(name)) == size * len(runs), "an import is whole or absent"
                for importer in (project, project + 2):
                    own = [run for run in runs if run in done[importer]]
                    assert own == done[importer][: len(own)], "in the order in which they were"
                    assert before[importer] <= len(own) <= after[importer] + 1, "of an instant in between"
                known = {run.id: run for run in live.runs(name)}
                assert all(known[run.id] == run for run in store.runs(name))
        moved += before != after
    assert moved > 0, "imports went on while backups were made"
