"""`findings migrate`: a file of findings from one schema version to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from findings_orm.cli.failures import UsageError
from findings_orm.cli.options import AsJson, Limit, MaxDocument, limits_of, one_of
from findings_orm.cli.progress import Tracker
from findings_orm.cli.root import command, session_of

if TYPE_CHECKING:
    from findings_orm.cli.output import Output
    from findings_orm.migrations import FileMigration


@command(
    "migrate",
    "findings migrate acme-api.findings.json --dry-run",
    "findings migrate acme-api.findings.json --output findings.json",
    "findings migrate findings.json --to 1.0.0",
)
def migrate(
    ctx: typer.Context,
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A store layout, or the bare array of findings of 0.3.0.")
    ],
    version: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="The schema version; else the newest.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write; else FILE is replaced, and kept beside as FILE.orig-VERSION.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the migration would do, and write nothing.")
    ] = False,
    max_document: MaxDocument = None,
    limit: Limit = None,
    form: AsJson = "text",
) -> None:
    """Bring a file of findings to another schema version, up or down, losing nothing.

    A database is migrated by 'findings db upgrade'; a folder of 0.3.0 files becomes a store by 'findings import-legacy'.
    """
    from findings_orm.finding import KNOWN_VERSIONS, SCHEMA_VERSION
    from findings_orm.migrations import SchemaMigrator

    target = one_of("--to", version or SCHEMA_VERSION, KNOWN_VERSIONS)
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    session = session_of(ctx)
    with Tracker(session.out, str(file)) as tracker:
        tracker.phase("")
        found = SchemaMigrator().migrate_file(
            file,
            target,
            output=output,
            dry_run=dry_run,
            progress=lambda _, __: tracker.add(1),
            limits=limits_of(max_document, others=limit),
        )
    with session.out.report():
        session.out.answer(form, found, lambda: _write_migration(session.out, found))


def _write_migration(out: Output, found: FileMigration) -> None:
    moved = f"{found.from_version} -> {found.to_version}, {found.documents:,} findings"
    out.line((str(found.path), "bold"), f": {moved}{' (dry run: nothing was written)' * found.dry_run}")
    for title, counts in (
        ("changed", found.changed),
        ("kept aside, in evidence or provenance", found.aside),
        ("missing, filled in by an import", found.missing),
    ):
        if counts:
            listed = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
            out.line(f"  {title}: {listed}")
    if found.copy is not None:
        out.line(f"  the old file is {found.copy}")
    if found.output is not None and found.output != found.path:
        out.line(f"  written to {found.output}")
    if found.output is None and not found.dry_run:
        out.line("  nothing to do")
