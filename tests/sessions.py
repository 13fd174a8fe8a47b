"""A store as an application uses it: every call, and every transaction, in a transaction of the application's own session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, Self

from sqlalchemy import Engine
from sqlalchemy.orm import Session

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
    def transaction(self) -> Iterator[Self]:
        if self.store.in_transaction:
            with self.store.transaction():
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
