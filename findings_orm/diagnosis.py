"""What is wrong with a store, and what to do about it: problems as data, and the checks that every store has."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from findings_orm.fingerprint import VERSION
from findings_orm.private import open_to_everybody

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
"""From the worst on: what is broken; what will hurt; what is good to know."""


UNREADABLE = ("damage", "schema")
"""Checks whose problems make it pointless to read on."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be.

    Attributes:
        level: ``error``, ``warning`` or ``note``.
        check: the check that found it, a stable name as ``index-missing``; docs/operations.md lists them.
        message: what is wrong, with the figures.
        advice: what to do about it.
    """

    level: Level
    check: str
    message: str
    advice: str


@runtime_checkable
class Diagnosable(Protocol):
    """A store that can be examined; all stores of this package can."""

    def diagnose(self) -> list[Problem]:
        """Examine the store, the worst problems first; ``[]`` when all is well. Nothing is changed.

        Reads indexes and small tables, and on SQLite the whole file.

        Raises:
            StorageUnavailableError: the store can't be reached.
        """

    def mend(self) -> list[str]:
        """Put right what takes no decision: files that every user of the machine may open. Return what was done, for people.

        They become their owner's alone, and the group's if that may write to them.

        Raises:
            StorageUnavailableError: that is not possible.
        """


CLOSED_UNEQUALLY = "findings whose status and time of closing disagree"
"""An orphan of `Survey` that every kind of store may have."""


class Survey(NamedTuple):
    """What a store has that it should not have.

    Attributes:
        fingerprint_versions: version of the algorithm to how many identities it made.
        orphans: what is left over or missing, in words, to how many; those that are 0 may be absent.
        rejected: refused originals that wait to be fixed or discarded.
    """

    fingerprint_versions: Mapping[int, int]
    orphans: Mapping[str, int]
    rejected: int


def problems_of_survey(survey: Survey) -> Iterator[Problem]:
    """Yield the problems that every kind of store may have."""
    for what, count in survey.orphans.items():
        if count:
            yield Problem(
                "error",
                "orphans",
                f"{count:,} {what}",
                "Somebody wrote past the store, or foreign keys were off. Make a backup, then restore an older one, or delete "
                "these rows.",
            )
    for version, count in sorted(survey.fingerprint_versions.items()):
        if version > VERSION:
            yield Problem(
                "error",
                "fingerprint-version",
                f"{count:,} findings have fingerprints of version {version}; this release makes version {VERSION}",
                "Imports will take these findings for new ones. Update findings-orm.",
            )
    if survey.rejected:
        yield Problem(
            "note",
            "rejected",
            f"{survey.rejected:,} refused originals are kept",
            "Look at them with 'findings rejected list'; fix and retry, or discard them.",
        )


def problems_of_files(files: Iterable[pathlib.Path]) -> Iterator[Problem]:
    """Yield what is wrong with the permissions of a store's files."""
    found = open_to_everybody(files)
    if found:
        more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
        yield Problem(
            "warning",
            "permissions",
            f"{found[0]}{more}: every user of this machine may open them, and findings hold secrets",
            "findings doctor --fix (only their owner, and a group that may write, can open them then).",
        )


def sort_by_level(problems: Iterable[Problem]) -> list[Problem]:
    """Return problems, the worst first, else in their order."""
    return sorted(problems, key=lambda problem: LEVELS.index(problem.level))
