"""SQLite files that are opened for reading only, also on media that nobody can write."""

from __future__ import annotations

import os
import pathlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from findings_orm import (
    FindingStore,
    SchemaVersionError,
    SQLiteStorageAdapter,
    StorageUnavailableError,
    StorageValidationError,
    migrations,
    open_storage,
)
from findings_orm.orm import configure
from findings_orm.orm.sqlite_engine import reading_url
from findings_orm.testing.samples import PROJECT, finding, ids, scanned, uuid_of


def read(file: pathlib.Path) -> str:
    return reading_url(str(file))


def fixed(file: pathlib.Path) -> str:
    return f"{reading_url(str(file))}&immutable=1"


@pytest.fixture(params=["wal", "delete"])
def path(empty_sqlite: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[pathlib.Path]:
    """Return a file with a finding, in a folder that other users may enter."""
    folder = pathlib.Path(tempfile.mkdtemp())
    file = pathlib.Path(shutil.copy(empty_sqlite, folder / "find %41?#ings.db"))
    with SQLiteStorageAdapter(file) as store:
        store.save_finding(finding(1))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA journal_mode = {request.param}")
    yield file
    folder.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def read_only_media(file: pathlib.Path) -> Iterator[None]:
    """Let nobody write a file and its folder; root could all the same, and is another user meanwhile."""
    file.chmod(0o444)
    file.parent.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


WRITES: list[Callable[[FindingStore], object]] = [
    lambda store: store.save_finding(finding(2)),
    lambda store: store.ingest(PROJECT, [scanned()]),
    lambda store: store.delete_project(PROJECT),
    lambda store: store.set_status(PROJECT, uuid_of(1), "triaged", actor="ann"),
]


def look(url: str) -> None:
    with open_storage(url) as store:
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]
        assert store.health().ok
        assert len(list(store.iter_findings(PROJECT))) == 1
        for write in WRITES:
            with pytest.raises(StorageUnavailableError, match="is opened for reading only") as refused:
                write(store)
            assert not refused.value.retryable


@pytest.mark.parametrize("form", [read, fixed])
def test_a_file_is_read_and_not_written(path: pathlib.Path, form: Callable[[pathlib.Path], str]) -> None:
    before = path.read_bytes()
    url = form(path)
    look(url)
    assert migrations.check(url) == []
    assert migrations.status(url).pending == []
    assert path.read_bytes() == before


def test_a_reader_sees_what_is_written_meanwhile(path: pathlib.Path) -> None:
    with open_storage(read(path)) as reader, SQLiteStorageAdapter(path) as writer:
        writer.save_finding(finding(2))
        assert ids(reader.list_findings(PROJECT)) == [uuid_of(1), uuid_of(2)]


def test_media_that_cannot_be_written(path: pathlib.Path) -> None:
    wal = path.read_bytes()[18] == 2
    with read_only_media(path):
        look(fixed(path))
        urls: list[Any] = [path, *([read(path)] if wal else [])]
        for url in urls:
            with pytest.raises(
                StorageUnavailableError, match=r"open it for reading by sqlite:///file:.*immutable=1"
            ):
                SQLiteStorageAdapter(url)
        if not wal:
            look(read(path))


def test_changes_beside_the_file_are_not_left_out(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("UPDATE findings SET title = 'changed'")
        connection.commit()
        for one in path.parent.iterdir():
            shutil.copy(one, tmp_path)
    with pytest.raises(StorageUnavailableError, match=r"db-wal has changes, .* copy .*, and open the copy"):
        open_storage(fixed(tmp_path / path.name))
    with open_storage(read(tmp_path / path.name)) as store:
        assert store.list_findings(PROJECT)[0]["title"] == "changed"


def test_what_is_not_there_or_not_current_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(StorageUnavailableError, match="unable to open database file"):
        open_storage(read(tmp_path / "none.db"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty.db").touch()
    with pytest.raises(
        SchemaVersionError, match="has not the tables of this release, and is opened for reading only"
    ):
        open_storage(read(tmp_path / "empty.db"))
    migrations.upgrade(f"sqlite:///{tmp_path / 'old.db'}", "r0003")
    for open_old in (open_storage, partial(open_storage, migrate=True)):
        with pytest.raises(
            (SchemaVersionError, StorageUnavailableError), match="r0003|opened for reading only"
        ):
            open_old(read(tmp_path / "old.db"))


@pytest.mark.parametrize(
    "query", ["", "?mode=ro", "?uri=true", "?mode=rw&uri=true", "?mode=ro&uri=yes", "?immutable=0&uri=true"]
)
def test_other_forms_are_refused(query: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        StorageValidationError, match=r"url: is sqlite:///PATH, or to read only sqlite:///file:PATH\?mode=ro"
    ):
        open_storage(f"sqlite:///file:{tmp_path / 'x.db'}{query}")
    assert not list(tmp_path.iterdir())


def test_an_application_joins_to_read(path: pathlib.Path) -> None:
    engine = configure(create_engine(read(path)))
    with open_storage(read(path)) as store, Session(engine) as session:
        with store.joined(session):
            assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]
        with pytest.raises(StorageUnavailableError, match="readonly"), store.joined(session):
            store.save_finding(finding(2))
    engine.dispose()
