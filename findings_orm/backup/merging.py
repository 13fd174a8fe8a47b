"""A backup merged into a project that exists: of each finding the newer one wins, runs and history are united."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from typing import Any, TypeVar

from findings_orm.backup.chains import Cursor
from findings_orm.backup.planning import Plan, Side, values_of
from findings_orm.backup.sections import BATCH, Decoder, load
from findings_orm.clock import revision_step
from findings_orm.port import Event, RejectedOriginal
from findings_orm.query import latest, time_key
from findings_orm.records import Kept, ProjectState, Records, Streak, batches

_Item = TypeVar("_Item")


class Merger:
    """Writes a project as its plan says, in place of the one that is there."""

    def __init__(self, store: Records, project_id: str, decoder: Decoder, plan: Plan) -> None:
        self._store = store
        self._project_id = project_id
        self._decoder = decoder
        self._plan = plan
        self._mapped = {side: _mapping(numbers) for side, numbers in plan.numbers.items()}

    def write(self, out: Records, cursor: Cursor, created_at: str | None) -> dict[str, int]:
        """Write the project; return how many records of each section it has now."""
        revision = self._plan.revision + revision_step()
        out.delete_project(self._project_id)
        out.put_project(self._project_id, ProjectState(revision, created_at))
        made: list[tuple[str, Iterator[Any]]] = [
            ("runs", iter(self._plan.runs)),
            ("findings", self._findings(cursor)),
            ("events", self._events(cursor)),
            ("rejected", self._rejected(cursor)),
        ]
        counts = {}
        for section, values in made:
            counts[section] = 0
            for batch in batches(values, BATCH):
                load(out, self._project_id, revision, section, batch)
                counts[section] += len(batch)
        return counts

    def _backup(self, cursor: Cursor, section: str) -> Iterator[Any]:
        return values_of(cursor, self._project_id, section, self._decoder)

    def _findings(self, cursor: Cursor) -> Iterator[Kept]:
        store = (row for rows in self._store.all_findings(self._project_id) for row in rows)
        drop = self._plan.drop
        for theirs, ours in side_by_side(
            (row for row in store if row.identity.finding_id not in drop["store"]),
            (
                row
                for row in self._backup(cursor, "findings")
                if row.identity.finding_id not in drop["backup"]
            ),
            lambda row: row.identity.finding_id,
        ):
            yield self._united(theirs, ours)

    def _united(self, theirs: Kept | None, ours: Kept | None) -> Kept:
        """Return the version that wins, seen by the runs of both."""
        newer = ours if theirs is None or (ours and ours.identity.finding_id in self._plan.take) else theirs
        assert newer is not None  # noqa: S101  # nosec B101  # one of them is there
        seen = [*self._seen(theirs, "store"), *self._seen(ours, "backup")]
        *streaks, last = _joined(seen) or [(0, 0)]
        both = [row.identity for row in (theirs, ours) if row]
        identity = newer.identity._replace(
            first_seen=min((one.first_seen for one in both), key=time_key),
            last_seen=latest(*(one.last_seen for one in both)),
            first_run=last[0],
            last_run=last[1],
        )
        return Kept(newer.document, identity, tuple(Streak(identity.finding_id, *one) for one in streaks))

    def _seen(self, row: Kept | None, side: Side) -> list[tuple[int, int]]:
        if row is None:
            return []
        streaks = [streak[1:] for streak in row.streaks]
        if row.identity.last_run:
            streaks.append((row.identity.first_run, row.identity.last_run))
        return [new for first, last in streaks for new in self._mapped[side](first, last)]

    def _events(self, cursor: Cursor) -> Iterator[Event]:
        store = (event for events in self._store.all_events(self._project_id) for event in events)

        def grouped(events: Iterable[Event]) -> Iterator[list[Event]]:
            return (list(group) for _, group in groupby(events, lambda event: event.finding_id))

        for theirs, ours in side_by_side(
            grouped(store), grouped(self._backup(cursor, "events")), lambda group: group[0].finding_id
        ):
            yield from united_events(theirs or [], ours or [])

    def _rejected(self, cursor: Cursor) -> Iterator[RejectedOriginal]:
        store = (one for some in self._store.all_rejected(self._project_id) for one in some)
        for theirs, ours in side_by_side(
            store, self._backup(cursor, "rejected"), lambda one: one.rejected_id
        ):
            newest = max((one for one in (theirs, ours) if one), key=lambda one: time_key(one.at))
            yield newest


def united_events(store: list[Event], backup: list[Event]) -> list[Event]:
    """Return the history of a finding: what both sides have once, by its time."""
    missing = list(store)
    united = list(store)
    for event in backup:
        if event in missing:
            missing.remove(event)
        else:
            united.append(event)
    return sorted(united, key=lambda event: time_key(event.at))


def side_by_side(
    theirs: Iterable[_Item], ours: Iterable[_Item], key: Callable[[_Item], str]
) -> Iterator[tuple[_Item | None, _Item | None]]:
    """Yield pairs of two streams that are sorted by a key; None where a side has nothing of a key."""
    left, right = iter(theirs), iter(ours)
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        if b is None or (a is not None and key(a) < key(b)):
            yield a, None
            a = next(left, None)
        elif a is None or key(b) < key(a):
            yield None, b
            b = next(right, None)
        else:
            yield a, b
            a, b = next(left, None), next(right, None)


def _mapping(numbers: dict[int, int]) -> Callable[[int, int], list[tuple[int, int]]]:
    @lru_cache(4096)
    def mapped(first: int, last: int) -> list[tuple[int, int]]:
        new = sorted(numbers[number] for number in range(first, last + 1) if number in numbers)
        return _joined([(number, number) for number in new])

    return mapped


def _joined(streaks: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return streaks sorted, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(streaks):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return joined
