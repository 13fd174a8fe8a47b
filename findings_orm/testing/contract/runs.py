"""The suite, part 6: runs, closing what is missing, reopening, and the quarantine."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from findings_orm.errors import StorageConflictError, StorageError, StorageValidationError
from findings_orm.finding import Status
from findings_orm.imports.originals import LostValue
from findings_orm.port import FindingStore, Run
from findings_orm.query import time_key
from findings_orm.testing.contract.base import (
    Capabilities,
    list_statuses,
    project_contents,
    relaxed,
    summarize_events,
)
from findings_orm.testing.contract.ingest import assert_counts
from findings_orm.testing.samples import (
    OTHER,
    PROJECT,
    assert_equal_values,
    assert_same,
    broken,
    finding,
    ids,
    run_id_of,
    scanned,
    uuid_of,
)
from findings_orm.testing.strategies import hostile_values

Document = dict[str, Any]
KEPT_WHOLE: list[Any] = [
    {},
    {"title": 5, "more": {"b": [1, 1.0, -0.0, None, True], "a": "\u0000\U0001f600"}},
    {**scanned(), "severity": "High"},
    {**scanned(), "finding_schema_version": "9.0.0"},
    {**scanned(), "project_id": OTHER},
    {**scanned(), "evidence": {"n": 10**4000, "e": 5e-324}, "x": 1},
    {**scanned(), "title": "\ud800 lone"},
    {**scanned(), "evidence": {"n": float("nan"), "m": float("-inf")}},
    "text", "", None, 5, 1.5, True, [], [1, {"a": 2}],
]  # fmt: skip


def statuses_by_rule(store: FindingStore) -> dict[str, str]:
    """Return the status of each rule's finding."""
    return {one["rule_id"] or "": one["status"] for one in store.list_findings(PROJECT)}


BAD_RUNS: list[Any] = [
    "x",
    {"id": "x"},
    {"name": "x"},
    Run(detectors=["a b"]),
    Run(started_at="now"),
    Run(category="a\0b"),
    Run(category="\ud800"),
    {"category": 5},
    Run(category="a" * 1001),
    Run(tool={"a": {1}}),
    Run(tool={"a": float("nan")}),
]
_MOMENT = datetime(2024, 10, 27, 2, 30, 0, 1, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
NO_JSON: list[Any] = [
    {"a", "b"},
    frozenset({(1, b"x"), None}),
    b"bytes",
    bytearray(b""),
    (1, ("a",)),
    {1: "a", None: "b", (1, 2): {"1": b""}},
    {"$bytes": "eA==", "a": {"$bytes": "eA=="}, "b": [{"$tagged": {}}, b""]},
    {"$tagged": {"$bytes": "eA=="}},
    10**5000,
    -(10**641),
    [float("inf"), float("nan"), -0.0, Decimal("1.50"), Decimal("NaN"), 1 + 2j],
    ["\ud83d\ude00", "\ud800", {"\ud83d\ude00": "\x00"}],
    [UUID(int=1), date(2024, 1, 1), time(1, 2, 3, fold=1), timedelta(-1, 2, 3)],
    [_MOMENT, _MOMENT.replace(tzinfo=timezone(timedelta(hours=-3, seconds=1))), datetime(1, 1, 1)],  # naive
]
"""Values that JSON can't say, or that only look so; each comes back equal."""


class Thing:
    """A class of which nothing but the `repr` can be kept."""

    def __repr__(self) -> str:
        return "Thing(7)"


class Broken:
    """A class that has not even a `repr`."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def _deep_value(levels: int) -> Any:
    value: Any = 10**5000
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


class RunContract(Capabilities):
    """Runs, `close_missing`, `diff_runs`, and what imports refused."""

    # -- runs ----------------------------------------------------------------------------------------------

    def test_runs_are_numbered_and_counted(self, store: FindingStore) -> None:
        tool = {"name": "demo", "version": "1.0", "b": {"z": 1, "a": 1.0}}
        run = Run(run_id_of(1), ["scan.more"], "2024-05-01T10:00:00.50Z", tool)
        first = store.ingest(PROJECT, [scanned()], run=run)
        second = store.ingest(PROJECT, [], run=run_id_of(2), close_missing=True)
        third = store.ingest(PROJECT, [{}], on_invalid="quarantine")
        runs = store.runs(PROJECT)
        assert [each.number for each in runs] == [1, 2, 3]
        assert [each.id for each in runs] == [run_id_of(1), run_id_of(2), third.run_id]
        assert [dict(each.counts) for each in runs] == [first.counts(), second.counts(), third.counts()]
        assert sorted(runs[0].detectors) == ["scan.demo", "scan.more"]
        assert runs[0].started_at == "2024-05-01T10:00:00.500000Z"
        assert_same(dict(runs[0].tool), tool)
        assert runs[1].started_at > "2024"

    def test_run_may_be_an_id_a_run_or_a_mapping(self, store: FindingStore) -> None:
        assert store.ingest(PROJECT, [], run=run_id_of(1)).run_id == run_id_of(1)
        assert store.ingest(PROJECT, [], run=Run(run_id_of(2))).run_id == run_id_of(2)
        assert store.ingest(PROJECT, [], run={"id": run_id_of(3), "detectors": ["a"]}).run_id == run_id_of(3)
        made = store.ingest(PROJECT, []).run_id
        assert made[14] == "7", "the id of a new run must be a time-ordered UUID (version 7)"
        assert len(store.runs(PROJECT)) == 4

    def test_bad_run_is_refused(self, store: FindingStore) -> None:
        for run in BAD_RUNS:
            with pytest.raises(StorageValidationError):
                store.ingest(PROJECT, [scanned()], run=run)
        assert store.list_projects() == []

    def test_same_run_again_has_no_effect(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned("R0")])
        first = store.ingest(PROJECT, [scanned("R1"), scanned("R0", severity="high")], run=run_id_of(1))
        before = project_contents(store)
        report = [
            scanned("R0", severity="high", id=uuid_of(9), created_at="2024-05-01T00:00:00Z"),
            scanned("R1"),
        ]
        for documents in (report, iter(report), tuple(report[::-1])):
            again = store.ingest(PROJECT, documents, run=run_id_of(1), close_missing=True)
            assert (first.repeated, again.repeated) == (False, True)
            assert again == first
        assert project_contents(store) == before

    def test_run_id_stands_for_one_report(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned("R0"), scanned("R0")], run=run_id_of(1))
        store.ingest(PROJECT, [scanned("R0")], run=run_id_of(2))
        store.ingest(PROJECT, [scanned("R0")], run=run_id_of(3))  # recognised as a whole
        store.ingest(PROJECT, [], run=run_id_of(4))
        before = project_contents(store)
        for number, other in (
            (1, [scanned("R0")]),
            (1, [scanned("R0"), scanned("R0"), scanned("R0")]),
            (1, [scanned("R0"), scanned("R0", severity="high")]),
            (1, []),
            (2, [scanned("R1")]),
            (3, [scanned("R0"), scanned("R1")]),
            (4, [scanned("R0")]),
        ):
            for documents in (other, iter(other)):
                with pytest.raises(StorageConflictError, match=f"run {run_id_of(number)}"):
                    store.ingest(
                        PROJECT, documents, run=run_id_of(number).upper(), dry_run=documents is other
                    )
        assert project_contents(store) == before
        for number, same in ((1, [scanned("R0")] * 2), (2, [scanned("R0")]), (3, [scanned("R0")]), (4, [])):
            assert store.ingest(PROJECT, iter(same), run=run_id_of(number)).repeated
        assert not store.ingest(OTHER, [scanned("R5")], run=run_id_of(1)).repeated

    def test_refused_documents_belong_to_the_report_of_a_run(self, store: FindingStore) -> None:
        store.save_finding(finding(5))
        taken = scanned("R7", id=uuid_of(5))
        report: list[Any] = [{"broken": 1}, taken, scanned("R1"), {"a": b"x"}]
        run = run_id_of(1)
        first = store.ingest(PROJECT, report, run=run, on_invalid="quarantine")
        assert len(first.rejected) == 3
        again = store.ingest(PROJECT, report[::-1], run=run, on_invalid="quarantine")
        assert (again.repeated, again.counts()) == (True, first.counts())
        with pytest.raises(StorageConflictError):
            store.ingest(PROJECT, [*report[1:], *report[1:2]], run=run, on_invalid="quarantine")
        with pytest.raises(StorageValidationError):
            store.ingest(PROJECT, report, run=run)

    def test_report_of_a_repeated_run_has_its_refusals(self, store: FindingStore) -> None:
        first = store.ingest(PROJECT, [{}, scanned()], run=run_id_of(1), on_invalid="quarantine")
        again = store.ingest(PROJECT, [{}, scanned()], run=run_id_of(1), on_invalid="quarantine")
        assert again.counts() == first.counts()
        assert len(store.rejected_originals(PROJECT)) == 1

    def test_dry_run_of_a_known_run_is_repeated_too(self, store: FindingStore) -> None:
        first = store.ingest(PROJECT, [scanned()], run=run_id_of(1))
        again = store.ingest(PROJECT, [scanned()], run=run_id_of(1).upper(), dry_run=True)
        assert (again.repeated, again.counts()) == (True, first.counts())

    def test_failed_run_may_be_tried_again(self, store: FindingStore) -> None:
        with pytest.raises(StorageValidationError):
            store.ingest(PROJECT, [scanned(), {}], run=run_id_of(1))
        report = store.ingest(PROJECT, [scanned()], run=run_id_of(1))
        assert (report.created, report.repeated) == (1, False)

    # -- close_missing and reopening -----------------------------------------------------------------------

    def test_missing_findings_are_closed_with_an_event(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [finding(1), finding(2)], run=run_id_of(1))
        assert_counts(
            store.ingest(PROJECT, [finding(2)], run=run_id_of(2), close_missing=True), unchanged=1, resolved=1
        )
        assert list_statuses(store) == ["resolved", "open"]
        events = store.history(PROJECT, uuid_of(1))
        assert summarize_events(events) == [("status", "ingest", {"status": ["open", "resolved"]}, "")]
        assert events[0].run_id == run_id_of(2)

    def test_missing_findings_stay_open_unless_asked(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [finding(1), finding(2)])
        store.ingest(PROJECT, [finding(2)])
        assert list_statuses(store) == ["open", "open"]

    def test_only_the_detectors_of_the_run_close(self, store: FindingStore) -> None:
        store.ingest(
            PROJECT, [finding(1, detector_id="a"), finding(2, detector_id="b"), finding(3, detector_id="ab")]
        )
        report = store.ingest(PROJECT, [finding(9, detector_id="a")], close_missing=True)
        assert (report.created, report.resolved) == (1, 1)
        assert list_statuses(store) == ["resolved", "open", "open", "open"]

    def test_only_the_category_of_the_run_closes(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned("R1"), scanned("R2")], run=Run(category="web"))
        store.ingest(PROJECT, [scanned("R3")], run={"category": "api"}, close_missing=True)
        store.ingest(PROJECT, [scanned("R4")], close_missing=True)
        assert statuses_by_rule(store) == dict.fromkeys(("R1", "R2", "R3", "R4"), "open")
        done = store.ingest(PROJECT, [scanned("R1")], run=Run(category="web"), close_missing=True)
        assert (done.unchanged, done.resolved) == (1, 1)
        assert statuses_by_rule(store) == {"R1": "open", "R2": "resolved", "R3": "open", "R4": "open"}
        done = store.ingest(PROJECT, [], run=Run(category="api", detectors=["scan.demo"]), close_missing=True)
        assert (done.resolved, statuses_by_rule(store)["R3"]) == (1, "resolved")
        done = store.ingest(PROJECT, [], run=Run(detectors=["scan.demo"]), close_missing=True)
        assert (done.resolved, statuses_by_rule(store)["R4"]) == (1, "resolved")
        assert statuses_by_rule(store)["R1"] == "open"
        assert [run.category for run in store.runs(PROJECT)] == ["web", "api", "", "web", "api", ""]

    @pytest.mark.parametrize(
        ("reports", "closed_by"),
        [
            (["a+", "b+", "a-", "b-"], 3),
            (["a+", "b+", "b-", "a-"], 3),
            (["a+", "b+", "a+", "b-", "b-", "a-"], 5),
            (["a+", "b+", "b-", "a+", "b-", "a-"], 5),
            (["a+", "b-", "a-"], 2),
            (["a+", "b+", "b-", "c+", "a-", "b-", "c-"], 6),
        ],
    )
    def test_what_several_categories_report_closes_with_the_last_one(
        self, store: FindingStore, reports: list[str], closed_by: int
    ) -> None:
        resolved = []
        for report in reports:
            found = [scanned(f"only {report[0]}")] + [scanned("R")] * (report[1] == "+")
            done = store.ingest(PROJECT, found, run=Run(category=report[0]), close_missing=True)
            resolved.append(done.resolved)
        assert resolved == [int(n == closed_by) for n in range(len(reports))]
        assert {rule for rule, status in statuses_by_rule(store).items() if status == "resolved"} == {"R"}

    def test_categories_of_documents_are_told_apart_in_one_report(self, store: FindingStore) -> None:
        def of(category: str, *rules: str) -> list[dict[str, Any]]:
            said = {"sarif_run": {"automationDetails": {"id": f"{category}/17"}}}
            return [scanned(rule, provenance=said) for rule in rules]

        both = [*of("js", "J1", "J2"), *of("py", "P1", "P2"), scanned("X", detector_id="other")]
        store.ingest(PROJECT, both, close_missing=True)
        (run,) = store.runs(PROJECT)
        assert (run.category, run.categories) == ("", {"scan.demo": ["js", "py"]})
        assert run.scopes() == {("scan.demo", "js"), ("scan.demo", "py"), ("other", "")}
        done = store.ingest(PROJECT, of("js", "J1"), close_missing=True)
        assert (done.unchanged, done.resolved, statuses_by_rule(store)["J2"]) == (1, 1, "resolved")
        done = store.ingest(PROJECT, [*of("js", "J1"), *of("py", "P2")], close_missing=True)
        assert (done.unchanged, done.resolved, statuses_by_rule(store)["P1"]) == (2, 1, "resolved")
        done = store.ingest(
            PROJECT, of("py"), run=Run(detectors=["scan.demo"], category="py"), close_missing=True
        )
        assert (done.resolved, statuses_by_rule(store)) == (
            1,
            {"J1": "open", "J2": "resolved", "P1": "resolved", "P2": "resolved", "X": "open"},
        )

    def test_late_scan_is_one_of_the_same_category(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned("R1")], run=Run(category="a", started_at="2031-06-02T00:00:00Z"))
        older = Run(category="b", started_at="2031-06-01T00:00:00Z")
        assert store.ingest(PROJECT, [scanned("R2")], run=older, close_missing=True).created == 1
        with pytest.raises(StorageConflictError, match="for 'a' too, is imported already"):
            store.ingest(
                PROJECT, [scanned("R3")], run=replace(older, category="a", id=""), close_missing=True
            )

    def test_saved_findings_have_no_category(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        run = Run(detectors=["scan.demo"], category="a")
        assert store.ingest(PROJECT, [], close_missing=True, run=run).resolved == 0
        assert store.ingest(PROJECT, [], close_missing=True, run=replace(run, category="")).resolved == 1

    def test_retried_document_is_of_the_category_that_it_came_in(self, store: FindingStore) -> None:
        bad = {**scanned("R1"), "severity": "grave"}
        store.ingest(PROJECT, [bad], run=Run(category="a"), on_invalid="quarantine")
        (kept,) = store.rejected_originals(PROJECT)
        store.retry_rejected(PROJECT, {kept.rejected_id: scanned("R1")})
        assert [run.category for run in store.runs(PROJECT)] == ["a", "a"]

    def test_empty_report_closes_what_its_run_speaks_for(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [finding(1, detector_id="a"), finding(2, detector_id="b")])
        assert_counts(store.ingest(PROJECT, [], close_missing=True))
        assert_counts(store.ingest(PROJECT, [], close_missing=True, run=Run(detectors=["a"])), resolved=1)
        assert list_statuses(store) == ["resolved", "open"]

    def test_all_active_findings_close_and_no_others(self, store: FindingStore) -> None:
        states = ["open", "triaged", "in_progress", "resolved", "false_positive", "risk_accepted", "archived"]
        store.ingest(PROJECT, [finding(n, status=status) for n, status in enumerate(states)])
        report = store.ingest(PROJECT, [], close_missing=True, run=Run(detectors=["scan.demo"]))
        assert_counts(report, resolved=3)
        assert list_statuses(store) == ["resolved"] * 4 + ["false_positive", "risk_accepted", "archived"]

    def test_saved_findings_of_the_detector_close_too(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        assert store.ingest(PROJECT, [], close_missing=True, run=Run(detectors=["scan.demo"])).resolved == 1

    def test_refused_documents_detector_closes_nothing_of_others(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [finding(1, detector_id="a"), finding(2, detector_id="b")])
        report = store.ingest(
            PROJECT, [finding(1, detector_id="a"), finding(2, detector_id="b", title="")],
            close_missing=True, on_invalid="quarantine",
        )  # fmt: skip
        assert (report.resolved, list_statuses(store)) == (0, ["open", "open"])

    def test_what_was_refused_counts_as_seen(self, store: FindingStore) -> None:
        report = [scanned("R1"), scanned("R2"), scanned("R3", detector_id="other")]
        store.ingest(PROJECT, report)
        again = [{**report[0], "severity": "grave"}]  # names its finding still
        done = store.ingest(
            PROJECT, again, close_missing=True, run=Run(detectors=["scan.demo"]), on_invalid="quarantine"
        )
        assert (done.resolved, len(done.rejected)) == (1, 1)
        assert statuses_by_rule(store) == {"R1": "open", "R2": "resolved", "R3": "open"}

    @pytest.mark.parametrize(
        ("refused", "closed"),
        [
            ({"detector_id": "scan.demo", "rule_id": 7}, ["R3"]),
            ({"rule_id": "R1"}, []),
            ("text", []),
            (None, []),
        ],
    )
    def test_what_was_refused_and_names_no_finding_keeps_its_detector_open(
        self, store: FindingStore, refused: Any, closed: list[str]
    ) -> None:
        store.ingest(PROJECT, [scanned("R1"), scanned("R2"), scanned("R3", detector_id="other")])
        run = Run(detectors=["scan.demo", "other"])
        done = store.ingest(
            PROJECT, [scanned("R1"), refused], close_missing=True, run=run, on_invalid="quarantine"
        )
        assert (done.resolved, done.unchanged) == (len(closed), 1)
        assert [rule for rule, status in statuses_by_rule(store).items() if status == "resolved"] == closed

    @pytest.mark.parametrize(
        "tool", [{"successful": False}, {"tools": [{"successful": True}, {"name": "x", "successful": False}]}]
    )
    def test_scan_that_failed_closes_nothing(self, store: FindingStore, tool: dict[str, Any]) -> None:
        store.ingest(PROJECT, [scanned("R1"), scanned("R2")])
        before = project_contents(store)
        with pytest.raises(StorageValidationError, match="says that its run failed"):
            store.ingest(PROJECT, [scanned("R1")], run=Run(tool=tool), close_missing=True)
        assert project_contents(store) == before
        assert_counts(store.ingest(PROJECT, [scanned("R1")], run=Run(tool=tool)), unchanged=1)

    def test_scan_that_comes_late_closes_nothing(self, store: FindingStore) -> None:
        first, second = (Run(started_at=f"2031-06-0{day}T01:00:00Z") for day in (1, 2))
        store.ingest(PROJECT, [scanned("R1"), scanned("R2")], run=second)
        before = project_contents(store)
        with pytest.raises(
            StorageConflictError, match=r"2031-06-01T01:00:00Z comes late: run .* of 2031-06-02T01:00:00Z"
        ):
            store.ingest(PROJECT, [scanned("R1")], run=first, close_missing=True)
        assert project_contents(store) == before
        assert_counts(store.ingest(PROJECT, [scanned("R1")], run=first), unchanged=1)
        other = [scanned("R1", detector_id="other")]
        assert_counts(store.ingest(PROJECT, other, run=first, close_missing=True), created=1)
        assert_counts(
            store.ingest(PROJECT, [scanned("R1")], run=second, close_missing=True), unchanged=1, resolved=1
        )

    def test_report_says_what_the_argument_does_not(self, store: FindingStore) -> None:
        class Report(list[Document]):
            run = Run(detectors=["scan.demo"], started_at="2031-06-01T01:00:00Z", tool={"name": "Demo"})

        store.ingest(PROJECT, [scanned("R1")])
        assert_counts(store.ingest(PROJECT, Report(), close_missing=True), resolved=1)
        store.ingest(
            PROJECT, Report(), run=Run(run_id_of(5), detectors=["mine"], started_at="2031-07-01T01:00:00Z")
        )
        one, other = store.runs(PROJECT)[1:]
        assert (one.detectors, one.started_at, one.tool) == (
            ("scan.demo",),
            "2031-06-01T01:00:00Z",
            {"name": "Demo"},
        )
        assert (other.id, other.detectors, other.started_at, other.tool) == (
            run_id_of(5), ("mine",), "2031-07-01T01:00:00Z", {"name": "Demo"},
        )  # fmt: skip

    def test_report_that_names_no_detector_closes_nothing_silently(self, store: FindingStore) -> None:
        class Report(list[Document]):
            run = Run()

        store.ingest(PROJECT, [scanned("R1")])
        with pytest.raises(StorageValidationError, match=r"name it in run .*--format"):
            store.ingest(PROJECT, Report(), close_missing=True)
        assert_counts(store.ingest(PROJECT, Report()))
        assert list_statuses(store) == ["open"]

    def test_resolved_and_seen_again_is_reopened_with_an_event(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [finding(1), finding(2)])
        store.set_status(PROJECT, uuid_of(1), "resolved", actor="ann")
        store.ingest(PROJECT, [finding(1)], close_missing=True)
        assert list_statuses(store) == ["open", "resolved"]
        report = store.ingest(PROJECT, [finding(1), finding(2, severity="high")], run=run_id_of(9))
        assert_counts(report, unchanged=1, reopened=1)
        assert list_statuses(store) == ["open", "open"]
        event = summarize_events(store.history(PROJECT, uuid_of(1)))[-1]
        assert event == ("status", "ingest", {"status": ["resolved", "open"]}, "")
        changes = [
            event.changes for event in store.history(PROJECT, uuid_of(2)) if event.run_id == run_id_of(9)
        ]
        assert {name: both for change in changes for name, both in change.items()} == {
            "severity": ["medium", "high"],
            "status": ["resolved", "open"],
        }

    def test_decisions_stay_when_seen_again(self, store: FindingStore) -> None:
        decisions = (Status.FALSE_POSITIVE, Status.RISK_ACCEPTED, Status.ARCHIVED)
        store.ingest(PROJECT, [finding(n) for n in range(4)])
        for number, status in enumerate(decisions):
            store.set_status(PROJECT, uuid_of(number), status, actor="ann")
        assert_counts(store.ingest(PROJECT, [finding(n) for n in range(4)], close_missing=True), unchanged=4)
        assert_counts(store.ingest(PROJECT, [finding(n, cwe_ids=[5]) for n in range(3)]), updated=3)
        assert list_statuses(store) == [*decisions, "open"]

    def test_status_that_a_report_newly_says_is_taken_over(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [finding(1)], run=run_id_of(1))
        assert_counts(
            store.ingest(PROJECT, [finding(1, status="risk_accepted")], run=run_id_of(2)), updated=1
        )
        event = store.history(PROJECT, uuid_of(1))[-1]
        assert (dict(event.changes), event.run_id) == ({"status": ["open", "risk_accepted"]}, run_id_of(2))

    def test_status_that_a_report_repeats_does_not_undo_a_decision(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [finding(1, status="risk_accepted")])
        store.set_status(PROJECT, uuid_of(1), "open", actor="ann", comment="not acceptable")
        assert_counts(store.ingest(PROJECT, [finding(1, status="risk_accepted")]), unchanged=1)
        assert_counts(store.ingest(PROJECT, [finding(1, status="risk_accepted", cwe_ids=[5])]), updated=1)
        assert list_statuses(store) == ["open"]

    # -- diff and sightings --------------------------------------------------------------------------------

    def test_diff_of_runs_tells_added_and_removed(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [finding(1), finding(2)], run=run_id_of(1))
        store.ingest(PROJECT, [finding(2), finding(3)], run=run_id_of(2))
        diff = store.diff_runs(PROJECT, run_id_of(1), run_id_of(2))
        assert (diff.a, diff.b, diff.common) == (run_id_of(1), run_id_of(2), 1)
        assert (ids(diff.added), ids(diff.removed)) == ([uuid_of(3)], [uuid_of(1)])
        assert_same(diff.added[0], store.get_finding(PROJECT, uuid_of(3)))
        back = store.diff_runs(PROJECT, run_id_of(2), run_id_of(1))
        assert (ids(back.added), ids(back.removed)) == ([uuid_of(1)], [uuid_of(3)])

    @pytest.mark.parametrize("close_missing", [False, True])
    def test_diff_of_runs_knows_gaps(self, store: FindingStore, close_missing: bool) -> None:
        """Seen by number of run: 1 always, 2 in runs 1, 2 and 4, 3 only in 3, 4 in 1 and 5, 5 in 2 and 4."""
        seen = {1: {1, 2, 3, 4, 5}, 2: {1, 2, 4}, 3: {3}, 4: {1, 5}, 5: {2, 4}}
        detector = {n: "odd" if n == 3 else "scan.demo" for n in seen}
        for run in range(1, 6):
            report = [finding(n, detector_id=detector[n]) for n in seen if run in seen[n]]
            store.ingest(PROJECT, report, run=run_id_of(run), close_missing=close_missing)
            store.ingest(PROJECT, [finding(99, detector_id="another")], run=run_id_of(run + 50))
        for a in range(1, 6):
            for b in range(1, 6):
                diff = store.diff_runs(PROJECT, run_id_of(a), run_id_of(b))
                in_a, in_b = ({n for n in seen if run in seen[n]} for run in (a, b))
                assert sorted(ids(diff.added)) == [uuid_of(n) for n in sorted(in_b - in_a)], (
                    f"added {a} to {b}"
                )
                assert sorted(ids(diff.removed)) == [uuid_of(n) for n in sorted(in_a - in_b)], (
                    f"removed {a} to {b}"
                )
                assert diff.common == len(in_a & in_b), f"common of {a} and {b}"
            diff = store.diff_runs(PROJECT, run_id_of(a), run_id_of(a + 50))
            assert (ids(diff.added), diff.common) == ([uuid_of(99)], 0)

    def test_diff_of_unknown_run_is_refused(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [], run=run_id_of(1))
        store.ingest(OTHER, [], run=run_id_of(2))
        for a, b in (
            (run_id_of(1), run_id_of(2)),
            (run_id_of(2), run_id_of(1)),
            (run_id_of(1), "x"),
            ("\x00", run_id_of(1)),
        ):
            with pytest.raises(StorageValidationError):
                store.diff_runs(PROJECT, a, b)

    def test_sighting_moves_with_each_run(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        saved = store.sighting(PROJECT, uuid_of(1))
        assert (saved.last_run, saved.ordinal, saved.first_seen <= saved.last_seen) == (None, 0, True)
        store.ingest(PROJECT, [finding(1)], run=run_id_of(1))
        store.ingest(PROJECT, [finding(2)], run=run_id_of(2))
        seen = store.sighting(PROJECT, uuid_of(1))
        assert (seen.last_run, seen.first_seen) == (run_id_of(1), saved.first_seen)
        assert time_key(seen.last_seen) > time_key(saved.last_seen)
        store.ingest(PROJECT, [finding(1, severity="low")], run=run_id_of(3))
        last = store.sighting(PROJECT, uuid_of(1))
        assert (last.last_run, last.fingerprint) == (run_id_of(3), saved.fingerprint)
        assert time_key(last.last_seen) > time_key(seen.last_seen)

    def test_sighting_of_unknown_finding_raises(self, store: FindingStore) -> None:
        for finding_id in (uuid_of(1), "", "\x00", "\ud800"):
            with pytest.raises(StorageError):
                store.sighting(PROJECT, finding_id)


class QuarantineContract(Capabilities):
    """`rejected_originals`, `discard_rejected`, `retry_rejected`."""

    def test_good_documents_are_imported_and_bad_ones_kept_whole(self, store: FindingStore) -> None:
        given = [each for n, bad in enumerate(KEPT_WHOLE) for each in (bad, scanned(f"R{n}"))]
        report = store.ingest(PROJECT, given, on_invalid="quarantine", run=run_id_of(1))
        assert report.created == len(KEPT_WHOLE) == len(store.list_findings(PROJECT))
        assert [refused.index for refused in report.rejected] == list(range(0, 2 * len(KEPT_WHOLE), 2))
        kept = store.rejected_originals(PROJECT)
        assert [each.index for each in kept] == [refused.index for refused in report.rejected]
        for refused, each, original in zip(report.rejected, kept, KEPT_WHOLE, strict=True):
            assert json.dumps(each.original) == json.dumps(original), "the original is not whole"
            assert (each.rejected_id, each.field, each.reason) == (
                refused.rejected_id,
                refused.field,
                refused.reason,
            )
            assert refused.reason
            assert refused.field
            assert (each.run_id, each.at > "2024") == (run_id_of(1), True)

    def test_what_is_no_json_comes_back_equal(self, store: FindingStore) -> None:
        given = [
            each for value in NO_JSON for each in ({**scanned(), "evidence": {"n": value}, "x": value}, value)
        ]
        store.ingest(PROJECT, given, on_invalid="quarantine")
        kept = store.rejected_originals(PROJECT)
        for each, original in zip(kept, given, strict=True):
            assert_equal_values(each.original, original)
        again = store.retry_rejected(PROJECT)
        assert [one.rejected_id for one in again.rejected] == [one.rejected_id for one in kept]

    @relaxed
    @given(originals=st.lists(hostile_values(), min_size=1, max_size=4), copies=st.integers(0, 1))
    def test_any_value_comes_back_equal(self, originals: list[Any], copies: int, store: FindingStore) -> None:
        store.delete_project(PROJECT)
        given = [{**scanned(), "x": original} for original in originals + originals[:copies]] + originals
        report = store.ingest(PROJECT, given, on_invalid="quarantine")
        kept = {each.rejected_id: each.original for each in store.rejected_originals(PROJECT)}
        assert report.created + len(kept) == len(given)
        for refused in report.rejected:
            assert_equal_values(kept[refused.rejected_id or ""], given[refused.index])
        again = store.retry_rejected(PROJECT)
        assert {one.rejected_id for one in again.rejected} == kept.keys(), (
            "what came back is not what was kept"
        )

    def test_any_depth_comes_back_equal(self, store: FindingStore) -> None:
        given = [_deep_value(levels) for levels in (99, 100, 101, 3_000)]
        store.ingest(PROJECT, [scanned(evidence={"n": each}) for each in given], on_invalid="quarantine")
        for each, original in zip(store.rejected_originals(PROJECT), given, strict=True):
            assert_equal_values(each.original["evidence"]["n"], original)

    def test_what_cannot_be_made_again_is_kept_as_its_repr(self, store: FindingStore) -> None:
        loop: dict[Any, Any] = {Thing(): 1, Thing(): 2, "broken": Broken()}
        loop["me"] = [loop]
        store.ingest(PROJECT, [scanned(evidence={"a": Thing()}), loop], on_invalid="quarantine")
        thing, looped = store.rejected_originals(PROJECT)
        lost = LostValue(f"{__name__}.Thing", "Thing(7)")
        assert thing.original == {**scanned(), "evidence": {"a": lost}}
        *things, (broken, no_repr), (me, inside) = looped.original.items()
        assert things == [(lost, 1), (LostValue(lost.type, lost.text, 1), 2)]
        assert (broken, no_repr.type, me, inside[0].type) == (
            "broken",
            f"{__name__}.Broken",
            "me",
            "builtins.dict",
        )
        refused = store.retry_rejected(PROJECT).rejected[0]
        assert (refused.rejected_id, refused.field) == (thing.rejected_id, "evidence.a")
        assert "only the repr was kept: Thing(7)" in refused.reason
        fixed = {thing.rejected_id: {**thing.original, "evidence": {"a": 7}}}
        assert store.retry_rejected(PROJECT, fixed).created == 1

    def test_originals_are_oldest_first(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned(), broken(a=1), broken(a=2)], on_invalid="quarantine")
        store.ingest(PROJECT, [broken(a=3)], on_invalid="quarantine")
        kept = store.rejected_originals(PROJECT)
        assert [each.original for each in kept] == [{"a": 1}, {"a": 2}, {"a": 3}]

    def test_equal_refused_documents_are_all_kept(self, store: FindingStore) -> None:
        report = store.ingest(PROJECT, [broken(a=1)] * 3, on_invalid="quarantine")
        assert len({refused.rejected_id for refused in report.rejected}) == 3
        assert [each.original for each in store.rejected_originals(PROJECT)] == [{"a": 1}] * 3

    def test_original_refused_again_is_kept_once_with_the_later_run(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [broken(a=1)], on_invalid="quarantine", run=run_id_of(1))
        store.ingest(PROJECT, [scanned(), broken(a=1)], on_invalid="quarantine", run=run_id_of(2))
        kept = store.rejected_originals(PROJECT)
        assert [(each.original, each.run_id, each.index) for each in kept] == [({"a": 1}, run_id_of(2), 1)]

    def test_taken_id_is_kept_too(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        report = store.ingest(PROJECT, [scanned("R7", id=uuid_of(1)), scanned("R8")], on_invalid="quarantine")
        assert_counts(report, created=1, rejected=1)
        assert (report.rejected[0].index, report.rejected[0].field) == (0, "id")
        assert store.get_finding(PROJECT, uuid_of(1))["title"] == "Finding 1"

    def test_originals_belong_to_the_caller(self, store: FindingStore) -> None:
        bad = broken(title=5, evidence={"a": [1]})
        store.ingest(PROJECT, [bad], on_invalid="quarantine")
        bad["evidence"]["a"].append(2)
        store.rejected_originals(PROJECT)[0].original["evidence"]["a"].append(3)
        assert store.rejected_originals(PROJECT)[0].original == {"title": 5, "evidence": {"a": [1]}}

    def test_discard_forgets_originals(self, store: FindingStore) -> None:
        report = store.ingest(PROJECT, [broken(a=1), broken(a=2)], on_invalid="quarantine")
        names = [refused.rejected_id or "" for refused in report.rejected]
        assert store.discard_rejected(PROJECT, [names[0], uuid_of(1)]) == 1
        assert store.discard_rejected(PROJECT, names[:1]) == 0
        assert store.discard_rejected(OTHER, names) == 0
        assert [each.original for each in store.rejected_originals(PROJECT)] == [{"a": 2}]
        assert OTHER not in store.list_projects()

    def test_fixed_originals_are_imported(self, store: FindingStore) -> None:
        report = store.ingest(PROJECT, [scanned("R1", severity="High"), {}], on_invalid="quarantine")
        first, second = (refused.rejected_id or "" for refused in report.rejected)
        retried = store.retry_rejected(PROJECT, {first: scanned("R1", severity="high")})
        assert_counts(retried, created=1)
        assert [each.rejected_id for each in store.rejected_originals(PROJECT)] == [second]
        assert [document["severity"] for document in store.list_findings(PROJECT)] == ["high"]
        assert [run.id for run in store.runs(PROJECT)] == [report.run_id, retried.run_id]

    def test_fixed_original_that_is_still_broken_stays(self, store: FindingStore) -> None:
        report = store.ingest(PROJECT, [broken(title="")], on_invalid="quarantine")
        name = report.rejected[0].rejected_id or ""
        assert len(store.retry_rejected(PROJECT, {name: broken(title="still")}).rejected) == 1
        assert len(store.rejected_originals(PROJECT)) == 1

    def test_retry_of_all_keeps_what_is_still_broken(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.ingest(PROJECT, [broken(a=1), scanned("R7", id=uuid_of(1))], on_invalid="quarantine")
        assert len(store.retry_rejected(PROJECT).rejected) == 2
        assert len(store.rejected_originals(PROJECT)) == 2
        store.purge(PROJECT, closed_before="9999-01-01T00:00:00Z")
        store.save_finding(finding(1, status="resolved"))
        store.purge(PROJECT, closed_before="9999-01-01T00:00:00Z")
        report = store.retry_rejected(PROJECT)
        assert (report.created, len(report.rejected)) == (1, 1)
        assert [each.original for each in store.rejected_originals(PROJECT)] == [{"a": 1}]

    def test_retry_of_an_unknown_original_is_refused(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [{}], on_invalid="quarantine")
        before = project_contents(store)
        with pytest.raises(StorageError):
            store.retry_rejected(PROJECT, {uuid_of(5): scanned()})
        assert project_contents(store) == before

    def test_originals_of_projects_are_apart(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [broken(a=1)], on_invalid="quarantine")
        store.ingest(OTHER, [broken(a=1)], on_invalid="quarantine")
        store.delete_project(OTHER)
        assert len(store.rejected_originals(PROJECT)) == 1
        assert store.rejected_originals(OTHER) == []
