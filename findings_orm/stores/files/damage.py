"""What is wrong with the files of a store, and saving what is intact of them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from findings_orm import records
from findings_orm.arguments import checked
from findings_orm.errors import SchemaVersionError, StorageError, StorageUnavailableError
from findings_orm.finding import SCHEMA_VERSION, FindingDocument, validate_finding
from findings_orm.imports.intake import current_document
from findings_orm.imports.saving import save
from findings_orm.layout import check_store_layout, problems_of_path
from findings_orm.stores.files import codec, edits, folding, journal, snapshot, tree
from findings_orm.stores.files.loading import Copy, load_copy, read, stat_core
from findings_orm.stores.files.lock import StoreLock
from findings_orm.stores.files.snapshot import Entry, Known, Manifest
from findings_orm.stores.files.tree import Disk, translate_os_errors
from findings_orm.stores.files.working_copy import FileRecords, fit_operation, redo_operations

# -- what is wrong with the files of a store, for people: all of it, not only the first thing -------------


def check(path: Path) -> list[str]:
    """Return what is wrong with a store's folder, or with one file of it; ``[]`` when nothing is."""
    problems: list[str] | None = problems_of_path(path)
    if problems:
        return problems
    path = Path(path)
    try:
        if path.is_dir() and is_store(path):
            return list(_check_folder(path))
        problems = _check_own_file(path)
    except OSError as error:
        return [f"{path}: can't be read: {error.strerror or error}"]
    return check_store_layout(path) if problems is None else problems


def is_store(path: Path) -> bool:
    """Return whether a folder holds a store of this layout."""
    return (path / tree.JOURNAL).exists() or (path / tree.MANIFEST).exists()


def _check_own_file(path: Path) -> list[str] | None:
    """Check a file that is no ``findings.json``; None for one that is not of this layout."""
    data = None if path.is_dir() else read(path)
    if data is None:
        return None
    try:
        if path.name == tree.JOURNAL and data.startswith(b'{"sum":'):
            return list(_check_journal(path, data))
        if path.name in tree.COMPANIONS and data.startswith(b'{"sum":'):
            snapshot.read_lines(path, data, snapshot.READERS[path.name])
            return []
        if path.name == tree.MANIFEST and _is_manifest(data):
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


def _check_folder(root: Path) -> Iterator[str]:
    path = root / tree.MANIFEST
    data = read(path)
    manifest = Manifest()
    if data is not None:
        try:
            manifest = snapshot.read_manifest(path, data)
        except StorageError as error:
            yield str(error)
    elif any(root.glob(f"*/{tree.IDENTITIES}")):
        yield f"{path}: is missing"
    path = root / tree.JOURNAL
    data = read(path)
    unfinished = False
    if data is None:
        yield f"{path}: is missing"
    else:
        unfinished = _read_generation(path, data) == manifest.generation - 1
        yield from _check_journal(path, data)
    if unfinished:
        yield f"{root}: generation {manifest.generation} was cut short; the next write completes it"
        return
    for name, entry in manifest.projects.items():
        yield from _check_project(root / name, entry)


def _read_generation(path: Path, data: bytes) -> int | None:
    try:
        return journal.read_header(path, data).generation
    except StorageError:
        return None


def _check_journal(path: Path, data: bytes) -> Iterator[str]:
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


def _check_project(folder: Path, entry: Entry) -> Iterator[str]:
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


# -- saving what is intact of a damaged store -------------------------------------------------------------


@checked
def repair(
    path: str | os.PathLike[str], *, lock_timeout: float = 60.0, lock: Literal["hard", "soft"] = "hard"
) -> list[str]:
    """Make a damaged store work again with everything that is intact; return what was found and done, for people.

    The whole damaged store is copied aside first, into a folder beside its projects. A store without damage is left
    as it is, and the result is empty. `lock` is that of `FileStorageAdapter`.

    Raises:
        StorageUnavailableError: the folder can't be read or written.
        SchemaVersionError: a newer release wrote the store; nothing is wrong with it.
    """
    root = Path(path).absolute()
    guard = StoreLock(root / tree.LOCK, soft=lock == "soft")
    with translate_os_errors(root):
        if not root.is_dir() or not is_store(root):
            raise StorageUnavailableError(f"{root}: holds no store")
        guard.acquire(lock_timeout)
        try:
            return _Repair(root).run()
        finally:
            guard.release()


class _Repair:
    """One repair, under the lock of the store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said: list[str] = []
        self.generation = 0

    def run(self) -> list[str]:
        unfit = self._find_misfit()
        self.said = check(self.root) or unfit
        if not self.said:
            return []
        aside = self._copy_aside()
        copy = Copy(self._read_manifest(), core=stat_core(self.root))
        for name, entry in copy.manifest.projects.items():
            self._restore_project(copy, name, entry)
        self._redo_journal(copy)
        self.generation = max(self.generation, copy.manifest.generation)
        copy.manifest = Manifest(self.generation + 1, "", copy.manifest.projects)
        copy.dirty.update(copy.state)
        folding.fold_journal(Disk(), self.root, copy)
        self.said.append(f"{self.root}: {aside.name} has the files as they were")
        return self.said

    def _find_misfit(self) -> list[str]:
        """Return what is wrong where each file is right, but they don't fit together."""
        try:
            load_copy(self.root)
        except SchemaVersionError:
            raise
        except StorageError as error:
            return [str(error)]
        return []

    def _copy_aside(self) -> Path:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        number = 1
        while (aside := self.root / f"{tree.DAMAGED}{stamp}-{number}").exists():
            number += 1
        ignored = shutil.ignore_patterns(tree.LOCK, f"{tree.DAMAGED}*")
        aside.mkdir(0o700)
        shutil.copytree(self.root, aside, ignore=ignored, dirs_exist_ok=True)
        return aside

    def _read_manifest(self) -> Manifest:
        """Return the manifest, or one made of the folders there are when it is damaged."""
        path = self.root / tree.MANIFEST
        data = read(path)
        if data is not None:
            try:
                return snapshot.read_manifest(path, data)
            except SchemaVersionError:
                raise
            except StorageError:
                self.said.append(f"{path}: is made anew from the folders")
        entries = {}
        for folder in sorted(self.root.iterdir()):
            if folder.name.startswith((".", tree.DAMAGED)) or not (folder / tree.FINDINGS).is_file():
                continue
            project_id = _project_of(folder)
            if project_id is not None:
                files = {name: "" for name in (tree.FINDINGS, *tree.COMPANIONS) if (folder / name).exists()}
                entries[folder.name] = Entry(project_id, 1, files)
        return Manifest(projects=entries)

    # -- projects ------------------------------------------------------------------------------------------

    def _restore_project(self, copy: Copy, folder_name: str, entry: Entry) -> None:
        folder = self.root / folder_name
        companions = {}
        for name in tree.COMPANIONS:
            companions[name] = list(self._read_lines(folder / name, snapshot.READERS[name]))
        project = snapshot.empty_project(entry.revision, companions)
        known: dict[str, Known] = {one.identity.finding_id: one for one in companions[tree.IDENTITIES]}
        copy.state[entry.project_id] = project
        new = []
        for document in self._read_findings(folder / tree.FINDINGS, entry.project_id):
            one = known.pop(document["id"], None)
            if one is not None and codec.document_digest(document) == one.digest:
                snapshot.put_finding(project, document, one)
            else:
                new.append(document)
        if new:
            save(FileRecords(copy.state), entry.project_id, new)
        for finding_id in sorted(known):
            self.said.append(f"{folder / tree.FINDINGS}: finding {finding_id} is lost")

    def _read_newest(self, path: Path) -> bytes:
        """Return a file's content, in preference one that has not got its name yet."""
        pending = sorted(path.parent.glob(f".{path.name}.*.new"))
        for candidate in pending:
            data = read(candidate)
            if data and data.endswith(b"\n"):
                return data
        return read(path) or b""

    def _read_lines(self, path: Path, get: Callable[[dict[str, Any]], Any]) -> Iterator[Any]:
        seen = set()
        for number, line in enumerate(self._read_newest(path).split(b"\n"), 1):
            if line and line not in seen:
                seen.add(line)
                try:
                    yield get(journal.unpack_line(line)[0])
                except (*records.MALFORMED, RecursionError) as error:
                    self.said.append(f"{path}, line {number}: is lost: {error}")

    def _read_findings(self, path: Path, project_id: str) -> Iterator[FindingDocument]:
        data = self._read_newest(path)
        try:
            yield from edits.read_layout(path, data, project_id)[1]
            return
        except SchemaVersionError:
            raise
        except StorageError:
            pass  # what is intact in it follows
        seen = set()
        for text, line in _find_objects(data.decode(errors="replace")):
            try:
                given = json.loads(text)
                version = given.get("finding_schema_version", SCHEMA_VERSION)
                document = validate_finding(current_document({**given, "finding_schema_version": version}))
                if document["project_id"] != project_id or document["id"] in seen:
                    raise ValueError("it is of another project, or there twice")
            except (StorageError, ValueError, RecursionError) as error:
                self.said.append(f"{path}, line {line}: a finding is lost: {error}")
                continue
            seen.add(document["id"])
            yield document

    # -- journal -------------------------------------------------------------------------------------------

    def _redo_journal(self, copy: Copy) -> None:
        """Do again every record that is whole, as far as it fits."""
        path = self.root / tree.JOURNAL
        data = read(path) or b""
        version = SCHEMA_VERSION
        done = set()
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                record, checksum = journal.unpack_line(line)
            except (ValueError, RecursionError):
                if line:
                    self.said.append(f"{path}, line {number}: is lost")
                continue
            if "generation" in record:
                self.generation, version = (
                    max(self.generation, record["generation"]),
                    record["finding_schema_version"],
                )
                if record["generation"] < copy.manifest.generation:
                    return
            elif checksum not in done:
                done.add(checksum)
                self._redo_record(copy, path, number, record, version)

    def _redo_record(self, copy: Copy, path: Path, number: int, record: dict[str, Any], version: str) -> None:
        for row in record["operations"]:
            try:
                operation = codec.decode_operation(row, version)
                redo_operations(copy.state, fit_operation(copy.state, operation))
            except (*records.MALFORMED, StorageError) as error:
                self.said.append(f"{path}, line {number}: {row[0]} does not fit: {error!r}")


def _project_of(folder: Path) -> str | None:
    """Return the project of a folder, as its files say, or its name."""
    data = (read(folder / tree.FINDINGS) or b"").decode(errors="replace")
    for text, _ in _find_objects(data):
        try:
            return str(json.loads(text)["project_id"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return folder.name if tree.folder_name(folder.name) == folder.name else None


def _find_objects(text: str) -> Iterator[tuple[str, int]]:
    """Yield what looks like the findings of a layout that is no longer JSON as a whole, each with its line.

    ``findings.json`` is indented: a finding begins and ends with a brace behind four spaces.
    """
    lines = text.split("\n")
    begin = None
    for number, line in enumerate(lines):
        if line == "    {":
            if begin is not None:
                yield "\n".join(lines[begin:number]), begin + 1
            begin = number
        elif begin is not None and line.rstrip(",") == "    }":
            yield "\n".join([*lines[begin:number], "    }"]), begin + 1
            begin = None
    if begin is not None:
        yield "\n".join(lines[begin:]), begin + 1
