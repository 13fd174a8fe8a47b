"""Findings in SQL databases, over SQLAlchemy."""
