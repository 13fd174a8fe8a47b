"""`validate_finding`: what is accepted comes back canonical, what is refused names field, rule and value."""

from __future__ import annotations

import copy
import json
import marshal
from typing import Any

import pytest
from hypothesis import given

from findings_orm.errors import SchemaVersionError, StorageError, StorageValidationError
from findings_orm.finding import (
    CONTENT_FIELDS,
    FIELDS,
    MAX_DEPTH,
    MAX_DIGITS,
    SCHEMA_VERSION,
    TRANSITIONS,
    Finding,
    Severity,
    Status,
    canonical_time,
    content_of,
    validate_finding,
)
from findings_orm.testing.hostile import BREAKS, ENDLESS, VERSION_FIELD, Break, break_document
from findings_orm.testing.samples import assert_same, finding
from findings_orm.testing.strategies import documents, hostile_documents, times

CURRENT = [rule for rule in BREAKS if SCHEMA_VERSION in rule.versions]
DEFAULTS: dict[str, Any] = {
    "resource": "", "run_id": None, "status": "open", "rule_id": None, "fingerprint": None, "location": None,
    "confidence": None, "cwe_ids": [], "owasp": [], "cve_ids": [], "cvss": None, "mitre_attack": [], "tags": [],
    "poc_links": [], "evidence": {}, "provenance": {}, "finding_schema_version": SCHEMA_VERSION,
}  # fmt: skip


def refusal_of(document: Any) -> StorageError:
    with pytest.raises(StorageError) as caught:
        validate_finding(document)
    return caught.value


@pytest.mark.parametrize("rule", CURRENT, ids=lambda rule: ascii(rule.name))
def test_broken_rule_is_refused_with_field_rule_and_value(rule: Break) -> None:
    error = refusal_of(break_document(finding(), rule))
    assert len(str(error)) < 500, "the message is too long to read"
    if rule.field == VERSION_FIELD:
        assert isinstance(error, SchemaVersionError)
        return
    assert isinstance(error, StorageValidationError)
    assert error.field == rule.field
    assert error.rule
    named = (
        rule.field if len(rule.field) <= 200 else f"{rule.field[:200]}…: "
    )  # a longer one is cut in the message alone
    assert str(error).startswith(named)
    assert error.rule in str(error)


@pytest.mark.parametrize("rule", ENDLESS, ids=lambda rule: rule.name)
def test_endless_document_is_refused(rule: Break) -> None:
    error = refusal_of(break_document(finding(), rule))
    assert isinstance(error, StorageValidationError)
    assert (error.field or "").startswith(rule.field)
    assert len(str(error)) < 1000, "the message is too long to read"


@given(hostile=hostile_documents())
def test_any_document_that_breaks_one_rule_is_refused(hostile: tuple[dict[str, Any], str, str]) -> None:
    document, rule, field = hostile
    error = refusal_of(document)
    assert getattr(error, "field", VERSION_FIELD) == field, rule


@given(document=documents())
def test_canonical_form_is_stable_and_complete(document: dict[str, Any]) -> None:
    given_one = copy.deepcopy(document)
    canonical = validate_finding(document)
    assert_same(document, given_one, "the caller's document")
    assert tuple(canonical) == FIELDS
    assert_same(validate_finding(canonical), canonical)
    assert_same(json.loads(json.dumps(canonical)), canonical)


@given(document=documents())
def test_canonical_form_keeps_every_value(document: dict[str, Any]) -> None:
    canonical = validate_finding(document)
    for name in ("evidence", "provenance", "title", "resource", "project_id", "tags", "poc_links", "cve_ids"):
        if name in document:
            assert_same(canonical[name], document[name], name)
    for name, value in document.items():
        folded = value.lower() if name in ("id", "run_id") and value else value
        if name != "created_at":
            assert dict(canonical)[name] == folded
    assert canonical["id"] == document["id"].lower()
    for name, default in DEFAULTS.items():
        if name not in document:
            assert_same(dict(canonical)[name], default, name)


@given(document=documents(sparse=False))
def test_canonical_form_shares_nothing_with_the_input(document: dict[str, Any]) -> None:
    canonical = validate_finding(document)
    expected = copy.deepcopy(canonical)
    for name in ("evidence", "provenance"):
        document[name]["added"] = 1
        for value in document[name].values():
            if isinstance(value, (dict, list)):
                value.clear()
    for name in ("tags", "cve_ids", "mitre_attack", "poc_links"):
        document[name].append("added")
    assert_same(canonical, expected)


def test_defaults_are_new_each_time() -> None:
    validate_finding(finding())["evidence"]["a"] = 1
    validate_finding(finding())["tags"].append("a")
    assert_same(
        {name: validate_finding(finding())[name] for name in ("evidence", "tags")},
        {"evidence": {}, "tags": []},
    )


def test_text_of_enums_becomes_plain_text() -> None:
    document = finding(severity=Severity.HIGH, status=Status.TRIAGED, evidence={"a": [Severity.LOW]})
    expected = finding(severity="high", status="triaged", evidence={"a": ["low"]})
    assert_same(validate_finding(document), validate_finding(expected))


@pytest.mark.parametrize(
    ("name", "given_one", "canonical"),
    [
        ("cvss", 5, 5.0), ("cvss", -0.0, 0.0), ("cvss", 10, 10.0), ("cvss", 5e-324, 5e-324),
        ("confidence", 50.0, 50), ("confidence", 0.5, 0.5), ("confidence", -0.0, 0), ("confidence", 100, 100),
        ("created_at", "2024-01-01T00:00:00.000000Z", "2024-01-01T00:00:00Z"),
        ("created_at", "2024-01-01T00:00:00.5Z", "2024-01-01T00:00:00.500000Z"),
        ("created_at", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("id", "ABCDEF00-0000-4000-8000-00000000000A", "abcdef00-0000-4000-8000-00000000000a"),
        ("location", {}, {}), ("location", None, None), ("location", {"path": None}, {"path": None}),
        ("project_id", "p" * 255, "p" * 255), ("project_id", "\U0001f600" * 255, "\U0001f600" * 255),
        ("tags", ["\U0001f600" * 64, "a", "a"], ["\U0001f600" * 64, "a", "a"]), ("tags", [], []),
        ("title", " \n\t ", " \n\t "), ("resource", "", ""), ("cwe_ids", [2**31 - 1, 1, 1], [2**31 - 1, 1, 1]),
        ("evidence", {"n": 10**MAX_DIGITS - 1}, {"n": 10**MAX_DIGITS - 1}),
        ("evidence", {"n": 1 - 10**MAX_DIGITS}, {"n": 1 - 10**MAX_DIGITS}),
        ("evidence", {"b": 1, "a": [1.0, True, -0.0]}, {"b": 1, "a": [1.0, True, -0.0]}),
    ],
)  # fmt: skip
def test_canonical_value(name: str, given_one: Any, canonical: Any) -> None:
    assert_same(dict(validate_finding(finding(**{name: given_one})))[name], canonical, name)


@pytest.mark.parametrize("opening", ["[", "{"])
def test_deepest_evidence_is_accepted_and_one_more_is_not(opening: str) -> None:
    def nested(levels: int) -> Any:
        value: Any = [] if opening == "[" else {}
        for _ in range(levels - 1):
            value = [value] if opening == "[" else {"a": value}
        return value

    deepest = finding(evidence={"a": nested(MAX_DEPTH - 1)})
    assert_same(validate_finding(deepest)["evidence"], deepest["evidence"])
    error = refusal_of(finding(evidence={"a": nested(MAX_DEPTH)}))
    assert str(MAX_DEPTH) in str(error)


def test_many_braces_are_not_deep() -> None:
    flat = finding(evidence={"a": [{} for _ in range(1000)], "b": "[{" * 1000, "c": "9" * 10_000})
    assert_same(validate_finding(flat)["evidence"], flat["evidence"])


@pytest.mark.parametrize("document", [None, [], "finding", 5, [finding()], {1: 2}, {}], ids=repr)
def test_what_is_no_finding_is_refused(document: Any) -> None:
    assert isinstance(refusal_of(document), StorageValidationError)


def test_first_broken_field_is_named_in_the_order_of_the_schema() -> None:
    error = refusal_of(finding(title="", severity="x", cwe_ids=[0]))
    assert getattr(error, "field", None) == "title"


@given(time=times())
def test_canonical_time_keeps_the_instant(time: str) -> None:
    canonical = canonical_time(time)
    assert canonical_time(canonical) == canonical
    assert len(canonical) in (20, 27)
    assert canonical[:19] == time[:19]
    assert canonical[20:-1].rstrip("0") == time[20:-1].rstrip("0")


def test_severities_are_ordered() -> None:
    assert [Severity(name).rank for name in ("info", "low", "medium", "high", "critical")] == [0, 1, 2, 3, 4]
    assert Severity.at_least("high") == ("high", "critical")
    assert Severity.at_least("info") == tuple(Severity)


def test_every_status_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert set().union(*TRANSITIONS.values()) == set(Status)
    for status, following in TRANSITIONS.items():
        assert following
        assert status not in following


def test_finding_has_the_fields_of_the_contract() -> None:
    required = {name for name, each in Finding.model_fields.items() if each.is_required()}
    assert required == {"id", "project_id", "detector_id", "title", "severity", "created_at"}
    assert set(FIELDS) == required | set(DEFAULTS)


@given(document=documents())
def test_content_is_known_before_validation(document: dict[str, Any]) -> None:
    assert content_of(document) == content_of(validate_finding(document)) != b""


@given(hostile=hostile_documents())
def test_content_of_a_refused_document_is_not_that_of_an_accepted_one(
    hostile: tuple[dict[str, Any], str, str],
) -> None:
    document, _, field = hostile
    if field.partition(".")[0].partition("[")[0] not in CONTENT_FIELDS:
        return
    content = content_of(document)
    if content == b"":
        return
    version, plain, *free = marshal.loads(content)  # noqa: S302  # made above
    assert version == SCHEMA_VERSION
    names = ["location", "cvss", "confidence"]
    names = [name for name in CONTENT_FIELDS if name not in names] + ["provenance"] + names
    rebuilt = dict(zip(names, [*plain, *free], strict=True))
    refusal_of(finding(**rebuilt))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"evidence": {"a": 1}}, {"evidence": {"a": 1.0}}), ({"evidence": {"a": 1}}, {"evidence": {"a": True}}),
        ({"evidence": {"a": 0.0}}, {"evidence": {"a": -0.0}}), ({"evidence": {"a": [1]}}, {"evidence": {"a": (1,)}}),
        ({"evidence": {"a": 1, "b": 2}}, {"evidence": {"b": 2, "a": 1}}), ({"evidence": {}}, {"evidence": None}),
        ({"evidence": {"a": {}}}, {"evidence": {"a": []}}), ({"evidence": {"1": 1}}, {"evidence": {1: 1}}),
        ({"tags": []}, {"tags": None}), ({"tags": ["a"]}, {"tags": ("a",)}), ({"cvss": 1}, {"cvss": True}),
        ({"confidence": None}, {"confidence": 0}), ({"resource": ""}, {"resource": None}),
    ],
)  # fmt: skip
def test_content_tells_values_apart(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert content_of(finding(**a)) != content_of(finding(**b))


def test_content_is_the_same_however_a_value_is_given() -> None:
    assert content_of(finding(cvss=5, confidence=50.0)) == content_of(
        finding(cvss=5.0, confidence=50, tags=[])
    )
    word, other = (json.loads('"ab"') for _ in range(2))
    assert content_of(finding(tags=[word, word])) == content_of(finding(tags=[word, other]))


def test_content_says_nothing_about_what_is_not_plain() -> None:
    assert content_of(finding(severity=Severity.HIGH)) == b""
    assert content_of(finding(unknown="x")) == b""
    assert content_of(finding(evidence={"a": Severity.LOW})) == b""
    assert content_of(finding(cvss=10**400)) == b""
    assert content_of(finding(provenance={"a": Severity.LOW})) == b""


def test_provenance_is_no_content() -> None:
    assert content_of(finding(provenance={"commit": "aa11"})) == content_of(finding(provenance={})) != b""
    assert content_of(finding()) == content_of(finding(provenance={}))
