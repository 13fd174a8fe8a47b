"""The suite, part 2: saving and reading documents; nothing is lost, nothing is guessed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from findings_orm.errors import (
    FindingNotFoundError,
    LimitExceededError,
    SchemaVersionError,
    StorageValidationError,
)
from findings_orm.finding import SCHEMA_VERSION, STORE_FIELDS, FindingDocument, validate_finding
from findings_orm.port import FindingStore
from findings_orm.query import FindingQuery
from findings_orm.testing.contract.base import Capabilities, error_of_call, project_contents, relaxed
from findings_orm.testing.contract.port import TIMES
from findings_orm.testing.hostile import BREAKS, ENDLESS, UNBOUNDED, break_document
from findings_orm.testing.samples import (
    OTHER,
    PROJECT,
    assert_all_same,
    assert_same,
    finding,
    ids,
    scanned,
    uuid_of,
)
from findings_orm.testing.strategies import documents


def _older_finding(**changes: Any) -> dict[str, Any]:
    return finding(finding_schema_version="1.0.0", **changes)


LEGACY: dict[str, Any] = {
    "finding_schema_version": "0.3.0",
    "pid": PROJECT,
    "ts": 1672912800,
    "detector_id": "scan:old",
    "title": "An old finding",
    "severity": "High",
    "cwe": "CWE-79",
    "status": 200,
}


class DocumentContract(Capabilities):
    """`save_finding`, `save_findings`, `list_findings`, `get_finding`, `iter_findings`, `list_projects`."""

    # -- nothing is lost -----------------------------------------------------------------------------------

    @relaxed
    @given(document=documents())
    def test_what_is_accepted_comes_back_equal(self, store: FindingStore, document: dict[str, Any]) -> None:
        expected, given_one = validate_finding(document), copy.deepcopy(document)
        project_id = document["project_id"]
        store.delete_project(project_id)
        store.save_finding(document)
        assert_same(document, given_one, "the caller's document")
        assert_same(store.get_finding(project_id, expected["id"]), expected, "get_finding")
        assert_all_same(store.list_findings(project_id), [expected])
        assert_all_same(list(store.iter_findings(project_id)), [expected])
        assert_all_same(store.find(FindingQuery(project_id=project_id)).items, [expected])

    @relaxed
    @given(document=documents(project_id=PROJECT))
    def test_what_is_ingested_comes_back_equal(self, store: FindingStore, document: dict[str, Any]) -> None:
        store.delete_project(PROJECT)
        report = store.ingest(PROJECT, [document])
        expected = validate_finding(document)
        expected["run_id"] = expected["run_id"] or report.run_id
        assert_all_same(store.list_findings(PROJECT), [expected])
        assert store.ingest(PROJECT, [document]).unchanged == 1, "the same document again is a change"

    def test_older_document_is_migrated_by_ingest_too(self, store: FindingStore) -> None:
        document = _older_finding()
        for member in ("id", "project_id", "created_at"):
            del document[member]
        store.ingest(PROJECT, [document])
        store.ingest(PROJECT, [LEGACY])
        found = store.list_findings(PROJECT)
        assert [d["finding_schema_version"] for d in found] == [SCHEMA_VERSION] * 2
        assert ("scan.old", "2023-01-05T10:00:00Z", [79]) in [
            (d["detector_id"], d["created_at"], d["cwe_ids"]) for d in found
        ]

    # -- nothing is guessed --------------------------------------------------------------------------------

    def test_known_finding_that_breaks_a_rule_is_refused(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [finding()])
        before = project_contents(store)
        for rule in (*BREAKS, *ENDLESS):
            document = break_document(finding(), rule)
            filled_in = rule.key in STORE_FIELDS and document.get(rule.key) is None
            if SCHEMA_VERSION in rule.versions and not filled_in:
                refused = error_of_call(partial(store.ingest, PROJECT, [document]))
                assert isinstance(refused, (StorageValidationError, SchemaVersionError)), rule.name
        assert project_contents(store) == before, "a refused document left something behind"

    def test_documents_without_an_end_are_refused_by_a_limit(self, store: FindingStore) -> None:
        rule = UNBOUNDED[0]
        good, endless = scanned(), break_document(scanned("R2"), rule)
        with pytest.raises(LimitExceededError, match=r"max_document_\w+\); to allow more: --max-document"):
            store.save_finding(break_document(finding(), rule))
        for write in (
            lambda: store.save_findings([finding(), break_document(finding(2), rule)]),
            lambda: store.ingest(PROJECT, [good, endless]),
            lambda: store.ingest(PROJECT, iter([good, endless])),
            lambda: store.save_findings([finding(), _older_finding(**{rule.key: endless[rule.key]})]),
        ):
            with pytest.raises(
                LimitExceededError, match=r"document 1: .*max_document_\w+\); to allow more: --max-d"
            ):
                write()
            assert store.list_findings(PROJECT) == []
        report = store.ingest(PROJECT, [endless, good], on_invalid="quarantine")
        assert (report.created, len(report.rejected), store.rejected_originals(PROJECT)) == (1, 1, [])
        assert "max_document_" in report.rejected[0].reason
        assert report.rejected[0].rejected_id is None

    # -- saving --------------------------------------------------------------------------------------------

    def test_save_is_idempotent(self, store: FindingStore) -> None:
        for _ in range(3):
            store.save_finding(finding())
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]
        assert store.history(PROJECT, uuid_of(1)) == []

    def test_equal_findings_with_different_ids_stay_apart(self, store: FindingStore) -> None:
        same = {"title": "same", "resource": "same", "created_at": "2024-05-01T00:00:00Z"}
        store.save_findings([finding(number, **same) for number in range(1, 6)])
        assert ids(store.list_findings(PROJECT)) == [uuid_of(number) for number in range(1, 6)]

    def test_projects_are_told_apart_exactly(self, store: FindingStore) -> None:
        names = [
            "a",
            "A",
            "ä",
            "a\u0308",
            "a ",
            " a",
            "%",
            "_",
            "\U0001f600",
            "\uffff",
            "a-b",
            "..",
            "a/b",
            "a" * 255,
        ]
        for name in names:
            store.save_finding(finding(project_id=name, title=f"of {name}"))
        assert store.list_projects() == sorted(names)
        for name in names:
            assert [document["title"] for document in store.list_findings(name)] == [f"of {name}"]

    def test_returned_documents_belong_to_the_caller(self, store: FindingStore) -> None:
        document = finding(evidence={"a": {"b": [1]}}, tags=["x"], location={"path": "p"})
        store.save_finding(document)
        expected = validate_finding(document)
        document["evidence"]["a"]["b"].append(2)
        reads: list[Callable[[], Any]] = [
            lambda: store.get_finding(PROJECT, uuid_of(1)),
            lambda: store.list_findings(PROJECT)[0],
            lambda: next(store.iter_findings(PROJECT)),
            lambda: store.find(FindingQuery(project_id=PROJECT)).items[0],
        ]
        for read in reads:
            mine = read()
            assert_same(mine, expected)
            mine["evidence"]["a"]["b"].append(3)
            mine["tags"].append("y")
            mine["location"]["path"] = "changed"
            mine["title"] = "changed"
            assert_same(read(), expected)

    # -- save_findings -------------------------------------------------------------------------------------

    def test_save_findings_takes_any_iterable_and_projects(self, store: FindingStore) -> None:
        store.save_findings(finding(n, project_id=PROJECT if n % 2 else OTHER) for n in range(10))
        assert (len(store.list_findings(PROJECT)), len(store.list_findings(OTHER))) == (5, 5)
        store.save_findings([])

    def test_save_findings_is_all_or_none(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        before = project_contents(store)
        bad = [finding(1, title="new"), finding(2), finding(3, severity="High"), finding(4)]
        with pytest.raises(StorageValidationError) as caught:
            store.save_findings(bad)
        assert (caught.value.index, caught.value.field) == (2, "severity")
        assert project_contents(store) == before

    def test_save_findings_with_a_newer_version_saves_none(self, store: FindingStore) -> None:
        with pytest.raises(SchemaVersionError):
            store.save_findings([finding(1), finding(2, finding_schema_version="9.0.0")])
        assert store.list_findings(PROJECT) == []

    def test_save_findings_that_ends_in_an_error_of_the_caller_saves_none(self, store: FindingStore) -> None:
        def break_off() -> Any:
            yield finding(1)
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            store.save_findings(break_off())
        assert store.list_findings(PROJECT) == []

    def test_save_findings_twice_the_same_id_keeps_the_last(self, store: FindingStore) -> None:
        store.save_findings([finding(1, title="first"), finding(2), finding(1, title="last")])
        assert [document["title"] for document in store.list_findings(PROJECT)] == ["last", "Finding 2"]

    def test_save_findings_of_many(self, store: FindingStore) -> None:
        store.save_findings(finding(number) for number in range(2500))
        assert ids(store.list_findings(PROJECT)) == [uuid_of(number) for number in range(2500)]

    def test_save_findings_may_read_the_store_while_it_takes_documents(self, store: FindingStore) -> None:
        store.save_findings(finding(number) for number in range(1_500))
        store.save_findings({**document, "project_id": OTHER} for document in store.iter_findings(PROJECT))
        store.save_findings({**document, "severity": "low"} for document in store.iter_findings(PROJECT))
        assert len(store.list_findings(OTHER)) == 1_500
        assert store.summarize(PROJECT).by_severity["low"] == 1_500
        single: Iterable[FindingDocument] = (
            {**store.get_finding(PROJECT, uuid_of(n)), "project_id": "third"} for n in range(5)
        )
        store.save_findings(single)
        assert ids(store.list_findings("third")) == [uuid_of(n) for n in range(5)]

    def test_save_findings_may_write_the_store_while_it_takes_documents(self, store: FindingStore) -> None:
        def documents_and_more() -> Iterator[dict[str, Any]]:
            for number in range(3):
                store.save_finding(finding(number, project_id=OTHER))
                yield finding(number)

        store.save_findings(documents_and_more())
        assert len(store.list_findings(PROJECT)) == len(store.list_findings(OTHER)) == 3

    # -- reading -------------------------------------------------------------------------------------------

    def test_iteration_has_the_order_of_the_list(self, store: FindingStore) -> None:
        store.save_findings(
            finding(number % 4, created_at=f"2024-0{number}-01T00:00:00Z") for number in range(9, 0, -1)
        )
        assert list(store.iter_findings(PROJECT)) == store.list_findings(PROJECT)
        assert len(store.list_findings(PROJECT)) == 4
        store.delete_project(PROJECT)
        expected = [finding(number, created_at=time) for number, time in enumerate(TIMES)]
        store.save_findings(reversed(expected))
        assert ids(list(store.iter_findings(PROJECT))) == ids(expected)

    def test_large_document_is_read_alone(self, store: FindingStore) -> None:
        document = finding(
            evidence={"request": "\u00e9\x00\U0001f600<>&'\"\\" * 200_000}, title="t" * 100_000
        )
        store.save_finding(document)
        assert_same(store.get_finding(PROJECT, document["id"]), validate_finding(document))

    def test_get_finding_of_unknown_raises(self, store: FindingStore) -> None:
        store.save_finding(finding())
        for project_id, finding_id in (
            (PROJECT, uuid_of(2)), (OTHER, uuid_of(1)), (PROJECT, ""), (PROJECT, "\x00"), (PROJECT, "\ud800"),
            (PROJECT, "x" * 1000), ("\x00", uuid_of(1)), ("\ud800", uuid_of(1)), (PROJECT, "%"),
        ):  # fmt: skip
            with pytest.raises(FindingNotFoundError):
                store.get_finding(project_id, finding_id)

    def test_iter_findings_shows_one_instant(self, store: FindingStore) -> None:
        store.save_findings(finding(number) for number in range(1, 6))
        reading = store.iter_findings(PROJECT)
        seen = [next(reading)]
        store.save_findings([finding(3, title="changed"), finding(9)])
        seen += reading
        assert [document["title"] for document in seen] == [f"Finding {number}" for number in range(1, 6)]
        assert len(store.list_findings(PROJECT)) == 6

    @relaxed
    @given(many=st.lists(documents(project_id=PROJECT), max_size=4))
    def test_iter_findings_json_yields_the_same_as_json(
        self, store: FindingStore, many: list[dict[str, Any]]
    ) -> None:
        store.delete_project(PROJECT)
        store.save_findings(many)
        lines = list(store.iter_findings_json(PROJECT))
        assert all(type(line) is bytes and b"\n" not in line for line in lines)
        assert_all_same([from_json(line) for line in lines], store.list_findings(PROJECT))

    def test_iter_findings_json_shows_one_instant(self, store: FindingStore) -> None:
        store.save_findings(finding(number) for number in range(1, 6))
        with store.transaction():
            reading = store.iter_findings_json(PROJECT)
            seen = [next(reading)]
            store.save_findings([finding(3, title="changed"), finding(9)])
            seen += reading
        assert [from_json(line)["title"] for line in seen] == [f"Finding {number}" for number in range(1, 6)]

    def test_iter_findings_may_be_left_unfinished(self, store: FindingStore) -> None:
        store.save_findings(finding(number) for number in range(1, 6))
        for _ in range(50):
            reading = store.iter_findings(PROJECT)
            next(reading)
            close = getattr(reading, "close", None)
            assert close is not None, "iter_findings must return something that can be closed"
            close()
        store.save_finding(finding(9))
        assert len(store.list_findings(PROJECT)) == 6

    # -- projects and revisions ----------------------------------------------------------------------------

    def test_list_projects_are_those_written_to(self, store: FindingStore) -> None:
        assert store.list_projects() == []
        store.save_finding(finding(project_id="b"))
        store.ingest("a", [])
        store.save_finding(finding(project_id="c"))
        store.delete_project("c")
        assert store.list_projects() == ["a", "b"]

    def test_revision_grows_with_each_write(self, store: FindingStore) -> None:
        assert store.revision(PROJECT) == 0
        writes: list[Callable[[], object]] = [
            lambda: store.save_finding(finding(1)),
            lambda: store.save_finding(finding(1, title="new")),
            lambda: store.save_findings([finding(2)]),
            lambda: store.ingest(PROJECT, [finding(3)]),
            lambda: store.ingest(PROJECT, [finding(3)]),
            lambda: store.set_status(PROJECT, uuid_of(1), "resolved", actor="ann"),
            lambda: store.set_status(PROJECT, uuid_of(1), "resolved", actor="ann", comment="still"),
            lambda: store.purge(PROJECT, closed_before="9999-01-01T00:00:00Z"),
        ]
        last = 0
        for number, write in enumerate(writes):
            write()
            assert store.revision(PROJECT) > last, f"write {number} did not make the revision larger"
            last = store.revision(PROJECT)
        assert store.revision(OTHER) == 0

    def test_revision_stays_when_nothing_is_written(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.ingest(PROJECT, [finding(2)], run=uuid_of(50))
        before = store.revision(PROJECT)
        store.list_findings(PROJECT)
        store.find(FindingQuery(project_id=PROJECT))
        store.summarize(PROJECT)
        store.ingest(PROJECT, [finding(3)], dry_run=True)
        store.ingest(PROJECT, [finding(2)], run=uuid_of(50))
        store.purge(PROJECT, closed_before="9999-01-01T00:00:00Z", dry_run=True)
        with pytest.raises(StorageValidationError):
            store.save_finding(finding(4, title=""))
        with pytest.raises(StorageValidationError):
            store.ingest(PROJECT, [finding(4), finding(5, title="")])
        store.save_finding(finding(1, project_id=OTHER))
        assert store.revision(PROJECT) == before
