"""Findings in SQL databases, over SQLAlchemy, and what an application with an engine of its own calls."""

from findings_orm.orm.application import configure, include_name, include_object

__all__ = ["configure", "include_name", "include_object"]
