"""What the README shows is run: its Python, its commands, and its links."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCAN = {
    "version": "2.1.0",
    "runs": [
        {
            "tool": {
                "driver": {"name": "Bandit", "rules": [{"id": "B608", "name": "hardcoded_sql_expressions"}]}
            },
            "results": [
                {
                    "ruleId": "B608",
                    "level": "error",
                    "message": {"text": "SQL made of text"},
                    "locations": [
                        {
                            "physicalLocation": {
                                "artifactLocation": {"uri": "src/db.py"},
                                "region": {"startLine": 42},
                            }
                        }
                    ],
                }
            ],
        }
    ],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bandit.sarif").write_text(json.dumps(SCAN), encoding="utf-8")
    return tmp_path


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("FINDINGS_DATABASE_URL", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_python_runs(folder: Path) -> None:
    (code,) = blocks("python")
    printed = run(folder, sys.executable, "-c", code).splitlines()
    assert "created=1" in printed[0]
    assert printed[1] == "0"
    assert printed[-1] == "high src/db.py hardcoded_sql_expressions"


def test_the_python_is_short() -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_the_commands_run(folder: Path) -> None:
    commands = [block for block in blocks("bash") if "scripts/" not in block]
    printed = run(folder, "bash", "-euo", "pipefail", "-c", "\n".join(commands))
    assert "acme-api" in printed
    assert (folder / "acme-api.sarif").exists()


def test_the_scripts_exist() -> None:
    scripts = re.findall(r"\bscripts/\w+", README)
    assert {"scripts/quickstart", "scripts/test"} <= set(scripts)
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK), script


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
