"""The models as an application uses them: types, comparisons, plans, and that nothing is lost on the way."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sessions import engine_with, run_in_greenlet, sql_store
from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session, aliased

from findings_orm import FindingQuery, StorageValidationError, orm
from findings_orm.orm import Finding, Severity, Status
from findings_orm.orm.storage import SqlStore
from findings_orm.testing.samples import PROJECT, assert_same, finding, ids, uuid_of
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
