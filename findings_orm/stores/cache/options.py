"""How a cache behaves, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from findings_orm.arguments import check_fields, checked
from findings_orm.diagnosis import Problem
from findings_orm.errors import StorageValidationError
from findings_orm.secrecy import shown_url

OPERATIONS = ("get_finding", "list_findings", "find", "count", "summarize", "list_projects")
"""The reads that a cache serves."""

UNSIGNED = "the cache has no secret: whoever can write to its Redis can make findings disappear and change"
SIGN = "Give the cache a secret, the same in all processes: 'findings cache secret' makes one and says how."

_MEGABYTE = 2**20


def unsigned_problem(url: str) -> Problem:
    """Return what is wrong with a cache that has no secret."""
    return Problem("warning", "cache-secret", f"{shown_url(url)}: {UNSIGNED}", SIGN)


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """How a `RedisCacheAdapter` behaves. Times are in seconds, sizes in bytes.

    Attributes:
        consistency: ``"strict"``: every read asks the store for the project's revision (one indexed row), so none is ever
            stale. ``"bounded"``: a revision may be up to `max_staleness` old, so a read is stale by at most that.
        max_staleness: the bound, with ``"bounded"``.
        ttl: how long Redis keeps an entry at most. Every entry lives a little shorter, by chance, so that entries made
            together don't end together.
        ttls: operation (`OPERATIONS`) to a time of its own; 0: the operation is not cached. A strict `get_finding` is not,
            unless it is named here: the look at the revision costs the store as much as the finding.
        namespace: first part of all keys. Applications that share a Redis without sharing a store may choose their own; they
            need not, for keys never match between stores.
        near_bytes: how much the process itself keeps in front of Redis; 0: nothing.
        near_seconds: how long it keeps an entry at most.
        timeout: how long one answer of Redis may take.
        breaker_seconds: how long Redis is left alone after it failed, or answered too slowly.
        wait_seconds: how long others wait for the one that loads a missing entry, at most; then they load it themselves.
        lock_seconds: how long its lock outlives it, if its process dies.
        compress_from: entries of this size or more are compressed.
        max_bytes: entries that are larger (as stored in Redis) are not cached.
        max_plain_bytes: the same for their size before compression.
        secret: key of the checksum in every entry. With one, entries that somebody else wrote into Redis are not believed.
    """

    consistency: Literal["strict", "bounded"] = "strict"
    max_staleness: float = 5.0
    ttl: float = 3600.0
    ttls: Mapping[str, float] = field(default_factory=dict)
    namespace: str = "findings"
    near_bytes: int = 32 * _MEGABYTE
    near_seconds: float = 60.0
    timeout: float = 0.1
    breaker_seconds: float = 5.0
    wait_seconds: float = 30.0
    lock_seconds: float = 5.0
    compress_from: int = 1024
    max_bytes: int = 8 * _MEGABYTE
    max_plain_bytes: int = 64 * _MEGABYTE
    secret: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes) or len(self.secret) > 64:
            raise StorageValidationError("secret: must be up to 64 bytes", field="secret")
        check_fields(self)
        for name in ("max_staleness", "ttl", "timeout", "breaker_seconds", "wait_seconds", "lock_seconds"):
            _check_range(name, getattr(self, name), above_zero=True)
        for name in ("near_bytes", "near_seconds", "compress_from", "max_bytes", "max_plain_bytes"):
            _check_range(name, getattr(self, name), above_zero=False)
        for operation, seconds in self.ttls.items():
            if operation not in OPERATIONS:
                raise StorageValidationError.of_field("ttls", f"must name {', '.join(OPERATIONS)}", operation)
            _check_range(f"ttls.{operation}", seconds, above_zero=False)
        if not self.namespace or not self.namespace.isprintable() or set("*?[]\\: ") & set(self.namespace):
            rule = "must be text without spaces, colons, brackets and wildcards, not empty"
            raise StorageValidationError.of_field("namespace", rule, self.namespace)

    @classmethod
    @checked
    def of_mapping(cls, given: Mapping[str, Any]) -> CacheOptions:
        """Return the options of keyword arguments. Raises StorageValidationError for unknown ones, naming those there are."""
        known = [one.name for one in fields(cls)]
        for name in given:
            if name not in known:
                raise StorageValidationError.of_field(
                    "cache options", f"must be some of {', '.join(known)}", name
                )
        return cls(**given)

    @property
    def strict(self) -> bool:
        """Whether a read is never stale."""
        return self.consistency == "strict"

    def seconds(self, operation: str) -> float:
        """Return how long an entry of an operation may live; 0: it is not cached."""
        if not isinstance(operation, str) or operation not in OPERATIONS:
            raise StorageValidationError.of_field(
                "operation", f"must be one of {', '.join(OPERATIONS)}", operation
            )
        if operation == "get_finding" and self.strict:
            return float(self.ttls.get(operation, 0))
        return float(self.ttls.get(operation, self.ttl))


def _check_range(name: str, value: float, *, above_zero: bool) -> None:
    if value < 0 or (above_zero and not value):
        raise StorageValidationError.of_field(
            name, f"must be a number, {'above 0' if above_zero else '0 or more'}", value
        )
