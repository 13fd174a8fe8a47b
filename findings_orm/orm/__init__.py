"""Findings in SQL databases, over SQLAlchemy: what an application with an engine, a session and models of its own calls.

>>> from findings_orm.orm import Finding, Severity
>>> from sqlalchemy import select
>>> worst = select(Finding).where(Finding.project_id == "acme-api", Finding.severity >= Severity.HIGH)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from findings_orm.finding import Severity, Status

if TYPE_CHECKING:
    from findings_orm.orm.application import configure, include_name, include_object, render_item
    from findings_orm.orm.models import (
        Base,
        Event,
        Finding,
        Identity,
        Project,
        Rejected,
        Run,
        Sighting,
        metadata,
    )
    from findings_orm.orm.reference import FindingReference, finding_reference

_MODULES = {
    **dict.fromkeys(("configure", "include_name", "include_object", "render_item"), "application"),
    **dict.fromkeys(("FindingReference", "finding_reference"), "reference"),
}


def __getattr__(name: str) -> Any:
    """Load the models, and SQLAlchemy with them, on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(f"{__name__}.flushing")  # whoever has a model has its rules
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'models')}"), name)


__all__ = [
    "Base",
    "Event",
    "Finding",
    "FindingReference",
    "Identity",
    "Project",
    "Rejected",
    "Run",
    "Severity",
    "Sighting",
    "Status",
    "configure",
    "finding_reference",
    "include_name",
    "include_object",
    "metadata",
    "render_item",
]
