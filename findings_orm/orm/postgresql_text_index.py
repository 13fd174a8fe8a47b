"""The text index of PostgreSQL: trigrams (`pg_trgm`) of lower-case text beside the project (`btree_gin`), in one GIN index.

It serves findings of ASCII text, where lower case is all that folding does. A second, partial index lists the others, which
need Python's Unicode tables; where few have such text, few are read. Both belong to PostgreSQL: it keeps them up to date.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import DDL, Connection
from sqlalchemy.exc import DBAPIError

from findings_orm.driver_errors import sqlstate_of
from findings_orm.errors import SchemaVersionError, StorageUnavailableError
from findings_orm.orm.models import OPTIONAL_INDEXES
from findings_orm.orm.queries import Clause, joined
from findings_orm.orm.route import Route

EXTENSIONS = ("pg_trgm", "btree_gin")
TEXTS, OTHERS = OPTIONAL_INDEXES

PENDING_KB = 1024
"""How much PostgreSQL may put aside before it sorts it into the index: imports gain by more, each search reads all of it."""

SEARCHED = (
    "((((((((findings.title || chr(10)) || findings.resource) || chr(10)) || findings.detector_id) || chr(10)) "
    "|| coalesce(findings.rule_id, '')) || chr(10)) || coalesce(findings.location ->> 'snippet', ''))"
)
"""What free text is looked for in; written so that PostgreSQL may index it (`concat_ws` is not immutable)."""
_LOWER = f'lower({SEARCHED} COLLATE "C")'
IS_ASCII = f"(least(octet_length({SEARCHED}) - char_length({SEARCHED}), 1) <> 1)"
"""Whether a searched text is ASCII; written so that the planner, which knows nothing of it, takes nearly all for that."""

_IS_THERE = (
    "SELECT row_security_active('findings') IS FALSE AND count(*) = 2 FROM pg_index "  # noqa: S608  # constants
    f"WHERE indexrelid IN (to_regclass('{TEXTS}'), to_regclass('{OTHERS}')) AND indisvalid"
)


def has_words(words: Collection[str]) -> Clause:
    """Return whether a searched text of ASCII has all folded words."""
    if not all(word.isascii() for word in words):
        return Clause("false")
    return joined(" AND ", (Clause(f"{_LOWER} LIKE ?", (_like_pattern(word),)) for word in words))


def _like_pattern(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def is_of_use(connection: Connection) -> bool:
    """Return whether there is a text index that serves the current role.

    To a role under row-level security PostgreSQL shows no row to ``LIKE`` before the policy has seen it, so it can't search
    the index first.
    """
    return bool(connection.exec_driver_sql(_IS_THERE).scalar())


# -- for operators ------------------------------------------------------------------------------------------------------


def create(connection: Connection, where: str) -> None:
    """Make the indexes: beside writers, unless the table is partitioned or the caller is inside a transaction.

    Raises:
        SchemaVersionError: there are no tables.
        StorageUnavailableError: an extension or a right is missing.
    """
    joined = connection.in_transaction()
    schema, partitioned = _locate_tables(connection, where)
    with _explain_errors(where):
        classes = _make_extensions(connection)
        _drop_invalid(connection)
    if joined or partitioned:
        _make_indexes(connection, schema, classes, where, beside="")
        if not joined:
            connection.commit()
        return
    connection.commit()
    isolation = connection.get_isolation_level()
    connection.rollback()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    try:
        _make_indexes(connection, schema, classes, where, beside="CONCURRENTLY ")
    finally:
        connection.rollback()
        connection.execution_options(isolation_level=isolation)


def drop(connection: Connection) -> None:
    """Drop the indexes; the extensions stay, others may use them."""
    for name in (TEXTS, OTHERS):
        for (found,) in Route(connection).run(
            "SELECT i::text FROM to_regclass(?) i WHERE i IS NOT NULL", (name,)
        ):
            _run_ddl(connection, f"DROP INDEX {found}")


def index_figures(connection: Connection) -> tuple[int, bool, int, int]:
    """Return how many of the two indexes there are, whether they are valid, how many findings they list (estimated), bytes."""
    sql = (
        "SELECT count(*), coalesce(bool_and(i.indisvalid), false), coalesce(max(t.reltuples), 0)::bigint, "
        "coalesce(sum(pg_relation_size(coalesce(part.relid, i.indexrelid))), 0)::bigint FROM pg_index i "
        "JOIN pg_class t ON t.oid = i.indrelid LEFT JOIN LATERAL pg_partition_tree(i.indexrelid) part ON part.isleaf "
        "WHERE i.indexrelid IN (to_regclass(?), to_regclass(?))"
    )
    ((_, valid, findings, size),) = Route(connection).run(sql, (TEXTS, OTHERS))
    ((named,),) = Route(connection).run(
        "SELECT num_nonnulls(to_regclass(?), to_regclass(?))", (TEXTS, OTHERS)
    )
    return int(named), bool(valid), max(int(findings), 0), int(size)


def _locate_tables(connection: Connection, where: str) -> tuple[str, bool]:
    """Return the quoted schema of the tables, and whether they are partitioned."""
    found = connection.exec_driver_sql(
        "SELECT quote_ident(n.nspname), c.relkind = 'p' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = to_regclass('findings')"
    ).one_or_none()
    if found is None:
        raise SchemaVersionError(f"{where} has no tables of findings-orm yet: run 'findings db upgrade'")
    return found[0], found[1]


def _make_extensions(connection: Connection) -> str:
    """Make the extensions if they are not there; return the name of the operator class of trigrams."""
    for name in EXTENSIONS:
        _run_ddl(connection, f"CREATE EXTENSION IF NOT EXISTS {name}")
    schema = connection.exec_driver_sql(
        "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
        "WHERE e.extname = 'pg_trgm'"
    ).scalar_one()
    return f"{schema}.gin_trgm_ops"


def _run_ddl(connection: Connection, sql: str) -> None:
    """Run a statement that may have any character in a name."""
    connection.execute(DDL(sql.replace("%", "%%")))  # type: ignore[no-untyped-call]  # SQLAlchemy does not say its type


def _drop_invalid(connection: Connection) -> None:
    """Drop what an interrupted attempt left."""
    sql = (
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indexrelid IN (to_regclass(?), to_regclass(?)) "
        "AND NOT indisvalid"
    )
    for (name,) in Route(connection).run(sql, (TEXTS, OTHERS)):
        _run_ddl(connection, f"DROP INDEX {name}")


def _make_indexes(connection: Connection, schema: str, classes: str, where: str, *, beside: str) -> None:
    table = f"{schema}.findings"
    with _explain_errors(where):
        columns, options = f"project_id, ({_LOWER}) {classes}", f"gin_pending_list_limit = {PENDING_KB}"
        for sql in (
            f"CREATE INDEX {beside}IF NOT EXISTS {TEXTS} ON {table} USING gin ({columns}) WITH ({options})",
            f"CREATE INDEX {beside}IF NOT EXISTS {OTHERS} ON {table} (project_id, created_at, id) WHERE NOT {IS_ASCII}",
            f"ANALYZE {table}",
        ):
            _run_ddl(connection, sql)


@contextmanager
def _explain_errors(where: str) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        state = sqlstate_of(error.orig)
        if state not in ("42501", "0A000", "58P01"):
            raise
        raise StorageUnavailableError(
            f"{where}: no text index: {str(error.orig).splitlines()[0]}. It takes the owner of the tables, and the extensions "
            f"{' and '.join(EXTENSIONS)} (contrib): let somebody who may run CREATE EXTENSION first; without the index "
            "searches give the same answers, and read the project"
        ) from error
