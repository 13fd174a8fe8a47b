"""Stores of every kind, and a store full of history to back up."""

from __future__ import annotations

import itertools
import pathlib
import shutil
from collections.abc import Callable, Iterator

import pytest
from servers import TEMPLATE, PostgresServer
from stores import Open

from findings_orm import FindingStore, open_storage
from findings_orm.testing.samples import scanned
from findings_orm.testing.sequence import run_sequence


@pytest.fixture
def new_url(
    tmp_path: pathlib.Path, empty_sqlite: pathlib.Path, request: pytest.FixtureRequest
) -> Callable[[str], str]:
    """Return a callable that gives the URL of a new, empty store of a kind."""
    numbers = itertools.count()

    def url_of(kind: str) -> str:
        place = tmp_path / f"store{next(numbers)}"
        if kind == "memory":
            return "memory:"
        if kind == "sqlite in memory":
            return "sqlite://"
        if kind == "file":
            return place.as_uri()
        if kind == "sqlite":
            return f"sqlite:///{shutil.copy(empty_sqlite, place)}"
        server: PostgresServer = request.getfixturevalue("postgresql_18")
        name = server.create_database(TEMPLATE)
        request.addfinalizer(lambda: server.drop_database(name))
        return server.url(name)

    return url_of


@pytest.fixture
def new_store(new_url: Callable[[str], str]) -> Iterator[Open]:
    """Return a callable that opens a new, empty store of a kind."""
    opened: list[FindingStore] = []

    def open_new(kind: str) -> FindingStore:
        opened.append(open_storage(new_url(kind)))
        return opened[-1]

    yield open_new
    for store in opened:
        store.close()


@pytest.fixture
def lived(new_store: Open) -> FindingStore:
    """Return a store in memory with projects, runs with and without categories, history, refused originals, purged findings."""
    store = new_store("memory")
    run_sequence(store, 5, 150)
    store.ingest("alpha", [scanned("C")], run={"category": "images/web"})
    of_two = [{**scanned("C", line), "provenance": _automation(line)} for line in (1, 2)]
    store.ingest("alpha", of_two)
    assert [run.category for run in store.runs("alpha")[-2:]] == ["images/web", ""]
    assert len(store.runs("alpha")[-1].categories["scan.demo"]) == 2
    store.ingest("alpha", [{"title": "of no detector"}], on_invalid="quarantine")
    return store


def _automation(number: int) -> dict[str, object]:
    return {"sarif_run": {"automationDetails": {"id": f"images/{number}/"}}}


@pytest.fixture
def target(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return the path of a backup to make."""
    return tmp_path / "backup.jsonl.zst"
