"""The suite, part 5: findings that are equal. How many they are, and which is which."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from findings_orm.errors import StorageConflictError, StorageValidationError
from findings_orm.port import FindingStore
from findings_orm.query import FindingQuery
from findings_orm.testing.contract.base import Capabilities, list_statuses, relaxed
from findings_orm.testing.contract.ingest import assert_counts
from findings_orm.testing.samples import PROJECT, assert_all_same, finding, scanned, uuid_of, without_fields
from findings_orm.testing.strategies import scans

Document = dict[str, Any]
Lines = list[int | None]
PAIRINGS: list[tuple[Lines, Lines, Lines]] = [
    ([10, 20, 30], [30, 10, 20], [10, 20, 30]),
    ([10, 20, 30], [20], [10, 20, 30]),
    ([10, 20, 30], [21], [10, 21, 30]),
    ([10, 20, 30], [33, 12], [12, 20, 33]),
    ([10, 20], [12, 95], [12, 95]),
    ([10, 20], [20, 21], [10, 20]),
    ([10, 20, 30], [11, 21, 31], [11, 21, 31]),
    ([10, 20, 30], [20, 30, 40], [20, 30, 40]),
    ([10, 22, 31, 47], [22, 31, 47, 75], [10, 22, 31, 47]),
    ([52, 54, 56], [54, 56, 58], [54, 56, 58]),
    ([100], [1, 99, 500], [99]),
    ([10, None], [None, 15], [15, None]),
    ([None], [7], [7]),
    ([7], [None], [None]),
    ([10, 10, 10], [10, 10], [10, 10, 10]),
    ([1, 1000], [1001, 2], [2, 1001]),
]
"""Lines of stored findings, lines of a report, and the lines of the stored ones afterwards, in their order."""


def lines_by_id(store: FindingStore) -> dict[str, int | None]:
    """Return the line of each finding by its id."""
    return {d["id"]: (d["location"] or {}).get("start_line") for d in store.list_findings(PROJECT)}


class EqualContract(Capabilities):
    """N equal findings stay N, and each stays itself."""

    @relaxed
    @given(report=scans(), random=st.randoms(use_true_random=False))
    def test_n_equal_findings_stay_n_in_any_order(
        self, store: FindingStore, report: list[Document], random: random.Random
    ) -> None:
        store.delete_project(PROJECT)
        assert_counts(store.ingest(PROJECT, report), created=len(report))
        before = store.list_findings(PROJECT)
        random.shuffle(report)
        assert_counts(store.ingest(PROJECT, report, close_missing=True), unchanged=len(report))
        assert_all_same(store.list_findings(PROJECT), before)

    def test_equal_findings_have_ordinals(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.ingest(PROJECT, [finding(1), *([without_fields(finding(1), "id")] * 3)])
        sightings = [store.sighting(PROJECT, document["id"]) for document in store.list_findings(PROJECT)]
        assert sorted(sighting.ordinal for sighting in sightings) == [0, 1, 2, 3]
        assert len({sighting.fingerprint for sighting in sightings}) == 1

    def test_more_of_the_same_creates_the_difference(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned()] * 2)
        assert_counts(store.ingest(PROJECT, [scanned()] * 5, close_missing=True), created=3, unchanged=2)

    def test_fewer_of_the_same_closes_the_difference(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned()] * 5)
        assert_counts(store.ingest(PROJECT, [scanned()] * 2), unchanged=2)
        assert list_statuses(store) == ["open"] * 5
        assert_counts(store.ingest(PROJECT, [scanned()] * 2, close_missing=True), unchanged=2, resolved=3)
        assert sorted(list_statuses(store)) == ["open"] * 2 + ["resolved"] * 3

    def test_all_of_the_same_come_back(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [scanned("R1", n) for n in (1, 2, 3)])
        store.ingest(PROJECT, [scanned("R1", 2)], close_missing=True)
        report = store.ingest(PROJECT, [scanned("R1", n) for n in (1, 2, 3)], close_missing=True)
        assert_counts(report, unchanged=1, reopened=2)
        assert (sorted(lines_by_id(store).values(), key=str), list_statuses(store)) == (
            [1, 2, 3],
            ["open"] * 3,
        )

    @pytest.mark.parametrize("severity", ["medium", "high"])
    def test_equal_findings_pair_as_a_diff_would(self, store: FindingStore, severity: str) -> None:
        """The incoming ones are as they were (medium) or changed, which must not matter."""
        for stored, incoming, expected in PAIRINGS:
            store.delete_project(PROJECT)
            store.save_findings([_equal_finding(line, number) for number, line in enumerate(stored)])
            report = [{**_equal_finding(line), "severity": severity} for line in incoming]
            store.ingest(PROJECT, report, close_missing=True)
            now = lines_by_id(store)
            assert [now[uuid_of(number)] for number in range(len(stored))] == expected, (stored, incoming)
            touched = [
                document["id"] for document in store.list_findings(PROJECT) if document["status"] == "open"
            ]
            assert Counter(now[each] for each in touched) == Counter(incoming)
            created = now.keys() - {uuid_of(number) for number in range(len(stored))}
            assert created <= {*touched}

    def test_pairing_by_id_comes_first(self, store: FindingStore) -> None:
        store.save_findings([_equal_finding(10, 1), _equal_finding(20, 2)])
        assert_counts(store.ingest(PROJECT, [_equal_finding(10, 2), _equal_finding(20, 1)]), updated=2)
        assert lines_by_id(store) == {uuid_of(1): 20, uuid_of(2): 10}

    def test_status_and_history_stay_with_their_instance(self, store: FindingStore) -> None:
        store.save_findings([_equal_finding(line, line) for line in (10, 20, 30)])
        store.set_status(PROJECT, uuid_of(20), "false_positive", actor="ann", comment="no")
        store.ingest(PROJECT, [_equal_finding(line) for line in (32, 22, 12)])
        assert lines_by_id(store) == {uuid_of(10): 12, uuid_of(20): 22, uuid_of(30): 32}
        assert store.get_finding(PROJECT, uuid_of(20))["status"] == "false_positive"
        assert [event.kind for event in store.history(PROJECT, uuid_of(20))] == ["status", "change"]
        assert [event.kind for event in store.history(PROJECT, uuid_of(10))] == ["change"]

    @pytest.mark.parametrize(
        ("stored", "decided", "incoming", "expected"),
        [
            ([52, 54, 56], 54, [54, 56, 58], 56),
            ([10, 22, 31, 47], 10, [22, 31, 47, 75], None),
            ([10, 22, 31, 47], 22, [22, 31, 47, 75], 22),
            ([10, 40], 10, [10], 10),
            ([10, 40], 10, [25], None),
            ([10], 10, [160], 160),
        ],
        ids=str,
    )
    def test_decision_stays_with_its_finding(
        self, store: FindingStore, stored: list[int], decided: int, incoming: list[int], expected: int | None
    ) -> None:
        store.save_findings([_equal_finding(line, line) for line in stored])
        store.set_status(PROJECT, uuid_of(decided), "risk_accepted", actor="ann")
        store.ingest(PROJECT, [_equal_finding(line) for line in incoming], close_missing=True)
        now = {
            line: store.get_finding(PROJECT, finding_id) for finding_id, line in lines_by_id(store).items()
        }
        accepted = [one["id"] for one in now.values() if one["status"] == "risk_accepted"]
        assert accepted == [uuid_of(decided)]
        if expected is None:
            assert all(now[line]["status"] == "open" for line in incoming)
        else:
            assert now[expected]["id"] == uuid_of(decided)

    def test_doubt_about_a_decision_is_in_the_history(self, store: FindingStore) -> None:
        store.save_findings([_equal_finding(line, line) for line in (10, 40)])
        for number in (10, 40):
            store.set_status(PROJECT, uuid_of(number), "false_positive", actor="ann")
        assert_counts(store.ingest(PROJECT, [_equal_finding(25)]), created=1)
        (new,) = (one for one in store.list_findings(PROJECT) if one["status"] == "open")
        (event,) = store.history(PROJECT, new["id"])
        assert (event.kind, event.actor, event.run_id) == ("comment", "ingest", new["run_id"])
        assert event.comment.startswith((f"may be {uuid_of(10)}, ", f"may be {uuid_of(40)}, "))

    def test_history_says_how_a_finding_was_recognised(self, store: FindingStore) -> None:
        store.save_findings([_equal_finding(line, line) for line in (10, 20)])
        store.ingest(PROJECT, [_equal_finding(line) for line in (13, 23)])
        assert [event.comment for event in store.history(PROJECT, uuid_of(10))] == ["recognised: aligned"]

    def test_what_a_finding_says_tells_it_from_its_equals(self, store: FindingStore) -> None:
        said = [{**_equal_finding(10 + n, n), "evidence": {"message": text}} for n, text in enumerate("abc")]
        store.save_findings(said)
        store.set_status(PROJECT, uuid_of(1), "false_positive", actor="ann")
        now = [("b", 10), ("c", 12), ("d", 14)]
        report = [{**_equal_finding(line), "evidence": {"message": text}} for text, line in now]
        assert_counts(
            store.ingest(PROJECT, report, close_missing=True), created=1, updated=1, unchanged=1, resolved=1
        )
        after = {one["evidence"]["message"]: one for one in store.list_findings(PROJECT)}
        assert [after[text]["id"] for text in "abc"] == [uuid_of(n) for n in range(3)]
        assert [after[text]["status"] for text in "abcd"] == ["resolved", "false_positive", "open", "open"]

    def test_a_renamed_file_keeps_its_findings(self, store: FindingStore) -> None:
        texts = enumerate(("a", "b", "c"))
        before = [_in_file("web/go.js", 5 + 4 * n, text) for n, text in texts]
        store.ingest(PROJECT, before, close_missing=True)
        ids = {one["evidence"]["message"]: one["id"] for one in store.list_findings(PROJECT)}
        store.set_status(PROJECT, ids["b"], "false_positive", actor="ann")
        now = [{**one, **_file("web/redirects.js", 1 + _line(one))} for one in before]
        assert_counts(store.ingest(PROJECT, now, close_missing=True), updated=3)
        after = {one["evidence"]["message"]: one for one in store.list_findings(PROJECT)}
        assert {text: one["id"] for text, one in after.items()} == ids
        assert {one["resource"] for one in after.values()} == {"web/redirects.js"}
        assert after["b"]["status"] == "false_positive"
        assert [event.comment for event in store.history(PROJECT, ids["a"])] == ["recognised: renamed"]
        assert_counts(store.ingest(PROJECT, now, close_missing=True), unchanged=3)
        store.ingest(PROJECT, before, close_missing=True)
        assert {one["evidence"]["message"]: one["id"] for one in store.list_findings(PROJECT)} == ids

    def test_another_folder_of_the_checkout_keeps_all(self, store: FindingStore) -> None:
        for number, root in enumerate(("/builds/1/", "/builds/2/", "")):
            report = [_in_file(f"{root}{name}.py", 7, "m") for name in "abc"]
            counts = {"updated": 3} if number else {"created": 3}
            assert_counts(store.ingest(PROJECT, report, close_missing=True), **counts)

    def test_a_file_is_renamed_in_a_complete_report_only(self, store: FindingStore) -> None:
        """Two folders that are scanned by turns have files of the same name."""
        one, other = (
            [_in_file(f"{folder}/app.py", 5 + n, f"m{n}") for n in range(3)] for folder in ("one", "other")
        )
        for report, created in ((one, 3), (other, 3), (one, 0), (other, 0)):
            assert_counts(store.ingest(PROJECT, report), created=created, unchanged=3 - created)

    def test_one_finding_alone_is_no_renamed_file(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [_in_file("src/util.py", 7, "m")], close_missing=True)
        report = store.ingest(PROJECT, [_in_file("src/Util.py", 7, "m")], close_missing=True)
        assert_counts(report, created=1, resolved=1)

    def test_a_copied_file_has_findings_of_its_own(self, store: FindingStore) -> None:
        report = [_in_file("a.py", 7, "m"), _in_file("a.py", 9, "n")]
        store.ingest(PROJECT, report, close_missing=True)
        copied = [*report, *({**one, **_file("b.py", _line(one))} for one in report)]
        assert_counts(store.ingest(PROJECT, copied, close_missing=True), created=2, unchanged=2)

    def test_a_tool_may_begin_to_say_more(self, store: FindingStore) -> None:
        """A snippet, a fingerprint of its own: the finding stays, and so does the decision about it."""
        plain = [_in_file("a.py", 7, "m"), _in_file("a.py", 9, "m")]
        more = [
            {**plain[0], "fingerprint": "f"},
            {**plain[1], "location": {**plain[1]["location"], "snippet": "x()"}},
        ]
        store.ingest(PROJECT, plain, close_missing=True)
        (first, *_) = store.list_findings(PROJECT)
        store.set_status(PROJECT, first["id"], "risk_accepted", actor="ann")
        for report in (more, plain):
            assert_counts(store.ingest(PROJECT, report, close_missing=True), updated=2)
            assert_counts(store.ingest(PROJECT, report, close_missing=True), unchanged=2)
        assert store.get_finding(PROJECT, first["id"])["status"] == "risk_accepted"

    def test_other_code_in_the_same_line_is_another_finding(self, store: FindingStore) -> None:
        one, other = ({**_in_file("a.py", 7, "m")} for _ in range(2))
        one["location"], other["location"] = ({**one["location"], "snippet": text} for text in ("x()", "y()"))
        store.ingest(PROJECT, [one], close_missing=True)
        assert_counts(store.ingest(PROJECT, [other], close_missing=True), created=1, resolved=1)

    def test_what_was_gone_for_a_run_comes_back_by_its_fingerprint_only(self, store: FindingStore) -> None:
        report = [_in_file("a.py", 7, "m"), _in_file("a.py", 9, "n")]
        store.ingest(PROJECT, report)
        store.ingest(PROJECT, [_in_file("c.py", 1, "o")])
        moved = [{**one, **_file("b.py", _line(one))} for one in report]
        assert_counts(store.ingest(PROJECT, moved), created=2)

    def test_line_in_the_resource_counts_as_the_line(self, store: FindingStore) -> None:
        store.save_findings([finding(n, rule_id="R", title="T", resource=f"a.py:{n}") for n in (10, 20)])
        store.ingest(PROJECT, [without_fields(finding(9, rule_id="R", title="T", resource="a.py:19"), "id")])
        assert [d["resource"] for d in store.list_findings(PROJECT)] == ["a.py:10", "a.py:19"]

    def test_many_equal_findings_over_several_batches(self, store: FindingStore) -> None:
        report = [scanned("R1", 1 + n % 2000) for n in range(6_000)]
        assert_counts(store.ingest(PROJECT, iter(report)), created=6_000)
        random.Random(3).shuffle(report)
        assert_counts(store.ingest(PROJECT, iter(report), close_missing=True), unchanged=6_000)
        moved = [scanned("R1", document["location"]["start_line"] + 1) for document in report]
        report2 = store.ingest(PROJECT, iter(moved), close_missing=True)
        assert (report2.created, report2.resolved, report2.updated + report2.unchanged) == (0, 0, 6_000)

    # -- more than one batch -------------------------------------------------------------------------------

    def test_report_may_be_read_from_the_store_that_takes_it(self, store: FindingStore) -> None:
        def count_while_yielding() -> Iterator[Document]:
            for number in range(5_000):
                if number % 700 == 699:
                    assert store.count(FindingQuery(project_id=PROJECT)) <= number
                yield scanned(f"R{number}")

        assert_counts(store.ingest(PROJECT, count_while_yielding()), created=5_000)
        assert store.count(FindingQuery(project_id=PROJECT)) == 5_000

    def test_report_that_breaks_off_leaves_nothing(self, store: FindingStore) -> None:
        def break_off() -> Iterator[Document]:
            yield from (scanned(f"R{number}") for number in range(4_500))
            raise LookupError("the report ends here")

        bad = [*(scanned(f"R{number}") for number in range(4_500)), scanned(severity="bad")]
        with pytest.raises(LookupError):
            store.ingest(PROJECT, break_off())
        with pytest.raises(StorageValidationError):
            store.ingest(PROJECT, bad)
        assert (store.list_projects(), store.count(FindingQuery(project_id=PROJECT))) == ([], 0)
        assert_counts(store.ingest(PROJECT, bad[:-1]), created=4_500)

    def test_id_given_twice_in_different_batches_is_a_conflict(self, store: FindingStore) -> None:
        twice = [scanned(f"R{number}", id=uuid_of(number % 2_500)) for number in range(2_600)]
        with pytest.raises(StorageConflictError):
            store.ingest(PROJECT, twice)
        assert store.list_projects() == []
        report = store.ingest(PROJECT, twice, on_invalid="quarantine")
        assert (report.created, len(report.rejected)) == (2_500, 100)


def _file(path: str, line: int) -> Document:
    return {"resource": path, "location": {"path": path, "start_line": line}}


def _in_file(path: str, line: int, message: str) -> Document:
    """Return a finding of a report with a message, at a line of a file."""
    return scanned("R1", **_file(path, line), evidence={"message": message})


def _line(document: Document) -> int:
    return int(document["location"]["start_line"])


def _location_at(line: int | None) -> Document | None:
    return None if line is None else {"start_line": line}


def _equal_finding(line: int | None, number: int | None = None) -> Document:
    """Return one of many equal findings at a line."""
    document = finding(number or 0, rule_id="R", title="T", resource="a", location=_location_at(line))
    return document if number is not None else without_fields(document, "id")
