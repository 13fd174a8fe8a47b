"""Kinds of storage, one module each. They don't know each other."""
