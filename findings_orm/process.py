"""The process around a store: interruptions, the garbage collector, stores that are dropped, forks."""

from __future__ import annotations

import functools
import gc
import logging
import os
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar
from weakref import finalize, ref

# -- blocks for `with` that end at once, whatever interrupts them -----------------------------------------
# An exception from a signal handler (Ctrl-C, a worker's time limit) may come between any two calls, also while a block is
# entered or left. `contextlib.contextmanager` then never resumes its generator: what that holds (a lock, a transaction) stays
# until somebody drops the exception, for its traceback keeps the generator.
#
# So what holds something (a transaction, a lock, a thread, state of the calling thread) is a `block`, and so is what enters
# such a block. `contextlib.contextmanager` does for those that only turn errors into others.


P = ParamSpec("P")
T = TypeVar("T")

COMMITTED = "The write was committed before this exception came; it is stored."


def is_committed(error: BaseException) -> bool:
    """Return whether what an exception interrupted is stored nevertheless."""
    return COMMITTED in getattr(error, "__notes__", ())


class _Block(functools.partial[bool]):
    """Leaving it is a C function, so that nothing comes between; it alone keeps the generator.

    Should the Python function that it calls be interrupted before its first instruction, the `with` statement drops the block,
    and with it the generator, which Python then closes.
    """

    generator: Generator[object, None, None]
    __exit__ = functools.partial.__call__

    def __enter__(self) -> object:
        try:
            return next(self.generator)
        except StopIteration:
            raise RuntimeError("the generator of a block did not yield") from None
        except BaseException:
            self.generator.close()
            raise


def _leave_block(
    generator_of: Callable[[], Generator[object, None, None] | None],
    _kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> bool:
    generator = generator_of()
    if generator is None:  # garbage is collected, in any order: Python closes this one too
        return False
    try:
        if error is None:
            for _ in generator:  # a loop: nothing can be interrupted between its end and that of the block
                raise RuntimeError("the generator of a block yielded twice")
            return False
        generator.throw(error)
        raise RuntimeError("the generator of a block did not end after an exception")
    except StopIteration as end:
        return end is not error
    except BaseException as raised:
        generator.close()
        if raised is error or (isinstance(error, StopIteration) and raised.__cause__ is error):
            error.__traceback__ = trace
            return False
        raise


def block(function: Callable[P, Iterator[T]]) -> Callable[P, AbstractContextManager[T]]:
    """Make what `contextlib.contextmanager` makes (without use as a decorator), but closed at once by any exception.

    The generator gets the exception that its block raised, or `GeneratorExit` where the entering or leaving itself was
    interrupted; so it has to roll back for any `BaseException`.
    """

    @functools.wraps(function)
    def make_block(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T]:
        generator: object = function(*args, **kwargs)
        made: Any = _Block(_leave_block, weakref.ref(generator))
        made.generator = generator
        return made  # type: ignore[no-any-return]  # C code makes it a context manager

    return make_block


class _LockedBlock(_Block):
    """A block that is entered and left under a lock."""

    lock: AbstractContextManager[object]

    def __enter__(self) -> object:
        with self.lock:
            return super().__enter__()


def _leave_locked(
    lock: AbstractContextManager[object],
    generator_of: Callable[[], Generator[object, None, None] | None],
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> bool:
    with lock:
        return _leave_block(generator_of, kind, error, trace)


def locked(
    made: AbstractContextManager[T], lock: AbstractContextManager[object]
) -> AbstractContextManager[T]:
    """Return a block that is entered and left under a lock, which is free in between; `made` is not to be used any more."""
    if not isinstance(made, _Block):
        made = _as_block(made)
    generator: Any = made.generator  # type: ignore[attr-defined]  # a block has one
    found: Any = _LockedBlock(_leave_locked, lock, weakref.ref(generator))
    found.generator, found.lock = generator, lock
    return found  # type: ignore[no-any-return]  # C code makes it a context manager


@block
def _as_block(made: AbstractContextManager[T]) -> Iterator[T]:
    with made as value:
        yield value


# -- python's search for reference cycles, kept off work that makes none ----------------------------------


@block
def pause_garbage_collection() -> Iterator[bool]:
    """Pause the search for reference cycles, and say whether there was one: the many small dicts and lists of documents
    have none, and walking them again and again costs a third of an import, and two thirds of reading a long list."""
    if not gc.isenabled():
        yield False
        return
    gc.disable()
    try:
        yield True
    finally:
        gc.enable()


# -- stores that are dropped without `close()` ------------------------------------------------------------


_log = logging.getLogger(__name__)


def when_dropped(
    store: object, where: str, release: Callable[..., object], *held: Any
) -> finalize[..., object]:
    """Release what a store holds when Python collects it, and warn of that with a `ResourceWarning`.

    Python may do so at any moment and in any thread: `release` must not take a lock that others than the store use. Nothing
    happens at the end of the process, nor in a forked child, which must not touch what is its parent's.

    Args:
        store: the store; neither `release` nor `held` may lead to it.
        where: what the warning calls it, without secrets.
        release: is called with what follows.
        held: what the store holds.

    Returns:
        What has to be detached when the store is closed.
    """
    name = f"{type(store).__name__} of {where}"
    finalizer = finalize(store, _release_dropped, os.getpid(), name, release, held)
    finalizer.atexit = False
    return finalizer


def _release_dropped(
    process: int, name: str, release: Callable[..., object], held: tuple[object, ...]
) -> None:
    if os.getpid() != process:
        return
    try:
        release(*held)
    except Exception:  # noqa: BLE001  # nobody is there to be told; the warning below matters more
        _log.debug("%s: releasing it failed", name, exc_info=True)
    warnings.warn(
        f"unclosed {name}: call close(), or open it in a with statement", ResourceWarning, stacklevel=2
    )


# -- stores in processes that fork: what a child inherits of a connection, it must neither use nor close


FORK_TIMEOUT = 5.0
"""Seconds that a fork waits for the threads that work in a store in memory; after that, its copy in the child is closed."""

INHERITED: list[object] = []
"""Connections and locks of a parent, in a child: collected, they would be closed or given back."""


class Forking:
    """A store that is told of forks."""

    def before_fork(self) -> None:
        """Prepare for a fork, in the parent."""

    def after_fork_in_parent(self) -> None:
        """Go on, in the parent."""

    def after_fork(self) -> None:
        """Leave to the parent what is its own, in the child."""


_STORES: list[ref[Forking]] = []


def survives_fork(store: Forking) -> None:
    """Tell a store of all forks (``os.fork``, ``multiprocessing``, gunicorn) from now on."""
    _STORES.append(ref(store, _STORES.remove))


def _tell_stores(what: Callable[[Forking], None]) -> None:
    for each in _STORES.copy():  # at once: other threads may open stores
        store = each()
        if store is not None:
            try:
                what(store)
            except Exception:  # noqa: BLE001  # the other stores have to be told
                _log.exception("%s: a fork was not prepared for", type(store).__name__)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _tell_stores(lambda store: store.before_fork()),
        after_in_parent=lambda: _tell_stores(lambda store: store.after_fork_in_parent()),
        after_in_child=lambda: _tell_stores(lambda store: store.after_fork()),
    )
