"""Backups of older releases restore into this one."""

from __future__ import annotations

import pathlib

import pytest
from stores import KINDS, Open
from test_backup_damage import text_of

from findings_orm import validate_finding
from findings_orm.backup import restore_backup, verify_backup
from findings_orm.backup.container import unpack_record
from findings_orm.finding import KNOWN_VERSIONS, SCHEMA_VERSION
from findings_orm.migrations import SchemaMigrator
from findings_orm.testing.samples import assert_same, scanned

ASSETS = sorted((pathlib.Path(__file__).parent / "assets").glob("*.zst"))


def test_there_is_one_of_each_older_version() -> None:
    assert {path.name.removesuffix(".jsonl.zst") for path in ASSETS} >= set(
        KNOWN_VERSIONS[1:-1]
    )  # 0.3.0 had no backups


@pytest.mark.no_cover
@pytest.mark.parametrize("path", ASSETS, ids=lambda path: path.name)
@pytest.mark.parametrize("kind", KINDS)
def test_older_backups(kind: str, path: pathlib.Path, new_store: Open) -> None:
    version = path.name.removesuffix(".jsonl.zst")
    manifest = verify_backup(path).manifest
    assert manifest.schema_version == version
    store = new_store(kind)
    report = restore_backup(store, path)
    assert report.migrated_from == (version if version != SCHEMA_VERSION else None)
    records = [unpack_record(line) for line in text_of(path).splitlines()]
    for project_id in manifest.projects:
        found = {one["id"]: one for one in store.list_findings(project_id)}
        saved = [one["finding"] for one in records if one.get("finding", {}).get("project_id") == project_id]
        assert len(found) == len(saved) > 0
        for document in saved:
            migrated = SchemaMigrator().migrate(version, SCHEMA_VERSION, document)
            assert_same(found[document["id"]], validate_finding(migrated))
    restored = {one for project in manifest.projects for one in [store.revision(project)]}
    saved_revisions = {one["project"]["revision"] for one in records if "project" in one}
    assert (restored == saved_revisions) == (version == SCHEMA_VERSION), "other documents are another state"


@pytest.mark.parametrize("path", ASSETS, ids=lambda path: path.name)
def test_the_next_import_finds_everything_unchanged(path: pathlib.Path, new_store: Open) -> None:
    store = new_store("sqlite")
    restore_backup(store, path)
    again = [scanned("R1", 3), scanned("R1", 3)]
    report = store.ingest("scanned", again, close_missing=True)
    assert report.counts() == {**report.counts(), "created": 0, "updated": 0, "unchanged": 2, "resolved": 0}
    statuses = [one["status"] for one in store.list_findings("scanned")]
    assert sorted(statuses) == ["false_positive", "open", "resolved"]
    assert [run.number for run in store.runs("scanned")] == [1, 2, 3]
