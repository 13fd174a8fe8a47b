"""`Records` over one database connection: what writes, and with `reading` all of it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

from sqlalchemy import Connection

from findings_orm.clock import first_revision, now, revision_step
from findings_orm.errors import StorageConflictError
from findings_orm.orm import mapping
from findings_orm.orm.mapping import (
    EVENT_COLUMNS,
    FINDING_COLUMNS,
    IDENTITY_COLUMNS,
    RECEIPT_COLUMNS,
    REJECTED_COLUMNS,
    RUN_COLUMNS,
    Row,
    names,
)
from findings_orm.orm.observation import Watch
from findings_orm.orm.reading import SqlReading
from findings_orm.port import Event, RejectedOriginal, Run
from findings_orm.query import time_key
from findings_orm.records import (
    Advance,
    Identity,
    ProjectState,
    Receipt,
    Records,
    StatusChange,
    Stored,
    Streak,
)


@lru_cache(64)
def insertion(table: str, columns: tuple[str, ...], rows: int = 1) -> str:
    """Return the statement that adds rows."""
    marks = ", ".join("?" * (len(columns)))
    return f"INSERT INTO {table} ({names(columns)}) VALUES " + ", ".join([f"({marks})"] * rows)  # noqa: S608  # constants


def _update(table: str, columns: Sequence[str], keys: Sequence[str]) -> str:
    sets = ", ".join(f"{column} = ?" for column in columns)
    where = " AND ".join(f"{key} = ?" for key in keys)
    return f"UPDATE {table} SET {sets} WHERE {where}"  # noqa: S608  # constants


BESIDE_KEY = tuple(name for name in FINDING_COLUMNS if name not in ("project_id", "id"))
"""The columns of findings that are not its key."""
RESEEN = ("content", "reported", "line", "last_seen", "first_run", "last_run", "closed_as", "closed_at")
"""The columns of identities that an import may change."""


class SqlRecords(SqlReading, Records):
    """The records inside one transaction. This is SQLite's way; what PostgreSQL does otherwise, it overrides."""

    _later: ClassVar[str] = "max"
    """The function that takes the later one of two times."""

    def __init__(self, connection: Connection, watch: Watch | None = None) -> None:
        super().__init__(connection, watch)
        self._events: defaultdict[tuple[str, int], int] = defaultdict(int)

    def finish(self) -> None:
        """Do what is left to do before what was written is committed."""

    def advance(self, project_id: str, at: str) -> Advance:
        """See `Records.advance`."""
        first, step = first_revision(), revision_step()
        now = self._run(*self._advancing(project_id, time_key(at), first, step))[0][0]
        return Advance(0 if now == first else now - step, now)

    def _advancing(self, project_id: str, at: str, first: int, step: int) -> tuple[str, tuple[Any, ...]]:
        """Return the statement that makes a project, or its revision larger, and its parameters."""
        sql = (
            "INSERT INTO finding_projects (project_id, created_at, revision) VALUES (?, ?, ?) "
            "ON CONFLICT (project_id) DO UPDATE SET revision = finding_projects.revision + ? RETURNING revision"
        )
        return sql, (project_id, at, first, step)

    def put_project(self, project_id: str, state: ProjectState) -> None:
        """See `Records.put_project`. The new row keeps other writers waiting."""
        sql = (
            "INSERT INTO finding_projects (project_id, created_at, revision) VALUES (?, ?, ?) "
            "ON CONFLICT (project_id) DO NOTHING RETURNING 1"
        )
        if not self._run(sql, (project_id, time_key(state.created_at or now()), state.revision)):
            raise StorageConflictError(f"there is a project {project_id!r} already")

    def move_to(self, project_id: str, revision: int) -> int:
        """See `Records.move_to`."""
        self._lock(project_id)
        before = self.revision(project_id)
        self._run("UPDATE finding_projects SET revision = ? WHERE project_id = ?", (revision, project_id))
        return before

    def _lock(self, project_id: str) -> None:
        """Keep other writers of a project out; on SQLite the transaction does."""

    def insert(self, project_id: str, rows: Sequence[Stored]) -> None:
        """See `Records.insert`."""
        findings = [mapping.finding_row(document, objects) for document, _, objects, *_ in rows]
        identities = [(project_id, *mapping.identity_row(one.identity)) for one in rows]
        identities.sort(key=lambda row: (row[2], row[3]))
        self._insert_all("findings", FINDING_COLUMNS, findings)
        self._insert_all("finding_identities", ("project_id", *IDENTITY_COLUMNS), identities)

    def _insert_all(self, table: str, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        """Add rows."""
        self._run_many(insertion(table, columns), rows)

    def replace(self, project_id: str, rows: Sequence[Stored]) -> None:
        """See `Records.replace`."""
        findings = []
        for document, _, objects, *_ in rows:
            values = dict(zip(FINDING_COLUMNS, mapping.finding_row(document, objects), strict=True))
            findings.append((*(values[name] for name in BESIDE_KEY), project_id, document["id"]))
        self._run_many(_update("findings", BESIDE_KEY, ("project_id", "id")), findings)
        identities = [
            (*mapping.identity_row(identity)[1:], project_id, identity.finding_id) for _, identity, *_ in rows
        ]
        sql = _update("finding_identities", IDENTITY_COLUMNS[1:], ("project_id", "finding_id"))
        self._run_many(sql, identities)

    def reidentify(self, project_id: str, identities: Sequence[Identity]) -> None:
        """See `Records.reidentify`."""
        rows = []
        for identity in identities:
            values = dict(zip(IDENTITY_COLUMNS, mapping.identity_row(identity), strict=True))
            rows.append(
                (*(values[name] for name in RESEEN), project_id, identity.fingerprint, identity.ordinal)
            )
        self._run_many(_update("finding_identities", RESEEN, ("project_id", "fingerprint", "ordinal")), rows)

    def seen(self, project_id: str, identities: Sequence[Identity], at: str, run: int) -> None:
        """See `Records.seen`."""
        time = time_key(at)
        rows = sorted((time, run, project_id, one.fingerprint, one.ordinal) for one in identities)
        self._run_many(self._see("project_id", "fingerprint", "ordinal"), rows)

    def seen_again(self, project_id: str, last_run: int, at: str, run: int) -> None:
        """See `Records.seen_again`."""
        self._run(self._see("project_id", "last_run"), (time_key(at), run, project_id, last_run))

    def _see(self, *keys: str) -> str:
        sets = f"last_seen = {self._later}(last_seen, ?), last_run = ?"
        return f"UPDATE finding_identities SET {sets} WHERE {' AND '.join(f'{key} = ?' for key in keys)}"  # noqa: S608

    def change_status(self, project_id: str, changes: Sequence[StatusChange]) -> None:
        """See `Records.change_status`."""
        statuses = [(change.status, project_id, change.finding_id) for change in changes]
        self._run_many(_update("findings", ("status",), ("project_id", "id")), statuses)
        closings = [
            (change.closed_as, mapping.optional_time(change.closed_at), project_id, change.finding_id)
            for change in changes
        ]
        sql = _update("finding_identities", ("closed_as", "closed_at"), ("project_id", "finding_id"))
        self._run_many(sql, closings)

    def remove(self, project_id: str, finding_ids: Sequence[str]) -> None:
        """See `Records.remove`; identities and streaks go with their finding."""
        rows = [(project_id, finding_id) for finding_id in finding_ids]
        self._run_many("DELETE FROM findings WHERE project_id = ? AND id = ?", rows)

    def add_streaks(self, project_id: str, streaks: Sequence[Streak]) -> None:
        """See `Records.add_streaks`."""
        sql = insertion("finding_sightings", ("project_id", "finding_id", "first_run", "last_run"))
        self._run_many(sql, [(project_id, *streak) for streak in streaks])

    def add_events(self, project_id: str, revision: int, events: Sequence[Event]) -> None:
        """See `Records.add_events`."""
        first = self._events[project_id, revision]
        self._events[project_id, revision] += len(events)
        rows = [
            (project_id, revision, first + n, *mapping.event_row(event)) for n, event in enumerate(events)
        ]
        self._run_many(
            insertion("finding_events", ("project_id", "revision", "position", *EVENT_COLUMNS)), rows
        )

    def put_run(self, project_id: str, run: Run, receipt: Receipt | None = None) -> None:
        """See `Records.put_run`."""
        sql = insertion("finding_runs", ("project_id", *RUN_COLUMNS, *RECEIPT_COLUMNS))
        self._run(sql, (project_id, *mapping.run_row(run), *(receipt[1:] if receipt else (None,) * 3)))

    def receipts(self, project_id: str, since: int) -> list[Receipt]:
        """See `Records.receipts`."""
        columns = self._columns("finding_runs", ("number", *RECEIPT_COLUMNS))
        sql = (
            f"SELECT {columns} FROM finding_runs WHERE project_id = ? AND number >= ? "  # noqa: S608  # constants
            "AND digests IS NOT NULL ORDER BY number DESC"
        )
        return [Receipt._make(row) for row in self._run(sql, (project_id, since))]

    def put_rejected(self, project_id: str, originals: Sequence[RejectedOriginal]) -> None:
        """See `Records.put_rejected`."""
        sets = names(f"{column} = excluded.{column}" for column in REJECTED_COLUMNS[1:6])
        sql = (
            insertion("finding_rejected", ("project_id", *REJECTED_COLUMNS))
            + f" ON CONFLICT (project_id, rejected_id) DO UPDATE SET {sets}"
        )
        rows = [(project_id, *mapping.rejected_row(one, json.dumps(one.original))) for one in originals]
        self._run_many(sql, rows)

    def remove_rejected(self, project_id: str, rejected_ids: Sequence[str]) -> int:
        """See `Records.remove_rejected`."""
        sql = (
            f"SELECT {self._columns('finding_rejected', ['rejected_id'])} "  # noqa: S608  # constants
            "FROM finding_rejected WHERE project_id = ?"
        )
        found = [row[0] for row in self._run_in(sql, "rejected_id", project_id, set(rejected_ids))]
        delete = "DELETE FROM finding_rejected WHERE project_id = ? AND rejected_id = ?"
        self._run_many(delete, [(project_id, rejected_id) for rejected_id in found])
        return len(found)

    def delete_project(self, project_id: str) -> None:
        """See `Records.delete_project`; everything else goes with the project's row."""
        self._run("DELETE FROM finding_projects WHERE project_id = ?", (project_id,))
