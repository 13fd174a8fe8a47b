"""An application with tables, an Alembic history and an ``alembic_version`` of its own, in the same database."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alembic
import pytest
from alembic import command
from alembic.config import Config
from rows import connection_to, tables_in
from sqlalchemy import text

from findings_orm import StorageError, migrations
from findings_orm.migrations.connecting import engine_of
from findings_orm.migrations.scripts import new_config, revision_chain
from findings_orm.orm import text_index

HEAD = revision_chain()[-1].id
ENV = """
from alembic import context
with context.config.attributes["connection"].begin():
    context.configure(connection=context.config.attributes["connection"])
    context.run_migrations()
"""
REVISION = """
import sqlalchemy as sa
from alembic import op
from findings_orm import migrations

revision, down_revision = "app1", None


def upgrade():
    op.create_table("accounts", sa.Column("id", sa.Integer(), primary_key=True))
    {before}
    op.create_table("finding_notes", sa.Column("id", sa.Integer(), sa.ForeignKey("accounts.id")))
    op.execute("INSERT INTO accounts VALUES (1)")


def downgrade():
    op.drop_table("finding_notes")
    op.drop_table("accounts")
"""


def application(folder: Path, before: str = "pass") -> Config:
    """Return the configuration of the application's own migrations."""
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENV)
    (folder / "versions" / "app1.py").write_text(REVISION.format(before=before))
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    return config


def migrate_application(config: Config, url: str) -> None:
    with engine_of(url, create=True).connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def test_both_histories_live_beside_each_other(url: str, tmp_path: Path) -> None:
    migrate_application(application(tmp_path / "app"), url)
    with connection_to(url) as connection:
        assert migrations.require_current(connection) is False
    migrations.upgrade(url)
    assert migrations.check(url) == []
    migrations.downgrade(url, "base")
    assert tables_in(url) == {"alembic_version", "accounts", "finding_notes", "findings_orm_version"}
    with connection_to(url) as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "app1"
        assert connection.execute(text("SELECT count(*) FROM accounts")).scalar() == 1


def test_autogenerate_sees_nothing_of_the_application(url: str, tmp_path: Path) -> None:
    migrate_application(application(tmp_path / "app"), url)
    migrations.upgrade(url)
    config = new_config()
    config.stdout = io.StringIO()
    config.attributes["read_only"] = True
    with engine_of(url).connect() as connection:
        config.attributes["connection"] = connection
        command.check(config)
    assert "No new upgrade operations detected" in config.stdout.getvalue()


def test_a_revision_of_the_application_may_migrate_the_findings(url: str, tmp_path: Path) -> None:
    config = application(tmp_path / "app", "migrations.upgrade(op.get_bind())")
    migrate_application(config, url)
    assert migrations.status(url).current == HEAD
    assert migrations.check(url) == []
    assert {"accounts", "finding_notes"} <= tables_in(url)


def test_what_such_a_revision_did_is_undone_with_it(url: str, tmp_path: Path) -> None:
    config = application(tmp_path / "app", "migrations.upgrade(op.get_bind()); 1 / 0")
    with engine_of(url, create=True).connect() as connection:
        config.attributes["connection"] = connection
        with pytest.raises(ZeroDivisionError):
            command.upgrade(config, "head")
    assert migrations.status(url).current is None
    assert not {"findings", "findings_orm_version"} & tables_in(url)


def test_the_logging_of_the_application_is_left_alone(url: str, caplog: pytest.LogCaptureFixture) -> None:

    mine = logging.getLogger("application")
    level, handlers = logging.getLogger().level, list(logging.getLogger().handlers)
    migrations.upgrade(url)
    assert not mine.disabled
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)
    with caplog.at_level("INFO"):
        mine.info("still there")
    assert "still there" in caplog.text


# -- an application's own env.py, with tables that refer to findings --------------------------------------------------

HOST_ENV = """
from alembic import context
from sqlalchemy import ForeignKeyConstraint, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from findings_orm.orm import Base as Findings, Finding, include_name, include_object, render_item


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), index=True)


class Note(Base):
    __tablename__ = "notes"
    __table_args__ = (ForeignKeyConstraint(["project_id", "finding_id"], [Finding.project_id, Finding.id]),)
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(Finding.__table__.c.project_id.type)
    finding_id: Mapped[str] = mapped_column(Finding.__table__.c.id.type)


given = context.config.attributes
options = dict(
    target_metadata=[Base.metadata, Findings.metadata] if given["both"] else Base.metadata,
    include_name=include_name,
    include_object=include_object,
    render_item=render_item,
    compare_type=True,
    compare_server_default=True,
)
if context.is_offline_mode():
    context.configure(dialect_name="sqlite", **options)
    context.run_migrations()
else:
    context.configure(connection=given["connection"], **options)
    with context.begin_transaction():
        context.run_migrations()
"""


class Host:
    """A project with an Alembic chain of its own, whose revisions are generated from its models."""

    def __init__(self, folder: Path, url: str, *, both: bool) -> None:
        (folder / "versions").mkdir(parents=True)
        (folder / "env.py").write_text(HOST_ENV)
        template = Path(alembic.__file__).parent / "templates" / "generic" / "script.py.mako"
        (folder / "script.py.mako").write_text(template.read_text())
        self.config = Config(stdout=io.StringIO())
        self.config.set_main_option("script_location", str(folder))
        self.config.set_main_option("path_separator", "os")
        self.config.attributes["both"] = both
        self.url = url

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with engine_of(self.url, create=True).begin() as connection:
            self.config.attributes["connection"] = connection
            return function(self.config, *args, **options)

    def generate(self, name: str) -> str:
        """Generate a revision, and return what it does to go up."""
        made = self.run(command.revision, name, autogenerate=True)
        text = Path(made.path).read_text()
        return text[text.index("def upgrade") : text.index("def downgrade")]


@pytest.mark.parametrize("both", [False, True], ids=["own_metadata", "ours_as_well"])
def test_autogenerate_of_a_host_leaves_findings_alone(url: str, tmp_path: Path, both: bool) -> None:
    host = Host(tmp_path / "host", url, both=both)
    migrations.upgrade(url)
    first = host.generate("first")
    assert sorted(re.findall(r"op\.(\w+)\(", first)) == ["create_index", "create_table", "create_table", "f"]
    assert "create_table('notes'" in first
    host.run(command.upgrade, "head")
    host.run(command.check)
    ids = [revision.id for revision in revision_chain()]
    for moves, each in ((migrations.downgrade, reversed(ids[:-1])), (migrations.upgrade, ids[1:])):
        for revision in each:
            moves(url, revision)
            host.run(command.check)
    if url.startswith("sqlite"):
        text_index.create(url)
    host.run(command.check)
    second = host.generate("second")
    assert "op." not in second
    host.run(command.upgrade, "head")
    assert migrations.check(url) == []


def test_a_host_without_findings_is_offered_none(url: str, tmp_path: Path) -> None:
    migrations.upgrade(url)
    migrations.downgrade(url, "base")
    host = Host(tmp_path / "host", url, both=True)
    assert set(re.findall(r"create_table\('(\w+)'", host.generate("first"))) == {"accounts", "notes"}


def test_sql_of_a_host_says_why_findings_are_not_in_it(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", f"sqlite:///{tmp_path / 'db'}", both=False)
    (tmp_path / "host" / "versions" / "app1.py").write_text(
        REVISION.format(before='migrations.upgrade(op.get_bind(), "r0006")')
    )
    with pytest.raises(StorageError, match=r"writes SQL \(--sql\), .*: run this revision on the database"):
        command.upgrade(host.config, "head", sql=True)
    host.run(command.upgrade, "head")
    assert migrations.status(host.url).current == "r0006"
