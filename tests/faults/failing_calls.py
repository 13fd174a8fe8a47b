"""Do each work again and again, with one call of the system failing, one call later each time, until a run passes.

    LD_PRELOAD=failing_calls.so python -m tests.faults.failing_calls FOLDER ERRNO FOR_GOOD STEP

Prints a line for each work: its name, and how many of its calls failed in turn. With a STEP over 1, only each so many-th did.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

from findings_orm import (
    FindingStore,
    StorageError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
    layout,
    open_storage,
)
from findings_orm.backup import restore_backup, verify_backup, write_backup
from findings_orm.testing.samples import finding, run_id_of, scanned

P = "acme-api"
CALLS = ctypes.CDLL(None)
FOLDER = pathlib.Path(sys.argv[1])
ERROR, FOR_GOOD, STEP = (int(argument) for argument in sys.argv[2:5])
NEW = {"finding_schema_version": "2.0.0", "findings": [{"new": True}]}

Work = Callable[[], object]
Check = Callable[[StorageError | None], None]


def in_turn(name: str, begin: Callable[[], tuple[Work, Check]]) -> None:
    """Fail each call of a work in turn.

    Args:
        begin: makes everything anew and returns the work and what checks it, being told what the work raised.
    """
    number, tried = 1, 0
    while True:
        work, check = begin()
        CALLS.arm(number, ERROR, FOR_GOOD)
        raised = None
        try:
            try:
                work()
            except StorageError as failure:
                raised = failure
            finally:
                counted = CALLS.counted()
                CALLS.arm(0, 0, 0)
            assert raised is None or isinstance(raised, errors_of(name))
            check(raised)
        except BaseException as problem:
            problem.add_note(f"{name}, call {number} of {counted}: {raised!r}")
            raise
        if counted < number:
            assert raised is None, raised
            print(name, tried, flush=True)
            return
        number, tried = number + STEP, tried + 1


def errors_of(name: str) -> tuple[type[StorageError], ...]:
    """Return the errors that a failing disk gives a work."""
    if name == "atomic_write":
        return (StorageValidationError,)
    if (
        name.startswith("sqlite") and ERROR == errno.EIO
    ):  # that is damage for SQLite where it comes from reading
        return StorageUnavailableError, StorageIntegrityError
    return (StorageUnavailableError,)


def seen_in(store: FindingStore) -> list[str]:
    return sorted(one["title"] for project in store.list_projects() for one in store.list_findings(project))


def seen_at(url: str) -> list[str]:
    with open_storage(url) as store:
        return seen_in(store)


def assert_nothing_is_open(folder: pathlib.Path) -> None:
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    left = [os.readlink(link) for link in links if os.path.lexists(link)]
    assert not [path for path in left if path.startswith(str(folder))], left


def on_store(
    name: str, folder: pathlib.Path, url: str, write: Callable[[FindingStore], object], *, opened: bool = True
) -> None:
    """Fail each call of a write to a store.

    Args:
        folder: what a store is copied from, to ``copy`` beside it; an empty store if there is none.
        url: that of the copy.
        opened: whether the store is open already; else opening and closing it are part of the work.
    """
    copy = folder.parent / "copy"

    def renew() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        if folder.exists():
            shutil.copytree(folder, copy)
        else:
            copy.mkdir()

    def write_opened() -> None:
        with open_storage(url) as store:
            write(store)

    def begin() -> tuple[Work, Check]:
        renew()
        store = open_storage(url) if opened else None

        def check(raised: StorageError | None) -> None:
            seen = seen_at(url)
            assert store is None or seen_in(store) == seen, "another store shows something else"
            assert seen in (before, after), f"half of a write: {seen}"
            if not (FOR_GOOD and raised):
                assert seen == (before if raised else after), f"it is {'' if raised else 'not '}there"
            goes_on: Any = store or open_storage(url)
            goes_on.save_finding(finding(9, title="goes on"))
            goes_on.close()
            assert_nothing_is_open(copy)
            assert seen_at(url) == sorted([*seen, "goes on"])

        return (lambda: write(store)) if store is not None else write_opened, check

    renew()
    before = seen_at(url)
    renew()
    write_opened()
    after = seen_at(url)
    assert before != after
    in_turn(name, begin)


def on_file(name: str, path: pathlib.Path, write: Callable[[], object], is_new: Callable[[], bool]) -> None:
    """Fail each call of the writing of a file."""

    def begin() -> tuple[Work, Check]:
        for left in path.parent.iterdir():
            left.unlink()
        path.write_bytes(b"old")

        def check(raised: StorageError | None) -> None:
            old = path.read_bytes() == b"old"
            assert old or is_new()
            assert raised or not old
            left = sorted(path.parent.iterdir())
            assert left == [path] or raised, left
            assert_nothing_is_open(path.parent)

        return write, check

    in_turn(name, begin)


def main() -> None:
    logging.disable()
    source = open_storage("memory:")
    source.save_finding(finding(1, project_id="restored"))
    backup = FOLDER / "backup"
    write_backup(source, backup)
    for kind, form in {"files": "file:{}", "sqlite": "sqlite:///{}/findings.db"}.items():
        root = FOLDER / kind
        (root / "store").mkdir(parents=True)
        with open_storage(form.format(root / "store")) as store:
            store.save_findings([finding(1), finding(2)])
        copy = root / "copy"
        CALLS.aim(str(copy).encode())
        url = form.format(copy)

        def save(store: FindingStore) -> None:
            store.save_finding(finding(1, title="changed"))

        works: dict[str, Callable[[FindingStore], object]] = {
            "save": save,
            "ingest": lambda store: store.ingest(P, [scanned("R1"), scanned("R2", 3)], run=run_id_of(1)),
            "delete": lambda store: store.delete_project(P),
            "restore": lambda store: restore_backup(store, backup, mode="replace"),
        }
        for name, work in works.items():
            on_store(f"{kind}-{name}", root / "store", url, work)
        on_store(f"{kind}-open-save-close", root / "store", url, save, opened=False)
        on_store(f"{kind}-make-save-close", root / "none", url, save, opened=False)
    path = FOLDER / "written" / "file"
    path.parent.mkdir()
    CALLS.aim(str(path.parent).encode())
    on_file(
        "atomic_write",
        path,
        lambda: layout.atomic_write(path, NEW),
        lambda: not layout.check_store_layout(path),
    )
    on_file(
        "backup", path, lambda: write_backup(source, path), lambda: verify_backup(path).manifest.findings == 1
    )


if __name__ == "__main__":
    main()
