"""What can go wrong, in words: each error as a message, what to do about it, and an exit code."""

from __future__ import annotations

from enum import IntEnum

from findings_orm.errors import (
    FindingNotFoundError,
    SchemaVersionError,
    StorageConflictError,
    StorageError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
)

NOTHING_WRITTEN = "interrupted, nothing was written"


class ExitCode(IntEnum):
    """What the exit code of `findings` says to a script."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    VERSION = 4
    NOT_FOUND = 5
    CONFLICT = 6
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_CODES = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "data was refused, or the operation failed",
    ExitCode.USAGE: "wrong usage: options, arguments, input files",
    ExitCode.UNAVAILABLE: "storage unavailable: missing, locked, unreachable, full",
    ExitCode.VERSION: "schema version: run 'findings db upgrade', or update",
    ExitCode.NOT_FOUND: "no such finding, project or run",
    ExitCode.CONFLICT: "conflict: a concurrent change won, or an id is taken",
    ExitCode.HUNG_UP: "interrupted: the terminal went away (SIGHUP)",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
    ExitCode.TERMINATED: "interrupted (SIGTERM)",
}
"""The exit codes with their meanings, for ``--help``."""


class CommandError(Exception):
    """Ends a command with a message, a hint and an exit code."""

    def __init__(self, message: str, *, hint: str = "", code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


class UsageError(CommandError):
    """The command line is at fault."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=ExitCode.USAGE)


class NotFoundError(CommandError):
    """What the command is about does not exist."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=ExitCode.NOT_FOUND)


class InterruptError(CommandError):
    """Ctrl-C; the message says what was written all the same."""

    def __init__(self, message: str = NOTHING_WRITTEN) -> None:
        super().__init__(message, code=ExitCode.INTERRUPTED)


_CODES: tuple[tuple[type[StorageError], ExitCode], ...] = (
    (StorageValidationError, ExitCode.FAILED),
    (StorageIntegrityError, ExitCode.FAILED),
    (StorageUnavailableError, ExitCode.UNAVAILABLE),
    (SchemaVersionError, ExitCode.VERSION),
    (FindingNotFoundError, ExitCode.NOT_FOUND),
    (StorageConflictError, ExitCode.CONFLICT),
)


def explain_error(error: Exception) -> CommandError:
    """Return `error` as the message, hint and exit code that a user gets."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, StorageError):
        code = next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)
        return CommandError(str(error), hint=_error_hint(error), code=code)
    if isinstance(error, OSError):
        return CommandError(_os_message(error))
    if isinstance(error, MemoryError):
        return CommandError("out of memory")
    return CommandError(
        f"unexpected {type(error).__name__}: {error}",
        hint="This is a fault of findings-orm. Run again with --debug and report the traceback.",
    )


def _error_hint(error: StorageError) -> str:
    if isinstance(error, StorageUnavailableError) and error.retryable:
        return "Trying again later may succeed."
    if isinstance(error, StorageConflictError):
        return "Look at what is stored now, then try again."
    return ""


def _os_message(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {what}" if error.filename else what
