from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest
from corners import ADDED, CORNER, REQUIRED, documents, downgraded_documents
from hypothesis import example, given
from hypothesis import strategies as st

from findings_orm import SchemaVersionError, StorageValidationError, validate_finding
from findings_orm.finding import FIELDS, KNOWN_VERSIONS, MAX_DEPTH, SCHEMA_VERSION
from findings_orm.migrations import SchemaMigrator
from findings_orm.migrations.scripts import chain, document_changes
from findings_orm.testing import strategies
from findings_orm.testing.hostile import BREAKS, ENDLESS, VERSION_FIELD, break_document
from findings_orm.testing.samples import assert_same, finding

OLD, NEW = "1.0.0", "1.1.0"
migrate = SchemaMigrator().migrate
up, down = document_changes("r0002")


def old(**changes: Any) -> dict[str, Any]:
    return {**finding(), "finding_schema_version": OLD, **changes}


def new(**changes: Any) -> dict[str, Any]:
    return {**finding(), "finding_schema_version": NEW, **changes}


def canonical(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with its fields in one order; the order inside of them stays."""
    return {name: document[name] for name in FIELDS if name in document}


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert_same(canonical(found), canonical(expected))


# -- the two functions undo each other --------------------------------------------------------------------------------


@given(documents(OLD) | downgraded_documents())
def test_down_undoes_up(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    upgraded = up(document)
    assert_same(document, before)
    assert upgraded["finding_schema_version"] == NEW
    validate_finding({**finding(), **upgraded})
    assert_equal(down(upgraded), document)


@given(
    documents(NEW) | downgraded_documents().map(lambda document: {**document, "finding_schema_version": NEW})
)
def test_up_undoes_down(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    downgraded = down(document)
    assert_same(document, before)
    assert downgraded["finding_schema_version"] == OLD
    assert not set(ADDED) & downgraded.keys()
    assert not any("." in technique for technique in downgraded.get("mitre_attack", []))
    assert_equal(up(downgraded), document)


@given(documents(OLD), st.integers(2, 5))
def test_what_down_makes_can_be_taken_for_a_document_of_the_new_version(
    document: dict[str, Any], times: int
) -> None:
    stages = [document]
    for _ in range(times):
        stages.append(down({**stages[-1], "finding_schema_version": NEW}))
    for deeper, stage in zip(stages[:0:-1], stages[-2::-1], strict=True):
        assert_equal(up(deeper), {**stage, "finding_schema_version": NEW})


@given(strategies.documents(version=NEW, sparse=False))
def test_a_canonical_document_stays_canonical(document: dict[str, Any]) -> None:
    stored = validate_finding(document)
    back = migrate(OLD, NEW, migrate(NEW, OLD, stored))
    assert_same(validate_finding(back), stored)


def test_a_document_that_1_0_0_has_room_for_carries_nothing() -> None:
    plain = validate_finding(new(provenance={"tool": "x"}))
    assert migrate(NEW, OLD, plain) == {
        **{name: value for name, value in plain.items() if name not in ADDED},
        "finding_schema_version": OLD,
    }


def test_the_corner_holds_what_the_old_version_has_no_room_for() -> None:
    stored = validate_finding(
        new(rule_id="B608", mitre_attack=["T1059.001", "T1059.002", "T1001"], provenance={"tool": "x"})
    )
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
    stored = validate_finding(new(rule_id="B608", provenance={CORNER: "mine", "tool": "x"}))
    downgraded = migrate(NEW, OLD, stored)
    assert list(downgraded["provenance"]) == [CORNER, "tool"]
    assert downgraded["provenance"][CORNER]["original"] == "mine"
    assert_equal(migrate(OLD, NEW, downgraded), stored)


def test_what_others_changed_is_left_alone() -> None:
    downgraded = migrate(NEW, OLD, validate_finding(new(rule_id="B608", mitre_attack=["T1059.001"])))
    downgraded["mitre_attack"] = ["T1001"]
    upgraded = migrate(OLD, NEW, downgraded)
    assert upgraded["rule_id"] is None
    assert upgraded["provenance"] == downgraded["provenance"]
    assert_equal(migrate(NEW, OLD, upgraded), downgraded)


@given(strategies.documents(version=OLD))
def test_a_document_of_the_old_version_is_accepted_everywhere(document: dict[str, Any]) -> None:
    stored = validate_finding(migrate(OLD, NEW, document))
    for name, value in validate_finding({**document, "finding_schema_version": NEW}).items():
        assert_same(stored[name], value)


@example({"start_line": 5})
@given(st.sampled_from([None, {}, {"path": "a"}]))
def test_nothing_is_shared_with_the_input(location: Any) -> None:
    document = new(location=location, tags=["a"], evidence={"a": [{"b": 1}]}, provenance={"x": {}})
    before = copy.deepcopy(document)
    for version in KNOWN_VERSIONS:
        found = migrate(NEW, version, document)
        found["evidence"]["a"][0]["b"] = 2
        found["provenance"].setdefault(CORNER, {})["fields"] = None
        found["provenance"]["x"]["y"] = 1
        found.get("tags", []).append("b")
        assert_same(document, before)


# -- versions ---------------------------------------------------------------------------------------------------------


def test_the_revisions_know_the_versions_that_the_package_reads() -> None:
    assert SchemaMigrator().versions() == list(KNOWN_VERSIONS)
    assert chain()[-1].schema_version == SCHEMA_VERSION


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
        with pytest.raises(SchemaVersionError, match=r"1\.0\.0, 1\.1\.0") as refused:
            call()
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "version", ["2.0.0", "1.2.0", "1.1.1", "99999999999999999999.0.0", "1.99999999999999999999.0"]
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
    layout = {"made_by": {"x": [1]}, key: NEW, "findings": [new(rule_id="a"), new(tags=["b"])], "more": None}
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


@pytest.mark.parametrize("data", [None, [], "x", 1, [old()]])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(StorageValidationError):
        migrate(OLD, NEW, data)


# -- bad documents ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
def test_every_broken_rule_is_refused_with_its_field(version: str) -> None:
    target = NEW if version == OLD else OLD
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
    stored = validate_finding(new(rule_id="x", provenance={CORNER: value}))
    downgraded = migrate(NEW, OLD, stored)
    assert_equal(migrate(OLD, OLD, downgraded), downgraded)
    assert_equal(migrate(OLD, NEW, downgraded), stored)


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
def test_partial_documents_pass(version: str) -> None:
    document = {**finding(), "finding_schema_version": version}
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


def test_a_document_costs_tens_of_microseconds() -> None:
    document = old(evidence={"request": "x" * 500, "lines": list(range(20))})
    best = min(_seconds(document) for _ in range(5))
    assert best < 500e-6, f"{best * 1e6:.0f} microseconds"


def _seconds(document: dict[str, Any]) -> float:
    start = time.perf_counter()
    for _ in range(100):
        migrate(OLD, NEW, document)
    return (time.perf_counter() - start) / 100


def test_the_corner_is_plain_json() -> None:
    downgraded = migrate(NEW, OLD, new(tags=["ü"], location={"start_line": 1}, confidence=1.5))
    assert json.loads(json.dumps(downgraded)) == downgraded
