"""Drift: where the tables of a database are not those that the models declare."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Dialect,
    ForeignKeyConstraint,
    Index,
    Inspector,
    Table,
    UniqueConstraint,
    inspect,
    text,
)

from findings_orm.arguments import checked
from findings_orm.migrations.connecting import Target, open_connection
from findings_orm.migrations.database import status

# -- row-level security for the drift check: which tables it should be on for, and which it is on for -----


KIND = "row-level security"
_FOUND = text(
    "SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, p.polname, p.polpermissive, p.polroles = '{0}' "
    "FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid "
    "WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid) AND c.relkind IN ('r', 'p') "
    "AND (c.relrowsecurity OR p.polname IS NOT NULL)"
)


def declared_security(tables: Sequence[Table], dialect: str) -> Facts:
    """Return what the models say: tables name their policy in ``info``."""
    if dialect != "postgresql":
        return {}
    return {
        (table.name, KIND, table.info["policy"]): _security_facts(
            enabled=True, permissive=True, everybody=True
        )
        for table in tables
    }


def found_security(names: list[str], connection: Connection) -> Facts:
    """Return what the database has."""
    if connection.dialect.name != "postgresql":
        return {}
    rows = connection.execute(_FOUND, {"names": names})
    return {
        (name, KIND, policy or "(no policy)"): _security_facts(
            enabled=enabled and not forced, permissive=bool(permissive), everybody=bool(everybody)
        )
        for name, enabled, forced, policy, permissive, everybody in rows
    }


def _security_facts(*, enabled: bool, permissive: bool, everybody: bool) -> dict[str, str]:
    return {
        "state": "on" if enabled else "off or forced",
        "policy": "permissive" if permissive else "restrictive",
        "roles": "all" if everybody else "some",
    }


# -- drift: where the tables of a database are not those that the models declare --------------------------


Facts = dict[tuple[str, str, str], dict[str, str]]
"""What there is, and how: (table, kind, name) -> attributes in words."""

_OF_PARTITION = re.compile(r"_[0-9]+$")
_CAST = re.compile(r"::(?:double precision|timestamp with time zone|character varying|\w+)(?:\[\])?")


@checked
def check(target: Target, *, schema: str | None = None) -> list[str]:
    """Return in words where a database differs from the models of this release; ``[]`` where it does not.

    Tables of others are not looked at. Nothing is changed.

    Raises:
        StorageUnavailableError: the database can't be reached, or the SQLite file does not exist.
    """
    with open_connection(target, schema=schema) as connection:
        found = status(connection)
        tables, optional = _models()
        names = [table.name for table in tables]
        drift = [] if found.current == found.head else [_describe_lag(found.current, found.head)]
        expected = _declared_facts(tables, connection.dialect)
        expected |= declared_security(tables, connection.dialect.name)
        reflected = _found_facts(names, optional, connection) | found_security(names, connection)
        return drift + list(_describe_differences(expected, reflected))


def _models() -> tuple[Sequence[Table], Sequence[str]]:
    """Return our tables as the models declare them, and the names of indexes that only operators make. They are loaded
    by name, as kinds of stores are, for they lie above the migrations."""
    models = import_module("findings_orm.orm.models")
    return models.TABLES, models.OPTIONAL_INDEXES


def _describe_lag(current: str | None, head: str) -> str:
    return f"the database is at revision {current or '(none)'}, the models are those of {head}"


def _describe_differences(expected: Facts, found: Facts) -> Iterator[str]:
    missing = {table for table, kind, _ in expected if kind == "table"} - {table for table, _, _ in found}
    for key in sorted(expected.keys() | found.keys()):
        table, kind, name = key
        what = f"table {table}" if kind == "table" else f"table {table}: {kind} {name}"
        if table in missing:
            if kind == "table":
                yield f"{what} is missing"
        elif key not in found:
            yield f"{what} is missing"
        elif key not in expected:
            yield f"{what} is not in the models"
        else:
            for attribute, value in expected[key].items():
                if found[key][attribute] != value:
                    yield f"{what}: {attribute} is {found[key][attribute]}, should be {value}"


# -- what the models declare ------------------------------------------------------------------------------------------


def _declared_facts(tables: Sequence[Table], dialect: Dialect) -> Facts:
    facts: Facts = {}
    for table in tables:
        if table.info.get("dialect", dialect.name) != dialect.name:
            continue
        facts[table.name, "table", ""] = {}
        for column in table.columns:
            facts[table.name, "column", column.name] = _declared_column(column, dialect)
        for kind, name, attributes in _declared_constraints(table, dialect):
            facts[table.name, kind, name] = attributes
    return facts


def _declared_column(column: Column[object], dialect: Dialect) -> dict[str, str]:
    default = column.server_default
    return {
        "type": column.type.compile(dialect=dialect),
        "null": "allowed" if column.nullable else "refused",
        "default": _unify_expression(str(getattr(default, "arg", None))),
    }


def _declared_constraints(table: Table, dialect: Dialect) -> Iterator[tuple[str, str, dict[str, str]]]:
    primary = table.primary_key
    yield (
        "primary key",
        str(primary.name),
        {"columns": _join_names(column.name for column in primary.columns)},
    )
    for constraint in table.constraints:
        name = str(constraint.name)
        if isinstance(constraint, CheckConstraint):
            yield "check", name, {"rule": _unify_expression(str(constraint.sqltext))}
        elif isinstance(constraint, UniqueConstraint):
            yield (
                "unique constraint",
                name,
                {"columns": _join_names(column.name for column in constraint.columns)},
            )
        elif isinstance(constraint, ForeignKeyConstraint):
            yield "foreign key", name, _declared_reference(constraint)
    for index in table.indexes:
        if index.info.get("dialect", dialect.name) != dialect.name:
            continue
        yield "index", str(index.name), _declared_index(index, dialect)


def _declared_reference(constraint: ForeignKeyConstraint) -> dict[str, str]:
    referred = [element.column for element in constraint.elements]
    return _reference_facts(
        constraint.column_keys,
        referred[0].table.name,
        [column.name for column in referred],
        constraint.ondelete,
    )


def _declared_index(index: Index, dialect: Dialect) -> dict[str, str]:
    return {
        "columns": _join_names(getattr(column, "name", str(column)) for column in index.expressions),
        "unique": str(bool(index.unique)),
        "condition": _unify_expression(str(index.dialect_options[dialect.name]["where"])),
        "kind": _index_kind(index.dialect_options[dialect.name].get("using")),
        "operators": _join_names(sorted({*index.dialect_options[dialect.name].get("ops", {}).values()})),
    }


# -- what the database has --------------------------------------------------------------------------------------------


def _found_facts(names: list[str], optional: Sequence[str], connection: Connection) -> Facts:
    inspector = inspect(connection)
    names = [name for name in names if inspector.has_table(name)]
    facts: Facts = {(name, "table", ""): {} for name in names}
    for (_, table), columns in inspector.get_multi_columns(filter_names=names).items():
        for column in columns:
            facts[table, "column", column["name"]] = {
                "type": column["type"].compile(dialect=connection.dialect),
                "null": "allowed" if column["nullable"] else "refused",
                "default": _unify_expression(str(column["default"])),
            }
    for table, kind, name, attributes in _found_constraints(inspector, names):
        facts[table, kind, str(name)] = attributes
    for (_, table), indexes in inspector.get_multi_indexes(filter_names=names).items():
        for index in indexes:
            if not (index["name"] in optional or index.get("duplicates_constraint")):
                facts[table, "index", str(index["name"])] = _found_index(index, connection.dialect.name)
    return facts


def _found_constraints(
    inspector: Inspector, names: list[str]
) -> Iterator[tuple[str, str, str | None, dict[str, str]]]:
    for (_, table), primary in inspector.get_multi_pk_constraint(filter_names=names).items():
        if primary["constrained_columns"]:
            yield (
                table,
                "primary key",
                primary["name"],
                {"columns": _join_names(primary["constrained_columns"])},
            )
    for (_, table), rules in inspector.get_multi_check_constraints(filter_names=names).items():
        for rule in rules:
            yield table, "check", rule["name"], {"rule": _unify_expression(rule["sqltext"])}
    for (_, table), uniques in inspector.get_multi_unique_constraints(filter_names=names).items():
        for unique in uniques:
            yield table, "unique constraint", unique["name"], {"columns": _join_names(unique["column_names"])}
    for (_, table), keys in inspector.get_multi_foreign_keys(filter_names=names).items():
        for key in keys:
            if key["referred_table"] not in names and _OF_PARTITION.search(key["referred_table"]):
                continue  # PostgreSQL's own copy of a key that refers to a partitioned table
            target = (key["constrained_columns"], key["referred_table"], key["referred_columns"])
            yield (
                table,
                "foreign key",
                key["name"],
                _reference_facts(*target, key.get("options", {}).get("ondelete")),
            )


def _found_index(index: Any, dialect: str) -> dict[str, str]:
    options: Mapping[str, Any] = index.get("dialect_options", {})
    return {
        "columns": _join_names(index.get("expressions") or [str(name) for name in index["column_names"]]),
        "unique": str(bool(index["unique"])),
        "condition": _unify_expression(str(options.get(f"{dialect}_where"))),
        "kind": _index_kind(options.get(f"{dialect}_using")),
        "operators": _join_names(sorted({*options.get(f"{dialect}_ops", {}).values()})),
    }


# -- words ------------------------------------------------------------------------------------------------------------


def _index_kind(using: object) -> str:
    return str(using or "btree")


def _join_names(names: Any) -> str:
    return ", ".join(names)


def _reference_facts(columns: object, table: str, referred: object, ondelete: str | None) -> dict[str, str]:
    return {
        "columns": _join_names(columns),
        "refers to": f"{table} ({_join_names(referred)})",
        "on delete": ondelete or "nothing",
    }


def _unify_expression(sql: str) -> str:
    """Return a condition or a default in one form, whoever wrote it: PostgreSQL rewrites what it is given."""
    parts = re.split(r"('(?:[^']|'')*')", sql)
    plain = [
        part if n % 2 else _CAST.sub("", part).lower().replace('collate "c"', "")
        for n, part in enumerate(parts)
    ]
    joined = "".join(plain)
    joined = re.sub(r"(\w+(?:\(\w+\))?) between (\S+) and (\S+)", r"\1 >= \2 and \1 <= \3", joined)
    joined = re.sub(r"= any \(+array\[(.*?)\]\)+", r"in (\1)", joined)
    joined = re.sub(r"\((\d+|'(?:[^']|'')*')\)", r"\1", joined)
    while re.fullmatch(r"\(.*\)", joined) and _is_enclosed(joined):
        joined = joined[1:-1]
    joined = re.sub(r"\((\w+(?:\(\w+\))? [<>=]+ \S+?)\)", r"\1", joined)
    return " ".join(joined.split())


def _is_enclosed(text: str) -> bool:
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position == len(text) - 1
    return False
