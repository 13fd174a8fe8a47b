"""``alembic`` itself, from the checkout, as an administrator types it."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.util import CommandError
from rows import canonical_documents, documents_in, downgraded, fill

from findings_orm import migrations
from findings_orm.migrations.scripts import new_config, revision_chain

ROOT = Path(__file__).parents[2]
HEAD = revision_chain()[-1].id


def alembic(*arguments: str, code: int = 0, **variables: str) -> str:
    """Run the command in the checkout; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "FINDINGS_DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def sql(move: Callable[..., None], revisions: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what ``--sql`` writes."""
    monkeypatch.setenv("FINDINGS_DATABASE_URL", kind)
    config = new_config()
    config.output_buffer = io.StringIO()
    move(config, revisions, sql=True)
    return config.output_buffer.getvalue()


def test_the_url_comes_from_an_option_or_the_environment(sqlite: str) -> None:
    alembic("-x", f"url={sqlite}", "upgrade", "head", FINDINGS_DATABASE_URL=f"{sqlite}.other")
    assert migrations.status(sqlite).current == HEAD
    assert "No new upgrade operations" in alembic("check", FINDINGS_DATABASE_URL=sqlite)
    assert "(head)" in alembic("current", FINDINGS_DATABASE_URL=sqlite)


def test_the_command_on_postgresql(postgresql: str) -> None:
    alembic("-x", f"url={postgresql}", "-x", "lock_timeout=5s", "upgrade", "head")
    assert migrations.check(postgresql) == []
    assert "No new upgrade operations" in alembic("-x", f"url={postgresql}", "check")


def test_mistakes_are_messages(sqlite: str) -> None:
    assert "no database was named" in alembic("upgrade", "head", code=255)
    refused = alembic("-x", "url=postgresql://u:secret@127.0.0.1:1/d", "current", code=255)
    assert "refused" in refused
    assert "secret" not in refused
    assert "no such file" in alembic("-x", f"url={sqlite}", "current", code=255)


def test_history_needs_no_database() -> None:
    assert "r0001 -> r0002" in alembic("history")


def test_sql_for_administrators_makes_the_same_schema_on_sqlite(sqlite: str, tmp_path: Path) -> None:
    run_on_sqlite(tmp_path, alembic("upgrade", "head", "--sql", FINDINGS_DATABASE_URL="sqlite://"))
    assert migrations.check(sqlite) == []


def run_on_sqlite(tmp_path: Path, script: str) -> None:
    with sqlite3.connect(tmp_path / "findings.db", isolation_level=None) as connection:
        connection.executescript(script)
    connection.close()


def run_on_postgresql(url: str, script: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            connection.execute(script)
        except psycopg.Error:
            connection.execute("ROLLBACK")
            raise


def test_sql_for_administrators_makes_the_same_schema_on_postgresql(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = sql(command.upgrade, "head", postgresql, monkeypatch)
    assert "pg_advisory_xact_lock" in script
    run_on_postgresql(postgresql, script)
    assert migrations.check(postgresql) == []
    run_on_postgresql(postgresql, sql(command.downgrade, f"{HEAD}:base", "postgresql://", monkeypatch))
    assert migrations.status(postgresql).current is None


STEPS = [("r0001", "1.0.0", "r0002", "1.1.0"), ("r0003", "1.1.0", "r0004", "2.0.0")]


@pytest.mark.parametrize(("below", "old", "above", "new"), STEPS)
def test_sql_refuses_what_only_python_can_move_on_postgresql(
    postgresql: str, monkeypatch: pytest.MonkeyPatch, below: str, old: str, above: str, new: str
) -> None:
    migrations.upgrade(postgresql, above)
    documents = downgraded(canonical_documents(), new)
    fill(postgresql, documents, new)
    down = sql(command.downgrade, f"{above}:{below}", "postgresql://", monkeypatch)
    with pytest.raises(psycopg.errors.RaiseException, match="only an online run"):
        run_on_postgresql(postgresql, down)
    before = documents_in(postgresql, new)
    migrations.downgrade(postgresql, below)
    up = sql(command.upgrade, f"{below}:{above}", "postgresql://", monkeypatch)
    with pytest.raises(psycopg.errors.RaiseException, match="only an online run"):
        run_on_postgresql(postgresql, up)
    assert documents_in(postgresql, old) == downgraded(canonical_documents(), old)
    migrations.upgrade(postgresql, above)
    assert documents_in(postgresql, new) == before


@pytest.mark.parametrize(("below", "old", "above", "new"), STEPS)
def test_sql_refuses_what_only_python_can_move_on_sqlite(
    sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str, old: str, above: str, new: str
) -> None:
    migrations.upgrade(sqlite, above)
    documents = downgraded(canonical_documents(), new)
    fill(sqlite, documents, new)
    before = documents_in(sqlite, new)
    if above == "r0002":
        with pytest.raises(CommandError, match="without --sql"):
            sql(command.downgrade, f"{above}:{below}", "sqlite://", monkeypatch)
    else:
        with pytest.raises(sqlite3.IntegrityError, match="only an online run"):
            run_on_sqlite(tmp_path, sql(command.downgrade, f"{above}:{below}", "sqlite://", monkeypatch))
    migrations.downgrade(sqlite, below)
    with pytest.raises(sqlite3.IntegrityError, match="only an online run"):
        run_on_sqlite(tmp_path, sql(command.upgrade, f"{below}:{above}", "sqlite://", monkeypatch))
    assert documents_in(sqlite, old) == downgraded(canonical_documents(), old)
    migrations.upgrade(sqlite, above)
    assert documents_in(sqlite, new) == before


def test_sql_moves_plain_findings(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrations.upgrade(postgresql, "r0002")
    documents = [each for each in downgraded(canonical_documents(), "1.1.0") if each == {**each, **PLAIN}]
    assert documents
    fill(postgresql, documents, "1.1.0")
    run_on_postgresql(postgresql, sql(command.downgrade, "r0002:r0001", "postgresql://", monkeypatch))
    run_on_postgresql(postgresql, sql(command.upgrade, "r0001:r0002", "postgresql://", monkeypatch))
    assert documents_in(postgresql, "1.1.0") == documents
    migrations.upgrade(postgresql)
    assert migrations.check(postgresql) == []


def test_sql_moves_lists_of_cwes_and_categories(
    postgresql: str, sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down, corners and all; up again needs Python, which opens the corners."""
    plain = [each for each in canonical_documents() if "findings_orm" not in str(each)]
    documents = [each for each in plain if "\\u00" not in json.dumps(each["provenance"], ensure_ascii=False)]
    assert any(len(each["cwe_ids"]) > 1 for each in documents)
    down = [
        sql(command.downgrade, "r0004:r0003", f"{kind}://", monkeypatch) for kind in ("postgresql", "sqlite")
    ]
    for url, run in (
        (postgresql, run_on_postgresql),
        (sqlite, lambda _, script: run_on_sqlite(tmp_path, script)),
    ):
        migrations.upgrade(url, "r0004")
        fill(url, downgraded(documents, "2.0.0"), "2.0.0")
        run(url, down.pop(0))
        assert documents_in(url, "1.1.0") == downgraded(documents, "1.1.0")
        migrations.upgrade(url)
        assert documents_in(url) == documents
        assert migrations.check(url) == []


PLAIN: dict[str, Any] = {
    "status": "open",
    "rule_id": None,
    "fingerprint": None,
    "location": None,
    "confidence": None,
    "tags": [],
    "mitre_attack": [],
    "provenance": {},
}
