"""The plan of an import as pure data: what is known + what comes in -> what changes.

One batch at a time. Every adapter uses this plan, so none of it talks to a database.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from findings_orm.clock import uuid7s
from findings_orm.finding import (
    ACTIVE_STATUSES,
    DECISIONS,
    STORE_FIELDS,
    FindingDocument,
    Objects,
    Status,
    StatusName,
)
from findings_orm.fingerprint import VERSION, changed_fields, fingerprint, says_as_much, without_line
from findings_orm.imports.alignment import Level, Place, pair_files, pair_places
from findings_orm.imports.renames import correlation_of, former_rules
from findings_orm.imports.scopes import Scope, scope_of
from findings_orm.port import Event
from findings_orm.query import latest_time
from findings_orm.records import Identity, Stored, Streak

_T = TypeVar("_T")

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
        latest: for each scope the number of the last run before that spoke for it.
        category: that of all documents, ``""`` where they say it.
    """

    run_id: str
    number: int
    previous: Mapping[str, int]
    at: str
    latest: Mapping[Scope, int]
    category: str

    def scope_of(self, document: Mapping[str, Any]) -> Scope:
        """Return what the run is complete for, of which a document is a part."""
        return scope_of(document, self.category)


@dataclass(slots=True)
class Changes:
    """What one batch does to the store, and how much of each; `content` is the sum of the digests of what was recognised."""

    insert: list[Stored] = field(default_factory=list)
    replace: list[Stored] = field(default_factory=list)
    reidentify: list[Identity] = field(default_factory=list)
    seen: list[Identity] = field(default_factory=list)
    streaks: list[Streak] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    deferred: list[Incoming] = field(default_factory=list)
    scopes: set[Scope] = field(default_factory=set)
    updated: int = 0
    unchanged: int = 0
    reopened: int = 0
    content: int = 0


class Pair(NamedTuple):
    """A document that is a known finding, and how that was told."""

    one: Incoming
    identity: Identity
    level: Level


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
                changes.content += int.from_bytes(probe.content)
                changes.scopes.add(run.scope_of(probe.document))
                _note_sighting(identity, run, probe.document["detector_id"], changes)
                continue
        yield probe


def plan_changes(
    incoming: Iterable[Incoming],
    known: Known,
    load: Callable[[Collection[str]], Mapping[str, Stored]],
    load_missing: Callable[[Collection[Scope]], Iterable[Past]],
    run: RunContext,
    changes: Changes,
    *,
    last: bool,
    complete: bool,
) -> None:
    """Add to `changes` what a batch changes.

    Args:
        incoming: the batch.
        known: every stored identity that has a fingerprint of the batch.
        load: returns stored findings by id.
        load_missing: returns what the last reports of some scopes had, and this one has not so far.
        run: the run.
        changes: what is known of the batch so far.
        last: nothing comes after this batch. Before that, documents that may have a better partner in a
            later one are returned as `deferred`.
        complete: what the report does not have is no longer there.
    """
    arrived: defaultdict[bytes, list[Incoming]] = defaultdict(list)
    for one in incoming:
        arrived[one.fingerprint].append(one)
    pairer = _Pairer()
    new: list[Incoming] = []
    unknown: list[Incoming] = []
    unsettled: list[Incoming] = []
    candidates: list[Identity] = []
    for digest, group in arrived.items():
        free = [identity for identity in known.get(digest, ()) if identity.last_run != run.number]
        rest, free = _settle_equals(group, free, pairer.pairs, last=last)
        if not free:
            (
                unknown if digest not in known and run.scope_of(group[0].document) in run.latest else new
            ).extend(rest)
        else:
            unsettled += rest
            candidates += free
    if last:
        if unsettled:
            ids_in_order = [one.finding_id for one in sorted(candidates, key=_rank_identity)]
            loaded = load(ids_in_order)
            new += pairer.pair_equals(unsettled, [recall_place(loaded[one]) for one in ids_in_order])
        if unknown:
            paired = {pair.identity.finding_id for pair in pairer.pairs}
            scopes = {run.scope_of(one.document) for one in unknown}
            gone = [past for past in load_missing(scopes) if past.identity.finding_id not in paired]
            gone.sort(key=lambda past: _rank_identity(past.identity))
            new += pairer.pair_changed(unknown, gone, complete=complete)
    else:
        changes.deferred += unsettled + unknown
    ids = iter(uuid7s(sum(not one.has_id for one in new)))
    ordinals = {digest: _next_ordinal(known.get(digest, ())) for digest in arrived}
    for one in sorted(new, key=lambda one: one.position):
        changes.insert.append(_make_finding(one, ordinals[one.fingerprint], run, ids))
        ordinals[one.fingerprint] += 1
        if one.position in pairer.doubts:
            changes.events.append(_doubt_of(one.document["id"], pairer.doubts[one.position], run))
    _merge_pairs(pairer.pairs, ordinals, load, run, changes)


def _rank_identity(identity: Identity) -> tuple[bytes, int]:
    """Return what puts identities into one order, whatever that of a store is: of equals the first one is taken."""
    return identity.fingerprint, identity.ordinal


def _next_ordinal(stored: Iterable[Identity]) -> int:
    return 1 + max((identity.ordinal for identity in stored), default=-1)


def _settle_equals(
    group: list[Incoming], free: list[Identity], pairs: list[Pair], *, last: bool
) -> tuple[list[Incoming], list[Identity]]:
    """Pair equal findings where nothing is open: those with the same id, one with one, and what did not change at all. Return
    what is left of both sides."""
    if not free:
        return group, free
    group, free = _take_pairs(group, free, _same_id, pairs)
    if len(group) == 1 and len(free) == 1 and (last or group[0].line == free[0].line):
        pairs.append(Pair(group[0], free[0], _level_of_line(group[0], free[0])))
        return [], []
    if len(group) == len(free) and Counter(map(_same_content, group)) == Counter(map(_same_content, free)):
        return _take_pairs(group, free, _same_content, pairs)
    return group, free


def _level_of_line(one: Incoming, identity: Identity) -> Level:
    return Level.EXACT if one.line == identity.line else Level.MOVED


def _same_id(one: Incoming | Identity) -> object:
    if isinstance(one, Identity):
        return one.finding_id
    return one.document["id"] if one.has_id else None


def _same_content(one: Incoming | Identity) -> object:
    return one.line, one.content


def _take_pairs(
    group: list[Incoming],
    free: list[Identity],
    key: Callable[[Incoming | Identity], object],
    pairs: list[Pair],
) -> tuple[list[Incoming], list[Identity]]:
    """Move the pairs that agree in `key` to `pairs`; return what is left of both sides."""
    by_key: defaultdict[object, list[Identity]] = defaultdict(list)
    for identity in sorted(free, key=lambda identity: identity.ordinal, reverse=True):
        by_key[key(identity)].append(identity)
    rest = []
    taken = set()
    for one in group:
        found = by_key.get(key(one))
        if found:
            identity = found.pop()
            taken.add(identity.ordinal)
            pairs.append(Pair(one, identity, Level.EXACT))
        else:
            rest.append(one)
    return rest, [identity for identity in free if identity.ordinal not in taken]


class Past(NamedTuple):
    """What a finding of the store is compared by with what comes."""

    identity: Identity
    status: StatusName
    file: str
    place: Place
    correlation: str | None


def recall_place(stored: Stored, *, by_rule: bool = False) -> Past:
    """Return what a stored finding is compared by; what has its rule instead of its fingerprint may be it if `by_rule`."""
    document, identity, *_ = stored
    group = _rule_of(document, document["rule_id"]) if by_rule else identity.fingerprint
    place = _place_of(document, group, identity.line)
    return Past(identity, document["status"], name_file(document), place, correlation_of(document))


Partners = list[tuple[Incoming, Place]]


class _Pairer:
    """Pairs what comes with what may be it, file by file, and then across files.

    Attributes:
        pairs: what was paired.
        doubts: what may be a finding that somebody decided about, by the position of the document: such a decision is not
            handed on where another one could as well be meant.
    """

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self.doubts: dict[int, Past] = {}

    def pair_equals(self, unsettled: list[Incoming], before: list[Past]) -> list[Incoming]:
        """Pair what has the same fingerprint; what has a text of its own may have gone to another file. Return what is new."""
        olds = _group_by_file((past.file, past) for past in before)
        news = _group_by_file(
            (name_file(one.document), (one, _place_of(one.document, one.fingerprint, one.line)))
            for one in unsettled
        )
        new: list[Incoming] = []
        left: list[Past] = []
        here: Partners = []
        for name in [*news, *(name for name in olds if name not in news)]:
            gone, came = self._pair_file(olds.get(name, []), news.get(name, []))
            left += [past for past in gone if past.place.distinct]
            here += [partner for partner in came if partner[1].distinct]
            new += [one for one, place in came if not place.distinct]
        return new + [one for one, _ in self._pair_file(left, here)[1]]

    def pair_changed(self, unknown: list[Incoming], missing: list[Past], *, complete: bool) -> list[Incoming]:
        """Pair what has another fingerprint than before: its text changed, or its rule or its file has another name. Return
        what is new.

        The tool's own word and the fingerprint under a former name of the rule come first. Of the rest only what stands
        in a line is compared: of anything else nothing but its fingerprint says where it is. A file is gone only where the
        report is a complete one; another may be of another folder, with files of the same name.
        """
        unknown, missing = self._pair_proven(unknown, missing, _prove_by_correlation)
        unknown, missing = self._pair_proven(unknown, missing, _prove_by_former_rule)
        rules = {past.place.group for past in missing}
        olds = _group_by_file((past.file, past) for past in missing if past.place.line)
        news = _group_by_file(
            (
                name_file(one.document),
                (one, _place_of(one.document, _known_rule_of(one.document, rules), one.line)),
            )
            for one in unknown
            if one.line
        )
        for name in sorted(olds.keys() & news.keys()):
            olds[name], news[name] = self._pair_file(olds[name], news[name], is_identity=False)
        if complete:
            before = {name: [past.place for past in found] for name, found in olds.items()}
            now = {name: [place for _, place in found] for name, found in news.items()}
            for old, name in pair_files(before, now):
                news[name] = self._pair_file(olds[old], news[name], is_identity=False, renamed=True)[1]
        return [one for one in unknown if not one.line] + [one for found in news.values() for one, _ in found]

    def _pair_proven(
        self,
        unknown: list[Incoming],
        missing: list[Past],
        prove: Callable[[Incoming | Past], Iterable[object]],
    ) -> tuple[list[Incoming], list[Past]]:
        """Pair what has a proof that no other one has on its side; return what is left of both sides."""
        before: defaultdict[object, list[Past]] = defaultdict(list)
        for past in missing:
            for proof in prove(past):
                before[proof].append(past)
        now: defaultdict[object, list[Incoming]] = defaultdict(list)
        for one in unknown if before else ():
            for proof in prove(one):
                now[proof].append(one)
        positions: set[int] = set()
        found: set[str] = set()
        for proof, ones in now.items():
            pasts = before.get(proof, ())
            if len(ones) == len(pasts) == 1 and ones[0].position not in positions:
                identity = pasts[0].identity
                if identity.finding_id not in found:
                    self.pairs.append(Pair(ones[0], identity, _level_of_line(ones[0], identity)))
                    positions.add(ones[0].position)
                    found.add(identity.finding_id)
        return (
            [one for one in unknown if one.position not in positions],
            [past for past in missing if past.identity.finding_id not in found],
        )

    def _pair_file(
        self, there: list[Past], here: Partners, *, is_identity: bool = True, renamed: bool = False
    ) -> tuple[list[Past], Partners]:
        """Pair the findings of a file; return what is left of both sides."""
        found = pair_places(
            [past.place for past in there], [place for _, place in here], is_identity=is_identity
        )
        old, new = {each.before: each for each in found}, {each.now: each for each in found}
        for before, now, level, doubtful in found:
            past, (one, _) = there[before], here[now]
            if doubtful:
                self.doubts[one.position] = past
            else:
                self.pairs.append(Pair(one, past.identity, Level.RENAMED if renamed else level))
        return (
            [past for n, past in enumerate(there) if n not in old],
            [partner for n, partner in enumerate(here) if n not in new or new[n].doubtful],
        )


def _group_by_file(named: Iterable[tuple[str, _T]]) -> dict[str, list[_T]]:
    groups: defaultdict[str, list[_T]] = defaultdict(list)
    for name, one in named:
        groups[name].append(one)
    return dict(groups)


def name_file(document: FindingDocument) -> str:
    """Return the file, or what else a finding is in."""
    location = document["location"]
    path = location.get("path") if location else None
    return path or without_line(document["resource"])[0]


def _rule_of(document: FindingDocument, rule: str | None) -> bytes:
    return json.dumps([document["detector_id"], rule, rule or document["title"]]).encode()


def _known_rule_of(document: FindingDocument, known: Collection[bytes]) -> bytes:
    """Return the rule, by a former name where the findings before have only that."""
    own = _rule_of(document, document["rule_id"])
    if own in known:
        return own
    former = (_rule_of(document, name) for name in former_rules(document))
    return next((rule for rule in former if rule in known), own)


def _prove_by_correlation(one: Incoming | Past) -> Iterator[object]:
    guid = one.correlation if isinstance(one, Past) else correlation_of(one.document)
    if guid:
        yield guid


def _prove_by_former_rule(one: Incoming | Past) -> Iterator[object]:
    if isinstance(one, Past):
        yield one.identity.fingerprint
    elif not one.document["fingerprint"]:
        for name in former_rules(one.document):
            yield fingerprint({**one.document, "rule_id": name}).digest


def _place_of(document: FindingDocument, group: bytes, line: int | None) -> Place:
    location: Any = document["location"] or {}
    message, snippet = document["evidence"].get("message"), location.get("snippet") or ""
    return Place(
        group,
        message if isinstance(message, str) else document["title"],
        " ".join(snippet.split()),
        line or 0,
        location.get("start_column") or 0,
        bool(document["fingerprint"] or snippet),
        document["status"] in DECISIONS,
    )


def _doubt_of(finding_id: str, old: Past, run: RunContext) -> Event:
    """Return the history entry of a new finding that may be one that somebody decided about."""
    known = old.identity.finding_id
    comment = (
        f"may be {known}, which is {old.status}: another one could as well be, so that is not taken over"
    )
    return Event(finding_id, run.at, ACTOR, "comment", {}, comment, run.run_id)


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
    ordinals: dict[bytes, int],
    load: Callable[[Collection[str]], Mapping[str, Stored]],
    run: RunContext,
    changes: Changes,
) -> None:
    """Sort known findings into seen again, changed and reopened; only those that may have changed are loaded. What has another
    fingerprint now gets it, with the next of its `ordinals`."""
    to_load = []
    for one, identity, level in pairs:
        if one.fingerprint != identity.fingerprint:
            ordinal = ordinals[one.fingerprint]
            ordinals[one.fingerprint] += 1
            renewed = identity._replace(fingerprint=one.fingerprint, ordinal=ordinal, version=VERSION)
            to_load.append((one, renewed, level))
        elif one.content == identity.content and identity.closed_as != Status.RESOLVED:
            changes.unchanged += 1
            _note_sighting(identity, run, one.document["detector_id"], changes)
        else:
            to_load.append((one, identity, level))
    if not to_load:
        return
    loaded = load([identity.finding_id for _, identity, _ in to_load])
    for one, identity, level in to_load:
        _merge_pair(one, loaded[identity.finding_id], identity, level, run, changes)


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


def _merge_pair(
    one: Incoming, stored: Stored, identity: Identity, level: Level, run: RunContext, changes: Changes
) -> None:
    old = stored.document
    has_new_fingerprint = identity.fingerprint != stored.identity.fingerprint
    at = stored.not_before(run.at)
    status = _next_status(old["status"], one.document, identity.reported)
    stored_values: Mapping[str, object] = old
    kept: Any = {name: stored_values[name] for name in STORE_FIELDS}
    document: FindingDocument = {**one.document, **kept, "status": status}
    changed = changed_fields(old, document)
    if "evidence" in changed and says_as_much(old["evidence"], document["evidence"], document["provenance"]):
        del changed["evidence"]
    identity = _resighted_identity(identity, run, document["detector_id"], changes)
    identity = identity._replace(content=one.content, reported=one.document["status"], line=one.line)
    if not changed:
        changes.unchanged += 1
        if has_new_fingerprint:
            changes.replace.append(Stored(document, identity))
        else:
            changes.reidentify.append(identity)
        return
    if "status" in changed:
        identity = with_status(identity, status, at)
    if old["status"] == "resolved" and status in ACTIVE_STATUSES:
        changes.reopened += 1
    else:
        changes.updated += 1
    how = "" if level is Level.EXACT else f"recognised: {level}"
    changes.events += events_of(document["id"], changed, at, ACTOR, comment_of_change=how, run_id=run.run_id)
    changes.replace.append(Stored(document, identity))


def _next_status(stored: StatusName, document: FindingDocument, reported: str) -> StatusName:
    incoming = document["status"]
    if stored == "resolved":
        return incoming
    if stored in ACTIVE_STATUSES and incoming not in (reported, "open"):
        return incoming
    # The report had suppressed it, and says now that it does not (SARIF 2.1.0, 3.27.23); a person's decision is another status.
    result = document["evidence"].get("sarif")
    if (
        stored == reported
        and incoming in ACTIVE_STATUSES
        and isinstance(result, dict)
        and "suppressions" in result
    ):
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
    comment_of_change: str = "",
    run_id: str | None = None,
) -> list[Event]:
    """Return the history entries of a change: one for the status, one for all other fields."""
    events = []
    other = {name: both for name, both in changed.items() if name != "status"}
    if other:
        events.append(Event(finding_id, at, actor, "change", other, comment_of_change, run_id))
    if "status" in changed:
        events.append(Event(finding_id, at, actor, "status", {"status": changed["status"]}, comment, run_id))
    return events
