"""Questions before something is removed."""

from __future__ import annotations

import sys

from findings_orm.cli.failures import CommandError, UsageError
from findings_orm.cli.output import safe_text


def confirm(what: str, *, yes: bool) -> None:
    """Ask on the terminal whether to go on; `yes` is the answer given beforehand.

    Raises:
        UsageError: there is no terminal to ask.
        CommandError: the answer is no.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{what}: not done without --yes, as there is no terminal to ask")
    import typer

    if not typer.confirm(f"{safe_text(what)}. Go on?", err=True):
        raise CommandError("nothing was removed")
