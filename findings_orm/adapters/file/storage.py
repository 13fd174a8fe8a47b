"""The adapter: threads, processes and units of work over the working copy."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from findings_orm.adapters.file import checking, codec, folding, journal, loading, names, sharing
from findings_orm.adapters.file.disk import Disk, translated
from findings_orm.adapters.file.locking import StoreLock
from findings_orm.adapters.file.records import FileRecords, Operation
from findings_orm.adapters.memory import MemoryRecords
from findings_orm.arguments import checked, path_of
from findings_orm.diagnosis import Problem
from findings_orm.errors import StorageError, StorageUnavailableError, StorageValidationError
from findings_orm.forking import INHERITED, survives_fork
from findings_orm.private import Access
from findings_orm.records import Records
from findings_orm.store import Store

_log = logging.getLogger(__name__)
_TURN = 0.1
"""Seconds for which the threads of one process may pass the lock on among themselves while others wait."""


@dataclass(slots=True)
class _Ticket:
    """A transaction that waits to be durable."""

    operations: bytes
    done: threading.Event = field(default_factory=threading.Event)
    error: StorageError | None = None


class FileStorageAdapter(Store):
    """A `FindingStore` in a folder of JSON files, for many threads and processes.

    The findings are held in memory; a save appends one line to a journal and waits until it is on disk. Closing the
    store (or a journal that outgrows the rest) folds the journal into ``findings.json``, one in the folder of each
    project. That file may be edited: valid changes are taken over, broken ones are named.

    Args:
        path: the folder (`base_path` is its older name). One that does not exist is an empty store, and is made by the
            first write.
        lock_timeout: seconds to wait for another process before `StorageUnavailableError`.
        fold_at: bytes that the journal may have before it is folded, however small the snapshot is.
        fold_on_close: fold the journal when the store is closed, if this store wrote to it.
        group: a group of the system whose members may read and write too. A store is made for its owner alone; who may
            use it is seen from its journal from then on, so that the others need not name the group.
        disk: what changes files.

    Raises:
        StorageIntegrityError: a file is damaged, or was edited in a way that breaks a rule.
        SchemaVersionError: a newer release wrote the store.
        StorageUnavailableError: the folder can't be read, or the library ``filelock`` is missing.
    """

    adapter: ClassVar[str] = "file"

    @checked
    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        base_path: str | os.PathLike[str] | None = None,
        lock_timeout: float = 60.0,
        fold_at: int = 16 * 1024 * 1024,
        fold_on_close: bool = True,
        group: str | None = None,
        disk: Disk | None = None,
    ) -> None:
        super().__init__()
        self.path = _folder(path, base_path)
        if self.path.exists() and not self.path.is_dir():
            raise StorageUnavailableError(f"{self.path}: is a file; name the folder that it is in")
        self._disk = disk or Disk()
        self._disk.access = Access.of_group(group)
        self._lock_timeout = lock_timeout
        self._fold_at = fold_at
        self._fold_on_close = fold_on_close
        self._wrote = False
        self._reported: set[str] = set()
        self._begin()
        if group is not None:
            with translated(self.path):
                sharing.give(self.path, self._disk.access)
        self._copy = loading.load(self.path)
        self._report()
        survives_fork(self)

    def _begin(self) -> None:
        """Make all that a forked process can't share with its parent."""
        self._process = StoreLock(self.path / names.LOCK, self._lock_timeout)
        self._writers = 0
        self._turn_ends = 0.0
        self._gate = threading.Condition()
        self._lock = threading.RLock()
        self._flushing = threading.Lock()
        self._queue: list[_Ticket] = []
        self._queued = threading.Lock()
        self._latest: _Ticket | None = None
        self._failures = 0
        self._up_to_date = False

    def after_fork(self) -> None:
        """See `Forking.after_fork`: threads, their units of work and the lock on the store are the parent's."""
        at_rest = not self._writers and self._lock.acquire(blocking=False)
        super().after_fork()
        INHERITED.append(self._process)
        self._begin()
        if not at_rest:
            self._copy = loading.Copy(self._copy.manifest)

    # -- units of work -------------------------------------------------------------------------------------

    @contextmanager
    def _open_unit(self, *, write: bool) -> Iterator[Records]:
        if not write:
            with self._lock:
                self._refresh()
                yield MemoryRecords(self._copy.state)
                waiting = self._latest
            self._flush(waiting)
            return
        self._enter()
        try:
            ticket = None
            with self._lock:
                if not self._up_to_date:
                    self._refresh(writing=True)
                failures = self._failures
                unit = FileRecords(self._copy.state)
                with unit.savepoint():
                    yield unit
                    if unit.operations:
                        ticket = self._enqueue(unit, failures)
            self._flush(ticket)
        finally:
            self._leave()

    def _enter(self) -> None:
        """Take the lock of the store, or join the threads of this process that have it."""
        with self._gate:
            while self._writers and time.monotonic() > self._turn_ends:
                self._gate.wait()
            if not self._writers:
                with translated(self.path):
                    if not (self.path / names.LOCK).exists():
                        sharing.make_root(self.path, self._disk.access)
                    self._process.acquire(self._disk.access)
                self._turn_ends = time.monotonic() + _TURN
            self._writers += 1

    def _leave(self) -> None:
        with self._gate:
            self._writers -= 1
            if self._writers:
                return
            with self._lock:
                if self._up_to_date and self._outgrown():
                    self._try_to_fold()
                self._up_to_date = False
            self._process.release()
            self._gate.notify_all()

    def _refresh(self, *, writing: bool = False) -> None:
        """Bring the working copy up to date. Needs `_lock`; for writing also the lock of the store."""
        if self._up_to_date:
            return
        with translated(self.path):
            if not loading.catch_up(self.path, self._copy) and not self._is_new():
                self._copy = loading.load(self.path)
                self._latest = None
            self._report()
            if writing:
                folding.prepare(self._disk, self.path, self._copy)
                self._reported.clear()
                self._up_to_date = True

    def _is_new(self) -> bool:
        copy = self._copy
        return copy.core == (None, None) == loading.core_of(self.path) and not copy.edited

    def _report(self) -> None:
        """Say once what was taken over from edited files."""
        for line in self._copy.edited:
            if line not in self._reported:
                self._reported.add(line)
                _log.warning("%s", line)
        position = self._copy.position
        if position is not None and position.torn:
            line = f"{self.path / names.JOURNAL}, line {position.lines + 1}: is unfinished ({position.torn} bytes)"
            if line not in self._reported and self._process.is_free():
                self._reported.add(line)
                _log.warning("%s: it was never acknowledged and is left out", line)

    # -- commit --------------------------------------------------------------------------------------------

    def _enqueue(self, unit: FileRecords, failures: int) -> _Ticket:
        """Queue a transaction for the journal. Needs `_lock`, so that the queue has the order of the changes."""
        ticket = _Ticket(_encoded(unit.operations))
        with self._queued:
            if failures != self._failures:
                raise StorageUnavailableError(
                    f"{self.path}: a write that this one builds on failed; nothing was written",
                    retryable=True,
                )
            self._queue.append(ticket)
            self._latest = ticket
        self._copy.dirty.update(operation[1] for operation in unit.operations)
        return ticket

    def _flush(self, ticket: _Ticket | None) -> None:
        """Return when a transaction is durable. The first thread that comes writes for all that wait."""
        if ticket is None or (ticket.done.is_set() and ticket.error is None):
            return
        with self._flushing:
            if not ticket.done.is_set():
                self._write_queue()
        if ticket.error is not None:
            raise StorageUnavailableError(
                str(ticket.error), retryable=getattr(ticket.error, "retryable", False)
            ) from ticket.error

    def _write_queue(self) -> None:
        with self._queued:
            group, self._queue = self._queue, []
        try:
            with translated(self.path / names.JOURNAL):
                self._append(group)
        except StorageError as error:
            with self._queued:
                self._failures += 1
                self._up_to_date = False
                group, self._queue = group + self._queue, []
                self._copy.position = None
            for ticket in group:
                ticket.error = error
        for ticket in group:
            ticket.done.set()

    def _append(self, group: list[_Ticket]) -> None:
        position = self._copy.position
        if position is None:  # an earlier write failed
            raise StorageUnavailableError(f"{self.path}: an earlier write failed", retryable=True)
        path = self.path / names.JOURNAL
        if path.stat().st_size != position.end:
            raise StorageUnavailableError(f"{path}: somebody writes without the lock", retryable=True)
        lines, last = [], position.last
        for number, ticket in enumerate(group, position.lines + 1):
            line, last = journal.entry(number, last, ticket.operations)
            lines.append(line)
        data = b"".join(lines)
        try:
            self._disk.append(path, data)
            self._disk.sync(path)
        except OSError:
            with suppress(OSError):
                self._disk.truncate(path, position.end)
                self._disk.sync(path)
            raise
        self._wrote = True
        self._copy.position = journal.moved(position, len(data), len(group), last)
        self._copy.core = loading.core_of(self.path)

    # -- folding -------------------------------------------------------------------------------------------

    def _outgrown(self) -> bool:
        position = self._copy.position
        return position is not None and position.end > max(self._fold_at, self._copy.size)

    def _try_to_fold(self) -> None:
        """Fold; what is acknowledged is safe in the journal if that fails."""
        try:
            with translated(self.path):
                folding.fold(self._disk, self.path, self._copy)
        except StorageError as error:
            _log.warning("%s: the journal could not be folded: %s", self.path, error)
            self._copy.core = (None, None)
            self._fold_at *= 2

    def _release(self) -> None:
        try:
            if self._fold_on_close and self._wrote:
                self._fold_all()
        except StorageError as error:
            _log.warning("%s: the journal is left as it is: %s", self.path, error)
        with self._lock:
            self._copy = loading.Copy(self._copy.manifest)

    def _fold_all(self) -> None:
        self._enter()
        try:
            with self._lock:
                self._refresh(writing=True)
                if self._copy.dirty:
                    self._try_to_fold()
        finally:
            self._leave()

    # -- the store -----------------------------------------------------------------------------------------

    def _iterate(self, project_id: str, *, as_json: bool) -> Iterator[Any]:
        """See `Store._iterate`; the lock is held only while the order is made."""
        with self._unit() as unit:
            return unit.stream(project_id, as_json=as_json)

    @contextmanager
    def snapshot(self) -> Iterator[Records]:
        """See `Store.snapshot`; the lock is held only while the dictionaries are copied."""
        with self._unit() as unit:
            frozen = cast(MemoryRecords, unit).frozen()
        yield frozen

    def check_store_layout(self, path: Path) -> list[str]:
        """See `FindingStore.check_store_layout`; also of a store's folder, and of the other files in it."""
        return checking.check(Path(path))

    def validate_store_layout(self, path: Path) -> bool:
        """See `StoragePort.validate_store_layout`; a store's folder will do as well."""
        return not checking.check(Path(path))

    def _files(self) -> list[Path]:
        return list(sharing.files_of(self.path))

    def _examine(self, unit: Records) -> Iterator[Problem]:
        with translated(self.path):
            found = checking.check(self.path) if checking.is_store(self.path) else []
        for line in found:
            passing = "next write" in line
            yield Problem(
                "note" if passing else "error",
                "files",
                line,
                "Nothing: the next write puts it right." if passing else "Run 'findings file repair'.",
            )

    def _size(self, unit: Records) -> int:
        size = 0
        with translated(self.path):
            for folder, _, files in os.walk(self.path):
                for name in files:
                    with suppress(FileNotFoundError):  # renamed by a writer meanwhile
                        size += os.stat(os.path.join(folder, name)).st_size
        return size

    def _ping(self) -> dict[str, Any]:
        with self._lock:
            self._refresh()
            copy = self._copy
            position = copy.position
            return {
                "path": str(self.path),
                "projects": len(copy.state),
                "findings": sum(len(project.findings) for project in copy.state.values()),
                "generation": copy.manifest.generation,
                "journal_bytes": position.end if position else 0,
                "unfinished_record": position.torn if position else 0,
                "edited": list(copy.edited),
            }


def _encoded(operations: list[Operation]) -> bytes:
    try:
        return journal.to_json([codec.put_operation(operation) for operation in operations])
    except (ValueError, TypeError, RecursionError) as error:
        raise StorageValidationError(f"JSON can't hold the data: {error}") from error


def _folder(path: object, base_path: object) -> Path:
    """Return the folder of a store, which is given by one of two names."""
    if (path is None) == (base_path is None):
        raise StorageValidationError.of_field("path", "must be given, as path or as base_path", path)
    return path_of("path", base_path if path is None else path).absolute()


def open_url(url: str, **options: Any) -> FileStorageAdapter:
    """Open ``file:///some/folder`` (absolute) or ``file:some/folder``; ``%20`` and the like are decoded. ``?group=`` names the
    group."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost") or not path or parts.fragment:
        raise StorageValidationError.of_field("url", "must be file:///FOLDER", url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(given) - {"group"})
    if unknown:
        raise StorageValidationError.of_field("url", "knows the option group", unknown[0])
    return FileStorageAdapter(path, **{**given, **options})
