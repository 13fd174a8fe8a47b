"""`findings access`: which roles of a PostgreSQL server may work with which projects."""

from __future__ import annotations

from typing import Annotated

import typer

from findings_orm.cli.database import sql_session
from findings_orm.cli.failures import UsageError
from findings_orm.cli.options import AsJson
from findings_orm.cli.root import app, command
from findings_orm.errors import StorageValidationError

access = typer.Typer(
    name="access",
    help="Let roles of a PostgreSQL server work with projects, and no others.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExample:\n  findings access grant scanner acme-api\n",
)
app.add_typer(access)

Role = Annotated[str, typer.Argument(metavar="ROLE", help="A role of the server, by its exact name.")]


@command("grant", "findings access grant scanner acme-api", group=access)
def grant(
    ctx: typer.Context,
    role: Role,
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="The project; it need not exist yet.")],
) -> None:
    """Let a role read and write a project. Needs the owner of the tables."""
    from findings_orm.orm.access import grant_access

    session = sql_session(ctx)
    try:
        new = grant_access(session.url, role, project)
    except StorageValidationError as error:
        raise UsageError(str(error)) from error
    session.out.line(f"{role} {'may work' if new else 'could work already'} with {project}")


@command("revoke", "findings access revoke scanner acme-api", "findings access revoke scanner", group=access)
def revoke(
    ctx: typer.Context,
    role: Role,
    project: Annotated[
        str | None, typer.Argument(metavar="[PROJECT]", help="The project; all of the role's if not given.")
    ] = None,
) -> None:
    """Take a project from a role, or all of them. Needs the owner of the tables."""
    from findings_orm.orm.access import revoke_access

    session = sql_session(ctx)
    try:
        count = revoke_access(session.url, role, project)
    except StorageValidationError as error:
        raise UsageError(str(error)) from error
    session.out.line(f"{role} lost {count} project{'' if count == 1 else 's'}")


@command("list", "findings access list", "findings access list --format json", group=access)
def listing(
    ctx: typer.Context,
    form: AsJson = "text",
) -> None:
    """List the roles and the projects that they were granted."""
    from findings_orm.orm.access import list_access

    session = sql_session(ctx)
    try:
        found = list_access(session.url)
    except StorageValidationError as error:
        raise UsageError(str(error)) from error
    if form == "json":
        session.out.json([each._asdict() for each in found])
        return
    for each in found:
        session.out.line(f"{each.role}  {each.project_id}")
    if not found:
        session.out.note("nothing was granted yet")
