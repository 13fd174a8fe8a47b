"""Several sets of the tables in one database: what says which one is meant, and what is left of that afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sessions import engine_with, run_in_greenlet, sql_store, with_driver
from sqlalchemy import Engine, NullPool, create_engine, func, make_url, select, text
from sqlalchemy.orm import Session

from findings_orm import (
    SchemaVersionError,
    StorageError,
    StorageUnavailableError,
    migrations,
)
from findings_orm.orm import access, text_index
from findings_orm.orm.models import Finding
from findings_orm.orm.storage import SqlStore
from findings_orm.testing.samples import PROJECT, finding, ids, scanned, uuid_of

TENANT = 'Te"n%an?t: 1'
HEAD = migrations.status("sqlite://").head


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[Engine]:
    """Return an engine of the application: tables in the schema public, and in that of a tenant."""
    engine = create_engine(with_driver(postgresql_url, "psycopg"), poolclass=NullPool)
    migrations.upgrade(engine, schema=TENANT)
    yield engine
    engine.dispose()


@pytest.fixture
def store(postgresql_url: str) -> Iterator[SqlStore]:
    with sql_store(postgresql_url) as store:
        yield store


def of_tenant(engine: Any, schema: str | None = TENANT) -> Any:
    return engine.execution_options(schema_translate_map={None: schema})


def of_schema(store: SqlStore, **more: str) -> SqlStore:
    url = store.engine.url.set(drivername="postgresql").update_query_dict({"schema": TENANT, **more})
    return sql_store(url.render_as_string(hide_password=False))


def settings_of(bind: Any) -> list[object]:
    names = ("search_path", "findings.project_id", "lock_timeout", "statement_timeout")
    return [
        bind.execute(text("SELECT coalesce(current_setting(:name, true), '')"), {"name": name}).scalar()
        for name in names
    ]


def count_public(bind: Any) -> object:
    return bind.execute(text("SELECT count(*) FROM public.findings")).scalar()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "async psycopg", "asyncpg"])
def test_the_store_works_where_the_orm_does(driver: str, store: SqlStore) -> None:
    application = engine_with(driver, store)

    def work() -> None:
        with Session(of_tenant(application)) as session:
            before = settings_of(session)
            with store.joined(session):
                store.save_findings([finding(n) for n in range(60)])
                store.ingest(PROJECT, [scanned(f"R{n}") for n in range(60)])
                assert count_public(session) == 0
            assert settings_of(session) == before
            assert session.scalar(select(func.count()).select_from(Finding)) == 120
            session.commit()
        with Session(application) as session:
            with store.joined(session):
                assert store.list_projects() == []
            assert session.scalar(select(func.count()).select_from(Finding)) == 0

    run_in_greenlet(work) if application.dialect.is_async else work()
    with of_schema(store) as other:
        assert len(other.list_findings(PROJECT)) == 120
    assert store.list_projects() == []
    application.dispose()


def of_engine(engine: Engine) -> Session:
    return Session(of_tenant(engine))


def of_session(engine: Engine) -> Session:
    return Session(engine, execution_options={"schema_translate_map": {None: TENANT}})


def asked_for(engine: Engine) -> Session:
    session = Session(engine)
    session.connection(execution_options={"schema_translate_map": {None: TENANT}})
    return session


@pytest.mark.parametrize("open_session", [of_engine, of_session, asked_for])
def test_wherever_the_schema_is_said(
    open_session: Callable[[Engine], Session], engine: Engine, store: SqlStore
) -> None:
    with open_session(engine) as session:
        with store.joined(session):
            store.save_finding(finding(1))
        assert session.scalar(select(func.count()).select_from(Finding)) == 1
        assert count_public(session) == 0
    with of_tenant(engine.connect()) as connection:
        with store.joined(connection):
            store.save_finding(finding(2))
        assert connection.scalar(select(func.count()).select_from(Finding)) == 1


def refuse_to_join(store: SqlStore, bind: Any, error: type[StorageError], words: str) -> None:
    with Session(bind) as session, pytest.raises(error, match=words), store.joined(session):
        pass


def test_what_contradicts_or_is_not_there_is_refused(
    engine: Engine, store: SqlStore, open_sqlite: Callable[[], SqlStore]
) -> None:
    words = "schema 'nowhere' has no tables .* migrations.upgrade"
    refuse_to_join(store, of_tenant(engine, "nowhere"), SchemaVersionError, words)
    with of_schema(store) as other:
        words = "schema_translate_map of this connection .* says .public."
        refuse_to_join(other, of_tenant(engine, "public"), StorageError, words)
    with open_sqlite() as sqlite:
        sqlite_engine = create_engine(sqlite.engine.url)
        refuse_to_join(sqlite, of_tenant(sqlite_engine), StorageError, "a SQLite database has no schema")
        with pytest.raises(StorageError, match="a SQLite database has no schema"):
            migrations.check(of_tenant(sqlite_engine))
        with Session(of_tenant(sqlite_engine, "main")) as session:
            with sqlite.joined(session):
                sqlite.save_finding(finding(1))
            assert session.scalar(select(func.count()).select_from(Finding)) == 1
        sqlite_engine.dispose()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "async psycopg", "asyncpg"])
def test_a_store_with_a_schema_and_a_project_leaves_no_setting_behind(driver: str, store: SqlStore) -> None:
    application = engine_with(driver, store)

    def work() -> None:
        with of_schema(store, project_id=PROJECT) as other, Session(application) as session:
            before = settings_of(session)
            with other.joined(session):
                assert settings_of(session) != before
                other.save_finding(finding(1))
            assert settings_of(session) == before
            session.execute(text("SET LOCAL search_path = pg_catalog, public"))
            session.execute(text("SET LOCAL findings.project_id = 'mine'"))
            changed = settings_of(session)
            with pytest.raises(KeyError), other.joined(session):
                raise KeyError
            assert settings_of(session) == changed
            with pytest.raises(StorageError), session.begin_nested(), other.joined(session):
                session.execute(text("SELECT 1 / 0"))
            assert settings_of(session) == changed, "a block whose transaction failed"
            with session.begin_nested(), other.joined(session):
                assert ids(other.list_findings(PROJECT)) == [uuid_of(1)]
            assert settings_of(session) == changed, "a savepoint was released"
            session.commit()
            assert settings_of(session) == before
            assert count_public(session) == 0

    run_in_greenlet(work) if application.dialect.is_async else work()
    application.dispose()


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside_a_transaction"])
@pytest.mark.parametrize("said", ["named", "translated"])
def test_migrations_go_where_the_orm_looks(inside: bool, said: str, postgresql_url: str) -> None:
    engine = create_engine(with_driver(postgresql_url, "psycopg"), poolclass=NullPool)
    named: dict[str, Any] = {"schema": TENANT} if said == "named" else {}
    role = f"reader_{engine.url.database}_{inside}".lower()  # a server's roles are those of all its databases
    with engine.connect() as connection:
        if said == "translated":
            connection = of_tenant(connection)  # noqa: PLW2901
            with connection.begin():
                migrations.make_schema(connection, TENANT)
        if inside:
            connection.begin()
            before = settings_of(connection)
        assert migrations.status(connection, **named).current is None
        migrations.upgrade(connection, "r0003", **named)
        migrations.upgrade(connection, **named)
        assert migrations.status(connection, **named).current == HEAD
        assert migrations.check(connection, **named) == []
        if inside:
            assert settings_of(connection) == before
            connection.commit()
        assert len(of_tenant(connection).execute(select(Finding)).all()) == 0
        connection.rollback()
        if said == "translated":
            text_index.create(connection)
            assert text_index.status(connection).state == "ready"
            connection.execute(text(f"CREATE ROLE {role}"))
            assert access.grant_access(connection, role, PROJECT)
            connection.commit()
        migrations.downgrade(connection, "base", **named)
        connection.commit()
        found = connection.execute(
            text(
                "SELECT schemaname, count(*) FROM pg_tables WHERE tablename LIKE 'finding%' GROUP BY 1 ORDER BY 1"
            )
        )
        assert [tuple(row) for row in found] == [(TENANT, 1), ("public", 9)], "the others are left alone"
        if said == "translated":
            connection.execute(text(f"DROP OWNED BY {role}; DROP ROLE {role}"))
        connection.commit()


def test_a_role_that_only_reads_is_respected(postgresql_url: str, engine: Engine) -> None:
    with sql_store(postgresql_url) as store:
        store.save_finding(finding(1))
    with engine.begin() as connection:
        connection.execute(text("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on"))
    refused = pytest.raises(StorageUnavailableError, match="in a read-only transaction")
    try:
        with sql_store(postgresql_url) as store, Session(engine) as session:
            for write in (
                lambda: store.save_finding(finding(2)),
                lambda: store.ingest(PROJECT, [scanned()] * 100),
                lambda: store.delete_project(PROJECT),
            ):
                with refused as found:
                    write()
                assert not found.value.retryable
            with refused, store.joined(session):
                assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]
                store.save_finding(finding(2))
            assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]
    finally:
        with engine.connect().execution_options(postgresql_readonly=False) as connection:
            connection.execute(text("ALTER ROLE CURRENT_USER RESET default_transaction_read_only"))
            connection.commit()


@pytest.mark.parametrize("say", [lambda e, s: (e, {"schema": s}), lambda e, s: (of_tenant(e, s), {})])
@pytest.mark.parametrize("schema", [TENANT, "n:ew", "pub%lic"])
def test_a_plan_and_a_script_speak_of_the_schema(
    engine: Engine, schema: str, say: Callable[..., Any]
) -> None:
    target, given = say(engine, schema)
    if schema == TENANT:
        migrations.downgrade(target, "r0003", **given)
    here = "r0003" if schema == TENANT else None
    found = migrations.plan(target, **given)
    assert (found.current, found.target) == (here, HEAD)
    assert [step.locks for step in found.steps if step.revision == "r0004"] == [["findings"]] or here is None
    assert migrations.plan(engine).steps == []
    public = contents_of(engine, "public")
    for revision in (HEAD, "r0003", "base"):
        run_raw(engine, migrations.script(target, revision, **given))
        assert migrations.status(target, **given).current == (None if revision == "base" else revision)
        assert (migrations.check(target, **given) == []) == (revision == HEAD)
    assert contents_of(engine, "public") == public
    assert contents_of(engine, schema) == ["findings_orm_version.version_num"]


def contents_of(engine: Engine, schema: str) -> list[str]:
    """Return the names of tables and columns of a schema."""
    sql = text(
        "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = :schema ORDER BY 1"
    )
    with engine.connect() as connection:
        return list(connection.execute(sql, {"schema": schema}).scalars())


def run_raw(engine: Engine, script: str) -> None:
    with psycopg.connect(
        engine.url.set(drivername="postgresql").render_as_string(), autocommit=True
    ) as connection:
        connection.execute(script.encode())


def test_a_script_for_a_url_with_a_schema(postgresql_url: str) -> None:
    url = make_url(postgresql_url).update_query_dict({"schema": "by url"}).render_as_string()
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(migrations.script(url).encode())
    assert migrations.check(url) == []


def test_sqlite_has_no_schema_to_plan_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'findings.db'}"
    migrations.upgrade(url)
    for ask in (migrations.plan, migrations.script):
        with pytest.raises(StorageError, match="a SQLite database has no schema"):
            ask(url, schema="tenant")
        ask(url, schema="main")
