"""What a PostgreSQL database is examined for. Everything can be seen by a role without privileges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from findings_orm.diagnosis import Level, Problem
from findings_orm.orm.examination import format_size, schema_problems, text_index_problems
from findings_orm.orm.models import TABLES
from findings_orm.orm.route import Route

MANY_ROWS = 10_000
"""From how many rows on a table is looked at for statistics, dead rows and unused indexes."""
DEAD_SHARE = 0.2
STALE_SHARE = 0.2
UNUSED_DAYS = 7
LONG_SECONDS = 3_600
OLD_TRANSACTIONS = 1_000_000_000

NAMES = [table.name for table in TABLES]


class Wanted(NamedTuple):
    """A setting of the server, what it should be, and what happens otherwise."""

    name: str
    value: str
    level: Level
    otherwise: str


WANTED = (
    Wanted("fsync", "on", "error", "a crash of the machine may destroy the database"),
    Wanted("full_page_writes", "on", "error", "a crash of the machine may destroy the database"),
    Wanted("synchronous_commit", "on", "warning", "a crash may take the last transactions"),
    Wanted("autovacuum", "on", "warning", "dead rows stay, and statistics get old"),
    Wanted("track_counts", "on", "warning", "autovacuum does nothing without it"),
    Wanted("zero_damaged_pages", "off", "error", "damage is hidden and data lost without a word"),
)
_SAFE_COMMITS = ("on", "remote_apply", "remote_write", "local")


def database_problems(connection: Connection, pool_limit: int | None) -> Iterator[Problem]:
    """Yield what is wrong with a database; `pool_limit` is how many connections the store may open."""
    yield from schema_problems(connection)
    yield from text_index_problems(connection)
    yield from _invalid_indexes(connection)
    yield from _unused_indexes(connection)
    yield from _neglected_tables(connection)
    yield from _unsafe_settings(connection, pool_limit)
    yield from _long_transactions(connection)
    yield from _old_transactions(connection)
    yield from _changed_collation(connection)


def _select_rows(connection: Connection, sql: str, *parameters: object) -> Sequence[Any]:
    return Route(connection).run(sql, parameters)


_OURS = (
    "WITH ours AS (SELECT coalesce(part.relid, named.oid) AS oid FROM unnest(?::text[]) AS name, "
    "LATERAL (SELECT to_regclass(name) AS oid) AS named LEFT JOIN LATERAL pg_partition_tree(named.oid) AS part ON true) "
)


def _invalid_indexes(connection: Connection) -> Iterator[Problem]:
    sql = (
        _OURS + "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN ours ON ours.oid = i.indrelid "  # noqa: S608  # a constant
        "WHERE NOT i.indisvalid"
    )
    for (name,) in _select_rows(connection, sql, NAMES):
        yield Problem(
            "warning",
            "index-invalid",
            f"index {name} is not valid: it costs imports and serves nobody",
            f"REINDEX INDEX CONCURRENTLY {name}",
        )


def _unused_indexes(connection: Connection) -> Iterator[Problem]:
    sql = (
        _OURS + "SELECT i.indexrelid::regclass::text, pg_relation_size(i.indexrelid), "  # noqa: S608  # a constant
        "extract(day FROM now() - coalesce(d.stats_reset, pg_postmaster_start_time()))::integer "
        "FROM pg_index i JOIN ours ON ours.oid = i.indrelid JOIN pg_class t ON t.oid = i.indrelid "
        "JOIN pg_stat_all_indexes s ON s.indexrelid = i.indexrelid "
        "JOIN pg_stat_database d ON d.datname = current_database() "
        "WHERE NOT i.indisunique AND s.idx_scan = 0 AND t.reltuples >= ? "
        "AND now() - coalesce(d.stats_reset, pg_postmaster_start_time()) > make_interval(days => ?)"
    )
    for name, length, days in _select_rows(connection, sql, NAMES, MANY_ROWS, UNUSED_DAYS):
        yield Problem(
            "note",
            "index-unused",
            f"index {name} ({format_size(length)}) served no query in {days} days",
            "Nothing, unless space or imports matter more than the queries that it is for; standby servers count their own.",
        )


def _neglected_tables(connection: Connection) -> Iterator[Problem]:
    sql = (
        _OURS + "SELECT s.relid::regclass::text, s.n_live_tup, s.n_dead_tup, s.n_mod_since_analyze, "  # noqa: S608  # a constant
        "coalesce(s.last_analyze, s.last_autoanalyze) IS NOT NULL FROM pg_stat_all_tables s JOIN ours ON ours.oid = s.relid "
        "WHERE s.n_live_tup + s.n_dead_tup >= ? ORDER BY 1"
    )
    for name, live, dead, changed, analyzed in _select_rows(connection, sql, NAMES, MANY_ROWS):
        if dead > (live + dead) * DEAD_SHARE:
            yield Problem(
                "warning",
                "bloat",
                f"{dead:,} of {live + dead:,} rows of {name} are dead",
                f"VACUUM {name}; if it comes again, end long transactions and let autovacuum run more often.",
            )
        if not analyzed or changed > live * STALE_SHARE:
            state = f"statistics from {changed:,} changes ago" if analyzed else "no statistics"
            yield Problem(
                "warning",
                "statistics",
                f"table {name} of {live:,} rows has {state}: the planner guesses",
                f"ANALYZE {name}",
            )


def _unsafe_settings(connection: Connection, pool_limit: int | None) -> Iterator[Problem]:
    found = dict(_select_rows(connection, "SELECT name, setting FROM pg_settings"))
    for name, value, level, otherwise in WANTED:
        have = found.get(name, value)
        if have != value and not (name == "synchronous_commit" and have in _SAFE_COMMITS):
            yield Problem(
                level, "settings", f"{name} is {have}: {otherwise}", f"ALTER SYSTEM SET {name} = {value}"
            )
    room = int(found["max_connections"]) - int(found["superuser_reserved_connections"])
    if pool_limit is not None and pool_limit > room:
        yield Problem(
            "warning",
            "pool",
            f"this store alone may open {pool_limit} connections, the server has room for {room}",
            "Lower pool_size and max_overflow, raise max_connections, or put a pooler between.",
        )
    if found["idle_in_transaction_session_timeout"] == "0":
        yield Problem(
            "note",
            "timeouts",
            "a transaction that was forgotten may stay open for ever (idle_in_transaction_session_timeout is 0)",
            "ALTER DATABASE ... SET idle_in_transaction_session_timeout = '10min'",
        )


def _long_transactions(connection: Connection) -> Iterator[Problem]:
    sql = (
        "SELECT pid, coalesce(application_name, ''), state, extract(epoch FROM now() - xact_start)::integer "
        "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND xact_start < now() - make_interval(secs => ?) ORDER BY xact_start"
    )
    for pid, application, state, seconds in _select_rows(connection, sql, LONG_SECONDS):
        yield Problem(
            "warning",
            "long-transaction",
            f"process {pid} ({application or 'no name'}, {state}) has a transaction open for {seconds // 60} minutes",
            f"It keeps dead rows from being removed. Find out what it does; SELECT pg_terminate_backend({pid}) ends it.",
        )


def _old_transactions(connection: Connection) -> Iterator[Problem]:
    sql = "SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()"
    age = int(_select_rows(connection, sql)[0][0])
    if age > OLD_TRANSACTIONS:
        yield Problem(
            "error",
            "transaction-ids",
            f"the oldest transaction is {age:,} transactions ago; at about 2,000,000,000 the server stops writing",
            "VACUUM the whole database now, and find out what keeps autovacuum from it.",
        )


def _changed_collation(connection: Connection) -> Iterator[Problem]:
    sql = (
        "SELECT datcollversion, pg_database_collation_actual_version(oid) FROM pg_database "
        "WHERE datname = current_database()"
    )
    made, actual = _select_rows(connection, sql)[0]
    if made is not None and actual is not None and made != actual:
        yield Problem(
            "warning",
            "collation",
            f"the database was made with collation version {made}, the system has {actual}",
            "REINDEX DATABASE, then ALTER DATABASE ... REFRESH COLLATION VERSION. (The tables of findings-orm sort by bytes "
            "and are not affected.)",
        )
