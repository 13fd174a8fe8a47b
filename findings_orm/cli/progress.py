"""Progress of long work on standard error: a bar on a terminal, now and then a plain line in a pipe."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from findings_orm.cli.output import Output, safe_text

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_UPDATES = 0.1


class Tracker(AbstractContextManager["Tracker"]):
    """Shows how far a piece of work is. It goes through phases, each with an amount of its own."""

    def __init__(self, out: Output, name: str) -> None:
        self._out = out
        self._name = safe_text(name)
        self._progress_bar: Progress | None = None
        self._last = time.monotonic()
        self._pause = SECONDS_BETWEEN_LINES
        self.phase("")

    def __enter__(self) -> Self:
        if self._out.error_terminal and not self._out.quiet:
            self._pause = SECONDS_BETWEEN_UPDATES
            self._progress_bar = _progress_bar(self._name)
            self._progress_bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress_bar is not None:
            self._progress_bar.stop()

    def phase(self, doing: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        """Begin a phase: what is done in it, and how much there is to do where that is known."""
        self._doing = doing
        self._total = total
        self.in_bytes = in_bytes
        self._done = 0
        if self._progress_bar is not None:
            self._show_progress()

    def add(self, amount: int) -> None:
        """Say that this much more is done."""
        self._done += amount
        if time.monotonic() - self._last >= self._pause:
            self._show_progress()

    def track_items(self, items: Iterable[Item], total: int | None) -> Iterator[Item]:
        """Yield findings, counting them; what comes after the last one is the phase of writing."""
        self.phase("", total)
        for item in items:
            self.add(1)
            yield item
        self._doing = "writing, "
        if self._progress_bar is not None:
            self._show_progress()

    def _show_progress(self) -> None:
        self._last = time.monotonic()
        text = self._doing + (
            _format_megabytes(self._done, self._total) if self.in_bytes else self._format_count()
        )
        if self._progress_bar is not None:
            self._progress_bar.update(
                self._progress_bar.task_ids[0], completed=self._done, total=self._total, counted=text
            )
        else:
            self._out.note(f"{self._name}: {text}")

    def _format_count(self) -> str:
        of = f" of {self._total:,}" if self._total is not None else ""
        return f"{self._done:,}{of} findings"


class CountedFile(io.BufferedReader):
    """A file that says how much of it was read."""

    def __init__(self, path: str, tracker: Tracker) -> None:
        super().__init__(io.FileIO(path))
        self._tracker = tracker

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes."""
        data = super().read(size)
        if self._tracker.in_bytes:
            self._tracker.add(len(data))
        return data


def _format_megabytes(done: int, total: int | None) -> str:
    of = f" of {total / 1e6:,.1f}" if total is not None else ""
    return f"{done / 1e6:,.1f}{of} MB"


def _progress_bar(name: str) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[counted]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )
    progress.add_task(name, total=None, counted="")
    return progress
