"""What a SQLite database is examined for."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection

from findings_orm.diagnosis import Problem
from findings_orm.orm.examination import format_size, schema_problems, text_index_problems
from findings_orm.orm.models import TABLES

MANY_ROWS = 10_000
"""From how many findings on the statistics of the planner matter."""
FREE_SHARE = 0.25
FREE_BYTES = 16 * 2**20
"""Free pages above this share of the file, and above this size, are worth a ``VACUUM``."""
WAL_BYTES = 256 * 2**20
SHORTEST_WAIT = 1_000
_SHOWN = 5
_OURS = frozenset(table.name for table in TABLES)


def database_problems(connection: Connection, file: pathlib.Path | None) -> Iterator[Problem]:
    """Yield what is wrong with a database; `file` is None for one in memory."""
    damage = _select_rows(connection, "PRAGMA quick_check(20)")
    if damage != [("ok",)]:
        yield from _damaged_pages(damage)
        return
    yield from schema_problems(connection)
    yield from text_index_problems(connection)
    yield from _broken_references(connection)
    yield from _unsafe_settings(connection, in_memory=file is None)
    yield from _stale_statistics(connection)
    if file is not None:
        yield from _wasted_space(connection, file)


def _select_rows(connection: Connection, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.exec_driver_sql(sql)]


def _select_value(connection: Connection, sql: str) -> Any:
    return connection.exec_driver_sql(sql).scalar()


def _damaged_pages(rows: list[tuple[object, ...]]) -> Iterator[Problem]:
    for row in rows[:_SHOWN]:
        yield Problem(
            "error",
            "damage",
            f"the file is damaged: {row[0]}",
            "Stop writing to it, keep a copy, and restore a backup ('findings restore'). Without one, try the sqlite3 "
            "shell's .recover.",
        )


def _broken_references(connection: Connection) -> Iterator[Problem]:
    broken: dict[tuple[str, str], int] = {}
    for table, _rowid, parent, _key in _select_rows(connection, "PRAGMA foreign_key_check"):
        if table in _OURS:
            broken[table, parent] = broken.get((table, parent), 0) + 1
    for (table, parent), count in broken.items():
        yield Problem(
            "error",
            "foreign-keys",
            f"{count:,} rows of {table} refer to rows of {parent} that don't exist",
            "Somebody wrote to the file with foreign keys off. Restore a backup, or delete these rows (PRAGMA "
            "foreign_key_check names them).",
        )


def _unsafe_settings(connection: Connection, *, in_memory: bool) -> Iterator[Problem]:
    journal = _select_value(connection, "PRAGMA journal_mode")
    if journal != "wal" and not in_memory:
        yield Problem(
            "warning",
            "settings",
            f"the journal mode is {journal}, not wal: readers and writers wait for each other",
            "Let nothing set another mode, and put the file on a local disk (WAL works on no network share).",
        )
    synchronous = _select_value(connection, "PRAGMA synchronous")
    if synchronous < 2 and not in_memory:
        yield Problem(
            "note",
            "settings",
            "synchronous is NORMAL: a power cut may take the last transactions",
            "Open the store with synchronous=FULL where every finding must survive one.",
        )
    if not _select_value(connection, "PRAGMA foreign_keys"):
        yield Problem(
            "warning",
            "settings",
            "foreign keys are off on this connection",
            "Use the engine of the store, or PRAGMA foreign_keys = ON.",
        )
    wait = _select_value(connection, "PRAGMA busy_timeout")
    if wait < SHORTEST_WAIT and not in_memory:
        yield Problem(
            "warning",
            "settings",
            f"a writer waits for another one no longer than {wait} ms",
            "Open the store with a larger busy_timeout (60 s is the default).",
        )


def _stale_statistics(connection: Connection) -> Iterator[Problem]:
    findings = _select_value(connection, "SELECT count(*) FROM findings")
    known = 0
    if _select_value(connection, "SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'"):
        found = _select_value(
            connection, "SELECT max(CAST(stat AS INTEGER)) FROM sqlite_stat1 WHERE tbl = 'findings'"
        )
        known = found or 0
    if findings >= MANY_ROWS and not known / 10 <= findings <= known * 10:
        state = f"are from when there were {known:,}" if known else "were never made"
        yield Problem(
            "note",
            "statistics",
            f"the statistics of the planner {state}; there are {findings:,} findings",
            "ANALYZE (seconds); then again when the number has grown tenfold.",
        )


def _wasted_space(connection: Connection, file: pathlib.Path) -> Iterator[Problem]:
    pages, free, page = (
        _select_value(connection, f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size")
    )
    if free * page > FREE_BYTES and free > pages * FREE_SHARE:
        yield Problem(
            "warning",
            "bloat",
            f"{format_size(free * page)} of {format_size(pages * page)} are free: {free / pages:.0%} of the file",
            "VACUUM gives them back. It needs as much space again for a while, and keeps writers out.",
        )
    log = file.with_name(f"{file.name}-wal")
    length = log.stat().st_size if log.exists() else 0
    if length > WAL_BYTES:
        yield Problem(
            "warning",
            "wal",
            f"the write-ahead log has {format_size(length)}: something reads for a long time, or nobody closes the store",
            "End long readers (unfinished iterators), then PRAGMA wal_checkpoint(TRUNCATE).",
        )
