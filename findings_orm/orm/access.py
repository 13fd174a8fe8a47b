"""Which database roles may work with which projects on PostgreSQL: rows of ``finding_access`` and privileges.

Row-level security lets a role see and write the projects that it was granted, whatever SQL it runs. The owner of the
tables (and a superuser) is not under it, and only the owner can grant. docs/postgresql.md has the same as SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, text

from findings_orm.errors import StorageValidationError
from findings_orm.finding import check_project_id
from findings_orm.migrations import Target, require_current
from findings_orm.migrations.connecting import describe_target, open_connection
from findings_orm.migrations.scripts import VERSION_TABLE
from findings_orm.orm.models import TABLES, Access
from findings_orm.process import block

_GRANTS = Access.__tablename__
_OF_PROJECTS = sorted(table.name for table in TABLES if table.name != _GRANTS)


class Grant(NamedTuple):
    """A project that a database role may work with."""

    role: str
    project_id: str


def grant_access(target: Target, role: str, project_id: str) -> bool:
    """Let a database role work with a project, which need not exist yet; return whether it was new.

    The role is given the privileges on the tables that it needs, too.

    Args:
        target: the URL, an engine or a connection of the owner of the tables.
        role: an existing role, by its exact name. What is granted to a group is not inherited by its members.
        project_id: the project.

    Raises:
        StorageValidationError: the database is no PostgreSQL, has no such role, or the role owns the tables.
        StorageUnavailableError: the database can't be reached, or `target` is not of the owner.
    """
    check_project_id(project_id)
    with _access_transaction(target) as connection:
        name = _quoted_role(connection, role)
        schema, owner = _schema_and_owner(connection)
        if role == owner:
            rule = "must not be the owner of the tables, to whom all projects belong anyway"
            raise StorageValidationError.of_field("role", rule, role)
        sql = (
            "INSERT INTO finding_access (project_id, role) VALUES (:project, :role) "
            "ON CONFLICT DO NOTHING RETURNING 1"
        )
        new = connection.execute(text(sql), {"project": project_id, "role": role}).first() is not None
        tables = ", ".join(_OF_PROJECTS)
        _run_sql(connection, f"GRANT USAGE ON SCHEMA {_quote_name(connection, schema)} TO {name}")
        _run_sql(connection, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {name}")
        _run_sql(connection, f"GRANT SELECT ON {_GRANTS}, {VERSION_TABLE} TO {name}")
    return new


def revoke_access(target: Target, role: str, project_id: str | None = None) -> int:
    """Take a project from a database role (None: all of them), and return how many it lost.

    With the last one it loses its privileges on the tables. A role that was dropped is no error.

    Raises:
        StorageValidationError: the database is no PostgreSQL.
        StorageUnavailableError: the database can't be reached, or `target` is not of the owner.
    """
    with _access_transaction(target) as connection:
        sql = (
            "DELETE FROM finding_access WHERE role = :role "
            "AND (CAST(:project AS text) IS NULL OR project_id = :project)"
        )
        gone = connection.execute(text(sql), {"role": role, "project": project_id}).rowcount
        left = text("SELECT count(*) FROM finding_access WHERE role = :role")
        if not connection.execute(left, {"role": role}).scalar() and _has_role(connection, role):
            tables = ", ".join([*_OF_PROJECTS, _GRANTS, VERSION_TABLE])
            _run_sql(connection, f"REVOKE ALL ON {tables} FROM {_quote_name(connection, role)}")
    return gone


def list_access(target: Target, *, role: str | None = None, project_id: str | None = None) -> list[Grant]:
    """Return what was granted, by role and project; of one role, or for one project.

    Raises:
        StorageValidationError: the database is no PostgreSQL.
        StorageUnavailableError: the database can't be reached.
    """
    sql = (
        "SELECT role, project_id FROM finding_access WHERE (CAST(:role AS text) IS NULL OR role = :role) "
        "AND (CAST(:project AS text) IS NULL OR project_id = :project) ORDER BY role, project_id"
    )
    with _access_transaction(target) as connection:
        rows = connection.execute(text(sql), {"role": role, "project": project_id})
        return [Grant(*row) for row in rows]


@block
def _access_transaction(target: Target) -> Iterator[Connection]:
    """Yield a connection in a transaction that is committed at the end, unless it is the caller's."""
    where = describe_target(target)
    with open_connection(target) as connection:
        if connection.dialect.name != "postgresql":
            rule = "must be PostgreSQL: other databases have no roles"
            raise StorageValidationError.of_field("target", rule, where)
        joined = connection.in_transaction()
        if not require_current(connection):
            raise StorageValidationError.of_field(
                "target", "must have the tables: run 'findings db upgrade'", where
            )
        yield connection
        if not joined:
            connection.commit()


def _quoted_role(connection: Connection, role: str) -> str:
    """Return a role's name, quoted.

    Raises:
        StorageValidationError: there is none of that name.
    """
    if not isinstance(role, str) or not _has_role(connection, role):
        raise StorageValidationError.of_field("role", "must be a role of the server (CREATE ROLE)", role)
    return _quote_name(connection, role)


def _has_role(connection: Connection, role: str) -> bool:
    sql = "SELECT 1 FROM pg_roles WHERE rolname = :role"
    return "\0" not in role and connection.execute(text(sql), {"role": role}).first() is not None


def _schema_and_owner(connection: Connection) -> tuple[str, str]:
    """Return the schema of the tables, and their owner."""
    sql = (
        "SELECT n.nspname, pg_get_userbyid(c.relowner) FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = CAST('findings' AS regclass)"
    )
    schema, owner = connection.execute(text(sql)).one()
    return str(schema), str(owner)


def _quote_name(connection: Connection, name: str) -> str:
    """Return an identifier for driver SQL."""
    return connection.dialect.identifier_preparer.quote_identifier(name)


def _run_sql(connection: Connection, sql: str) -> None:
    connection.exec_driver_sql(sql)
