"""Every store for asyncio: `AsyncFindingStore` awaits what a `FindingStore` does.

The calls run in threads. In the transaction of an application's `AsyncSession` (`AsyncFindingStore.joined`) they run on its own
connection and driver, in the greenlet that SQLAlchemy has for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from contextvars import Context, copy_context
from functools import partial, wraps
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, cast

from findings_orm.arguments import checked
from findings_orm.decorate import ApplicationStore
from findings_orm.errors import StorageValidationError
from findings_orm.finding import FindingDocument
from findings_orm.port import FindingStore, Health
from findings_orm.units import MOST_WAITING

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

P = ParamSpec("P")
T = TypeVar("T")

BATCH = 100
"""How many findings a stream takes out of the store at a time."""

DONE = "The call had been made when this exception came: its work is done."


class _Runner(Protocol):
    async def run(self, call: Callable[[], T], *, block: bool = False) -> T:
        """Return what a call returns; it enters or leaves a `block`, or does not."""


class _Threads:
    """Runs calls in threads, in copies of the task's context: so they belong to the unit of work that the task is in."""

    def __init__(self, number: int) -> None:
        self._pool = ThreadPoolExecutor(number, "findings")

    async def run(self, call: Callable[[], T], *, block: bool = False) -> T:
        """See `_Runner.run`. Cancelled, it waits until the call has ended; if that has not begun, it is not made at all."""
        context = copy_context()
        try:
            work = self._pool.submit(context.run, call)
        except RuntimeError:  # there are no threads any more; a closed store says so at once
            return call()
        waiting = asyncio.wrap_future(work)
        cancelled = None
        while not waiting.done():
            try:
                await asyncio.wait([waiting])
            except asyncio.CancelledError as error:
                if not block and work.cancel():
                    raise
                cancelled = cancelled or error
        if block:
            take_over_context(context)
        if cancelled is None:
            return waiting.result()
        failure = waiting.exception()
        if failure is None:
            cancelled.add_note(DONE)
        raise cancelled from failure

    def close(self) -> None:
        """End each thread when it has nothing to do."""
        self._pool.shutdown(wait=False)


class _Greenlets:
    """Runs calls where SQLAlchemy awaits for them what the driver of a connection does."""

    def __init__(self, bind: AsyncSession | AsyncConnection) -> None:
        self._bind = bind

    async def run(self, call: Callable[[], T], *, block: bool = False) -> T:
        """See `_Runner.run`."""
        return await self._bind.run_sync(lambda _bind: call())


def take_over_context(context: Context) -> None:
    """Give the task the context variables that a call in a thread has set."""
    for variable, value in context.items():
        if variable.get(None) is not value:
            variable.set(value)


def _awaited(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[AsyncFindingStore, P], Coroutine[Any, Any, T]]:
    """Return a method of a store as one that is awaited."""

    @wraps(method)
    async def call(self: AsyncFindingStore, /, *given: P.args, **options: P.kwargs) -> T:
        made = partial(getattr(self.store, method.__name__), *given, **options)
        return cast("T", await self._runner.run(made))

    return call


class AsyncFindingStore:
    """A `FindingStore` for asyncio: the same methods with the same meaning, awaited; streams are asynchronous iterators.

    ::

        async with AsyncFindingStore(open_storage("postgresql://localhost/findings")) as store:
            report = await store.ingest("acme-api", documents)
            async with store.transaction() as unit:
                finding = await unit.get_finding("acme-api", finding_id)
                await unit.save_finding({**finding, "tags": ["seen"]})
            async for finding in store.iter_findings("acme-api"):
                ...

    A task that is cancelled goes on when the call that it waits for has ended, so that nothing of it happens afterwards; the
    exception has the note `DONE` if the call ended well. A block of `transaction` that is left by it is rolled back.

    Args:
        store: any store. It belongs to this one: closing this one closes it.
        threads: how many calls run at once; more of them wait.

    Raises:
        StorageValidationError: fewer threads than units of work need that wait for each other.

    Attributes:
        store: the store that does the work; of a unit of work, the unit of that.
    """

    @checked
    def __init__(self, store: FindingStore, *, threads: int = 8) -> None:
        if threads <= MOST_WAITING:
            raise StorageValidationError.of_field("threads", f"must be more than {MOST_WAITING}", threads)
        self.store = store
        self._threads = _Threads(threads)
        self._runner: _Runner = self._threads

    def _view_of(self, unit: FindingStore, runner: _Runner) -> Self:
        view = object.__new__(type(self))
        view.store, view._threads, view._runner = unit, self._threads, runner
        return view

    atomic_write = _awaited(FindingStore.atomic_write)
    validate_store_layout = _awaited(FindingStore.validate_store_layout)
    check_store_layout = _awaited(FindingStore.check_store_layout)
    get_schema_version = _awaited(FindingStore.get_schema_version)
    save_finding = _awaited(FindingStore.save_finding)
    save_findings = _awaited(FindingStore.save_findings)
    list_findings = _awaited(FindingStore.list_findings)
    delete_project = _awaited(FindingStore.delete_project)
    get_finding = _awaited(FindingStore.get_finding)
    find = _awaited(FindingStore.find)
    count = _awaited(FindingStore.count)
    summarize = _awaited(FindingStore.summarize)
    list_projects = _awaited(FindingStore.list_projects)
    revision = _awaited(FindingStore.revision)
    history = _awaited(FindingStore.history)
    sighting = _awaited(FindingStore.sighting)
    runs = _awaited(FindingStore.runs)
    diff_runs = _awaited(FindingStore.diff_runs)
    ingest = _awaited(FindingStore.ingest)
    rejected_originals = _awaited(FindingStore.rejected_originals)
    discard_rejected = _awaited(FindingStore.discard_rejected)
    retry_rejected = _awaited(FindingStore.retry_rejected)
    set_status = _awaited(FindingStore.set_status)
    purge = _awaited(FindingStore.purge)

    def iter_findings(self, project_id: str) -> AsyncGenerator[FindingDocument, None]:
        """See `FindingStore.iter_findings`. Who leaves the loop early closes it: ``async with contextlib.aclosing(...)``."""
        return self._stream(partial(self.store.iter_findings, project_id))

    def iter_findings_json(self, project_id: str) -> AsyncGenerator[bytes, None]:
        """See `FindingStore.iter_findings_json` and `iter_findings`."""
        return self._stream(partial(self.store.iter_findings_json, project_id))

    async def _stream(self, begin: Callable[[], Iterator[T]]) -> AsyncGenerator[T, None]:
        found: Any = await self._runner.run(begin)
        try:
            while batch := await self._runner.run(lambda: list(islice(found, BATCH))):
                for one in batch:
                    yield one
        finally:
            await self._runner.run(found.close, block=True)

    def transaction(self, *, read_only: bool = False) -> AbstractAsyncContextManager[Self]:
        """Open a unit of work, see `FindingStore.transaction`.

        Tasks that are started in the block (`asyncio.create_task`, `asyncio.TaskGroup`) belong to it, one call at a time.
        """
        return self._enter(self.store.transaction(read_only=read_only), self._runner)

    def joined(
        self, bind: AsyncSession | AsyncConnection, *, actor: str | None = None
    ) -> AbstractAsyncContextManager[Self]:
        """Work in an application's own transaction, see `ApplicationStore.joined`: on its connection, whatever its driver.

        Args:
            bind: an `AsyncSession` or `AsyncConnection` on the database that has the tables of this store.
            actor: who changes objects of the session in the block.

        Raises:
            StorageValidationError: `bind` is neither of both.
        """
        sync: Any = getattr(bind, "sync_session", None) or getattr(bind, "sync_connection", None)
        if sync is None:
            rule = "must be an AsyncSession, or an AsyncConnection that was begun"
            raise StorageValidationError.of_field("bind", rule, bind)
        block = cast("ApplicationStore", self.store).joined(sync, actor=actor)
        return self._enter(block, _Greenlets(bind))

    @asynccontextmanager
    async def _enter(self, block: AbstractContextManager[Any], runner: _Runner) -> AsyncIterator[Self]:
        if runner is self._threads and not getattr(self.store, "in_transaction", False):
            unit = (
                block.__enter__()
            )  # nothing to wait for; in the task itself, so that its context has the unit
        else:
            unit = await runner.run(block.__enter__, block=True)
        try:
            yield self._view_of(unit, runner)
        except BaseException as error:
            leave = partial(block.__exit__, type(error), error, error.__traceback__)
            if not await runner.run(leave, block=True):
                raise
        else:
            await runner.run(partial(block.__exit__, None, None, None), block=True)

    async def health(self) -> Health:
        """See `FindingStore.health`; it waits for no thread of this store either."""
        return await asyncio.to_thread(self.store.health)

    async def close(self) -> None:
        """See `FindingStore.close`."""
        await self._runner.run(self.store.close, block=True)
        self._threads.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
