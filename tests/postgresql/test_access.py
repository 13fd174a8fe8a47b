"""Row-level security: what a role that was granted one project can learn of and do to another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from redis_servers import RedisServer
from servers import POSTGRESQL
from typer.testing import CliRunner

from findings_orm import (
    FindingStore,
    RedisCacheAdapter,
    StorageUnavailableError,
    StorageValidationError,
    open_storage,
)
from findings_orm.cli.app import app
from findings_orm.orm.access import Grant, grant_access, list_access, revoke_access
from findings_orm.orm.models import Base
from findings_orm.testing.contract.base import project_contents
from findings_orm.testing.samples import finding, run_id_of, scanned, uuid_of

A, B = "project a", "project b"
ROLE = "tester_a"
TABLES = [name for name in Base.metadata.tables if name != "finding_access"]


@pytest.fixture(params=POSTGRESQL)
def owner_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with two projects, one of them granted to a role."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    with psycopg.connect(url, autocommit=True) as connection:
        _drop_role(connection)
        connection.execute(f"CREATE ROLE {ROLE} LOGIN")
    with open_storage(url) as store:
        for project in (A, B):
            _fill(store, project)
    grant_access(url, ROLE, A)
    yield url
    with psycopg.connect(url, autocommit=True) as connection:
        _drop_role(connection)


def _drop_role(connection: psycopg.Connection) -> None:
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone():
        connection.execute(f"DROP OWNED BY {ROLE}")
        connection.execute(f"DROP ROLE {ROLE}")


def _fill(store: FindingStore, project: str) -> None:
    """Put rows into every table."""
    store.ingest(project, [scanned(f"R{n}", n + 1) for n in range(3)], run=run_id_of(1))
    store.ingest(project, [scanned("R0"), {}], run=run_id_of(2), close_missing=True, on_invalid="quarantine")
    store.ingest(project, [scanned(f"R{n}", n + 1) for n in range(3)], run=run_id_of(3))
    store.ingest(project, [], run={"id": run_id_of(4), "detectors": ["scan.demo"]})
    store.ingest(project, [scanned(f"R{n}", n + 1) for n in range(3)], run=run_id_of(5))
    store.save_finding(finding(7, project_id=project))


@pytest.fixture
def role_url(owner_url: str) -> str:
    return owner_url.replace("postgres@", f"{ROLE}@")


@pytest.fixture
def sql(role_url: str) -> Iterator[Callable[..., list[Any]]]:
    """Run SQL as the role."""
    with psycopg.connect(role_url, autocommit=True) as connection:

        def run(statement: str, *parameters: Any) -> list[Any]:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

        yield run


def test_every_table_has_rows_of_both_projects(owner_url: str) -> None:
    with psycopg.connect(owner_url) as connection:
        for table in TABLES:
            found = connection.execute(f"SELECT DISTINCT project_id FROM {table} ORDER BY 1").fetchall()
            assert found == [(A,), (B,)], table


@pytest.mark.parametrize("table", TABLES)
def test_role_reads_only_its_project(sql: Callable[..., list[Any]], table: str) -> None:
    assert sql(f"SELECT DISTINCT project_id FROM {table}") == [(A,)]
    assert sql(f"SELECT count(*) FROM {table} WHERE project_id = %s", B) == [(0,)]
    assert sql(f"SELECT DISTINCT project_id FROM (TABLE {table}) x") == [(A,)]
    sql("BEGIN")
    assert sql(f"SELECT DISTINCT x.project_id FROM (SELECT * FROM {table} FOR UPDATE) x") == [(A,)]
    sql("ROLLBACK")


@pytest.mark.parametrize("table", TABLES)
def test_role_changes_only_its_project(owner_url: str, sql: Callable[..., list[Any]], table: str) -> None:
    with open_storage(owner_url) as owner:
        before = project_contents(owner, B)[:6]
        sql(f"UPDATE {table} SET project_id = project_id WHERE project_id = %s", B)
        for statement in (
            f"UPDATE {table} SET project_id = '{B}'",
            f'INSERT INTO {table} SELECT (jsonb_populate_record(x, \'{{"project_id": "{B}"}}\')).* FROM {table} x',
            f"TRUNCATE {table}",
            f"TRUNCATE {table} CASCADE",
            f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
            f"DROP POLICY finding_access ON {table}",
            f"CREATE POLICY mine ON {table} USING (true)",
            f"CREATE TRIGGER mine BEFORE UPDATE ON {table} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            f"DROP TABLE {table} CASCADE",
        ):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported)):
                sql(statement)
        sql(f"DELETE FROM {table}")
        assert project_contents(owner, B)[:6] == before


@pytest.mark.parametrize(
    "statement",
    [
        "SET row_security = off",
        f"SET findings.project_id = '{B}'",
        "SET findings.project_id = ''",
        f"SELECT set_config('findings.project_id', '{B}', false)",
        "SET search_path = pg_temp, public",
        "RESET ALL",
        "DISCARD ALL",
    ],
)
def test_settings_open_nothing(sql: Callable[..., list[Any]], statement: str) -> None:
    sql(statement)
    for table in TABLES:
        try:
            found = sql(f"SELECT count(*) FROM {table} WHERE project_id = %s", B)
        except psycopg.errors.InsufficientPrivilege:
            continue  # row_security = off: refused instead of filtered
        assert found == [(0,)], table


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        f"INSERT INTO finding_access (project_id, role) VALUES ('{B}', '{ROLE}')",
        f"UPDATE finding_access SET project_id = '{B}'",
        "DELETE FROM finding_access",
        f"COPY finding_access FROM PROGRAM 'echo {B}'",
        "COPY findings FROM STDIN",
        "CREATE TABLE mine (p text REFERENCES finding_projects)",
        'CREATE TEMPORARY TABLE mine (p text COLLATE "C" REFERENCES finding_projects)',
        "ALTER ROLE tester_a BYPASSRLS",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE c AS 'x'",
        "SELECT * FROM pg_statistic",
        "SELECT pg_read_file('global/pg_control')",
    ],
)
def test_attacks_are_refused(sql: Callable[..., list[Any]], statement: str) -> None:
    with pytest.raises(psycopg.Error):
        sql(statement)


def test_copy_to_gives_only_its_project(role_url: str) -> None:
    with psycopg.connect(role_url) as connection:
        for table in TABLES:
            with connection.cursor().copy(f"COPY {table} TO STDOUT") as copy:
                data = b"".join(bytes(block) for block in copy)
            assert A.encode() in data
            assert B.encode() not in data


def test_prepared_statements_and_cursors_see_only_its_project(sql: Callable[..., list[Any]]) -> None:
    sql("PREPARE all_of AS SELECT DISTINCT project_id FROM findings")
    assert sql("EXECUTE all_of") == [(A,)]
    sql("BEGIN")
    sql("DECLARE mine CURSOR FOR SELECT project_id FROM findings")
    assert set(sql("FETCH ALL FROM mine")) == {(A,)}
    sql("ROLLBACK")


def test_cheap_function_is_not_called_with_hidden_rows(sql: Callable[..., list[Any]]) -> None:
    sql("CREATE TEMPORARY TABLE seen (p text)")
    sql(
        "CREATE FUNCTION pg_temp.leak(p text) RETURNS bool LANGUAGE plpgsql COST 0.0000001 AS "
        "$$ BEGIN INSERT INTO seen VALUES (p); RETURN true; END $$"
    )
    for table in TABLES:
        sql(f"SELECT count(*) FROM {table} WHERE pg_temp.leak(project_id)")
        sql(f"DELETE FROM {table} WHERE pg_temp.leak(project_id) AND false")
    assert sql("SELECT DISTINCT p FROM seen") == [(A,)]


def test_errors_are_no_oracle(sql: Callable[..., list[Any]]) -> None:
    """The same refusal, whether the row exists or not: by primary key, unique index and foreign key."""
    statements = [
        "INSERT INTO finding_projects VALUES ('{0}', now(), 1)",
        "INSERT INTO finding_projects VALUES ('{0}', now(), 1) ON CONFLICT DO NOTHING",
        "INSERT INTO finding_projects VALUES ('{0}', now(), 1) ON CONFLICT (project_id) DO UPDATE SET revision = 9",
        "INSERT INTO finding_sightings VALUES ('{0}', '" + uuid_of(7) + "', 1, 1)",
        "INSERT INTO finding_sightings VALUES ('{0}', '" + uuid_of(99) + "', 1, 1)",
        "INSERT INTO finding_runs VALUES ('{0}', '" + run_id_of(1) + "', 1, now(), '[]', '{{}}', '{{}}')",
        "UPDATE finding_runs SET project_id = '{0}'",
        "UPDATE finding_projects SET project_id = '{0}'",
    ]
    for statement in statements:
        texts = []
        for project in (B, "nobody's"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
                sql(statement.format(project.replace("'", "''")))
            texts.append(str(caught.value))
        assert texts[0] == texts[1], statement


def test_statistics_show_no_values(owner_url: str, sql: Callable[..., list[Any]]) -> None:
    with psycopg.connect(owner_url, autocommit=True) as connection:
        connection.execute("ANALYZE")
    assert (
        sql("SELECT * FROM pg_stats WHERE tablename LIKE 'finding%%' AND tablename <> 'findings_orm_version'")
        == []
    )


# -- the store as such a role -----------------------------------------------------------------------------------------


def test_store_of_a_role_works_with_its_project_alone(owner_url: str, role_url: str) -> None:
    with open_storage(owner_url) as owner, open_storage(role_url) as store:
        before = project_contents(owner, B)[:6]
        assert store.list_projects() == [A]
        assert project_contents(store, A)[:6] == project_contents(owner, A)[:6]
        assert project_contents(store, B)[:6] == [[], [], [], [], [], 0]
        for write in (
            lambda: store.save_finding(finding(8, project_id=B)),
            lambda: store.save_findings([finding(n, project_id=B) for n in range(100)]),
            lambda: store.ingest(B, [scanned(f"N{n}") for n in range(100)]),
        ):
            with pytest.raises(StorageUnavailableError, match="findings access grant") as caught:
                write()
            assert not caught.value.retryable
        store.delete_project(B)
        assert project_contents(owner, B)[:6] == before


def test_bulk_path_of_a_role_means_the_same(owner_url: str, role_url: str) -> None:
    report = [scanned(f"N{n}", n + 1) for n in range(3_000)]
    with open_storage(owner_url) as owner, open_storage(role_url) as store:
        assert store.ingest(A, report).created == 3_000
        assert store.ingest(A, report).unchanged == 3_000
        closed = store.ingest(A, report[:100], close_missing=True)
        assert closed.resolved > 2_900
        assert owner.summarize(A) == store.summarize(A)
        with store.transaction():
            store.save_findings([finding(n, project_id=A) for n in range(100, 200)])
            store.save_findings([finding(n, project_id=A) for n in range(200, 300)])
        assert store.get_finding(A, uuid_of(250))


@pytest.mark.parametrize("consistency", ["strict", "bounded"])
def test_cache_shows_a_role_only_its_project(
    consistency: str, owner_url: str, role_url: str, redis: RedisServer
) -> None:
    options = {"consistency": consistency, "timeout": 5.0}
    with (
        RedisCacheAdapter(open_storage(owner_url), redis.url, **options) as owner,
        RedisCacheAdapter(open_storage(role_url), redis.url, **options) as store,
    ):
        for project in (A, B):
            assert len(owner.list_findings(project)) == owner.summarize(project).total == 4
        for _ in range(2):
            assert store.list_findings(A) == owner.list_findings(A)
            assert store.list_findings(B) == []
            assert store.summarize(B).total == 0
            assert store.list_projects() == [A]
        assert store.statistics()["list_findings"] == {"hits": 1, "near_hits": 1, "bypasses": 2}


def test_project_id_of_a_store_narrows_it_further(owner_url: str, role_url: str) -> None:
    grant_access(owner_url, ROLE, B)
    with open_storage(role_url) as both:
        assert both.list_projects() == [A, B]
    with open_storage(role_url, project_id=A) as store:
        assert store.list_projects() == [A]
        assert store.list_findings(B) == []
        assert len(list(store.iter_findings(A))) == len(store.list_findings(A)) == 4
        with pytest.raises(StorageUnavailableError):
            store.save_finding(finding(9, project_id=B))
        store.save_finding(finding(9, project_id=A))


def test_grants_are_made_listed_and_revoked(owner_url: str, role_url: str) -> None:
    assert list_access(owner_url) == [Grant(ROLE, A)]
    assert not grant_access(owner_url, ROLE, A)
    assert grant_access(owner_url, ROLE, "new")
    assert list_access(owner_url, project_id="new") == [Grant(ROLE, "new")]
    with open_storage(role_url) as store:
        store.save_finding(finding(1, project_id="new"))
        assert store.list_projects() == ["new", A]
        assert revoke_access(owner_url, ROLE, A) == 1
        assert store.list_projects() == ["new"]
        assert revoke_access(owner_url, ROLE) == 1
        with pytest.raises(StorageUnavailableError):
            store.list_projects()
    assert list_access(owner_url) == []


def test_grants_are_refused_where_they_make_no_sense(owner_url: str, role_url: str) -> None:
    with pytest.raises(StorageValidationError, match="CREATE ROLE"):
        grant_access(owner_url, "nobody_here", A)
    with pytest.raises(StorageValidationError, match="owner"):
        grant_access(owner_url, "postgres", A)
    with pytest.raises(StorageUnavailableError):
        grant_access(role_url, ROLE, B)
    with pytest.raises(StorageValidationError, match="PostgreSQL"):
        list_access("sqlite://")
    assert revoke_access(owner_url, "nobody_here") == 0


def test_command_line_grants_lists_and_revokes(owner_url: str) -> None:
    def findings(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["--url", owner_url, "access", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "may work" in findings("grant", ROLE, B)
    assert findings("list") == f"{ROLE}  {A}\n{ROLE}  {B}\n"
    assert '"project_id"' in findings("list", "--format", "json")
    assert "lost 2 projects" in findings("revoke", ROLE)
