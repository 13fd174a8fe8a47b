"""From the working copy to files: folding the journal into a new snapshot, in steps of which each may be the last.

1. The new files are written under pending names and made durable.
2. ``store.json`` is replaced by one of the next generation: from here on the new snapshot is the valid one.
3. The pending files get their names, what is no longer needed is removed.
4. The journal is replaced by an empty one of the new generation.

Whoever finds a manifest that is one generation ahead of the journal does steps 3 and 4 again.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from findings_orm.finding import SCHEMA_VERSION
from findings_orm.private import remove_abandoned
from findings_orm.stores.files import journal, snapshot, tree
from findings_orm.stores.files.loading import Copy, read, stat_core, stat_findings
from findings_orm.stores.files.snapshot import Entry, Manifest
from findings_orm.stores.files.tree import Disk

_log = logging.getLogger(__name__)
_OURS = re.compile(
    r"(?:findings\.json|(?:identities|events|runs|rejected)\.jsonl)(?:\.orig-.*)?"
    r"|\.(?:findings\.json|[a-z]+\.jsonl)\.[0-9]+\.new"
)
_TEMPORARY = re.compile(r"\.(?:(?:store|findings)\.json(?:\.orig-.*)?|[a-z]+\.jsonl)\.(?:[0-9a-f]{16}\.)?tmp")
"""Temporary files, those of earlier releases too."""


def prepare_store(disk: Disk, root: Path, copy: Copy) -> None:
    """Make the store ready to be written to: finish what was cut short, and fold what was edited.

    Needs the lock of the store, and a working copy that is up to date.
    """
    if copy.unfinished:
        _log.warning("%s: completing generation %s, which was cut short", root, copy.manifest.generation)
        _finish_generation(disk, root, copy.manifest)
        _begin_journal(disk, root, copy)
    if copy.position is None:
        _begin_journal(disk, root, copy)
    if copy.edited or copy.position is None or copy.position.version != SCHEMA_VERSION:
        fold_journal(disk, root, copy)
    elif copy.position.torn:
        path, end = root / tree.JOURNAL, copy.position.end
        _log.warning("%s: cutting off an unfinished record of %s bytes", path, copy.position.torn)
        disk.truncate(path, end)
        disk.sync(path)
        _set_position(root, copy, journal.position_after_cut(copy.position))


def fold_journal(disk: Disk, root: Path, copy: Copy) -> None:
    """Write a new snapshot of the working copy and begin a new journal. Needs the lock of the store."""
    disk.access = tree.access_of(root, disk.access)
    copy.core = (None, None)  # a fold that does not come to its end leaves a working copy to be loaded anew
    old = copy.manifest
    generation = old.generation + 1
    entries: dict[str, Entry] = {}
    for project_id, project in sorted(copy.state.items()):
        folder = old.folder_of(project_id)
        before = old.projects.get(folder)
        if before is not None and project_id not in copy.dirty:
            entries[folder] = before
            continue
        files = snapshot.render(project_id, project)
        checksums = {name: snapshot.sha256(content) for name, content in files.items()}
        _write_pending(disk, root / folder, files, generation)
        entries[folder] = Entry(project_id, project.revision, checksums)
    for path, ending in copy.aside.items():
        _keep_original(disk, path, ending)
    removed = tuple(name for name in old.projects if name not in entries)
    folded = copy.position.last if copy.position is not None and not copy.edited else ""
    manifest = Manifest(generation, folded, entries, copy.adopted, removed)
    disk.replace(root / tree.MANIFEST, manifest.render())
    _finish_generation(disk, root, manifest)
    copy.manifest = manifest
    copy.files = stat_findings(root, manifest)
    copy.dirty, copy.edited, copy.aside, copy.adopted = set(), [], {}, {}
    copy.size = sum(stat[1] for stat in copy.files.values() if stat)
    _begin_journal(disk, root, copy)


def _write_pending(disk: Disk, folder: Path, files: dict[str, bytes], generation: int) -> None:
    if not folder.is_dir():
        disk.make_folder(folder)
        disk.sync_folder(folder.parent)
    for name, content in files.items():
        pending = folder / tree.pending_name(name, generation)
        disk.write(pending, content)
        disk.sync(pending)
    disk.sync_folder(folder)


def _keep_original(disk: Disk, path: Path, ending: str) -> None:
    """Copy an original that is about to be replaced, unless such a copy is there."""
    content = path.read_bytes()
    number = 1
    while True:
        counter = f".{number}" if number > 1 else ""
        aside = path.with_name(f"{path.name}{tree.ASIDE}{ending}{counter}")
        there = read(aside)
        if there is None:
            disk.replace(aside, content)
            _log.info("%s: the original is kept as %s", path, aside.name)
        if there is None or there == content:
            return
        number += 1


def _finish_generation(disk: Disk, root: Path, manifest: Manifest) -> None:
    """Give the files of a snapshot their names, and remove what it no longer has. May be done again."""
    for relative, checksum in manifest.adopted.items():
        path = root / relative
        content = read(path)
        if content is not None and snapshot.sha256(content) == checksum:
            disk.unlink(path)
    for name, entry in manifest.projects.items():
        _finish_folder(disk, root / name, entry, manifest.generation)
    for name in manifest.removed:
        _remove_folder(disk, root / name)
    for path in root.glob(".*.tmp"):
        _remove_temporary(path)
    disk.sync_folder(root)


def _finish_folder(disk: Disk, folder: Path, entry: Entry, generation: int) -> None:
    changed = False
    for name in (tree.FINDINGS, *tree.COMPANIONS):
        pending = folder / tree.pending_name(name, generation)
        content = read(pending)
        if content is not None and snapshot.sha256(content) == entry.files.get(name):
            disk.rename(pending, folder / name)
            changed = True
        elif name not in entry.files and (folder / name).exists():
            disk.unlink(folder / name)
            changed = True
    for path in folder.glob(".*"):
        if path.name.endswith(".new"):
            disk.unlink(path)
        else:
            _remove_temporary(path)
    if changed:
        disk.sync_folder(folder)


def _remove_temporary(path: Path) -> None:
    """Remove a temporary file that a killed process left."""
    if _TEMPORARY.fullmatch(path.name):
        remove_abandoned(path)


def _remove_folder(disk: Disk, folder: Path) -> None:
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if _OURS.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name):
                disk.unlink(path)
        disk.remove_folder(folder)


def _begin_journal(disk: Disk, root: Path, copy: Copy) -> None:
    """Replace the journal by an empty one that continues the snapshot."""
    disk.access = tree.access_of(root, disk.access)
    path, first = root / tree.JOURNAL, journal.header_line(copy.manifest.generation)
    disk.replace(path, first)
    _set_position(root, copy, journal.read_header(path, first))


def _set_position(root: Path, copy: Copy, position: journal.Position) -> None:
    core = stat_core(root)
    copy.position, copy.core = position, core
