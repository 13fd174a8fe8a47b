"""Units of work as objects: used from any thread or task, one call at a time; and what of them a context sees.

A context variable says which unit a call on the store itself joins: that of the block around it, also in tasks and threads that
were started inside with a copy of the context (`asyncio.create_task`, `asyncio.to_thread`). A thread alone says nothing: an
event loop runs many tasks in one, and a web framework enters, uses and leaves a unit in three.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import FrameType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from weakref import ref

from findings_orm.errors import StorageError, StorageUnavailableError
from findings_orm.process import block, locked, pause_garbage_collection

LOOK_AGAIN = 0.05
"""Seconds after which somebody who waits looks again whether that may end."""

PATIENCE = 0.005
"""Seconds after which somebody who waits for a turn is the next one: as long as Python lets a thread run on."""

MOST_WAITING = 4
"""How many threads may wait for units of work that need a thread to go on: the smallest pool that asyncio makes has five."""

TURN_SECONDS = 60.0
"""How long a unit of work waits for the one before it, where no option of the store says otherwise."""

T = TypeVar("T")


class Undoable(Protocol):
    """What a unit asks of the records that it works on."""

    interrupted: bool
    keeps_reads: bool

    def savepoint(self) -> AbstractContextManager[None]:
        """See `findings_orm.records.Records.savepoint`."""


R = TypeVar("R", bound=Undoable)

# -- who calls ----------------------------------------------------------------------------------------------


class Caller(NamedTuple):
    """The thread that runs, and the greenlet in it where there may be several."""

    thread: int
    greenlet: Any

    def is_same(self, other: Caller) -> bool:
        """Return whether two are one; a thread that had no greenlets yet is its first one."""
        return self.thread == other.thread and (
            self.greenlet is other.greenlet or None in (self.greenlet, other.greenlet)
        )


def current_caller() -> Caller:
    """Return who runs now."""
    getcurrent = getattr(sys.modules.get("greenlet"), "getcurrent", None)
    return Caller(threading.get_ident(), getcurrent() if getcurrent else None)


def running_loop() -> Any:
    """Return the event loop of asyncio that runs in this thread, or None."""
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()


def _current_place() -> object:
    """Return the task that runs, or the caller where there is none."""
    loop = running_loop()
    task = None if loop is None else sys.modules["asyncio"].current_task(loop)
    return current_caller() if task is None else ref(task)


# -- what a context sees ------------------------------------------------------------------------------------


class Frame:
    """What a context knows of a block: whose it is, and what belongs to it there.

    No token of the context variable is kept: a block may be left in another context than the one in which it was entered, and
    that one goes on with a frame that has ended.

    Attributes:
        value: what belongs to the block.
        level: how many blocks of the same unit are around it.
        call: who makes the call that the block is, and None for a block of the application.
        alone: whether the call has a unit of its own.
        read_only: whether the block is one for reading.
        ended: whether the block was left.
    """

    __slots__ = (
        *("_place", "_process", "_scope", "alone", "call", "ended", "level"),
        *("outer", "read_only", "value"),
    )

    def __init__(
        self, scope: object, value: Any, *, level: int, call: bool, alone: bool, read_only: bool
    ) -> None:
        self._scope = scope
        self._process = os.getpid()
        self._place = None if call else _current_place()
        self.call = current_caller() if call else None
        self.alone = alone
        self.read_only = read_only
        self.level = level
        self.value = value
        self.ended = False
        self.outer = _without_ended(_FRAMES.get())

    def counts_for(self, scope: object) -> bool:
        """Return whether a call on the store of a scope that is made here belongs to the block.

        Raises:
            StorageError: it was started inside, and the block has ended; or it comes from another thread than the call whose
                documents it is to make.
        """
        if self._scope is not scope or self._process != os.getpid():
            return False
        if self.ended:
            if self.call is not None or self._place == _current_place():
                return False
            raise StorageError(
                "this task or thread was started inside of a unit of work that has ended, so what it does would be part of "
                "nothing; wait for it inside the block, or start it in a context of its own (contextvars.Context().run)"
            )
        if self.call is None or self.call.is_same(current_caller()):
            return True
        if self.alone:
            return False
        raise StorageError(
            "the unit of work is in a call that reads what this thread makes, and takes one call at a time; "
            "ask the store before that call, or in the thread that makes it"
        )


_FRAMES: ContextVar[Frame | None] = ContextVar("findings_orm.units", default=None)


def _without_ended(frame: Frame | None) -> Frame | None:
    while frame is not None and frame.ended:
        frame = frame.outer
    return frame


def find_frame(scope: object) -> Frame | None:
    """Return the innermost block of the store of a scope that a call made here belongs to."""
    frame = _FRAMES.get()
    while frame is not None:
        if frame.counts_for(scope):
            return frame
        frame = frame.outer
    return None


@block
def bound(
    scope: object,
    value: T,
    *,
    level: int = 0,
    call: bool = False,
    alone: bool = False,
    read_only: bool = False,
) -> Iterator[T]:
    """Let calls that are made in this context, or in copies of it, find `value` until the block ends.

    Args:
        scope: stands for the store that they are made on, and all its units of work.
        value: what belongs to the block.
        level: how many blocks of the same unit are around it.
        call: the block is one call, and its caller's alone.
        alone: that call has a unit of its own: for other threads it is as if there were none.
        read_only: the block is one for reading.
    """
    frame = Frame(scope, value, level=level, call=call, alone=alone, read_only=read_only)
    try:
        _FRAMES.set(frame)
        yield value
    finally:
        frame.ended = True
        frame.value = None
        _FRAMES.set(_without_ended(_FRAMES.get()))


# -- a unit -------------------------------------------------------------------------------------------------


class Mirror(Protocol):
    """What else works in the transaction of a unit, and shows the same records."""

    def before_call(self) -> None:
        """A call is about to be made in the unit."""

    def after_write(self) -> None:
        """A call that writes was made."""


class Unit(Generic[R]):
    """A unit of work of a store: begun by the first call in it, and done with when its block ends.

    Nothing is held before the first call: what waits for its turn in a thread then is the call itself, so no thread of a
    pool is kept by a block that another one has to end.

    Attributes:
        lock: one call at a time.
        opened: the adapter's block, which nobody else holds: dropped, it is rolled back.
        records: what it works on, None before the first call.
        level: how many blocks are open in it.
        mixed: whether they were left in another order than the reverse one.
        ended: whether its block was left.
        read_only: whether it sees one instant instead of keeping what it reads.
        mirror: what else works in its transaction.
    """

    __slots__ = (
        *("_caller", "_frame", "_last", "_loop", "_open", "_thread", "_units"),
        *("ended", "level", "lock", "mirror", "mixed", "opened", "read_only", "records"),
    )

    def __init__(
        self,
        units: set[Unit[R]],
        opening: Callable[[], AbstractContextManager[R]] | None = None,
        *,
        read_only: bool = False,
    ) -> None:
        self._units = units
        self._open = opening
        self._loop = running_loop()
        self._frame = _entering_frame()
        self._thread = threading.get_ident()
        self._caller: Caller | None = None
        self._last: Caller | None = None
        self.lock = threading.RLock()
        self.opened: AbstractContextManager[R] | None = None
        self.records: R | None = None
        self.level = 0
        self.mixed = False
        self.ended = False
        self.read_only = read_only
        self.mirror: Mirror | None = None

    def refuse_mixed(self) -> None:
        """Refuse to go on after a block inside was left before one that had been opened in it.

        Raises:
            StorageError: one was.
        """
        if self.mixed:
            raise StorageError(
                "blocks inside of a unit of work were not left in reverse order, so nothing of it was written"
            )

    def end(self) -> None:
        """Let it take no more calls. Needs the lock."""
        self.ended = True
        self._frame = None

    @block
    def call(self, *, write: bool = False) -> Iterator[R]:
        """Make one call in it; another thread's waits."""
        with self.lock:
            before = self._caller
            try:
                records = self.enter_call(write=write)
                if self.mirror is not None:
                    self.mirror.before_call()
                yield records
            finally:
                self._caller = before
                if write and self.mirror is not None:
                    self.mirror.after_write()

    @block
    def nest(self) -> Iterator[None]:
        """Open a savepoint that may be left by another thread.

        Raises:
            StorageError: a block that was opened later is not left yet.
        """
        left = False
        with self.call(write=True) as records:
            pass  # begun, if it was not
        try:
            with locked(records.savepoint(), self.lock):
                self.level = level = self.level + 1
                try:
                    yield
                    self.mixed = self.mixed or self.level != level
                    self.refuse_mixed()
                    left = True
                finally:
                    self.mixed = self.mixed or self.level != level
                    self.level = level - 1
        except BaseException:
            records.interrupted = (
                records.interrupted or left
            )  # it may have come when nothing could be undone any more
            raise

    def enter_call(self, *, write: bool) -> R:
        """Return the records for one call, begun if need be. Needs the lock.

        Raises:
            StorageError: it has ended.
            StorageUnavailableError: another greenlet of this thread is in a call.
        """
        if self.ended:
            raise StorageError("this unit of work has ended; open another one with transaction()")
        caller = current_caller()
        if self._caller is not None and not self._caller.is_same(caller):
            raise StorageUnavailableError(
                "another greenlet of this thread is in a call of this unit of work, so waiting for it would never end",
                retryable=True,
            )
        self._caller = self._last = caller
        self._loop = running_loop() or self._loop
        if self.records is None:
            self._begin()
        if write:
            self._units.add(self)
        assert self.records is not None  # noqa: S101  # nosec B101  # begun
        return self.records

    def _begin(self) -> None:
        assert self._open is not None  # noqa: S101  # nosec B101  # else it has records
        try:
            self.opened = self._open()
            self.records = self.opened.__enter__()
            self.records.keeps_reads = not self.read_only
        except BaseException:
            self.opened = self.records = None
            raise
        self._units.add(self)

    def is_suspended(self) -> bool:
        """Return whether no thread runs its block: that waits for an event loop or a pool of threads to go on with it."""
        return not self.ended and not _is_in_stack(self._frame, _find_running_frame(self._thread))

    def is_held_up_here(self) -> bool:
        """Return whether it can't go on before the caller returns: it is that of a block around the call, which is made in
        another context; another greenlet's of the thread; or one that waits for the event loop in which the call is made."""
        if self.ended:  # it is being committed
            return False
        caller, loop = current_caller(), running_loop()
        if self._thread == caller.thread and _is_in_stack(self._frame, sys._getframe()):
            return True
        if loop is not None:
            if self._loop is not None:
                return self._loop is loop
            # In a thread the block goes on by itself, or was entered by what a loop calls and waits for that to call again.
            return self.is_suspended()
        last = self._last
        return (
            last is not None
            and last.thread == caller.thread
            and not last.is_same(caller)
            and not last.greenlet.dead
        )


def _entering_frame() -> FrameType | None:
    """Return the frame of the ``with`` statement that is entered."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_name in _ENTERING:
        frame = frame.f_back
    return frame


_ENTERING = {"__init__", "__enter__", "transaction", "_bind_unit", "_atomic_unit", "joined"}


_PAUSING = threading.Lock()


def _find_running_frame(thread: int) -> FrameType | None:
    """Return the innermost frame of a thread that runs.

    `sys._current_frames` of Python 3.11 makes the frames under a lock of the interpreter. Garbage that is collected meanwhile
    may let another thread run, and that stops for ever if it starts a thread: https://github.com/python/cpython/issues/106883
    """
    if sys.version_info >= (3, 12):
        return sys._current_frames().get(thread)
    with _PAUSING, pause_garbage_collection():
        return sys._current_frames().get(thread)


def _is_in_stack(wanted: FrameType | None, frame: FrameType | None) -> bool:
    """Return whether a frame is one of those that led to another one."""
    while frame is not None and frame is not wanted:
        frame = frame.f_back
    return frame is not None


class Queue:
    """The threads that wait for units of work of a store which are suspended. If all of a pool did, none would go on.

    Args:
        what: what they wait for, for messages.
        units: the units of work that are open.
    """

    def __init__(self, what: str, units: set[Unit[Any]]) -> None:
        self._what = what
        self._units = units
        self._waiting: set[object] = set()

    def join(self, keeps: Callable[[Unit[Any]], bool] = lambda _: True) -> object:
        """Queue for the units of work, and return a ticket for `leave`; None where they go on by themselves.

        Args:
            keeps: whether a unit keeps what is wanted.

        Raises:
            StorageUnavailableError: one can't go on before the caller returns, or too many wait already.
        """
        ticket: object = None
        for unit in filter(keeps, self._units.copy()):
            if unit.is_held_up_here():
                raise StorageUnavailableError(
                    f"{self._what} is kept by a unit of work of another task of this thread, which can't end while this "
                    "call waits: use the object that transaction() gave, make the call in a thread (asyncio.to_thread), "
                    "or try again later",
                    retryable=True,
                )
            if ticket is None and unit.is_suspended():
                ticket = object()
        if ticket is not None:
            if len(self._waiting) >= MOST_WAITING:
                raise StorageUnavailableError(
                    f"{self._what} is kept by a unit of work that may need a thread to go on, and {MOST_WAITING} wait for it "
                    "already; try again later",
                    retryable=True,
                )
            self._waiting.add(ticket)
        return ticket

    def leave(self, ticket: object) -> None:
        """Wait no longer. May be done again."""
        self._waiting.discard(ticket)


# -- turns --------------------------------------------------------------------------------------------------


class Turn:
    """A lock that any thread may give back, that is waited for so long only, and that an exception at any call leaves right.

    Who comes as it is free has it, which is quick. Who has waited for `PATIENCE` is the next one: a thread that takes it again
    and again would else keep others waiting for ever.

    Args:
        what: what it keeps, for messages.
        units: the units of work of the store that are open (`Store._units`): see `Queue`.
        seconds: how long is waited for it.
    """

    def __init__(self, what: str, units: set[Unit[Any]], seconds: float = TURN_SECONDS) -> None:
        self.queue = Queue(what, units)
        self._what = what
        self._seconds = seconds
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._holder: object = None
        self._next: object = None
        self._waiting = 0

    @property
    def is_taken(self) -> bool:
        """Whether somebody has it now."""
        return self._holder is not None

    @block
    def hold(self) -> Iterator[None]:
        """Wait for the turn, and have it until the block ends.

        Raises:
            StorageUnavailableError: others had it for too long.
        """
        ticket = object()
        try:
            if not self.take(ticket, self._seconds):
                raise StorageUnavailableError(
                    f"another unit of work kept {self._what} for {self._seconds} seconds; try again later",
                    retryable=True,
                )
            yield
        finally:
            with self._mutex:
                if self._holder is ticket:
                    self._holder = None
                if self._waiting:
                    self._changed.notify_all()

    def take(self, ticket: object, seconds: float = 0.0) -> bool:
        """Take the turn for a ticket, and return whether it was had in time.

        Raises:
            StorageUnavailableError: see `Queue.join`.
        """
        with self._mutex:
            if self._is_free_for(ticket):
                self._holder = ticket
                return True
        if not seconds:
            return False
        begun = time.monotonic()
        end, overdue = begun + seconds, begun + PATIENCE
        place = None
        try:
            while True:
                place = place or self.queue.join()
                with self._mutex:
                    self._waiting += 1
                    try:
                        if not self._is_free_for(ticket):
                            self._changed.wait(LOOK_AGAIN)
                        if self._is_free_for(ticket):
                            self._holder = ticket
                            return True
                        if self._next is None and time.monotonic() > overdue:
                            self._next = ticket
                    finally:
                        self._waiting -= 1
                if time.monotonic() > end:
                    return False
        finally:
            self.queue.leave(place)
            with self._mutex:
                if self._next is ticket:
                    self._next = None
                    self._changed.notify_all()

    def _is_free_for(self, ticket: object) -> bool:
        return self._holder is None and (self._next is None or self._next is ticket)

    def give_back(self, ticket: object) -> None:
        """Give the turn of a ticket back, if it has it."""
        with self._mutex:
            if self._holder is ticket:
                self._holder = None
                self._changed.notify_all()
