"""Small documents for examples, and the comparison that tests use."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

JSON_TYPES = (dict, list, str, int, float, bool, type(None))

PROJECT = "acme-api"
OTHER = "acme-web"


def uuid_of(number: int) -> str:
    """Return a UUID made of a number: different for different ones, in their order."""
    return f"00000000-0000-4000-8000-{number:012x}"


def run_id_of(number: int) -> str:
    """Return the UUID of a run; never that of a finding (`uuid_of`)."""
    return f"11111111-0000-4000-8000-{number:012x}"


def finding(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a small valid document for `save_finding`: id and time of creation follow from `number`."""
    return {
        "id": uuid_of(number),
        "project_id": PROJECT,
        "detector_id": "scan.demo",
        "title": f"Finding {number}",
        "severity": "medium",
        "resource": f"src/file{number}.py",
        "created_at": f"2024-05-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z",
        **changes,
    }


def broken(**fields: Any) -> dict[str, Any]:
    """Return what is no valid document, as one of which type checkers know nothing."""
    return fields


def scanned(rule: str = "R1", line: int | None = None, **changes: Any) -> dict[str, Any]:
    """Return a small valid document for `ingest`: without id, project, run and time."""
    document: dict[str, Any] = {
        "detector_id": "scan.demo",
        "rule_id": rule,
        "title": f"Rule {rule} was broken",
        "severity": "medium",
        "resource": "src/app.py",
    }
    if line is not None:
        document["location"] = {"path": "src/app.py", "start_line": line}
    return {**document, **changes}


def without_fields(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return a copy of `document` that lacks fields."""
    return {name: value for name, value in document.items() if name not in names}


def assert_same(found: object, expected: object, what: str = "document") -> None:
    """Assert that two JSON values are the same to the last bit.

    Tells ``1`` from ``1.0`` and from True, ``-0.0`` from ``0.0``, the order of keys from another one, and plain
    JSON types from classes derived of them. Names the first place that differs.
    """
    place = first_difference(found, expected, what)
    assert place is None, place


def first_difference(found: Any, expected: Any, where: str = "document") -> str | None:
    """Return in words the first place where two JSON values differ, or None."""
    if type(found) is not type(expected) or type(found) not in JSON_TYPES:
        kinds = f"{type(found).__name__} instead of {type(expected).__name__}"
        return f"{where}: found {found!r}, expected {expected!r} ({kinds})"
    if isinstance(found, dict):
        if list(found) != list(expected):
            return f"{where}: found keys {list(found)!r}, expected {list(expected)!r}"
        pairs = [(f"{where}.{key}", found[key], expected[key]) for key in found]
    elif isinstance(found, list):
        if len(found) != len(expected):
            return f"{where}: found {len(found)} items, expected {len(expected)}"
        pairs = [(f"{where}[{n}]", a, b) for n, (a, b) in enumerate(zip(found, expected, strict=True))]
    else:
        same = json.dumps(found) == json.dumps(expected)
        return None if same else f"{where}: found {found!r}, expected {expected!r}"
    return next((place for at, a, b in pairs if (place := first_difference(a, b, at))), None)


def assert_equal_values(found: object, expected: object, what: str = "value") -> None:
    """Assert that two values, of whatever type, are of the same types and equal, however deep they nest.

    NaN equals NaN, ``-0.0`` does not equal ``0.0``, and the order of keys counts.
    """
    todo: list[tuple[Any, Any, str]] = [(found, expected, what)]
    while todo:
        one, other, place = todo.pop()
        assert type(one) is type(other), f"{place}: {type(one).__name__} instead of {type(other).__name__}"
        if isinstance(one, dict):
            one, other = ([each for pair in value.items() for each in pair] for value in (one, other))
        if isinstance(one, (list, tuple)):
            assert len(one) == len(other), f"{place}: {len(one)} items instead of {len(other)}"
            todo += [(a, b, f"{place}[{n}]") for n, (a, b) in enumerate(zip(one, other, strict=True))]
        elif isinstance(one, (float, complex, Decimal)):
            assert repr(one) == repr(other), f"{place}: {one!r} instead of {other!r}"
        else:
            assert one == other, f"{place}: not equal"


def assert_all_same(found: Sequence[object], expected: Sequence[object]) -> None:
    """Assert `assert_same` for each of two sequences, in order."""
    assert len(found) == len(expected), f"found {len(found)} documents, expected {len(expected)}"
    for n, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert_same(a, b, f"document {n}")


def ids(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the ids of documents, in their order."""
    return [document["id"] for document in documents]
