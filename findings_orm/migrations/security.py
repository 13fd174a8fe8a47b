"""Row-level security for the drift check: which tables it should be on for, and which it is on for."""

from __future__ import annotations

from sqlalchemy import Connection, MetaData, text

Facts = dict[tuple[str, str, str], dict[str, str]]

KIND = "row-level security"
_FOUND = text(
    "SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, p.polname, p.polpermissive, p.polroles = '{0}' "
    "FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid "
    "WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid) AND c.relkind IN ('r', 'p') "
    "AND (c.relrowsecurity OR p.polname IS NOT NULL)"
)


def declared_security(metadata: MetaData, dialect: str) -> Facts:
    """Return what the models say: tables name their policy in ``info``."""
    if dialect != "postgresql":
        return {}
    return {
        (table.name, KIND, table.info["policy"]): _facts(enabled=True, permissive=True, everybody=True)
        for table in metadata.tables.values()
        if "policy" in table.info
    }


def found_security(metadata: MetaData, connection: Connection) -> Facts:
    """Return what the database has."""
    if connection.dialect.name != "postgresql":
        return {}
    rows = connection.execute(_FOUND, {"names": list(metadata.tables)})
    return {
        (name, KIND, policy or "(no policy)"): _facts(
            enabled=enabled and not forced, permissive=bool(permissive), everybody=bool(everybody)
        )
        for name, enabled, forced, policy, permissive, everybody in rows
    }


def _facts(*, enabled: bool, permissive: bool, everybody: bool) -> dict[str, str]:
    return {
        "state": "on" if enabled else "off or forced",
        "policy": "permissive" if permissive else "restrictive",
        "roles": "all" if everybody else "some",
    }
