"""The models as an application uses them: types, comparisons, plans, and that nothing is lost on the way."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sessions import engine_with, run_in_greenlet, sql_store
from sqlalchemy import Engine, ForeignKey, create_engine, event, func, inspect, select, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError, StatementError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    backref,
    mapped_column,
    relationship,
    selectinload,
)

from findings_orm import FindingQuery, StorageError, StorageValidationError, orm
from findings_orm.finding import format_time
from findings_orm.orm import Event, Finding, Identity, Project, Run, Severity, Status, finding_reference
from findings_orm.orm.storage import SqlStore
from findings_orm.testing.samples import PROJECT, assert_same, finding, ids, run_id_of, scanned, uuid_of
from findings_orm.testing.strategies import documents

DRIVERS = ("sqlite", "aiosqlite", "psycopg", "psycopg2", "async psycopg", "asyncpg")
HARD = finding(
    1,
    created_at="0001-01-01T00:00:00.000001Z",
    run_id=uuid_of(5),
    evidence={"b": [1, 1.0, -0.0, 10**30, "\0"], "a": None, "": {"x": [{}]}},
    location={"path": "x", "start_line": 3},
    tags=["b", "a", "%s ? :x"],
    cwe_ids=[79, 89],
    cvss=7,
    confidence=50,
    severity="critical",
    status="risk_accepted",
)
LATE = finding(2, created_at="9999-12-31T23:59:59.999999Z")


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[SqlStore]:
    """Return an empty store on each kind of database."""
    if request.param == "sqlite":
        store: Any = request.getfixturevalue("open_sqlite")()
    else:
        store = sql_store(request.getfixturevalue("emptied_postgresql_url"))
    with store:
        yield store


@pytest.fixture
def session(store: SqlStore) -> Iterator[Session]:
    engine = engine_of(store)
    with Session(engine) as session:
        yield session
    engine.dispose()


def engine_of(store: SqlStore, **options: Any) -> Engine:
    name = store.engine.dialect.name
    url = store.engine.url.set(drivername="sqlite" if name == "sqlite" else "postgresql+psycopg")
    return create_engine(url, **options)


def documents_of(session: Session, *conditions: Any) -> list[Any]:
    found = session.scalars(select(Finding).where(*conditions).order_by(Finding.created_at, Finding.id))
    return [one.document() for one in found]


# -- names ------------------------------------------------------------------------------------------------------------


def test_the_package_loads_no_sqlalchemy_until_models_are_asked_for() -> None:
    code = (
        "import sys, findings_orm, findings_orm.orm; assert 'sqlalchemy' not in sys.modules;"
        "findings_orm.orm.Finding; assert 'sqlalchemy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_everything_public_is_there() -> None:
    assert {name: getattr(orm, name) for name in orm.__all__}["metadata"] is orm.Base.metadata
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        orm.nothing  # noqa: B018


# -- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_driver_reads_and_finds_by_real_types(
    driver: str, request: pytest.FixtureRequest, open_sqlite: Callable[[], SqlStore]
) -> None:
    if driver.endswith("sqlite"):
        store = open_sqlite()
    else:
        store = sql_store(request.getfixturevalue("emptied_postgresql_url"))
    store.save_findings([HARD, LATE])
    engine = engine_with(driver, store)

    def work() -> None:
        with Session(engine) as session:
            assert documents_of(session) == store.list_findings(PROJECT)
            one = session.get_one(Finding, (PROJECT, uuid.UUID(uuid_of(1))))
            assert one is session.get(Finding, (PROJECT, uuid.UUID(uuid_of(1))))
            assert (one.id, one.run_id) == (uuid.UUID(uuid_of(1)), uuid.UUID(uuid_of(5)))
            assert one.created_at == datetime(1, 1, 1, microsecond=1, tzinfo=UTC)
            assert one.created_at.tzinfo is UTC
            assert (one.severity, one.status) == (Severity.CRITICAL, Status.RISK_ACCEPTED)
            assert isinstance(one.severity, Severity)
            assert isinstance(one.status, Status)
            for condition in (
                Finding.id == uuid.UUID(uuid_of(1)),
                Finding.id == uuid_of(1).upper(),
                Finding.id.in_([uuid.UUID(uuid_of(1))]),
                Finding.created_at < datetime(1970, 1, 1, tzinfo=timezone(timedelta(hours=14))),
                Finding.created_at <= "0001-01-01T00:00:00.000001Z",
                Finding.severity >= "high",
                Finding.status == Status.RISK_ACCEPTED,
                Finding.status.in_(["risk_accepted"]),
                Finding.tags.has("%s ? :x"),
                Finding.cwe_ids.has_any([1, 89]),
                Finding.tags == ["b", "a", "%s ? :x"],
                Finding.location.is_not(None),
            ):
                assert ids(documents_of(session, condition)) == [uuid_of(1)], str(condition)
            assert (
                session.scalar(select(Finding.evidence).where(Finding.id == uuid_of(1))) == HARD["evidence"]
            )
            written = {**{name: getattr(one, name) for name in HARD}, "id": uuid.uuid4(), "location": None}
            session.add(Finding(**written, owasp=[], cve_ids=[], mitre_attack=[], poc_links=[], provenance={},
                                finding_schema_version=one.finding_schema_version))  # fmt: skip
            session.flush()
            session.expire_all()
            copied = session.get_one(Finding, (PROJECT, written["id"])).document()
            assert copied == {
                **store.get_finding(PROJECT, uuid_of(1)),
                "id": str(written["id"]),
                "location": None,
            }
            assert session.scalar(text("SELECT count(*) FROM findings WHERE location IS NULL")) == 2
            session.rollback()

    run_in_greenlet(work) if engine.dialect.is_async else work()
    engine.dispose()
    store.close()


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_settings_of_sessions_and_drivers_change_nothing(emptied_postgresql_url: str, zone: str) -> None:
    with sql_store(emptied_postgresql_url) as store:
        store.save_findings([HARD, LATE])
        options = f"-c timezone={zone} -c datestyle=SQL,DMY -c intervalstyle=sql_standard"
        engine = engine_of(
            store,
            connect_args={"options": options},
            json_deserializer=lambda _: 1,
            json_serializer=lambda _: "2",
        )
        with Session(engine) as session:
            assert documents_of(session) == store.list_findings(PROJECT)
            assert ids(documents_of(session, Finding.tags.has("a"))) == [uuid_of(1)]
            assert ids(documents_of(session, Finding.created_at > "9999-12-31T23:59:59.999998Z")) == [
                uuid_of(2)
            ]
        engine.dispose()


@given(document=documents())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_documents_come_back_as_the_store_returns_them(store: SqlStore, document: Any) -> None:
    store.save_finding(document)
    expected = store.get_finding(document["project_id"], document["id"].lower())
    with Session(store.engine) as session:
        one = session.get_one(Finding, (document["project_id"], uuid.UUID(document["id"])))
        assert_same(one.document(), expected)
        again = pickle.loads(pickle.dumps(one))  # noqa: S301  # its own
        assert_same(again.document(), expected)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (lambda: Finding.severity == "HIGH", "severity: must be one of info, low"),
        (lambda: Finding.status == "closed", "status: must be one of open"),
        (lambda: Finding.id == "1", "must be a UUID"),
        (lambda: Finding.created_at > datetime(2024, 1, 1), "must be an aware datetime"),  # noqa: DTZ001
        (lambda: Finding.created_at > "2024-01-01", "must be an aware datetime"),
    ],
)
def test_a_value_that_is_none_is_refused(session: Session, condition: Callable[[], Any], words: str) -> None:
    with pytest.raises(StatementError, match=words):
        session.scalars(select(Finding).where(condition()))


# -- severity ---------------------------------------------------------------------------------------------------------

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
    "==": lambda one, other: one == other,
    "!=": lambda one, other: one != other,
}


def test_severities_are_compared_by_rank(session: Session, store: SqlStore) -> None:
    store.save_findings([finding(n, severity=name) for n, name in enumerate(Severity)])
    for operate in OPERATORS.values():
        for other in Severity:
            meant = [uuid_of(n) for n, one in enumerate(Severity) if operate(one, other)]
            assert meant == [uuid_of(n) for n, one in enumerate(Severity) if operate(one, other.value)]
            for given_as in (other, other.value):
                condition = operate(Finding.severity, given_as)
                assert ids(documents_of(session, condition)) == meant
                assert len(ids(documents_of(session, ~condition))) == 5 - len(meant)
    between = Finding.severity.between("low", Severity.HIGH)
    assert ids(documents_of(session, between)) == [uuid_of(n) for n in (1, 2, 3)]
    assert documents_of(session, Finding.severity.between("high", "low")) == []
    assert len(documents_of(session, Finding.severity.between("high", "low", symmetric=True))) == 3
    assert len(documents_of(session, Finding.severity.in_(["low", Severity.HIGH]))) == 2
    worse = aliased(Finding)
    pairs = select(Finding.id, worse.id).where(Finding.severity < worse.severity)
    assert len(session.execute(pairs).all()) == 10
    ordered = session.scalars(select(Finding.severity).order_by(Finding.severity_rank.desc())).all()
    assert ordered == [*reversed(Severity)]
    assert [one.severity_rank for one in session.scalars(select(Finding).order_by(Finding.id))] == [
        0,
        1,
        2,
        3,
        4,
    ]
    with pytest.raises(StorageValidationError, match="severity: must be one of"):
        Finding.severity >= "urgent"  # type: ignore[operator]  # noqa: B015
    with pytest.raises(ValueError, match="urgent"):
        Severity.LOW < "urgent"  # noqa: B015


# -- lists and plans --------------------------------------------------------------------------------------------------


@given(more=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_members_are_found_as_by_the_store(store: SqlStore, more: Any) -> None:
    found = [dict(more.draw(documents(project_id=PROJECT))) | {"id": uuid_of(n)} for n in range(4)]
    store.save_findings(found)
    try:
        with Session(store.engine) as session:
            for name, ask in (("tags", "tag"), ("cve_ids", "cve_id"), ("cwe_ids", "cwe")):
                there = [value for one in found for value in one.get(name, ())]
                values = more.draw(
                    st.lists(st.sampled_from([*there, 1 if name == "cwe_ids" else "x"]), max_size=3)
                )
                column: Any = getattr(Finding, name)
                condition = Finding.project_id == PROJECT, column.has_any(values)
                wanted: Any = {ask: values} if values else {"rule_id": "\x01 none"}
                expected = store.find(FindingQuery(project_id=PROJECT, **wanted, limit=100)).items
                assert documents_of(session, *condition) == expected
                negated = documents_of(session, Finding.project_id == PROJECT, ~column.has_any(values))
                assert len(negated) == len(found) - len(expected)
                for value in values:
                    alone: Any = {ask: [value]}
                    one = store.find(FindingQuery(project_id=PROJECT, **alone, limit=100)).items
                    assert documents_of(session, condition[0], column.has(value)) == one
    finally:
        store.delete_project(PROJECT)


def plan_of(session: Session, statement: Any) -> str:
    """Return the plan of a statement as an application sends it, with values beside it."""
    engine: Any = session.bind
    with engine.connect() as connection:
        explain = "EXPLAIN QUERY PLAN "
        if engine.dialect.name == "postgresql":
            explain = "EXPLAIN "
            connection.exec_driver_sql("SET enable_seqscan = off")  # the table is small

        @event.listens_for(connection, "before_cursor_execute", retval=True)
        def explained(_c: Any, _cursor: Any, sql: str, values: Any, *_rest: Any) -> Any:
            return explain + sql, values

        return "\n".join(str(row[-1]) for row in connection.execute(statement).cursor.fetchall())


def test_indexes_serve_what_the_models_ask(session: Session, store: SqlStore) -> None:
    store.save_findings(
        finding(n, severity="low" if n % 100 else "critical", tags=["rare"] if n % 500 == 0 else [])
        for n in range(3_000)
    )
    sqlite = store.engine.dialect.name == "sqlite"
    session.execute(text("ANALYZE"))
    session.commit()
    here = select(Finding.id).where(Finding.project_id == PROJECT)
    assert "ix_findings_severity" in plan_of(session, here.where(Finding.severity >= "high"))
    plan = plan_of(
        session, (here if sqlite else select(Finding.id)).where(Finding.tags.has_any(["rare", "none"]))
    )
    assert ("ix_findings_tags" if sqlite else "ix_findings_lists") in plan
    newest = here.order_by(Finding.created_at.desc(), Finding.id.desc()).limit(5)
    plan = plan_of(session, newest)
    assert "ix_findings_project_id_created_at_id" in plan
    assert "Sort" not in plan
    assert "B-TREE" not in plan
    assert "ix_findings_project_id_created_at_id" in plan_of(
        session, here.where(Finding.created_at < datetime(2024, 5, 1, 0, 0, 9, tzinfo=UTC))
    )
    keyed = plan_of(session, select(Finding).where(Finding.project_id == PROJECT, Finding.id == uuid_of(1)))
    assert "pk_findings" in keyed or "sqlite_autoindex_findings" in keyed


# -- JSON -------------------------------------------------------------------------------------------------------------

CHANGES: list[Callable[[Any], object]] = [
    lambda one: one.evidence.update(a=1),
    lambda one: one.evidence.__setitem__("a", 1),
    lambda one: one.evidence["b"].append(1),
    lambda one: one.evidence[""]["x"][0].setdefault("y", 1),
    lambda one: one.location.pop("path"),
    lambda one: one.tags.append("x"),
    lambda one: one.tags.sort(),
    lambda one: one.tags.__iadd__(["x"]),
    lambda one: one.evidence.__ior__({"x": 1}),
]


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_json_is_not_changed_in_place(open_sqlite: Callable[[], SqlStore], number: int) -> None:
    with open_sqlite() as store, Session(store.engine) as session:
        store.save_finding(HARD)
        read = session.scalars(select(Finding)).one()
        before = read.document()
        for one in (
            read,
            Finding(evidence=copy.deepcopy(HARD["evidence"]), location={"path": "x"}, tags=["b", "a"]),
        ):
            with pytest.raises(TypeError, match="can't be changed in place"):
                CHANGES[number](one)
        assert read.document() == before
        assert not session.dirty


def test_a_copy_of_json_is_plain() -> None:
    given_value = {"a": [1, {"b": []}]}
    one = Finding(evidence=given_value, tags=["x"])
    given_value["a"].append(2)
    assert_same(copy.deepcopy(one.evidence), {"a": [1, {"b": []}]})
    assert_same(copy.deepcopy(one.tags), ["x"])
    assert json.dumps(one.evidence) == '{"a": [1, {"b": []}]}'
    assert one.tags == ["x"]
    assert (type(one.tags + ["y"]), type(one.evidence | {})) == (list, dict)  # type: ignore[operator]  # noqa: RUF005
    again = pickle.loads(pickle.dumps(one.evidence))  # noqa: S301  # its own
    with pytest.raises(TypeError):
        again["a"].append(1)


# -- relationships ----------------------------------------------------------------------------------------------------


@pytest.fixture
def with_history(store: SqlStore) -> SqlStore:
    """Return a store with two detectors, and a finding that was seen, missed, and seen again."""
    house = [scanned("R1"), scanned("R2")]
    store.ingest(PROJECT, house, run=run_id_of(1))
    store.ingest(PROJECT, [scanned("R9", detector_id="scan.other")], run=run_id_of(2))
    store.ingest(PROJECT, house[:1], run=run_id_of(3), close_missing=True)
    store.ingest(PROJECT, house, run=run_id_of(4))
    store.ingest(PROJECT, house[:1], run=run_id_of(5), close_missing=True)
    return store


LOADED = [
    selectinload(getattr(Finding, name)) for name in ("project", "identity", "sightings", "events", "runs")
]


def test_relationships_are_what_the_store_says(with_history: SqlStore, session: Session) -> None:
    store = with_history
    found = session.scalars(select(Finding).options(*LOADED)).all()
    session.expunge_all()  # nothing is loaded after this
    assert len(found) == 3
    known_runs = {run.id: run for run in store.runs(PROJECT)}
    for one in found:
        seen = store.sighting(PROJECT, str(one.id))
        assert one.project.project_id == PROJECT
        assert one.first_seen is not None
        assert one.last_seen is not None
        assert format_time(one.first_seen) == seen.first_seen
        assert format_time(one.last_seen) == seen.last_seen
        assert (one.closed_at is None) == (one.status is not Status.RESOLVED)
        assert one.runs[-1].run_id == uuid.UUID(seen.last_run)
        told = [(event.kind, format_time(event.at), event.changes) for event in one.events]
        assert told == [(each.kind, each.at, each.changes) for each in store.history(PROJECT, str(one.id))]
    seen_in = {one.rule_id: [str(run.run_id) for run in one.runs] for one in found}
    assert seen_in == {
        "R1": [run_id_of(n) for n in (1, 3, 4, 5)],
        "R2": [run_id_of(n) for n in (1, 4)],
        "R9": [run_id_of(2)],
    }
    project = session.scalars(
        select(Project).options(selectinload(Project.runs), selectinload(Project.findings))
    ).one()
    assert [str(run.run_id) for run in project.runs] == [run_id_of(n) for n in range(1, 6)]
    assert len(project.findings) == 3
    assert [run.number for run in project.runs] == [
        known_runs[str(run.run_id)].number for run in project.runs
    ]


@pytest.mark.usefixtures("with_history")
def test_what_may_be_large_is_never_loaded_by_an_attribute(session: Session) -> None:
    one = session.scalars(select(Finding)).first()
    assert one is not None
    for owner, name in [(one, "sightings"), (one, "events"), (one, "runs"), (one.project, "findings")]:
        with pytest.raises(InvalidRequestError, match="lazy='raise'"):
            getattr(owner, name)


@pytest.mark.usefixtures("with_history")
def test_relationships_ask_and_sort(session: Session) -> None:
    def rules(*conditions: Any) -> list[Any]:
        return [*session.scalars(select(Finding.rule_id).where(*conditions).order_by(Finding.rule_id))]

    assert rules(Finding.runs.any(Run.run_id == run_id_of(3))) == ["R1"]
    assert rules(Finding.closed_at.is_not(None)) == ["R2"]
    assert rules(Finding.closed_at < datetime.now(UTC)) == ["R2"]
    assert rules(Finding.events.any(Event.kind == "status")) == ["R2"]
    assert rules(Finding.identity.has(Identity.closed_at.is_not(None))) == ["R2"]
    assert rules(Finding.project.has(Project.project_id == PROJECT)) == ["R1", "R2", "R9"]
    ordered = session.scalars(
        select(Finding.rule_id).order_by(Finding.first_seen.desc(), Finding.rule_id)
    ).all()
    assert ordered == ["R9", "R1", "R2"]
    seen = session.execute(select(Finding.first_seen)).all()
    assert sorted(row.first_seen for row in seen) == sorted(
        session.scalars(select(Identity.first_seen)).all()
    )
    other = aliased(Finding)
    last = session.scalars(select(other.last_seen).where(other.rule_id == "R9")).one()
    assert last is not None
    assert last.tzinfo is UTC
    event_of = session.scalars(select(Event)).first()
    assert event_of is not None
    assert event_of.finding is not None
    assert event_of.finding.rule_id == "R2"


def test_nothing_is_written_through_relationships(with_history: SqlStore, session: Session) -> None:
    store = with_history
    before = store.list_findings(PROJECT)
    found = session.scalars(select(Finding).options(*LOADED)).all()
    for one in found:
        one.events.clear()
        one.sightings.clear()
        one.runs.clear()
    session.commit()
    assert store.list_findings(PROJECT) == before
    assert all(store.sighting(PROJECT, one["id"]) for one in before)


# -- tables of an application -----------------------------------------------------------------------------------------


class Own(DeclarativeBase):
    """A base of the application, with string names within it."""


class Ticket(Own):
    __tablename__ = "tickets"
    _reference = finding_reference()
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = _reference.project_id
    finding_id: Mapped[uuid.UUID] = _reference.finding_id
    __table_args__ = _reference.table_args
    finding: Mapped[Finding] = relationship(
        Finding, backref=backref("tickets", cascade="all, delete-orphan", passive_deletes=True)
    )
    notes: Mapped[list[Note]] = relationship(
        "Note", back_populates="ticket", cascade="all, delete-orphan", passive_deletes=True
    )


class Note(Own):
    __tablename__ = "notes"
    _reference = finding_reference("of_project", "of_finding", ondelete="RESTRICT", nullable=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    ticket_id: Mapped[int] = mapped_column(ForeignKey("tickets.id", ondelete="CASCADE"))
    of_project: Mapped[str | None] = _reference.project_id
    of_finding: Mapped[uuid.UUID | None] = _reference.finding_id
    __table_args__ = _reference.table_args
    ticket: Mapped[Ticket] = relationship("Ticket", back_populates="notes")


@pytest.fixture
def application(store: SqlStore) -> Iterator[Session]:
    """Yield a session of an application whose tables refer to three findings."""
    engine = orm.configure(engine_of(store))
    store.save_findings([finding(1), finding(2), finding(3)])
    Own.metadata.create_all(engine, [Own.metadata.tables[name] for name in ("tickets", "notes")])
    try:
        with Session(engine) as session:
            found = session.scalars(select(Finding).order_by(Finding.id)).all()
            session.add_all([Ticket(finding=found[0], notes=[Note()]), Ticket(finding=found[1])])
            session.add(Ticket(finding=found[2], notes=[Note(of_project=PROJECT, of_finding=found[2].id)]))
            session.commit()
            yield session
            session.rollback()
    finally:
        Own.metadata.drop_all(engine, [Own.metadata.tables[name] for name in ("notes", "tickets")])
        engine.dispose()


def test_tables_of_an_application_refer_to_findings(application: Session) -> None:
    tickets = application.scalars(select(Ticket).order_by(Ticket.finding_id)).all()
    assert [ticket.finding.title for ticket in tickets] == ["Finding 1", "Finding 2", "Finding 3"]
    assert tickets[0].finding_id == uuid.UUID(uuid_of(1))
    worst = select(Ticket).join(Ticket.finding).where(Finding.severity >= Severity.HIGH)
    assert application.scalars(worst).all() == []
    application.add(Ticket(project_id=PROJECT, finding_id=uuid.uuid4()))
    with pytest.raises(IntegrityError):
        application.flush()
    application.rollback()
    indexes = inspect(application.get_bind()).get_indexes("tickets")
    assert [index["column_names"] for index in indexes] == [["project_id", "finding_id"]]


def test_what_refers_to_a_finding_goes_with_it_or_keeps_it(application: Session, store: SqlStore) -> None:
    statements: list[str] = []
    event.listen(application.get_bind(), "before_cursor_execute", lambda *given: statements.append(given[2]))
    application.delete(application.get_one(Finding, (PROJECT, uuid.UUID(uuid_of(1)))))
    application.flush()
    changing = [sql for sql in statements if sql.startswith(("DELETE", "UPDATE"))]
    assert not [sql for sql in changing if "tickets" in sql or "notes" in sql], (
        "the database does (passive_deletes)"
    )
    application.commit()
    assert application.scalar(select(func.count()).select_from(Ticket)) == 2
    assert application.scalar(select(func.count()).select_from(Identity)) == 2
    with store.joined(application) as unit:
        unit.set_status(PROJECT, uuid_of(2), "resolved", actor="ana")
        unit.purge(PROJECT, closed_before="9999-01-01T00:00:00Z")
    application.commit()
    assert application.scalar(select(func.count()).select_from(Ticket)) == 1
    application.commit()
    with pytest.raises(StorageError), store.joined(application) as unit:
        unit.delete_project(PROJECT)
    application.rollback()
    assert ids(store.list_findings(PROJECT)) == [uuid_of(3)]


STRINGS = """
import sys
from sqlalchemy import ForeignKeyConstraint, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from findings_orm import migrations, open_storage, orm
from findings_orm.testing.samples import PROJECT, finding

OWN = sys.argv[2] == "own"

if OWN:
    class Base(DeclarativeBase):
        metadata = orm.metadata
else:
    Base = orm.Base

class Note(Base):
    __tablename__ = "app_notes"
    __table_args__ = (ForeignKeyConstraint(
        ["project_id", "finding_id"], ["findings.project_id", "findings.id"], ondelete="CASCADE"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(orm.Finding.__table__.c.project_id.type)
    finding_id: Mapped[object] = mapped_column(orm.Finding.__table__.c.id.type)
    finding = relationship(orm.Finding if OWN else "Finding")

with open_storage(sys.argv[1]) as store:
    store.save_finding(finding(1))
    engine = orm.configure(create_engine(sys.argv[1].replace("postgresql:", "postgresql+psycopg:")))
    Base.metadata.create_all(engine, [Note.__table__])
    with Session(engine) as session:
        session.add(Note(finding=session.scalars(select(orm.Finding)).one()))
        session.commit()
        assert session.scalars(select(Note)).one().finding.title == "Finding 1"
        with store.joined(session):
            store.delete_project(PROJECT)
        session.commit()
        assert session.scalars(select(Note)).all() == []
    assert migrations.check(engine) == [], migrations.check(engine)
    Note.__table__.drop(engine)
"""


@pytest.mark.parametrize("base", ["own", "ours"])
def test_string_names_lead_to_findings(store: SqlStore, base: str) -> None:
    """In a process of its own: what it declares would stay."""
    url = store.engine.url.set(drivername=store.engine.dialect.name).render_as_string(hide_password=False)
    ran = subprocess.run(
        [sys.executable, "-c", STRINGS, url, base], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


PAGE = Path(__file__).parents[1] / "docs" / "sqlalchemy.md"


def test_the_page_for_applications_is_run(tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL))
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
