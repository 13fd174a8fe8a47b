"""A backup (or a chain of them) written into a store: verified first, then all of it or nothing."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

from findings_orm.arguments import checked
from findings_orm.backup.chains import Chain, Cursor, Rows, chain_of
from findings_orm.backup.encryption import Key
from findings_orm.backup.manifest import ProjectHead
from findings_orm.backup.merging import Conflict, Merger, Plan, Planner, values_of
from findings_orm.backup.progress import SILENT, Progress
from findings_orm.backup.sections import BATCH, SECTIONS, Decoder, load_values
from findings_orm.backup.verifying import verify_backup
from findings_orm.backup.writing import record_store
from findings_orm.clock import first_revision
from findings_orm.errors import FindingNotFoundError, StorageConflictError
from findings_orm.finding import SCHEMA_VERSION
from findings_orm.limits import DEFAULT, Limits
from findings_orm.port import FindingStore
from findings_orm.records import ProjectState, Records, RecordStore, batches

Mode = Literal["empty", "replace", "merge"]


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored (or would be).

    Attributes:
        projects: the projects.
        records: how many records of each section they have.
        migrated_from: the schema version of the backup, where it is an older one.
        conflicts: what was decided where the store had another version of a finding (``mode="merge"``).
        dry_run: nothing was written.
    """

    projects: list[str]
    records: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SECTIONS, 0))
    migrated_from: str | None = None
    conflicts: list[Conflict] = field(default_factory=list)
    dry_run: bool = False


@checked
def restore_backup(
    store: FindingStore,
    path: str | os.PathLike[str],
    *,
    mode: Mode = "empty",
    projects: Collection[str] | None = None,
    key: Key | None = None,
    dry_run: bool = False,
    progress: Progress = SILENT,
    limits: Limits = DEFAULT,
) -> RestoreReport:
    """Restore a backup into a store, in one transaction, after all of it was verified.

    Findings keep ids, identities, status and history, runs keep their numbers: the next import of a report that was
    imported before the backup finds everything unchanged. Documents of an older schema are migrated.

    Args:
        store: a store of this package.
        path: the backup; of an incremental one, those that it continues have to lie in the same folder.
        mode: ``"empty"`` wants a store without projects; ``"replace"`` takes the place of the projects of these names;
            ``"merge"`` unites them with those of the store: of each finding the version that changed last wins, also over a
            purge; runs are numbered anew by their times; histories are united. What differed is reported.
        projects: which ones; None means all of the backup.
        key: opens encrypted backups.
        dry_run: verify and count, and write nothing.
        progress: is told how far the work is.
        limits: how large a line and the whole text may be.

    Raises:
        StorageValidationError: something in the backup is beyond a limit; names it, and the option that raises it.
        StorageIntegrityError: the backup is damaged.
        StorageConflictError: the store has projects (``mode="empty"``), or a project changed while it was merged.
        FindingNotFoundError: the backup lacks a project that was named.
        SchemaVersionError: it is of a newer release.
    """
    chain = chain_of(pathlib.Path(path), key, limits)
    chain.check_links(
        [verify_backup(each, key=key, progress=progress, limits=limits).sha256 for each in chain.paths]
    )
    chosen = _chosen_projects(chain, projects)
    target = record_store(store)
    old = chain.newest.schema_version
    report = RestoreReport(chosen, migrated_from=old if old != SCHEMA_VERSION else None, dry_run=dry_run)
    if mode == "merge":
        _merge_projects(target, chain, report, progress)
        return report
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
        _load_rows(unit, chain.rows(chosen), report, Decoder(old), progress)
    return report


def _chosen_projects(chain: Chain, projects: Collection[str] | None) -> list[str]:
    there = chain.newest.projects
    missing = sorted(set(projects or ()) - set(there))
    if missing:
        raise FindingNotFoundError(f"{chain.paths[0]}: has no project {missing[0]!r}")
    return there if projects is None else sorted(set(projects))


def _check_target(unit: Records, mode: Mode) -> None:
    there = unit.projects() if mode == "empty" else []
    if there:
        raise StorageConflictError(
            f"the store holds {len(there)} projects ({there[0]!r}, ...); restore into an empty one (or --replace, --merge)"
        )


def _load_rows(
    unit: Records, rows: Iterator[Rows], report: RestoreReport, decoder: Decoder, progress: Progress
) -> None:
    made, revision = "", 0
    for project, section, lines in rows:
        if project.id != made:
            made, revision = project.id, _restored_revision(project, decoder)
            unit.put_project(project.id, ProjectState(revision, project.created_at))
        values = decoder.values(section, lines)
        if values:
            load_values(unit, project.id, revision, section, values)
        report.records[section] += len(lines)
        if section == "findings":
            progress.add(len(lines))


def _restored_revision(project: ProjectHead, decoder: Decoder) -> int:
    """Return the revision of a restored project: that of the backup, if the content is the same to the letter."""
    if project.revision is None or decoder.version != SCHEMA_VERSION:
        return first_revision()
    return project.revision


def _merge_projects(target: RecordStore, chain: Chain, report: RestoreReport, progress: Progress) -> None:
    """Plan the merge of every project from a snapshot of the store, then write all of them in one transaction."""
    decoder = Decoder(chain.newest.schema_version)
    with target.snapshot() as unit:
        progress.phase("comparing, ", chain.newest.findings)
        plans = _plan_merges(unit, chain, report, decoder)
        if report.dry_run:
            return
        progress.phase("merging, ", chain.newest.findings)
        cursor = Cursor(chain.rows(plans))
        with target.writing() as out:
            for project_id, plan in plans.items():
                if plan is None:
                    _load_project(out, cursor, project_id, report, decoder)
                else:
                    if out.move_to(project_id, plan.revision) != plan.revision:
                        raise StorageConflictError(
                            f"project {project_id!r} changed while it was merged; try again"
                        )
                    state = unit.project_state(project_id)
                    merger = Merger(unit, project_id, decoder, plan)
                    counts = merger.write_project(out, cursor, state.created_at if state else None)
                    for section, count in counts.items():
                        report.records[section] += count
            cursor.read_rest()


def _plan_merges(
    unit: Records, chain: Chain, report: RestoreReport, decoder: Decoder
) -> dict[str, Plan | None]:
    """Return the plans of the projects that differ, None for those that the store lacks."""
    plans: dict[str, Plan | None] = {}
    cursor = Cursor(chain.rows(report.projects))
    for project_id in report.projects:
        there = unit.revision(project_id)
        if there and there == cursor.project(project_id).revision:
            continue
        plan = Planner(unit, project_id, decoder).plan(cursor) if there else None
        plans[project_id] = plan
        report.conflicts.extend(plan.conflicts if plan else [])
    cursor.read_rest()
    return plans


def _load_project(
    out: Records, cursor: Cursor, project_id: str, report: RestoreReport, decoder: Decoder
) -> None:
    """Write a project that the store lacks."""
    head = cursor.project(project_id)
    revision = _restored_revision(head, decoder)
    out.put_project(project_id, ProjectState(revision, head.created_at))
    for section in SECTIONS:
        for values in batches(values_of(cursor, project_id, section, decoder), BATCH):
            load_values(out, project_id, revision, section, values)
            report.records[section] += len(values)
