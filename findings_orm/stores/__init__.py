"""Stores that need no database: in memory, in files, and a cache in front of any."""
