"""`findings` as a process: pipes, terminals, Ctrl-C, exit codes, missing libraries."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

import pytest

from findings_orm import migrations, open_storage
from findings_orm.testing.samples import scanned

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

COMMAND = [sys.executable, "-m", "findings_orm.cli"]
PIPE = subprocess.PIPE
P = "acme-api"
ROOT = Path(__file__).parents[1]


PATIENCE = 600
"""Seconds that a process may take on a machine with much else to do: a test of what it does is no test of its speed."""


def environment(**extra: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FINDINGS_")
        and name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHONPATH")
    }
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **extra}


def findings(
    folder: Path, *args: str, code: int = 0, variables: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *args],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def filled(folder: Path, count: int) -> None:
    """Make the database of the folder with `count` findings."""
    with open_storage(f"sqlite:///{folder / 'findings.db'}") as store:
        store.ingest(P, (scanned(f"R{n}", n + 1) for n in range(count)))


def report(folder: Path, count: int, name: str = "scan.jsonl") -> str:
    path = folder / name
    with path.open("w", encoding="utf-8") as stream:
        for n in range(count):
            stream.write(json.dumps(scanned(f"R{n}", n + 1)) + "\n")
    return name


def on_terminal(
    folder: Path, *args: str, typed: str = "", interrupt_at: str = "", **extra: str
) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit code and what the terminal got.

    It is interrupted when it shows a text, and again while it is silent: a signal between the text of a question and the
    wait for an answer is noticed by the next one.
    """
    leader, follower = pty.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, *args],
            cwd=folder,
            env=environment(**{"COLUMNS": "80", **extra}),
            stdin=follower,
            stdout=follower,
            stderr=follower,
        )
    finally:
        os.close(follower)
    if typed:
        os.write(leader, typed.encode())
    seen = b""
    interrupted = False
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if not select.select([leader], [], [], 2)[0]:
            if interrupted:
                process.send_signal(signal.SIGINT)
            continue
        try:
            chunk = os.read(leader, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
        if interrupt_at and interrupt_at in seen.decode(errors="replace"):
            process.send_signal(signal.SIGINT)
            interrupt_at, interrupted = "", True
    os.close(leader)
    return process.wait(PATIENCE), seen.decode()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_being_written(database: Path) -> bool:
    if not database.exists():
        return False
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
    return False


def interrupted(
    folder: Path, *args: str, when: Callable[[], bool], by: signal.Signals = signal.SIGINT
) -> tuple[int, str, str]:
    # coverage's own lock is never released when the signal comes while it is held: it must not measure these.
    unmeasured = {k: v for k, v in environment().items() if not k.startswith("COVERAGE_PROCESS")}
    process = subprocess.Popen(
        [*COMMAND, "--quiet", *args],
        cwd=folder,
        env=unmeasured,
        stdin=subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        text=True,
    )
    wait_until(when, process)
    process.send_signal(by)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize(
    ("by", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_in_an_import_leaves_nothing(tmp_path: Path, by: signal.Signals, expected: int) -> None:
    filled(tmp_path, 1)
    name = report(tmp_path, 20_000)
    database = tmp_path / "findings.db"
    code, stdout, stderr = interrupted(
        tmp_path, "import", name, "-p", "new", when=lambda: is_being_written(database), by=by
    )
    assert (code, stdout, stderr) == (expected, "", "interrupted, nothing was written\n")
    with open_storage(f"sqlite:///{database}") as store:
        assert store.list_projects() == [P]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("command", ["backup", "migrate", "db upgrade"])
def test_sigterm_leaves_nothing_half_done(tmp_path: Path, command: str) -> None:
    filled(tmp_path, 8_000)
    database = tmp_path / "findings.db"
    target = tmp_path / {"backup": "b.zst", "migrate": "s.json", "db upgrade": "findings.db"}[command]
    arguments = command.split()
    if command == "db upgrade":
        findings(tmp_path, "db", "downgrade", "r0001")
    elif command == "backup":
        target.write_text("old")
        arguments.append(target.name)
    else:
        findings(tmp_path, "export", "--format", "json", "--output", target.name)
        arguments += [target.name, "--to", "1.0.0"]
    content, names = target.read_bytes(), set(os.listdir(tmp_path))

    def half_way() -> bool:
        if command == "db upgrade":
            return is_being_written(database)
        return any(name.endswith(".tmp") for name in os.listdir(tmp_path))

    code, stdout, stderr = interrupted(tmp_path, *arguments, when=half_way, by=signal.SIGTERM)
    assert (code, stdout, stderr) == (143, "", "interrupted, nothing was written\n")
    beside = {"findings.db-wal", "findings.db-shm"}
    assert set(os.listdir(tmp_path)) - beside == names - beside
    if command == "db upgrade":
        assert migrations.status(f"sqlite:///{database}").current == "r0001"
        findings(tmp_path, "db", "upgrade")
        findings(tmp_path, "db", "check")
    else:
        assert target.read_bytes() == content


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_in_a_finalizer_comes_again(by: signal.Signals) -> None:
    """Python drops what is raised there."""
    code = (
        "import os, time\n"
        "from findings_orm.cli.stopping import exit_code_of, repeat_dropped_signals, stop_on_signals\n"
        "class Dropped:\n"
        f"    def __del__(self): os.kill(os.getpid(), {int(by)})\n"
        "stop_on_signals()\n"
        "try:\n"
        "    with repeat_dropped_signals():\n"
        "        Dropped()\n"
        "        time.sleep(60)\n"
        "except KeyboardInterrupt as error:\n"
        "    raise SystemExit(exit_code_of(error, 130)) from None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + by, "", "")


def test_ctrl_c_says_which_files_were_imported_before(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    first = report(tmp_path, 10, "first.jsonl")
    second = report(tmp_path, 20_000, "second.jsonl")
    database = tmp_path / "findings.db"

    def second_began() -> bool:
        with closing(sqlite3.connect(database)) as connection:
            (runs,) = connection.execute(
                "SELECT count(*) FROM finding_runs WHERE project_id = 'new'"
            ).fetchone()
        return runs == 1 and is_being_written(database)

    code, stdout, stderr = interrupted(tmp_path, "import", first, second, "-p", "new", when=second_began)
    assert code == 130
    assert "created 10" in stdout
    assert stderr == "interrupted, nothing of second.jsonl was written; imported before that: first.jsonl\n"
    with open_storage(f"sqlite:///{database}") as store:
        assert store.summarize("new").total == 10


def test_ctrl_c_in_an_export_keeps_the_old_file(tmp_path: Path) -> None:
    filled(tmp_path, 30_000)
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    code, _, stderr = interrupted(
        tmp_path,
        "export",
        "-o",
        "out.jsonl",
        when=lambda: any(p.stat().st_size for p in tmp_path.glob(".out*.tmp")),
    )
    assert code == 130
    assert "interrupted" in stderr
    assert target.read_text() == "old"
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    "args",
    [
        ["list", "--all"],
        ["export", "--format", "sarif"],
    ],
    ids=" ".join,
)
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, args: list[str]) -> None:
    filled(tmp_path, 3_000)
    process = subprocess.Popen(
        [*COMMAND, *args],
        cwd=tmp_path,
        env=environment(),
        stdout=PIPE,
        stderr=PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == 0


def test_an_import_goes_on_when_nobody_reads_its_reports(tmp_path: Path) -> None:
    names = [report(tmp_path, 5, f"{n}.jsonl") for n in range(3)]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "import", *names, "-p", P],
        cwd=tmp_path,
        env=environment(),
        stdout=writing,
        stderr=writing,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert done.returncode == 0
    with open_storage(f"sqlite:///{tmp_path / 'findings.db'}") as store:
        assert len(store.runs(P)) == 3


def test_a_full_disk_is_said_and_fails(tmp_path: Path) -> None:
    filled(tmp_path, 10)
    for args in (["list"], ["export", "-o", "/dev/full"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*COMMAND, *args],
                cwd=tmp_path,
                env=environment(),
                stdout=full,
                stderr=PIPE,
                text=True,
                check=False,
                timeout=60,
            )
        assert done.returncode in (1, 3), args
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr


def test_closed_streams_are_no_error(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    line = " ".join([*COMMAND, "summary", ">&-", "2>&-", "<&-"])
    assert (
        subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env=environment(), check=False, timeout=60
        ).returncode
        == 0
    )


def test_a_pipe_gets_plain_text(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    for args in (["list"], ["--help"]):
        done = findings(tmp_path, *args, variables={"GITHUB_ACTIONS": "true"})
        assert "\x1b" not in done.stdout + done.stderr, args


def test_the_output_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    with open_storage(f"sqlite:///{tmp_path / 'findings.db'}") as store:
        store.ingest(P, [scanned("R1", title="Straße \U0001f600")])
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    items = json.loads(findings(tmp_path, "list", "--format", "json", variables=ascii_only).stdout)["items"]
    assert items[0]["title"] == "Straße \U0001f600"
    assert "Stra\\xdfe" in findings(tmp_path, "list", variables=ascii_only).stdout
    assert "###" in findings(tmp_path, "summary", variables=ascii_only).stdout


def test_a_terminal_gets_colours_that_fit(tmp_path: Path) -> None:
    long = "a title that is much longer than a terminal of eighty characters is wide, and then some"
    with open_storage(f"sqlite:///{tmp_path / 'findings.db'}") as store:
        store.ingest(P, [scanned("R1", title=long, severity="critical", resource="src/" + "x" * 100)])
        (one,) = [item["id"] for item in store.list_findings(P)]
    _, plain = on_terminal(tmp_path, "list", NO_COLOR="1")
    assert "41m" not in plain
    rows = [line for line in re.sub(r"\x1b\[\d*m", "", plain).splitlines() if line]
    assert len(rows) == 3
    assert max(map(len, rows)) <= 80, plain
    code, coloured = on_terminal(tmp_path, "list")
    assert code == 0
    assert "\x1b[1;37;41mcritical\x1b[0m" in coloured
    assert one in coloured
    assert "too narrow for: STATUS" in coloured


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_a_terminal_never_gets_control_characters_of_findings(tmp_path: Path, form: str) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\x9b2J\u202egnp.exe\rline"
    with open_storage(f"sqlite:///{tmp_path / 'findings.db'}") as store:
        store.ingest(P, [scanned("R1", title=hostile, evidence={"message": hostile})])
    code, seen = on_terminal(tmp_path, "list", "--format", form, NO_COLOR="1", COLUMNS="200")
    assert code == 0
    assert "gnp.exe" in seen
    for obeyed in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\u202e", "\rline"):
        assert obeyed not in seen, form
    if form == "json":
        assert json.loads(seen)["items"][0]["title"] == hostile


def test_an_import_on_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    code, seen = on_terminal(tmp_path, "import", report(tmp_path, 2_000), "-p", P)
    assert code == 0
    assert "2,000 of 2,000 findings" in seen
    assert "━" in seen
    assert "created 2,000" in seen


def test_questions_are_asked_on_a_terminal(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    code, seen = on_terminal(tmp_path, "delete-project", P, typed="n\n")
    assert code == 1
    assert "deletes acme-api with 2 findings" in seen
    assert "nothing was removed" in seen
    code, seen = on_terminal(tmp_path, "delete-project", P, interrupt_at="[y/N]")
    assert code == 130
    assert "interrupted, nothing was written" in seen
    code, seen = on_terminal(tmp_path, "delete-project", P, typed="y\n")
    assert code == 0
    assert "deleted acme-api" in seen


def test_progress_in_a_pipe_is_lines(tmp_path: Path) -> None:
    code = """
import sys
from findings_orm.cli import progress
progress.SECONDS_BETWEEN_LINES = 0.0
from findings_orm.cli.app import app
app(sys.argv[1:], prog_name="findings")
"""
    name = report(tmp_path, 3)
    done = subprocess.run(
        [sys.executable, "-c", code, "import", name, "-p", P],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = done.stderr.splitlines()
    assert any(line.startswith("scan.jsonl: checking, 0.0 of 0.0 MB") for line in lines)
    assert lines[-3:] == [f"scan.jsonl: {n} of 3 findings" for n in (1, 2, 3)]


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    for name in ("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        place = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
        (tmp_path / place.name).symlink_to(place)
    done = subprocess.run(
        [sys.executable, "-S", "-m", "findings_orm.cli", "list"],
        env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "error: the findings command needs typer and rich; run: pip install 'findings-orm[cli]'\n"
    )


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = """
import sys
from findings_orm.cli import main
try:
    main()
except SystemExit:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.split())
    assert "typer" in loaded
    assert loaded.isdisjoint({"sqlalchemy", "alembic"})


def test_the_exit_codes_of_a_process(tmp_path: Path) -> None:
    findings(tmp_path, "list", code=3)
    findings(tmp_path, "list", "--format", "xml", code=2)
    findings(tmp_path, "import", report(tmp_path, 2), "-p", P)
    (tmp_path / "bad.jsonl").write_text('{"detector_id": "x"}\n')
    assert "document 0" in findings(tmp_path, "import", "bad.jsonl", "-p", P, code=1).stderr
