"""Adapters by name and stores by URL.

`register_adapter` adds an adapter for this process. Other packages add theirs with an entry point of the
group ``findings_orm.adapters``, named after the URL scheme; its value is a callable ``(url, **options)`` that
returns a store, or an adapter with the six methods of `StoragePort` (docs/adapters.md).
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from typing import Any, Literal, TypedDict, TypeVar, Unpack, cast

from findings_orm.decorate import ApplicationStore, ForwardingStore
from findings_orm.errors import StorageError, StorageUnavailableError, StorageValidationError, readable
from findings_orm.limits import DEFAULT, Limits, check_limits
from findings_orm.port import FindingStore, StoragePort
from findings_orm.secrecy import shown_url

T = TypeVar("T")

_log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "findings_orm.adapters"

_SCHEMES = {
    "file": "findings_orm.stores.files:open_url",
    "memory": "findings_orm.stores.memory:open_url",
    "postgres": "findings_orm.orm.postgresql:open_url",
    "postgresql": "findings_orm.orm.postgresql:open_url",
    "sqlite": "findings_orm.orm.sqlite:open_url",
}


class _Registry(Mapping[str, StoragePort]):
    """Name to adapter instance; ``"memory"`` is there from the start. Change it with `register_adapter`."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._adapters: dict[str, StoragePort] = {}

    def replace_adapter(self, name: str, adapter: StoragePort | None) -> StoragePort | None:
        """Put an adapter, or nothing, in the place of the one of a name, and return that."""
        with self._lock:
            earlier = self._adapters.pop(name, None)
            if adapter is not None:
                self._adapters[name] = adapter
            return earlier

    def __getitem__(self, name: str) -> StoragePort:
        with self._lock:
            if name == "memory" and name not in self._adapters:
                self._adapters[name] = _load_attribute("findings_orm.stores.memory:InMemoryStorageAdapter")()
            try:
                return self._adapters[name]
            except KeyError:
                raise KeyError(
                    f"no adapter is registered as {name!r}; registered are: {_registered_names()}"
                ) from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name == "memory" or name in self._adapters)

    def __iter__(self) -> Iterator[str]:
        return iter({"memory": None, **self._adapters})

    def __len__(self) -> int:
        return len({"memory", *self._adapters})


_registry = _Registry()

STORAGE_REGISTRY: Mapping[str, StoragePort] = _registry
"""Name to adapter instance."""


def _registered_names() -> str:
    return ", ".join(sorted(_registry))


def register_adapter(
    name: str, adapter_class: Callable[..., StoragePort], config: Mapping[str, object] | None = None
) -> None:
    """Make an adapter (``adapter_class(**config)``) and register it under `name`; an earlier one of that name is closed.

    `open_storage` opens it by that name.

    Args:
        name: any text, not empty.
        adapter_class: a class (or any callable) whose result has the six methods of `StoragePort`.
        config: its keyword arguments.

    Raises:
        StorageValidationError: the name is empty, `config` does not fit, or the result is no `StoragePort`.
        StorageUnavailableError: the class raised something that is no `StorageError`.
    """
    if not isinstance(name, str) or not name.strip():
        raise StorageValidationError.of_field("name", "must be text, not empty", name)
    if not callable(adapter_class):
        raise StorageValidationError.of_field("adapter_class", "must be a class, or callable", adapter_class)
    keywords = _check_keywords("config", config)
    adapter = _make_adapter(adapter_class, readable(adapter_class), "config", (), keywords)
    if not isinstance(adapter, StoragePort):
        raise StorageValidationError.of_field(
            "adapter_class", "must make a StoragePort (six methods)", adapter_class
        )
    earlier = _registry.replace_adapter(name, adapter)
    if earlier is not adapter:
        _close_adapter(name, earlier)


def _check_keywords(name: str, given: object) -> Mapping[str, object]:
    """Return an argument that holds keyword arguments, or None for no such."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise StorageValidationError.of_field(name, "must be a mapping of keyword arguments", given)
    return given


def unregister_adapter(name: str) -> None:
    """Close the adapter that is registered under `name`, and forget it. ``"memory"`` begins anew, empty, when it is used.

    Raises:
        StorageValidationError: none is registered under that name.
    """
    if name not in _registry:
        raise StorageValidationError.of_field("name", f"must be one of {_registered_names()}", name)
    _close_adapter(name, _registry.replace_adapter(name, None))


def _close_adapter(name: str, adapter: StoragePort | None) -> None:
    """Close an adapter that nobody can reach any more by its name."""
    close = getattr(adapter, "close", None)
    if callable(close):
        try:
            close()
        except Exception:  # noqa: BLE001  # whatever it was, the one that takes its place works
            _log.exception("the adapter that was registered as %s could not be closed", readable(name))


class StorageOptions(TypedDict, total=False):
    """Options of the stores of this package, for type checkers; each store takes its own (docs/store.md, docs/files.md,
    docs/postgresql.md). Those of other packages go in as ``**options``, a ``dict[str, Any]``."""

    migrate: bool
    synchronous: Literal["FULL", "NORMAL"]
    busy_timeout: float
    pool_size: int
    group: str | None
    base_path: str | os.PathLike[str] | None
    lock: Literal["hard", "soft"]
    lock_timeout: float | None
    fold_at: int
    fold_on_close: bool
    schema: str | None
    project_id: str | None
    max_overflow: int
    pool_timeout: float
    pool_recycle: float
    pre_ping: bool
    prepare: bool
    statement_timeout: float | None
    connect_timeout: float
    application_name: str


def open_storage(
    url: str,
    *,
    cache: str | None = None,
    cache_options: Mapping[str, object] | None = None,
    limits: Limits = DEFAULT,
    **options: Unpack[StorageOptions],
) -> ApplicationStore:
    """Open the store that a URL or a registered name names.

    ``memory:`` is a new store in memory, ``sqlite:///findings.db`` a file (four slashes: an absolute path),
    ``sqlite://`` a private database in memory, ``postgresql://user@host/database`` a PostgreSQL server,
    ``file:///some/folder`` a folder of JSON files (an absolute path).

    A name of `register_adapter` (alone, or with a colon where no kind of store is called so) is the adapter that is registered:
    closing what is returned here leaves it open for others. An adapter that has only the six methods is lifted
    (`findings_orm.lift`), one of an entry point too.

    Args:
        url: the URL, or the name.
        cache: URL of a Redis to put in front of the store (extra ``redis``), ``redis://host:6379/0`` for one.
        cache_options: how that behaves, see `findings_orm.stores.cache.CacheOptions`.
        limits: how large a document may be; stores of other packages may have no such limit.
        options: passed on to the adapter, e.g. ``migrate=True`` (bring an older database to the current schema).

    Raises:
        StorageValidationError: the URL names no known kind of store (the known ones are listed), or it has no such option.
        SchemaVersionError: the store's schema is not the current one.
        StorageUnavailableError: the store can't be reached, or the package that adds its kind is broken.
    """
    if not isinstance(url, str):
        raise StorageValidationError.of_field("url", f"must be a storage URL ({_known_schemes()})", url)
    for_cache = _check_keywords("cache_options", cache_options)
    check_limits(limits)
    store = _open_store(url, options)
    if limits != DEFAULT:
        if isinstance(store, _Shared):
            raise StorageValidationError.of_field(
                "limits", "must be the defaults: the registered adapter is open already", limits
            )
        store.limits = limits  # type: ignore[attr-defined]  # no part of the port: `Store` has it
    return store if cache is None else _cache_store(store, cache, for_cache)


def _open_store(url: str, options: Mapping[str, object]) -> ApplicationStore:
    if url in _registry:
        return _shared_store(url, options)
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise StorageValidationError.of_field(
            "url",
            f"must be a storage URL ({_known_schemes()}) or a registered name ({_registered_names()})",
            shown_url(url),
        )
    scheme = scheme.partition("+")[0].lower()
    if scheme in _SCHEMES:
        try:
            return cast(ApplicationStore, _load_attribute(_SCHEMES[scheme])(url, **options))
        except TypeError as error:  # as Python says it of a keyword that there is not
            raise StorageValidationError(f"options don't fit {scheme}: {error}", field="options") from error
    if rest in ("", "//") and url.partition(":")[0] in _registry:
        return _shared_store(url.partition(":")[0], options)
    for point in entry_points(group=ENTRY_POINT_GROUP, name=scheme):
        return _open_entry_point(point, url, options)
    raise StorageValidationError(
        f"no storage adapter for {readable(scheme)}; known are: {_known_schemes()}", field="url", value=scheme
    )


def _shared_store(name: str, options: Mapping[str, object]) -> ApplicationStore:
    """Return the registered adapter of a name as a store that others use too."""
    if options:
        raise StorageValidationError.of_field(
            "options", f"must be none: the adapter registered as {name!r} is open already", dict(options)
        )
    return _Shared(_lift_adapter(_registry[name]))


class _Shared(ForwardingStore):
    """A store that stays open when this one is closed."""

    def close(self) -> None:
        """Leave the adapter open: it belongs to the registry."""


def _open_entry_point(point: EntryPoint, url: str, options: Mapping[str, object]) -> ApplicationStore:
    """Open a store of another package; what is wrong with that is said of it."""
    package = point.dist.name if point.dist else "another package"
    who = f"{package}'s adapter for {point.name}: ({point.value})"
    try:
        opener = point.load()
    except Exception as error:
        raise StorageUnavailableError(
            f"{who} can't be loaded; mend or remove {package}: {error!r}"
        ) from error
    store = _make_adapter(opener, who, "options", (url,), options)
    if not isinstance(store, StoragePort):
        raise StorageUnavailableError(f"{who} made {readable(store)}, which lacks methods of StoragePort")
    return _lift_adapter(store)


def _make_adapter(
    maker: Callable[..., T], who: str, field: str, given: tuple[object, ...], options: Mapping[str, object]
) -> T:
    """Call what others wrote to make an adapter; what it raises becomes an error that names it."""
    try:
        return maker(*given, **options)
    except StorageError:
        raise
    except TypeError as error:
        raise StorageValidationError(f"{field} does not fit {who}: {error}", field=field) from error
    except Exception as error:
        raise StorageUnavailableError(f"{who} could not be made: {error!r}") from error


def _lift_adapter(adapter: StoragePort) -> ApplicationStore:
    store: FindingStore = _load_attribute("findings_orm.stores.lifted:lift")(adapter)
    return store if isinstance(store, ApplicationStore) else ForwardingStore(store)


def _cache_store(store: FindingStore, url: str, options: Mapping[str, object]) -> ApplicationStore:
    try:
        return cast(
            ApplicationStore,
            _load_attribute("findings_orm.stores.cache:RedisCacheAdapter")(store, url, **options),
        )
    except BaseException:
        store.close()
        raise


def _known_schemes() -> str:
    names = {*_SCHEMES, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))}
    return ", ".join(f"{name}:" for name in sorted(names))


def _load_attribute(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
