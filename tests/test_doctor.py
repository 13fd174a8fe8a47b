"""`diagnose` of every kind of store: nothing on a healthy one; each fault found, and cured by what is advised."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from servers import POSTGRESQL

from findings_orm import FindingStore, StorageError, open_storage
from findings_orm.decorate import ForwardingStore, diagnosable
from findings_orm.diagnosis import Problem
from findings_orm.fingerprint import VERSION
from findings_orm.orm import postgresql_examination, sqlite_examination

TEST_SERVER = {"settings", "timeouts"}
"""The servers of the tests forget everything in a crash, which the doctor must say."""


def report(count: int) -> list[dict[str, Any]]:
    return [{"detector_id": "scan.a", "title": f"title {n}", "severity": "high"} for n in range(count)]


def examined(store: FindingStore) -> dict[str, Problem]:
    """Return the problems by check, without those that the servers of the tests have anyway."""
    found = [one for one in diagnosable(store).diagnose() if one.check not in TEST_SERVER]
    assert len({one.check for one in found}) == len(found), found
    return {one.check: one for one in found}


def run(store: Any, *statements: str) -> None:
    """Run statements as somebody who goes past the store; foreign keys don't hold for them."""
    engine = store.engine
    if engine.dialect.name == "sqlite":
        with closing(sqlite3.connect(engine.url.database, isolation_level=None)) as driver:
            for statement in statements:
                driver.execute(statement)
        return
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as driver:
        driver.execute("SET session_replication_role = replica")
        for statement in statements:
            driver.execute(statement)
        driver.execute("SELECT pg_stat_force_next_flush()")


def flush(store: Any) -> None:
    """Let the connection that the store has used report to the server's statistics what it did, now."""
    with store.engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")


def sql_of(problem: Problem) -> str:
    """Return the statement that a problem's advice begins with or ends with."""
    return (
        problem.advice.partition(": ")[2]
        if problem.check == "index-unknown"
        else problem.advice.split(";")[0]
    )


@pytest.fixture(params=["sqlite", *POSTGRESQL])
def sql(request: pytest.FixtureRequest, open_sqlite: Callable[[], FindingStore]) -> Iterator[FindingStore]:
    kind = request.param
    opened = open_sqlite() if kind == "sqlite" else open_storage(request.getfixturevalue(f"{kind}_url"))
    with opened as store:
        store.ingest("p", report(3))
        yield store


@pytest.fixture
def sqlite(open_sqlite: Callable[[], FindingStore]) -> Iterator[FindingStore]:
    with open_sqlite() as store:
        store.ingest("p", report(50))
        yield store


# -- every kind of store ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "memory_sqlite", "files", "sqlite", *POSTGRESQL])
def test_a_store_that_is_well_has_no_problems(kind: str, request: pytest.FixtureRequest) -> None:
    if kind.startswith("memory"):
        store = open_storage("memory:" if kind == "memory" else "sqlite://")
    elif kind in ("files", "sqlite"):
        store = request.getfixturevalue(f"open_{kind}")()
    else:
        store = open_storage(request.getfixturevalue(f"{kind}_url"))
    with store:
        assert examined(store) == {}
        store.ingest("p", report(30))
        store.ingest("p", report(20), close_missing=True)
        finding = store.list_findings("p")[0]
        store.set_status("p", finding["id"], "archived", actor="ann")
        store.purge("p", closed_before="2100-01-01T00:00:00Z")
        assert examined(store) == {}
        assert examined(ForwardingStore(store)) == {}
        store.ingest("p", [{}], on_invalid="quarantine")
        problem = examined(store)["rejected"]
        assert (problem.level, problem.message) == ("note", "1 refused originals are kept")


def test_a_store_that_can_not_be_examined_says_so() -> None:
    with pytest.raises(StorageError, match="object can't be examined"):
        diagnosable(object())  # type: ignore[arg-type]


# -- both databases -----------------------------------------------------------------------------------------------------


def test_a_missing_index_is_made_by_the_advice(sql: FindingStore) -> None:
    run(sql, "DROP INDEX ix_findings_severity")
    problem = examined(sql)["index-missing"]
    assert "ix_findings_severity" in problem.message
    run(sql, problem.advice)
    assert examined(sql) == {}


def test_an_unknown_index_is_named(sql: FindingStore) -> None:
    run(sql, "CREATE INDEX by_somebody ON findings (title)")
    problem = examined(sql)["index-unknown"]
    assert problem.level == "note"
    run(sql, sql_of(problem))
    assert examined(sql) == {}


def test_a_changed_table_is_an_error(sql: FindingStore) -> None:
    run(sql, "ALTER TABLE findings ADD COLUMN mine TEXT")
    problem = examined(sql)["schema"]
    assert problem.level == "error"
    assert "mine" in problem.message


def test_a_table_that_is_gone_is_an_error_and_not_an_exception(sql: FindingStore) -> None:
    run(sql, "DROP TABLE finding_rejected")
    assert "finding_rejected" in examined(sql)["schema"].message


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM finding_identities", "3 findings without an identity"),
        ("DELETE FROM findings", "3 identities without a finding"),
        ("UPDATE findings SET status = 'resolved'", "3 findings whose status and time of closing disagree"),
    ],
)
def test_orphans_are_counted(sql: FindingStore, statement: str, words: str) -> None:
    run(sql, statement)
    found = [one for one in diagnosable(sql).diagnose() if one.check == "orphans"]
    assert [(one.level, one.message) for one in found] == [("error", words)]


def test_fingerprints_of_a_newer_version_are_counted(sql: FindingStore) -> None:
    run(sql, f"UPDATE finding_identities SET fingerprint_version = {VERSION - 1}")
    assert "fingerprint-version" not in examined(sql), "imports recognise them"
    run(sql, f"UPDATE finding_identities SET fingerprint_version = {VERSION + 1}")
    problem = examined(sql)["fingerprint-version"]
    assert problem.level == "error"
    assert problem.message.startswith(f"3 findings have fingerprints of version {VERSION + 1}")


# -- SQLite -------------------------------------------------------------------------------------------------------------


def test_sqlite_references_to_nothing(sqlite: FindingStore) -> None:
    run(sqlite, "DELETE FROM finding_projects")
    found = [one for one in diagnosable(sqlite).diagnose() if one.check == "foreign-keys"]
    assert {one.level for one in found} == {"error"}
    assert "50 rows of findings refer to rows of finding_projects that don't exist" in [
        one.message for one in found
    ]


def test_sqlite_damage(open_sqlite: Callable[[], FindingStore]) -> None:
    with open_sqlite() as store:
        store.ingest("p", report(2000))
        path = Path(store.engine.url.database)  # type: ignore[attr-defined]
    with path.open("r+b") as file:
        size = path.stat().st_size
        for offset in range(size // 2, size, 4096):
            file.seek(offset)
            file.write(b"\xff" * 64)
    with open_sqlite() as store:
        found = diagnosable(store).diagnose()
    assert found
    assert {(one.level, one.check) for one in found} == {("error", "damage")}


def test_sqlite_settings(open_sqlite: Callable[[], FindingStore]) -> None:
    def messages(store: FindingStore) -> list[tuple[str, str]]:
        found = diagnosable(store).diagnose()
        assert {one.check for one in found} <= {"settings"}
        return [(one.level, one.message) for one in found]

    with open_sqlite() as store:
        url = f"sqlite:///{store.engine.url.database}"  # type: ignore[attr-defined]
    with open_storage(url, synchronous="NORMAL", busy_timeout=0.5) as store:
        assert messages(store) == [
            ("warning", "a writer waits for another one no longer than 500 ms"),
            ("note", "synchronous is NORMAL: a power cut may take the last transactions"),
        ]
    with open_storage(url, pool_size=1) as store:
        with store.engine.connect() as connection:  # type: ignore[attr-defined]
            driver = connection.connection.driver_connection
            driver.execute("PRAGMA journal_mode = DELETE")
            driver.execute("PRAGMA foreign_keys = OFF")
        assert [message.partition(":")[0] for _, message in messages(store)] == [
            "the journal mode is delete, not wal",
            "foreign keys are off on this connection",
        ]


def test_sqlite_statistics(sqlite: FindingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert examined(sqlite) == {}
    monkeypatch.setattr(sqlite_examination, "MANY_ROWS", 50)
    problem = examined(sqlite)["statistics"]
    assert problem.message.startswith("the statistics of the planner were never made; there are 50")
    run(sqlite, problem.advice.split(" ")[0])
    assert examined(sqlite) == {}
    sqlite.ingest("p", report(600))
    assert "are from when there were 50; there are 600" in examined(sqlite)["statistics"].message


def test_sqlite_free_space(sqlite: FindingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_examination, "FREE_BYTES", 0)
    sqlite.ingest("p", report(2000))
    assert examined(sqlite) == {}
    sqlite.delete_project("p")
    problem = examined(sqlite)["bloat"]
    run(sqlite, problem.advice.split(" ")[0])
    assert examined(sqlite) == {}


def test_sqlite_write_ahead_log(sqlite: FindingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_examination, "WAL_BYTES", 1000)
    problem = examined(sqlite)["wal"]
    run(sqlite, problem.advice.partition("then ")[2].rstrip("."))
    assert examined(sqlite) == {}


# -- PostgreSQL ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=POSTGRESQL)
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(postgresql_examination, "MANY_ROWS", 100)
    return str(request.getfixturevalue(f"{request.param}_url"))


@contextmanager
def filled(url: str, **options: Any) -> Iterator[FindingStore]:
    with open_storage(url, **options) as store:
        store.ingest("p", report(1000))
        flush(store)
        run(store, "ANALYZE")
        assert examined(store) == {}
        yield store


def test_postgresql_settings_of_a_server_that_forgets(url: str) -> None:
    with open_storage(url) as store:
        found = [one for one in diagnosable(store).diagnose() if one.check == "settings"]
    assert {(one.level, one.message.partition(" is ")[0]) for one in found} == {
        ("error", "fsync"), ("error", "full_page_writes"), ("warning", "synchronous_commit"),
    }  # fmt: skip
    assert [one.level for one in found] == ["error", "error", "warning"]


def test_postgresql_dead_rows(url: str) -> None:
    with filled(url) as store:
        run(store, "ALTER TABLE finding_identities SET (autovacuum_enabled = off)")
        run(store, "UPDATE finding_identities SET line = 1 WHERE ordinal = 0")
        run(store, "ANALYZE finding_identities")
        problem = examined(store)["bloat"]
        assert "of finding_identities are dead" in problem.message
        run(store, sql_of(problem))
        assert examined(store) == {}


def test_postgresql_statistics(url: str) -> None:
    with filled(url) as store:
        run(store, "ALTER TABLE findings SET (autovacuum_enabled = off)")
        run(store, "ALTER TABLE finding_identities SET (autovacuum_enabled = off)")
        store.ingest("p", report(2000)[1000:])
        flush(store)
        run(store, "ANALYZE finding_identities")
        problem = examined(store)["statistics"]
        assert problem.message.startswith(
            "table findings of 2,000 rows has statistics from 1,000 changes ago"
        )
        run(store, problem.advice)
        assert examined(store) == {}


def test_postgresql_indexes_that_serve_nobody(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled(url) as store:
        run(store, "CREATE INDEX by_somebody ON findings (title)")
        name = "UPDATE pg_index SET indisvalid = {} WHERE indexrelid = 'by_somebody'::regclass"
        run(store, name.format("false"))
        problem = examined(store)["index-invalid"]
        run(store, problem.advice)
        assert set(examined(store)) == {"index-unknown"}
        monkeypatch.setattr(postgresql_examination, "UNUSED_DAYS", -1)
        unused = [one.message for one in diagnosable(store).diagnose() if one.check == "index-unused"]
        assert [message for message in unused if message.startswith("index by_somebody (")]
        assert not [message for message in unused if "pk_" in message or "uq_" in message]


def test_postgresql_more_connections_than_the_server_has(url: str) -> None:
    with open_storage(url, pool_size=40, max_overflow=20) as store:
        assert "may open 60 connections, the server has room for 47" in examined(store)["pool"].message


def test_postgresql_transactions_that_are_open_for_long(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled(url) as store, psycopg.connect(url, application_name="sleeper") as other:
        other.execute("SELECT 1")
        monkeypatch.setattr(postgresql_examination, "LONG_SECONDS", 0)
        problem = examined(store)["long-transaction"]
        assert f"process {other.info.backend_pid} (sleeper, idle in transaction)" in problem.message
        other.rollback()
        assert examined(store) == {}


def test_postgresql_without_privileges(url: str) -> None:
    with filled(url) as store:
        run(store, "DROP ROLE IF EXISTS doctored", "CREATE ROLE doctored LOGIN")
        run(store, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO doctored")
    with open_storage(url.replace("postgres@", "doctored@")) as store:
        found = [one for one in diagnosable(store).diagnose() if one.check not in TEST_SERVER]
    assert found == []
    with psycopg.connect(url, autocommit=True) as driver:
        driver.execute("DROP OWNED BY doctored")
        driver.execute("DROP ROLE doctored")


# -- files --------------------------------------------------------------------------------------------------------------


def test_damaged_files(open_files: Callable[[], FindingStore]) -> None:
    with open_files() as store:
        store.ingest("p", report(3))
    with open_files() as store:
        folder = store.path / "p"  # type: ignore[attr-defined]
        path = folder / "identities.jsonl"
        path.write_bytes(path.read_bytes()[:-20])
        problem = examined(store)["files"]
    assert problem.level == "error"
    assert str(path) in problem.message
    assert problem.advice == "Run 'findings file repair'."
