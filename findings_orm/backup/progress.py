"""How far long work is, for whoever wants to show it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """What is told of long work as it goes on."""

    def phase(self, doing: str, total: int | None = None) -> None:
        """A phase begins: what is done in it ("writing, "), and to how many findings where that is known."""

    def add(self, amount: int) -> None:
        """So many more findings are done."""


class Silent:
    """A `Progress` that shows nothing."""

    def phase(self, doing: str, total: int | None = None) -> None:
        """See `Progress.phase`."""

    def add(self, amount: int) -> None:
        """See `Progress.add`."""


SILENT = Silent()
