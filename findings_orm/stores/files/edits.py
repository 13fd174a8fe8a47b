"""What people put into ``findings.json``: read strictly, and taken over as if it had been saved."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from findings_orm.clock import now
from findings_orm.errors import (
    SchemaVersionError,
    StorageIntegrityError,
    StorageValidationError,
    readable,
)
from findings_orm.finding import SCHEMA_VERSION, FindingDocument, validate_finding
from findings_orm.imports.intake import current_document
from findings_orm.imports.saving import save
from findings_orm.layout import version_of
from findings_orm.port import Event
from findings_orm.query import latest_time
from findings_orm.stores.files.journal import damage_error
from findings_orm.stores.files.working_copy import FileRecords
from findings_orm.stores.memory import State

ACTOR = "file"
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Edit:
    """The difference between a ``findings.json`` as it was written and as it is.

    Attributes:
        path: the file.
        added: findings that are new.
        changed: id to the finding as it is now, and as the working copy has it until the edit is applied.
        removed: ids of findings that are gone.
    """

    path: Path
    added: list[FindingDocument] = field(default_factory=list)
    changed: dict[str, tuple[FindingDocument, FindingDocument]] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    def __str__(self) -> str:
        counts = f"{len(self.added)} added, {len(self.changed)} changed, {len(self.removed)} removed"
        return f"{self.path}: findings were edited outside of the store: {counts}"


def read_layout(path: Path, data: bytes, project_id: str | None = None) -> tuple[str, list[FindingDocument]]:
    """Return the version and the findings, in the current version, of a layout that somebody else wrote.

    Any known version will do, also a bare array.

    Args:
        path: the file, for messages.
        data: its content.
        project_id: the project that all findings must be of.

    Raises:
        StorageIntegrityError: names the file, the place in the JSON and the rule.
        SchemaVersionError: it is of a newer or an unknown version.
    """
    layout = _read_json(path, data)
    findings, version, prefix = layout, None, ""
    if isinstance(layout, dict):
        version = layout.get("finding_schema_version", layout.get("store_schema_version"))
        if version is None:
            raise SchemaVersionError(f"{path}: finding_schema_version is missing")
        own = layout.get("project_id", project_id)
        if project_id is not None and own != project_id:
            raise _layout_error(
                path, "project_id", f"must be {project_id!r}, the project of this folder", own
            )
        findings, prefix = layout.get("findings"), "findings"
    if not isinstance(findings, list):
        raise _layout_error(path, prefix or "document", "must be a list", findings)
    documents: list[FindingDocument] = []
    places: dict[tuple[str, str], int] = {}
    for index, given in enumerate(findings):
        place = f"{prefix}[{index}]"
        document = _read_document(path, place, given, version)
        if project_id is not None and document["project_id"] != project_id:
            rule = f"must be {project_id!r}, the project of this folder"
            raise _layout_error(path, f"{place}.project_id", rule, document["project_id"])
        first = places.setdefault((document["project_id"], document["id"]), index)
        if first != index:
            raise _layout_error(
                path, f"{place}.id", f"must differ from that of {prefix}[{first}]", document["id"]
            )
        documents.append(document)
    oldest = version or next((_document_version(one, None) for one in findings), SCHEMA_VERSION)
    return oldest, documents


def _document_version(given: dict[str, Any], version: str | None) -> Any:
    return given.get("finding_schema_version", version or version_of(given) or SCHEMA_VERSION)


def _read_document(path: Path, place: str, given: Any, version: str | None) -> FindingDocument:
    if not isinstance(given, dict):
        raise _layout_error(path, place, "must be a JSON object", given)
    try:
        own = _document_version(given, version)
        return validate_finding(current_document({**given, "finding_schema_version": own}))
    except StorageValidationError as error:
        raise _layout_error(path, f"{place}.{error.field}", error.rule or str(error), error.value) from error
    except SchemaVersionError as error:
        raise SchemaVersionError(f"{path}: {place}: {error}") from error


def _read_json(path: Path, data: bytes) -> Any:
    def unique_members(given: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(given)
        if len(found) < len(given):
            names = [name for name, _ in given]
            twice = next(name for name in names if names.count(name) > 1)
            raise _layout_error(path, twice, "must occur once in an object", twice)
        return found

    try:
        return json.loads(data, object_pairs_hook=unique_members)
    except json.JSONDecodeError as error:
        raise damage_error(path, error.lineno, f"{error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise damage_error(path, None, str(error)) from error


def _layout_error(path: Path, place: str, rule: str, value: object) -> StorageIntegrityError:
    return StorageIntegrityError(f"{path}: {place}: {rule} (got {readable(value)})")


def apply_edit(state: State, project_id: str, edit: Edit) -> bool:
    """Take an edit over into the working copy, the journal's records being in it already.

    Returns:
        Whether the edit lost something: a finding that both the edit and a later acknowledged write changed is
        as the write left it.
    """
    project = state.get(project_id)
    if project is None and not edit.added:
        return True
    findings = project.findings if project else {}
    lost = [finding_id for finding_id in edit.removed if finding_id in findings]
    accepted = []
    for document in edit.added:
        if document["id"] in findings:
            lost.append(document["id"])
        else:
            accepted.append(document)
    changed = []
    for finding_id, (document, shown) in edit.changed.items():
        if finding_id in findings and findings[finding_id].document is shown:
            changed.append(document)
        else:
            lost.append(finding_id)
    if lost:
        _log.warning("%s: findings that were written meanwhile stay as written: %s", edit.path, lost)
    records = FileRecords(state)
    at = now()
    save(records, project_id, [*accepted, *changed])
    said = [(document["id"], "changed") for document in changed]
    said += [(finding_id, "removed") for finding_id in edit.removed if finding_id not in lost]
    events = [
        Event(
            finding_id,
            latest_time(at, records.last_event(project_id, finding_id)),
            ACTOR,
            "comment",
            {},
            f"{what} by hand in {edit.path.name}",
        )
        for finding_id, what in said
    ]
    records.add_events(project_id, 0, events)
    return bool(lost)
