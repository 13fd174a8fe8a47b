"""What an adapter has to provide: records in, records out, within one unit of work.

All meaning (validation, identity, imports, history) is in `findings_orm.store` and `findings_orm.imports`, once
for every adapter. An adapter keeps the records of `Records` and decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from findings_orm.diagnosis import Survey
from findings_orm.errors import StorageUnavailableError
from findings_orm.finding import FindingDocument, Objects, StatusName
from findings_orm.limits import Limits
from findings_orm.port import Event, FindingStore, Rejected, RejectedOriginal, Run
from findings_orm.query import FindingQuery, Summary, latest_time

T = TypeVar("T")


class Identity(NamedTuple):
    """What the store knows of a finding beside its document; one narrow record a finding.

    `content` is the digest of the content that was last taken in, `reported` the status that came with it.
    `first_run` and `last_run` are numbers of runs: the unbroken streak of runs of its detector that saw the finding
    last (0: no run did). `closed_as` and `closed_at` are the status and its time while that is a closed one.
    """

    finding_id: str
    fingerprint: bytes
    ordinal: int
    version: int
    content: bytes
    reported: str
    line: int | None
    first_seen: str
    last_seen: str
    first_run: int
    last_run: int
    closed_as: str | None
    closed_at: str | None


class Stored(NamedTuple):
    """A finding with its identity and, where at hand, its objects as JSON and the time of the last entry in its history.
    The document is not to be changed."""

    document: FindingDocument
    identity: Identity
    objects: Objects | None = None
    last_event: str | None = None

    def not_before(self, at: str) -> str:
        """Return the time of what happens to the finding now: `at`, but nothing that is known of it lies later. Clocks are set
        back, those of two machines differ, and a writer may have waited for others."""
        return latest_time(at, self.identity.last_seen, self.last_event)


class Streak(NamedTuple):
    """An earlier unbroken streak of runs that saw a finding."""

    finding_id: str
    first_run: int
    last_run: int


class Kept(NamedTuple):
    """A finding with all that is known of it; streaks by their first run. The document is not to be changed."""

    document: FindingDocument
    identity: Identity
    streaks: tuple[Streak, ...]


class ProjectState(NamedTuple):
    """The number of writes to a project so far, and when it was made (None where the store does not keep that)."""

    revision: int
    created_at: str | None


class Advance(NamedTuple):
    """A write to a project: its revision before (0 for a new one) and its revision now."""

    before: int
    now: int


class Receipt(NamedTuple):
    """What tells whether the report of a run comes again, to a project that did not change since.

    `number` is the run's, `before` and `after` are the revisions of the project around it, `digests` has 32 bytes for each
    batch of its documents (none where the report may not be taken for the same).
    """

    number: int
    before: int
    after: int
    digests: bytes


class Unseen(NamedTuple):
    """A finding that a run does not have.

    `last_run` is the number of the last run that had it (0: none); `is_own` says whether one of the runs had it that were asked
    for.
    """

    finding_id: str
    status: StatusName
    last_seen: str
    last_event: str | None
    last_run: int
    is_own: bool


class StatusChange(NamedTuple):
    """A new status of a finding; `closed_as` and `closed_at` as in `Identity`."""

    finding_id: str
    status: StatusName
    closed_as: str | None
    closed_at: str | None


Steps = Generator[None, bool | None, int]
"""Work in steps: each `next` goes on without waiting for anybody, `send(True)` waits where there is need to. Its end is
the end of the work; its value is the number of rows."""


class Records(Protocol):
    """The records of a store inside one unit of work. Every call names the project that it is about.

    Attributes:
        committed: whether what was written is stored for good. An exception that comes after that says so.
        interrupted: whether a write was left by something else than a `StorageError`, so that it may be half done.
        keeps_reads: whether what is read here has to stay so until the unit ends. Where a unit that writes keeps all others
            out anyway, or sees one instant, there is nothing to do for it.
    """

    committed: bool = False
    interrupted: bool = False
    keeps_reads: bool = False

    # -- write ---------------------------------------------------------------------------------------------

    def advance(self, project_id: str, at: str) -> Advance:
        """Make the project if it is new, keep other writers of it out until the unit ends, and give it its next
        revision (`clock.first_revision`, `clock.revision_step`). Called before any other write to the project."""

    def put_project(self, project_id: str, state: ProjectState) -> None:
        """Make a project as it was elsewhere, and keep other writers of it out until the unit ends.

        Raises:
            StorageConflictError: it exists.
        """

    def move_to(self, project_id: str, revision: int) -> int:
        """Keep other writers of a project that exists out until the unit ends, give it the revision of what it is about
        to hold, and return the one that it had."""

    def insert(self, project_id: str, rows: Sequence[Stored]) -> None:
        """Add findings whose ids and (fingerprint, ordinal) are new.

        Raises:
            StorageConflictError: one is not new.
        """

    def insert_in_steps(self, project_id: str, rows: Sequence[Stored]) -> Steps:
        """Do what `insert` does, in steps. Any other call waits for their end; closed before, they leave it to the unit
        to fail."""
        self.insert(project_id, rows)
        return no_steps()

    def replace(self, project_id: str, rows: Sequence[Stored]) -> None:
        """Replace known findings and their identities."""

    def reidentify(self, project_id: str, identities: Sequence[Identity]) -> None:
        """Replace identities of known findings, without a change of fingerprint or ordinal."""

    def seen(self, project_id: str, identities: Sequence[Identity], at: str, run: int) -> None:
        """Set `last_seen`, if it is not later already, and `last_run` of known identities: the path that must be cheap."""

    def change_status(self, project_id: str, changes: Sequence[StatusChange]) -> None:
        """Set statuses of known findings."""

    def remove(self, project_id: str, finding_ids: Sequence[str]) -> None:
        """Remove findings with identities and streaks; their events stay."""

    def add_streaks(self, project_id: str, streaks: Sequence[Streak]) -> None:
        """Keep streaks that have ended."""

    def add_events(self, project_id: str, revision: int, events: Sequence[Event]) -> None:
        """Append to the history, in the order given."""

    def seen_again(self, project_id: str, last_run: int, at: str, run: int) -> None:
        """Do what `seen` does to all identities of which `last_run` is this."""

    def put_run(self, project_id: str, run: Run, receipt: Receipt | None = None) -> None:
        """Add a run. A store may keep its receipt."""

    def replace_runs(self, project_id: str, runs: Sequence[Run]) -> None:
        """Replace known runs, of which nothing but detectors, categories and content differs."""
        for run in runs:
            self.put_run(project_id, run)

    def put_rejected(self, project_id: str, originals: Sequence[RejectedOriginal]) -> None:
        """Keep refused originals; one that is kept already (equal `rejected_id`) gets the newer run."""

    def remove_rejected(self, project_id: str, rejected_ids: Sequence[str]) -> int:
        """Forget refused originals; return how many there were."""

    def delete_project(self, project_id: str) -> None:
        """Remove everything of a project."""

    # -- read ----------------------------------------------------------------------------------------------

    def projects(self) -> list[str]:
        """Return all project ids, sorted."""

    def revision(self, project_id: str) -> int:
        """Return the revision of a project, 0 for an unknown one."""

    def stored(self, project_id: str, finding_ids: Collection[str]) -> dict[str, Stored]:
        """Return those of the findings that exist, by id."""

    def get(self, project_id: str, finding_id: str) -> FindingDocument | None:
        """Return a document, the caller's to keep, or None."""

    def identities(self, project_id: str, fingerprints: Collection[bytes]) -> list[Identity]:
        """Return the identities that have one of these fingerprints."""

    def unseen(
        self,
        project_id: str,
        detectors: Collection[str],
        run: int,
        statuses: Collection[str],
        held: Collection[int] = (),
        own: Collection[int] = (),
    ) -> Iterator[list[Unseen]]:
        """Yield batches of the detectors' findings in `statuses` that were last seen before `run`, and by none of the runs of
        the numbers `held`; `own` are the runs that `Unseen.is_own` asks for.
        The caller changes the statuses of a batch before it asks for the next one."""

    def last_seen_in(self, project_id: str, detectors: Collection[str], since: int, before: int) -> list[str]:
        """Return the ids of the detectors' findings that were last seen by a run from number `since` on and before another."""
        return [
            kept.identity.finding_id
            for some in self.all_findings(project_id)
            for kept in some
            if kept.document["detector_id"] in detectors and since <= kept.identity.last_run < before
        ]

    def seen_in(self, project_id: str, run: Run) -> set[str]:
        """Return the ids of the findings that a run saw."""

    def closed_before(self, project_id: str, time: str, limit: int) -> list[Stored]:
        """Return up to `limit` findings that were closed before a time, oldest closing first."""

    def count_closed_before(self, project_id: str, time: str) -> int:
        """Return how many findings were closed before a time."""

    def stream(self, project_id: str, *, as_json: bool = False) -> Generator[Any, None, None]:
        """Yield all documents by `created_at`, then `id`; as bytes of JSON if asked for."""

    def select(self, query: FindingQuery, limit: int) -> list[FindingDocument]:
        """Return the first `limit` documents that match, in the query's order, after its cursor."""

    def count(self, query: FindingQuery) -> int:
        """Return how many documents match."""

    def summarize(self, project_id: str) -> Summary:
        """Return the counts of a project."""

    def take_survey(self) -> Survey:
        """Return what is in the store and should not be, in all projects together."""

    def count_by_status(self) -> dict[tuple[str, str], int]:
        """Return how many findings there are by (severity, status), in all projects together."""

    def events(self, project_id: str, finding_id: str) -> list[Event]:
        """Return the history of a finding, oldest first."""

    def runs(self, project_id: str) -> list[Run]:
        """Return the runs of a project by number."""

    def receipts(self, project_id: str, since: int) -> list[Receipt]:
        """Return what is kept of the receipts of runs from number `since` on, newest first."""

    def rejected(self, project_id: str) -> list[RejectedOriginal]:
        """Return the refused originals, oldest first."""

    def project_state(self, project_id: str) -> ProjectState | None:
        """Return the state of a project, None for an unknown one."""

    def all_findings(self, project_id: str) -> Iterator[list[Kept]]:
        """Yield everything that is known of the project's findings, by id, in batches."""

    def all_events(self, project_id: str) -> Iterator[list[Event]]:
        """Yield the whole history in batches: by the id of the finding, then oldest first."""

    def all_rejected(self, project_id: str) -> Iterator[list[RejectedOriginal]]:
        """Yield the refused originals by their `rejected_id`, in batches."""

    # -- the unit ------------------------------------------------------------------------------------------

    def savepoint(self) -> AbstractContextManager[None]:
        """A block of which the writes are undone when it raises."""


@runtime_checkable
class RecordStore(FindingStore, Protocol):
    """A `FindingStore` whose records can be read and written: what backup, restore and copy need.

    `findings_orm.store.Store` has it; a store of another making joins in with these four.
    """

    @property
    def adapter(self) -> str:
        """The name of the kind of store, as in `Health`."""

    @property
    def limits(self) -> Limits:
        """How large a document may be."""

    def snapshot(self) -> AbstractContextManager[Records]:
        """Open the records for reading, all of one instant; other threads and processes go on writing meanwhile.

        Inside `transaction()` they are those of the transaction.
        """

    def writing(self) -> AbstractContextManager[Records]:
        """Open a unit of work on the records themselves, for what moves whole projects.

        What the block writes commits together when it ends well, and is undone when it raises.
        """


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of up to `size` items."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def no_steps() -> Steps:
    """Return steps without anything to do."""
    yield from ()
    return 0


def complete_steps(steps: Steps) -> int:
    """Wait until work in steps is done; return the number of rows, or 0 if it was done before."""
    try:
        next(steps)
        while True:
            steps.send(True)
    except StopIteration as end:
        return end.value or 0


def refuse_interrupted(unit: Records) -> None:
    """Refuse to commit a unit of work with a write that was interrupted half-way, which the caller may have caught.

    Raises:
        StorageUnavailableError: there is one.
    """
    if unit.interrupted:
        raise StorageUnavailableError(
            "a write of this transaction was interrupted half-way, so nothing of it was written; do it again",
            retryable=True,
        )


# -- records as plain JSON values and back: the same in the files of a store and in a backup --------------


_EVENT = tuple(field.name for field in fields(Event))
_ORIGINAL = tuple(field.name for field in fields(RejectedOriginal))
_REFUSAL = tuple(field.name for field in fields(Rejected))
_RUN = ("id", "detectors", "started_at", "tool", "number", "counts")
_RUN_LATER = ("content", "category", "categories")
"""What runs did not have when their first records were written."""
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError)
"""What a decoder raises when the JSON has not the shape that it was written in."""


def encode_identity(identity: Identity) -> dict[str, Any]:
    """Return an identity as JSON."""
    row = dict(zip(Identity._fields, identity, strict=True))
    row["fingerprint"] = identity.fingerprint.hex()
    row["content"] = identity.content.hex()
    return row


def decode_identity(row: Mapping[str, Any]) -> Identity:
    """Return what `encode_identity` was given."""
    return Identity(
        **{
            **{name: row[name] for name in Identity._fields},
            "fingerprint": bytes.fromhex(row["fingerprint"]),
            "content": bytes.fromhex(row["content"]),
        }
    )


def encode_event(event: Event) -> dict[str, object]:
    """Return an event as JSON."""
    return {name: getattr(event, name) for name in _EVENT}


def decode_event(row: Mapping[str, Any]) -> Event:
    """Return what `encode_event` was given."""
    return Event(**{name: row[name] for name in _EVENT})


def encode_run(run: Run) -> dict[str, object]:
    """Return a run as JSON."""
    refused = [{name: getattr(one, name) for name in _REFUSAL} for one in run.rejected]
    said = {name: value for name in _RUN_LATER if (value := getattr(run, name))}
    return {**{name: getattr(run, name) for name in _RUN}, **said, "rejected": refused}


def decode_run(row: Mapping[str, Any]) -> Run:
    """Return what `encode_run` was given."""
    refused = tuple(Rejected(**{name: one[name] for name in _REFUSAL}) for one in row["rejected"])
    given = {name: row[name] for name in (*_RUN, *_RUN_LATER) if name in _RUN or name in row}
    return Run(**{**given, "detectors": tuple(row["detectors"])}, rejected=refused)


def encode_original(original: RejectedOriginal) -> dict[str, object]:
    """Return a refused original as JSON; what only Python's JSON has (NaN, infinities) as a text."""
    row = {name: getattr(original, name) for name in _ORIGINAL}
    text = json.dumps(original.original)
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return {**row, "original": text, "as_text": True}
    return row


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def decode_original(row: Mapping[str, Any]) -> RejectedOriginal:
    """Return what `encode_original` was given."""
    given = {name: row[name] for name in _ORIGINAL}
    if row.get("as_text"):
        given["original"] = json.loads(given["original"])
    return RejectedOriginal(**given)
