"""Stores in processes that fork: what a child inherits of a connection, it must neither use nor close."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from weakref import ref

FORK_TIMEOUT = 5.0
"""Seconds that a fork waits for the threads that work in a store in memory; after that, its copy in the child is closed."""

INHERITED: list[object] = []
"""Connections and locks of a parent, in a child: collected, they would be closed or given back."""

_log = logging.getLogger(__name__)


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


def _tell(what: Callable[[Forking], None]) -> None:
    for each in _STORES.copy():  # at once: other threads may open stores
        store = each()
        if store is not None:
            try:
                what(store)
            except Exception:  # noqa: BLE001  # the other stores have to be told
                _log.exception("%s: a fork was not prepared for", type(store).__name__)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _tell(lambda store: store.before_fork()),
        after_in_parent=lambda: _tell(lambda store: store.after_fork_in_parent()),
        after_in_child=lambda: _tell(lambda store: store.after_fork()),
    )
