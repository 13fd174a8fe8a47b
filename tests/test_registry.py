"""Adapters by name, stores by URL."""

from __future__ import annotations

import pathlib
import sys

import pytest
from six import DictAdapter

import findings_orm
from findings_orm import (
    STORAGE_REGISTRY,
    FileStorageAdapter,
    FindingStore,
    InMemoryStorageAdapter,
    RedisCacheAdapter,
    StorageError,
    StoragePort,
    StorageUnavailableError,
    StorageValidationError,
    open_storage,
    register_adapter,
    unregister_adapter,
)
from findings_orm.decorate import ForwardingStore
from findings_orm.metrics import MetricsAdapter
from findings_orm.testing.samples import PROJECT, finding, scanned


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
    with pytest.raises(StorageError, match="closed"):
        first.list_findings("acme")
    unregister_adapter("scratch")
    assert STORAGE_REGISTRY.get("scratch") is None
    with pytest.raises(StorageValidationError, match="must be one of memory"):
        unregister_adapter("scratch")


def test_a_replaced_adapter_that_can_not_be_closed_is_replaced_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(DictAdapter):
        def close(self) -> None:
            raise OSError("no")

    register_adapter("scratch", Broken)
    register_adapter("scratch", DictAdapter)
    assert type(STORAGE_REGISTRY["scratch"]) is DictAdapter
    assert "'scratch' could not be closed" in caplog.text
    unregister_adapter("scratch")


def test_memory_begins_anew_when_it_was_unregistered() -> None:
    STORAGE_REGISTRY["memory"].save_finding(finding())
    unregister_adapter("memory")
    assert STORAGE_REGISTRY["memory"].list_findings(PROJECT) == []


def test_the_words_of_the_older_system(tmp_path: pathlib.Path) -> None:
    register_adapter("file", FileStorageAdapter, {"base_path": tmp_path / "a"})
    STORAGE_REGISTRY["file"].save_finding(finding())
    with open_storage("file") as store, open_storage((tmp_path / "b").as_uri()) as other:
        assert store.list_projects() == [PROJECT]
        assert other.list_projects() == []
    unregister_adapter("file")
    with open_storage((tmp_path / "a").as_uri()) as store:
        assert store.list_projects() == [PROJECT]
    with pytest.raises(StorageValidationError, match="path or as base_path"):
        FileStorageAdapter(tmp_path, base_path=tmp_path)
    with pytest.raises(StorageValidationError, match="path or as base_path"):
        FileStorageAdapter()


@pytest.mark.parametrize("url", ["scratch", "scratch:", "scratch://"])
def test_a_registered_name_is_opened_and_stays_open(url: str) -> None:
    register_adapter("scratch", DictAdapter)
    with open_storage(url) as store:
        assert isinstance(store, FindingStore)
        assert store.ingest(PROJECT, [scanned()]).created == 1
    with open_storage(url) as store:
        assert store.ingest(PROJECT, [scanned()]).unchanged == 1
    assert len(STORAGE_REGISTRY["scratch"].list_findings(PROJECT)) == 1
    with pytest.raises(StorageValidationError, match="must be none"):
        open_storage(url, migrate=True)
    with pytest.raises(StorageValidationError, match="no storage adapter for 'scratch'"):
        open_storage("scratch://elsewhere")
    unregister_adapter("scratch")


def test_an_adapter_that_is_registered_again_stays_open() -> None:
    store = open_storage("memory:")
    for _ in range(2):
        register_adapter("scratch", lambda: store)
    store.save_finding(finding())
    unregister_adapter("scratch")
    with pytest.raises(StorageError, match="closed"):
        store.save_finding(finding())


def _installed(folder: pathlib.Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that adds the kind of store ``house``."""
    (folder / "house_findings.py").write_text(code)
    about = folder / "house_findings-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: house-findings\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[findings_orm.adapters]\nhouse = house_findings:open_url\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "house_findings", raising=False)


def test_an_adapter_of_another_package_is_lifted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _installed(tmp_path, "from six import DictAdapter\ndef open_url(url): return DictAdapter()", monkeypatch)
    with open_storage("house://x") as store:
        assert store.ingest(PROJECT, [scanned()]).created == 1
        assert len(store.lifted.list_findings(PROJECT)) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("1 / 0", StorageUnavailableError, "can't be loaded"),
        ("import no_such_module", StorageUnavailableError, "can't be loaded"),
        ("", StorageUnavailableError, "can't be loaded"),
        ("def open_url(url): raise KeyError('x')", StorageUnavailableError, "KeyError"),
        ("def open_url(url): return 5", StorageUnavailableError, "lacks methods of StoragePort"),
        ("def open_url(): pass", StorageValidationError, "does not fit"),
    ],
)
def test_a_broken_adapter_of_another_package_is_blamed_on_that(
    code: str,
    error: type[StorageError],
    words: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _installed(tmp_path, code, monkeypatch)
    with pytest.raises(error, match=words) as caught:
        open_storage("house://x")
    assert "house-findings" in str(caught.value)


def test_options_that_there_are_not_are_refused() -> None:
    for url in ("memory:", "sqlite://", "file:/tmp/x", "postgresql://u@127.0.0.1:1/d"):
        with pytest.raises(StorageValidationError):
            open_storage(url, colour="blue")  # type: ignore[call-arg]  # there is none


def test_decorators_refuse_an_adapter_with_six_methods_at_once() -> None:
    for decorate in (ForwardingStore, MetricsAdapter, lambda inner: RedisCacheAdapter(inner, "redis://h")):
        with pytest.raises(StorageValidationError, match="findings_orm.lift"):
            decorate(DictAdapter())  # type: ignore[arg-type]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no adapter is registered as 'nothing'; registered are: .*memory"):
        STORAGE_REGISTRY["nothing"]


@pytest.mark.parametrize(
    ("name", "adapter", "config", "field"),
    [
        ("", InMemoryStorageAdapter, {}, "name"),
        ("x", InMemoryStorageAdapter, {"colour": "blue"}, "config"),
        ("x", InMemoryStorageAdapter, [1], "config"),
        ("x", InMemoryStorageAdapter, {1: 2}, "config"),
        ("x", dict, {}, "adapter_class"),
        ("x", 5, {}, "adapter_class"),
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
