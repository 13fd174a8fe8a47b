"""The way of statements to a driver that the fast way is not made for: through SQLAlchemy, in the form that this driver takes.

A store's own engine, and an application's with the same driver, don't come this way (`statements`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection

from findings_orm.orm.mapping import Row

_TIMES = ("timestamp with time zone", "timestamp with time zone[]")
_TYPED: dict[str, str] = {}
"""Statements for asyncpg as they were given, and with casts."""
_MOST_TYPED = 1_000


@lru_cache(256)
def psycopg_sql(sql: str) -> str:
    """Return driver SQL with the marks of psycopg."""
    return sql.replace("%", "%%").replace("?b", "%b").replace("?", "%s")


class Route:
    """Runs driver SQL with ``?`` for a parameter, ``?b`` for one of bytes, on one connection of any driver."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect

    def run(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run a statement and return its rows, if it has any."""
        result = self._connection.exec_driver_sql(self._form(sql), tuple(parameters))
        rows = self._plain(result.cursor.fetchall()) if result.returns_rows else []
        result.close()
        return rows

    def run_many(self, sql: str, rows: Sequence[Row]) -> None:
        """Run a statement for each row."""
        self._connection.exec_driver_sql(self._form(sql), list(map(tuple, rows)))

    def read(self, sql: str, parameters: Sequence[object], size: int) -> Iterator[Sequence[Row]]:
        """Run a statement and yield its rows in batches of a size, where the server has them meanwhile."""
        options = {"stream_results": True, "max_row_buffer": size}
        result = self._connection.exec_driver_sql(
            self._form(sql), tuple(parameters), execution_options=options
        )
        try:
            for rows in result.partitions(size):
                yield self._plain(rows)
        finally:
            result.close()

    def _plain(self, rows: Sequence[Any]) -> list[Row]:
        """Return rows with bytes where psycopg2 has views of memory."""
        if self._dialect.driver != "psycopg2":
            return list(rows)
        return [tuple(bytes(one) if isinstance(one, memoryview) else one for one in row) for row in rows]

    def _form(self, sql: str) -> str:
        style = self._dialect.paramstyle
        if style == "qmark":
            return sql
        if style == "numeric_dollar":
            return self._with_casts(sql)
        return psycopg_sql(sql.replace("?b", "?") if self._dialect.driver == "psycopg2" else sql)

    def _with_casts(self, sql: str) -> str:
        """Return a statement for asyncpg, which takes no text for a time, so the server casts it.

        The server alone knows which parameters are times, and is asked once for each statement.
        """
        numbered = _TYPED.get(sql)
        if numbered is None:
            numbers = count(1)
            numbered = re.sub(r"\?b?", lambda _: f"${next(numbers)}", sql)
            if next(numbers) > 1:
                name = f"findings_{uuid4().hex}"  # one that an interruption leaves there is in nobody's way
                self._connection.exec_driver_sql(f"PREPARE {name} AS {numbered}")
                types = self._connection.exec_driver_sql(
                    "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = $1", (name,)
                ).scalar_one()
                self._connection.exec_driver_sql(f"DEALLOCATE {name}")
                casts = {
                    f"${n}": f"${n}::text{kind[len(_TIMES[0]) :]}::{kind}"
                    for n, kind in enumerate(types, 1)
                    if kind in _TIMES
                }
                numbered = re.sub(r"\$\d+", lambda mark: casts.get(mark[0], mark[0]), numbered)
            if len(_TYPED) >= _MOST_TYPED:
                _TYPED.clear()
            _TYPED[sql] = numbered
        return numbered
