"""The names of things in Redis.

The key of an entry holds everything that its content follows from: the release's format and schema version, the project and
its revision, the operation and its arguments. A revision names one state of one project of one store for ever
(`FindingStore.revision`), so an entry is never wrong, only unreachable once its project was written to.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from findings_orm.finding import SCHEMA_VERSION
from findings_orm.query import FindingQuery
from findings_orm.stores.cache.options import OPERATIONS

FORMAT = 1
"""Raised when keys or entries change, so that two releases can share a Redis."""

_IGNORED_BY_COUNT = ("sort", "limit", "cursor")


class Keys:
    """The keys below one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._prefix = f"{namespace}:{FORMAT}:{SCHEMA_VERSION}"

    def entry(self, operation: str, project_id: str, revision: int, arguments: object = None) -> str:
        """Return the key of the result of a read.

        Args:
            operation: one of `OPERATIONS`.
            project_id: the project.
            revision: its revision.
            arguments: what else the result depends on, as JSON.
        """
        digest = _key_digest(json.dumps(arguments, sort_keys=True))
        return f"{self._prefix}:{_key_digest(project_id)}:{operation}:{revision}:{digest}"

    def lock(self, entry: str) -> str:
        """Return the key of the lock of the one that loads an entry."""
        return f"{entry}:lock"

    @property
    def channel(self) -> str:
        """The channel on which writes are made known, to all releases."""
        return f"{self.namespace}:{FORMAT}:changes"

    def key_pattern(self, project_id: str | None = None) -> str:
        """Return a glob for all keys of the namespace, of whatever release, or for those of one project."""
        return (
            f"{self.namespace}:*" if project_id is None else f"{self.namespace}:*:{_key_digest(project_id)}:*"
        )


def operation_of(key: str) -> str | None:
    """Return the operation that the key of an entry is about; None for a lock and for other keys."""
    parts = key.rsplit(":", 3)
    return parts[1] if len(parts) == 4 and parts[1] in OPERATIONS else None


def query_arguments(operation: str, query: FindingQuery) -> dict[str, object]:
    """Return what the result of `find` or `count` depends on; equal for queries that mean the same."""
    values = asdict(query)
    if operation == "count":
        values = {name: value for name, value in values.items() if name not in _IGNORED_BY_COUNT}
    return {name: sorted(set(value)) if isinstance(value, tuple) else value for name, value in values.items()}


def _key_digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
