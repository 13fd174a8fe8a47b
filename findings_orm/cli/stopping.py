"""What ends a command from outside: SIGTERM, and SIGHUP of a terminal that goes away, are Ctrl-C with another exit code.

So whatever undoes its half-done work after Ctrl-C does so after them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SAME_REQUEST = 1.0
"""Seconds in which a repeated signal is the same request: `timeout` sends it to the process and to its group."""

_SOON = 0.02
"""Seconds until a dropped exception comes again: whatever dropped it has ended by then, or it is dropped again."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopError(KeyboardInterrupt):
    """A signal asks the process to end.

    Attributes:
        number: the signal.
        code: the exit code, 128 and the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.code = 128 + number


_last = float("-inf")


def stop_on_signals() -> None:
    """Let `StopError` come from these signals from now on; one that is ignored (``nohup``) stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _raise_stop)


def _raise_stop(number: int, _frame: FrameType | None) -> None:
    global _last  # noqa: PLW0603  # of the process, as its signals are
    now = time.monotonic()
    if now - _last > _SAME_REQUEST:
        _last = now
        raise StopError(number)


@contextmanager
def repeat_dropped_signals() -> Iterator[None]:
    """Let an interruption come once more that Python drops, as it does in finalizers and callbacks of weak references."""
    usual = sys.unraisablehook

    def repeat(dropped: sys.UnraisableHookArgs) -> None:
        global _last  # noqa: PLW0603
        error = dropped.exc_value
        if not isinstance(error, KeyboardInterrupt):
            usual(dropped)
            return
        _last = float("-inf")
        number = error.number if isinstance(error, StopError) else signal.SIGINT
        again = threading.Timer(_SOON, os.kill, [os.getpid(), number])
        again.daemon = True
        again.start()

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = usual


def exit_code_of(error: BaseException | None, otherwise: int) -> int:
    """Return the exit code that the signal behind an exception asks for."""
    while error is not None and not isinstance(error, StopError):
        error = error.__cause__ or error.__context__
    return error.code if error is not None else otherwise
