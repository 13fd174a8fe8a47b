"""One import, step by step: validate, fingerprint, look up, plan, write, batch by batch in one unit of work."""

from __future__ import annotations

import gc
import hashlib
import json
import tempfile
import uuid
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from sys import maxsize
from typing import IO, Any, TypeVar

from findings_orm.clock import now
from findings_orm.errors import (
    LimitExceededError,
    SchemaVersionError,
    StorageConflictError,
    StorageError,
    StorageIntegrityError,
    StorageValidationError,
    readable,
)
from findings_orm.finding import (
    ACTIVE_STATUSES,
    SCHEMA_VERSION,
    StatusName,
    canonical_time,
    check_project_id,
    content_of,
    is_uuid,
    is_valid_object,
    validate_content,
)
from findings_orm.fingerprint import VERSION, content_digest, fingerprint, former_digest
from findings_orm.imports.encoding import Encoder, Oversized
from findings_orm.imports.intake import as_run, current_document, failed_tools
from findings_orm.imports.matching import (
    ACTOR,
    NO_ID,
    Changes,
    Incoming,
    Known,
    Past,
    Probe,
    RunContext,
    events_of,
    name_file,
    plan_changes,
    recall_place,
    recognise_probes,
)
from findings_orm.imports.originals import tag_original
from findings_orm.imports.receipts import LOOK_BACK, Recognition
from findings_orm.imports.renames import detectors_by_new_names
from findings_orm.imports.saving import check_size, renew_fingerprints
from findings_orm.imports.scopes import Scope, category_of, name_categories, scope_of
from findings_orm.limits import DEFAULT, MB, Limits
from findings_orm.port import GivenRun, IngestReport, OnInvalid, Rejected, RejectedOriginal, Run
from findings_orm.process import pause_garbage_collection
from findings_orm.query import latest_time, time_key
from findings_orm.records import (
    Identity,
    Receipt,
    Records,
    StatusChange,
    Stored,
    Unseen,
    batches,
    no_steps,
)

# -- documents of an import that wait for the end of the report: a better partner may come later ----------


_IN_MEMORY = 20_000
_PARTS = 32


class Deferred:
    """Documents that wait for the end of the report; on disk, in parts, when there are many."""

    def __init__(self) -> None:
        self._memory: list[Incoming] = []
        self._files: list[IO[bytes]] = []

    def add(self, waiting: list[Incoming]) -> None:
        """Keep documents for the end."""
        self._memory += waiting
        if len(self._memory) > _IN_MEMORY:
            self._spill_documents()

    def _spill_documents(self) -> None:
        if not self._files:
            self._files = [tempfile.TemporaryFile() for _ in range(_PARTS)]  # noqa: SIM115  # closed in groups
        for one in self._memory:
            line = json.dumps(
                [one.position, one.document, one.fingerprint.hex(), one.line, one.content.hex(), one.has_id]
            )
            self._files[_number_part(one)].write(line.encode() + b"\n")
        self._memory = []

    def drain_groups(self) -> Iterator[list[Incoming]]:
        """Yield everything that waits, equal fingerprints together."""
        if not self._files:
            waiting, self._memory = self._memory, []
            yield waiting
            return
        self._spill_documents()
        for file in self._files:
            with file:
                file.seek(0)
                yield [_parse_incoming(line) for line in file]


def _number_part(one: Incoming) -> int:
    """Return the part of a document: equal fingerprints come together, and what is in one file where the tool gave none."""
    if one.document["fingerprint"]:
        return one.fingerprint[0] % _PARTS
    return zlib.crc32(name_file(one.document).encode()) % _PARTS


def _parse_incoming(line: bytes) -> Incoming:
    index, document, digest, number, content, has_id = json.loads(line)
    return Incoming(index, document, bytes.fromhex(digest), number, bytes.fromhex(content), has_id)


# -- one import, step by step: validate, fingerprint, look up, plan, write, batch by batch in one unit of work


_T = TypeVar("_T")

BATCH = 2_000
"""How many documents are looked up, planned and written together."""

BATCH_BYTES = 16 * MB
"""About how much memory the documents of a batch may take that come as a stream: fewer are then taken together."""

_SMALL = 1_000
_OBJECT, _LIST = 200, 60
"""How much memory an object and a list take beside their text; documents of fewer bytes are small whatever is in them."""

_STEP = 200
_ROUNDS = 10


class Import:
    """The import of one report into one project; `execute` runs it in a unit of work."""

    def __init__(
        self,
        project_id: str,
        run: GivenRun,
        *,
        close_missing: bool = False,
        dry_run: bool = False,
        on_invalid: OnInvalid = "raise",
        limits: Limits = DEFAULT,
        documents: object = None,
    ) -> None:
        """Make an import. `documents` may say of what run they are (`as_run`)."""
        check_project_id(project_id)
        self.project_id = project_id
        self.at = now()
        self.run = as_run(run, self.at, limits, documents)
        self._is_report = hasattr(documents, "run")
        self.close_missing = close_missing
        self.limits = limits
        self.quarantine = on_invalid == "quarantine"
        self._kept_bytes = 0
        self.report = IngestReport(run_id=self.run.id, dry_run=dry_run)
        self.scopes: set[Scope] = set()
        self._fill = {
            "finding_schema_version": SCHEMA_VERSION,
            "id": NO_ID,
            "project_id": project_id,
            "run_id": self.run.id,
            "created_at": self.run.started_at,
        }
        self._changes = Changes()
        self._planned: set[bytes] = set()
        self._under_way = no_steps()
        self._refused: set[bytes] = set()
        self._refused_without_identity: set[str | None] = set()
        self._originals: list[RejectedOriginal] = []
        self._copies: Counter[bytes] = Counter()
        self._content = 0
        self._previous: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._repeated_run = 0
        self._reported: defaultdict[str, defaultdict[int, set[str]]] = defaultdict(lambda: defaultdict(set))

    def execute(self, unit: Records, documents: Iterable[Mapping[str, object]]) -> IngestReport:
        """Import `documents` and return the report."""
        self.unit = unit
        try:
            return self._import_documents(unit, documents)
        finally:
            self._under_way.close()

    def _import_documents(self, unit: Records, documents: Iterable[Mapping[str, object]]) -> IngestReport:
        if repeated := self._earlier_report(self._load_runs(), documents):
            return repeated
        if self.close_missing:
            self._refuse_failed_scan()
        self.advance = unit.advance(self.project_id, self.at)
        runs = self._load_runs()
        if repeated := self._earlier_report(runs, documents):
            return repeated  # it was imported while this one waited for the project
        number = 1 + max((earlier.number for earlier in runs), default=0)
        latest = {scope: earlier.number for earlier in runs for scope in earlier.scopes()}
        for earlier in runs:
            for detector, category in earlier.scopes():
                self._reported[detector][earlier.number].add(category)
        self.context = RunContext(self.run.id, number, self._previous, self.at, latest, self.run.category)
        receipts = unit.receipts(self.project_id, number - LOOK_BACK)
        with closing(Recognition(runs, receipts, self.advance.before, self.context.scope_of)) as recognition:
            self._read_report(documents, recognition)
            self._complete_scopes()
            if self.close_missing:
                self._refuse_older_scan(runs)
                self._close_missing()
            same = next((run.content for run in runs if run.number == self._repeated_run), None)
            self._record_run(recognition.digests, _content_text(self._content) if same is None else same)
        return self.report

    def _read_report(self, documents: Iterable[Mapping[str, object]], recognition: Recognition) -> None:
        """Take in the whole report."""
        deferred = Deferred()
        with pause_garbage_collection() as collects:
            first = 0
            for number, batch in enumerate(self._unrecognised_batches(documents, recognition)):
                self._take_batch(first, batch, deferred)
                first += len(batch)
                if collects and number % _ROUNDS == 0:
                    gc.collect(1)
        self._write_changes()
        for waiting in deferred.drain_groups():
            known = self._known_identities({one.fingerprint for one in waiting})
            self._plan_batch(waiting, known, Changes(), deferred, last=True)
            self._write_changes()

    def _unrecognised_batches(
        self, documents: Iterable[Mapping[str, object]], recognition: Recognition
    ) -> Iterator[list[Mapping[str, object]]]:
        """Yield the batches of a report; none where the same report came before."""
        for batch, data in _split_documents(documents, self.limits):
            if not recognition.recognise_batch(batch, data):
                yield from recognition.replay_batches()
                yield batch
        run = recognition.recognised()
        if run is None:
            yield from recognition.replay_batches()
            return
        self._repeated_run = run
        self.unit.seen_again(self.project_id, run, self.at, self.context.number)
        self.report.unchanged += recognition.count
        self.scopes |= {(self._names.get(name, name), category) for name, category in recognition.scopes}

    def _load_runs(self) -> list[Run]:
        """Return the runs of the project. Note the last one of each detector, and by which names it knows tools that have
        others now."""
        runs = self.unit.runs(self.project_id)
        self._previous = {name: earlier.number for earlier in runs for name in earlier.detectors}
        self._names = detectors_by_new_names(self._previous)
        return runs

    def _earlier_report(
        self, runs: list[Run], documents: Iterable[Mapping[str, object]]
    ) -> IngestReport | None:
        """Return the report of the run if it was imported before.

        Raises:
            StorageConflictError: it brought something else then.
        """
        earlier = next((one for one in runs if one.id == self.run.id), None)
        if earlier is None:
            return None
        if earlier.content and earlier.content != self._content_of_report(documents):
            raise StorageConflictError(
                f"run {earlier.id} is imported already, with other findings: a run id stands for one report; give this one "
                "an id of its own, or none"
            )
        return _repeated_report(earlier, dry_run=self.report.dry_run)

    def _content_of_report(self, documents: Iterable[Mapping[str, object]]) -> str:
        """Return the digest of a report, of which nothing is written."""
        for batch, _ in _split_documents(documents, self.limits):
            for given in batch:
                probe = self._probe_document(0, given)
                try:
                    self._validate_probe(probe, given)
                except (StorageValidationError, SchemaVersionError) as error:
                    self._content += int.from_bytes(self._refuse_document(0, given, error))
        return _content_text(self._content)

    # -- validation -----------------------------------------------------------------------------------------

    def _take_batch(self, first: int, batch: list[Mapping[str, object]], deferred: Deferred) -> None:
        """Recognise what is known to the last bit, validate the rest, and write; `first` is the position of the batch."""
        probes = [
            self._probe_document(index, given)
            for index, given in enumerate(self._write_between_items(batch), first)
        ]
        fingerprints = {probe.fingerprint for probe in probes}
        self._renew_older_findings(probe.document for probe in probes if probe.fingerprint)
        if not fingerprints.isdisjoint(self._planned):
            self._write_changes()
        known = self._known_identities(fingerprints)
        self._write_changes()
        changes = Changes()
        incoming = []
        for probe in self._write_between_items(recognise_probes(probes, known, self.context, changes)):
            given = batch[probe.position - first]
            try:
                incoming.append(self._validate_probe(probe, given))
            except (StorageValidationError, SchemaVersionError) as error:
                self._content += int.from_bytes(self._refuse_document(probe.position, given, error))
                self._note_refused(probe, given)
        self.scopes |= changes.scopes
        self._content += changes.content
        if strange := {one.fingerprint for one in incoming} - fingerprints:
            self._renew_older_findings(one.document for one in incoming if one.fingerprint in strange)
            known.update(self._known_identities(strange))
        self._plan_batch(incoming, known, changes, deferred, last=False)
        self._planned = fingerprints | strange

    def _write_between_items(self, items: Iterable[_T]) -> Iterator[_T]:
        """Yield items, and let the unit go on with what it was asked for every now and then."""
        for number, item in enumerate(items):
            if number % _STEP == 0:
                next(self._under_way, None)
            yield item

    def _probe_document(self, index: int, given: Mapping[str, object]) -> Probe:
        """Return what a document is where nothing speaks against it; it is not known to be valid."""
        try:
            document, has_id = self._fill_document(given)
            digest, line = fingerprint(document)
        except (StorageError, AttributeError, KeyError, TypeError, ValueError):
            return Probe(index, {}, b"", None, b"", plain=False, has_id=False)
        content = content_of(document)
        try:
            check_size(document, content, self.limits)
        except LimitExceededError:
            return Probe(index, {}, b"", None, b"", plain=False, has_id=False)
        known = content and self._may_skip_validation(document, has_id=has_id)
        found = content_digest(content) if known else b""
        return Probe(index, document, digest, line, found, bool(content), has_id)

    def _fill_document(self, given: Mapping[str, object]) -> tuple[dict[str, object], bool]:
        """Return a document of the current version with what the import fills in, and whether it had an id."""
        if isinstance(given, Oversized):
            raise given.error
        if not isinstance(given, Mapping):
            raise StorageValidationError.of_field("document", "must be a JSON object (a dict)", given)
        document = {**self._fill, **current_document(given if isinstance(given, dict) else dict(given))}
        has_id = document["id"] is not NO_ID and document["id"] is not None
        if document["project_id"] not in (self.project_id, None):
            raise StorageValidationError.of_field(
                "project_id",
                f"must be {self.project_id!r}, the project of the import",
                document["project_id"],
            )
        for name, value in self._fill.items():
            if document[name] is None:
                document[name] = value
        if self._names and isinstance(detector := document.get("detector_id"), str):
            document["detector_id"] = self._names.get(detector, detector)
        return document, has_id

    def _may_skip_validation(self, document: Mapping[str, object], *, has_id: bool) -> bool:
        """Return whether a known finding may have come with the fields that are not part of its content."""
        created_at = document["created_at"]
        if not is_valid_object(document.get("provenance", {})):
            return False
        if has_id and not is_uuid(document["id"]):
            return False
        if document["run_id"] is not self.run.id and not is_uuid(document["run_id"]):
            return False
        try:
            return created_at is self.run.started_at or bool(canonical_time(created_at))
        except (TypeError, ValueError):
            return False

    def _validate_probe(self, probe: Probe, given: Mapping[str, object]) -> Incoming:
        index, document, digest, line, found, plain, has_id = probe
        if not document:
            document, has_id = self._fill_document(given)
        valid, objects = validate_content(document, plain=plain)
        self.scopes.add(scope_of(valid, self.run.category))
        if not digest:
            digest, line = fingerprint(valid)
        if not found:
            content = content_of(valid)
            check_size(valid, content, self.limits)
            found = content_digest(content)
        self._content += int.from_bytes(found)
        return Incoming(index, valid, digest, line, found, has_id, objects)

    def _refuse_document(self, index: int, given: object, error: StorageError) -> bytes:
        """Raise, or take the refused document into the quarantine. Return its digest."""
        if not self.quarantine:
            if isinstance(error, StorageValidationError):
                raise error.at(index) from error
            raise type(error)(f"document {index}: {error}") from error
        self.limits.check("max_rejected", len(self.report.rejected) + 1, "the number of refused documents")
        field = _storable_text((getattr(error, "field", None) or "finding_schema_version")[:1000])
        if isinstance(given, Oversized):
            self.report.rejected.append(
                Rejected(index, field, _storable_text(f"{error}; the original is not kept"))
            )
            return content_digest(str(error).encode())
        original = tag_original(given)
        form = json.dumps(original)
        digest = hashlib.sha256(form.encode()).digest()
        try:
            self._kept_bytes += self._size_to_keep(form, original)
        except LimitExceededError as fault:
            known = isinstance(error, LimitExceededError)
            reason = f"{error}; the original is not kept" + ("" if known else f": {fault}")
            self.report.rejected.append(Rejected(index, field, _storable_text(reason)))
            return digest
        self.limits.check("max_rejected_bytes", self._kept_bytes, "the size of what is kept aside, in bytes")
        self._copies[digest] += 1
        key = hashlib.sha256(digest + self._copies[digest].to_bytes(8, "big")).digest()
        rejected_id = str(uuid.UUID(bytes=key[:16], version=5))
        reason = _storable_text(str(error))
        self.report.rejected.append(Rejected(index, field, reason, rejected_id))
        self._originals.append(
            RejectedOriginal(rejected_id, self.run.id, index, self.at, field, reason, original)
        )
        return digest

    def _note_refused(self, probe: Probe, given: object) -> None:
        """Keep what a refused document was about: the report has it still."""
        if probe.fingerprint:
            self._refused.add(probe.fingerprint)
            return
        detector = given.get("detector_id") if isinstance(given, Mapping) else None
        self._refused_without_identity.add(
            self._names.get(detector, detector) if isinstance(detector, str) else None
        )

    def _size_to_keep(self, form: str, original: object) -> int:
        """Return the size of an original as JSON; `form` is that in ASCII.

        Raises:
            LimitExceededError: it is larger than a document may be.
        """
        size = len(form)
        if size > self.limits.max_document_bytes:
            size = len(json.dumps(original, ensure_ascii=False).encode(errors="surrogatepass"))
        self.limits.check("max_document_bytes", size, "its size, in bytes")
        return size

    def _renew_older_findings(self, documents: Iterable[Mapping[str, object]]) -> None:
        """Bring what an older version of the algorithm identified as one of these documents to the present one."""
        former = {digest for document in documents if (digest := former_digest(document))}
        if former and any(one.version < VERSION for one in self.unit.identities(self.project_id, former)):
            self._write_changes()
            renew_fingerprints(self.unit, self.project_id, former)

    # -- writing --------------------------------------------------------------------------------------------

    def _known_identities(self, fingerprints: set[bytes]) -> dict[bytes, list[Identity]]:
        known: defaultdict[bytes, list[Identity]] = defaultdict(list)
        for identity in self.unit.identities(self.project_id, fingerprints):
            known[identity.fingerprint].append(identity)
        for equal in known.values():
            self.limits.check("max_equal_findings", len(equal), "the number of equal findings")
        return dict(known)

    def _plan_batch(
        self, batch: list[Incoming], known: Known, changes: Changes, deferred: Deferred, *, last: bool
    ) -> None:
        if batch or changes.unchanged:
            plan_changes(
                batch,
                known,
                self._load_stored,
                self._load_missing,
                self.context,
                changes,
                last=last,
                complete=self.close_missing,
            )
            self._refuse_taken_ids(changes, {one.document["id"]: one for one in batch if one.has_id})
            deferred.add(changes.deferred)
            self._changes = changes
        if self._originals:
            self.unit.put_rejected(self.project_id, self._originals)
            self._originals = []

    def _load_stored(self, finding_ids: Collection[str]) -> dict[str, Stored]:
        found = self.unit.stored(self.project_id, finding_ids)
        for missing in set(finding_ids) - found.keys():
            raise StorageIntegrityError(
                f"project {readable(self.project_id)} has the identity of a finding that is not there, {missing}: somebody "
                "removed it past the store. 'findings doctor' counts such rows"
            )
        return found

    def _load_missing(self, scopes: Collection[Scope]) -> Iterator[Past]:
        """Yield what the last reports of some scopes had, and this one has not so far."""
        latest = {scope: self.context.latest[scope] for scope in scopes}
        detectors = {detector for detector, _ in scopes}
        ids = self.unit.last_seen_in(
            self.project_id, detectors, min(latest.values()), 1 + max(latest.values())
        )
        for some in batches(ids, BATCH):
            for stored in self._load_stored(some).values():
                if latest.get(self._scope_of_stored(stored)) == stored.identity.last_run:
                    yield recall_place(stored, by_rule=True)

    def _scope_of_stored(self, stored: Stored) -> Scope:
        """Return the scope that reported a finding last. Of a run for several categories the document says which it was."""
        detector = stored.document["detector_id"]
        categories = self._reported[detector].get(stored.identity.last_run, {""})
        return detector, category_of(stored.document) if len(categories) > 1 else next(iter(categories))

    def _refuse_taken_ids(self, changes: Changes, given: Mapping[str, Incoming]) -> None:
        """A new finding may bring its id, but not one that another finding of the project has."""
        new = [row.document["id"] for row in changes.insert if row.document["id"] in given]
        if not new:
            return
        taken = set(self.unit.stored(self.project_id, new))
        accepted = []
        for row in changes.insert:
            finding_id = row.document["id"]
            if finding_id in taken:
                self._refuse_taken_id(given[finding_id])
                continue
            taken.add(finding_id)
            accepted.append(row)
        changes.insert = accepted

    def _refuse_taken_id(self, one: Incoming) -> None:
        rule = "is the id of another finding of the project; leave it out or give a new one"
        if not self.quarantine:
            raise StorageConflictError(f"document {one.position}: id: {rule} (got {one.document['id']!r})")
        fault = StorageValidationError.of_field("id", rule, one.document["id"])
        self._refuse_document(one.position, one.document, fault)

    def _write_changes(self) -> None:
        """Begin to write what was planned last. It may go on while the next batch is validated."""
        unit, project_id, changes = self.unit, self.project_id, self._changes
        self._changes, self._planned = Changes(), set()
        if changes.replace:
            unit.replace(project_id, changes.replace)
        if changes.streaks:
            unit.add_streaks(project_id, changes.streaks)
        if changes.reidentify:
            unit.reidentify(project_id, changes.reidentify)
        if changes.seen:
            unit.seen(project_id, changes.seen, self.at, self.context.number)
        if changes.events:
            unit.add_events(project_id, self.advance.now, changes.events)
        if changes.insert:
            self._under_way = unit.insert_in_steps(project_id, changes.insert)
            next(self._under_way, None)
        self.report.created += len(changes.insert)
        self.report.updated += changes.updated
        self.report.unchanged += changes.unchanged
        self.report.reopened += changes.reopened

    def _refuse_failed_scan(self) -> None:
        for name in failed_tools(self.run.tool):
            raise StorageValidationError(
                f"{name} says that its run failed: with close_missing the import would resolve what it did not reach",
                field="close_missing",
            )

    def _refuse_older_scan(self, runs: list[Run]) -> None:
        if self.run.started_at == self.at:
            return  # nobody said when it was; a clock may go back
        for earlier in runs:
            same = self.scopes & earlier.scopes()
            if same and time_key(earlier.started_at) > time_key(self.run.started_at):
                raise StorageConflictError(
                    f"the scan of {self.run.started_at} comes late: run {earlier.id} of {earlier.started_at}, of "
                    f"{_name_scope(min(same))} too, is imported already; with close_missing it would resolve what that found"
                )

    def _close_missing(self) -> None:
        """Resolve what the report no longer has. What it has and was refused counts as seen; where such a document does not say
        which finding it is, nothing of its detector is resolved."""
        if None in self._refused_without_identity:
            return
        if self._is_report and not self.scopes:
            raise StorageValidationError(
                "the report has no findings and does not say of which detector: name it in run (detectors=[...]), or the "
                "format of the report (--format, format=), so that it is known what close_missing resolves",
                field="close_missing",
            )
        refused = {one.finding_id for one in self.unit.identities(self.project_id, self._refused)}
        resolved: StatusName = "resolved"
        for found in self._missing():
            batch = [one for one in found if one.finding_id not in refused] if refused else found
            changes = [
                StatusChange(
                    one.finding_id, resolved, resolved, latest_time(self.at, one.last_seen, one.last_event)
                )
                for one in batch
            ]
            self.unit.change_status(self.project_id, changes)
            events = [
                event
                for change, one in zip(changes, batch, strict=True)
                for event in events_of(
                    one.finding_id,
                    {"status": [one.status, resolved]},
                    change.closed_at or self.at,
                    ACTOR,
                    run_id=self.run.id,
                )
            ]
            self.unit.add_events(self.project_id, self.advance.now, events)
            self.report.resolved += len(batch)

    def _missing(self) -> Iterator[list[Unseen]]:
        """Yield what the scopes of the run reported earlier, and no scope reports any more."""
        scopes = {scope for scope in self.scopes if scope[0] not in self._refused_without_identity}
        several = {
            detector
            for detector, category in scopes
            if category or any(categories != {""} for categories in self._reported[detector].values())
        }
        alone = {detector for detector, _ in scopes} - several
        yield from self.unit.unseen(self.project_id, alone, self.context.number, ACTIVE_STATUSES)
        for detector in sorted(several):
            yield from self._missing_of(detector, {name for one, name in scopes if one == detector})

    def _missing_of(self, detector: str, mine: set[str]) -> Iterator[list[Unseen]]:
        """Yield what a detector reported earlier in some of its categories, and none of the last runs of the others has."""
        reported = self._reported[detector]
        latest = {category: number for number, names in sorted(reported.items()) for category in names}
        held = {number for number in latest.values() if reported[number].isdisjoint(mine)}
        own = {latest[name] for name in mine & latest.keys() if reported[latest[name]] <= mine}
        for found in self.unit.unseen(
            self.project_id, {detector}, self.context.number, ACTIVE_STATUSES, held, own
        ):
            mixed = [
                one.finding_id
                for one in found
                if not reported.get(one.last_run, {""}).isdisjoint(mine)
                and not reported[one.last_run] <= mine
            ]
            of_mine = {
                finding_id
                for finding_id, stored in self._load_stored(mixed).items()
                if self._scope_of_stored(stored)[1] in mine
            }
            yield [
                one
                for one in found
                if one.is_own or one.finding_id in of_mine or reported.get(one.last_run, {""}) <= mine
            ]

    def _complete_scopes(self) -> None:
        """Add what the run says of itself to what its documents say; a detector that says nothing of categories has none."""
        run = self.run
        given = {scope for scope in run.scopes() if scope[0] in run.categories or run.category}
        self.scopes |= {(self._names.get(name, name), category) for name, category in given}
        said = {detector for detector, _ in self.scopes}
        named = {self._names.get(name, name) for name in run.detectors}
        self.scopes |= {(detector, "") for detector in named - said}

    def _record_run(self, digests: bytes, content: str) -> None:
        said = self.run.category
        category, categories = (said, {}) if said else name_categories(self.scopes)
        run = replace(
            self.run,
            detectors=tuple(sorted({detector for detector, _ in self.scopes})),
            number=self.context.number,
            counts=self.report.counts(),
            rejected=tuple(self.report.rejected),
            content=content,
            category=category,
            categories=categories,
        )
        receipt = Receipt(run.number, *self.advance, b"" if self.report.rejected else digests)
        self.unit.put_run(self.project_id, run, receipt)


def _split_documents(documents: Iterable[object], limits: Limits) -> Iterator[tuple[list[Any], bytes]]:
    """Yield batches of documents with their bytes, none where a document is not of plain types.

    A stream is cut by the memory that its documents take, too; a list is in memory as a whole already.
    """
    encoder = Encoder(limits)
    if isinstance(documents, list):
        for batch in batches(documents, BATCH):
            data = encoder.bytes_of_all(batch)
            yield (batch, data) if data else next(_one_by_one(batch, encoder, maxsize))
    else:
        yield from _one_by_one(documents, encoder, BATCH_BYTES)


def _one_by_one(
    documents: Iterable[object], encoder: Encoder, most: int
) -> Iterator[tuple[list[object], bytes]]:
    batch: list[object] = []
    parts: list[bytes] = []
    total = 0
    for document in documents:
        try:
            data = encoder.bytes_of(document)
            batch.append(document)
        except LimitExceededError as error:
            data = b""
            batch.append(Oversized(error))
        parts.append(data)
        size = len(data)
        total += size if size < _SMALL else size + _OBJECT * data.count(b"}") + _LIST * data.count(b"]")
        if len(batch) >= BATCH or total >= most:
            yield batch, _joined(parts)
            batch, parts, total = [], [], 0
    if batch:
        yield batch, _joined(parts)


def _joined(parts: list[bytes]) -> bytes:
    return b"".join(parts) if all(parts) else b""


def _content_text(total: int) -> str:
    """Return the digest of a report from the sum of those of its findings: their order does not count."""
    return f"{total % 2**128:032x}"


def _name_scope(scope: Scope) -> str:
    detector, category = scope
    return readable(detector) + (f" for {readable(category)}" if category else "")


def _storable_text(text: str) -> str:
    """Return a text for the report, which every store can hold."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def _repeated_report(run: Run, *, dry_run: bool) -> IngestReport:
    report = IngestReport(run_id=run.id, dry_run=dry_run, repeated=True, rejected=list(run.rejected))
    for name in ("created", "updated", "unchanged", "reopened", "resolved"):
        setattr(report, name, run.counts[name])
    return report
