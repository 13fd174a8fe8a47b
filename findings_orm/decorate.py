"""A store that hands every call on to another one: the base of decorators (metrics, tracing, a cache).

A decorator derives from `ForwardingStore` and overrides what it adds to. It passes the same conformance suite as
the store inside.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, cast, runtime_checkable

from findings_orm.arguments import checked
from findings_orm.diagnosis import Diagnosable, Problem
from findings_orm.errors import StorageError
from findings_orm.finding import FindingDocument, GivenFinding, Status, StatusName
from findings_orm.observe import Figures, Observable, Observer, Pool
from findings_orm.port import (
    Event,
    FindingStore,
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
from findings_orm.process import COMMITTED, block
from findings_orm.query import FindingQuery, Page, Summary
from findings_orm.units import find_frame

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    SqlTransaction = Session | Connection
    """What an application works with in its own transaction."""


@runtime_checkable
class ApplicationStore(FindingStore, Observable, Diagnosable, Protocol):
    """What `open_storage` returns: a `FindingStore` that can also work in a transaction of the application, and be watched and
    examined."""

    def joined(self, bind: SqlTransaction, *, actor: str | None = None) -> AbstractContextManager[Self]:
        """Open a block that works inside an application's own transaction: what is done there with this store, and with the
        unit of work that it gives (see `transaction`), happens on the connection of `bind`, and is committed or rolled back
        with the application's rows, when the application says so.

        Objects of a session that were changed are written before each call in the block (see `findings_orm.orm`), and what it
        has loaded is read anew after each one that writes.

        On SQLite other writers wait from here on, until the application commits or rolls back.

        Args:
            bind: a SQLAlchemy `Session` or `Connection` on the database that has the tables of this store; a session
                that is bound to several is joined where it has `Finding`.
            actor: who changes objects of the session in the block, for their history; else that is ``session.info["actor"]``.

        Raises:
            StorageError: the store has no database, the call is inside of `transaction()` already, or the connection is
                one to another kind of database or commits each statement by itself.
            StorageUnavailableError: another writer of the SQLite database did not end in time (retryable), or a write here
                was interrupted half-way: the application can only roll back.
        """
        raise _without_database(self)

    def session(self) -> Session:
        """Return an ORM session inside the unit of work that the call belongs to, for the models in
        `findings_orm.orm` or the application's own; it commits when `transaction()` does.

        Raises:
            StorageError: the store has no database, or the call is not inside of `transaction()`.
        """
        raise _without_database(self)


def _without_database(store: FindingStore) -> StorageError:
    return StorageError(
        f"{type(store).__name__} has no database, so no transaction of an application to work in"
    )


class ForwardingStore(ApplicationStore):
    """A `FindingStore` that hands every call on to `inner`, as it is.

    A unit of work of it is a second object over the same attributes, of which `inner` is the unit of the store inside. What
    `inner` has beside the port (``engine``, ``session()``, ...) can be reached through it too.

    Attributes:
        inner: the store that does the work. It belongs to this one: closing this one closes it.
    """

    __slots__ = ("_unit",)

    @checked
    def __init__(self, inner: FindingStore) -> None:
        self._unit: tuple[FindingStore, Any] | None = None
        self._scope = object()
        self.inner = inner

    @property
    def inner(self) -> FindingStore:
        """The store that does the work; of a unit of work, the unit of that."""
        if self._unit is not None:
            return self._unit[0]
        inner: FindingStore = self.__dict__["inner"]
        return inner

    @inner.setter
    def inner(self, inner: FindingStore) -> None:
        self.__dict__["inner"] = inner

    def _view_of(self, inner: FindingStore, value: object = None) -> Self:
        """Return the unit of work that this store's is.

        Args:
            inner: the unit of work of the store inside.
            value: what a decorator keeps for it.
        """
        view = object.__new__(type(self))
        view.__dict__ = self.__dict__
        view._unit = (inner, value)
        return view

    def _unit_value(self) -> Any:
        """Return what is kept (`_view_of`, `bound`) for the unit of work that a call made here belongs to, or None."""
        if self._unit is not None:
            return self._unit[1]
        frame = find_frame(self._scope)
        return frame and frame.value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "inner":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.inner, name)

    def innermost(self) -> FindingStore:
        """Return the store at the bottom, below all decorators."""
        inner = self.inner
        return inner.innermost() if isinstance(inner, ForwardingStore) else inner

    def _commits_at_once(self) -> bool:
        """Return whether what is written here is committed at once, in no unit of work that is open."""
        return not getattr(self.inner, "in_transaction", False)

    def _note_late_exception(self, error: BaseException, *, commits: bool) -> None:
        """Take notice of an exception that came after a write of the store inside had returned: it is stored (`commits`), or
        the unit of work that it belongs to, which can't be told of it, is refused at its end.

        Call it where ``except`` catches in the function that made the write: leaving one more block may be interrupted too.
        """
        refuse = getattr(self.innermost(), "refuse_unit", None)
        if commits:
            error.add_note(COMMITTED)
        elif refuse is not None:
            refuse()

    # -- the port -------------------------------------------------------------------------------------------

    def atomic_write(self, path: pathlib.Path, data: dict[str, Any]) -> None:
        self.inner.atomic_write(path, data)

    def validate_store_layout(self, path: pathlib.Path) -> bool:
        return self.inner.validate_store_layout(path)

    def check_store_layout(self, path: pathlib.Path) -> list[str]:
        return self.inner.check_store_layout(path)

    def get_schema_version(self) -> str:
        return self.inner.get_schema_version()

    def save_finding(self, finding: GivenFinding) -> None:
        self.inner.save_finding(finding)

    def save_findings(self, documents: Iterable[GivenFinding]) -> None:
        self.inner.save_findings(documents)

    def list_findings(self, project_id: str) -> list[FindingDocument]:
        return self.inner.list_findings(project_id)

    def delete_project(self, project_id: str) -> None:
        self.inner.delete_project(project_id)

    # -- reading --------------------------------------------------------------------------------------------

    def get_finding(self, project_id: str, finding_id: str) -> FindingDocument:
        return self.inner.get_finding(project_id, finding_id)

    def iter_findings(self, project_id: str) -> Iterator[FindingDocument]:
        return self.inner.iter_findings(project_id)

    def iter_findings_json(self, project_id: str) -> Iterator[bytes]:
        return self.inner.iter_findings_json(project_id)

    def find(self, query: FindingQuery) -> Page:
        return self.inner.find(query)

    def count(self, query: FindingQuery) -> int:
        return self.inner.count(query)

    def summarize(self, project_id: str) -> Summary:
        return self.inner.summarize(project_id)

    def list_projects(self) -> list[str]:
        return self.inner.list_projects()

    def revision(self, project_id: str) -> int:
        return self.inner.revision(project_id)

    def history(self, project_id: str, finding_id: str) -> list[Event]:
        return self.inner.history(project_id, finding_id)

    def sighting(self, project_id: str, finding_id: str) -> Sighting:
        return self.inner.sighting(project_id, finding_id)

    def runs(self, project_id: str) -> list[Run]:
        return self.inner.runs(project_id)

    def diff_runs(self, project_id: str, a: str, b: str) -> RunDiff:
        return self.inner.diff_runs(project_id, a, b)

    # -- imports --------------------------------------------------------------------------------------------

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
        return self.inner.ingest(
            project_id,
            documents,
            run=run,
            close_missing=close_missing,
            dry_run=dry_run,
            on_invalid=on_invalid,
        )

    def rejected_originals(self, project_id: str) -> list[RejectedOriginal]:
        return self.inner.rejected_originals(project_id)

    def discard_rejected(self, project_id: str, rejected_ids: Iterable[str]) -> int:
        return self.inner.discard_rejected(project_id, rejected_ids)

    def retry_rejected(
        self, project_id: str, fixed: Mapping[str, GivenFinding] | None = None
    ) -> IngestReport:
        return self.inner.retry_rejected(project_id, fixed)

    # -- life of a finding ----------------------------------------------------------------------------------

    def set_status(
        self, project_id: str, finding_id: str, status: Status | StatusName, *, actor: str, comment: str = ""
    ) -> FindingDocument:
        return self.inner.set_status(project_id, finding_id, status, actor=actor, comment=comment)

    def purge(self, project_id: str, *, closed_before: str, dry_run: bool = False) -> PurgeReport:
        return self.inner.purge(project_id, closed_before=closed_before, dry_run=dry_run)

    # -- the store itself -----------------------------------------------------------------------------------

    @block
    def transaction(self, *, read_only: bool = False) -> Iterator[Self]:
        with self.inner.transaction(read_only=read_only) as inner:
            yield self._view_of(inner)

    @block
    def joined(self, bind: SqlTransaction, *, actor: str | None = None) -> Iterator[Self]:
        with self._join_inner(bind, actor) as inner:
            yield self._view_of(inner)

    def _join_inner(self, bind: SqlTransaction, actor: str | None) -> AbstractContextManager[Any]:
        """Return the block of `joined` of `inner`; one of another making may know of no actor, and needs to if there is one."""
        given = {} if actor is None else {"actor": actor}
        block: AbstractContextManager[Any] = self._inner_method("joined")(bind, **given)
        return block

    def session(self) -> Session:
        session: Session = self._inner_method("session")()
        return session

    def _inner_method(self, name: str) -> Callable[..., Any]:
        """Return a method of `inner` that works in a transaction; a store of another making may have no other of them."""
        method: Callable[..., Any] | None = getattr(self.inner, name, None)
        if method is None:
            raise _without_database(self.inner)
        return method

    def observe(self, observer: Observer) -> Callable[[], None]:
        return self._observable_inner().observe(observer)

    def figures(self) -> Figures:
        return self._observable_inner().figures()

    def pool(self) -> Pool | None:
        return self._observable_inner().pool()

    def diagnose(self) -> list[Problem]:
        return diagnosable(self.inner).diagnose()

    def mend(self) -> list[str]:
        return diagnosable(self.inner).mend()

    def _observable_inner(self) -> Observable:
        inner = observable(self.inner)
        if inner is None:
            raise StorageError(f"{type(self.inner).__name__} tells nothing of its work")
        return inner

    def health(self) -> Health:
        return self.inner.health()

    def close(self) -> None:
        self.inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def observable(store: FindingStore) -> Observable | None:
    """Return a store as one that can be observed; None where the one below its decorators can't."""
    innermost = store.innermost() if isinstance(store, ForwardingStore) else store
    return cast(Observable, store) if isinstance(innermost, Observable) else None


def diagnosable(store: FindingStore) -> Diagnosable:
    """Return a store as one that can be examined.

    Raises:
        StorageError: it can't.
    """
    if isinstance(store, Diagnosable):
        return store
    raise StorageError(f"{type(store).__name__} can't be examined")
