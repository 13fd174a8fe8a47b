"""Adapters by name, stores by URL."""

from __future__ import annotations

import pytest

import findings_orm
from findings_orm import STORAGE_REGISTRY, InMemoryStorageAdapter, StoragePort, StorageValidationError
from findings_orm.registry import register_adapter


def test_memory_is_there_from_the_start() -> None:
    assert isinstance(STORAGE_REGISTRY["memory"], InMemoryStorageAdapter)
    assert STORAGE_REGISTRY["memory"] is STORAGE_REGISTRY["memory"]
    assert "memory" in STORAGE_REGISTRY
    assert next(iter(STORAGE_REGISTRY)) == "memory"


def test_an_adapter_is_made_from_its_config_and_can_be_replaced() -> None:
    register_adapter("scratch", findings_orm.SQLiteStorageAdapter, {"url": "sqlite://"})
    first = STORAGE_REGISTRY["scratch"]
    assert isinstance(first, StoragePort)
    assert (first.get_schema_version(), first.list_findings("acme")) == (findings_orm.SCHEMA_VERSION, [])
    register_adapter("scratch", InMemoryStorageAdapter, {})
    assert isinstance(STORAGE_REGISTRY["scratch"], InMemoryStorageAdapter)
    assert len(STORAGE_REGISTRY) == len(list(STORAGE_REGISTRY)) >= 2
    first.close()  # type: ignore[attr-defined]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no adapter is registered as 'nothing'; registered are: .*memory"):
        STORAGE_REGISTRY["nothing"]


@pytest.mark.parametrize(
    ("name", "adapter", "config", "field"),
    [
        ("", InMemoryStorageAdapter, {}, "name"),
        ("x", InMemoryStorageAdapter, {"colour": "blue"}, "config"),
        ("x", InMemoryStorageAdapter, [1], "config"),
        ("x", dict, {}, "adapter_class"),
    ],
)
def test_a_bad_registration_is_refused(name: str, adapter: type, config: object, field: str) -> None:
    with pytest.raises(StorageValidationError) as caught:
        register_adapter(name, adapter, config)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert "x" not in STORAGE_REGISTRY


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(
        StorageValidationError, match="no storage adapter for 'nosuch'; known are: .*memory:.*sqlite:"
    ):
        findings_orm.open_storage("nosuch://x")
