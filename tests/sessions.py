"""A store as an application uses it: every call, and every transaction, in a transaction of the application's own session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, Self

from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from findings_orm import open_storage
from findings_orm.decorate import ForwardingStore
from findings_orm.orm.storage import SqlStore


class SessionStore(ForwardingStore):
    """Hands each call on inside `joined`, on a session of another engine, which commits; or inside a savepoint of it."""

    def __init__(self, store: SqlStore, engine: Engine, *, nested: bool = False) -> None:
        super().__init__(store)
        self.store = store
        self.engine = engine
        self.nested = nested

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Self]:
        if read_only or self.store.in_transaction:
            with self.store.transaction(read_only=read_only):
                yield self
            return
        with Session(self.engine) as session:
            with session.begin_nested() if self.nested else nullcontext(), self.store.joined(session):
                yield self
            session.commit()

    def close(self) -> None:
        super().close()
        self.engine.dispose()


def _in_session(name: str, *, streams: bool = False) -> Callable[..., Any]:
    @wraps(getattr(ForwardingStore, name))
    def call(self: SessionStore, *args: Any, **options: Any) -> Any:
        with nullcontext() if self.store.in_transaction else self.transaction():
            result = getattr(self.store, name)(*args, **options)
            return (one for one in list(result)) if streams else result

    return call


for _name in (
    *(
        "save_finding",
        "save_findings",
        "list_findings",
        "delete_project",
        "get_finding",
        "find",
        "count",
        "summarize",
    ),
    *(
        "list_projects",
        "revision",
        "history",
        "sighting",
        "runs",
        "diff_runs",
        "ingest",
        "rejected_originals",
    ),
    *("discard_rejected", "retry_rejected", "set_status", "purge"),
):
    setattr(SessionStore, _name, _in_session(_name))
for _name in ("iter_findings", "iter_findings_json"):
    setattr(SessionStore, _name, _in_session(_name, streams=True))


def with_driver(url: Any, driver: str) -> str:
    return str(url).replace("postgresql:", f"postgresql+{driver.removeprefix('async ')}:")


def sql_store(url: str) -> SqlStore:
    store = open_storage(url)
    assert isinstance(store, SqlStore)
    return store


def engine_with(driver: str, store: SqlStore) -> Engine:
    """Return an engine of another driver on the database of a store; of one for asyncio the sync face."""
    backend, name = store.engine.dialect.name, driver.removeprefix("async ")
    url = store.engine.url.set(drivername=backend if name == "sqlite" else f"{backend}+{name}")
    if driver in ("asyncpg", "aiosqlite") or driver.startswith("async "):
        return create_async_engine(url, poolclass=NullPool).sync_engine
    return create_engine(url)


def run_in_greenlet(test: Callable[..., Any], **given: Any) -> Any:
    """Run what `AsyncSession.run_sync` would: it may use SQLAlchemy's sync face of an async driver."""
    return asyncio.run(greenlet_spawn(test, **given))
