"""Watching a store at work: what it tells its observers, and the figures that it has of itself.

No library for metrics or traces is known here. A store without observers spends nothing on them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

Ended = Callable[[float, int, BaseException | None], None]
"""What is called when a statement has ended: seconds spent in the database (without those between fetches), rows that were
fetched or else written, and the error, if there was one."""

_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE|COPY)\s+(?:ONLY\s+)?\"?(findings?(?:_\w+)?)\b", re.IGNORECASE)
_STRING = re.compile(r"\b[Ee]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'", re.DOTALL)
_VERB = re.compile(r"[A-Za-z]+")


@lru_cache(1024)
def _mask_strings(text: str) -> str:
    return _STRING.sub("?", text)


@lru_cache(1024)
def _operation_and_table(text: str) -> tuple[str, str]:
    verb, table = _VERB.search(text), _TABLE.search(text)
    return verb[0].upper() if verb else "", table[1].lower() if table else ""


@dataclass(slots=True)
class Statement:
    """One statement that a store is about to execute.

    Attributes:
        text: the SQL, with marks in place of values.
        batch: how many sets of parameters it is executed for.
        explain: returns the lines of the plan that the database chose. Plans may show values. None where there is no plan.
    """

    text: str
    batch: int = 1
    explain: Callable[[], list[str]] | None = field(default=None, repr=False, compare=False)

    @property
    def masked(self) -> str:
        """The text with a mark in place of each string that stands in it."""
        return _mask_strings(self.text)

    @property
    def operation(self) -> str:
        """What it does: ``SELECT``, ``INSERT``, ``COPY``, ``COMMIT``, ..."""
        return _operation_and_table(self.text)[0]

    @property
    def collection(self) -> str:
        """The first table of this package that it names; ``""`` for none (and for those of an application)."""
        return _operation_and_table(self.text)[1]


class Observer:
    """Somebody who watches. Derive from it; nothing that an observer raises is caught."""

    def statement(self, statement: Statement) -> Ended | None:
        """Take notice of a statement before it is executed, and return what is to be called when it has ended."""

    def connected(self, seconds: float, error: BaseException | None, *, timed_out: bool) -> None:
        """Take notice that a connection was waited for, and was had or (`timed_out`: none became free) not."""

    def retried(self, reason: str) -> None:
        """Take notice that a unit of work is tried again: ``conflict`` or ``connection``."""

    def cached(self, operation: str, event: str) -> None:
        """Take notice of what a cache did: an operation of the port (or ``writes``, ``locks``, ``redis``), and what happened
        (``hits``, ``misses``, ... as in `findings_orm.stores.cache.EVENTS`)."""


class Pool(NamedTuple):
    """The connections of a store now: in use, open and idle, the most that may be open (None: any number), and how many
    threads are waiting for one (only counted while somebody observes the store)."""

    in_use: int
    idle: int
    limit: int | None
    waiting: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What a store says of itself.

    Attributes:
        findings: how many there are by (severity, status), in all projects together.
        projects: how many projects there are.
        size_bytes: what the store takes on disk; None for one in memory.
        revision: the revision of the database's schema; None for a store without one.
    """

    findings: Mapping[tuple[str, str], int]
    projects: int
    size_bytes: int | None = None
    revision: str | None = None


@runtime_checkable
class Observable(Protocol):
    """A store that can be watched; all stores of this package can."""

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Tell an observer of every statement, connection and new attempt, until the returned callable is called."""

    def figures(self) -> Figures:
        """Return figures of the store. Costs a pass over an index, or over all findings where there is none.

        Raises:
            StorageUnavailableError: the store can't be reached.
        """

    def pool(self) -> Pool | None:
        """Return the connections of the store now; None for a store without a pool. Asks no server."""
