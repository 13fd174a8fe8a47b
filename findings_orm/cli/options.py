"""Options that several commands share, and what their values mean."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from findings_orm.cli.failures import UsageError

if TYPE_CHECKING:
    from findings_orm.limits import Limits
    from findings_orm.private import Access

Project = Annotated[
    str | None,
    typer.Option("--project", "-p", metavar="NAME", help="The project; not needed when there is only one."),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group", metavar="NAME", help="A group whose members may read and write the new file too."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask. Needed where no terminal can be asked.")]

Migrate = Annotated[
    bool,
    typer.Option(
        "--migrate",
        help="Make the tables of an empty database, or bring those of an older release up to date.",
    ),
]

MaxDocument = Annotated[
    str | None,
    typer.Option(
        "--max-document",
        metavar="SIZE",
        help="Refuse a document, result or rule that is larger, as 64MB (8MB). Limits of what is in it go with it.",
    ),
]
MaxReport = Annotated[
    str | None,
    typer.Option(
        "--max-report", metavar="SIZE", help="Refuse a file that is larger, unpacked, as 64GB (16GB)."
    ),
]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", metavar="NAME=N", help="Another limit, as max_expansion_ratio=1000. May be repeated."
    ),
]

_SIZE = re.compile(r"(\d{1,15})\s*([kmgt]?)i?b?", re.ASCII | re.IGNORECASE)
_AGE = re.compile(r"(\d{1,6})([dhw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    """Return `value` if it is one of `known`.

    Raises:
        UsageError: it is not; names the option, the value and the known ones.
    """
    if value not in known:
        raise UsageError(f"{option}: must be one of {', '.join(known)} (got {value!r})")
    return value


def _checked_report(ctx: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    return value if ctx.resilient_parsing else one_of(parameter.opts[0], value, ("text", "json"))


AsJson = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="text, or json for programs.",
        show_default=True,
        callback=_checked_report,
    ),
]
ReportForm = Annotated[
    str,
    typer.Option(
        "--report",
        metavar="FORMAT",
        help="How to report: text, or json for programs.",
        callback=_checked_report,
    ),
]
"""As `AsJson`, where ``--format`` is that of the files."""


def access_of(group: str | None) -> Access | None:
    """Return the access that ``--group`` asks for; None where it was not given.

    Raises:
        UsageError: there is no such group, or this process is no member of it.
    """
    from findings_orm.errors import StorageValidationError
    from findings_orm.private import Access

    try:
        return None if group is None else Access.of_group(group)
    except StorageValidationError as error:
        raise UsageError(f"--{error}") from error


def parse_time(option: str, value: str) -> str:
    """Return a date (its start, in UTC) or a time as a canonical time.

    Raises:
        UsageError: `value` is neither.
    """
    from findings_orm.finding import canonical_time

    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
            value = f"{value}T00:00:00Z"
        return canonical_time(value)
    except ValueError as error:
        raise UsageError(f"{option}: must be a date (2026-01-31), or {error} (got {value!r})") from error


def limits_of(
    document: str | None = None, report: str | None = None, others: list[str] | None = None
) -> Limits:
    """Return the limits that the options ask for; the defaults for those that were not given.

    Raises:
        UsageError: a size is none, or there is no such limit.
    """
    from findings_orm.limits import Limits

    names = tuple(Limits.__dataclass_fields__)
    given: dict[str, int] = {}
    for text in others or ():
        name, _, value = text.partition("=")
        one_of("--limit", name, names)
        if not re.fullmatch(r"0*[1-9]\d{0,17}", value, re.ASCII):
            raise UsageError(f"--limit: must be NAME=N with an integer of at least 1 (got {text!r})")
        given[name] = int(value)
    return Limits.of_sizes(
        document=parse_size("--max-document", document), report=parse_size("--max-report", report), **given
    )


def parse_size(option: str, value: str | None) -> int | None:
    """Return a size (``64MB``, ``1GB``, ``4096``) in bytes; units are those of 1,024.

    Raises:
        UsageError: `value` is no size, or 0.
    """
    if value is None:
        return None
    match = _SIZE.fullmatch(value.strip())
    found = int(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " ") if match else 0
    if not found:
        raise UsageError(f"{option}: must be a size, as 512KB, 64MB or 2GB (got {value!r})")
    return found


def parse_age(option: str, value: str) -> str:
    """Return the time that lies an age (``90d``, ``12w``, ``36h``) before now.

    Raises:
        UsageError: `value` is no age.
    """
    from findings_orm.finding import format_time

    match = _AGE.fullmatch(value)
    try:
        if match is None:
            raise ValueError("no age")
        return format_time(datetime.now(UTC) - int(match[1]) * _UNITS[match[2]])
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{option}: must be a number with d, w or h, as 90d (days), 12w (weeks), 36h (hours) (got {value!r})"
        ) from error


def split(values: list[str] | None) -> tuple[str, ...]:
    """Return the values of an option that may be repeated or hold several, separated by commas."""
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())
