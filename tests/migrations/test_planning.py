"""What a migration of a database says beforehand."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from rows import canonical_documents, children_in, documents_in, downgraded, fill, tables_in
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from findings_orm import SchemaVersionError, StorageUnavailableError, migrations, validate_finding
from findings_orm.cli.app import app
from findings_orm.finding import SCHEMA_VERSION
from findings_orm.migrations.connecting import engine_of
from findings_orm.migrations.scripts import revision_chain
from findings_orm.testing.samples import finding

IDS = [revision.id for revision in revision_chain()]
HEAD = IDS[-1]
DOCUMENTS = canonical_documents()


def test_an_upgrade(url: str) -> None:
    migrations.upgrade(url)
    fill(url, DOCUMENTS)
    migrations.downgrade(url, IDS[0])
    found = migrations.plan(url)
    assert (found.direction, found.current, found.target) == ("upgrade", IDS[0], HEAD)
    assert [step.revision for step in found.steps] == IDS[1:]
    assert [step.schema_version for step in found.steps] == [
        one.schema_version for one in revision_chain()[1:]
    ]
    assert found.findings == len(DOCUMENTS)
    heavy = [step for step in found.steps if step.rows]
    assert {step.revision for step in heavy} == {one.id for one in revision_chain()[1:] if one.work}
    assert all(step.rows == len(DOCUMENTS) and step.space >= found.size > 0 for step in heavy)
    assert found.space == sum(step.space for step in heavy)
    assert found.seconds == 1
    assert found.backup == "findings are rewritten"
    assert all("findings" in step.locks or step.locks == ["database"] for step in heavy)
    migrations.upgrade(url)
    again = migrations.plan(url)
    assert (again.steps, again.space, again.backup) == ([], 0, "")


def test_a_downgrade(url: str) -> None:
    migrations.upgrade(url)
    fill(url, DOCUMENTS)
    found = migrations.plan(url, IDS[1])
    assert (found.direction, found.current, found.target) == ("downgrade", HEAD, IDS[1])
    assert [step.revision for step in found.steps] == IDS[:1:-1]
    assert [step.schema_version for step in found.steps] == [
        one.schema_version for one in revision_chain()[-2:0:-1]
    ]
    assert found.backup.startswith("older releases")
    everything = migrations.plan(url, "base")
    assert (everything.target, everything.steps[-1].schema_version) == (None, None)
    assert everything.steps[-1].work == "drops the tables with everything in them"
    assert everything.backup == "everything is dropped"
    assert migrations.plan(url, "-1").target == IDS[-2]
    assert migrations.plan(url, IDS[1], direction="upgrade").steps == []
    with pytest.raises(SchemaVersionError, match=f"which is below {HEAD}"):
        migrations.plan(url, HEAD, direction="upgrade")
        migrations.downgrade(url, IDS[1])
        migrations.plan(url, HEAD, direction="downgrade")


def test_an_empty_database(url: str) -> None:
    engine = engine_of(url, create=True)
    with engine.connect():
        pass
    found = migrations.plan(engine)
    assert (found.current, found.findings, found.space, found.seconds) == (None, 0, 0, 0)
    assert [step.revision for step in found.steps] == IDS
    assert found.backup == ""
    assert migrations.plan(engine, "base").steps == []
    engine.dispose()


def test_looking_changes_nothing(url: str) -> None:
    migrations.upgrade(url, IDS[1])
    before = tables_in(url)
    migrations.plan(url)
    migrations.plan(url, "base")
    migrations.script(url)
    assert migrations.status(url).current == IDS[1]
    assert tables_in(url) == before


def test_the_locks_are_those_of_the_migration(postgresql: str) -> None:
    """What the plan says is compared with what PostgreSQL says while the migration runs."""
    migrations.upgrade(postgresql)
    fill(postgresql, DOCUMENTS)
    for move, revision in (("downgrade", IDS[0]), ("upgrade", "head")):
        said = {name for step in migrations.plan(postgresql, revision).steps for name in step.locks}
        engine = engine_of(postgresql)
        with engine.connect() as connection, connection.begin() as transaction:
            there = tables_in(postgresql)
            getattr(migrations, move)(connection, revision)
            held = connection.execute(
                text(
                    "SELECT DISTINCT c.relname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation "
                    "WHERE l.pid = pg_backend_pid() AND c.relkind = 'r' AND l.mode = 'AccessExclusiveLock'"
                )
            ).scalars()
            assert set(held) & there - {"findings_orm_version"} <= said
            transaction.rollback()
        engine.dispose()
        getattr(migrations, move)(postgresql, revision)


class Watch:
    """The most bytes that something takes while the block runs, looked at all the time."""

    def __init__(self, size: Callable[[], int]) -> None:
        self.size = size
        self.most = 0
        self.running = True
        self.thread = threading.Thread(target=self.look)

    def look(self) -> None:
        while self.running:
            self.most = max(self.most, self.size() - self.before)
            time.sleep(0.002)

    def __enter__(self) -> Self:
        self.before = self.size()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()


@pytest.mark.no_cover
def test_the_space_is_enough(url: str) -> None:
    migrations.upgrade(url)
    rows = [finding(n, tags=["a"], cwe_ids=[1, 2], evidence={"message": "m" * 500}) for n in range(3000)]
    fill(url, [dict(validate_finding(row)) for row in rows])
    for revision in (IDS[0], HEAD):
        said = migrations.plan(url, revision)
        with closing(sizes(url)) as size, Watch(size.__next__) as watch:
            (migrations.upgrade if revision == HEAD else migrations.downgrade)(url, revision)
        assert 0 < watch.most <= said.space


def sizes(url: str) -> Generator[int]:
    """Yield the bytes that a database takes on disk now, with its log, as often as asked."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        while True:
            total = 0
            for each in path.parent.glob(f"{path.name}*"):
                with suppress(FileNotFoundError):
                    total += each.stat().st_size
            yield total
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT pg_database_size(current_database()) + pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"
        while True:
            row = connection.execute(query).fetchone()
            assert row is not None
            yield int(row[0])


def test_readers_of_sqlite(sqlite: str) -> None:
    migrations.upgrade(sqlite, IDS[0])
    assert migrations.plan(sqlite).readers == "wait while it writes to the file"
    with closing(sqlite3.connect(sqlite.removeprefix("sqlite:///"))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert migrations.plan(sqlite).readers.startswith("go on")
    assert (migrations.plan(sqlite).free or 0) > 0
    memory = create_engine("sqlite://")
    with memory.connect() as connection:
        assert migrations.plan(connection).free is None
    memory.dispose()


def test_refusals(url: str) -> None:
    migrations.upgrade(url, IDS[1])
    for wrong in ("r9", "+9", "-9", "", "2.0.0"):
        with pytest.raises(SchemaVersionError, match="there is no revision"):
            migrations.plan(url, wrong)
        with pytest.raises(SchemaVersionError, match="there is no revision"):
            migrations.script(url, wrong)
    with engine_of(url).begin() as connection:
        connection.execute(text("UPDATE findings_orm_version SET version_num = 'r8000'"))
    with pytest.raises(SchemaVersionError, match="made by a newer release"):
        migrations.plan(url)


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError, match="there is no such file"):
        migrations.plan(f"sqlite:///{tmp_path / 'none.db'}")
    assert not list(tmp_path.iterdir())


# -- SQL ------------------------------------------------------------------------------------------------------------


def test_the_script_does_what_the_upgrade_does(url: str) -> None:
    migrations.upgrade(url)
    older = downgraded(DOCUMENTS, "1.0.0")
    plain = [
        one
        for one, old in zip(DOCUMENTS, older, strict=True)
        if one["provenance"] == old["provenance"]
        and not {"findings_orm", "not findings_orm", "nul"} & one["provenance"].keys()
    ]
    assert plain
    fill(url, plain)
    children = children_in(url)
    migrations.downgrade(url, IDS[0])
    run_script(url, migrations.script(url))
    assert migrations.check(url) == []
    assert documents_in(url, SCHEMA_VERSION) == plain
    assert children_in(url) == children
    assert migrations.script(url) == ""
    if url.startswith("sqlite"):
        with pytest.raises(SchemaVersionError, match="without --sql"):
            migrations.script(url, "base")
        migrations.downgrade(url, IDS[0])
    else:
        run_script(url, migrations.script(url, IDS[0]))
    assert documents_in(url, "1.0.0") == downgraded(plain, "1.0.0")
    run_script(url, migrations.script(url, "base"))
    assert tables_in(url) <= {"findings_orm_version"}


def run_script(url: str, script: str) -> None:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(script)
    else:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(script.encode())


# -- the command ----------------------------------------------------------------------------------------------------


def command(url: str, *arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["--url", url, "db", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_the_command(url: str) -> None:
    migrations.upgrade(url)
    fill(url, DOCUMENTS)
    migrations.downgrade(url, IDS[0])
    said = command(url, "upgrade", "--plan").stdout
    assert f"upgrade {IDS[0]} -> {HEAD}" in said
    assert f"of {len(DOCUMENTS)} findings" in said
    assert "backup   advised: findings are rewritten" in said
    assert json.loads(command(url, "upgrade", "--plan", "--format", "json").stdout)["target"] == HEAD
    sql = command(url, "upgrade", "--sql").stdout
    assert sql.startswith("BEGIN;\n")
    assert f"version_num='{HEAD}'" in sql
    assert migrations.status(url).current == IDS[0]
    migrations.upgrade(url)
    assert "nothing to do" in command(url, "upgrade", "--plan").stdout
    assert "backup   advised: everything is dropped" in command(url, "downgrade", "base", "--plan").stdout
    assert "there is no revision" in command(url, "upgrade", "r9", "--plan", code=4).stderr
    assert "--format: --sql" in command(url, "upgrade", "--sql", "--format", "json", code=2).stderr
    assert migrations.status(url).current == HEAD


def test_the_command_makes_no_file(tmp_path: Path) -> None:
    refused = command(f"sqlite:///{tmp_path / 'none.db'}", "upgrade", "--plan", code=3)
    assert "there is no storage at" in refused.stderr
    assert not list(tmp_path.iterdir())
