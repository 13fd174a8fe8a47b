"""`findings set-status`, `purge`, `delete-project`: what people decide about findings."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from findings_orm.cli.confirm import confirm
from findings_orm.cli.failures import InterruptError, UsageError
from findings_orm.cli.options import Project, Yes, parse_age, parse_time
from findings_orm.cli.progress import Tracker
from findings_orm.cli.queries import FindingId
from findings_orm.cli.root import command, session_of


@command(
    "set-status",
    "findings set-status ID false_positive --comment 'test data only'",
    "findings set-status ID resolved --actor ana --project acme-api",
)
def set_status(
    ctx: typer.Context,
    *,
    finding_id: FindingId,
    status: Annotated[
        str,
        typer.Argument(
            metavar="STATUS",
            help="open, triaged, in_progress, resolved, false_positive, risk_accepted or archived.",
        ),
    ],
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="NAME", help="Who decided; else the user of the system.")
    ] = None,
    comment: Annotated[str, typer.Option("--comment", "-m", metavar="TEXT", help="Why.")] = "",
    project: Project = None,
) -> None:
    """Change the status of a finding. Who, when and why goes into its history."""
    from findings_orm.finding import Status

    if status not in list(Status):
        raise UsageError(f"STATUS: must be one of {', '.join(Status)} (got {status!r})")
    session = session_of(ctx)
    who = actor if actor is not None else _system_user()
    with session.store() as store:
        project_id = session.project(store, project)
        before = store.get_finding(project_id, finding_id)["status"]
        document = store.set_status(project_id, finding_id, Status(status), actor=who, comment=comment)
    with session.out.report():
        change = (
            f"{before} -> {document['status']}" if before != document["status"] else f"is {before} already"
        )
        session.out.line(f"{document['id']}: {change} ({who})")


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        raise UsageError(
            "--actor: the system does not tell who you are; name the person who decided"
        ) from None


@command("rename-detector", "findings rename-detector semgrep semgrep-oss --project acme-api")
def rename_detector(
    ctx: typer.Context,
    *,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The detector as it is called in the project.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The detector as its reports call it now.")],
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="NAME", help="Who decided; else the user of the system.")
    ] = None,
    project: Project = None,
) -> None:
    """Give the findings of a detector its new name, so that the next report of it finds them.

    Ids, statuses and decisions stay; the history of each finding has an entry. It is refused where the project has
    findings of the new name already.
    """
    from findings_orm.backup.writing import record_store
    from findings_orm.imports.renaming import rename_detector as rename

    session = session_of(ctx)
    who = actor if actor is not None else _system_user()
    with session.store() as store:
        project_id = session.project(store, project)
        with Tracker(session.out, f"rename {project_id}"):
            count = rename(record_store(store), project_id, old, new, actor=who)
    with session.out.report():
        session.out.line(f"{count:,} findings of {project_id} are of {new} now ({who})")


@command(
    "purge",
    "findings purge --project acme-api --older-than 90d --dry-run",
    "findings purge --project acme-api --closed-before 2026-01-01 --yes",
)
def purge(
    ctx: typer.Context,
    *,
    closed_before: Annotated[
        str | None, typer.Option("--closed-before", metavar="TIME", help="A date, or a full time in UTC.")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="As 90d (days), 12w (weeks), 36h (hours)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many they are.")] = False,
    project: Project = None,
    yes: Yes = False,
) -> None:
    """Remove findings that were closed long ago.

    Closed is what is resolved, a false positive, accepted as a risk, or archived. Their history stays, with an
    entry that says what was removed.
    """
    if (closed_before is None) == (older_than is None):
        raise UsageError("say when: either --closed-before TIME or --older-than AGE")
    if closed_before is not None:
        before = parse_time("--closed-before", closed_before)
    else:
        before = parse_age("--older-than", older_than or "")
    session = session_of(ctx)
    with session.store() as store:
        project_id = session.project(store, project)
        count = store.purge(project_id, closed_before=before, dry_run=True).purged
        if dry_run or not count:
            would = "would be removed" if count else "were closed then: nothing to remove"
            session.out.line(f"{count:,} findings of {project_id} closed before {before} {would}")
            return
        confirm(f"this removes {count:,} findings of {project_id} that were closed before {before}", yes=yes)
        try:
            with Tracker(session.out, f"purge {project_id}"):
                purged = store.purge(project_id, closed_before=before).purged
        except KeyboardInterrupt as error:
            raise InterruptError(
                "interrupted; batches removed so far stay removed, the same command goes on"
            ) from error
    with session.out.report():
        session.out.line(f"removed {purged:,} findings of {project_id} closed before {before}")


@command("delete-project", "findings delete-project acme-api --yes")
def delete_project(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project.")],
    yes: Yes = False,
) -> None:
    """Delete a project with everything in it.

    Its findings, its runs, its history.
    """
    from findings_orm.query import FindingQuery

    session = session_of(ctx)
    with session.store() as store:
        project_id = session.project(store, name)
        count = store.count(FindingQuery(project_id=project_id))
        confirm(f"this deletes {project_id} with {count:,} findings and their history for good", yes=yes)
        with Tracker(session.out, f"delete {project_id}"):
            store.delete_project(project_id)
    with session.out.report():
        session.out.line(f"deleted {project_id} with {count:,} findings")
