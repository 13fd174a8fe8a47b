"""A row of 0.3.0 becomes a document: the values that the migration alone leaves in `evidence`, or does not have.

What the migration says and a newer version can hold is placed as well: the year of an OWASP category, ATT&CK
sub-techniques, a confidence above 1 and up to 100 (0 to 1 may be a share as well as a percentage).
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
_CATEGORY = re.compile(r"A(\d{1,2}):(\d{4})(?![A-Za-z0-9]).*", re.ASCII | re.DOTALL)
_TECHNIQUE = re.compile(r"T\d{4}(\.\d{3})?", re.ASCII)
_PLACED = {
    "url": "resource",
    "run_id": "run_id",
    "cwe": "cwe_ids",
    "owasp": "owasp",
    "cve_id": "cve_ids",
    "cvss": "cvss",
    "mitre_attack": "mitre_attack",
    "poc_links": "poc_links",
}
"""Fields of 0.3.0 that have a place, with its name."""


class Placer:
    """Makes documents of the rows of one project.

    Attributes:
        notes: what was decided about the last row: field, what was done in words, the value as it was.
    """

    def __init__(self, zone: ZoneInfo | None, severity: str | None) -> None:
        self.zone = zone
        self.severity = severity
        self.notes: dict[str, tuple[str, Any]] = {}
        self._migrator = SchemaMigrator()
        self._ids: set[str] = set()

    def document(self, row: Document, *, names_project: bool) -> Document:
        """Return the document for a row, or the row itself, to be refused, where it breaks a rule."""
        self.notes = {}
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
        _place_category(row, document)
        _place_techniques(row, document)
        self._place_confidence(row, document)
        for old, new in _PLACED.items():
            stays = row.get(old) not in (None, "", [], {}) and document["evidence"].get(old) == row[old]
            if stays and not document[new]:
                self._note(old, row, f"can't be {new}: it stays in evidence")
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
        zone = self.zone
        moment = _moment(row.get("ts"), zone) if zone is not None else None
        if moment is not None:
            document["created_at"] = moment
            self._note("ts", row, f"has no offset: read as {zone}")
            return
        self._note("ts", row, "names no instant: created_at is the time of the import")

    def _place_id(self, row: Document, document: Document) -> None:
        """Keep the id, unless an earlier row has it: of two findings with one id the later would replace the other."""
        found = document.get("id")
        if found is None:
            if row.get("id") not in (None, ""):
                self._note("id", row, "is no UUID: the finding gets a new one, this stays in evidence")
        elif found in self._ids:
            del document["id"]
            _keep(document, "id", row["id"])
            self._note("id", row, "an earlier row has it: the finding gets a new one, this stays in evidence")
        else:
            self._ids.add(found)

    def _place_confidence(self, row: Document, document: Document) -> None:
        value = row.get("confidence")
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return
        if value == 0 or 1 < value <= 100:
            document["confidence"] = value
        elif 0 < value <= 1:
            self._note(
                "confidence",
                row,
                "may be a share or a percentage: it stays in evidence, confidence is not set",
            )


def _moment(value: object, zone: ZoneInfo) -> str | None:
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


def _place_category(row: Document, document: Document) -> None:
    """Give the OWASP category its year, where the tool said it."""
    value = row.get("owasp")
    match = _CATEGORY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is not None and document["owasp"] == [f"A{match[1]:0>2}"]:
        document["owasp"] = [f"A{match[1]:0>2}:{match[2]}"]


def _place_techniques(row: Document, document: Document) -> None:
    value = row.get("mitre_attack")
    if isinstance(value, list) and all(isinstance(one, str) and _TECHNIQUE.fullmatch(one) for one in value):
        document["mitre_attack"] = list(value)


def _keep(document: Document, name: str, value: object) -> None:
    """Put a value into the evidence, under another name where its own is taken."""
    while name in document["evidence"]:
        name = f"legacy_{name}"
    document["evidence"][name] = value
