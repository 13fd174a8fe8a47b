"""Files of 0.3.0 into stores: what finds its place, what is reported, what is refused."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from servers import TEMPLATE, PostgresServer
from typer.testing import CliRunner

from findings_orm import (
    FindingStore,
    SchemaMigrator,
    StorageConflictError,
    StorageError,
    StorageUnavailableError,
    StorageValidationError,
    open_storage,
    validate_finding,
)
from findings_orm.cli.app import app
from findings_orm.finding import SCHEMA_VERSION, FindingDocument
from findings_orm.formats.legacy import LegacyReport, import_legacy
from findings_orm.testing.samples import scanned
from findings_orm.testing.strategies import legacy_documents

SAMPLES = Path(__file__).parent / "samples" / "legacy"
EMBEDDED = ("memory", "file", "sqlite")
KINDS = (*EMBEDDED, "postgresql")
FILLED_IN = {"id", "project_id", "created_at", "run_id"}
PLACED_HERE = {"severity", "evidence"}

Opener = Callable[[], FindingStore]


def written(folder: Path, **files: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.findings.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def row(**changes: Any) -> dict[str, Any]:
    return {
        "pid": "acme",
        "ts": "2023-01-05T10:00:00Z",
        "detector_id": "scan:demo",
        "title": "A title",
        "severity": "low",
        **changes,
    }


@pytest.fixture
def opener(
    request: pytest.FixtureRequest, tmp_path: Path, empty_sqlite: Path
) -> Iterator[Callable[[str], FindingStore]]:
    """A callable that opens a new, empty store of a kind."""
    opened: list[FindingStore] = []

    def new(kind: str) -> FindingStore:
        place = tmp_path / f"store-{len(opened)}"
        if kind == "sqlite":
            shutil.copy(empty_sqlite, place)
        if kind == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgresql_18")
            url = server.url(server.create_database(TEMPLATE))
        else:
            url = {"memory": "memory:", "file": place.as_uri(), "sqlite": f"sqlite:///{place}"}[kind]
        opened.append(open_storage(url))
        return opened[-1]

    yield new
    for store in opened:
        store.close()


def everything(store: FindingStore) -> dict[str, list[FindingDocument]]:
    return {project: store.list_findings(project) for project in store.list_projects()}


def notes(report: LegacyReport) -> list[tuple[str, int, str]]:
    return [(one.file.partition(".")[0], one.index, one.field) for one in report.notes]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_becomes_a_store(kind: str, opener: Callable[[str], FindingStore]) -> None:
    store = opener(kind)
    report = import_legacy(store, SAMPLES, timezone="Europe/Berlin", on_invalid="quarantine")
    assert report.counts() == {
        "created": 9, "updated": 0, "unchanged": 0, "reopened": 0, "resolved": 0, "rejected": 4
    }  # fmt: skip
    assert store.list_projects() == ["acme-api", "acme-bad", "acme-web", "empty"]
    found = {document["title"]: document for document in store.list_findings("acme-api")}
    header = found["Missing header"]
    assert header["id"] == "0b6e6f0a-3a6f-4c39-9e7b-0a1d6c3a5f11"
    assert header["created_at"] == "2023-01-05T08:00:00Z"
    assert (header["cwe_ids"], header["owasp"], header["confidence"]) == ([693], ["A05:2021"], 90)
    assert header["evidence"] == {
        "match": "x-frame-options",
        "method": "GET",
        "req": "GET / HTTP/1.1",
        "res": "HTTP/1.1 200 OK\r\nServer: \x00",
        "status": 200,
        "subcategory": "headers",
    }
    kept = header["provenance"]["findings_orm"]["fields"]
    assert kept["owasp"] == "A05:2021-Security Misconfiguration"
    injection = found["SQL injection"]
    assert injection["id"] != header["id"]
    assert injection["evidence"]["id"] == header["id"]
    assert injection["evidence"]["cvss"] == "9.8"
    assert injection["created_at"] == "2023-01-05T10:00:00Z"
    assert injection["provenance"]["findings_orm"]["fields"]["evidence"] == {"n": 10**30, "status": "kept"}
    equal = [one for one in store.list_findings("acme-api") if one["title"] == "Reflected XSS"]
    assert len(equal) == 3
    assert Counter(one["created_at"] for one in equal)["2023-07-01T10:00:00.500000Z"] == 2
    assert found["Ümlaut \U0001f600"]["mitre_attack"] == ["T1059.001"]
    assert store.list_findings("acme-web")[0]["title"] == "no title"


@pytest.mark.parametrize("kind", KINDS)
def test_importing_again_changes_nothing(kind: str, opener: Callable[[str], FindingStore]) -> None:
    store = opener(kind)
    import_legacy(store, SAMPLES, on_invalid="quarantine")
    before = everything(store)
    again = import_legacy(store, SAMPLES, on_invalid="quarantine")
    assert (again.counts()["created"], again.counts()["updated"], again.counts()["unchanged"]) == (0, 0, 9)
    assert everything(store) == before
    assert len(store.rejected_originals("acme-bad")) == 4


@pytest.mark.no_cover
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    rows=st.lists(legacy_documents(), max_size=4),
    copies=st.integers(0, 2),
    kind=st.sampled_from(EMBEDDED),
)
@example(rows=[row(findings="x", finding_schema_version="0.3.0")], copies=0, kind="memory")
def test_no_row_is_lost(
    rows: list[dict[str, Any]],
    copies: int,
    kind: str,
    opener: Callable[[str], FindingStore],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rows = rows + copy.deepcopy(rows[:copies])
    folder = written(tmp_path_factory.mktemp("legacy"), acme=rows)
    store = opener(kind)
    report = import_legacy(
        store, folder, timezone="America/New_York", severity="info", on_invalid="quarantine"
    )
    assert report.counts()["created"] + len(report.rejected) == len(rows)
    refused = [rows[one.index] for one in report.rejected]
    kept = [one.original for project in report.projects for one in store.rejected_originals(project)]
    assert sorted(map(text_of, kept)) == sorted(
        text_of({**one, "finding_schema_version": "0.3.0"}) for one in refused
    )
    accepted = [one for n, one in enumerate(rows) if n not in {each.index for each in report.rejected}]
    stored = [one for documents in everything(store).values() for one in documents]
    assert sorted(text_of(plain(one)) for one in stored) == sorted(
        text_of(plain(migrated(one))) for one in accepted
    )
    before = everything(store)
    again = import_legacy(
        store, folder, timezone="America/New_York", severity="info", on_invalid="quarantine"
    )
    assert (again.counts()["created"], again.counts()["updated"]) == (0, 0)
    assert everything(store) == before


def text_of(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def migrated(given: dict[str, Any]) -> dict[str, Any]:
    """What the migration alone makes of a row; its losing nothing is shown with the migrations."""
    known = ("info", "low", "medium", "high", "critical", "informational")
    severity = given["severity"] if given["severity"].strip().lower() in known else "info"
    flat = {name: value for name, value in given.items() if name != "finding_schema_version"}
    document = SchemaMigrator().migrate("0.3.0", SCHEMA_VERSION, {**flat, "severity": severity})
    filled = {
        "id": "0" * 8 + "-0000-4000-8000-" + "0" * 12,
        "project_id": "p",
        "created_at": "2000-01-01T00:00:00Z",
    }
    return dict(validate_finding({**filled, **document}))


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """What of a document the import leaves as the migration made it."""
    return {name: value for name, value in document.items() if name not in FILLED_IN | PLACED_HERE}


# -- values that are placed, and those that are not -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("ts", "zone", "created_at"),
    [
        ("2023-07-01 12:00:00", "Europe/Berlin", "2023-07-01T10:00:00Z"),
        ("2023-01-01T12:00:00.25", "Europe/Berlin", "2023-01-01T11:00:00.250000Z"),
        ("2023-07-01 12:00:00", "UTC", "2023-07-01T12:00:00Z"),
        ("2023-07-01T12:00:00+09:00", "Europe/Berlin", "2023-07-01T03:00:00Z"),
        ("2023-10-29 02:30:00", "Europe/Berlin", None),  # twice on that clock
        ("2023-03-26 02:30:00", "Europe/Berlin", None),  # never
        ("2023-07-01 12:00:00", None, None),
        ("2023-02-30 12:00:00", "UTC", None),
        ("2023-07-01", "UTC", None),
        ("0001-01-01 00:00:00", "Asia/Tokyo", None),
        ("01/07/2023 12:00", "UTC", None),
        (None, "UTC", None),
    ],
)
def test_times_without_an_offset(
    ts: object, zone: str | None, created_at: str | None, tmp_path: Path
) -> None:
    store = open_storage("memory:")
    folder = written(tmp_path, acme=[row(ts=ts)])
    report = import_legacy(store, folder, timezone=zone)
    (found,) = store.list_findings("acme")
    says_offset = isinstance(ts, str) and ts.endswith("+09:00")
    assert notes(report) == ([] if says_offset else [("acme", 0, "ts")])
    if created_at is not None:
        assert found["created_at"] == created_at
    else:
        assert found["created_at"] == store.runs("acme")[0].started_at
    assert says_offset or found["evidence"]["ts"] == ts


@pytest.mark.parametrize(
    ("value", "placed", "noted"),
    [
        (90, 90, False), (100.0, 100, False), (0, 0, False), (1.5, 1.5, False), (101, None, True), (-1, None, True),
        (0.9, None, True), (1, None, True), (True, None, True), ("high", None, True), (None, None, False),
    ],
)  # fmt: skip
def test_confidence(value: object, placed: float | None, noted: bool, tmp_path: Path) -> None:
    store = open_storage("memory:")
    report = import_legacy(store, written(tmp_path, acme=[row(confidence=value)]))
    (found,) = store.list_findings("acme")
    assert (found["confidence"], found["evidence"].get("confidence", placed)) == (placed, value)
    assert bool(report.notes) == noted


@pytest.mark.parametrize(
    ("value", "placed"),
    [
        ("A05:2021-Security Misconfiguration", ["A05:2021"]), ("A3:2017", ["A03:2017"]), ("A03", ["A03"]),
        ("A03:20210", ["A03"]), ("LLM01:2023", []), (None, []),
    ],
)  # fmt: skip
def test_categories(value: object, placed: list[str], tmp_path: Path) -> None:
    store = open_storage("memory:")
    import_legacy(store, written(tmp_path, acme=[row(owasp=value)]))
    (found,) = store.list_findings("acme")
    assert found["owasp"] == placed
    assert found["owasp"] == migrated(row(owasp=value))["owasp"]


def test_a_missing_severity_follows_the_option(tmp_path: Path) -> None:
    rows = [row(severity="moderate"), row(), row(severity=None)]
    del rows[2]["severity"]
    folder = written(tmp_path, acme=rows)
    store = open_storage("memory:")
    with pytest.raises(
        StorageValidationError, match=r"acme\.findings\.json: document 0: severity: .*moderate"
    ):
        import_legacy(store, folder)
    report = import_legacy(store, folder, severity="medium")
    assert notes(report) == [("acme", 0, "severity"), ("acme", 2, "severity")]
    found = store.list_findings("acme")
    assert Counter(one["severity"] for one in found) == {"medium": 2, "low": 1}
    assert [one["evidence"]["severity"] for one in found if "severity" in one["evidence"]] == ["moderate"]


def test_ids(tmp_path: Path) -> None:
    known = "018f3b5c-1111-7000-8000-000000000000"
    rows = [row(id=known, title="a"), row(id=known.upper(), title="b"), row(id=5), row(id=known, pid="other")]
    store = open_storage("memory:")
    report = import_legacy(store, written(tmp_path, acme=rows))
    assert notes(report) == [("acme", 1, "id"), ("acme", 2, "id")]
    found = {one["title"]: one for one in store.list_findings("acme")}
    assert found["a"]["id"] == known
    assert found["b"]["evidence"]["id"] == known.upper()
    assert found["A title"]["evidence"]["id"] == 5
    assert store.list_findings("other")[0]["id"] == known
    with pytest.raises(
        StorageConflictError, match=r"changed\.findings\.json: document 0: id: is the id of another"
    ):
        import_legacy(store, written(tmp_path / "later", changed=[row(id=known, title="c")]))


def test_projects_over_several_files(tmp_path: Path) -> None:
    equal = [row(), row(), row()]
    no_pid = [row(pid=None), row(pid=7)]
    folder = written(tmp_path, acme=equal, other=[*equal, row(pid="third")], third=no_pid, none=[])
    store = open_storage("memory:")
    report = import_legacy(store, folder)
    assert {name: len(found) for name, found in everything(store).items()} == {
        "acme": 6,
        "none": 0,
        "third": 3,
    }
    assert notes(report) == [("third", 0, "pid"), ("third", 1, "pid")]
    with pytest.raises(StorageValidationError, match=r"other\.findings\.json: document 3: detector_id"):
        bad = [*equal, row(detector_id="a b", pid="third")]
        import_legacy(store, written(tmp_path, other=bad))


def test_rows_of_a_newer_version_are_taken_as_such(tmp_path: Path) -> None:
    document = {
        "finding_schema_version": "1.0.0",
        "project_id": "acme",
        "created_at": "2023-01-05T10:00:00Z",
        "detector_id": "scan.demo",
        "title": "newer",
        "severity": "low",
        "cwe": 79,
    }
    store = open_storage("memory:")
    import_legacy(store, written(tmp_path, acme=[document, row()]))
    assert [one["cwe_ids"] for one in store.list_findings("acme") if one["title"] == "newer"] == [[79]]


TRIAGE = {
    "status": "false_positive",
    "owner": "ann",
    "tags": ["web", "q3"],
    "notes": "Not\0 ours.",
    "suppress": True,
}
SAID = {"owner": "ann", "notes": "Not\0 ours."}


@pytest.mark.parametrize("kind", KINDS)
def test_a_triage_keeps_its_meaning(kind: str, opener: Callable[[str], FindingStore], tmp_path: Path) -> None:
    rows = [
        row(title="a", created_at="2023-01-04T12:00:00+02:00", status=404, triage=TRIAGE),
        row(
            title="b", status="accepted_risk", triage={"notes": ["one", "two"], "suppress": "yes", "team": 7}
        ),
        row(title="c", status="wontfix", req="GET /", method="GET"),
    ]
    del rows[1]["ts"]
    rows[1]["created_at"] = "2023-01-05 10:00:00"
    store = opener(kind)
    folder = written(tmp_path / "old", acme=rows)
    report = import_legacy(store, folder, timezone="UTC")
    a, b, c = sorted(store.list_findings("acme"), key=lambda one: str(one["title"]))
    assert (a["created_at"], a["status"], a["tags"]) == (
        "2023-01-04T10:00:00Z",
        "false_positive",
        ["web", "q3"],
    )
    assert a["evidence"] == {"status": 404, "triage": SAID, "ts": "2023-01-05T10:00:00Z"}
    assert (b["created_at"], b["status"], c["status"]) == ("2023-01-05T10:00:00Z", "risk_accepted", "open")
    assert notes(report) == [
        ("acme", 0, "ts"), ("acme", 1, "created_at"), ("acme", 1, "triage.suppress"), ("acme", 1, "triage.team"),
        ("acme", 2, "status"),
    ]  # fmt: skip
    assert (report.comments, report.unplaced) == (2, {"method": 1, "req": 1, "status": 1})
    for one, comment in ((a, "owner: ann\nNot\\0 ours."), (b, "one\ntwo")):
        (event,) = store.history("acme", one["id"])
        assert (event.kind, event.actor, event.comment) == ("comment", "import-legacy", comment)
    assert store.history("acme", c["id"]) == []
    before = everything(store), store.history("acme", a["id"])
    again = import_legacy(store, folder, timezone="UTC")
    assert (again.counts()["unchanged"], again.comments) == (3, 0)
    assert (everything(store), store.history("acme", a["id"])) == before
    dry = import_legacy(open_storage("memory:"), folder, timezone="UTC", dry_run=True)
    assert (dry.counts()["created"], dry.comments, dry.unplaced) == (3, 0, report.unplaced)


def test_a_comment_comes_to_what_was_imported_without_it(tmp_path: Path) -> None:
    store = open_storage("memory:")
    given = {"finding_schema_version": "0.3.0", **row(triage={"owner": "ann"})}
    store.ingest("acme", [given | {"severity": "medium"}])
    assert import_legacy(store, written(tmp_path, acme=[row(triage={"owner": "ann"})])).comments == 1
    (found,) = store.list_findings("acme")
    assert [one.comment for one in store.history("acme", found["id"])] == ["", "owner: ann"]
    other = open_storage("memory:")
    other.ingest("acme", [given])
    report = import_legacy(other, written(tmp_path, acme=[row(triage={"owner": "ann"})]))
    assert (report.counts()["unchanged"], report.comments) == (1, 1)


# -- all or nothing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_row_stops_everything(
    kind: str, opener: Callable[[str], FindingStore], tmp_path: Path
) -> None:
    folder = written(
        tmp_path / "old", a=[row(pid="a")], z=[row(pid="z"), row(pid="z", detector_id="no spaces")]
    )
    store = opener(kind)
    with pytest.raises(
        StorageValidationError, match=r"z\.findings\.json: document 1: detector_id: must match"
    ):
        import_legacy(store, folder)
    assert store.list_projects() == []
    report = import_legacy(store, folder, on_invalid="quarantine", dry_run=True)
    assert report.dry_run
    assert report.counts()["created"] == 2
    assert store.list_projects() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"pid": "a", "ts": 1},', "cut off"),
        ("[null]", "an object is expected"),
        ('[{"pid": "a", "pid": "b", "ts": 1}]', "there twice"),
    ],
)
def test_a_broken_file_stops_everything(content: str, message: str, tmp_path: Path) -> None:
    folder = written(tmp_path, good=[row()])
    (folder / "zz.findings.json").write_text(content)
    store = open_storage("memory:")
    for on_invalid in ("raise", "quarantine"):
        with pytest.raises(StorageValidationError, match=rf"zz\.findings\.json: .*{message}"):
            import_legacy(store, folder, on_invalid=on_invalid)
    assert store.list_projects() == []


def test_wrong_arguments(tmp_path: Path) -> None:
    store = open_storage("memory:")
    with pytest.raises(StorageUnavailableError, match="has no file <project>.findings.json"):
        import_legacy(store, tmp_path)
    with pytest.raises(StorageUnavailableError):
        import_legacy(store, tmp_path / "none.findings.json")
    for wrong in ("Nowhere/Else", "../etc/passwd", ""):
        with pytest.raises(StorageValidationError, match="timezone: must be the IANA name"):
            import_legacy(store, SAMPLES, timezone=wrong)
    with pytest.raises(StorageValidationError, match="severity: must be one of info"):
        import_legacy(store, SAMPLES, severity="moderate")


def test_what_was_refused_can_be_corrected() -> None:
    store = open_storage("memory:")
    import_legacy(store, SAMPLES, on_invalid="quarantine")
    fixed = {
        one.rejected_id: {**one.original, "severity": "low", "detector_id": "scan:fixed"}
        for one in store.rejected_originals("acme-bad")
    }
    assert store.retry_rejected("acme-bad", fixed).created == 4
    assert store.rejected_originals("acme-bad") == []


# -- the command ----------------------------------------------------------------------------------------------------


def command(folder: Path, *arguments: str, code: int = 0) -> Any:
    url = f"sqlite:///{folder / 'findings.db'}"
    result = CliRunner().invoke(app, ["--url", url, "import-legacy", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_the_command(tmp_path: Path) -> None:
    dry = command(tmp_path, str(SAMPLES), "--dry-run", "--quarantine", "--report", "json")
    assert not (tmp_path / "findings.db").exists()
    said = json.loads(dry.stdout)
    assert (said["created"], said["dry_run"], len(said["rejected"])) == (9, True, 4)
    assert said["notes"][0] == {
        "file": "acme-api.findings.json",
        "index": 1,
        "field": "ts",
        "note": "names no instant: created_at is the time of the import",
        "value": "2023-03-26 02:30:00",
    }
    done = command(tmp_path, str(SAMPLES), "--quarantine", "--timezone", "Europe/Berlin")
    assert "acme-api: created 7" in done.stdout
    assert "ts of 2 rows has no offset: read as Europe/Berlin" in done.stdout
    assert "rejected acme-bad.findings.json #3 detector_id" in done.stdout
    assert (
        "acme-api: created 0  updated 0  unchanged 7"
        in command(tmp_path, str(SAMPLES), "--quarantine").stdout
    )


def test_the_command_names_what_has_no_place(tmp_path: Path) -> None:
    said = command(
        tmp_path, str(written(tmp_path, acme=[row(method="GET", status="wontfix", triage=TRIAGE)]))
    ).stdout
    assert "owner and notes of 1 findings are in their history" in said
    assert "no place but evidence: method (1)" in said
    assert "status of 1 rows is no known status, or the triage says another: it stays in evidence" in said


@pytest.mark.parametrize("value", [[], [{"pid": "other"}], None, "x"])
def test_a_row_may_have_a_field_named_findings(value: object, tmp_path: Path) -> None:
    given = row(findings=value)
    made = SchemaMigrator().migrate("0.3.0", SCHEMA_VERSION, given)
    assert isinstance(made, dict)
    assert made["evidence"]["findings"] == value
    with open_storage("memory:") as store:
        import_legacy(store, written(tmp_path, acme=[given]))
        (stored,) = store.list_findings("acme")
    assert stored["evidence"] == made["evidence"]


def test_findings_import_names_the_command_for_such_a_file(tmp_path: Path) -> None:
    modern = scanned()
    url = f"sqlite:///{tmp_path / 'findings.db'}"
    for rows, code in (
        ([row()], 0),
        ([{**modern, "triage": TRIAGE}], 1),
        ([modern, {**modern, "status": "fixed"}], 1),
        ({"findings": [row(title="in a layout")]}, 0),
    ):
        file = written(tmp_path, acme=rows) / "acme.findings.json"
        result = CliRunner().invoke(app, ["--url", url, "import", str(file), "--project", "acme"])
        assert result.exit_code == code, result.output
        assert f"schema 0.3.0: 'findings import-legacy {file}'" in result.stderr
    said = CliRunner().invoke(
        app, ["--url", url, "import", "-", "--project", "acme"], input=json.dumps([row()])
    )
    assert "schema 0.3.0: 'findings import-legacy FILE'" in said.stderr
    file.write_text(json.dumps([modern]))
    result = CliRunner().invoke(app, ["--url", url, "import", str(file), "--project", "acme"])
    assert (result.exit_code, "import-legacy" in result.stderr) == (0, False)


def test_the_command_refuses(tmp_path: Path) -> None:
    refused = command(tmp_path, str(SAMPLES), code=1)
    assert "acme-bad.findings.json: document 1: severity" in refused.stderr
    assert "Nothing was imported. --severity says" in refused.stderr
    assert "no such folder" in command(tmp_path, "nowhere", code=2).stderr
    assert "has no file <project>.findings.json" in command(tmp_path, str(tmp_path), code=2).stderr
    assert "--timezone: must be" in command(tmp_path, str(SAMPLES), "--timezone", "X/Y", code=2).stderr
    assert "--severity: must be one of" in command(tmp_path, str(SAMPLES), "--severity", "bad", code=2).stderr


def test_errors_are_the_packages_own(tmp_path: Path) -> None:
    (tmp_path / "a.findings.json").mkdir()
    with pytest.raises(StorageError):
        import_legacy(open_storage("memory:"), tmp_path)
