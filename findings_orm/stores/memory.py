"""Findings in memory: the readable reference of what every adapter means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, cast

from pydantic_core import to_json

from findings_orm.clock import first_revision, revision_step
from findings_orm.diagnosis import CLOSED_UNEQUALLY, Survey
from findings_orm.errors import StorageConflictError, StorageValidationError
from findings_orm.finding import ACTIVE_STATUSES, FindingDocument
from findings_orm.port import Event, RejectedOriginal, Run
from findings_orm.process import block, survives_fork
from findings_orm.query import FindingQuery, Summary, latest_time, matches, time_key
from findings_orm.records import (
    Advance,
    Identity,
    Kept,
    ProjectState,
    Receipt,
    Records,
    StatusChange,
    Stored,
    Streak,
    Unseen,
    batches,
)
from findings_orm.secrecy import shown_url
from findings_orm.store import Store
from findings_orm.units import Turn

_BATCH = 1_000


def clone_json(value: Any) -> Any:
    """Return a copy of a JSON value that shares nothing that can change with it."""
    if type(value) is dict:
        return {key: clone_json(inner) for key, inner in value.items()}
    if type(value) is list:
        return [clone_json(inner) for inner in value]
    return value


def identity_seen_at(identity: Identity, at: str, run: int) -> Identity:
    """Return an identity as seen by a run at a time: see `Records.seen`."""
    return identity._replace(last_seen=latest_time(at, identity.last_seen), last_run=run)


@dataclass(slots=True)
class Project:
    """Everything of one project. Values inside the dictionaries are replaced, never changed."""

    revision: int = 0
    findings: dict[str, Stored] = field(default_factory=dict)
    by_fingerprint: dict[bytes, tuple[str, ...]] = field(default_factory=dict)
    streaks: dict[str, tuple[Streak, ...]] = field(default_factory=dict)
    events: dict[str, tuple[Event, ...]] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    rejected: dict[str, RejectedOriginal] = field(default_factory=dict)
    receipts: dict[int, Receipt] = field(default_factory=dict)

    def copy(self) -> Project:
        """Return a copy that later changes of this one don't touch."""
        parts = {each.name: copy(getattr(self, each.name)) for each in fields(self)}
        return Project(**parts)


State = MutableMapping[str, Project]


class MemoryRecords(Records):
    """`Records` over dictionaries. Whose turn it is to change them, the store decides."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._own: set[str] | None = None

    # -- undo -----------------------------------------------------------------------------------------------

    @block
    def savepoint(self) -> Iterator[None]:
        """See `Records.savepoint`. The block works on copies; one assignment keeps or drops them."""
        state, own = self.state, self._own
        self.state, self._own = copy(state), set()
        try:
            yield
        except BaseException:
            self.state, self._own = state, own
            raise
        if own is not None:
            self._own |= own

    def _make_changeable(self, project_id: str) -> None:
        """Make a project one that may be changed: inside of `savepoint`, a copy."""
        if self._own is None or project_id in self._own:
            return
        project = self.state.get(project_id)
        if project is not None:
            self.state[project_id] = project.copy()
        self._own.add(project_id)

    # -- write ----------------------------------------------------------------------------------------------

    def advance(self, project_id: str, at: str) -> Advance:
        """See `Records.advance`."""
        before = self.revision(project_id)
        return Advance(before, self.advance_to(project_id, self._next_revision(project_id)))

    def _next_revision(self, project_id: str) -> int:
        project = self.state.get(project_id)
        return project.revision + revision_step() if project else first_revision()

    def advance_to(self, project_id: str, revision: int) -> int:
        """Make the project if it is new, and give it a revision; return that."""
        self._make_changeable(project_id)
        project = self.state.setdefault(project_id, Project())
        project.revision = revision
        return revision

    def put_project(self, project_id: str, state: ProjectState) -> None:
        """See `Records.put_project`."""
        if project_id in self.state:
            raise StorageConflictError(f"there is a project {project_id!r} already")
        self._make_changeable(project_id)
        self.state[project_id] = Project(state.revision)

    def move_to(self, project_id: str, revision: int) -> int:
        """See `Records.move_to`."""
        before = self.revision(project_id)
        self.advance_to(project_id, revision)
        return before

    def insert(self, project_id: str, rows: Sequence[Stored]) -> None:
        """See `Records.insert`."""
        project = self.state[project_id]
        for document, identity, *_ in rows:
            if identity.finding_id in project.findings:
                raise StorageConflictError(
                    f"project {project_id!r} has a finding {identity.finding_id} already"
                )
            project.findings[identity.finding_id] = Stored(document, identity)
            _index_identity(project, identity)

    def replace(self, project_id: str, rows: Sequence[Stored]) -> None:
        """See `Records.replace`."""
        project = self.state[project_id]
        for document, identity, *_ in rows:
            _unindex_identity(project, project.findings[identity.finding_id].identity)
            project.findings[identity.finding_id] = Stored(document, identity)
            _index_identity(project, identity)

    def reidentify(self, project_id: str, identities: Sequence[Identity]) -> None:
        """See `Records.reidentify`."""
        findings = self.state[project_id].findings
        for identity in identities:
            findings[identity.finding_id] = findings[identity.finding_id]._replace(identity=identity)

    def seen(self, project_id: str, identities: Sequence[Identity], at: str, run: int) -> None:
        """See `Records.seen`."""
        self.reidentify(project_id, [identity_seen_at(one, at, run) for one in identities])

    def seen_again(self, project_id: str, last_run: int, at: str, run: int) -> None:
        """See `Records.seen_again`."""
        findings = self.state[project_id].findings.values()
        identities = [one.identity for one in findings if one.identity.last_run == last_run]
        self.seen(project_id, identities, at, run)

    def change_status(self, project_id: str, changes: Sequence[StatusChange]) -> None:
        """See `Records.change_status`."""
        findings = self.state[project_id].findings
        for finding_id, status, closed_as, closed_at in changes:
            document, identity, *_ = findings[finding_id]
            findings[finding_id] = Stored(
                {**document, "status": status}, identity._replace(closed_as=closed_as, closed_at=closed_at)
            )

    def remove(self, project_id: str, finding_ids: Sequence[str]) -> None:
        """See `Records.remove`."""
        project = self.state[project_id]
        for finding_id in finding_ids:
            _unindex_identity(project, project.findings.pop(finding_id).identity)
            project.streaks.pop(finding_id, None)

    def add_streaks(self, project_id: str, streaks: Sequence[Streak]) -> None:
        """See `Records.add_streaks`."""
        kept = self.state[project_id].streaks
        for streak in streaks:
            kept[streak.finding_id] = (*kept.get(streak.finding_id, ()), streak)

    def add_events(self, project_id: str, revision: int, events: Sequence[Event]) -> None:
        """See `Records.add_events`."""
        kept = self.state[project_id].events
        for event in events:
            kept[event.finding_id] = (*kept.get(event.finding_id, ()), event)

    def put_run(self, project_id: str, run: Run, receipt: Receipt | None = None) -> None:
        """See `Records.put_run`."""
        self.state[project_id].runs[run.id] = run
        if receipt:
            self.state[project_id].receipts[run.number] = receipt

    def put_rejected(self, project_id: str, originals: Sequence[RejectedOriginal]) -> None:
        """See `Records.put_rejected`."""
        kept = self.state[project_id].rejected
        for original in originals:
            kept[original.rejected_id] = original

    def remove_rejected(self, project_id: str, rejected_ids: Sequence[str]) -> int:
        """See `Records.remove_rejected`."""
        kept = self.state[project_id].rejected
        return sum(kept.pop(rejected_id, None) is not None for rejected_id in set(rejected_ids))

    def delete_project(self, project_id: str) -> None:
        """See `Records.delete_project`."""
        self._make_changeable(project_id)
        self.state.pop(project_id, None)

    # -- read -----------------------------------------------------------------------------------------------

    def _get_project(self, project_id: str) -> Project:
        return self.state.get(project_id) or Project()

    def projects(self) -> list[str]:
        """See `Records.projects`."""
        return sorted(self.state)

    def revision(self, project_id: str) -> int:
        """See `Records.revision`."""
        return self._get_project(project_id).revision

    def stored(self, project_id: str, finding_ids: Collection[str]) -> dict[str, Stored]:
        """See `Records.stored`."""
        findings = self._get_project(project_id).findings
        return {
            finding_id: self._with_last_event(project_id, findings[finding_id])
            for finding_id in finding_ids
            if finding_id in findings
        }

    def _with_last_event(self, project_id: str, found: Stored) -> Stored:
        return found._replace(last_event=self.last_event(project_id, found.identity.finding_id))

    def last_event(self, project_id: str, finding_id: str) -> str | None:
        """Return the time of the last entry in the history of a finding."""
        events = self._get_project(project_id).events.get(finding_id)
        return events[-1].at if events else None

    def get(self, project_id: str, finding_id: str) -> FindingDocument | None:
        """See `Records.get`."""
        found = self._get_project(project_id).findings.get(finding_id)
        return clone_json(found.document) if found else None

    def identities(self, project_id: str, fingerprints: Collection[bytes]) -> list[Identity]:
        """See `Records.identities`."""
        project = self._get_project(project_id)
        return [
            project.findings[finding_id].identity
            for digest in fingerprints
            for finding_id in project.by_fingerprint.get(digest, ())
        ]

    def unseen(
        self,
        project_id: str,
        detectors: Collection[str],
        run: int,
        statuses: Collection[str],
        held: Collection[int] = (),
        own: Collection[int] = (),
    ) -> Iterator[list[Unseen]]:
        """See `Records.unseen`."""
        project = self._get_project(project_id)
        found = [
            Unseen(
                identity.finding_id,
                document["status"],
                identity.last_seen,
                self.last_event(project_id, identity.finding_id),
                identity.last_run,
                any(_was_seen(project, identity, number) for number in own),
            )
            for document, identity, *_ in project.findings.values()
            if identity.last_run < run
            and document["detector_id"] in detectors
            and document["status"] in statuses
            and not any(_was_seen(project, identity, number) for number in held)
        ]
        yield from batches(sorted(found), _BATCH)

    def seen_in(self, project_id: str, run: Run) -> set[str]:
        """See `Records.seen_in`."""
        project = self._get_project(project_id)
        return {
            identity.finding_id
            for document, identity, *_ in project.findings.values()
            if document["detector_id"] in run.detectors and _was_seen(project, identity, run.number)
        }

    def closed_before(self, project_id: str, time: str, limit: int) -> list[Stored]:
        """See `Records.closed_before`."""
        found = [
            (time_key(one.identity.closed_at), one.identity.finding_id, one)
            for one in self._get_project(project_id).findings.values()
            if one.identity.closed_at is not None and time_key(one.identity.closed_at) < time_key(time)
        ]
        first = sorted(found, key=lambda row: row[:2])[:limit]
        return [self._with_last_event(project_id, one) for _, _, one in first]

    def count_closed_before(self, project_id: str, time: str) -> int:
        """See `Records.count_closed_before`."""
        findings = self._get_project(project_id).findings
        return len(self.closed_before(project_id, time, len(findings)))

    def stream(self, project_id: str, *, as_json: bool = False) -> Generator[Any, None, None]:
        """See `Records.stream`."""
        documents = [one.document for one in self._get_project(project_id).findings.values()]
        documents.sort(key=lambda document: (time_key(document["created_at"]), document["id"]))
        shown: Callable[[FindingDocument], Any] = to_json if as_json else clone_json
        return (shown(document) for document in documents)

    def select(self, query: FindingQuery, limit: int) -> list[FindingDocument]:
        """See `Records.select`."""
        found = [
            (query.sort_value(document), document["id"], document)
            for document, *_ in self._get_project(query.project_id).findings.values()
            if matches(query, document)
        ]
        after = query.after
        if after is not None:
            found = [row for row in found if (row[:2] < after if query.descending else row[:2] > after)]
        found.sort(key=lambda row: row[:2], reverse=query.descending)
        return [clone_json(document) for _, _, document in found[:limit]]

    def count(self, query: FindingQuery) -> int:
        """See `Records.count`."""
        findings = self._get_project(query.project_id).findings
        return sum(matches(query, document) for document, *_ in findings.values())

    def summarize(self, project_id: str) -> Summary:
        """See `Records.summarize`."""
        documents = [one.document for one in self._get_project(project_id).findings.values()]
        severity, status, detector, resource = (
            Counter(document[name] for document in documents)
            for name in ("severity", "status", "detector_id", "resource")
        )
        cwe = Counter(number for document in documents for number in set(document["cwe_ids"]))
        return Summary.of_counts(project_id, severity, status, detector, cwe, resource)

    def take_survey(self) -> Survey:
        """See `Records.take_survey`."""
        projects = self.state.values()
        kept = [one for project in projects for one in project.findings.values()]
        unequal = (
            one for one in kept
            if (one.document["status"] not in ACTIVE_STATUSES) != (one.identity.closed_at is not None)
        )  # fmt: skip
        return Survey(
            Counter(one.identity.version for one in kept),
            {CLOSED_UNEQUALLY: sum(1 for _ in unequal)},
            sum(len(project.rejected) for project in projects),
        )

    def count_by_status(self) -> dict[tuple[str, str], int]:
        """See `Records.count_by_status`."""
        documents = (one.document for project in self.state.values() for one in project.findings.values())
        return dict(Counter((document["severity"], document["status"]) for document in documents))

    def events(self, project_id: str, finding_id: str) -> list[Event]:
        """See `Records.events`."""
        found = self._get_project(project_id).events.get(finding_id, ())
        return [
            Event(e.finding_id, e.at, e.actor, e.kind, clone_json(dict(e.changes)), e.comment, e.run_id)
            for e in found
        ]

    def runs(self, project_id: str) -> list[Run]:
        """See `Records.runs`."""
        found = sorted(self._get_project(project_id).runs.values(), key=lambda run: run.number)
        return [
            replace(
                run,
                tool=clone_json(dict(run.tool)),
                counts=dict(run.counts),
                categories=clone_json(dict(run.categories)),
            )
            for run in found
        ]

    def receipts(self, project_id: str, since: int) -> list[Receipt]:
        """See `Records.receipts`."""
        found = self._get_project(project_id).receipts
        return [found[number] for number in sorted(found, reverse=True) if number >= since]

    def rejected(self, project_id: str) -> list[RejectedOriginal]:
        """See `Records.rejected`."""
        found = sorted(
            self._get_project(project_id).rejected.values(),
            key=lambda one: (time_key(one.at), one.index, one.rejected_id),
        )
        return [
            RejectedOriginal(
                o.rejected_id, o.run_id, o.index, o.at, o.field, o.reason, clone_json(o.original)
            )
            for o in found
        ]

    def project_state(self, project_id: str) -> ProjectState | None:
        """See `Records.project_state`."""
        project = self.state.get(project_id)
        return None if project is None else ProjectState(project.revision, None)

    def all_findings(self, project_id: str) -> Iterator[list[Kept]]:
        """See `Records.all_findings`."""
        project = self._get_project(project_id)
        for finding_ids in batches(sorted(project.findings), _BATCH):
            yield [
                Kept(*project.findings[one][:2], tuple(sorted(project.streaks.get(one, ()))))
                for one in finding_ids
            ]

    def all_events(self, project_id: str) -> Iterator[list[Event]]:
        """See `Records.all_events`."""
        events = self._get_project(project_id).events
        yield from batches((event for one in sorted(events) for event in events[one]), _BATCH)

    def all_rejected(self, project_id: str) -> Iterator[list[RejectedOriginal]]:
        """See `Records.all_rejected`."""
        rejected = self._get_project(project_id).rejected
        yield from batches((rejected[one] for one in sorted(rejected)), _BATCH)

    def frozen(self) -> MemoryRecords:
        """Return records of this instant, which later changes don't touch."""
        return MemoryRecords({name: project.copy() for name, project in self.state.items()})


def _was_seen(project: Project, identity: Identity, run: int) -> bool:
    """Return whether a run saw a finding."""
    streaks = project.streaks.get(identity.finding_id, ())
    return identity.first_run <= run <= identity.last_run or any(
        streak.first_run <= run <= streak.last_run for streak in streaks
    )


def _index_identity(project: Project, identity: Identity) -> None:
    others = project.by_fingerprint.get(identity.fingerprint, ())
    project.by_fingerprint[identity.fingerprint] = (*others, identity.finding_id)


def _unindex_identity(project: Project, identity: Identity) -> None:
    others = project.by_fingerprint[identity.fingerprint]
    rest = tuple(finding_id for finding_id in others if finding_id != identity.finding_id)
    if rest:
        project.by_fingerprint[identity.fingerprint] = rest
    else:
        del project.by_fingerprint[identity.fingerprint]


class MemoryStore(Store):
    """A store whose units of work are `MemoryRecords`, so that a long reading needs them for a moment only."""

    def _iterate_findings(self, project_id: str, *, as_json: bool) -> Iterator[Any]:
        """See `Store._iterate_findings`; the unit is held only while the order is made."""
        with self._enter_unit() as unit:
            return unit.stream(project_id, as_json=as_json)

    @block
    def snapshot(self) -> Iterator[Records]:
        """See `Store.snapshot`; a unit of work is held only while the dictionaries are copied."""
        if not self.in_transaction:
            with super().snapshot() as records:
                yield records
            return
        with self._enter_unit() as unit:
            frozen = cast(MemoryRecords, unit).frozen()
        yield frozen

    @block
    def open_snapshot(self) -> Iterator[Records]:
        """See `Store.open_snapshot`; the unit is held only while the dictionaries are copied."""
        with self.open_unit(write=False) as unit:
            frozen = cast(MemoryRecords, unit).frozen()
        yield frozen


class InMemoryStorageAdapter(MemoryStore):
    """A `FindingStore` in memory, gone with the process. Safe for many threads: one writes at a time, readers don't wait: they
    see what was committed last, which later writes copy before they change it."""

    adapter: ClassVar[str] = "memory"

    def __init__(self) -> None:
        super().__init__()
        self._turn = Turn("this store in memory", self._units)
        self._state: State = {}
        survives_fork(self)

    def after_fork(self) -> None:
        """See `Forking.after_fork`: the child goes on with a copy of what is committed, which is never changed in place."""
        super().after_fork()
        self._turn = Turn("this store in memory", self._units)

    @block
    def open_unit(self, *, write: bool) -> Iterator[Records]:
        if not write:
            yield MemoryRecords(self._state)
            return
        with self._turn.hold():
            unit = MemoryRecords(self._state)
            with unit.savepoint():
                yield unit
            self._state, unit.committed = unit.state, True

    def open_snapshot(self) -> AbstractContextManager[Records]:
        """See `Store.open_snapshot`: what is committed is never changed in place."""
        return self.open_unit(write=False)

    def ping(self) -> dict[str, Any]:
        return {"projects": len(self._state)}

    def release(self) -> None:
        self._state = {}


def open_url(url: str) -> InMemoryStorageAdapter:
    """Open ``memory:``: a new, empty store."""
    if url not in ("memory:", "memory://"):
        raise StorageValidationError.of_field(
            "url", "must be memory: (a store in memory has no name)", shown_url(url)
        )
    return InMemoryStorageAdapter()
