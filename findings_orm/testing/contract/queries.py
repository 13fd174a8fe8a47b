"""The suite, part 3: `find`, `count`, `summarize`. What matches is decided by `findings_orm.query.matches`."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cmp_to_key
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from findings_orm.errors import StorageValidationError
from findings_orm.finding import FindingDocument, Severity, Status, validate_finding
from findings_orm.port import FindingStore
from findings_orm.query import MAX_PAGE, SORTS, FindingQuery, SortKey, Summary, matches
from findings_orm.testing.contract.base import Capabilities, found, relaxed
from findings_orm.testing.samples import OTHER, PROJECT, assert_all_same, finding, ids, uuid_of
from findings_orm.testing.strategies import documents, queries

CORPUS: list[dict[str, Any]] = [
    finding(1, severity="critical", detector_id="scan.nuclei", rule_id="tech-detect", cwe_ids=[79], resource="https://a.example/x"),
    finding(2, severity="high", detector_id="scan.nuclei", rule_id="tech", cwe_ids=[89, 20], resource="https://a.example/X_"),
    finding(3, severity="high", detector_id="scan.nuclei2", cve_ids=["CVE-2024-1234", "CVE-2024-12345"], tags=["a"]),
    finding(4, severity="low", detector_id="scan_x", cve_ids=["CVE-2024-12345"], tags=["a", "b"], status="triaged"),
    finding(5, severity="info", detector_id="scan.", rule_id="TECH", tags=["A", "a%", "\u00e9"], status="resolved"),
    finding(6, title="Straße ﬁle Ⅳ", resource="100%_sure\\x", cwe_ids=[1], run_id=uuid_of(77), status="archived"),
    finding(7, title="CAFÉ", resource="100%Xsure", location={"snippet": "eval(ÜBER)\nexec"}, run_id=uuid_of(78)),
    finding(8, title="cafe\u0301", resource="100", detector_id="a-b.c", rule_id="naïve", status="false_positive"),
    finding(9, title="\U0001f600", resource="\U0001f600", created_at="2024-05-01T00:00:09.5Z", tags=["\U0001f600"]),
    finding(10, title="\uffff", resource="\uffff", created_at="2024-05-01T00:00:09.500001Z", status="risk_accepted"),
    finding(11, title="Z", resource="Z", created_at="2024-05-01T00:00:09Z", cwe_ids=[79, 1], status="in_progress"),
    finding(12, title="a", resource="", created_at="2024-05-01T00:00:09Z", cwe_ids=[79, 79], location={"path": "x"}),
]  # fmt: skip
CASES: list[tuple[dict[str, Any], list[int]]] = [
    ({}, list(range(1, 13))),
    ({"severity": "high"}, [2, 3]),
    ({"severity": ["critical", "info"]}, [1, 5]),
    ({"min_severity": "high"}, [1, 2, 3]),
    ({"min_severity": "info"}, list(range(1, 13))),
    ({"min_severity": "high", "severity": frozenset({"high"})}, [2, 3]),
    ({"min_severity": "critical", "severity": "low"}, []),
    ({"status": "triaged"}, [4]),
    ({"status": ("resolved", "archived")}, [5, 6]),
    ({"detector_id": "scan.nuclei"}, [1, 2]),
    ({"detector_id": "scan.nuclei*"}, [1, 2, 3]),
    ({"detector_id": "scan.*"}, [1, 2, 3, 5, 6, 7, 9, 10, 11, 12]),
    ({"detector_id": "scan_*"}, [4]),
    ({"detector_id": "SCAN.nuclei"}, []),
    ({"detector_id": "SCAN*"}, []),
    ({"detector_id": ["a-b.c", "scan_*"]}, [4, 8]),
    ({"detector_id": "*"}, list(range(1, 13))),
    ({"detector_id": "scan"}, []),
    ({"rule_id": "tech"}, [2]),
    ({"rule_id": ["tech", "TECH"]}, [2, 5]),
    ({"rule_id": "naïve"}, [8]),
    ({"cwe": 79}, [1, 11, 12]),
    ({"cwe": [79, 1]}, [1, 6, 11, 12]),
    ({"cwe": 20}, [2]),
    ({"cwe": 1}, [6, 11]),
    ({"cve_id": "CVE-2024-1234"}, [3]),
    ({"cve_id": ["CVE-2024-12345", "CVE-2024-1234"]}, [3, 4]),
    ({"cve_id": "CVE-2024"}, []),
    ({"run_id": uuid_of(77)}, [6]),
    ({"run_id": [uuid_of(77), uuid_of(78)]}, [6, 7]),
    ({"tag": "a"}, [3, 4]),
    ({"tag": ["b", "A"]}, [4, 5]),
    ({"tag": "a%"}, [5]),
    ({"tag": "\U0001f600"}, [9]),
    ({"tag": '"'}, []),
    ({"resource_prefix": "https://a.example/"}, [1, 2]),
    ({"resource_prefix": "https://a.example/x"}, [1]),
    ({"resource_prefix": "100%"}, [6, 7]),
    ({"resource_prefix": "100%_"}, [6]),
    ({"resource_prefix": "%"}, []),
    ({"resource_prefix": "100%_sure\\"}, [6]),
    ({"resource_prefix": "\U0001f600"}, [9]),
    ({"created_from": "2024-05-01T00:00:09.5Z"}, [9, 10]),
    ({"created_from": "2024-05-01T00:00:09.500000Z"}, [9, 10]),
    ({"created_before": "2024-05-01T00:00:03Z"}, [1, 2]),
    ({"created_from": "2024-05-01T00:00:09Z", "created_before": "2024-05-01T00:00:09.500001Z"}, [11, 12, 9]),
    ({"text": "strasse"}, [6]),
    ({"text": "FILE iv"}, [6]),
    ({"text": "café"}, [7, 8]),
    ({"text": "cafe"}, []),
    ({"text": "über EVAL"}, [7]),
    ({"text": "eval("}, [7]),
    ({"text": "%"}, [6, 7]),
    ({"text": "_sure\\x"}, [6]),
    ({"text": "  finding\tdetect\n"}, [1]),
    ({"text": "scan.nuclei2"}, [3]),
    ({"text": "tech-DETECT"}, [1]),
    ({"severity": "high", "cwe": 89, "detector_id": "scan.*", "text": "finding"}, [2]),
    ({"severity": "high", "cwe": 79}, []),
]  # fmt: skip
TIMES = ("2024-05-02T00:00:00Z", "2024-05-03T00:00:00Z")
ALL_SORTS: list[Any] = [sign + name for name in SORTS for sign in ("", "-")]
HARD_VALUES = ("\x00", "\ud800", "a\x00b", "x" * 100_000, "\U0010ffff", "'; --", "%", "\\", '"')
BROKEN_CURSORS = (
    "", " ", "x", "é", "\ud800", "AAAA", "bnVsbA==", "W10=", "e30=", "WyJ0aXRsZSIsIDEsICJ4Il0=",
    base64.urlsafe_b64encode(b'["-created_at", "2024-05-01T00:00:00Z", "x"]').decode(),
    base64.urlsafe_b64encode(b'["created_at", 1, "x"]').decode(),
    base64.urlsafe_b64encode(b'["created_at", "2024-05-01T00:00:00Z"]').decode(),
    base64.urlsafe_b64encode(b'["created_at", "2024-05-01T00:00:00Z", 1]').decode(),
    base64.urlsafe_b64encode(b"[" * 5000).decode(),
    base64.urlsafe_b64encode(b"\xff\xfe").decode(),
)  # fmt: skip


_Found = TypeVar("_Found", bound=Mapping[str, Any])


def expected_order(found: Sequence[_Found], sort: SortKey, text: str = "") -> list[_Found]:
    """Return documents in the order of `sort`: by value in code point order, ties by id, same direction."""
    value = FindingQuery(project_id=PROJECT, sort=sort, text=text).sort_value

    def compare_keys(a: _Found, b: _Found) -> int:
        left, right = (value(a), a["id"]), (value(b), b["id"])
        return (left > right) - (left < right)

    return sorted(found, key=cmp_to_key(compare_keys), reverse=sort.startswith("-"))


def read_pages(store: FindingStore, query: FindingQuery) -> list[FindingDocument]:
    """Return everything that `find` gives, page by page."""
    seen: list[FindingDocument] = []
    for _ in range(1000):
        page = store.find(query)
        assert len(page.items) <= query.limit, "a page is larger than its limit"
        seen += page.items
        if page.next_cursor is None:
            return seen
        assert len(page.items) == query.limit, "a page that is not the last one is smaller than its limit"
        query = _next_query(query, page.next_cursor)
    raise AssertionError("pages do not end")


def forge_cursor(query: FindingQuery, value: object, finding_id: object) -> str:
    """Return a cursor of a query with a position that it did not hand out."""
    cursor = query.cursor_after(validate_finding(CORPUS[0]))
    binding = json.loads(base64.urlsafe_b64decode(cursor))[0]
    return base64.urlsafe_b64encode(json.dumps([binding, value, finding_id]).encode()).decode()


def _next_query(query: FindingQuery, cursor: str) -> FindingQuery:
    fields = {name: getattr(query, name) for name in FindingQuery.__dataclass_fields__}
    return FindingQuery(**{**fields, "cursor": cursor})


class QueryContract(Capabilities):
    """Filters, orders, pages and counts."""

    def test_filters_find_what_they_say(self, store: FindingStore) -> None:
        store.save_findings([*CORPUS, finding(20, project_id=OTHER)])
        for conditions, numbers in CASES:
            expected = sorted(uuid_of(number) for number in numbers)
            query = FindingQuery(project_id=PROJECT, **conditions)
            assert sorted(ids(store.find(query).items)) == expected, conditions
            assert store.count(query) == len(numbers), conditions
            agreed = [
                document["id"] for document in map(validate_finding, CORPUS) if matches(query, document)
            ]
            assert sorted(agreed) == expected, f"matches() disagrees: {conditions}"

    @relaxed
    @given(data=st.data(), many=st.lists(documents(project_id=PROJECT), max_size=5))
    def test_any_query_finds_what_matches_in_order(
        self, store: FindingStore, data: st.DataObject, many: list[dict[str, Any]]
    ) -> None:
        store.delete_project(PROJECT)
        many = list({document["id"].lower(): document for document in [*CORPUS, *many]}.values())
        store.save_findings(many)
        canonical = [validate_finding(document) for document in many]
        for _ in range(4):
            query = data.draw(queries(PROJECT, canonical))
            expected = [document for document in canonical if matches(query, document)]
            assert_all_same(read_pages(store, query), expected_order(expected, query.sort, query.text))
            assert store.count(query) == len(expected)

    def test_sorts_both_ways_with_ties_by_id(self, store: FindingStore) -> None:
        again = [document | {"id": uuid_of(100 - n)} for n, document in enumerate(CORPUS)]
        store.save_findings([*again, *CORPUS])
        everyone = [validate_finding(document) for document in (*CORPUS, *again)]
        for sort in ALL_SORTS:
            assert found(store, sort=sort) == ids(expected_order(everyone, sort)), sort

    def test_severity_sorts_by_rank_not_by_name(self, store: FindingStore) -> None:
        store.save_findings([finding(n, severity=severity) for n, severity in enumerate(Severity)])
        assert found(store, sort="severity") == [uuid_of(n) for n in range(5)]
        assert found(store, sort="-severity") == [uuid_of(n) for n in reversed(range(5))]

    def test_texts_of_any_length_sort_and_are_found(self, store: FindingStore) -> None:
        """A database may have indexes for short texts only."""
        lengths = (1, 2, 398, 399, 400, 401, 402, 3_000)
        texts = ["x" * length for length in lengths]
        texts += [f"{'x' * 400}{end}" for end in ("a", "b")] + ["y", "w" * 500]
        many = [
            finding(
                n, title=text, resource=text, detector_id=text, rule_id=text, severity=tuple(Severity)[n % 5]
            )
            for n, text in enumerate([*texts, *reversed(texts)])
        ]
        store.save_findings(many)
        everyone = [validate_finding(document) for document in many]
        for sort in ALL_SORTS:
            whole = ids(expected_order(everyone, sort))
            for limit in (3, 23, 24):
                query = FindingQuery(project_id=PROJECT, sort=sort, limit=limit)
                assert ids(read_pages(store, query)) == whole, f"pages of {limit} by {sort}"
        for text in texts:
            self._find_among(store, everyone, detector_id=text)
            self._find_among(store, everyone, detector_id=[f"{text}*", "w"])
            self._find_among(store, everyone, rule_id=[text, "y"])
            self._find_among(store, everyone, resource_prefix=text)

    def _find_among(self, store: FindingStore, everyone: list[FindingDocument], **conditions: Any) -> None:
        for sort in ("created_at", "-title"):
            query = FindingQuery(project_id=PROJECT, limit=5, sort=sort, **conditions)
            expected = [document for document in everyone if matches(query, document)]
            assert ids(read_pages(store, query)) == ids(expected_order(expected, sort)), str(conditions)[:200]
            assert store.count(query) == len(expected)

    def test_pages_of_severities_and_statuses(self, store: FindingStore) -> None:
        store.save_findings(
            finding(n, severity=severity, status=status, created_at=f"2024-05-0{n % 3 + 1}T00:00:00Z")
            for n, (severity, status) in enumerate(itertools.product(Severity, [*Status, *Status]))
        )
        everyone = store.list_findings(PROJECT)
        day: list[dict[str, Any]] = [{}, {"created_from": TIMES[0]}, {"created_before": TIMES[1]}]
        for severity, status, sort, times in itertools.product(
            ((), ("high",), ("low", "critical")),
            ((), ("open",), ("resolved", "archived")),
            ("created_at", "-created_at", "severity", "-severity"),
            day,
        ):
            query = FindingQuery(
                project_id=PROJECT, severity=severity, status=status, sort=sort, limit=4, **times
            )
            expected = [document for document in everyone if matches(query, document)]
            assert ids(read_pages(store, query)) == ids(expected_order(expected, sort)), query

    # -- pages ---------------------------------------------------------------------------------------------

    def test_pages_of_every_size_give_everything_once(self, store: FindingStore) -> None:
        again = [document | {"id": uuid_of(100 - n)} for n, document in enumerate(CORPUS)]
        store.save_findings([*CORPUS, *again])
        for sort in ALL_SORTS:
            whole = found(store, sort=sort)
            assert len(whole) == 24
            for limit in (1, 2, 3, 5, 7, 12, 23, 24, 25, MAX_PAGE):
                query = FindingQuery(project_id=PROJECT, sort=sort, limit=limit)
                assert ids(read_pages(store, query)) == whole, f"pages of {limit} by {sort}"

    def test_last_full_page_has_no_cursor(self, store: FindingStore) -> None:
        store.save_findings(CORPUS)
        assert store.find(FindingQuery(project_id=PROJECT, limit=12)).next_cursor is None
        assert store.find(FindingQuery(project_id=PROJECT, limit=11)).next_cursor is not None

    @pytest.mark.parametrize("sort", ["created_at", "-severity"])
    def test_pages_neither_skip_nor_repeat_while_others_write(
        self, store: FindingStore, sort: SortKey
    ) -> None:
        store.save_findings([finding(n, severity=("low", "high")[n % 2]) for n in range(10, 40)])
        whole = found(store, sort=sort)
        query = FindingQuery(project_id=PROJECT, sort=sort, limit=7)
        page = store.find(query)
        seen = ids(page.items)
        removed = {whole[6], whole[7], whole[20]}
        kept = [document for document in store.list_findings(PROJECT) if document["id"] not in removed]
        store.delete_project(PROJECT)
        store.save_findings([*kept, finding(1, severity="high", title="AAA"), finding(90, title="zzz")])
        assert page.next_cursor is not None
        seen += ids(read_pages(store, _next_query(query, page.next_cursor)))
        assert len(seen) == len(set(seen)), "a finding came twice"
        assert [each for each in seen if each in set(whole) - removed] == [
            each for each in whole if each not in removed
        ], "a finding that stayed was skipped or came out of order"

    def test_cursor_of_a_deleted_finding_still_works(self, store: FindingStore) -> None:
        store.save_findings([finding(n) for n in (1, 2, 3)])
        cursor = store.find(FindingQuery(project_id=PROJECT, limit=2)).next_cursor
        store.delete_project(PROJECT)
        store.save_findings([finding(n) for n in (1, 3, 4)])
        assert found(store, cursor=cursor) == [uuid_of(3), uuid_of(4)]

    def test_broken_cursor_is_refused(self, store: FindingStore) -> None:
        store.save_findings(CORPUS)
        for cursor in BROKEN_CURSORS:
            with pytest.raises(StorageValidationError) as caught:
                found(store, cursor=cursor)
            assert caught.value.field == "cursor", ascii(cursor)

    def test_cursor_of_another_query_is_refused(self, store: FindingStore) -> None:
        store.save_findings([*CORPUS, *(document | {"project_id": OTHER} for document in CORPUS)])
        asked: dict[str, Any] = {
            "project_id": PROJECT,
            "min_severity": "low",
            "detector_id": ["scan.*", "bandit"],
            "created_before": "2100-01-01T00:00:00Z",
        }
        cursor = store.find(FindingQuery(**asked, limit=1)).next_cursor
        others: list[dict[str, Any]] = [
            {"project_id": OTHER},
            {"sort": "-created_at"},
            {"sort": "title"},
            {"min_severity": "medium"},
            {"severity": "high"},
            {"detector_id": "scan.*"},
            {"created_before": "2100-01-01T00:00:01Z"},
            {"created_from": "2000-01-01T00:00:00Z"},
            {"resource_prefix": "h"},
            {"text": "a"},
            {"status": "open"},
            {"rule_id": "tech"},
            {"cwe": 79},
            {"cve_id": "CVE-2024-0001"},
            {"tag": "web"},
            {"run_id": uuid_of(1)},
        ]
        for other in others:
            with pytest.raises(StorageValidationError, match="another query") as caught:
                store.find(FindingQuery(**{**asked, **other}, limit=1, cursor=cursor))
            assert caught.value.field == "cursor", other
        same: list[dict[str, Any]] = [
            {"limit": 3},
            {"min_severity": None, "severity": ["critical", "high", "medium", "low", "low"]},
            {"detector_id": {"bandit", "scan.*"}},
            {"created_before": "2100-01-01T00:00:00.000Z"},
        ]
        rest = ids(read_pages(store, FindingQuery(**asked)))[1:]
        assert len(rest) > 1
        for spelling in same:
            assert ids(read_pages(store, FindingQuery(**{**asked, **spelling}, cursor=cursor))) == rest, (
                spelling
            )

    def test_cursor_of_an_older_release_is_refused(self, store: FindingStore) -> None:
        """It names the order only, so nothing tells whose page it ended."""
        for order in ("-severity", "relevance 12345"):
            text = json.dumps([order, 3, uuid_of(1)])
            with pytest.raises(StorageValidationError, match="older release"):
                found(store, cursor=base64.urlsafe_b64encode(text.encode()).decode(), sort="-severity")

    def test_cursor_is_short(self) -> None:
        """It is handed on in links: what was asked is in it as a digest."""
        query = FindingQuery(project_id="p" * 255, rule_id=[f"rule{n}" for n in range(1_000)])
        assert len(query.cursor_after(validate_finding(CORPUS[0]))) <= 116

    def test_forged_cursor_gives_no_foreign_error(self, store: FindingStore) -> None:
        store.save_findings(CORPUS)
        for sort in [*ALL_SORTS[::2], "-severity"]:
            values: list[Any] = (
                [10**30, -(10**30), -1, 1.5, True, None] if sort.endswith("severity") else list(HARD_VALUES)
            )
            for value, finding_id in itertools.product(values, HARD_VALUES):
                cursor = forge_cursor(FindingQuery(project_id=PROJECT, sort=sort), value, finding_id)
                self._find_or_refuse(store, cursor=cursor, sort=sort)

    # -- values --------------------------------------------------------------------------------------------

    def test_cursor_in_another_spelling_means_the_same_place(self, store: FindingStore) -> None:
        times = ("2024-05-01T12:00:00Z", "2024-05-01T12:00:00.250000Z", "2024-05-01T12:00:00.500000Z")
        store.save_findings([finding(n, created_at=time) for n, time in enumerate(times)])
        for time in ("2024-05-01T12:00:00Z", "2024-05-01T12:00:00.0Z"):
            for start, numbers in (("2024-05-01T12:00:00Z", [1, 2]), ("2024-05-01T12:00:00.4Z", [2])):
                for severities in ([], list(Severity)):
                    query = FindingQuery(project_id=PROJECT, created_from=start, severity=severities)
                    page = store.find(_next_query(query, forge_cursor(query, time, uuid_of(0).upper())))
                    assert ids(page.items) == [uuid_of(n) for n in numbers]

    def test_values_that_nothing_has_find_nothing_or_are_refused(self, store: FindingStore) -> None:
        store.save_findings(CORPUS)
        names = ("detector_id", "rule_id", "cve_id", "run_id", "tag", "resource_prefix", "text")
        for name, value in itertools.product(names, HARD_VALUES):
            self._find_or_refuse(store, **{name: value})
            self._find_or_refuse(store, **{name: value}, project_id=value)

    def test_many_values_are_no_problem(self, store: FindingStore) -> None:
        store.save_findings(CORPUS)
        assert found(store, cwe=[*range(100, 40_000), 89]) == [uuid_of(2)]
        assert found(store, rule_id=[*(f"r{n}" for n in range(40_000)), "tech"]) == [uuid_of(2)]
        assert found(store, cwe=[2**70, -1, 0]) == []
        assert found(store, detector_id=[*(f"d{n}*" for n in range(3_000)), "scan.nuclei2*"]) == [uuid_of(3)]
        prefixes = [f"{text}*" for text in ("é", "scan.nuclei2.", "SCAN", *map(str, range(100)))]
        assert found(store, detector_id=prefixes) == []
        assert found(store, detector_id=[*prefixes, "*"]) == found(store)
        assert len(found(store, text="finding " * 2000)) == 5

    def _find_or_refuse(self, store: FindingStore, **conditions: Any) -> None:
        try:
            query = FindingQuery(**{"project_id": PROJECT, **conditions})
            result, number = read_pages(store, query), store.count(query)
        except StorageValidationError:
            return
        if "cursor" not in conditions:
            canonical = [validate_finding(document) for document in CORPUS]
            here = [document for document in canonical if document["project_id"] == query.project_id]
            expected = [document for document in here if matches(query, document)]
            assert ids(result) == ids(expected_order(expected, query.sort, query.text)), ascii(conditions)
            assert number == len(expected)

    def test_wrong_values_are_refused(self) -> None:
        wrong: list[dict[str, Any]] = [
            {"severity": "High"}, {"severity": ["low", "x"]}, {"min_severity": "none"}, {"status": "closed"},
            {"sort": "id"}, {"sort": ""}, {"sort": "--title"}, {"limit": 0}, {"limit": -1}, {"limit": MAX_PAGE + 1},
            {"limit": 2.5}, {"limit": True},
            {"created_from": "2024-05-01"}, {"created_before": "2024-05-01T00:00:00+00:00"}, {"created_from": "x"},
        ]  # fmt: skip
        for conditions in wrong:
            with pytest.raises(StorageValidationError) as caught:
                FindingQuery(project_id=PROJECT, **conditions)
            assert caught.value.field in conditions, f"{conditions}: names {caught.value.field}"

    def test_unknown_project_finds_nothing(self, store: FindingStore) -> None:
        store.save_findings(CORPUS)
        assert found(store, project_id=OTHER) == []
        assert store.count(FindingQuery(project_id=OTHER)) == 0

    def test_count_ignores_limit_sort_and_cursor(self, store: FindingStore) -> None:
        store.save_findings(CORPUS)
        asked = FindingQuery(project_id=PROJECT, limit=5, sort="-title", min_severity="medium")
        query = replace(asked, limit=1, cursor=store.find(asked).next_cursor)
        assert store.count(query) == 10

    # -- summary -------------------------------------------------------------------------------------------

    def test_summary_counts_everything(self, store: FindingStore) -> None:
        store.save_findings([*CORPUS, finding(20, project_id=OTHER)])
        self._assert_summary(store, [validate_finding(document) for document in CORPUS])

    def test_summary_of_unknown_project_is_zeros(self, store: FindingStore) -> None:
        self._assert_summary(store, [])

    def test_summary_top_resources_are_ten_by_count_then_name(self, store: FindingStore) -> None:
        resources = [f"r{n % 13:02}" for n in range(30)] + ["\U0001f600", "\uffff", "Z", ""]
        many = [finding(n, resource=resource, cwe_ids=[n % 5 + 1]) for n, resource in enumerate(resources)]
        store.save_findings(many)
        summary = store.summarize(PROJECT)
        expected = [*(f"r{n:02}" for n in range(4)), *(f"r{n:02}" for n in range(4, 10))]
        assert list(summary.top_resources) == expected
        self._assert_summary(store, [validate_finding(document) for document in many])

    @relaxed
    @given(many=st.lists(documents(project_id=PROJECT), max_size=6))
    def test_summary_of_any_documents(self, store: FindingStore, many: list[dict[str, Any]]) -> None:
        store.delete_project(PROJECT)
        store.save_findings(many)
        by_id = {document["id"]: document for document in map(validate_finding, many)}
        self._assert_summary(store, list(by_id.values()))

    def _assert_summary(self, store: FindingStore, expected: list[FindingDocument]) -> None:
        summary = store.summarize(PROJECT)
        severity, status, detector, resource = (
            _count_values([document[name] for document in expected])
            for name in ("severity", "status", "detector_id", "resource")
        )
        cwe = _count_values([number for document in expected for number in set(document["cwe_ids"])])
        wanted = Summary.of_counts(PROJECT, severity, status, detector, cwe, resource)
        assert summary == wanted
        for name in ("by_severity", "by_status", "by_detector", "by_cwe", "top_resources"):
            assert list(getattr(summary, name)) == list(getattr(wanted, name)), f"order of {name}"
        assert set(summary.by_status) == {status.value for status in Status}


def _count_values(values: list[Any]) -> dict[Any, int]:
    return {value: values.count(value) for value in values if value is not None}
