"""`findings db`, with its text index, and `findings access`: the schema of a database and its roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from findings_orm.cli.failures import CommandError, ExitCode, UsageError
from findings_orm.cli.options import AsJson
from findings_orm.cli.progress import Tracker
from findings_orm.cli.root import app, command, session_of
from findings_orm.errors import StorageValidationError
from findings_orm.secrecy import shown_url

# -- `findings db`: the schema of a database --------------------------------------------------------------


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
        foresee_migration(session, "upgrade", revision, form, sql=sql)
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
        foresee_migration(session, "downgrade", revision, form, sql=sql)
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

    session = sql_session(ctx)
    session.require_file()
    found = migrations.status(session.url)
    session.out.answer(form, found, lambda: _write_status(session, found))
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


# -- what `findings db upgrade` and `downgrade` would do, and its SQL -------------------------------------


if TYPE_CHECKING:
    from findings_orm.cli.output import Output
    from findings_orm.cli.session import Session
    from findings_orm.migrations import MigrationPlan


def foresee_migration(
    session: Session, direction: Literal["upgrade", "downgrade"], revision: str, form: str, *, sql: bool
) -> None:
    """Write the plan of a migration, or its SQL."""
    from findings_orm import migrations

    session.require_file()
    if sql:
        if form != "text":
            raise UsageError("--format: --sql has no other format")
        with session.out.file() as stream:
            stream.write(migrations.script(session.url, revision, direction=direction))
        return
    found = migrations.plan(session.url, revision, direction=direction)
    session.out.answer(form, found, lambda: _write_plan(session.out, found))


def _write_plan(out: Output, found: MigrationPlan) -> None:
    way = f"{found.current or 'base'} -> {found.target or 'base'}"
    out.line((f"{found.direction} {way}", "bold"), f"  {found.database}")
    if not found.steps:
        out.line("  nothing to do")
        return
    for step in found.steps:
        out.line(
            f"  {step.revision}  {step.work or 'changes the tables only'} (schema {step.schema_version or 'none'})"
        )
        if step.locks:
            out.line(f"         locks {', '.join(step.locks)}")
    free = f", {_format_megabytes(found.free)} are free" if found.free is not None else ""
    out.line(
        f"  rows     {sum(step.rows for step in found.steps):,} to write, of {found.findings:,} findings"
    )
    out.line(
        f"  space    {_format_megabytes(found.space)} meanwhile (findings have {_format_megabytes(found.size)}{free})"
    )
    out.line(f"  time     about {found.seconds} s at most" if found.seconds else "  time     moments")
    out.line(f"  readers  {found.readers}")
    out.line(f"  writers  {found.writers}")
    out.line(f"  backup   {f'advised: {found.backup}' if found.backup else 'not needed'}")


def _format_megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


# -- `findings db text-index`: the index that makes searches for text fast in large projects --------------


if TYPE_CHECKING:
    from findings_orm.cli.output import Output
    from findings_orm.orm.text_index import TextIndexStatus

group = typer.Typer(
    name="text-index",
    help="Make, drop and look at the index for 'findings list --text'. Answers are the same without it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExample:\n  findings db text-index create\n",
)
db.add_typer(group)


@command("create", "findings db text-index create", group=group)
def create(ctx: typer.Context) -> None:
    """Make the text index, or complete it. Others may read and write meanwhile; Ctrl-C leaves nothing wrong.

    It makes searches read what they find instead of the project, and imports slower (docs/store.md). On PostgreSQL it takes the
    extensions pg_trgm and btree_gin, which are made if the role may.
    """
    from findings_orm.orm import text_index

    session = sql_session(ctx)
    session.require_file()
    with Tracker(session.out, "text index") as tracker:
        found = text_index.create(session.url, progress=tracker.add)
    _write_index_status(session.out, found)


@command("drop", "findings db text-index drop", group=group)
def drop(ctx: typer.Context) -> None:
    """Drop the text index. Searches read the project again."""
    from findings_orm.orm import text_index

    session = sql_session(ctx)
    session.require_file()
    dropped = text_index.drop(session.url)
    session.out.line("dropped" if dropped else "nothing to do: there is no text index")


@command(
    "status", "findings db text-index status", "findings db text-index status --format json", group=group
)
def text_index_status(ctx: typer.Context, form: AsJson = "text") -> None:
    """Show whether there is a text index, and what waits to be indexed."""
    from findings_orm.orm import text_index

    session = sql_session(ctx)
    session.require_file()
    found = text_index.status(session.url)
    session.out.answer(form, found, lambda: _write_index_status(session.out, found))


def _write_index_status(out: Output, found: TextIndexStatus) -> None:
    out.line(f"state      {found.state}")
    if found.state != "absent":
        out.line(f"findings   {found.findings:,}")
        out.line(f"waiting    {found.waiting:,}")
        out.line(f"removed    {found.removed:,}")
        out.line(f"size       {found.size:,} bytes")


# -- `findings access`: which roles of a PostgreSQL server may work with which projects -------------------


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
    lines = [f"{each.role}  {each.project_id}" for each in found]
    session.out.answer_lines(form, [each._asdict() for each in found], lines, "nothing was granted yet")
