"""Random sequences of operations: against the model, and with the same end on memory, SQLite and PostgreSQL."""

from __future__ import annotations

import os
import weakref

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from servers import TEMPLATE, PostgresServer, down_and_up, lowest_binaries

from findings_orm import FindingStore, open_storage
from findings_orm.testing.machine import digest, run_sequence, store_machine

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
VERSIONS = ["18", "15"] if lowest_binaries() else ["18"]
SCALE = settings(
    max_examples=200 if FULL else 5,
    stateful_step_count=50 if FULL else 20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer = request.getfixturevalue(f"postgresql_{request.param}")
    return found


def test_any_sequence_leaves_the_store_as_the_model_says(server: PostgresServer) -> None:
    urls: weakref.WeakKeyDictionary[FindingStore, str] = weakref.WeakKeyDictionary()

    def opened(url: str) -> FindingStore:
        store = open_storage(url)
        urls[store] = url
        return store

    def reopened(store: FindingStore) -> FindingStore:
        store.close()
        return opened(urls[store])

    def migrated(store: FindingStore, how_far: int) -> FindingStore:
        store.close()
        down_and_up(urls[store], how_far)
        return opened(urls[store])

    machine = store_machine(lambda: opened(server.url(server.create_database(TEMPLATE))), reopened, migrated)
    run_state_machine_as_test(machine, settings=SCALE)


@pytest.mark.parametrize("seed", range(20 if FULL else 2))
def test_same_sequence_ends_equal_on_every_adapter(server: PostgresServer, seed: int) -> None:
    digests = {}
    for url in ("memory:", "sqlite://", server.url(server.create_database(TEMPLATE))):
        with open_storage(url) as store:
            run_sequence(store, seed, 300 if FULL else 60)
            digests[url] = digest(store)
    assert len(set(digests.values())) == 1, digests
