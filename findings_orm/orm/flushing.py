"""What an application's session does to findings, as writes of the store.

SQLAlchemy writes the rows of `Finding` itself, in the order that foreign keys need, and knows how to undo that. Here each
object is made what the store would accept before its row is written, and its identity, history and revision are written after
it, by what `FindingStore.save_finding`, `set_status` and `purge` do.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, NamedTuple, NoReturn, cast
from uuid import UUID

from sqlalchemy import Connection, event, inspect
from sqlalchemy.orm import Mapper, ORMExecuteState, Session, UOWTransaction, object_session

from findings_orm.clock import now, uuid7
from findings_orm.driver_errors import translate_driver_errors
from findings_orm.errors import (
    FindingNotFoundError,
    StorageConflictError,
    StorageValidationError,
    UncheckedWriteError,
    readable,
)
from findings_orm.fields import Kind
from findings_orm.finding import (
    FIELD_KINDS,
    FIELDS,
    FindingDocument,
    Severity,
    Status,
    check_plain_text,
    check_project_id,
    format_time,
)
from findings_orm.fingerprint import changed_fields
from findings_orm.imports.saving import accept_document, decide, remove, save, status_events
from findings_orm.limits import DEFAULT, Limits
from findings_orm.orm.application import find_tables, join_transaction
from findings_orm.orm.frozen import thaw_json
from findings_orm.orm.models import TABLES, Base, Finding
from findings_orm.orm.records import SqlRecords
from findings_orm.orm.route import Route
from findings_orm.orm.sqlite_records import SQLiteRecords
from findings_orm.process import block
from findings_orm.records import Stored

ACTOR = "actor"
"""In ``session.info``: who changes findings, for their history."""
NOBODY = "session"
"""Who does where the application did not say."""
PAST_THE_STORE = "findings_past_the_store"
"""The execution option by which an application takes the blame."""

_SHARED, _FLUSH = "findings_shared", "findings_flush"
_OURS = frozenset(TABLES)


class Shared(NamedTuple):
    """What a session whose connection a store works on already (`joined`, `session()`) has in its ``info``.

    Attributes:
        records: what the store writes by there.
        limits: how large a document may be in that store.
    """

    records: SqlRecords
    limits: Limits


class Mirror:
    """Lets a session and a store that works on its connection see what the other one writes."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def before_call(self) -> None:
        """Write what was changed in the session: the store is called."""
        self._session.flush()

    def after_write(self) -> None:
        """Let the session read anew what it has loaded: the store has written."""
        self._session.expire_all()


@block
def shared(session: Session, share: Shared, actor: str | None) -> Iterator[None]:
    """Let the flushes of a session work as a store that works on its connection, as long as the block lasts."""
    given = {_SHARED: share} if actor is None else {_SHARED: share, ACTOR: actor}
    before = {name: session.info[name] for name in given if name in session.info}
    session.info.update(given)
    try:
        yield
    finally:
        for name in given:
            session.info.pop(name, None)
        session.info.update(before)


def share_records(session: Session, share: Shared) -> None:
    """Let the flushes of a session that is a store's own work as that store does."""
    session.info[_SHARED] = share


# -- one flush --------------------------------------------------------------------------------------------------------


class _WithoutRows:
    """Records of findings whose rows the session writes, as they were before it did."""

    def __init__(self, records: SqlRecords, known: dict[str, Stored]) -> None:
        self._records = records
        self._known = known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    def stored(self, _project_id: str, finding_ids: Collection[str]) -> dict[str, Stored]:
        """See `Records.stored`."""
        return {name: self._known[name] for name in finding_ids if name in self._known}

    def insert(self, project_id: str, rows: Sequence[Stored]) -> None:
        """See `Records.insert`."""
        self._records.add_identities(project_id, rows)


class _Project:
    """What a flush does in one project: the revision that it gives it, what it knows of it, and what is left to write."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.known: dict[str, Stored] = {}
        self.asked: set[str] = set()
        self.saved: dict[str, FindingDocument] = {}
        self.decided: dict[str, Status] = {}
        self.removed: dict[str, Stored] = {}


class _Flush:
    """One flush of a session with findings in it. Its projects are locked, in their order, before the first row is written."""

    def __init__(self, session: Session, connection: Connection) -> None:
        share: Shared | None = session.info.get(_SHARED)
        self.session = session
        self.connection = connection
        self.limits = DEFAULT if share is None else share.limits
        self.actor = session.info.get(ACTOR, NOBODY)
        check_plain_text("actor", self.actor, empty=False)
        if share is None:
            join_transaction(connection, connection.dialect.name)
        self._is_shared = share is not None
        self.records = _records_on(connection) if share is None else share.records
        self.projects: dict[str, _Project] = {}
        self._lock_projects()

    def settled(self) -> AbstractContextManager[None]:
        """Return a block in which the connection has what the records need."""
        return nullcontext() if self._is_shared else find_tables(self.connection)

    def _lock_projects(self) -> None:
        wanted: defaultdict[str, set[str]] = defaultdict(set)
        session = self.session
        changed = [
            one
            for one in session.dirty
            if isinstance(one, Finding) and session.is_modified(one, include_collections=False)
        ]
        for one in (*changed, *(one for one in session.deleted if isinstance(one, Finding))):
            project_id, finding_id = _key_of(one)
            wanted[project_id].add(finding_id)
        for one in session.new:
            if isinstance(one, Finding) and isinstance(one.project_id, str):
                wanted[one.project_id].update({str(one.id)} if isinstance(one.id, UUID) else ())
        for project_id in sorted(wanted):
            self.look_up(project_id, *wanted[project_id])

    def look_up(self, project_id: str, *finding_ids: str) -> _Project:
        """Return a project, locked, that knows what is stored of some findings.

        Raises:
            StorageValidationError: it is no name of a project.
        """
        check_project_id(project_id)
        with self.settled():
            found = self.projects.get(project_id)
            if found is None:
                revision = self.records.advance(project_id, now()).now
                found = self.projects[project_id] = _Project(revision)
            unknown = set(finding_ids) - found.asked
            if unknown:
                found.asked |= unknown
                found.known |= self.records.stored(project_id, unknown)
        return found

    def insert(self, target: Finding) -> None:
        """Make a new object what the store accepts."""
        given = {name: _given(name, inspect(target).dict[name]) for name in _set_names(target)}
        if given.get("id") is None:
            given["id"] = uuid7()
        if given.get("created_at") is None:
            given["created_at"] = now()
        document = accept_document(given, self.limits)
        project = self.look_up(document["project_id"], document["id"])
        if document["id"] in project.known and not self._is_replaced(document):
            raise StorageConflictError(
                f"project {readable(document['project_id'])} has a finding {document['id']} already: change that one, or merge "
                "the object: session.merge(finding)"
            )
        _assign(target, document, FIELDS)
        project.saved[document["id"]] = document

    def _is_replaced(self, document: FindingDocument) -> bool:
        """Return whether the finding of the same key is removed in the same flush."""
        key = Finding.__mapper__.identity_key_from_primary_key((document["project_id"], UUID(document["id"])))
        known = self.session.identity_map.get(key)
        return known is not None and known in self.session.deleted

    def update(self, target: Finding) -> None:
        """Make a changed object what the store accepts: what was not changed in it is as it is stored now."""
        changed = {}
        for name in FIELDS:
            history = inspect(target).attrs[name].history
            if history.has_changes():
                changed[name] = _given(name, history.added[0]) if history.added else None
        if not changed:
            return
        project_id, finding_id = _key_of(target)
        for name, kept in (("project_id", project_id), ("id", finding_id)):
            if changed.get(name, kept) != kept:
                raise StorageValidationError.of_field(
                    name, f"of a finding is for good, this one's is {kept}: add another one", changed[name]
                )
        project = self.look_up(project_id, finding_id)
        found = project.known.get(finding_id)
        if found is None:
            raise FindingNotFoundError(f"project {readable(project_id)} has no finding {finding_id} any more")
        document = accept_document({**found.document, **changed}, self.limits)
        differing = changed_fields(found.document, document, FIELDS)
        if "status" in differing:
            status_events(found.document, document["status"], "", self.actor, "")
        _assign(target, document, changed)
        if differing.keys() == {"status"}:
            project.decided[finding_id] = Status(document["status"])
        elif differing:
            project.saved[finding_id] = document

    def delete(self, target: Finding) -> None:
        """Note a finding that is removed."""
        project_id, finding_id = _key_of(target)
        project = self.look_up(project_id, finding_id)
        if finding_id in project.known:
            project.removed[finding_id] = project.known[finding_id]

    def finish(self) -> None:
        """Write what belongs to the rows that were written."""
        with self.settled():
            for project_id, project in sorted(self.projects.items()):
                unit: Any = _WithoutRows(self.records, project.known)
                if project.removed:
                    remove(unit, project_id, project.revision, [*project.removed.values()], self.actor)
                for finding_id, status in project.decided.items():
                    decide(unit, project_id, project.revision, project.known[finding_id], status, self.actor)
                if project.saved:
                    documents = [*project.saved.values()]
                    save(unit, project_id, documents, actor=self.actor, revision=project.revision)
            if not self._is_shared:
                self.records.finish_writes()


def _records_on(connection: Connection) -> SqlRecords:
    """Return records on a connection that an application made."""
    driver = connection.connection.driver_connection
    records: SqlRecords
    if connection.dialect.name == "sqlite":
        records = SQLiteRecords(connection)
        fast = isinstance(driver, sqlite3.Connection)
    else:
        import psycopg

        from findings_orm.orm.postgresql_records import PostgreSQLRecords

        records = PostgreSQLRecords(connection)
        fast = isinstance(driver, psycopg.Connection)
    if not fast:
        records.route = Route(connection)
    return records


def _key_of(target: Finding) -> tuple[str, str]:
    """Return the project and the id of an object that is stored."""
    project_id, finding_id = cast("tuple[str, UUID]", inspect(target).identity)
    return project_id, str(finding_id)


def _set_names(target: Finding) -> Iterator[str]:
    """Yield the names of the fields that a new object was given."""
    return (name for name in FIELDS if name in inspect(target).dict)


def _given(name: str, value: object) -> object:
    """Return the value of an attribute as a document has it, to be checked there."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise StorageValidationError.of_field(name, "must have a time zone", value)
        return format_time(value)
    if isinstance(value, (Severity, Status)):
        return value.value
    return thaw_json(value)


def _assign(target: Finding, document: FindingDocument, names: Collection[str]) -> None:
    """Give an object the values of a document, with the types of its attributes."""
    for name in names:
        value: Any = document[name]  # type: ignore[literal-required]  # names are fields
        if value is not None:
            value = _TYPED.get(name, _BY_KIND.get(FIELD_KINDS[name], _same))(value)
        if name not in inspect(target).dict or inspect(target).dict[name] is not value:
            setattr(target, name, value)


def _same(value: Any) -> Any:
    return value


_TYPED: dict[str, Callable[[Any], Any]] = {"severity": Severity, "status": Status}
_BY_KIND: dict[Kind, Callable[[Any], Any]] = {Kind.UUID: UUID, Kind.TIME: datetime.fromisoformat}


# -- what SQLAlchemy tells ----------------------------------------------------------------------------------------------


def _flush_of(target: object, connection: Connection) -> _Flush:
    session = cast("Session", object_session(target))
    flush = session.info.get(_FLUSH)
    if flush is None:
        flush = session.info[_FLUSH] = _Flush(session, connection)
    return cast("_Flush", flush)


def _listen_to(change: str, write: Callable[[_Flush, Finding], None]) -> None:
    @event.listens_for(Finding, f"before_{change}", propagate=True)
    def before(_mapper: Mapper[Any], connection: Connection, target: Finding) -> None:
        with translate_driver_errors("the session"):
            write(_flush_of(target, connection), target)


_listen_to("insert", _Flush.insert)
_listen_to("update", _Flush.update)
_listen_to("delete", _Flush.delete)


@event.listens_for(Session, "before_flush")
def _forget_failed_flush(session: Session, _context: UOWTransaction, _objects: object) -> None:
    session.info.pop(_FLUSH, None)


@event.listens_for(Session, "after_flush")
def _finish_flush(session: Session, _context: UOWTransaction) -> None:
    flush: _Flush | None = session.info.pop(_FLUSH, None)
    if flush is not None:
        with translate_driver_errors("the session"):
            flush.finish()


def _refuse_object(mapper: Mapper[Any], _connection: Connection, target: object) -> None:
    session = object_session(target)
    if session is None or session.is_modified(target) or target in session.deleted or target in session.new:
        _refuse(f"objects of {mapper.class_.__name__} are written")


for _mapper in Base.registry.mappers:
    if _mapper.local_table in _OURS and _mapper.class_ is not Finding:
        for _change in ("insert", "update", "delete"):
            event.listen(_mapper, f"before_{_change}", _refuse_object, propagate=True)


@event.listens_for(Session, "do_orm_execute")
def _refuse_statement(state: ORMExecuteState) -> None:
    statement: Any = state.statement
    if statement.is_dml and statement.table in _OURS and not state.execution_options.get(PAST_THE_STORE):
        _refuse(f"a statement that changes {statement.table.name} would go")


def _refuse(what: str) -> NoReturn:
    raise UncheckedWriteError(
        f"{what} past the rules of the store (validation, identity, history), so it is refused: add, change or delete objects "
        "of findings_orm.orm.Finding in the session, or call save_findings, set_status, ingest, purge or delete_project of "
        f"store.joined(session). Who takes the blame runs the statement with execution_options={{'{PAST_THE_STORE}': True}}"
    )
