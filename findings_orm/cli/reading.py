"""`findings show`, `history` and `summary`: one finding, and a project at a glance."""

from __future__ import annotations

from typing import Annotated

import typer

from findings_orm.cli.options import AsJson, Project
from findings_orm.cli.root import command, session_of

FindingId = Annotated[
    str, typer.Argument(metavar="ID", help="The id of a finding, as 'findings list' shows it.")
]


@command(
    "show",
    "findings show 01980000-0000-7000-8000-000000000001",
    "findings show 01980000-0000-7000-8000-000000000001 --format json",
)
def show(ctx: typer.Context, finding_id: FindingId, project: Project = None, form: AsJson = "text") -> None:
    """Show everything of one finding. The format json is the document itself."""
    from findings_orm.cli.render import write_finding

    session = session_of(ctx)
    with session.store() as store:
        project_id = session.project(store, project)
        document = store.get_finding(project_id, finding_id)
        sighting = store.sighting(project_id, finding_id)
    if form == "json":
        session.out.json(document)
    else:
        write_finding(session.out, document, sighting)


@command("history", "findings history 01980000-0000-7000-8000-000000000001")
def history(
    ctx: typer.Context, finding_id: FindingId, project: Project = None, form: AsJson = "text"
) -> None:
    """Show what happened to a finding.

    Oldest first; a purged finding still has its history.
    """
    from findings_orm.cli.render import as_json, history_grid

    session = session_of(ctx)
    with session.store() as store:
        project_id = session.project(store, project)
        events = store.history(project_id, finding_id)
        if not events:
            store.get_finding(project_id, finding_id)
    if form == "json":
        session.out.json(as_json(events))
    elif events:
        session.out.grid(history_grid(events))
    else:
        session.out.note("nothing has changed since it was created")


@command("summary", "findings summary --project acme-api", "findings summary --format json")
def summary(ctx: typer.Context, project: Project = None, form: AsJson = "text") -> None:
    """Show a project at a glance.

    Counts by severity, status, detector and CWE, and the resources with most findings.
    """
    from findings_orm.cli.render import as_json, write_summary

    session = session_of(ctx)
    with session.store() as store:
        counts = store.summarize(session.project(store, project))
    if form == "json":
        session.out.json(as_json(counts))
    else:
        write_summary(session.out, counts)
