"""The ORM models, transactions shared with an application, and what the database itself refuses."""

from __future__ import annotations

import pathlib
import sqlite3
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import CheckConstraint, Connection, create_engine, event, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from findings_orm import (
    SQLiteStorageAdapter,
    StorageError,
    StorageUnavailableError,
    StorageValidationError,
    migrations,
    open_storage,
)
from findings_orm.finding import FIELDS, Finding, FindingInput, Severity, Status
from findings_orm.orm import models

FINDING: FindingInput = {"detector_id": "scan.demo", "title": "Debug mode", "severity": "low"}


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Any:
    with SQLiteStorageAdapter(tmp_path / "findings.db") as store:
        yield store


def test_the_model_mirrors_the_document_field_for_field() -> None:
    table = models.Finding.__table__
    assert set(table.columns.keys()) == set(FIELDS)
    for name, field in Finding.model_fields.items():
        nullable = field.default is None
        assert table.columns[name].nullable == nullable, name


def _quoted(names: Iterable[str]) -> str:
    return "(" + ", ".join(f"'{name}'" for name in names) + ")"


def test_enums_of_the_database_are_those_of_the_document() -> None:
    checks = {
        str(check.name): str(check.sqltext)
        for check in models.Base.metadata.tables["findings"].constraints
        if isinstance(check, CheckConstraint)
    }
    assert checks["ck_findings_severity"] == f"severity IN {_quoted(Severity)}"
    assert checks["ck_findings_status"] == f"status IN {_quoted(Status)}"


@pytest.mark.parametrize("table", models.Base.metadata.sorted_tables, ids=str)
def test_every_key_starts_with_the_project(table: Any) -> None:
    assert next(iter(table.primary_key.columns)).name == "project_id"
    for constraint in table.foreign_key_constraints:
        assert constraint.column_keys[0] == "project_id"
    for index in table.indexes:
        by_member = index.dialect_options["postgresql"]["using"] == "gin"  # no key, and no order
        assert by_member or index.columns[0].name == "project_id"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("severity", "HIGH"),
        ("status", "closed"),
        ("cvss", 10.1),
        ("confidence", -1),
        ("title", ""),
        ("detector_id", ""),
        ("evidence", None),
        ("project_id", "unknown"),
    ],
)
def test_the_database_refuses_what_the_model_refuses(
    store: SQLiteStorageAdapter, column: str, value: object
) -> None:
    store.ingest("acme", [FINDING])
    with store.engine.connect() as connection, pytest.raises(IntegrityError):
        connection.execute(text(f"UPDATE findings SET {column} = :value"), {"value": value})


def test_a_session_of_the_application_takes_the_findings_with_it(store: SQLiteStorageAdapter) -> None:
    with Session(store.engine) as session:
        session.execute(text("CREATE TABLE app (name TEXT)"))
        session.commit()
        session.execute(text("INSERT INTO app VALUES ('kept')"))
        with store.joined(session):
            store.ingest("acme", [FINDING])
            assert len(store.list_findings("acme")) == 1
        session.commit()
        session.execute(text("INSERT INTO app VALUES ('lost')"))
        with store.joined(session):
            store.delete_project("acme")
        session.rollback()
        assert session.execute(text("SELECT name FROM app")).scalars().all() == ["kept"]
    assert len(store.list_findings("acme")) == 1


def test_a_connection_of_another_engine_can_be_joined(
    store: SQLiteStorageAdapter, tmp_path: pathlib.Path
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'findings.db'}")
    with engine.begin() as connection, store.joined(connection):
        store.ingest("acme", [FINDING])
        assert store.summarize("acme").total == 1
        with pytest.raises(StorageError, match="inside a transaction"), store.joined(connection):
            pass
    assert store.summarize("acme").total == 1
    with pytest.raises(KeyError), engine.begin() as connection, store.joined(connection):
        store.delete_project("acme")
        raise KeyError
    assert store.summarize("acme").total == 1
    engine.dispose()


def test_an_orm_session_inside_a_transaction_commits_with_it(store: SQLiteStorageAdapter) -> None:
    with pytest.raises(StorageError, match="needs a unit of work"):
        store.session()
    with store.transaction():
        store.ingest("acme", [FINDING])
        with store.session() as session:
            row = session.scalars(select(models.Finding)).one()
            assert (row.project_id, row.title, row.evidence) == ("acme", "Debug mode", {})
            row.title = "Debug mode is on"
            session.commit()
    assert store.list_findings("acme")[0]["title"] == "Debug mode is on"
    with pytest.raises(KeyError), store.transaction(), store.session() as session:
        session.scalars(select(models.Finding)).one().title = "lost"
        session.commit()
        raise KeyError
    assert store.list_findings("acme")[0]["title"] == "Debug mode is on"


def test_the_orm_reads_what_the_store_wrote(store: SQLiteStorageAdapter) -> None:
    document: FindingInput = {
        **FINDING,
        "cve_ids": ["CVE-2024-1234"],
        "cvss": 7,
        "created_at": "2024-02-29T12:00:00.5Z",
        "evidence": {"b": [1, 1.0, 10**30, "\x00"], "a": None},
        "location": {"path": "a.py", "start_line": 3},
    }
    store.ingest("acme", [document])
    with Session(store.engine) as session:
        row = session.scalars(select(models.Finding)).one()
        read = row.document()
    assert read == store.list_findings("acme")[0]
    assert read["created_at"] == "2024-02-29T12:00:00.500000Z"


def test_statements_grow_by_batch_not_by_finding(store: SQLiteStorageAdapter) -> None:
    statements: list[str] = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def remember(_c: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    def count(findings: int) -> int:
        statements.clear()
        store.ingest(f"p{findings}", ({**FINDING, "resource": f"r{n}"} for n in range(findings)))
        return len(statements)

    small, large = count(10), count(2_000)
    assert small == large <= 8
    assert count(2_001) <= large + 4
    statements.clear()
    store.ingest("p2000", ({**FINDING, "resource": f"r{n}"} for n in range(2_000)))
    assert len(statements) <= 6
    assert not any(
        statement.startswith(("INSERT INTO findings ", "UPDATE findings ")) for statement in statements
    )


def test_readers_do_not_wait_for_a_writer(store: SQLiteStorageAdapter) -> None:
    store.ingest("acme", [FINDING])
    seen: list[int] = []
    with store.transaction():
        store.delete_project("acme")
        reader = threading.Thread(target=lambda: seen.append(len(store.list_findings("acme"))))
        reader.start()
        reader.join(10)
        assert seen == [1]
    assert store.list_findings("acme") == []


def test_what_sqlite_does_not_have_is_refused(tmp_path: pathlib.Path) -> None:
    url = f"sqlite:///{tmp_path / 'findings.db'}"
    with open_storage(url) as store, pytest.raises(StorageValidationError, match="observer: "):
        store.observe(5)  # type: ignore[arg-type]
    for ask in (migrations.status, migrations.upgrade):
        with pytest.raises(StorageUnavailableError, match="a SQLite database has no schema"):
            ask(f"{url}?schema=x")


def test_options_of_the_url(tmp_path: pathlib.Path) -> None:
    url = f"sqlite:///{tmp_path / 'findings.db'}"
    with open_storage(f"{url}?synchronous=NORMAL&busy_timeout=1&pool_size=2") as store:
        assert store.health().details["synchronous"] == 1
    with open_storage(url) as store:
        health = store.health()
        assert (health.ok, health.details["synchronous"], health.details["journal_mode"]) == (True, 2, "wal")
        assert health.details["foreign_keys"] == 1
    assert not store.health().ok
    with pytest.raises(StorageUnavailableError, match="closed"):
        store.list_findings("acme")
    for bad in ("?synchronous=OFF", "?busy_timeout=soon", "?colour=blue"):
        with pytest.raises(StorageValidationError):
            open_storage(url + bad)
    for bad in ("sqlite:", "nothing://x", "findings.db", "memory:name"):
        with pytest.raises(StorageValidationError):
            open_storage(bad)


def test_health_of_a_locked_file_waits_for_nobody(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "findings.db"
    with (
        ThreadPoolExecutor(1) as other,
        open_storage(f"sqlite:///{file}?busy_timeout=600") as store,
        closing(sqlite3.connect(file, isolation_level=None)) as writer,
    ):
        writer.execute("BEGIN IMMEDIATE")
        assert other.submit(store.health).result(60).ok, "a writer keeps nobody from reading"
        writer.execute("ROLLBACK")
        store._close_idle()  # type: ignore[attr-defined]  # a connection of the store would keep others from locking all
        store.engine.dispose()  # type: ignore[attr-defined]
        writer.execute("PRAGMA locking_mode = EXCLUSIVE")
        writer.execute("BEGIN IMMEDIATE")
        health = other.submit(store.health).result(60)
        assert not health.ok
        assert "locked" in health.problem
        assert health.details["pool"]["in_use"] == 0
        writer.execute("ROLLBACK")
        writer.execute("PRAGMA locking_mode = NORMAL")
        writer.execute("SELECT count(*) FROM findings").fetchall()
        assert store.health().ok
        with store.engine.connect() as connection:  # type: ignore[attr-defined]
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 600_000


def test_counts_agree_with_the_database(store: SQLiteStorageAdapter) -> None:
    store.ingest("acme", [{**FINDING, "resource": f"r{n}"} for n in range(7)])
    with Session(store.engine) as session:
        assert session.scalar(select(func.count()).select_from(models.Identity)) == 7
