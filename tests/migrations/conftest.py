"""Databases to migrate: a SQLite file, and a database of one's own on each PostgreSQL version that is there."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
from servers import lowest_binaries

SERVERS = ["postgresql_18", "postgresql_15"] if lowest_binaries() else ["postgresql_18"]


@pytest.fixture
def sqlite(tmp_path: pathlib.Path) -> str:
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'findings.db'}"


@pytest.fixture(params=SERVERS)
def postgresql(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    yield from empty_database(request, request.param)


@pytest.fixture(params=["sqlite", *SERVERS])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database of each kind."""
    yield from empty_database(request, request.param)


def empty_database(request: pytest.FixtureRequest, kind: str) -> Iterator[str]:
    """Yield the URL of a database; kind is the name of a fixture."""
    given = request.getfixturevalue(kind)
    if kind == "sqlite":
        yield given
        return
    name = given.create_database()
    yield given.url(name)
    given.drop_database(name)
