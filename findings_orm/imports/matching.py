"""The plan of an import as pure data: what is known + what comes in -> what changes.

One batch at a time. Every adapter uses this plan, so none of it talks to a database.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from findings_orm.clock import uuid7s
from findings_orm.finding import ACTIVE_STATUSES, STORE_FIELDS, FindingDocument, Objects, Status, StatusName
from findings_orm.fingerprint import VERSION, changed_fields
from findings_orm.port import Event
from findings_orm.query import latest_time
from findings_orm.records import Identity, Stored, Streak

ACTOR = "ingest"
NO_ID = "00000000-0000-0000-0000-000000000000"


class Incoming(NamedTuple):
    """A valid document of an import, with its identity and its position in the import.

    Its id is `NO_ID` where the report gave none; its `objects` are as in `Stored`.
    """

    position: int
    document: FindingDocument
    fingerprint: bytes
    line: int | None
    content: bytes
    has_id: bool
    objects: Objects | None = None


class Probe(NamedTuple):
    """A document of an import that was not validated yet.

    `plain` says whether its values are of exact, plain types (`content_of`). Its fingerprint is empty where it could not be
    told; its `content`, a digest as in `Identity`, where it has to be validated in any case.
    """

    position: int
    document: dict[str, Any]
    fingerprint: bytes
    line: int | None
    content: bytes
    plain: bool
    has_id: bool


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a plan has to know of the run.

    Attributes:
        run_id, number: the run, and its number in the project.
        previous: for each detector the number of the last run before that spoke for it.
        at: the time of the import.
    """

    run_id: str
    number: int
    previous: Mapping[str, int]
    at: str


@dataclass(slots=True)
class Changes:
    """What one batch does to the store, and how much of each."""

    insert: list[Stored] = field(default_factory=list)
    replace: list[Stored] = field(default_factory=list)
    reidentify: list[Identity] = field(default_factory=list)
    seen: list[Identity] = field(default_factory=list)
    streaks: list[Streak] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    deferred: list[Incoming] = field(default_factory=list)
    detectors: set[str] = field(default_factory=set)
    updated: int = 0
    unchanged: int = 0
    reopened: int = 0


Pair = tuple[Incoming, Identity]
Known = Mapping[bytes, Sequence[Identity]]
"""The stored identities by fingerprint."""


def recognise_probes(
    probes: Sequence[Probe], known: Known, run: RunContext, changes: Changes
) -> Iterator[Probe]:
    """Note what is to the last bit as it was taken in before, and yield everything else.

    Such a document was valid then, so it is now, and nothing of it is written: it needs no validation. Only the
    plain case is decided here, one document and one stored finding with a fingerprint that agree in everything.
    """
    copies = Counter(probe.fingerprint for probe in probes)
    for probe in probes:
        stored = known.get(probe.fingerprint, ())
        if len(stored) == 1 and probe.content and copies[probe.fingerprint] == 1:
            identity = stored[0]
            same = identity.content == probe.content and identity.line == probe.line
            if same and identity.last_run != run.number and identity.closed_as != Status.RESOLVED:
                changes.unchanged += 1
                changes.detectors.add(probe.document["detector_id"])
                _note_sighting(identity, run, probe.document["detector_id"], changes)
                continue
        yield probe


def plan_changes(
    incoming: Iterable[Incoming],
    known: Known,
    load: Callable[[Collection[str]], Mapping[str, Stored]],
    run: RunContext,
    changes: Changes,
    *,
    last: bool,
) -> None:
    """Add to `changes` what a batch changes.

    Args:
        incoming: the batch.
        known: every stored identity that has a fingerprint of the batch.
        load: returns stored findings by id.
        run: the run.
        changes: what is known of the batch so far.
        last: nothing comes after this batch. Before that, documents that may have a better partner in a
            later one are returned as `deferred`.
    """
    arrived: defaultdict[bytes, list[Incoming]] = defaultdict(list)
    for one in incoming:
        arrived[one.fingerprint].append(one)
    pairs: list[Pair] = []
    new: list[tuple[Incoming, int]] = []
    for digest, group in arrived.items():
        if digest not in known:
            new += [(one, ordinal) for ordinal, one in enumerate(group)]
            continue
        stored = sorted(known[digest], key=lambda identity: identity.ordinal)
        free = [identity for identity in stored if identity.last_run != run.number]
        paired, rest = _pair_findings(group, free, last=last)
        pairs += paired
        if rest and len(paired) < len(free):
            changes.deferred += rest
        else:
            ordinal = 1 + max(identity.ordinal for identity in stored)
            new += [(one, ordinal + n) for n, one in enumerate(rest)]
    ids = iter(uuid7s(sum(not one.has_id for one, _ in new)))
    changes.insert += [_make_finding(one, ordinal, run, ids) for one, ordinal in new]
    _merge_pairs(pairs, load, run, changes)


def _pair_findings(
    group: list[Incoming], free: list[Identity], *, last: bool
) -> tuple[list[Pair], list[Incoming]]:
    """Pair equal findings: by id, by line and content, by line, and at the end with the nearest line."""
    if len(group) == 1 and len(free) == 1 and (last or group[0].line == free[0].line):
        return [(group[0], free[0])], []
    if not free:
        return [], group
    pairs: list[Pair] = []
    ambiguous = not last and len(free) > 1
    for rule in (_same_id, _same_content) if ambiguous else (_same_id, _same_content, _same_line):
        group, free = _take_pairs(group, free, rule, pairs)
    if last and group and free:
        group = _pair_nearest(group, free, pairs)
    return pairs, group


def _same_id(one: Incoming | Identity) -> object:
    if isinstance(one, Identity):
        return one.finding_id
    return one.document["id"] if one.has_id else None


def _same_content(one: Incoming | Identity) -> object:
    return one.line, one.content


def _same_line(one: Incoming | Identity) -> object:
    return (one.line,)


def _take_pairs(
    group: list[Incoming],
    free: list[Identity],
    key: Callable[[Incoming | Identity], object],
    pairs: list[Pair],
) -> tuple[list[Incoming], list[Identity]]:
    """Move the pairs that agree in `key` to `pairs`; return what is left of both sides."""
    by_key: defaultdict[object, list[Identity]] = defaultdict(list)
    for identity in reversed(free):
        by_key[key(identity)].append(identity)
    rest = []
    for one in group:
        found = by_key.get(key(one))
        if found:
            pairs.append((one, found.pop()))
        else:
            rest.append(one)
    taken = {identity.ordinal for _, identity in pairs}
    return rest, [identity for identity in free if identity.ordinal not in taken]


def _pair_nearest(group: list[Incoming], free: list[Identity], pairs: list[Pair]) -> list[Incoming]:
    """Pair by the smallest distance of lines and return who found no partner.

    Both sides in the order of their lines, an alignment that keeps this order has the smallest sum of
    distances; of several with that sum, the one with the closest single pairs is not searched for.
    """
    group = sorted(group, key=lambda one: (one.line is None, one.line or 0, one.position))
    free = sorted(free, key=lambda one: (one.line is None, one.line or 0, one.ordinal))
    few, many, swapped = (group, free, False) if len(group) <= len(free) else (free, group, True)
    chosen = _align_lines([one.line or 0 for one in few], [one.line or 0 for one in many])
    for position, other in enumerate(chosen):
        a, b = few[position], many[other]
        pairs.append((b, a) if swapped else (a, b))  # type: ignore[arg-type]  # one of each, by `swapped`
    if not swapped:
        return []
    taken = set(chosen)
    return [one for n, one in enumerate(group) if n not in taken]


_ALIGN_LIMIT = 1_000_000


def _align_lines(few: list[int], many: list[int]) -> list[int]:
    """Return for each of `few` the position of its partner in `many`; both sorted, `few` not longer.

    Dynamic programming over (few by spare partners); where that table would be huge, the first free partner
    that is not further away than the next one.
    """
    spare = len(many) - len(few)
    if spare == 0:
        return list(range(len(few)))
    if len(few) * spare > _ALIGN_LIMIT:
        return _align_greedily(few, many)
    cost = [0] * (spare + 1)
    moves: list[list[bool]] = []
    for n, line in enumerate(few):
        row: list[int] = []
        skipped: list[bool] = []
        for s in range(spare + 1):
            here = cost[s] + abs(line - many[n + s])
            skip = s > 0 and row[s - 1] <= here
            row.append(row[s - 1] if skip else here)
            skipped.append(skip)
        cost = row
        moves.append(skipped)
    chosen = []
    s = spare
    for n in range(len(few) - 1, -1, -1):
        while moves[n][s]:
            s -= 1
        chosen.append(n + s)
    return chosen[::-1]


def _align_greedily(few: list[int], many: list[int]) -> list[int]:
    chosen = []
    position = 0
    for n, line in enumerate(few):
        end = len(many) - (len(few) - n)
        while position < end and abs(many[position + 1] - line) <= abs(many[position] - line):
            position += 1
        chosen.append(position)
        position += 1
    return chosen


def _make_finding(one: Incoming, ordinal: int, run: RunContext, ids: Iterator[str]) -> Stored:
    if not one.has_id:
        one.document["id"] = next(ids)
    status = one.document["status"]
    closed = status not in ACTIVE_STATUSES
    identity = Identity(
        one.document["id"],
        one.fingerprint,
        ordinal,
        VERSION,
        one.content,
        status,
        one.line,
        run.at,
        run.at,
        run.number,
        run.number,
        status if closed else None,
        run.at if closed else None,
    )
    return Stored(one.document, identity, one.objects)


def _merge_pairs(
    pairs: list[Pair],
    load: Callable[[Collection[str]], Mapping[str, Stored]],
    run: RunContext,
    changes: Changes,
) -> None:
    """Sort known findings into seen again, changed and reopened; only those that may have changed are loaded."""
    to_load = []
    for one, identity in pairs:
        if one.content == identity.content and identity.closed_as != Status.RESOLVED:
            changes.unchanged += 1
            _note_sighting(identity, run, one.document["detector_id"], changes)
        else:
            to_load.append((one, identity))
    if not to_load:
        return
    loaded = load([identity.finding_id for _, identity in to_load])
    for one, identity in to_load:
        _merge_pair(one, loaded[identity.finding_id]._replace(identity=identity), run, changes)


def _note_sighting(identity: Identity, run: RunContext, detector_id: str, changes: Changes) -> None:
    if identity.last_run and identity.last_run == run.previous.get(detector_id):
        changes.seen.append(identity)
    else:
        changes.reidentify.append(_resighted_identity(identity, run, detector_id, changes))


def _resighted_identity(identity: Identity, run: RunContext, detector_id: str, changes: Changes) -> Identity:
    """Return the identity as seen by this run; a streak that other runs broke is put aside."""
    unbroken = identity.last_run and identity.last_run == run.previous.get(detector_id)
    if identity.last_run and not unbroken:
        changes.streaks.append(Streak(identity.finding_id, identity.first_run, identity.last_run))
    first = identity.first_run if unbroken else run.number
    return identity._replace(
        last_seen=latest_time(run.at, identity.last_seen), first_run=first, last_run=run.number
    )


def _merge_pair(one: Incoming, stored: Stored, run: RunContext, changes: Changes) -> None:
    old, identity, *_ = stored
    at = stored.not_before(run.at)
    status = _next_status(old["status"], one.document["status"], identity.reported)
    stored_values: Mapping[str, object] = old
    kept: Any = {name: stored_values[name] for name in STORE_FIELDS}
    document: FindingDocument = {**one.document, **kept, "status": status}
    changed = changed_fields(old, document)
    identity = _resighted_identity(identity, run, document["detector_id"], changes)
    identity = identity._replace(content=one.content, reported=one.document["status"], line=one.line)
    if not changed:
        changes.unchanged += 1
        changes.reidentify.append(identity)
        return
    if "status" in changed:
        identity = with_status(identity, status, at)
    if old["status"] == "resolved" and status in ACTIVE_STATUSES:
        changes.reopened += 1
    else:
        changes.updated += 1
    changes.events += events_of(document["id"], changed, at, ACTOR, run_id=run.run_id)
    changes.replace.append(Stored(document, identity))


def _next_status(stored: StatusName, incoming: StatusName, reported: str) -> StatusName:
    if stored == "resolved":
        return incoming
    if stored in ACTIVE_STATUSES and incoming not in (reported, "open"):
        return incoming
    return stored


def with_status(identity: Identity, status: str, at: str) -> Identity:
    """Return the identity of a finding that has got `status` at a time."""
    closed = status not in ACTIVE_STATUSES
    return identity._replace(closed_as=status if closed else None, closed_at=at if closed else None)


def events_of(
    finding_id: str,
    changed: Mapping[str, list[object]],
    at: str,
    actor: str,
    *,
    comment: str = "",
    run_id: str | None = None,
) -> list[Event]:
    """Return the history entries of a change: one for the status, one for all other fields."""
    events = []
    other = {name: both for name, both in changed.items() if name != "status"}
    if other:
        events.append(Event(finding_id, at, actor, "change", other, "", run_id))
    if "status" in changed:
        events.append(Event(finding_id, at, actor, "status", {"status": changed["status"]}, comment, run_id))
    return events
