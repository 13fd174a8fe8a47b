"""A database full of rows, in every table, and what is in it afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Integer,
    Table,
    TableClause,
    Text,
    column,
    event,
    insert,
    select,
    table,
    text,
)

from findings_orm import validate_finding
from findings_orm.finding import FIELDS, KNOWN_VERSIONS, SCHEMA_VERSION, format_time
from findings_orm.migrations import SchemaMigrator
from findings_orm.migrations.connecting import engine_of
from findings_orm.migrations.scripts import revision_chain
from findings_orm.orm.models import Base
from findings_orm.testing.samples import finding, run_id_of, uuid_of

Document = dict[str, Any]

TABLES = Base.metadata.tables
ADDED = ("revision_before", "revision_after", "digests", "category", "categories")
"""The columns beside those of findings that came after r0001."""
_OF_1_1_0 = ("status", "rule_id", "fingerprint", "location", "confidence", "tags")


def _fields_of(version: str) -> tuple[str, ...]:
    newer = KNOWN_VERSIONS[KNOWN_VERSIONS.index(version) + 1 :]
    added = {name for one in revision_chain() if one.schema_version in newer for name in one.adds}
    if version in ("1.0.0", "1.1.0"):
        added |= set(_OF_1_1_0) if version == "1.0.0" else set()
        return tuple("cwe" if name == "cwe_ids" else name for name in FIELDS if name not in added)
    return tuple(name for name in FIELDS if name not in added)


FIELDS_OF = {version: _fields_of(version) for version in KNOWN_VERSIONS[1:]}
"""The columns of the table of findings, by schema version."""
REVISION_OF = {one.schema_version: one.id for one in revision_chain()}
"""The newest revision of each schema version."""
_OLD_TYPES: dict[str, Any] = {"cwe": Integer(), "owasp": Text()}
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


def findings_of(version: str) -> TableClause:
    """Return the table of findings as a schema version has it."""
    current = TABLES["findings"].c
    old = _OLD_TYPES if version in ("1.0.0", "1.1.0") else {}
    types = {name: old[name] if name in old else current[name].type for name in FIELDS_OF[version]}
    return table("findings", *(column(name, kind) for name, kind in types.items()))


def canonical_documents(many: int = 3, since: str = SCHEMA_VERSION) -> list[Document]:
    """Return documents that reach every corner of what a migration touches, and `many` plain ones.

    Those that a schema version brought are at the end, so that a frozen database, which is older, has the first ones.
    """
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
    if since not in ("1.0.0", "1.1.0"):
        changes += _of_2_0_0()
    return [dict(validate_finding(finding(number + 1, **change))) for number, change in enumerate(changes)]


def _of_2_0_0() -> list[Document]:
    corner = {"version": "2.0.0", "fields": {"cwe_ids": [79, 89]}}
    several = {"cwe_ids": [79, 89, 79], "owasp": ["A03:2021", "A01"]}
    return [
        {"cwe_ids": [79], "owasp": ["A03"]},
        {"cwe_ids": [2**31 - 1, 1]},
        {"owasp": ["A03:2021"]},
        {"owasp": ["A03", "A01"]},
        several,
        {**several, "provenance": {"tool": "x}", "n": {"m": {}}}},
        {**several, "provenance": {"tool": "\x00 ü"}},
        {**several, "provenance": {"findings_orm": corner, "tool": "x"}, "tags": ["a"]},
        {"provenance": {"findings_orm": corner}},
        {"provenance": {"tool": "x", "findings_orm": corner}, "cwe_ids": [79]},
        {"cwe_ids": [5, 6], "rule_id": "R", "tags": ["a"], "project_id": "acme-web"},
        *({"cwe_ids": [n % 5 + 1, n % 3 + 1], "owasp": [f"A0{n % 9}:2021"]} for n in range(20)),
    ]


def fill(url: str, documents: Sequence[Document], version: str = SCHEMA_VERSION) -> None:
    """Write documents of a schema version, and rows of every other table that refer to them."""
    projects = sorted({document["project_id"] for document in documents})
    with connection_to(url) as connection:
        _insert(
            connection,
            "finding_projects",
            [{"project_id": each, "created_at": AT, "revision": 1} for each in projects],
        )
        rows = [{name: document[name] for name in FIELDS_OF[version]} for document in documents]
        connection.execute(insert(findings_of(version)), rows)
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
        "run_id": run_id_of(n),
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
        "run_id": run_id_of(1),
        "position": n,
        "at": AT,
        "field": "x",
        "reason": "y",
        "original": "{}",
    },
}


def documents_in(url: str, version: str = SCHEMA_VERSION) -> list[Document]:
    """Return the documents of the table of findings of a schema version, in the order of `canonical_documents`."""
    findings = findings_of(version)
    with connection_to(url) as connection:
        found = connection.execute(select(findings).order_by(findings.c.id)).mappings().all()
    return [{name: _plain(name, row[name]) for name in FIELDS_OF[version]} for row in found]


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, (list, dict)):
        return json.loads(json.dumps(value))  # what is read through a model can't be changed
    if isinstance(value, UUID):
        return str(value)
    return int(value) if name == "confidence" and value is not None and value == int(value) else value


def children_in(url: str) -> dict[str, list[Any]]:
    """Return the rows of the tables that `fill` writes beside that of the findings."""
    with connection_to(url) as connection:
        return {name: _rows(connection, TABLES[name]) for name in ["finding_projects", *_CHILD_ROWS]}


def _rows(connection: Connection, table: Table) -> list[Any]:
    """Return the rows of a table, in its columns that every revision has."""
    columns = [column for column in table.columns if column.name not in ADDED]
    return [tuple(row) for row in connection.execute(select(*columns).order_by(*table.primary_key.columns))]


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


def downgraded(documents: Sequence[Document], version: str) -> list[Document]:
    """Return documents of the current version as an older one has them."""
    return [SchemaMigrator().migrate(SCHEMA_VERSION, version, document) for document in documents]


def tables_of(dialect: str) -> list[Table]:
    """Return the tables that the models declare for a kind of database."""
    return [table for table in TABLES.values() if table.info.get("dialect", dialect) == dialect]


def make_from_models(url: str) -> None:
    """Make the tables as the models say, without the revisions."""
    engine = engine_of(url, create=True)
    Base.metadata.create_all(engine, tables_of(engine.dialect.name))
    engine.dispose()
