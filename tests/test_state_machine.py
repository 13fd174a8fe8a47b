"""Random sequences of operations over the adapters that need no server."""

from __future__ import annotations

import os
import pathlib
import tempfile
import weakref
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from findings_orm import FindingStore, open_storage
from findings_orm.testing.machine import digest, run_sequence, store_machine

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
SCALE = settings(
    max_examples=400 if FULL else 12,
    stateful_step_count=50 if FULL else 20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
_PATHS: weakref.WeakKeyDictionary[FindingStore, tuple[str, tempfile.TemporaryDirectory[str]]]
_PATHS = weakref.WeakKeyDictionary()


def _open_file(folder: tempfile.TemporaryDirectory[str]) -> FindingStore:
    url = f"sqlite:///{pathlib.Path(folder.name) / 'findings.db'}"
    store = open_storage(url)
    _PATHS[store] = (url, folder)
    return store


def _new_file() -> FindingStore:
    return _open_file(tempfile.TemporaryDirectory())


def _reopen_file(store: FindingStore) -> FindingStore:
    store.close()
    return _open_file(_PATHS[store][1])


TestMemory = store_machine(lambda: open_storage("memory:")).TestCase
TestMemory.settings = SCALE
TestSQLiteInMemory = store_machine(lambda: open_storage("sqlite://")).TestCase
TestSQLiteInMemory.settings = SCALE
TestSQLiteFile = store_machine(_new_file, _reopen_file).TestCase
TestSQLiteFile.settings = SCALE


@pytest.mark.parametrize("seed", range(40 if FULL else 3))
def test_same_sequence_leads_every_adapter_to_the_same(
    seed: int, open_sqlite: Callable[[], FindingStore]
) -> None:
    digests = {}
    for store in (open_storage("memory:"), open_storage("sqlite://"), open_sqlite()):
        with store:
            run_sequence(store, seed, 300 if FULL else 60)
            digests[type(store).__name__, len(digests)] = digest(store)
    assert len(set(digests.values())) == 1, digests


def test_another_sequence_leads_to_another_digest() -> None:
    digests = set()
    for seed in (1, 1, 2):
        with open_storage("memory:") as store:
            run_sequence(store, seed, 30)
            digests.add(digest(store))
    assert len(digests) == 2
