"""Views and triggers that an application has made over the tables of findings survive migrations, or stop them."""

from __future__ import annotations

from typing import Any

import pytest
from rows import canonical_documents, connection_to, documents_in, fill
from sqlalchemy import text

from findings_orm import StorageError, migrations
from findings_orm.orm import text_index

KEPT = (
    "CREATE VIEW \"of a view\" AS SELECT * FROM titles WHERE title <> ''",
    "CREATE VIEW titles (project, title) AS SELECT project_id, title FROM findings",
    "CREATE VIEW broken AS SELECT absent FROM nowhere",
    "CREATE TABLE log (line TEXT)",
    "CREATE TRIGGER on_broken INSTEAD OF INSERT ON broken BEGIN INSERT INTO log VALUES (new.absent); END",
    "CREATE TRIGGER logged AFTER UPDATE OF title, severity ON findings BEGIN INSERT INTO log VALUES (new.title); END",
    "CREATE TRIGGER removed BEFORE DELETE ON findings BEGIN INSERT INTO log SELECT title FROM titles; END",
    "CREATE TRIGGER added INSTEAD OF INSERT ON titles BEGIN INSERT INTO log VALUES (new.title); END",
    "CREATE TRIGGER changed INSTEAD OF UPDATE ON titles BEGIN INSERT INTO log VALUES (old.title); END",
    "CREATE TRIGGER about_others AFTER INSERT ON log WHEN (SELECT count(*) FROM findings) > 1000 BEGIN SELECT 1; END",
    "CREATE TRIGGER faulty AFTER DELETE ON log BEGIN SELECT absent FROM nowhere; END",
)


def run_all(url: str, *statements: str) -> None:
    with connection_to(url) as connection:
        for sql in statements:
            connection.execute(text(sql))
        connection.commit()


def made_in(url: str) -> list[Any]:
    with connection_to(url) as connection:
        sql = "SELECT name, sql FROM sqlite_master WHERE type IN ('view', 'trigger') AND name NOT LIKE 'finding%' ORDER BY name"
        return [tuple(row) for row in connection.execute(text(sql))]


@pytest.mark.parametrize("indexed", [False, True], ids=["plain", "text_index"])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside_a_transaction"])
def test_views_and_triggers_survive_up_and_down(sqlite: str, indexed: bool, inside: bool) -> None:
    migrations.upgrade(sqlite)
    documents = canonical_documents()
    fill(sqlite, documents)
    if indexed:
        text_index.create(sqlite)
    run_all(sqlite, *KEPT)
    before = made_in(sqlite)
    for move, revision in (
        (migrations.downgrade, "r0004"),
        (migrations.downgrade, "r0003"),
        (migrations.downgrade, "r0001"),
        (migrations.upgrade, "r0003"),
        (migrations.upgrade, "+1"),
        (migrations.upgrade, "head"),
        (migrations.upgrade, "head"),
    ):
        if inside:
            with connection_to(sqlite) as connection:
                move(connection, revision)
                connection.commit()
        else:
            move(sqlite, revision)
        assert made_in(sqlite) == before
    assert documents_in(sqlite) == documents
    with connection_to(sqlite) as connection:
        assert connection.execute(text("SELECT count(*) FROM log")).scalar() == 0, "a migration is no edit"
        connection.execute(text("UPDATE findings SET title = 'seen'"))
        connection.execute(text("INSERT INTO titles VALUES ('p', 'added')"))
        assert connection.execute(text("SELECT count(*) FROM log")).scalar() == len(documents) + 1
        assert connection.execute(text('SELECT count(*) FROM "of a view"')).scalar() == len(documents)


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("numbers", "CREATE VIEW numbers AS SELECT cwe FROM findings"),
        ("t", "CREATE TRIGGER t AFTER INSERT ON findings WHEN new.cwe > 1 BEGIN SELECT 1; END"),
        ("t", 'CREATE TRIGGER t AFTER UPDATE OF title, "cwe" ON findings BEGIN SELECT 1; END'),
        ("t", "CREATE TRIGGER t AFTER INSERT ON log BEGIN SELECT cwe FROM findings; END"),
    ],
)
def test_what_cannot_be_made_again_stops_the_upgrade(sqlite: str, name: str, statement: str) -> None:
    migrations.upgrade(sqlite, "r0003")
    run_all(sqlite, *KEPT, statement)
    before = made_in(sqlite)
    for revision in ("r0004", "head"):
        with pytest.raises(
            StorageError, match=rf"'{name}' of the application can't be made again .*no such column: .*cwe"
        ):
            migrations.upgrade(sqlite, revision)
    assert made_in(sqlite) == before
    assert migrations.status(sqlite).current == "r0003"
    run_all(sqlite, f"DROP {'VIEW' if 'VIEW' in statement else 'TRIGGER'} {name}")
    migrations.upgrade(sqlite)
    assert migrations.check(sqlite) == []


def test_a_view_stops_the_drop_of_its_table(url: str) -> None:
    migrations.upgrade(url)
    run_all(url, "CREATE VIEW titles AS SELECT title FROM findings")
    with pytest.raises(StorageError, match="titles"):
        migrations.downgrade(url, "base")
    assert migrations.check(url) == []


@pytest.mark.parametrize(
    ("way", "end", "column"),
    [("upgrade", "r0003", "cwe"), ("downgrade", "head", "cwe_ids"), ("downgrade", "head", "owasp")],
)
def test_a_view_over_a_column_that_changes_is_named(postgresql: str, way: str, end: str, column: str) -> None:
    migrations.upgrade(postgresql, end)
    run_all(
        postgresql,
        "CREATE VIEW titles AS SELECT title FROM findings",
        f"CREATE VIEW numbers AS SELECT {column} FROM findings",
    )
    with pytest.raises(StorageError, match="(?s)uses what this migration changes; drop it, .*view numbers"):
        getattr(migrations, way)(postgresql, "head" if way == "upgrade" else "r0003")
    run_all(postgresql, "DROP VIEW numbers")
    getattr(migrations, way)(postgresql, "head" if way == "upgrade" else "r0003")
    with connection_to(postgresql) as connection:
        assert connection.execute(text("SELECT count(*) FROM titles")).scalar() == 0
