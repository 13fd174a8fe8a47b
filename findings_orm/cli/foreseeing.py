"""What `findings db upgrade` and `downgrade` would do, and its SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from findings_orm.cli.failures import UsageError

if TYPE_CHECKING:
    from findings_orm.cli.output import Output
    from findings_orm.cli.session import Session
    from findings_orm.migrations import MigrationPlan


def foresee(
    session: Session, direction: Literal["upgrade", "downgrade"], revision: str, form: str, *, sql: bool
) -> None:
    """Write the plan of a migration, or its SQL."""
    from findings_orm import migrations
    from findings_orm.cli.render import as_json

    session.require_file()
    if sql:
        if form != "text":
            raise UsageError("--format: --sql has no other format")
        with session.out.file() as stream:
            stream.write(migrations.script(session.url, revision, direction=direction))
        return
    found = migrations.plan(session.url, revision, direction=direction)
    if form == "json":
        session.out.json(as_json(found))
    else:
        _write(session.out, found)


def _write(out: Output, found: MigrationPlan) -> None:
    way = f"{found.current or 'base'} -> {found.target or 'base'}"
    out.line((f"{found.direction} {way}", "bold"), f"  {found.database}")
    if not found.steps:
        out.line("  nothing to do")
        return
    for step in found.steps:
        out.line(
            f"  {step.revision}  {step.work or 'changes the tables only'} (schema {step.schema_version or 'none'})"
        )
        if step.locks:
            out.line(f"         locks {', '.join(step.locks)}")
    free = f", {_megabytes(found.free)} are free" if found.free is not None else ""
    out.line(
        f"  rows     {sum(step.rows for step in found.steps):,} to write, of {found.findings:,} findings"
    )
    out.line(f"  space    {_megabytes(found.space)} meanwhile (findings have {_megabytes(found.size)}{free})")
    out.line(f"  time     about {found.seconds} s at most" if found.seconds else "  time     moments")
    out.line(f"  readers  {found.readers}")
    out.line(f"  writers  {found.writers}")
    out.line(f"  backup   {f'advised: {found.backup}' if found.backup else 'not needed'}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
