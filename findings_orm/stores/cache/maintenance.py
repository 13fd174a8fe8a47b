"""What people want to know of a cache, and do with it, without a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from findings_orm.errors import StorageUnavailableError
from findings_orm.records import batches
from findings_orm.secrecy import shown_url
from findings_orm.stores.cache.client import client_maker
from findings_orm.stores.cache.entries import Codec
from findings_orm.stores.cache.keys import Keys, operation_of
from findings_orm.stores.cache.listener import change_message
from findings_orm.stores.cache.options import CacheOptions

_BATCH = 1_000
_TIMEOUT = 5.0
_SAMPLE = 100
"""How many entries are looked at for a secret: an application makes all of them with one, or none."""
_NO_SECRET = Codec(CacheOptions())

Progress = Callable[[int], object]


def _report_nothing(_: int) -> None:
    """No progress."""


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What a Redis holds of a cache.

    Attributes:
        url: the Redis, without a password.
        server: name and version.
        memory: bytes that the server uses, for everybody.
        memory_limit: bytes that it may use; 0: all there are.
        eviction: what it does when they are used up.
        listeners: instances that listen to writes.
        entries: operation to number of entries, of all releases.
        unsigned: there are entries that were made without a secret: who can write to Redis can make them say anything.
    """

    url: str
    server: str = ""
    memory: int = 0
    memory_limit: int = 0
    eviction: str = ""
    listeners: int = 0
    entries: dict[str, int] = field(default_factory=dict)
    unsigned: bool = False


def cache_status(
    url: str, *, namespace: str = "findings", progress: Progress = _report_nothing
) -> CacheStatus:
    """Return what a Redis holds of a cache. `progress` is called with the number of keys just looked at.

    Raises:
        StorageUnavailableError: it can't be reached.
        StorageValidationError: the URL or the namespace can't be one.
    """
    with _open_client(url, namespace) as (client, keys):
        info = client.info()
        found: Counter[str] = Counter()
        unsigned = False
        for key in client.scan_iter(match=keys.key_pattern(), count=_BATCH):
            name = key.decode(errors="replace")
            operation = operation_of(name)
            if operation is not None:
                found[operation] += 1
                if not unsigned and found.total() <= _SAMPLE:
                    unsigned = _NO_SECRET.is_sealed(name, client.get(key) or b"")
            progress(1)
        listeners = dict(client.pubsub_numsub(keys.channel)).get(keys.channel.encode(), 0)
        return CacheStatus(
            shown_url(url),
            f"{info.get('server_name', 'redis')} {info.get('valkey_version', info.get('redis_version', ''))}",
            int(info.get("used_memory", 0)),
            int(info.get("maxmemory", 0)),
            str(info.get("maxmemory_policy", "")),
            int(listeners),
            dict(sorted(found.items())),
            unsigned,
        )


def clear_cache(
    url: str,
    *,
    namespace: str = "findings",
    project_id: str | None = None,
    progress: Progress = _report_nothing,
) -> int:
    """Remove the entries of a cache, or those of one project; return how many keys there were.

    Instances that listen forget what they hold in their own memory; others go on for up to their ``near_seconds``.

    Raises:
        StorageUnavailableError: Redis can't be reached.
        StorageValidationError: the URL or the namespace can't be one.
    """
    with _open_client(url, namespace) as (client, keys):
        removed = remove_entries(client, keys, project_id, progress)
        client.publish(keys.channel, change_message("", [project_id]))
        return removed


def remove_entries(
    client: Any, keys: Keys, project_id: str | None, progress: Progress = _report_nothing
) -> int:
    """Remove the keys of a namespace, or those of one project; return how many there were. Raises redis.RedisError."""
    removed = 0
    for batch in batches(client.scan_iter(match=keys.key_pattern(project_id), count=_BATCH), _BATCH):
        found = _unlink_keys(client, batch)  # fewer than the batch where a scan names a key twice, as it may
        removed += found
        progress(found)
    return removed


def _unlink_keys(client: Any, batch: list[object]) -> int:
    # One by one: the keys of a batch lie on any nodes of a Cluster.
    with client.pipeline(transaction=False) as pipeline:
        for key in batch:
            pipeline.unlink(key)
        return sum(pipeline.execute())


@contextmanager
def _open_client(url: str, namespace: str) -> Iterator[tuple[Any, Keys]]:
    keys = Keys(CacheOptions(namespace=namespace).namespace)
    make = client_maker(url, timeout=_TIMEOUT)
    try:
        client = make()
        try:
            yield client, keys
        finally:
            client.close()
    except Exception as error:
        if not type(error).__module__.startswith("redis"):
            raise
        raise StorageUnavailableError(f"{shown_url(url)}: {error}", retryable=True) from error
