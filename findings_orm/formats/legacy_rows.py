"""A row of 0.3.0 becomes a document: by the migration, which alone says where a value has its place (revision `r0001`), and
where that can't tell without a guess by what the import was told.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from findings_orm.errors import StorageError, StorageValidationError
from findings_orm.finding import SCHEMA_VERSION, format_time
from findings_orm.layout import LEGACY_VERSION
from findings_orm.migrations import SchemaMigrator

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


class Placer:
    """Makes documents of the rows of one project.

    Attributes:
        notes: what was decided about the last row: field, what was done in words, the value as it was.
        unplaced: fields of the last row that no version has a place for: they are in `evidence`.
        ids: the ids of all rows.
    """

    def __init__(self, zone: ZoneInfo | None, severity: str | None) -> None:
        self.zone = zone
        self.severity = severity
        self.notes: dict[str, tuple[str, Any]] = {}
        self.unplaced: list[str] = []
        self._migrator = SchemaMigrator()
        self.ids: set[str] = set()

    def document(self, row: Document, *, names_project: bool) -> Document:
        """Return the document for a row, or the row itself, to be refused, where it breaks a rule."""
        self.notes, self.unplaced = {}, []
        if row.get("finding_schema_version", LEGACY_VERSION) != LEGACY_VERSION:
            return row
        row.pop("finding_schema_version", None)  # 0.3.0 had none; it would be kept aside
        try:
            document = self._migrated(row)
        except StorageError:
            self.notes = {}
            return {**row, "finding_schema_version": LEGACY_VERSION}
        if not names_project:
            document.pop("project_id", None)
            self._note("pid", row, "is missing or no text: the project is that of the file's name")
        self._place_time(row, document)
        self._place_id(row, document)
        self._note_what_stays(row, document)
        return document

    def _note(self, name: str, row: Document, note: str) -> None:
        self.notes[name] = (note, row.get(name))

    def _migrated(self, row: Document) -> Document:
        try:
            return self._migrator.migrate(LEGACY_VERSION, SCHEMA_VERSION, row)
        except StorageValidationError as error:
            if error.field != "severity" or self.severity is None:
                raise
        with_severity = {**row, "severity": self.severity}
        document = self._migrator.migrate(LEGACY_VERSION, SCHEMA_VERSION, with_severity)
        if row.get("severity") is not None:
            _keep(document, "severity", row["severity"])
        self._note("severity", row, f"is missing or unknown: taken as {self.severity}")
        return document

    def _place_time(self, row: Document, document: Document) -> None:
        if "created_at" in document:
            return
        said = [name for name in _TIMES if row.get(name) not in _NOTHING] or [_TIMES[1]]
        for name in said if self.zone is not None else ():
            moment = _moment(row.get(name), self.zone)
            if moment is not None:
                document["created_at"] = moment
                self._note(name, row, f"has no offset: read as {self.zone}")
                return
        self._note(said[0], row, "names no instant: created_at is the time of the import")

    def _place_id(self, row: Document, document: Document) -> None:
        """Keep the id, unless an earlier row has it: of two findings with one id the later would replace the other."""
        found = document.get("id")
        if found is None:
            if row.get("id") not in (None, ""):
                self._note("id", row, "is no UUID: the finding gets a new one, this stays in evidence")
        elif found in self.ids:
            del document["id"]
            _keep(document, "id", row["id"])
            self._note("id", row, "an earlier row has it: the finding gets a new one, this stays in evidence")
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
                    self._note(name, row, note)
                else:
                    self.unplaced.append(name)

    def _note_triage(self, left: Any) -> None:
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


def comment_of(document: Document) -> str:
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


def _moment(value: object, zone: ZoneInfo | None) -> str | None:
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


def _keep(document: Document, name: str, value: object) -> None:
    """Put a value into the evidence, under another name where its own is taken."""
    while name in document["evidence"]:
        name = f"legacy_{name}"
    document["evidence"][name] = value
