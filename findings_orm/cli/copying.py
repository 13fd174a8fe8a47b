"""`findings copy`: a whole installation moved into another store."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from findings_orm.cli.backup_reports import as_json, counted
from findings_orm.cli.backups import Projects, library
from findings_orm.cli.confirm import confirm
from findings_orm.cli.failures import UsageError
from findings_orm.cli.options import AsJson, Migrate, Yes, split
from findings_orm.cli.output import Output
from findings_orm.cli.progress import Tracker
from findings_orm.cli.root import command, session_of
from findings_orm.cli.session import Session
from findings_orm.cli.stopping import SIGNALS
from findings_orm.secrecy import shown_url

if TYPE_CHECKING:
    from findings_orm.backup import CopyReport

_SIGNALS = (signal.SIGINT, *SIGNALS)


@command(
    "copy",
    "findings copy sqlite:///findings.db postgresql://user@host/findings --migrate",
    "findings copy sqlite:///findings.db postgresql://user@host/findings --follow",
)
def copy(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE-URL", help="The store to copy.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET-URL", help="Where to; its tables have to exist, or --migrate.")
    ],
    projects: Projects = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write over projects of the target that differ.")
    ] = False,
    migrate: Migrate = False,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Catch up with what changes, until Ctrl-C or SIGTERM; then a last time, and end."
        ),
    ] = False,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", help="How often to catch up.")] = 5.0,
    yes: Yes = False,
    form: AsJson = "text",
) -> None:
    """Copy all projects into another store of any kind, and compare both sides.

    Each project is written in one transaction and compared by the digests of all its records before it is committed. Run it
    again to go on where a copy was cut short.

    To switch over with little downtime: copy with --follow, wait until it is in step, stop what writes to the source, press
    Ctrl-C, and let the applications use the target when the command has ended.
    """
    backup = library()
    if source == target:
        raise UsageError("SOURCE-URL and TARGET-URL are the same")
    if replace:
        confirm(f"this replaces projects of {shown_url(target)} that differ", yes=yes)
    out = session_of(ctx).out
    quiet = session_of(ctx).quiet
    with (
        Session(source, quiet=quiet).store() as here,
        Session(target, quiet=quiet).store(create=True, migrate=migrate) as there,
        Tracker(out, "copy") as tracker,
    ):
        report = backup.copy_store(
            here,
            there,
            projects=split(projects) if projects else None,
            replace=replace,
            follow=_Following(out, every) if follow else None,
            progress=tracker,
        )
    if form == "json":
        out.json(as_json(report))
        return
    with out.report():
        _say(out, report, follow=follow)


class _Following:
    """Says how far a copy is, waits, and ends with the first Ctrl-C (or SIGTERM); a second one interrupts."""

    def __init__(self, out: Output, every: float) -> None:
        self._out = out
        self._every = every
        self._ending = threading.Event()
        self._before: dict[int, Any] = {}

    def __call__(self, report: CopyReport) -> bool:
        if not self._before:
            self._before = {number: signal.signal(number, self._end) for number in _SIGNALS}
        self._out.note(
            f"in step: pass {report.passes} took {report.last_pass_seconds:.1f} s; Ctrl-C makes a last one and ends"
        )
        return not self._ending.wait(self._every)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ending.set()
        for each, handler in self._before.items():
            signal.signal(each, handler)


def _say(out: Output, report: CopyReport, *, follow: bool) -> None:
    out.line(f"{len(report.states):,} projects are the same on both sides: {counted(report.records)}")
    removed = f", {len(report.removed):,} removed" if report.removed else ""
    out.line(
        f"{len(report.copied):,} copied, {len(report.same):,} were there{removed}, in {report.seconds:,.1f} s"
    )
    if follow:
        out.line(f"the last of {report.passes:,} passes took {report.last_pass_seconds:,.1f} s")
