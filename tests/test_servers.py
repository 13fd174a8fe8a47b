"""The servers of the tests clean up after themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from servers import PostgresServer, remove_orphans

from findings_orm import open_storage
from findings_orm.testing.samples import finding

CODE = """
import sys, time
sys.path[:0] = sys.argv[1:]
from servers import embedded_binaries, postgresql_server
with postgresql_server(embedded_binaries()):
    print("running", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """Return a folder that the unprivileged user of the servers can enter, as that of pytest is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.no_cover
@pytest.mark.slow
def test_folder_of_a_killed_test_process_is_removed_by_the_next_one(
    reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, "TMPDIR": str(reachable)}
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *sys.path], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        monkeypatch.setattr(tempfile, "tempdir", str(reachable))
        remove_orphans()
        assert len(list(reachable.iterdir())) == 1, "the folder of a living process is not touched"
        process.send_signal(signal.SIGKILL)
    remove_orphans()
    assert list(reachable.iterdir()) == []


def test_an_emptied_database_is_the_same_without_rows_and_connections(postgresql_18: PostgresServer) -> None:
    name = postgresql_18.emptied_database()
    with open_storage(postgresql_18.url(name)) as store, psycopg.connect(postgresql_18.url(name)) as left:
        store.save_finding(finding(1))
        left.execute("SELECT * FROM findings FOR UPDATE")
        assert postgresql_18.emptied_database() == name
        assert store.list_projects() == []
        with pytest.raises(psycopg.OperationalError):
            left.execute("SELECT 1")
    assert postgresql_18.emptied_database() == name


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE ours (number INTEGER)",
        "ALTER TABLE findings ADD COLUMN ours INTEGER",
        "DROP INDEX uq_finding_runs_project_id_number",
        "ALTER TABLE findings DISABLE TRIGGER ALL",
        "GRANT SELECT ON findings TO PUBLIC",
        "CREATE SCHEMA ours",
        "CREATE FUNCTION ours() RETURNS INTEGER LANGUAGE sql RETURN 1",
        "ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'",
        "ALTER DATABASE {name} CONNECTION LIMIT 7",
        "ANALYZE",
    ],
)
def test_a_database_of_which_more_than_rows_was_changed_is_made_anew(
    postgresql_18: PostgresServer, change: str
) -> None:
    name = postgresql_18.emptied_database()
    with open_storage(postgresql_18.url(name)) as store:
        store.save_finding(finding(1))
    postgresql_18.execute(change.format(name=name), name)
    assert postgresql_18.emptied_database() != name


def test_who_says_how_to_prepare_a_database_gets_one_of_its_own(postgresql_18: PostgresServer) -> None:
    def prepare(url: str) -> None:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE ours (number INTEGER)")

    prepared = postgresql_18.emptied_database(prepare)
    assert prepared != postgresql_18.emptied_database()
    postgresql_18.execute("INSERT INTO ours VALUES (1)", prepared)
    assert postgresql_18.emptied_database(prepare) == prepared
    with psycopg.connect(postgresql_18.url(prepared)) as connection:
        assert connection.execute("SELECT count(*) FROM ours").fetchone() == (0,)
