"""Files of findings from one schema version to another: store layouts, and the bare arrays of 0.3.0."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

from findings_orm.errors import (
    LimitExceededError,
    SchemaVersionError,
    StorageUnavailableError,
    StorageValidationError,
    readable,
)
from findings_orm.finding import SCHEMA_VERSION
from findings_orm.jsonstream import JsonReader
from findings_orm.layout import LEGACY_VERSION, atomic_write, version_of
from findings_orm.limits import DEFAULT, Limits
from findings_orm.private import Access, replace_file

Document = dict[str, Any]
Migrate = Callable[[str, str, Document], Document]
Progress = Callable[[int, int], None]

VERSION_KEYS = ("finding_schema_version", "store_schema_version")
CORNER = "findings_orm"
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_FROM_INGEST = ("id", "project_id", "created_at")


@dataclass(slots=True)
class FileMigration:
    """What the migration of a file did, or would do.

    Attributes:
        path: the file that was read.
        from_version, to_version: the schema versions.
        documents: how many findings there are.
        changed: how many findings get, lose or change a field, by the field's name; not where it is empty.
        aside: how many findings have a value that `to_version` has no field for, by the field's name: it is kept in
            `evidence` or `provenance`, and comes back on the way back.
        missing: how many findings lack a field that saving them needs, by its name: its old value names nothing certain
            (a time without an offset). `ingest` fills it in.
        output: the file that was written; None with `dry_run`, and where there was nothing to do.
        copy: where the old file is kept; None where it stays itself.
        dry_run: nothing was written.
    """

    path: Path
    from_version: str
    to_version: str
    documents: int = 0
    changed: dict[str, int] = field(default_factory=dict)
    aside: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    output: Path | None = None
    copy: Path | None = None
    dry_run: bool = False

    def add(self, before: Document, after: Document) -> None:
        """Count what became of one finding."""
        self.documents += 1
        for name in {**before, **after}:
            old, new = before.get(name), after.get(name)
            if old != new and not (old in _NOTHING and new in _NOTHING):
                self.changed[name] = self.changed.get(name, 0) + 1
        for name in _put_aside(before, after):
            self.aside[name] = self.aside.get(name, 0) + 1
        for name in _FROM_INGEST if self.to_version == SCHEMA_VERSION else ():
            if name not in after:
                self.missing[name] = self.missing.get(name, 0) + 1


def migrate_file(
    migrate: Migrate,
    path: str | Path,
    to_version: str,
    *,
    output: str | Path | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    limits: Limits = DEFAULT,
) -> FileMigration:
    """Do the work of `SchemaMigrator.migrate_file`."""
    source = Path(path)
    content = _read(source, limits)
    layout, is_array = _layout(source, content)
    version = _version(source, layout, is_array=is_array)
    found = FileMigration(source, version, to_version, dry_run=dry_run)
    findings = layout["findings"]
    migrated = []
    documents = migrate_many(migrate, version, to_version, _of_layout(layout, version))
    for index, document in enumerate(_in_file(source, documents)):
        found.add(findings[index], document)
        migrated.append(document)
        if progress is not None:
            progress(index + 1, len(findings))
    target = Path(output) if output is not None else source
    if dry_run or (version == to_version and target == source):
        return found
    changed = {**layout, "findings": migrated}
    changed |= {key: to_version for key in VERSION_KEYS if key in layout}
    bare = to_version == LEGACY_VERSION and (is_array or set(layout) <= {"findings", *VERSION_KEYS})
    if target == source:
        found.copy = _keep(source, content, version)
    _write(target, migrated if bare else changed)
    found.output = target
    return found


def migrate_many(
    migrate: Migrate, from_version: str, to_version: str, documents: Iterable[Mapping[str, Any]]
) -> Iterator[Document]:
    """Do the work of `SchemaMigrator.migrate_many`."""
    for index, document in enumerate(documents):
        try:
            yield migrate(from_version, to_version, document)  # type: ignore[arg-type]  # it says what is no dict
        except StorageValidationError as error:
            raise error.at(index) from error
        except SchemaVersionError as error:
            raise SchemaVersionError(f"document {index}: {error}") from error


def _in_file(path: Path, documents: Iterator[Document]) -> Iterator[Document]:
    """Yield documents; a refusal names their file."""
    try:
        yield from documents
    except StorageValidationError as error:
        raise StorageValidationError(
            f"{path}: {error}", field=error.field, rule=error.rule, value=error.value, index=error.index
        ) from error
    except SchemaVersionError as error:
        raise SchemaVersionError(f"{path}: {error}") from error


def _of_layout(layout: Document, version: str) -> Iterator[Any]:
    """Yield the findings of a layout; its version holds for those that name none."""
    for document in layout["findings"]:
        said = isinstance(document, dict) and "finding_schema_version" not in document
        yield (
            {"finding_schema_version": version, **document}
            if said and version != LEGACY_VERSION
            else document
        )


def _read(path: Path, limits: Limits) -> bytes:
    try:
        with path.open("rb") as file:
            _check(file, limits)
        return path.read_bytes()
    except OSError as error:
        raise StorageUnavailableError(f"{path}: can't be read: {error.strerror or error}") from error


def _check(file: BufferedReader, limits: Limits) -> None:
    """Compare what is in a file with limits, without taking it into memory. What else is wrong is not found here."""
    try:
        JsonReader(file, lenient=True, limits=limits).skip(2)
    except LimitExceededError:
        raise
    except StorageValidationError:
        pass


def _layout(path: Path, content: bytes) -> tuple[Document, bool]:
    """Return the store layout in a file, one made of a bare array too, and whether it was a bare array."""
    try:
        data = json.loads(content, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise StorageValidationError(
            f"{path}: is no store layout and no array of findings: {error}"
        ) from error
    is_array = isinstance(data, list)
    layout = {"finding_schema_version": None, "findings": data} if is_array else data
    if not isinstance(layout, dict) or not isinstance(layout.get("findings"), list):
        raise StorageValidationError(
            f"{path}: must be a store layout, an object with a list findings, or an array of findings "
            f"(got {readable(data)})"
        )
    return layout, is_array


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice in one object")
    return found


def _version(path: Path, layout: Document, *, is_array: bool) -> str:
    """Return the version of a layout; that of a bare array is its first finding's."""
    said = [layout[key] for key in VERSION_KEYS if layout.get(key) is not None]
    first = next((one for one in layout["findings"] if isinstance(one, dict)), {})
    version = said[0] if said else version_of(first)
    if version is None and is_array:
        version = LEGACY_VERSION
    if not isinstance(version, str):
        raise SchemaVersionError(f"{path}: finding_schema_version is missing")
    return version


def _put_aside(before: Document, after: Document) -> Iterator[str]:
    """Yield the fields of a finding whose values are now in its evidence or in a corner of its provenance."""
    kept = _in_corners(after) - _in_corners(before)
    evidence = _object(after, "evidence")
    own = _object(before, "evidence")
    for name, value in before.items():
        moved = name in evidence and name not in own and after.get(name) != value and evidence[name] == value
        if name not in ("evidence", "provenance", "finding_schema_version") and (name in kept or moved):
            yield name


def _in_corners(document: Document) -> set[str]:
    """Return the fields that stand in the corner of the provenance, and in those that it was put around."""
    names: set[str] = set()
    corner = _object(document, "provenance").get(CORNER)
    while isinstance(corner, dict) and isinstance(corner.get("fields"), dict):
        names.update(corner["fields"])
        corner = corner.get("original")
    return names


def _object(document: Document, name: str) -> Document:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _keep(path: Path, content: bytes, version: str) -> Path:
    """Copy the old file beside itself, unless such a copy is there."""
    number = 1
    while True:
        copy = path.with_name(f"{path.name}.orig-{version}" + (f".{number}" if number > 1 else ""))
        try:
            if copy.exists() and copy.read_bytes() == content:
                return copy
            if not copy.exists():
                replace_file(copy, content, Access.like(path.stat()))
                return copy
        except OSError as error:
            raise StorageUnavailableError(f"{copy}: can't be written: {error.strerror or error}") from error
        number += 1


def _write(path: Path, data: Any) -> None:
    """Write a layout or a bare array, whole or not at all."""
    if isinstance(data, dict) and "finding_schema_version" in data:
        atomic_write(path, data)
        return
    content = json.dumps(data, ensure_ascii=False, allow_nan=False, indent=2).encode() + b"\n"
    try:
        replace_file(path, content)
    except OSError as error:
        raise StorageUnavailableError(f"{path}: can't be written: {error.strerror or error}") from error
