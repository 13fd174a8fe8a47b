"""The adapter: threads, processes and units of work over the working copy."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from findings_orm.arguments import checked
from findings_orm.diagnosis import Problem
from findings_orm.errors import StorageError, StorageUnavailableError, StorageValidationError
from findings_orm.private import Access
from findings_orm.process import INHERITED, block, survives_fork
from findings_orm.records import Records
from findings_orm.secrecy import shown_url
from findings_orm.store import BusyError
from findings_orm.stores.files import codec, damage, folding, journal, loading, tree
from findings_orm.stores.files.lock import POLL, StoreLock, busy_error
from findings_orm.stores.files.tree import Disk, translate_os_errors
from findings_orm.stores.files.working_copy import FileRecords, Operation
from findings_orm.stores.memory import MemoryRecords, MemoryStore
from findings_orm.units import Turn

_log = logging.getLogger(__name__)
_TURN = 0.1
"""Seconds for which the threads of one process may pass the lock on among themselves while others wait."""


@dataclass(slots=True, eq=False)
class _Group:
    """Transactions, each as JSON, that become durable together, or fail together.

    Attributes:
        operations: what they do, in their order.
        withdrawn: whether one of them was interrupted, so that it must not be written any more.
        written: whether they are on disk.
        error: why they are not, and never will be.
    """

    operations: list[bytes] = field(default_factory=list)
    withdrawn: bool = False
    written: bool = False
    error: StorageError | None = None


@dataclass(slots=True, eq=False)
class _Ticket:
    """A writing unit of work, and the group that it has joined."""

    group: _Group | None = None


class FileStorageAdapter(MemoryStore):
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
        lock: ``"hard"``, the locks of the operating system; a file system that has none is refused at the first write.
            ``"soft"`` goes on there with a file that marks the store as taken.
        disk: what changes files.

    Raises:
        StorageIntegrityError: a file is damaged, or was edited in a way that breaks a rule.
        SchemaVersionError: a newer release wrote the store.
        StorageUnavailableError: the folder can't be read.
        StorageValidationError: `lock` is something else.
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
        lock: Literal["hard", "soft"] = "hard",
        disk: Disk | None = None,
    ) -> None:
        super().__init__()
        self.path = _given_folder(path, base_path)
        with translate_os_errors(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise StorageUnavailableError(f"{self.path}: is a file; name the folder that it is in")
        self._soft = lock == "soft"
        self._disk = disk or Disk()
        self._disk.access = Access.of_group(group)
        self._lock_timeout = lock_timeout
        self._fold_at = fold_at
        self._fold_on_close = fold_on_close
        self._wrote = False
        self._reported: set[str] = set()
        self._make_process_state()
        with translate_os_errors(self.path):
            if group is not None:
                tree.give_store_access(self.path, self._disk.access)
            self._copy = loading.load_copy(self.path)
        self._report_edits()
        survives_fork(self)
        self._set_finalizer(str(self.path), StoreLock.release, self._process)

    def _make_process_state(self) -> None:
        """Make all that a forked process can't share with its parent."""
        self._process = StoreLock(self.path / tree.LOCK, soft=self._soft)
        self._inside: set[_Ticket] = set()
        self._turn_ends = 0.0
        self._gate = threading.Lock()
        self._turn = Turn(str(self.path), self._units, self._lock_timeout)
        self._flushing = threading.Lock()
        self._group = _Group()
        self._queued = threading.Lock()
        self._latest: _Group | None = None
        self._failures = 0
        self._up_to_date = False
        self._open: FileRecords | None = None
        self._uncertain: int | None = None

    def after_fork(self) -> None:
        """See `Forking.after_fork`: threads, their units of work and the lock on the store are the parent's."""
        at_rest = not self._inside and self._turn.take(self)
        super().after_fork()
        INHERITED.append(self._process)
        self._make_process_state()
        self._set_finalizer(str(self.path), StoreLock.release, self._process)
        if not at_rest:
            self._copy = loading.Copy(self._copy.manifest)

    # -- units of work -------------------------------------------------------------------------------------
    #
    # An exception may come between any two calls (see `process.block`). So what is half done is marked before it is begun, and
    # one assignment takes the mark away: whoever finds one (`_open`, `_uncertain`, a working copy without `core` or
    # `position`) goes back to what is on disk.

    @block
    def open_unit(self, *, write: bool) -> Iterator[Records]:
        if not write:
            with self._turn.hold():
                self._drop_unfinished()
                self._refresh_copy()
                yield MemoryRecords(self._copy.state)
                waiting = self._latest
            self._flush_group(waiting)
            return
        ticket, unit = _Ticket(), None
        try:
            self._enter_store(ticket)
            with self._turn.hold():
                self._drop_unfinished()
                failures = self._failures
                self._refresh_copy(writing=True)
                self._open = unit = FileRecords(self._copy.state)
                try:
                    yield unit
                    if unit.operations:
                        self._queue_transaction(ticket, unit, failures)
                except BaseException:
                    unit.roll_back()
                    self._open = None
                    raise
                self._open = None
            self._flush_group(ticket.group)
            unit.committed = ticket.group is not None
        except BaseException as error:
            self._settle_ticket(ticket, error)
            if unit is not None and ticket.group is not None:
                unit.committed = ticket.group.written
            raise
        finally:
            try:
                self._leave_store(ticket)
            except BaseException:
                self._leave_store(ticket)  # it may not have begun
                raise

    @block
    def open_snapshot(self) -> Iterator[Records]:
        """See `Store.open_snapshot`: of the working copy, or of what is on disk while a unit that writes has that."""
        ticket, waiting = object(), None
        try:
            if self._has_turn(ticket):
                self._drop_unfinished()
                self._refresh_copy()
                records, waiting = MemoryRecords(self._copy.state).frozen(), self._latest
            else:
                records = MemoryRecords(loading.load_copy(self.path).state)
        finally:
            self._turn.give_back(ticket)
        self._flush_group(waiting)
        yield records

    def _has_turn(self, ticket: object) -> bool:
        """Return whether the working copy was had soon: to read the files takes longer than most units of work."""
        try:
            return self._turn.take(ticket, _TURN)
        except StorageUnavailableError:  # whoever has it can't go on before this call returns
            return False

    def _enter_store(self, ticket: _Ticket) -> None:
        """Take the lock of the store, or join the threads of this process that have it."""
        deadline = place = None
        try:
            while True:
                with self._gate:
                    if self._inside:
                        taken, deadline = time.monotonic() <= self._turn_ends, None
                    else:
                        taken = self._take_lock()
                        deadline = deadline or time.monotonic() + self._lock_timeout
                    if taken:
                        self._inside.add(ticket)
                        return
                    if deadline is not None and time.monotonic() > deadline:
                        raise busy_error(self.path, self._lock_timeout)
                place = place or self._turn.queue.join()
                time.sleep(POLL)
        finally:
            self._turn.queue.leave(place)

    def _take_lock(self) -> bool:
        with translate_os_errors(self.path):
            if not (self.path / tree.LOCK).exists():
                tree.make_root(self.path, self._disk.access)
            taken = self._process.try_acquire(self._disk.access)
        self._turn_ends = time.monotonic() + _TURN
        return taken

    def _leave_store(self, ticket: _Ticket) -> None:
        """Give the lock of the store back, if nobody else is inside. May be done again."""
        with self._gate:
            self._inside.discard(ticket)
            if self._inside or not self._process.held:
                return
            try:
                with self._turn.hold(), self._flushing:
                    with suppress(StorageUnavailableError):  # said already
                        self._take_back_write()
                    if self._up_to_date and self._has_outgrown():
                        self._try_to_fold()
            finally:
                self._up_to_date, self._uncertain = False, None  # what others have seen can't be taken back
                self._process.release()

    def _drop_unfinished(self) -> None:
        """Go back to what is on disk if a unit of work was neither rolled back nor queued. Needs `_turn`."""
        if self._open is not None:
            with self._flushing:
                self._fail_group(self._group, None)
            self._open = None

    def _refresh_copy(self, *, writing: bool = False) -> None:
        """Bring the working copy up to date. Needs `_turn`; for writing also the lock of the store."""
        if self._up_to_date:
            return
        with translate_os_errors(self.path):
            if writing:
                with self._flushing:
                    self._take_back_write()
            if not loading.catch_up(self.path, self._copy) and not self._is_still_new():
                self._latest = None
                self._copy = loading.load_copy(self.path)
            self._report_edits()
            if writing:
                folding.prepare_store(self._disk, self.path, self._copy)
                self._reported.clear()
                self._up_to_date = True

    def _is_still_new(self) -> bool:
        copy = self._copy
        return copy.core == (None, None) == loading.stat_core(self.path) and not copy.edited

    def _report_edits(self) -> None:
        """Say once what was taken over from edited files."""
        for line in self._copy.edited:
            if line not in self._reported:
                self._reported.add(line)
                _log.warning("%s", line)
        position = self._copy.position
        if position is not None and position.torn:
            line = f"{self.path / tree.JOURNAL}, line {position.lines + 1}: is unfinished ({position.torn} bytes)"
            if line not in self._reported and self._process.is_free():
                self._reported.add(line)
                _log.warning("%s: it was never acknowledged and is left out", line)

    # -- commit --------------------------------------------------------------------------------------------

    def _queue_transaction(self, ticket: _Ticket, unit: FileRecords, failures: int) -> None:
        """Queue a transaction for the journal. Needs `_turn`, so that the queue has the order of the changes."""
        operations = _encode_operations(unit.operations)
        self._copy.dirty.update(operation[1] for operation in unit.operations)
        with self._queued:
            if failures != self._failures:
                raise StorageUnavailableError(
                    f"{self.path}: a write that this one builds on failed; nothing was written",
                    retryable=True,
                )
            ticket.group = self._latest = self._group
            self._group.operations.append(operations)

    def _flush_group(self, group: _Group | None) -> None:
        """Return when a transaction is durable. The first thread that comes writes for all that wait."""
        if group is None or group.written:
            return
        with self._flushing:
            if not group.written and group.error is None:
                self._write_group(group)
        if group.error is not None:
            raise StorageUnavailableError(
                str(group.error), retryable=getattr(group.error, "retryable", False)
            ) from group.error

    def _write_group(self, group: _Group) -> None:
        """Write a group to the journal. Needs `_flushing`."""
        with self._queued:
            abandoned = group.withdrawn or group is not self._group
            if not abandoned:
                self._group = _Group()
        if abandoned:
            self._fail_group(group, None)
            return
        try:
            with translate_os_errors(self.path / tree.JOURNAL):
                self._append_group(group)
        except BaseException as error:
            self._fail_group(group, error)
            if not isinstance(error, StorageError):
                raise

    def _settle_ticket(self, ticket: _Ticket, error: BaseException) -> None:
        """Make sure that a transaction of which the unit of work raised is written, or never will be."""
        group = ticket.group
        if group is None or group.written or group.error is not None:
            return
        group.withdrawn = True
        with self._flushing:
            if not group.written and group.error is None:
                self._fail_group(group, error)

    def _fail_group(self, group: _Group, error: BaseException | None) -> None:
        """Give up a group, and the one that builds on it. Needs `_flushing`."""
        if not isinstance(error, StorageError):
            cause = f" by {type(error).__name__}" if error is not None else ""
            shown = StorageUnavailableError(
                f"{self.path}: a write that this one was done with was interrupted{cause}; nothing was written",
                retryable=True,
            )
            shown.__cause__ = error
            error = shown
        with self._queued:
            self._failures += 1
            self._copy.position = None
            self._up_to_date = False
            later, self._group = self._group, _Group()
        group.error = later.error = error

    def _append_group(self, group: _Group) -> None:
        copy = self._copy
        position = copy.position
        if position is None:  # an earlier write failed
            raise StorageUnavailableError(f"{self.path}: an earlier write failed", retryable=True)
        path = self.path / tree.JOURNAL
        if path.stat().st_size != position.end:
            raise StorageUnavailableError(f"{path}: somebody writes without the lock", retryable=True)
        lines, last = [], position.last
        for number, operations in enumerate(group.operations, position.lines + 1):
            line, last = journal.record_line(number, last, operations)
            lines.append(line)
        data = b"".join(lines)
        after = journal.position_after_append(position, len(data), len(lines), last)
        self._uncertain = position.end
        try:
            self._disk.append(path, data)
            self._disk.sync(path)
            core = loading.stat_core(self.path)
        except BaseException:
            self._take_back_write()
            raise
        # Nothing is called from here on, so that nothing comes between.
        group.written = self._wrote = True
        copy.position, copy.core, self._uncertain = after, core, None

    def _take_back_write(self) -> None:
        """Cut off what a failed or interrupted write left in the journal. Needs `_flushing`, and the lock of the store."""
        if self._uncertain is None:
            return
        path = self.path / tree.JOURNAL
        try:
            self._disk.truncate(path, self._uncertain)
            self._disk.sync(path)
        except OSError as error:
            raise StorageUnavailableError(
                f"{path}: a write failed, and so did taking it back ({error.strerror}); whether it is stored, the next look at "
                "the store tells"
            ) from error
        self._uncertain = None

    # -- folding -------------------------------------------------------------------------------------------

    def _has_outgrown(self) -> bool:
        position = self._copy.position
        return position is not None and position.end > max(self._fold_at, self._copy.size)

    def _try_to_fold(self) -> None:
        """Fold; what is acknowledged is safe in the journal if that fails."""
        try:
            with translate_os_errors(self.path):
                folding.fold_journal(self._disk, self.path, self._copy)
        except StorageError as error:
            _log.warning("%s: the journal could not be folded: %s", self.path, error)
            self._copy.core = (None, None)
            self._fold_at *= 2

    def release(self) -> None:
        try:
            if self._fold_on_close and self._wrote:
                self._fold_all()
        except StorageError as error:
            _log.warning("%s: the journal is left as it is: %s", self.path, error)
        self._copy = loading.Copy(self._copy.manifest)

    def _fold_all(self) -> None:
        with self.open_unit(write=True):
            if self._copy.dirty:
                self._try_to_fold()

    # -- the store -----------------------------------------------------------------------------------------

    def check_store_layout(self, path: Path) -> list[str]:
        """See `FindingStore.check_store_layout`; also of a store's folder, and of the other files in it."""
        return damage.check(path)

    def validate_store_layout(self, path: Path) -> bool:
        """See `StoragePort.validate_store_layout`; a store's folder will do as well."""
        return not damage.check(path)

    def _store_files(self) -> list[Path]:
        return list(tree.walk_files(self.path))

    def _find_own_problems(self, unit: Records) -> Iterator[Problem]:
        with translate_os_errors(self.path):
            found = damage.check(self.path) if damage.is_store(self.path) else []
        for line in found:
            passing = "next write" in line
            yield Problem(
                "note" if passing else "error",
                "files",
                line,
                "Nothing: the next write puts it right." if passing else "Run 'findings file repair'.",
            )

    def _size_on_disk(self, unit: Records) -> int:
        size = 0
        with translate_os_errors(self.path):
            for folder, _, files in os.walk(self.path):
                for name in files:
                    with suppress(FileNotFoundError):  # renamed by a writer meanwhile
                        size += os.stat(os.path.join(folder, name)).st_size
        return size

    def ping(self) -> dict[str, Any]:
        ticket = object()
        try:
            if not self._turn.take(ticket):
                raise BusyError(f"a unit of work has {self.path}")
            self._refresh_copy()
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
        finally:
            self._turn.give_back(ticket)

    def _unasked_figures(self) -> dict[str, Any]:
        return {"path": str(self.path)}


def _encode_operations(operations: list[Operation]) -> bytes:
    try:
        return journal.to_json([codec.encode_operation(operation) for operation in operations])
    except (ValueError, TypeError, RecursionError) as error:
        raise StorageValidationError(f"JSON can't hold the data: {error}") from error


def _given_folder(*names: str | os.PathLike[str] | None) -> Path:
    """Return the folder of a store, which is given by one of two names."""
    given = [name for name in names if name is not None]
    if len(given) != 1:
        raise StorageValidationError.of_field("path", "must be given, as path or as base_path", names[0])
    return Path(given[0]).absolute()


def open_url(url: str, **options: Any) -> FileStorageAdapter:
    """Open ``file:///some/folder`` (absolute) or ``file:some/folder``; ``%20`` and the like are decoded. ``?group=`` names the
    group, ``?lock=soft`` allows file systems without locks."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost") or not path or parts.fragment:
        raise StorageValidationError.of_field("url", "must be file:///FOLDER", shown_url(url))
    given: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(given) - {"group", "lock"})
    if unknown:
        raise StorageValidationError.of_field("url", "knows the options group and lock", unknown[0])
    return FileStorageAdapter(path, **{**given, **options})
