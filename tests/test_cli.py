"""The commands of `findings`, each over a real SQLite file."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import COMMANDS, GROUPS_AND_COMMANDS
from typer.testing import CliRunner, Result

from findings_orm import SCHEMA_VERSION, FindingStore, open_storage
from findings_orm.cli.app import app
from findings_orm.cli.failures import ExitCode
from findings_orm.formats import EXPORT_FORMATS, FORMATS
from findings_orm.testing.samples import assert_equal_values, finding, run_id_of, scanned

P = "acme-api"
DEFAULT = ("backup", "create")
"""The command that `findings backup FILE` runs without being named."""


class Findings:
    """`findings` in a folder of its own, with the default database."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder
        self.template = template
        self.database = folder / "findings.db"
        self.runner = CliRunner(env={"FINDINGS_DATABASE_URL": None, "COLUMNS": None})

    def __call__(self, *args: str, stdin: str | bytes | None = None, code: int = 0) -> Result:
        """Run a command and return its result, which must have the exit code `code`."""
        result = self.runner.invoke(app, list(args), input=stdin)
        assert result.exit_code == code, (args, result.exit_code, result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    def json(self, *args: str, stdin: str | None = None) -> Any:
        """Run a command and return what it writes as JSON."""
        return json.loads(self(*args, stdin=stdin).stdout)

    def report(self, *documents: dict[str, Any], name: str = "scan.jsonl") -> str:
        """Write a report and return its name."""
        path = self.folder / name
        path.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
        return str(path)

    def imported(self, *documents: dict[str, Any], project: str = P) -> None:
        """Import documents into a project; a new database is a copy, which is cheaper than making one."""
        if not self.database.exists():
            shutil.copy(self.template, self.database)
        self("import", self.report(*documents), "--project", project)

    def store(self) -> FindingStore:
        """Open the store itself."""
        return open_storage(f"sqlite:///{self.database}")

    def ids(self, *args: str) -> list[str]:
        """Return the ids that a list has."""
        return [item["id"] for item in self.json("list", "--format", "json", *args)["items"]]

    def titles(self, *args: str) -> list[str]:
        """Return the titles that a list has, sorted."""
        return sorted(item["title"] for item in self.json("list", "--format", "json", *args)["items"])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database."""
    path = tmp_path_factory.mktemp("template") / "findings.db"
    open_storage(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def findings(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Findings:
    monkeypatch.chdir(tmp_path)
    return Findings(tmp_path, template)


def sarif(*results: dict[str, Any], tool: str = "Demo", successful: bool | None = None) -> str:
    run: dict[str, Any] = {"tool": {"driver": {"name": tool, "version": "1.0"}}, "results": list(results)}
    if successful is not None:
        run["invocations"] = [{"executionSuccessful": successful}]
    return json.dumps({"version": "2.1.0", "runs": [run]})


def result(rule: str, line: int = 1, level: str = "error") -> dict[str, Any]:
    region = {"physicalLocation": {"artifactLocation": {"uri": "src/a.py"}, "region": {"startLine": line}}}
    return {"ruleId": rule, "level": level, "message": {"text": f"{rule} was broken"}, "locations": [region]}


# -- import ---------------------------------------------------------------------------------------------------


def test_importing_makes_the_database_and_again_changes_nothing(findings: Findings) -> None:
    report = findings.report(*(scanned(f"R{n}") for n in range(5)))
    first = findings("import", report, "--project", P).stdout
    assert "created 5  updated 0  unchanged 0" in first
    assert findings.database.exists()
    second = findings("import", report, "--project", P).stdout
    assert "created 0  updated 0  unchanged 5  reopened 0  resolved 0" in second


def test_every_format_is_told_by_its_content(findings: Findings) -> None:
    (findings.folder / "a").write_text(sarif(result("R1"), result("R2")))
    nuclei = {
        "template-id": "t",
        "info": {"name": "T", "severity": "high"},
        "host": "h",
        "matched-at": "https://h/",
    }
    (findings.folder / "b").write_text(json.dumps(nuclei))
    files = findings.json("import", "a", "b", findings.report(scanned()), "-p", P, "--report", "json")[
        "files"
    ]
    assert [(file["created"], file["imported"]) for file in files] == [(2, True), (1, True), (1, True)]
    found = {item["detector_id"] for item in findings.json("list", "--format", "json")["items"]}
    assert found == {"demo", "scan.nuclei", "scan.demo"}


def test_a_list_has_every_format_of_an_export(findings: Findings) -> None:
    findings.imported(scanned("R1"))
    for name in EXPORT_FORMATS:
        assert "R1" in findings("list", "--format", name).stdout
    refused = findings("list", "--format", "nuclei", code=2).stderr
    assert f"--format: must be one of table, {', '.join(EXPORT_FORMATS)} (got 'nuclei')" in refused


def test_a_wrong_format_is_refused(findings: Findings) -> None:
    (findings.folder / "a").write_text(sarif(result("R1")))
    assert "nuclei" in findings("import", "a", "-p", P, "--format", "nuclei", code=1).stderr
    refused = findings("import", "a", "-p", P, "--format", "xml", code=2).stderr
    assert f"--format: must be one of {', '.join(FORMATS)} (got 'xml')" in refused


def test_standard_input_is_a_report(findings: Findings) -> None:
    done = findings("import", "-", "--project", P, stdin=sarif(result("R1")))
    assert "standard input (sarif) into acme-api" in done.stdout
    assert "created 1" in done.stdout
    assert "only be read once" in findings("import", "-", "-", "-p", P, code=2).stderr


def test_a_dry_run_writes_nothing_and_makes_no_database(findings: Findings) -> None:
    report = findings.report(scanned("R1"), scanned("R2"))
    done = findings("import", report, "--project", P, "--dry-run").stdout
    assert "created 2" in done
    assert "nothing was written" in done
    assert not findings.database.exists()
    findings("import", report, "--project", P)
    more = findings.report(scanned("R3"), name="more.jsonl")
    assert "created 1" in findings("import", more, "--project", P, "--dry-run").stdout
    assert len(findings.ids()) == 2


def test_close_missing_resolves_what_the_detector_no_longer_reports(findings: Findings) -> None:
    findings.imported(scanned("R1"), scanned("R2"), scanned("R1", detector_id="scan.other"))
    done = findings("import", findings.report(scanned("R1")), "-p", P, "--close-missing").stdout
    assert "unchanged 1  reopened 0  resolved 1" in done
    assert findings.titles("--status", "resolved") == ["Rule R2 was broken"]


def test_an_empty_report_closes_for_its_detector(findings: Findings) -> None:
    (findings.folder / "a").write_text(sarif(result("R1")))
    (findings.folder / "b").write_text(sarif())
    findings("import", "a", "-p", P)
    assert "resolved 1" in findings("import", "b", "-p", P, "--close-missing").stdout


def test_close_missing_refuses_a_second_report_of_one_detector(findings: Findings) -> None:
    first = findings.report(scanned("R1"), name="first.jsonl")
    second = findings.report(scanned("R2"), name="second.jsonl")
    refused = findings("import", first, second, "-p", P, "--close-missing", code=1).stderr
    assert "reports for scan.demo, as" in refused
    assert "1 of 2 files refused" in refused
    assert findings.titles("--status", "open") == ["Rule R1 was broken"]
    findings("import", second, "-p", P)


def test_a_report_closes_within_its_category(findings: Findings) -> None:
    for name in ("api", "web"):
        report = findings.report(scanned(name), name=f"{name}.jsonl")
        findings("import", report, "-p", P, "--category", name, "--close-missing")
    report = findings.report(scanned("new"))
    assert "resolved 1" in findings("import", report, "-p", P, "--category", "web", "--close-missing").stdout
    assert findings.titles("--status", "resolved") == ["Rule web was broken"]
    for name in ("a", "b"):
        log = json.loads(sarif(result(name)))
        log["runs"][0]["automationDetails"] = {"id": f"{name}/1"}
        (findings.folder / name).write_text(json.dumps(log))
    findings("import", "a", "b", "-p", P, "--close-missing")
    refused = findings("import", "a", "b", "-p", P, "--category", "x", "--close-missing", code=1).stderr
    assert "1 of 2 files refused" in refused


def test_close_missing_refuses_an_empty_report_of_nobody(findings: Findings) -> None:
    findings("import", findings.report(scanned("R1")), "-p", P)
    (findings.folder / "empty").write_text("[]")
    refused = findings("import", "empty", "-p", P, "--close-missing", code=1).stderr
    assert "does not say of which detector" in refused
    assert len(findings.ids("--status", "open")) == 1


def test_close_missing_refuses_a_scan_that_failed(findings: Findings) -> None:
    (findings.folder / "a").write_text(sarif(result("R1")))
    (findings.folder / "b").write_text(sarif(successful=False))
    findings("import", "a", "-p", P)
    assert "run failed" in findings("import", "b", "-p", P, "--close-missing", code=1).stderr
    assert len(findings.ids("--status", "open")) == 1
    findings("import", "b", "-p", P)


def test_a_retry_with_the_run_id_has_no_effect(findings: Findings) -> None:
    report = findings.report(scanned("R1"))
    findings("import", report, "-p", P, "--run-id", run_id_of(1))
    again = findings("import", report, "-p", P, "--run-id", run_id_of(1)).stdout
    assert "imported before: nothing was done again" in again
    assert "created 1" in again
    assert [run["id"] for run in findings.json("runs", "--format", "json")] == [run_id_of(1)]


@pytest.mark.parametrize(
    "given", ["7", "not-a-uuid", run_id_of(1).replace("-", ""), "{" + run_id_of(1) + "}"]
)
def test_a_run_id_that_is_no_uuid_is_wrong_usage(findings: Findings, given: str) -> None:
    report = findings.report(scanned("R1"))
    assert "--run-id: must be a UUID" in findings("import", report, "-p", P, "--run-id", given, code=2).stderr


def test_a_run_id_names_one_file(findings: Findings) -> None:
    report = findings.report(scanned("R1"))
    refused = findings("import", report, report, "-p", P, "--run-id", run_id_of(1), code=2).stderr
    assert "each file is a run of its own" in refused


def test_a_refused_finding_refuses_its_file_and_says_what_to_do(findings: Findings) -> None:
    report = findings.report(scanned("R1"), scanned("R2", severity="awful"))
    refused = findings("import", report, "--project", P, code=1).stderr
    assert "scan.jsonl: document 1: severity: " in refused
    assert "'awful'" in refused
    assert "Nothing of this file was imported." in refused
    assert "--quarantine" in refused
    assert findings.json("projects", "--format", "json") == []


def test_other_files_are_imported_when_one_is_refused(findings: Findings) -> None:
    good = findings.report(scanned("R1"), name="good.jsonl")
    bad = findings.report(scanned("R2", severity="awful"), name="bad.jsonl")
    last = findings.report(scanned("R3"), name="last.jsonl")
    refused = findings("import", good, bad, last, "-p", P, code=1)
    assert "1 of 3 files refused" in refused.stderr
    assert findings.titles() == ["Rule R1 was broken", "Rule R3 was broken"]
    files = json.loads(findings("import", good, bad, "-p", P, "--report", "json", code=1).stdout)["files"]
    assert [(Path(file["file"]).name, file["imported"]) for file in files] == [
        ("good.jsonl", True),
        ("bad.jsonl", False),
    ]
    assert "severity" in files[1]["error"]
    assert files[1]["exit_code"] == 1


def test_a_broken_file_is_refused_with_the_place_of_the_fault(findings: Findings) -> None:
    (findings.folder / "a.sarif").write_text(sarif(result("R1"))[:-5])
    refused = findings("import", "a.sarif", "-p", P, code=1).stderr
    assert "a.sarif" in refused
    assert "line 1" in refused


def test_missing_files_are_seen_before_anything_is_imported(findings: Findings) -> None:
    good = findings.report(scanned("R1"))
    assert "nope.sarif: no such file" in findings("import", good, "nope.sarif", "-p", P, code=2).stderr
    assert "is a folder" in findings("import", good, str(findings.folder), "-p", P, code=2).stderr
    assert not findings.database.exists()


def test_a_project_name_that_breaks_a_rule_is_refused(findings: Findings) -> None:
    report = findings.report(scanned("R1"))
    assert "project_id" in findings("import", report, "-p", "a\nb", code=1).stderr


def test_an_id_that_is_taken_is_a_conflict(findings: Findings) -> None:
    findings.imported(scanned("R1", id=run_id_of(7)))
    conflict = findings("import", findings.report(scanned("R2", id=run_id_of(7))), "-p", P, code=6).stderr
    assert run_id_of(7) in conflict


# -- quarantine -----------------------------------------------------------------------------------------------


def test_quarantine_keeps_what_is_refused_to_be_corrected_and_retried(findings: Findings) -> None:
    report = findings.report(scanned("R1"), scanned("R2", severity="awful"), scanned("R3", cwe_ids="x"))
    done = findings("import", report, "-p", P, "--quarantine").stdout
    assert "created 1" in done
    assert "rejected 2" in done
    assert "rejected #1 severity: " in done
    kept = findings.json("rejected", "list", "--format", "json")
    assert [one["index"] for one in kept] == [1, 2]
    table = findings("rejected", "list").stdout
    assert kept[0]["rejected_id"] in table
    assert "awful" in table

    assert "rejected 2" in findings("rejected", "retry", code=1).stdout
    kept[0]["original"]["severity"] = "high"
    (findings.folder / "fixed.json").write_text(json.dumps(kept[:1]))
    assert "created 1" in findings("rejected", "retry", "--fixed", "fixed.json").stdout
    assert findings.titles() == ["Rule R1 was broken", "Rule R2 was broken"]

    rest = findings.json("rejected", "list", "--format", "json")
    assert [one["field"] for one in rest] == ["cwe_ids"]
    fixed = {rest[0]["rejected_id"]: {**rest[0]["original"], "cwe_ids": [79]}}
    (findings.folder / "fixed.json").write_text(json.dumps(fixed), "utf-16")  # as PowerShell writes it
    findings("rejected", "retry", "--fixed", "fixed.json")
    assert findings.json("rejected", "list", "--format", "json") == []
    assert "nothing is kept" in findings("rejected", "list").stderr


def test_what_json_lacks_is_listed_with_tags_and_retried_without_them(findings: Findings) -> None:
    shutil.copy(findings.template, findings.database)
    values = {"n": 10**5000, "b": b"x", "$bytes": "eA==", "t": ("\ud800", {1: "\x00"}), "o": object()}
    given = scanned("R1", evidence=values)
    with findings.store() as store:
        store.ingest(P, [given, scanned("R2", evidence={"\ud800": 1})], on_invalid="quarantine")
    kept = findings.json("rejected", "list", "--format", "json")
    shown = kept[0]["original"]["$tagged"]["evidence"]
    assert (shown["n"], shown["b"], shown["$bytes"]) == ({"$int": hex(10**5000)}, {"$bytes": "eA=="}, "eA==")
    assert shown["t"] == {"$tuple": ["\ud800", {"$object": [[1, "\x00"]]}]}
    assert kept[1]["original"] == scanned("R2", evidence={"\ud800": 1})

    def retry(code: int) -> Result:
        (findings.folder / "fixed.json").write_text(json.dumps(kept))
        return findings("rejected", "retry", "--fixed", "fixed.json", code=code)

    assert "created 0" in retry(1).stdout
    with findings.store() as store:
        assert_equal_values(store.rejected_originals(P)[0].original["evidence"]["t"], values["t"])
    shown.update(n=1, b="x", t=["a"])
    kept[1]["original"] = scanned("R2")
    assert "rejected #0 evidence.o: " in retry(1).stdout
    kept = findings.json("rejected", "list", "--format", "json")
    shown = kept[0]["original"]["$tagged"]["evidence"]
    shown["o"] = {"$bytes": "?"}
    assert "evidence.o: $bytes: is not what this tag holds" in retry(1).stderr
    shown["o"] = None
    assert "created 1" in retry(0).stdout
    with findings.store() as store:
        (document,) = [one for one in store.list_findings(P) if one["rule_id"] == "R1"]
    assert document["evidence"] == {"n": 1, "b": "x", "$bytes": "eA==", "t": ["a"], "o": None}


def test_one_kept_finding_is_retried_by_its_id(findings: Findings) -> None:
    findings("import", findings.report(scanned(severity="x"), scanned(severity="y")), "-p", P, "--quarantine")
    kept = [one["rejected_id"] for one in findings.json("rejected", "list", "--format", "json")]
    retried = findings("rejected", "retry", kept[1], code=1).stdout
    assert "rejected 1" in retried
    assert "'y'" in retried


def test_discarding_kept_findings(findings: Findings) -> None:
    findings("import", findings.report(*(scanned(severity=s) for s in "abc")), "-p", P, "--quarantine")
    kept = [one["rejected_id"] for one in findings.json("rejected", "list", "--format", "json")]
    assert "--yes" in findings("rejected", "discard", kept[0], code=2).stderr
    assert "discarded 1" in findings("rejected", "discard", kept[0], "--yes").stdout
    assert "or --all" in findings("rejected", "discard", "--yes", code=2).stderr
    assert "keeps no refused finding" in findings("rejected", "discard", kept[0], "--yes", code=5).stderr
    assert "discarded 2" in findings("rejected", "discard", "--all", "--yes").stdout
    assert findings.json("rejected", "list", "--format", "json") == []


@pytest.mark.parametrize("content", ["{", "[]", "{}", "7", '[{"rejected_id": 1, "original": {}}]', "[1]"])
def test_a_file_of_corrections_must_have_its_shape(findings: Findings, content: str) -> None:
    findings("import", findings.report(scanned(severity="x")), "-p", P, "--quarantine")
    (findings.folder / "fixed.json").write_text(content)
    assert "fixed.json: " in findings("rejected", "retry", "--fixed", "fixed.json", code=1).stderr


# -- list -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_template(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    """A database with one project of which every finding differs."""
    filled = Findings(tmp_path_factory.mktemp("full"), template)
    documents = (
        scanned(
            "R1",
            severity="low",
            cwe_ids=[79],
            tags=["web", "a,b"],
            created_at="2026-01-01T00:00:00Z",
            title="one",
        ),
        scanned(
            "R2", severity="high", cwe_ids=[89], cve_ids=["CVE-2021-44228"], title="two", resource="lib/x"
        ),
        scanned("R2", severity="critical", detector_id="other.tool", title="Drei Straße", status="triaged"),
        scanned("R4", severity="info", resource="lib/y", title="four", created_at="2026-01-31T12:00:00Z"),
    )
    with filled.store() as store:
        store.ingest(P, documents)
    return filled.database


@pytest.fixture
def full(findings: Findings, full_template: Path) -> Findings:
    """A folder with a copy of that database."""
    shutil.copy(full_template, findings.database)
    return findings


@pytest.mark.parametrize(
    ("options", "titles"),
    [
        ([], ["Drei Straße", "four", "one", "two"]),
        (["--severity", "low", "--severity", "info"], ["four", "one"]),
        (["--severity", "low,info"], ["four", "one"]),
        (["--min-severity", "high"], ["Drei Straße", "two"]),
        (["--status", "triaged"], ["Drei Straße"]),
        (["--detector", "other.tool"], ["Drei Straße"]),
        (["--detector", "scan*"], ["four", "one", "two"]),
        (["--rule", "R2"], ["Drei Straße", "two"]),
        (["--rule", "R2", "--rule", "R1"], ["Drei Straße", "one", "two"]),
        (["--rule", "R2", "--detector", "scan*"], ["two"]),
        (["--cwe", "79,CWE-89"], ["one", "two"]),
        (["--cve", "cve-2021-44228"], ["two"]),
        (["--tag", "a,b"], ["one"]),
        (["--resource-prefix", "lib/"], ["four", "two"]),
        (["--from", "2026-01-31", "--before", "2026-02-01"], ["four"]),
        (["--before", "2026-01-01T00:00:01Z"], ["one"]),
        (["--text", "STRASSE drei"], ["Drei Straße"]),
        (["--text", "straße four"], []),
    ],
)
def test_filters(full: Findings, options: list[str], titles: list[str]) -> None:
    assert full.titles(*options) == titles


def test_a_run_is_named_by_number_or_id(full: Findings) -> None:
    full.imported(scanned("R9"))
    runs = full.json("runs", "--format", "json")
    assert full.titles("--run", "2") == full.titles("--run", runs[1]["id"].upper()) == ["Rule R9 was broken"]
    assert "has no run '3'" in full("list", "--run", "3", code=5).stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--severity", "awful"],
            "--severity: must be one of info, low, medium, high, critical (got 'awful')",
        ),
        (["--min-severity", "x"], "--min-severity: must be one of"),
        (["--status", "x"], "--status: must be one of open"),
        (["--sort", "x"], "--sort: must be one of created_at"),
        (["--limit", "0"], "--limit: must be 1 to"),
        (["--cursor", "x"], "--cursor: must be the next_cursor"),
        (["--cwe", "x"], "--cwe: must be a number"),
        (["--rule", "a\x00"], "--rule: must not hold NUL"),
        (["--resource-prefix", "\udcff"], "--resource-prefix: must not hold NUL or lone surrogates"),
        (["--from", "yesterday"], "--from: must be a date (2026-01-31), or"),
        (["--before", "2026-02-30"], "--before: must be a date"),
        (["--from", "2026-01-01T00:00:00+02:00"], "--from: must be a date"),
        (["--format", "xml"], "--format: must be one of table"),
        (["--all", "--limit", "3"], "--all and --limit exclude each other"),
        (["--limit", "many"], "'--limit'"),
        (["--no-such"], "--no-such"),
    ],
)
def test_wrong_options_are_named(full: Findings, options: list[str], message: str) -> None:
    assert message in full("list", *options, code=2).stderr


def test_pages_follow_each_other(findings: Findings) -> None:
    findings.imported(*(scanned(f"R{n}") for n in range(7)))
    seen: list[str] = []
    cursor: list[str] = []
    while True:
        page = findings.json("list", "--format", "json", "--limit", "3", *cursor)
        seen += [item["rule_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = ["--cursor", page["next_cursor"]]
    assert sorted(seen) == [f"R{n}" for n in range(7)]
    table = findings("list", "--limit", "3").stdout
    assert "3 of 7 findings. For the next page add: --cursor " in table
    token = table.rstrip().rpartition(" ")[2]
    assert "3 of 7" in findings("list", "--limit", "3", "--cursor", token).stdout


def test_all_goes_through_all_pages(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("findings_orm.cli.queries._ALL_PAGE", 3)
    findings.imported(*(scanned(f"R{n}") for n in range(8)))
    page = findings.json("list", "--all", "--format", "json", "--sort", "-title")
    assert [item["rule_id"] for item in page["items"]] == [f"R{n}" for n in range(7, -1, -1)]
    assert page["next_cursor"] is None
    table = findings("list", "--all").stdout.splitlines()
    assert len([line for line in table if "scan.demo" in line]) == 8
    assert len(findings("list", "--all", "--format", "jsonl").stdout.splitlines()) == 8


def test_list_writes_the_documents_themselves(full: Findings) -> None:
    with full.store() as store:
        stored = store.list_findings(P)
    assert full.json("list", "--format", "json")["items"] == stored
    lines = full("list", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == stored
    assert len(list(csv.DictReader(io.StringIO(full("list", "--format", "csv").stdout)))) == 4
    assert len(json.loads(full("list", "--format", "sarif").stdout)["runs"]) == 2


def test_a_file_that_is_only_a_page_says_so(full: Findings) -> None:
    done = full("list", "--format", "jsonl", "--limit", "2")
    assert len(done.stdout.splitlines()) == 2
    assert "there are more: add --all" in done.stderr
    assert "there are more" not in full("list", "--format", "jsonl", "--limit", "4").stderr


def test_the_table_has_a_finding_a_line(full: Findings) -> None:
    lines = full("list", "--sort", "-severity").stdout.splitlines()
    assert lines[0].split() == ["SEVERITY", "ID", "STATUS", "DETECTOR", "RULE", "TITLE", "RESOURCE"]
    assert [line.split()[0] for line in lines[1:]] == ["critical", "high", "low", "info"]
    assert lines[1].endswith("Drei Straße  src/app.py")
    assert "no findings of acme-api match" in full("list", "--rule", "none").stderr


# -- which project --------------------------------------------------------------------------------------------


def test_the_only_project_needs_no_name(findings: Findings) -> None:
    findings.imported(scanned("R1"))
    assert len(findings.ids()) == 1
    findings.imported(scanned("R1"), project="acme-web")
    unclear = findings("list", code=2).stderr
    assert "--project" in unclear
    assert "acme-api, acme-web" in unclear
    assert len(findings.ids("--project", "acme-web")) == 1


def test_an_unknown_project_is_not_found_and_the_known_ones_are_named(findings: Findings) -> None:
    findings.imported(scanned("R1"))
    for command in (
        ["list"],
        ["summary"],
        ["runs"],
        ["export"],
        ["show", run_id_of(1)],
        ["rejected", "list"],
    ):
        missing = findings(*command, "--project", "acme-apu", code=5).stderr
        assert "no project 'acme-apu'" in missing
        assert "acme-api" in missing


def test_an_empty_store_says_how_to_begin(findings: Findings) -> None:
    findings("db", "upgrade")
    assert "findings import" in findings("summary", code=5).stderr
    assert findings("projects").stderr == "no projects yet\n"


# -- one finding ----------------------------------------------------------------------------------------------


def test_show_has_everything_of_a_finding(findings: Findings) -> None:
    findings.imported(
        scanned("R1", 7, evidence={"request": "GET /"}, cve_ids=["CVE-2021-44228"], cvss=9.8, tags=["web"])
    )
    (one,) = findings.ids()
    shown = findings("show", one).stdout
    for part in (
        "MEDIUM",
        "Rule R1 was broken",
        one,
        "src/app.py:7",
        "CVE-2021-44228",
        "9.8",
        "web",
        '"request": "GET /"',
    ):
        assert part in shown
    with findings.store() as store:
        assert findings.json("show", one, "--format", "json") == store.get_finding(P, one)
    assert "no finding" in findings("show", run_id_of(9), code=5).stderr


def test_setting_a_status_goes_into_the_history(findings: Findings) -> None:
    findings.imported(scanned("R1"))
    (one,) = findings.ids()
    assert "nothing has changed" in findings("history", one).stderr
    done = findings("set-status", one, "false_positive", "--actor", "ana", "--comment", "test data")
    assert done.stdout == f"{one}: open -> false_positive (ana)\n"
    assert findings.json("show", one, "--format", "json")["status"] == "false_positive"
    (event,) = findings.json("history", one, "--format", "json")
    assert (event["actor"], event["comment"], event["changes"]) == (
        "ana",
        "test data",
        {"status": ["open", "false_positive"]},
    )
    history = findings("history", one).stdout
    assert "status: open -> false_positive" in history
    assert "is false_positive already" in findings("set-status", one, "false_positive").stdout
    assert "no finding" in findings("history", run_id_of(9), code=5).stderr


def test_the_actor_is_the_user_of_the_system(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "zoe")
    findings.imported(scanned("R1"))
    (one,) = findings.ids()
    findings("set-status", one, "triaged")
    assert findings.json("history", one, "--format", "json")[0]["actor"] == "zoe"


def test_a_status_that_may_not_follow_is_refused(findings: Findings) -> None:
    findings.imported(scanned("R1"))
    (one,) = findings.ids()
    findings("set-status", one, "archived")
    assert "must be one of open after archived" in findings("set-status", one, "resolved", code=1).stderr
    assert "STATUS: must be one of open" in findings("set-status", one, "done", code=2).stderr
    assert "actor" in findings("set-status", one, "open", "--actor", "", code=1).stderr


def test_a_detector_gets_another_name(findings: Findings) -> None:
    findings.imported(scanned("R1"), scanned("R2"))
    done = findings("rename-detector", "scan.demo", "scan.new", "--actor", "ana")
    assert done.stdout == f"2 findings of {P} are of scan.new now (ana)\n"
    assert len(findings("list", "--detector", "scan.new", "--format", "jsonl").stdout.splitlines()) == 2
    findings.imported(scanned("R1", detector_id="scan.demo"))
    assert "'scan.demo' already" in findings("rename-detector", "scan.new", "scan.demo", code=6).stderr
    assert "new" in findings("rename-detector", "scan.new", "a b", code=1).stderr


def test_what_changes_at_each_scan_is_named(findings: Findings, tmp_path: Path) -> None:
    for day in (1, 2):
        file = tmp_path / f"{day}.jsonl"
        file.write_text(json.dumps(scanned("R1", evidence={"scan": {"day": day}, "n": day // 3})))
        names = ["--volatile", "evidence.scan.day,evidence.m", "--volatile", "evidence.x"]
        done = findings.json("import", str(file), "--project", P, *names, "--report", "json")
        assert done["files"][0]["created" if day == 1 else "unchanged"] == 1
    assert "volatile" in findings("import", str(file), "--project", P, "--volatile", "title", code=1).stderr


# -- a project ------------------------------------------------------------------------------------------------


def test_summary_has_bars(full: Findings) -> None:
    lines = full("summary").stdout.splitlines()
    assert lines[0] == "acme-api: 4 findings"
    start = lines.index("severity")
    rows = [line.split() for line in lines[start + 1 : start + 6]]
    assert [row[:2] for row in rows] == [
        ["critical", "1"],
        ["high", "1"],
        ["medium", "0"],
        ["low", "1"],
        ["info", "1"],
    ]
    assert [len(row) for row in rows] == [3, 3, 2, 3, 3]
    assert any(line.split()[:2] == ["scan.demo", "3"] for line in lines)
    assert any(line.split()[:2] == ["CWE-79", "1"] for line in lines)
    counts = full.json("summary", "--format", "json")
    assert counts["total"] == 4
    assert counts["by_cwe"] == {"79": 1, "89": 1}


def test_runs_and_their_difference(findings: Findings) -> None:
    findings.imported(scanned("R1"), scanned("R2"))
    findings.imported(scanned("R2"), scanned("R3"))
    lines = findings("runs").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["RUN", "1", "2"]
    assert [run["counts"]["created"] for run in findings.json("runs", "--format", "json")] == [2, 1]
    difference = findings("diff", "1", "2").stdout
    assert "added: 1" in difference
    assert "Rule R3 was broken" in difference
    assert "removed: 1" in difference
    assert "Rule R1 was broken" in difference
    assert "in both: 1" in difference
    whole = findings.json("diff", "2", "1", "--format", "json")
    assert [one["rule_id"] for one in whole["added"]] == ["R1"]
    missing = findings("diff", "1", "7", code=5).stderr
    assert "has no run '7'" in missing
    assert "1 to 2" in missing


def test_projects_are_listed(findings: Findings) -> None:
    findings.imported(scanned("R1"), project="b")
    findings.imported(scanned("R1"), project="a")
    assert findings("projects").stdout == "a\nb\n"
    assert findings.json("projects", "--format", "json") == ["a", "b"]


def test_purge_asks_first(findings: Findings) -> None:
    with findings.store() as store:
        store.save_findings([finding(n, status="resolved" if n < 3 else "open") for n in range(1, 5)])
    later = "2999-01-01"
    assert (
        "2 findings of acme-api closed before"
        in findings("purge", "--closed-before", later, "--dry-run").stdout
    )
    assert "--yes" in findings("purge", "--closed-before", later, code=2).stderr
    assert len(findings.ids()) == 4
    assert "nothing to remove" in findings("purge", "--older-than", "90d", "--yes").stdout
    assert "removed 2 findings" in findings("purge", "--closed-before", later, "--yes").stdout
    assert len(findings.ids()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "either --closed-before TIME or --older-than AGE"),
        (["--closed-before", "2026-01-01", "--older-than", "1d"], "either --closed-before"),
        (["--older-than", "90"], "--older-than: must be a number with d, w or h"),
        (["--older-than", "999999w"], "--older-than: must be"),
        (["--closed-before", "soon"], "--closed-before: must be a date"),
    ],
)
def test_purge_wants_one_time(findings: Findings, options: list[str], message: str) -> None:
    findings.imported(scanned("R1"))
    assert message in findings("purge", "--yes", *options, code=2).stderr


def test_deleting_a_project(findings: Findings) -> None:
    findings.imported(scanned("R1"))
    findings.imported(scanned("R1"), project="other")
    assert "--yes" in findings("delete-project", P, code=2).stderr
    assert "deleted acme-api with 1 findings" in findings("delete-project", P, "--yes").stdout
    assert findings.json("projects", "--format", "json") == ["other"]
    assert "no project 'acme-api'" in findings("delete-project", P, "--yes", code=5).stderr


# -- export ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.sarif", "out.jsonl", "out.csv"])
def test_export_takes_its_format_from_the_name(full: Findings, name: str) -> None:
    done = full("export", "--output", name)
    assert done.stdout == ""
    assert f"wrote 4 findings of acme-api to {name}" in done.stderr
    content = (full.folder / name).read_text(encoding="utf-8")
    assert content == full("export", "--format", name[4:]).stdout.replace("\n", os.linesep)
    assert "Straße" in content


def test_a_table_for_excel_begins_with_the_mark(full: Findings) -> None:
    full("export", "--output", "out.csv", "--bom")
    full("export", "--output", "plain.csv")
    assert (full.folder / "out.csv").read_bytes() == b"\xef\xbb\xbf" + (
        full.folder / "plain.csv"
    ).read_bytes()
    assert "--bom: readers of sarif" in full("export", "--output", "out.sarif", "--bom", code=2).stderr


def test_an_export_as_sarif_says_why_a_finding_was_closed(findings: Findings) -> None:
    (findings.folder / "a").write_text(sarif(result("R1"), result("R2")))
    findings("import", "a", "-p", P)
    first, second = findings.ids()
    findings("set-status", first, "false_positive", "--comment", "only in tests")
    findings("set-status", second, "triaged")
    log = json.loads(findings("export", "-p", P, "--format", "sarif").stdout)
    marks = [mark for one in log["runs"][0]["results"] for mark in one["suppressions"]]
    assert sorted(mark.get("justification", "") for mark in marks) == ["", "only in tests"]


def test_export_and_import_again_is_the_same(full: Findings) -> None:
    full("export", "--output", "all.jsonl")
    with full.store() as store:
        before = store.list_findings(P)
    full("delete-project", P, "--yes")
    full("import", "all.jsonl", "-p", P)
    with full.store() as store:
        assert store.list_findings(P) == before


def test_an_export_replaces_the_file_and_keeps_its_mode(full: Findings) -> None:
    target = full.folder / "out.jsonl"
    target.write_text("old")
    target.chmod(0o640)
    link = full.folder / "link.jsonl"
    link.symlink_to(target)
    full("export", "--output", str(link))
    assert link.is_symlink()
    assert len(target.read_text(encoding="utf-8").splitlines()) == 4
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(path.name for path in full.folder.glob("*out*")) == ["out.jsonl"]


def test_a_broken_export_leaves_the_good_one(full: Findings) -> None:
    target = full.folder / "out.jsonl"
    target.write_text("old")
    with closing(sqlite3.connect(full.database)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        damaged = connection.execute("UPDATE findings SET evidence = '{' WHERE rule_id = 'R4'").rowcount
        connection.commit()
    assert damaged == 1
    full("export", "--output", str(target), code=1)
    assert target.read_text() == "old"
    assert not list(full.folder.glob("*.tmp"))


def test_an_export_to_where_there_is_no_folder(full: Findings) -> None:
    assert "does not exist" in full("export", "--output", "no/where.csv", code=2).stderr
    assert "is a folder" in full("export", "--output", str(full.folder), code=2).stderr


# -- databases ------------------------------------------------------------------------------------------------


def test_up_and_down_the_revisions(findings: Findings) -> None:
    made = findings("db", "upgrade").stdout
    assert "nothing to do" in findings("db", "upgrade").stdout
    status = findings.json("db", "status", "--format", "json")
    head = status["head"]
    assert status["current"] == head
    assert made == f"base -> {head} (finding schema {SCHEMA_VERSION})\n"
    assert status["pending"] == []
    assert "as it should be" in findings("db", "check").stdout
    findings.imported(scanned("R1"))
    assert "-> r0001" in findings("db", "downgrade", "r0001").stdout
    behind = findings("db", "status", code=4).stdout
    assert "run 'findings db upgrade'" in behind
    refused = findings("list", code=4).stderr
    assert "findings db upgrade" in refused
    assert f"r0001 -> {head}" in findings("db", "upgrade").stdout
    assert findings.titles() == ["Rule R1 was broken"]


def test_check_names_what_differs(findings: Findings) -> None:
    findings("db", "upgrade")
    with closing(sqlite3.connect(findings.database)) as connection:
        connection.execute("ALTER TABLE finding_projects ADD COLUMN mine TEXT")
    differs = findings("db", "check", code=1)
    assert "mine" in differs.stdout
    assert "the schema differs in 1 places" in differs.stderr


def test_an_unknown_revision_is_refused(findings: Findings) -> None:
    findings("db", "upgrade")
    for direction in ("upgrade", "downgrade"):
        refused = findings("db", direction, "r9999", code=ExitCode.VERSION).stderr
        assert "r9999" in refused


def test_what_is_no_database_has_no_schema(findings: Findings) -> None:
    assert "is no database" in findings("--url", "memory:", "db", "status", code=2).stderr


READING = [
    ["list"], ["show", run_id_of(1)], ["summary"], ["set-status", run_id_of(1), "open"], ["history", run_id_of(1)], ["runs"],
    ["diff", "1", "2"], ["projects"], ["export"], ["purge", "--older-than", "1d", "--yes"],
    ["delete-project", "x", "--yes"], ["rename-detector", "a", "b"], ["rejected", "list"], ["rejected", "retry"],
    ["rejected", "discard", "--all", "--yes"], ["db", "status"], ["db", "check"], ["db", "downgrade", "base"],
]  # fmt: skip


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_no_command_but_import_and_upgrade_makes_a_database(findings: Findings, command: list[str]) -> None:
    missing = findings(*command, code=3).stderr
    assert "there is no storage at findings.db" in missing
    assert "findings db upgrade" in missing
    assert list(findings.folder.iterdir()) == []


def test_a_folder_of_files_is_not_made_by_reading(findings: Findings) -> None:
    folder = findings.folder / "store"
    assert "there is no storage at " in findings("list", "--url", folder.as_uri(), code=3).stderr
    assert not folder.exists()


def test_where_the_url_comes_from(findings: Findings) -> None:
    findings("db", "upgrade", "--url", "sqlite:///a.db")
    findings("--url=sqlite:///b.db", "db", "upgrade")
    findings.runner.env = {"FINDINGS_DATABASE_URL": f"sqlite:///{findings.folder}/c.db"}
    findings("db", "upgrade")
    assert {"a.db", "b.db", "c.db"} <= {path.name for path in findings.folder.iterdir()}


@pytest.mark.parametrize("url", ["", "nonsense", "bogus://x", "sqlite:///x.db?nonsense=1"])
def test_a_url_that_names_no_storage_is_wrong_usage(findings: Findings, url: str) -> None:
    refused = findings("import", findings.report(scanned("R1")), "-p", P, "--url", url, code=2).stderr
    assert "--url: " in refused


def test_a_folder_that_does_not_exist_is_unavailable(findings: Findings) -> None:
    report = findings.report(scanned("R1"))
    assert (
        "no/where" in findings("import", report, "-p", P, "--url", "sqlite:///no/where/x.db", code=3).stderr
    )


def test_a_file_that_is_no_database(findings: Findings) -> None:
    findings.database.write_text("this is no database, but long enough to look like a file " * 50)
    refused = findings("list", code=1)
    assert "error: " in refused.stderr
    assert "not a database" in refused.stderr


def test_a_locked_database_is_unavailable(findings: Findings) -> None:
    findings.imported(scanned("R1"))
    (one,) = findings.ids()
    with closing(sqlite3.connect(findings.database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        url = "sqlite:///findings.db?busy_timeout=0.1"
        refused = findings("set-status", one, "triaged", "--url", url, code=3).stderr
    assert "locked" in refused
    assert "later" in refused


# -- the whole ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", GROUPS_AND_COMMANDS, ids=lambda command: " ".join(command) or "findings")
def test_every_help_has_an_example(findings: Findings, command: tuple[str, ...]) -> None:
    text = findings(*command, "--help").stdout
    example = text.partition("Example")[2]
    typed = command[:-1] if command == DEFAULT else command
    assert " ".join(["findings", *typed]) in example, text
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    assert findings(*command, "-h").stdout == text


def test_the_examples_are_real_commands(findings: Findings) -> None:
    for command in COMMANDS:
        options, _, examples = (
            findings(*command, "--help").stdout.partition("Options:")[2].partition("Example")
        )
        for line in examples.splitlines():
            for word in line.partition("findings ")[2].partition("|")[0].split():
                if word.startswith("--") and word != "--url":
                    assert word in options, (command, line)


def test_help_lists_the_exit_codes(findings: Findings) -> None:
    text = findings("--help").stdout
    for code in ExitCode:
        assert f"\n  {int(code):>5}  " in text, code


def test_the_documentation_names_all_commands_options_and_codes(findings: Findings) -> None:
    docs = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert f"| {int(code)} |" in docs
    typed = [" ".join(["findings", *name]) for name in COMMANDS if name != DEFAULT]
    assert not [name for name in typed if name not in docs]
    assert not [name for name in {*FORMATS, *EXPORT_FORMATS} if name not in docs.lower()]
    listed = findings("list", "--help").stdout
    for word in listed.split():
        if word.startswith("--"):
            assert f"`{word.strip('.,')}" in docs or word == "--help", word


def test_global_options_may_stand_anywhere(findings: Findings) -> None:
    findings.imported(scanned("R1"))
    report = findings.report(scanned("R2"), name="b.jsonl")
    assert findings("import", report, "-p", P, "--dry-run", "--quiet").stderr == ""
    assert "Traceback" in findings.runner.invoke(app, ["show", "x", "--debug"]).stderr
    assert findings("list", "--rule", "none", "-q").stderr == ""


def test_version(findings: Findings) -> None:
    assert findings("--version").stdout.startswith("findings-orm ")


def test_a_mistyped_command_gets_a_suggestion(findings: Findings) -> None:
    assert "'import'" in findings("imprt", code=2).stderr
    assert "Usage:" in findings(code=2).stderr


HOSTILE = "\x1b[31mred\x1b[0m \x1b]0;title\x07 [bold red]x[/] \u202egnp.exe :smile: \x9b2J \r\n {x}"


@pytest.mark.parametrize("command", ["list", "show", "summary", "history", "diff", "retitled"])
def test_text_of_findings_is_never_obeyed(findings: Findings, command: str) -> None:
    location = {"path": "a", "start_line": 1, "snippet": HOSTILE}
    findings.imported(
        scanned("R1", title=HOSTILE, resource=HOSTILE, location=location, evidence={HOSTILE: HOSTILE})
    )
    (one,) = findings.ids()
    findings("set-status", one, "triaged", "--comment", HOSTILE)
    findings.imported(scanned("R2"))
    arguments: dict[str, list[str]] = {
        "show": ["show", one],
        "history": ["history", one],
        "diff": ["diff", "2", "1"],
        "retitled": ["list", "--text", "x"],
    }
    text = findings(*arguments.get(command, [command])).output
    assert "gnp.exe" in text
    assert "[bold red]x[/]" in text
    assert ":smile:" in text or command == "summary"  # which shortens
    assert not set(text) & set("\x1b\x07\x9b\u202e\r")
    assert "\\x1b[31mred" in text


def test_an_error_message_is_never_obeyed(findings: Findings) -> None:
    refused = findings("import", findings.report(scanned(severity=HOSTILE)), "-p", P, code=1).stderr
    assert not set(refused) & set("\x1b\x07\x9b\u202e\r")
    (findings.folder / "evil\x1b[31m.sarif").write_text("{")
    assert "\x1b" not in findings("import", "evil\x1b[31m.sarif", "-p", P, code=1).stderr


def test_json_is_what_is_stored(findings: Findings) -> None:
    findings.imported(scanned("R1", title=HOSTILE))
    assert findings.titles() == [HOSTILE]
    findings("export", "--output", "all.csv")
    with (findings.folder / "all.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["title"] for row in csv.DictReader(stream)] == [HOSTILE]


def test_fields_that_only_some_findings_have(findings: Findings) -> None:
    findings.imported(
        scanned("R1", resource="", rule_id=None, evidence={}, confidence=50, mitre_attack=["T1059.001"])
    )
    (one,) = findings.ids()
    shown = findings("show", one).stdout
    assert "(project)" in shown
    assert "T1059.001" in shown
    assert "None" not in shown
    assert "(project)" in findings("summary").stdout
