"""Files that the package makes are for their owner (or a group) alone, and temporary ones follow no links."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer.main

from findings_orm import FileStorageAdapter, StorageError, StorageValidationError, open_storage
from findings_orm.backup import (
    Keep,
    prune_backups,
    salvage_backup,
    verify_backup,
    write_backup,
)
from findings_orm.cli.app import app
from findings_orm.decorate import diagnosable
from findings_orm.errors import StorageUnavailableError
from findings_orm.migrations import SchemaMigrator
from findings_orm.private import replace_file, replacing
from findings_orm.stores.files import repair

P = "acme-api"
NOBODY = 65534
GROUP = grp.getgrgid(1).gr_name
"""A group that is not this process's own."""


def report(count: int = 3) -> list[dict[str, Any]]:
    return [{"detector_id": "scan.a", "title": f"title {n}", "severity": "high"} for n in range(count)]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    with umask(request.param):
        yield request.param


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that every user may pass through."""
    with tempfile.TemporaryDirectory(prefix="findings-private-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def modes(folder: Path) -> dict[str, str]:
    """Return what is in a folder, with its permissions."""
    there = (path for path in sorted(folder.rglob("*")) if not path.is_symlink())
    found = {path.relative_to(folder).as_posix(): path.stat() for path in there}
    return {name: oct(stat.S_IMODE(each.st_mode)) for name, each in found.items()}


def wide(folder: Path) -> list[str]:
    """Return what others than the owner may open."""
    return [name for name, mode in modes(folder).items() if int(mode, 8) & 0o077]


def as_another(work: Callable[[], object], *groups: int) -> str:
    """Do something as another user; return what came of it, or the name of the error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            said = repr(work())
        except BaseException as error:  # noqa: BLE001  # the parent looks at it
            said = type(error).__name__
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read().decode()
    os.waitpid(child, 0)
    return said


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


# -- for the owner alone ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mask")
def test_all_that_a_store_in_files_writes_is_for_its_owner_alone(place: Path) -> None:
    root = place / "new" / "store"
    for count in (3, 2):  # journal, then a fold, then a second one
        with FileStorageAdapter(root) as store:
            store.ingest(P, report(count), close_missing=True)
            store.ingest("Other Project", [{}], on_invalid="quarantine")
            assert wide(place) == []
    edited = root / P / "findings.json"
    edited.write_text(edited.read_text().replace("title 0", "by hand"))
    with FileStorageAdapter(root) as store:
        store.ingest(P, report(1))
    (root / P / "events.jsonl").write_text("damaged")
    assert repair(root)
    assert wide(place) == []
    found = modes(place)
    assert found["new/store"] == found[f"new/store/{P}"] == "0o700"
    assert found["new/store/.lock"] == found["new/store/journal.jsonl"] == "0o600"


@pytest.mark.usefixtures("mask")
def test_all_that_a_database_writes_is_for_its_owner_alone(place: Path) -> None:
    (place / "link.db").symlink_to(place / "linked.db")
    for name in ("a.db", "link.db"):
        with open_storage(f"sqlite:///{place / name}") as store:
            store.ingest(P, report())
            assert wide(place) == []
    assert modes(place)["linked.db"] == "0o600"
    assert run(place, "db", "upgrade", "--url", "sqlite:///b.db") == 0
    assert wide(place) == []


def run(folder: Path, *args: str) -> int:
    """Run a command in a folder, and return its exit code."""
    with contextlib.chdir(folder):
        return int(typer.main.get_command(app).main(list(args), standalone_mode=False))


@pytest.mark.usefixtures("mask")
def test_backups_exports_and_migrated_files_are_for_their_owner_alone(findings_folder: Path) -> None:
    folder = findings_folder
    with open_storage(f"sqlite:///{folder}/findings.db") as store:
        write_backup(store, folder / "a.zst")
        store.atomic_write(folder / "layout.json", {"finding_schema_version": "2.0.0", "findings": []})
    salvage_backup(folder / "a.zst", folder / "b.zst")
    run(folder, "backup", "key", "key.txt")
    run(folder, "export", "-o", "x.jsonl")
    old = folder / "old.json"
    replace_file(old, json.dumps([{"pid": P, "title": "t", "detector_id": "a", "severity": "low"}]).encode())
    SchemaMigrator().migrate_file(old, "1.0.0")
    assert wide(folder) == []
    assert {"a.zst", "b.zst", "key.txt", "layout.json", "old.json.orig-0.3.0", "x.jsonl"} <= set(
        modes(folder)
    )


@pytest.fixture
def findings_folder(tmp_path: Path) -> Path:
    with open_storage(f"sqlite:///{tmp_path}/findings.db") as store:
        store.ingest(P, report())
    return tmp_path


@as_root
@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_another_user_can_not_read_a_store(place: Path, kind: str) -> None:
    with umask(0o022), open_storage(url_of(kind, place)) as store:
        store.ingest(P, report())
        files = [path for path in place.rglob("*") if path.is_file()]
        assert len(files) >= 2
        for path in files:
            done = subprocess.run(
                ["cat", path],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stdout) == (1, ""), done
            assert "Permission denied" in done.stderr


def url_of(kind: str, place: Path, options: str = "") -> str:
    return f"{kind}:///{place}/{'findings.db' if kind == 'sqlite' else 'store'}{options}"


def test_what_is_replaced_stays_open_to_whom_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(0o644)
    replace_file(path, b"new")
    assert modes(tmp_path) == {"a.json": "0o644"}


# -- for a group ----------------------------------------------------------------------------------------------------------


@as_root
@pytest.mark.usefixtures("mask")
@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_a_group_may_read_and_write(place: Path, kind: str) -> None:
    """The others don't name it, and what they make is the group's again."""
    number = grp.getgrnam(GROUP).gr_gid
    place.chmod(0o2770)
    os.chown(place, -1, number)
    with open_storage(url_of(kind, place, f"?group={GROUP}")) as store:
        store.ingest(P, report())

    def write() -> int:
        with open_storage(url_of(kind, place)) as store:
            store.ingest("another", report(5))
            return wrong(place)

    def wrong(folder: Path) -> int:
        found = [path.stat() for path in folder.rglob("*")]
        return sum(
            each.st_gid != number or stat.S_IMODE(each.st_mode) & 0o777 not in (0o660, 0o770)
            for each in found
        )

    assert as_another(write, number) == "0"
    assert as_another(write) in ("PermissionError", "StorageUnavailableError")
    with open_storage(url_of(kind, place)) as store:
        assert store.list_projects() == [P, "another"]
        store.ingest(P, report(1))
        assert wrong(place) == 0


@as_root
@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_a_group_is_added_to_a_store_that_is_there(place: Path, kind: str) -> None:
    with open_storage(url_of(kind, place)) as store:
        store.ingest(P, report())
    open_storage(url_of(kind, place), group=GROUP).close()
    assert (
        as_another(lambda: [path.read_bytes() and 1 for path in place.rglob("*.*") if path.is_file()], 1)
        != "[]"
    )
    assert all(int(mode, 8) & 0o060 == 0o060 for mode in modes(place).values())


@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_a_group_that_is_none(place: Path, kind: str) -> None:
    with pytest.raises(StorageValidationError, match="group: must be a group of this system .got 'no such'"):
        open_storage(url_of(kind, place), group="no such")


def test_an_export_for_a_group(findings_folder: Path) -> None:
    run(findings_folder, "export", "-o", "x.jsonl", "--group", grp.getgrgid(os.getegid()).gr_name)
    run(findings_folder, "backup", "x.zst", "--group", grp.getgrgid(os.getegid()).gr_name)
    assert modes(findings_folder)["x.jsonl"] == modes(findings_folder)["x.zst"] == "0o660"


# -- the doctor -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "file"])
@pytest.mark.parametrize(("mask", "mended"), [(0o022, 0o600), (0o002, 0o660)])
def test_the_doctor_warns_of_files_that_everybody_may_open_and_mends_them(
    place: Path, kind: str, mask: int, mended: int
) -> None:
    with open_storage(url_of(kind, place)) as store:
        store.ingest(P, report())
    paths = [*place.rglob("*")]
    for path in paths:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
    with open_storage(url_of(kind, place)) as store:
        store.ingest(P, report(4))
        (problem,) = diagnosable(store).diagnose()
        assert (problem.level, problem.check) == ("warning", "permissions")
        before = len(paths)
        assert len(diagnosable(store).mend()) >= before
        assert not diagnosable(store).mend()
        assert not diagnosable(store).diagnose()
        store.ingest(P, report(5))
        assert {int(mode, 8) & 0o666 for mode in modes(place).values()} == {mended}
    with open_storage(url_of(kind, place)) as store:  # folded, or its files beside it removed
        store.ingest(P, report(6))
        assert {int(mode, 8) & 0o666 for mode in modes(place).values()} == {mended}


def test_the_doctor_looks_through_a_link_to_the_folder(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    with FileStorageAdapter(real) as store:
        store.ingest(P, report())
    link.symlink_to(real)
    real.chmod(0o755)
    with FileStorageAdapter(link) as store:
        assert [problem.check for problem in store.diagnose()] == ["permissions"]
        assert store.mend() == [f"{real}: rwx------"]


def test_a_link_to_an_empty_folder_may_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o755)
    (tmp_path / "link").symlink_to("real")
    with FileStorageAdapter(tmp_path / "link") as store:
        store.ingest(P, report())
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o700


def test_doctor_fix(findings_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = findings_folder / "findings.db"
    database.chmod(0o644)
    assert run(findings_folder, "doctor") == 1
    assert "permissions" in capsys.readouterr().out
    assert run(findings_folder, "doctor", "--fix") == 0
    assert f"fixed {database}: rw-------" in capsys.readouterr().err


# -- links ----------------------------------------------------------------------------------------------------------------


class Victim:
    """Links to a file, at every name that a temporary file had or could be thought to have."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "victim"
        self.file.write_text("precious")

    def plant(self, *places: Path) -> None:
        for place in places:
            place.symlink_to(self.file)

    @property
    def unharmed(self) -> bool:
        return self.file.read_text() == "precious"


@pytest.fixture
def victim(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return Victim(tmp_path_factory.mktemp("victim"))


def test_a_backup_does_not_follow_a_link_at_its_temporary_name(findings_folder: Path, victim: Victim) -> None:
    victim.plant(findings_folder / ".b.zst.tmp")
    with open_storage(f"sqlite:///{findings_folder}/findings.db") as store:
        write_backup(store, findings_folder / "b.zst")
    prune_backups(findings_folder, Keep(last=1))
    assert victim.unharmed
    verify_backup(findings_folder / "b.zst")


def test_a_store_in_files_writes_through_no_link(tmp_path: Path, victim: Victim) -> None:
    root = tmp_path / "store"
    with FileStorageAdapter(root) as store:
        store.ingest(P, report())
    victim.plant(root / ".store.json.tmp", root / ".journal.jsonl.tmp", root / "journal.link")
    pending = ("findings.json", "identities.jsonl", "events.jsonl", "runs.jsonl", "rejected.jsonl")
    victim.plant(*(root / P / f".{name}.{n}.new" for name in pending for n in range(6)))
    with FileStorageAdapter(root) as store:
        store.ingest(P, report(5))
    with FileStorageAdapter(root) as store:
        assert len(store.list_findings(P)) == 5
        journal = root / "journal.jsonl"
        journal.unlink()
        victim.plant(journal)
        with pytest.raises(StorageError):
            store.ingest(P, report(6))
    assert victim.unharmed


def test_an_export_follows_a_link_as_a_shell_does(tmp_path: Path, victim: Victim) -> None:
    victim.plant(tmp_path / "a")
    (tmp_path / "b").symlink_to("a")
    replace_file(tmp_path / "b", b"new")
    assert victim.file.read_text() == "new"
    assert (tmp_path / "a").is_symlink()
    (tmp_path / "c").symlink_to("nowhere yet")
    replace_file(tmp_path / "c", b"new")
    assert (tmp_path / "nowhere yet").read_text() == "new"
    (tmp_path / "d").symlink_to("d")
    with pytest.raises(OSError, match="symbolic links"):
        replace_file(tmp_path / "d", b"new")


@as_root
def test_a_link_that_somebody_else_made_in_a_folder_of_everybody(tmp_path: Path, victim: Victim) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    victim.plant(shared / "out.db", shared / "out.jsonl")
    for path in shared.iterdir():
        os.lchown(path, NOBODY, NOBODY)
    with pytest.raises(PermissionError, match="somebody else made"):
        replace_file(shared / "out.jsonl", b"new")
    with open_storage("memory:") as store, pytest.raises(StorageUnavailableError, match="somebody else made"):
        write_backup(store, shared / "out.jsonl")
    assert victim.unharmed


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (
        open_storage("memory:") as store,
        pytest.raises(StorageUnavailableError, match="no file that can be replaced"),
    ):
        write_backup(store, pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


# -- temporary files --------------------------------------------------------------------------------------------------------


def test_a_temporary_file_is_private_before_its_first_byte_and_gone_after_a_failure(tmp_path: Path) -> None:
    target = tmp_path / ("ü" * 120)
    with umask(0), pytest.raises(KeyboardInterrupt), replacing(target) as (beside, _):
        assert modes(tmp_path) == {beside.name: "0o600"}
        raise KeyboardInterrupt
    assert modes(tmp_path) == {}


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "a"
    child = os.fork()
    if child == 0:
        with replacing(target) as (_, file):
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(modes(tmp_path)) == 1
    others = (".a.tmp", ".a.b.0123456789abcdef.tmp", ".b.0123456789abcdef.tmp", ".a.0123456789abcdef")
    for name in others:
        (tmp_path / name).write_text("somebody else's")
    with replacing(target) as (beside, _):
        replace_file(target, b"meanwhile")
        assert beside.exists()
    assert set(modes(tmp_path)) == {"a", *others}


def test_what_a_killed_process_left_in_a_store_is_removed_by_the_next_fold(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with FileStorageAdapter(root) as store:
        store.ingest(P, report())
    left = (
        root / ".store.json.0123456789abcdef.tmp",
        root / ".journal.jsonl.tmp",
        root / P / ".findings.json.orig-edited.0123456789abcdef.tmp",
    )
    for path in left:
        path.write_text("half")
    with FileStorageAdapter(root) as store:
        store.ingest(P, report(5))
    assert [path for path in left if path.exists()] == []
