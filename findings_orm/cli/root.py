"""The application `findings` itself: global options, errors and exit codes. Commands add themselves to `app`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from findings_orm.cli.failures import (
    EXIT_CODES,
    NOTHING_WRITTEN,
    CommandError,
    ExitCode,
    InterruptError,
    explain_error,
)
from findings_orm.cli.output import safe_lines, silence_stream
from findings_orm.cli.session import DEFAULT_URL, URL_VARIABLE, Session
from findings_orm.cli.stopping import exit_code_of
from findings_orm.errors import StorageUnavailableError
from findings_orm.secrecy import hide_secrets

_BadUsage: type[Exception] = typer.BadParameter.__mro__[2]
"""The base of typer's own errors; it has no public name."""

_FLAGS = ("--quiet", "-q", "--debug")
_CODE_LINES = "\n".join(f"  {int(code):>3}  {meaning}" for code, meaning in EXIT_CODES.items())


class Findings(TyperGroup):
    """The group of all commands: global options may stand anywhere, errors become messages and exit codes."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,  # its place in the signature of the base
        **extra: Any,
    ) -> Any:
        """Run a command and exit with its code (return it where `standalone_mode` is off)."""
        given = global_options_first(sys.argv[1:] if args is None else args)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")

        def run() -> int:
            result = super(Findings, self).main(
                given, prog_name, complete_var, standalone_mode=False, **extra
            )
            return result if isinstance(result, int) else ExitCode.OK

        code = int(_run_guarded(run, debug="--debug" in given))
        if not standalone_mode:
            return code
        sys.exit(code)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Ctrl-C and a reader that went away are told apart here from typer's own exits."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise InterruptError from error
        except (BrokenPipeError, StorageUnavailableError) as error:
            if not isinstance(error, BrokenPipeError) and not isinstance(error.__cause__, BrokenPipeError):
                raise
            silence_stream(sys.stdout)
            return ExitCode.OK


def _run_guarded(run: Callable[[], int], *, debug: bool) -> int:
    """Return the exit code of `run`; say on standard error what went wrong."""
    try:
        code = run()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        silence_stream(sys.stdout)
        return ExitCode.OK
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            silence_stream(sys.stdout)
            return ExitCode.OK
        raise
    except (KeyboardInterrupt, typer.Abort) as error:
        _report_failure(InterruptError(), debug=debug)
        return exit_code_of(error, ExitCode.INTERRUPTED)
    except _BadUsage as error:
        error.message = hide_secrets(error.message)  # type: ignore[attr-defined]
        error.show()  # type: ignore[attr-defined]
        return ExitCode.USAGE
    except Exception as error:  # noqa: BLE001  # a message for every error; --debug shows the traceback
        if isinstance(error, OSError):
            silence_stream(sys.stdout)
        failure = explain_error(error)
        _report_failure(failure, debug=debug)
        return exit_code_of(failure, failure.code) if isinstance(failure, InterruptError) else failure.code


def _report_failure(failure: CommandError, *, debug: bool) -> None:
    try:
        if debug:
            sys.stderr.write(hide_secrets(traceback.format_exc()))
        first, *others = safe_lines(hide_secrets(str(failure)))
        prefix = "" if isinstance(failure, InterruptError) else "error: "
        hint = safe_lines(hide_secrets(failure.hint)) if failure.hint else []
        text = "".join([f"{prefix}{first}\n", *(f"  {line}\n" for line in [*others, *hint])])
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        silence_stream(sys.stderr)


def global_options_first(args: Sequence[str]) -> list[str]:
    """Return the arguments with the global options in front, wherever they stood before a ``--``."""
    end = args.index("--") if "--" in args else len(args)
    first: list[str] = []
    rest: list[str] = []
    words = iter(args[:end])
    for word in words:
        if word == "--url":
            value = next(words, None)
            if value is None:
                return [word]  # an error that typer says better than anything that can be done here
            first += [word, value]
        elif word in _FLAGS or word.startswith("--url="):
            first.append(word)
        else:
            rest.append(word)
    return [*first, *rest, *args[end:]]


app = typer.Typer(
    name="findings",
    cls=Findings,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    from findings_orm.finding import SCHEMA_VERSION

    try:
        release = version("findings-orm")
    except PackageNotFoundError:
        release = "(not installed)"
    typer.echo(f"findings-orm {release} (finding schema {SCHEMA_VERSION})")
    raise typer.Exit


@app.callback(
    epilog=f"""\b
Examples:
  findings import scan.sarif --project acme-api
  findings summary --project acme-api
  findings --url postgresql+psycopg://user@host/db list --min-severity high

\b
Exit codes:
{_CODE_LINES}
"""
)
def _make_session(
    ctx: typer.Context,
    url: Annotated[
        str, typer.Option("--url", envvar=URL_VARIABLE, metavar="URL", help="The storage.", show_envvar=True)
    ] = DEFAULT_URL,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing about the progress of the work.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001
    version: Annotated[  # noqa: ARG001  # its callback does the work, and `Findings.main` that of --debug
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Keep the findings of security scanners in a database.

    The options below hold for every command and may stand before or after it.
    """
    ctx.obj = Session(url, quiet=quiet)


Command = TypeVar("Command", bound=Callable[..., None])


def command(name: str, *examples: str, group: typer.Typer = app) -> Callable[[Command], Command]:
    """Return a decorator that makes a function the command `name`, its help ending with examples."""
    lines = "\n".join(f"  {example}" for example in examples)
    return group.command(name, epilog=f"\b\nExample{'s' if len(examples) > 1 else ''}:\n{lines}\n")


def session_of(ctx: typer.Context) -> Session:
    """Return the session of the running command."""
    session: Session = ctx.obj
    return session


__all__ = ["NOTHING_WRITTEN", "app", "command", "global_options_first", "session_of"]
