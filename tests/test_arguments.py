"""Every argument of everything that is public beside the port gets what it can't be: an error of the package, or an answer.

The port itself is walked in the suite (`findings_orm.testing.contract.arguments`), for every store alike.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pathlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, get_origin

import pydantic
import pytest
import sqlalchemy
from six import DictAdapter
from typing_extensions import is_typeddict

from findings_orm import (
    ApplicationStore,
    FindingQuery,
    FindingStore,
    Limits,
    RedisCacheAdapter,
    SchemaMigrator,
    StorageError,
    StoragePort,
    open_storage,
)
from findings_orm.backup import Keep, Key, Manifest, verify_backup, write_backup
from findings_orm.decorate import ForwardingStore
from findings_orm.errors import readable
from findings_orm.formats.base import Survey
from findings_orm.formats.jsonl import JSONL
from findings_orm.formats.report import Source
from findings_orm.metrics import MetricsAdapter, SlowQueries, TracingAdapter
from findings_orm.observe import Observer
from findings_orm.orm.postgresql_engine import Options
from findings_orm.stores.cache import CacheOptions
from findings_orm.testing.contract.arguments import hostile_values, use_result
from findings_orm.testing.samples import PROJECT, finding

MODULES = (
    "findings_orm",
    "findings_orm.stores.cache",
    "findings_orm.stores.files",
    "findings_orm.orm.text_index",
    "findings_orm.backup",
    "findings_orm.formats",
    "findings_orm.formats.legacy",
    "findings_orm.decorate",
    "findings_orm.layout",
    "findings_orm.metrics",
    "findings_orm.migrations",
)
"""What the docs name."""

INNER = {
    *(
        "check_documents",
        "keep_text_index",
        "version_of",
        "looks_legacy",
        "problems_of_path",
        "open_url",
        "observable",
        "diagnosable",
    ),
    *("ObservedStore", "Limits.rule", "Limits.check", "is_layout"),
}
"""What the package's own modules call, with what was checked before."""

HOOKS = {"open_unit", "open_reading", "ping", "release"}
"""What an adapter provides, and `findings_orm.store.Store` calls."""

GIVEN = {FindingQuery, CacheOptions, Keep, Key, Limits}
"""Data classes that callers make; the others are results."""

OPTIONS = {
    "PostgreSQLStorageAdapter": [one.name for one in fields(Options)],
    "RedisCacheAdapter": [one.name for one in fields(CacheOptions)],
    "open_storage": ["migrate", "synchronous", "busy_timeout", "pool_size", "group", "colour"],
}
"""Keyword arguments that a signature does not name."""

CALLED = {"progress", "follow"}
"""Functions of the caller, which may raise what they will."""

ODD_TEXTS = (
    *("sqlite:///\0", "sqlite:///\ud800", "sqlite:///x?pool_size=a", "sqlite:///no/such/x", "sqlite:////"),
    *(
        "memory:?x=1",
        "file:///\0",
        "file://host/x",
        "file:",
        "://",
        ":",
        "x://",
        "redis://h:port",
        "redis://[",
    ),
    *("postgresql://[::1", "postgresql://h:99999999/d", "..", "/dev/null", "no/such/file", "a-file", "+1"),
    *(
        "9" * 5000,
        "+" + "9" * 5000,
        "-99999999999999999999",
        "2.0.0\n",
        "\u0662.0.0",
        "AGE-SECRET-KEY-1",
        "age1x",
    ),
)
"""URLs, paths, revisions, versions and keys that are nearly some."""


@dataclass(frozen=True)
class Public:
    """Something public that takes arguments: a function, a constructor or a method."""

    module: str
    name: str
    call: Callable[..., Any]

    @property
    def owner(self) -> type | None:
        """The class of which an instance is needed."""
        cls, dot, _ = self.name.partition(".")
        return (
            getattr(importlib.import_module(self.module), cls)
            if dot and not inspect.ismethod(self.call)
            else None
        )

    @property
    def arguments(self) -> list[str]:
        names = []
        for each, one in inspect.signature(self.call).parameters.items():
            if one.kind is one.VAR_KEYWORD:
                names += OPTIONS.get(self.name, [])
            elif each not in ("self", "disk"):
                names.append(each)
        return names

    @property
    def needed(self) -> list[str]:
        return [
            each
            for each, one in inspect.signature(self.call).parameters.items()
            if one.default is one.empty and one.kind is not one.VAR_KEYWORD and each != "self"
        ]


def everything_public() -> Iterator[Public]:
    seen: set[Any] = set()
    for module in map(importlib.import_module, MODULES):
        own = [
            name for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__
        ]
        for name in getattr(module, "__all__", own):
            one = getattr(module, name)
            if name.startswith("_") or name in INNER or not callable(one) or one in seen or is_result(one):
                continue
            seen.add(one)
            yield Public(module.__name__, name, one)
            for method in sorted(set(dir(one)) - set(dir(FindingStore))) if inspect.isclass(one) else ():
                called = getattr(one, method)
                full = f"{name}.{method}"
                hidden = method.startswith("_") or method in HOOKS or full in INNER
                if callable(called) and not (hidden or inspect.isclass(called)):
                    yield Public(module.__name__, full, called)


def is_result(one: Any) -> bool:
    """Return whether something is for type checkers only, a class that callers don't make, or one with errors of its own kind
    (enum, pydantic)."""
    if get_origin(one) is Literal or is_typeddict(one):
        return True
    return inspect.isclass(one) and (
        issubclass(one, (Exception, Enum, pydantic.BaseModel))
        or one in (ApplicationStore, FindingStore, StoragePort)
        or (is_dataclass(one) and one not in GIVEN)
    )


class Surroundings:
    """A folder with one of everything that arguments name, and an instance of everything that has methods."""

    def __init__(self, folder: pathlib.Path, opened: ExitStack) -> None:
        self._folder = folder
        self._new = iter(range(10**6))
        store = opened.enter_context(open_storage("memory:"))
        store.save_finding(finding(1))
        write_backup(store, folder / "a-backup")
        (folder / "a-file").write_text("[]")
        (folder / "report.jsonl").write_text('{"detector_id": "d"}')
        (folder / "legacy").mkdir()
        (folder / "legacy" / "acme.findings.json").write_text("[]")
        (folder / "backups").mkdir()
        database = f"sqlite:///{folder}/a-database"
        sql = opened.enter_context(open_storage(database))
        self._connection = connection = opened.enter_context(sqlalchemy.create_engine(database).connect())
        documents = store.list_findings(PROJECT)
        self.instances: dict[str, Any] = {
            "SchemaMigrator": SchemaMigrator(),
            "FindingQuery": FindingQuery(project_id=PROJECT),
            "CacheOptions": CacheOptions(),
            "Limits": Limits(),
            "InMemoryStorageAdapter": store,
            "SQLiteStorageAdapter": sql,
            "FileStorageAdapter": opened.enter_context(open_storage((folder / "files").as_uri())),
            "ForwardingStore": ForwardingStore(store),
            "RedisCacheAdapter": opened.enter_context(RedisCacheAdapter(sql, "redis://127.0.0.1:1/0")),
            "MetricsAdapter": MetricsAdapter(sql),
            "SlowQueries": SlowQueries(sql),
            "TracingAdapter": TracingAdapter(sql),
        }
        self._valid: dict[str, Callable[[], Any]] = {
            "adapter": DictAdapter,
            "adapter_class": lambda: DictAdapter,
            "bind": lambda: connection,
            "connection": lambda: connection,
            "data": lambda: {"finding_schema_version": "2.0.0", "findings": []},
            "document": lambda: documents[0],
            "documents": lambda: documents,
            "folder": lambda: folder / "backups",
            "format": lambda: "jsonl",
            "from_version": lambda: "2.0.0",
            "given": dict,
            "inner": lambda: open_storage("memory:"),
            "keep": lambda: Keep(last=1),
            "limits": Limits,
            "name": lambda: "scratch",
            "observer": Observer,
            "operation": lambda: "find",
            "path": lambda: folder / "a-backup",
            "path_or_stream": lambda: folder / "report.jsonl",
            "project_id": lambda: PROJECT,
            "public": tuple,
            "redis_url": lambda: "redis://127.0.0.1:1/0",
            "revision": lambda: "head",
            "source": lambda: folder / "legacy",
            "store": lambda: open_storage("memory:"),
            "stream": io.BytesIO,
            "target": lambda: database,
            "text": lambda: "age1",
            "to_version": lambda: "2.0.0",
            "url": lambda: "memory:",
            "Report(source": lambda: Source(io.BytesIO(b"{}"), Limits()),
            "Report(format": lambda: JSONL,
            "Report(survey": Survey,
            "SQLiteStorageAdapter(url": lambda: "sqlite://",
            "PostgreSQLStorageAdapter(url": lambda: "postgresql://u@127.0.0.1:1/d",
            "atomic_write(path": self.new_path,
            "write_backup(path": self.new_path,
            "salvage_backup(target": self.new_path,
            "repair(path": self.new_path,
            "FileStorageAdapter(path": self.new_path,
            "copy_store(source": lambda: store,
            "copy_store(target": lambda: open_storage("memory:"),
            "SchemaMigrator.migrate_file(path": lambda: folder / "a-file",
        }

    def new_path(self) -> pathlib.Path:
        return self._folder / f"new-{next(self._new)}"

    def valid(self, name: str, argument: str) -> Any:
        """Return a value that an argument can be."""
        return (self._valid.get(f"{name}({argument}") or self._valid[argument])()

    def hostile(self) -> list[Any]:
        """Return what an argument can't be, or hardly."""
        values = [value for value in hostile_values() if not isinstance(value, pathlib.Path)]
        paths = [self._folder, self._folder / "a-file", self._folder / "legacy", self._folder / "no" / "such"]
        return [*values, *ODD_TEXTS, *paths, io.BytesIO(b"x"), io.StringIO("x")]

    def faults_of(self, public: Public) -> Iterator[str]:
        """Yield the calls that end with an error that is none of the package."""
        for argument in public.arguments:
            for value in self.hostile():
                if callable(value) and argument in CALLED:
                    continue
                given = {each: self.valid(public.name, each) for each in public.needed}
                call = public.call
                if public.owner is not None:
                    call = getattr(self.instances[public.owner.__name__], public.name.partition(".")[2])
                try:
                    use_result(call(**{**given, argument: value}))
                except StorageError:
                    pass
                except Exception as error:  # noqa: BLE001  # whatever it is, it is none of the tree
                    yield f"{public.name}({argument}={readable(value)}): {error!r}"
                finally:
                    self._connection.rollback()  # as an application does: the transaction of what joined it is its own


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    with ExitStack() as opened:
        yield Surroundings(tmp_path_factory.mktemp("arguments"), opened)


@pytest.mark.no_cover
@pytest.mark.filterwarnings("ignore:Query string argument")
@pytest.mark.parametrize(
    "public",
    [one for one in everything_public() if one.arguments],
    ids=lambda public: f"{public.module}.{public.name}",
)
def test_hostile_arguments_end_in_an_error_of_the_package_or_an_answer(
    public: Public, surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    if public.owner is None or public.owner.__name__ in surroundings.instances:
        monkeypatch.chdir(tmp_path)
        assert list(surroundings.faults_of(public)) == []


@pytest.mark.parametrize("name", Manifest.model_fields)
def test_hostile_manifests_end_in_an_error_of_the_package(name: str, tmp_path: pathlib.Path) -> None:
    with open_storage("memory:") as store:
        write_backup(store, tmp_path / "b")
    whole = verify_backup(tmp_path / "b").manifest.model_dump()
    for value in hostile_values():
        with contextlib.suppress(StorageError):
            Manifest(**{**whole, name: value})
    with pytest.raises(StorageError, match=name):
        Manifest(**{**whole, name: object()})
