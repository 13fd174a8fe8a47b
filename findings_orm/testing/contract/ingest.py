"""The suite, part 4: imports. Which document is which finding, and what an import changes."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from findings_orm.errors import SchemaVersionError, StorageConflictError, StorageError, StorageValidationError
from findings_orm.finding import StatusName, validate_finding
from findings_orm.fingerprint import fingerprint
from findings_orm.port import FindingStore, IngestReport, Run
from findings_orm.testing.contract.base import (
    Capabilities,
    list_statuses,
    project_contents,
    relaxed,
    summarize_events,
)
from findings_orm.testing.samples import (
    OTHER,
    PROJECT,
    assert_all_same,
    finding,
    ids,
    run_id_of,
    scanned,
    uuid_of,
    without_fields,
)
from findings_orm.testing.strategies import scans

Document = dict[str, Any]
SAME: list[tuple[Document, Document]] = [
    ({"line": 10}, {"line": 99}),
    ({"resource": "src/a.py:10"}, {"resource": "src/a.py:12"}),
    ({"resource": "C:\\src\\run:10:2"}, {"resource": "C:\\src\\run:12:4"}),
    (
        {"resource": "bin/run:1", "location": {"path": "bin/run"}},
        {"resource": "bin/run:2", "location": {"path": "bin/run"}},
    ),
    ({"title": "before"}, {"title": "after"}),
    ({"severity": "low"}, {"severity": "high"}),
    ({"fingerprint": "f", "rule": "R1"}, {"fingerprint": "f", "rule": "R2", "resource": "b", "title": "t"}),
    ({"rule": None, "severity": "low"}, {"rule": None, "severity": "high"}),
]
"""Changes of `scanned` that leave it the same finding."""
DIFFERENT: list[tuple[Document, Document]] = [
    ({"rule": "R1"}, {"rule": "R2"}),
    ({"rule": None, "title": "a"}, {"rule": None, "title": "b"}),
    ({"rule": "x"}, {"rule": None, "title": "x"}),
    ({"resource": "src/a.py"}, {"resource": "src/b.py"}),
    ({"resource": "http://h:8080"}, {"resource": "http://h:8081"}),
    ({"resource": "h:8080"}, {"resource": "h:8081"}),
    ({"resource": "ghcr.io/org/app:1"}, {"resource": "ghcr.io/org/app:2"}),
    ({"resource": "localhost:5000/app:1.2"}, {"resource": "localhost:5000/app:1.3"}),
    (
        {"resource": "arn:aws:ecs:eu-west-1:1:task-definition/Web:7"},
        {"resource": "arn:aws:ecs:eu-west-1:1:task-definition/Web:8"},
    ),
    ({"resource": "/api/Users(12)"}, {"resource": "/api/Users(13)"}),
    ({"resource": "A.py"}, {"resource": "a.py"}),
    ({"detector_id": "a"}, {"detector_id": "b"}),
    ({"detector_id": "a", "rule": "bc"}, {"detector_id": "ab", "rule": "c"}),
    ({"rule": "R", "resource": "1"}, {"rule": "R1", "resource": ""}),
    ({"location": {"snippet": "a()"}}, {"location": {"snippet": "b()"}}),
    ({"fingerprint": "f"}, {"fingerprint": "g"}),
    ({"fingerprint": "f", "detector_id": "a"}, {"fingerprint": "f", "detector_id": "b"}),
    ({"title": "é", "rule": None}, {"title": "e\u0301", "rule": None}),
]
"""Changes of `scanned` that make different findings."""


def assert_counts(report: IngestReport, **expected: int) -> None:
    """Assert the counts of a report; those not named are 0."""
    assert report.counts() == {**dict.fromkeys(IngestReport().counts(), 0), **expected}


class IngestContract(Capabilities):
    """`ingest`, without runs and quarantine."""

    # -- new and known -------------------------------------------------------------------------------------

    def test_new_findings_are_created(self, store: FindingStore) -> None:
        report = store.ingest(PROJECT, [scanned("R1"), scanned("R2")], run=run_id_of(1))
        assert_counts(report, created=2)
        for document in store.list_findings(PROJECT):
            assert (document["project_id"], document["run_id"]) == (PROJECT, run_id_of(1))
            assert document["id"][14] == "7", "a new id must be a time-ordered UUID (version 7)"
            assert_all_same([validate_finding(document)], [document])
            assert store.history(PROJECT, document["id"]) == []

    def test_new_ids_are_in_the_order_of_the_report(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned(f"R{n}") for n in range(50)])
        by_id = sorted(store.list_findings(PROJECT), key=lambda document: document["id"])
        assert [document["rule_id"] for document in by_id] == [f"R{n}" for n in range(50)]

    def test_callers_documents_are_not_changed(self, store: FindingStore) -> None:
        report = [
            scanned("R1", 5, evidence={"a": [1]}),
            finding(1),
            scanned("R2", finding_schema_version="1.1.0"),
        ]
        given_ones = copy.deepcopy(report)
        store.ingest(PROJECT, report)
        store.ingest(PROJECT, report)
        assert report == given_ones

    def test_given_fields_of_a_new_finding_are_kept(self, store: FindingStore) -> None:
        document = finding(7, run_id=run_id_of(9), status="triaged")
        store.ingest(PROJECT, [document], run=run_id_of(1))
        assert_all_same(store.list_findings(PROJECT), [validate_finding(document)])

    def test_same_report_again_changes_nothing(self, store: FindingStore) -> None:
        report = [scanned("R1", 3), scanned("R2"), finding(1)]
        store.ingest(PROJECT, report)
        before = store.list_findings(PROJECT)
        assert_counts(store.ingest(PROJECT, report, close_missing=True), unchanged=3)
        assert_all_same(store.list_findings(PROJECT), before)

    def test_changed_fields_are_updated(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned("R1", evidence={"n": 1})], run=run_id_of(1))
        before = store.list_findings(PROJECT)[0]
        new = scanned("R1", severity="high", evidence={"n": 1.0}, title="new title", tags=["x"])
        assert_counts(store.ingest(PROJECT, [new], run=run_id_of(2)), updated=1)
        after = {**before, "severity": "high", "evidence": {"n": 1.0}, "title": "new title", "tags": ["x"]}
        assert_all_same(store.list_findings(PROJECT), [after])

    def test_provenance_alone_is_no_change(self, store: FindingStore) -> None:
        tool = {"commit": "aa11", "tool": {"version": "1"}}
        store.ingest(PROJECT, [scanned("R1", provenance=tool), scanned("R2")])
        before = store.list_findings(PROJECT)
        again = [scanned("R1", provenance={"commit": "bb22"}), scanned("R2", provenance={"commit": "bb22"})]
        assert_counts(store.ingest(PROJECT, again), unchanged=2)
        assert_counts(store.ingest(PROJECT, iter(again[::-1])), unchanged=2)
        assert_all_same(store.list_findings(PROJECT), before)
        assert_counts(
            store.ingest(PROJECT, [scanned("R1", provenance={"commit": "bb22"}, severity="high")]), updated=1
        )
        changed = next(one for one in store.list_findings(PROJECT) if one["rule_id"] == "R1")
        assert changed["provenance"] == {"commit": "bb22"}, "it is not taken over with what changed"
        (event,) = store.history(PROJECT, changed["id"])
        assert set(event.changes) == {"severity"}

    def test_provenance_of_what_is_known_is_validated(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned("R1", provenance={"a": 1})])
        wrong: list[Any] = [
            5,
            None,
            [],
            {"a": float("nan")},
            {"a": {1}},
            {"a": b""},
            {1: "a"},
            {"a": "\ud800"},
        ]
        for provenance in wrong:
            with pytest.raises(StorageValidationError):
                store.ingest(PROJECT, [scanned("R1", provenance=provenance)])

    def test_changed_fields_are_in_the_history(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned("R1")], run=run_id_of(1))
        store.ingest(PROJECT, [scanned("R1", severity="high", cwe_ids=[79])], run=run_id_of(2))
        finding_id = store.list_findings(PROJECT)[0]["id"]
        events = store.history(PROJECT, finding_id)
        changes = {"severity": ["medium", "high"], "cwe_ids": [[], [79]]}
        assert summarize_events(events) == [("change", "ingest", changes, "")]
        assert (events[0].run_id, events[0].finding_id) == (run_id_of(2), finding_id)

    def test_known_finding_keeps_id_time_run_and_status(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [finding(1, rule_id="R1")], run=run_id_of(1))
        store.set_status(PROJECT, uuid_of(1), "in_progress", actor="ann")
        again = finding(
            1, rule_id="R1", id=uuid_of(2), created_at="2025-01-01T00:00:00Z", run_id=run_id_of(5)
        )
        assert_counts(store.ingest(PROJECT, [again], run=run_id_of(2)), unchanged=1)
        kept = validate_finding(finding(1, rule_id="R1", run_id=run_id_of(1), status="in_progress"))
        assert_all_same(store.list_findings(PROJECT), [kept])

    def test_findings_stored_by_save_are_recognised(self, store: FindingStore) -> None:
        store.save_findings([finding(1), finding(2, rule_id="R1", location={"start_line": 4})])
        store.set_status(PROJECT, uuid_of(1), "false_positive", actor="ann")
        again = [finding(1), finding(2, rule_id="R1", location={"start_line": 9}, title="other")]
        again = [without_fields(document, "id", "created_at", "project_id") for document in again]
        assert_counts(store.ingest(PROJECT, again), unchanged=1, updated=1)
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1), uuid_of(2)]
        assert list_statuses(store) == ["false_positive", "open"]

    def test_finding_changed_by_save_is_recognised_as_what_it_is_now(self, store: FindingStore) -> None:
        store.save_finding(finding(1, rule_id="R1"))
        store.save_finding(finding(1, rule_id="R2"))
        assert_counts(store.ingest(PROJECT, [finding(1, rule_id="R2")]), unchanged=1)
        assert_counts(store.ingest(PROJECT, [finding(9, rule_id="R1", resource="src/file1.py")]), created=1)

    def test_projects_do_not_know_each_others_findings(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned()], run=run_id_of(1))
        assert_counts(store.ingest(OTHER, [scanned()], run=run_id_of(1)), created=1)
        assert len(store.runs(PROJECT)) == len(store.runs(OTHER)) == 1

    # -- input ---------------------------------------------------------------------------------------------

    def test_documents_come_from_any_iterable(self, store: FindingStore) -> None:
        report = [scanned("R1"), scanned("R2")]
        assert store.ingest(PROJECT, (document for document in report)).created == 2
        assert store.ingest(PROJECT, tuple(report)).unchanged == 2
        assert store.ingest(PROJECT, {1: report[0]}.values()).unchanged == 1
        assert_counts(store.ingest(PROJECT, []))

    def test_documents_may_be_any_mapping(self, store: FindingStore) -> None:
        assert store.ingest(PROJECT, [types.MappingProxyType(scanned())]).created == 1

    def test_ingest_may_read_the_store_while_it_takes_documents(self, store: FindingStore) -> None:
        store.save_findings(finding(number) for number in range(20))
        copies = (without_fields(document, "project_id") for document in store.iter_findings(PROJECT))
        assert_counts(store.ingest(OTHER, copies), created=20)
        assert_counts(store.ingest(PROJECT, store.iter_findings(PROJECT)), unchanged=20)

    def test_own_findings_imported_again_change_nothing(self, store: FindingStore) -> None:
        statuses_of_all: list[StatusName] = [
            "open",
            "triaged",
            "in_progress",
            "resolved",
            "false_positive",
            "risk_accepted",
        ]
        store.ingest(PROJECT, [finding(number) for number in range(7)])
        for number, status in enumerate(statuses_of_all):
            store.set_status(PROJECT, uuid_of(number), status, actor="ann")
        before = store.list_findings(PROJECT)
        assert_counts(store.ingest(PROJECT, before, close_missing=True), unchanged=7)
        assert_all_same(store.list_findings(PROJECT), before)

    def test_error_of_the_callers_generator_leaves_nothing(self, store: FindingStore) -> None:
        def break_off() -> Iterator[Document]:
            yield scanned()
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            store.ingest(PROJECT, break_off())
        assert (store.list_projects(), store.runs(PROJECT)) == ([], [])

    def test_document_of_another_project_is_refused(self, store: FindingStore) -> None:
        with pytest.raises(StorageValidationError) as caught:
            store.ingest(PROJECT, [scanned(), finding(2, project_id=OTHER)])
        assert (caught.value.index, caught.value.field) == (1, "project_id")
        assert (store.list_findings(PROJECT), store.list_findings(OTHER)) == ([], [])

    def test_broken_document_leaves_nothing(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned("R0")])
        before = project_contents(store)
        for field, value in (("title", ""), ("severity", "High"), ("x", 1), ("created_at", "now")):
            bad = {**scanned(), field: value}
            with pytest.raises(StorageValidationError) as caught:
                store.ingest(PROJECT, [scanned("R1"), scanned("R0", severity="low"), bad])
            assert (caught.value.index, caught.value.field) == (2, field)
        assert project_contents(store) == before

    def test_document_of_a_newer_version_leaves_nothing(self, store: FindingStore) -> None:
        with pytest.raises(SchemaVersionError):
            store.ingest(PROJECT, [scanned("R1"), scanned("R2", finding_schema_version="9.0.0")])
        assert store.list_projects() == []

    def test_bad_project_is_refused(self, store: FindingStore) -> None:
        for project_id in ("", "a\n", "x" * 256, "\ud800", "\x00"):
            with pytest.raises(StorageValidationError):
                store.ingest(project_id, [])
        assert store.list_projects() == []

    def test_unknown_way_with_broken_documents_is_refused(self, store: FindingStore) -> None:
        with pytest.raises(StorageError):
            store.ingest(PROJECT, [scanned()], on_invalid="ignore")  # type: ignore[arg-type]
        assert store.list_projects() == []

    def test_report_takes_back_its_own_suppression_only(self, store: FindingStore) -> None:
        suppressed = scanned(
            status="risk_accepted", evidence={"sarif": {"suppressions": [{"kind": "inSource"}]}}
        )
        silent, taken_back = (
            scanned(evidence={"sarif": {}}),
            scanned(evidence={"sarif": {"suppressions": []}}),
        )

        def status_after(*reports: Document) -> str:
            for report in reports:
                store.ingest(PROJECT, [report])
            (found,) = store.list_findings(PROJECT)
            return str(found["status"])

        assert status_after(suppressed, silent) == "risk_accepted"
        assert status_after(suppressed, taken_back) == "open"
        (found,) = store.list_findings(PROJECT)
        store.set_status(PROJECT, found["id"], "false_positive", actor="ann")
        assert status_after(suppressed, taken_back) == "false_positive"

    # -- identity ------------------------------------------------------------------------------------------

    def test_same_finding(self, store: FindingStore) -> None:
        for one, other in SAME:
            store.delete_project(PROJECT)
            store.ingest(PROJECT, [scanned(**one)])
            report = store.ingest(PROJECT, [scanned(**other)])
            assert (report.created, report.updated) == (0, 1), f"{one} is not {other}"

    def test_different_findings(self, store: FindingStore) -> None:
        for one, other in DIFFERENT:
            store.delete_project(PROJECT)
            store.ingest(PROJECT, [scanned(**one)])
            assert store.ingest(PROJECT, [scanned(**other)]).created == 1, f"{one} is taken for {other}"
            assert store.ingest(PROJECT, [scanned(**other), scanned(**one)]).unchanged == 2

    def test_sighting_names_the_fingerprint(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned("R1", 5)], run=run_id_of(1))
        document = store.list_findings(PROJECT)[0]
        sighting = store.sighting(PROJECT, document["id"])
        assert sighting.fingerprint == fingerprint(document).digest.hex()
        assert (sighting.finding_id, sighting.ordinal, sighting.last_run) == (document["id"], 0, run_id_of(1))

    # -- ids -----------------------------------------------------------------------------------------------

    def test_given_id_in_capitals_is_the_same_id(self, store: FindingStore) -> None:
        small = "abcdef00-0000-4000-8000-000000000001"
        store.ingest(PROJECT, [scanned("R1", id=small.upper(), run_id=small.upper())], run=small.upper())
        assert ids(store.list_findings(PROJECT)) == [small]
        assert_counts(store.ingest(PROJECT, [scanned("R1", id=small)]), unchanged=1)

    def test_id_of_another_finding_is_a_conflict(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        before = project_contents(store)
        with pytest.raises(StorageConflictError):
            store.ingest(PROJECT, [scanned("R5"), scanned("R6", id=uuid_of(1))])
        assert project_contents(store) == before

    def test_id_given_to_two_new_findings_is_a_conflict(self, store: FindingStore) -> None:
        with pytest.raises(StorageConflictError):
            store.ingest(PROJECT, [scanned("R5", id=uuid_of(1)), scanned("R6", id=uuid_of(1))])
        assert store.list_projects() == []

    def test_id_of_another_project_is_no_conflict(self, store: FindingStore) -> None:
        store.save_finding(finding(1, project_id=OTHER))
        store.ingest(PROJECT, [scanned(id=uuid_of(1))])
        assert ids(store.list_findings(PROJECT)) == ids(store.list_findings(OTHER)) == [uuid_of(1)]

    # -- dry run -------------------------------------------------------------------------------------------

    @relaxed
    @given(first=scans(), second=scans(), close_missing=st.booleans())
    def test_dry_run_tells_what_the_import_does_and_writes_nothing(
        self, store: FindingStore, first: list[Document], second: list[Document], close_missing: bool
    ) -> None:
        store.delete_project(PROJECT)
        store.ingest(PROJECT, first, run=run_id_of(1))
        before = project_contents(store)
        second = [*second, {"detector_id": "bad one"}]
        options: dict[str, Any] = {
            "run": Run(run_id_of(2)),
            "close_missing": close_missing,
            "on_invalid": "quarantine",
        }
        told = store.ingest(PROJECT, second, dry_run=True, **options)
        assert project_contents(store) == before, "a dry run wrote something"
        done = store.ingest(PROJECT, second, **options)
        assert (told.dry_run, done.dry_run) == (True, False)
        assert told.counts() == done.counts()
        assert [(r.index, r.field, r.reason) for r in told.rejected] == [
            (r.index, r.field, r.reason) for r in done.rejected
        ]

    def test_dry_run_of_an_unknown_project_leaves_it_unknown(self, store: FindingStore) -> None:
        assert_counts(store.ingest(PROJECT, [scanned()], dry_run=True), created=1)
        assert (store.list_projects(), store.revision(PROJECT)) == ([], 0)
