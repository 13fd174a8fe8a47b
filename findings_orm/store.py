"""What all adapters share: every method of `FindingStore`, over the records of one adapter.

An adapter derives from `Store` and provides `open_unit`, `ping` and `release`; it decides nothing about meaning.
"""

from __future__ import annotations

import pathlib
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import Any, ClassVar, Self
from weakref import finalize

from findings_orm import layout
from findings_orm.arguments import checked
from findings_orm.clock import now
from findings_orm.decorate import ApplicationStore
from findings_orm.diagnosis import UNREADABLE, Problem, problems_of_files, problems_of_survey, sort_by_level
from findings_orm.errors import (
    FindingNotFoundError,
    ReadOnlyError,
    StorageError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
    readable,
)
from findings_orm.finding import (
    SCHEMA_VERSION,
    FindingDocument,
    GivenFinding,
    Status,
    StatusName,
    canonical_time,
    check_plain_text,
    check_project_id,
    is_uuid,
)
from findings_orm.imports.importer import Import
from findings_orm.imports.originals import untag_original
from findings_orm.imports.saving import accept_document, decide, remove, save, status_events
from findings_orm.limits import DEFAULT, Limits
from findings_orm.observe import Figures, Observer, Pool
from findings_orm.port import (
    Event,
    GivenRun,
    Health,
    IngestReport,
    OnInvalid,
    PurgeReport,
    RejectedOriginal,
    Run,
    RunDiff,
    Sighting,
)
from findings_orm.private import Access, give_access, open_to_everybody
from findings_orm.process import COMMITTED, Forking, block, when_dropped
from findings_orm.query import FindingQuery, Page, Summary
from findings_orm.records import Records, RecordStore, Stored, batches, refuse_interrupted
from findings_orm.units import Mirror, Unit, bound, find_frame

SAVE_BATCH = 1_000
PURGE_BATCH = 1_000
STREAM_BATCH = 500


class BusyError(StorageUnavailableError):
    """A store can't be asked just now, because threads of this process are at work in it."""


class Store(Forking, RecordStore, ApplicationStore):
    """A `FindingStore` over records. Base of the adapters of this package; the port says what its methods mean.

    A unit of work is a second object over the same attributes, which works on the unit's records.
    """

    __slots__ = ("_read_only", "_unit")

    adapter: ClassVar[str]
    """The name of the kind of store, as in `Health`."""

    limits: Limits = DEFAULT
    """How large a document may be, whatever way it comes in (`open_storage(url, limits=...)`)."""

    def __init__(self) -> None:
        self._unit: Unit[Records] | None = None
        self._read_only = False
        self._units: set[Unit[Records]] = set()
        self._reading_units: set[Unit[Records]] = set()
        self._scope = object()
        self._closed = False
        self._finalizer: finalize[..., object] | None = None

    def after_fork(self) -> None:
        """See `Forking.after_fork`: units of work are the parent's."""
        for units in (self._units, self._reading_units):
            for unit in units:
                unit.ended = True
            units.clear()

    # -- what an adapter provides, and only the store itself calls (docs/adapters.md) -------------------------

    def open_unit(self, *, write: bool) -> AbstractContextManager[Records]:
        """Return a unit of work: committed when the block ends well, rolled back when it raises."""
        raise NotImplementedError

    def open_reading(self) -> AbstractContextManager[Records]:
        """Return a unit for one read."""
        return self.open_unit(write=False)

    def open_snapshot(self) -> AbstractContextManager[Records]:
        """Return a unit for many reads: all see one instant, in any thread, and nobody waits for its end."""
        return self.open_unit(write=False)

    def ping(self) -> dict[str, object]:
        """Return figures of a store that works; raise a `StorageError` if it does not. Waits for no other thread.

        Raises:
            BusyError: the answer would have to wait for other threads.
        """
        raise NotImplementedError

    def _unasked_figures(self) -> dict[str, object]:
        """Return the figures that are had without asking the store."""
        return {}

    def release(self) -> None:
        """Release everything; called once."""
        raise NotImplementedError

    # -- units of work --------------------------------------------------------------------------------------

    @property
    def _current_unit(self) -> Unit[Records] | None:
        """The unit of work that a call made here belongs to.

        Raises:
            StorageError: see `Frame.counts_for`; or another task is in a block inside of the unit, which may undo it.
        """
        if self._unit is not None:
            return self._unit
        frame = find_frame(self._scope)
        if frame is None:
            return None
        unit: Unit[Records] = frame.value
        if frame.level != unit.level:
            raise StorageError(
                "another task is in a transaction() inside of this unit of work, which would undo this call too if it raises; "
                "wait for its end, or call the object that the outer transaction() gave"
            )
        return unit

    @property
    def in_transaction(self) -> bool:
        """Whether a call made here belongs to a unit of work that has not ended: inside of `transaction()`, or in the iterable
        that an import reads from."""
        return self._current_unit is not None

    def refuse_unit(self) -> None:
        """Let the unit of work that a call made here belongs to refuse to commit, as after a write that was interrupted
        half-way."""
        unit = self._current_unit
        if unit is not None and unit.records is not None:
            unit.records.interrupted = True

    def _check_open(self) -> None:
        if self._closed:
            raise StorageUnavailableError(f"this {self.adapter} store is closed; open it again")

    def _view_of(self, unit: Unit[Records], *, read_only: bool = False) -> Self:
        """Return the object that a unit of work is: this store, but every call is one in the unit."""
        view = object.__new__(type(self))
        view.__dict__ = self.__dict__
        view._unit = unit
        view._read_only = read_only
        return view

    def _is_read_only(self) -> bool:
        """Return whether a call made here, in a unit of work, is in a block for reading."""
        frame = None if self._unit is not None else find_frame(self._scope)
        return self._read_only if frame is None else frame.read_only

    def _refuse_to_write(self) -> None:
        """Refuse a write in a block for reading.

        Raises:
            ReadOnlyError: it is in one.
        """
        if self._is_read_only():
            raise ReadOnlyError(
                "this unit of work is one for reading, transaction(read_only=True), so it takes no write (nor a dry run, which "
                "writes and undoes it); open one with transaction()"
            )

    @block
    def _enter_unit(self, *, write: bool = False, single: bool = False) -> Iterator[Records]:
        """Join the unit of work that the call belongs to, or open one for this call, or for one (`single`) read of it."""
        self._check_open()
        current = self._current_unit
        if current is not None:
            if write:
                self._refuse_to_write()
            records = None
            try:
                with current.call(write=write) as records:
                    yield records
            except StorageError:
                raise
            except BaseException:
                if records is not None:
                    records.interrupted = records.interrupted or write
                raise
            return
        unit = None
        try:
            with self.open_reading() if single else self.open_unit(write=write) as unit:
                yield unit
                refuse_interrupted(unit)
        except BaseException as error:
            if unit is not None and unit.committed:
                error.add_note(COMMITTED)
            raise

    @block
    def _bind_unit(
        self, records: Records, mirror: Mirror | None = None, *, call: bool = False
    ) -> Iterator[Self]:
        """Make a unit of work of records that are at work: of the application's transaction, or of one call (`call`)."""
        unit = Unit(self._units)
        unit.mirror = mirror
        unit.records = records
        if not call:
            self._units.add(unit)  # it keeps others out from the beginning
            records.keeps_reads = True
        try:
            with bound(self._scope, unit, call=call, alone=call):
                yield self._view_of(unit)
        finally:
            with unit.lock:
                unit.end()
                self._units.discard(unit)

    @block
    def _atomic_unit(self) -> Iterator[Records]:
        """A write unit in which everything is undone when the block raises, inside a transaction too."""
        current = self._current_unit
        if current is not None:
            self._check_open()
            self._refuse_to_write()
            records, undone = None, True
            try:
                with current.call(write=True) as records:
                    with records.savepoint(), self._bind_call(current):
                        yield records
                    undone = False
            except BaseException:
                if records is not None:
                    records.interrupted = records.interrupted or not undone
                raise
            return
        with self._enter_unit(write=True) as records, self._bind_unit(records, call=True):
            yield records

    def _bind_call(self, unit: Unit[Records]) -> AbstractContextManager[Unit[Records]]:
        return bound(self._scope, unit, level=unit.level, call=True)

    def writing(self) -> AbstractContextManager[Records]:
        return self._atomic_unit()

    @block
    def snapshot(self) -> Iterator[Records]:
        self._check_open()
        with self._enter_unit() if self.in_transaction else self.open_snapshot() as unit:
            yield unit

    @checked
    @block
    def transaction(self, *, read_only: bool = False) -> Iterator[Self]:
        self._check_open()
        current = self._current_unit
        if current is not None and (read_only or self._is_read_only()):  # there is nothing to undo
            with bound(self._scope, current, level=current.level, read_only=True):
                yield self._view_of(current, read_only=True)
            return
        if current is not None:
            with current.nest(), bound(self._scope, current, level=current.level):
                yield self._view_of(current)
            return
        units = self._reading_units if read_only else self._units
        opening = self._open_snapshot_unit if read_only else self._open_transaction_unit
        unit = Unit(units, opening, read_only=read_only)
        try:
            try:
                with bound(self._scope, unit, read_only=read_only):
                    yield self._view_of(unit, read_only=read_only)
                with unit.lock:
                    unit.end()
                    if unit.opened is not None and unit.records is not None:
                        unit.refuse_mixed()
                        refuse_interrupted(unit.records)
                        unit.opened.__exit__(None, None, None)
            except BaseException as error:
                with unit.lock:
                    unit.ended = True
                    if unit.opened is not None:
                        unit.opened.__exit__(type(error), error, error.__traceback__)
                raise
            finally:
                unit.opened = None  # if nothing else could: dropped, it is rolled back
                units.discard(unit)
        except BaseException as error:
            if unit.records is not None and unit.records.committed:
                error.add_note(COMMITTED)
            raise

    def _open_transaction_unit(self) -> AbstractContextManager[Records]:
        self._check_open()
        return self.open_unit(write=True)

    def _open_snapshot_unit(self) -> AbstractContextManager[Records]:
        self._check_open()
        return self.open_snapshot()

    # -- the port -------------------------------------------------------------------------------------------

    def atomic_write(self, path: pathlib.Path, data: dict[str, Any]) -> None:
        layout.atomic_write(path, data, self.limits)

    def validate_store_layout(self, path: pathlib.Path) -> bool:
        return not layout.check_store_layout(path)

    def check_store_layout(self, path: pathlib.Path) -> list[str]:
        return layout.check_store_layout(path)

    def get_schema_version(self) -> str:
        return SCHEMA_VERSION

    def save_finding(self, finding: GivenFinding) -> None:
        document = accept_document(finding, self.limits)
        with self._enter_unit(write=True) as unit:
            save(unit, document["project_id"], [document])

    @checked
    def save_findings(self, documents: Iterable[GivenFinding]) -> None:
        with self._atomic_unit() as unit:
            for batch in batches(enumerate(documents), SAVE_BATCH):
                by_project: dict[str, list[FindingDocument]] = {}
                for index, given in batch:
                    try:
                        document = accept_document(given, self.limits)
                    except StorageValidationError as error:
                        raise error.at(index) from error
                    by_project.setdefault(document["project_id"], []).append(document)
                for project_id in sorted(by_project):
                    save(unit, project_id, by_project[project_id])

    def list_findings(self, project_id: str) -> list[FindingDocument]:
        with self._enter_unit() as unit:
            return list(unit.stream(_lookup_key(project_id)))

    def delete_project(self, project_id: str) -> None:
        with self._enter_unit(write=True) as unit:
            unit.delete_project(_lookup_key(project_id))

    # -- reading --------------------------------------------------------------------------------------------

    def get_finding(self, project_id: str, finding_id: str) -> FindingDocument:
        with self._enter_unit(single=True) as unit:
            return _require_document(unit, project_id, finding_id)

    def iter_findings(self, project_id: str) -> Iterator[FindingDocument]:
        return self._iterate_findings(_lookup_key(project_id), as_json=False)

    def iter_findings_json(self, project_id: str) -> Iterator[bytes]:
        return self._iterate_findings(_lookup_key(project_id), as_json=True)

    def _iterate_findings(self, project_id: str, *, as_json: bool) -> Iterator[Any]:
        """Yield all findings of one instant, as documents or as JSON. Inside of a unit of work others may call between two
        batches, from any thread."""
        current = self._current_unit
        if current is None:
            with self._enter_unit() as records, closing(records.stream(project_id, as_json=as_json)) as found:
                yield from found
            return
        with current.call() as records:
            found = records.stream(project_id, as_json=as_json)
        try:
            while True:
                with current.call():
                    batch = list(islice(found, STREAM_BATCH))
                yield from batch
                if len(batch) < STREAM_BATCH:
                    return
        finally:
            with current.lock:
                found.close()

    @checked
    def find(self, query: FindingQuery) -> Page:
        with self._enter_unit(single=not query.words) as unit:  # text may take several statements
            return query.page_of(unit.select(query, query.limit + 1))

    @checked
    def count(self, query: FindingQuery) -> int:
        with self._enter_unit(single=not query.words) as unit:
            return unit.count(query)

    def summarize(self, project_id: str) -> Summary:
        with self._enter_unit() as unit:
            return unit.summarize(_lookup_key(project_id))

    def list_projects(self) -> list[str]:
        with self._enter_unit(single=True) as unit:
            return unit.projects()

    def revision(self, project_id: str) -> int:
        with self._enter_unit(single=True) as unit:
            return unit.revision(_lookup_key(project_id))

    def history(self, project_id: str, finding_id: str) -> list[Event]:
        with self._enter_unit(single=True) as unit:
            return unit.events(_lookup_key(project_id), finding_id.lower()) if is_uuid(finding_id) else []

    def sighting(self, project_id: str, finding_id: str) -> Sighting:
        with self._enter_unit() as unit:
            found = _require_stored(unit, project_id, finding_id)
            identity = found.identity
            runs = (
                {run.number: run.id for run in unit.runs(_lookup_key(project_id))}
                if identity.last_run
                else {}
            )
        return Sighting(
            identity.finding_id,
            identity.fingerprint.hex(),
            identity.ordinal,
            identity.version,
            identity.first_seen,
            identity.last_seen,
            runs.get(identity.last_run),
        )

    def runs(self, project_id: str) -> list[Run]:
        with self._enter_unit(single=True) as unit:
            return unit.runs(_lookup_key(project_id))

    @checked
    def diff_runs(self, project_id: str, a: str, b: str) -> RunDiff:
        with self._enter_unit() as unit:
            runs = {run.id: run for run in unit.runs(_lookup_key(project_id))}
            for name, run_id in (("a", a), ("b", b)):
                if run_id.lower() not in runs:
                    raise StorageValidationError.of_field(
                        name, f"must be the id of a run of project {readable(project_id)}", run_id
                    )
            in_a, in_b = (unit.seen_in(project_id, runs[run_id.lower()]) for run_id in (a, b))
            return RunDiff(
                a.lower(),
                b.lower(),
                _get_documents(unit, project_id, in_b - in_a),
                _get_documents(unit, project_id, in_a - in_b),
                len(in_a & in_b),
            )

    # -- imports --------------------------------------------------------------------------------------------

    @checked
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
        task = Import(
            project_id,
            run,
            close_missing=close_missing,
            dry_run=dry_run,
            on_invalid=on_invalid,
            limits=self.limits,
            documents=documents,
        )
        try:
            with self._atomic_unit() as unit:
                report = task.execute(unit, documents)
                if dry_run:
                    raise _DryRunError
        except _DryRunError:
            pass
        return report

    def rejected_originals(self, project_id: str) -> list[RejectedOriginal]:
        with self._enter_unit(single=True) as unit:
            return [
                replace(one, original=_original_of(one)) for one in unit.rejected(_lookup_key(project_id))
            ]

    @checked
    def discard_rejected(self, project_id: str, rejected_ids: Iterable[str]) -> int:
        with self._atomic_unit() as unit:
            ids = []
            for one in rejected_ids:
                check_plain_text("rejected_ids", one)
                if is_uuid(one):
                    ids.append(one.lower())
            if not unit.revision(_lookup_key(project_id)):
                return 0
            unit.advance(project_id, now())
            return unit.remove_rejected(project_id, ids)

    @checked
    def retry_rejected(
        self, project_id: str, fixed: Mapping[str, GivenFinding] | None = None
    ) -> IngestReport:
        with self._atomic_unit() as unit:
            unit.keeps_reads = True  # else another call may retry the same ones
            kept = {original.rejected_id: original for original in unit.rejected(_lookup_key(project_id))}
            for rejected_id in fixed or ():
                if rejected_id not in kept:
                    raise FindingNotFoundError(
                        f"project {readable(project_id)} keeps no refused original {readable(rejected_id)}"
                    )
            chosen = list(fixed) if fixed is not None else list(kept)
            given = [fixed[name] if fixed is not None else _original_of(kept[name]) for name in chosen]
            runs = {kept[name].run_id for name in chosen}
            categories = {run.category for run in unit.runs(_lookup_key(project_id)) if run.id in runs}
            run = Run(category=categories.pop()) if len(categories) == 1 else None
            task = Import(project_id, run, on_invalid="quarantine", limits=self.limits)
            report = task.execute(unit, given)
            refused = {refusal.index: refusal.rejected_id for refusal in report.rejected}
            # one refused as too large to be kept (None) stays as it was
            gone = [name for n, name in enumerate(chosen) if refused.get(n, "") not in (name, None)]
            unit.remove_rejected(project_id, gone)
            return report

    # -- life of a finding ----------------------------------------------------------------------------------

    @checked
    def set_status(
        self, project_id: str, finding_id: str, status: Status | StatusName, *, actor: str, comment: str = ""
    ) -> FindingDocument:
        check_plain_text("actor", actor, empty=False)
        check_plain_text("comment", comment)
        if status not in list(Status):
            names = ", ".join(Status)
            raise StorageValidationError.of_field("status", f"must be one of {names}", status)
        with self._enter_unit(write=True) as unit:
            known = _require_stored(unit, project_id, finding_id)
            if status_events(known.document, status, "", actor, comment):
                revision = unit.advance(project_id, now()).now
                found = _require_stored(unit, project_id, finding_id)
                decide(unit, project_id, revision, found, Status(status), actor, comment)
            return _require_document(unit, project_id, finding_id)

    @checked
    def purge(self, project_id: str, *, closed_before: str, dry_run: bool = False) -> PurgeReport:
        project_id = _lookup_key(project_id)
        try:
            before = canonical_time(closed_before)
        except ValueError as error:
            raise StorageValidationError.of_field(
                "closed_before", f"must be {error}", closed_before
            ) from error
        if dry_run:
            with self._enter_unit() as unit:
                return PurgeReport(unit.count_closed_before(project_id, before), dry_run=True)
        purged = 0
        while True:
            with self._enter_unit(write=True) as unit:
                count = _purge_batch(unit, project_id, before)
                purged += count
                report = PurgeReport(purged)  # before the commit: nothing is called after it
            if count < PURGE_BATCH:
                return report

    # -- the store itself -----------------------------------------------------------------------------------

    @checked
    def observe(self, observer: Observer) -> Callable[[], None]:
        """See `Observable.observe`; a store without statements and connections has nothing to tell."""
        return lambda: None

    def figures(self) -> Figures:
        """See `Observable.figures`."""
        with self._enter_unit() as unit:
            return Figures(
                unit.count_by_status(),
                len(unit.projects()),
                self._size_on_disk(unit),
                self._revision_of_schema(unit),
            )

    def diagnose(self) -> list[Problem]:
        """See `Diagnosable.diagnose`."""
        with self.snapshot() as unit:
            found = [*problems_of_files(self._store_files()), *self._find_own_problems(unit)]
            if not any(problem.check in UNREADABLE for problem in found):
                found += problems_of_survey(unit.take_survey())
            return sort_by_level(found)

    def mend(self) -> list[str]:
        """See `Diagnosable.mend`."""
        files = self._store_files()
        try:
            if not open_to_everybody(files):
                return []
            access = Access.of_stat(files[0].stat()).without_others()
            changed = give_access(files, access)
        except OSError as error:
            raise StorageUnavailableError(f"{error.filename}: {error.strerror}") from error
        return [f"{path}: {stat.filemode(path.stat().st_mode)[1:]}" for path in changed]

    def _store_files(self) -> list[pathlib.Path]:
        """Return the files and folders that the store consists of, the first one what decides about the others."""
        return []

    def _find_own_problems(self, unit: Records) -> Iterator[Problem]:
        """Yield the problems that only this kind of store has."""
        return iter(())

    def pool(self) -> Pool | None:
        """See `Observable.pool`."""
        return None

    def _size_on_disk(self, unit: Records) -> int | None:
        """Return the bytes that the store takes on disk."""
        return None

    def _revision_of_schema(self, unit: Records) -> str | None:
        return None

    def health(self) -> Health:
        try:
            if self._closed:
                raise StorageUnavailableError("the store is closed")
            return Health(True, self.adapter, self.get_schema_version(), self.ping())
        except BusyError as error:
            figures = {**self._unasked_figures(), "busy": str(error)}
            return Health(True, self.adapter, self.get_schema_version(), figures)
        except StorageError as error:
            return Health(False, self.adapter, "", self._unasked_figures(), str(error))

    def close(self) -> None:
        if self._unit is not None:
            raise StorageError("a unit of work ends with its block; close the store itself")
        if not self._closed:
            self._closed = True
            self._detach_finalizer()
            self.release()

    def _set_finalizer(self, where: str, release: Callable[..., object], *held: object) -> None:
        """See `when_dropped`; takes the place of an earlier guard."""
        self._detach_finalizer()
        if not self._closed:
            self._finalizer = when_dropped(self, where, release, *held)

    def _detach_finalizer(self) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _DryRunError(Exception):
    """Rolls a dry run back."""


def _purge_batch(unit: Records, project_id: str, before: str) -> int:
    if not unit.closed_before(project_id, before, 1):
        return 0
    revision = unit.advance(project_id, now()).now
    found = unit.closed_before(project_id, before, PURGE_BATCH)
    remove(unit, project_id, revision, found)
    return len(found)


def _get_documents(unit: Records, project_id: str, finding_ids: set[str]) -> list[FindingDocument]:
    found = (unit.get(project_id, finding_id) for finding_id in sorted(finding_ids))
    return [document for document in found if document is not None]


def _lookup_key(project_id: str) -> str:
    """Return a project id that every adapter can look up: one that no project can have becomes the empty one.

    Raises:
        StorageValidationError: it is no text.
    """
    if not isinstance(project_id, str):
        raise StorageValidationError.of_field("project_id", "must be text", project_id)
    try:
        check_project_id(project_id)
    except StorageValidationError:
        return ""
    return project_id


def _original_of(kept: RejectedOriginal) -> Any:
    """Return the document that an import refused, as it was given."""
    try:
        return untag_original(kept.original)
    except StorageValidationError as error:
        raise StorageIntegrityError(f"the refused original {kept.rejected_id} is damaged: {error}") from error


def _require_document(unit: Records, project_id: str, finding_id: str) -> FindingDocument:
    document = unit.get(_lookup_key(project_id), finding_id.lower()) if is_uuid(finding_id) else None
    if document is None:
        raise _not_found_error(project_id, finding_id)
    return document


def _require_stored(unit: Records, project_id: str, finding_id: str) -> Stored:
    key = finding_id.lower() if is_uuid(finding_id) else ""
    found = unit.stored(_lookup_key(project_id), [key]).get(key) if key else None
    if found is None:
        raise _not_found_error(project_id, finding_id)
    return found


def _not_found_error(project_id: str, finding_id: str) -> FindingNotFoundError:
    return FindingNotFoundError(f"project {readable(project_id)} has no finding {readable(finding_id)}")
