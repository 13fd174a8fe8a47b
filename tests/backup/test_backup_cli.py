"""The commands `findings backup`, `restore`, `verify`, as a user types them."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from servers import PostgresServer
from typer.testing import CliRunner

from findings_orm import open_storage
from findings_orm.cli.app import app
from findings_orm.testing.samples import finding

PROJECT = "acme-api"


@pytest.fixture
def url(new_url: Callable[[str], str]) -> str:
    made = new_url("sqlite")
    with open_storage(made) as store:
        store.save_findings(finding(number) for number in range(20))
    return made


def run(*arguments: object, code: int = 0, **environment: str) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments], env=environment)
    assert result.exit_code == code, result.output
    return result.output


def test_backup_verify_restore(url: str, target: pathlib.Path, new_url: Callable[[str], str]) -> None:
    said = run("--url", url, "backup", target)
    assert "1 projects, 0 runs, 20 findings" in said
    assert "verified" in said
    assert "is intact" in run("verify", target)
    other = new_url("file")
    assert "would be restored" in run("--url", other, "restore", target, "--dry-run")
    assert "1 projects restored" in run("--url", other, "restore", target)
    missing = target.with_name("missing.db")
    assert "would be restored" in run("--url", f"sqlite:///{missing}", "restore", target, "--dry-run")
    assert not missing.exists()
    assert "restore into an empty one" in run("--url", other, "restore", target, code=6)
    run("--url", other, "restore", target, "--replace", "--yes")
    with open_storage(other) as store:
        assert len(store.list_findings(PROJECT)) == 20


@pytest.mark.parametrize("command", ["restore", "copy"])
def test_an_empty_postgresql_gets_its_tables_on_request(
    url: str, target: pathlib.Path, postgresql_18: PostgresServer, command: str
) -> None:
    name = postgresql_18.create_database()
    try:
        there = postgresql_18.url(name)
        run("--url", url, "backup", target)
        arguments = ["copy", url, there] if command == "copy" else ["--url", there, "restore", target]
        refused = " ".join(run(*arguments, code=4).split())
        assert "has no tables of findings-orm yet: run 'findings db upgrade" in refused
        assert "or add --migrate" in refused
        if command == "restore":
            assert "would be restored" in run(*arguments, "--migrate", "--dry-run")
            run(*arguments, code=4)
        run(*arguments, "--migrate")
        with open_storage(there) as store:
            assert len(store.list_findings(PROJECT)) == 20
    finally:
        postgresql_18.drop_database(name)


def test_migrate_brings_an_older_database_up_to_date_and_means_nothing_to_files(
    url: str, target: pathlib.Path, new_url: Callable[[str], str]
) -> None:
    run("--url", url, "backup", target)
    older, folder = new_url("sqlite"), new_url("file")
    run("--url", older, "db", "downgrade", "r0004")
    assert "or add --migrate" in run("--url", older, "restore", target, code=4)
    run("--url", older, "restore", target, "--migrate", "--dry-run", code=4)
    for each in (older, folder):
        assert "1 projects restored" in run("--url", each, "restore", target, "--migrate")


def test_json(url: str, target: pathlib.Path) -> None:
    made = json.loads(run("--url", url, "backup", target, "--format", "json", "-q"))
    assert made["records"]["findings"] == 20
    assert json.loads(run("verify", target, "--format", "json", "-q"))["manifest"]["id"] == made["id"]


def test_encrypted(url: str, tmp_path: pathlib.Path) -> None:
    secret, public, path = tmp_path / "secret.txt", tmp_path / "public.txt", tmp_path / "backup.age"
    public.write_text(run("backup", "key", secret))
    assert secret.stat().st_mode & 0o077 == 0
    assert "exists" in run("backup", "key", secret, code=2)
    run("--url", url, "backup", path, "--key", public)
    assert "takes a secret key" in run("verify", path, code=1)
    assert "takes a secret key" in run("verify", path, "--key", public, code=1)
    run("verify", path, "--key", secret)
    run("verify", path, FINDINGS_BACKUP_KEY=secret.read_text())
    assert "line 1: must be an age key" in run("verify", path, code=1, FINDINGS_BACKUP_KEY="hunter2")
    assert "hunter2" not in run("verify", path, code=1, FINDINGS_BACKUP_KEY="hunter2")


def test_damaged(url: str, target: pathlib.Path, new_url: Callable[[str], str]) -> None:
    run("--url", url, "backup", target)
    assert "0 rejected saved" in run("verify", target, "--salvage", target.with_name("saved"))
    target.write_bytes(target.read_bytes()[:-3])
    assert "error:" in run("verify", target, code=1)
    assert "error:" in run("--url", new_url("sqlite"), "restore", target, code=1)
    assert "can't be read" in run("verify", target.with_name("none"), code=3)


def test_without_its_libraries(url: str, target: pathlib.Path) -> None:
    code = (
        "import sys; sys.modules['backports'] = sys.modules['compression'] = None\n"
        "from findings_orm.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--url", url, "backup", target],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: backups need zstd: pip install 'findings-orm[backup]'\n"


def test_salvage(url: str, target: pathlib.Path) -> None:
    saved = target.with_name("saved.jsonl.zst")
    run("--url", url, "backup", target)
    content = target.read_bytes()
    target.write_bytes(content[:40] + b"\0" + content[41:])
    assert "nothing of it is intact" in run("verify", target, "--salvage", saved, code=1)
    target.write_bytes(content[:-100])
    assert "20 findings, 0 events, 0 rejected saved" in run("verify", target, "--salvage", saved, code=1)
    assert "is intact: 1 projects" in run("verify", saved)


def test_prune(url: str, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    for name in ("a", "b", "c"):
        run("--url", url, "backup", folder / name)
    run("--url", url, "backup", folder)
    assert "say what to keep" in run("backup", "prune", folder, code=2)
    said = run("backup", "prune", folder, "--keep-last", "2", "--dry-run")
    assert said.splitlines()[1:] == ["keep    c (last)", "remove  b", "remove  a"]
    assert "not done without --yes" in run("backup", "prune", folder, "--keep-last", "2", code=2)
    assert "removed 2 backups" in run("backup", "prune", folder, "--keep-last", "2", "--yes")
    newest, other = sorted(path.name for path in folder.iterdir())[::-1]
    assert newest.startswith("findings-20")
    assert newest.endswith("Z.jsonl.zst")
    assert other == "c"


def test_the_example_of_the_guide_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (pathlib.Path(__file__).parents[2] / "docs" / "backup.md").read_text()
    monkeypatch.chdir(tmp_path)
    with open_storage("sqlite:///findings.db") as store:
        store.save_finding(finding(1))
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    exec(code, {})  # noqa: S102  # that of the guide
    with open_storage("sqlite:///restored.db") as store:
        assert len(store.list_findings(PROJECT)) == 1


def test_every_command_of_the_guide_exists() -> None:
    guide = (pathlib.Path(__file__).parents[2] / "docs" / "backup.md").read_text()
    for line in re.findall(r"`(findings (?:backup|restore|verify|copy)[^`]*)`", guide):
        _, command, *words = line.split()
        if command == "backup" and words and words[0] in ("prune", "key"):
            command, options = f"backup {words[0]}", words[1:]
        else:
            command, options = {"backup": "backup create"}.get(command, command), words
        said = run(*command.split(), "--help")
        for option in options:
            assert not option.startswith("--") or option in said, f"{line}: no {option}"
