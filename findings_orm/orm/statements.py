"""Statements on one connection: to the driver directly, unless an application listens to SQLAlchemy's events or has another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, NestedTransaction
from sqlalchemy.orm import Session, SessionTransaction

from findings_orm.orm.mapping import FINDING_COLUMNS, IDENTITY_COLUMNS, Row, aliased_columns
from findings_orm.orm.observation import Watch, others_listen
from findings_orm.orm.route import Route
from findings_orm.process import block
from findings_orm.records import (
    batches,
)

LOOKUP_BATCH = 5_000


@lru_cache(256)
def _returns_rows(sql: str) -> bool:
    """Return whether a statement of this package has a result; to ask the driver takes longer than to fetch it."""
    return sql.startswith(("SELECT", "WITH")) or " RETURNING " in sql


class SqlStatements:
    """A connection, and the ways to run driver SQL on it."""

    interrupted: bool = False
    route: Route | None = None
    """The way to the driver of an application's engine, where that is not the one of the store."""

    session: Session | None = None
    """The application's session that the connection is of. It has to undo its objects together with rows."""

    def __init__(self, connection: Connection, watch: Watch | None = None) -> None:
        self.connection = connection
        self.watch = watch

    def _run_sql(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement of driver SQL and return its rows, if it has any.

        Where an application listens to SQLAlchemy's events of statements, they go through SQLAlchemy. It describes
        every column of every result anew, which takes longer than most of these statements.
        """
        if self.route is not None:
            return self._run_on_route(self.route, sql, parameters)
        connection = self.connection
        watch = self.watch
        if others_listen(connection, watch):
            result = connection.exec_driver_sql(sql, tuple(parameters))
            return list(result.cursor.fetchall()) if result.returns_rows else []
        execution = watch.start_execution(connection, sql, parameters) if watch else None
        driver: Any = connection.connection.driver_connection
        cursor = driver.cursor()
        try:
            cursor.execute(sql, tuple(parameters))
            returns = _returns_rows(sql)
            rows = cursor.fetchall() if returns else []
            if execution:
                execution.succeed(len(rows) if returns else cursor.rowcount)
            return rows
        except Exception as error:
            if execution:
                execution.fail(error)
            if connection.dialect.is_disconnect(error, driver, cursor):  # type: ignore[arg-type]  # any driver's
                connection.invalidate(error)
            raise
        finally:
            cursor.close()

    def _run_on_route(self, route: Route, sql: str, parameters: Sequence[object]) -> list[Row]:
        with self._watch_statement(sql) as tell:
            rows = route.run(sql, parameters)
            tell(len(rows))
        return rows

    def _run_many(self, sql: str, rows: Sequence[Row]) -> None:
        """Run one statement of driver SQL for each row."""
        if len(rows) == 1:
            self._run_sql(sql, rows[0])
        elif rows and self.route is not None:
            with self._watch_statement(sql) as tell:
                self.route.run_many(sql, rows)
                tell(len(rows))
        elif rows:
            self.connection.exec_driver_sql(sql, list(rows))

    def _watch_statement(self, sql: str) -> AbstractContextManager[Callable[[int], object]]:
        """Return a block for a statement that goes past SQLAlchemy; it is given what takes the number of rows."""
        return self.watch.block(sql) if self.watch else nullcontext(lambda _: None)

    def _run_in(self, sql: str, column: str, project_id: str, values: Collection[object]) -> Iterator[Row]:
        """Run a statement that ends in a condition on the project for the rows with any of the values, in batches."""
        for batch in batches(values, LOOKUP_BATCH):
            yield from self._run_sql(f"{sql} AND {column} IN ({value_marks(batch)})", (project_id, *batch))

    def _select_columns(self, table: str, columns: Iterable[str], alias: str = "") -> str:
        """Return columns for a SELECT, in the form that `mapping` takes."""
        return aliased_columns(tuple(columns), alias)

    def _select_with_identities(self, *more: str) -> str:
        """Return the SELECT of findings with their identities, and more columns."""
        columns = ", ".join((self._select_columns("finding_identities", IDENTITY_COLUMNS, "i."), *more))
        return (
            f"SELECT {self._select_columns('findings', FINDING_COLUMNS, 'f.')}, "  # noqa: S608  # constants
            f"{columns} FROM findings f "
            "JOIN finding_identities i ON i.project_id = f.project_id AND i.finding_id = f.id"
        )

    @block
    def savepoint(self) -> Iterator[None]:
        """See `Records.savepoint`."""
        leaving = True
        nested: NestedTransaction | SessionTransaction | None = None
        outer = self.session or self.connection
        try:
            nested = self._begin_nested()
            leaving = False
            yield
            leaving = True
            nested.commit()
        except BaseException:
            undone = False
            try:
                if nested is not None and (leaving or outer.get_nested_transaction() is nested):
                    nested.rollback()
                    undone = not leaving
            finally:
                self.interrupted = self.interrupted or not undone
            raise

    def _begin_nested(self) -> NestedTransaction | SessionTransaction:
        if self.session is None:
            return self.connection.begin_nested()
        nested = self.session.begin_nested()
        self.session.connection(bind_arguments={"bind": self.connection})  # begins it there
        return nested


def value_marks(values: Collection[object]) -> str:
    """Return a mark for each of some values."""
    return ", ".join("?" * len(values))
