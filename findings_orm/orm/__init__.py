"""Findings in SQL databases, over SQLAlchemy, and what an application with an engine of its own calls."""

from findings_orm.orm.application import configure

__all__ = ["configure"]
