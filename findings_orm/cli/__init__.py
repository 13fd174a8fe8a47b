"""The command line, ``findings``.

`main` is the console entry point. It needs the extra ``cli`` (typer, rich), which is loaded when a command runs and not
before: importing this package costs nothing.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from pathlib import Path

NEEDED = ("typer", "rich")
"""The libraries of the extra ``cli``."""


def main() -> None:
    """Run the command line and exit with its code (`findings_orm.cli.failures.ExitCode`)."""
    from findings_orm.cli.stopping import exit_code_of, repeat_dropped_signals, stop_on_signals

    _replace_closed_streams()
    stop_on_signals()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"error: the findings command needs {' and '.join(missing)}; run: pip install 'findings-orm[cli]'\n"
        )
        raise SystemExit(1)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # they are for developers, who run with -W
    try:
        from findings_orm.cli.app import app
    except KeyboardInterrupt as error:
        sys.stderr.write("interrupted, nothing was written\n")
        raise SystemExit(exit_code_of(error, 130)) from None
    with repeat_dropped_signals():
        app(prog_name="findings")


def _replace_closed_streams() -> None:
    """Give the standard streams that the caller closed (``>&-``) somewhere to go."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # stays open
