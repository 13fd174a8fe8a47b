"""What is wrong with the files of a store, for people: all of it, not only the first thing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from findings_orm.errors import StorageError
from findings_orm.layout import check_store_layout, problems_of_path
from findings_orm.stores.files import edits, journal, names, snapshot
from findings_orm.stores.files.loading import read
from findings_orm.stores.files.snapshot import Entry, Manifest


def check(path: Path) -> list[str]:
    """Return what is wrong with a store's folder, or with one file of it; ``[]`` when nothing is."""
    problems: list[str] | None = problems_of_path(path)
    if problems:
        return problems
    path = Path(path)
    try:
        if path.is_dir() and is_store(path):
            return list(_folder(path))
        problems = _own_file(path)
    except OSError as error:
        return [f"{path}: can't be read: {error.strerror or error}"]
    return check_store_layout(path) if problems is None else problems


def is_store(path: Path) -> bool:
    """Return whether a folder holds a store of this layout."""
    return (path / names.JOURNAL).exists() or (path / names.MANIFEST).exists()


def _own_file(path: Path) -> list[str] | None:
    """Check a file that is no ``findings.json``; None for one that is not of this layout."""
    data = None if path.is_dir() else read(path)
    if data is None:
        return None
    try:
        if path.name == names.JOURNAL and data.startswith(b'{"sum":'):
            return list(_journal(path, data))
        if path.name in names.COMPANIONS and data.startswith(b'{"sum":'):
            snapshot.read_lines(path, data, snapshot.READERS[path.name])
            return []
        if path.name == names.MANIFEST and _is_manifest(data):
            snapshot.read_manifest(path, data)
            return []
    except StorageError as error:
        return [str(error)]
    return None


def _is_manifest(data: bytes) -> bool:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == snapshot.FORMAT


def _folder(root: Path) -> Iterator[str]:
    path = root / names.MANIFEST
    data = read(path)
    manifest = Manifest()
    if data is not None:
        try:
            manifest = snapshot.read_manifest(path, data)
        except StorageError as error:
            yield str(error)
    elif any(root.glob(f"*/{names.IDENTITIES}")):
        yield f"{path}: is missing"
    path = root / names.JOURNAL
    data = read(path)
    unfinished = False
    if data is None:
        yield f"{path}: is missing"
    else:
        unfinished = _generation(path, data) == manifest.generation - 1
        yield from _journal(path, data)
    if unfinished:
        yield f"{root}: generation {manifest.generation} was cut short; the next write completes it"
        return
    for name, entry in manifest.projects.items():
        yield from _project(root / name, entry)


def _generation(path: Path, data: bytes) -> int | None:
    try:
        return journal.read_header(path, data).generation
    except StorageError:
        return None


def _journal(path: Path, data: bytes) -> Iterator[str]:
    try:
        position = journal.read_header(path, data)
        for after, _ in journal.read_records(path, data[position.end :], position):
            position = after
    except StorageError as error:
        yield str(error)
        return
    if position.torn:
        yield (
            f"{path}, line {position.lines + 1}: is unfinished ({position.torn} bytes); it was never "
            "acknowledged, and the next write cuts it off"
        )


def _project(folder: Path, entry: Entry) -> Iterator[str]:
    for name, checksum in entry.files.items():
        path = folder / name
        data = read(path)
        if data is None:
            yield f"{path}: is missing"
            continue
        same = snapshot.sha256(data) == checksum
        try:
            if name in snapshot.READERS:
                snapshot.read_lines(path, data, snapshot.READERS[name])
                if not same:
                    yield f"{path}: is damaged: lines are missing, doubled or out of order"
            elif not same:
                edits.read_layout(path, data, entry.project_id)
        except StorageError as error:
            yield str(error)
