"""The test data is as rich as it says, and the comparison sees what it says."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis.strategies import SearchStrategy

from findings_orm.finding import MAX_DEPTH, SCHEMA_VERSION, validate_finding
from findings_orm.migrations import SchemaMigrator
from findings_orm.query import FindingQuery, matches
from findings_orm.testing.hostile import BREAKS
from findings_orm.testing.samples import assert_all_same, assert_same, finding, first_difference
from findings_orm.testing.strategies import (
    documents,
    json_objects,
    legacy_documents,
    project_ids,
    queries,
    scans,
    texts,
    times,
)

SEARCH = settings(
    max_examples=20_000,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
OLD_FIELDS = [
    "id", "project_id", "detector_id", "title", "severity", "resource", "created_at", "run_id", "evidence",
    "provenance", "cwe", "owasp", "cve_ids", "cvss", "mitre_attack", "poc_links", "finding_schema_version",
]  # fmt: skip


def assert_reaches(strategy: SearchStrategy[Any], corner: Any) -> None:
    """Assert that a strategy makes a value for which `corner` is true, in the same way each time."""
    find(strategy, corner, settings=SEARCH, random=random.Random(7))


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, inner), default=0)


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *(leaf for inner in value.values() for leaf in leaves(inner))]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [value]


@pytest.mark.parametrize(
    "corner",
    [
        lambda text: any(ord(c) > 0xFFFF for c in text),
        lambda text: any(0x300 <= ord(c) < 0x370 for c in text),
        lambda text: any(0x590 <= ord(c) < 0x700 for c in text),
        lambda text: "\n" in text,
        lambda text: "'" in text and "%" in text,
    ],
    ids=["astral", "combining", "right to left", "newline", "quotes"],
)
def test_texts_reach_the_corner(corner: Any) -> None:
    assert_reaches(texts(), corner)


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "corner",
    [
        lambda value: depth(value) >= MAX_DEPTH - 1,
        lambda value: "" in value,
        lambda value: any(isinstance(leaf, str) and "\x00" in leaf for leaf in leaves(value)),
        lambda value: any("\x00" in key for key in value),
        lambda value: any(type(leaf) is int and abs(leaf) > 10**1000 for leaf in leaves(value)),
        lambda value: any(type(leaf) is float and str(leaf) == "-0.0" for leaf in leaves(value)),
        lambda value: any(type(leaf) is float and 0 < leaf < 2.3e-308 for leaf in leaves(value)),
        lambda value: any(type(leaf) is float and leaf == 1 for leaf in leaves(value)),
        lambda value: any(leaf is True for leaf in leaves(value)),
        lambda value: list(value) != sorted(value),
    ],
    ids=["deep", "empty key", "NUL", "NUL key", "huge", "-0.0", "subnormal", "1.0", "True", "unsorted keys"],
)
def test_json_objects_reach_the_corner(corner: Any) -> None:
    assert_reaches(json_objects(), corner)


@pytest.mark.no_cover
@pytest.mark.slow
@pytest.mark.parametrize(
    "corner",
    [
        lambda document: set(document) <= {"id", "project_id", "detector_id", "title", "severity", "created_at"},
        lambda document: len(document) > 18,
        lambda document: document.get("run_id", 0) is None,
        lambda document: "location" in document and document["location"] == {},
        lambda document: document["created_at"].startswith("0001"),
        lambda document: document["created_at"].startswith("9999"),
        lambda document: "-02-29T" in document["created_at"],
        lambda document: len(document["project_id"]) == 255,
        lambda document: document["id"] != document["id"].lower(),
        lambda document: "finding_schema_version" not in document,
        lambda document: next(iter(document)) == "severity",
    ],
    ids=["sparse", "full", "None", "empty location", "year 1", "year 9999", "leap day", "255", "capitals", "no version",
         "any order"],
)  # fmt: skip
def test_documents_reach_the_corner(corner: Any) -> None:
    assert_reaches(documents(), corner)


@given(document=documents(version="1.0.0"))
def test_older_documents_have_only_older_fields(document: dict[str, Any]) -> None:
    assert set(document) <= set(OLD_FIELDS)
    assert document["finding_schema_version"] == "1.0.0"
    SchemaMigrator().migrate("1.0.0", SCHEMA_VERSION, document)


@given(document=legacy_documents())
def test_legacy_documents_are_valid(document: dict[str, Any]) -> None:
    SchemaMigrator().migrate("0.3.0", SCHEMA_VERSION, document)


@given(document=documents(project_id="p", sparse=True))
def test_documents_can_be_of_one_project_and_sparse(document: dict[str, Any]) -> None:
    assert document["project_id"] == "p"
    assert len(document) <= 7


@given(project_id=project_ids(), time=times())
def test_project_ids_and_times_are_valid(project_id: str, time: str) -> None:
    validate_finding(finding(project_id=project_id, created_at=time))


def test_scans_hold_equal_findings() -> None:
    assert_reaches(scans(), lambda report: any(report.count(document) > 1 for document in report))


def test_queries_find_some_and_not_all() -> None:
    there = [validate_finding(finding(number, cwe_ids=[number])) for number in range(1, 5)]

    def divides(query: FindingQuery) -> bool:
        return 0 < sum(matches(query, document) for document in there) < 4

    assert_reaches(queries("p", there), divides)


def test_every_field_has_hostile_values() -> None:
    for version in ("1.0.0", SCHEMA_VERSION):
        broken = {rule.key for rule in BREAKS if version in rule.versions}
        assert broken >= (set(OLD_FIELDS) if version == "1.0.0" else set(validate_finding(finding())))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0), (1, True), (0, False), (0.0, -0.0), (None, 0), ("", None), ("é", "e\u0301"), ([], {}), ([1], [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({"a": [0.0]}, {"a": [-0.0]}), ([[1]], [[1.0]]), ({"a": 1}, {}),
    ],
)  # fmt: skip
def test_comparison_tells_apart(one: Any, other: Any) -> None:
    for a, b in ((one, other), (other, one), ({"x": [one]}, {"x": [other]})):
        with pytest.raises(AssertionError):
            assert_same(a, b)
    with pytest.raises(AssertionError):
        assert_all_same([one], [other])
    assert_same({"x": [one]}, {"x": [one]})


def test_comparison_names_the_place() -> None:
    place = first_difference({"a": [{"b": 1}]}, {"a": [{"b": 1.0}]})
    assert place is not None
    assert place.startswith("document.a[0].b: found 1, expected 1.0")
