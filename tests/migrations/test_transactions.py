from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from rows import canonical_documents, children_in, connection_to, documents_in, fill, tables_in
from sqlalchemy import Engine, create_engine, event, text

from findings_orm import StorageIntegrityError, StorageUnavailableError, migrations
from findings_orm.migrations.connecting import engine_of
from findings_orm.migrations.scripts import revision_chain

ROOT = Path(__file__).parents[2]
HEAD = revision_chain()[-1].id
ROUNDS = 3
PROCESSES = 8


# -- whose transaction ------------------------------------------------------------------------------------------------


def test_inside_a_transaction_the_caller_decides(url: str) -> None:
    engine = engine_of(url, create=True)
    with engine.connect() as connection:
        with connection.begin() as transaction:
            migrations.upgrade(connection)
            connection.execute(text("CREATE TABLE theirs (x INTEGER)"))
            assert migrations.status(connection).current == HEAD
            assert migrations.check(connection) == []
            transaction.rollback()
        with engine.connect() as other:
            assert migrations.status(other).current is None
        with connection.begin():
            connection.execute(text("CREATE TABLE theirs (x INTEGER)"))
            migrations.upgrade(connection)
    assert migrations.status(engine).current == HEAD
    assert "theirs" in tables_in(url)


def test_a_connection_is_left_as_it_was(url: str) -> None:
    engine = engine_of(url, create=True)
    with engine.connect() as connection:
        for work in (migrations.upgrade, migrations.status, migrations.check):
            work(connection)
            assert not connection.in_transaction()
        migrations.downgrade(connection, "base")
        assert not connection.in_transaction()
        connection.execute(text("SELECT 1"))
        assert migrations.status(connection).current is None
        assert connection.in_transaction()


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE", "REPEATABLE READ"])
def test_engines_with_an_isolation_level_of_their_own(url: str, level: str) -> None:
    if url.startswith("sqlite") and level == "REPEATABLE READ":
        level = "READ UNCOMMITTED"
    engine = create_engine(engine_of(url, create=True).url, isolation_level=level)
    with engine.connect() as connection:
        before = isolation_of(connection)
        migrations.upgrade(connection, "r0001")
        assert isolation_of(connection) == before
    migrations.upgrade(engine)
    works: list[Callable[[], object]] = [
        lambda: migrations.downgrade(engine, "base"),
        lambda: migrations.downgrade(connection, "base"),
    ]
    for work in works:
        with (
            pytest.raises(RuntimeError, match="no commit"),
            engine.connect() as connection,
            failing_commit(engine),
        ):
            work()
        assert migrations.check(engine) == []
    engine.dispose()


def isolation_of(connection: Any) -> Any:
    driver = connection.connection.driver_connection
    mode = (
        driver.autocommit
        if hasattr(driver, "autocommit") and connection.dialect.name == "postgresql"
        else None
    )
    found = (mode, driver.isolation_level, connection.get_isolation_level())
    connection.rollback()
    return found


class failing_commit:  # noqa: N801  # reads as a statement
    """Let the commit of an engine fail: everything before it must be undone."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __enter__(self) -> None:
        event.listen(self.engine, "commit", self.fail)

    def __exit__(self, *_: object) -> None:
        event.remove(self.engine, "commit", self.fail)

    def fail(self, connection: Any) -> None:
        raise RuntimeError("no commit today")


@pytest.mark.parametrize("statement", [None, "BEGIN", "BEGIN IMMEDIATE"])
def test_sqlite_engines_that_begin_by_themselves(sqlite: str, statement: str | None) -> None:
    engine = create_engine(sqlite, connect_args={"isolation_level": None if statement else ""})
    if statement:
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(statement))
    event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA foreign_keys = ON"))
    migrations.upgrade(engine)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        driver: Any = connection.connection.driver_connection
        assert driver.isolation_level == (None if statement else "")
    fill(sqlite, canonical_documents())
    children = children_in(sqlite)
    migrations.downgrade(engine, "r0001")
    migrations.upgrade(engine)
    assert children_in(sqlite) == children
    engine.dispose()


def test_a_database_in_memory(tmp_path: Path) -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        migrations.upgrade(connection)
        assert migrations.check(connection) == []
        assert migrations.require_current(connection)
    assert not list(tmp_path.iterdir())


# -- all or nothing ---------------------------------------------------------------------------------------------------

BROKEN = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "r9000", "{head}"


def upgrade():
    op.create_table("half_made", sa.Column("x", sa.Integer()))
    op.execute("UPDATE findings SET title = 'gone'")
    op.execute("DELETE FROM finding_identities")
    op.drop_index("ix_findings_project_id_created_at_id", "findings")
    {last}


def downgrade():
    pass
"""


def upgrade_with(tmp_path: Path, url: str, last: str) -> None:
    """Upgrade with one more revision, the last statement of which is given."""
    folder = shutil.copytree(ROOT / "alembic", tmp_path / "scripts", dirs_exist_ok=True)
    (folder / "versions" / "r9000_broken.py").write_text(BROKEN.format(head=HEAD, last=last))
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    with engine_of(url, create=True).connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def test_a_failed_revision_leaves_nothing_half_made(url: str, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        upgrade_with(tmp_path, url, "1 / 0")
    assert tables_in(url) == set()
    migrations.upgrade(url)
    documents = canonical_documents()
    fill(url, documents)
    children = children_in(url)
    with pytest.raises(ZeroDivisionError):
        upgrade_with(tmp_path, url, "1 / 0")
    assert migrations.check(url) == []
    assert children_in(url) == children
    assert documents_in(url) == documents
    assert "half_made" not in tables_in(url)


def test_sqlite_refuses_a_revision_that_leaves_orphans(sqlite: str, tmp_path: Path) -> None:
    migrations.upgrade(sqlite)
    fill(sqlite, canonical_documents())
    children = children_in(sqlite)
    with pytest.raises(
        StorageIntegrityError, match=r"rows of finding_\w+ refer to rows of findings that don't exist"
    ):
        upgrade_with(tmp_path, sqlite, "op.execute('DELETE FROM findings')")
    assert migrations.check(sqlite) == []
    assert children_in(sqlite) == children


def test_orphans_of_others_are_none_of_our_business(sqlite: str) -> None:
    with connection_to(sqlite) as connection:
        connection.execute(text("PRAGMA defer_foreign_keys = ON"))
        connection.execute(text("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
        connection.execute(text("CREATE TABLE theirs (id INTEGER REFERENCES parents (id))"))
    with create_engine(sqlite).begin() as connection:
        connection.execute(text("INSERT INTO theirs VALUES (1)"))
    migrations.upgrade(sqlite)
    assert migrations.check(sqlite) == []


# -- many at once -----------------------------------------------------------------------------------------------------

WORKER = """
import sys
from findings_orm import migrations
print("ready", flush=True)
for line in sys.stdin:
    url, move, revision = line.split()
    try:
        getattr(migrations, move)(url, revision)
        print("done", flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).replace(chr(10), " "), flush=True)
"""


@pytest.fixture(scope="module")
def workers() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that migrate when told to, all at once."""
    command_line = [sys.executable, "-c", WORKER]
    started = [
        subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(PROCESSES)
    ]
    assert [read(worker) for worker in started] == ["ready"] * PROCESSES
    yield started
    for worker in started:
        worker.kill()
        worker.communicate()


@pytest.mark.no_cover
@pytest.mark.slow
def test_eight_processes_at_once(url: str, workers: list[subprocess.Popen[str]]) -> None:
    for _ in range(ROUNDS):
        assert together(workers, url, "upgrade", "head") == ["done"] * PROCESSES
        assert migrations.check(url) == []
        fill(url, canonical_documents())
        documents = documents_in(url)
        migrations.downgrade(url, "r0001")
        assert together(workers, url, "upgrade", "head") == ["done"] * PROCESSES
        assert documents_in(url) == documents
        migrations.downgrade(url, "base")
        if url.startswith("sqlite"):
            Path(url.removeprefix("sqlite:///")).unlink()


def read(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def together(workers: list[subprocess.Popen[str]], *words: str) -> list[str]:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(" ".join(words) + "\n")
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.flush()
    return [read(worker) for worker in workers]


@pytest.mark.no_cover
def test_eight_threads_at_once(url: str) -> None:
    errors: list[Exception] = []

    def work() -> None:
        try:
            migrations.upgrade(url)
            assert migrations.check(url) == []
        except Exception as error:  # noqa: BLE001  # shown below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_sqlite_file_that_stays_locked(sqlite: str) -> None:
    migrations.upgrade(sqlite, "r0001")
    engine = create_engine(sqlite, connect_args={"isolation_level": None})
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailableError, match="locked") as refused:
            migrations.upgrade(f"{sqlite}?timeout=0.1")
        assert refused.value.retryable
        assert migrations.status(sqlite).current == "r0001"
        connection.exec_driver_sql("ROLLBACK")
    engine.dispose()
    migrations.upgrade(sqlite)
