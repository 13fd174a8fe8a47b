"""What a backup says of itself in its first line."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from findings_orm.errors import SchemaVersionError, StorageIntegrityError, StorageValidationError
from findings_orm.finding import KNOWN_VERSIONS, canonical_time, check_project_id

FORMAT: Literal[1] = 1
"""The version of the format that this release writes (docs/backup-format.md)."""

_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _check_time(text: str) -> str:
    if canonical_time(text) != text:
        raise ValueError("must be in its canonical form")
    return text


Time = Annotated[str, AfterValidator(_check_time)]
"""A time in its canonical form."""


def _check_project(text: str) -> str:
    try:
        check_project_id(text)
    except StorageValidationError as error:
        raise ValueError(str(error)) from error
    return text


def _check_sorted(projects: list[str]) -> list[str]:
    if projects != sorted(set(projects)):
        raise ValueError("must be sorted, each once")
    return projects


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Since(_Strict):
    """The backup that an incremental one continues.

    Attributes:
        id: its id.
        sha256: what its seal holds.
    """

    id: str
    sha256: _Digest


class Manifest(_Strict):
    """What a backup is.

    Attributes:
        format: the version of the format.
        id: a UUID, time-ordered.
        created_at: when it was begun, RFC 3339 in UTC.
        schema_version: of the documents in it.
        release: of findings-orm that wrote it.
        source: the kind of store that it was made of.
        projects: the projects in it, sorted by code point.
        findings: how many findings these have.
        since: for an incremental backup, the one that it continues.
        salvaged: it is what was intact of a damaged one.
    """

    format: Literal[1]
    id: str
    created_at: Time
    schema_version: str
    release: str
    source: str
    projects: Annotated[list[str], AfterValidator(_check_sorted)]
    findings: int
    since: Since | None = None
    salvaged: bool = False

    def __init__(self, **given: object) -> None:
        """Make one of its fields.

        Raises:
            StorageValidationError: names the field, the rule and the value.
        """
        try:
            super().__init__(**given)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(map(str, fault["loc"]))
            raise StorageValidationError.of_field(place, fault["msg"], fault["input"]) from error


class ProjectHead(_Strict):
    """The line that begins a project; a `revision` of None gives it a new one when it is restored."""

    id: Annotated[str, AfterValidator(_check_project)]
    revision: Annotated[int, Field(ge=1, lt=2**63)] | None
    created_at: Time | None


class State(_Strict):
    """How many lines of a kind a project has, and the SHA-256 of these lines."""

    count: int
    sha256: _Digest


class SectionEnd(_Strict):
    """The line that ends the records of one kind of a project.

    Attributes:
        name: the section.
        count: how many lines the file has of it.
        sha256: of these lines.
        state: of the records that the project had of it; the same as `count` and `sha256` unless the backup is
            incremental. None where it is not known (a salvaged incremental backup).
    """

    name: str
    count: int
    sha256: _Digest
    state: State | None


class Place(_Strict):
    """The line that begins every frame but the first: where in the backup it is.

    Attributes:
        number: the number of the frame, from 1.
        line: the number of this line in the file, from 1.
        project: the project that goes on, or None between projects.
        section: the section of it that goes on, or comes next.
        count: how many lines of it came before.
    """

    number: int
    line: int
    project: ProjectHead | None
    section: str | None
    count: int


def read_manifest(where: str, record: dict[str, object]) -> Manifest:
    """Return the manifest of a backup.

    Raises:
        SchemaVersionError: format or schema are newer than this release knows.
        StorageIntegrityError: it has not the shape of a manifest.
    """
    given = record.get("manifest")
    if not isinstance(given, dict):
        raise StorageIntegrityError(f"{where}: is no backup: its first line is no manifest")
    number = given.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise SchemaVersionError(
            f"{where}: has format {number}; this release knows {FORMAT}: update findings-orm"
        )
    try:
        manifest = Manifest.model_validate(given)
    except StorageValidationError as error:
        fault = f"{error.field}: {error.rule}"
        raise StorageIntegrityError(f"{where}: the manifest is malformed: {fault}") from error
    if manifest.schema_version not in KNOWN_VERSIONS:
        known = ", ".join(KNOWN_VERSIONS)
        raise SchemaVersionError(
            f"{where}: its findings have schema {manifest.schema_version}; this release knows {known}: update findings-orm"
        )
    return manifest


def first_fault(error: ValidationError) -> str:
    """Return the first fault that pydantic found, as place and rule."""
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
