"""Limits: what they refuse and how, and that no hostile file fills memory.

``FINDINGS_TEST_SCALE=full`` tries every file at the size of a real bomb, in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bombs
import pytest
from typer.testing import CliRunner

from findings_orm import (
    FindingQuery,
    LimitExceededError,
    Limits,
    StorageError,
    StorageValidationError,
    open_storage,
)
from findings_orm.backup import restore_backup, verify_backup, write_backup
from findings_orm.cli.app import app
from findings_orm.cli.failures import UsageError
from findings_orm.cli.options import limits_of
from findings_orm.formats import open_report, write_report
from findings_orm.formats.legacy import import_legacy
from findings_orm.imports.importer import Import
from findings_orm.limits import DEFAULT, MB
from findings_orm.migrations import SchemaMigrator
from findings_orm.store import Store
from findings_orm.testing.hostile import UNBOUNDED, Break, break_document
from findings_orm.testing.samples import PROJECT, finding, scanned

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
SIZE = 400 * MB if FULL else 60 * MB
ALLOWED = 300 * MB
GUARD = 2 * 1024 * MB
SLOW = {"equal_results": 20 * MB, "huge_artifacts": 60 * MB, "huge_rules": 60 * MB}
"""Files whose many parts take long to read: smaller ones, which pass their limits too."""
ACCEPTED = {"beside_the_findings", "guids", "large_findings", "chained_references"}
"""Files that are large and no bombs: a reader with bounded memory takes them."""
ONLY_FULL = {*SLOW, *ACCEPTED, "many_members", "members_of_the_log", "shared_rule", "backup_manifest"}
"""They take seconds."""

CHILD = """
import contextlib, io, json, pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from findings_orm.cli import main
for arguments in json.loads(sys.argv[2]):
    sys.argv, said = ["findings", *arguments], io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
    except SystemExit as error:
        code = error.code
    peak = pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]  # ru_maxrss counts the parent's
    print(json.dumps([code or 0, int(peak) * 1024, said.getvalue()]), flush=True)
"""


def run_all(commands: list[list[str]]) -> Iterator[tuple[int, str]]:
    """Run `findings` for each of these arguments, in one other process; yield the exit codes and what was said."""
    command = [sys.executable, "-c", CHILD, str(GUARD), json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # findings itself
    lines = done.stdout.splitlines()
    assert len(lines) == len(commands), done.stderr
    for arguments, line in zip(commands, lines, strict=True):
        code, most, text = json.loads(line)
        assert most < ALLOWED, f"{arguments}: {most / MB:.0f} MB; {text}"
        if FULL:
            print(f"{most / MB:4.0f} MB  {code}  {' '.join(arguments)}")
        yield code, text


def assert_told(text: str) -> None:
    """Assert that a message names the limit, and how to raise it."""
    assert "max_" in text, text
    assert "limits=Limits(" in text, text


def command_for(name: str, folder: Path) -> list[str]:
    """Write a hostile file and return the command that reads it."""
    ending, write = bombs.IMPORTED[name]
    file = folder / f"{name}{ending}"
    write(file, SLOW.get(name, SIZE))
    more = ["--quarantine"] if name in bombs.REFUSED else []
    return ["--url", f"sqlite:///{folder}/findings.db", "-q", "import", str(file), "--project", name, *more]


@pytest.mark.no_cover
@pytest.mark.slow
def test_no_file_fills_memory(tmp_path: Path) -> None:
    """Many files in one process: the peak of its memory is that of the worst."""
    url = ["--url", f"sqlite:///{tmp_path}/findings.db", "-q"]
    bombs.legacy(tmp_path / "p.findings.json", SIZE)
    bombs.legacy_names(tmp_path / "names.findings.json", SIZE if FULL else 10 * MB)
    bombs.layout(tmp_path / "layout.json", SIZE)
    bombs.array(tmp_path / "array.json", 4 * MB)
    commands = [command_for(name, tmp_path) for name in sorted(bombs.IMPORTED) if name not in ONLY_FULL]
    commands += [[*url, "import-legacy", str(tmp_path / f"{name}.findings.json")] for name in ("p", "names")]
    commands += [["-q", "migrate", str(tmp_path / "names.findings.json"), "--dry-run"]]
    commands += [[*url, "migrate", str(tmp_path / name)] for name in ("layout.json", "array.json")]
    told = [text for code, text in run_all(commands) if code == 1]
    assert len(told) == len(commands)
    for text in told[:-1]:
        assert_told(text)
    assert "document 0: " in told[-1]  # of an array none is refused for its size


@pytest.mark.no_cover
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ONLY_FULL & bombs.IMPORTED.keys()) if FULL else ["large_findings"])
def test_no_slow_file_fills_memory(name: str, tmp_path: Path) -> None:
    [(code, text)] = run_all([command_for(name, tmp_path)])
    assert code == (0 if name in ACCEPTED else 1), text
    if code:
        assert_told(text)


@pytest.mark.no_cover
@pytest.mark.slow
def test_no_backup_fills_memory(tmp_path: Path) -> None:
    commands = []
    for name in sorted(bombs.BACKUPS if FULL else bombs.BACKUPS.keys() - ONLY_FULL):
        file = tmp_path / name
        bombs.BACKUPS[name](file, SIZE)
        url = ["--url", f"sqlite:///{tmp_path}/findings.db", "-q"]
        commands.append(["-q", "verify", str(file)])
        if FULL:
            commands += [
                [*url, "restore", str(file)],
                ["-q", "verify", str(file), "--salvage", f"{file}.new"],
            ]
    for code, text in run_all(commands):
        assert code == 1, text


# -- what is refused, and how ----------------------------------------------------------------------------------


def log(result: dict[str, Any], **driver: Any) -> dict[str, Any]:
    return {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "t", **driver}}, "results": [result]}]}


def write(path: Path, content: Any) -> Path:
    path.write_text(
        content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8"
    )
    return path


MESSAGE = {"message": {"text": "m"}}
SMALL = Limits(
    max_field_bytes=1_000,
    max_document_bytes=3_000,
    max_document_values=100,
    max_shared_bytes=50_000,
    max_report_bytes=20_000,
    max_nesting_levels=20,
    max_names=3,
)
RUN = log(MESSAGE)["runs"][0]
ROW = {"detector_id": "d", "title": "t", "severity": "low"}


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("max_field_bytes", log({"message": {"text": "A" * 1_001}}), "runs[0].results[0]"),
        ("max_field_bytes", log({"message": {"text": "é" * 501}}), "runs[0].results[0]"),
        (
            "max_field_bytes",
            log({"message": {"text": "{0}" * 11, "arguments": ["A" * 100]}}),
            "runs[0].results[0]",
        ),
        (
            "max_field_bytes",
            log({"message": {"text": "{0}" * 200, "arguments": [{"a": 1}]}}),
            "runs[0].results[0]",
        ),
        ("max_field_bytes", log({**MESSAGE, "A" * 1_001: 1}), "runs[0].results[0]"),
        ("max_field_bytes", log({"message": {"text": "9" * 1_001}}), "runs[0].results[0]"),
        ("max_document_bytes", log({**MESSAGE, "properties": {"x": ["A" * 500] * 6}}), "runs[0].results[0]"),
        (
            "max_document_bytes",
            log(MESSAGE, rules=[{"id": "r", "x": ["A" * 500] * 6}]),
            "tool.driver.rules[0]",
        ),
        ("max_document_values", log({**MESSAGE, "x": [{}] * 100}), "runs[0].results[0]"),
        ("max_document_values", {f"x{number}": 1 for number in range(102)} | log(MESSAGE), "line 1"),
        ("max_shared_bytes", log(MESSAGE, rules=[{"id": f"r{number}"} for number in range(300)]), "runs[0]"),
        ("max_nesting_levels", log({**MESSAGE, "x": json.loads("[" * 21 + "]" * 21)}), "runs[0].results[0]"),
        ("max_report_bytes", json.dumps(log(MESSAGE)) + " " * 20_000, "size of the report"),
        ("max_names", {"version": "2.1.0", "runs": [RUN] * 4}, "runs[3]"),
        ("max_names", "\n".join(json.dumps({**ROW, "detector_id": f"d{n}"}) for n in range(4)), "line 4"),
        (
            "max_document_bytes",
            json.dumps(ROW) + json.dumps({**ROW, "evidence": {"x": ["A" * 500] * 6}}),
            "line 1",
        ),
        ("max_field_bytes", {"template-id": "t", "info": {"name": "A" * 1_001}, "host": "h"}, "line 1"),
    ],
)
def test_what_is_beyond_a_limit_is_refused(name: str, content: Any, place: str, tmp_path: Path) -> None:
    file = write(tmp_path / "report", content)
    with open_report(file) as report:
        list(report)  # within the defaults
    with pytest.raises(LimitExceededError) as caught, open_report(file, limits=SMALL) as report:
        list(report)
    text = str(caught.value)
    assert text.startswith(str(file))
    assert place in text
    assert f"at most {getattr(SMALL, name):,} are allowed ({name})" in text
    assert f"limits=Limits({name}=...)" in text


def test_a_number_is_refused_as_a_text(tmp_path: Path) -> None:
    file = write(tmp_path / "report", json.dumps(log({**MESSAGE, "rank": 7})).replace("7", "7" * 5_000))
    with open_report(file) as report:
        assert list(report)
    with pytest.raises(LimitExceededError, match="max_document_bytes"):
        open_report(file, limits=SMALL)


def test_documents_that_are_many_times_their_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each document has a copy of its rule."""
    monkeypatch.setattr("findings_orm.formats.sarif.FREE_BYTES", 100_000)
    content = log({"ruleId": "R", **MESSAGE}, rules=[{"id": "R", "fullDescription": {"text": "A" * 10_000}}])
    content["runs"][0]["results"] *= 200
    file = write(tmp_path / "report", content)
    with open_report(file) as report:
        assert len(list(report)) == 200
    with (
        open_report(file, limits=Limits(max_expansion_ratio=50)) as report,
        pytest.raises(LimitExceededError, match="max_expansion_ratio"),
    ):
        list(report)


def test_a_packed_report_that_is_many_times_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("findings_orm.formats.report.FREE_BYTES", 1_000_000)
    bombs.nesting_in_text_limits(tmp_path / "a.gz", 3_000_000)
    with pytest.raises(LimitExceededError, match=r"by a factor of at least: .* \(max_expansion_ratio\)"):
        open_report(tmp_path / "a.gz", limits=Limits(max_nesting_levels=2_000, max_expansion_ratio=50))


@pytest.mark.parametrize("wide", [False, True])
def test_what_is_too_large_is_noticed_before_it_is_read(wide: bool, tmp_path: Path) -> None:
    """Of a text of 40 MB no more is read than it takes to see that it is too large."""
    (bombs.one_wide_text if wide else bombs.one_text)(tmp_path / "a.sarif", 40 * MB)
    with (tmp_path / "a.sarif").open("rb") as stream:
        with pytest.raises(LimitExceededError):
            open_report(stream)
        assert stream.tell() < DEFAULT.max_document_bytes + MB


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", None, True])
def test_a_limit_is_a_number(value: Any) -> None:
    with pytest.raises(StorageValidationError, match="max_field_bytes: must be an integer of at least 1"):
        Limits(max_field_bytes=value)


def test_limits_are_limits(tmp_path: Path) -> None:
    with pytest.raises(StorageValidationError, match="limits"):
        open_report(write(tmp_path / "a", log(MESSAGE)), limits=3)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(StorageValidationError, match="limits"):
        open_storage("memory:", limits=None)  # type: ignore[arg-type]  # what is refused


def test_options() -> None:
    assert limits_of() == DEFAULT
    assert limits_of("64MB") == Limits(
        max_document_bytes=64 * MB,
        max_field_bytes=32 * MB,
        max_document_values=2_000_000,
        max_shared_bytes=1024 * MB,
    )
    assert limits_of("1 mib").max_shared_bytes == DEFAULT.max_shared_bytes
    assert limits_of(report="2g", others=["max_names=5"]) == Limits(max_report_bytes=2048 * MB, max_names=5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"document": "8XB"}, "--max-document: must be a size, as 512KB"),
        ({"report": "0"}, "--max-report: must be a size"),
        ({"others": ["max_names"]}, "--limit: must be NAME=N"),
        ({"others": ["max_names=-1"]}, "--limit: must be NAME=N"),
        ({"others": ["most=1"]}, "--limit: must be one of max_field_bytes, "),
    ],
)
def test_wrong_options(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        limits_of(**given)


# -- documents, whatever way they come -------------------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite", "file"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Limits], Store]:
    urls = {"memory": "memory:", "sqlite": "sqlite://", "file": f"file://{tmp_path}/store"}

    def open_store(limits: Limits) -> Store:
        store = open_storage(urls[request.param], limits=limits)
        request.addfinalizer(store.close)
        assert isinstance(store, Store)
        return store

    return open_store


def test_a_store_refuses_large_documents(opened: Callable[[Limits], Store]) -> None:
    store = opened(SMALL)
    large: dict[str, Any] = {"evidence": {"x": "A" * 3_000}}
    for save in (
        lambda: store.save_finding(finding(1, **large)),
        lambda: store.save_findings([finding(1), finding(2, **large)]),
        lambda: store.ingest(PROJECT, [scanned(), scanned("R2", **large)]),
    ):
        with pytest.raises(StorageValidationError, match="max_document_bytes"):
            save()
        assert store.list_findings(PROJECT) == []
    with pytest.raises(LimitExceededError) as refused:
        store.save_findings([finding(1), finding(2, **large)])
    assert refused.value.index == 1


def test_a_store_refuses_many_values(opened: Callable[[Limits], Store]) -> None:
    store = opened(SMALL)
    many: dict[str, Any] = {"evidence": {"x": [0] * 80}}
    for save in (
        lambda: store.save_finding(finding(1, **many)),
        lambda: store.save_findings([finding(1), finding(2, **many)]),
        lambda: store.ingest(PROJECT, [scanned(), scanned("R2", **many)]),
    ):
        with pytest.raises(LimitExceededError, match=r"values in the document: \d+; .*max_document_values"):
            save()
        assert store.list_findings(PROJECT) == []
    report = store.ingest(PROJECT, [scanned(), scanned("R2", **many)], on_invalid="quarantine")
    assert (report.created, report.rejected[0].field) == (1, "document")
    rejected_id = report.rejected[0].rejected_id or ""
    assert [one.field for one in store.retry_rejected(PROJECT).rejected] == ["document"]
    fixed = store.retry_rejected(PROJECT, {rejected_id: scanned("R2", **many)})
    assert [one.field for one in fixed.rejected] == ["document"]
    store.save_finding(finding(3, evidence={"x": [0] * 40}))


@pytest.mark.no_cover
@pytest.mark.parametrize("rule", UNBOUNDED, ids=lambda rule: rule.name)
def test_documents_without_an_end_are_refused_whatever_takes_them(rule: Break, tmp_path: Path) -> None:
    endless = break_document(finding(), rule)
    layout = {"finding_schema_version": "2.0.0", "findings": [finding(2), endless]}
    migrate, store = SchemaMigrator().migrate, open_storage("memory:")
    report = store.ingest(PROJECT, [scanned(title="")], on_invalid="quarantine")
    kept = report.rejected[0].rejected_id or ""
    for take in (
        lambda: migrate("2.0.0", "1.0.0", endless),
        lambda: migrate("2.0.0", "1.0.0", [endless]),
        lambda: migrate("2.0.0", "1.0.0", layout),
        lambda: store.atomic_write(tmp_path / "x", layout),
        lambda: store.ingest(PROJECT, [], run={"tool": {"x": endless[rule.key]}}),
    ):
        with pytest.raises(LimitExceededError, match="max_document_"):
            take()
    assert not (tmp_path / "x").exists()
    assert len(store.retry_rejected(PROJECT, {kept: endless}).rejected) == 1


def test_a_backup_can_be_restored_with_the_limits_that_it_was_written_with(tmp_path: Path) -> None:
    narrow = Limits(max_document_bytes=200_000)
    (tmp_path / "b").write_bytes(b"before")
    with open_storage("memory:", limits=DEFAULT) as store, open_storage("memory:") as other:
        store.save_finding(finding(evidence={"x": "A" * MB}))
        with pytest.raises(LimitExceededError, match="max_document_bytes.*--max-document"):
            write_backup(store, tmp_path / "b", limits=narrow)
        assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("b", b"before")]
        write_backup(store, tmp_path / "b")
        with pytest.raises(LimitExceededError, match="max_document_bytes.*--max-document"):
            restore_backup(other, tmp_path / "b", limits=narrow)
        restore_backup(other, tmp_path / "b", limits=DEFAULT)
        assert other.list_findings(PROJECT) == store.list_findings(PROJECT)


def test_limits_of_a_migration_can_be_raised() -> None:
    large = finding(finding_schema_version="2.0.0", evidence={"x": "A" * 9 * MB})
    with pytest.raises(LimitExceededError, match="max_document_bytes"):
        SchemaMigrator().migrate("2.0.0", "1.0.0", large)
    assert SchemaMigrator().migrate("2.0.0", "1.0.0", large, limits=Limits.of_sizes(document=16 * MB))


def test_a_large_document_in_a_file_is_edited_by_hand(tmp_path: Path) -> None:
    url, large = (tmp_path / "store").as_uri(), Limits.of_sizes(document=16 * MB)
    with open_storage(url, limits=large) as store:
        store.save_finding(finding(1, evidence={"x": ["A" * MB] * 9}))
    file = next((tmp_path / "store").rglob("findings.json"))
    file.write_text(file.read_text().replace("Finding 1", "edited"))
    with open_storage(url, limits=large) as store:
        assert [one["title"] for one in store.list_findings(PROJECT)] == ["edited"]


def test_rules_that_are_large_together_are_read_twice(tmp_path: Path) -> None:
    rules = [{"id": f"R{n}", "fullDescription": {"text": "A" * 900}} for n in range(50)]
    artifacts = [{"location": {"uri": f"{n}.py"}, "description": {"text": "A" * 900}} for n in range(50)]
    run = {
        "tool": {"driver": {"name": "d", "rules": rules}},
        "artifacts": artifacts,
        "results": [{"message": {"text": "t"}}],
    }
    file = write(tmp_path / "a.sarif", {"version": "2.1.0", "runs": [run]})
    with open_report(file, limits=Limits(max_document_bytes=20_000)) as report:
        assert [one["title"] for one in report] == ["t"]


def test_the_quarantine_keeps_whole_or_says_the_size(opened: Callable[[Limits], Store]) -> None:
    store = opened(SMALL)
    large: dict[str, Any] = {"evidence": {"x": "é" * 2_000}}
    given = [
        scanned(),
        scanned("R2", **large),
        scanned("R3", severity="x", **large),
        scanned("R4", severity="x"),
    ]
    report = store.ingest(PROJECT, given, on_invalid="quarantine")
    assert (report.created, [one.index for one in report.rejected]) == (1, [1, 2, 3])
    valid, wrong, small = report.rejected
    assert valid.field == "document"
    assert wrong.field == "severity"
    for one in (valid, wrong):
        assert one.rejected_id is None
        assert re.search(
            r"size.*, in bytes: 4,\d\d\d; at most 3,000 are allowed \(max_document_bytes\)", one.reason
        )
        assert "the original is not kept" in one.reason
    assert [(kept.rejected_id, kept.original) for kept in store.rejected_originals(PROJECT)] == [
        (small.rejected_id, given[3])
    ]
    again = store.retry_rejected(PROJECT, {small.rejected_id or "": scanned("R4", **large)})
    assert again.rejected[0].rejected_id is None
    assert [kept.original for kept in store.rejected_originals(PROJECT)] == [given[3]]


def test_the_quarantine_has_a_limit(opened: Callable[[Limits], Store]) -> None:
    store = opened(Limits(max_rejected=3))
    wrong = [scanned(f"R{number}", severity="x") for number in range(4)]
    assert len(store.ingest(PROJECT, wrong[:3], on_invalid="quarantine").rejected) == 3
    with pytest.raises(
        LimitExceededError, match=r"refused documents: 4; at most 3 are allowed \(max_rejected\)"
    ):
        store.ingest("other", wrong, on_invalid="quarantine")
    store = opened(Limits(max_rejected_bytes=10_000))
    large = [scanned(f"R{number}", severity="x", evidence={"x": "A" * 4_000}) for number in range(3)]
    assert len(store.ingest(PROJECT, large[:2], on_invalid="quarantine").rejected) == 2
    with pytest.raises(LimitExceededError, match=r"kept aside, in bytes: .* \(max_rejected_bytes\)"):
        store.ingest("other", large, on_invalid="quarantine")
    assert store.rejected_originals("other") == []


def test_a_long_name_does_not_fill_a_message(opened: Callable[[Limits], Store]) -> None:
    name = "A" * 100_000
    document = {**scanned(), "evidence": {name: {name: "\ud800"}}}
    report = opened(DEFAULT).ingest(PROJECT, [document, scanned() | {name: 1}], on_invalid="quarantine")
    assert max(len(one.reason) + len(one.field) for one in report.rejected) < 1_500
    with pytest.raises(StorageValidationError) as caught:
        opened(DEFAULT).save_findings([document])
    assert len(str(caught.value)) < 500


def test_an_error_of_a_limit_stays_one(opened: Callable[[Limits], Store]) -> None:
    with pytest.raises(LimitExceededError, match=r"^document 1: ") as caught:
        opened(SMALL).ingest(PROJECT, [scanned(), scanned("R2", evidence={"x": "A" * 3_000})])
    assert caught.value.index == 1


def test_equal_findings_have_a_limit(
    opened: Callable[[Limits], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("findings_orm.imports.importer.BATCH", 10)
    store = opened(Limits(max_equal_findings=20))
    with pytest.raises(StorageValidationError, match=r"equal findings: 30; .* \(max_equal_findings\)"):
        store.ingest(PROJECT, [scanned()] * 40)
    assert store.list_findings(PROJECT) == []


def test_large_documents_are_taken_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of them are in memory at once than `BATCH_BYTES` holds."""
    monkeypatch.setattr("findings_orm.imports.importer.BATCH_BYTES", 100_000)
    sizes: list[int] = []
    take = Import._take_batch

    def noting(self: Import, first: int, batch: list[Any], deferred: Any) -> None:
        sizes.append(len(batch))
        take(self, first, batch, deferred)

    monkeypatch.setattr(Import, "_take_batch", noting)
    with open_storage("memory:") as store:
        documents = (scanned(f"R{number}", evidence={"x": "A" * 10_000}) for number in range(40))
        assert store.ingest(PROJECT, documents).created == 40
    assert max(sizes) <= 10


def test_export_does_not_expand_a_message(tmp_path: Path) -> None:
    """A document that did not come from a report may hold a bomb for who writes one."""
    result = {"message": {"text": "{0}" * 5_000, "arguments": ["A" * 5_000]}}
    evidence = {"sarif": result, "sarif_run": {"tool": {"driver": {"name": "d"}}}}
    with open_storage("memory:") as store, (tmp_path / "out.sarif").open("wb") as stream:
        store.save_finding(finding(1, evidence=evidence))
        write_report(store.iter_findings(PROJECT), stream, "sarif")
    assert (tmp_path / "out.sarif").stat().st_size < 10_000


# -- other files -----------------------------------------------------------------------------------------------


def test_files_of_other_commands(tmp_path: Path) -> None:
    row = {
        "pid": "p",
        "ts": "2024-01-01T00:00:00Z",
        "detector_id": "a",
        "title": "A" * 2_000,
        "severity": "low",
    }
    file = write(tmp_path / "p.findings.json", [row])
    with open_storage("memory:") as store:
        assert import_legacy(store, file, dry_run=True).projects["p"].created == 1
        with pytest.raises(LimitExceededError, match="max_field_bytes"):
            import_legacy(store, file, limits=SMALL)
        with pytest.raises(LimitExceededError, match="projects: 4;"):
            import_legacy(
                store, write(file, [{**row, "title": "t", "pid": f"p{n}"} for n in range(4)]), limits=SMALL
            )
        write(file, {"finding_schema_version": "2.0.0", "findings": [{"x": "A" * 9 * MB}]})
        assert "max_document_bytes" in store.check_store_layout(file)[0]
        assert not store.validate_store_layout(file)
    with pytest.raises(LimitExceededError, match="max_document_bytes"):
        SchemaMigrator().migrate_file(file, "1.0.0")
    nested: Any = []
    for _ in range(450):
        nested = [nested]
    write(file, {"finding_schema_version": "2.0.0", "findings": [], "more": nested})
    command = ["migrate", str(file), "--to", "1.0.0", "--dry-run"]
    assert "--limit max_nesting_levels=N" in CliRunner().invoke(app, command).stderr
    assert CliRunner().invoke(app, [*command, "--limit", "max_nesting_levels=500"]).exit_code == 0


def legacy_row(**more: Any) -> dict[str, Any]:
    row = {"pid": "p", "ts": "2024-01-01T00:00:00Z", "detector_id": "a", "title": "t", "severity": "low"}
    return {**row, **more}


@pytest.mark.parametrize(
    ("limits", "rows"),
    [
        (Limits(max_names=30), [legacy_row(**{f"u{n}": 1}) for n in range(31)]),
        (Limits(max_names=30), [legacy_row(**{f"u{row}{n}": 1 for n in range(16)}) for row in range(2)]),
        (Limits(max_document_bytes=3_000), [legacy_row(**{f"{n:0>1000}": 1}) for n in range(4)]),
    ],
)
def test_names_of_fields_that_reports_count(limits: Limits, rows: list[Any], tmp_path: Path) -> None:
    file = write(tmp_path / "p.findings.json", rows)
    name = "max_names" if limits.max_names == 30 else "max_document_bytes"
    words = rf"p\.findings\.json: the .* names of fields.*; at most [\d,]+ are allowed \({name}\)"
    with open_storage("memory:") as store:
        assert len(import_legacy(store, file, dry_run=True).unplaced) == len(rows) * (len(rows[0]) - 5)
        with pytest.raises(LimitExceededError, match=words):
            import_legacy(store, file, limits=limits)
        assert store.list_projects() == []
    for version in ("1.0.0", "2.0.0"):
        with pytest.raises(LimitExceededError, match=words):
            SchemaMigrator().migrate_file(file, version, limits=limits)


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "more",
    [
        {"status": "A" * 900},
        {"triage": {f"k{n}": 1 for n in range(50)}},
        {"id": "%032x"},
        {"severity": "A" * 900},
        {"pid": "%032x"},
    ],
)
def test_notes_of_an_import_of_0_3_0_have_a_limit(more: dict[str, Any], tmp_path: Path) -> None:
    """Notes, ids, refused rows, and places where rows of another project begin."""
    rows = [
        legacy_row(**{name: value % n if "%" in value else value for name, value in more.items()})
        for n in range(100)
    ]
    file = write(tmp_path / "p.findings.json", rows)
    with open_storage("memory:") as store:
        import_legacy(store, file, on_invalid="quarantine", dry_run=True)
        with pytest.raises(LimitExceededError, match=r"memory for notes and ids.* \(max_shared_bytes\)"):
            import_legacy(store, file, on_invalid="quarantine", limits=Limits(max_shared_bytes=8_000))


def test_lines_of_a_backup(tmp_path: Path) -> None:
    file = tmp_path / "b.jsonl.zst"
    with open_storage("memory:") as store:
        store.save_finding(finding(1, evidence={"x": "A" * 600_000}))
        write_backup(store, file)
    assert verify_backup(file).records["findings"] == 1
    small = Limits(max_document_bytes=100_000)
    with pytest.raises(LimitExceededError, match=r"line \d+ .*: the size of the line.* at most 400,000"):
        verify_backup(file, limits=small)
    with open_storage("memory:", limits=small) as store:
        with pytest.raises(LimitExceededError, match="max_document_bytes"):
            restore_backup(store, file, limits=small)
        assert restore_backup(store, file).records["findings"] == 1


@pytest.mark.parametrize("name", sorted(bombs.BACKUPS))
def test_hostile_backups_are_refused(name: str, tmp_path: Path) -> None:
    bombs.BACKUPS[name](tmp_path / "b", 10 * MB)
    with pytest.raises(StorageError) as caught:
        verify_backup(tmp_path / "b", limits=limits_of("2MB"))
    if name in ("backup_manifest", "backup_line", "backup_objects"):
        assert_told(str(caught.value))


@pytest.mark.parametrize(
    "name", ["severity", "status", "detector_id", "rule_id", "cwe", "cve_id", "run_id", "tag"]
)
def test_many_conditions_are_refused_before_they_are_made(name: str) -> None:
    given: Any = {name: range(10**9)}
    with pytest.raises(StorageValidationError, match=f"{name}: must be at most 100,000 values"):
        FindingQuery(project_id=PROJECT, **given)


def test_ids_to_discard_are_refused_at_the_first_wrong_one(opened: Callable[[Limits], Store]) -> None:
    with pytest.raises(StorageValidationError, match="rejected_ids: must be text"):
        opened(DEFAULT).discard_rejected(PROJECT, range(10**9))  # type: ignore[arg-type]  # what is refused
