"""A whole installation moved into another store, project by project, each compared before it is committed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from findings_orm.arguments import checked
from findings_orm.backup.merging import side_by_side
from findings_orm.backup.progress import SILENT, Progress
from findings_orm.backup.sections import (
    BATCH,
    SECTIONS,
    Encoder,
    States,
    Tally,
    load_values,
    section_lines,
    section_values,
)
from findings_orm.backup.writing import chosen_projects, record_store
from findings_orm.errors import StorageConflictError, StorageIntegrityError
from findings_orm.port import FindingStore
from findings_orm.query import FindingQuery
from findings_orm.records import Identity, Kept, ProjectState, Records, RecordStore, Stored, Streak, batches

# -- A project that was copied before brought to what the source has now, by writing only what changed ----


MOST = 50_000
"""How many findings with changed documents are written one by one; with more the whole project is."""

_IDENTITY = b',"identity":{"finding_id":'
_HEAD = len('{"crc":"00000000",')


class DoesNotFitError(Exception):
    """What changed is not of the kind that is caught up with: the project has to be copied whole."""


class _Pair(NamedTuple):
    """A value of a section, with its line."""

    key: Any
    value: Any
    line: bytes


def catch_up(source: Records, target: Records, out: Records, project_id: str, state: ProjectState) -> States:
    """Write to a project what the source has otherwise; return what the source has.

    Args:
        source: the source as of one instant.
        target: the target as it is before, to read from.
        out: the target, to write to.
        project_id: the project.
        state: of the project at the source.

    Raises:
        DoesNotFitError: something else than findings, refused originals, new runs and new events differs.
    """
    if state.revision <= target.revision(project_id):
        raise DoesNotFitError  # it was made anew: its events would not come after those that are there
    changes = _Changes(target, out, project_id, state.revision)
    states: States = {}
    for section in SECTIONS:
        tally = Tally()
        work = changes.write_findings if section == "findings" else changes.write_others
        work(section, _section_pairs(source, project_id, section, tally))
        states[section] = tally.state
    return states


def _section_pairs(
    unit: Records, project_id: str, section: str, tally: Tally | None = None
) -> Iterator[_Pair]:
    encoder = Encoder(section)
    for values in section_values(unit, project_id, section):
        lines = encoder.lines(values)
        if tally is not None:
            tally.add([line for _, line in lines])
        for value, (key, line) in zip(values, lines, strict=True):
            yield _Pair(key, value, line)


class _Changes:
    def __init__(self, target: Records, out: Records, project_id: str, revision: int) -> None:
        self._target = target
        self._out = out
        self._project_id = project_id
        self._revision = revision

    def write_findings(self, section: str, source: Iterator[_Pair]) -> None:
        """Write what changed of the findings: identities where only these did, else the whole finding anew."""
        new: list[Kept] = []
        gone: list[str] = []
        for differing in batches(self._differing_pairs(section, source), BATCH):
            seen: list[Identity] = []
            streaks: list[Streak] = []
            for here, there in differing:
                if here is not None and there is not None and _only_identity_differs(here, there):
                    seen.append(here.value.identity)
                    streaks += here.value.streaks[len(there.value.streaks) :]
                    continue
                new += [here.value] if here is not None else []
                gone += [there.key[0]] if there is not None else []
            self._out.reidentify(self._project_id, seen)
            self._out.add_streaks(self._project_id, streaks)
            if len(new) + len(gone) > MOST:
                raise DoesNotFitError
        for ids in batches(gone, BATCH):
            self._out.remove(self._project_id, ids)
        for rows in batches(new, BATCH):
            self._out.insert(self._project_id, [Stored(row.document, row.identity) for row in rows])
            self._out.add_streaks(self._project_id, [streak for row in rows for streak in row.streaks])

    def write_others(self, section: str, source: Iterator[_Pair]) -> None:
        """Write new runs, new events, and what changed of the refused originals."""
        for differing in batches(self._differing_pairs(section, source), BATCH):
            if section != "rejected" and any(there is not None for _, there in differing):
                raise DoesNotFitError
            values = [here.value for here, _ in differing if here is not None]
            if section == "events":
                self._out.add_events(self._project_id, self._revision, values)
            elif section == "runs":
                for run in values:
                    self._out.put_run(self._project_id, run)
            else:
                self._out.put_rejected(self._project_id, values)
                gone = [there.key[0] for here, there in differing if here is None and there is not None]
                self._out.remove_rejected(self._project_id, gone)

    def _differing_pairs(
        self, section: str, source: Iterator[_Pair]
    ) -> Iterator[tuple[_Pair | None, _Pair | None]]:
        """Yield what only one side has, or has otherwise."""
        target = _section_pairs(self._target, self._project_id, section)
        for here, there in side_by_side(source, target, lambda pair: pair.key):
            if here is None or there is None or here.line != there.line:
                yield here, there


def _only_identity_differs(here: _Pair, there: _Pair) -> bool:
    """Return whether nothing but the identity differs, in members that `Records.reidentify` writes."""
    if here.line[_HEAD : here.line.rindex(_IDENTITY)] != there.line[_HEAD : there.line.rindex(_IDENTITY)]:
        return False
    one, other = here.value.identity, there.value.identity
    known = there.value.streaks
    return (
        (one.fingerprint, one.ordinal, one.version, one.first_seen)
        == (other.fingerprint, other.ordinal, other.version, other.first_seen)
    ) and here.value.streaks[: len(known)] == known


# -- A whole installation moved into another store, project by project, each compared before it is committed


_log = logging.getLogger(__name__)


@dataclass(slots=True)
class CopyReport:
    """What was copied. Every project that it names is the same on both sides: counts and SHA-256 of all records.

    Attributes:
        copied: projects that were written, in the order in which they were; one that changed meanwhile several times.
        same: projects that were there already, from an earlier copy.
        removed: projects that were deleted at the source while it was followed.
        states: project to section to count and SHA-256.
        passes: how often the source was looked at.
        last_pass_seconds: how long the last one took: the downtime of a switch-over.
        seconds: how long all took.
    """

    copied: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    states: dict[str, States] = field(default_factory=dict)
    passes: int = 0
    last_pass_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def records(self) -> dict[str, int]:
        """How many records of each section the copied projects have."""
        return {
            section: sum(states[section].count for states in self.states.values()) for section in SECTIONS
        }


@checked
def copy_store(
    source: FindingStore,
    target: FindingStore,
    *,
    projects: Collection[str] | None = None,
    replace: bool = False,
    follow: Callable[[CopyReport], bool] | None = None,
    progress: Progress = SILENT,
) -> CopyReport:
    """Copy a store into another one of any kind, with everything: as a restored backup, without the file.

    The source is read as it is at one instant. Each project is one transaction of the target, committed only when what
    it holds then has the counts and digests of the source. A copy that was cut short is resumed by doing it again: projects
    that are there and the same are compared and left. Other projects of the target are left alone.

    Args:
        source: a store with records (`findings_orm.records.RecordStore`, docs/adapters.md), as all of this package have.
        target: another one.
        projects: which ones; None means all.
        replace: write over projects of the target that differ from those of the source.
        follow: called when both sides are the same as of a moment ago; while it returns True, what changed at the source
            meanwhile (also what was deleted there) is copied again. For a switch-over let it return False once nothing
            writes to the source any more: the pass after that is the last.
        progress: is told how far the work is.

    Raises:
        StorageConflictError: the target has a project that differs (without `replace`), or somebody wrote to a project there
            while it was followed.
        StorageIntegrityError: what arrived differs from the source; it was not committed.
        FindingNotFoundError: the source lacks a project that was named.
    """
    start = time.monotonic()
    copy = _Copy(record_store(source), record_store(target), projects, replace, progress)
    copy.run_pass()
    while follow is not None:
        going_on = follow(copy.report)
        copy.run_pass()
        if not going_on:
            break
    copy.report.seconds = time.monotonic() - start
    return copy.report


class _Copy:
    def __init__(
        self,
        source: RecordStore,
        target: RecordStore,
        projects: Collection[str] | None,
        replace: bool,
        progress: Progress,
    ) -> None:
        self._source = source
        self._target = target
        self._projects = projects
        self._replace = replace
        self._progress = progress
        self._revisions: dict[str, int] = {}
        self.report = CopyReport()

    def run_pass(self) -> None:
        """Bring every project of the target to what the source has now."""
        start = time.monotonic()
        with self._source.snapshot() as unit:
            if self._revisions and self._projects is not None:
                chosen = sorted(set(self._projects) & set(unit.projects()))
            else:
                chosen = chosen_projects(unit, self._projects)
            changed = [one for one in chosen if self._revisions.get(one) != unit.revision(one)]
            total = sum(unit.count(FindingQuery(project_id=one)) for one in changed)
            self._progress.phase("copying, ", total)
            for project_id in changed:
                self._bring_project(unit, project_id)
        for project_id in sorted(self._revisions.keys() - set(chosen)):
            self._remove_project(project_id)
        self.report.passes += 1
        self.report.last_pass_seconds = time.monotonic() - start

    def _bring_project(self, unit: Records, project_id: str) -> None:
        state = unit.project_state(project_id)
        if state is None:  # the snapshot has just named it
            raise StorageIntegrityError(f"project {project_id!r} vanished")
        if project_id not in self._revisions and self._target.revision(project_id) == state.revision:
            self._compare_project(unit, project_id)
        else:
            self.report.states[project_id] = self._copy_project(unit, project_id, state)
            self.report.copied.append(project_id)
        self._revisions[project_id] = state.revision

    def _compare_project(self, unit: Records, project_id: str) -> None:
        """Compare a project that an earlier copy brought."""
        with self._target.snapshot() as out:
            there, here = states_of(out, project_id), states_of(unit, project_id)
        if there != here:
            raise StorageIntegrityError(
                f"project {project_id!r} has the same revision on both sides, but {_describe_difference(here, there)}"
            )
        self.report.states[project_id] = here
        self.report.same.append(project_id)

    def _copy_project(self, unit: Records, project_id: str, state: ProjectState) -> States:
        """Write a project: what changed of it where that is possible, else all of it."""
        known = self._revisions.get(project_id)
        with ExitStack() as stack:
            there = None if known is None else stack.enter_context(self._target.snapshot())
            out = stack.enter_context(self._target.writing())
            found = out.move_to(project_id, state.revision) if out.revision(project_id) else 0
            self._check_replaceable(project_id, found)
            written = None
            if there is not None and found:
                with suppress(DoesNotFitError):
                    written = catch_up(unit, there, out, project_id, state)
                    self._progress.add(written["findings"].count)
            if written is None:
                if there is not None and found:
                    _log.debug(
                        "project %s changed in a way that is not caught up with: copying all of it",
                        project_id,
                    )
                out.delete_project(project_id)
                written = self._write_whole_project(unit, out, project_id, state)
            arrived = states_of(out, project_id)
            if arrived != written:
                raise StorageIntegrityError(
                    f"project {project_id!r} did not arrive as it was: {_describe_difference(written, arrived)}; "
                    "nothing was committed"
                )
        return written

    def _check_replaceable(self, project_id: str, found: int) -> None:
        """Check that a project of the target may be written over; `found` is its revision."""
        known = self._revisions.get(project_id)
        if known is not None and found not in (0, known):
            raise StorageConflictError(
                f"somebody wrote to project {project_id!r} of the target while it was followed"
            )
        if known is None and found and not self._replace:
            raise StorageConflictError(
                f"the target has a project {project_id!r} that differs; copy into an empty store, or replace it"
            )

    def _write_whole_project(
        self, unit: Records, out: Records, project_id: str, state: ProjectState
    ) -> States:
        out.put_project(project_id, state)
        written: States = {}
        for section in SECTIONS:
            tally, encoder = Tally(), Encoder(section)
            for values in section_values(unit, project_id, section):
                tally.add([line for _, line in encoder.lines(values)])
                load_values(out, project_id, state.revision, section, values)
                if section == "findings":
                    self._progress.add(len(values))
            written[section] = tally.state
        return written

    def _remove_project(self, project_id: str) -> None:
        """Remove a project that was deleted at the source."""
        with self._target.writing() as out:
            if out.revision(project_id) not in (0, self._revisions[project_id]):
                raise StorageConflictError(
                    f"project {project_id!r} was deleted at the source, but somebody wrote to it in the target"
                )
            out.delete_project(project_id)
        del self._revisions[project_id], self.report.states[project_id]
        self.report.removed.append(project_id)


def states_of(unit: Records, project_id: str) -> States:
    """Return how many records of each section a project has, and their digests: equal ones mean equal projects."""
    found: States = {}
    for section in SECTIONS:
        tally = Tally()
        for lines in section_lines(unit, project_id, section):
            tally.add([line for _, line in lines])
        found[section] = tally.state
    return found


def _describe_difference(expected: States, found: States) -> str:
    section = next(name for name in SECTIONS if expected[name] != found[name])
    return f"the {section} differ: {found[section].count} instead of {expected[section].count}"
