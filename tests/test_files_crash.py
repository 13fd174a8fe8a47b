"""A store in files when the process dies, the power goes, the disk is full: nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from files import Computer, Operation, Recorder, lay_out, whole

from findings_orm import (
    FileStorageAdapter,
    FindingStore,
    StorageError,
    StorageUnavailableError,
    StorageValidationError,
    open_storage,
)
from findings_orm.stores.files.tree import Disk
from findings_orm.testing.machine import run_sequence
from findings_orm.testing.samples import finding, run_id_of, scanned, uuid_of

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
P = "acme-api"


def _several_projects(store: FindingStore) -> None:
    with store.transaction():
        for project_id in ("a", "B", "c/../d"):
            store.save_finding(finding(1, project_id=project_id))
        store.delete_project("gone")


def _workload() -> list[Callable[[FindingStore], Any]]:
    """Return transactions of every kind."""
    report = [scanned("R1", 3), scanned("R1", 3), scanned("R2", 9, evidence={"\x00": [1.0, 10**30]}), {}]
    return [
        lambda store: store.save_finding(finding(1)),
        lambda store: store.save_finding(finding(2, project_id="gone")),
        lambda store: store.ingest(P, report, run=run_id_of(1), on_invalid="quarantine"),
        _several_projects,
        lambda store: store.save_findings([finding(n) for n in range(3, 9)]),
        lambda store: store.ingest(P, report[1:3], run=run_id_of(2), close_missing=True),
        lambda store: store.set_status(P, uuid_of(4), "resolved", actor="ann", comment="é"),
        lambda store: store.save_finding(finding(1, title="changed")),
        lambda store: store.purge(P, closed_before="9999-01-01T00:00:00Z"),
        lambda store: store.ingest(P, report[:3], run=run_id_of(3)),
        lambda store: store.delete_project("B"),
        lambda store: store.save_finding(finding(9)),
    ]


def _record(root: Path) -> tuple[list[Operation], list[tuple[int, list[Any]]]]:
    """Do the workload twice, with a fold after every few kilobytes; return the operations, and what was there after
    which of them."""
    disk = Recorder(root)
    root.mkdir()
    states: list[tuple[int, list[Any]]] = [(0, [])]
    for _ in range(2):
        with FileStorageAdapter(root, disk=disk, fold_at=3000) as store:
            for work in _workload():
                work(store)
                states.append((len(disk.operations), whole(store)))
    states.append((len(disk.operations), states[-1][1]))
    return disk.operations, states


def _cuts(content: bytes, number: int) -> list[int]:
    if len(content) <= number:
        return list(range(len(content)))
    return sorted({0, 1, len(content) - 1, *random.Random(len(content)).sample(range(len(content)), number)})


@pytest.mark.no_cover
@pytest.mark.slow
def test_every_prefix_of_what_is_done_to_the_disk_is_a_right_store(tmp_path: Path) -> None:
    operations, states = _record(tmp_path / "store")
    computer = Computer()
    root = tmp_path / "crashed"
    tried = 0
    for index, operation in enumerate([*operations, None]):
        acknowledged = max(n for n, (done, _) in enumerate(states) if done <= index)
        right = [state for _, state in states[acknowledged : acknowledged + 2]]
        for files in (computer.after_kill(), computer.after_power_cut()):
            lay_out(root, files)
            with FileStorageAdapter(root) as store:
                assert whole(store) in right, (index, operation)
                if index % (1 if FULL else 5):
                    continue
                store.save_finding(finding(99, project_id="after"))
            with FileStorageAdapter(root) as store:
                assert [one for one in whole(store) if one[0] != "after"] in right, (index, operation)
        tried += 2
        if operation is None:
            break
        for cut in _cuts(operation[2], 60 if FULL else 1) if operation[0] in ("write", "append") else ():
            before = {name: (inode, inode.now if inode else b"") for name, inode in computer.now.items()}
            computer.do(operation, cut)
            lay_out(root, computer.after_kill())
            with FileStorageAdapter(root) as store:
                assert whole(store) in right, (index, operation, cut)
            tried += 1
            computer.now = {name: inode for name, (inode, _) in before.items()}
            for inode, content in before.values():
                if inode is not None:
                    inode.now = content
        computer.do(operation)
    assert tried > 500
    assert sum(each[0] == "rename" for each in operations) > 20, "nothing was folded"


WRITER = """
import sys, os
from findings_orm import FileStorageAdapter
from findings_orm.testing.samples import finding
root, start, acknowledged = sys.argv[1], int(sys.argv[2]), os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
store = FileStorageAdapter(root, fold_at=20_000)
for number in range(start, start + 10**6):
    store.save_findings([finding(number), finding(number, project_id="other")])
    os.write(acknowledged, b"%d\\n" % number)
"""


def _size(path: Path) -> int:
    return path.stat().st_size


@pytest.mark.no_cover
@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_kill_9_under_four_writers(tmp_path: Path) -> None:
    root, chance = tmp_path / "store", random.Random(1)
    starts = iter(range(0, 10**9, 10**6))

    def start(writer: int) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-c",
            WRITER,
            str(root),
            str(next(starts)),
            str(tmp_path / f"acked{writer}"),
        ]
        return subprocess.Popen(command)

    writers = [start(writer) for writer in range(4)]
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("acked*"))) < 4 or not all(map(_size, tmp_path.glob("acked*"))):
            assert time.monotonic() < deadline, "the writers don't get to work"
            time.sleep(0.05)
        for _ in range(50 if FULL else 4):
            time.sleep(chance.uniform(0.3, 1.2))
            victim = chance.randrange(4)
            writers[victim].send_signal(signal.SIGKILL)
            assert writers[victim].wait() == -signal.SIGKILL, "a writer had ended by itself"
            writers[victim] = start(victim)
        time.sleep(0.5)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    acknowledged = {
        uuid_of(int(line)) for path in tmp_path.glob("acked*") for line in path.read_text().split()
    }
    with FileStorageAdapter(root, lock_timeout=5) as store:
        store.save_finding(finding(1, project_id="the lock is free"))
        found = {one["id"]: one for one in store.list_findings(P)}
        other = {one["id"]: one for one in store.list_findings("other")}
    assert len(acknowledged) >= 4
    assert acknowledged <= found.keys()
    assert found.keys() == other.keys(), "half a transaction is there"
    for finding_id, document in found.items():
        assert document["title"] == f"Finding {int(finding_id[-12:], 16)}"
    assert len(found) <= len(acknowledged) + 4 * (55 if FULL else 9)


@pytest.mark.no_cover
def test_a_save_writes_as_many_bytes_into_a_large_store_as_into_an_empty_one(tmp_path: Path) -> None:
    count = 100_000 if FULL else 5_000
    written = []
    for size in (0, count):
        root = tmp_path / str(size)
        with FileStorageAdapter(root) as store:
            store.ingest(P, (scanned(f"R{number}", number + 1) for number in range(size)))
        disk = Recorder(root)
        store = FileStorageAdapter(root, disk=disk)
        store.save_finding(finding(1))
        before = disk.written()
        for number in range(1000):
            store.save_finding(finding(2 + number))
        written.append(disk.written() - before)
        assert len(store.list_findings(P)) == size + 1001
        store.close()
    assert written[1] == pytest.approx(written[0], rel=0.1), written
    assert written[0] < 1000 * 1500


# -- disks that fail ---------------------------------------------------------------------------------------

LIMITED = """
import os, resource, signal, sys
from findings_orm import FileStorageAdapter, StorageUnavailableError
from findings_orm.testing.samples import finding
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = FileStorageAdapter(sys.argv[1])
store.save_finding(finding(1))
size = os.path.getsize(sys.argv[1] + "/journal.jsonl")
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 700, resource.RLIM_INFINITY))
saved = 1
try:
    for number in range(2, 100):
        store.save_finding(finding(number))
        saved = number
except StorageUnavailableError as error:
    assert "journal.jsonl" in str(error), error
assert len(store.list_findings("acme-api")) == saved < 50, saved
assert os.path.getsize(sys.argv[1] + "/journal.jsonl") <= size + 700
store.close()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
with FileStorageAdapter(sys.argv[1]) as store:
    assert len(store.list_findings("acme-api")) == saved
    store.save_finding(finding(1000))
print(saved)
"""


def test_a_full_disk_leaves_the_old_state(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "store")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with FileStorageAdapter(tmp_path / "store") as store:
        assert len(store.list_findings(P)) == int(done.stdout) + 1


READ_ONLY = """
import os, sys, tempfile
from findings_orm import FileStorageAdapter, StorageUnavailableError
from findings_orm.testing.samples import finding
with tempfile.TemporaryDirectory() as folder, FileStorageAdapter(folder) as store:
    store.save_finding(finding(1))  # loads every module while the interpreter's own files can be read
if os.getuid() == 0:
    os.setuid(65534)
with FileStorageAdapter(sys.argv[1]) as store:
    assert len(store.list_findings("acme-api")) == 1
    try:
        store.save_finding(finding(2))
        raise SystemExit("it was written")
    except StorageUnavailableError as error:
        assert sys.argv[1] in str(error), error
    assert len(store.list_findings("acme-api")) == 1
"""


def test_a_read_only_folder_can_be_read_and_refuses_writes(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with FileStorageAdapter(root) as store:
        store.save_finding(finding(1))
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    temporary = Path(tempfile.gettempdir())
    for parent in [tmp_path, *tmp_path.parents]:
        if parent != temporary and parent.is_relative_to(temporary):
            parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(root)], capture_output=True, text=True, check=False
    )
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)
    assert done.returncode == 0, done.stderr


class FailingDisk(Disk):
    """Fails with ENOSPC at one operation, and works again afterwards."""

    def __init__(self, at: int) -> None:
        self.left = at

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(28, "No space left on device")

    def append(self, path: Path, content: bytes) -> None:
        if self.left == 1:
            super().append(path, content[: len(content) // 2])
        self._count()
        super().append(path, content)

    def write(self, path: Path, content: bytes) -> None:
        self._count()
        super().write(path, content)

    def sync(self, path: Path) -> None:
        self._count()
        super().sync(path)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)

    def sync_folder(self, path: Path) -> None:
        self._count()
        super().sync_folder(path)


@pytest.mark.no_cover
@pytest.mark.parametrize("at", range(1, 120, 1 if FULL else 3))
def test_an_operation_that_fails_loses_nothing_and_leaves_a_working_store(tmp_path: Path, at: int) -> None:
    store = FileStorageAdapter(tmp_path / "store", disk=FailingDisk(at), fold_at=2500)
    saved = set()
    for number in range(12):
        with contextlib.suppress(StorageUnavailableError):
            store.save_finding(finding(number))
            saved.add(uuid_of(number))
        assert {one["id"] for one in store.list_findings(P)} == saved
    store.close()
    with FileStorageAdapter(tmp_path / "store") as again:
        assert {one["id"] for one in again.list_findings(P)} == saved
        assert len(saved) >= 11


def test_threads_share_fsyncs_and_none_is_acknowledged_before_its_own(tmp_path: Path) -> None:
    class Slow(Recorder):
        def sync(self, path: Path) -> None:
            time.sleep(0.01)
            super().sync(path)

    disk = Slow(tmp_path / "store")
    with FileStorageAdapter(tmp_path / "store", disk=disk) as store:
        store.save_finding(finding(0))
        before = len(disk.operations)

        def save(thread: int) -> None:
            for number in range(10):
                store.save_finding(finding(1 + thread * 100 + number))
                synced = b"".join(each[2] for each in disk.operations if each[0] == "append")
                assert uuid_of(1 + thread * 100 + number).encode() in synced

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(save, range(8)))
        syncs = sum(each[0] == "sync" for each in disk.operations[before:])
    assert syncs < 70, "80 saves of 8 threads did not share a single fsync"


def test_writes_that_wait_for_one_that_fails_fail_too(tmp_path: Path) -> None:
    class Broken(Disk):
        broken = False

        def sync(self, path: Path) -> None:
            if self.broken:
                time.sleep(0.02)
                raise OSError(5, "Input/output error")
            super().sync(path)

    disk = Broken()
    with FileStorageAdapter(tmp_path / "store", disk=disk) as store:
        store.save_finding(finding(0))
        disk.broken = True
        failures = []
        done = threading.Event()

        def read() -> set[int]:
            seen = set()
            while not done.is_set():
                with contextlib.suppress(StorageError):
                    seen.add(len(store.list_findings(P)))
            return seen

        def save(thread: int) -> None:
            for number in range(3):
                try:
                    store.save_finding(finding(1 + thread * 100 + number))
                except StorageUnavailableError as error:
                    failures.append(error)

        with ThreadPoolExecutor(7) as pool:
            reader = pool.submit(read)
            list(pool.map(save, range(6)))
            done.set()
            assert reader.result() <= {1}, "something was shown that was never durable"
        assert len(failures) == 18
        disk.broken = False
        store.save_finding(finding(5000))
        assert len(store.list_findings(P)) == 2


def test_another_process_that_writes_is_waited_for_and_then_reported(tmp_path: Path) -> None:
    first, second = (FileStorageAdapter(tmp_path / "store", lock_timeout=0.2) for _ in range(2))
    with first, second:
        first.save_finding(finding(1))
        with first.transaction():
            first.save_finding(finding(2))
            assert len(second.list_findings(P)) == 1
            with pytest.raises(StorageUnavailableError, match="another process") as caught:
                second.save_finding(finding(3))
            assert caught.value.retryable
        assert len(second.list_findings(P)) == 2
        second.save_finding(finding(3))
        assert len(first.list_findings(P)) == 3


def test_stores_follow_each_others_folds_without_loading_anew(tmp_path: Path) -> None:
    first, second = (FileStorageAdapter(tmp_path / "store", fold_at=1500) for _ in range(2))
    with first, second:
        for number in range(30):
            (first, second)[number % 3 == 0].save_finding(finding(number))
            assert len(first.list_findings(P)) == len(second.list_findings(P)) == number + 1
        run_sequence(first, 3, 20)
        assert whole(first) == whole(second)


def test_a_fold_and_the_writes_after_it_are_both_noticed(tmp_path: Path) -> None:
    with FileStorageAdapter(tmp_path / "store") as follower:
        with FileStorageAdapter(tmp_path / "store") as first:
            first.save_finding(finding(1))
            assert len(follower.list_findings(P)) == 1
        with FileStorageAdapter(tmp_path / "store", fold_on_close=False) as third:
            third.save_finding(finding(2))
        follower.save_finding(finding(3))
        assert len(follower.list_findings(P)) == 3
    with FileStorageAdapter(tmp_path / "store") as again:
        assert len(again.list_findings(P)) == 3


def test_a_writer_without_the_lock_is_noticed_before_it_is_written_over(tmp_path: Path) -> None:
    with FileStorageAdapter(tmp_path / "store") as store, FileStorageAdapter(tmp_path / "store") as other:
        store.save_finding(finding(1))
        with pytest.raises(StorageUnavailableError, match="without the lock"), store.transaction():
            store.save_finding(finding(2))
            (tmp_path / "store" / ".lock").unlink()
            other.save_finding(finding(3))
        assert [one["id"] for one in store.list_findings(P)] == [uuid_of(1), uuid_of(3)]


# -- file systems without locks ----------------------------------------------------------------------------

WITHOUT_FLOCK = """
import ctypes, platform, struct, sys
from findings_orm import FileStorageAdapter, StorageUnavailableError, open_storage
from findings_orm.stores.files import repair
from findings_orm.testing.samples import finding

# A filter of the kernel (seccomp): flock answers what it answers on a file system that has no locks.
number, error = {"x86_64": 73, "aarch64": 32}[platform.machine()], int(sys.argv[2])
rows = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | error), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
program = struct.pack("HxxxxxxP", len(rows), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()

with FileStorageAdapter(sys.argv[1]) as store:
    try:
        store.save_finding(finding(1))
        raise SystemExit("it was written without a lock")
    except StorageUnavailableError as failure:
        print(failure)
    assert store.list_findings("acme-api") == []
with open_storage(f"file://{sys.argv[1]}?lock=soft") as store, FileStorageAdapter(
    sys.argv[1], lock="soft", lock_timeout=0
) as other:
    with store.transaction():
        store.save_finding(finding(1))
        try:
            other.save_finding(finding(2))
            raise SystemExit("two wrote at once")
        except StorageUnavailableError as failure:
            assert "another process" in str(failure), failure
    other.save_finding(finding(3))
    assert len(store.list_findings("acme-api")) == 2
assert repair(sys.argv[1], lock="soft") == []
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's filter of calls is Linux's")
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_refused_unless_an_option_says_otherwise(
    tmp_path: Path, error: int
) -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT_FLOCK, str(tmp_path / "store"), str(error)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "has no locks" in done.stdout
    assert "lock='soft'" in done.stdout


def test_an_unknown_kind_of_lock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageValidationError, match="lock: must be hard or soft"):
        open_storage(f"{tmp_path.as_uri()}?lock=none")
