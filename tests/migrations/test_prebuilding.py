"""Large indexes are built before the transaction of an upgrade, while others write."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import psycopg
import pytest
from rows import canonical_documents, documents_in, downgraded, fill
from test_alembic_command import alembic

from findings_orm import StorageError, StorageUnavailableError, migrations
from findings_orm.migrations.connecting import engine_of
from findings_orm.migrations.scripts import large_indexes, revision_chain

HEAD = revision_chain()[-1].id
OF = next(revision.id for revision in revision_chain() if large_indexes(revision.id))
BEFORE = next(before for before, after in pairwise(revision_chain()) if after.id == OF)
NAMES = [*large_indexes(OF)]
INSERT = "INSERT INTO finding_projects (project_id, created_at, revision) VALUES (%s, now(), 1)"
COPY = (
    "INSERT INTO findings SELECT (jsonb_populate_record(f, jsonb_build_object('project_id', %s::text))).* "
    "FROM findings f WHERE project_id = (SELECT min(project_id) FROM findings) LIMIT 1"
)


@pytest.fixture
def older(postgresql: str) -> str:
    """A database of the revision before the indexes, with findings."""
    migrations.upgrade(postgresql, BEFORE.id)
    fill(postgresql, downgraded(canonical_documents(), BEFORE.schema_version), BEFORE.schema_version)
    return postgresql


@contextmanager
def writing(url: str) -> Iterator[psycopg.Connection]:
    """Yield a connection in a transaction that has written a finding; it is committed at the end."""
    with psycopg.connect(url) as connection:
        connection.execute(INSERT, ("first",))
        connection.execute(COPY, ("first",))
        yield connection


def valid(url: str) -> dict[str, bool]:
    sql = (
        "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE c.relname = ANY(%s)"
    )
    with psycopg.connect(url) as connection:
        return dict(connection.execute(sql, (NAMES,)).fetchall())


def wait_for_a_build(url: str) -> int:
    """Return the process that builds an index, once one does."""
    deadline = time.monotonic() + 30
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < deadline:
            found = connection.execute(
                "SELECT pid FROM pg_stat_progress_create_index WHERE datname = current_database() AND index_relid <> 0"
            ).fetchone()
            if found is not None:
                return int(found[0])
            time.sleep(0.01)
    raise AssertionError("nobody builds an index")


class Upgrade(threading.Thread):
    """An upgrade in a thread of its own; `result` raises what it raised."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.said: list[str] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            migrations.upgrade(self.url, progress=self.said.append)
        except BaseException as error:  # noqa: BLE001  # raised in the test
            self.error = error

    def result(self) -> list[str]:
        self.join(60)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.said


def test_writers_go_on_during_the_build(older: str) -> None:
    with writing(older):
        upgrade = Upgrade(older)
        wait_for_a_build(older)
        with psycopg.connect(older, options="-clock_timeout=2s") as other:
            other.execute(INSERT, ("second",))
            other.execute(COPY, ("second",))
        assert migrations.status(older).current == BEFORE.id
    said = upgrade.result()
    assert [name for name in NAMES if any(name in line for line in said)] == NAMES
    assert migrations.check(older) == []
    assert {"first", "second"} < {document["project_id"] for document in documents_in(older)}


def test_what_an_interrupted_build_left_is_built_again(older: str) -> None:
    with writing(older):
        upgrade = Upgrade(older)
        pid = wait_for_a_build(older)
        with psycopg.connect(older, autocommit=True) as other:
            other.execute("SELECT pg_cancel_backend(%s)", (pid,))
        with pytest.raises(StorageError, match="cancel"):
            upgrade.result()
    assert False in valid(older).values()
    assert migrations.status(older).current == BEFORE.id
    migrations.upgrade(older)
    assert set(valid(older).values()) == {True}
    assert migrations.check(older) == []


def test_the_lock_timeout_holds_for_the_build(older: str) -> None:
    with writing(older):
        with pytest.raises(StorageUnavailableError, match="lock timeout") as refused:
            migrations.upgrade(older, lock_timeout="100ms")
        assert refused.value.retryable
    engine = engine_of(older)
    with engine.connect() as connection:
        migrations.upgrade(connection, lock_timeout="5s")
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "0"
        assert connection.get_isolation_level() == "READ COMMITTED"
    assert migrations.check(older) == []


def test_several_migrators_build_once(older: str) -> None:
    upgrades = [Upgrade(older) for _ in range(3)]
    for upgrade in upgrades:
        upgrade.result()
    assert set(valid(older).values()) == {True}
    assert migrations.check(older) == []


def test_the_command_of_alembic_builds_before(older: str) -> None:
    said = alembic("-x", f"url={older}", "upgrade", "head")
    assert all(name in said for name in NAMES)
    assert migrations.check(older) == []
    migrations.downgrade(older, BEFORE.id)
    assert valid(older) == {}
    alembic("-x", f"url={older}", "upgrade", "+1")
    assert valid(older) == dict.fromkeys(NAMES, True)
    assert migrations.status(older).current == OF


def test_inside_a_transaction_the_revision_makes_them_itself(older: str) -> None:
    with psycopg.connect(older, autocommit=True) as other:
        name, definition = next(iter(large_indexes(OF).items()))
        other.execute(f"CREATE INDEX {name} ON {definition}")
        other.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(%s)", (name,))
    said: list[str] = []
    with engine_of(older).begin() as connection:
        migrations.upgrade(connection, progress=said.append)
        assert migrations.status(connection).current == HEAD
    assert said == []
    assert set(valid(older).values()) == {True}
    assert migrations.check(older) == []


def test_the_indexes_are_made_in_the_schema_of_the_tables(postgresql: str) -> None:
    url = f"{postgresql}?schema=My%20findings"
    migrations.upgrade(postgresql)
    migrations.upgrade(url, BEFORE.id)
    said: list[str] = []
    migrations.upgrade(url, progress=said.append)
    assert len(said) == len(NAMES)
    assert migrations.check(url) == migrations.check(postgresql) == []


def test_an_upgrade_that_writes_all_rows_makes_them_inside(postgresql: str) -> None:
    """They would be written a second time."""
    migrations.upgrade(postgresql, "r0001")
    said: list[str] = []
    migrations.upgrade(postgresql, progress=said.append)
    assert said == []
    assert migrations.check(postgresql) == []
