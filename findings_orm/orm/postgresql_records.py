"""`Records` on PostgreSQL: what differs from `SqlRecords`, which is set-based statements and binary ``COPY``."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cached_property, lru_cache, wraps
from itertools import chain
from typing import Any, ClassVar, TypeVar, cast

import psycopg
from psycopg.copy import LibpqWriter
from psycopg.generators import copy_end
from sqlalchemy import Connection

from findings_orm.errors import StorageConflictError
from findings_orm.finding import FindingDocument
from findings_orm.freetext import RELEVANCE, fold_text, holds_all, search_text
from findings_orm.orm import mapping, postgresql_queries, queries, ranges
from findings_orm.orm.mapping import EVENT_COLUMNS, FINDING_COLUMNS, IDENTITY_COLUMNS, Row
from findings_orm.orm.observation import Watch
from findings_orm.orm.postgresql_text_index import IS_ASCII, SEARCHED, has_words, is_of_use
from findings_orm.orm.postgresql_types import (
    FINDING_ROWS,
    IDENTITY_ROWS,
    TYPES,
    BinaryRows,
    binary_finding,
    select_expressions,
)
from findings_orm.orm.queries import Clause, Select
from findings_orm.orm.records import BESIDE_KEY, OF_FINDING, READ_BATCH, RESEEN, SqlRecords, insert_statement
from findings_orm.orm.route import psycopg_sql
from findings_orm.orm.statements import LOOKUP_BATCH
from findings_orm.port import Event
from findings_orm.process import block
from findings_orm.query import FindingQuery, time_key
from findings_orm.records import (
    Advance,
    Identity,
    ProjectState,
    StatusChange,
    Steps,
    Stored,
    Streak,
    batches,
    complete_steps,
    no_steps,
)

# -- ``COPY`` that leaves the server to its work while the client does something else ---------------------


_UNBOUNDED = 2**62


class _LateWriter(LibpqWriter):
    """Sends rows, and their end, as fast as the server takes them; waits for neither."""

    def __init__(self, cursor: psycopg.Cursor[object]) -> None:
        super().__init__(cursor, flush_threshold=_UNBOUNDED)
        self._end: Generator[Any, Any, object] | None = None

    def finish(self, exc: BaseException | None = None) -> None:
        """Send the end of the rows, or of the whole command if they could not be made."""
        if exc is not None:
            super().finish(exc)
            return
        self._end = copy_end(self._pgconn, None)
        next(self._end)

    def is_done(self) -> bool:
        """Send what the server takes now, and return whether its answer is there."""
        if self._pgconn.flush() != 0:
            return False
        self._pgconn.consume_input()
        return not self._pgconn.is_busy()

    def wait(self) -> None:
        """Wait for the answer; raise it if it is an error."""
        end, self._end = self._end, None
        if end is not None:
            self.connection.wait(end)


def copy_in_steps(driver: psycopg.Connection[object], sql: str, rows: Iterable[Row]) -> Steps:
    """Send rows by ``COPY``, step by step.

    The connection can't be used until that has ended; closed before, it waits for the server too.

    Raises:
        psycopg.Error: the server refuses the rows.
    """
    with driver.cursor() as cursor:
        writer = _LateWriter(cursor)
        with cursor.copy(sql, writer=writer) as copy:
            write = copy.write_row
            count = 0
            for row in rows:
                write(row)
                count += 1
        try:
            while not writer.is_done():
                if (yield):
                    break
            writer.wait()
        finally:
            with suppress(psycopg.Error):
                writer.wait()
        return count


# -- `Records` on PostgreSQL: what differs from `SqlRecords`, which is set-based statements and binary ``COPY``


COPY_FROM = 50
"""From how many new rows on ``COPY`` is faster than statements."""

ROWS_AT_ONCE = 50

LOCK_SEED = int.from_bytes(b"findings", "big")
"""Tells the advisory locks of projects from those of others; the migrations lock this number itself."""

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(?::text, ?))"
_LIST = "\n"
"""Takes the place of a project, which has no such name, in the lock of the list of projects: those that make or remove one
share it, and who reads the list keeps them out."""
_LISTED, _CHANGED = "\0listed", "\0changed"
"""In the place of projects in `PostgreSQLRecords.queued`: the list of projects was read, or changed."""

_EVENTS = BinaryRows("finding_events", ("project_id", "revision", "position", *EVENT_COLUMNS))
_STREAKS = BinaryRows("finding_sightings", ("project_id", "finding_id", "first_run", "last_run"))


_SLICED = "SELECT substring(?b::bytea, 1 + 32 * n, 32) FROM generate_series(0, {}) n"
"""Fingerprints out of one parameter: an array of so many would take the client longer than the search."""


@lru_cache(32)
def _update_statement(table: str, columns: tuple[str, ...], keys: tuple[str, ...]) -> str:
    """Return the UPDATE of many rows by one statement: an array a column, and the project.

    The arrays come from subqueries: for one of which it knows the length the planner reads the whole project, and for a list of
    keys it may take another index that has them too.
    """
    types = TYPES[table]
    sets = ", ".join(f"{column} = new.{column}::{types[column]}" for column in columns)
    where = " AND ".join(f"old.{key} = new.{key}" for key in keys)
    arrays = ", ".join(f"(SELECT ?::{_array_type(types[column])}[])" for column in (*keys, *columns))
    names = ", ".join((*keys, *columns))
    return (
        f"UPDATE {table} old SET {sets} FROM unnest({arrays}) AS new ({names}) "  # noqa: S608  # constants
        f"WHERE old.project_id = ? AND {where}"
    )


def _array_type(kind: str) -> str:
    """Return the type of array elements; JSON goes as text, which needs no second quoting."""
    return "text" if kind.startswith("JSON") else kind


def _rows_to_copy(project_id: str, rows: Sequence[Stored]) -> Iterator[tuple[BinaryRows, Iterable[Row]]]:
    """Yield what has to be copied for new findings, and where to."""
    yield FINDING_ROWS, (binary_finding(document, objects) for document, _, objects, *_ in rows)
    identities = sorted((one.identity for one in rows), key=lambda one: (one.fingerprint, one.ordinal))
    yield IDENTITY_ROWS, IDENTITY_ROWS.encode((project_id, *mapping.identity_row(one)) for one in identities)


def _copy_tables(driver: Any, copies: Iterable[tuple[BinaryRows, Iterable[Row]]]) -> Steps:
    count = 0
    for rows, values in copies:
        count = yield from copy_in_steps(driver, rows.copy_into(rows.table), values)
    return count


_Read = TypeVar("_Read", bound=Callable[..., object])


def _keeping(read: _Read) -> _Read:
    """Let what a method reads of a project stay so until the unit ends, where that is wanted."""

    @wraps(read)
    def keeping_read(self: PostgreSQLRecords, project_id: str, *args: object, **options: object) -> object:
        if self.keeps_reads:
            self.keep(project_id)
        return read(self, project_id, *args, **options)

    return cast("_Read", keeping_read)


class PostgreSQLRecords(SqlRecords):
    """The records inside one transaction, or, for reading, outside of any."""

    dialect: ClassVar[queries.Dialect] = postgresql_queries.PostgreSQLDialect()
    _is_json: ClassVar[str] = "true"
    _later: ClassVar[str] = "greatest"
    _by_cwe: ClassVar[str] = (
        "SELECT m.value::integer, count(DISTINCT f.id) FROM findings f, jsonb_array_elements_text(f.cwe_ids) m (value) "
        "WHERE f.project_id = ? AND f.cwe_ids <> '[]' GROUP BY m.value"
    )

    def __init__(self, connection: Connection, watch: Watch | None = None) -> None:
        self._under_way = no_steps()
        self.queued: set[str] = set()
        self.queue: Callable[[PostgreSQLRecords, frozenset[str]], AbstractContextManager[None]] | None = None
        self._kept: dict[str, set[object]] = {}
        self._lost: dict[str, set[object]] = {}
        self._depth = 0
        super().__init__(connection, watch)

    @property
    def connection(self) -> Connection:
        """The connection, once it has done what it was asked for."""
        complete_steps(self._under_way)
        return self._connection

    @connection.setter
    def connection(self, connection: Connection) -> None:
        self._connection = connection

    # -- statements -----------------------------------------------------------------------------------------

    def begin(self, sql: str) -> None:
        """Begin the transaction of the unit by a statement in psycopg's form."""
        super()._run_sql(sql)
        if not self.connection.in_transaction():
            self.connection.begin()

    def _run_sql(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        return super()._run_sql(psycopg_sql(sql) if self.route is None else sql, parameters)

    def _run_many(self, sql: str, rows: Sequence[Row]) -> None:
        if len(rows) == 1:
            self._run_sql(sql, rows[0])
        else:
            super()._run_many(psycopg_sql(sql) if self.route is None else sql, rows)

    def _run_in(self, sql: str, column: str, project_id: str, values: Collection[Any]) -> Iterator[Row]:
        if column == "fingerprint":
            for batch in batches(values, LOOKUP_BATCH):
                sliced = _SLICED.format(len(batch) - 1)
                yield from self._run_sql(
                    f"{sql} AND {column} = ANY(ARRAY({sliced}))", (project_id, b"".join(batch))
                )
            return
        if len(values) == 1:
            yield from self._run_sql(f"{sql} AND {column} = ?::uuid", (project_id, *values))
            return
        for batch in batches(values, LOOKUP_BATCH):
            yield from self._run_sql(
                f"{sql} AND {column} = ANY(ARRAY(SELECT unnest(?::uuid[])))", (project_id, batch)
            )

    def _select_columns(self, table: str, columns: Iterable[str], alias: str = "") -> str:
        return select_expressions(table, tuple(columns), alias)

    def _update_all(
        self,
        table: str,
        columns: tuple[str, ...],
        keys: tuple[str, ...],
        project_id: str,
        rows: Sequence[Row],
    ) -> None:
        """Update rows, given as keys and columns, by one statement."""
        if rows:
            arrays = [list(values) for values in zip(*rows, strict=True)]
            self._run_sql(_update_statement(table, columns, keys), (*arrays, project_id))

    @property
    def _driver_connection(self) -> Any:
        return self.connection.connection.driver_connection

    @cached_property
    def _has_row_security(self) -> bool:
        """Whether row-level security holds for this role, to which PostgreSQL refuses ``COPY FROM``."""
        return bool(self._run_sql("SELECT row_security_active('findings')")[0][0])

    def _copy_rows(self, rows: BinaryRows, values: Iterable[Row]) -> None:
        """Add rows by binary ``COPY``, through a temporary table where row-level security forbids the direct way."""
        columns, target = (
            mapping.names(rows.columns),
            f"new_{rows.table}" if self._has_row_security else rows.table,
        )
        if self._has_row_security:
            self._run_sql(
                f"CREATE TEMPORARY TABLE IF NOT EXISTS {target} (LIKE {rows.table}) ON COMMIT DROP; "
                f"TRUNCATE pg_temp.{target}"
            )
        sql = rows.copy_into(target)
        with self._watch_statement(sql) as tell:
            tell(complete_steps(copy_in_steps(self._driver_connection, sql, values)))
        if self._has_row_security:
            sql = f"INSERT INTO {rows.table} ({columns}) SELECT {columns} FROM pg_temp.{target}"  # noqa: S608
            self._run_sql(sql)

    # -- write ----------------------------------------------------------------------------------------------

    def _advance_statement(
        self, project_id: str, at: str, first: int, step: int
    ) -> tuple[str, tuple[object, ...]]:
        """Writers of a project queue on an advisory lock until the transaction ends."""
        sql = (
            "INSERT INTO finding_projects (project_id, created_at, revision) "
            "SELECT ?::text, ?::timestamptz, ?::bigint "
            "FROM (SELECT pg_advisory_xact_lock(hashtextextended(?::text, ?))) AS queue "
            "ON CONFLICT (project_id) DO UPDATE SET revision = finding_projects.revision + ?::bigint "
            "RETURNING revision, CASE WHEN revision = ?::bigint "
            "THEN pg_advisory_xact_lock_shared(hashtextextended(?::text, ?))::text END"
        )
        return sql, (project_id, at, first, project_id, LOCK_SEED, step, first, _LIST, LOCK_SEED)

    def advance(self, project_id: str, at: str) -> Advance:
        """See `Records.advance`."""
        self._take_up(project_id)
        with self._queue_for(project_id, _LISTED):
            found = super().advance(project_id, at)
        if not found.before:
            self.queued.add(_CHANGED)
        self._kept.setdefault(project_id, {found.before})
        return found

    def put_project(self, project_id: str, state: ProjectState) -> None:
        """See `Records.put_project`."""
        self._lock_to_change_list(project_id)
        super().put_project(project_id, state)

    def _queue_for(self, *names: str) -> AbstractContextManager[None]:
        """Return a block in which to wait for a project (the first name). Its name is kept first, so that one of two looks sees
        the other."""
        self.queued.add(names[0])
        return nullcontext() if self.queue is None else self.queue(self, frozenset(names))

    def _lock_project(self, project_id: str) -> None:
        self._take_up(project_id)
        with self._queue_for(project_id):
            self._run_sql(_LOCK, (project_id, LOCK_SEED))

    def _lock_to_change_list(self, project_id: str) -> None:
        """Keep other writers of a project out that is made or removed, and who reads the list of projects."""
        self._take_up(project_id)
        self.queued.add(_CHANGED)
        with self._queue_for(project_id, _LISTED):
            self._run_sql(
                f"{_LOCK}, pg_advisory_xact_lock_shared(hashtextextended(?::text, ?))",
                (project_id, LOCK_SEED, _LIST, LOCK_SEED),
            )

    def _take_up(self, project_id: str) -> None:
        """Let it be known what a project was before it is written to, where the lock may be lost before the unit ends."""
        if self.keeps_reads and (self._depth or project_id in self._lost):
            self.keep(project_id)

    # -- what was read stays so -----------------------------------------------------------------------------

    def keep(self, project_id: str) -> None:
        """Keep writers of a project out until the unit ends, as a write to it does; where the application's transaction only
        reads, there is no need.

        Raises:
            StorageConflictError: it was kept in a savepoint that was rolled back, and somebody wrote to it since.
        """
        if project_id in self._kept:
            return
        listed = project_id == _LIST
        with self._queue_for(_LISTED, _CHANGED) if listed else self._queue_for(project_id):
            self._run_sql(
                f"{_LOCK} WHERE current_setting('transaction_read_only') = 'off'", (project_id, LOCK_SEED)
            )
        state: set[object] = set()
        if self._depth or project_id in self._lost:
            state = set(super().projects()) if listed else {super().revision(project_id)}
        changed = state ^ self._lost.get(project_id, state)
        # Of a project that the unit knows by itself the list says nothing more.
        if changed - self._kept.keys() - self._lost.keys():
            raise StorageConflictError(
                f"{'the list of projects' if listed else f'project {project_id!r}'} was changed by another writer after a "
                "block inside of this unit of work, which had read it, was undone; do the unit again",
                retryable=True,
            )
        self._kept[project_id] = state
        self._lost.pop(project_id, None)

    @block
    def savepoint(self) -> Iterator[None]:
        """See `Records.savepoint`. A rollback gives the locks up that were taken inside; what is known from there is looked at
        again before it counts."""
        before, depth = self._kept.copy(), self._depth
        self._depth += 1
        try:
            with super().savepoint():
                yield
        except BaseException:
            self._lost.update((name, self._kept[name]) for name in self._kept.keys() - before.keys())
            self._kept = before
            raise
        finally:
            self._depth = depth

    def finish_writes(self) -> None:
        """See `SqlRecords.finish_writes`."""
        for project_id in sorted(self._lost) if self.keeps_reads else ():
            self.keep(project_id)

    def _insert_all(self, table: str, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        """Add rows, many by one statement where the driver has no ``COPY``: psycopg2 would wait for an answer to each row."""
        whole = 0 if self.route is None else len(rows) // ROWS_AT_ONCE * ROWS_AT_ONCE
        for batch in batches(rows[:whole], ROWS_AT_ONCE):
            self._run_sql(insert_statement(table, columns, ROWS_AT_ONCE), list(chain.from_iterable(batch)))
        super()._insert_all(table, columns, rows[whole:])

    def _can_copy(self, rows: Sequence[object]) -> bool:
        """Return whether ``COPY`` is faster than statements, and the driver has it as this module needs it."""
        return len(rows) >= COPY_FROM and self.route is None

    def insert(self, project_id: str, rows: Sequence[Stored]) -> None:
        """See `Records.insert`."""
        if not self._can_copy(rows):
            super().insert(project_id, rows)
            return
        self._forget_plans()
        for table, values in _rows_to_copy(project_id, rows):
            self._copy_rows(table, values)

    def insert_in_steps(self, project_id: str, rows: Sequence[Stored]) -> Steps:
        """See `Records.insert_in_steps`."""
        if not self._can_copy(rows) or self.watch or self._has_row_security:
            self.insert(project_id, rows)
            return no_steps()
        self._forget_plans()
        self._under_way = _copy_tables(self._driver_connection, _rows_to_copy(project_id, rows))
        return self._under_way

    def _forget_plans(self) -> None:
        """Let the server plan the checks of foreign keys anew: it keeps the plan for the session, and one that was made while
        the table was tiny may read the whole project for each row."""
        self._run_sql("DISCARD PLANS")

    def replace(self, project_id: str, rows: Sequence[Stored]) -> None:
        """See `Records.replace`."""
        if len(rows) == 1:  # which the server plans in half the time
            super().replace(project_id, rows)
            return
        findings = []
        for document, _, objects, *_ in rows:
            values = dict(zip(FINDING_COLUMNS, mapping.finding_row(document, objects), strict=True))
            for name in mapping.NUMBERS:  # an array has one type
                values[name] = None if values[name] is None else float(values[name])
            findings.append((document["id"], *(values[name] for name in BESIDE_KEY)))
        self._update_all("findings", BESIDE_KEY, ("id",), project_id, findings)
        identities = [mapping.identity_row(one.identity) for one in rows]
        self._update_all("finding_identities", IDENTITY_COLUMNS[1:], ("finding_id",), project_id, identities)

    def reidentify(self, project_id: str, identities: Sequence[Identity]) -> None:
        """See `Records.reidentify`."""
        if len(identities) == 1:
            super().reidentify(project_id, identities)
            return
        rows = []
        for identity in identities:
            values = dict(zip(IDENTITY_COLUMNS, mapping.identity_row(identity), strict=True))
            rows.append((identity.fingerprint, identity.ordinal, *(values[name] for name in RESEEN)))
        self._update_all("finding_identities", RESEEN, ("fingerprint", "ordinal"), project_id, rows)

    def seen(self, project_id: str, identities: Sequence[Identity], at: str, run: int) -> None:
        """See `Records.seen`."""
        keys = sorted((one.fingerprint, one.ordinal) for one in identities)
        sql = (
            "UPDATE finding_identities old SET last_seen = greatest(last_seen, ?), last_run = ? FROM (SELECT "
            "substring(?b::bytea, 1 + 32 * (n - 1)::integer, 32) AS fingerprint, ordinal "
            "FROM unnest((SELECT ?::integer[])) WITH ORDINALITY AS ordinals (ordinal, n)) AS new "
            "WHERE old.project_id = ? AND old.fingerprint = new.fingerprint AND old.ordinal = new.ordinal"
        )
        prints, ordinals = b"".join(key[0] for key in keys), [key[1] for key in keys]
        self._run_sql(sql, (time_key(at), run, prints, ordinals, project_id))

    def change_status(self, project_id: str, changes: Sequence[StatusChange]) -> None:
        """See `Records.change_status`."""
        statuses = [(change.finding_id, change.status) for change in changes]
        self._update_all("findings", ("status",), ("id",), project_id, statuses)
        closings = [
            (change.finding_id, change.closed_as, mapping.optional_time(change.closed_at))
            for change in changes
        ]
        columns = ("closed_as", "closed_at")
        self._update_all("finding_identities", columns, ("finding_id",), project_id, closings)

    def remove(self, project_id: str, finding_ids: Sequence[str]) -> None:
        """See `Records.remove`."""
        if len(finding_ids) >= COPY_FROM:
            self._forget_plans()
        for table, column in OF_FINDING:
            sql = f"DELETE FROM {table} WHERE project_id = ? AND {column} = ANY(ARRAY(SELECT unnest(?::uuid[])))"  # noqa: S608
            self._run_sql(sql, (project_id, list(finding_ids)))

    def add_streaks(self, project_id: str, streaks: Sequence[Streak]) -> None:
        """See `Records.add_streaks`."""
        if not self._can_copy(streaks):
            super().add_streaks(project_id, streaks)
        else:
            self._copy_rows(_STREAKS, _STREAKS.encode((project_id, *streak) for streak in streaks))

    def add_events(self, project_id: str, revision: int, events: Sequence[Event]) -> None:
        """See `Records.add_events`."""
        if not self._can_copy(events):
            super().add_events(project_id, revision, events)
            return
        first = self._events[project_id, revision]
        self._events[project_id, revision] += len(events)
        rows = ((project_id, revision, first + n, *mapping.event_row(each)) for n, each in enumerate(events))
        self._copy_rows(_EVENTS, _EVENTS.encode(rows))

    def delete_project(self, project_id: str) -> None:
        """See `Records.delete_project`."""
        self._lock_to_change_list(project_id)
        self._forget_plans()
        super().delete_project(project_id)

    # -- read -----------------------------------------------------------------------------------------------

    revision = _keeping(SqlRecords.revision)
    stored = _keeping(SqlRecords.stored)
    get = _keeping(SqlRecords.get)
    identities = _keeping(SqlRecords.identities)
    unseen = _keeping(SqlRecords.unseen)
    seen_in = _keeping(SqlRecords.seen_in)
    closed_before = _keeping(SqlRecords.closed_before)
    count_closed_before = _keeping(SqlRecords.count_closed_before)
    stream = _keeping(SqlRecords.stream)
    summarize = _keeping(SqlRecords.summarize)
    events = _keeping(SqlRecords.events)
    runs = _keeping(SqlRecords.runs)
    receipts = _keeping(SqlRecords.receipts)
    rejected = _keeping(SqlRecords.rejected)
    project_state = _keeping(SqlRecords.project_state)
    all_findings = _keeping(SqlRecords.all_findings)
    all_events = _keeping(SqlRecords.all_events)
    all_rejected = _keeping(SqlRecords.all_rejected)

    def projects(self) -> list[str]:
        """See `Records.projects`."""
        if self.keeps_reads:
            self.keep(_LIST)
        return super().projects()

    def _read_batches(self, statement: Clause) -> Iterator[Sequence[Row]]:
        """Inside a transaction through a cursor on the server, else at once."""
        if self.route is not None:
            yield from super()._read_batches(statement)
            return
        on_server = (
            not self._driver_connection.autocommit or self._driver_connection.info.transaction_status != _IDLE
        )
        options = {"stream_results": on_server, "max_row_buffer": READ_BATCH}
        result: Any = self.connection.exec_driver_sql(
            psycopg_sql(statement.sql), statement.values, execution_options=options
        )
        try:
            yield from result.partitions(READ_BATCH)
        finally:
            result.close()

    def select(self, query: FindingQuery, limit: int) -> list[FindingDocument]:
        """See `Records.select`."""
        if self.keeps_reads:
            self.keep(query.project_id)
        if not query.words or query.sort_field == RELEVANCE:
            return super().select(query, limit)
        if not self._has_text_index():
            return self._select_with_words(
                query, queries.select_documents(query, self.dialect, None), IS_ASCII, limit
            )
        statement = queries.select_documents(query, self.dialect, limit, words=False)
        rows = self._run_sql(*self._confine_to_ascii(statement, query).full_statement())
        found = [mapping.document_from_row(row) for row in rows]
        others = statement.with_conditions(_NOT_ASCII)._replace(limit=None)
        found += self._select_with_words(query, others, "false", limit)
        found.sort(
            key=lambda document: (query.sort_value(document), document["id"]), reverse=query.descending
        )
        return found[:limit]

    def _select_with_words(
        self, query: FindingQuery, statement: Select, certain: str, limit: int
    ) -> list[FindingDocument]:
        """Return the first documents that have the words; of which that is certain, an expression says."""
        found: list[FindingDocument] = []
        columns = f"{statement.columns}, {certain}"
        for rows in self._read_batches(statement._replace(columns=columns).full_statement()):
            for *row, is_certain in rows:
                document = mapping.document_from_row(row)
                if is_certain or holds_all(query.words, search_text(document)):
                    found.append(document)
                    if len(found) == limit:
                        return found
        return found

    def _scored(self, query: FindingQuery) -> Iterator[Sequence[Row]]:
        """See `SqlRecords._scored`. PostgreSQL plans a cursor for its first rows; all of a common table expression it plans for
        the whole."""
        if not self._has_text_index():
            yield from super()._scored(query)
            return
        statement = queries.select_ranked(queries.without_text(query), self.dialect)
        for each in (self._confine_to_ascii(statement, query), statement.with_conditions(_NOT_ASCII)):
            sql, values = each.full_statement()
            yield from self._read_batches(
                Clause(f"WITH found AS MATERIALIZED ({sql}) SELECT * FROM found", values)  # noqa: S608  # parts
            )

    def _rows_of_ranges(self, project_id: str, merge: ranges.Merge, values: tuple[str, ...]) -> list[Row]:
        columns = self._select_columns("findings", FINDING_COLUMNS, "f.")
        return self._run_sql(*ranges.postgresql_statement(merge, columns, project_id, values))

    def _rows_of_page(self, query: FindingQuery, limit: int) -> list[Row]:
        return self._run_sql(*postgresql_queries.page_statement(query, self.dialect, limit))

    def count(self, query: FindingQuery) -> int:
        """See `Records.count`."""
        if self.keeps_reads:
            self.keep(query.project_id)
        if not query.words:
            return int(self._run_sql(*postgresql_queries.count(query, self.dialect))[0][0])
        statement = queries.select_count(queries.without_text(query), self.dialect)
        count = int(self._run_sql(*self._confine_to_ascii(statement, query).full_statement())[0][0])
        to_fold = statement.with_conditions(_NOT_ASCII)._replace(columns=SEARCHED)
        for rows in self._read_batches(to_fold.full_statement()):
            count += sum(holds_all(query.words, fold_text(row[0])) for row in rows)
        return count

    def _confine_to_ascii(self, statement: Select, query: FindingQuery) -> Select:
        """Confine a statement to the findings of ASCII text that have the words: what the text index is made for."""
        return statement.with_conditions(Clause(IS_ASCII), has_words(query.words))

    def _has_text_index(self) -> bool:
        """Return whether there is a text index for this role; believed for some seconds, it decides about the plan only."""
        info, now = self.connection.info, time.monotonic()
        there, since = info.get(_KEY, (False, -NOTICED))
        if now - since >= NOTICED:
            there = is_of_use(self.connection)
            info[_KEY] = there, now
        return bool(there)


NOTICED = 60.0
"""Seconds after which a connection notices a text index that was made or dropped."""

_KEY = "findings_text_index"
_IDLE = 0
_NOT_ASCII = Clause(f"NOT {IS_ASCII}")
