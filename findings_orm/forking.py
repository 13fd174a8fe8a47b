"""Stores in processes that fork: what a child inherits of a connection, it must neither use nor close."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forking(Protocol):
    """A store that is told of forks."""

    def before_fork(self) -> None:
        """Prepare for a fork, in the parent."""

    def after_fork(self) -> None:
        """Leave to the parent what is its own, in the child."""


_STORES: WeakSet[Forking] = WeakSet()


def survives_fork(store: Forking) -> None:
    """Tell a store of all forks (``os.fork``, ``multiprocessing``, gunicorn) from now on."""
    _STORES.add(store)


def _before() -> None:
    for store in list(_STORES):
        store.before_fork()


def _after_in_child() -> None:
    for store in list(_STORES):
        store.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_after_in_child)
