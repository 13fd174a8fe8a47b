"""Databases to migrate: SQLite files, and a database of one's own on each PostgreSQL version that is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import PostgresServer, embedded_binaries, lowest_binaries, postgresql_server

VERSIONS = ["18", "15"] if lowest_binaries() else ["18"]


@pytest.fixture(scope="session", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A running PostgreSQL, the newest and the lowest supported."""
    binaries = embedded_binaries() if request.param == "18" else lowest_binaries()
    assert binaries is not None
    with postgresql_server(binaries) as running:
        assert running.version.startswith(request.param)
        yield running


@pytest.fixture
def postgresql(server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database."""
    name = server.create_database()
    yield server.url(name)
    server.drop_database(name)
