"""Metrics, traces and slow queries of any store, by decorators.

>>> from findings_orm import open_storage
>>> from findings_orm.metrics import MetricsAdapter
>>> store = MetricsAdapter(open_storage("memory:"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from findings_orm.metrics.observed import ObservedStore
from findings_orm.metrics.slow import SlowQueries

if TYPE_CHECKING:
    from findings_orm.metrics.adapter import MetricsAdapter
    from findings_orm.metrics.tracing import TracingAdapter

_LAZY = {
    "MetricsAdapter": "findings_orm.metrics.adapter",
    "TracingAdapter": "findings_orm.metrics.tracing",
}


def __getattr__(name: str) -> object:
    """Load a decorator, and the library it needs (extra ``metrics``), on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


__all__ = ["MetricsAdapter", "ObservedStore", "SlowQueries", "TracingAdapter"]
