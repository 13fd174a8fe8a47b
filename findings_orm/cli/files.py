"""`findings file`: a store in JSON files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, unquote, urlsplit

import typer

from findings_orm.cli.failures import CommandError, UsageError
from findings_orm.cli.root import app, command, session_of
from findings_orm.secrecy import shown_url

files = typer.Typer(
    name="file",
    help="Check and repair a store in JSON files.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExample:\n  findings --url file:///srv/findings file check\n",
)
app.add_typer(files)

Folder = Annotated[
    Path | None,
    typer.Argument(metavar="FOLDER", help="The store's folder; the one that --url names, if left out."),
]


@command(
    "check", "findings file check ./findings", "findings --url file:///srv/findings file check", group=files
)
def check(ctx: typer.Context, folder: Folder = None) -> None:
    """Say what is wrong with the files of a store. The exit code is 1 when something is."""
    from findings_orm.stores.files.checking import check as check_folder

    session = session_of(ctx)
    path = _folder(session.url, folder)
    problems = check_folder(path)
    for problem in problems:
        session.out.line(problem)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise CommandError(f"{path} has {count}", hint="Save what is intact with 'findings file repair'.")
    session.out.line(f"{path} is as it should be")


@command(
    "repair",
    "findings file repair ./findings",
    "findings --url file:///srv/findings file repair",
    group=files,
)
def repair(ctx: typer.Context, folder: Folder = None) -> None:
    """Make a damaged store work again, with everything that is intact. The files as they were are kept beside it.

    On a file system without locks: --url 'file:///srv/findings?lock=soft'.
    """
    from findings_orm.stores.files import repair as repair_folder

    session = session_of(ctx)
    path = _folder(session.url, folder)
    lock = dict(parse_qsl(urlsplit(session.url).query)).get("lock", "hard")
    found = repair_folder(path, lock=lock)  # type: ignore[arg-type]  # it refuses other words
    with session.out.report():
        for line in found or [f"nothing to do: {path} is as it should be"]:
            session.out.line(line)


def _folder(url: str, given: Path | None) -> Path:
    if given is not None:
        return given
    parts = urlsplit(url)
    if parts.scheme.lower() != "file" or not parts.path:
        raise UsageError(
            f"{shown_url(url)} is no store in files", hint="Name its folder, or --url file:///FOLDER"
        )
    return Path(unquote(parts.path))
