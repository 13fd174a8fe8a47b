"""Processes that fork with a store open: gunicorn with ``preload_app``, ``multiprocessing`` on Linux."""

from __future__ import annotations

import os
import pathlib
import threading
import traceback
import warnings
from collections.abc import Callable

import pytest

from findings_orm import FindingStore, StorageIntegrityError, StorageUnavailableError, open_storage
from findings_orm.orm.sqlite import SQLiteStorageAdapter
from findings_orm.testing.samples import PROJECT, finding

FILES = ("sqlite:///{}/findings.db", "file://{}/findings")
on_files = pytest.mark.parametrize("url", FILES, ids=["sqlite", "file"])


class Child:
    """A forked process that does something when it is told to."""

    def __init__(self, work: Callable[[], object]) -> None:
        read, self._begin = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork
            self._pid = os.fork()
        if self._pid == 0:
            try:
                os.read(read, 1)
                work()
                os._exit(0)
            except BaseException:  # noqa: BLE001  # nothing may go on as if it were the parent
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(read)

    def work(self) -> None:
        os.write(self._begin, b".")
        os.close(self._begin)
        assert os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]) == 0


def saving(store: FindingStore, first: int) -> Callable[[], None]:
    def save() -> None:
        for n in range(first, first + 20):
            store.save_finding(finding(n))

    return save


def undoing(store: FindingStore, done: threading.Event, *, seconds: float | None = None) -> threading.Thread:
    """Return a thread that is inside a transaction, which it undoes when it is told to, or after some seconds."""
    inside = threading.Event()

    def write() -> None:
        with pytest.raises(KeyError), store.transaction():
            store.save_finding(finding(2))
            inside.set()
            done.wait(seconds)
            raise KeyError

    thread = threading.Thread(target=write)
    thread.start()
    inside.wait()
    return thread


@on_files
def test_what_a_child_saves_outlives_the_parents_store(url: str, tmp_path: pathlib.Path) -> None:
    place = url.format(tmp_path)
    store = open_storage(place)
    store.save_finding(finding(1))
    assert store.get_finding(PROJECT, finding(1)["id"])["title"]
    child = Child(saving(store, 100))
    store.save_finding(finding(2))
    store.close()
    child.work()
    with open_storage(place) as after:
        assert len(after.list_findings(PROJECT)) == 22


@on_files
def test_parent_and_children_write_at_once(url: str, tmp_path: pathlib.Path) -> None:
    place = url.format(tmp_path)
    with open_storage(place) as store:
        store.save_finding(finding(1))
        children = [Child(saving(store, 100 * n)) for n in (1, 2)]
        threads = [threading.Thread(target=child.work) for child in children]
        for thread in threads:
            thread.start()
        saving(store, 300)()
        for thread in threads:
            thread.join()
        assert len(store.list_findings(PROJECT)) == 61
        assert store.health().ok


def test_fork_inside_a_unit_of_work_is_refused_by_the_child_on_sqlite(tmp_path: pathlib.Path) -> None:
    place = f"sqlite:///{tmp_path}/findings.db"

    def refused() -> None:
        for use in (
            store.list_projects,
            lambda: open_storage(place),
            lambda: store.save_finding(finding(3)),
        ):
            with pytest.raises(StorageUnavailableError, match="forked while its parent was inside a unit"):
                use()
        with open_storage(f"sqlite:///{tmp_path}/another.db") as other:
            other.save_finding(finding(3))

    with open_storage(place) as store:
        store.save_finding(finding(1))
        with store.transaction():
            store.save_finding(finding(2))
            Child(refused).work()
        assert len(store.list_findings(PROJECT)) == 2


def test_fork_while_another_thread_writes_files(tmp_path: pathlib.Path) -> None:
    """The child waits for the lock of the parent's thread, and sees nothing of what that did not commit."""
    with open_storage(f"file://{tmp_path}/findings") as store:
        store.save_finding(finding(1))
        done = threading.Event()

        def read_and_save() -> None:
            assert len(store.list_findings(PROJECT)) == 1
            store.save_finding(finding(3))

        thread = undoing(store, done)
        child = Child(read_and_save)
        done.set()
        thread.join()
        child.work()
        assert {one["id"] for one in store.list_findings(PROJECT)} == {finding(n)["id"] for n in (1, 3)}


@pytest.mark.parametrize("url", ["memory:", "sqlite://"])
def test_child_of_a_store_in_memory_goes_on_with_a_copy(url: str) -> None:
    with open_storage(url) as store:
        store.save_finding(finding(1))

        def use() -> None:
            store.save_finding(finding(2))
            assert len(store.list_findings(PROJECT)) == 2

        Child(use).work()
        assert len(store.list_findings(PROJECT)) == 1


@pytest.mark.parametrize("url", ["memory:", "sqlite://"])
def test_fork_waits_until_nobody_works_in_a_store_in_memory(url: str) -> None:
    with open_storage(url) as store:
        store.save_finding(finding(1))
        thread = undoing(store, threading.Event(), seconds=0.2)

        def use() -> None:
            assert len(store.list_findings(PROJECT)) == 1
            store.save_finding(finding(3))

        child = Child(use)
        thread.join()
        child.work()
        store.save_finding(finding(4))
        assert len(store.list_findings(PROJECT)) == 2


def test_connection_in_use_at_an_earlier_fork_is_closed_before_the_next(tmp_path: pathlib.Path) -> None:
    place = f"sqlite:///{tmp_path}/findings.db"
    store = open_storage(place)
    saving(store, 1)()
    some = store.iter_findings(PROJECT)
    next(some)
    early = Child(lambda: None)
    assert len(list(some)) == 19
    child = Child(saving(store, 100))
    early.work()
    store.close()
    child.work()
    with open_storage(place) as after:
        assert len(after.list_findings(PROJECT)) == 40


def test_connections_that_wait_for_readers_are_limited(tmp_path: pathlib.Path) -> None:
    with SQLiteStorageAdapter(tmp_path / "findings.db", pool_size=2) as store:
        store.save_finding(finding(1))
        ready = threading.Barrier(8)

        def read() -> None:
            with store._enter_unit(single=True) as unit:
                ready.wait(60)
                assert unit.projects() == [PROJECT]

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = store.pool()
        assert found is not None
        assert found.in_use == 0
        assert 2 <= found.idle <= 4


def test_connection_that_could_not_be_prepared_is_closed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "findings.db"
    with SQLiteStorageAdapter(path) as store:
        store.engine.dispose()
        path.with_name("findings.db-wal").unlink(missing_ok=True)
        path.write_bytes(b"no database at all, whatever its name says")
        with pytest.raises(StorageIntegrityError):
            store.list_projects()
        assert store._opened == set()
