"""Refused documents as JSON and back: whatever an import was given is kept whole, also what JSON can't say.

An original that JSON can say is kept as it is. Any other becomes an object ``{"$tagged": …}``, inside of which (and only
there) an object with a single member that begins with ``$`` is a tag, as ``{"$bytes": "eA=="}``. docs/store.md has them all.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from findings_orm.errors import StorageValidationError

WHOLE, PARTS = "$tagged", "$parts"
MAX_LEVELS = 100
"""How deep the JSON of an original, and of each part, nests before it is cut (some readers stop near 200)."""

MAX_REPR = 10_000
"""How many characters of a `repr` are kept."""

_MAX_BITS = 2_126
_LONG_NUMBER = re.compile(
    r"(?<![0-9])[0-9]{641}"
)  # the shortest limit that sys.set_int_max_str_digits takes is 640
_BETWEEN_HALVES = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")


@dataclass(frozen=True, slots=True)
class LostValue:
    """What is left of a value of a refused document that can't be made again. It is valid nowhere in a document.

    Attributes:
        type: module and name of its type.
        text: its `repr`, up to `MAX_REPR` characters.
        number: tells it from others of the same document with equal `type` and `text`.
    """

    type: str
    text: str
    number: int = 0

    def __repr__(self) -> str:
        return f"<{self.type} of which only the repr was kept: {self.text}>"


def tag_original(original: object) -> object:
    """Return whatever an import was given as JSON that `untag_original` turns back.

    The result nests no deeper than some reader of JSON takes, has no number that one refuses, and belongs to the caller.
    """
    text, copy = _through_json(original)
    is_plain = text is not None and not _is_tagged(copy)
    if is_plain and not _may_need_tags(text or ""):
        return copy
    tags = _Tags()
    form = tags.form_of(original)
    if is_plain and not tags.are_needed:
        return copy
    return {WHOLE: form, PARTS: tags.parts} if tags.parts else {WHOLE: form}


def untag_original(form: Any) -> object:
    """Return what `tag_original` was given; what has no tags is returned as it is.

    Raises:
        StorageValidationError: there is no such tag, or its value is not of the tag's form; names the place.
    """
    if not _is_tagged(form):
        return form
    parts: list[object] = []
    try:
        for number, part in enumerate(_require_list(form.get(PARTS, []))):
            parts.append(_value_of(part, f"{PARTS}[{number}]", parts))
        return _value_of(form[WHOLE], "", parts)
    except (TypeError, RecursionError) as error:
        rule = f"must be a list of parts of up to {MAX_LEVELS} levels"
        raise StorageValidationError.of_field(PARTS, rule, form.get(PARTS)) from error


def _is_tagged(form: object) -> bool:
    return isinstance(form, dict) and WHOLE in form and form.keys() <= {WHOLE, PARTS}


def _through_json(original: object) -> tuple[str | None, object]:
    """Return a value as JSON text, None where that says something else, and what the text says."""
    try:
        text = json.dumps(original)
        copy = json.loads(text, parse_constant=_refuse_constant)
        return (text if copy == original else None), copy
    except Exception:  # noqa: BLE001  # a value of any class may fail in any way; then it is tagged
        return None, None


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _may_need_tags(text: str) -> bool:
    """Return whether JSON may nest too deep or have too long a number for some reader."""
    return text.count("{") + text.count("[") > MAX_LEVELS or _LONG_NUMBER.search(text) is not None


# -- values to JSON -----------------------------------------------------------------------------------------------

_Form = tuple[Any, int]
"""A value as JSON, and how many levels that has."""

_Work = Generator[tuple[object, bool], _Form, _Form]


class _Tags:
    """Makes JSON of one original.

    Attributes:
        parts: what was cut off, each without what was cut off of it before.
        are_needed: JSON alone would not say the same.
    """

    def __init__(self) -> None:
        self.parts: list[object] = []
        self.are_needed = False
        self._around: set[int] = set()
        self._lost: Counter[LostValue] = Counter()

    def form_of(self, value: object) -> object:
        """Return a value as JSON, without recursion."""
        stack = [self._form_steps(value, hashable=False)]
        found: _Form | None = None
        while stack:
            try:
                inner = stack[-1].send(found)  # type: ignore[arg-type]  # None starts it
                stack.append(self._form_steps(inner[0], hashable=inner[1]))
                found = None
            except StopIteration as done:
                stack.pop()
                found = done.value
        return found[0] if found else None

    def _form_steps(self, value: object, *, hashable: bool) -> _Work:
        """Yield the values that this one is made of, get their forms, and return its own."""
        kind = _kind_of(value, hashable=hashable)
        if kind not in _CONTAINERS:
            return self._leaf_form(kind, value)
        if id(value) in self._around:
            return self._lost_form(value)
        try:
            members = _container_members(kind, value)
        except Exception:  # noqa: BLE001  # a Mapping of any class
            return self._lost_form(value)
        self._around.add(id(value))
        forms: list[_Form] = []
        for inner, of_hashable in members:
            forms.append((yield inner, of_hashable or hashable))
        self._around.discard(id(value))
        form, levels = self._join_forms(kind, forms)
        levels += max((below for _, below in forms), default=0)
        if levels <= MAX_LEVELS:
            return form, levels
        self.parts.append(form)
        return self._tagged_form("part", len(self.parts) - 1), 1

    def _join_forms(self, kind: type | None, forms: list[_Form]) -> _Form:
        """Return the form of a container of the forms of what is in it, and the levels that it adds."""
        values = [form for form, _ in forms]
        if kind is list:
            return values, 1
        if kind is not dict:
            ordered = values if kind is tuple else sorted(values, key=json.dumps)
            return self._tagged_form(_CONTAINERS[kind], ordered), 2
        keys, values = values[::2], values[1::2]
        if all(isinstance(key, str) for key in keys):
            if len(keys) != 1 or not keys[0].startswith("$"):
                return dict(zip(keys, values, strict=True)), 1
        else:
            self.are_needed = True
        return {"$object": [list(pair) for pair in zip(keys, values, strict=True)]}, 3

    def _leaf_form(self, kind: type | None, value: object) -> _Form:
        if kind is None:
            return self._lost_form(value)
        if kind in _NARROWER:
            name, exact, beyond_json = _NARROWER[kind]
            plain = exact(value)
            said = beyond_json(plain)
            return (plain, 0) if said is None else (self._tagged_form(name, said), 2)
        if kind not in _WRITERS:
            return value, 0
        try:
            return self._tagged_form(kind.__name__.lower(), _WRITERS[kind](value)), 2
        except Exception:  # noqa: BLE001  # a time zone of any class, a memoryview that was released
            return self._lost_form(value)

    def _tagged_form(self, name: str, value: object) -> object:
        self.are_needed = True
        return {f"${name}": value}

    def _lost_form(self, value: object) -> _Form:
        if type(value) is not LostValue:
            value = LostValue(*_type_and_repr(value))
            self._lost[value] += 1
            value = LostValue(value.type, value.text, self._lost[value] - 1)
        number = [value.number] if value.number else []
        return self._tagged_form("repr", [value.type, value.text, *number]), 2


def _kind_of(value: object, *, hashable: bool) -> type | None:
    """Return the type that a value is kept as one of; None where only its `repr` can be kept.

    A key of an object or a member of a set is kept as another type only where it equals the same values then.
    """
    kind = type(value)
    if kind in _EXACT:
        return kind
    for base in _BASES:
        if issubclass(kind, base):
            equal = kind.__eq__ is base.__eq__ and kind.__hash__ is base.__hash__
            return base if equal or not hashable else None
    return dict if issubclass(kind, Mapping) and not hashable else None


def _container_members(kind: type | None, value: Any) -> Iterable[tuple[object, bool]]:
    """Return what is in a container, keys and values in turn, and whether it has to be hashable."""
    if kind is dict:
        pairs = dict.items(value) if issubclass(type(value), dict) else [(key, value[key]) for key in value]
        return [each for key, inner in pairs for each in ((key, True), (inner, False))]
    return [(inner, kind in (set, frozenset)) for inner in kind.__iter__(value)]  # type: ignore[union-attr]


def _type_and_repr(value: object) -> tuple[str, str]:
    """Return the name of a value's type, and its `repr`, of which any may fail in any way."""
    kind, text = "object", "?"
    with suppress(Exception):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
    with suppress(Exception):
        text = repr(value)[:MAX_REPR]
    return _encodable_text(kind), _encodable_text(text)


def _encodable_text(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _write_clock(value: datetime | time) -> object:
    """Return a time of day as ISO 8601, with its zone and fold where that does not say them."""
    zone = value.tzinfo
    if zone is not None and type(zone) is not timezone and not (type(zone) is ZoneInfo and zone.key):
        raise ValueError("the time zone is no known one")
    name = zone.key if isinstance(zone, ZoneInfo) else None
    if name is None and not value.fold:
        return value.isoformat()
    return [value.replace(tzinfo=None if name else zone).isoformat(), name, value.fold]


_CONTAINERS: Mapping[type | None, str] = {
    dict: "object",
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
}
_BASES = (str, int, float, dict, list, tuple, set, frozenset, bytes, bytearray)
_NARROWER: Mapping[type, tuple[str, Callable[[Any], object], Callable[[Any], object]]] = {
    str: (
        "text",
        str.__str__,
        lambda text: pieces if len(pieces := _BETWEEN_HALVES.split(text)) > 1 else None,
    ),
    int: ("int", int.__int__, lambda number: hex(number) if number.bit_length() > _MAX_BITS else None),
    float: ("float", float.__float__, lambda number: None if isfinite(number) else repr(number)),
}
"""Types of which JSON can't say all values: the tag, how a value of exactly the type is got, and its tag where it needs one."""
_WRITERS: Mapping[type, Callable[[Any], object]] = {
    bytes: lambda value: b64encode(value).decode(),
    bytearray: lambda value: b64encode(value).decode(),
    memoryview: lambda value: b64encode(value.tobytes()).decode(),
    Decimal: str,
    UUID: str,
    complex: repr,
    date: date.isoformat,
    datetime: _write_clock,
    time: _write_clock,
    timedelta: lambda value: [value.days, value.seconds, value.microseconds],
}
_EXACT = frozenset({type(None), bool, *_BASES, *_WRITERS})


# -- and back -----------------------------------------------------------------------------------------------------


def _value_of(form: object, place: str, parts: list[object]) -> object:
    """Return the value of JSON with tags; `place` names it, `parts` are those that it may refer to."""
    if isinstance(form, list):
        return [_value_of(inner, f"{place}[{n}]", parts) for n, inner in enumerate(form)]
    if not isinstance(form, dict):
        return form
    name = next(iter(form), "")
    if len(form) != 1 or not name.startswith("$"):
        return {
            key: _value_of(inner, f"{place}.{key}" if place else key, parts) for key, inner in form.items()
        }
    value = form[name]
    read = _READERS.get(name)
    rule = "is no tag that this release knows"
    try:
        if read is not None:
            rule = "is not what this tag holds"
            return read(value)
        if name == "$part":
            rule = "is no part that came before"
            return parts[value]
        if name in _BUILDERS:
            rule = "must be a list of what the type can hold"
            members = _value_of(value, place, parts)
            return _BUILDERS[name](_require_list(members))
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise StorageValidationError.of_field(f"{place or 'document'}: {name}", rule, value) from error
    raise StorageValidationError.of_field(f"{place or 'document'}: {name}", rule, value)


def _require_list(value: object) -> Any:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _decode_base64(value: str) -> bytes:
    return b64decode(value, validate=True)


def _clock_reader(kind: type[datetime | time]) -> Callable[[object], object]:
    def read(value: Any) -> Any:
        if isinstance(value, str):
            return kind.fromisoformat(value)
        text, name, fold = value
        clock = kind.fromisoformat(text)
        if name is None:
            return clock.replace(fold=fold)
        try:
            return clock.replace(tzinfo=ZoneInfo(name), fold=fold)
        except (KeyError, OSError):  # a machine without this zone
            return LostValue(f"datetime.{kind.__name__}", f"{text}[{name}]")

    return read


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "$int": lambda value: int(value, 16),
    "$float": lambda value: {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}[value],
    "$text": "".join,
    "$bytes": _decode_base64,
    "$bytearray": lambda value: bytearray(_decode_base64(value)),
    "$memoryview": lambda value: memoryview(_decode_base64(value)),
    "$decimal": Decimal,
    "$uuid": UUID,
    "$complex": complex,
    "$date": date.fromisoformat,
    "$datetime": _clock_reader(datetime),
    "$time": _clock_reader(time),
    "$timedelta": lambda value: timedelta(*value),
    "$repr": lambda value: LostValue(*value),
}
_BUILDERS: Mapping[str, Callable[[list[Any]], Any]] = {
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$object": dict,
}
