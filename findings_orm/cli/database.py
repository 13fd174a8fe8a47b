"""`findings db`: the schema of a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from findings_orm.cli.failures import CommandError, ExitCode, UsageError
from findings_orm.cli.foreseeing import foresee
from findings_orm.cli.options import AsJson
from findings_orm.cli.progress import Tracker
from findings_orm.cli.root import app, command, session_of
from findings_orm.secrecy import shown_url

if TYPE_CHECKING:
    from findings_orm.cli.session import Session
    from findings_orm.migrations import DatabaseStatus

db = typer.Typer(
    name="db",
    help="Make a database, bring its schema up or down.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExample:\n  findings db upgrade\n",
)
app.add_typer(db)


Plan = Annotated[
    bool,
    typer.Option("--plan", help="Say what it would do: rows, space, locks, waiting. Changes nothing."),
]
AsSql = Annotated[bool, typer.Option("--sql", help="Write the SQL to standard output instead of running it.")]


@command(
    "upgrade",
    "findings db upgrade",
    "findings db upgrade --plan",
    "findings db upgrade --sql > upgrade.sql",
    "findings --url sqlite:///other.db db upgrade r0001",
    group=db,
)
def upgrade(
    ctx: typer.Context,
    revision: Annotated[
        str, typer.Argument(metavar="REVISION", help="A revision; head is the newest.")
    ] = "head",
    *,
    plan: Plan = False,
    sql: AsSql = False,
    form: AsJson = "text",
) -> None:
    """Bring the schema up to a revision, findings included. A SQLite database that does not exist is made.

    --format is that of --plan.
    """
    from findings_orm import migrations

    session = sql_session(ctx)
    if plan or sql:
        foresee(session, "upgrade", revision, form, sql=sql)
        return
    before = None if session.missing_file() else migrations.status(session.url).current
    with Tracker(session.out, f"upgrade to {revision}"):
        migrations.upgrade(session.url, revision, progress=session.out.note)
    _say_moved(session, before)


@command(
    "downgrade",
    "findings db downgrade r0001",
    "findings db downgrade r0001 --plan",
    "findings db downgrade base",
    group=db,
)
def downgrade(
    ctx: typer.Context,
    revision: Annotated[str, typer.Argument(metavar="REVISION", help="A revision; base removes everything.")],
    *,
    plan: Plan = False,
    sql: AsSql = False,
    form: AsJson = "text",
) -> None:
    """Bring the schema down to a revision, findings included; what it has no room for is kept aside.

    The revision base drops the tables with everything in them. --format is that of --plan.
    """
    from findings_orm import migrations

    session = sql_session(ctx)
    if plan or sql:
        foresee(session, "downgrade", revision, form, sql=sql)
        return
    session.require_file()
    before = migrations.status(session.url).current
    with Tracker(session.out, f"downgrade to {revision}"):
        migrations.downgrade(session.url, revision)
    _say_moved(session, before)


@command("status", "findings db status", "findings db status --format json", group=db)
def status(ctx: typer.Context, form: AsJson = "text") -> None:
    """Show which schema the database has. The exit code is 4 when it needs 'findings db upgrade'."""
    from findings_orm import migrations
    from findings_orm.cli.render import as_json

    session = sql_session(ctx)
    session.require_file()
    found = migrations.status(session.url)
    if form == "json":
        session.out.json(as_json(found))
    else:
        _write_status(session, found)
    if found.current != found.head:
        raise typer.Exit(ExitCode.VERSION)


@command("check", "findings db check", group=db)
def check(ctx: typer.Context) -> None:
    """Compare the tables of the database with those of this release. The exit code is 1 when they differ."""
    from findings_orm import migrations

    session = sql_session(ctx)
    session.require_file()
    drift = migrations.check(session.url)
    for difference in drift:
        session.out.line(difference)
    if drift:
        raise CommandError(
            f"the schema differs in {len(drift)} places",
            hint="Somebody changed the tables by hand, or 'findings db upgrade' was not run.",
        )
    session.out.line("the schema is as it should be")


def sql_session(ctx: typer.Context) -> Session:
    """Return the session, if its storage is a database."""
    session = session_of(ctx)
    if not session.is_database:
        raise UsageError(
            f"{shown_url(session.url)} is no database: it has no schema to bring up or down",
            hint="Name one with --url, as sqlite:///findings.db",
        )
    return session


def _write_status(session: Session, found: DatabaseStatus) -> None:
    out = session.out
    out.line(f"database   {shown_url(session.url)}")
    out.line(f"revision   {found.current or '(none)'}, finding schema {found.schema_version or '(none)'}")
    out.line(f"head       {found.head}, finding schema {found.head_schema_version}")
    if found.pending:
        out.line(f"pending    {', '.join(found.pending)}: run 'findings db upgrade'")
    elif found.current == found.head:
        out.line("pending    nothing")


def _say_moved(session: Session, before: str | None) -> None:
    from findings_orm import migrations

    after = migrations.status(session.url)
    with session.out.report():
        if after.current == before:
            session.out.line(f"nothing to do: the database is at {after.current or 'base'}")
        else:
            session.out.line(
                f"{before or 'base'} -> {after.current or 'base'} (finding schema {after.schema_version or 'none'})"
            )
