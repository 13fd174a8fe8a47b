"""The guide to new fields, one of each kind, followed to the letter in a copy of the package."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from findings_orm.migrations.scripts import revision_chain

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migrations.md").read_text(encoding="utf-8")
GUIDE = PAGE.partition("## Adding a field")[2]

PROOF = """
import json, sys
from hypothesis import given, settings, strategies as st

from findings_orm import SchemaMigrator, StorageValidationError, migrations, open_storage, validate_finding
from findings_orm.finding import KNOWN_VERSIONS, SCHEMA_VERSION
from findings_orm.query import FindingQuery
from findings_orm.testing.samples import finding
from findings_orm.testing.strategies import assert_same, documents, legacy_documents

assert SCHEMA_VERSION == "2.1.0" == migrations.SchemaMigrator().versions()[-1]
migrate = SchemaMigrator().migrate
every = {
    "owner": "ann", "ticket": "0198c0de-0000-7000-8000-00000000000a", "due_at": "2026-01-31T12:00:00.500000Z", "effort": 90,
    "impact": 7.0, "retries": 3, "reviewers": ["bob", "eve"], "settings": {"a": [1.0, None]},
}
partly = {"due_at": "2026-01-31T12:00:00Z", "effort": 90.5, "settings": {"findings_orm": 1}}
corner = {"version": "2.1.0", "fields": {"owner": "x"}}
found = [
    validate_finding(finding(n, project_id="p", **change))
    for n, change in enumerate(
        [
            {"owner": "ann"}, {}, every, partly,
            *({name: value} for name, value in every.items()),
            {"owner": "bob", "tags": ["a"], "cwe_ids": [1, 2], "provenance": {"tool": 1.0}},
            {"provenance": {"findings_orm": corner}}, {"owner": "x", "provenance": {"a": 1, "findings_orm": "mine"}},
        ],
        1,
    )
]
for url in sys.argv[1:]:
    migrations.upgrade(url)
    assert migrations.check(url) == [], migrations.check(url)
    with open_storage(url) as store:
        store.save_findings(found)
        assert repr(store.list_findings("p")) == repr(found)
        for project, count in (("rows", 49), ("copy", 50)):  # PostgreSQL takes 50 at once by COPY
            many = [validate_finding(finding(n, project_id=project, **every)) for n in range(1, count + 1)]
            store.save_findings(many)
            assert repr(store.list_findings(project)) == repr(many)
            assert [json.loads(each) for each in store.iter_findings_json(project)] == many
            query = FindingQuery(project_id=project, limit=count)
            assert list(store.find(query).items) == many and store.count(query) == count
            store.delete_project(project)
    for revision in ("r0004", "r0003", "r0001"):
        migrations.downgrade(url, revision)
        plan = migrations.plan(url)
        assert plan.steps[-1].rows == len(found) and plan.steps[-1].locks in (["findings"], ["database"])
        assert "only an online run of revision r0042" in migrations.script(url)
        migrations.upgrade(url)
        assert migrations.check(url) == []
        with open_storage(url) as store:
            assert repr(store.list_findings("p")) == repr(found), revision
for version in KNOWN_VERSIONS[1:-1]:
    for name, value in every.items():
        try:
            migrate(version, SCHEMA_VERSION, {**migrate(SCHEMA_VERSION, version, found[1]), name: value})
            raise SystemExit(f"{version} takes the new field {name}")
        except StorageValidationError as error:
            assert error.field == name

def of(version):
    return legacy_documents() if version == "0.3.0" else documents(version)

@settings(max_examples=30, deadline=None, database=None)
@given(st.data())
def there_and_back(data):
    one, other = data.draw(st.permutations(KNOWN_VERSIONS))[:2]
    document = data.draw(of(one))
    if one != "0.3.0":
        document["finding_schema_version"] = one
    assert migrate(other, one, migrate(one, other, document)) == document

there_and_back()
with open_storage("memory:") as store:
    store.save_findings(found)
    assert store.list_findings("p") == found
print("proven")
"""


def edits() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the changes of the guide: for each file the pairs of old and new lines."""
    changes = []
    for block in re.findall(r"^ *```diff\n(.*?)^ *```", GUIDE, flags=re.MULTILINE | re.DOTALL):
        file, *lines = [line.removeprefix("    ") for line in block.splitlines()]
        pairs: list[tuple[list[str], list[str]]] = []
        for line in lines:
            if line.startswith("-") and (not pairs or pairs[-1][1]):
                pairs.append(([], []))
            pairs[-1][line.startswith("+")].append(line[1:])
        changes.append((file, [("\n".join(old), "\n".join(new)) for old, new in pairs]))
    return changes


def apply(root: Path, file: str, pairs: list[tuple[str, str]]) -> None:
    path = root / file
    text = path.read_text(encoding="utf-8")
    for old, new in pairs:
        assert text.count(old) == 1, (
            f"docs/migrations.md changes what is {text.count(old)} times in {file}: {old}"
        )
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def run(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root), "FINDINGS_DATABASE_URL": "sqlite://"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("findings_orm", "alembic"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("alembic.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_the_guide_leads_to_a_new_field(copy: Path, sqlite: str, postgresql: str) -> None:
    command = re.search(r"^ *alembic (revision .*)$", GUIDE, flags=re.MULTILINE)
    assert command
    for file, pairs in edits():
        if not (copy / file).exists():
            run(copy, "-m", "alembic", *shlex.split(command[1]))
        apply(copy, file, pairs)
    run(copy, "-m", "ruff", "check", "--quiet", "--fix", "alembic")
    run(copy, "-m", "ruff", "format", "--quiet", "alembic")
    assert run(copy, "-c", PROOF, sqlite, postgresql) == "proven\n"


def test_the_page_has_a_line_for_each_revision() -> None:
    listed = re.findall(r"^\| `(r\d+)` \| ([\d.]+) \|", PAGE, flags=re.MULTILINE)
    assert listed == [(revision.id, revision.schema_version) for revision in revision_chain()]
