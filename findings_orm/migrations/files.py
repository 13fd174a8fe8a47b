"""Files of findings from one schema version to another: store layouts, and the bare arrays of 0.3.0."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from findings_orm.errors import (
    LimitExceededError,
    SchemaVersionError,
    StorageUnavailableError,
    StorageValidationError,
)
from findings_orm.finding import SCHEMA_VERSION
from findings_orm.jsonstream import JsonReader, open_json
from findings_orm.layout import LEGACY_VERSION, VERSION_KEYS, version_of
from findings_orm.limits import DEFAULT, FieldNames, Limits
from findings_orm.private import Access, replacing, writing

Document = dict[str, Any]
Migrate = Callable[[str, str, Document], Document]
Progress = Callable[[int, int], None]

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
        for name in _fields_put_aside(before, after):
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
    """Do the work of `SchemaMigrator.migrate_file`, with memory for one finding."""
    source = Path(path)
    target = Path(output) if output is not None else source
    with open_json(source) as file:
        layout = _Layout(source, file, limits)
        version = layout.version
        found = FileMigration(source, version, to_version, dry_run=dry_run)
        migrated = _migrate_findings(migrate, layout, found, progress, FieldNames(limits, source))
        if dry_run or (version == to_version and target == source):
            for _ in migrated:
                pass
            return found
        others = dict(layout.others)
        if to_version != LEGACY_VERSION and not any(name in VERSION_KEYS for name in others):
            others = {VERSION_KEYS[0]: None, **others}
        others = {name: to_version if name in VERSION_KEYS else value for name, value in others.items()}
        bare = to_version == LEGACY_VERSION and (
            layout.is_array or set(others) <= {"findings", *VERSION_KEYS}
        )
        with writing(target) as (_, written):
            for text in _array_as_json(migrated, "") if bare else _layout_as_json(others, migrated):
                written.write(text.encode())
            written.write(b"\n")
            if target == source:
                found.copy = _keep_copy(source, version)
        found.output = target
        return found


class _Layout:
    """A file of findings, read part by part.

    Attributes:
        is_array: it is a bare array.
        others: its members; `findings` has its place among them and is empty.
        count: how many findings it has.
        version: the schema version; that of a bare array is its first finding's.

    Raises:
        LimitExceededError: something in it is larger than `limits` allow.
        SchemaVersionError: it has no version.
        StorageValidationError: it is no store layout and no array.
    """

    def __init__(self, path: Path, file: BinaryIO, limits: Limits) -> None:
        self._path, self._file, self._limits = path, file, limits
        self.is_array = False
        self.others: Document = {}
        self.count = 0
        first: Document | None = None
        for finding in self.findings():
            self.count += 1
            if first is None and isinstance(finding, dict):
                first = finding
        if not isinstance(self.others.get("findings"), list):
            raise StorageValidationError(
                f"{path}: must be a store layout, an object with a list findings, or an array of findings"
            )
        self.version = self._layout_version(first or {})

    def _layout_version(self, first: Document) -> str:
        said = [self.others[key] for key in VERSION_KEYS if self.others.get(key) is not None]
        version = said[0] if said else version_of(first)
        if version is None and (self.is_array or not self.count):
            version = LEGACY_VERSION
        if not isinstance(version, str):
            raise SchemaVersionError(f"{self._path}: finding_schema_version is missing")
        return version

    def findings(self) -> Iterator[Any]:
        """Yield the findings as they are in the file."""
        self._file.seek(0)
        try:
            yield from self._read_findings(JsonReader(self._file, limits=self._limits))
        except LimitExceededError:
            raise
        except OSError as error:
            raise StorageUnavailableError(
                f"{self._path}: can't be read: {error.strerror or error}"
            ) from error
        except (StorageValidationError, UnicodeDecodeError) as error:
            raise StorageValidationError(
                f"{self._path}: is no store layout and no array of findings: {error}"
            ) from error

    def _read_findings(self, reader: JsonReader) -> Iterator[Any]:
        start = reader.peek()
        if start == "[":
            self.is_array = True
            self.others = {VERSION_KEYS[0]: None, "findings": []}
            for _ in reader.elements():
                yield reader.value()
        elif start == "{":
            for name in reader.members():
                if name == "findings" and reader.peek() == "[":
                    self.others[name] = []
                    for _ in reader.elements():
                        yield reader.value()
                else:
                    self.others[name] = reader.keep(reader.value())
        else:
            reader.value()
        reader.end()


def _migrate_findings(
    migrate: Migrate,
    layout: _Layout,
    found: FileMigration,
    progress: Progress | None,
    names: FieldNames,
) -> Iterator[Document]:
    """Yield the findings in their new version, and count them; a refusal names their file."""
    version, before = found.from_version, {}

    def versioned_findings() -> Iterator[Any]:
        nonlocal before
        for document in layout.findings():
            before = document
            said = isinstance(document, dict) and "finding_schema_version" not in document
            yield (
                {"finding_schema_version": version, **document}
                if said and version != LEGACY_VERSION
                else document
            )

    documents = migrate_many(migrate, version, found.to_version, versioned_findings())
    try:
        for document in documents:
            for name in (*before, *document):
                names.add(name)
            found.add(before, document)
            yield document
            if progress is not None:
                progress(found.documents, layout.count)
    except LimitExceededError:
        raise
    except StorageValidationError as error:
        raise StorageValidationError(
            f"{found.path}: {error}", field=error.field, rule=error.rule, value=error.value, index=error.index
        ) from error
    except SchemaVersionError as error:
        raise SchemaVersionError(f"{found.path}: {error}") from error


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


def _layout_as_json(members: Document, findings: Iterator[Document]) -> Iterator[str]:
    """Yield a layout as JSON, as `atomic_write` writes it, with these findings in it."""
    comma = ""
    yield "{"
    for name, value in members.items():
        yield f"{comma}\n  {_value_as_json(name)}: "
        yield from _array_as_json(findings, "  ") if name == "findings" else (_value_as_json(value, "  "),)
        comma = ","
    yield "\n}"


def _array_as_json(findings: Iterator[Document], indent: str) -> Iterator[str]:
    start = "["
    for finding in findings:
        yield f"{start}\n{indent}  {_value_as_json(finding, indent + '  ')}"
        start = ","
    yield "[]" if start == "[" else f"\n{indent}]"


def _value_as_json(value: Any, indent: str = "") -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2).replace("\n", f"\n{indent}")
    except (ValueError, RecursionError) as error:
        raise StorageValidationError(f"JSON can't hold the data: {error}") from error


def _fields_put_aside(before: Document, after: Document) -> Iterator[str]:
    """Yield the fields of a finding whose values are now in its evidence or in a corner of its provenance."""
    kept = _fields_in_corners(after) - _fields_in_corners(before)
    evidence = _object_member(after, "evidence")
    own = _object_member(before, "evidence")
    for name, value in before.items():
        moved = name in evidence and name not in own and after.get(name) != value and evidence[name] == value
        if name not in ("evidence", "provenance", "finding_schema_version") and (name in kept or moved):
            yield name


def _fields_in_corners(document: Document) -> set[str]:
    """Return the fields that stand in the corner of the provenance, and in those that it was put around."""
    names: set[str] = set()
    corner = _object_member(document, "provenance").get(CORNER)
    while isinstance(corner, dict) and isinstance(corner.get("fields"), dict):
        names.update(corner["fields"])
        corner = corner.get("original")
    return names


def _object_member(document: Document, name: str) -> Document:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _keep_copy(path: Path, version: str) -> Path:
    """Copy the old file beside itself, unless such a copy is there."""
    number = 1
    while True:
        copy = path.with_name(f"{path.name}.orig-{version}" + (f".{number}" if number > 1 else ""))
        try:
            if not copy.exists():
                with path.open("rb") as old, replacing(copy, Access.of_stat(path.stat())) as (_, new):
                    shutil.copyfileobj(old, new)
                return copy
            if _digest_of_file(copy) == _digest_of_file(path):
                return copy
        except OSError as error:
            raise StorageUnavailableError(f"{copy}: can't be written: {error.strerror or error}") from error
        number += 1


def _digest_of_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
