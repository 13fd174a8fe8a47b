"""From files to the working copy: at opening, after an edit, and after other processes' writes."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from findings_orm import records
from findings_orm.errors import StorageError, StorageUnavailableError
from findings_orm.finding import SCHEMA_VERSION, FindingDocument
from findings_orm.stores.files import codec, edits, journal, snapshot, tree
from findings_orm.stores.files.edits import Edit
from findings_orm.stores.files.journal import Position, damage_error
from findings_orm.stores.files.snapshot import Entry, Manifest
from findings_orm.stores.files.tree import translate_os_errors
from findings_orm.stores.files.working_copy import fit_operation, redo_operations
from findings_orm.stores.memory import Project, State

Stat = tuple[int, int, int] | None
_ATTEMPTS = 60


@dataclass(slots=True)
class Copy:
    """The working copy of a store, and what it was made from.

    Attributes:
        manifest: generation 0 stands for a store that has none yet.
        state: the records.
        position: how far the journal was read; None when it belongs to the snapshot before (a fold was cut short).
        core: stat values of manifest and journal.
        files: stat values of each listed ``findings.json``.
        dirty: projects that differ from the snapshot.
        edited: what was taken over from edited files, in words; these are to be folded before anything is written.
        aside: originals to be copied before they are replaced, each with the ending of the copy's name.
        adopted: files of an older layout, to be removed once their content is in the snapshot.
        size: bytes of the snapshot.
    """

    manifest: Manifest
    state: State = field(default_factory=dict)
    position: Position | None = None
    core: tuple[Stat, Stat] = (None, None)
    files: dict[str, Stat] = field(default_factory=dict)
    dirty: set[str] = field(default_factory=set)
    edited: list[str] = field(default_factory=list)
    aside: dict[Path, str] = field(default_factory=dict)
    adopted: dict[str, str] = field(default_factory=dict)
    size: int = 0

    @property
    def unfinished(self) -> bool:
        """Whether the files of the snapshot still have to get their names."""
        return self.manifest.generation > 0 and self.position is None


def stat_of(path: Path) -> Stat:
    """Return what changes when a file does; None for a file that is not there."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def stat_core(root: Path) -> tuple[Stat, Stat]:
    """Return the stat values of manifest and journal."""
    return stat_of(root / tree.MANIFEST), stat_of(root / tree.JOURNAL)


def stat_findings(root: Path, manifest: Manifest) -> dict[str, Stat]:
    """Return the stat values of the files that people edit."""
    return {name: stat_of(root / name / tree.FINDINGS) for name in manifest.projects}


def read(path: Path) -> bytes | None:
    """Return the content of a file, None when there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def load_copy(root: Path) -> Copy:
    """Return the working copy of the store in a folder.

    It may be read while another process writes: what looks wrong is looked at again until the files stand still.

    Raises:
        StorageIntegrityError: a file is damaged, or an edit breaks a rule; names file and place.
        SchemaVersionError: a newer release wrote it.
        StorageUnavailableError: a file can't be read.
    """
    for attempt in range(_ATTEMPTS):
        before = stat_core(root)
        error: StorageError | None = None
        try:
            with translate_os_errors(root):
                copy = _Loader(root).load_copy()
            if not copy.edited:
                return copy
        except StorageError as failure:
            error = failure
        if stat_core(root) == before:
            if error is not None:
                raise error
            return copy
        time.sleep(0.002 * attempt)
    raise StorageUnavailableError(f"{root}: other processes never stopped writing", retryable=True)


class _Loader:
    """Loads once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.edits: dict[str, Edit] = {}

    def load_copy(self) -> Copy:
        core = stat_core(self.root)
        self.copy = copy = Copy(self._read_manifest(), core=core)
        records = self._read_journal()
        copy.files = stat_findings(self.root, copy.manifest)
        for folder, entry in copy.manifest.projects.items():
            copy.state[entry.project_id] = self._read_project(folder, entry)
        for operations in records:
            self._redo_record(operations)
        for project_id, edit in self.edits.items():
            if edits.apply_edit(copy.state, project_id, edit):
                copy.aside[edit.path] = "edited"
            self._note_edit(project_id, edit)
        self._adopt_unlisted()
        return copy

    def _note_edit(self, project_id: str, edit: Edit) -> None:
        self.copy.edited.append(str(edit))
        self.copy.dirty.add(project_id)

    def _read_manifest(self) -> Manifest:
        path = self.root / tree.MANIFEST
        data = read(path)
        return Manifest() if data is None else snapshot.read_manifest(path, data)

    def _read_journal(self) -> list[list[tuple[Any, ...]]]:
        """Read the journal and return its records' operations."""
        path, manifest = self.root / tree.JOURNAL, self.copy.manifest
        data = read(path)
        if data is None:
            if manifest.generation:
                raise damage_error(path, None, "it is missing")
            return []
        position = journal.read_header(path, data)
        if position.generation == manifest.generation - 1:
            return []
        if position.generation != manifest.generation:
            reason = f"it continues generation {position.generation}"
            raise damage_error(
                path, 1, f"{reason}, but {tree.MANIFEST} is of {manifest.generation or 'none'}"
            )
        found = []
        for after, rows in journal.read_records(path, data[position.end :], position):
            found.append(decode_operations(path, after, rows))
            position = after
        self.copy.position = position
        return found

    def _redo_record(self, operations: list[tuple[Any, ...]]) -> None:
        state, path = self.copy.state, self.root / tree.JOURNAL
        self.copy.dirty.update(operation[1] for operation in operations)
        try:
            for operation in operations:
                redo_operations(state, fit_operation(state, operation) if self.edits else [operation])
        except (*records.MALFORMED, StorageError) as error:
            raise damage_error(path, None, f"a record does not fit the snapshot: {error!r}") from error

    # -- one project ---------------------------------------------------------------------------------------

    def _read_snapshot_file(self, folder: Path, name: str, checksum: str) -> bytes:
        """Return the content of a file of the snapshot, also where it has not got its name yet."""
        manifest = self.copy.manifest
        if self.copy.unfinished:
            data = read(folder / tree.pending_name(name, manifest.generation))
            if data is not None and snapshot.sha256(data) == checksum:
                self.copy.size += len(data)
                return data
        data = read(folder / name)
        if data is None:
            raise damage_error(folder / name, None, "it is missing")
        self.copy.size += len(data)
        return data

    def _read_project(self, folder_name: str, entry: Entry) -> Project:
        folder = self.root / folder_name
        companions: dict[str, list[Any]] = {}
        for name in tree.COMPANIONS:
            if name not in entry.files:
                continue
            data = self._read_snapshot_file(folder, name, entry.files[name])
            companions[name] = snapshot.read_lines(folder / name, data, snapshot.READERS[name])
            if snapshot.sha256(data) != entry.files[name]:
                raise damage_error(folder / name, None, "lines are missing, doubled or out of order")
        known = {one.identity.finding_id: one for one in companions.get(tree.IDENTITIES, ())}
        project = snapshot.empty_project(entry.revision, companions)
        path, checksum = folder / tree.FINDINGS, entry.files[tree.FINDINGS]
        data = self._read_snapshot_file(folder, tree.FINDINGS, checksum)
        if snapshot.sha256(data) == checksum:
            for document in self._read_written(path, data, entry.project_id):
                snapshot.put_finding(project, document, known[document["id"]])
        else:
            edit = self._read_edited(path, data, entry.project_id, project, known)
            if edit:
                self.edits[entry.project_id] = edit
        return project

    def _read_written(self, path: Path, data: bytes, project_id: str) -> list[FindingDocument]:
        """Return the findings of a file that is as this package wrote it."""
        layout = json.loads(data)
        version = layout["finding_schema_version"]
        if version != SCHEMA_VERSION:
            self.copy.aside[path] = version
            self.copy.edited.append(f"{path}: is of schema {version}")
            self.copy.dirty.add(project_id)
        return [codec.full_document(short, version) for short in layout["findings"]]

    def _read_edited(
        self, path: Path, data: bytes, project_id: str, project: Project, known: dict[str, snapshot.Known]
    ) -> Edit:
        """Return what differs, and put what is known into the project: changed findings too, with their old status."""
        version, documents = edits.read_layout(path, data, project_id)
        edit = Edit(path)
        if version != SCHEMA_VERSION:
            self.copy.aside[path] = version
        for document in documents:
            one = known.pop(document["id"], None)
            if one is None:
                edit.added.append(document)
                continue
            if codec.document_digest(document) != one.digest:
                shown: FindingDocument = {**document, "status": one.status}
                edit.changed[document["id"]] = (document, shown)
                document = shown  # noqa: PLW2901  # this is what the working copy gets
            snapshot.put_finding(project, document, one)
        edit.removed = sorted(known)
        return edit

    # -- older layouts -------------------------------------------------------------------------------------

    def _adopt_unlisted(self) -> None:
        """Take in every ``findings.json`` that no manifest knows: an older layout, or one that was copied here."""
        manifest = self.copy.manifest
        for path in sorted([self.root / tree.FINDINGS, *self._unlisted_paths()]):
            data = read(path)
            if data is None:
                continue
            relative = path.relative_to(self.root).as_posix()
            checksum = snapshot.sha256(data)
            if self.copy.unfinished and manifest.adopted.get(relative) == checksum:
                continue
            version, documents = edits.read_layout(path, data)
            by_project: dict[str, list[FindingDocument]] = {}
            for document in documents:
                by_project.setdefault(document["project_id"], []).append(document)
            for project_id, added in sorted(by_project.items()):
                present = self.copy.state.get(project_id, Project()).findings
                news = [one for one in added if one["id"] not in present]
                edits.apply_edit(self.copy.state, project_id, Edit(path, news))
                self.copy.dirty.add(project_id)
            self.copy.edited.append(f"{path}: is taken in, {len(documents)} findings of schema {version}")
            self.copy.aside[path] = version
            self.copy.adopted[relative] = checksum

    def _unlisted_paths(self) -> list[Path]:
        manifest = self.copy.manifest
        found = []
        with suppress(FileNotFoundError), os.scandir(self.root) as entries:
            for entry in entries:
                skipped = entry.name in manifest.projects or (
                    self.copy.unfinished and entry.name in manifest.removed
                )
                if not skipped and not entry.name.startswith((".", tree.DAMAGED)) and entry.is_dir():
                    found.append(self.root / entry.name / tree.FINDINGS)
        return found


def decode_operations(path: Path, after: Position, rows: list[Any]) -> list[tuple[Any, ...]]:
    """Return the operations of a record."""
    try:
        return [codec.decode_operation(row, after.version) for row in rows]
    except (*records.MALFORMED, StorageError) as error:
        raise damage_error(path, after.lines, f"has another shape: {error!r}") from error


def catch_up(root: Path, copy: Copy) -> bool:
    """Bring the working copy up to date with what others wrote, if it has everything that they folded.

    Returns:
        False where the store has to be loaded anew.
    """
    core = stat_core(root)
    if copy.position is None or core[1] is None or copy.core[1] is None:
        return False
    if core[0] != copy.core[0]:
        goes_on = _adopt_newer_snapshot(root, copy, core)
    else:
        same_file = core[1][0] == copy.core[1][0] and core[1][1] >= copy.position.end
        goes_on = same_file and _is_as_written(root, copy, copy.manifest)
        if goes_on and core == copy.core:
            return True
    if not goes_on:
        return False
    copy.core = (None, None)  # until all of it is done: half of it is loaded anew
    if not _replay_appended(root / tree.JOURNAL, copy, copy.position):
        return False
    copy.core = core
    return True


def _replay_appended(path: Path, copy: Copy, position: Position) -> bool:
    """Do what others appended to the journal."""
    with path.open("rb") as file:
        file.seek(position.end)
        data = file.read()
    try:
        for after, rows in journal.read_records(path, data, position):
            operations = decode_operations(path, after, rows)
            copy.dirty.update(operation[1] for operation in operations)
            redo_operations(copy.state, operations)
            copy.position = after
    except (*records.MALFORMED, StorageError):
        return False
    return True


def _adopt_newer_snapshot(root: Path, copy: Copy, core: tuple[Stat, Stat]) -> bool:
    """Take over a newer snapshot of which the working copy has everything; False when it has not."""
    data, lines = read(root / tree.MANIFEST), read(root / tree.JOURNAL)
    if data is None or lines is None or copy.edited or copy.position is None:
        return False
    manifest = snapshot.read_manifest(root / tree.MANIFEST, data)
    position = journal.read_header(root / tree.JOURNAL, lines)
    same = manifest.generation == copy.manifest.generation + 1 and manifest.folded == copy.position.last
    if not same or position.generation != manifest.generation or core != stat_core(root):
        return False
    if not _is_as_written(root, copy, manifest):
        return False
    copy.manifest, copy.position, copy.dirty = manifest, position, set()
    return True


def _is_as_written(root: Path, copy: Copy, manifest: Manifest) -> bool:
    """Return whether each ``findings.json`` is as the manifest says, or as it was when it was last looked at."""
    found = stat_findings(root, manifest)
    for name, stat in found.items():
        if stat != copy.files.get(name):
            data = read(root / name / tree.FINDINGS)
            if data is None or snapshot.sha256(data) != manifest.projects[name].files[tree.FINDINGS]:
                return False
    copy.files = found
    return True
