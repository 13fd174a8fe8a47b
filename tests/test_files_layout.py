"""The files of a store: their names, what they say, older ones, and what people do to them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from files import whole
from hypothesis import given
from hypothesis import strategies as st

from findings_orm import (
    FileStorageAdapter,
    SchemaMigrator,
    SchemaVersionError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
    open_storage,
    validate_finding,
)
from findings_orm.finding import SCHEMA_VERSION
from findings_orm.stores.files import codec, repair
from findings_orm.stores.files.tree import folder_name
from findings_orm.testing.samples import finding, run_id_of, scanned, uuid_of
from findings_orm.testing.strategies import documents

P = "acme-api"
WINDOWS = {"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10))}


def _edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    layout = json.loads(path.read_bytes())
    change(layout)
    path.write_text(json.dumps(layout, indent=4))


# -- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "project_id", ["acme-api", "a", "x_y.z", "0b0e3c5e-6f3a-4c5d-9a57-5a2d3a1f7c11", "v1.2"]
)
def test_slugs_and_uuids_name_their_own_folder(project_id: str) -> None:
    assert folder_name(project_id) == project_id


HOSTILE = [
    "..", ".", "../../etc/passwd", "/etc", "a/b", "a\\b", "C:\\x", "CON", "con", "nul.txt", "aux.", "lpt1", " ", "a ",
    "a.", "-", "~", "Acme", "acme", "ACME", "é", "e\u0301", "日本語", "\U0001f600" * 255, "x" * 255, ".lock",
    "store.json", "journal.jsonl", "findings.json", "damaged~1", "a:b", "a*b?", "%2e%2e", "\u202e", "\ufeff",
]  # fmt: skip


def test_every_project_has_a_folder_of_its_own_inside_the_store(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "store"
    with FileStorageAdapter(root) as store:
        for number, project_id in enumerate(HOSTILE):
            store.save_finding(finding(number, project_id=project_id))
    with FileStorageAdapter(root) as store:
        assert store.list_projects() == sorted(HOSTILE)
        for number, project_id in enumerate(HOSTILE):
            assert [one["id"] for one in store.list_findings(project_id)] == [uuid_of(number)]
    folders = [path.name for path in root.iterdir() if path.is_dir()]
    assert len({name.casefold() for name in folders}) == len(HOSTILE)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["store"]


@given(project_id=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=255))
def test_any_name_is_safe(project_id: str) -> None:
    name = folder_name(project_id)
    assert 1 <= len(name) <= 64
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-~")
    assert name[0] not in ".-"
    assert name[-1] != "."
    assert name.split(".")[0] not in WINDOWS
    assert name == project_id or "~" in name


# -- what the files say ------------------------------------------------------------------------------------


@given(document=documents())
def test_what_is_left_out_comes_back(document: dict[str, Any]) -> None:
    canonical = validate_finding(document)
    short = json.loads(json.dumps(codec.slim_document(canonical)))
    assert repr(codec.full_document(short)) == repr(canonical)


def test_findings_are_readable_sorted_and_stable(tmp_path: Path) -> None:
    with FileStorageAdapter(tmp_path) as store:
        store.save_findings(
            [finding(3), finding(1, title="Straße 😀", evidence={"b": 1, "a": [1.0]}), finding(2)]
        )
    path = tmp_path / P / "findings.json"
    text = path.read_text(encoding="utf-8")
    layout = json.loads(text)
    assert list(layout) == ["finding_schema_version", "project_id", "findings"]
    assert [one["id"] for one in layout["findings"]] == [uuid_of(1), uuid_of(2), uuid_of(3)]
    assert "Straße 😀" in text
    assert not {"null", "[]"} & set(text.replace(",", "").split())
    assert '"evidence": {\n        "b": 1,\n        "a": [\n' in text
    with FileStorageAdapter(tmp_path) as store:
        store.save_finding(finding(4))
    added = path.read_text(encoding="utf-8").split("\n")
    assert text.split("\n")[:-5] == added[: len(text.split("\n")) - 5], "an added finding changed other lines"


def test_every_file_is_a_good_layout(tmp_path: Path) -> None:
    with FileStorageAdapter(tmp_path) as store:
        store.ingest(P, [scanned(), scanned(), {}], run=run_id_of(1), on_invalid="quarantine")
        store.ingest(P, [scanned()], run=run_id_of(2), close_missing=True)
        assert store.check_store_layout(tmp_path) == []
        assert store.validate_store_layout(tmp_path)
    paths = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        f"{P}/events.jsonl", f"{P}/findings.json", f"{P}/identities.jsonl", f"{P}/rejected.jsonl", f"{P}/runs.jsonl",
        "journal.jsonl", "store.json",
    ]  # fmt: skip
    with FileStorageAdapter(tmp_path) as store:
        for path in paths:
            assert store.check_store_layout(path) == [], path
            content = path.read_bytes()
            path.write_bytes(content.replace(b'"', b"'", 3))
            assert store.check_store_layout(path), path
            assert store.check_store_layout(tmp_path), path
            assert not store.validate_store_layout(tmp_path)
            path.write_bytes(content)
        (tmp_path / P / "runs.jsonl").unlink()
        assert "runs.jsonl: is missing" in store.check_store_layout(tmp_path)[0]


def test_deleted_project_leaves_no_folder(tmp_path: Path) -> None:
    with FileStorageAdapter(tmp_path) as store:
        store.save_finding(finding(1))
    (tmp_path / P / "findings.json.orig-1.0.0").write_text("old")
    with FileStorageAdapter(tmp_path) as store:
        store.delete_project(P)
    assert not (tmp_path / P).exists()


def test_nothing_is_made_before_the_first_write(tmp_path: Path) -> None:
    with FileStorageAdapter(tmp_path / "new" / "store") as store:
        assert store.list_projects() == []
        assert store.health().ok
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("url", ["file:", "file://host/x", "file:///x?a=1", "file:///x#y", "http://x"])
def test_other_urls_are_refused(url: str) -> None:
    from findings_orm.stores.files import open_url

    with pytest.raises(StorageValidationError):
        open_url(url)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "findings.json").write_text("[]")
    with pytest.raises(StorageUnavailableError, match="folder"):
        FileStorageAdapter(tmp_path / "findings.json")


def test_a_url_may_be_encoded(tmp_path: Path) -> None:
    with open_storage((tmp_path / "a b#é").as_uri()) as store:
        store.save_finding(finding())
    assert (tmp_path / "a b#é" / P / "findings.json").is_file()


def test_missing_library_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['filelock'] = None\n"
        "from findings_orm import FileStorageAdapter, StorageUnavailableError\n"
        "try: FileStorageAdapter('x', lock='soft')\nexcept StorageUnavailableError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'findings-orm[file]'" in said


# -- edits by hand -----------------------------------------------------------------------------------------


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    with FileStorageAdapter(tmp_path) as store:
        store.ingest(
            P, [scanned("R1", 3, id=uuid_of(1), created_at="2024-05-01T00:00:00Z")], run=run_id_of(1)
        )
        store.save_findings([finding(2), finding(3)])
    return tmp_path / P / "findings.json"


def test_valid_edits_are_taken_over_as_if_saved(edited: Path, caplog: pytest.LogCaptureFixture) -> None:
    def change(layout: dict[str, Any]) -> None:
        first, second, _ = layout["findings"]
        first["severity"] = "critical"
        second["status"] = "resolved"
        layout["findings"][2] = finding(4, severity="low")

    root = edited.parents[1]
    with FileStorageAdapter(root) as running:
        revision = running.revision(P)
        _edit(edited, change)
        with FileStorageAdapter(root) as fresh:
            for store in (running, fresh):
                found = {one["id"]: one for one in store.list_findings(P)}
                assert [uuid_of(1), uuid_of(2), uuid_of(4)] == sorted(found)
                assert found[uuid_of(1)]["severity"] == "critical"
                assert store.history(P, uuid_of(2))[0].changes == {"status": ["open", "resolved"]}
                assert store.history(P, uuid_of(1))[-1].comment == "changed by hand in findings.json"
                assert store.history(P, uuid_of(3))[-1].comment == "removed by hand in findings.json"
                assert store.purge(P, closed_before="9999-01-01T00:00:00Z", dry_run=True).purged == 1
                assert store.revision(P) > revision
        assert "1 added, 2 changed, 1 removed" in caplog.text
        assert running.health().details["edited"]
        seen = scanned("x", rule_id=None, title="Finding 4", resource="src/file4.py", severity="low")
        assert running.ingest(P, [seen]).unchanged == 1, (
            "the identity of an added finding is not that of a save"
        )
        assert running.ingest(P, [scanned("R1", 3, severity="critical")], run=run_id_of(9)).unchanged == 1
        assert running.health().details["edited"] == []
        assert "evidence" not in edited.read_text()
        before = whole(running)
    with FileStorageAdapter(root) as again:
        assert whole(again) == before


def test_another_order_and_indentation_is_no_edit(edited: Path) -> None:
    with FileStorageAdapter(edited.parents[1]) as store:
        before = whole(store)
        _edit(edited, lambda layout: layout["findings"].reverse())
        assert whole(store) == before
        assert store.health().details["edited"] == []
        store.save_finding(finding(9))
    with FileStorageAdapter(edited.parents[1]) as store:
        assert len(store.list_findings(P)) == 4


def test_a_copied_folder_is_taken_in(edited: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "brought").mkdir()
    (other / "brought" / "findings.json").write_bytes(edited.read_bytes())
    with FileStorageAdapter(other) as store:
        assert len(store.list_findings(P)) == 3
        store.save_finding(finding(5))
    assert not (other / "brought" / "findings.json").exists()
    assert (other / "brought" / f"findings.json.orig-{SCHEMA_VERSION}").read_bytes() == edited.read_bytes()
    with FileStorageAdapter(other) as store:
        assert len(store.list_findings(P)) == 4


BAD_EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "severity": (
        lambda layout: layout["findings"][1].update(severity="bad"),
        "findings[1].severity: must be",
    ),
    "unknown field": (
        lambda layout: layout["findings"][0].update(colour=1),
        "findings[0].colour: is not a field",
    ),
    "no id": (lambda layout: layout["findings"][0].pop("id"), "findings[0].id: is required"),
    "deep": (
        lambda layout: layout["findings"][0].update(location={"start_line": 0}),
        "findings[0].location.start_line: must be",
    ),
    "doubled": (
        lambda layout: layout["findings"].append(layout["findings"][0]),
        "findings[3].id: must differ from that of findings[0]",
    ),
    "project": (
        lambda layout: layout["findings"][0].update(project_id="x"),
        "findings[0].project_id: must be 'acme-api'",
    ),
    "layout's project": (lambda layout: layout.update(project_id="x"), "project_id: must be 'acme-api'"),
    "no list": (lambda layout: layout.update(findings={}), "findings: must be a list"),
    "no object": (lambda layout: layout["findings"].insert(0, 7), "findings[0]: must be a JSON object"),
}


@pytest.mark.parametrize("what", BAD_EDITS)
def test_invalid_edits_are_named_and_change_nothing(edited: Path, what: str) -> None:
    root = edited.parents[1]
    change, message = BAD_EDITS[what]
    original = edited.read_bytes()
    with FileStorageAdapter(root) as store:
        before = whole(store)
        _edit(edited, change)
        broken = edited.read_bytes()
        for call in (lambda: store.list_findings(P), lambda: store.save_finding(finding(9))):
            with pytest.raises(StorageIntegrityError) as caught:
                call()
            assert f"{edited}: {message}" in str(caught.value)
        assert not store.health().ok
        assert store.check_store_layout(root) == [str(caught.value)]
        assert edited.read_bytes() == broken
        edited.write_bytes(original)
        assert whole(store) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"finding_schema_version": "2.0.0",\n "findings": [}', "line 2"),
        ('{"finding_schema_version": "2.0.0", "findings": [{"id": "a", "id": "b"}]}', "id: must occur once"),
        ('{"finding_schema_version": "2.0.0", "findings": ' + "[" * 100_000, "damaged"),
        (b"\xff\xfe\xff", "damaged"),
    ],
)
def test_what_is_no_json_is_named(edited: Path, content: str | bytes, message: str) -> None:
    edited.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StorageIntegrityError) as caught:
        FileStorageAdapter(edited.parents[1])
    assert str(edited) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("version", ["9.0.0", "x", None, 1])
def test_newer_and_unknown_versions_are_refused(edited: Path, version: Any) -> None:
    _edit(edited, lambda layout: layout.update(finding_schema_version=version))
    content = edited.read_bytes()
    with pytest.raises(SchemaVersionError, match=r"findings\.json"):
        FileStorageAdapter(edited.parents[1])
    assert edited.read_bytes() == content


def test_an_edit_and_a_later_write_of_the_same_finding(
    edited: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = edited.parents[1]
    with FileStorageAdapter(root, fold_on_close=False) as store:
        store.save_finding(finding(2, title="written"))
        store.set_status(P, uuid_of(3), "triaged", actor="ann")
        store.save_finding(finding(7, title="written"))
        store.purge(P, closed_before="9999-01-01T00:00:00Z")

    def change(layout: dict[str, Any]) -> None:
        layout["findings"][1]["title"] = "edited"
        layout["findings"] = [*layout["findings"][:2], finding(7, title="edited"), finding(8)]

    _edit(edited, change)
    content = edited.read_bytes()
    with FileStorageAdapter(root) as store:
        found = {one["id"]: one["title"] for one in store.list_findings(P)}
        assert (found[uuid_of(2)], found[uuid_of(7)], found[uuid_of(8)]) == (
            "written",
            "written",
            "Finding 8",
        )
        assert uuid_of(3) not in found
        assert "stay as written" in caplog.text
        store.save_finding(finding(9))
    assert edited.with_name("findings.json.orig-edited").read_bytes() == content


def test_an_edit_of_a_project_that_was_deleted_meanwhile(edited: Path) -> None:
    root = edited.parents[1]
    with FileStorageAdapter(root, fold_on_close=False) as store:
        store.delete_project(P)
    _edit(edited, lambda layout: layout["findings"][1].update(title="edited"))
    with FileStorageAdapter(root) as store:
        assert store.list_projects() == []
        store.save_finding(finding(1, project_id="x"))
    with FileStorageAdapter(root) as store:
        assert store.list_projects() == ["x"]


# -- older layouts -----------------------------------------------------------------------------------------


def _older(version: str) -> list[dict[str, Any]]:
    new = [validate_finding(finding(1, cwe_ids=[79])), validate_finding(finding(2, project_id="beta"))]
    return [SchemaMigrator().migrate(SCHEMA_VERSION, version, one) for one in new]


@pytest.mark.parametrize("form", ["array", "layout", "older name", "array without version"])
@pytest.mark.parametrize("place", [".", P, "Elsewhere"])
def test_an_older_layout_opens_and_is_migrated_on_the_first_write(
    tmp_path: Path, form: str, place: str
) -> None:
    old: Any = _older(SCHEMA_VERSION if form == "array without version" else "1.0.0")
    if form == "array without version":
        old = [
            {name: value for name, value in one.items() if name != "finding_schema_version"} for one in old
        ]
    elif form != "array":
        key = "finding_schema_version" if form == "layout" else "store_schema_version"
        old = {key: "1.0.0", "findings": old}
    path = tmp_path / place / "findings.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(old))
    content = path.read_bytes()
    with FileStorageAdapter(tmp_path) as store:
        assert store.list_projects() == [P, "beta"]
        assert store.get_finding(P, uuid_of(1)) == validate_finding(finding(1, cwe_ids=[79]))
        assert store.sighting(P, uuid_of(1)).fingerprint
    assert path.read_bytes() == content, "it was changed before the first write"
    with FileStorageAdapter(tmp_path) as store:
        store.set_status(P, uuid_of(1), "triaged", actor="ann")
        store.delete_project("beta")
    version = SCHEMA_VERSION if form == "array without version" else "1.0.0"
    assert path.with_name(f"findings.json.orig-{version}").read_bytes() == content
    assert (
        json.loads((tmp_path / P / "findings.json").read_bytes())["finding_schema_version"] == SCHEMA_VERSION
    )
    with FileStorageAdapter(tmp_path) as store:
        assert store.list_projects() == [P]
        assert store.get_finding(P, uuid_of(1))["status"] == "triaged"
        assert store.check_store_layout(tmp_path) == []


def test_a_checked_out_older_version_of_a_listed_file(edited: Path) -> None:
    layout = json.loads(edited.read_bytes())
    edited.write_text(json.dumps(SchemaMigrator().migrate(SCHEMA_VERSION, "1.0.0", layout)))
    old = edited.read_bytes()
    with FileStorageAdapter(edited.parents[1]) as store:
        assert len(store.list_findings(P)) == 3
        store.save_finding(finding(9))
    assert edited.with_name("findings.json.orig-1.0.0").read_bytes() == old


def test_a_folder_of_an_older_release_is_migrated(edited: Path) -> None:
    """The release before wrote the same files, with documents of its version: the manifest vouches for them."""
    from findings_orm.stores.files import snapshot

    root = edited.parents[1]
    with FileStorageAdapter(root) as store:
        before = store.list_findings(P)
    old = SchemaMigrator().migrate(SCHEMA_VERSION, "1.0.0", json.loads(edited.read_bytes()))
    edited.write_text(json.dumps(old))
    manifest = snapshot.read_manifest(root / "store.json", (root / "store.json").read_bytes())
    manifest.projects[P].files["findings.json"] = snapshot.sha256(edited.read_bytes())
    (root / "store.json").write_bytes(manifest.render())
    with FileStorageAdapter(root) as store:
        assert store.list_findings(P) == before
        assert store.sighting(P, uuid_of(1)).last_run == run_id_of(1)
        store.save_finding(finding(9))
    assert (root / P / "findings.json.orig-1.0.0").exists()
    with FileStorageAdapter(root) as store:
        assert store.list_findings(P)[:3] == before


def test_a_newer_store_is_refused_and_left_alone(edited: Path) -> None:
    root = edited.parents[1]
    from findings_orm.stores.files import journal

    line, _ = journal.pack_line(
        {"format": journal.FORMAT, "layout": 2, "generation": 1, "finding_schema_version": "9.0.0"}
    )
    (root / "journal.jsonl").write_bytes(line)
    for call in (lambda: FileStorageAdapter(root), lambda: repair(root)):
        with pytest.raises(SchemaVersionError, match="another release"):
            call()
    assert (root / "journal.jsonl").read_bytes() == line


def test_findings_are_reported_torn_once_and_health_says_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FileStorageAdapter(tmp_path, fold_on_close=False) as store:
        store.save_finding(finding(1))
        store.save_finding(finding(2))
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING), FileStorageAdapter(tmp_path) as store:
        assert [one["id"] for one in store.list_findings(P)] == [uuid_of(1)]
        assert store.health().details["unfinished_record"] > 0
        assert "line 3: is unfinished" in store.check_store_layout(tmp_path)[0]
        assert caplog.text.count("is unfinished") == 1
        store.save_finding(finding(3))
        assert store.check_store_layout(tmp_path) == []
    with FileStorageAdapter(tmp_path) as store:
        assert len(store.list_findings(P)) == 2
