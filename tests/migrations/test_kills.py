"""A process or a server that dies in a migration: every finding is there, and the migration can be run again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rows import canonical_documents, children_in, documents_in, downgraded, fill
from servers import PostgresServer, embedded_binaries, postgresql_server

from findings_orm import migrations
from findings_orm.finding import SCHEMA_VERSION
from findings_orm.migrations.scripts import revision_chain

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
MANY = 20_000 if FULL else 500
KILLS = 60 if FULL else 6
OLDEST, HEAD = revision_chain()[0], revision_chain()[-1]
WORKER = """
import sys
from findings_orm import migrations
from findings_orm.migrations import running
print("ready", flush=True)
url, move, revision = sys.stdin.readline().split()
getattr(migrations, move)(url, revision)
print("done", flush=True)
"""


class Migration:
    """A process that migrates when it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def begin(self, url: str, move: str, revision: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{url} {move} {revision}\n")
        self.process.stdin.flush()

    def finished(self) -> bool:
        """Wait for the end, and tell whether it came to its end."""
        done = self._line() == "done"
        self.process.communicate()
        return done

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return canonical_documents(MANY)


@pytest.fixture(scope="module")
def older(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same in the oldest schema version of a database."""
    return downgraded(documents, OLDEST.schema_version)


@pytest.fixture(scope="module")
def durable() -> Iterator[PostgresServer]:
    """A server whose data are on disk when it says so."""
    with postgresql_server(embedded_binaries(), fsync="on", full_page_writes="on") as server:
        yield server


def timed(url: str, move: str, revision: str) -> float:
    """Return how many seconds a migration takes that nobody kills."""
    migration = Migration()
    started = time.monotonic()
    migration.begin(url, move, revision)
    assert migration.finished()
    return time.monotonic() - started


def check_whole(url: str, documents: list[dict[str, Any]], older: list[dict[str, Any]]) -> str:
    """Check that the findings are those of before, in the version that the database says; return its revision."""
    found = migrations.status(url)
    if found.schema_version == SCHEMA_VERSION:
        assert documents_in(url) == documents
        assert migrations.check(url) == []
    else:
        assert found.current == OLDEST.id
        assert documents_in(url, OLDEST.schema_version) == older
    return str(found.current)


def test_a_process_that_is_killed(
    url: str, documents: list[dict[str, Any]], older: list[dict[str, Any]]
) -> None:
    migrations.upgrade(url)
    fill(url, documents)
    children = children_in(url)
    ways = {"downgrade": OLDEST.id, "upgrade": HEAD.id}
    seconds = {move: timed(url, move, revision) for move, revision in ways.items()}
    dice = random.Random(5)
    cut = 0
    for n in range(KILLS):
        move, revision = list(ways.items())[n % 2]
        migration = Migration()
        migration.begin(url, move, revision)
        time.sleep(dice.uniform(0, seconds[move]))
        migration.kill()
        was_cut = check_whole(url, documents, older) != revision
        cut += was_cut
        seconds[move] *= 1.2 if was_cut else 0.5
        getattr(migrations, move)(url, revision)
        assert check_whole(url, documents, older) == revision
        assert children_in(url) == children
    assert cut, "every migration was over before it was killed"


def test_a_server_that_is_killed(
    durable: PostgresServer, documents: list[dict[str, Any]], older: list[dict[str, Any]]
) -> None:
    name = durable.create_database()
    url = durable.url(name)
    migrations.upgrade(url)
    fill(url, documents)
    migrations.downgrade(url, OLDEST.id)
    seconds = timed(url, "upgrade", HEAD.id)
    migrations.downgrade(url, OLDEST.id)
    dice = random.Random(6)
    for _ in range(KILLS // 3):
        migration = Migration()
        migration.begin(url, "upgrade", HEAD.id)
        time.sleep(dice.uniform(0, seconds))
        durable.crash()
        migration.finished()
        durable.start()
        check_whole(url, documents, older)
        migrations.upgrade(url)
        assert check_whole(url, documents, older) == HEAD.id
        migrations.downgrade(url, OLDEST.id)


def test_what_a_killed_sqlite_migration_left_is_no_obstacle(
    sqlite: str, documents: list[dict[str, Any]], older: list[dict[str, Any]]
) -> None:
    """The journal of a killed migration is there: who opens the file next rolls it back."""
    migrations.upgrade(sqlite)
    fill(sqlite, documents)
    migrations.downgrade(sqlite, OLDEST.id)
    path = Path(sqlite.removeprefix("sqlite:///"))
    for _ in range(50):
        migration = Migration()
        migration.begin(sqlite, "upgrade", HEAD.id)
        while migration.process.poll() is None and not journals(path):
            time.sleep(0.0005)
        migration.kill()
        if journals(path) and check_whole(sqlite, documents, older) == OLDEST.id:
            break
        migrations.downgrade(sqlite, OLDEST.id)
    else:
        pytest.fail("no migration was killed with its journal written")
    migrations.upgrade(sqlite)
    assert check_whole(sqlite, documents, older) == HEAD.id


def journals(path: Path) -> list[Path]:
    return [each for each in path.parent.glob(f"{path.name}-*") if each.stat().st_size]
