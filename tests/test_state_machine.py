"""Random sequences of operations over the adapters that need no server."""

from __future__ import annotations

import itertools
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from servers import down_and_up

from findings_orm import FindingStore, open_storage
from findings_orm.orm import sqlite_records, text_index
from findings_orm.testing.machine import digest, run_sequence, store_machine

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
SCALE = settings(
    max_examples=400 if FULL else 8,
    stateful_step_count=50 if FULL else 20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
_FOLDER = pathlib.Path(tempfile.mkdtemp())
_PATHS: weakref.WeakKeyDictionary[FindingStore, pathlib.Path] = weakref.WeakKeyDictionary()
_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _few_wait_for_the_text_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_records, "FEW_WAITING", 2)  # there are few in all


@pytest.fixture(scope="module", autouse=True)
def _clean_up() -> Iterator[None]:
    _FOLDER.mkdir(exist_ok=True)  # a worker may come back to this module
    yield
    shutil.rmtree(_FOLDER)


def _open_file(path: pathlib.Path) -> FindingStore:
    store = open_storage(f"sqlite:///{path}")
    _PATHS[store] = path
    return store


def _new_file() -> FindingStore:
    empty = _FOLDER / "empty.db"
    if not empty.exists():
        _open_file(empty).close()
    path = _FOLDER / f"{next(_NUMBERS)}.db"
    shutil.copy(empty, path)
    return _open_file(path)


def _new_indexed_file() -> FindingStore:
    store = _new_file()
    text_index.create(store.engine)  # type: ignore[attr-defined]
    return store


def _reopen_file(store: FindingStore) -> FindingStore:
    store.close()
    return _open_file(_PATHS[store])


def _migrate_file(store: FindingStore, how_far: int) -> FindingStore:
    store.close()
    down_and_up(f"sqlite:///{_PATHS[store]}", how_far)
    return _open_file(_PATHS[store])


def _open_files(path: pathlib.Path) -> FindingStore:
    store = open_storage(path.as_uri())
    _PATHS[store] = path
    return store


def _reopen_files(store: FindingStore) -> FindingStore:
    store.close()
    return _open_files(_PATHS[store])


TestMemory = store_machine(lambda: open_storage("memory:")).TestCase
TestMemory.settings = SCALE
TestSQLiteInMemory = store_machine(lambda: open_storage("sqlite://")).TestCase
TestSQLiteInMemory.settings = SCALE
TestSQLiteFile = store_machine(_new_file, _reopen_file, _migrate_file).TestCase
TestSQLiteFile.settings = SCALE
TestSQLiteWithTextIndex = store_machine(_new_indexed_file, _reopen_file, _migrate_file).TestCase
TestSQLiteWithTextIndex.settings = SCALE
TestFiles = store_machine(lambda: _open_files(_FOLDER / f"{next(_NUMBERS)}"), _reopen_files).TestCase
TestFiles.settings = SCALE


@pytest.mark.parametrize("seed", range(40 if FULL else 3))
def test_same_sequence_leads_every_adapter_to_the_same(
    seed: int, open_sqlite: Callable[[], FindingStore], open_files: Callable[[], FindingStore]
) -> None:
    digests: dict[tuple[str, int], str] = {}
    for store in (open_storage("memory:"), open_storage("sqlite://"), open_sqlite(), open_files()):
        with store:
            run_sequence(store, seed, 300 if FULL else 60)
            digests[type(store).__name__, len(digests)] = digest(store)
    with open_files() as store:
        digests["files, opened again", len(digests)] = digest(store)
    assert len(set(digests.values())) == 1, digests


def test_another_sequence_leads_to_another_digest() -> None:
    digests = set()
    for seed in (1, 1, 2):
        with open_storage("memory:") as store:
            run_sequence(store, seed, 30)
            digests.add(digest(store))
    assert len(digests) == 2
