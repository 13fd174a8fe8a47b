"""The store layout: JSON on disk with a schema version and a list of findings, written atomically."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping

from findings_orm.arguments import path_of
from findings_orm.errors import SchemaVersionError, StorageValidationError, readable
from findings_orm.finding import KNOWN_VERSIONS
from findings_orm.jsonstream import JsonReader
from findings_orm.limits import DEFAULT, Limits, check_limits, check_parts
from findings_orm.private import replace_file
from findings_orm.process import is_committed

LEGACY_VERSION = "0.3.0"
"""The version of the flat documents, which don't say a version."""

_LEGACY_NAMES = frozenset({"pid", "ts", "cve_id", "triage"})
_ROW_NAMES = frozenset({"pid", "detector_id"})
_SEMANTIC = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", re.ASCII)


def version_of(document: Mapping[str, object]) -> object:
    """Return the version of a document in a file that says none itself: what it says, 0.3.0 where it names its project
    as 0.3.0 does, else None."""
    legacy = "pid" in document and "project_id" not in document
    return document.get("finding_schema_version", LEGACY_VERSION if legacy else None)


def looks_legacy(document: Mapping[str, object]) -> bool:
    """Return whether a document that says no version has what only those of 0.3.0 had."""
    if "finding_schema_version" in document:
        return False
    return document.get("status") in ("accepted_risk", "fixed") or not _LEGACY_NAMES.isdisjoint(document)


def is_layout(data: Mapping[str, object], version: str) -> bool:
    """Return whether an object of a schema version is a store layout. In 0.3.0 a row may have any field, `findings` too."""
    if version == LEGACY_VERSION:
        return isinstance(data.get("findings"), list) and _ROW_NAMES.isdisjoint(data)
    return "findings" in data


def check_documents(data: Mapping[str, object], limits: Limits) -> None:
    """Refuse a layout with a finding that is too large; what it has beside its findings counts as one.

    Raises:
        LimitExceededError: names the index of the finding, and the limit.
    """
    findings = data.get("findings")
    if not isinstance(findings, list):
        check_parts(data, limits)
        return
    check_parts({name: value for name, value in data.items() if name != "findings"}, limits)
    for index, document in enumerate(findings):
        try:
            check_parts(document, limits)
        except StorageValidationError as error:
            raise error.at(index) from error


def atomic_write(path: pathlib.Path, data: Mapping[str, object], limits: Limits = DEFAULT) -> None:
    """Write `data` as JSON to `path`, whole or not at all; see `StoragePort.atomic_write`.

    The order is what makes it safe (POSIX rename, fsync of file, then of folder): a temporary file in the same
    folder is written, flushed and fsynced, renamed over `path`, and the folder is fsynced. A new file is for its owner
    alone, one that is replaced stays open to whom it was; see `findings_orm.private.replacing`.
    """
    path = path_of("path", path)
    if not isinstance(data, dict) or "finding_schema_version" not in data:
        raise SchemaVersionError(f"{path}: the data has no finding_schema_version, so nothing was written")
    check_documents(data, check_limits(limits))
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
        content = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageValidationError(f"{path}: JSON can't hold the data: {error}") from error
    if json.loads(text) != data:
        raise StorageValidationError(
            f"{path}: JSON can't hold the data: a key is no text or a list is no list"
        )
    try:
        replace_file(path, content)
    except OSError as error:
        left = "the new file is there" if is_committed(error) else "the old file is as it was"
        raise StorageValidationError(f"{path}: writing failed, {left}: {error}") from error


VERSION_KEYS = ("finding_schema_version", "store_schema_version")
"""Where a layout says its version."""

_MEMBERS = (*VERSION_KEYS, "findings")


def problems_of_path(path: object) -> list[str]:
    """Return what is wrong with a path that no file can have, for people; ``[]`` for any other.

    Raises:
        StorageValidationError: it is no path at all.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise StorageValidationError.of_field("path", "must be a path", path)
    try:
        path_of("path", path)
    except StorageValidationError:
        return [f"{readable(os.fspath(path))}: no file can be called so"]
    return []


def check_store_layout(path: pathlib.Path) -> list[str]:
    """Return what is wrong with the store layout at `path`, for people; ``[]`` when nothing is.

    The findings themselves are not checked, only that they are a list.
    """
    problems = problems_of_path(path)
    if problems:
        return problems
    try:
        layout = _read_outline(pathlib.Path(path))
    except OSError as error:
        return [f"{path}: can't be read: {error.strerror or error}"]
    except StorageValidationError as error:
        return [f"{path}: is not JSON: {error}"]
    if layout is None:
        return [f"{path}: must be a JSON object"]
    version = layout.get("finding_schema_version", layout.get("store_schema_version"))
    if version is None:
        problems.append(f"{path}: finding_schema_version is missing")
    elif not isinstance(version, str) or not _SEMANTIC.fullmatch(version):
        problems.append(f"{path}: finding_schema_version must be MAJOR.MINOR.PATCH, is {readable(version)}")
    elif version not in KNOWN_VERSIONS:
        known = ", ".join(KNOWN_VERSIONS)
        problems.append(f"{path}: finding_schema_version {version} is unknown here; known are {known}")
    if not isinstance(layout.get("findings"), list):
        problems.append(f"{path}: findings must be a list, is {readable(layout.get('findings'))}")
    return problems


def _read_outline(path: pathlib.Path) -> dict[str, object] | None:
    """Return the members that make a file a store layout, of a list only that it is one; None where the file is no object."""
    found: dict[str, object] = {}
    with path.open("rb", buffering=0) as file:
        reader = JsonReader(file)
        if reader.peek() not in ("{", ""):
            reader.value()
            reader.end()
            return None
        for name in reader.members():
            start = reader.peek()
            if start == "[":
                reader.skip(1)
                value: object = []
            else:
                value = reader.value()
            if name in _MEMBERS:
                found[name] = value
        reader.end()
    return found
