"""One fault of a database is one error, whoever meets it: a store or a migration."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from servers import PostgresServer
from sqlalchemy import text

from findings_orm import StorageError, migrations, open_storage
from findings_orm.cli.failures import ExitCode, explain_error
from findings_orm.migrations.connecting import open_connection
from findings_orm.orm.storage import SqlStore

STATES = {
    "08006": ("StorageUnavailableError", True, ExitCode.UNAVAILABLE),
    "22001": ("StorageValidationError", None, ExitCode.FAILED),
    "23505": ("StorageConflictError", False, ExitCode.CONFLICT),
    "23514": ("StorageValidationError", None, ExitCode.FAILED),
    "25006": ("StorageUnavailableError", False, ExitCode.UNAVAILABLE),
    "26000": ("StorageUnavailableError", False, ExitCode.UNAVAILABLE),
    "40001": ("StorageConflictError", True, ExitCode.CONFLICT),
    "40P01": ("StorageConflictError", True, ExitCode.CONFLICT),
    "42501": ("StorageUnavailableError", False, ExitCode.UNAVAILABLE),
    "42601": ("StorageError", None, ExitCode.FAILED),
    "42703": ("StorageIntegrityError", None, ExitCode.FAILED),
    "42P01": ("StorageIntegrityError", None, ExitCode.FAILED),
    "42P05": ("StorageUnavailableError", False, ExitCode.UNAVAILABLE),
    "42P07": ("StorageIntegrityError", None, ExitCode.FAILED),
    "53100": ("StorageUnavailableError", True, ExitCode.UNAVAILABLE),
    "53300": ("StorageUnavailableError", True, ExitCode.UNAVAILABLE),
    "55P03": ("StorageUnavailableError", True, ExitCode.UNAVAILABLE),
    "57014": ("StorageUnavailableError", True, ExitCode.UNAVAILABLE),
    "57P01": ("StorageUnavailableError", True, ExitCode.UNAVAILABLE),
    "58030": ("StorageUnavailableError", False, ExitCode.UNAVAILABLE),
    "XX001": ("StorageIntegrityError", None, ExitCode.FAILED),
}
"""What a server says, and what that is: the error, whether to try again, the exit code of a command."""

STATEMENTS = {
    "INSERT INTO finding_projects VALUES ('p', 1, 1), ('p', 1, 1)": (
        "StorageConflictError",
        False,
        ExitCode.CONFLICT,
    ),
    "INSERT INTO finding_projects VALUES ('p', NULL, 1)": (
        "StorageValidationError",
        None,
        ExitCode.FAILED,
    ),
    "SELECT * FROM nowhere": ("StorageIntegrityError", None, ExitCode.FAILED),
    "SELECT absent FROM findings": ("StorageIntegrityError", None, ExitCode.FAILED),
    "CREATE TABLE findings (id)": ("StorageIntegrityError", None, ExitCode.FAILED),
}


def _of(work: Callable[[], object]) -> tuple[str, bool | None, ExitCode]:
    with pytest.raises(StorageError) as caught:
        work()
    error = caught.value
    return type(error).__name__, getattr(error, "retryable", None), explain_error(error).code


def _in_a_store(url: str, sql: str) -> None:
    with open_storage(url) as store, store.transaction():
        assert isinstance(store, SqlStore)
        store.session().execute(text(sql))


def _in_a_migration(url: str, sql: str) -> None:
    with open_connection(url) as connection:
        connection.execute(text(sql))


@pytest.mark.parametrize("work", [_in_a_store, _in_a_migration])
def test_what_a_server_says_is_one_error(postgresql_url: str, work: Callable[[str, str], None]) -> None:
    found = {}
    for state in STATES:
        sql = f"DO $$ BEGIN RAISE EXCEPTION 'a fault' USING ERRCODE = '{state}'; END $$"
        found[state] = _of(lambda sql=sql: work(postgresql_url, sql))  # type: ignore[misc]
    assert found == STATES


@pytest.mark.parametrize("work", [_in_a_store, _in_a_migration])
def test_what_sqlite_says_is_one_error(
    tmp_path: Path, empty_sqlite: Path, work: Callable[[str, str], None]
) -> None:
    url = f"sqlite:///{shutil.copy(empty_sqlite, tmp_path / 'findings.db')}"
    assert {sql: _of(lambda sql=sql: work(url, sql)) for sql in STATEMENTS} == STATEMENTS  # type: ignore[misc]


def _opened(url: str) -> None:
    open_storage(url).close()


@pytest.mark.parametrize("work", [_opened, migrations.status, migrations.upgrade])
def test_a_server_that_lets_nobody_in_is_one_error(
    server_18: PostgresServer, work: Callable[[str], object]
) -> None:
    url = server_18.url("postgres")
    nobody = f"{url}&port=1" if "?" in url else f"{url}?port=1"
    assert _of(lambda: work(nobody)) == ("StorageUnavailableError", True, ExitCode.UNAVAILABLE)
    assert _of(lambda: work(server_18.url("nowhere"))) == (
        "StorageUnavailableError",
        False,
        ExitCode.UNAVAILABLE,
    )


@pytest.mark.parametrize("work", [_opened, migrations.upgrade])
def test_a_file_that_is_none_or_locked_is_one_error(
    tmp_path: Path, empty_sqlite: Path, work: Callable[[str], object]
) -> None:
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"no database at all" * 500)
    assert _of(lambda: work(f"sqlite:///{damaged}")) == ("StorageIntegrityError", None, ExitCode.FAILED)
    locked = Path(shutil.copy(empty_sqlite, tmp_path / "locked.db"))
    with closing(sqlite3.connect(locked, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        seconds = "busy_timeout" if work is _opened else "timeout"
        with_timeout = f"sqlite:///{locked}?{seconds}=0.1"
        assert _of(lambda: work(with_timeout)) == ("StorageUnavailableError", True, ExitCode.UNAVAILABLE)
