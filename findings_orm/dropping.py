"""Stores that are dropped without `close()`."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from typing import Any
from weakref import finalize

_log = logging.getLogger(__name__)


def when_dropped(store: object, where: str, release: Callable[..., object], *held: Any) -> finalize[..., Any]:
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
    finalizer = finalize(store, _dropped, os.getpid(), name, release, held)
    finalizer.atexit = False
    return finalizer


def _dropped(process: int, name: str, release: Callable[..., object], held: tuple[Any, ...]) -> None:
    if os.getpid() != process:
        return
    try:
        release(*held)
    except Exception:  # noqa: BLE001  # nobody is there to be told; the warning below matters more
        _log.debug("%s: releasing it failed", name, exc_info=True)
    warnings.warn(
        f"unclosed {name}: call close(), or open it in a with statement", ResourceWarning, stacklevel=2
    )
