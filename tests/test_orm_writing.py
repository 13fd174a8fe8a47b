"""What an application's session writes: the same as the store's own calls, or refused."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sessions import engine_with, run_in_greenlet, sql_store
from sqlalchemy import Engine, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    backref,
    make_transient,
    mapped_column,
    relationship,
)

from findings_orm import (
    FindingNotFoundError,
    LimitExceededError,
    Limits,
    StorageConflictError,
    StorageError,
    StorageValidationError,
    UncheckedWriteError,
    open_storage,
)
from findings_orm.decorate import ForwardingStore
from findings_orm.diagnosis import problems_of_survey
from findings_orm.orm import (
    Event,
    Finding,
    Identity,
    Project,
    Run,
    Severity,
    Status,
    configure,
    finding_reference,
)
from findings_orm.orm.storage import SqlStore
from findings_orm.stores.cache.writes import NotifyingStore
from findings_orm.testing.samples import PROJECT, assert_same, finding, ids, scanned, uuid_of

DRIVERS = ("sqlite", "aiosqlite", "psycopg", "psycopg2", "async psycopg", "asyncpg")
TWIN = "twin"


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[SqlStore]:
    with open_store(request.param, request) as store:
        yield store


@pytest.fixture
def session(store: SqlStore) -> Iterator[Session]:
    engine = engine_with("sqlite" if store.engine.dialect.name == "sqlite" else "psycopg", store)
    with Session(engine) as session:
        yield session
    engine.dispose()


def open_store(driver: str, request: pytest.FixtureRequest) -> SqlStore:
    if driver.endswith("sqlite"):
        return request.getfixturevalue("open_sqlite")()  # type: ignore[no-any-return]
    return sql_store(request.getfixturevalue("emptied_postgresql_url"))


def new(number: int, **fields: Any) -> Finding:
    """Return an object with the fields of a finding, without those that a store gives."""
    given = {**finding(number), **fields}
    return Finding(**{name: value for name, value in given.items() if name != "finding_schema_version"})


def got(session: Session, number: int, project: str = PROJECT) -> Finding:
    return session.get_one(Finding, (project, uuid.UUID(uuid_of(number))))


def history_of(store: SqlStore, number: int, project: str = PROJECT) -> list[Any]:
    events = store.history(project, uuid_of(number))
    return [(each.kind, each.actor, dict(each.changes), each.comment, each.run_id) for each in events]


def everything(store: SqlStore, project: str) -> list[Any]:
    """Return what a store knows of a project, without its name and times."""
    documents = store.list_findings(project)
    seen = [store.sighting(project, one["id"]) for one in documents]
    with Session(store.engine) as session:
        rows = session.execute(
            select(
                *(
                    Identity.finding_id,
                    Identity.fingerprint,
                    Identity.ordinal,
                    Identity.content,
                    Identity.reported,
                ),
                *(Identity.line, Identity.closed_as, Identity.closed_at.is_not(None)),
            )
            .where(Identity.project_id == project)
            .order_by(Identity.finding_id)
        ).all()
    return [
        [{**one, "project_id": ""} for one in documents],
        [(one.fingerprint, one.ordinal, one.last_run) for one in seen],
        [history_of(store, number, project) for number in range(1, 9)],
        [tuple(row) for row in rows],
    ]


def assert_whole(store: SqlStore) -> None:
    with store.snapshot() as records:
        assert list(problems_of_survey(records.take_survey())) == []


CHANGED = {
    "title": "Another title",
    "severity": "critical",
    "tags": ["a", "b"],
    "evidence": {"b": [1, 1.0, 10**30, "\0"], "a": None},
    "location": {"path": "x", "start_line": 3},
    "cvss": 7,
    "created_at": "2024-05-01T00:00:00.500000Z",
    "run_id": uuid_of(77),
}


def write_by_session(engine: Engine) -> None:
    with Session(engine, info={"actor": "ana"}) as session:
        session.add_all([new(1), new(2, status="open"), new(3, status="resolved"), new(4), new(5), new(6)])
        session.commit()
        for name, value in CHANGED.items():
            setattr(got(session, 1), name, value)
        got(session, 2).status = Status.RESOLVED
        got(session, 3).status = "open"
        got(session, 4).resource = "elsewhere"
        got(session, 4).status = "triaged"
        session.delete(got(session, 5))
        session.commit()
        with session.begin_nested() as nested:
            got(session, 6).title = "lost"
            session.add(new(7))
            session.flush()
            session.delete(got(session, 1))
            nested.rollback()
        assert got(session, 6).title == "Finding 6"
        session.add(new(7))
        session.commit()
        got(session, 7).title = "lost"
        session.delete(got(session, 1))
        session.flush()
        session.rollback()
        session.commit()
        assert got(session, 7).title == "Finding 7"


def write_by_store(store: SqlStore) -> None:
    """Do the same in another project."""
    store.save_findings(
        [finding(n, project_id=TWIN, **({"status": "resolved"} if n == 3 else {})) for n in range(1, 7)]
    )
    first: dict[str, Any] = {**store.get_finding(TWIN, uuid_of(1)), **CHANGED}
    store.save_finding(first)
    store.set_status(TWIN, uuid_of(2), "resolved", actor="ana")
    store.set_status(TWIN, uuid_of(3), "open", actor="ana")
    store.save_finding({**store.get_finding(TWIN, uuid_of(4)), "resource": "elsewhere", "status": "triaged"})
    store.set_status(TWIN, uuid_of(5), "resolved", actor="ana")
    store.save_finding(finding(7, project_id=TWIN))


@pytest.mark.parametrize("driver", DRIVERS)
def test_objects_are_written_as_the_store_writes_documents(
    driver: str, request: pytest.FixtureRequest
) -> None:
    with open_store(driver, request) as store:
        engine = engine_with(driver, store)
        run_in_greenlet(write_by_session, engine=engine) if engine.dialect.is_async else write_by_session(
            engine
        )
        engine.dispose()
        write_by_store(store)
        removed = store.history(PROJECT, uuid_of(5))[-1]
        assert (removed.kind, removed.actor, removed.changes["title"]) == ("purge", "ana", "Finding 5")
        documents, seen, histories, rows = everything(store, PROJECT)
        expected = everything(store, TWIN)
        at = ids(expected[0]).index(uuid_of(5))
        for part in (expected[0], expected[1]):
            del part[at]
        del expected[3][at]
        histories[4] = expected[2][4] = []
        for history in expected[2]:
            history[:] = [(kind, "ana", *rest) for kind, _, *rest in history]
        assert [documents, seen, histories, rows] == expected
        assert_whole(store)
        assert store.revision(PROJECT) > 0
        report = store.ingest(PROJECT, [finding(7)])
        assert (report.created, report.unchanged) == (0, 1), "an import recognises what a session added"


def test_an_object_gets_what_a_document_may_lack(store: SqlStore, session: Session) -> None:
    one = Finding(project_id=PROJECT, detector_id="scan.house", title="Debug mode", severity=Severity.LOW)
    session.add(one)
    session.flush()
    assert isinstance(one.id, uuid.UUID)
    assert one.id.version == 7
    assert one.created_at.tzinfo is UTC
    assert (one.status, one.tags, one.evidence, one.location) == (Status.OPEN, [], {}, None)
    assert (one.resource, one.fingerprint) == ("", None)
    session.commit()
    assert session.get(Finding, (PROJECT, one.id)) is one
    assert one.document() == store.get_finding(PROJECT, str(one.id))
    assert one.identity is not None
    assert one.first_seen is not None
    assert store.history(PROJECT, str(one.id)) == []


def test_a_project_of_the_session_gets_revisions(store: SqlStore, session: Session) -> None:
    revisions = [store.revision(PROJECT)]
    session.add(new(1))
    session.commit()
    revisions.append(store.revision(PROJECT))
    got(session, 1).title = "Finding 1"
    session.commit()
    assert store.revision(PROJECT) == revisions[-1], "nothing was changed"
    for change in (
        lambda one: setattr(one, "title", "x"),
        lambda one: setattr(one, "status", "triaged"),
        session.delete,
    ):
        change(got(session, 1))
        session.commit()
        revisions.append(store.revision(PROJECT))
    assert revisions == sorted(set(revisions))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("severity", "high!"),
        ("title", ""),
        ("title", None),
        ("title", 5),
        ("title", func.upper("x")),
        ("cvss", 11),
        ("cve_ids", ["CVE-1"]),
        ("tags", "abc"),
        ("evidence", {"a": float("nan")}),
        ("evidence", {"a": object()}),
        ("created_at", datetime(2024, 1, 1)),  # noqa: DTZ001
        ("created_at", "yesterday"),
        ("status", "gone"),
        ("finding_schema_version", "99.0.0"),
        ("run_id", "x"),
        ("project_id", "a\n"),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_what_breaks_a_rule_is_refused(
    store: SqlStore, session: Session, field: str, value: Any, known: bool
) -> None:
    store.save_finding(finding(1))
    before = (store.list_findings(PROJECT), store.revision(PROJECT))
    one = got(session, 1) if known else new(2)
    with pytest.raises(StorageError) as caught:
        setattr(one, field, value)
        session.add(one)
        session.flush()
    if field != "finding_schema_version":
        assert isinstance(caught.value, StorageValidationError)
        assert (caught.value.field or "").startswith(field)
        assert caught.value.rule
    session.rollback()
    session.commit()
    assert (store.list_findings(PROJECT), store.revision(PROJECT)) == before
    assert session.scalar(select(func.count()).select_from(Identity)) == 1


@pytest.mark.parametrize(
    ("field", "value"), [("id", uuid.uuid4()), ("id", uuid_of(9)), ("project_id", "other")]
)
def test_the_key_of_a_finding_is_for_good(store: SqlStore, session: Session, field: str, value: Any) -> None:
    store.save_finding(finding(1))
    setattr(got(session, 1), field, value)
    with pytest.raises(StorageValidationError, match="is for good") as caught:
        session.commit()
    assert caught.value.field == field
    session.rollback()
    assert store.list_projects() == [PROJECT]
    assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]


def test_an_illegal_transition_is_refused(store: SqlStore, session: Session) -> None:
    store.save_finding(finding(1, status="archived"))
    got(session, 1).status = "in_progress"
    with pytest.raises(StorageValidationError, match="status: must be one of"):
        session.flush()
    session.rollback()
    got(session, 1).title, got(session, 1).status = "x", "in_progress"
    with pytest.raises(StorageValidationError, match="status: must be one of"):
        session.flush()
    session.rollback()
    assert history_of(store, 1) == []


def test_a_finding_that_is_there_is_not_added(store: SqlStore, session: Session) -> None:
    store.save_finding(finding(1))
    session.add(new(1, title="other"))
    with pytest.raises(StorageConflictError, match=r"session.merge\(finding\)"):
        session.flush()
    session.rollback()
    assert store.get_finding(PROJECT, uuid_of(1))["title"] == "Finding 1"


def test_a_merged_object_changes_what_it_says(store: SqlStore, session: Session) -> None:
    store.save_finding(finding(1, tags=["a"]))
    session.merge(Finding(project_id=PROJECT, id=uuid_of(1), title="merged"))
    session.merge(new(2))
    session.commit()
    assert store.get_finding(PROJECT, uuid_of(1)) == {
        **finding(1, tags=["a"]),
        **_full(store),
        "title": "merged",
        "tags": ["a"],
    }
    assert history_of(store, 1) == [("change", "session", {"title": ["Finding 1", "merged"]}, "", None)]
    assert ids(store.list_findings(PROJECT)) == [uuid_of(1), uuid_of(2)]


def _full(store: SqlStore) -> Any:
    """Return all fields of the first finding."""
    return store.get_finding(PROJECT, uuid_of(1))


@pytest.mark.parametrize("as_text", [False, True])
def test_deleted_and_added_again_is_replaced(store: SqlStore, session: Session, as_text: bool) -> None:
    store.save_finding(finding(1, tags=["a"]))
    seen = store.sighting(PROJECT, uuid_of(1))
    session.delete(got(session, 1))
    session.add(new(1, title="again", id=uuid_of(1) if as_text else uuid.UUID(uuid_of(1))))
    session.commit()
    assert store.get_finding(PROJECT, uuid_of(1))["tags"] == []
    changes = {"title": ["Finding 1", "again"], "tags": [["a"], []]}
    assert history_of(store, 1) == [("change", "session", changes, "", None)]
    assert store.sighting(PROJECT, uuid_of(1)).first_seen == seen.first_seen
    one = got(session, 1)
    session.delete(one)
    session.add(one)  # not deleted after all
    session.commit()
    assert len(history_of(store, 1)) == 1
    session.delete(one)
    session.flush()
    make_transient(one)
    session.add(one)
    session.commit()
    assert [kind for kind, *_ in history_of(store, 1)] == ["change", "purge"]
    assert one.first_seen is not None
    assert_whole(store)


def test_what_leaves_the_session_is_not_written(store: SqlStore, session: Session) -> None:
    store.save_finding(finding(1))
    one, other = got(session, 1), new(2)
    one.title = "changed"
    session.add(other)
    session.expunge(one)
    session.expunge(other)
    session.commit()
    assert store.list_findings(PROJECT) == [_full(store)]
    assert history_of(store, 1) == []
    session.add(one)  # it still knows what was changed
    session.commit()
    assert _full(store)["title"] == "changed"


def test_a_flush_that_fails_leaves_the_next_one_alone(store: SqlStore, session: Session) -> None:
    session.add_all([new(1), new(2, title="")])
    with pytest.raises(StorageValidationError):
        session.flush()
    session.rollback()
    session.add(new(3))
    session.commit()
    assert ids(store.list_findings(PROJECT)) == [uuid_of(3)]
    assert_whole(store)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, 1.0),
        (1.0, 1),
        (1, True),
        (False, 0),
        (0.0, -0.0),
        ([1], [True]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
    ids=str,
)
def test_what_is_equal_in_python_only_is_a_change(
    store: SqlStore, session: Session, before: Any, after: Any
) -> None:
    store.save_finding(finding(1, evidence={"value": before}))
    with session.begin():
        got(session, 1).evidence = {"value": after}
    assert_same(store.get_finding(PROJECT, uuid_of(1))["evidence"], {"value": after})
    [(kind, *_, changes, _, _)] = history_of(store, 1)
    assert kind == "change"
    assert_same(changes["evidence"], [{"value": before}, {"value": after}])


def test_what_others_changed_meanwhile_stays(store: SqlStore, session: Session) -> None:
    store.save_finding(finding(1, severity="low", status="open"))
    one = got(session, 1)
    assert one.title == "Finding 1"
    session.commit()
    with Session(session.get_bind(), expire_on_commit=False) as other:
        stale = got(other, 1)
        other.commit()
        changed: dict[str, Any] = {**_full(store), "severity": "high"}
        store.save_finding(changed)
        store.set_status(PROJECT, uuid_of(1), "resolved", actor="bob")
        stale.title = "changed"
        other.commit()
    assert (_full(store)["severity"], _full(store)["status"]) == ("high", "resolved")
    assert history_of(store, 1)[-1] == ("change", "session", {"title": ["Finding 1", "changed"]}, "", None)
    with Session(session.get_bind(), expire_on_commit=False) as other:
        stale = got(other, 1)
        other.commit()
        store.purge(PROJECT, closed_before="9999-01-01T00:00:00Z")
        stale.title = "lost"
        with pytest.raises(FindingNotFoundError):
            other.commit()
    assert store.list_findings(PROJECT) == []


def test_several_sessions_and_projects(store: SqlStore, session: Session) -> None:
    """Neither waits for itself, nor loses what the other one wrote."""
    session.add_all([new(n, project_id=project) for n in (1, 2) for project in ("b", "a")])
    session.commit()
    with Session(session.get_bind()) as other:
        got(other, 1, "b").title, got(other, 2, "a").title = "x", "y"
        other.commit()
        got(session, 2, "b").title = got(session, 1, "a").title = "z"
        session.commit()
        got(other, 1, "a").tags = ["t"]
        other.commit()
    titles = [one["title"] for project in ("a", "b") for one in store.list_findings(project)]
    assert titles == ["z", "y", "x", "z"]
    assert_whole(store)


# -- statements past the store ------------------------------------------------------------------------------------------


TABLE: Any = Finding.__table__
PROJECTS: Any = Project.__table__
OF_ANOTHER = (Finding.project_id == PROJECT, Finding.title == "Finding 1")


@pytest.mark.parametrize(
    "statement",
    [
        update(Finding).where(*OF_ANOTHER).values(title="x"),
        delete(Finding).where(*OF_ANOTHER),
        insert(Finding).values(project_id=PROJECT, title="x"),
        update(TABLE).values(title="x"),
        delete(TABLE),
        delete(Event),
        update(Identity).values(closed_at=None),
        delete(PROJECTS),
    ],
    ids=lambda one: f"{type(one).__name__} {one.table.name}",
)
def test_statements_that_change_our_tables_are_refused(
    store: SqlStore, session: Session, statement: Any
) -> None:
    store.save_finding(finding(1))
    with pytest.raises(
        UncheckedWriteError, match=r"session.*save_findings, set_status.*findings_past_the_store"
    ):
        session.execute(statement)
    assert _full(store)["title"] == "Finding 1"


def test_a_query_changes_nothing_either(store: SqlStore, session: Session) -> None:
    store.save_finding(finding(1))
    with pytest.raises(UncheckedWriteError):
        session.query(Finding).update({"title": "x"})
    with pytest.raises(UncheckedWriteError):
        session.query(Finding).delete()
    with pytest.raises(UncheckedWriteError):
        session.execute(insert(Finding), [{"title": "x"}])


def test_who_takes_the_blame_may(store: SqlStore, session: Session) -> None:
    store.save_finding(finding(1))
    blame: Any = {"findings_past_the_store": True}
    session.execute(update(Finding).values(title="x").execution_options(**blame))
    session.execute(delete(Event), execution_options=blame)
    session.commit()
    assert _full(store)["title"] == "x"


def test_other_objects_are_only_read(store: SqlStore, session: Session) -> None:
    store.ingest(PROJECT, [scanned("R1", 1)])
    store.set_status(PROJECT, store.list_findings(PROJECT)[0]["id"], "triaged", actor="ana")
    for kind in (Project, Identity, Run, Event):
        one = session.scalars(select(kind)).one()
        session.delete(one)
        with pytest.raises(UncheckedWriteError, match=f"objects of {kind.__name__}"):
            session.flush()
        session.rollback()
    session.add(Project(project_id="x", created_at=datetime.now(UTC), revision=1))
    with pytest.raises(UncheckedWriteError, match="objects of Project"):
        session.flush()
    session.rollback()
    session.scalars(select(Event)).one().comment = "x"
    with pytest.raises(UncheckedWriteError, match="objects of Event"):
        session.flush()


# -- tables of the application ------------------------------------------------------------------------------------------


class Own(DeclarativeBase):
    pass


class Task(Own):
    __tablename__ = "tasks"
    _reference = finding_reference(ondelete="RESTRICT")
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = _reference.project_id
    finding_id: Mapped[uuid.UUID] = _reference.finding_id
    __table_args__ = _reference.table_args
    finding: Mapped[Finding] = relationship(Finding, backref=backref("tasks", cascade="all, delete-orphan"))


@pytest.fixture
def application(store: SqlStore) -> Iterator[Session]:
    engine = configure(engine_with("sqlite" if store.engine.dialect.name == "sqlite" else "psycopg", store))
    Own.metadata.create_all(engine, [Own.metadata.tables["tasks"]])
    try:
        with Session(engine) as session:
            yield session
    finally:
        Own.metadata.drop_all(engine, [Own.metadata.tables["tasks"]])
        engine.dispose()


def test_rows_of_the_application_follow_ours_in_one_flush(application: Session, store: SqlStore) -> None:
    one = Finding(project_id=PROJECT, detector_id="scan.house", title="Debug mode", severity="low")
    application.add(Task(finding=one))
    application.commit()
    task = application.scalars(select(Task)).one()
    assert (task.project_id, task.finding_id) == (PROJECT, one.id)
    revision = store.revision(PROJECT)
    application.add(Task(finding=one))
    application.commit()
    assert store.revision(PROJECT) == revision, "the finding was not changed"
    application.delete(one)  # with its tasks, which go before it
    application.commit()
    assert application.scalars(select(Task)).all() == []
    assert store.list_findings(PROJECT) == []
    application.add(Task(finding=new(2)))
    application.commit()
    with pytest.raises((IntegrityError, StorageConflictError)):
        application.execute(text("DELETE FROM findings"))
    application.rollback()


# -- beside a store that joined -----------------------------------------------------------------------------------------


def test_a_session_and_the_store_that_joined_it_see_each_other(store: SqlStore, session: Session) -> None:
    store.save_finding(finding(1))
    one = got(session, 1)
    with store.joined(session, actor="ana") as unit:
        one.title = "by the session"
        assert unit.get_finding(PROJECT, uuid_of(1))["title"] == "by the session"
        unit.save_finding({**unit.get_finding(PROJECT, uuid_of(1)), "severity": "critical"})
        assert one.severity == Severity.CRITICAL
        session.add(new(2))
        unit.set_status(PROJECT, uuid_of(2), "triaged", actor="bob")
        assert got(session, 2).status == Status.TRIAGED
        one.status = "triaged"
    assert "actor" not in session.info
    session.commit()
    assert [actor for _, actor, *_ in history_of(store, 1)] == ["ana", "save", "ana"]
    assert [actor for _, actor, *_ in history_of(store, 2)] == ["bob"]
    assert_whole(store)


def test_a_block_that_is_undone_takes_objects_with_it(store: SqlStore, session: Session) -> None:
    store.save_finding(finding(1))
    one = got(session, 1)
    with store.joined(session) as unit:
        with pytest.raises(KeyError), unit.transaction() as inner:
            one.title = "lost"
            session.add(new(2))
            inner.save_finding(finding(3))
            assert len(inner.list_findings(PROJECT)) == 3
            raise KeyError
        assert one.title == "Finding 1"
        assert session.get(Finding, (PROJECT, uuid.UUID(uuid_of(2)))) is None
        with unit.transaction():
            one.title = "kept"
    session.commit()
    assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]
    assert _full(store)["title"] == "kept"


def test_the_limits_of_the_store_that_joined_hold(store: SqlStore, session: Session) -> None:
    url = store.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    with open_storage(url, limits=Limits(max_document_bytes=1_000)) as small:
        with pytest.raises(LimitExceededError), small.joined(session):
            session.add(new(1, title="x" * 2_000))
        session.rollback()
        with small.transaction(), small.session() as inside, pytest.raises(LimitExceededError):
            inside.add(new(1, title="x" * 2_000))
            inside.flush()


def test_a_session_of_a_unit_of_work_writes_as_the_unit(store: SqlStore) -> None:
    with store.transaction() as unit, unit.session() as session:
        unit.save_finding(finding(1))
        session.info["actor"] = "ana"
        got(session, 1).title = "x"
        session.add(new(2))
        session.commit()
        got(session, 1).title = "lost"
        session.flush()
        session.rollback()
        unit.set_status(PROJECT, uuid_of(2), "triaged", actor="bob")
    assert history_of(store, 1) == [("change", "ana", {"title": ["Finding 1", "x"]}, "", None)]
    assert len(history_of(store, 2)) == 1
    assert_whole(store)


@pytest.mark.parametrize("actor", ["", "a\0", 5])
def test_an_actor_is_plain_text(store: SqlStore, session: Session, actor: Any) -> None:
    session.info["actor"] = actor
    session.add(new(1))
    with pytest.raises(StorageValidationError, match="actor"):
        session.flush()
    session.rollback()
    with pytest.raises(StorageValidationError, match="actor"), store.joined(session, actor=actor):
        pass


@pytest.mark.parametrize("decorator", [ForwardingStore, NotifyingStore])
def test_decorators_hand_the_actor_on(
    store: SqlStore, session: Session, decorator: type[ForwardingStore]
) -> None:
    store.save_finding(finding(1))
    with decorator(store).joined(session, actor="ana"):
        got(session, 1).title = "x"
    session.commit()
    assert [actor for _, actor, *_ in history_of(store, 1)] == ["ana"]


def test_a_connection_has_no_actor(store: SqlStore) -> None:
    refused = pytest.raises(StorageValidationError, match="actor")
    with store.engine.connect() as connection, refused, store.joined(connection, actor="ana"):
        pass


def test_a_session_without_transactions_is_refused(store: SqlStore) -> None:
    engine = engine_with("sqlite" if store.engine.dialect.name == "sqlite" else "psycopg", store)
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        session.add(new(1))
        with pytest.raises(StorageError, match="AUTOCOMMIT"):
            session.flush()
    engine.dispose()
    assert store.list_projects() == []
