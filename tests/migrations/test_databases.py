from __future__ import annotations

from typing import Any

import pytest
from rows import (
    FIELDS,
    OLD_FIELDS,
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

from findings_orm import SchemaVersionError, StorageError, migrations
from findings_orm.migrations import DatabaseStatus
from findings_orm.migrations.scripts import chain
from findings_orm.testing.samples import assert_all_same, difference

REVISIONS = [revision.id for revision in chain()]
HEAD, HEAD_SCHEMA = chain()[-1].id, chain()[-1].schema_version


def assert_documents(url: str, expected: list[dict[str, Any]], fields: Any = FIELDS) -> None:
    found = documents_in(url, fields)
    assert_all_same(found, [{name: document[name] for name in fields} for document in expected])


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
                inspector.get_check_constraints(name),
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


def test_documents_survive_down_and_up(url: str) -> None:
    documents = canonical_documents(many=1_100)
    migrations.upgrade(url)
    fill(url, documents)
    children = children_in(url)
    migrations.downgrade(url, "r0001")
    assert_documents(url, downgraded(documents), OLD_FIELDS)
    assert children_in(url) == children
    migrations.upgrade(url)
    assert_documents(url, documents)
    assert children_in(url) == children
    assert migrations.check(url) == []


def test_documents_survive_up_and_down(url: str) -> None:
    """Documents of an old release: with what looks like corners, and with real ones that came from a newer store."""
    documents = downgraded(canonical_documents(many=1_100))
    documents += [
        {**document, "id": document["id"].replace("00000000-", "10000000-")}
        for document in downgraded([{**each, "finding_schema_version": "1.1.0"} for each in documents[:30]])
    ]
    migrations.upgrade(url, "r0001")
    fill(url, documents, OLD_FIELDS)
    children = children_in(url)
    migrations.upgrade(url)
    migrate = migrations.SchemaMigrator().migrate
    assert_documents(url, [_with_defaults(migrate("1.0.0", "1.1.0", document)) for document in documents])
    assert children_in(url) == children
    migrations.downgrade(url, "r0001")
    stored = documents_in(url, OLD_FIELDS)
    for found, expected in zip(stored, documents, strict=True):
        # A column can't be absent: what a partial document lacked is its default from now on.
        again = migrate("1.0.0", "1.1.0", found), migrate("1.0.0", "1.1.0", expected)
        assert difference(_with_defaults(again[0]), _with_defaults(again[1])) is None
    assert children_in(url) == children


def _with_defaults(document: dict[str, Any]) -> dict[str, Any]:
    defaults = {"status": "open", "tags": [], "provenance": {}}
    return {name: document.get(name, defaults.get(name)) for name in FIELDS}


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
