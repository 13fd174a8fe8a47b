"""What was backed up, restored, verified and saved, in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from findings_orm.cli.output import Output

if TYPE_CHECKING:
    from findings_orm.backup import BackupReport, RestoreReport, SalvageReport, VerifyReport


def as_json(report: Any) -> Any:
    """Return a report as plain JSON values."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(report)


def counted(records: dict[str, int]) -> str:
    """Return how many records of each section there are, in words."""
    return ", ".join(f"{count:,} {name}" for name, count in records.items())


def say_backup(out: Output, report: BackupReport) -> None:
    """Say what was backed up."""
    speed = report.text_bytes / 1e6 / report.seconds
    out.line(f"{report.path}: {report.projects:,} projects, {counted(report.records)}")
    out.line(
        f"{report.bytes / 1e6:,.1f} MB ({report.text_bytes / 1e6:,.1f} MB of text) in {report.seconds:,.1f} s, "
        f"{speed:,.0f} MB/s, {'verified' if report.verified else 'not verified: that takes the secret key, or --verify'}"
    )


def say_restored(out: Output, report: RestoreReport) -> None:
    """Say what was restored."""
    done = "would be restored" if report.dry_run else "restored"
    out.line(f"{len(report.projects):,} projects {done}: {counted(report.records)}")
    for one in report.conflicts:
        out.line(f"{one.project_id} {one.finding_id}: {one.reason}; kept that of the {one.kept}")
    if report.migrated_from:
        out.line(f"documents were brought here from schema {report.migrated_from}")


def say_salvaged(out: Output, report: SalvageReport) -> None:
    """Say what was saved."""
    for damage in report.damages:
        out.line(damage)
    for project_id, sections in report.lost.items():
        out.line(f"lost of {project_id}: {counted(sections)}")
    out.line(f"{report.path}: {counted(report.records)} saved")


def say_verified(out: Output, path: Path, report: VerifyReport) -> None:
    """Say what an intact backup holds."""
    manifest = report.manifest
    out.line(f"{path} is intact: {len(manifest.projects):,} projects, {counted(report.records)}")
    out.line(
        f"made {manifest.created_at} of a {manifest.source} store, schema {manifest.schema_version}, id {manifest.id}"
    )
