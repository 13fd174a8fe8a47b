"""Documents of every older schema version come in everywhere, and go out for old readers."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from findings_orm import SchemaMigrator, StorageValidationError, open_storage
from findings_orm.cli.app import app
from findings_orm.errors import SchemaVersionError
from findings_orm.finding import KNOWN_VERSIONS, SCHEMA_VERSION, FindingDocument, validate_finding
from findings_orm.formats import open_report, write_report
from findings_orm.testing.samples import finding, scanned, uuid_of

P = "acme-api"
NOW = [
    validate_finding(finding(n, project_id=P, run_id=uuid_of(99), **change))
    for n, change in enumerate(
        [
            {},
            {"cwe_ids": [79], "owasp": ["A03"]},
            {"cwe_ids": [79, 89], "owasp": ["A03:2021", "A01"], "tags": ["a"], "status": "triaged"},
            {"evidence": {"z": 1.0, "a": "\0"}, "provenance": {"tool": "x"}},
        ],
        1,
    )
]
VERSIONS = pytest.mark.parametrize("version", KNOWN_VERSIONS)


def older(version: str) -> list[dict[str, Any]]:
    return list(SchemaMigrator().migrate_many(SCHEMA_VERSION, version, NOW))


def stored(url: str) -> list[FindingDocument]:
    with open_storage(url) as store:
        return store.list_findings(P)


def run(folder: Path, *arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["--url", f"sqlite:///{folder / 'findings.db'}", *arguments])
    assert result.exit_code == code, result.output
    return result


def texts(version: str) -> dict[str, str]:
    """The findings as a file of each form."""
    found = older(version)
    forms = {
        "lines": "\n".join(map(json.dumps, found)),
        "array": json.dumps(found),
        "layout": json.dumps({"finding_schema_version": version, "findings": found}),
        "store": json.dumps({"store_schema_version": version, "project_id": P, "findings": found}),
    }
    if version != "0.3.0":
        bare = [{k: v for k, v in one.items() if k != "finding_schema_version"} for one in found]
        forms["unversioned"] = json.dumps({"finding_schema_version": version, "findings": bare})
    return forms


@pytest.mark.no_cover
@VERSIONS
def test_findings_import(version: str, tmp_path: Path) -> None:
    for name, text in texts(version).items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "in.json").write_text(text)
        run(folder, "import", str(folder / "in.json"), "--project", P)
        assert stored(f"sqlite:///{folder / 'findings.db'}") == NOW, name


@VERSIONS
def test_the_file_store_opens_old_layouts(version: str, tmp_path: Path) -> None:
    for name, text in texts(version).items():
        if name == "lines":
            continue
        folder = tmp_path / name
        folder.mkdir()
        (folder / "findings.json").write_text(text)
        assert stored(folder.as_uri()) == NOW, name


@VERSIONS
def test_saving_and_ingesting(version: str) -> None:
    given = [{"finding_schema_version": version, **one} for one in older(version)]
    for work in ("save_finding", "save_findings", "ingest"):
        with open_storage("memory:") as store:
            if work == "save_finding":
                for one in given:
                    store.save_finding(one)
            elif work == "save_findings":
                store.save_findings(given)
            else:
                store.ingest(P, given)
            assert store.list_findings(P) == NOW, work


@pytest.mark.parametrize("own", [{"cwe": 79, "owasp": "A03"}, {"cwe": None, "owasp": None}, {"cwe": 89}])
def test_sarif_of_an_older_release(own: dict[str, Any]) -> None:
    result = {
        "message": {"text": "m"},
        "properties": {"tags": ["external/cwe/cwe-022"], "findings_orm": {**own, "rule_id": "R"}},
    }
    log = {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "t"}}, "results": [result]}]}
    with open_report(io.BytesIO(json.dumps(log).encode())) as report:
        (found,) = report
    assert found["rule_id"] == "R"
    assert found["cwe_ids"] == ([own["cwe"]] if own["cwe"] else [])
    assert found.get("owasp", []) == ([own["owasp"]] if own.get("owasp") else [])


# -- out ------------------------------------------------------------------------------------------------------------


@pytest.mark.no_cover
@VERSIONS
@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_findings_export(version: str, form: str, tmp_path: Path) -> None:
    with open_storage(f"sqlite:///{tmp_path / 'findings.db'}") as store:
        store.save_findings(NOW)
    out = tmp_path / f"out.{form}"
    run(tmp_path, "export", "--schema-version", version, "--output", str(out))
    if form == "jsonl":
        found = list(map(json.loads, out.read_text("utf-8").splitlines()))
    else:
        layout = json.loads(out.read_bytes())
        if version != "0.3.0":
            assert layout["finding_schema_version"] == version
            assert not open_storage("memory:").check_store_layout(out)
        found = layout if version == "0.3.0" else layout["findings"]
    assert found == older(version)
    (tmp_path / "findings.db").unlink()
    run(tmp_path, "import", str(out), "--project", P)
    assert stored(f"sqlite:///{tmp_path / 'findings.db'}") == NOW


@pytest.mark.parametrize("form", ["sarif", "csv"])
def test_formats_without_a_version(form: str, tmp_path: Path) -> None:
    with open_storage(f"sqlite:///{tmp_path / 'findings.db'}") as store:
        store.save_findings(NOW)
    refused = run(tmp_path, "export", "--format", form, "--schema-version", "1.0.0", code=2)
    assert f"--schema-version: {form} has a schema of its own" in refused.stderr
    assert "Use --format jsonl or json" in refused.stderr
    run(tmp_path, "export", "--format", form, "--schema-version", SCHEMA_VERSION)
    with pytest.raises(StorageValidationError, match="only jsonl and json can be of finding schema '1.0.0'"):
        write_report(NOW, io.BytesIO(), form, schema_version="1.0.0")


def test_versions_that_are_not_known(tmp_path: Path) -> None:
    with open_storage(f"sqlite:///{tmp_path / 'findings.db'}") as store:
        store.save_findings(NOW)
    out = tmp_path / "out.jsonl"
    refused = run(tmp_path, "export", "--schema-version", "1.0", "--output", str(out), code=2)
    assert "--schema-version: must be one of 0.3.0, 1.0.0" in refused.stderr
    assert not out.exists()
    with pytest.raises(SchemaVersionError, match="newer"):
        write_report(NOW, io.BytesIO(), "jsonl", schema_version="9.0.0")


def test_an_empty_export() -> None:
    stream = io.BytesIO()
    assert write_report([], stream, "json") == 0
    assert json.loads(stream.getvalue()) == {"finding_schema_version": SCHEMA_VERSION, "findings": []}
    stream = io.BytesIO()
    write_report([], stream, "json", schema_version="0.3.0")
    assert json.loads(stream.getvalue()) == []


# -- what a release of schema 1.1.0 wrote -------------------------------------------------------------------------------

SAMPLES = Path(__file__).parent / "samples" / "schema-1.1.0"
REPORT = [scanned("R1", 3, cwe_ids=[22]), scanned("R2", 9, owasp=["A01"])]


def written_then() -> list[FindingDocument]:
    """The findings of the samples, in the current version."""
    lines = (SAMPLES / "export.jsonl").read_text("utf-8").splitlines()
    documents = SchemaMigrator().migrate_many("1.1.0", SCHEMA_VERSION, map(json.loads, lines))
    return list(map(validate_finding, documents))


@pytest.mark.parametrize("form", ["jsonl", "sarif"])
def test_an_export_of_then(form: str, tmp_path: Path) -> None:
    run(tmp_path, "import", str(SAMPLES / f"export.{form}"), "--project", P)
    found = stored(f"sqlite:///{tmp_path / 'findings.db'}")
    own = {"id", "created_at", "run_id", "evidence", "provenance"} if form == "sarif" else {"run_id"}

    def said(documents: list[FindingDocument]) -> list[dict[str, Any]]:
        kept = [{k: v for k, v in one.items() if k not in own} for one in documents]
        return sorted(kept, key=lambda one: str(one["title"]))

    assert said(found) == said(written_then())


@pytest.mark.parametrize("kind", ["folded", "unfolded"])
def test_a_file_store_of_then(kind: str, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / kind, tmp_path / "store")
    url = (tmp_path / "store").as_uri()
    expected = {one["id"]: one for one in written_then()}
    if kind == "unfolded":
        expected[min(expected)]["status"] = "triaged"
    for _ in range(2):
        with open_storage(url) as store:
            found = {one["id"]: one for one in store.list_findings(P)}
            assert {name: found[name] for name in expected} == expected
            assert len(found) == len(expected) + len(REPORT)
            assert sorted((one["cwe_ids"], one["owasp"]) for n, one in found.items() if n not in expected) == [
                ([], ["A01"]), ([22], [])
            ]  # fmt: skip
            assert len(store.runs(P)) >= 1
            again = store.ingest(P, REPORT)
            assert (again.created, again.updated, again.unchanged) == (0, 0, 2)
    assert not open_storage("memory:").check_store_layout(tmp_path / "store" / P / "findings.json")
