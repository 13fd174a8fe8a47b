"""The shape of the house, where no linter looks. Import directions are import-linter's (scripts/check)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import findings_orm

ROOT = Path(__file__).parents[1]
REVISIONS = sorted((ROOT / "alembic" / "versions").glob("*.py"))
LOADED_ON_FIRST_USE = {
    "alembic", "filelock", "hypothesis", "opentelemetry", "prometheus_client", "psycopg", "pytest", "redis", "rich",
    "sqlalchemy", "sqlite3", "typer",
}  # fmt: skip


def test_importing_the_package_loads_no_driver_and_no_optional_library() -> None:
    code = "import sys, findings_orm; print(*{name.partition('.')[0] for name in sys.modules})"
    # Measuring coverage would load sqlite3 of its own accord.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "pydantic" in loaded.split()
    assert LOADED_ON_FIRST_USE.isdisjoint(loaded.split())


def test_every_public_name_can_be_had() -> None:
    assert sorted(findings_orm.__all__, key=str.casefold) == sorted(
        set(findings_orm.__all__), key=str.casefold
    )
    for name in findings_orm.__all__:
        assert getattr(findings_orm, name) is not None


def test_the_folder_of_the_migrations_does_not_shadow_alembic() -> None:
    assert not list((ROOT / "alembic").rglob("__init__.py"))


def test_revisions_are_frozen() -> None:
    """A revision must not change when the package does. What the revisions share says that it goes on doing what it does."""
    migrations = "findings_orm.migrations"
    allowed = {
        "corners.py": set(),
        "rewriting.py": {f"{migrations}.corners"},
        **{path.name: {f"{migrations}.{name}" for name in ("corners", "rewriting")} for path in REVISIONS},
    }
    allowed["r0001_schema_1_0_0.py"].add(f"{migrations}.scripts")  # for the functions of the other revisions
    assert REVISIONS
    for path in (*REVISIONS, *(ROOT / "findings_orm" / "migrations" / name for name in list(allowed)[:2])):
        ours = {name for name in imports_of(path) if name.partition(".")[0] == "findings_orm"}
        assert ours <= allowed[path.name], f"{path.name} must not change when the package does"
    for path in REVISIONS:
        assert path.name.startswith("r"), f"{path.name}: a module's name starts with a letter"


def test_schemas_are_made_by_revisions_only() -> None:
    for path in (ROOT / "findings_orm").rglob("*.py"):
        assert "create_all(" not in path.read_text(encoding="utf-8"), path


def test_nothing_prints_or_logs_to_the_root_logger() -> None:
    for path in (ROOT / "findings_orm").rglob("*.py"):
        if "cli" not in path.parts:
            assert "logging.basicConfig" not in path.read_text(encoding="utf-8"), path


def imports_of(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return found
