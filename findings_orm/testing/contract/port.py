"""The suite, part 1: the six methods of `StoragePort`, and what every `FindingStore` says of itself."""

from __future__ import annotations

import copy
import json
import pathlib
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from findings_orm.errors import SchemaVersionError, StorageError, StorageValidationError
from findings_orm.finding import KNOWN_VERSIONS, SCHEMA_VERSION, Severity, validate_finding
from findings_orm.migrations import SchemaMigrator
from findings_orm.port import FindingStore, StoragePort
from findings_orm.testing.contract.base import Capabilities, error_of_call, relaxed, visible_contents
from findings_orm.testing.hostile import BREAKS, ENDLESS, VERSION_FIELD, Break, break_document
from findings_orm.testing.samples import OTHER, PROJECT, assert_all_same, assert_same, finding, ids, uuid_of
from findings_orm.testing.strategies import documents, json_objects

LAYOUT: dict[str, Any] = {"finding_schema_version": SCHEMA_VERSION, "findings": []}

GOOD_LAYOUTS = {
    "current": LAYOUT,
    "older": {"finding_schema_version": "1.0.0", "findings": []},
    "older name of the version": {"store_schema_version": "1.0.0", "findings": []},
    "more members": {**LAYOUT, "project": "x", "findings": [finding()]},
}
BAD_LAYOUTS: dict[str, bytes] = {
    "empty file": b"",
    "no JSON": b"findings",
    "half a file": json.dumps(LAYOUT).encode()[:-5],
    "two values": b'{"finding_schema_version": "1.1.0", "findings": []} {}',
    "binary": bytes(range(256)),
    "not UTF-8": b'{"finding_schema_version": "1.1.0", "findings": [], "a": "\xff"}',
    "SQLite": b"SQLite format 3\x00" + b"\x00" * 84,
    "a list": b"[]",
    "a text": b'"1.1.0"',
    "a number": b"1",
    "null": b"null",
    "bottomless": b"[" * 200_000,
    "bottomless findings": b'{"finding_schema_version": "1.1.0", "findings": ' + b"[" * 200_000,
    "no version": b'{"findings": []}',
    "no findings": b'{"finding_schema_version": "1.1.0"}',
    "findings no list": b'{"finding_schema_version": "1.1.0", "findings": {}}',
    "findings null": b'{"finding_schema_version": "1.1.0", "findings": null}',
    "newer": b'{"finding_schema_version": "9.0.0", "findings": []}',
    "unknown between": b'{"finding_schema_version": "1.0.1", "findings": []}',
    "newer under the older name": b'{"store_schema_version": "9.0.0", "findings": []}',
    "version a number": b'{"finding_schema_version": 1.1, "findings": []}',
    "version null": b'{"finding_schema_version": null, "findings": []}',
    "version a list": b'{"finding_schema_version": ["1.1.0"], "findings": []}',
    "version an object": b'{"finding_schema_version": {}, "findings": []}',
    "version of two parts": b'{"finding_schema_version": "1.1", "findings": []}',
    "version with a newline": b'{"finding_schema_version": "1.1.0\\n", "findings": []}',
    "version with a letter": b'{"finding_schema_version": "v1.1.0", "findings": []}',
    "version with leading zeros": b'{"finding_schema_version": "01.1.0", "findings": []}',
    "version in other digits": '{"finding_schema_version": "١.١.٠", "findings": []}'.encode(),
    "number without end": b'{"finding_schema_version": "1.1.0", "findings": [], "a": ' + b"9" * 10_000 + b"}",
}
_LOOP: list[Any] = []
_LOOP.append(_LOOP)
NOT_JSON: dict[str, Any] = {
    "a set": {1},
    "bytes": b"x",
    "an object": object(),
    "NaN": float("nan"),
    "infinity": [float("inf")],
    "itself": _LOOP,
    "a lone surrogate": "\ud800",
    "a number as key": {1: "a"},
    "a tuple": (1, 2),
}
IMPOSSIBLE_PROJECTS = ("nobody", "", "\x00", "\ud800", "x" * 1000, "%", "é")


def _names_beside(path: pathlib.Path) -> list[str]:
    return [entry.name for entry in path.parent.iterdir()]


TIMES = (
    *("0001-01-01T00:00:00Z", "1999-12-31T23:59:59.999999Z", "2024-01-01T00:00:00Z"),
    *("2024-01-01T00:00:00.000001Z", "2024-01-01T00:00:00.5Z", "2024-01-01T00:00:01Z"),
    *("2024-01-01T00:00:01.000000Z", "9999-12-31T23:59:59Z"),
)
"""Times in their order; two are the same."""


class PortContract(Capabilities):
    """What an adapter with only the six methods of `StoragePort` has to do; `lift` makes a whole store of one that does."""

    @pytest.fixture
    def folder(self, tmp_path: pathlib.Path) -> pathlib.Path:
        """Return an empty folder that no store uses."""
        path = tmp_path / "layouts"
        path.mkdir()
        return path

    def test_store_has_every_method_of_the_port(self, store: StoragePort) -> None:
        assert isinstance(store, StoragePort)

    def test_schema_version_is_the_current_one(self, store: StoragePort) -> None:
        assert store.get_schema_version() == SCHEMA_VERSION

    # -- atomic_write --------------------------------------------------------------------------------------

    @relaxed
    @given(data=json_objects())
    def test_atomic_write_writes_json_that_reads_back_the_same(
        self, store: StoragePort, folder: pathlib.Path, data: dict[str, Any]
    ) -> None:
        layout = {**LAYOUT, "more": data}
        store.atomic_write(folder / "store.json", layout)
        assert_same(json.loads((folder / "store.json").read_bytes()), layout)
        assert _names_beside(folder / "store.json") == ["store.json"], "a temporary file was left"

    def test_atomic_write_replaces_the_old_file(self, store: StoragePort, folder: pathlib.Path) -> None:
        path = folder / "store.json"
        path.write_text("old " * 10_000)
        store.atomic_write(path, LAYOUT)
        assert json.loads(path.read_text()) == LAYOUT

    def test_atomic_write_does_not_change_the_data(self, store: StoragePort, folder: pathlib.Path) -> None:
        data = {**LAYOUT, "findings": [finding()]}
        store.atomic_write(folder / "store.json", data)
        assert_same(data, {**LAYOUT, "findings": [finding()]})

    def test_atomic_write_does_not_write_into_a_file_that_others_read(
        self, store: StoragePort, folder: pathlib.Path
    ) -> None:
        path = folder / "store.json"
        store.atomic_write(path, LAYOUT)
        with path.open("rb") as reader:
            store.atomic_write(path, {**LAYOUT, "findings": [finding()]})
            assert json.loads(reader.read()) == LAYOUT

    def test_atomic_write_without_version_is_refused(self, store: StoragePort, folder: pathlib.Path) -> None:
        path = folder / "store.json"
        path.write_text("old")
        without: list[dict[str, Any]] = [{}, {"findings": []}, {"store_schema_version": "1.1.0"}]
        for data in without:
            with pytest.raises(SchemaVersionError):
                store.atomic_write(path, data)
            assert (path.read_text(), _names_beside(path)) == ("old", ["store.json"])

    def test_atomic_write_of_what_json_cannot_hold_keeps_the_old_file(
        self, store: StoragePort, folder: pathlib.Path
    ) -> None:
        path = folder / "store.json"
        path.write_text("old")
        for what, value in NOT_JSON.items():
            with pytest.raises(StorageValidationError):
                store.atomic_write(path, {**LAYOUT, "findings": [value]})
            assert (path.read_text(), _names_beside(path)) == ("old", ["store.json"]), what

    def test_atomic_write_that_fails_is_refused(self, store: StoragePort, folder: pathlib.Path) -> None:
        with pytest.raises(StorageValidationError):
            store.atomic_write(folder / "missing" / "store.json", LAYOUT)
        (folder / "inner").mkdir()
        with pytest.raises(StorageValidationError):
            store.atomic_write(folder / "inner", LAYOUT)
        assert [entry.name for entry in folder.iterdir()] == ["inner"], "a temporary file was left"

    # -- validate_store_layout -----------------------------------------------------------------------------

    def test_good_layout_is_accepted(self, store: StoragePort, folder: pathlib.Path) -> None:
        path = folder / "store.json"
        for what, layout in GOOD_LAYOUTS.items():
            path.write_text(json.dumps(layout))
            assert store.validate_store_layout(path) is True, what

    def test_what_atomic_write_wrote_is_a_good_layout(self, store: StoragePort, folder: pathlib.Path) -> None:
        path = folder / "store.json"
        store.atomic_write(path, {**LAYOUT, "findings": [finding()]})
        assert store.validate_store_layout(path) is True

    def test_bad_layout_is_told_not_raised(self, store: StoragePort, folder: pathlib.Path) -> None:
        path = folder / "store.json"
        for what, content in BAD_LAYOUTS.items():
            path.write_bytes(content)
            assert store.validate_store_layout(path) is False, what

    @relaxed
    @given(content=st.binary(max_size=200))
    def test_any_bytes_are_told_not_raised(
        self, store: StoragePort, folder: pathlib.Path, content: bytes
    ) -> None:
        (folder / "store.json").write_bytes(content)
        assert store.validate_store_layout(folder / "store.json") is False

    def test_missing_file_and_folder_are_no_layouts(self, store: StoragePort, folder: pathlib.Path) -> None:
        for path in (folder / "missing.json", folder, folder / "store.json" / "below"):
            assert store.validate_store_layout(path) is False

    # -- saving --------------------------------------------------------------------------------------------

    def test_errors_have_one_root(self, store: StoragePort) -> None:
        refused: list[Any] = [None, [], "x", 1, {"finding_schema_version": "9.0.0"}, {1: 2}]
        for bad in refused:
            with pytest.raises(StorageError):
                store.save_finding(bad)

    @relaxed
    @given(document=documents())
    def test_saved_document_is_listed_as_it_is(self, store: StoragePort, document: dict[str, Any]) -> None:
        given_one = copy.deepcopy(document)
        store.delete_project(document["project_id"])
        store.save_finding(document)
        assert_same(document, given_one, "the caller's document")
        assert_all_same(store.list_findings(document["project_id"]), [validate_finding(document)])

    @relaxed
    @given(
        document=st.sampled_from(KNOWN_VERSIONS[1:-1]).flatmap(
            lambda version: documents(version=version, project_id=PROJECT)
        )
    )
    def test_older_document_is_migrated_first(self, store: StoragePort, document: dict[str, Any]) -> None:
        store.delete_project(PROJECT)
        given_one = copy.deepcopy(document)
        store.save_finding(document)
        assert_same(document, given_one, "the caller's document")
        version = document["finding_schema_version"]
        expected = SchemaMigrator().migrate(version, SCHEMA_VERSION, document)
        assert_all_same(store.list_findings(PROJECT), [validate_finding(expected)])

    def test_large_document_comes_back_equal(self, store: StoragePort) -> None:
        request = "\u00e9\x00\U0001f600<>&'\"\\" * 200_000
        document = finding(evidence={"request": request}, title="t" * 100_000, tags=["a" * 64] * 500)
        store.save_finding(document)
        assert_all_same(store.list_findings(PROJECT), [validate_finding(document)])

    def test_missing_version_is_filled_in(self, store: StoragePort) -> None:
        store.save_finding(finding())
        assert store.list_findings(PROJECT)[0]["finding_schema_version"] == SCHEMA_VERSION

    def test_values_of_enums_come_back_as_plain_text(self, store: StoragePort) -> None:
        store.save_finding(finding(severity=Severity.HIGH))
        assert_all_same(store.list_findings(PROJECT), [validate_finding(finding(severity="high"))])

    @pytest.mark.parametrize("version", ["1.0.0", SCHEMA_VERSION])
    def test_hostile_documents_are_refused_whole(self, store: StoragePort, version: str) -> None:
        store.save_finding(finding())
        before = visible_contents(store)
        for rule in (*BREAKS, *ENDLESS):
            if version in rule.versions:
                document = break_document(finding(finding_schema_version=version), rule)
                self._assert_refused(store, document, rule)
        assert visible_contents(store) == before, "a refused document left something behind"

    def _assert_refused(self, store: StoragePort, document: dict[str, Any], rule: Break) -> None:
        expected = SchemaVersionError if rule.field == VERSION_FIELD else StorageValidationError
        error = error_of_call(lambda: store.save_finding(document))
        assert isinstance(error, expected), f"accepted although {rule.name}" if error is None else rule.name
        field = getattr(error, "field", None)
        if expected is StorageValidationError and rule in BREAKS:
            assert field == rule.field, f"{rule.name}: the error names {field!r}, not {rule.field!r}"
        assert len(str(error)) < 1000, f"{rule.name}: the message is not readable"

    def test_refused_replacement_keeps_the_old_one(self, store: StoragePort) -> None:
        store.save_finding(finding())
        with pytest.raises(StorageValidationError):
            store.save_finding(finding(title=""))
        assert store.list_findings(PROJECT)[0]["title"] == "Finding 1"

    def test_save_replaces_every_field(self, store: StoragePort) -> None:
        full = finding(
            cwe_ids=[79, 89], owasp=["A03:2021", "A01"], cvss=5.5, tags=["a"], cve_ids=["CVE-2024-1234"], status="triaged",
            evidence={"a": 1}, location={"path": "x"}, confidence=50, rule_id="R", fingerprint="f",
            run_id=uuid_of(9), mitre_attack=["T1059.001"], poc_links=["x:y"], provenance={"b": 2},
        )  # fmt: skip
        bare = finding(title="other", severity="low", created_at="2024-05-02T00:00:00Z")
        for document in (full, bare, full):
            store.save_finding(document)
            assert_all_same(store.list_findings(PROJECT), [validate_finding(document)])

    def test_ids_in_capitals_are_the_same_ids(self, store: StoragePort) -> None:
        small = "abcdef00-0000-4000-8000-000000000001"
        store.save_finding(finding(id=small.upper()))
        store.save_finding(finding(id=small, title="later"))
        assert ids(store.list_findings(PROJECT)) == [small]

    def test_two_projects_may_hold_the_same_id(self, store: StoragePort) -> None:
        store.save_finding(finding(title="one"))
        store.save_finding(finding(title="two", project_id=OTHER))
        assert store.list_findings(PROJECT)[0]["title"] == "one"
        assert store.list_findings(OTHER)[0]["title"] == "two"

    def test_listed_documents_belong_to_the_caller(self, store: StoragePort) -> None:
        document = finding(evidence={"a": {"b": [1]}})
        store.save_finding(document)
        expected = validate_finding(document)
        document["evidence"]["a"]["b"].append(2)
        store.list_findings(PROJECT)[0]["evidence"]["a"]["b"].append(3)
        assert_all_same(store.list_findings(PROJECT), [expected])

    def test_defaults_are_not_shared_between_documents(self, store: StoragePort) -> None:
        store.save_finding(finding(1))
        store.save_finding(finding(2))
        first, second = store.list_findings(PROJECT)
        first["evidence"]["a"] = 1
        first["tags"].append("x")
        assert (second["evidence"], second["tags"]) == ({}, [])

    def test_list_is_in_the_order_of_time_then_id(self, store: StoragePort) -> None:
        expected = [finding(number, created_at=time) for number, time in enumerate(TIMES)]
        for document in random.Random(7).sample(expected, len(expected)):
            store.save_finding(document)
        assert ids(store.list_findings(PROJECT)) == ids(expected)

    def test_deleted_findings_are_gone(self, store: StoragePort) -> None:
        store.save_finding(finding(1))
        store.save_finding(finding(1, project_id=OTHER))
        store.delete_project(PROJECT)
        assert store.list_findings(PROJECT) == []
        assert ids(store.list_findings(OTHER)) == [uuid_of(1)]
        store.save_finding(finding(2))
        assert ids(store.list_findings(PROJECT)) == [uuid_of(2)]

    def test_project_that_can_not_be_is_empty(self, store: StoragePort) -> None:
        store.save_finding(finding())
        for project_id in IMPOSSIBLE_PROJECTS:
            store.delete_project(project_id)
            assert store.list_findings(project_id) == []
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]


class BasicContract(PortContract):
    """What a `FindingStore` says of itself and of a layout, and all that goes with a project."""

    def test_store_has_every_method_of_finding_store(self, store: FindingStore) -> None:
        assert isinstance(store, FindingStore)

    def test_health_of_a_working_store(self, store: FindingStore) -> None:
        health = store.health()
        assert (health.ok, health.schema_version, health.problem) == (True, SCHEMA_VERSION, "")
        assert health.adapter

    def test_health_waits_for_no_other_thread(self, store: FindingStore) -> None:
        with ThreadPoolExecutor(1) as other, store.transaction():
            store.save_finding(finding(1))
            health = other.submit(store.health).result(60)
        assert (health.ok, health.schema_version, health.problem) == (True, SCHEMA_VERSION, "")

    def test_all_problems_are_listed(self, store: FindingStore, folder: pathlib.Path) -> None:
        (folder / "store.json").write_text('{"finding_schema_version": "9.0.0"}')
        problems = store.check_store_layout(folder / "store.json")
        assert len(problems) == 2, problems

    def test_delete_project_removes_everything_of_it(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.ingest(PROJECT, [finding(2), {}], on_invalid="quarantine")
        store.set_status(PROJECT, finding(1)["id"], "triaged", actor="ann")
        store.delete_project(PROJECT)
        assert store.list_findings(PROJECT) == []
        assert store.history(PROJECT, finding(1)["id"]) == []
        assert store.runs(PROJECT) == []
        assert store.rejected_originals(PROJECT) == []
        assert store.list_projects() == []
        assert store.summarize(PROJECT).total == 0

    def test_delete_project_leaves_others_alone(self, store: FindingStore) -> None:
        store.save_findings([finding(1), finding(1, project_id=OTHER)])
        store.set_status(OTHER, finding(1)["id"], "triaged", actor="ann")
        store.delete_project(PROJECT)
        assert [document["project_id"] for document in store.list_findings(OTHER)] == [OTHER]
        assert len(store.history(OTHER, finding(1)["id"])) == 1
        assert store.list_projects() == [OTHER]

    def test_delete_project_purged_history_goes_too(self, store: FindingStore) -> None:
        store.save_finding(finding(1, status="resolved"))
        store.purge(PROJECT, closed_before="9999-01-01T00:00:00Z")
        store.delete_project(PROJECT)
        assert store.history(PROJECT, finding(1)["id"]) == []

    def test_unknown_project_is_empty_and_no_error(self, store: FindingStore) -> None:
        store.save_finding(finding())
        for project_id in IMPOSSIBLE_PROJECTS:
            store.delete_project(project_id)
            assert store.list_findings(project_id) == []
            assert list(store.iter_findings(project_id)) == []
            assert store.runs(project_id) == []
            assert store.revision(project_id) == 0
            assert store.summarize(project_id).total == 0
            assert store.history(project_id, finding()["id"]) == []
            assert store.rejected_originals(project_id) == []
        assert store.list_projects() == [PROJECT]

    def test_deleted_project_starts_anew(self, store: FindingStore) -> None:
        run = "11111111-0000-4000-8000-000000000001"
        store.ingest(PROJECT, [finding()], run=run)
        store.delete_project(PROJECT)
        report = store.ingest(PROJECT, [finding()], run=run)
        assert (report.created, report.repeated) == (1, False)
        assert [each.number for each in store.runs(PROJECT)] == [1]

    def test_problems_of_a_layout_are_for_people_to_read(
        self, store: FindingStore, folder: pathlib.Path
    ) -> None:
        path = folder / "store.json"
        for what, layout in GOOD_LAYOUTS.items():
            path.write_text(json.dumps(layout))
            assert store.check_store_layout(path) == [], what
        for what, content in BAD_LAYOUTS.items():
            path.write_bytes(content)
            problems = store.check_store_layout(path)
            assert problems, what
            assert all(isinstance(problem, str) and problem for problem in problems), what
            assert max(map(len, problems)) < 1000, f"{what}: a problem is for people to read"
        for missing in (folder / "missing.json", folder, path / "below"):
            assert store.check_store_layout(missing)
