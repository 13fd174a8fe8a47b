"""An application with tables, an Alembic history and an ``alembic_version`` of its own, in the same database."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from rows import connection_to, tables_in
from sqlalchemy import text

from findings_orm import migrations
from findings_orm.migrations.connecting import engine_of
from findings_orm.migrations.scripts import new_config, revision_chain

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
