"""``COPY`` that leaves the server to its work while the client does something else."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.copy import LibpqWriter
from psycopg.generators import copy_end

from findings_orm.orm.mapping import Row
from findings_orm.records import Steps

_UNBOUNDED = 2**62


class _LateWriter(LibpqWriter):
    """Sends rows, and their end, as fast as the server takes them; waits for neither."""

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        super().__init__(cursor, flush_threshold=_UNBOUNDED)
        self._end: Generator[Any, Any, Any] | None = None

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


def copying(driver: psycopg.Connection[Any], sql: str, rows: Iterable[Row]) -> Steps:
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
