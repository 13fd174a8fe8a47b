"""A backup (or a chain of them) written into a store: verified first, then all of it or nothing."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

from findings_orm.backup.chains import Chain, Rows, chain_of
from findings_orm.backup.encryption import Key
from findings_orm.backup.lines import unpack
from findings_orm.backup.manifest import ProjectHead
from findings_orm.backup.progress import SILENT, Progress
from findings_orm.backup.sections import SECTIONS, Decoder, load
from findings_orm.backup.verifying import verify_backup
from findings_orm.backup.writing import records_of
from findings_orm.errors import FindingNotFoundError, StorageConflictError
from findings_orm.finding import SCHEMA_VERSION
from findings_orm.ids import first_revision
from findings_orm.port import FindingStore
from findings_orm.records import ProjectState, Records

Mode = Literal["empty", "replace"]


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored (or would be).

    Attributes:
        projects: the projects.
        records: how many records of each section they have.
        migrated_from: the schema version of the backup, where it is an older one.
        dry_run: nothing was written.
    """

    projects: list[str]
    records: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SECTIONS, 0))
    migrated_from: str | None = None
    dry_run: bool = False


def restore_backup(
    store: FindingStore,
    path: str | os.PathLike[str],
    *,
    mode: Mode = "empty",
    projects: Collection[str] | None = None,
    key: Key | None = None,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> RestoreReport:
    """Restore a backup into a store, in one transaction, after all of it was verified.

    Findings keep ids, identities, status and history, runs keep their numbers: the next import of a report that was
    imported before the backup finds everything unchanged. Documents of an older schema are migrated.

    Args:
        store: a store of this package.
        path: the backup; of an incremental one, those that it continues have to lie in the same folder.
        mode: ``"empty"`` wants a store without projects; ``"replace"`` takes the place of the projects of these names.
        projects: which ones; None means all of the backup.
        key: opens encrypted backups.
        dry_run: verify and count, and write nothing.
        progress: is told how far the work is.

    Raises:
        StorageIntegrityError: the backup is damaged.
        StorageConflictError: the store has projects (``mode="empty"``).
        FindingNotFoundError: the backup lacks a project that was named.
        SchemaVersionError: it is of a newer release.
    """
    chain = chain_of(pathlib.Path(path), key)
    chain.check_links([verify_backup(each, key=key, progress=progress).sha256 for each in chain.paths])
    chosen = _chosen(chain, projects)
    target = records_of(store)
    old = chain.newest.schema_version
    report = RestoreReport(chosen, migrated_from=old if old != SCHEMA_VERSION else None, dry_run=dry_run)
    with target.snapshot() as unit:
        _check_target(unit, mode)
    progress.phase("restoring, ", chain.newest.findings)
    if dry_run:
        for rows in chain.rows(chosen):
            report.records[rows.section] += len(rows.lines)
        return report
    with target.writing() as unit:
        _check_target(unit, mode)
        if mode == "replace":
            for project_id in chosen:
                unit.delete_project(project_id)
        _load_all(unit, chain.rows(chosen), report, Decoder(old), progress)
    return report


def _chosen(chain: Chain, projects: Collection[str] | None) -> list[str]:
    there = chain.newest.projects
    missing = sorted(set(projects or ()) - set(there))
    if missing:
        raise FindingNotFoundError(f"{chain.paths[0]}: has no project {missing[0]!r}")
    return there if projects is None else sorted(set(projects))


def _check_target(unit: Records, mode: Mode) -> None:
    there = unit.projects() if mode == "empty" else []
    if there:
        raise StorageConflictError(
            f"the store holds {len(there)} projects ({there[0]!r}, ...); restore into an empty one, or replace or merge"
        )


def _load_all(
    unit: Records, rows: Iterator[Rows], report: RestoreReport, decoder: Decoder, progress: Progress
) -> None:
    made, revision = "", 0
    for project, section, lines in rows:
        if project.id != made:
            made, revision = project.id, _revision(project, decoder)
            unit.put_project(project.id, ProjectState(revision, project.created_at))
        values = decoder.values(section, [unpack(line) for line in lines])
        if values:
            load(unit, project.id, revision, section, values)
        report.records[section] += len(lines)
        if section == "findings":
            progress.add(len(lines))


def _revision(project: ProjectHead, decoder: Decoder) -> int:
    """Return the revision of a restored project: that of the backup, if the content is the same to the letter."""
    if project.revision is None or decoder.version != SCHEMA_VERSION:
        return first_revision()
    return project.revision
