"""A project that was copied before brought to what the source has now, by writing only what changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from findings_orm.backup.merging import side_by_side
from findings_orm.backup.sections import BATCH, SECTIONS, Encoder, States, Tally, section_values
from findings_orm.records import Identity, Kept, ProjectState, Records, Stored, Streak, batches

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
        work = changes.findings if section == "findings" else changes.others
        work(section, _pairs(source, project_id, section, tally))
        states[section] = tally.state
    return states


def _pairs(unit: Records, project_id: str, section: str, tally: Tally | None = None) -> Iterator[_Pair]:
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

    def findings(self, section: str, source: Iterator[_Pair]) -> None:
        """Write what changed of the findings: identities where only these did, else the whole finding anew."""
        new: list[Kept] = []
        gone: list[str] = []
        for differing in batches(self._differing(section, source), BATCH):
            seen: list[Identity] = []
            streaks: list[Streak] = []
            for here, there in differing:
                if here is not None and there is not None and _seen_again(here, there):
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

    def others(self, section: str, source: Iterator[_Pair]) -> None:
        """Write new runs, new events, and what changed of the refused originals."""
        for differing in batches(self._differing(section, source), BATCH):
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

    def _differing(
        self, section: str, source: Iterator[_Pair]
    ) -> Iterator[tuple[_Pair | None, _Pair | None]]:
        """Yield what only one side has, or has otherwise."""
        target = _pairs(self._target, self._project_id, section)
        for here, there in side_by_side(source, target, lambda pair: pair.key):
            if here is None or there is None or here.line != there.line:
                yield here, there


def _seen_again(here: _Pair, there: _Pair) -> bool:
    """Return whether nothing but the identity differs, in members that `Records.reidentify` writes."""
    if here.line[_HEAD : here.line.rindex(_IDENTITY)] != there.line[_HEAD : there.line.rindex(_IDENTITY)]:
        return False
    one, other = here.value.identity, there.value.identity
    known = there.value.streaks
    return (
        (one.fingerprint, one.ordinal, one.version, one.first_seen)
        == (other.fingerprint, other.ordinal, other.version, other.first_seen)
    ) and here.value.streaks[: len(known)] == known
