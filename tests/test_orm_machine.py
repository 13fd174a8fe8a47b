"""Random sequences of writes, some by the store, some by objects of a session that it joined, against the model of a store."""

from __future__ import annotations

import itertools
import os
import pathlib
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from servers import TEMPLATE, PostgresServer
from sessions import SessionStore, sql_store, with_driver
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from findings_orm import PurgeReport, StorageError, open_storage, validate_finding
from findings_orm.finding import TRANSITIONS, Status
from findings_orm.orm import Finding
from findings_orm.testing.machine import store_machine

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
_FOLDER = pathlib.Path(tempfile.mkdtemp())
_NUMBERS = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def _clean_up() -> Iterator[None]:
    _FOLDER.mkdir(exist_ok=True)
    yield
    shutil.rmtree(_FOLDER)


class ObjectStore(SessionStore):
    """Saves documents as objects of the session where that means the same: a status may change in any way by a save only."""

    session_: Session

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.random = random.Random(0)

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Self]:
        if read_only or self.store.in_transaction:
            with self.store.transaction(read_only=read_only):
                yield self
            return
        with Session(self.engine, info={"actor": "save"}) as self.session_:
            with self.store.joined(self.session_):
                yield self
            self.session_.commit()

    def save_findings(self, documents: Iterable[Any]) -> None:
        given = list(documents)
        try:
            valid = [validate_finding(one) for one in given]
        except StorageError:
            super().save_findings(given)
            return
        with self.transaction():
            for one in valid:
                self._save_object(one) if self.random.randrange(3) else self.store.save_finding(one)

    def _save_object(self, document: Any) -> None:
        session = self.session_
        found = session.get(Finding, (document["project_id"], UUID(document["id"])))
        if found is None:
            session.add(Finding(**document))
        else:
            if found in self.session_.dirty:
                self.session_.flush()  # two changes in one flush are one event
            old = found.document()
            changed = [name for name in document if repr(document[name]) != repr(old[name])]  # type: ignore[literal-required]
            if not set(changed) - {"status"} or Status(document["status"]) not in {
                *TRANSITIONS[found.status],
                found.status,
            }:
                self.store.save_finding(document)
                return
            for name in changed:
                setattr(found, name, document[name])
        if self.random.randrange(2):
            session.flush()

    def set_status(
        self, project_id: str, finding_id: str, status: Any, *, actor: str, comment: str = ""
    ) -> Any:
        with self.transaction():
            found = self.session_.get(Finding, (project_id, UUID(finding_id)))
            if found is None or comment or found.status == status:
                return self.store.set_status(project_id, finding_id, status, actor=actor, comment=comment)
            self.session_.info["actor"] = actor
            found.status = status
            try:
                self.session_.flush()
            finally:
                self.session_.info["actor"] = "save"
            return found.document()

    def purge(self, project_id: str, *, closed_before: str, dry_run: bool = False) -> PurgeReport:
        if dry_run or self.random.randrange(2):
            return self._purge_by_store(project_id, closed_before, dry_run)
        with self.transaction():
            closed = select(Finding).where(
                Finding.project_id == project_id, Finding.closed_at < closed_before
            )
            found = self.session_.scalars(closed).all()
            self.session_.info["actor"] = "purge"
            for one in found:
                self.session_.delete(one)
            self.session_.flush()
            self.session_.info["actor"] = "save"
            return PurgeReport(len(found))

    def _purge_by_store(self, project_id: str, closed_before: str, dry_run: bool) -> PurgeReport:
        with self.transaction():
            return self.store.purge(project_id, closed_before=closed_before, dry_run=dry_run)


def _new_file() -> ObjectStore:
    empty = _FOLDER / "empty.db"
    if not empty.exists():
        open_storage(f"sqlite:///{empty}").close()
    path = _FOLDER / f"{next(_NUMBERS)}.db"
    shutil.copy(empty, path)
    url = f"sqlite:///{path}"
    return ObjectStore(sql_store(url), create_engine(url))


SCALE = settings(
    max_examples=400 if FULL else 3,
    stateful_step_count=50 if FULL else 10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestSQLite = store_machine(_new_file).TestCase
TestSQLite.settings = SCALE


def test_any_sequence_leaves_postgresql_as_the_model_says(postgresql_18: PostgresServer) -> None:
    def new() -> ObjectStore:
        url = postgresql_18.url(postgresql_18.create_database(TEMPLATE))
        return ObjectStore(sql_store(url), create_engine(with_driver(url, "psycopg")))

    run_state_machine_as_test(store_machine(new), settings=SCALE)
