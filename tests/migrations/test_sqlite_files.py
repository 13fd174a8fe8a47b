from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from urllib.parse import quote

import pytest
from rows import canonical_documents, children_in, connection_to, fill
from sqlalchemy import text

from findings_orm import (
    StorageError,
    StorageIntegrityError,
    StorageUnavailableError,
    migrations,
    open_storage,
)
from findings_orm.finding import KNOWN_VERSIONS
from findings_orm.migrations.rewriting import KEPT
from findings_orm.migrations.scripts import revision_chain
from findings_orm.testing.samples import assert_all_same

ASSETS = Path(__file__).parent / "assets"


def test_looking_makes_no_file(sqlite: str, tmp_path: Path) -> None:
    for look in (migrations.status, migrations.check, lambda url: migrations.downgrade(url, "base")):
        with pytest.raises(StorageUnavailableError, match="there is no such file"):
            look(sqlite)
    assert not list(tmp_path.iterdir())
    migrations.upgrade(sqlite)
    assert [path.name for path in tmp_path.iterdir()] == ["findings.db"]


def test_looking_changes_no_byte(sqlite: str, tmp_path: Path) -> None:
    migrations.upgrade(sqlite, "r0001")
    before = (tmp_path / "findings.db").read_bytes()
    migrations.status(sqlite)
    migrations.check(sqlite)
    with connection_to(sqlite) as connection:
        migrations.require_current(connection, migrate=True)
    assert (tmp_path / "findings.db").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError, match="folder .* does not exist"):
        migrations.upgrade(f"sqlite:///{tmp_path}/no/findings.db")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_file_that_is_no_database(sqlite: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "findings.db").write_bytes(content)
    for work in (migrations.status, migrations.check, migrations.upgrade):
        with pytest.raises(StorageIntegrityError, match="no SQLite database"):
            work(sqlite)
    assert (tmp_path / "findings.db").read_bytes() == content


def test_a_read_only_database(sqlite: str, tmp_path: Path) -> None:
    migrations.upgrade(sqlite, "r0001")
    url = f"sqlite:///file:{tmp_path / 'findings.db'}?mode=ro&uri=true"
    assert migrations.status(url).current == "r0001"
    with pytest.raises(StorageUnavailableError, match="readonly"):
        migrations.upgrade(url)
    assert migrations.status(sqlite).current == "r0001"


def test_names_with_every_character(tmp_path: Path) -> None:
    path = tmp_path / "a b%20c#d'é.db"
    url = f"sqlite:///{quote(str(path))}"
    migrations.upgrade(url)
    assert path.exists()
    assert migrations.check(url) == []


def test_no_child_row_is_lost_with_foreign_keys_on(sqlite: str) -> None:
    migrations.upgrade(sqlite)
    fill(sqlite, canonical_documents())
    children = children_in(sqlite)
    assert all(children.values())
    with connection_to(sqlite) as connection:
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        migrations.downgrade(connection, "r0001")
        migrations.upgrade(connection)
        assert connection.execute(text("PRAGMA foreign_key_check")).fetchall() == []
    assert children_in(sqlite) == children


BAD_URLS = [
    "",
    "nonsense",
    "sqlite:/x.db",
    "mysql://u:secret@h/d",
    "oracle+nosuch://u:secret@h/d",
    "sqlite+nosuch:///x",
    "http://u:secret@h",
    "postgresql://u:secret@h:port/d",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_that_lead_nowhere(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for work in (migrations.status, migrations.check, migrations.upgrade):
        with pytest.raises(StorageUnavailableError) as refused:
            work(url)
        assert "secret" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_an_unexpected_error_is_still_one_of_ours(sqlite: str) -> None:
    migrations.upgrade(sqlite, "r0001")
    with connection_to(sqlite) as connection:
        connection.execute(text("DROP TABLE findings"))
    with pytest.raises(StorageError, match="no such table: findings") as refused:
        migrations.upgrade(sqlite)
    assert refused.value.__cause__ is not None
    assert migrations.status(sqlite).current == "r0001"


# -- databases of old releases ----------------------------------------------------------------------------------------


@pytest.fixture(params=sorted(path.name for path in ASSETS.glob("*.sqlite3")))
def asset(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a copy of the frozen database at a revision."""
    return f"sqlite:///{shutil.copy(ASSETS / request.param, tmp_path)}"


def test_a_frozen_database_comes_up_to_head_with_its_findings(asset: str) -> None:
    with open_storage(asset, migrate=True) as store:
        found = store.list_findings("acme-api")
        since = next(one.schema_version for one in revision_chain() if one.id == Path(asset).stem)
        expected = sorted(canonical_documents(since=since), key=lambda each: (each["created_at"], each["id"]))
        assert_all_same(found, [each for each in expected if each["project_id"] == "acme-api"])
        assert [each.kind for each in store.history("acme-api", found[0]["id"])] == ["change"]
    assert migrations.check(asset) == []


def test_a_frozen_database_goes_down_to_what_it_was(asset: str) -> None:
    revision = migrations.status(asset).current
    assert revision is not None
    children = children_in(asset)
    before = dump(asset)
    migrations.upgrade(asset)
    migrations.downgrade(asset, revision)
    assert dump(asset) == before
    assert children_in(asset) == children


def dump(url: str) -> list[str]:
    """Return the rows of a database as SQL, without the order in which columns were added, and what a downgrade keeps.

    A value of the user's that reads like a corner and does not stand last gets one around it; early releases needed none there.
    """
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        lines = [line for line in connection.iterdump() if line.startswith("INSERT")]
    connection.close()
    theirs = '{"version":"1.1.0","fields":{"rule_id":"theirs"}}'
    around = f'{{"version":"1.1.0","fields":{{}},"original":{theirs}}}'
    kept = f'INSERT INTO "{KEPT}"'
    return [line.replace(around, theirs) for line in lines if not line.startswith(kept)]


def test_every_schema_version_has_a_frozen_database() -> None:
    frozen = {path.stem for path in ASSETS.glob("*.sqlite3")}
    by_id = {revision.id: revision.schema_version for revision in revision_chain()}
    assert frozen <= by_id.keys()
    assert {by_id[revision] for revision in frozen} == set(KNOWN_VERSIONS[1:])


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "x.db").symlink_to(tmp_path / "no folder" / "x.db")
    with pytest.raises(StorageUnavailableError, match="can.t be made: No such file"):
        migrations.upgrade(f"sqlite:///{tmp_path}/x.db")
