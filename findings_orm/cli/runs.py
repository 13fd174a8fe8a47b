"""`findings runs`, `diff`, `projects`: what was imported, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from findings_orm.cli.failures import NotFoundError
from findings_orm.cli.options import AsJson, Project
from findings_orm.cli.root import command, session_of

if TYPE_CHECKING:
    from findings_orm.port import Run


@command("runs", "findings runs --project acme-api")
def runs(ctx: typer.Context, project: Project = None, form: AsJson = "text") -> None:
    """List the imports of a project, oldest first."""
    from findings_orm.cli.render import as_json, runs_grid

    session = session_of(ctx)
    with session.store() as store:
        found = store.runs(session.project(store, project))
    if form == "json":
        session.out.json(as_json(found))
    elif found:
        session.out.grid(runs_grid(found))
    else:
        session.out.note("no runs yet")


@command("diff", "findings diff 1 2 --project acme-api", "findings diff 3 4 --format json")
def diff(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(metavar="RUN_A", help="The earlier run: its number or id.")],
    b: Annotated[str, typer.Argument(metavar="RUN_B", help="The later run.")],
    project: Project = None,
    form: AsJson = "text",
) -> None:
    """Show what changed from one run to another.

    That is, findings that only one of them saw.
    """
    from findings_orm.cli.render import as_json, write_diff

    session = session_of(ctx)
    with session.store() as store:
        project_id = session.project(store, project)
        known = store.runs(project_id)
        first, second = (run_of(known, project_id, name) for name in (a, b))
        difference = store.diff_runs(project_id, first.id, second.id)
    if form == "json":
        session.out.json(as_json(difference))
    else:
        write_diff(session.out, difference)


def run_of(known: Sequence[Run], project_id: str, name: str) -> Run:
    """Return the run that a number or an id names.

    Raises:
        NotFoundError: there is none.
    """
    for run in known:
        if name.lower() == run.id or name == str(run.number):
            return run
    hint = (
        f"Its runs have the numbers {known[0].number} to {known[-1].number}"
        if known
        else "It has no runs yet"
    )
    raise NotFoundError(f"project {project_id!r} has no run {name!r}", hint=f"{hint} (findings runs).")


@command("projects", "findings projects", "findings projects --format json")
def projects(ctx: typer.Context, form: AsJson = "text") -> None:
    """List the projects."""
    session = session_of(ctx)
    with session.store() as store:
        known = store.list_projects()
    if form == "json":
        session.out.json(known)
        return
    for project_id in known:
        session.out.line(project_id)
    if not known:
        session.out.note("no projects yet")
