"""What callers give, checked where it enters: a public function says by its annotations what it takes, and `checked` refuses
the rest with an error of this package.

Only kinds are checked here (text, a number, a path, a store), not rules of a field. What the annotations leave open (`Any`,
a stream) is not checked.
"""

from __future__ import annotations

import collections.abc
import inspect
import os
import pathlib
import sys
import types
from collections.abc import Callable
from enum import StrEnum
from functools import cache, wraps
from math import isfinite
from typing import (
    IO,
    Any,
    BinaryIO,
    Literal,
    NamedTuple,
    ParamSpec,
    TextIO,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from typing_extensions import is_typeddict

from findings_orm.errors import StorageValidationError

P = ParamSpec("P")
T = TypeVar("T")


class Kind(NamedTuple):
    """What an argument may be: a test, and its rule in words."""

    fits: Callable[[object], bool]
    rule: str


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function refuse arguments that are not what its annotations say.

    A wrong number of arguments, or one that there is not, is Python's own TypeError. The refusal is a StorageValidationError
    that names the argument; nothing of the function was done.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        kinds = kinds_of_parameters(function)
        for (name, kind), value in zip(kinds.items(), args, strict=False):
            _check_argument(name, kind, value)
        for name, value in kwargs.items():
            _check_argument(name, kinds.get(name), value)
        return function(*args, **kwargs)

    return call


def check_fields(instance: object) -> None:
    """Check the fields of a dataclass by their annotations.

    Raises:
        StorageValidationError: names the field.
    """
    cls: Any = type(instance)
    for name, kind in kinds_of_parameters(cls).items():
        _check_argument(name, kind, getattr(instance, name))


def _check_argument(name: str, kind: Kind | None, value: object) -> None:
    if kind is not None and not kind.fits(value):
        raise StorageValidationError.of_field(name, f"must be {kind.rule}", value)


def path_of(name: str, value: Any) -> pathlib.Path:
    """Return an argument that is a path as one.

    Raises:
        StorageValidationError: it is none, or one that no file can have.
    """
    if not _is_path(value):
        raise StorageValidationError.of_field(name, f"must be {_PATH.rule}", value)
    return pathlib.Path(value)


@cache
def kinds_of_parameters(function: Callable[..., object]) -> dict[str, Kind | None]:
    """Return the parameters of a function with what they may be; None for anything."""
    names = vars(sys.modules[function.__module__])
    return {
        name: None
        if one.kind is one.VAR_KEYWORD or one.kind is one.VAR_POSITIONAL
        else _kind_of_annotation(_read_annotation(one.annotation, names))
        for name, one in inspect.signature(function).parameters.items()
    }


def _read_annotation(annotation: Any, names: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    return eval(annotation, names) if isinstance(annotation, str) else annotation  # noqa: S307  # nosec B307  # of this package's own code


def _kind_of_annotation(annotation: Any) -> Kind | None:
    """Return what an argument of an annotation may be."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        members = get_args(annotation)
        if not _PATHS.isdisjoint(members):
            members = tuple(
                one for one in members if one is not str
            )  # text is a path there, and no other text
        if any(isinstance(one, type) and issubclass(one, StrEnum) for one in members):
            return _PLAIN[str]  # a member or its value: who takes both says which there are
        return _kind_of_union([_kind_of_annotation(one) for one in members])
    if origin is Literal:
        values = get_args(annotation)
        return Kind(lambda value: type(value) is str and value in values, " or ".join(values))
    if origin is not None and origin in _MANY:
        return _kind_of_collection(origin, get_args(annotation))
    return _kind_of_class(origin or annotation)


def _kind_of_class(cls: object) -> Kind | None:
    if is_typeddict(cls):
        return _kind_of_collection(collections.abc.Mapping, ())
    if not isinstance(cls, type) or cls in _ANYTHING or not _is_checkable(cls):
        return None
    return Kind(lambda value: isinstance(value, cls), _WORDS.get(cls.__name__, f"a {cls.__name__}"))


def _is_checkable(cls: type) -> bool:
    """Return whether a value can be asked for being of a class: not so for a protocol that exists for type checkers only."""
    try:
        isinstance(None, cls)
    except TypeError:
        return False
    return True


def _kind_of_union(kinds: list[Kind | None]) -> Kind | None:
    told = [kind for kind in kinds if kind is not None]
    if len(told) < len(kinds):
        return None
    tests = [kind.fits for kind in told]
    return Kind(lambda value: any(fits(value) for fits in tests), " or ".join(kind.rule for kind in told))


def _kind_of_collection(origin: Any, members: tuple[Any, ...]) -> Kind:
    """Return what a collection may be. Of an iterable only that it is one: it can be read once."""
    rule = _MANY[origin]
    if origin is collections.abc.Callable:
        return Kind(callable, rule)

    def is_many(value: object) -> bool:
        return isinstance(value, origin) and not _is_one(value, origin)

    inner = members if issubclass(origin, collections.abc.Collection) else ()
    kinds = [_kind_of_annotation(one) for one in inner if one is not Ellipsis]
    if not any(kinds):  # a page may be long
        return Kind(is_many, rule)
    first, *rest = [_accept_anything if kind is None else kind.fits for kind in kinds]
    if issubclass(origin, collections.abc.Mapping):
        last = rest[0] if rest else _accept_anything

        def fits(value: Any) -> bool:
            return isinstance(value, origin) and all(first(key) and last(each) for key, each in value.items())
    else:

        def fits(value: Any) -> bool:
            return is_many(value) and all(map(first, value))

    return Kind(fits, rule)


def _is_one(value: object, origin: type) -> bool:
    """Whether a value is one thing rather than many of them."""
    return isinstance(value, _ONE) and not issubclass(origin, collections.abc.Mapping)


def _accept_anything(_: object) -> bool:
    return True


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return isfinite(value)
    except OverflowError:  # an integer that no float can be
        return False


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_path(value: Any) -> bool:
    try:
        return b"\0" not in os.fsencode(value) and not isinstance(value, bytes)
    except (TypeError, ValueError):
        return False


_ONE = (str, bytes, bytearray, memoryview, collections.abc.Mapping)
_PATH = Kind(_is_path, "a path (without NUL)")
_NONE = Kind(lambda value: value is None, "None")
_PATHS = frozenset({pathlib.Path, os.PathLike[str]})
_ANYTHING = (object, IO, BinaryIO, TextIO)
"""Streams are what can be read, or written: who uses them asks them."""
_WORDS = {
    "FindingStore": "a FindingStore; findings_orm.lift makes one of an adapter with the six methods of StoragePort",
    "StoragePort": "an adapter with the six methods of StoragePort",
}
_PLAIN: dict[object, Kind | None] = {
    Any: None,
    str: Kind(lambda value: isinstance(value, str), "text"),
    bytes: Kind(lambda value: isinstance(value, bytes), "bytes"),
    bool: Kind(lambda value: value is True or value is False, "True or False"),
    int: Kind(_is_integer, "an integer"),
    float: Kind(_is_number, "a finite number"),
    None: _NONE,
    type(None): _NONE,
    pathlib.Path: _PATH,
    os.PathLike[str]: _PATH,
}
_MANY: dict[object, str] = {
    collections.abc.Callable: "callable",
    collections.abc.Iterable: "an iterable, and no text, bytes or mapping",
    collections.abc.Iterator: "an iterator",
    collections.abc.Collection: "a collection",
    collections.abc.Sequence: "a sequence",
    collections.abc.Mapping: "a mapping",
    list: "a list",
    tuple: "a tuple",
    dict: "a dict",
    set: "a set",
}
