"""What is given to an import, made current and checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from findings_orm.clock import uuid7
from findings_orm.errors import StorageValidationError
from findings_orm.finding import SCHEMA_VERSION, check_plain_text, validate_finding
from findings_orm.imports.scopes import LONGEST_CATEGORY
from findings_orm.layout import LEGACY_VERSION
from findings_orm.limits import DEFAULT, UNLIMITED, Limits, check_parts
from findings_orm.port import GivenRun, Run

_GIVEN = ("id", "detectors", "started_at", "tool", "category")


def current_document(document: Mapping[str, object]) -> Mapping[str, object]:
    """Return a document of any known schema version as one of the current version.

    Raises:
        SchemaVersionError: the version is malformed, unknown or newer.
        StorageValidationError: the document breaks a rule of its own version.
    """
    version = document.get("finding_schema_version", SCHEMA_VERSION) if isinstance(document, dict) else None
    if version is None or version == SCHEMA_VERSION:
        return document
    from findings_orm.migrations import SchemaMigrator

    given = dict(document)
    if version == LEGACY_VERSION:
        del given["finding_schema_version"]  # 0.3.0 had none; it would be kept aside
    migrated: dict[str, object] = SchemaMigrator().migrate(version, SCHEMA_VERSION, given, limits=UNLIMITED)
    return migrated


def as_run(run: GivenRun, at: str, limits: Limits = DEFAULT, documents: object = None) -> Run:
    """Return the argument of `ingest` as a checked `Run` with id and time; `documents` may have a `run`, as a report has, that
    says what is left out.

    Raises:
        LimitExceededError: what it says of tools is larger than a document may be.
        StorageValidationError: names the member, the rule and the value.
    """
    if isinstance(run, Mapping):
        for name, value in run.items():
            if name not in _GIVEN:
                place = f"run.{name}" if isinstance(name, str) else "run"
                raise StorageValidationError.of_field(place, f"is not one of {', '.join(_GIVEN)}", value)
        members: dict[str, Any] = {**run}
        run = Run(**members)
    elif not isinstance(run, Run):
        run = Run(id="" if run is None else run)
    said = getattr(documents, "run", None)
    if isinstance(said, Run):
        run = replace(
            run,
            detectors=run.detectors or said.detectors,
            started_at=run.started_at or said.started_at,
            tool=run.tool or said.tool,
            category=run.category or said.category,
            categories=run.categories or said.categories,
        )
    if not isinstance(run.tool, Mapping):
        raise StorageValidationError.of_field("run.tool", "must be a JSON object", run.tool)
    if isinstance(run.detectors, (str, bytes, Mapping)) or not isinstance(run.detectors, Collection):
        raise StorageValidationError.of_field("run.detectors", "must be a list of detectors", run.detectors)
    _check_categories(run)
    tool = dict(run.tool)
    check_parts(tool, limits)
    probe = {
        "id": _given_or_new(run.id, uuid7),
        "project_id": "run",
        "detector_id": "run",
        "title": "run",
        "severity": "info",
        "created_at": _given_or_new(run.started_at, lambda: at),
        "evidence": tool,
    }
    try:
        checked = validate_finding(probe)
        for detector in run.detectors:
            validate_finding({**probe, "detector_id": detector})
    except StorageValidationError as error:
        member = {"created_at": "started_at", "evidence": "tool", "detector_id": "detectors"}
        field = member.get(error.field or "", error.field)
        raise StorageValidationError.of_field(f"run.{field}", error.rule or "", error.value) from error
    return Run(
        checked["id"],
        tuple(run.detectors),
        checked["created_at"],
        checked["evidence"],
        category=run.category,
        categories={} if run.category else run.categories,
    )


def failed_tools(tool: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the tools of a run that say that they failed (`successful` is False)."""
    several = tool.get("tools")
    for one in several if isinstance(several, list) else [tool]:
        if isinstance(one, Mapping) and one.get("successful") is False:
            yield str(one.get("name") or "the scanner")


def _check_categories(run: Run) -> None:
    names = run.categories.values() if isinstance(run.categories, Mapping) else [[run.categories]]
    for one in [run.category, *(one for some in names for one in some)]:
        check_plain_text("run.category", one)
        if len(one) > LONGEST_CATEGORY:
            rule = f"must have at most {LONGEST_CATEGORY} characters"
            raise StorageValidationError.of_field("run.category", rule, one)


def _given_or_new(value: object, make: Callable[[], str]) -> object:
    """Return a member of a run as it was given, or a new one where it is left out."""
    return make() if value is None or (isinstance(value, str) and not value) else value
