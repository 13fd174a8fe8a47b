"""`findings export`: all findings of a project as a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from findings_orm.cli.failures import CommandError, UsageError
from findings_orm.cli.options import Group, Project, access_of, one_of
from findings_orm.cli.progress import Tracker
from findings_orm.cli.root import command, session_of
from findings_orm.errors import StorageUnavailableError
from findings_orm.private import replacing

if TYPE_CHECKING:
    from findings_orm.finding import FindingDocument
    from findings_orm.port import FindingStore
    from findings_orm.private import Access


@command(
    "export",
    "findings export --project acme-api --output acme.sarif",
    "findings export --project acme-api --format csv > acme.csv",
    "findings export --project acme-api --output for-excel.csv --bom",
    "findings export --project acme-api --schema-version 1.0.0 --output old.json",
)
def export(
    ctx: typer.Context,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="One of 'findings formats'; else by the ending of FILE, else jsonl.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to; replaced only once all is written."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--schema-version",
            metavar="VERSION",
            help="The version of the finding schema, for old readers of jsonl and json; else the newest.",
        ),
    ] = None,
    bom: Annotated[
        bool,
        typer.Option(
            "--bom", help="Begin a table with the byte order mark, which Excel needs to read UTF-8."
        ),
    ] = False,
    group: Group = None,
    project: Project = None,
) -> None:
    """Write all findings of a project to a file.

    Without --output, to standard output. A new file is for you alone, unless you name a group.
    """
    from findings_orm.finding import SCHEMA_VERSION
    from findings_orm.formats import EXPORT_FORMATS, export_format_of, write_report
    from findings_orm.query import FindingQuery

    chosen = one_of("--format", form, EXPORT_FORMATS) if form is not None else export_format_of(output)
    schema_version = _checked_version(version, chosen)
    if bom and chosen != "csv":
        raise UsageError(f"--bom: readers of {chosen} stumble over the mark", hint="Use --format csv.")
    if output is not None:
        _check_target(output)
    access = access_of(group)
    session = session_of(ctx)
    with session.store() as store:
        project_id = session.project(store, project)
        total = store.count(FindingQuery(project_id=project_id))
        ready = chosen == "jsonl" and schema_version == SCHEMA_VERSION
        with (
            closing_findings(
                (store.iter_findings_json if ready else store.iter_findings)(project_id)
            ) as documents,
            Tracker(session.out, f"export {project_id}") as tracker,
            open_replacement(output, access) if output is not None else session.out.file() as stream,
        ):
            if bom:
                stream.write("\ufeff")
            given = documents if chosen != "sarif" else _justify_decisions(store, project_id, documents)
            written = write_report(
                tracker.track_items(given, total), stream, chosen, schema_version=schema_version
            )
    if output is not None:
        session.out.note(f"wrote {written:,} findings of {project_id} to {output} ({chosen})")


def _justify_decisions(
    store: FindingStore, project_id: str, documents: Iterator[FindingDocument]
) -> Iterator[FindingDocument]:
    """Give findings that somebody decided about the comment of the decision, a justification in SARIF."""
    from findings_orm.formats.sarif_export import SUPPRESSED
    from findings_orm.imports.matching import ACTOR

    for document in documents:
        if document["status"] in SUPPRESSED:
            events = [one for one in store.history(project_id, document["id"]) if one.kind == "status"]
            if events and events[-1].actor != ACTOR:
                document["evidence"] = {**document["evidence"], "status_comment": events[-1].comment}
        yield document


def _checked_version(version: str | None, form: str) -> str:
    from findings_orm.finding import KNOWN_VERSIONS, SCHEMA_VERSION
    from findings_orm.formats import VERSIONED_FORMATS

    chosen = one_of("--schema-version", version or SCHEMA_VERSION, KNOWN_VERSIONS)
    if chosen != SCHEMA_VERSION and form not in VERSIONED_FORMATS:
        raise UsageError(
            f"--schema-version: {form} has a schema of its own, which is the same for every version",
            hint=f"Use --format {' or '.join(VERSIONED_FORMATS)}.",
        )
    return chosen


@contextmanager
def closing_findings(items: Iterator[object]) -> Iterator[Iterator[Any]]:
    """Close a stream of findings, and with it its connection, when the block ends."""
    try:
        yield items
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def _check_target(path: Path) -> None:
    """Refuse a target that can't be written before the work is done."""
    if path.is_dir():
        raise UsageError(f"--output: {path} is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"--output: the folder {path.parent} does not exist")


@contextmanager
def open_replacement(path: Path, access: Access | None) -> Iterator[TextIO]:
    """Open a new file that takes the place of `path` when the block ends well, and vanishes when it raises.

    A device or a pipe is written as it is.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8", newline="") as stream:
                yield stream
            return
        with replacing(path, access) as (_, file):
            stream = io.TextIOWrapper(file, encoding="utf-8", newline="")
            yield stream
            stream.detach()
    except (OSError, StorageUnavailableError) as error:
        failed = error if isinstance(error, OSError) else error.__cause__
        if isinstance(failed, OSError):
            raise CommandError(f"{path}: can't be written: {failed.strerror or failed}") from error
        raise
