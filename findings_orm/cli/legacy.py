"""`findings import-legacy`: a folder of files of schema 0.3.0 in."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from findings_orm.cli.failures import UsageError
from findings_orm.cli.options import Limit, MaxDocument, MaxReport, ReportForm, limits_of, one_of
from findings_orm.cli.progress import Tracker
from findings_orm.cli.root import command, session_of
from findings_orm.errors import StorageUnavailableError, StorageValidationError, readable

if TYPE_CHECKING:
    from findings_orm.cli.output import Output
    from findings_orm.formats.legacy import LegacyReport

SHOWN_NOTES = 20


@command(
    "import-legacy",
    "findings import-legacy old-findings/ --dry-run",
    "findings import-legacy old-findings/ --timezone Europe/Berlin --severity info --quarantine",
    "findings --url file:///srv/findings import-legacy acme-api.findings.json",
)
def import_legacy(
    ctx: typer.Context,
    *,
    source: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="The folder of <project>.findings.json, or one such file."),
    ],
    timezone: Annotated[
        str | None,
        typer.Option(
            "--timezone",
            metavar="ZONE",
            help="The zone of times without an offset, as Europe/Berlin; else such a row gets the time of the import.",
        ),
    ] = None,
    severity: Annotated[
        str | None,
        typer.Option(
            "--severity",
            metavar="NAME",
            help="The severity of rows without a known one; else they are refused.",
        ),
    ] = None,
    quarantine: Annotated[
        bool,
        typer.Option(
            "--quarantine", help="Keep refused rows aside ('findings rejected') and import the others."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the import would do, and write nothing.")
    ] = False,
    max_document: MaxDocument = None,
    max_report: MaxReport = None,
    limit: Limit = None,
    report: ReportForm = "text",
) -> None:
    """Import a folder of <project>.findings.json, as schema 0.3.0 had them: bare arrays of flat findings.

    All files are one transaction: imported whole or not at all. Importing them again changes nothing. What can't be placed
    without a guess is listed, row by row; fields that have no place but evidence are named. The owner and the notes of a triage
    become a comment in the history.
    """
    from findings_orm.formats.legacy import import_legacy as work

    _check_arguments(source, severity)
    session = session_of(ctx)
    limits = limits_of(max_document, max_report, limit)
    with (
        session.store_for_import(limits, dry_run=dry_run) as store,
        Tracker(session.out, f"import {source}") as tracker,
    ):
        try:
            found = work(
                store,
                source,
                timezone=timezone,
                severity=severity,
                on_invalid="quarantine" if quarantine else "raise",
                dry_run=dry_run,
                progress=tracker.add,
                limits=limits,
            )
        except StorageValidationError as error:
            raise _explain_refusal(error) from error
    with session.out.report():
        session.out.answer(report, _as_json(found), lambda: _write_legacy_report(session.out, found))


def _check_arguments(source: Path, severity: str | None) -> None:
    from findings_orm.finding import Severity
    from findings_orm.formats.legacy import legacy_files

    if severity is not None:
        one_of("--severity", severity, tuple(Severity))
    if not source.exists():
        raise UsageError(f"{source}: no such folder or file", hint="Nothing was imported.")
    try:
        legacy_files(source)
    except StorageUnavailableError as error:
        raise UsageError(str(error), hint="Nothing was imported.") from error


def _explain_refusal(error: StorageValidationError) -> Exception:
    from findings_orm.cli.failures import CommandError

    if error.field == "timezone":
        return UsageError(f"--timezone: {error.rule} (got {readable(error.value)})")
    hint = "Nothing was imported."
    if error.field == "severity":
        hint += " --severity says which one to take."
    if error.index is not None:
        hint += " --quarantine keeps such rows aside and imports the others."
    return CommandError(str(error), hint=hint)


def _as_json(found: LegacyReport) -> dict[str, object]:
    counts: dict[str, object] = {"files": found.files, **found.counts()}
    rest = {name: getattr(found, name) for name in ("comments", "unplaced", "projects", "rejected")}
    notes = [{each.name: getattr(one, each.name) for each in fields(one)} for one in found.notes]  # no copies
    return {**counts, "dry_run": found.dry_run, **rest, "notes": notes}


def _write_legacy_report(out: Output, found: LegacyReport) -> None:
    remark = " (dry run: nothing was written)" if found.dry_run else ""
    out.line((f"{len(found.files)} files", "bold"), f" of schema 0.3.0{remark}")
    for project_id, report in found.projects.items():
        out.line(
            f"  {project_id}: " + "  ".join(f"{key} {count:,}" for key, count in report.counts().items())
        )
    if found.comments:
        out.line(f"  owner and notes of {found.comments:,} findings are in their history")
    if found.unplaced:
        named = ", ".join(f"{name} ({count:,})" for name, count in found.unplaced.items())
        out.line(f"  no place but evidence: {named}")
    for (name, note), count in Counter((one.field, one.note) for one in found.notes).items():
        out.line(f"  {name} of {count:,} rows {note}")
    for one in found.notes[:SHOWN_NOTES]:
        out.line(f"    {one.file} #{one.index} {one.field}: {readable(one.value)}")
    for refusal in found.rejected[:SHOWN_NOTES]:
        kept = f" (kept as {refusal.rejected_id})" if refusal.rejected_id and not found.dry_run else ""
        out.line(f"  rejected {refusal.file} #{refusal.index} {refusal.field}: {refusal.reason}{kept}")
    more = max(0, len(found.notes) - SHOWN_NOTES) + max(0, len(found.rejected) - SHOWN_NOTES)
    if more:
        out.line(f"  and {more:,} more rows (--report json lists all)")
