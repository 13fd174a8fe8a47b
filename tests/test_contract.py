"""The conformance suite over every adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from servers import PostgresServer, lowest_binaries

from findings_orm import FindingStore, open_storage
from findings_orm.orm import sqlite_records, text_index
from findings_orm.testing.contract import FindingStoreContract
from findings_orm.testing.contract.freetext import FreeTextContract
from findings_orm.testing.contract.queries import QueryContract
from findings_orm.testing.contract.transactions import TransactionContract


class TestMemory(FindingStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[FindingStore]:
        with open_storage("memory:") as store:
            yield store


@pytest.mark.no_cover
class TestSQLiteInMemory(FindingStoreContract):
    reads_beside_writers = False  # there is one connection

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


class TestPostgreSQL18(FindingStoreContract):
    persistent = True
    shared_between_processes = True

    @pytest.fixture
    def reopen(self, emptied_postgresql_url: str) -> Callable[[], FindingStore]:
        return lambda: open_storage(emptied_postgresql_url)

    @pytest.fixture
    def store(self, reopen: Callable[[], FindingStore]) -> Iterator[FindingStore]:
        with reopen() as store:
            yield store


if lowest_binaries():

    @pytest.mark.no_cover
    class TestPostgreSQL15(TestPostgreSQL18):
        @pytest.fixture
        def reopen(self, emptied_postgresql_15_url: str) -> Callable[[], FindingStore]:
            return lambda: open_storage(emptied_postgresql_15_url)


class TestFile(FindingStoreContract):
    persistent = True
    shared_between_processes = True

    @pytest.fixture
    def reopen(self, open_files: Callable[[], FindingStore]) -> Callable[[], FindingStore]:
        return open_files

    @pytest.fixture
    def store(self, reopen: Callable[[], FindingStore]) -> Iterator[FindingStore]:
        with reopen() as store:
            yield store


class TextIndexContract(QueryContract, FreeTextContract, TransactionContract):
    """What a text index may not change; run with one under everything that is written and found."""


@pytest.mark.no_cover
class TestSQLiteWithTextIndex(TextIndexContract):
    @pytest.fixture
    def store(
        self, open_sqlite: Callable[[], FindingStore], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[FindingStore]:
        monkeypatch.setattr(sqlite_records, "FEW_WAITING", 0)  # there are few in these tests
        with open_sqlite() as store:
            text_index.create(store.engine)  # type: ignore[attr-defined]
            yield store


@pytest.mark.no_cover
class TestPostgreSQLWithTextIndex(TextIndexContract):
    @pytest.fixture
    def store(self, postgresql_18: PostgresServer) -> Iterator[FindingStore]:
        with open_storage(postgresql_18.url(postgresql_18.emptied_database(text_index.create))) as store:
            yield store
