"""Where a command writes: results to standard output, everything about its work to standard error.

On a terminal tables have colours and fit its width; in a pipe they are plain text, and nothing but very long
cells is cut.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

# -- text of findings on its way to a terminal: it comes from scanned targets, so it is never trusted -----
# A terminal obeys control characters (colours, titles, cursor movement, replies typed for the user) and shows text
# with bidirectional marks in another order. `safe_text` makes all of them visible as escapes.


_HIDDEN = (
    "\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_UNSAFE = re.compile(f"[\x00-\x1f\x7f-\x9f{_HIDDEN}]")
_UNSAFE_IN_FILES = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{_HIDDEN}]|\r(?!\n)")
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def safe_text(text: object) -> str:
    """Return `text` as one line without any character that a terminal acts upon."""
    return _UNSAFE.sub(_escape_character, str(text))


def safe_lines(text: object) -> list[str]:
    """Return the lines of `text`, each one made safe, tabs as spaces."""
    return [safe_text(line) for line in str(text).expandtabs(4).replace("\r\n", "\n").split("\n")]


def shorten_text(text: str, width: int) -> str:
    """Return `text` cut to `width` characters, with an ellipsis where something is missing."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _escape_character(match: re.Match[str]) -> str:
    character = match.group()
    if character in _NAMED:
        return _NAMED[character]
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


class TerminalSafe:
    """A text stream for files shown on a terminal: what that would act upon is escaped, as JSON does it."""

    encoding = "utf-8"

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`, escaped."""
        self._stream.write(_UNSAFE_IN_FILES.sub(lambda match: json.dumps(match.group())[1:-1], text))
        return len(text)

    def flush(self) -> None:
        """Pass on what is buffered."""
        self._stream.flush()


# -- where a command writes: results to standard output, everything about its work to standard error ------
# On a terminal tables have colours and fit its width; in a pipe they are plain text, and nothing but very long
# cells is cut.


if TYPE_CHECKING:
    from rich.console import Console

Row = TypeVar("Row")

LONGEST_CELL = 120
GAP = 2

SEVERITY_STYLES = {
    "critical": "bold white on red",
    "high": "bold red",
    "medium": "yellow",
    "low": "cyan",
    "info": "dim",
}


def no_style(text: str) -> str:  # noqa: ARG001  # one style for any text
    """Return the plain style."""
    return ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a `Grid`.

    Attributes:
        title: its heading.
        least: to how many characters it may be cut; 0 where it must not be cut.
        drop: columns with a larger number are left out first when the terminal is too narrow; 0 is never left out.
        right: align to the right.
        style: rich style of a cell by its text.
    """

    title: str
    least: int = 0
    drop: int = 0
    right: bool = False
    style: Callable[[str], str] = no_style


@dataclass(frozen=True, slots=True)
class Grid:
    """A table as data: any text, made safe when it is rendered."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[object]]


class Output:
    """The streams of one command."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.terminal = sys.stdout.isatty()
        self.error_terminal = sys.stderr.isatty()

    @cached_property
    def console(self) -> Console:
        """The rich console of standard output; only used on a terminal."""
        from rich.console import Console

        return Console(highlight=False, markup=False, emoji=False)

    @property
    def width(self) -> int:
        """How many characters fit on a line."""
        return self.console.width if self.terminal else 100

    @property
    def bar_character(self) -> str:
        """The character that bars are made of."""
        return "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"

    def line(self, *parts: str | tuple[str, str]) -> None:
        """Write one line of text, or of (text, style) pairs, to standard output."""
        pairs = [
            (safe_text(part), "") if isinstance(part, str) else (safe_text(part[0]), part[1])
            for part in parts
        ]
        if not self.terminal:
            sys.stdout.write("".join(text for text, _ in pairs) + "\n")
            return
        from rich.text import Text

        self._print_styled(Text.assemble(*pairs), soft_wrap=True)

    def note(self, text: str, *, always: bool = False) -> None:
        """Say something about the work on standard error, unless it is to be quiet (or `always`).

        A reader of standard error that is gone must not stop the work: it is no failure of it.
        """
        if self.quiet and not always:
            return
        try:
            sys.stderr.write(f"{safe_text(text)}\n")
            sys.stderr.flush()
        except OSError:
            silence_stream(sys.stderr)

    def grid(self, grid: Grid) -> None:
        """Write a table to standard output."""
        if self.terminal:
            self._styled_grid(grid)
        else:
            sys.stdout.writelines(f"{line}\n" for line in plain_lines(grid))

    def answer(self, form: str, found: object, write_text: Callable[[], object]) -> None:
        """Write what a command found: as JSON where ``--format`` says so, else by `write_text`."""
        if form == "json":
            self.json(found)
        else:
            write_text()

    def answer_rows(
        self, form: str, rows: Sequence[Row], grid_of: Callable[[Sequence[Row]], Grid], nothing: str
    ) -> None:
        """Write a list: as JSON or as a table; for a person `nothing` says that it is empty."""
        self.answer(form, rows, lambda: self.grid(grid_of(rows)) if rows else self.note(nothing))

    def answer_lines(self, form: str, found: object, lines: Sequence[str], nothing: str) -> None:
        """Write a list: as JSON, or a line for each."""
        self.answer(form, found, lambda: [*map(self.line, lines)] if lines else self.note(nothing))

    def json(self, value: object) -> None:
        """Write `value`, plain values or data of the port, as indented JSON to standard output."""
        from pydantic_core import to_jsonable_python

        with self.file() as stream:
            json.dump(as_json(value), stream, indent=2, ensure_ascii=False, default=to_jsonable_python)
            stream.write("\n")

    @contextmanager
    def file(self) -> Iterator[TextIO]:
        """Open standard output for a machine-readable format: UTF-8 as it is, or escaped on a terminal.

        A lone surrogate, which UTF-8 lacks, is escaped as JSON does it.
        """
        if self.terminal:
            yield cast(TextIO, TerminalSafe(sys.stdout))
        else:
            reconfigure = getattr(sys.stdout, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(encoding="utf-8", newline="", errors="backslashreplace")
            yield sys.stdout
        sys.stdout.flush()

    @contextmanager
    def report(self) -> Iterator[None]:
        """A block that reports what was done: a reader that is gone does not stop the work that follows."""
        try:
            yield
            sys.stdout.flush()
        except BrokenPipeError:
            silence_stream(sys.stdout)

    def _styled_grid(self, grid: Grid) -> None:
        from rich.text import Text

        cells = [[safe_text(cell) for cell in row] for row in grid.rows]
        widths = fit_widths(grid.columns, cells, self.width)
        columns = [(index, column) for index, column in enumerate(grid.columns) if index in widths]
        gap = " " * GAP
        lines = [
            Text(
                gap.join(_pad_cell(column, column.title, widths[index]) for index, column in columns), "bold"
            )
        ]
        for row in cells:
            parts = [
                Text(_pad_cell(column, row[index], widths[index]), column.style(row[index]))
                for index, column in columns
            ]
            lines.append(Text(gap).join(parts))
        for line in lines:
            line.rstrip()
            self._print_styled(line, soft_wrap=True)
        hidden = [column.title for index, column in enumerate(grid.columns) if index not in widths]
        if hidden:
            self.note(f"(the terminal is too narrow for: {', '.join(hidden)})")

    def _print_styled(self, renderable: object, **options: Any) -> None:
        """Print with rich, without its own answer to a broken pipe (exit code 1)."""
        with self.console.capture() as captured:
            self.console.print(renderable, **options)
        sys.stdout.write(captured.get())


def plain_lines(grid: Grid) -> Iterator[str]:
    """Yield the lines of a table for a pipe: aligned, without colours, without trailing spaces."""
    cells = [[shorten_text(safe_text(cell), LONGEST_CELL) for cell in row] for row in grid.rows]
    widths = [_natural_width(column, index, cells) for index, column in enumerate(grid.columns)]
    for row in [[column.title for column in grid.columns], *cells]:
        padded = (
            _pad_cell(column, cell, width)
            for column, cell, width in zip(grid.columns, row, widths, strict=True)
        )
        yield (" " * GAP).join(padded).rstrip()


def fit_widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """Return the widths of the columns that fit side by side, by their index.

    Cells are cut first, as far as their column allows; then the least important columns are left out.
    """
    widths = {index: _natural_width(column, index, cells) for index, column in enumerate(columns)}
    while True:
        excess = sum(widths.values()) + GAP * (len(widths) - 1) - width
        if excess <= 0:
            return widths
        spare = {index: now - columns[index].least for index, now in widths.items() if columns[index].least}
        if sum(max(0, room) for room in spare.values()) >= excess:
            return _narrow_widths(widths, spare, excess)
        last = max(widths, key=lambda index: columns[index].drop)
        if not columns[last].drop:
            return _narrow_widths(widths, spare, excess)
        del widths[last]


def _narrow_widths(widths: dict[int, int], spare: dict[int, int], excess: int) -> dict[int, int]:
    """Take `excess` characters from the columns that have some to spare, from the widest first."""
    for _ in range(excess):
        candidates = [index for index, room in spare.items() if room > 0]
        if not candidates:
            break
        widest = max(candidates, key=lambda index: widths[index])
        widths[widest] -= 1
        spare[widest] -= 1
    return widths


def _natural_width(column: Column, index: int, cells: Sequence[Sequence[str]]) -> int:
    from rich.cells import cell_len

    return max([len(column.title), *(cell_len(row[index]) for row in cells)])


def _pad_cell(column: Column, text: str, width: int) -> str:
    """Return `text` as wide as its column: Chinese characters, for one, take two places of a terminal."""
    from rich.cells import cell_len, set_cell_size

    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…"
    return " " * (width - length) + text if column.right else text + " " * (width - length)


def silence_stream(stream: TextIO) -> None:
    """Send what is still to be written to nowhere, so that nothing fails on the way out of the process."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return


def severity_style(text: str) -> str:
    """Return the style in which a severity is shown."""
    return SEVERITY_STYLES.get(text, "")


def as_json(value: object) -> Any:
    """Return data of the port as what JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: as_json(inner) for name, inner in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(name): as_json(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(inner) for inner in value]
    return value
