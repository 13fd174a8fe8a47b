"""Files from one schema version to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from findings_orm import (
    SchemaMigrator,
    SchemaVersionError,
    StorageUnavailableError,
    StorageValidationError,
    open_storage,
)
from findings_orm.cli.app import app
from findings_orm.finding import KNOWN_VERSIONS, SCHEMA_VERSION
from findings_orm.testing.strategies import assert_same, documents, legacy_documents

MIGRATOR = SchemaMigrator()
OLDER = [version for version in KNOWN_VERSIONS[1:] if version != SCHEMA_VERSION]
LEGACY = {
    "pid": "acme",
    "ts": "2023-01-05 10:00:00",
    "detector_id": "scan:demo",
    "title": "old",
    "severity": "High",
    "cwe": "CWE-079",
    "status": 200,
    "method": "GET",
}
DOCUMENT = {
    "project_id": "acme",
    "id": "018f3b5c-1111-7000-8000-000000000000",
    "created_at": "2023-01-05T10:00:00Z",
    "detector_id": "scan.demo",
    "title": "a",
    "severity": "low",
    "rule_id": "R1",
    "tags": ["x"],
}


def written(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def of(version: str) -> Any:
    if version == "0.3.0":
        return legacy_documents()
    return documents(version).map(lambda document: {**document, "finding_schema_version": version})


def sorted_fields(data: Any) -> Any:
    """The order of a document's own fields is no part of it."""
    findings = data["findings"] if isinstance(data, dict) else data
    return [dict(sorted(document.items())) for document in findings]


@pytest.mark.no_cover
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("version", KNOWN_VERSIONS)
def test_there_and_back(version: str, data: st.DataObject, tmp_path: Path) -> None:
    found = data.draw(st.lists(of(version), max_size=3))
    other = data.draw(st.sampled_from([each for each in KNOWN_VERSIONS if each != version]))
    layout = {"finding_schema_version": version, "findings": found, "project_id": "acme"}
    before = found if version == "0.3.0" and data.draw(st.booleans()) else layout
    path = written(tmp_path / "findings.json", before)
    for left in tmp_path.glob("*.orig-*"):
        left.unlink()
    content = path.read_bytes()
    report = MIGRATOR.migrate_file(path, other)
    assert (report.from_version, report.documents) == (version, len(found))
    if before is layout:
        assert read(path) == MIGRATOR.migrate(version, other, layout)
    assert report.copy is not None
    assert report.copy.read_bytes() == content
    back = MIGRATOR.migrate_file(path, version)
    assert back.from_version == other
    after, expected = read(path), json.loads(content)
    assert_same(sorted_fields(after), sorted_fields(expected))
    assert after == expected


def test_a_bare_array_becomes_a_layout(tmp_path: Path) -> None:
    path = written(tmp_path / "acme.findings.json", [LEGACY, {**LEGACY, "ts": 1672912800}])
    report = MIGRATOR.migrate_file(path, SCHEMA_VERSION)
    layout = read(path)
    assert list(layout) == ["finding_schema_version", "findings"]
    assert layout["finding_schema_version"] == SCHEMA_VERSION
    assert [one["cwe_ids"] for one in layout["findings"]] == [[79], [79]]
    assert report.missing == {"id": 2, "created_at": 1}
    assert report.aside == {"ts": 2, "severity": 2, "cwe": 2, "status": 2, "method": 2}
    assert (report.changed["pid"], report.changed["cwe_ids"]) == (2, 2)
    assert "run_id" not in report.changed
    assert MIGRATOR.migrate_file(written(path, []), SCHEMA_VERSION).documents == 0
    assert read(path) == {"finding_schema_version": SCHEMA_VERSION, "findings": []}


@pytest.mark.parametrize("rows", [[], [LEGACY]])
def test_a_layout_without_a_version_gets_one(rows: list[Any], tmp_path: Path) -> None:
    path = written(tmp_path / "f.json", {"findings": rows, "made_by": "x"})
    MIGRATOR.migrate_file(path, SCHEMA_VERSION)
    assert read(path) == MIGRATOR.migrate("0.3.0", SCHEMA_VERSION, {"findings": rows, "made_by": "x"})
    assert open_storage("memory:").validate_store_layout(path)


def test_what_has_no_room_is_counted(tmp_path: Path) -> None:
    rows = [{**DOCUMENT, "cwe_ids": [79, 89], "owasp": ["A03:2021"]}, DOCUMENT]
    path = written(tmp_path / "f.json", {"finding_schema_version": SCHEMA_VERSION, "findings": rows})
    assert MIGRATOR.migrate_file(path, "1.1.0", dry_run=True).aside == {"cwe_ids": 1, "owasp": 1}
    aside = MIGRATOR.migrate_file(path, "1.0.0", dry_run=True).aside
    assert aside == {"cwe_ids": 1, "owasp": 1, "rule_id": 2, "tags": 2}


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "f.json", [LEGACY])
    content = path.read_bytes()
    said = MIGRATOR.migrate_file(path, SCHEMA_VERSION, dry_run=True, output=tmp_path / "other")
    done = MIGRATOR.migrate_file(path, SCHEMA_VERSION, output=tmp_path / "other")
    assert (said.changed, said.aside, said.missing) == (done.changed, done.aside, done.missing)
    assert (said.output, said.copy, said.dry_run) == (None, None, True)
    assert (done.output, done.copy) == (tmp_path / "other", None)
    assert path.read_bytes() == content
    assert sorted(each.name for each in tmp_path.iterdir()) == ["f.json", "other"]


def test_copies_are_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    for title in ("one", "two", "one"):
        written(path, [{**LEGACY, "title": title}])
        MIGRATOR.migrate_file(path, SCHEMA_VERSION)
    kept = [read(tmp_path / name)[0]["title"] for name in ("f.json.orig-0.3.0", "f.json.orig-0.3.0.2")]
    assert kept == ["one", "two"]
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_to_do(tmp_path: Path) -> None:
    path = written(tmp_path / "f.json", {"store_schema_version": "1.0.0", "findings": []})
    content = path.read_bytes()
    report = MIGRATOR.migrate_file(path, "1.0.0")
    assert (report.output, report.copy) == (None, None)
    assert path.read_bytes() == content
    MIGRATOR.migrate_file(path, "1.1.0")
    assert read(path) == {"store_schema_version": "1.1.0", "findings": []}


def test_the_file_is_written_as_atomic_write_does(tmp_path: Path) -> None:
    layout = {"a": [], "findings": [LEGACY, {**LEGACY, "match": "a\n\u00e9"}], "b": {"c": [1.0, {}]}}
    path = written(tmp_path / "f.json", {"finding_schema_version": "0.3.0", **layout})
    MIGRATOR.migrate_file(path, SCHEMA_VERSION)
    text = path.read_text()
    assert text == json.dumps(json.loads(text), ensure_ascii=False, indent=2) + "\n"
    assert list(json.loads(text)) == ["finding_schema_version", "a", "findings", "b"]
    MIGRATOR.migrate_file(written(path, [LEGACY] * 2), "0.3.0", output=tmp_path / "array.json")
    text = (tmp_path / "array.json").read_text()
    assert text == json.dumps([LEGACY] * 2, ensure_ascii=False, indent=2) + "\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_other_encodings(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(
        json.dumps([{**LEGACY, "title": "\u00e9\U0001f600"}] * 3, ensure_ascii=False).encode(encoding)
    )
    content = path.read_bytes()
    report = MIGRATOR.migrate_file(path, SCHEMA_VERSION)
    assert [one["title"] for one in read(path)["findings"]] == ["\u00e9\U0001f600"] * 3
    assert report.copy is not None
    assert report.copy.read_bytes() == content
    path.write_bytes(content[:-2] + b"\x00\xd8\x00")
    with pytest.raises(StorageValidationError, match="is no store layout"):
        MIGRATOR.migrate_file(path, SCHEMA_VERSION)


def test_progress(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    path = written(tmp_path / "f.json", [LEGACY] * 3)
    MIGRATOR.migrate_file(path, "1.0.0", progress=lambda done, total: said.append((done, total)))
    assert said == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{", StorageValidationError, "is no store layout"),
        ('{"findings": [], "findings": []}', StorageValidationError, "twice"),
        ('{"a": 1}\n{"a": 2}', StorageValidationError, "is no store layout"),
        ("5", StorageValidationError, "must be a store layout"),
        ('{"findings": {}}', StorageValidationError, "must be a store layout"),
        ('{"findings": [{"title": "x"}]}', SchemaVersionError, "finding_schema_version is missing"),
        ('{"finding_schema_version": "9.0.0", "findings": [{}]}', SchemaVersionError, "newer"),
        ('[{"title": "x", "detector_id": "a"}]', StorageValidationError, "document 0: severity: is required"),
        ('[{"pid": "a"}, 5]', StorageValidationError, "document 0"),
        ('[{"finding_schema_version": "1.0.0", "tags": []}]', StorageValidationError, "document 0: tags: is not a field"),
    ],
)  # fmt: skip
def test_what_is_refused_stays_as_it_was(
    content: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "f.json"
    path.write_text(content)
    with pytest.raises(error, match=message) as refused:
        MIGRATOR.migrate_file(path, SCHEMA_VERSION)
    assert str(path) in str(refused.value)
    assert path.read_text() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError, match="can't be read"):
        MIGRATOR.migrate_file(tmp_path / "none.json", SCHEMA_VERSION)
    path = written(tmp_path / "f.json", [LEGACY])
    with pytest.raises(SchemaVersionError, match="to_version"):
        MIGRATOR.migrate_file(path, "3.0.0")
    with pytest.raises((StorageUnavailableError, StorageValidationError), match="writ"):
        MIGRATOR.migrate_file(path, SCHEMA_VERSION, output=tmp_path / "no" / "folder.json")


# -- many documents -------------------------------------------------------------------------------------------------


def test_many_documents_one_at_a_time() -> None:
    given: list[int] = []

    def source() -> Any:
        for n in range(10**9):
            given.append(n)
            yield {**DOCUMENT, "finding_schema_version": SCHEMA_VERSION, "title": str(n)}

    stream = MIGRATOR.migrate_many(SCHEMA_VERSION, "1.0.0", source())
    assert [next(stream)["title"] for _ in range(5)] == list("01234")
    assert len(given) == 5
    bad: list[dict[str, Any]] = [
        {**DOCUMENT, "finding_schema_version": SCHEMA_VERSION},
        {"finding_schema_version": SCHEMA_VERSION},
    ]
    with pytest.raises(StorageValidationError, match="document 1: detector_id: is required") as refused:
        list(MIGRATOR.migrate_many(SCHEMA_VERSION, "1.0.0", bad))
    assert refused.value.index == 1
    with pytest.raises(SchemaVersionError, match="document 0: finding_schema_version is 2"):
        list(MIGRATOR.migrate_many("1.0.0", "1.1.0", bad))


# -- the command ----------------------------------------------------------------------------------------------------


def command(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["migrate", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_the_command(tmp_path: Path) -> None:
    path = written(tmp_path / "f.json", [LEGACY])
    assert "missing, filled in by an import: created_at 1, id 1" in command(str(path), "--dry-run").stdout
    assert read(path) == [LEGACY]
    done = json.loads(command(str(path), "--to", "1.0.0", "--format", "json").stdout)
    assert (done["from_version"], done["to_version"], done["documents"]) == ("0.3.0", "1.0.0", 1)
    assert done["copy"] == f"{path}.orig-0.3.0"
    assert read(path)["finding_schema_version"] == "1.0.0"
    assert "nothing to do" in command(str(path), "--to", "1.0.0").stdout
    command(str(path), "--to", "0.3.0", "--output", str(tmp_path / "back.json"))
    assert read(tmp_path / "back.json") == [LEGACY]


def test_the_command_refuses(tmp_path: Path) -> None:
    path = written(tmp_path / "f.json", [{}])
    assert "document 0" in command(str(path), code=1).stderr
    assert "--to: must be one of 0.3.0" in command(str(path), "--to", "9.9.9", code=2).stderr
    assert "no such file" in command(str(tmp_path / "none"), code=2).stderr
