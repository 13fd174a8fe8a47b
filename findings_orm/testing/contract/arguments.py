"""The suite, part 9: arguments that make no sense, for every argument of every method."""

from __future__ import annotations

import datetime as dt
import inspect
import pathlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from findings_orm.adapters.memory import InMemoryStorageAdapter
from findings_orm.errors import StorageError
from findings_orm.port import FindingStore, StoragePort
from findings_orm.query import FindingQuery
from findings_orm.testing.contract.base import Capabilities
from findings_orm.testing.contract.port import LAYOUT
from findings_orm.testing.samples import PROJECT, finding, run_of, scanned, uuid_of


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
        *(None, True, False, 0, -1, 1.5, 10**30, 10**400, float("nan"), float("inf"), b"acme-api", 1j),
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
        "run": lambda: run_of(7),
        "close_missing": lambda: False,
        "dry_run": lambda: False,
        "on_invalid": lambda: "raise",
        "rejected_ids": lambda: [uuid_of(9)],
        "fixed": dict,
        "status": lambda: "triaged",
        "actor": lambda: "ann",
        "comment": lambda: "",
        "a": lambda: run_of(1),
        "b": lambda: run_of(1),
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


def outcome_of(store: Any, name: str, arguments: dict[str, Any]) -> str:
    """Return what a call ends with: the name of an error of this package, or ``""``. What it returns is read to the end."""
    try:
        result = getattr(store, name)(**arguments)
        if isinstance(result, AbstractContextManager):
            with result:
                pass
        elif isinstance(result, Iterator):
            list(result)
    except StorageError as error:
        return type(error).__name__
    return ""


class PortArgumentContract(Capabilities):
    """Each argument of the six methods gets what it can't be: a typed error or a right answer."""

    @pytest.mark.parametrize(("name", "argument"), arguments_of(StoragePort))
    def test_hostile_argument_is_refused_or_right(
        self,
        store: StoragePort,
        name: str,
        argument: str,
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self._check(store, name, argument, tmp_path, monkeypatch)

    def _check(
        self,
        store: Any,
        name: str,
        argument: str,
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        folder = tmp_path / "arguments"
        folder.mkdir()
        monkeypatch.chdir(folder)
        valid = valid_arguments(folder)
        names = list(inspect.signature(getattr(FindingStore, name)).parameters)[1:]
        with InMemoryStorageAdapter() as reference:
            stores: list[Any] = [store, reference]
            for each in stores:
                each.save_finding(finding(1))
                if isinstance(each, FindingStore):
                    each.ingest(PROJECT, [scanned()], run=run_of(1))
            for index in range(len(hostile_values())):
                outcomes = []
                for each in stores:
                    value = hostile_values()[index]
                    arguments = {one: valid[one]() for one in names if one in valid} | {argument: value}
                    try:
                        outcomes.append(outcome_of(each, name, arguments))
                    except Exception as error:  # noqa: BLE001  # whatever it is, it is none of the tree
                        shown = (
                            type(value).__name__
                            if isinstance(value, (Contrary, list, dict))
                            else ascii(value)[:80]
                        )
                        pytest.fail(f"{type(each).__name__}.{name}({argument}={shown}, #{index}): {error!r}")
                assert outcomes[0] == outcomes[1], f"{name}({argument}=#{index} of hostile_values)"
            assert (
                finding(1)["title"] in [one["title"] for one in store.list_findings(PROJECT)]
                or name == "delete_project"
            )


class ArgumentContract(PortArgumentContract):
    """Each argument of every method gets what it can't be: the same answer or error of the tree on every adapter."""

    @pytest.mark.parametrize(
        ("name", "argument"),
        [pair for pair in arguments_of(FindingStore) if pair not in arguments_of(StoragePort)],
    )
    def test_hostile_argument_has_the_same_end_everywhere(
        self,
        store: FindingStore,
        name: str,
        argument: str,
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self._check(store, name, argument, tmp_path, monkeypatch)
