"""`lift`: a whole `FindingStore` over the six methods of `StoragePort`."""

from __future__ import annotations

import json
import pathlib
import uuid
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager, nullcontext, suppress
from hashlib import sha256
from typing import Any, ClassVar, TypeVar, cast

from findings_orm.arguments import checked
from findings_orm.errors import (
    SchemaVersionError,
    StorageConflictError,
    StorageError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
)
from findings_orm.finding import SCHEMA_VERSION, FindingDocument, validate_finding
from findings_orm.fingerprint import fingerprint
from findings_orm.imports.intake import current_document
from findings_orm.imports.saving import Ordinals, saved_identity
from findings_orm.port import Event, FindingStore, RejectedOriginal, Run, StoragePort
from findings_orm.process import block, survives_fork
from findings_orm.records import (
    MALFORMED,
    Records,
    Stored,
    Streak,
    decode_event,
    decode_identity,
    decode_original,
    decode_run,
    encode_event,
    encode_identity,
    encode_original,
    encode_run,
)
from findings_orm.store import BusyError
from findings_orm.stores.memory import MemoryRecords, MemoryStore, Project
from findings_orm.units import Turn

RESERVED = "findings-orm.lifted"
"""Project ids that begin with this hold what the six methods have no place for; no project may be called so."""

_INDEX = RESERVED
_JOURNAL = f"{RESERVED}.journal"
_NAMES = uuid.UUID("6f1c5c1e-6a0e-5d0c-9a53-3d0f5b8f2c11")
_PART = 256 * 1024
_T = TypeVar("_T")

_Write = str | FindingDocument
"""A document to save, or the id of a project to delete."""


@checked
def lift(adapter: StoragePort, *, lock: AbstractContextManager[Any] | None = None) -> FindingStore:
    """Return a store with everything that an application needs, over an adapter that has only the six methods.

    Findings stay where `adapter` keeps them, as they are: its own `list_findings` shows the findings of a project and
    nothing else. What the six methods have no place for (identities, history, runs, refused originals, the list of projects) is
    kept through `save_finding` too, as documents of projects of which the id begins with `RESERVED`. What was saved through
    `adapter` itself takes part: it is recognised at the next call, and listed by `list_projects` from the first write on.

    It is right and slow: each call reads the whole project, a purge writes it anew.

    What is promised, if `save_finding` of the adapter is atomic and durable: a call (or a `transaction()`) is written to a
    journal first, whole, then to its places. A crash before the end of the journal leaves nothing of it, a later one
    is made good by the next call. When the adapter raises half way, what was there is put back; where that fails too, the next
    call does what the journal says. Not promised: somebody who reads through `adapter` itself may see half a write; and without
    a `lock` only one process may write at a time (another one that does is noticed where it can be, and raises
    StorageConflictError).

    A store that is a `FindingStore` already is returned as it is.

    Args:
        adapter: the adapter; closing the store closes it, if it can be closed.
        lock: held during each call and unit of work, to keep other processes out: for one,
            ``filelock.FileLock(path, thread_local=False)``. It has to be reusable, and any thread may give it back.

    Raises:
        StorageValidationError: `adapter` lacks one of the six methods, or only the thread that took `lock` can give it back.
        SchemaVersionError: it holds findings of another schema version than this package.
    """
    if isinstance(adapter, FindingStore):
        return adapter
    of_a_thread = getattr(lock, "is_thread_local", None)  # filelock's
    if callable(of_a_thread) and of_a_thread():
        raise StorageValidationError.of_field(
            "lock", "must be one that any thread may give back, as FileLock(path, thread_local=False)", lock
        )
    return LiftedStore(adapter, lock)


class LiftedStore(MemoryStore):
    """What `lift` returns.

    Attributes:
        lifted: the adapter with the six methods.
    """

    adapter: ClassVar[str] = "lifted"

    def __init__(self, adapter: StoragePort, lock: AbstractContextManager[Any] | None = None) -> None:
        super().__init__()
        self.lifted = adapter
        self._documents = _Documents(adapter)
        self._between_processes = nullcontext() if lock is None else lock
        self._turn = Turn("this lifted store", self._units)
        self._documents.check_version()
        survives_fork(self)

    def after_fork(self) -> None:
        """See `Forking.after_fork`."""
        super().after_fork()
        self._turn = Turn("this lifted store", self._units)

    @block
    def open_unit(self, *, write: bool) -> Iterator[Records]:
        with self._turn.hold(), self._between_processes:
            self._documents.recover()
            unit = MemoryRecords(_State(self._documents))
            yield unit
            if write:
                cast(_State, unit.state).commit_unit(unit)

    def atomic_write(self, path: pathlib.Path, data: dict[str, Any]) -> None:
        self.lifted.atomic_write(path, data)

    def validate_store_layout(self, path: pathlib.Path) -> bool:
        return self.lifted.validate_store_layout(path)

    def ping(self) -> dict[str, Any]:
        self._documents.check_version()
        if self._turn.is_taken and not self.in_transaction:
            raise BusyError("a unit of work has this store")
        with self._enter_unit() as unit:
            return {**self._unasked_figures(), "projects": len(unit.projects())}

    def _unasked_figures(self) -> dict[str, Any]:
        return {"adapter": type(self.lifted).__name__}

    def release(self) -> None:
        close = getattr(self.lifted, "close", None)
        if callable(close):
            close()


# -- documents -------------------------------------------------------------------------------------------------


class _Documents:
    """The documents of an adapter, written in batches that are whole or not there."""

    def __init__(self, adapter: StoragePort) -> None:
        self._adapter = adapter

    def check_version(self) -> None:
        """Raise SchemaVersionError unless the adapter holds findings of the current version."""
        found = self._call_adapter(self._adapter.get_schema_version)
        if found != SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{type(self._adapter).__name__} holds findings of schema {found!r}, this release needs {SCHEMA_VERSION}"
            )

    def documents_of(self, project_id: str) -> dict[str, FindingDocument]:
        """Return the documents of a project by id, as the adapter has them."""
        found = self._call_adapter(lambda: self._adapter.list_findings(project_id))
        try:
            return {document["id"]: document for document in found}
        except MALFORMED as error:
            raise self.integrity_error(project_id, error) from error

    def integrity_error(self, project_id: str, error: Exception) -> StorageIntegrityError:
        """Return the error for documents that are not what was written."""
        return StorageIntegrityError(f"{type(self._adapter).__name__}, project {project_id!r}: {error}")

    def values(self, project_id: str) -> dict[str, Any]:
        """Return the values of the notes of a project."""
        notes = self.documents_of(project_id)
        try:
            return note_values(notes.values())
        except MALFORMED as error:
            raise self.integrity_error(project_id, error) from error

    def write(self, writes: list[_Write], undo: list[_Write]) -> None:
        """Do `writes`; when one of them raises, do `undo`."""
        try:
            self._write_journal(writes)
            self._finish_writes(writes)
        except BaseException:
            with suppress(Exception):  # else the next call does what the journal says
                if self._read_pending() is not None:
                    self._write_journal(undo)
                    self._finish_writes(undo)
            raise

    def recover(self) -> None:
        """Finish what a crash interrupted."""
        pending = self._read_pending()
        if pending is not None:
            self._finish_writes(pending)

    def _write_journal(self, writes: list[_Write]) -> None:
        """Write the journal; its head comes last, and makes it count."""
        text = json.dumps(writes)
        parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
        # An earlier journal has to count until this one does: their parts have different names.
        name = str(uuid.uuid4())
        for number, part in enumerate(parts):
            self._save_document(make_note(_JOURNAL, f"{name} {number}", part))
        head = {"name": name, "parts": len(parts), "sha256": sha256(text.encode()).hexdigest()}
        self._save_document(make_note(_JOURNAL, "head", head))

    def _read_pending(self) -> list[_Write] | None:
        """Return what the journal says is to be done. One that is not whole was done, or never began to count."""
        parts = self.values(_JOURNAL)
        head = parts.get("head")
        if head is None:
            return None
        text = "".join(parts.get(f"{head['name']} {number}", "") for number in range(head["parts"]))
        if sha256(text.encode()).hexdigest() != head["sha256"]:
            return None
        writes: list[_Write] = json.loads(text)
        return writes

    def _finish_writes(self, writes: list[_Write]) -> None:
        for write in writes:
            if isinstance(write, str):
                self._delete_project(write)
            else:
                self._save_document(write)
        self._delete_project(_JOURNAL)

    def _save_document(self, document: FindingDocument) -> None:
        finding: Any = document  # a dict, which the six methods say
        self._call_adapter(lambda: self._adapter.save_finding(finding))

    def _delete_project(self, project_id: str) -> None:
        self._call_adapter(lambda: self._adapter.delete_project(project_id))

    def _call_adapter(self, call: Callable[[], _T]) -> _T:
        """Call the adapter; what it raises becomes an error of this package."""
        try:
            return call()
        except StorageError:
            raise
        except Exception as error:
            raise StorageUnavailableError(f"{type(self._adapter).__name__} failed: {error!r}") from error


def make_note(project_id: str, key: str, value: Any) -> FindingDocument:
    """Return a value under a key as a document that any adapter can keep."""
    return validate_finding(
        {
            "id": _id_of(key),
            "project_id": project_id,
            "detector_id": RESERVED,
            "title": key,
            "severity": "info",
            "created_at": "2000-01-01T00:00:00Z",
            "evidence": {"value": json.dumps(value)},
        }
    )


def _id_of(key: str) -> str:
    return str(uuid.uuid5(_NAMES, key))


def note_values(notes: Iterable[FindingDocument]) -> dict[str, Any]:
    """Return the values of notes by key."""
    return {each["title"]: json.loads(each["evidence"]["value"]) for each in notes}


def _notes_project(project_id: str) -> str:
    """Return the id of the project with the notes of a project."""
    return f"{RESERVED}.{sha256(project_id.encode()).hexdigest()}"


def _document_digest(document: FindingDocument) -> str:
    return sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


# -- projects --------------------------------------------------------------------------------------------------

_Part = tuple[Any, ...]


class _Loaded:
    """A project as it was read, and the documents that stand for it."""

    def __init__(self, documents: _Documents, project_id: str) -> None:
        self.findings = documents.documents_of(project_id)
        self.notes = documents.documents_of(_notes_project(project_id))
        self.parts: dict[str, _Part] = {}
        self.project: Project | None = None
        try:
            self._read_notes(project_id, note_values(self.notes.values()))
        except (StorageError, *MALFORMED) as error:
            raise documents.integrity_error(project_id, error) from error

    def _read_notes(self, project_id: str, values: dict[str, Any]) -> None:
        revision: int = values.get("project", 0)
        deleted = any(
            _has_finding(value) and key.partition(" ")[2] not in self.findings
            for key, value in values.items()
        )
        if deleted:  # the adapter has no other way to lose a finding
            values = {}
        if self.findings or (revision and not deleted):
            self.project = Project(revision)
            changed = self._fill_project(self.project, project_id, values)
            if changed or deleted:
                self._adopt_changes(self.project, project_id, changed)

    def _fill_project(
        self, project: Project, project_id: str, values: dict[str, Any]
    ) -> list[tuple[FindingDocument, Stored | None]]:
        """Fill a project from its notes; return the findings that they don't know as they are, with what they know."""
        known: list[Stored] = []
        changed: list[tuple[FindingDocument, Stored | None]] = []
        for finding_id, document in list(self.findings.items()):
            digest, status, identity, *_ = values.get(f"finding {finding_id}", (None, None, None))
            if identity is not None and digest == _document_digest(document):
                known.append(Stored(document, decode_identity(identity)))
            else:
                found = self.findings[finding_id] = validate_finding(current_document(document))
                old = Stored({**found, "status": status}, decode_identity(identity)) if identity else None
                changed.append((found, old))
        MemoryRecords({project_id: project}).insert(project_id, known)
        for key, value in values.items():
            kind, _, name = key.partition(" ")
            if kind == "finding":
                _, _, _, streaks, events = value
                if streaks:
                    project.streaks[name] = tuple(Streak(name, *streak) for streak in streaks)
                if events:
                    project.events[name] = tuple(map(decode_event, events))
            elif kind == "run":
                project.runs[name] = decode_run(value)
            elif kind == "rejected":
                project.rejected[name] = decode_original(value)
        self.parts = note_parts(project)
        return changed

    def _adopt_changes(
        self, project: Project, project_id: str, changed: list[tuple[FindingDocument, Stored | None]]
    ) -> None:
        """Take in what was done through the adapter itself. As nothing says when, its times are those of the findings; the same
        content has the same revision."""
        unit = MemoryRecords({project_id: project})
        for document, old in sorted(changed, key=lambda pair: pair[1] is None):
            digest, line = fingerprint(document)
            ordinals = Ordinals(unit, project_id)
            ordinals.load_taken({digest})
            at = old.identity.last_seen if old else document["created_at"]
            identity = saved_identity(document, digest, line, at, old, ordinals)
            unit.insert(project_id, [Stored(document, identity)])
        digests = "".join(sorted(map(_document_digest, self.findings.values())))
        project.revision += 1 + int(sha256(digests.encode()).hexdigest()[:8], 16)

    def plan_writes(self, project_id: str, project: Project | None) -> tuple[list[_Write], list[_Write]]:
        """Return what has to be written for the project to be `project`, and what undoes that."""
        side = _notes_project(project_id)
        findings: dict[str, FindingDocument] = {}
        notes: dict[str, FindingDocument] = {}
        if project is not None:
            findings = {key: one.document for key, one in project.findings.items()}
            for key, part in note_parts(project).items():
                old = self.notes.get(_id_of(key))
                same = old is not None and _is_same_part(part, self.parts.get(key))
                made = old if old is not None and same else make_note(side, key, _encode_part(key, part))
                notes[made["id"]] = made
            head = make_note(side, "project", project.revision)
            notes[head["id"]] = head if self.notes.get(head["id"]) != head else self.notes[head["id"]]
        writes = [
            *_changed_documents(side, self.notes, notes),
            *_changed_documents(project_id, self.findings, findings),
        ]
        undo: list[_Write] = [side, *self.notes.values(), project_id, *self.findings.values()]
        return writes, undo if writes else []


def _has_finding(value: Any) -> bool:
    return isinstance(value, list) and value[2] is not None


def _changed_documents(
    project_id: str, old: dict[str, FindingDocument], new: dict[str, FindingDocument]
) -> list[_Write]:
    """Return what makes the documents of a project the new ones: one can't be deleted alone."""
    if old.keys() - new.keys():
        return [project_id, *new.values()]
    return [document for key, document in new.items() if document is not old.get(key)]


def note_parts(project: Project) -> dict[str, _Part]:
    """Return what notes say of a project, by their keys. Equal parts are the same objects."""
    parts: dict[str, _Part] = {}
    for finding_id in project.findings.keys() | project.events.keys():
        stored = project.findings.get(finding_id)
        streaks = project.streaks.get(finding_id, ())
        events = project.events.get(finding_id, ())
        document, identity = stored[:2] if stored else (None, None)
        parts[f"finding {finding_id}"] = (document, identity, streaks, events)
    parts.update({f"run {run.id}": (run,) for run in project.runs.values()})
    parts.update({f"rejected {name}": (original,) for name, original in project.rejected.items()})
    return parts


def _is_same_part(part: _Part, old: _Part | None) -> bool:
    return old is not None and all(a is b for a, b in zip(part, old, strict=True))


def _encode_part(key: str, part: _Part) -> Any:
    if key.startswith("run "):
        run: Run = part[0]
        return encode_run(run)
    if key.startswith("rejected "):
        original: RejectedOriginal = part[0]
        return encode_original(original)
    document, identity, streaks, events = part
    told: list[Event] = list(events)
    return [
        _document_digest(document) if document else None,
        document["status"] if document else None,
        encode_identity(identity) if identity else None,
        [list(streak[1:]) for streak in streaks],
        [encode_event(event) for event in told],
    ]


class _State(MutableMapping[str, Project]):
    """The projects of a lifted store inside one unit of work, read when they are asked for."""

    def __init__(self, documents: _Documents) -> None:
        self._documents = documents
        self._index = self._read_index()
        self._loaded: dict[str, _Loaded] = {}
        self._projects: dict[str, Project | None] = {}

    def __copy__(self) -> _State:
        """Return a state that goes on from here; what either reads is known to both."""
        other = _State.__new__(_State)
        vars(other).update(vars(self), _projects=self._projects.copy())
        return other

    def _read_index(self) -> dict[str, Any]:
        found = self._documents.values(_INDEX)
        index: dict[str, Any] = found.get("index", {"projects": [], "written": None})
        return index

    def _find_project(self, project_id: str) -> Project | None:
        if project_id not in self._projects:
            if not project_id or project_id.startswith(RESERVED):
                return None
            if project_id not in self._loaded:
                self._loaded[project_id] = _Loaded(self._documents, project_id)
            self._projects[project_id] = self._loaded[project_id].project
        return self._projects[project_id]

    def __getitem__(self, project_id: str) -> Project:
        project = self._find_project(project_id)
        if project is None:
            raise KeyError(project_id)
        return project

    def __setitem__(self, project_id: str, project: Project) -> None:
        if project_id.startswith(RESERVED):
            raise StorageValidationError.of_field(
                "project_id",
                f"must not begin with {RESERVED}: a lifted store keeps its own there",
                project_id,
            )
        self._find_project(project_id)
        self._projects[project_id] = project

    def __delitem__(self, project_id: str) -> None:
        self[project_id]
        self._projects[project_id] = None

    def __iter__(self) -> Iterator[str]:
        names = {*self._index["projects"], *self._projects}
        return iter([name for name in names if self._find_project(name) is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def commit_unit(self, unit: Records) -> None:
        """Write what was changed, and tell the unit whether it is there.

        Raises:
            StorageConflictError: another process wrote meanwhile.
        """
        writes: list[_Write] = []
        undo: list[_Write] = []
        names = set(self._index["projects"])
        for project_id, loaded in self._loaded.items():
            project = self._find_project(project_id)
            some, back = loaded.plan_writes(project_id, project)
            writes += some
            undo += back
            names.discard(project_id)
            if project is not None:
                names.add(project_id)
        if not writes and names == set(self._index["projects"]):
            return
        if self._read_index() != self._index:
            raise StorageConflictError(
                "another process wrote to the lifted store meanwhile; try again", retryable=True
            )
        index = {"projects": sorted(names), "written": str(uuid.uuid4())}
        before = make_note(_INDEX, "index", self._index)
        try:
            self._documents.write([*writes, make_note(_INDEX, "index", index)], [*undo, before])
        finally:
            with suppress(StorageError):
                unit.committed = self._read_index() == index
