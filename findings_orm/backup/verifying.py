"""A backup checked as a whole: what the reader checks anyway, and that each record is valid and in its place."""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass
from typing import Annotated, Literal, NotRequired

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict

from findings_orm.arguments import checked
from findings_orm.backup.container import unpack_record
from findings_orm.backup.encryption import Key
from findings_orm.backup.manifest import Manifest, Time, first_fault
from findings_orm.backup.progress import SILENT, Progress
from findings_orm.backup.reading import Part, Reader, reading
from findings_orm.backup.sections import RECORD, SECTIONS, Record, RecordKey, record_key
from findings_orm.errors import StorageError, StorageIntegrityError, StorageValidationError
from findings_orm.finding import FIELDS, SCHEMA_VERSION, Status, validate_finding
from findings_orm.imports.intake import current_document
from findings_orm.limits import DEFAULT, Limits

# -- the shape that each record of a backup must have, member by member -----------------------------------


def _check_status(text: str) -> str:
    return Status(text).value


_Uuid = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
]
_Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]*$")]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Small = Annotated[int, Field(ge=0, lt=2**31)]
_Status = Annotated[str, AfterValidator(_check_status)]
_strict = with_config(ConfigDict(extra="forbid", strict=True))


@_strict
class _Identity(TypedDict):
    finding_id: _Uuid
    fingerprint: Annotated[_Hex, StringConstraints(min_length=64, max_length=64)]
    ordinal: _Small
    version: Annotated[int, Field(ge=0, lt=2**15)]
    content: _Hex
    reported: _Status
    line: _Small | None
    first_seen: Time
    last_seen: Time
    first_run: _Count
    last_run: _Count
    closed_as: _Status | None
    closed_at: Time | None


@_strict
class _Finding(TypedDict):
    finding: dict[str, object]
    identity: _Identity
    streaks: NotRequired[list[Annotated[list[_Count], Field(min_length=2, max_length=2)]]]


@_strict
class _EventMembers(TypedDict):
    finding_id: _Uuid
    at: Time
    actor: str
    kind: Literal["status", "change", "comment", "purge"]
    changes: dict[str, object]
    comment: str
    run_id: _Uuid | None


@_strict
class _Event(TypedDict):
    event: _EventMembers
    n: _Count


@_strict
class _Refusal(TypedDict):
    index: _Count
    field: str
    reason: str
    rejected_id: _Uuid | None


@_strict
class _RunMembers(TypedDict):
    id: _Uuid
    detectors: list[str]
    started_at: Time
    tool: dict[str, object]
    number: Annotated[int, Field(ge=1, lt=2**63)]
    counts: dict[str, int]
    rejected: list[_Refusal]
    content: NotRequired[str]
    category: NotRequired[str]
    categories: NotRequired[dict[str, list[str]]]


@_strict
class _Run(TypedDict):
    run: _RunMembers


@_strict
class _Original(TypedDict):
    rejected_id: _Uuid
    run_id: _Uuid
    index: _Count
    at: Time
    field: str
    reason: str
    original: object
    as_text: NotRequired[Literal[True]]


@_strict
class _Rejected(TypedDict):
    rejected: _Original


@_strict
class _Removed(TypedDict):
    removed: Annotated[list[str | int], Field(min_length=1, max_length=2)]


SHAPES: dict[str, TypeAdapter[object]] = {
    "runs": TypeAdapter(_Run),
    "findings": TypeAdapter(_Finding),
    "events": TypeAdapter(_Event),
    "rejected": TypeAdapter(_Rejected),
}
"""Section to the shape of its records."""

REMOVED: TypeAdapter[object] = TypeAdapter(_Removed)
"""The shape of a line that says what an incremental backup no longer has."""


# -- A backup checked as a whole: what the reader checks anyway, and that each record is valid and in its place


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What an intact backup holds.

    Attributes:
        manifest: what it says of itself.
        sha256: what its seal holds.
        records: how many lines of each section it has.
        lines: how many lines in all.
    """

    manifest: Manifest
    sha256: str
    records: dict[str, int]
    lines: int


@checked
def verify_backup(
    path: str | os.PathLike[str],
    *,
    key: Key | None = None,
    expected: str | None = None,
    progress: Progress = SILENT,
    limits: Limits = DEFAULT,
) -> VerifyReport:
    """Check every byte of a backup, every count and digest, and every record in it.

    Args:
        path: the file.
        key: opens an encrypted one.
        expected: the SHA-256 that its seal must hold.
        progress: is told how far the work is.
        limits: how large a line and the whole text may be.

    Raises:
        StorageIntegrityError: it is damaged; names the first damaged line and the record in it.
        SchemaVersionError: it is of a newer release.
        StorageUnavailableError: it can't be read.
        StorageValidationError: it is encrypted and there is no secret key, or something in it is beyond a limit.
    """
    with reading(pathlib.Path(path), key, limits) as reader:
        progress.phase("verifying, ", reader.manifest.findings)
        records = dict.fromkeys(SECTIONS, 0)
        checker = Checker(reader)
        for part in reader.read_parts():
            checker.check_part(part)
            records[part.section] += len(part.lines)
            if part.section == "findings":
                progress.add(len(part.lines))
        if expected is not None and reader.sha256 != expected:
            raise StorageIntegrityError(f"{path}: has SHA-256 {reader.sha256} instead of {expected}")
        return VerifyReport(reader.manifest, reader.sha256, records, reader.lines)


class Checker:
    """Checks the records of a backup as they are read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._section = ("", "")
        self._last: RecordKey = ()
        self._count = 0

    def check_part(self, part: Part) -> None:
        """Check the lines of a part. Raises StorageIntegrityError, naming line and record."""
        if self._section != (part.project.id, part.section):
            self._section, self._last, self._count = (part.project.id, part.section), (), 0
        version = self._reader.manifest.schema_version
        for line in part.lines:
            self._count += 1
            try:
                record = unpack_record(line)
                check_record(part.project.id, part.section, record, version)
                key = record_key(part.section, record)
                if self._last and not self._last < key:
                    raise ValueError(f"{key} does not come after {self._last}")
                self._last = key
            except ValidationError as error:
                raise self._damage_error(part, first_fault(error)) from error
            except (ValueError, TypeError, RecursionError, StorageError) as error:
                raise self._damage_error(part, str(error)) from error

    def _damage_error(self, part: Part, what: str) -> StorageIntegrityError:
        place = f"{self._reader.where}: {RECORD[part.section]} {self._count} of project {part.project.id!r}"
        return StorageIntegrityError(f"{place}: {what}")


def check_record(project_id: str, section: str, record: Record, version: str) -> None:
    """Check one record.

    Raises:
        ValidationError, StorageValidationError, SchemaVersionError, ValueError: it breaks a rule.
    """
    if "removed" in record:
        REMOVED.validate_python(record)
        return
    SHAPES[section].validate_python(record)
    if section == "findings":
        _check_finding(project_id, record, version)


def _check_finding(project_id: str, record: Record, version: str) -> None:
    document = record["finding"]
    if document.get("finding_schema_version") != version:
        raise StorageValidationError.of_field(
            "finding_schema_version", f"must be {version}", document.get("finding_schema_version")
        )
    canonical = validate_finding(current_document(document))
    if version == SCHEMA_VERSION and (canonical != document or tuple(document) != FIELDS):
        raise ValueError("finding: must be in its canonical form, with all fields in their order")
    if canonical["project_id"] != project_id:
        raise StorageValidationError.of_field(
            "project_id", f"must be {project_id!r}", canonical["project_id"]
        )
    if record["identity"]["finding_id"] != canonical["id"]:
        raise StorageValidationError.of_field(
            "identity.finding_id", "must be the id of the finding", record["identity"]["finding_id"]
        )
