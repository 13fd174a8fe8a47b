"""`findings doctor` and `findings metrics`."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner, Result

from findings_orm import FindingStore, migrations, open_storage
from findings_orm.cli.app import app
from findings_orm.cli.failures import ExitCode
from findings_orm.finding import FindingInput

REPORT: list[FindingInput] = [
    {"detector_id": "scan.a", "title": f"title {n}", "severity": "high"} for n in range(3)
]


@pytest.fixture
def url(open_sqlite: Callable[[], FindingStore], tmp_path: Path) -> str:
    with open_sqlite() as store:
        store.ingest("acme-api", REPORT)
    return f"sqlite:///{tmp_path / 'findings.db'}"


def findings(*args: str, code: int = 0) -> Result:
    result = CliRunner(env={"FINDINGS_DATABASE_URL": None}).invoke(app, list(args))
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def run(url: str, statement: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as driver:
        driver.execute(statement)


# -- doctor -------------------------------------------------------------------------------------------------------------


def test_a_storage_that_is_well(url: str) -> None:
    assert findings("doctor", "--url", url).stdout == "all is well\n"
    assert json.loads(findings("doctor", "--url", url, "--format", "json").stdout) == []


def test_problems_say_what_to_do_and_decide_the_exit_code(url: str) -> None:
    run(url, "CREATE INDEX by_somebody ON findings (title)")
    note = findings("doctor", "--url", url).stdout.splitlines()
    assert note == [
        "note    index-unknown: index by_somebody of table findings is none of this release",
        "         -> Every import pays for it. Unless it serves queries of your own: DROP INDEX by_somebody",
        "1 note",
    ]
    findings("doctor", "--url", url, "--fail-on", "note", code=ExitCode.FAILED)

    run(url, "DROP INDEX ix_findings_severity")
    warned = findings("doctor", "--url", url, code=ExitCode.FAILED).stdout.splitlines()
    assert warned[0].startswith("warning index-missing: index ix_findings_severity of table")
    assert warned[1] == (
        "         -> CREATE INDEX ix_findings_severity ON findings (project_id, severity, status, id)"
    )
    assert warned[-1] == "1 warning, 1 note"
    findings("doctor", "--url", url, "--fail-on", "error")

    run(url, "DELETE FROM finding_identities")
    found = json.loads(findings("doctor", "--url", url, "--format", "json", code=ExitCode.FAILED).stdout)
    assert [one["check"] for one in found] == ["orphans", "index-missing", "index-unknown"]
    assert set(found[0]) == {"level", "check", "message", "advice"}


def test_a_storage_that_can_not_be_opened_is_a_problem(url: str) -> None:
    migrations.downgrade(url, "r0001")
    found = json.loads(findings("doctor", "--url", url, "--format", "json", code=ExitCode.VERSION).stdout)
    assert [(one["level"], one["check"]) for one in found] == [("error", "schema-version")]
    assert "findings db upgrade" in found[0]["advice"]
    Path(url.removeprefix("sqlite:///")).write_bytes(b"no database, but long enough to be taken for one" * 99)
    found = json.loads(findings("doctor", "--url", url, "--format", "json", code=ExitCode.FAILED).stdout)
    assert [(one["level"], one["check"]) for one in found] == [("error", "damage")]


def test_an_unknown_level_is_refused(url: str) -> None:
    assert "--fail-on" in findings("doctor", "--url", url, "--fail-on", "never", code=ExitCode.USAGE).output


# -- metrics ------------------------------------------------------------------------------------------------------------


def names(text: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_can_be_written_once(url: str) -> None:
    found = names(findings("metrics", "--once", "--url", url).stdout)
    assert found["findings_orm_findings"] == 3
    assert found["findings_orm_up"] == 1


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_metrics_are_served_until_a_signal(url: str, by: signal.Signals) -> None:
    command = [
        sys.executable,
        "-m",
        "findings_orm.cli",
        "--url",
        url,
        "metrics",
        "--port",
        "0",
        "--every",
        "0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        match = re.fullmatch(
            r"serving (http://127\.0\.0\.1:\d+/metrics); Ctrl-C ends it\n", process.stderr.readline()
        )
        assert match is not None
        with urllib.request.urlopen(match[1]) as answer:  # noqa: S310  # the address that it named
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert names(answer.read().decode())["findings_orm_findings"] == 3
        with open_storage(url) as store:
            store.delete_project("acme-api")
        with urllib.request.urlopen(match[1]) as answer:  # noqa: S310  # as above
            assert names(answer.read().decode())["findings_orm_projects"] == 0
        taken = match[1].rpartition(":")[2].partition("/")[0]
        refused = findings("--url", url, "metrics", "--port", taken, code=ExitCode.FAILED)
        assert f"can't listen on 127.0.0.1:{taken}" in refused.output
        process.send_signal(by)
        assert process.wait(30) == 0
        assert process.stderr.read() == "ended\n"
        with socket.create_server(("127.0.0.1", int(taken))):
            pass
