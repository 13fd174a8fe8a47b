"""JSON as it is read through the ORM: equal to plain lists and objects, and refusing to be changed in place.

SQLAlchemy sees an assignment only; a change inside of a value would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


def _refuse(*_args: object, **_values: object) -> NoReturn:
    raise TypeError(
        "JSON of a finding can't be changed in place, as nothing would notice: change a copy (copy.deepcopy(value)) "
        "and assign that to the attribute"
    )


def _refusing(*names: str) -> Callable[[type], type]:
    def refuse_in(kind: type) -> type:
        for name in names:
            setattr(kind, name, _refuse)
        return kind

    return refuse_in


@_refusing("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update")
class FrozenObject(dict[str, Any]):
    """A JSON object that is only read. `copy.deepcopy` gives a plain ``dict``."""

    __slots__ = ()

    def __deepcopy__(self, _memo: object) -> dict[str, Any]:
        return thaw_json(self)  # type: ignore[no-any-return]  # of a dict it is one

    def __reduce__(self) -> Any:
        return freeze_json, (thaw_json(self),)


@_refusing(
    *("__setitem__", "__delitem__", "__iadd__", "__imul__", "append", "clear", "extend", "insert"),
    *("pop", "remove", "reverse", "sort"),
)
class FrozenList(list[Any]):
    """A JSON list that is only read. `copy.deepcopy` gives a plain ``list``."""

    __slots__ = ()

    def __deepcopy__(self, _memo: object) -> list[Any]:
        return thaw_json(self)  # type: ignore[no-any-return]  # of a list it is one

    def __reduce__(self) -> Any:
        return freeze_json, (thaw_json(self),)


def freeze_json(value: Any) -> Any:
    """Return a JSON value in which nothing can be changed."""
    if isinstance(value, dict):
        return FrozenObject((name, freeze_json(member)) for name, member in value.items())
    if isinstance(value, (list, tuple)):
        return FrozenList(map(freeze_json, value))
    return value


def thaw_json(value: Any) -> Any:
    """Return a JSON value as plain lists and objects, which share nothing with it."""
    if isinstance(value, dict):
        return {name: thaw_json(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [thaw_json(member) for member in value]
    return value
