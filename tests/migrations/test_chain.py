from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from findings_orm.migrations.scripts import alembic_ini, document_changes, revision_chain, script_directory

ROOT = Path(__file__).parents[2]


def test_the_chain_is_the_one_that_alembic_sees() -> None:
    scripts = list(script_directory().walk_revisions())[::-1]
    assert [revision.id for revision in revision_chain()] == [script.revision for script in scripts]
    assert len(script_directory().get_heads()) == 1
    version = revision_chain()[0].before
    assert version == "0.3.0"
    for revision, script in zip(revision_chain(), scripts, strict=True):
        before, version = version, getattr(script.module, "finding_schema_version", version)
        assert revision.schema_version == version
        assert revision.changes_documents == (before != version)
        assert hasattr(script.module, "upgrade_document") == revision.changes_documents
        if revision.changes_documents:
            assert document_changes(revision.id) == (
                script.module.upgrade_document,
                script.module.downgrade_document,
            )


def test_files_are_named_after_their_revision() -> None:
    for path in (ROOT / "alembic" / "versions").glob("*.py"):
        script = script_directory().get_revision(path.name.partition("_")[0])
        assert Path(script.path).name == path.name


@pytest.mark.no_cover
def test_opening_a_database_does_not_load_alembic(sqlite: str) -> None:
    code = (
        "import sys\n"
        "from findings_orm import migrations\n"
        "from findings_orm.migrations.connecting import engine_of\n"
        f"migrations.upgrade({sqlite!r}) if sys.argv[1:] else None\n"
        f"with engine_of({sqlite!r}).connect() as connection: print(migrations.require_current(connection))\n"
        "print(any(name.partition('.')[0] == 'alembic' for name in sys.modules))\n"
    )
    assert run(code, "make") == ["True", "True"]
    assert run(code) == ["True", "False"]


def run(*arguments: str) -> list[str]:
    command = [sys.executable, "-c", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_the_ini_lies_in_the_checkout() -> None:
    assert alembic_ini() == ROOT / "alembic.ini"


@pytest.mark.no_cover
def test_a_checkout_may_lie_anywhere(tmp_path: Path) -> None:
    place = tmp_path / "100% of it"
    place.mkdir()
    for name in ("findings_orm", "alembic", "alembic.ini"):
        (place / name).symlink_to(ROOT / name)
    code = (
        "import sys, pathlib; sys.path.insert(0, '.')\n"
        "from findings_orm.migrations import alembic_ini, upgrade, check\n"
        "upgrade('sqlite:///x.db')\n"
        "print(check('sqlite:///x.db'), alembic_ini() == pathlib.Path('alembic.ini').absolute())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["[]", "True"], done.stderr
