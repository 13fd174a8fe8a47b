"""`findings rejected`: documents that imports refused and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from findings_orm.cli.confirm import confirm
from findings_orm.cli.failures import CommandError, ExitCode, NotFoundError, UsageError
from findings_orm.cli.options import AsJson, Limit, MaxDocument, Project, Yes, limits_of
from findings_orm.cli.root import app, command, session_of
from findings_orm.errors import LimitExceededError, StorageValidationError

if TYPE_CHECKING:
    from findings_orm.jsonstream import JsonReader
    from findings_orm.limits import Limits
    from findings_orm.port import FindingStore, RejectedOriginal

rejected = typer.Typer(
    name="rejected",
    help="Correct, retry or discard what imports refused.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="""\b
Example, to correct and retry:
  findings rejected list --format json > rejected.json
  (edit "original" of the entries, remove the others)
  findings rejected retry --fixed rejected.json
""",
)
app.add_typer(rejected)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids as listed; else all.")]


@command(
    "list", "findings rejected list", "findings rejected list --format json > rejected.json", group=rejected
)
def list_(ctx: typer.Context, project: Project = None, form: AsJson = "text") -> None:
    """List the refused findings that were kept, with the reason; with --format json, whole.

    What JSON can't say is tagged there, as {"$tagged": {"title": {"$bytes": "eA=="}}}; see docs/store.md.
    """
    from findings_orm.cli.render import rejected_grid
    from findings_orm.imports.originals import tag_original

    session = session_of(ctx)
    with session.store() as store:
        kept = store.rejected_originals(session.project(store, project))
    tagged = [replace(one, original=tag_original(one.original)) for one in kept]
    session.out.answer_rows(form, tagged, rejected_grid, "nothing is kept")


@command("retry", "findings rejected retry", "findings rejected retry --fixed rejected.json", group=rejected)
def retry(
    ctx: typer.Context,
    ids: Ids = None,
    fixed: Annotated[
        Path | None,
        typer.Option(
            "--fixed",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Corrected ones: the JSON of 'rejected list', edited, or an object of id to document.",
        ),
    ] = None,
    project: Project = None,
    max_document: MaxDocument = None,
    limit: Limit = None,
) -> None:
    """Import kept findings again, as they are or corrected. What is accepted leaves the quarantine."""
    from findings_orm.cli.render import write_report

    if ids and fixed:
        raise UsageError("ids and --fixed exclude each other: the file names the ids")
    session = session_of(ctx)
    limits = limits_of(max_document, others=limit)
    given = _read_fixed(fixed, limits) if fixed else None
    with session.store(limits=limits) as store:
        project_id = session.project(store, project)
        kept = _kept_originals(store, project_id, ids or list(given or ()))
        if given is None and ids:
            given = {one.rejected_id: one.original for one in kept}
        report = store.retry_rejected(project_id, given)
    with session.out.report():
        write_report(session.out, "quarantine", project_id, report)
    if report.rejected:
        raise typer.Exit(ExitCode.FAILED)


@command("discard", "findings rejected discard --all --yes", group=rejected)
def discard(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids as listed.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Forget all of them.")] = False,
    project: Project = None,
    yes: Yes = False,
) -> None:
    """Forget kept findings for good."""
    if bool(ids) == everything:
        raise UsageError("name the ids to discard, or --all")
    session = session_of(ctx)
    with session.store() as store:
        project_id = session.project(store, project)
        kept = _kept_originals(store, project_id, ids or [])
        confirm(f"this forgets {len(kept)} refused findings of {project_id} for good", yes=yes)
        gone = store.discard_rejected(project_id, [one.rejected_id for one in kept])
    with session.out.report():
        session.out.line(f"discarded {gone}")


def _kept_originals(store: FindingStore, project_id: str, ids: list[str]) -> list[RejectedOriginal]:
    """Return the kept originals of these ids, all without ids.

    Raises:
        NotFoundError: one of them is not kept.
    """
    kept = {one.rejected_id: one for one in store.rejected_originals(project_id)}
    for rejected_id in ids:
        if rejected_id.lower() not in kept:
            raise NotFoundError(
                f"project {project_id!r} keeps no refused finding {rejected_id}",
                hint="'findings rejected list' shows the ids.",
            )
    return [kept[rejected_id.lower()] for rejected_id in ids] if ids else list(kept.values())


def _read_fixed(path: Path, limits: Limits) -> dict[str, Any]:
    """Read corrected documents by id, in either shape."""
    from findings_orm.jsonstream import JsonReader, open_json

    try:
        with open_json(path) as file:
            data = _read_fixed_json(JsonReader(file, limits=limits))
    except LimitExceededError:
        raise
    except StorageValidationError as error:
        raise CommandError(f"{error}; it is no JSON") from error
    if isinstance(data, list):
        data = {
            _checked_entry(path, n, entry)["rejected_id"]: entry["original"] for n, entry in enumerate(data)
        }
    if not isinstance(data, dict) or not data:
        raise CommandError(
            f"{path}: must be the JSON of 'findings rejected list', or an object of id to document"
        )
    return {
        str(rejected_id).lower(): _untag_fixed(path, rejected_id, form) for rejected_id, form in data.items()
    }


def _read_fixed_json(reader: JsonReader) -> object:
    """Return what is in a file, read part by part."""
    data: object
    if reader.peek() == "[":
        data = [reader.keep(reader.value()) for _ in reader.elements()]
    elif reader.peek() == "{":
        data = {name: reader.keep(reader.value()) for name in reader.members()}
    else:
        data = reader.value()
    reader.end()
    return data


def _untag_fixed(path: Path, rejected_id: str, form: object) -> object:
    from findings_orm.imports.originals import untag_original

    try:
        return untag_original(form)
    except StorageValidationError as error:
        raise CommandError(f"{path}: {rejected_id}: {error}", hint="Nothing was imported.") from error


def _checked_entry(path: Path, number: int, entry: object) -> Mapping[str, object]:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("rejected_id"), str)
        or "original" not in entry
    ):
        raise CommandError(f"{path}: entry {number} must be an object with rejected_id and original")
    return entry
