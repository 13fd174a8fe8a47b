from __future__ import annotations

import copy
import itertools
import json
from contextlib import suppress
from typing import Any

import pytest
from corners import CORNER, REQUIRED, STEPS, VERSIONS, documents, downgraded_documents, relabelled
from hypothesis import example, given
from hypothesis import strategies as st

from findings_orm import SchemaVersionError, StorageError, StorageValidationError, validate_finding
from findings_orm.finding import FIELDS, KNOWN_VERSIONS, MAX_DEPTH, SCHEMA_VERSION
from findings_orm.migrations import SchemaMigrator
from findings_orm.migrations.scripts import document_changes, revision_chain
from findings_orm.testing import strategies
from findings_orm.testing.hostile import BREAKS, ENDLESS, VERSION_FIELD, break_document
from findings_orm.testing.samples import assert_same, finding, uuid_of

OLD, NEW = "1.0.0", "1.1.0"
migrate = SchemaMigrator().migrate
MAJOR, MINOR, PATCH = map(int, SCHEMA_VERSION.split("."))
steps = pytest.mark.parametrize("revision", STEPS)
pairs = pytest.mark.parametrize(("one", "other"), [*itertools.permutations(VERSIONS, 2)])


def old(**changes: Any) -> dict[str, Any]:
    return {**finding(), "finding_schema_version": OLD, **changes}


def new(**changes: Any) -> dict[str, Any]:
    return {**finding(), "finding_schema_version": NEW, **changes}


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare documents, the order of their keys included.

    One that came with a corner of ours may have been edited: its corner is written anew, and so is the order of its fields.
    """
    if not may_have_corner(expected):
        assert_same(found, expected)
    else:
        assert_same(beside_corner(found), beside_corner(expected))


def may_have_corner(document: dict[str, Any]) -> bool:
    """Tell whether a downgrade may have written what stands under the key.

    It says something, and an order names all fields of the document: at least those that every document has.
    """
    provenance = document.get("provenance")
    corner = provenance.get(CORNER) if isinstance(provenance, dict) else None
    if not isinstance(corner, dict) or not {"version", "fields"} <= corner.keys():
        return False
    order = corner.get("order")
    says_something = bool(corner["fields"] or corner.get("absent") or order or "original" in corner)
    return says_something and ("order" not in corner or (isinstance(order, list) and "severity" in order))


def beside_corner(document: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in document.get("provenance", {}).items() if key != CORNER}
    fields = {name: document[name] for name in sorted(document) if name != "provenance"}
    return {**fields, **({"provenance": rest} if rest else {})}


def check_valid(version: str, document: dict[str, Any]) -> None:
    """Check a document by the rules of its version; but a corner may take it deeper than a document may nest."""
    try:
        migrate(version, SCHEMA_VERSION, document)
    except StorageValidationError as error:
        assert "must not nest deeper" in str(error)  # noqa: PT017  # most documents raise nothing


def labelled(document: dict[str, Any], version: str) -> dict[str, Any]:
    """Return a document that says its version, which one of 0.3.0 need not."""
    return document if version == "0.3.0" else {**document, "finding_schema_version": version}


# -- the two functions undo each other --------------------------------------------------------------------------------


LEAST = {"pid": "p", "title": "t", "severity": "low", "detector_id": "d", "ts": "2024-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("values", "corner"),
    [
        ({"match": "x", "confidence": "firm"}, {"fields": {}, "order": []}),
        ({"match": "x", "confidence": "firm"}, {"fields": {}, "order": ["tags", "id"]}),
        ({"cvss": 1, "confidence": 1.0}, {"fields": {"cvss": 0}, "order": ["tags", "id"]}),
        ({"cvss": True, "location": {"start_line": 1}}, {"fields": {"cvss": 0, "evidence": {}}}),
        ({"cvss": True}, {"fields": {"location": {"start_line": -0.0}}}),
        ({}, {"fields": {"owasp": [True]}}),
        ({}, {"fields": {"mitre_attack": [5]}}),
        ({}, {"fields": {"finding_schema_version": "2.0.0"}}),
    ],
    ids=str,
)
@pytest.mark.parametrize("version", VERSIONS[1:])
def test_what_no_downgrade_writes_is_the_users(
    version: str, values: dict[str, Any], corner: dict[str, Any]
) -> None:
    """Whatever stands under the key, and looks like a corner, comes back where no document could have left it."""
    up, down = document_changes("r0001")
    document = {**LEAST, **values, "provenance": {CORNER: {"version": version, **corner}, "tool": "x"}}
    upgraded = up(document)
    assert_same(down(upgraded), document)
    assert_same(up(down(upgraded)), upgraded)


@steps
@given(data=st.data())
def test_down_undoes_up(revision: str, data: st.DataObject) -> None:
    below, above = STEPS[revision]
    up, down = document_changes(revision)
    document = data.draw(documents(below) | downgraded_documents(revision))
    before = copy.deepcopy(document)
    upgraded = up(document)
    assert_same(document, before)
    assert upgraded["finding_schema_version"] == above
    check_valid(above, upgraded)
    back = down(upgraded)
    assert_equal(back, document)
    assert_same(up(back), upgraded)
    assert_same(down(up(back)), back)


@pytest.mark.no_cover
@steps
@given(data=st.data())
def test_up_undoes_down(revision: str, data: st.DataObject) -> None:
    below, above = STEPS[revision]
    up, down = document_changes(revision)
    document = data.draw(documents(above) | downgraded_documents(revision))
    if document.get("finding_schema_version") != above:
        document = up(document)
    before = copy.deepcopy(document)
    downgraded = down(document)
    assert_same(document, before)
    assert downgraded.get("finding_schema_version", "0.3.0") == below
    check_valid(below, downgraded)
    (assert_equal if revision == "r0001" else assert_same)(up(downgraded), document)


@pytest.mark.parametrize("revision", ["r0002", "r0004"])
@given(data=st.data(), times=st.integers(2, 5))
def test_what_down_makes_can_be_taken_for_a_document_of_the_new_version(
    revision: str, data: st.DataObject, times: int
) -> None:
    up, down = document_changes(revision)
    stages = [data.draw(documents(STEPS[revision][0]))]
    for _ in range(times):
        stages.append(down(relabelled(stages[-1], revision)))
    for deeper, stage in zip(stages[:0:-1], stages[-2::-1], strict=True):
        assert_same(up(deeper), relabelled(stage, revision))


@pytest.mark.no_cover
@pairs
@given(data=st.data())
def test_there_and_back_between_any_two_versions(one: str, other: str, data: st.DataObject) -> None:
    document = data.draw(documents(one))
    there = migrate(one, other, document)
    assert_equal(migrate(other, one, there), document)


@pytest.mark.parametrize("order", [[], ["id", "tags"]], ids=str)
@pairs
def test_an_order_of_no_document_is_the_users(one: str, other: str, order: list[str]) -> None:
    for version in VERSIONS:
        corner = {"version": version, "fields": {}, "order": order}
        document = labelled({**finding(), "provenance": {CORNER: corner}}, one)
        if one == "0.3.0":
            document = {**LEAST, "provenance": {CORNER: corner}}
        there = migrate(one, other, document)
        assert_same(migrate(other, one, there), document)


@pytest.mark.no_cover
@pairs
@given(data=st.data())
def test_the_path_does_not_matter(one: str, other: str, data: st.DataObject) -> None:
    document = data.draw(documents(one))
    direct = migrate(one, other, document)
    way = data.draw(st.lists(st.sampled_from(VERSIONS), max_size=4))
    here, current = one, document
    for version in (*way, other):
        here, current = version, migrate(here, version, current)
    assert_equal(current, direct)


@pytest.mark.no_cover
@pytest.mark.parametrize("version", VERSIONS[:-1])
@given(document=strategies.documents(sparse=False))
def test_a_canonical_document_stays_canonical(version: str, document: dict[str, Any]) -> None:
    stored = validate_finding(document)
    back = migrate(version, SCHEMA_VERSION, migrate(SCHEMA_VERSION, version, stored))
    assert_same(validate_finding(back), stored)


# -- 0.3.0 ------------------------------------------------------------------------------------------------------------

LEGACY = {
    "pid": "acme",
    "ts": "2023-01-05T10:00:00+02:00",
    "url": "https://shop.example/?q=1",
    "method": "GET",
    "cwe": "CWE-079",
    "cve_id": "CVE-2021-44228, CVE-XXXX-XXXX",
    "owasp": "A05:2021-Security Misconfiguration",
    "detector_id": "scan:nuclei:http",
    "title": "An old finding",
    "severity": "High",
    "req": "GET /",
    "res": "200 OK",
    "match": "x",
    "confidence": "firm",
    "subcategory": "headers",
    "status": 200,
}


def test_every_legacy_field_has_its_place() -> None:
    found = migrate("0.3.0", "2.0.0", LEGACY)
    assert {name: value for name, value in found.items() if value not in (None, [], "")} == {
        "finding_schema_version": "2.0.0",
        "project_id": "acme",
        "created_at": "2023-01-05T08:00:00Z",
        "resource": "https://shop.example/?q=1",
        "cwe_ids": [79],
        "cve_ids": ["CVE-2021-44228"],
        "owasp": ["A05:2021"],
        "detector_id": "scan.nuclei.http",
        "title": "An old finding",
        "severity": "high",
        "status": "open",
        "evidence": {
            "confidence": "firm",
            "match": "x",
            "method": "GET",
            "req": "GET /",
            "res": "200 OK",
            "status": 200,
            "subcategory": "headers",
        },
        "provenance": {
            CORNER: {
                "version": "0.3.0",
                "fields": {name: LEGACY[name] for name in ("cve_id", "cwe", "owasp", "severity", "ts")},
                "order": list(LEGACY),
            }
        },
    }
    assert migrate("2.0.0", "0.3.0", found) == LEGACY


@pytest.mark.parametrize(
    ("ts", "created_at"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1672912800, "2023-01-05T10:00:00Z"),
        (1672912800.25, "2023-01-05T10:00:00.250000Z"),
        ("2023-01-05T10:00:00Z", "2023-01-05T10:00:00Z"),
        ("2023-01-05 10:00:00.5-03:30", "2023-01-05T13:30:00.500000Z"),
        ("2023-01-05 10:00:00.123456789+00:00", "2023-01-05T10:00:00.123456Z"),
        ("2023-01-05T10:00:00", None),
        ("2023-01-05", None),
        ("2023-02-30T10:00:00Z", None),
        ("1672912800", None),
        (1672912800000, None),
        (-(10**12), None),
        (True, None),
        (None, None),
        ({}, None),
    ],
)
def test_a_legacy_time_is_placed_if_it_is_a_moment(ts: Any, created_at: str | None) -> None:
    found = migrate("0.3.0", "1.0.0", {**LEGACY, "ts": ts})
    assert found.get("created_at") == created_at
    assert ("ts" in found["evidence"]) == (created_at is None)
    assert_equal(migrate("1.0.0", "0.3.0", found), {**LEGACY, "ts": ts})


@pytest.mark.parametrize(
    ("name", "value", "new", "placed"),
    [
        ("cwe", 79, "cwe", 79),
        ("cwe", "89", "cwe", 89),
        ("cwe", "cwe_89 SQL injection", "cwe", 89),
        ("cwe", "CWE-0", "cwe", None),
        ("cwe", "CWE-99999999999", "cwe", None),
        ("cwe", "NVD-CWE-noinfo", "cwe", None),
        ("cwe", 79.0, "cwe", None),
        ("cwe", True, "cwe", None),
        ("cve_id", "cve-2021-44228", "cve_ids", ["CVE-2021-44228"]),
        ("cve_id", ["CVE-2021-1111", "CVE-2021-1111"], "cve_ids", ["CVE-2021-1111"]),
        ("cve_id", "CVE-0000-0000", "cve_ids", []),
        ("cve_id", "CVE-2021-0000", "cve_ids", []),
        ("cve_id", "N/A", "cve_ids", []),
        ("owasp", "A5:2017-Broken Access Control", "owasp", "A05"),
        ("owasp", "A10", "owasp", "A10"),
        ("owasp", "A00", "owasp", None),
        ("owasp", "API1:2023", "owasp", None),
        ("owasp", "A100", "owasp", None),
        ("severity", "informational", "severity", "info"),
        ("severity", " CRITICAL ", "severity", "critical"),
        ("title", "", "title", "headers"),
        ("title", None, "title", "headers"),
        ("cvss", 7, "cvss", 7.0),
        ("cvss", "7.5", "cvss", None),
        ("cvss", 10.5, "cvss", None),
        ("mitre_attack", ["T1059"], "mitre_attack", ["T1059"]),
        ("mitre_attack", ["T1059.001"], "mitre_attack", ["T1059"]),
        ("mitre_attack", ["T1059.01"], "mitre_attack", []),
        ("poc_links", ["https://a.example/x"], "poc_links", ["https://a.example/x"]),
        ("poc_links", ["not a link"], "poc_links", []),
        ("url", None, "resource", ""),
        ("provenance", "a tool", "provenance", {}),
    ],
)
def test_a_legacy_value_is_placed_or_kept(name: str, value: Any, new: str, placed: Any) -> None:
    document = {**LEGACY, name: value}
    found = migrate("0.3.0", "1.0.0", document)
    shown = (
        {key: inner for key, inner in found[new].items() if key != CORNER}
        if new == "provenance"
        else found[new]
    )
    assert_same(shown, placed)
    if placed in (None, [], "", {}):
        assert found["evidence"][name] == value
    assert_equal(migrate("1.0.0", "0.3.0", found), document)


@pytest.mark.parametrize(
    ("changes", "placed", "left"),
    [
        ({"status": "open"}, {}, {}),
        ({"status": "accepted_risk"}, {"status": "risk_accepted"}, {}),
        ({"status": " False_Positive"}, {"status": "false_positive"}, {}),
        ({"status": "fixed"}, {"status": "resolved"}, {}),
        ({"status": "in_progress"}, {"status": "in_progress"}, {}),
        ({"status": "wontfix"}, {}, {"status": "wontfix"}),
        ({"status": "200"}, {}, {"status": "200"}),
        ({"status": 200}, {}, {"status": 200}),
        ({"triage": {"status": "fixed"}, "status": "open"}, {"status": "resolved"}, {"status": "open"}),
        ({"triage": {"status": "fixed"}, "status": 404}, {"status": "resolved"}, {"status": 404}),
        ({"triage": {"suppress": True}}, {"status": "risk_accepted"}, {}),
        ({"triage": {"suppress": True, "status": "open"}}, {"status": "risk_accepted"}, {}),
        ({"triage": {"suppress": True}, "status": "false_positive"}, {"status": "false_positive"}, {}),
        (
            {"triage": {"suppress": True, "status": "fixed"}},
            {"status": "resolved"},
            {"triage": {"suppress": True}},
        ),
        ({"triage": {"suppress": False, "status": "fixed"}}, {"status": "resolved"}, {}),
        ({"triage": {"suppress": 1}}, {}, {"triage": {"suppress": 1}}),
        ({"triage": {"tags": ["b", "a"]}}, {"tags": ["b", "a"]}, {}),
        ({"triage": {"tags": ["t" * 65]}}, {}, {"triage": {"tags": ["t" * 65]}}),
        (
            {"triage": {"owner": "ann", "notes": "n", "status": "triaged"}},
            {"status": "triaged"},
            {"triage": {"owner": "ann", "notes": "n"}},
        ),
        ({"triage": "mine"}, {}, {"triage": "mine"}),
        ({"confidence": 90}, {"confidence": 90}, {}),
        ({"confidence": 0.9}, {}, {"confidence": 0.9}),
        ({"owasp": "A05:2021-Security Misconfiguration"}, {"owasp": ["A05:2021"]}, {}),
        ({"mitre_attack": ["T1059.001"]}, {"mitre_attack": ["T1059.001"]}, {}),
        (
            {"created_at": "2024-01-01T00:00:00Z"},
            {"created_at": "2024-01-01T00:00:00Z"},
            {"ts": "2023-01-05T10:00:00Z"},
        ),
        ({"created_at": 1672912800}, {"created_at": "2023-01-05T10:00:00Z"}, {}),
        ({"created_at": "today"}, {"created_at": "2023-01-05T10:00:00Z"}, {"created_at": "today"}),
        ({"project_id": "b"}, {"project_id": "a"}, {"project_id": "b"}),
        ({"pid": None, "project_id": "b"}, {"project_id": "b"}, {"pid": None}),
        ({"resource": "src/a.py"}, {"resource": "src/a.py"}, {}),
    ],
)
def test_what_1_0_0_has_no_room_for_is_carried_through_it(
    changes: dict[str, Any], placed: dict[str, Any], left: dict[str, Any]
) -> None:
    least = {"pid": "a", "ts": "2023-01-05T10:00:00Z", "detector_id": "d", "title": "t", "severity": "low"}
    flat = {**least, **changes}
    expected = validate_finding(
        {"id": uuid_of(1), **migrate("0.3.0", SCHEMA_VERSION, least), **placed, "evidence": left}
    )
    there = migrate("0.3.0", SCHEMA_VERSION, flat)
    found = validate_finding({"id": uuid_of(1), **there})
    found["provenance"].pop(CORNER, None)
    expected["provenance"].pop(CORNER, None)
    assert_same(found, expected)
    step = migrate("0.3.0", "1.0.0", flat)
    assert_equal(migrate("1.1.0", SCHEMA_VERSION, migrate("1.0.0", "1.1.0", step)), there)
    for version in KNOWN_VERSIONS[1:]:
        assert_equal(migrate(version, "0.3.0", migrate("0.3.0", version, flat)), flat)


def test_a_flat_document_of_an_early_release_comes_up_again() -> None:
    """Its corner has values of 1.0.0, and those of later versions inside."""
    lists = {"version": "2.0.0", "fields": {"owasp": ["A81:2034", "A03:2021"]}, "absent": ["provenance"]}
    later = {"version": "1.1.0", "fields": {"status": "resolved", "tags": ["a"]}, "original": lists}
    corner = {"version": "1.0.0", "fields": {"created_at": "2024-01-01T00:00:00.0Z"}, "original": later}
    flat = {"id": uuid_of(1), "pid": "p", "detector_id": "d:x", "title": "t", "severity": "low", "owasp": "A81",
            "ts": "2024-01-01T00:00:00.0Z", "provenance": {CORNER: corner}, "confidence": 90}  # fmt: skip
    found = migrate("0.3.0", SCHEMA_VERSION, flat)
    assert (found["status"], found["tags"], found["owasp"]) == ("resolved", ["a"], ["A81:2034", "A03:2021"])
    assert (found["created_at"], found["evidence"]) == ("2024-01-01T00:00:00.0Z", {"confidence": 90})
    assert "provenance" not in found
    edited = migrate("0.3.0", SCHEMA_VERSION, {**flat, "severity": "high", "owasp": "A01"})
    assert_equal(edited, {**found, "severity": "high", "owasp": ["A01"]})


def test_evidence_named_as_a_field_leaves_room_for_a_corner() -> None:
    document = validate_finding(finding(evidence={"provenance": "x"}, fingerprint="f"))
    assert_same(migrate("0.3.0", SCHEMA_VERSION, migrate(SCHEMA_VERSION, "0.3.0", document)), document)


def test_an_old_reader_sees_status_and_tags() -> None:
    document = finding(
        status="resolved", tags=["a"], owasp=["A05:2021", "A01"], evidence={"triage": {"owner": "ann"}}
    )
    flat = migrate("2.0.0", "0.3.0", {**document, "finding_schema_version": "2.0.0"})
    assert flat["triage"] == {"status": "fixed", "owner": "ann", "tags": ["a"]}
    assert flat["owasp"] == "A05:2021"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"severity": "awful"}, "severity"),
        ({"severity": 3}, "severity"),
        ({"detector_id": "a b"}, "detector_id"),
        ({"url": "a\x00"}, "url"),
        ({"pid": "a\nb"}, "pid"),
        ({"title": "a\x00"}, "title"),
        ({"req": {1, 2}}, "evidence.req"),
        ({"finding_schema_version": "1.0.0"}, None),
    ],
)
def test_a_legacy_document_that_breaks_a_rule_is_refused(changes: dict[str, Any], field: str | None) -> None:
    error = StorageValidationError if field else SchemaVersionError
    with pytest.raises(error) as refused:
        migrate("0.3.0", "2.0.0", {**LEGACY, **changes})
    assert getattr(refused.value, "field", None) == field


def test_what_a_legacy_document_must_have() -> None:
    for name in ("severity", "detector_id"):
        with pytest.raises(StorageValidationError, match=f"{name}: is required"):
            migrate("0.3.0", "2.0.0", {key: value for key, value in LEGACY.items() if key != name})


# -- corners ----------------------------------------------------------------------------------------------------------


def test_a_document_that_an_older_version_has_room_for_carries_nothing() -> None:
    now = validate_finding(finding(provenance={"tool": "x"}, cwe_ids=[79], owasp=["A03"]))
    plain = migrate(SCHEMA_VERSION, "2.0.0", now)
    expected = {name: value for name, value in plain.items() if name != "cwe_ids"} | {
        "cwe": 79,
        "owasp": "A03",
    }
    assert migrate("2.0.0", NEW, plain) == {**expected, "finding_schema_version": NEW}
    for name in ("status", "rule_id", "fingerprint", "location", "confidence", "tags"):
        del expected[name]
    assert migrate("2.0.0", OLD, plain) == {**expected, "finding_schema_version": OLD}


def test_lists_that_1_1_0_has_no_room_for() -> None:
    now = validate_finding(finding(cwe_ids=[79, 89], owasp=["A03:2021", "A01"], provenance={"tool": "x"}))
    downgraded = migrate(SCHEMA_VERSION, NEW, now)
    assert (downgraded["cwe"], downgraded["owasp"]) == (79, "A03")
    corner = {"version": "2.0.0", "fields": {"cwe_ids": [79, 89], "owasp": ["A03:2021", "A01"]}}
    assert downgraded["provenance"] == {"tool": "x", CORNER: corner}
    downgraded["cwe"] = 5
    upgraded = migrate(NEW, SCHEMA_VERSION, downgraded)
    assert_same(upgraded, {**now, "cwe_ids": [5]})


def test_the_corner_holds_what_the_old_version_has_no_room_for() -> None:
    techniques = ["T1059.001", "T1059.002", "T1001"]
    given_one = finding(rule_id="B608", mitre_attack=techniques, provenance={"tool": "x"})
    stored = migrate(SCHEMA_VERSION, NEW, validate_finding(given_one))
    downgraded = migrate(NEW, OLD, stored)
    assert downgraded["mitre_attack"] == ["T1059", "T1001"]
    assert downgraded["provenance"] == {
        "tool": "x",
        CORNER: {
            "version": NEW,
            "fields": {"rule_id": "B608", "mitre_attack": ["T1059.001", "T1059.002", "T1001"]},
        },
    }


def test_a_value_of_the_user_under_the_reserved_key_keeps_its_place() -> None:
    stored = new(rule_id="B608", provenance={CORNER: "mine", "tool": "x"})
    downgraded = migrate(NEW, OLD, stored)
    assert list(downgraded["provenance"]) == [CORNER, "tool"]
    assert downgraded["provenance"][CORNER]["original"] == "mine"
    assert_equal(migrate(OLD, NEW, downgraded), stored)


@pytest.mark.no_cover
@pytest.mark.parametrize("field", FIELDS)
def test_a_corner_that_somebody_else_wrote_ends_in_a_document_or_a_typed_error(field: str) -> None:
    migrator = SchemaMigrator()
    current = validate_finding(finding(1))
    documents = {version: migrator.migrate(SCHEMA_VERSION, version, current) for version in KNOWN_VERSIONS}
    for (version, document), other, value in itertools.product(
        documents.items(), KNOWN_VERSIONS, (None, 5, True, "", "x", [], [None], [[]], {}, {"a": 1})
    ):
        foreign = {**document, "provenance": {CORNER: {"version": other, "fields": {field: value}}}}
        for target in KNOWN_VERSIONS:
            with suppress(StorageError):
                migrator.migrate(version, target, foreign)


@example({"start_line": 5})
@given(st.sampled_from([None, {}, {"path": "a"}]))
def test_nothing_is_shared_with_the_input(location: Any) -> None:
    document = new(location=location, tags=["a"], evidence={"a": [{"b": 1}]}, provenance={"x": {}})
    before = copy.deepcopy(document)
    for version in KNOWN_VERSIONS:
        found = migrate(NEW, version, document)
        found.get("evidence", found)["a"][0]["b"] = 2
        found["provenance"].setdefault(CORNER, {})["fields"] = None
        found["provenance"]["x"]["y"] = 1
        found.get("tags", []).append("b")
        assert_same(document, before)


# -- versions ---------------------------------------------------------------------------------------------------------


def test_the_revisions_know_the_versions_that_the_package_reads() -> None:
    assert SchemaMigrator().versions() == list(KNOWN_VERSIONS)
    assert revision_chain()[-1].schema_version == SCHEMA_VERSION


def test_the_path_names_the_steps() -> None:
    migrator = SchemaMigrator()
    assert [(step.revision, step.from_version, step.to_version) for step in migrator.path(OLD, NEW)] == [
        ("r0002", OLD, NEW)
    ]
    assert [(step.revision, step.to_version) for step in migrator.path(NEW, OLD)] == [("r0002", OLD)]
    assert migrator.path(NEW, NEW) == []


UNKNOWN = ["9.0.0", "1.0.1", "0.0.0", "1.1", "", "v1.1.0", "1.1.0\n", None, 1.1, ["1.1.0"], "x" * 10_000]


@pytest.mark.parametrize("version", UNKNOWN)
def test_an_unknown_version_is_refused_with_the_known_ones(version: Any) -> None:
    migrator = SchemaMigrator()
    for call in (
        lambda: migrator.path(version, NEW),
        lambda: migrator.path(NEW, version),
        lambda: migrate(version, NEW, new()),
        lambda: migrate(NEW, version, new()),
        lambda: migrate(NEW, OLD, new(finding_schema_version=version)),
        lambda: migrate(NEW, OLD, {"finding_schema_version": version, "findings": []}),
    ):
        with pytest.raises(SchemaVersionError, match=r"0\.3\.0, 1\.0\.0, 1\.1\.0, 2\.0\.0") as refused:
            call()
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "version",
    [
        f"{MAJOR + 1}.0.0",
        f"{MAJOR}.{MINOR + 1}.0",
        f"{MAJOR}.{MINOR}.{PATCH + 1}",
        "99999999999999999999.0.0",
        f"{MAJOR}.99999999999999999999.0",
    ],
)
def test_a_newer_version_is_called_newer(version: str) -> None:
    with pytest.raises(SchemaVersionError, match="newer than this release knows"):
        migrate(version, NEW, new(finding_schema_version=version))


def test_data_must_say_their_version() -> None:
    with pytest.raises(SchemaVersionError, match="finding_schema_version is missing"):
        migrate(OLD, NEW, finding())
    with pytest.raises(SchemaVersionError, match="finding_schema_version is missing"):
        migrate(OLD, NEW, {"findings": []})


def test_data_of_another_version_than_they_were_given_as_are_refused() -> None:
    with pytest.raises(SchemaVersionError, match=r"is 1\.1\.0, but the data were given as 1\.0\.0"):
        migrate(OLD, NEW, new())
    with pytest.raises(SchemaVersionError, match="store_schema_version"):
        migrate(OLD, NEW, {"finding_schema_version": OLD, "store_schema_version": NEW, "findings": []})
    with pytest.raises(SchemaVersionError, match="document 1: finding_schema_version"):
        migrate(OLD, NEW, {"finding_schema_version": OLD, "findings": [old(), new()]})


# -- store layouts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["finding_schema_version", "store_schema_version"])
def test_a_store_layout_is_migrated_whole(key: str) -> None:
    layout: dict[str, Any] = {
        "made_by": {"x": [1]},
        key: NEW,
        "findings": [new(rule_id="a"), new(tags=["b"])],
        "more": None,
    }
    before = copy.deepcopy(layout)
    downgraded = migrate(NEW, OLD, layout)
    assert list(downgraded) == list(layout)
    assert downgraded[key] == OLD
    assert [each["finding_schema_version"] for each in downgraded["findings"]] == [OLD, OLD]
    assert downgraded["made_by"] == {"x": [1]}
    back = migrate(OLD, NEW, downgraded)
    assert {**back, "findings": []} == {**layout, "findings": []}
    for found, expected in zip(back["findings"], layout["findings"], strict=True):
        assert_equal(found, expected)
    downgraded["made_by"]["x"].append(2)
    assert layout == before


def test_the_findings_of_a_layout_may_lack_their_version() -> None:
    document = old()
    del document["finding_schema_version"]
    layout = migrate(OLD, NEW, {"finding_schema_version": OLD, "findings": [document]})
    assert layout["findings"][0]["finding_schema_version"] == NEW


def test_a_list_is_migrated_as_many() -> None:
    documents = [old(), old(title="b")]
    found = SchemaMigrator().migrate(OLD, NEW, documents)
    assert found == list(SchemaMigrator().migrate_many(OLD, NEW, documents))
    assert migrate(OLD, NEW, []) == []
    with pytest.raises(StorageValidationError, match="document 1: severity"):
        migrate(OLD, NEW, [old(), old(severity="bad")])
    with pytest.raises(SchemaVersionError, match="document 0: finding_schema_version is missing"):
        migrate(OLD, NEW, [finding()])


def test_a_legacy_layout_without_a_version_gets_one() -> None:
    assert_same(
        migrate("0.3.0", NEW, {"findings": [], "a": 1}),
        {"finding_schema_version": NEW, "findings": [], "a": 1},
    )
    assert_same(migrate("0.3.0", "0.3.0", {"findings": []}), {"findings": []})
    assert migrate("0.3.0", NEW, {"store_schema_version": "0.3.0", "findings": []}) == {
        "store_schema_version": NEW,
        "findings": [],
    }


def test_a_broken_layout_is_refused_with_the_place() -> None:
    good = {"finding_schema_version": OLD, "findings": [old()]}
    for findings, field, place in (
        ({}, "findings", "findings"),
        ([old(), []], "document", "document 1: document"),
        ([old(), old(severity="bad")], "severity", "document 1: severity"),
        ([old(tags=[])], "tags", "document 0: tags"),
    ):
        with pytest.raises(StorageValidationError, match=place) as refused:
            migrate(OLD, NEW, {**good, "findings": findings})
        assert refused.value.field == field


@pytest.mark.parametrize("data", [None, "x", 1, (old(),), [[old()]], [old(), 1]])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(StorageValidationError):
        migrate(OLD, NEW, data)


# -- bad documents ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KNOWN_VERSIONS[1:])
def test_every_broken_rule_is_refused_with_its_field(version: str) -> None:
    target = OLD if version != OLD else SCHEMA_VERSION
    for rule in BREAKS:
        if version not in rule.versions:
            continue
        document = break_document({**finding(), "finding_schema_version": version}, rule)
        if rule.key not in document and rule.key in ("id", "project_id", "created_at"):
            migrate(version, target, document)  # ingest fills it in
            continue
        error = SchemaVersionError if rule.field == VERSION_FIELD else StorageValidationError
        with pytest.raises(error) as refused:
            migrate(version, target, document)
        if isinstance(refused.value, StorageValidationError):
            assert refused.value.field == rule.field, rule.name


@pytest.mark.parametrize("rule", ENDLESS, ids=lambda rule: rule.name)
@pytest.mark.parametrize("key", ["evidence", "provenance"])
def test_bottomless_documents_are_refused(rule: Any, key: str) -> None:
    for document, target in ((old(**{key: rule.value()}), NEW), (new(**{key: rule.value()}), OLD)):
        with pytest.raises(StorageValidationError):
            migrate(document["finding_schema_version"], target, document)


@pytest.mark.no_cover
def test_corners_in_corners_without_end_are_refused() -> None:
    corner: Any = {"a": 1}
    for _ in range(5_000):
        corner = {"version": NEW, "fields": {}, "original": corner}
    with pytest.raises(StorageValidationError, match="nest deeper"):
        migrate(OLD, NEW, old(mitre_attack=[], provenance={CORNER: corner}))


def test_a_document_may_be_nested_as_deep_as_ever_and_go_down() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH - 2):
        value = [value]
    stored = new(rule_id="x", provenance={CORNER: value})
    downgraded = migrate(NEW, OLD, stored)
    assert_equal(migrate(OLD, OLD, downgraded), downgraded)
    assert_equal(migrate(OLD, NEW, downgraded), stored)


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
def test_partial_documents_pass(version: str) -> None:
    document = labelled(finding(), version)
    for name in ("id", "project_id", "created_at"):
        del document[name]
    for target in KNOWN_VERSIONS:
        assert set(REQUIRED) & migrate(version, target, document).keys() == {
            "detector_id",
            "title",
            "severity",
        }


def test_the_same_version_is_a_checked_copy() -> None:
    for document in (old(), new(tags=["a"])):
        version = document["finding_schema_version"]
        assert_same(migrate(version, version, document), document)
        with pytest.raises(StorageValidationError, match="severity"):
            migrate(version, version, {**document, "severity": "bad"})


def test_the_corner_is_plain_json() -> None:
    downgraded = migrate(NEW, OLD, new(tags=["ü"], location={"start_line": 1}, confidence=1.5))
    assert json.loads(json.dumps(downgraded)) == downgraded
