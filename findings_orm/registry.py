"""Adapters by name and stores by URL.

`register_adapter` adds an adapter for this process. Other packages add theirs with an entry point of the
group ``findings_orm.adapters``, named after the URL scheme; its value is a callable ``(url, **options)`` that
returns a store.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from threading import RLock
from typing import Any, cast

from findings_orm.errors import StorageError, StorageValidationError, readable
from findings_orm.port import FindingStore, StoragePort

ENTRY_POINT_GROUP = "findings_orm.adapters"

_SCHEMES = {
    "file": "findings_orm.adapters.file:open_url",
    "memory": "findings_orm.adapters.memory:open_url",
    "postgres": "findings_orm.adapters.sql.postgresql:open_url",
    "postgresql": "findings_orm.adapters.sql.postgresql:open_url",
    "sqlite": "findings_orm.adapters.sql.sqlite:open_url",
}


class _Registry(Mapping[str, StoragePort]):
    """Name to adapter instance; ``"memory"`` is there from the start. Change it with `register_adapter`."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._adapters: dict[str, StoragePort] = {}

    def add(self, name: str, adapter: StoragePort) -> None:
        with self._lock:
            self._adapters[name] = adapter

    def __getitem__(self, name: str) -> StoragePort:
        with self._lock:
            if name == "memory" and name not in self._adapters:
                self._adapters[name] = _load("findings_orm.adapters.memory:InMemoryStorageAdapter")()
            try:
                return self._adapters[name]
            except KeyError:
                known = ", ".join(sorted(self))
                raise KeyError(f"no adapter is registered as {name!r}; registered are: {known}") from None

    def __contains__(self, name: object) -> bool:
        return name == "memory" or name in self._adapters

    def __iter__(self) -> Iterator[str]:
        return iter({"memory": None, **self._adapters})

    def __len__(self) -> int:
        return len({"memory", *self._adapters})


STORAGE_REGISTRY: Mapping[str, StoragePort] = _Registry()
"""Name to adapter instance."""


def register_adapter(
    name: str, adapter_class: Callable[..., StoragePort], config: Mapping[str, Any] | None = None
) -> None:
    """Make an adapter (``adapter_class(**config)``) and register it under `name`, in place of an earlier one.

    Args:
        name: any text, not empty.
        adapter_class: a class (or any callable) whose result has the six methods of `StoragePort`.
        config: its keyword arguments.

    Raises:
        StorageValidationError: the name is empty, `config` does not fit, or the result is no `StoragePort`.
    """
    if not isinstance(name, str) or not name.strip():
        raise StorageValidationError.of_field("name", "must be text, not empty", name)
    if config is not None and not isinstance(config, Mapping):
        raise StorageValidationError.of_field("config", "must be a mapping of keyword arguments", config)
    try:
        adapter = adapter_class(**dict(config or {}))
    except StorageError:
        raise
    except TypeError as error:
        raise StorageValidationError(
            f"config does not fit {adapter_class!r}: {error}", field="config"
        ) from error
    if not isinstance(adapter, StoragePort):
        raise StorageValidationError.of_field(
            "adapter_class", "must make a StoragePort (six methods)", adapter_class
        )
    cast(_Registry, STORAGE_REGISTRY).add(name, adapter)


def open_storage(
    url: str, *, cache: str | None = None, cache_options: Mapping[str, Any] | None = None, **options: Any
) -> FindingStore:
    """Open the store that a URL names.

    ``memory:`` is a new store in memory, ``sqlite:///findings.db`` a file (four slashes: an absolute path),
    ``sqlite://`` a private database in memory, ``postgresql://user@host/database`` a PostgreSQL server,
    ``file:///some/folder`` a folder of JSON files (an absolute path).

    Args:
        url: the URL.
        cache: URL of a Redis to put in front of the store (extra ``redis``), ``redis://host:6379/0`` for one.
        cache_options: how that behaves, see `findings_orm.adapters.cache.CacheOptions`.
        options: passed on to the adapter, e.g. ``migrate=True`` (bring an older database to the current schema).

    Raises:
        StorageValidationError: the URL names no known kind of store (the known ones are listed).
        SchemaVersionError: the store's schema is not the current one.
        StorageUnavailableError: the store can't be reached.
    """
    if not isinstance(url, str) or ":" not in url:
        raise StorageValidationError.of_field("url", f"must be a storage URL ({_known()})", url)
    scheme = url.partition(":")[0].partition("+")[0].lower()
    if scheme in _SCHEMES:
        opener = _load(_SCHEMES[scheme])
    else:
        found = entry_points(group=ENTRY_POINT_GROUP, name=scheme)
        if not found:
            raise StorageValidationError(
                f"no storage adapter for {readable(scheme)}; known are: {_known()}", field="url", value=scheme
            )
        opener = next(iter(found)).load()
    store = cast(FindingStore, opener(url, **options))
    return store if cache is None else _cached(store, cache, cache_options or {})


def _cached(store: FindingStore, url: str, options: Mapping[str, Any]) -> FindingStore:
    try:
        return cast(
            FindingStore, _load("findings_orm.adapters.cache:RedisCacheAdapter")(store, url, **options)
        )
    except BaseException:
        store.close()
        raise


def _known() -> str:
    names = {*_SCHEMES, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))}
    return ", ".join(f"{name}:" for name in sorted(names))


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
