"""`Records` on SQLite: what differs from `SqlRecords`, which is the text index and how many rows are added."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from sqlalchemy import Connection

from findings_orm.orm import queries
from findings_orm.orm import sqlite_text_index as index
from findings_orm.orm.mapping import Row
from findings_orm.orm.observation import Watch, others_listen
from findings_orm.orm.queries import Clause, Select
from findings_orm.orm.records import SqlRecords, insert_statement
from findings_orm.query import FindingQuery
from findings_orm.records import Stored, batches

ROWS_AT_ONCE = 500

FEW_CANDIDATES = 2_000
"""Up to how many findings that may have the words of a text are sorted for a page. Where there are more, the page is soon
full of them in the order that it is asked for."""

FEW_WAITING = 50
"""So many findings of a project may wait to be indexed: a search reads them in less than a millisecond, and to index each on
its own would make a save three times as long."""

NOTICED = 60.0
"""Seconds after which a writer notices an index that another process made."""

_KEY = "findings_text_index"


class SQLiteRecords(SqlRecords):
    """The records inside one transaction."""

    def __init__(self, connection: Connection, watch: Watch | None = None) -> None:
        super().__init__(connection, watch)
        self._written: set[str] = set()

    def add_identities(self, project_id: str, rows: Sequence[Stored]) -> None:
        """See `SqlRecords.add_identities`."""
        self._written.add(project_id)
        super().add_identities(project_id, rows)

    def _insert_all(self, table: str, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        """Add rows, hundreds by one statement: one statement a row takes half as long again."""
        if len(rows) < ROWS_AT_ONCE or self.route is not None or others_listen(self.connection, self.watch):
            super()._insert_all(table, columns, rows)
            return
        driver: Any = self.connection.connection.driver_connection
        at_once = min(ROWS_AT_ONCE, driver.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // len(columns))
        with self._watch_statement(insert_statement(table, columns)) as tell:
            for batch in batches(rows, at_once):
                driver.execute(
                    insert_statement(table, columns, len(batch)), tuple(chain.from_iterable(batch))
                )
            tell(len(rows))

    def replace(self, project_id: str, rows: Sequence[Stored]) -> None:
        """See `Records.replace`."""
        self._written.add(project_id)
        super().replace(project_id, rows)

    def finish_writes(self) -> None:
        """Bring the text index up to date with what was written."""
        if self._written and self._has_text_index(NOTICED):
            for project_id in self._written:
                for _ in index.index_waiting(self._run_sql, self._run_many, project_id, spare=FEW_WAITING):
                    pass

    def _scored(self, query: FindingQuery) -> Iterator[Sequence[Row]]:
        """See `SqlRecords._scored`. What has not the words has no score; SQLite would ask Python about each one, too."""
        statement = queries.select_ranked(queries.without_text(query), self.dialect)
        yield from self._read_batches(self._narrow_by_index(statement, query).full_statement())

    def _narrow_by_index(self, statement: Select, query: FindingQuery, *, all_read: bool = True) -> Select:
        """See `SqlRecords._narrow_by_index`."""
        found = self._select_candidates(query)
        if found is None:
            return statement
        if all_read:
            return statement.with_conditions(Clause(f"findings.id IN ({found.sql})", found.values))
        few = self._few_candidates(found)
        return (
            statement
            if few is None
            else statement.with_conditions(self.dialect.is_any("id", "findings.id", few))
        )

    def _is_frequent(self, query: FindingQuery) -> bool:
        """See `SqlRecords._is_frequent`."""
        found = self._select_candidates(query)
        return found is None or self._few_candidates(found) is None

    def _select_candidates(self, query: FindingQuery) -> Clause | None:
        """Return the SELECT of the ids of what may have the words of a query; None where no index knows."""
        if not query.words or not self._has_text_index(0):
            return None
        return index.select_candidates(self._run_sql, query.project_id, query.words)

    def _few_candidates(self, found: Clause) -> tuple[str, ...] | None:
        """Return the ids of the candidates, None if they are not few."""
        rows = self._run_sql(f"{found.sql} LIMIT {FEW_CANDIDATES + 1}", found.values)
        return None if len(rows) > FEW_CANDIDATES else tuple(row[0] for row in rows)

    def _ask(self, sql: str, values: Sequence[object]) -> list[Row]:
        """Return the rows of a statement of which no observer is told."""
        if self.route is not None:
            return self.route.run(sql, values)
        driver: Any = self.connection.connection.driver_connection
        rows: list[Row] = driver.execute(sql, values).fetchall()
        return rows

    def _has_text_index(self, trusted: float) -> bool:
        """Return whether there is a text index that this process can use; that there is none is believed for some seconds."""
        if not index.is_supported():
            return False
        info, now = self.connection.info, time.monotonic()
        if now - info.get(_KEY, -NOTICED) < trusted:
            return False
        there = index.has_index(self._ask)
        if there:
            info.pop(_KEY, None)
        else:
            info[_KEY] = now
        return there
