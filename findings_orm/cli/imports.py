"""`findings import`: reports of scanners in."""

from __future__ import annotations

import os
import shlex
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from findings_orm.cli.failures import CommandError, InterruptError, UsageError, explain_error
from findings_orm.cli.options import (
    AsJson,
    Limit,
    MaxDocument,
    MaxReport,
    ReportForm,
    limits_of,
    one_of,
    split,
)
from findings_orm.cli.progress import CountedFile, Tracker
from findings_orm.cli.root import command, session_of
from findings_orm.errors import SchemaVersionError, StorageConflictError, StorageError, StorageValidationError

if TYPE_CHECKING:
    from findings_orm.cli.session import Session
    from findings_orm.formats import Report
    from findings_orm.limits import Limits
    from findings_orm.port import FindingStore, IngestReport, Run


@command(
    "import",
    "findings import scan.sarif --project acme-api",
    "findings import nightly/*.sarif --project acme-api --dry-run",
    "findings import full-scan.sarif --project acme-api --close-missing",
    "findings import image.jsonl --project acme-api --category images/web --close-missing",
    "findings import with-responses.sarif --project acme-api --max-document 64MB",
    "nuclei -jsonl -u https://acme.example | findings import - --project acme",
)
def import_(
    ctx: typer.Context,
    *,
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Reports; - is standard input.")],
    project: Annotated[
        str, typer.Option("--project", "-p", metavar="NAME", help="The project; a new one is made.")
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="One of 'findings formats'; else seen from the content."
        ),
    ] = None,
    close_missing: Annotated[
        bool,
        typer.Option(
            "--close-missing",
            help="Resolve what the report's detectors reported earlier and this report no longer has.",
        ),
    ] = False,
    category: Annotated[
        str,
        typer.Option(
            "--category",
            metavar="NAME",
            help="The part of the project that the reports are about (a folder, an image); else what SARIF says. "
            "--close-missing resolves within it only.",
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the import would do, and write nothing.")
    ] = False,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id", metavar="UUID", help="Id of the run: a retry with the same id has no further effect."
        ),
    ] = None,
    quarantine: Annotated[
        bool,
        typer.Option(
            "--quarantine", help="Keep refused findings aside ('findings rejected') and import the others."
        ),
    ] = False,
    volatile: Annotated[
        list[str] | None,
        typer.Option(
            "--volatile",
            metavar="PATH",
            help="In JSON Lines: what changes at each scan, as evidence.scan.time, and is no change. May be repeated.",
        ),
    ] = None,
    max_document: MaxDocument = None,
    max_report: MaxReport = None,
    limit: Limit = None,
    report: ReportForm = "text",
) -> None:
    """Import reports: SARIF 2.1.0, nuclei, JSON Lines and what else 'findings formats' lists.

    Each file is one import in one transaction: it is imported whole or not at all. Importing a report again
    changes nothing. Where one of several files is refused, the others are imported all the same, and the exit
    code is that of the first refusal. A SQLite database that does not exist is made.
    """
    if form is not None:
        from findings_orm.formats import FORMATS

        one_of("--format", form, FORMATS)
    _check_files(files)
    _check_run_id(run_id, files)
    task = _Import(
        session_of(ctx),
        project,
        form=form,
        run_id=run_id,
        close_missing=close_missing,
        category=category,
        dry_run=dry_run,
        quarantine=quarantine,
        in_text=report == "text",
        volatile=split(volatile),
        limits=limits_of(max_document, max_report, limit),
    )
    try:
        task.import_files(files)
    finally:
        if report == "json":
            task.write_json()
    if task.refused:
        raise typer.Exit(task.refused[0][1].code)


@command("formats", "findings formats", "findings formats --format json")
def formats(ctx: typer.Context, form: AsJson = "text") -> None:
    """List the formats that 'import' reads and 'export' writes."""
    from findings_orm.cli.output import Column, Grid
    from findings_orm.formats.report import KNOWN

    out = session_of(ctx).out
    found = [
        {
            "name": known.name,
            "import": known.can_be("read"),
            "export": known.can_be("written"),
            "endings": known.endings,
            "summary": known.summary,
        }
        for known in KNOWN.values()
    ]
    rows = [
        (
            known.name,
            "yes" if known.can_be("read") else "no",
            "yes" if known.can_be("written") else "no",
            " ".join(known.endings),
            known.summary,
        )
        for known in KNOWN.values()
    ]
    columns = (Column("NAME"), Column("IMPORT"), Column("EXPORT"), Column("ENDINGS"), Column("WHAT"))
    out.answer(form, found, lambda: out.grid(Grid(columns, rows)))


def _check_files(files: list[str]) -> None:
    """Look at all files before the first one is imported."""
    if files.count("-") > 1:
        raise UsageError("- (standard input) can only be read once")
    for file in files:
        if file == "-":
            continue
        if Path(file).is_dir():
            raise UsageError(
                f"{file}: is a folder",
                hint="Name the reports in it, as in nightly/*.sarif. Files of 0.3.0: findings import-legacy FOLDER",
            )
        if not Path(file).exists():
            raise UsageError(f"{file}: no such file", hint="Nothing was imported.")
        if not os.access(file, os.R_OK):
            raise UsageError(f"{file}: no permission to read it", hint="Nothing was imported.")


def _check_run_id(run_id: str | None, files: list[str]) -> None:
    if run_id is None:
        return
    if len(files) > 1:
        raise UsageError("--run-id names one run, but each file is a run of its own", hint="Import one file.")
    try:
        valid = str(uuid.UUID(run_id)) == run_id.lower()
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"--run-id: must be a UUID in its 36 character form (got {run_id!r})")


@dataclass
class _Tracked:
    """Findings that are counted while they are read, with the run that the report says."""

    run: Run
    items: Iterator[dict[str, Any]]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.items


@dataclass
class _Import:
    """The import of some files into one project."""

    session: Session
    project: str
    form: str | None
    run_id: str | None
    close_missing: bool
    category: str
    dry_run: bool
    quarantine: bool
    in_text: bool
    volatile: tuple[str, ...]
    limits: Limits
    done: list[tuple[str, IngestReport]] = field(default_factory=list)
    refused: list[tuple[str, CommandError]] = field(default_factory=list)
    _reported_by: dict[tuple[str, str], str] = field(default_factory=dict)
    _is_legacy: bool = False

    def import_files(self, files: list[str]) -> None:
        """Import the files one after the other."""
        with self.session.store_for_import(self.limits, dry_run=self.dry_run) as store:
            for file in files:
                self._import_guarded(store, file, alone=len(files) == 1)
        if len(files) > 1:
            self._note_refused(files)

    def _import_guarded(self, store: FindingStore, file: str, *, alone: bool) -> None:
        """Import one file; note down a refusal where others may follow."""
        name = "standard input" if file == "-" else file
        self._is_legacy = False
        try:
            self._import_file(store, file, name)
        except (StorageValidationError, SchemaVersionError, StorageConflictError) as error:
            failure = self._explain_refusal(error, file, name)
            if alone:
                raise failure from error
            self.refused.append((name, failure))
            self.session.out.note(f"refused: {failure} {failure.hint}".rstrip(), always=True)

    def _import_file(self, store: FindingStore, file: str, name: str) -> None:
        from findings_orm.clock import uuid7

        run_id = self.run_id or uuid7()
        try:
            with Tracker(self.session.out, name) as tracker, self._open_report(file, tracker) as report:
                self._is_legacy = report.legacy
                outcome = self._ingest_report(store, report, run_id, tracker)
        except KeyboardInterrupt as error:
            raise InterruptError(self._interrupt_message(store, run_id, name)) from error
        self.done.append((name, outcome))
        self._reported_by |= dict.fromkeys(self._scopes(report), name)
        for remark in report.notes:
            self.session.out.note(f"{name}: {remark}")
        if report.legacy:
            self.session.out.note(
                f"{name}: has findings of {_legacy_hint(file)} also takes times without an offset, and owners and notes."
            )
        if self.in_text:
            from findings_orm.cli.render import write_report

            with self.session.out.report():
                write_report(self.session.out, f"{name} ({report.format})", self.project, outcome)

    @contextmanager
    def _open_report(self, file: str, tracker: Tracker) -> Iterator[Report]:
        """Open a report and check it whole, which takes a while for a large one."""
        from findings_orm.formats import open_report

        if file == "-":
            tracker.phase("reading, ", in_bytes=True)
            with open_report("-", self.form, limits=self.limits, volatile=self.volatile) as report:
                yield report
            return
        with CountedFile(file, tracker) as stream:
            tracker.phase("checking, ", Path(file).stat().st_size or None, in_bytes=True)
            with open_report(stream, self.form, limits=self.limits, volatile=self.volatile) as report:
                yield report

    def _ingest_report(
        self, store: FindingStore, report: Report, run_id: str, tracker: Tracker
    ) -> IngestReport:
        from findings_orm.port import Run

        if self.close_missing:
            self._refuse_closing(report)
        return store.ingest(
            self.project,
            _Tracked(report.run, tracker.track_items(report, report.total)),
            run=Run(run_id, category=self.category),
            close_missing=self.close_missing,
            dry_run=self.dry_run,
            on_invalid="quarantine" if self.quarantine else "raise",
        )

    def _refuse_closing(self, report: Report) -> None:
        """Refuse ``--close-missing`` for a second report of one scope, to which the findings of the first are missing."""
        for scope in sorted(self._scopes(report)):
            if scope in self._reported_by:
                raise StorageValidationError(
                    f"it reports for {scope[0]}, as {self._reported_by[scope]} does; with --close-missing it would "
                    "resolve what that file just reported"
                )

    def _scopes(self, report: Report) -> set[tuple[str, str]]:
        run = replace(report.run, category=self.category, categories={}) if self.category else report.run
        return run.scopes()

    def _explain_refusal(self, error: StorageError, file: str, name: str) -> CommandError:
        failure = explain_error(error)
        message = str(failure) if str(failure).startswith(name) else f"{name}: {failure}"
        hint = failure.hint or "Nothing of this file was imported."
        if self._is_legacy:
            return CommandError(
                message, hint=f"{hint} It looks like {_legacy_hint(file)} takes it.", code=failure.code
            )
        if isinstance(error, StorageValidationError) and error.index is not None and not self.quarantine:
            hint += " Correct it, or import the other findings with --quarantine."
        return CommandError(message, hint=hint, code=failure.code)

    def _interrupt_message(self, store: FindingStore, run_id: str, name: str) -> str:
        """Return what to say after Ctrl-C: the interrupt may have come just after the commit."""
        before = [file for file, _ in self.done if not self.dry_run]
        if not self.dry_run and _was_recorded(store, self.project, run_id):
            return f"interrupted after {name} was imported"
        if before:
            return f"interrupted, nothing of {name} was written; imported before that: {', '.join(before)}"
        return "interrupted, nothing was written"

    def _note_refused(self, files: list[str]) -> None:
        if self.refused:
            names = ", ".join(name for name, _ in self.refused)
            self.session.out.note(
                f"error: {len(self.refused)} of {len(files)} files refused: {names}", always=True
            )

    def write_json(self) -> None:
        """Write what was done as JSON."""
        from findings_orm.cli.output import as_json

        files: list[Mapping[str, object]] = [
            {"file": name, "imported": True, **as_json(outcome)} for name, outcome in self.done
        ]
        files += [
            {"file": name, "imported": False, "error": str(failure), "exit_code": int(failure.code)}
            for name, failure in self.refused
        ]
        with self.session.out.report():
            self.session.out.json({"project_id": self.project, "files": files})


def _legacy_hint(file: str) -> str:
    return f"schema 0.3.0: 'findings import-legacy {'FILE' if file == '-' else shlex.quote(file)}'"


def _was_recorded(store: FindingStore, project_id: str, run_id: str) -> bool:
    try:
        return any(run.id == run_id for run in store.runs(project_id))
    except StorageError:
        return False
