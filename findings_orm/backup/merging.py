"""What merging a backup into a project comes to: compared first, without writing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal, NamedTuple, TypeVar

from findings_orm.backup.chains import Cursor
from findings_orm.backup.sections import BATCH, SECTIONS, Decoder, load_values
from findings_orm.clock import revision_step
from findings_orm.finding import FIELDS
from findings_orm.fingerprint import changed_fields
from findings_orm.port import Event, RejectedOriginal, Run
from findings_orm.query import latest_time, time_key
from findings_orm.records import Identity, Kept, ProjectState, Records, Streak, batches

Side = Literal["store", "backup"]


@dataclass(frozen=True, slots=True)
class Conflict:
    """A finding of which store and backup had different versions.

    Attributes:
        project_id, finding_id: the finding.
        kept: whose version was kept.
        reason: what differed: names of fields, or why a finding was left out.
    """

    project_id: str
    finding_id: str
    kept: Side
    reason: str


@dataclass(slots=True)
class Plan:
    """What the merge of one project comes to.

    Attributes:
        runs: of both sides, numbered anew by their times.
        numbers: side to old number to new number.
        take: findings of both sides of which the backup's version wins.
        drop: side to findings that are left out.
        conflicts: what is to be reported.
    """

    revision: int
    runs: list[Run] = field(default_factory=list)
    numbers: dict[Side, dict[int, int]] = field(default_factory=dict)
    take: set[str] = field(default_factory=set)
    drop: dict[Side, set[str]] = field(default_factory=lambda: {"store": set(), "backup": set()})
    conflicts: list[Conflict] = field(default_factory=list)


class _Times(NamedTuple):
    """When each side last changed a finding, as `time_key` has it."""

    backup: str
    store: str


class _Collision(NamedTuple):
    """A finding of the backup has the identity that another one has in the store.

    Attributes:
        other: that one.
        other_time: when it changed last.
        only_here: the store has no finding of the id that the backup's has.
    """

    other: str
    other_time: str
    only_here: bool


class Planner:
    """Compares a project of a backup with that of the store, without writing."""

    def __init__(self, unit: Records, project_id: str, decoder: Decoder) -> None:
        self._unit = unit
        self._project_id = project_id
        self._decoder = decoder
        self._plan = Plan(unit.revision(project_id))
        self._times: dict[str, _Times] = {}
        self._fields: dict[str, str] = {}
        self._absent: set[str] = set()
        self._collisions: dict[str, _Collision] = {}
        self._purged = {
            event.finding_id: time_key(event.at)
            for events in unit.all_events(project_id)
            for event in events
            if event.kind == "purge"
        }

    def plan(self, cursor: Cursor) -> Plan:
        """Return what is to be done; reads the project's sections of the backup."""
        runs = list(values_of(cursor, self._project_id, "runs", self._decoder))
        self._plan.runs, theirs, ours = united_runs(self._unit.runs(self._project_id), runs)
        self._plan.numbers = {"store": theirs, "backup": ours}
        for batch in batches(values_of(cursor, self._project_id, "findings", self._decoder), BATCH):
            self._compare_findings(batch)
        purged = self._read_events(values_of(cursor, self._project_id, "events", self._decoder))
        self._decide_winners()
        self._decide_purges(purged)
        self._decide_collisions()
        return self._plan

    def _compare_findings(self, rows: list[Kept]) -> None:
        known = self._unit.stored(self._project_id, [row.identity.finding_id for row in rows])
        suspects = {}
        for document, identity, *_ in rows:
            there, finding_id = known.get(identity.finding_id), identity.finding_id
            if there is None:
                suspects[finding_id] = identity
                if finding_id in self._purged:
                    self._absent.add(finding_id)
                    self._times[finding_id] = _Times(_changed_at(identity), self._purged[finding_id])
                continue
            changed = changed_fields(there.document, document, FIELDS)
            if changed:
                suspects[finding_id] = identity
                self._fields[finding_id] = ", ".join(changed)
                self._times[finding_id] = _Times(_changed_at(identity), self._store_time(there.identity))
            elif _changed_at(identity) > _changed_at(there.identity):
                suspects[finding_id] = identity
                self._plan.take.add(finding_id)
        self._find_collisions(suspects, known)

    def _find_collisions(self, suspects: dict[str, Identity], known: Collection[str]) -> None:
        """Note whose identity in the backup is that of another finding in the store."""
        taken = {(one.fingerprint, one.ordinal): one for one in suspects.values()}
        for there in self._unit.identities(self._project_id, {one.fingerprint for one in suspects.values()}):
            here = taken.get((there.fingerprint, there.ordinal))
            if here is not None and here.finding_id != there.finding_id:
                self._collisions[here.finding_id] = _Collision(
                    there.finding_id, self._store_time(there), here.finding_id not in known
                )
                self._times.setdefault(here.finding_id, _Times(_changed_at(here), ""))

    def _store_time(self, identity: Identity) -> str:
        events = self._unit.events(self._project_id, identity.finding_id)
        return max([_changed_at(identity), *(time_key(event.at) for event in events)])

    def _read_events(self, events: Iterable[Event]) -> dict[str, str]:
        """Take the times of the backup's events; return what it purged, and when."""
        purged = {}
        for event in events:
            at, finding_id = time_key(event.at), event.finding_id
            if event.kind == "purge":
                purged[finding_id] = at
            times = self._times.get(finding_id)
            if times is not None and at > times.backup:
                self._times[finding_id] = times._replace(backup=at)
        return purged

    def _decide_winners(self) -> None:
        for finding_id, times in self._times.items():
            if finding_id in self._absent:
                if times.store >= times.backup:
                    self._leave_out("backup", finding_id, "purged later in the store")
            elif finding_id in self._fields and times.backup > times.store:
                self._plan.take.add(finding_id)

    def _decide_purges(self, purged: dict[str, str]) -> None:
        for finding_ids in batches(purged, BATCH):
            for finding_id, stored in self._unit.stored(self._project_id, finding_ids).items():
                if purged[finding_id] > self._store_time(stored.identity):
                    self._leave_out("store", finding_id, "purged later in the backup")

    def _decide_collisions(self) -> None:
        """Of two findings with one identity keep the newer, as long as both would be there."""
        plan, settled = self._plan, False
        while not settled:
            settled = True
            for here, (there, there_time, only_here) in self._collisions.items():
                here_stays = here not in plan.drop["backup"] and (here in plan.take or only_here)
                if not here_stays or there in plan.take or there in plan.drop["store"]:
                    continue
                settled = False
                if self._times[here].backup > there_time:
                    self._leave_out("store", there, f"has the identity of {here}, which is newer")
                else:
                    plan.take.discard(here)
                    self._leave_out("backup", here, f"has the identity of {there}, which is newer")
        for finding_id, names in self._fields.items():
            kept: Side = "backup" if finding_id in plan.take else "store"
            plan.conflicts.append(Conflict(self._project_id, finding_id, kept, f"differs in {names}"))

    def _leave_out(self, side: Side, finding_id: str, reason: str) -> None:
        self._plan.drop[side].add(finding_id)
        kept: Side = "backup" if side == "store" else "store"
        self._plan.conflicts.append(Conflict(self._project_id, finding_id, kept, f"left out: {reason}"))


def _changed_at(identity: Identity) -> str:
    return max(time_key(identity.last_seen), time_key(identity.closed_at or identity.last_seen))


def values_of(cursor: Cursor, project_id: str, section: str, decoder: Decoder) -> Iterator[Any]:
    """Yield runs, `Kept` findings, events or refused originals of a project of a backup."""
    for lines in batches(cursor.section(project_id, SECTIONS.index(section)), BATCH):
        yield from decoder.values(section, (line for _, line in lines))


def united_runs(store: list[Run], backup: list[Run]) -> tuple[list[Run], dict[int, int], dict[int, int]]:
    """Return the runs of both sides, each once, by their times as far as the order of each side allows; and the new
    numbers by the old ones of the store and of the backup."""
    ids = {run.id for run in store}
    shared = {run.id for run in backup} & ids
    united: list[Run] = []
    waiting = list(reversed(backup))
    left = {run.id for run in backup}

    def unite_next_waiting() -> None:
        one = waiting.pop()
        left.discard(one.id)
        if one.id not in shared:
            united.append(one)

    for run in store:
        while waiting and waiting[-1].id not in shared and _is_before(waiting[-1], run):
            unite_next_waiting()
        while run.id in left:
            unite_next_waiting()
        united.append(run)
    united += [run for run in reversed(waiting) if run.id not in shared]
    numbers = {run.id: number for number, run in enumerate(united, 1)}
    return (
        [replace(run, number=numbers[run.id]) for run in united],
        {run.number: numbers[run.id] for run in store},
        {run.number: numbers[run.id] for run in backup},
    )


def _is_before(one: Run, other: Run) -> bool:
    return time_key(one.started_at) < time_key(other.started_at)


# -- A backup merged into a project that exists: of each finding the newer one wins, runs and history are united


_Item = TypeVar("_Item")


class Merger:
    """Writes a project as its plan says, in place of the one that is there."""

    def __init__(self, store: Records, project_id: str, decoder: Decoder, plan: Plan) -> None:
        self._store = store
        self._project_id = project_id
        self._decoder = decoder
        self._plan = plan
        self._mapped = {side: _streak_mapper(numbers) for side, numbers in plan.numbers.items()}

    def write_project(self, out: Records, cursor: Cursor, created_at: str | None) -> dict[str, int]:
        """Write the project; return how many records of each section it has now."""
        revision = self._plan.revision + revision_step()
        out.delete_project(self._project_id)
        out.put_project(self._project_id, ProjectState(revision, created_at))
        made: list[tuple[str, Iterator[object]]] = [
            ("runs", iter(self._plan.runs)),
            ("findings", self._merged_findings(cursor)),
            ("events", self._merged_events(cursor)),
            ("rejected", self._merged_originals(cursor)),
        ]
        counts = {}
        for section, values in made:
            counts[section] = 0
            for batch in batches(values, BATCH):
                load_values(out, self._project_id, revision, section, batch)
                counts[section] += len(batch)
        return counts

    def _backup_values(self, cursor: Cursor, section: str) -> Iterator[Any]:
        return values_of(cursor, self._project_id, section, self._decoder)

    def _merged_findings(self, cursor: Cursor) -> Iterator[Kept]:
        store = (row for rows in self._store.all_findings(self._project_id) for row in rows)
        drop = self._plan.drop
        for theirs, ours in side_by_side(
            (row for row in store if row.identity.finding_id not in drop["store"]),
            (
                row
                for row in self._backup_values(cursor, "findings")
                if row.identity.finding_id not in drop["backup"]
            ),
            lambda row: row.identity.finding_id,
        ):
            yield self._unite_finding(theirs, ours)

    def _unite_finding(self, theirs: Kept | None, ours: Kept | None) -> Kept:
        """Return the version that wins, seen by the runs of both."""
        newer = ours if theirs is None or (ours and ours.identity.finding_id in self._plan.take) else theirs
        assert newer is not None  # noqa: S101  # nosec B101  # one of them is there
        seen = [*self._renumbered_streaks(theirs, "store"), *self._renumbered_streaks(ours, "backup")]
        *streaks, last = _join_streaks(seen) or [(0, 0)]
        both = [row.identity for row in (theirs, ours) if row]
        identity = newer.identity._replace(
            first_seen=min((one.first_seen for one in both), key=time_key),
            last_seen=latest_time(*(one.last_seen for one in both)),
            first_run=last[0],
            last_run=last[1],
        )
        return Kept(newer.document, identity, tuple(Streak(identity.finding_id, *one) for one in streaks))

    def _renumbered_streaks(self, row: Kept | None, side: Side) -> list[tuple[int, int]]:
        if row is None:
            return []
        streaks = [streak[1:] for streak in row.streaks]
        if row.identity.last_run:
            streaks.append((row.identity.first_run, row.identity.last_run))
        return [new for first, last in streaks for new in self._mapped[side](first, last)]

    def _merged_events(self, cursor: Cursor) -> Iterator[Event]:
        store = (event for events in self._store.all_events(self._project_id) for event in events)

        def group_by_finding(events: Iterable[Event]) -> Iterator[list[Event]]:
            return (list(group) for _, group in groupby(events, lambda event: event.finding_id))

        for theirs, ours in side_by_side(
            group_by_finding(store),
            group_by_finding(self._backup_values(cursor, "events")),
            lambda group: group[0].finding_id,
        ):
            yield from united_events(theirs or [], ours or [])

    def _merged_originals(self, cursor: Cursor) -> Iterator[RejectedOriginal]:
        store = (one for some in self._store.all_rejected(self._project_id) for one in some)
        for theirs, ours in side_by_side(
            store, self._backup_values(cursor, "rejected"), lambda one: one.rejected_id
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


def _streak_mapper(numbers: dict[int, int]) -> Callable[[int, int], list[tuple[int, int]]]:
    @lru_cache(4096)
    def map_streak(first: int, last: int) -> list[tuple[int, int]]:
        new = sorted(numbers[number] for number in range(first, last + 1) if number in numbers)
        return _join_streaks([(number, number) for number in new])

    return map_streak


def _join_streaks(streaks: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return streaks sorted, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(streaks):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return joined
