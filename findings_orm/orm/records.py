"""What `Records` reads from one connection."""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, ClassVar

from pydantic_core import from_json, to_json
from sqlalchemy import Connection

from findings_orm.clock import first_revision, now, revision_step
from findings_orm.diagnosis import CLOSED_UNEQUALLY, Survey
from findings_orm.errors import StorageConflictError
from findings_orm.finding import ACTIVE_STATUSES, FindingDocument
from findings_orm.freetext import RELEVANCE, WHOLE, relevance
from findings_orm.orm import mapping, queries, ranges, sqlite_plans
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
from findings_orm.orm.models import TABLES, Access
from findings_orm.orm.observation import Watch
from findings_orm.orm.queries import Clause, Select
from findings_orm.orm.statements import LOOKUP_BATCH, SqlStatements, value_marks
from findings_orm.orm.types import stored_time
from findings_orm.port import Event, RejectedOriginal, Run
from findings_orm.process import pause_garbage_collection
from findings_orm.query import FindingQuery, Summary, time_key
from findings_orm.records import (
    Advance,
    Identity,
    Kept,
    ProjectState,
    Receipt,
    Records,
    StatusChange,
    Stored,
    Streak,
    Unseen,
)

# -- relevance over rows: what `findings_orm.freetext.relevance` says of a document, without reading all of it


def most_relevant(query: FindingQuery, batches: Iterable[Sequence[Row]], limit: int) -> list[str]:
    """Return the ids of the first `limit` findings after the query's cursor, of all candidates.

    Args:
        query: a query by relevance.
        batches: rows of the columns `queries.RANKED`; those that don't have all words are left out.
        limit: how many ids are kept in memory.
    """
    after = query.after
    scores = (pair for rows in batches for pair in _score_rows(query, rows))
    if query.descending:
        found = heapq.nlargest(limit, (pair for pair in scores if after is None or pair < after))
    else:
        found = heapq.nsmallest(limit, (pair for pair in scores if after is None or pair > after))
    return [finding_id for _, finding_id in found]


def perfect_matches(query: FindingQuery, latest: Sequence[Row], limit: int) -> list[str] | None:
    """Return the ids of the first `limit` findings after the query's cursor, if the latest ones show them; None if not.

    A finding that has every word as a token of its title can't be surpassed, and ties are in the order of ids. So where a
    word is frequent, nearly always a page is full before all that have it are scored.

    Args:
        query: a query by relevance, the best first.
        latest: rows of the columns `queries.RANKED` of the findings with the largest ids below the cursor's.
        limit: how many ids are wanted.
    """
    perfect = WHOLE * len(query.words)
    found = [finding_id for score, finding_id in _score_rows(query, latest) if score == perfect]
    return sorted(found, reverse=True)[:limit] if len(found) >= limit else None


def _score_rows(query: FindingQuery, rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
    for finding_id, title, resource, detector_id, rule_id, location in rows:
        score = relevance(
            query.words,
            {
                "title": title,
                "resource": resource,
                "detector_id": detector_id,
                "rule_id": rule_id,
                "location": from_json(location) if location else None,
            },
        )
        if score:
            yield score, str(finding_id)


# -- what `Records` reads from one connection -------------------------------------------------------------


READ_BATCH = 1_000
LATEST = 1_000
"""How many findings are looked at for a page by relevance, before all are scored."""
_WIDTH = len(FINDING_COLUMNS)


def _rows_without(table: str, of: str, condition: str) -> str:
    return (
        f"{table} t WHERE NOT EXISTS (SELECT 1 FROM {of} o WHERE o.project_id = t.project_id AND {condition})"  # noqa: S608
    )


_ACTIVE = ", ".join(f"'{status.value}'" for status in ACTIVE_STATUSES)
ORPHANS = {
    "findings without a project": _rows_without("findings", "finding_projects", "true"),
    "findings without an identity": _rows_without("findings", "finding_identities", "o.finding_id = t.id"),
    "identities without a finding": _rows_without("finding_identities", "findings", "o.id = t.finding_id"),
    "sightings without a finding": _rows_without("finding_sightings", "findings", "o.id = t.finding_id"),
    "runs without a project": _rows_without("finding_runs", "finding_projects", "true"),
    "events without a project": _rows_without("finding_events", "finding_projects", "true"),
    "refused originals without a project": _rows_without("finding_rejected", "finding_projects", "true"),
    CLOSED_UNEQUALLY: (
        "findings f JOIN finding_identities i ON i.project_id = f.project_id AND i.finding_id = f.id "
        f"WHERE (f.status IN ({_ACTIVE})) = (i.closed_at IS NOT NULL)"
    ),
}
"""What must not be there, in words, to the rest of a ``SELECT`` that finds it."""


class SqlReading(SqlStatements):
    """The reading half of the records. This is SQLite's way; what PostgreSQL does otherwise, it overrides."""

    dialect: ClassVar[queries.Dialect] = queries.Dialect()
    _is_json: ClassVar[str] = " AND ".join(
        f"json_valid(coalesce(f.{name}, '{{}}'))" for name in mapping.JSON_FIELDS
    )
    """Whether the columns of JSON can be taken as they are; where not, `mapping` says what is wrong."""
    _by_cwe: ClassVar[str] = (
        "SELECT m.value, count(DISTINCT f.id) FROM findings f, json_each(f.cwe_ids) m "
        "WHERE f.project_id = ? AND f.cwe_ids <> '[]' GROUP BY m.value"
    )

    def projects(self) -> list[str]:
        """See `Records.projects`."""
        return [
            row[0] for row in self._run_sql("SELECT project_id FROM finding_projects ORDER BY project_id")
        ]

    def revision(self, project_id: str) -> int:
        """See `Records.revision`."""
        rows = self._run_sql("SELECT revision FROM finding_projects WHERE project_id = ?", (project_id,))
        return int(rows[0][0]) if rows else 0

    def stored(self, project_id: str, finding_ids: Collection[str]) -> dict[str, Stored]:
        """See `Records.stored`."""
        sql = f"{self._select_with_identities(self._last_event)} WHERE f.project_id = ?"
        found = map(_stored_from_row, self._run_in(sql, "f.id", project_id, finding_ids))
        return {one.identity.finding_id: one for one in found}

    @property
    def _last_event(self) -> str:
        """The time of the last entry in the history of ``f``."""
        return (
            f"(SELECT {self._select_columns('finding_events', ['at'], 'e.')} FROM finding_events e "  # noqa: S608  # constants
            "WHERE e.project_id = f.project_id AND e.finding_id = f.id ORDER BY e.at DESC LIMIT 1)"
        )

    def get(self, project_id: str, finding_id: str) -> FindingDocument | None:
        """See `Records.get`."""
        columns = self._select_columns("findings", FINDING_COLUMNS)
        sql = f"SELECT {columns} FROM findings WHERE project_id = ? AND id = ?"  # noqa: S608  # constants
        rows = self._run_sql(sql, (project_id, finding_id))
        return mapping.document_from_row(rows[0]) if rows else None

    def identities(self, project_id: str, fingerprints: Collection[bytes]) -> list[Identity]:
        """See `Records.identities`."""
        columns = self._select_columns("finding_identities", IDENTITY_COLUMNS)
        sql = f"SELECT {columns} FROM finding_identities WHERE project_id = ?"  # noqa: S608  # constants
        rows = self._run_in(sql, "fingerprint", project_id, sorted(fingerprints))
        return [mapping.identity_from_row(row) for row in rows]

    def unseen(
        self,
        project_id: str,
        detectors: Collection[str],
        run: int,
        statuses: Collection[str],
        held: Collection[int] = (),
        own: Collection[int] = (),
    ) -> Iterator[list[Unseen]]:
        """See `Records.unseen`."""
        if not detectors:
            return
        is_own, is_held = _seen_in_any(own), _seen_in_any(held)
        sql = (
            f"SELECT f.id, f.status, {self._select_columns('finding_identities', ['last_seen'], 'i.')}, {self._last_event}, "  # noqa: S608
            f"i.last_run, {is_own.sql} FROM finding_identities i "
            "JOIN findings f ON f.project_id = i.project_id AND f.id = i.finding_id "
            "WHERE i.project_id = ? AND i.last_run < ? AND i.closed_at IS NULL AND f.id > ? "
            f"AND f.status IN ({value_marks(statuses)}) AND f.detector_id IN ({value_marks(detectors)}) "
            f"{f'AND NOT {is_held.sql} ' if held else ''}ORDER BY f.id LIMIT {LOOKUP_BATCH}"
        )
        after = "00000000-0000-0000-0000-000000000000"
        while True:
            values = (*is_own.values, project_id, run, after, *statuses, *detectors, *is_held.values)
            rows = self._run_sql(sql, values)
            if rows:
                yield [
                    Unseen(
                        str(row[0]),
                        row[1],
                        stored_time(row[2]),
                        row[3] and stored_time(row[3]),
                        row[4],
                        bool(row[5]),
                    )
                    for row in rows
                ]
                after = str(rows[-1][0])
            if len(rows) < LOOKUP_BATCH:
                return

    def last_seen_in(self, project_id: str, detectors: Collection[str], since: int, before: int) -> list[str]:
        """See `Records.last_seen_in`."""
        sql = (
            "SELECT i.finding_id FROM finding_identities i "  # noqa: S608  # constants and marks
            "JOIN findings f ON f.project_id = i.project_id AND f.id = i.finding_id "
            f"WHERE i.project_id = ? AND i.last_run >= ? AND i.last_run < ? AND f.detector_id IN ({value_marks(detectors)})"
        )
        rows = self._run_sql(sql, (project_id, since, before, *detectors))
        return [str(row[0]) for row in rows]

    def seen_in(self, project_id: str, run: Run) -> set[str]:
        """See `Records.seen_in`."""
        if not run.detectors:
            return set()
        is_seen = _seen_in_any([run.number])
        sql = (
            "SELECT i.finding_id FROM finding_identities i "  # noqa: S608  # constants and marks
            "JOIN findings f ON f.project_id = i.project_id AND f.id = i.finding_id "
            f"WHERE i.project_id = ? AND f.detector_id IN ({value_marks(run.detectors)}) AND {is_seen.sql}"
        )
        rows = self._run_sql(sql, (project_id, *run.detectors, *is_seen.values))
        return {str(row[0]) for row in rows}

    def closed_before(self, project_id: str, time: str, limit: int) -> list[Stored]:
        """See `Records.closed_before`."""
        sql = (
            f"{self._select_with_identities(self._last_event)} WHERE i.project_id = ? AND i.closed_at < ? "
            "ORDER BY i.closed_at, i.finding_id LIMIT ?"
        )
        return list(map(_stored_from_row, self._run_sql(sql, (project_id, time_key(time), limit))))

    def count_closed_before(self, project_id: str, time: str) -> int:
        """See `Records.count_closed_before`."""
        sql = "SELECT count(*) FROM finding_identities WHERE project_id = ? AND closed_at < ?"
        return int(self._run_sql(sql, (project_id, time_key(time)))[0][0])

    def _select_all_documents(self, *more: str) -> str:
        """Return the SELECT of all documents of a project in their order."""
        columns = ", ".join((self._select_columns("findings", FINDING_COLUMNS, "f."), *more))
        return f"SELECT {columns} FROM findings f WHERE f.project_id = ? ORDER BY f.created_at, f.id"  # noqa: S608

    def stream(self, project_id: str, *, as_json: bool = False) -> Generator[object, None, None]:
        """See `Records.stream`."""
        if not as_json:
            for rows in self._read_batches(Clause(self._select_all_documents(), (project_id,))):
                yield from map(mapping.document_from_row, rows)
            return
        for rows in self._read_batches(Clause(self._select_all_documents(self._is_json), (project_id,))):
            for *row, is_json in rows:
                yield mapping.json_from_row(row) if is_json else to_json(mapping.document_from_row(row))

    def _read_batches(self, statement: Clause) -> Iterator[Sequence[Row]]:
        """Run a statement and yield its rows in batches."""
        if self.route is not None:
            yield from self.route.read(*statement, READ_BATCH)
            return
        result = self.connection.exec_driver_sql(*statement)
        cursor: Any = result.cursor
        try:
            while rows := cursor.fetchmany(READ_BATCH):
                yield rows
        finally:
            result.close()

    def select(self, query: FindingQuery, limit: int) -> list[FindingDocument]:
        """See `Records.select`."""
        if query.sort_field == RELEVANCE:
            return self._select_best(query, limit)
        if ranges.can_merge_ranges(query):
            merge, values = ranges.merge_of(query, limit)
            rows = self._rows_of_ranges(query.project_id, merge, values) if merge.severities else []
        else:
            rows = self._rows_of_page(query, limit)
        return [mapping.document_from_row(row) for row in rows]

    def _rows_of_ranges(self, project_id: str, merge: ranges.Merge, values: tuple[str, ...]) -> list[Row]:
        """Return the rows of a page that is merged from ranges."""
        columns = self.dialect.columns(FINDING_COLUMNS)
        return self._run_sql(*ranges.sqlite_walk(merge, columns, (project_id, *values), Clause("true"), None))

    def _rows_of_page(self, query: FindingQuery, limit: int) -> list[Row]:
        """Return the rows of a page."""
        if query.words:
            page = queries.select_documents(query, self.dialect, limit)
            return self._run_sql(*self._narrow_by_index(page, query, all_read=False).full_statement())
        return sqlite_plans.rows_of_page(self._run_sql, query, self.dialect, limit)

    def _select_best(self, query: FindingQuery, limit: int) -> list[FindingDocument]:
        """Return documents by relevance, which Python decides: databases fold other letters than it does."""
        best = self._perfect_matches(query, limit) or most_relevant(query, self._scored(query), limit)
        columns = self._select_columns("findings", FINDING_COLUMNS)
        sql = f"SELECT {columns} FROM findings WHERE project_id = ?"  # noqa: S608  # constants
        found = {
            document["id"]: document
            for document in map(mapping.document_from_row, self._run_in(sql, "id", query.project_id, best))
        }
        return [found[finding_id] for finding_id in best]

    def _perfect_matches(self, query: FindingQuery, limit: int) -> list[str] | None:
        """Return what `perfect_matches` does, where it is worth a look at the latest findings."""
        statement = queries.latest(query, self.dialect, LATEST)
        if statement is None or limit > LATEST or not self._is_frequent(query):
            return None
        return perfect_matches(query, self._run_sql(*statement), limit)

    def _is_frequent(self, query: FindingQuery) -> bool:
        """Return whether so many findings may have the words that it takes long to score them all, or whether to ask that
        would."""
        return True

    def _scored(self, query: FindingQuery) -> Iterator[Sequence[Row]]:
        """Yield what decides about relevance, in batches, of all that may match."""
        yield from self._read_batches(
            self._narrow_by_index(queries.select_ranked(query, self.dialect), query).full_statement()
        )

    def count(self, query: FindingQuery) -> int:
        """See `Records.count`."""
        statement = self._narrow_by_index(queries.select_count(query, self.dialect), query)
        return int(self._run_sql(*statement.full_statement())[0][0])

    def _narrow_by_index(self, statement: Select, query: FindingQuery, *, all_read: bool = True) -> Select:
        """Return a SELECT of what matches a query, confined to what an index of texts knows, and whether all of its rows will
        be read."""
        return statement

    def summarize(self, project_id: str) -> Summary:
        """See `Records.summarize`."""
        by = "SELECT {0}, count(*) FROM findings WHERE project_id = ? GROUP BY {0}"
        top = by + " ORDER BY 2 DESC, 1 LIMIT 10"
        pairs = self._run_sql(
            "SELECT severity, status, count(*) FROM findings WHERE project_id = ? GROUP BY severity, status",
            (project_id,),
        )
        severities: defaultdict[str, int] = defaultdict(int)
        statuses: defaultdict[str, int] = defaultdict(int)
        for severity, status, count in pairs:
            severities[severity] += count
            statuses[status] += count
        detector, cwe, resource = (
            {row[0]: row[1] for row in self._run_sql(sql, (project_id,))}
            for sql in (by.format("detector_id"), self._by_cwe, top.format("resource"))
        )
        return Summary.of_counts(project_id, severities, statuses, detector, cwe, resource)

    def take_survey(self) -> Survey:
        """See `Records.take_survey`."""
        versions = self._run_sql(
            "SELECT fingerprint_version, count(*) FROM finding_identities GROUP BY fingerprint_version"
        )
        orphans = {
            what: self._run_sql(f"SELECT count(*) FROM {rows}")[0][0]  # noqa: S608  # constants
            for what, rows in ORPHANS.items()
        }
        rejected = self._run_sql("SELECT count(*) FROM finding_rejected")[0][0]
        return Survey({row[0]: row[1] for row in versions}, orphans, rejected)

    def count_by_status(self) -> dict[tuple[str, str], int]:
        """See `Records.count_by_status`."""
        rows = self._run_sql("SELECT severity, status, count(*) FROM findings GROUP BY severity, status")
        return {(severity, status): count for severity, status, count in rows}

    def events(self, project_id: str, finding_id: str) -> list[Event]:
        """See `Records.events`."""
        sql = (
            f"SELECT {self._select_columns('finding_events', EVENT_COLUMNS)} FROM finding_events "  # noqa: S608  # constants
            "WHERE project_id = ? AND finding_id = ? ORDER BY revision, position"
        )
        return [mapping.event_from_row(row) for row in self._run_sql(sql, (project_id, finding_id))]

    def runs(self, project_id: str) -> list[Run]:
        """See `Records.runs`."""
        columns = self._select_columns("finding_runs", RUN_COLUMNS)
        sql = f"SELECT {columns} FROM finding_runs WHERE project_id = ? ORDER BY number"  # noqa: S608  # constants
        return [mapping.run_from_row(row) for row in self._run_sql(sql, (project_id,))]

    def rejected(self, project_id: str) -> list[RejectedOriginal]:
        """See `Records.rejected`."""
        sql = (
            f"SELECT {self._select_columns('finding_rejected', REJECTED_COLUMNS, 'r.')} "  # noqa: S608  # constants
            "FROM finding_rejected r WHERE r.project_id = ? ORDER BY r.at, r.position, r.rejected_id"
        )
        return [_original_from_row(row) for row in self._run_sql(sql, (project_id,))]

    def project_state(self, project_id: str) -> ProjectState | None:
        """See `Records.project_state`."""
        columns = self._select_columns("finding_projects", ("revision", "created_at"))
        sql = f"SELECT {columns} FROM finding_projects WHERE project_id = ?"  # noqa: S608  # constants
        return next(
            (ProjectState(row[0], stored_time(row[1])) for row in self._run_sql(sql, (project_id,))), None
        )

    def all_findings(self, project_id: str) -> Iterator[list[Kept]]:
        """See `Records.all_findings`."""
        streaks = (
            f"SELECT {self._select_columns('finding_sightings', Streak._fields)} FROM finding_sightings "  # noqa: S608
            "WHERE project_id = ? AND finding_id BETWEEN ? AND ? ORDER BY finding_sightings.finding_id, first_run"
        )
        everything = Clause(
            f"{self._select_with_identities()} WHERE f.project_id = ? ORDER BY f.id", (project_id,)
        )
        for rows in self._read_batches(everything):
            with pause_garbage_collection():
                found = [
                    (mapping.document_from_row(row[:_WIDTH]), mapping.identity_from_row(row[_WIDTH:]))
                    for row in rows
                ]
            first, last = found[0][0]["id"], found[-1][0]["id"]
            of_finding: defaultdict[str, list[Streak]] = defaultdict(list)
            for row in self._run_sql(streaks, (project_id, first, last)):
                of_finding[row[0]].append(Streak(*row))
            yield [Kept(*one, tuple(of_finding.get(one[1].finding_id, ()))) for one in found]

    def all_events(self, project_id: str) -> Iterator[list[Event]]:
        """See `Records.all_events`."""
        sql = (
            f"SELECT {self._select_columns('finding_events', EVENT_COLUMNS)} FROM finding_events "  # noqa: S608  # constants
            "WHERE project_id = ? ORDER BY finding_events.finding_id, revision, position"
        )
        for rows in self._read_batches(Clause(sql, (project_id,))):
            yield [mapping.event_from_row(row) for row in rows]

    def all_rejected(self, project_id: str) -> Iterator[list[RejectedOriginal]]:
        """See `Records.all_rejected`."""
        sql = (
            f"SELECT {self._select_columns('finding_rejected', REJECTED_COLUMNS)} FROM finding_rejected "  # noqa: S608
            "WHERE project_id = ? ORDER BY finding_rejected.rejected_id"
        )
        for rows in self._read_batches(Clause(sql, (project_id,))):
            yield [_original_from_row(row) for row in rows]


def _seen_in_any(runs: Collection[int]) -> Clause:
    """Return the condition that one of some runs saw the finding of the identity ``i``."""
    if not runs:
        return Clause("(1 = 0)")
    sees = " OR ".join(["({0}.first_run <= ? AND {0}.last_run >= ?)"] * len(runs))
    values = [number for run in runs for number in (run, run)]
    sql = (
        f"({sees.format('i')} OR EXISTS (SELECT 1 FROM finding_sightings s "  # noqa: S608  # constants and marks
        f"WHERE s.project_id = i.project_id AND s.finding_id = i.finding_id AND ({sees.format('s')})))"
    )
    return Clause(sql, (*values, *values))


def _stored_from_row(row: Row) -> Stored:
    """Return a row of `_select_with_identities` with `_last_event` behind it."""
    document, identity = mapping.document_from_row(row[:_WIDTH]), mapping.identity_from_row(row[_WIDTH:-1])
    return Stored(document, identity, last_event=row[-1] and stored_time(row[-1]))


def _original_from_row(row: Row) -> RejectedOriginal:
    return RejectedOriginal(row[0], row[1], row[2], stored_time(row[3]), row[4], row[5], json.loads(row[6]))


# -- what `Records` writes to it --------------------------------------------------------------------------


@lru_cache(64)
def insert_statement(table: str, columns: tuple[str, ...], rows: int = 1) -> str:
    """Return the statement that adds rows."""
    value_marks = ", ".join("?" * (len(columns)))
    return f"INSERT INTO {table} ({names(columns)}) VALUES " + ", ".join([f"({value_marks})"] * rows)  # noqa: S608  # constants


def _update_statement(table: str, columns: Sequence[str], keys: Sequence[str]) -> str:
    sets = ", ".join(f"{column} = ?" for column in columns)
    where = " AND ".join(f"{key} = ?" for key in keys)
    return f"UPDATE {table} SET {sets} WHERE {where}"  # noqa: S608  # constants


BESIDE_KEY = tuple(name for name in FINDING_COLUMNS if name not in ("project_id", "id"))
"""The columns of findings that are not its key."""
RESEEN = ("content", "reported", "line", "last_seen", "first_run", "last_run", "closed_as", "closed_at")
"""The columns of identities that an import may change."""

OF_PROJECT = tuple(table.name for table in reversed(TABLES) if table.name != Access.__tablename__)
"""The tables with rows of a project, each before those that it refers to. What is removed is removed from each: a connection
of an application to SQLite may not cascade, and PostgreSQL would run a statement for each finding."""
OF_FINDING = (("finding_sightings", "finding_id"), ("finding_identities", "finding_id"), ("findings", "id"))
"""The tables with rows of a finding, and the column with its id. Its events stay."""


class SqlRecords(SqlReading, Records):
    """The records inside one transaction. This is SQLite's way; what PostgreSQL does otherwise, it overrides."""

    _later: ClassVar[str] = "max"
    """The function that takes the later one of two times."""

    def __init__(self, connection: Connection, watch: Watch | None = None) -> None:
        super().__init__(connection, watch)
        self._events: defaultdict[tuple[str, int], int] = defaultdict(int)

    def finish_writes(self) -> None:
        """Do what is left to do before what was written is committed."""

    def advance(self, project_id: str, at: str) -> Advance:
        """See `Records.advance`."""
        first, step = first_revision(), revision_step()
        now = self._run_sql(*self._advance_statement(project_id, time_key(at), first, step))[0][0]
        return Advance(0 if now == first else now - step, now)

    def _advance_statement(
        self, project_id: str, at: str, first: int, step: int
    ) -> tuple[str, tuple[object, ...]]:
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
        if not self._run_sql(sql, (project_id, time_key(state.created_at or now()), state.revision)):
            raise StorageConflictError(f"there is a project {project_id!r} already")

    def move_to(self, project_id: str, revision: int) -> int:
        """See `Records.move_to`."""
        self._lock_project(project_id)
        before = self.revision(project_id)
        self._run_sql("UPDATE finding_projects SET revision = ? WHERE project_id = ?", (revision, project_id))
        return before

    def _lock_project(self, project_id: str) -> None:
        """Keep other writers of a project out; on SQLite the transaction does."""

    def insert(self, project_id: str, rows: Sequence[Stored]) -> None:
        """See `Records.insert`."""
        findings = [mapping.finding_row(document, objects) for document, _, objects, *_ in rows]
        self._insert_all("findings", FINDING_COLUMNS, findings)
        self.add_identities(project_id, rows)

    def add_identities(self, project_id: str, rows: Sequence[Stored]) -> None:
        """Add the identities of new findings whose rows are there."""
        identities = [(project_id, *mapping.identity_row(one.identity)) for one in rows]
        identities.sort(key=lambda row: (row[2], row[3]))
        self._insert_all("finding_identities", ("project_id", *IDENTITY_COLUMNS), identities)

    def _insert_all(self, table: str, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        """Add rows."""
        self._run_many(insert_statement(table, columns), rows)

    def replace(self, project_id: str, rows: Sequence[Stored]) -> None:
        """See `Records.replace`."""
        findings = []
        for document, _, objects, *_ in rows:
            values = dict(zip(FINDING_COLUMNS, mapping.finding_row(document, objects), strict=True))
            findings.append((*(values[name] for name in BESIDE_KEY), project_id, document["id"]))
        self._run_many(_update_statement("findings", BESIDE_KEY, ("project_id", "id")), findings)
        identities = [
            (*mapping.identity_row(identity)[1:], project_id, identity.finding_id) for _, identity, *_ in rows
        ]
        sql = _update_statement("finding_identities", IDENTITY_COLUMNS[1:], ("project_id", "finding_id"))
        self._run_many(sql, identities)

    def reidentify(self, project_id: str, identities: Sequence[Identity]) -> None:
        """See `Records.reidentify`."""
        rows = []
        for identity in identities:
            values = dict(zip(IDENTITY_COLUMNS, mapping.identity_row(identity), strict=True))
            rows.append(
                (*(values[name] for name in RESEEN), project_id, identity.fingerprint, identity.ordinal)
            )
        self._run_many(
            _update_statement("finding_identities", RESEEN, ("project_id", "fingerprint", "ordinal")), rows
        )

    def seen(self, project_id: str, identities: Sequence[Identity], at: str, run: int) -> None:
        """See `Records.seen`."""
        time = time_key(at)
        rows = sorted((time, run, project_id, one.fingerprint, one.ordinal) for one in identities)
        self._run_many(self._seen_statement("project_id", "fingerprint", "ordinal"), rows)

    def seen_again(self, project_id: str, last_run: int, at: str, run: int) -> None:
        """See `Records.seen_again`."""
        self._run_sql(
            self._seen_statement("project_id", "last_run"), (time_key(at), run, project_id, last_run)
        )

    def _seen_statement(self, *keys: str) -> str:
        sets = f"last_seen = {self._later}(last_seen, ?), last_run = ?"
        return f"UPDATE finding_identities SET {sets} WHERE {' AND '.join(f'{key} = ?' for key in keys)}"  # noqa: S608

    def change_status(self, project_id: str, changes: Sequence[StatusChange]) -> None:
        """See `Records.change_status`."""
        statuses = [(change.status, project_id, change.finding_id) for change in changes]
        self._run_many(_update_statement("findings", ("status",), ("project_id", "id")), statuses)
        closings = [
            (change.closed_as, mapping.optional_time(change.closed_at), project_id, change.finding_id)
            for change in changes
        ]
        sql = _update_statement(
            "finding_identities", ("closed_as", "closed_at"), ("project_id", "finding_id")
        )
        self._run_many(sql, closings)

    def remove(self, project_id: str, finding_ids: Sequence[str]) -> None:
        """See `Records.remove`."""
        rows = [(project_id, finding_id) for finding_id in finding_ids]
        for table, column in OF_FINDING:
            self._run_many(f"DELETE FROM {table} WHERE project_id = ? AND {column} = ?", rows)  # noqa: S608  # constants

    def add_streaks(self, project_id: str, streaks: Sequence[Streak]) -> None:
        """See `Records.add_streaks`."""
        columns = ("project_id", "finding_id", "first_run", "last_run")
        self._insert_all("finding_sightings", columns, [(project_id, *streak) for streak in streaks])

    def add_events(self, project_id: str, revision: int, events: Sequence[Event]) -> None:
        """See `Records.add_events`."""
        first = self._events[project_id, revision]
        self._events[project_id, revision] += len(events)
        rows = [
            (project_id, revision, first + n, *mapping.event_row(event)) for n, event in enumerate(events)
        ]
        self._insert_all("finding_events", ("project_id", "revision", "position", *EVENT_COLUMNS), rows)

    def put_run(self, project_id: str, run: Run, receipt: Receipt | None = None) -> None:
        """See `Records.put_run`."""
        sql = insert_statement("finding_runs", ("project_id", *RUN_COLUMNS, *RECEIPT_COLUMNS))
        self._run_sql(sql, (project_id, *mapping.run_row(run), *(receipt[1:] if receipt else (None,) * 3)))

    def replace_runs(self, project_id: str, runs: Sequence[Run]) -> None:
        """See `Records.replace_runs`."""
        names = ("detectors", "counts", "category", "categories")
        marks = ", ".join(f"{name} = ?" for name in names)
        sql = f"UPDATE finding_runs SET {marks} WHERE project_id = ? AND run_id = ?"  # noqa: S608  # constants
        for run in runs:
            row = dict(zip(RUN_COLUMNS, mapping.run_row(run), strict=True))
            self._run_sql(sql, (*(row[name] for name in names), project_id, run.id))

    def receipts(self, project_id: str, since: int) -> list[Receipt]:
        """See `Records.receipts`."""
        columns = self._select_columns("finding_runs", ("number", *RECEIPT_COLUMNS))
        sql = (
            f"SELECT {columns} FROM finding_runs WHERE project_id = ? AND number >= ? "  # noqa: S608  # constants
            "AND digests IS NOT NULL ORDER BY number DESC"
        )
        return [Receipt._make(row) for row in self._run_sql(sql, (project_id, since))]

    def put_rejected(self, project_id: str, originals: Sequence[RejectedOriginal]) -> None:
        """See `Records.put_rejected`."""
        sets = names(f"{column} = excluded.{column}" for column in REJECTED_COLUMNS[1:6])
        sql = (
            insert_statement("finding_rejected", ("project_id", *REJECTED_COLUMNS))
            + f" ON CONFLICT (project_id, rejected_id) DO UPDATE SET {sets}"
        )
        rows = [(project_id, *mapping.rejected_row(one, json.dumps(one.original))) for one in originals]
        self._run_many(sql, rows)

    def remove_rejected(self, project_id: str, rejected_ids: Sequence[str]) -> int:
        """See `Records.remove_rejected`."""
        sql = (
            f"SELECT {self._select_columns('finding_rejected', ['rejected_id'])} "  # noqa: S608  # constants
            "FROM finding_rejected WHERE project_id = ?"
        )
        found = [row[0] for row in self._run_in(sql, "rejected_id", project_id, set(rejected_ids))]
        delete = "DELETE FROM finding_rejected WHERE project_id = ? AND rejected_id = ?"
        self._run_many(delete, [(project_id, rejected_id) for rejected_id in found])
        return len(found)

    def delete_project(self, project_id: str) -> None:
        """See `Records.delete_project`."""
        for table in OF_PROJECT:
            self._run_sql(f"DELETE FROM {table} WHERE project_id = ?", (project_id,))  # noqa: S608  # constants
