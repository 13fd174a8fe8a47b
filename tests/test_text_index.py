"""The text index: the same answers with it and without, whoever writes, and work in proportion to the answer.

That it changes no answer of the conformance suite is tested in test_contract.py.
"""

from __future__ import annotations

import pathlib
import random
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
import pytest
from servers import POSTGRESQL
from test_plans import FEW, MANY, Counter, Filled, postgresql, sqlite  # noqa: F401  # fixtures
from typer.testing import CliRunner

from findings_orm import FindingQuery, FindingStore, StorageUnavailableError, migrations, open_storage
from findings_orm.backup.copying import copy_store
from findings_orm.cli.app import app
from findings_orm.errors import SchemaVersionError
from findings_orm.orm import sqlite_text_index, text_index
from findings_orm.orm.access import grant_access
from findings_orm.orm.records import LATEST
from findings_orm.orm.sqlite_records import FEW_WAITING
from findings_orm.orm.text_index import TextIndexStatus
from findings_orm.query import matches
from findings_orm.testing.samples import OTHER, PROJECT, finding, ids, uuid_of

RARE, RARE_OTHER = "zebra", "größe"
TEXTS = (
    "finding 3",
    "GRÖSSE",
    "grö",
    "zebra file",
    '"',
    '" OR "',
    "NEAR(",
    "%",
    "a*b",
    "-x",
    "\\",
    "日本語",
    "語テ",
    "ab",
    "nothing",
)
FINDINGS: list[dict[str, Any]] = [
    *(finding(number) for number in range(1, 30)),
    finding(30, title='He said "OR" NEAR(a*b) AND -x'),
    finding(31, title="100%_\\ zebra", rule_id="größe.Groß"),
    finding(32, title="日本語テスト", location={"snippet": "x = ab\n'日本語'"}),
    finding(33, title="zebra", project_id=OTHER),
]


@pytest.fixture(params=["sqlite", *POSTGRESQL])
def url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """Return the URL of an empty database."""
    if request.param == "sqlite":
        open_storage(f"sqlite:///{tmp_path}/findings.db").close()
        return f"sqlite:///{tmp_path}/findings.db"
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def file_url(tmp_path: pathlib.Path) -> str:
    """Return the URL of a SQLite file with findings."""
    with open_storage(f"sqlite:///{tmp_path}/findings.db") as store:
        store.save_findings(FINDINGS)
    return f"sqlite:///{tmp_path}/findings.db"


def assert_exact(store: FindingStore, texts: tuple[str, ...] = TEXTS) -> None:
    """Assert that searches find what the definition says, in each way of asking."""
    for project in (PROJECT, OTHER):
        documents = store.list_findings(project)
        for text in texts:
            query = FindingQuery(project_id=project, text=text)
            expected = [document["id"] for document in documents if matches(query, document)]
            assert ids(store.find(query).items) == expected, text
            assert store.count(query) == len(expected), text
            best = store.find(FindingQuery(project_id=project, text=text, sort="-relevance")).items
            assert sorted(ids(best)) == sorted(expected), text


def raw(url: str) -> closing[sqlite3.Connection]:
    """Return a connection to a SQLite file that knows nothing of the package."""
    return closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None))


# -- made and dropped ---------------------------------------------------------------------------------------------------


@pytest.mark.no_cover
def test_answers_are_exact_before_with_and_after(url: str) -> None:
    with open_storage(url) as store:
        store.save_findings(FINDINGS)
    assert text_index.status(url) == TextIndexStatus("absent")
    for change in (lambda _: None, text_index.create, text_index.create, text_index.drop, text_index.drop):
        change(url)
        with open_storage(url) as store:
            assert_exact(store)
    assert text_index.status(url) == TextIndexStatus("absent")


def test_index_is_ready_and_no_drift(url: str) -> None:
    with open_storage(url) as store:
        store.save_findings(FINDINGS)
        found = text_index.create(url)
        assert (found.state, found.findings, found.waiting) == ("ready", len(FINDINGS), 0)
        assert found.size > 0
        assert migrations.check(url) == []
        assert [problem for problem in store.diagnose() if "index" in problem.check] == []
    assert text_index.drop(url) is True
    assert text_index.drop(url) is False


def test_inside_a_transaction_the_caller_decides(url: str) -> None:
    with open_storage(url) as store:
        store.save_findings(FINDINGS)
        engine = store.engine  # type: ignore[attr-defined]
        with engine.connect() as connection, connection.begin() as transaction:
            assert text_index.create(connection).state == "ready"
            transaction.rollback()
        assert text_index.status(url).state == "absent"
        with engine.connect() as connection, connection.begin():
            text_index.create(connection)
        assert text_index.status(url).state == "ready"
        with engine.connect() as connection, connection.begin() as transaction:
            assert text_index.drop(connection) is True
            transaction.rollback()
        assert text_index.status(url).state == "ready"
        assert_exact(store)


def test_database_without_tables_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "other.db"
    sqlite3.connect(path).close()
    with pytest.raises(SchemaVersionError, match="findings db upgrade"):
        text_index.create(f"sqlite:///{path}")


@pytest.mark.no_cover
def test_index_lives_through_migrations_down_and_up(url: str) -> None:
    with open_storage(url) as store:
        store.save_findings(FINDINGS)
    text_index.create(url)
    for revision in ("r0003", "r0001"):
        migrations.downgrade(url, revision)
        migrations.upgrade(url)
        with open_storage(url) as store:
            assert_exact(store)
            store.save_finding(finding(40, title="greeting"))
            assert ids(store.find(FindingQuery(project_id=PROJECT, text="greet")).items) == [uuid_of(40)]
    if url.startswith("sqlite"):
        assert text_index.status(url).state == "ready"
    migrations.downgrade(url, "base")
    migrations.upgrade(url)
    assert text_index.status(url) == TextIndexStatus("absent")


def test_command_makes_shows_and_drops(file_url: str) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["--url", file_url, "db", "text-index", *words])
        assert result.exit_code == 0, result.output
        return result.output

    assert "absent" in run("status")
    assert "ready" in run("create")
    assert f'"findings": {len(FINDINGS)}' in run("status", "--format", "json")
    assert "dropped" in run("drop")
    assert "nothing to do" in run("drop")
    assert CliRunner().invoke(app, ["--url", "memory:", "db", "text-index", "create"]).exit_code == 2


# -- SQLite: whoever writes ---------------------------------------------------------------------------------------------


def test_what_others_write_is_found(file_url: str) -> None:
    text_index.create(file_url)
    with raw(file_url) as other:
        other.execute("PRAGMA trusted_schema = OFF")
        other.execute("UPDATE findings SET title = 'Crocodile' WHERE id = ?", (uuid_of(3),))
        other.execute("UPDATE findings SET severity = 'low'")
        other.execute("DELETE FROM findings WHERE id = ?", (uuid_of(31),))
        columns = ", ".join(row[1] for row in other.execute("PRAGMA table_info (findings)") if row[1] != "id")
        other.execute(
            f"INSERT INTO findings (id, {columns}) SELECT '{uuid_of(99)}', {columns} FROM findings WHERE id = '{uuid_of(30)}'"
        )
    assert text_index.status(file_url).waiting == 2
    with open_storage(file_url) as store:
        assert_exact(store, (*TEXTS, "crocodile", "croco file"))
        store.save_findings([finding(number) for number in range(200, 200 + FEW_WAITING)])
        assert text_index.status(file_url).waiting == 0
        assert_exact(store, (*TEXTS, "crocodile", "croco file"))


def test_store_that_was_open_before_the_index_writes_what_is_found(file_url: str) -> None:
    with open_storage(file_url) as store:
        store.save_finding(finding(50, title="before"))
        text_index.create(file_url)
        store.save_finding(finding(51, title="crocodile"))
        assert_exact(store, (*TEXTS, "crocodile", "before"))
        store.save_findings([finding(number, title="crocodile") for number in range(200, 200 + FEW_WAITING)])
        assert text_index.status(file_url).waiting == 0
        text_index.drop(file_url)
        store.save_finding(finding(53, title="crocodile"))
        assert_exact(store, ("crocodile",))


def test_index_without_its_triggers_is_not_believed(file_url: str) -> None:
    text_index.create(file_url)
    with raw(file_url) as other:
        other.execute("DROP TRIGGER finding_text_new")
    with open_storage(file_url) as store:
        store.save_finding(finding(51, title="crocodile"))
        assert_exact(store, (*TEXTS, "crocodile"))
        assert text_index.status(file_url).state == "incomplete"
        problems = store.diagnose()
        assert [problem.advice for problem in problems if problem.check == "text-index"] == [
            "findings db text-index create"
        ]
        assert text_index.create(file_url).state == "ready"
        assert_exact(store, (*TEXTS, "crocodile"))


def test_interrupted_work_is_exact_and_goes_on(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_text_index, "BATCH", 5)
    monkeypatch.setattr(text_index, "STEPS", 2)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        text_index.create(file_url, progress=interrupt)
    found = text_index.status(file_url)
    assert (found.state, found.waiting) == ("ready", len(FINDINGS) - 10)
    with open_storage(file_url) as store:
        assert_exact(store)
        counts: list[int] = []
        assert text_index.create(file_url, progress=counts.append).waiting == 0
        assert sum(counts) == len(FINDINGS) - 10
        assert_exact(store)


def test_what_is_gone_leaves_no_answer(file_url: str) -> None:
    text_index.create(file_url)
    with open_storage(file_url) as store:
        for number in range(3):
            store.save_finding(finding(31, title=f"crocodile {number}"))
        assert text_index.status(file_url).removed == 3
        store.delete_project(OTHER)
        store.save_finding(finding(60, project_id=OTHER, title="new zebra"))
        assert_exact(store, (*TEXTS, "crocodile", "crocodile 1", "crocodile 2"))
    with raw(file_url) as other:
        other.execute("VACUUM")
    text_index.drop(file_url)
    assert text_index.create(file_url).removed == 0


def test_many_candidates_are_walked_in_order(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text_index.create(file_url)
    monkeypatch.setattr("findings_orm.orm.sqlite_records.FEW_CANDIDATES", 3)
    with open_storage(file_url) as store:
        assert_exact(store)


# -- PostgreSQL: rights -------------------------------------------------------------------------------------------------

ROLE = "text_searcher"


@pytest.fixture(params=POSTGRESQL)
def role_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the URL of a database with findings for a role that was granted one project."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {ROLE} LOGIN")
        with open_storage(url) as store:
            store.save_findings(FINDINGS)
        grant_access(url, ROLE, PROJECT)
        yield url.replace("postgres@", f"{ROLE}@")
        connection.execute(f"DROP OWNED BY {ROLE}")
        connection.execute(f"DROP ROLE {ROLE}")


def test_role_without_the_right_is_told(role_url: str) -> None:
    with pytest.raises(StorageUnavailableError, match="CREATE EXTENSION"):
        text_index.create(role_url)
    assert text_index.status(role_url).state == "absent"
    owner = role_url.replace(f"{ROLE}@", "postgres@")
    with psycopg.connect(owner, autocommit=True) as connection:
        for extension in ("pg_trgm", "btree_gin"):
            connection.execute(f"CREATE EXTENSION {extension}")
    with pytest.raises(StorageUnavailableError, match="owner"):
        text_index.create(role_url)


def test_role_under_row_level_security_finds_its_own(role_url: str) -> None:
    text_index.create(role_url.replace(f"{ROLE}@", "postgres@"))
    with open_storage(role_url) as store:
        assert_exact(store)
        assert store.find(FindingQuery(project_id=OTHER, text="zebra")).items == []
        assert store.count(FindingQuery(project_id=PROJECT, text="zebra")) == 1


def test_schema_that_is_not_on_the_path_gets_its_index(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pg_trgm")
    url = f"{postgresql_url}?schema=Other%20%25"
    with open_storage(url, migrate=True) as store:
        store.save_findings(FINDINGS)
        assert text_index.create(url).state == "ready"
        assert text_index.status(postgresql_url).state == "absent"
        assert_exact(store)
    assert text_index.drop(url) is True


def test_index_that_is_not_valid_is_made_again(postgresql_url: str) -> None:
    text_index.create(postgresql_url)
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_findings_text'::regclass"
        )
    with open_storage(postgresql_url) as store:
        store.save_findings(FINDINGS)
        assert text_index.status(postgresql_url).state == "incomplete"
        assert_exact(store)
        assert text_index.create(postgresql_url).state == "ready"


# -- work ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def indexed(request: pytest.FixtureRequest) -> Filled:
    """Two projects with an index; each has one rare finding, and the large one many of what is rare in the small one."""
    found: Filled = request.getfixturevalue(request.param)
    store = found.store
    text_index.create(store.engine)  # type: ignore[attr-defined]
    searching(found, "few", "find", RARE)  # notices the index at once
    for project in ("few", "many"):
        for number, word in ((1, f"{RARE} {project}"), (2, f"{RARE_OTHER} {project}"), (3, "okapi")):
            store.save_finding(finding(number, project_id=project, title=word))
    last = {"project_id": "many", "created_at": "2030-01-01T00:00:00Z"}
    store.save_findings([finding(n, title=f"okapi {n}", **last) for n in range(100, 600)])
    assert text_index.create(store.engine).waiting == 0  # type: ignore[attr-defined]
    with store.engine.connect() as connection:  # type: ignore[attr-defined]
        if store.adapter == "postgresql":  # type: ignore[attr-defined]
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql("VACUUM ANALYZE")
        else:
            connection.exec_driver_sql("ANALYZE")
            connection.commit()
    return found


def searching(filled: Filled, project: str, how: str, text: str) -> Any:
    query = FindingQuery(project_id=project, text=text, limit=20)
    if how == "count":
        return filled.store.count(query)
    if how == "relevance":
        query = FindingQuery(project_id=project, text=text, limit=20, sort="-relevance")
    return len(filled.store.find(query).items)


@pytest.mark.no_cover
@pytest.mark.slow
@pytest.mark.parametrize("how", ["find", "relevance", "count"])
@pytest.mark.parametrize("text", [RARE, RARE_OTHER, f"{RARE} few", "giraffe"])
def test_a_rare_word_is_found_without_reading_the_project(indexed: Filled, how: str, text: str) -> None:
    expected = 0 if text == "giraffe" else 1
    assert searching(indexed, "few", how, text) == expected
    few, many = (indexed.work(partial(searching, indexed, project, how, text)) for project in ("few", "many"))
    assert many <= few * 1.3 + 60, f"{few} for {FEW} findings, {many} for {MANY}"
    looked_at = LATEST if how == "relevance" and indexed.store.adapter == "postgresql" else 0  # type: ignore[attr-defined]
    assert (many - looked_at * 5) * 20 < indexed.work(lambda: indexed.store.list_findings("many"))


@pytest.mark.no_cover
def test_what_other_projects_hold_costs_nothing(indexed: Filled) -> None:
    assert (searching(indexed, "few", "count", "okapi"), searching(indexed, "many", "count", "okapi")) == (
        1,
        501,
    )
    rare = indexed.work(partial(searching, indexed, "few", "find", RARE))
    assert indexed.work(partial(searching, indexed, "few", "find", "okapi")) <= rare * 1.5 + 60


@pytest.mark.no_cover
@pytest.mark.parametrize("how", ["find", "relevance"])
def test_a_page_of_a_frequent_word_reads_a_page(indexed: Filled, how: str) -> None:
    few, many = (
        indexed.work(partial(searching, indexed, project, how, "broken")) for project in ("few", "many")
    )
    assert many < few * 2


@pytest.mark.parametrize("how", ["find", "relevance", "count"])
def test_statements_of_a_search(indexed: Filled, how: str) -> None:
    wanted = {"find": (4, 3), "relevance": (6, 5), "count": (3, 3)}[how]
    searching(indexed, "few", how, RARE)
    counter = Counter()
    stop = indexed.store.observe(counter)  # type: ignore[attr-defined]
    searching(indexed, "few", how, RARE)
    stop()
    assert len(counter.statements) == wanted[indexed.store.adapter == "postgresql"], counter.statements  # type: ignore[attr-defined]
    if indexed.store.adapter == "postgresql":  # type: ignore[attr-defined]
        asked = [statement for statement in counter.statements if statement.startswith("SELECT")]
        assert all("project_id = %" in statement for statement in asked)


# -- the index itself, not only its absence -----------------------------------------------------------------------------

HOSTILE = "aAbc ß\u1e9eſIİı\u0301éﬁＡ²'\"\\%_*()^-+:.{}~|$\U0001f600\u3000\u0939\u093f"


@pytest.mark.no_cover
@pytest.mark.slow
def test_index_finds_what_the_definition_says_in_a_large_project(indexed: Filled) -> None:
    """In a small table PostgreSQL reads all rather than the index."""
    chance, store = random.Random(8), indexed.store
    titles = ["".join(chance.choices(HOSTILE, k=chance.randint(3, 14))) + "!" for _ in range(120)]
    store.save_findings([finding(n, project_id="many", title=title) for n, title in enumerate(titles, 2000)])
    documents = store.list_findings("many")
    for _ in range(60):
        title = chance.choice(titles)
        start = chance.randrange(len(title))
        query = FindingQuery(
            project_id="many", text=title[start : start + chance.randint(2, 8)], limit=10_000
        )
        if query.words:
            expected = sorted(document["id"] for document in documents if matches(query, document))
            assert sorted(ids(store.find(query).items)) == expected, query.text
            assert store.count(query) == len(expected), query.text
            best = replace(query, sort="-relevance")
            assert sorted(ids(store.find(best).items)) == expected, query.text


def test_copy_fills_the_index_of_the_target(url: str) -> None:
    text_index.create(url)
    with open_storage("memory:") as source, open_storage(url) as target:
        source.save_findings(FINDINGS)
        copy_store(source, target)
        assert_exact(target)


@pytest.mark.no_cover
def test_others_write_while_the_index_is_made(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_text_index, "BATCH", 7)
    monkeypatch.setattr(text_index, "STEPS", 1)
    stop = threading.Event()
    with open_storage(url) as store, ThreadPoolExecutor(1) as executor:
        store.save_findings(FINDINGS)

        def write() -> int:
            number = 1000
            while not stop.is_set():
                store.save_finding(finding(number, title=f"crocodile {number}"))
                number += 1
            return number - 1000

        written = executor.submit(write)
        try:
            for _ in range(3):
                text_index.create(url)
                text_index.drop(url)
            text_index.create(url)
        finally:
            stop.set()
        assert written.result() > 0
        assert store.count(FindingQuery(project_id=PROJECT, text="crocodile")) == written.result()
        assert_exact(store, (*TEXTS, "crocodile 1001"))
