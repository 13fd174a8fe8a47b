"""Documents and store layouts from one schema version to another, along the chain of revisions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, overload

from findings_orm.arguments import checked
from findings_orm.errors import SchemaVersionError, StorageValidationError, readable
from findings_orm.finding import FIELDS, MAX_DEPTH, SCHEMA_VERSION, validate_finding
from findings_orm.layout import LEGACY_VERSION as LEGACY
from findings_orm.layout import VERSION_KEYS, check_documents, is_layout
from findings_orm.limits import DEFAULT, UNLIMITED, Limits, check_limits, check_parts
from findings_orm.migrations.files import FileMigration, Progress, migrate_file, migrate_many
from findings_orm.migrations.scripts import DocumentChange, document_changes, revision_chain

Document = dict[str, Any]

_SEMANTIC = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")
_FILLED_IN = {
    "id": "00000000-0000-4000-8000-000000000000",
    "project_id": "project",
    "created_at": "2000-01-01T00:00:00Z",
}
"""The required fields that a document given to `ingest` may lack, with values for checking the others."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a migration: a revision, up or down.

    Attributes:
        revision: the identifier of the revision.
        from_version: the schema version before the step.
        to_version: the schema version after it.
    """

    revision: str
    from_version: str
    to_version: str
    _change: DocumentChange = field(repr=False, compare=False)

    def apply(self, document: Document) -> Document:
        """Return a valid document of `from_version` as one of `to_version`; the two may share values."""
        return self._change(document)


@dataclass(frozen=True, slots=True)
class _Older:
    """The rules of an older version that the current one, which checks the migrated document, does not have.

    Attributes:
        fields: all its fields; None where it has no list of them.
        patterns: forms of text, of a field or of the members of a list, that were narrower.
        names: how it names what the current version calls otherwise.
    """

    fields: frozenset[str] | None
    patterns: Mapping[str, re.Pattern[str]]
    names: Mapping[str, str]


_CATEGORY = re.compile(r"A[0-9]{2}")
_ONE_CWE = {"cwe_ids[0]": "cwe", "owasp[0]": "owasp"}
_FIELDS_1_1_0 = frozenset(FIELDS) - {"cwe_ids"} | {"cwe"}
_FIELDS_1_0_0 = _FIELDS_1_1_0 - {"status", "rule_id", "fingerprint", "location", "confidence", "tags"}
_OLDER = {
    "0.3.0": _Older(None, {}, {"project_id": "pid", "created_at": "ts", "resource": "url"}),
    "1.0.0": _Older(_FIELDS_1_0_0, {"owasp": _CATEGORY, "mitre_attack": re.compile(r"T[0-9]{4}")}, _ONE_CWE),
    "1.1.0": _Older(_FIELDS_1_1_0, {"owasp": _CATEGORY}, _ONE_CWE),
}
"""What older versions refuse and the current one does not; the rules of the current one are in `Finding`.

A version that lacks nothing but fields which later revisions name in ``NEW_FIELDS`` needs no entry.
"""


@lru_cache(64)
def _older_rules(version: str) -> _Older | None:
    """Return the rules that a version has beside those of the current one; None for the current one."""
    if version == SCHEMA_VERSION:
        return None
    rules = _OLDER.get(version, _Older(frozenset(FIELDS), {}, {}))
    newer = _known_versions()[_known_versions().index(version) + 1 :]
    added = {
        name for revision in revision_chain() if revision.schema_version in newer for name in revision.adds
    }
    return replace(rules, fields=rules.fields - added) if rules.fields is not None else rules


class SchemaMigrator:
    """Brings plain data from one schema version to another, up or down, losing nothing.

    The steps are those of the Alembic revisions, so a document, a file and a database agree about what a version means.
    What an older version has no room for is kept in `provenance` under the key ``findings_orm`` and comes back on the
    way up: ``migrate(b, a, migrate(a, b, data)) == data`` in both directions.

    >>> SchemaMigrator().versions()
    ['0.3.0', '1.0.0', '1.1.0', '2.0.0']
    """

    def versions(self) -> list[str]:
        """Return the schema versions that this release knows, oldest first."""
        return list(_known_versions())

    def path(self, from_version: str, to_version: str) -> list[Step]:
        """Return the steps from one version to another, in order; ``[]`` when they are the same.

        Raises:
            SchemaVersionError: a version is malformed or unknown; the message names the known ones.
        """
        for version in (from_version, to_version):
            _check_version(version, "the version")
        return list(_steps_between(from_version, to_version))

    @overload
    def migrate(
        self, from_version: str, to_version: str, data: Mapping[str, Any], *, limits: Limits = DEFAULT
    ) -> dict[str, Any]: ...

    @overload
    def migrate(
        self,
        from_version: str,
        to_version: str,
        data: list[Mapping[str, Any]] | list[dict[str, Any]],
        *,
        limits: Limits = DEFAULT,
    ) -> list[dict[str, Any]]: ...

    def migrate(
        self,
        from_version: str,
        to_version: str,
        data: Mapping[str, Any] | list[Mapping[str, Any]] | list[dict[str, Any]],
        *,
        limits: Limits = DEFAULT,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Return `data`, which is of one schema version, as data of another. `data` itself is not changed.

        `data` is a document, a list of documents, or a store layout: an object with a list ``findings`` and the version under
        ``finding_schema_version`` (or ``store_schema_version``). The result shares nothing with it. A document may lack
        what `ingest` fills in: `id`, `project_id`, `run_id`, `created_at`; it lacks the same afterwards. The findings
        of a layout may lack their version; the layout's holds for them. Data of 0.3.0 had no version and may lack it; a
        layout gets one. A refusal names the index of a document in a list or a layout. `limits` say how large a document
        may be.

        Raises:
            LimitExceededError: a document is larger than a limit allows.
            SchemaVersionError: a version is missing, malformed, unknown or newer, or `data` says that it is of
                another version than `from_version`.
            StorageValidationError: `data` breaks a rule of its own version; names field, rule and value.
        """
        check_limits(limits)
        if not isinstance(data, list):
            return self._migrate_one(from_version, to_version, data, limits)
        _check_version(from_version, "from_version")
        _check_version(to_version, "to_version")
        return list(self.migrate_many(from_version, to_version, data, limits=limits))

    def _migrate_one(
        self, from_version: str, to_version: str, data: Mapping[str, Any], limits: Limits = UNLIMITED
    ) -> dict[str, Any]:
        _check_version(from_version, "from_version")
        _check_version(to_version, "to_version")
        if not isinstance(data, dict):
            raise StorageValidationError.of_field("document", "must be a JSON object (a dict)", data)
        if limits is not UNLIMITED:
            check_documents(data, limits) if is_layout(data, from_version) else check_parts(data, limits)
        if is_layout(data, from_version):
            return _migrate_layout(data, from_version, to_version)
        _check_own_version(data, "finding_schema_version", from_version)
        return _migrate_document(data, from_version, to_version)

    @checked
    def migrate_many(
        self,
        from_version: str,
        to_version: str,
        documents: Iterable[Mapping[str, Any]],
        *,
        limits: Limits = DEFAULT,
    ) -> Iterator[dict[str, Any]]:
        """Yield each of many documents as `migrate` returns it, with memory for one at a time.

        Raises:
            SchemaVersionError, StorageValidationError: as `migrate`, when that document's turn comes; names its index.
        """
        migrate_one = partial(self._migrate_one, limits=limits)
        return migrate_many(migrate_one, from_version, to_version, documents)

    @checked
    def migrate_file(
        self,
        path: str | Path,
        to_version: str,
        *,
        output: str | Path | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        limits: Limits = DEFAULT,
    ) -> FileMigration:
        """Migrate a file that holds a store layout, or an array of findings; replace it whole, or not at all.

        The version is the one that the file says; an array of 0.3.0 says none. An array becomes a layout, except in 0.3.0,
        where a layout of nothing but findings becomes an array. The old file stays beside the new one, as
        ``<name>.orig-<version>``, unless `output` names another. The whole file is in memory.

        Args:
            path: the file.
            to_version: the version to bring it to.
            output: where to write; the file itself if None.
            dry_run: report what the migration would do, and write nothing.
            progress: called after each finding with how many are done, of how many.
            limits: how large a finding in the file may be.

        Raises:
            SchemaVersionError: a version is missing, malformed, unknown or newer.
            StorageValidationError: the file is no layout, or a finding breaks a rule of its version (names its index), or
                writing failed: the old file is as it was.
            StorageUnavailableError: the file can't be read or written.
        """
        _check_version(to_version, "to_version")
        return migrate_file(
            self._migrate_one,
            path,
            to_version,
            output=output,
            dry_run=dry_run,
            progress=progress,
            limits=limits,
        )


@lru_cache(1)
def _known_versions() -> tuple[str, ...]:
    return (
        revision_chain()[0].before,
        *dict.fromkeys(revision.schema_version for revision in revision_chain()),
    )


@lru_cache(64)
def _steps_between(from_version: str, to_version: str) -> tuple[Step, ...]:
    """Return the steps between two known versions."""
    known = _known_versions()
    start, end = known.index(from_version), known.index(to_version)
    if start > end:
        return tuple(_make_step(known[n], known[n - 1]) for n in range(start, end, -1))
    return tuple(_make_step(known[n], known[n + 1]) for n in range(start, end))


def _make_step(from_version: str, to_version: str) -> Step:
    known = _known_versions()
    newer = max(from_version, to_version, key=known.index)
    revision = next(each for each in revision_chain() if each.schema_version == newer)
    up, down = document_changes(revision.id)
    return Step(revision.id, from_version, to_version, up if newer == to_version else down)


def _check_version(version: object, what: str) -> None:
    known = _known_versions()
    if isinstance(version, str) and version in known:
        return
    names = f"known are {', '.join(known)}"
    match = _SEMANTIC.fullmatch(version) if isinstance(version, str) else None
    if version is None:
        raise SchemaVersionError(f"{what} is missing; {names}")
    if match is None:
        raise SchemaVersionError(f"{what} must be MAJOR.MINOR.PATCH, is {readable(version)}; {names}")
    newest = tuple(int(part) for part in known[-1].split("."))
    newer = tuple(int(part[:9]) + 10**9 * (len(part) > 9) for part in match.groups()) > newest
    kind = "newer than this release knows; update findings-orm" if newer else "unknown"
    raise SchemaVersionError(f"{what} {readable(version)} is {kind}; {names}")


def _check_own_version(data: Document, key: str, expected: str, place: str = "") -> None:
    """Check what data say about their own version."""
    own = data.get(key, LEGACY if expected == LEGACY else None)
    if own == expected and isinstance(own, str):
        return
    _check_version(own, place + key)
    raise SchemaVersionError(f"{place}{key} is {own}, but the data were given as {expected}")


def _migrate_layout(layout: Document, from_version: str, to_version: str) -> Document:
    keys = [key for key in VERSION_KEYS if key in layout] or [VERSION_KEYS[0]]
    for key in keys:
        _check_own_version(layout, key, from_version)
    findings = layout["findings"]
    if not isinstance(findings, list):
        raise StorageValidationError.of_field("findings", "must be a list", findings)
    implied = {} if from_version == LEGACY else {"finding_schema_version": from_version}
    migrated = []
    for index, document in enumerate(findings):
        try:
            if not isinstance(document, dict):
                raise StorageValidationError.of_field("document", "must be a JSON object (a dict)", document)
            versioned = document if "finding_schema_version" in document else {**implied, **document}
            _check_own_version(versioned, "finding_schema_version", from_version, f"document {index}: ")
            migrated.append(_migrate_document(versioned, from_version, to_version))
        except StorageValidationError as error:
            raise error.at(index) from error
    if keys[0] not in layout and to_version != LEGACY:
        layout = {keys[0]: None, **layout}
    rest = {key: to_version if key in keys else value for key, value in layout.items() if key != "findings"}
    return {**dict.fromkeys(layout), **_clone_json(rest), "findings": migrated}


def _migrate_document(document: Document, from_version: str, to_version: str) -> Document:
    """Check a document by the rules of its version, and return it as one of another version."""
    older = _older_rules(from_version)
    if older is not None:
        _check_older_rules(document, from_version, older)
    by_version = {from_version: document}
    current = document
    try:
        for step in _steps_between(from_version, SCHEMA_VERSION):
            current = by_version[step.to_version] = step.apply(current)
        validate_finding({**_FILLED_IN, **current})
    except RecursionError as error:
        rule = f"must not nest deeper than {MAX_DEPTH} levels"
        raise StorageValidationError.of_field("provenance", rule, None) from error
    except StorageValidationError as error:
        name = older.names.get(error.field or "") if older else None
        if name is None:
            raise
        raise StorageValidationError.of_field(name, error.rule or "", error.value) from error
    result = by_version.get(to_version, document)
    if to_version not in by_version:
        for step in _steps_between(from_version, to_version):
            result = step.apply(result)
    copy: Document = _clone_json(result)
    return copy


def _check_older_rules(document: Document, version: str, older: _Older) -> None:
    """Check what an older version refuses and the current one accepts."""
    for name in document if older.fields is not None else ():
        if name not in (older.fields or ()):
            rule = f"is not a field of a finding of schema {version}"
            raise StorageValidationError.of_field(str(name), rule, document[name])
    for name, pattern in older.patterns.items():
        value = document.get(name)
        places = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, item in places:
            if isinstance(item, str) and not pattern.fullmatch(item):
                place = name if index is None else f"{name}[{index}]"
                raise StorageValidationError.of_field(place, f"must match ^{pattern.pattern}$", item)


def _clone_json(value: Any) -> Any:
    """Return a copy of a JSON value that shares no object or list with it."""
    if isinstance(value, dict):
        return {key: _clone_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clone_json(inner) for inner in value]
    return value
