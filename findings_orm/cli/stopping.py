"""What ends a command from outside: SIGTERM, and SIGHUP of a terminal that goes away, are Ctrl-C with another exit code.

So whatever undoes its half-done work after Ctrl-C does so after them.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

_SAME_REQUEST = 1.0
"""Seconds in which a repeated signal is the same request: `timeout` sends it to the process and to its group."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopError(KeyboardInterrupt):
    """A signal asks the process to end.

    Attributes:
        code: the exit code, 128 and the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def stop_on_signals() -> None:
    """Let `StopError` come from these signals from now on; one that is ignored (``nohup``) stays so."""
    last = float("-inf")

    def raise_stop(number: int, _frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _SAME_REQUEST:
            last = now
            raise StopError(number)

    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, raise_stop)


def exit_code_of(error: BaseException | None, otherwise: int) -> int:
    """Return the exit code that the signal behind an exception asks for."""
    while error is not None and not isinstance(error, StopError):
        error = error.__cause__ or error.__context__
    return error.code if error is not None else otherwise
