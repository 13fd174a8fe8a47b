"""The port: what every adapter means, written once.

`StoragePort` are the six methods that every adapter has. `FindingStore` is what an application needs
besides; every adapter of this package has all of it, with identical meaning, proven by one suite
(`findings_orm.testing`).

Threads and processes: a store may be used by many threads at once, and several stores (in several processes) may
work on the same database or folder. Ownership: documents that go in are copied and never changed, documents
that come out belong to the caller. Errors: only those of `findings_orm.errors` leave a store.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

from findings_orm.finding import FindingDocument, GivenFinding, Status, StatusName
from findings_orm.query import FindingQuery, Page, Summary


@runtime_checkable
class StoragePort(Protocol):
    """The six methods that every adapter has."""

    def atomic_write(self, path: pathlib.Path, data: dict[str, Any]) -> None:
        """Write `data` as JSON to `path`: readers, and a crash at any instant, see the old file or the new one.

        Raises:
            SchemaVersionError: `data` has no ``finding_schema_version``.
            StorageValidationError: JSON can't hold `data`, or the write failed; the old file is as it was.
        """

    def validate_store_layout(self, path: pathlib.Path) -> bool:
        """Return whether `path` is a readable store layout of a known version: a JSON object with a semantic
        ``finding_schema_version`` (or its older name ``store_schema_version``) and a ``findings`` list.
        Bad content gives False, never an exception; `check_store_layout` says why."""

    def get_schema_version(self) -> str:
        """Return the version of the finding schema that this store holds, ``MAJOR.MINOR.PATCH``."""

    def save_finding(self, finding: dict[str, Any]) -> None:
        """Store one finding; one with the same `project_id` and `id` is replaced. Durable on return.

        Older documents are migrated first; `finding` itself is not changed. What changed against the stored
        one goes into the history.

        Raises:
            StorageValidationError: the document breaks a rule.
            SchemaVersionError: its version is unknown or newer.
        """

    def list_findings(self, project_id: str) -> list[Any]:
        """Return all findings of a project by `created_at`, then `id`; ``[]`` for an unknown project.

        Each is a new ``dict``, which the caller may change.
        """

    def delete_project(self, project_id: str) -> None:
        """Remove everything of a project, history included; an unknown project is no error."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """One document that an import refused.

    Attributes:
        index: its position in the import, from 0.
        field: the field at fault, as a dotted path.
        reason: the rule that was broken, with the offending value.
        rejected_id: names the kept original, with ``on_invalid="quarantine"``; else None, and where it is larger than a
            document may be: then `reason` says its size, and it is not kept.
    """

    index: int
    field: str
    reason: str
    rejected_id: str | None = None


@dataclass(frozen=True, slots=True)
class RejectedOriginal:
    """A refused document, kept whole.

    Attributes:
        rejected_id: a UUID.
        run_id: the run that last brought it.
        index: its position in that run.
        at: when that was.
        field, reason: as in `Rejected`.
        original: what was given, of the same types and equal, whatever it was; only a value of a class that
            `findings_orm.imports.originals` does not know is a `LostValue` there.
    """

    rejected_id: str
    run_id: str
    index: int
    at: str
    field: str
    reason: str
    original: Any


@dataclass(slots=True)
class IngestReport:
    """What one import did. Each document is counted once: `created`, `updated`, `unchanged`, `reopened` and the
    length of `rejected` add up to the documents that were given.

    Attributes:
        run_id: the run that the import was recorded as.
        created: findings that were new.
        updated: known findings of which a field changed.
        unchanged: known findings that were seen again as they are.
        reopened: known findings that had been resolved and are open again, changed otherwise or not.
        resolved: findings that this run no longer has (``close_missing=True``).
        rejected: what was refused (``on_invalid="quarantine"``).
        dry_run: nothing was written.
        repeated: a run of this id had been imported before: this is its report, nothing was done again.
    """

    run_id: str = ""
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    reopened: int = 0
    resolved: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    dry_run: bool = field(default=False, compare=False)
    repeated: bool = field(default=False, compare=False)

    def counts(self) -> dict[str, int]:
        """Return the counts by name, `rejected` as a number."""
        found = asdict(self)
        names = ("created", "updated", "unchanged", "reopened", "resolved")
        return {**{name: found[name] for name in names}, "rejected": len(self.rejected)}


@dataclass(frozen=True, slots=True)
class Run:
    """One import of a report into a project.

    As an argument of `ingest` all members are optional; those from `number` on are the store's.

    Attributes:
        id: a UUID; a time-ordered one (version 7) is made when empty.
        detectors: the detectors that the report speaks for. `ingest` adds those of its documents; naming them
            matters for a report without findings, which else could not close anything.
        started_at: the time of the scan (RFC 3339, UTC); the time of the import when empty.
        tool: what is known of the scanner, as a JSON object.
        number: 1 for the first run of the project, 2 for the next.
        counts: what the import did (`IngestReport.counts`).
        rejected: what it refused and kept.
        content: the store's: tells whether the same findings come under its id again; empty for runs of older releases.
        category: which part of the project the report is about, with the detector the scope of what `close_missing` resolves;
            that of all documents, where it is given. Where not, reports of SARIF say it. Of a run that was imported: ``""``
            for none, and for several.
        categories: for each detector with any, the categories that it reported in.
    """

    id: str = ""
    detectors: Sequence[str] = ()
    started_at: str = ""
    tool: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    rejected: Sequence[Rejected] = ()
    content: str = ""
    category: str = ""
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def scopes(self) -> set[tuple[str, str]]:
        """Return the detectors with their categories."""
        return {(one, name) for one in self.detectors for name in self.categories.get(one, (self.category,))}


GivenRun = Run | str | Mapping[str, object] | None
"""A run as `ingest` takes it: whole, its id, or its members by name; None makes a new one."""

OnInvalid = Literal["raise", "quarantine"]
"""What an import does with a document that breaks a rule."""


@dataclass(frozen=True, slots=True)
class RunDiff:
    """What changed from run `a` to run `b`: findings that only one of them saw.

    Attributes:
        added: findings that `b` saw and `a` did not, as documents of today.
        removed: findings that `a` saw and `b` did not.
        common: how many both saw.
    """

    a: str
    b: str
    added: list[FindingDocument]
    removed: list[FindingDocument]
    common: int


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a finding's history. Creation is no event: it is the document's `created_at`.

    Attributes:
        finding_id: the finding.
        at: when, RFC 3339 in UTC.
        actor: who, as the caller said; ``ingest`` or ``save`` where the store itself did it.
        kind: ``status`` (a change of status), ``change`` (of other fields), ``comment``, ``purge`` (the finding
            was removed by retention; `changes` holds what identified it).
        changes: field name to ``[old, new]``.
        comment: free text.
        run_id: the run whose import made it, or None.
    """

    finding_id: str
    at: str
    actor: str
    kind: Literal["status", "change", "comment", "purge"]
    changes: Mapping[str, Any] = field(default_factory=dict)
    comment: str = ""
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """When and as what a finding was seen.

    Attributes:
        finding_id: the finding.
        fingerprint: its identity, SHA-256 in hexadecimal; `ordinal` numbers equal ones from 0.
        fingerprint_version: version of the algorithm.
        first_seen, last_seen: times of the first and the last import (or save) that had it.
        last_run: id of the last run that reported it, or None.
    """

    finding_id: str
    fingerprint: str
    ordinal: int
    fingerprint_version: int
    first_seen: str
    last_seen: str
    last_run: str | None


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What `purge` removed (or would remove): ids of findings, oldest closing first."""

    purged: int
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a store works now.

    Attributes:
        ok: it answered and its schema is the current one; or it is busy: all its connections are in use, or a unit of work of
            another thread keeps it. Then ``details["busy"]`` says so.
        adapter: name of the kind of store.
        schema_version: version of the finding schema it holds.
        details: figures of the adapter (pool, journal mode, database version, ...).
        problem: what is wrong, in words, when not ok.
    """

    ok: bool
    adapter: str
    schema_version: str
    details: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@runtime_checkable
class FindingStore(StoragePort, Protocol):
    """A `StoragePort` with everything that an application needs besides."""

    def save_finding(self, finding: GivenFinding) -> None:
        """See `StoragePort.save_finding`."""

    def list_findings(self, project_id: str) -> list[FindingDocument]:
        """See `StoragePort.list_findings`."""

    def check_store_layout(self, path: pathlib.Path) -> list[str]:
        """Return what is wrong with the store layout at `path`, for people; ``[]`` when nothing is."""

    def save_findings(self, documents: Iterable[GivenFinding]) -> None:
        """Store many findings, of any projects, in one transaction: all or none.

        Raises:
            StorageValidationError, SchemaVersionError: as `save_finding`; names the index of the document.
        """

    def get_finding(self, project_id: str, finding_id: str) -> FindingDocument:
        """Return one finding.

        Raises:
            FindingNotFoundError: the project has no finding of that id.
        """

    def iter_findings(self, project_id: str) -> Iterator[FindingDocument]:
        """Yield what `list_findings` returns, with memory that does not grow with the project.

        The findings are those of one instant. Close the iterator (or exhaust it) to free its connection.
        """

    def iter_findings_json(self, project_id: str) -> Iterator[bytes]:
        """Yield the findings of `iter_findings` as JSON objects in UTF-8, without a line break in them: ready for a
        file of JSON Lines or a response, for less work than making documents of them first."""

    def find(self, query: FindingQuery) -> Page:
        """Return one page of the findings that `query` describes, and the cursor of the next one.

        A cursor names the last finding of its page (keyset), so pages at any depth cost the same and neither
        repeat nor skip a finding that stays, whatever is inserted or deleted meanwhile. It is refused by any other query
        (`StorageValidationError`, field ``cursor``), when that is made.
        """

    def count(self, query: FindingQuery) -> int:
        """Return how many findings `query` describes; `sort`, `limit` and `cursor` don't matter."""

    def summarize(self, project_id: str) -> Summary:
        """Return the counts of a project, zeros for an unknown one."""

    def list_projects(self) -> list[str]:
        """Return the ids of all projects that were written to and not deleted, sorted."""

    def revision(self, project_id: str) -> int:
        """Return a number that every committed write to the project makes larger; 0 for an unknown project.

        Equal numbers other than 0 mean equal contents: it starts and grows by chance, so it does not come back when the
        project is deleted and made again, or the storage restored from a backup.
        """

    def ingest(
        self,
        project_id: str,
        documents: Iterable[GivenFinding],
        *,
        run: GivenRun = None,
        close_missing: bool = False,
        dry_run: bool = False,
        on_invalid: OnInvalid = "raise",
    ) -> IngestReport:
        """Import one scan, in one transaction.

        `documents` may lack `id`, `project_id`, `run_id` and `created_at`. Identity is the fingerprint
        (`findings_orm.fingerprint`), not the id: a new one is inserted (with the given id, else a UUID version 7);
        a known one keeps id, `created_at`, `run_id` and status, and its changed fields are updated. N findings
        with one fingerprint stay N; each is paired with the stored one that has its id, else its line, else
        the nearest line.

        A known finding that was `resolved` is reopened. Its other statuses stay, except that an active one takes
        over a status other than `open` that the report newly says (a suppression that appeared).

        Args:
            project_id: the project; documents that name another one are refused.
            documents: any iterable; consumed once, in batches.
            run: the run, by id or whole. A run that was imported before has no further effect, where the findings are the
                same, in any order: its report is returned again, `repeated`. None makes a new run. What it leaves out of
                detectors, time, tool and category, `documents` say if they have a `run`, as `findings_orm.formats.Report` does.
            close_missing: findings of the run's scopes (detector and category) that are active and not in it become `resolved`.
                What the last run of another scope has stays as it is. What was refused counts as seen; where a refused document
                does not say which finding it is, none of its detector becomes `resolved`, and where it names no detector, none
                at all.
            dry_run: return the report that the import would give, and write nothing.
            on_invalid: ``"raise"`` refuses the whole import at the first broken document; ``"quarantine"``
                imports the others and keeps the broken ones (`rejected_originals`).

        Raises:
            StorageValidationError, SchemaVersionError: a document breaks a rule (``on_invalid="raise"``).
            StorageValidationError: `close_missing` of a run that says that it failed (`successful` of a tool is False),
                or of an empty report that names no detector.
            StorageConflictError: a run of this id brought other findings; a given id is that of another finding of the
                project; or `close_missing` of a scan that is older (`started_at`) than an imported one of the same scope.
        """

    def rejected_originals(self, project_id: str) -> list[RejectedOriginal]:
        """Return the documents that imports refused and kept, oldest first."""

    def discard_rejected(self, project_id: str, rejected_ids: Iterable[str]) -> int:
        """Forget kept originals; return how many there were."""

    def retry_rejected(
        self, project_id: str, fixed: Mapping[str, GivenFinding] | None = None
    ) -> IngestReport:
        """Import kept originals again, in a run of its own: those in `fixed` (by `rejected_id`) as given there,
        or, with None, all of them as they are. What is accepted leaves the quarantine, the rest stays."""

    def set_status(
        self, project_id: str, finding_id: str, status: Status | StatusName, *, actor: str, comment: str = ""
    ) -> FindingDocument:
        """Change the status of a finding, record who and why, and return the finding.

        Setting the status it has changes nothing; a comment is recorded all the same.

        Raises:
            FindingNotFoundError: no such finding.
            StorageValidationError: an unknown status, an empty actor, or a change that
                `findings_orm.finding.TRANSITIONS` does not have.
        """

    def history(self, project_id: str, finding_id: str) -> list[Event]:
        """Return what happened to a finding, oldest first; also of a purged one. ``[]`` when nothing did."""

    def sighting(self, project_id: str, finding_id: str) -> Sighting:
        """Return when and as what a finding was seen. Raises `FindingNotFoundError`."""

    def runs(self, project_id: str) -> list[Run]:
        """Return the imports of a project, oldest first."""

    def diff_runs(self, project_id: str, a: str, b: str) -> RunDiff:
        """Return which findings run `a` and run `b` saw and the other did not.

        Raises:
            StorageValidationError: the project has no such run.
        """

    def purge(self, project_id: str, *, closed_before: str, dry_run: bool = False) -> PurgeReport:
        """Remove findings that were closed (resolved, false positive, risk accepted or archived) before a time.

        Works in bounded batches, each a transaction of its own (inside `transaction()`, all in that one). The
        history of what was purged stays, with a closing ``purge`` event.
        """

    def transaction(self, *, read_only: bool = False) -> AbstractContextManager[Self]:
        """Open a unit of work, and return it as an object with all methods of this store: what is done with it commits
        together when the block ends well, and is rolled back when the block raises. A block inside a block is a savepoint.

        Any thread or task may use the object, one call at a time (others wait), and leave the block. Calls on the store itself
        join the unit of the block around them by a context variable, so in the tasks and threads that are started inside with a
        copy of the context too; everybody else works outside of it. It begins with the first call in it.

        What was read in it is still so when it commits: nobody else writes to a project from its first read or write on. So
        what is read, changed and saved loses no change of another unit.

        Args:
            read_only: all reads see one instant, that of the first call. It keeps nobody waiting, and no unit that writes keeps
                it waiting. Inside of another block it is a part of that one's unit, which only reads.

        Raises:
            StorageError: by the calls: the block has ended, for the object and for tasks and threads that were started inside.
            ReadOnlyError: by the calls that write: the block is one for reading.
            StorageConflictError: by the calls, or at the end of the block: a concurrent change won (``retryable``), so nothing
                of the unit is written; do all of it again.
            StorageUnavailableError: by calls outside: they could only wait for a unit of another task of their own thread.
        """

    def health(self) -> Health:
        """Return whether the store works; never raises for a store that does not, and never waits for other threads."""

    def close(self) -> None:
        """Release connections and files. Closing twice is no error; a closed store raises on use."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
