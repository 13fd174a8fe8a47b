"""The category of a report: from SARIF to what is resolved, and back in an export."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from findings_orm import Run, migrations, open_storage
from findings_orm.formats import Report, open_report, write_report
from findings_orm.testing.samples import PROJECT


def part(identifier: object, *rules: str, driver: str = "Demo") -> dict[str, Any]:
    """Return a run of a log."""
    results = [
        {
            "ruleId": rule,
            "message": {"text": rule},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": f"{rule}.py"}}}],
        }
        for rule in rules
    ]
    return {
        "tool": {"driver": {"name": driver}},
        "automationDetails": {"id": identifier},
        "results": results,
    }


def log(*runs: dict[str, Any]) -> Report:
    """Return a log, opened."""
    return open_report(io.BytesIO(json.dumps({"version": "2.1.0", "runs": runs}).encode()))


@pytest.mark.parametrize(
    ("identifier", "category"),
    [
        ("/language:python/", "/language:python"),
        ("nightly/api/17", "nightly/api"),
        ("nightly/api/", "nightly/api"),
        ("nightly api", ""),
        ("", ""),
        ("/", ""),
        ("//", "/"),
        ("a\0b/1", "a\u2400b"),
        ("a\tb/1", "a\tb"),
        ("x" * 2000 + "/1", ""),
        (7, ""),
        (None, ""),
    ],
)
def test_the_category_is_the_id_up_to_its_last_slash(identifier: object, category: str) -> None:
    assert log(part(identifier, "R1")).run.category == category


def test_one_log_may_have_runs_of_several_categories() -> None:
    with open_storage("memory:") as store:
        both = log(part("py/1", "P1", "P2"), part("js/1", "J1", "J2"), part("", "O1", driver="Other"))
        assert both.run.categories == {"demo": ["js", "py"]}
        store.ingest(PROJECT, both, close_missing=True)
        done = store.ingest(PROJECT, log(part("js/2", "J1")), close_missing=True)
        assert (done.unchanged, done.resolved) == (1, 1)
        done = store.ingest(PROJECT, log(part("js/3", "J1"), part("py/3")), close_missing=True)
        assert (done.unchanged, done.resolved) == (1, 2)
        open_rules = {one["rule_id"] for one in store.list_findings(PROJECT) if one["status"] == "open"}
        assert open_rules == {"J1", "O1"}


def test_a_clean_report_of_a_category_closes_it_alone() -> None:
    with open_storage("memory:") as store:
        for name in ("a", "b"):
            store.ingest(PROJECT, log(part(f"{name}/", name)), close_missing=True)
        assert store.ingest(PROJECT, log(part("a/")), close_missing=True).resolved == 1
        assert {one["rule_id"]: one["status"] for one in store.list_findings(PROJECT)} == {
            "a": "resolved",
            "b": "open",
        }


def test_a_given_category_is_that_of_all_documents() -> None:
    with open_storage("memory:") as store:
        store.ingest(PROJECT, log(part("a/", "R1"), part("b/", "R2")), run=Run(category="all"))
        assert store.runs(PROJECT)[0].scopes() == {("demo", "all")}
        assert store.ingest(PROJECT, log(part("a/")), close_missing=True).resolved == 0


def test_a_file_that_got_another_name_is_recognised_between_reports_of_others() -> None:
    def of(path: str, category: str) -> Report:
        run = part(category, "R1", "R2")
        for number, result in enumerate(run["results"], 3):
            place = {"artifactLocation": {"uri": path}, "region": {"startLine": number}}
            result["locations"] = [{"physicalLocation": place}]
        return log(run)

    with open_storage("memory:") as store:
        store.ingest(PROJECT, of("old.js", "js/1"), close_missing=True)
        store.ingest(PROJECT, of("a.py", "py/1"), close_missing=True)
        done = store.ingest(PROJECT, of("new.js", "js/2"), close_missing=True)
        assert (done.created, done.updated, done.resolved) == (0, 2, 0)


def test_an_export_keeps_the_category() -> None:
    with open_storage("memory:") as store:
        store.ingest(PROJECT, log(part("a/17", "R1"), part("b/17", "R2")))
        stream = io.BytesIO()
        write_report(store.iter_findings(PROJECT), stream, "sarif")
        runs = json.loads(stream.getvalue())["runs"]
        assert sorted(run["automationDetails"]["id"] for run in runs) == ["a/", "b/"]
        assert store.ingest(PROJECT, log(*runs), close_missing=True).unchanged == 2


def test_earlier_runs_have_no_category(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with open_storage(url) as store:
        store.ingest(PROJECT, log(part("a/", "R1", "R2")), run=Run(category="x"))
    migrations.downgrade(url, "r0006")
    migrations.upgrade(url)
    with open_storage(url) as store:
        assert [run.category for run in store.runs(PROJECT)] == [""]
        done = store.ingest(PROJECT, log(part("a/", "R1")), close_missing=True)
        assert (done.created, done.unchanged, done.resolved) == (0, 1, 0)
