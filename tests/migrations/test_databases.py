from __future__ import annotations

from typing import Any

import pytest
from rows import (
    FIELDS_OF,
    REVISION_OF,
    canonical_documents,
    children_in,
    connection_to,
    documents_in,
    downgraded,
    fill,
    make_from_models,
    tables_in,
    tables_of,
)
from sqlalchemy import event, inspect, text

from findings_orm import SchemaVersionError, StorageError, migrations, open_storage, validate_finding
from findings_orm.migrations import DatabaseStatus
from findings_orm.migrations.scripts import revision_chain
from findings_orm.testing.samples import assert_all_same, first_difference

REVISIONS = [revision.id for revision in revision_chain()]
HEAD, HEAD_SCHEMA = revision_chain()[-1].id, revision_chain()[-1].schema_version


OLDER = [version for version in FIELDS_OF if version != HEAD_SCHEMA]


def assert_documents(url: str, expected: list[dict[str, Any]], version: str = HEAD_SCHEMA) -> None:
    found = documents_in(url, version)
    assert_all_same(found, [{name: document[name] for name in FIELDS_OF[version]} for document in expected])


# -- the schema -------------------------------------------------------------------------------------------------------


def test_from_base_to_head_and_back_step_by_step(url: str) -> None:
    for revision in REVISIONS:
        migrations.upgrade(url, revision)
        assert migrations.status(url).current == revision
    assert migrations.check(url) == []
    for revision in [*REVISIONS[-2::-1], "base"]:
        migrations.downgrade(url, revision)
        assert migrations.status(url).current == (None if revision == "base" else revision)
    assert tables_in(url) == {"findings_orm_version"}
    migrations.upgrade(url)
    assert migrations.check(url) == []
    migrations.downgrade(url, "-1")
    migrations.upgrade(url, "+1")
    assert migrations.check(url) == []


def test_the_revisions_make_what_the_models_declare(url: str) -> None:
    """Down to what the catalogs say, not only what `check` looks at."""
    make_from_models(url)
    with connection_to(url) as connection:
        declared = catalog(connection)
        for table in reversed(tables_of(connection.dialect.name)):
            connection.execute(text(f"DROP TABLE {table.name} {'CASCADE' if url.startswith('p') else ''}"))
    migrations.upgrade(url)
    migrations.downgrade(url, "r0001")
    migrations.upgrade(url)
    with connection_to(url) as connection:
        assert catalog(connection) == declared


CATALOG = """
    SELECT table_name, column_name, data_type, udt_name, collation_name, is_nullable, column_default, is_identity,
        character_maximum_length
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'findings_orm_version'
    ORDER BY table_name, ordinal_position;
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated
    FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'findings_orm_version'
    ORDER BY 1, 2;
    SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'findings_orm_version'
    ORDER BY 1
"""


def catalog(connection: Any) -> Any:
    """Return everything that the database itself says about its tables."""
    if connection.dialect.name == "sqlite":
        inspector = inspect(connection)
        return {
            name: (
                connection.execute(text(f"PRAGMA table_xinfo('{name}')")).fetchall(),
                sorted(map(str, connection.execute(text(f"PRAGMA foreign_key_list('{name}')")).fetchall())),
                sorted(inspector.get_check_constraints(name), key=str),
                inspector.get_pk_constraint(name),
                sorted(inspector.get_foreign_keys(name), key=str),
                sorted(
                    connection.execute(
                        text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :name"),
                        {"name": name},
                    ).fetchall(),
                    key=str,
                ),
            )
            for name in [table.name for table in tables_of("sqlite")]
        }
    return [[tuple(row) for row in connection.execute(text(query))] for query in CATALOG.split(";")]


# -- the data ---------------------------------------------------------------------------------------------------------


@pytest.mark.no_cover
@pytest.mark.parametrize("version", OLDER)
def test_documents_survive_down_and_up(url: str, version: str) -> None:
    documents = canonical_documents(many=1_100)
    migrations.upgrade(url)
    fill(url, documents)
    children = children_in(url)
    migrations.downgrade(url, REVISION_OF[version])
    assert_documents(url, downgraded(documents, version), version)
    assert children_in(url) == children
    migrations.upgrade(url)
    assert_documents(url, documents)
    assert children_in(url) == children
    assert migrations.check(url) == []


@pytest.mark.no_cover
@pytest.mark.parametrize("version", OLDER)
def test_documents_survive_up_and_down(url: str, version: str) -> None:
    """Documents of an old release: with what looks like corners, and with real ones that came from a newer store."""
    migrate = migrations.SchemaMigrator().migrate
    documents = downgraded(canonical_documents(many=1_100), version)
    again = [
        migrate(HEAD_SCHEMA, version, {**_current(each), "provenance": each["provenance"]})
        for each in documents
    ]
    documents += [
        {**each, "id": each["id"].replace("00000000-", "10000000-")} for each in again[:30] + again[-30:]
    ]
    migrations.upgrade(url, REVISION_OF[version])
    fill(url, documents, version)
    children = children_in(url)
    migrations.upgrade(url)
    assert_documents(url, [_current(migrate(version, HEAD_SCHEMA, document)) for document in documents])
    assert children_in(url) == children
    migrations.downgrade(url, REVISION_OF[version])
    for found, expected in zip(documents_in(url, version), documents, strict=True):
        # A column can't be absent: what a partial document lacked is its default from now on.
        now, then = (_current(migrate(version, HEAD_SCHEMA, each)) for each in (found, expected))
        assert first_difference(now, then) is None
    assert children_in(url) == children


def _current(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document that may be of an older version, and partial, as the current table has it."""
    given = {
        name: value for name, value in document.items() if name in FIELDS_OF[HEAD_SCHEMA] and name != "owasp"
    }
    if isinstance(document.get("owasp"), list):
        given["owasp"] = document["owasp"]
    return dict(validate_finding({**given, "finding_schema_version": HEAD_SCHEMA}))


# -- where a database stands ------------------------------------------------------------------------------------------


def test_status_and_require_current(url: str) -> None:
    with connection_to(url) as connection:
        assert migrations.require_current(connection) is False
        assert migrations.require_current(connection, migrate=True) is False
    assert not tables_in(url)
    migrations.upgrade(url, "r0001")
    assert migrations.status(url) == DatabaseStatus("r0001", HEAD, "1.0.0", HEAD_SCHEMA, REVISIONS[1:])
    with connection_to(url) as connection:
        with pytest.raises(SchemaVersionError, match=r"findings db upgrade --url .*migrate=True"):
            migrations.require_current(connection)
        assert migrations.require_current(connection, migrate=True) is False
    migrations.upgrade(url)
    assert migrations.status(url) == DatabaseStatus(HEAD, HEAD, HEAD_SCHEMA, HEAD_SCHEMA, [])
    with connection_to(url) as connection:
        assert migrations.require_current(connection) is True
    migrations.downgrade(url, "base")
    assert migrations.status(url) == DatabaseStatus(None, HEAD, None, HEAD_SCHEMA, REVISIONS)
    with connection_to(url) as connection:
        assert migrations.require_current(connection) is False


def test_a_schema_that_another_one_makes_while_it_is_looked_for_is_no_stranger(url: str) -> None:
    looks = 0

    def make(*_: object) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            migrations.upgrade(url)

    with connection_to(url) as connection:
        event.listen(connection, "after_cursor_execute", make)
        assert migrations.require_current(connection) is True


@pytest.mark.parametrize("position", range(len(REVISIONS) - 1))
def test_every_revision_but_the_head_is_refused_on_opening(url: str, position: int) -> None:
    migrations.upgrade(url, REVISIONS[position])
    command = f"is at revision {REVISIONS[position]}, this release needs {HEAD} .*findings db upgrade --url"
    with pytest.raises(SchemaVersionError, match=command):
        open_storage(url)
    assert migrations.status(url).current == REVISIONS[position]
    with open_storage(url, migrate=True) as store:
        assert store.list_projects() == []
    assert migrations.status(url).current == HEAD


def test_opening_costs_two_statements(url: str) -> None:
    migrations.upgrade(url)
    with connection_to(url) as connection:
        statements: list[str] = []
        event.listen(connection, "before_cursor_execute", lambda *args: statements.append(args[2]))
        migrations.require_current(connection)
    assert len(statements) <= 2, statements


def test_a_database_of_a_newer_release_is_refused_by_everything(url: str) -> None:
    migrations.upgrade(url)
    with connection_to(url) as connection:
        connection.execute(text("UPDATE findings_orm_version SET version_num = 'r9999'"))
    before = tables_in(url)
    with connection_to(url) as connection:
        for migrate in (False, True):
            with pytest.raises(SchemaVersionError, match="made by a newer release"):
                migrations.require_current(connection, migrate=migrate)
    for change in (migrations.upgrade, lambda url: migrations.downgrade(url, "r0001")):
        with pytest.raises(SchemaVersionError, match="made by a newer release"):
            change(url)
    assert migrations.status(url) == DatabaseStatus("r9999", HEAD, None, HEAD_SCHEMA, [])
    assert migrations.check(url) == [f"the database is at revision r9999, the models are those of {HEAD}"]
    assert tables_in(url) == before


def test_a_table_of_the_same_name_is_not_taken_over(url: str) -> None:
    with connection_to(url) as connection:
        connection.execute(text("CREATE TABLE findings (mine INTEGER)"))
    with (
        connection_to(url) as connection,
        pytest.raises(SchemaVersionError, match="a table findings that findings-orm did not make"),
    ):
        migrations.require_current(connection)
    with pytest.raises(StorageError, match="already exists"):
        migrations.upgrade(url)
    assert tables_in(url) == {"findings"}


def test_a_damaged_version_table_is_an_error(url: str) -> None:
    migrations.upgrade(url)
    with connection_to(url) as connection:
        connection.execute(text("INSERT INTO findings_orm_version VALUES ('r0001')"))
    with pytest.raises(StorageError, match="2 rows"):
        migrations.status(url)


@pytest.mark.parametrize("revision", ["r9", "nonsense", "", "head:base", "r0001; DROP TABLE findings"])
def test_an_unknown_revision_is_refused_before_anything_is_made(
    sqlite: str, tmp_path: Any, revision: str
) -> None:
    for change in (migrations.upgrade, migrations.downgrade):
        with pytest.raises(StorageError):
            change(sqlite, revision)
    assert not list(tmp_path.iterdir())


def test_moves_that_lead_nowhere(url: str) -> None:
    migrations.upgrade(url, "r0001")
    with pytest.raises(SchemaVersionError):
        migrations.downgrade(url, "r0002")
    with pytest.raises(SchemaVersionError):
        migrations.downgrade(url, "-5")
    migrations.upgrade(url)
    migrations.upgrade(url, "r0001")
    assert migrations.status(url).current == HEAD
    migrations.upgrade(url)
    assert migrations.check(url) == []
