"""The base of the decorators that watch: it sees every operation of the port begin and end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import wraps
from time import perf_counter
from typing import Any, Self, TypeVar, cast

from findings_orm.decorate import ForwardingStore, observable
from findings_orm.errors import (
    FindingNotFoundError,
    SchemaVersionError,
    StorageConflictError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
)
from findings_orm.finding import FindingDocument
from findings_orm.observe import Observer
from findings_orm.port import FindingStore
from findings_orm.process import block

_Method = TypeVar("_Method", bound=Callable[..., object])
Item = TypeVar("Item")

OUTCOMES: dict[type[BaseException], str] = {
    StorageValidationError: "invalid",
    SchemaVersionError: "schema_version",
    FindingNotFoundError: "not_found",
    StorageConflictError: "conflict",
    StorageIntegrityError: "integrity",
    StorageUnavailableError: "unavailable",
}
"""Error to the name of the outcome; others are ``error``, and no error is ``ok``."""


def outcome_of(error: BaseException | None) -> str:
    """Return the name of an outcome."""
    if error is None:
        return "ok"
    return next((name for kind, name in OUTCOMES.items() if isinstance(error, kind)), "error")


class Operation:
    """One call of an operation; a block ``with operation`` is time in which the store works for it, on this thread.

    A decorator derives its own from it; this one keeps the time and tells nobody.

    Attributes:
        name: the method of the port.
        seconds: how long the store worked; of an iterator without the caller's own time.
    """

    __slots__ = ("_since", "name", "seconds")

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._since = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += perf_counter() - self._since

    @block
    def around(self) -> Iterator[None]:
        """Keep the time of a block of the application, which may be left in another thread than entered."""
        since = perf_counter()
        try:
            yield
        finally:
            self.seconds += perf_counter() - since

    def end(self, result: object, error: BaseException | None) -> None:
        """Take notice that the operation ended, with a result or an error. Comes once."""


def _watch_method(method: _Method, *, writes: bool = False) -> _Method:
    @wraps(method)
    def watched(self: ObservedStore, *args: object, **options: object) -> object:
        operation = self._begin_operation(method.__name__)
        changes = writes and options.get("dry_run") is not True
        commits = changes and self._commits_at_once()
        changed = False
        try:
            try:
                with operation:
                    result = method(self, *args, **options)
                    changed = changes
            except BaseException as error:
                operation.end(None, error)
                raise
            operation.end(result, None)
        except BaseException as error:
            if changed:
                self._note_late_exception(error, commits=commits)
            raise
        return result

    return cast("_Method", watched)


class ObservedStore(ForwardingStore):
    """A store that another one watches at work.

    Attributes:
        inner: the store that does the work.
        adapter: the kind of the innermost store, as ``sqlite``.
    """

    def __init__(self, inner: FindingStore, observer: Observer | None = None) -> None:
        super().__init__(inner)
        self.adapter: str = getattr(self.innermost(), "adapter", type(self.innermost()).__name__)
        self._local = threading.local()
        self._stop: Callable[[], None] | None = None
        watched = observable(inner)
        if observer is not None and watched is not None:
            self._stop = watched.observe(observer)

    def _begin_operation(self, name: str) -> Operation:
        """Return what watches one call."""
        raise NotImplementedError

    def iter_findings(self, project_id: str) -> Iterator[FindingDocument]:
        """See `FindingStore.iter_findings`."""
        return self._watch_iterator("iter_findings", lambda: self.inner.iter_findings(project_id))

    def iter_findings_json(self, project_id: str) -> Iterator[bytes]:
        """See `FindingStore.iter_findings_json`."""
        return self._watch_iterator("iter_findings_json", lambda: self.inner.iter_findings_json(project_id))

    def _watch_iterator(self, name: str, begin: Callable[[], Iterator[Item]]) -> Iterator[Item]:
        """Yield what an iterator yields; its time is counted without that of the caller."""
        operation = self._begin_operation(name)
        count = 0
        try:
            with operation:
                found = begin()
                one = next(found, None)
            with closing(cast("Any", found)):
                while one is not None:
                    count += 1
                    yield one
                    since = perf_counter()
                    one = next(found, None)
                    operation.seconds += perf_counter() - since
        except GeneratorExit:
            operation.end(count, None)
            raise
        except BaseException as error:
            operation.end(None, error)
            raise
        operation.end(count, None)

    @block
    def transaction(self, *, read_only: bool = False) -> Iterator[Self]:
        """See `FindingStore.transaction`. Its time is that of the block: how long it was open."""
        operation = self._begin_operation("transaction")
        commits = self._commits_at_once()
        ended = False
        try:
            try:
                with operation.around():
                    with super().transaction(read_only=read_only) as view:
                        yield view
                    ended = True
            except BaseException as error:
                operation.end(None, error)
                raise
            operation.end(None, None)
        except BaseException as error:
            if ended:
                self._note_late_exception(error, commits=commits)
            raise

    def close(self) -> None:
        """See `FindingStore.close`."""
        if self._unit is not None:
            super().close()  # which refuses it
            return
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()
        super().close()

    save_finding = _watch_method(ForwardingStore.save_finding, writes=True)
    save_findings = _watch_method(ForwardingStore.save_findings, writes=True)
    list_findings = _watch_method(ForwardingStore.list_findings)
    delete_project = _watch_method(ForwardingStore.delete_project, writes=True)
    get_finding = _watch_method(ForwardingStore.get_finding)
    find = _watch_method(ForwardingStore.find)
    count = _watch_method(ForwardingStore.count)
    summarize = _watch_method(ForwardingStore.summarize)
    list_projects = _watch_method(ForwardingStore.list_projects)
    revision = _watch_method(ForwardingStore.revision)
    history = _watch_method(ForwardingStore.history)
    sighting = _watch_method(ForwardingStore.sighting)
    runs = _watch_method(ForwardingStore.runs)
    diff_runs = _watch_method(ForwardingStore.diff_runs)
    ingest = _watch_method(ForwardingStore.ingest, writes=True)
    rejected_originals = _watch_method(ForwardingStore.rejected_originals)
    discard_rejected = _watch_method(ForwardingStore.discard_rejected, writes=True)
    retry_rejected = _watch_method(ForwardingStore.retry_rejected, writes=True)
    set_status = _watch_method(ForwardingStore.set_status, writes=True)
    purge = _watch_method(ForwardingStore.purge, writes=True)
    figures = _watch_method(ForwardingStore.figures)
    health = _watch_method(ForwardingStore.health)
    atomic_write = _watch_method(ForwardingStore.atomic_write)
