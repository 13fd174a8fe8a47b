"""Raise an exception at one call that some work makes, as a signal handler or a full memory would.

`interrupt_at` runs the work once; a campaign runs it again and again, with the exception one call later each time, until a
run passes without it. That is how SQLite tests its own recovery (https://www.sqlite.org/testing.html, section 3).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

_RELEASING = {"__exit__", "release"}


class Interruption(BaseException):
    """An exception that is no `Exception`, as a worker's time limit may be."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of interrupted work.

    Attributes:
        reached: whether the work made so many calls that the exception was raised. If not, the campaign is over.
        calls: how many were counted: all that the work makes, if the exception was not reached.
        raised: what left the work; None if it returned, as it does where the exception met a finalizer.
        injected: the exception that was raised inside; `raised` has to be this very object.
        result: what the work returned.
        place: the call at which it was raised: file, line and name.
    """

    reached: bool
    calls: int
    raised: BaseException | None
    injected: BaseException
    result: object
    place: str


def interrupt_at(
    call: int,
    work: Callable[[], object],
    error: Callable[[], BaseException] = Interruption,
    *,
    function: str = "",
) -> Outcome:
    """Run `work` in this thread, and raise `error()` at its call number `call`, counted from 1.

    Calls of Python and C functions count at their beginning, those of C functions at their end too: a signal handler runs
    there. What gives a lock back is not kept from it: a handler runs only after such a call, and it needs no memory. Nothing
    more is raised after the exception, so that the work cleans up undisturbed. Work that is called with 0 is not interrupted.
    With the name of a Python `function`, only its calls count.
    """
    injected = error()
    count = 0
    place = ""
    working = True

    def raise_at_call(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count, place
        if not working or event not in ("call", "c_call", "c_return"):
            return
        if event == "c_call" and argument.__name__ in _RELEASING:
            return
        if event == "call" and frame.f_code.co_flags & inspect.CO_GENERATOR:
            return  # Python 3.11 would not run the handlers of a generator that is resumed; a signal comes a step later
        if function and (event != "call" or frame.f_code.co_name != function):
            return
        count += 1
        if count == call:
            sys.setprofile(None)
            name = getattr(argument, "__qualname__", frame.f_code.co_qualname)
            place = f"{frame.f_code.co_filename}:{frame.f_lineno} {event} {name}"
            del frame, argument  # the traceback would keep what they hold
            raise injected

    former = sys.getprofile()
    raised: BaseException | None = None
    result: object = None
    try:
        sys.setprofile(raise_at_call)
        result = work()
    except BaseException as caught:  # noqa: BLE001  # any exception at all is what this is about
        raised = caught
    finally:
        working = False
        sys.setprofile(former)
    return Outcome(bool(place), count, raised, injected, result, place)
