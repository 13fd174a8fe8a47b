"""The conformance suite over the adapters that need no server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from findings_orm import FindingStore, open_storage
from findings_orm.testing.contract import FindingStoreContract


class TestMemory(FindingStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[FindingStore]:
        with open_storage("memory:") as store:
            yield store


class TestSQLiteInMemory(FindingStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[FindingStore]:
        with open_storage("sqlite://") as store:
            yield store


class TestSQLiteFile(FindingStoreContract):
    persistent = True
    shared_between_processes = True

    @pytest.fixture
    def reopen(self, open_sqlite: Callable[[], FindingStore]) -> Callable[[], FindingStore]:
        return open_sqlite

    @pytest.fixture
    def store(self, reopen: Callable[[], FindingStore]) -> Iterator[FindingStore]:
        with reopen() as store:
            yield store
