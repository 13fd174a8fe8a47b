"""The suite, part 9: arguments that make no sense, for every argument of every method."""

from __future__ import annotations

import datetime as dt
import inspect
import pathlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any

import pytest

from findings_orm.errors import StorageError
from findings_orm.port import FindingStore, StoragePort
from findings_orm.query import FindingQuery
from findings_orm.stores.memory import InMemoryStorageAdapter
from findings_orm.testing.contract.base import Capabilities
from findings_orm.testing.contract.port import LAYOUT
from findings_orm.testing.samples import PROJECT, finding, run_id_of, scanned, uuid_of


class Contrary:
    """An object of which nothing can be asked."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = None  # type: ignore[assignment]  # nor a key of anything

    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")

    __str__ = __repr__

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")


def hostile_values() -> list[Any]:
    """Return values that few arguments can be."""
    return [
        *(
            None,
            True,
            False,
            0,
            -1,
            1.5,
            10**30,
            10**400,
            10**5000,
            float("nan"),
            float("inf"),
            b"acme-api",
            1j,
        ),
        *("", "\x00", "a\x00b", "\ud800", "%", "x" * 100_000, "2024-01-01", "2024-01-01T00:00:00"),
        *(
            [],
            [None],
            ["\ud800"],
            ["a\x00"],
            [5],
            (),
            set(),
            {},
            {1: 2},
            {None: None},
            {"\ud800": {}},
            {"detectors": 5},
        ),
        *(
            dt.datetime(2024, 1, 1),
            uuid.UUID(int=1),
            pathlib.Path("/"),
            pathlib.PurePosixPath("a/b"),
            object,
            object(),
            print,
            iter([5]),
            Contrary(),
        ),
        *(
            {"id": 0},
            {"started_at": 0},
            {"started_at": dt.datetime(2024, 1, 1)},
            {"tool": {1: 2}},
            {"detectors": [5]},
        ),
        *([{}], [Contrary()], {"a": Contrary()}, range(3), bytearray(b"x")),
    ]


def valid_arguments(folder: pathlib.Path) -> dict[str, Callable[[], Any]]:
    """Return a value for every argument of the port, by its name."""
    return {
        "project_id": lambda: PROJECT,
        "finding_id": lambda: uuid_of(1),
        "finding": lambda: finding(7),
        "documents": lambda: [
            scanned("R7", project_id=PROJECT, id=uuid_of(7), created_at="2024-01-01T00:00:00Z")
        ],
        "query": lambda: FindingQuery(project_id=PROJECT),
        "run": lambda: run_id_of(7),
        "close_missing": lambda: False,
        "dry_run": lambda: False,
        "on_invalid": lambda: "raise",
        "read_only": lambda: False,
        "rejected_ids": lambda: [uuid_of(9)],
        "fixed": dict,
        "status": lambda: "triaged",
        "actor": lambda: "ann",
        "comment": lambda: "",
        "a": lambda: run_id_of(1),
        "b": lambda: run_id_of(1),
        "closed_before": lambda: "2020-01-01T00:00:00Z",
        "path": lambda: folder / "layout.json",
        "data": lambda: dict(LAYOUT),
    }


def arguments_of(port: type) -> list[tuple[str, str]]:
    """Return all pairs of a public method and one of its arguments."""
    return [
        (name, argument)
        for name in sorted(dir(port))
        if not name.startswith("_")
        for argument in list(inspect.signature(getattr(port, name)).parameters)[1:]
    ]


_SIX = arguments_of(StoragePort)
_OTHERS = [pair for pair in arguments_of(FindingStore) if pair not in _SIX]


def use_result(result: Any) -> None:
    """Do what is done with a result: read it, enter it, close it."""
    if isinstance(result, (FindingStore, StoragePort)):
        getattr(result, "close", lambda: None)()
    elif isinstance(result, AbstractContextManager):
        with result:
            pass
    elif isinstance(result, Iterator):
        list(result)


def outcome_of(store: Any, name: str, arguments: dict[str, Any]) -> str:
    """Return what a call ends with: the name of an error of this package, or ``""``. What it returns is read to the end."""
    try:
        use_result(getattr(store, name)(**arguments))
    except StorageError as error:
        return type(error).__name__
    return ""


def faults_of(stores: Sequence[Any], pairs: list[tuple[str, str]], folder: pathlib.Path) -> list[str]:
    """Give each argument of some methods each hostile value; return the calls that end otherwise than with an error of
    the tree or an answer, or not in the same way in each of the stores."""
    found = []
    valid = valid_arguments(folder)
    for name, argument in pairs:
        names = [other for method, other in arguments_of(FindingStore) if method == name]
        for store in stores:
            _fill_store(store)
        for index in range(len(hostile_values())):
            ends = []
            for store in stores:
                value = hostile_values()[index]
                given = {other: valid[other]() for other in names} | {argument: value}
                try:
                    ends.append(outcome_of(store, name, given))
                except Exception as error:  # noqa: BLE001  # whatever it is, it is none of the tree
                    ends.append(repr(error))
            if len(set(ends)) > 1 or "(" in ends[0]:
                found.append(f"{name}({argument}=#{index} of hostile_values): {ends}")
    return found


def _fill_store(store: Any) -> None:
    store.delete_project(PROJECT)
    store.save_finding(finding(1))
    if isinstance(store, FindingStore):
        store.ingest(PROJECT, [scanned()], run=run_id_of(1))


class PortArgumentContract(Capabilities):
    """Each argument of the six methods gets what it can't be: a typed error or a right answer."""

    @pytest.fixture
    def nowhere(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
        """Return an empty folder that relative paths mean."""
        path = tmp_path / "arguments"
        path.mkdir()
        monkeypatch.chdir(path)
        return path

    def test_hostile_arguments_of_the_six_methods(self, store: StoragePort, nowhere: pathlib.Path) -> None:
        with InMemoryStorageAdapter() as reference:
            assert faults_of([store, reference], _SIX, nowhere) == []


class ArgumentContract(PortArgumentContract):
    """Each argument of every method gets what it can't be: the same answer or error of the tree on every adapter."""

    def test_hostile_arguments_have_the_same_end_everywhere(
        self, store: FindingStore, nowhere: pathlib.Path
    ) -> None:
        with InMemoryStorageAdapter() as reference:
            assert faults_of([store, reference], _OTHERS, nowhere) == []

    def test_hostile_queries_have_the_same_end_everywhere(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        with InMemoryStorageAdapter() as reference:
            reference.save_finding(finding(1))
            for field in fields(FindingQuery):
                for index, value in enumerate(hostile_values()):
                    arguments: dict[str, Any] = {"project_id": PROJECT, field.name: value}
                    try:
                        query = FindingQuery(**arguments)
                    except StorageError:
                        continue
                    assert store.find(query) == reference.find(query), (field.name, index)
                    assert store.count(query) == reference.count(query), (field.name, index)
