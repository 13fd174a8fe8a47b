"""`findings db text-index`: the index that makes searches for text fast in large projects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from findings_orm.cli.database import db, sql_session
from findings_orm.cli.options import AsJson
from findings_orm.cli.progress import Tracker
from findings_orm.cli.root import command

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
    _write(session.out, found)


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
def status(ctx: typer.Context, form: AsJson = "text") -> None:
    """Show whether there is a text index, and what waits to be indexed."""
    from findings_orm.cli.render import as_json
    from findings_orm.orm import text_index

    session = sql_session(ctx)
    session.require_file()
    found = text_index.status(session.url)
    if form == "json":
        session.out.json(as_json(found))
    else:
        _write(session.out, found)


def _write(out: Output, found: TextIndexStatus) -> None:
    out.line(f"state      {found.state}")
    if found.state != "absent":
        out.line(f"findings   {found.findings:,}")
        out.line(f"waiting    {found.waiting:,}")
        out.line(f"removed    {found.removed:,}")
        out.line(f"size       {found.size:,} bytes")
