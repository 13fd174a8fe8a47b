"""The suite, part 13: a finding whose rule or tool has another name now, and one that the tool itself says is the same."""

from __future__ import annotations

from typing import Any

import pytest

from findings_orm.errors import StorageConflictError
from findings_orm.port import FindingStore, Run
from findings_orm.testing.contract.base import Capabilities, list_statuses
from findings_orm.testing.contract.equals import lines_by_id
from findings_orm.testing.contract.ingest import assert_counts
from findings_orm.testing.samples import PROJECT, assert_same, ids, run_id_of, scanned

Document = dict[str, Any]
GUID = "3d0f6f52-6a0e-4a3e-9d51-4b5c7e5a10{:02}"


def said(message: str, line: int, guid: object = None, **changes: Any) -> Document:
    """Return a document of SARIF with a message, and the tool's word for what is one finding in all scans."""
    sarif = {} if guid is None else {"correlationGuid": guid}
    return scanned(changes.pop("rule", "R1"), line, evidence={"message": message, "sarif": sarif}, **changes)


def of_rule(rule: str, *former: object, of: str | None = None, **changes: Any) -> Document:
    """Return a document of a rule that had other names."""
    descriptor = {"id": of or rule, "deprecatedIds": list(former)} if former else {"id": of or rule}
    return scanned(
        rule, changes.pop("line", None), title="Weak digest", provenance={"sarif_rule": descriptor}, **changes
    )


def decide(store: FindingStore, **fields: object) -> str:
    """Mark the one finding with these fields as a false positive; return its id."""
    documents: list[Document] = [{**one} for one in store.list_findings(PROJECT)]
    (found,) = (
        str(one["id"]) for one in documents if all(one[name] == value for name, value in fields.items())
    )
    store.set_status(PROJECT, found, "false_positive", actor="ann")
    return found


class RenameContract(Capabilities):
    """Decisions stay with their finding when names change."""

    def test_the_word_of_the_tool_makes_two_one(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [said("one", 20, GUID.format(1)), said("two", 40, GUID.format(2))])
        decided = decide(store, location=scanned(line=20)["location"])
        report = [
            said("reworded", 90, GUID.format(1).upper(), resource="src/other.py", rule="R7"),
            said("two", 40, GUID.format(2)),
        ]
        assert_counts(store.ingest(PROJECT, report, close_missing=True), updated=1, unchanged=1)
        found = store.get_finding(PROJECT, decided)
        assert (found["rule_id"], found["resource"], found["status"]) == (
            "R7",
            "src/other.py",
            "false_positive",
        )
        assert_counts(store.ingest(PROJECT, report, close_missing=True), unchanged=2)

    def test_a_word_that_several_share_proves_nothing(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [said("one", 20, GUID.format(1)), said("two", 40, GUID.format(1), rule="R2")])
        report = [said("three", 90, GUID.format(1), rule="R3"), said("four", 95, 5, rule="R4")]
        assert_counts(store.ingest(PROJECT, report, close_missing=True), created=2, resolved=2)

    @pytest.mark.parametrize("line", [None, 3])
    @pytest.mark.parametrize("fingerprint", [None, "new"])
    def test_rule_with_a_new_name(
        self, store: FindingStore, line: int | None, fingerprint: str | None
    ) -> None:
        if fingerprint and line is None:
            return  # nothing says where it is
        old = of_rule("weak-hash", line=line, fingerprint=fingerprint and "old")
        store.ingest(PROJECT, [old, of_rule("other", line=9)])
        decided = decide(store, rule_id="weak-hash")
        new = of_rule("hash/weak", "weaker-hash", 5, "weak-hash", line=line, fingerprint=fingerprint)
        assert_counts(
            store.ingest(PROJECT, [new, of_rule("other", line=9)], close_missing=True), updated=1, unchanged=1
        )
        found = store.get_finding(PROJECT, decided)
        assert (found["rule_id"], found["status"]) == ("hash/weak", "false_positive")
        assert_counts(store.ingest(PROJECT, [new], close_missing=True), unchanged=1, resolved=1)

    def test_findings_of_a_renamed_rule_stay_themselves(self, store: FindingStore) -> None:
        def report(rule: str, *former: str, more: int = 0) -> list[Document]:
            return [
                of_rule(rule, *former, line=line + more, evidence={"message": f"m {word}"})
                for line, word in ((10, "a"), (20, "a"), (30, "b"))
            ]

        store.ingest(PROJECT, report("old"))
        before = lines_by_id(store)
        assert_counts(store.ingest(PROJECT, report("new", "old", more=2), close_missing=True), updated=3)
        assert lines_by_id(store) == {finding_id: (line or 0) + 2 for finding_id, line in before.items()}

    def test_what_is_behind_the_name_of_a_rule_stays(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [of_rule("old/md5"), of_rule("old/sha1")])
        decided = decide(store, rule_id="old/md5")
        report = [of_rule(f"new/{kind}", "old", of="new") for kind in ("sha1", "md5")]
        assert_counts(store.ingest(PROJECT, report, close_missing=True), updated=2)
        assert store.get_finding(PROJECT, decided)["rule_id"] == "new/md5"

    def test_rule_that_still_is_there_is_no_former_one(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [of_rule("old", line=3)])
        kept = decide(store, rule_id="old")
        report = [of_rule("old", line=3), of_rule("new", "old", line=3)]
        assert_counts(store.ingest(PROJECT, report, close_missing=True), created=1, unchanged=1)
        assert sorted(list_statuses(store)) == ["false_positive", "open"]
        assert store.get_finding(PROJECT, kept)["rule_id"] == "old"

    def test_tool_with_a_new_name(self, store: FindingStore) -> None:
        def report(name: str) -> list[Document]:
            return [scanned(rule, detector_id=name, fingerprint=f"f{rule}") for rule in ("R1", "R2", "R3")]

        store.ingest(PROJECT, report("semgrep"), run=run_id_of(1))
        decide(store, rule_id="R1")
        before = store.list_findings(PROJECT)
        for again in (report("semgrep-oss"), iter(report("semgrep-oss"))):
            assert_counts(store.ingest(PROJECT, again, close_missing=True), unchanged=3)
        assert_same(store.list_findings(PROJECT), before)
        run = Run(run_id_of(2), detectors=["semgrep-oss"])
        assert_counts(
            store.ingest(PROJECT, report("semgrep-oss")[:2], run=run, close_missing=True),
            unchanged=2,
            resolved=1,
        )
        assert store.ingest(PROJECT, report("semgrep-oss")[:2], run=run).repeated
        with pytest.raises(StorageConflictError):
            store.ingest(PROJECT, report("semgrep-oss"), run=run)
        assert {name for each in store.runs(PROJECT) for name in each.detectors} == {"semgrep"}
        assert ids(store.list_findings(PROJECT)) == ids(before)

    def test_tools_that_a_project_knows_by_both_names_stay_two(self, store: FindingStore) -> None:
        store.ingest(
            PROJECT, [scanned(detector_id="codeql"), scanned(detector_id="codeql-command-line-toolchain")]
        )
        for name in ("codeql", "codeql-command-line-toolchain"):
            assert_counts(store.ingest(PROJECT, [scanned(detector_id=name)], close_missing=True), unchanged=1)
        assert_counts(store.ingest(PROJECT, [scanned(detector_id="bolt")], close_missing=True), created=1)
        assert_counts(store.ingest(PROJECT, [scanned(detector_id="nut")], close_missing=True), created=1)
