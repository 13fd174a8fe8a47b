"""An `AsyncFindingStore` as a `FindingStore`: what a test calls is awaited in an event loop of another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import wraps
from typing import Any, Self, TypeVar

from findings_orm.aio import AsyncFindingStore, take_over_context
from findings_orm.decorate import ForwardingStore
from findings_orm.port import FindingStore

T = TypeVar("T")


class AwaitedStore(ForwardingStore):
    """Hands each call of the port on to a task, with the caller's context."""

    def __init__(self, store: FindingStore) -> None:
        super().__init__(store)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.awaited = AsyncFindingStore(store)

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        context = copy_context()

        async def start() -> T:
            return await self.loop.create_task(work, context=context)

        try:
            return asyncio.run_coroutine_threadsafe(start(), self.loop).result()
        finally:
            take_over_context(context)

    @property
    def target(self) -> AsyncFindingStore:
        return self.awaited if self._unit is None else self._unit[1]

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Self]:
        block = self.target.transaction(read_only=read_only)
        unit = self.wait_for(block.__aenter__())
        try:
            yield self._view_of(unit.store, unit)
        except BaseException as error:
            if not self.wait_for(block.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self.wait_for(block.__aexit__(None, None, None))

    def _streamed(self, stream: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self.wait_for(anext(stream))
                except StopAsyncIteration:
                    return
        finally:
            self.wait_for(stream.aclose())

    def iter_findings(self, project_id: str) -> Iterator[Any]:
        return self._streamed(self.target.iter_findings(project_id))

    def iter_findings_json(self, project_id: str) -> Iterator[bytes]:
        return self._streamed(self.target.iter_findings_json(project_id))

    def stop(self) -> None:
        """Close the store, and end the event loop."""
        self.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def _by_task(name: str) -> Callable[..., Any]:
    @wraps(getattr(ForwardingStore, name))
    def call(self: AwaitedStore, *given: Any, **options: Any) -> Any:
        return self.wait_for(getattr(self.target, name)(*given, **options))

    return call


for _name in vars(AsyncFindingStore):
    if not _name.startswith("_") and _name not in (*vars(AwaitedStore), "joined"):
        setattr(AwaitedStore, _name, _by_task(_name))
