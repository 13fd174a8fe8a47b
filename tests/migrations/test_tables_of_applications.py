"""An application that declares tables of its own on the base of our models: nothing of ours takes them for ours."""

from __future__ import annotations

import json
import subprocess
import sys

import psycopg

ROLE = "reader_of_an_application"
APPLICATION = """
import io, json, sys

from findings_orm.orm.models import Base, Finding  # first: what is loaded later must not take the tables below for ours
from sqlalchemy import ForeignKeyConstraint, text
from sqlalchemy.orm import Mapped, mapped_column


class Secret(Base):
    __tablename__ = "secrets"
    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str] = mapped_column(index=True)


class Note(Base):
    __tablename__ = "secret_notes"
    __table_args__ = (ForeignKeyConstraint(["project_id", "finding_id"], [Finding.project_id, Finding.id]),)
    id: Mapped[int] = mapped_column(primary_key=True)
    secret_id: Mapped[int]
    project_id: Mapped[str] = mapped_column(Finding.__table__.c.project_id.type)
    finding_id: Mapped[str] = mapped_column(Finding.__table__.c.id.type)


from alembic import command
from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from typer.testing import CliRunner

from findings_orm import migrations, open_storage
from findings_orm.cli.app import app
from findings_orm.migrations.connecting import engine_of
from findings_orm.migrations.scripts import new_config
from findings_orm.orm import include_name, include_object
from findings_orm.orm.access import grant_access, revoke_access
from findings_orm.testing.samples import PROJECT, finding

url, role = sys.argv[1:]
THEIRS = [Secret.__table__, Note.__table__]
answers = {}


def ask(when):
    run = CliRunner().invoke
    with open_storage(url) as store:
        problems = [each.check for each in store.diagnose() if each.check not in ("settings", "timeouts")]
        answers["doctor", when] = problems
        answers["figures", when] = store.figures().projects
    answers["findings doctor", when] = "secret" in run(app, ["--url", url, "doctor"]).output
    answers["findings db check", when] = run(app, ["--url", url, "db", "check"]).exit_code
    answers["check", when] = migrations.check(url)
    locked = {name for way in ("base", "r0003") for step in migrations.plan(url, way).steps for name in step.locks}
    answers["plan", when] = sorted(locked & {"secrets", "secret_notes"})
    answers["script", when] = [word for word in ("secrets", "secret_notes") if word in migrations.script(url, "r0005")]
    ours = new_config()
    ours.stdout = io.StringIO()
    with engine_of(url).connect() as connection:
        ours.attributes["connection"] = connection
        ours.attributes["read_only"] = True
        command.check(ours)
        options = {"include_name": include_name, "include_object": include_object, "target_metadata": Base.metadata}
        host = MigrationContext.configure(connection, opts=options)
        made = produce_migrations(host, Base.metadata).upgrade_ops.ops
        answers["autogenerate of the host", when] = sorted({each.table_name for each in made})
    answers["autogenerate of ours", when] = ours.stdout.getvalue().strip()


migrations.upgrade(url)
with open_storage(url) as store:
    store.save_finding(finding(1))
    (one,) = store.list_findings(PROJECT)
ask("before they are made")
engine = engine_of(url)
Base.metadata.create_all(engine, THEIRS)
with engine.begin() as connection:
    if connection.dialect.name == "sqlite":  # what is broken among them is none of our business
        connection.execute(Note.__table__.insert(), {"id": 2, "secret_id": 1, "project_id": "gone", "finding_id": one["id"]})
    connection.execute(Secret.__table__.insert(), {"id": 1, "word": "sesame"})
    connection.execute(Note.__table__.insert(), {"id": 1, "secret_id": 1, "project_id": PROJECT, "finding_id": one["id"]})


def rows():
    with engine.connect() as connection:
        return [connection.execute(text(f"SELECT * FROM {each.name} WHERE id = 1")).one()[:2] for each in THEIRS]


before = rows()
ask("once they are there")
migrations.downgrade(url, "r0003")
answers["rows", "below"] = rows() == before
migrations.upgrade(url)
answers["rows", "above again"] = rows() == before
ask("above again")
if role:
    sql = "SELECT has_table_privilege(:role, :table, 'SELECT') OR has_table_privilege(:role, :table, 'INSERT')"

    def may(table):
        with engine.connect() as connection:
            return connection.execute(text(sql), {"role": role, "table": table}).scalar()

    grant_access(url, role, PROJECT)
    answers["granted", "by us"] = [table for table in ("findings", "secrets", "secret_notes") if may(table)]
    with engine.begin() as connection:
        connection.execute(text(f"GRANT SELECT ON secrets TO {role}"))
    revoke_access(url, role)
    answers["granted", "after our revoke"] = [table for table in ("findings", "secrets", "secret_notes") if may(table)]
    sql = "SELECT count(*) FROM pg_class WHERE relname IN ('secrets', 'secret_notes') AND relrowsecurity"
    with engine.connect() as connection:
        answers["row-level security", "of theirs"] = connection.execute(text(sql)).scalar()
print(json.dumps([[*of, answer] for of, answer in answers.items()]))
"""
ANSWERS = {
    "doctor": [],
    "figures": 1,
    "findings doctor": False,
    "findings db check": 0,
    "check": [],
    "plan": [],
    "script": [],
    "autogenerate of the host": [],
    "autogenerate of ours": "No new upgrade operations detected.",
}
WHEN = ("before they are made", "once they are there", "above again")
EXPECTED: dict[tuple[str, str], object] = {
    **{(what, when): answer for what, answer in ANSWERS.items() for when in WHEN},
    ("autogenerate of the host", WHEN[0]): ["secret_notes", "secrets"],
    ("rows", "below"): True,
    ("rows", "above again"): True,
}
ON_POSTGRESQL: dict[tuple[str, str], object] = {
    ("granted", "by us"): ["findings"],
    ("granted", "after our revoke"): ["secrets"],
    ("row-level security", "of theirs"): 0,
}


def run_application(url: str, role: str) -> dict[tuple[str, str], object]:
    """Return what the application was answered, in a process of its own: what it declares stays declared."""
    line = [sys.executable, "-c", APPLICATION, url, role]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return {(what, when): answer for what, when, answer in json.loads(done.stdout.splitlines()[-1])}


def test_on_sqlite(sqlite: str) -> None:
    assert run_application(sqlite, "") == EXPECTED


def test_on_postgresql(postgresql: str) -> None:
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {ROLE}")
        try:
            assert run_application(postgresql, ROLE) == EXPECTED | ON_POSTGRESQL
        finally:
            connection.execute(f"DROP OWNED BY {ROLE}")
            connection.execute(f"DROP ROLE {ROLE}")
