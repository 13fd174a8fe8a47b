"""Fixtures of stores, and the size of property tests (``FINDINGS_TEST_SCALE=full`` for the large one).

Tests that repeat others in another place, take seconds, or end processes, are marked ``no_cover``: coverage, of which they
give nothing new, takes more time than the tests themselves. Tests that wait for processes, or take seconds, are marked
``slow`` and run first, so that no worker waits for the last one; what asks for a server is marked ``server``.
``scripts/test fast`` leaves both out.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
from collections.abc import Callable, Iterator

import psycopg
import pytest
from hypothesis import settings
from pytest_postgresql import factories

pytest.register_assert_rewrite("findings_orm.testing")

from redis_servers import RedisServer, redis_server  # noqa: E402
from servers import DATABASE, GIVEN, PostgresServer, embedded_binaries, lowest_binaries, postgresql_server  # noqa: E402

from findings_orm import FindingStore, open_storage  # noqa: E402  # after the rewrite is registered

# A shell ignores SIGINT in what it runs in the background, nohup SIGHUP, and the commands that tests start would inherit that.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)

settings.register_profile("quick", max_examples=8, stateful_step_count=20, deadline=None)
settings.register_profile("full", max_examples=1_000, stateful_step_count=50, deadline=None)
settings.load_profile("full" if os.environ.get("FINDINGS_TEST_SCALE") == "full" else "quick")


SERVERS = {"server_18", "server_15", "redis_session"}
LONG = {
    "test_any_query_finds_what_matches_in_order",
    "test_any_value_comes_back_equal",
    "test_documents_without_an_end_are_refused_by_a_limit",
    "test_entered_used_and_left_in_three_threads",
    "test_hostile_arguments_have_the_same_end_everywhere",
    "test_hostile_documents_are_refused_whole",
    "test_id_given_twice_in_different_batches_is_a_conflict",
    "test_iter_findings_json_yields_the_same_as_json",
    "test_known_finding_that_breaks_a_rule_is_refused",
    "test_many_equal_findings_over_several_batches",
    "test_report_may_be_read_from_the_store_that_takes_it",
    "test_report_that_breaks_off_leaves_nothing",
    "test_save_findings_may_read_the_store_while_it_takes_documents",
    "test_summary_of_any_documents",
}
"""Tests of the conformance suite that take seconds: coverage is measured with those on one adapter."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for a server, leave the lowest PostgreSQL out of coverage, and put slow tests first."""
    for item in items:
        asked = set(getattr(item, "fixturenames", ()))
        named = item.name.partition("[")[2]  # fixtures that a test asks for when it runs
        if "server_15" in asked or "postgresql_15" in named:
            item.add_marker("no_cover")  # the same on the newest one is in it
        if item.name in LONG and getattr(item.parent, "name", "") != "TestSQLiteFile":
            item.add_marker("no_cover")
        if asked & SERVERS or "postgresql" in named or "redis" in named:
            item.add_marker("server")
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a SQLite file that an adapter made and closed, to copy: making one runs all migrations."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    open_storage(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def open_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], FindingStore]:
    """Return a callable that opens one folder of files, new at first, as often as it is called."""
    folder = tmp_path_factory.mktemp("store")
    return lambda: open_storage(folder.as_uri())


@pytest.fixture
def open_sqlite(tmp_path: pathlib.Path, empty_sqlite: pathlib.Path) -> Callable[[], FindingStore]:
    """Return a callable that opens one SQLite file, empty at first, as often as it is called."""
    path = shutil.copy(empty_sqlite, tmp_path / "findings.db")
    return lambda: open_storage(f"sqlite:///{path}")


@pytest.fixture(scope="session")
def server_18() -> Iterator[PostgresServer]:
    """Return a running PostgreSQL 18."""
    with postgresql_server(embedded_binaries()) as server:
        yield server


@pytest.fixture(scope="session")
def server_15() -> Iterator[PostgresServer]:
    """Return a running PostgreSQL 15, the lowest supported."""
    binaries = lowest_binaries()
    assert binaries is not None, "PostgreSQL 15 is not on this machine"
    with postgresql_server(binaries) as server:
        yield server


def migrated(*, user: str, host: str, port: int, dbname: str, **_: object) -> None:
    """Fill the database that the others are cloned from."""
    open_storage(f"postgresql://{user}@{host}:{port}/{dbname}", migrate=True).close()


loaded_18 = factories.postgresql_noproc(dbname=GIVEN, depends_on="server_18", load=[migrated])
loaded_15 = factories.postgresql_noproc(dbname=GIVEN, depends_on="server_15", load=[migrated])
connected_18 = factories.postgresql("loaded_18")
connected_15 = factories.postgresql("loaded_15")


@pytest.fixture(scope="session")
def postgresql_18(server_18: PostgresServer, request: pytest.FixtureRequest) -> PostgresServer:
    """Return a running PostgreSQL 18, with a migrated database to clone."""
    request.getfixturevalue("loaded_18")
    return server_18


@pytest.fixture(scope="session")
def postgresql_15(server_15: PostgresServer, request: pytest.FixtureRequest) -> PostgresServer:
    """Return a running PostgreSQL 15, the lowest supported, with a migrated database to clone."""
    request.getfixturevalue("loaded_15")
    return server_15


@pytest.fixture
def postgresql_url(postgresql_18: PostgresServer, connected_18: psycopg.Connection) -> str:
    """Return the URL of an empty, migrated database on PostgreSQL 18."""
    connected_18.close()
    return postgresql_18.url(DATABASE)


@pytest.fixture
def postgresql_15_url(postgresql_15: PostgresServer, connected_15: psycopg.Connection) -> str:
    """Return the URL of an empty, migrated database on PostgreSQL 15."""
    connected_15.close()
    return postgresql_15.url(DATABASE)


@pytest.fixture
def emptied_postgresql_url(postgresql_18: PostgresServer) -> str:
    """Return the URL of an empty, migrated database on PostgreSQL 18, for tests that change nothing but rows."""
    return postgresql_18.url(postgresql_18.emptied_database())


@pytest.fixture
def emptied_postgresql_15_url(postgresql_15: PostgresServer) -> str:
    """Return the URL of an empty, migrated database on PostgreSQL 15, for tests that change nothing but rows."""
    return postgresql_15.url(postgresql_15.emptied_database())


@pytest.fixture(scope="session")
def redis_session() -> Iterator[RedisServer]:
    """Return a running Redis."""
    with redis_server() as server:
        yield server


@pytest.fixture
def redis(redis_session: RedisServer) -> RedisServer:
    """Return a running Redis that holds nothing. A test that harms it starts its own."""
    redis_session.do("FLUSHALL")
    return redis_session
