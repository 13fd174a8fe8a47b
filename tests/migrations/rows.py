"""A database full of rows, in every table, and what is in it afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Table, event, insert, select, text

from findings_orm import validate_finding
from findings_orm.adapters.sql.models import Base
from findings_orm.finding import FIELDS
from findings_orm.migrations import SchemaMigrator
from findings_orm.migrations.connecting import engine_of
from findings_orm.testing.samples import finding, run_of, uuid_of

Document = dict[str, Any]

ADDED = ("status", "rule_id", "fingerprint", "location", "confidence", "tags")
OLD_FIELDS = tuple(name for name in FIELDS if name not in ADDED)
TABLES = Base.metadata.tables
AT = "2024-05-01T00:00:00Z"


@contextmanager
def connection_to(url: str) -> Iterator[Connection]:
    """Yield a connection in a transaction that is committed at the end; SQLite keeps foreign keys."""
    engine = engine_of(url, create=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA foreign_keys = ON"))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def canonical_documents(many: int = 3) -> list[Document]:
    """Return documents that reach every corner of what a migration touches, and `many` plain ones."""
    carried = {
        "status": "false_positive",
        "rule_id": "B608 \U0001f600",
        "fingerprint": "f\u2028",
        "location": {"path": "ü.py", "start_line": 1, "end_line": 2, "snippet": "x = '\"%'"},
        "confidence": 99.5,
        "tags": ["b", "a", "b", "\U0010ffff"],
        "mitre_attack": ["T1059.001", "T1059", "T1059.002", "T1001"],
    }
    corner = {"version": "1.1.0", "fields": {"rule_id": "theirs"}}
    hard = {
        "z": 1,
        "a": 1.0,
        "nul": "\x00\x07",
        "big": 10**40,
        "float": [1e22, 5e-324, -0.0, 0.1],
        "": {"b": [], "a": {}},
    }
    special: list[Document] = [
        {},
        carried,
        *({name: value} for name, value in carried.items()),
        {"confidence": 0},
        {"confidence": 50},
        {"location": {}},
        {"status": "resolved", "provenance": {"tool": "x", **hard}, "evidence": hard},
        {"provenance": {"findings_orm": "mine", "tool": "x"}, "rule_id": "a"},
        {"provenance": {"findings_orm": "mine", "tool": "x"}},
        {"provenance": {"findings_orm": corner, "tool": "x"}},
        {"provenance": {"tool": "x", "findings_orm": corner}},
        {"provenance": {"tool": "x", "findings_orm": corner}, "tags": ["a"]},
        {"provenance": {"findings_orm": {"version": "1.1.0", "fields": {}, "original": corner}}},
        {"provenance": {"not findings_orm": '"findings_orm"', "x": "\\u0066"}},
        {"project_id": "acme-web", "rule_id": "x"},
        {"project_id": "ä \U0001f600", "rule_id": "y"},
    ]
    changes = special + [{"rule_id": f"R{n % 7}" if n % 9 else None} for n in range(many)]
    return [validate_finding(finding(number + 1, **change)) for number, change in enumerate(changes)]


def fill(url: str, documents: Sequence[Document], fields: Sequence[str] = FIELDS) -> None:
    """Write documents, and rows of every other table that refer to them."""
    projects = sorted({document["project_id"] for document in documents})
    with connection_to(url) as connection:
        _insert(
            connection,
            "finding_projects",
            [{"project_id": each, "created_at": AT, "revision": 1} for each in projects],
        )
        rows = [{name: document[name] for name in fields} for document in documents]
        _insert(connection, "findings", rows)
        if connection.dialect.name == "postgresql" and "location" in fields:
            # As the store writes it: SQLAlchemy makes a JSON null of None.
            connection.execute(
                text("UPDATE findings SET location = NULL WHERE CAST(location AS text) = 'null'")
            )
        for table, row in _CHILD_ROWS.items():
            _insert(
                connection,
                table,
                [{**row(n, each), "project_id": each["project_id"]} for n, each in enumerate(documents)],
            )


def _insert(connection: Connection, table: str, rows: list[Document]) -> None:
    connection.execute(insert(TABLES[table]), rows)


_CHILD_ROWS: dict[str, Any] = {
    "finding_identities": lambda n, document: {
        "fingerprint": n.to_bytes(32, "big"),
        "ordinal": 0,
        "finding_id": document["id"],
        "fingerprint_version": 1,
        "content": b"\x00" * 32,
        "reported": "x",
        "line": n,
        "first_seen": AT,
        "last_seen": AT,
        "first_run": 1,
        "last_run": 2,
        "closed_as": None,
        "closed_at": None,
    },
    "finding_sightings": lambda n, document: {"finding_id": document["id"], "first_run": n, "last_run": n},
    "finding_runs": lambda n, _: {
        "run_id": run_of(n),
        "number": n,
        "started_at": AT,
        "detectors": ["a"],
        "tool": {"b": 1, "a": 1.0},
        "counts": {"created": n},
    },
    "finding_events": lambda n, _: {
        "finding_id": uuid_of(n),
        "revision": 1,
        "position": 0,
        "at": AT,
        "actor": "a",
        "kind": "change",
        "changes": {"tags": [[], ["a"]]},
        "comment": "",
        "run_id": None,
    },
    "finding_rejected": lambda n, _: {
        "rejected_id": uuid_of(n),
        "run_id": run_of(1),
        "position": n,
        "at": AT,
        "field": "x",
        "reason": "y",
        "original": "{}",
    },
}


def documents_in(url: str, fields: Sequence[str] = FIELDS) -> list[Document]:
    """Return the documents of the table of findings, in the order of `canonical_documents`."""
    table = TABLES["findings"]
    with connection_to(url) as connection:
        found = (
            connection.execute(select(*(table.c[name] for name in fields)).order_by(table.c.id))
            .mappings()
            .all()
        )
    return [{name: _plain(name, row[name]) for name in fields} for row in found]


def _plain(name: str, value: Any) -> Any:
    return int(value) if name == "confidence" and value is not None and value == int(value) else value


def children_in(url: str) -> dict[str, list[Any]]:
    """Return the rows of the tables that `fill` writes beside that of the findings."""
    with connection_to(url) as connection:
        return {name: _rows(connection, TABLES[name]) for name in ["finding_projects", *_CHILD_ROWS]}


def _rows(connection: Connection, table: Table) -> list[Any]:
    return [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]


def tables_in(url: str) -> set[str]:
    """Return the names of all tables of a database."""
    engine = engine_of(url, create=True)
    query = (
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        if engine.dialect.name == "sqlite"
        else "SELECT tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    with engine.connect() as connection:
        return set(connection.execute(text(query)).scalars())


def downgraded(documents: Sequence[Document]) -> list[Document]:
    """Return documents as 1.0.0 has them."""
    return [SchemaMigrator().migrate("1.1.0", "1.0.0", document) for document in documents]


def tables_of(dialect: str) -> list[Table]:
    """Return the tables that the models declare for a kind of database."""
    return [table for table in TABLES.values() if table.info.get("dialect", dialect) == dialect]


def make_from_models(url: str) -> None:
    """Make the tables as the models say, without the revisions."""
    engine = engine_of(url, create=True)
    Base.metadata.create_all(engine, tables_of(engine.dialect.name))
    engine.dispose()
