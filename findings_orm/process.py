"""Blocks for `with` that end at once, whatever interrupts them.

An exception from a signal handler (Ctrl-C, a worker's time limit) may come between any two calls, also while a block is entered
or left. `contextlib.contextmanager` then never resumes its generator: what that holds (a lock, a transaction) stays until
somebody drops the exception, for its traceback keeps the generator.

So what holds something (a transaction, a lock, a thread, state of the calling thread) is a `block`, and so is what enters such
a block. `contextlib.contextmanager` does for those that only turn errors into others.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

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

    generator: Generator[Any, None, None]
    __exit__ = functools.partial.__call__

    def __enter__(self) -> Any:
        try:
            return next(self.generator)
        except StopIteration:
            raise RuntimeError("the generator of a block did not yield") from None
        except BaseException:
            self.generator.close()
            raise


def _leave(
    generator_of: Callable[[], Generator[Any, None, None] | None],
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
    def begin(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T]:
        generator: Any = function(*args, **kwargs)
        made: Any = _Block(_leave, weakref.ref(generator))
        made.generator = generator
        return made  # type: ignore[no-any-return]  # C code makes it a context manager

    return begin
