"""Stores of 0.3.0, a folder of ``<project>.findings.json`` with bare arrays of flat documents, into a store of today.

A row becomes a document by the migration from 0.3.0, which is where every field finds its place. Values that have no
place stay in `evidence` under their old name. The owner and the notes of a triage, which a document has no field for, become a
comment in the history of the finding as well.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from findings_orm.arguments import checked
from findings_orm.errors import (
    StorageConflictError,
    StorageError,
    StorageUnavailableError,
    StorageValidationError,
)
from findings_orm.finding import SCHEMA_VERSION, FindingDocument, Severity, check_project_id, format_time
from findings_orm.formats.report import open_report
from findings_orm.layout import LEGACY_VERSION
from findings_orm.limits import DEFAULT, FieldNames, Limits, memory_size
from findings_orm.migrations import SchemaMigrator
from findings_orm.port import FindingStore, IngestReport, OnInvalid, Run

# -- A row of 0.3.0 becomes a document: by the migration, which alone says where a value has its place (revision `r0001`), and
# where that can't tell without a guess by what the import was told.


Document = dict[str, Any]

_LOCAL_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,6})?", re.ASCII)
_PLACED = {
    "url": "resource",
    "run_id": "run_id",
    "confidence": "confidence",
    "cwe": "cwe_ids",
    "owasp": "owasp",
    "cve_id": "cve_ids",
    "cvss": "cvss",
    "mitre_attack": "mitre_attack",
    "tags": "tags",
    "poc_links": "poc_links",
}
"""Fields of 0.3.0 that have a place, with its name."""

_TIMES = ("created_at", "ts")
_NOTHING: tuple[Any, ...] = (None, "", [], {})


class _Placer:
    """Makes documents of the rows of one project.

    Attributes:
        notes: what was decided about the last row: field, what was done in words, the value as it was.
        unplaced: fields of the last row that no version has a place for: they are in `evidence`.
        ids: the ids of all rows.
    """

    def __init__(self, zone: ZoneInfo | None, severity: str | None) -> None:
        self.zone = zone
        self.severity = severity
        self.notes: dict[str, tuple[str, object]] = {}
        self.unplaced: list[str] = []
        self._migrator = SchemaMigrator()
        self.ids: set[str] = set()

    def document_of_row(self, row: Document, *, names_project: bool) -> Document:
        """Return the document for a row, or the row itself, to be refused, where it breaks a rule."""
        self.notes, self.unplaced = {}, []
        if row.get("finding_schema_version", LEGACY_VERSION) != LEGACY_VERSION:
            return row
        row.pop("finding_schema_version", None)  # 0.3.0 had none; it would be kept aside
        try:
            document = self._migrate_row(row)
        except StorageError:
            self.notes = {}
            return {**row, "finding_schema_version": LEGACY_VERSION}
        if not names_project:
            document.pop("project_id", None)
            self._add_note("pid", row, "is missing or no text: the project is that of the file's name")
        self._place_time(row, document)
        self._place_id(row, document)
        self._note_what_stays(row, document)
        return document

    def _add_note(self, name: str, row: Document, note: str) -> None:
        self.notes[name] = (note, row.get(name))

    def _migrate_row(self, row: Document) -> Document:
        try:
            return self._migrator.migrate(LEGACY_VERSION, SCHEMA_VERSION, row)
        except StorageValidationError as error:
            if error.field != "severity" or self.severity is None:
                raise
        with_severity = {**row, "severity": self.severity}
        document = self._migrator.migrate(LEGACY_VERSION, SCHEMA_VERSION, with_severity)
        if row.get("severity") is not None:
            _keep_in_evidence(document, "severity", row["severity"])
        self._add_note("severity", row, f"is missing or unknown: taken as {self.severity}")
        return document

    def _place_time(self, row: Document, document: Document) -> None:
        if "created_at" in document:
            return
        said = [name for name in _TIMES if row.get(name) not in _NOTHING] or [_TIMES[1]]
        for name in said if self.zone is not None else ():
            moment = _parse_local_time(row.get(name), self.zone)
            if moment is not None:
                document["created_at"] = moment
                self._add_note(name, row, f"has no offset: read as {self.zone}")
                return
        self._add_note(said[0], row, "names no instant: created_at is the time of the import")

    def _place_id(self, row: Document, document: Document) -> None:
        """Keep the id, unless an earlier row has it: of two findings with one id the later would replace the other."""
        found = document.get("id")
        if found is None:
            if row.get("id") not in (None, ""):
                self._add_note("id", row, "is no UUID: the finding gets a new one, this stays in evidence")
        elif found in self.ids:
            del document["id"]
            _keep_in_evidence(document, "id", row["id"])
            self._add_note(
                "id", row, "an earlier row has it: the finding gets a new one, this stays in evidence"
            )
        else:
            self.ids.add(found)

    def _note_what_stays(self, row: Document, document: Document) -> None:
        """Note each value that is in the evidence now, though its field has a place, and name those that have none."""
        evidence = document["evidence"]
        for name in row:
            if (
                name in ("evidence", "provenance", *self.notes)
                or row[name] in _NOTHING
                or name not in evidence
            ):
                continue
            if name == "triage":
                self._note_triage(evidence[name])
            elif evidence[name] == row[name]:
                note = _why_it_stays(name, row[name], document)
                if note:
                    self._add_note(name, row, note)
                else:
                    self.unplaced.append(name)

    def _note_triage(self, left: object) -> None:
        if not isinstance(left, dict):
            self.notes["triage"] = ("is no object: it stays in evidence", left)
            return
        for name, value in left.items():
            if value not in _NOTHING and not (name in ("owner", "notes") and _lines_of(value)):
                self.notes[f"triage.{name}"] = ("can't be placed: it stays in evidence", value)


def _why_it_stays(name: str, value: Any, document: Document) -> str:
    """Return in words why a value stays in evidence; "" for a field that has no place."""
    if name == "confidence" and type(value) in (int, float) and 0 < value <= 1:
        return "may be a share or a percentage: it stays in evidence, confidence is not set"
    if name == "status" and isinstance(value, str) and not value.isdigit():
        return "is no known status, or the triage says another: it stays in evidence"
    if name in _TIMES:
        return "is not the time that the other field says: it stays in evidence"
    new = _PLACED.get(name)
    return f"can't be {new}: it stays in evidence" if new and not document[new] else ""


def _comment_of(document: FindingDocument) -> str:
    """Return what the triage of a row of 0.3.0 says in words, as a comment for the history; "" where it says nothing."""
    triage = document["evidence"].get("triage")
    if not isinstance(triage, dict):
        return ""
    owner = [f"owner: {line}" for line in _lines_of(triage.get("owner"))]
    return "\n".join([*owner, *_lines_of(triage.get("notes"))]).replace("\0", "\\0")


def _lines_of(value: Any) -> list[str]:
    """Return a text, or a list of texts, as lines; none for anything else."""
    lines = value if isinstance(value, list) else [value]
    return lines if all(isinstance(line, str) and line for line in lines) else []


def _parse_local_time(value: object, zone: ZoneInfo | None) -> str | None:
    """Return a local time as a canonical one; None for what is no such time, or none or two instants in that zone."""
    match = _LOCAL_TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    try:
        local = datetime.fromisoformat(f"{match[1]}T{match[2]}{(match[3] or '.').ljust(7, '0')}")
        first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
        return format_time(first) if first.utcoffset() == second.utcoffset() else None
    except (ValueError, OverflowError):
        return None


def _keep_in_evidence(document: Document, name: str, value: object) -> None:
    """Put a value into the evidence, under another name where its own is taken."""
    while name in document["evidence"]:
        name = f"legacy_{name}"
    document["evidence"][name] = value


# -- stores of 0.3.0, a folder of ``<project>.findings.json`` with bare arrays of flat documents, into a store of today
# A row becomes a document by the migration from 0.3.0, which is where every field finds its place. Values that have no place
# stay in `evidence` under their old name. The owner and the notes of a triage, which a document has no field for, become a
# comment in the history of the finding as well.


ENDING = ".findings.json"
"""How the name of a file of 0.3.0 ends; what is before it is the name of the project."""

ACTOR = "import-legacy"
"""Who writes the comments."""

_ID_BYTES = 128
"""How much memory the id of a row takes, in a set."""


@dataclass(frozen=True, slots=True)
class LegacyNote:
    """What was decided about a value that could not be placed without a guess.

    Attributes:
        file: the name of the file.
        index: the position of the row in it, from 0.
        field: the field of 0.3.0.
        note: what was done, in words.
        value: the value as it was.
    """

    file: str
    index: int
    field: str
    note: str
    value: object = None


@dataclass(frozen=True, slots=True)
class LegacyRejected:
    """A row that broke a rule, and went to the quarantine.

    Attributes:
        file: the name of the file.
        index: the position of the row in it, from 0.
        field, reason, rejected_id: as in `findings_orm.port.Rejected`.
    """

    file: str
    index: int
    field: str
    reason: str
    rejected_id: str | None


@dataclass(slots=True)
class LegacyReport:
    """What an import of files of 0.3.0 did.

    Attributes:
        files: the names of the files.
        projects: what was done for each project.
        notes: what was decided row by row.
        unplaced: how many rows have a field that no version has a place for, by its name; it is in `evidence`.
        comments: how many findings got the owner and the notes of their triage as a comment in their history.
        rejected: rows that went to the quarantine.
        dry_run: nothing was written.
    """

    files: list[str] = field(default_factory=list)
    projects: dict[str, IngestReport] = field(default_factory=dict)
    notes: list[LegacyNote] = field(default_factory=list)
    unplaced: dict[str, int] = field(default_factory=dict)
    comments: int = 0
    rejected: list[LegacyRejected] = field(default_factory=list)
    dry_run: bool = False

    def counts(self) -> dict[str, int]:
        """Return the counts of all projects together."""
        total: Counter[str] = Counter()
        for report in self.projects.values():
            total.update(report.counts())
        return dict(total)


@checked
def import_legacy(
    store: FindingStore,
    source: str | Path,
    *,
    timezone: str | None = None,
    severity: str | None = None,
    on_invalid: OnInvalid = "raise",
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
    limits: Limits = DEFAULT,
) -> LegacyReport:
    """Import a folder of ``<project>.findings.json`` (or one such file) in one transaction: whole or not at all.

    A row is of the project that its `pid` names, else of that of the file's name. Importing a folder again changes nothing.
    An id that an earlier row of the project has, or that is no UUID, stays in `evidence`; the finding gets a new one.
    Memory: the ids of one project, and the notes; both together have a limit.

    Args:
        store: where to.
        source: the folder, or one file.
        timezone: the IANA name of the zone that times without an offset are in. Without it, and where the clock showed
            such a time twice or never, `created_at` is the time of the import.
        severity: the severity of rows without a known one; else they break a rule.
        on_invalid: what to do with a row that breaks a rule, as with `FindingStore.ingest`.
        dry_run: report what the import would do, and write nothing.
        progress: called with the number of rows that are done since the last call.
        limits: how large the files and what is in them may be.

    Raises:
        StorageValidationError: no such time zone or severity, a file is no JSON array of objects, or a row breaks a
            rule; names file, row and field.
        StorageConflictError: a row has the id of another finding of the project.
        StorageUnavailableError: there are no such files, or one can't be read.
    """
    task = _Import(
        source, _parse_zone(timezone), _check_severity(severity), progress or (lambda _: None), limits
    )
    task.report.dry_run = dry_run
    task.survey_files()
    with nullcontext() if dry_run else store.transaction():
        for project_id in sorted(task.projects):
            task.ingest(store, project_id, on_invalid)
    task.report.unplaced = dict(sorted(task.report.unplaced.items()))
    return task.report


def _parse_zone(name: str | None) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name is not None else None
    except (ValueError, OSError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise StorageValidationError.of_field(
            "timezone", "must be the IANA name of a time zone that this system knows, as Europe/Berlin", name
        ) from error


def _check_severity(name: str | None) -> str | None:
    if name is not None and name not in tuple(Severity):
        raise StorageValidationError.of_field("severity", f"must be one of {', '.join(Severity)}", name)
    return name


@checked
def legacy_files(source: str | Path) -> list[Path]:
    """Return the files of 0.3.0 in a folder, sorted; of a file, itself.

    Raises:
        StorageUnavailableError: there are none, or the folder can't be read.
    """
    path = Path(source)
    try:
        if not path.is_dir():
            return [path]
        found = sorted(file for file in path.iterdir() if file.name.endswith(ENDING) and file.name != ENDING)
    except OSError as error:
        raise StorageUnavailableError(f"{path}: can't be read: {error.strerror or error}") from error
    if not found:
        raise StorageUnavailableError(f"{path}: has no file <project>{ENDING}")
    return found


class _Import:
    """One import: the files, which project is in which of them, and the report."""

    def __init__(
        self,
        source: str | Path,
        zone: ZoneInfo | None,
        severity: str | None,
        progress: Callable[[int], None],
        limits: Limits,
    ) -> None:
        self.limits = limits
        self.files = legacy_files(source)
        self.zone = zone
        self.severity = severity
        self.progress = progress
        self.report = LegacyReport([file.name for file in self.files])
        self.projects: dict[str, list[Path]] = {}
        self._names = FieldNames(limits, source)
        self._source = source
        self._kept = 0

    def survey_files(self) -> None:
        """Read all files once: they are whole, and it is known which projects are in them."""
        for file in self.files:
            found: dict[str, None] = {}
            for row in self.rows(file):
                found[_project_of_row(row, file)[0]] = None
                self.limits.check("max_names", len(found), f"{file}: the number of projects")
            for project_id in found or [_project_of_file(file)]:
                self.projects.setdefault(project_id, []).append(file)

    def rows(self, file: Path) -> Iterator[Document]:
        """Yield the rows of a file."""
        with open_report(file, "jsonl", limits=self.limits) as report:
            yield from report

    def ingest(self, store: FindingStore, project_id: str, on_invalid: OnInvalid) -> None:
        """Import all rows of one project."""
        files = self.projects[project_id]
        rows = _Rows(self, project_id, files)
        run = Run(
            tool={"format": "legacy", "version": LEGACY_VERSION, "files": [file.name for file in files]}
        )
        try:
            report = store.ingest(
                project_id, rows, run=run, dry_run=self.report.dry_run, on_invalid=on_invalid
            )
        except (StorageValidationError, StorageConflictError) as error:
            raise rows.explain_refusal(error) from error
        self.report.projects[project_id] = report
        if rows.have_comments and not self.report.dry_run:
            self.report.comments += _write_comments(store, project_id)
        for one in report.rejected:
            self.count_kept_memory([one.field, one.reason, one.rejected_id])
            self.report.rejected.append(
                LegacyRejected(*rows.place_of_row(one.index), one.field, one.reason, one.rejected_id)
            )

    def note(self, file: str, index: int, placer: _Placer) -> None:
        """Report what was decided about the last row of a placer."""
        counts = self.report.unplaced
        for name in placer.unplaced:
            self._names.add(name)
            counts[name] = counts.get(name, 0) + 1
        for name, (text, value) in placer.notes.items():
            self._names.add(name)
            self.count_kept_memory([name, text, value])
            self.report.notes.append(LegacyNote(file, index, name, text, value))
        self.count_kept_memory(None, _ID_BYTES * len(placer.ids))

    def count_kept_memory(self, value: object, beside: int = 0) -> None:
        """Count the memory of what stays until the end of the import; `beside` is that of what is let go earlier."""
        self._kept += memory_size(value)
        what = f"{self._source}: the memory for notes and ids, in bytes"
        self.limits.check("max_shared_bytes", self._kept + beside, what)


def _write_comments(store: FindingStore, project_id: str) -> int:
    """Write what triages say in words into the history of their findings, once; return how many it was."""
    count = 0
    for finding_id in [one["id"] for one in store.iter_findings(project_id) if _comment_of(one)]:
        found = store.get_finding(project_id, finding_id)
        comment = _comment_of(found)
        if not any(
            (one.actor, one.comment) == (ACTOR, comment) for one in store.history(project_id, finding_id)
        ):
            store.set_status(project_id, finding_id, found["status"], actor=ACTOR, comment=comment)
            count += 1
    return count


def _project_of_file(file: Path) -> str:
    return file.name.removesuffix(ENDING) if file.name.endswith(ENDING) else file.stem


def _project_of_row(row: Mapping[str, object], file: Path) -> tuple[str, bool]:
    """Return the project of a row, and whether the row says it. Ingest refuses one that can't be a project."""
    said: Any = row.get("pid", row.get("project_id"))
    try:
        check_project_id(said)
    except StorageValidationError:
        return _project_of_file(file), False
    return str(said), True


class _Rows(Iterable[Document]):
    """The documents of one project, made of the rows of its files one by one."""

    def __init__(self, task: _Import, project_id: str, files: list[Path]) -> None:
        self.task = task
        self.project_id = project_id
        self.files = files
        self.placer = _Placer(task.zone, task.severity)
        self.starts: list[tuple[int, str, int]] = []
        self.count = 0
        self.have_comments = False

    def __iter__(self) -> Iterator[Document]:
        for file in self.files:
            follows = False
            for index, row in enumerate(self.task.rows(file)):
                project_id, said = _project_of_row(row, file)
                if project_id != self.project_id:
                    follows = False
                    continue
                if not follows:
                    self.starts.append((self.count, file.name, index))
                    self.task.count_kept_memory([self.count, index])
                    follows = True
                self.count += 1
                document = self.placer.document_of_row(row, names_project=said)
                self.task.note(file.name, index, self.placer)
                self.task.progress(1)
                self.have_comments = self.have_comments or "triage" in row
                yield document

    def place_of_row(self, position: int) -> tuple[str, int]:
        """Return file and index of the document at a position of the import."""
        start, file, index = self.starts[bisect_right(self.starts, position, key=lambda one: one[0]) - 1]
        return file, index + position - start

    def explain_refusal(self, error: StorageError) -> StorageError:
        """Return the refusal of a document as that of a row of a file."""
        position = getattr(error, "index", None)
        text = str(error)
        if position is None and not text.startswith("document "):
            return error
        if position is None:
            position = int(text.partition(":")[0].removeprefix("document "))
        file, index = self.place_of_row(position)
        message = f"{file}: document {index}: {text.partition(': ')[2]}"
        if not isinstance(error, StorageValidationError):
            return type(error)(message)
        return type(error)(message, field=error.field, rule=error.rule, value=error.value, index=index)
