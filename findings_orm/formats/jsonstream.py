"""Reads JSON piece by piece, so that memory follows the largest piece and not the file.

The standard library's scanner does the work on a window of the text; this module moves the window. Compared with
event parsers it knows the line and the column of a fault, and keeps numbers as the scanner gives them: integers
of any size stay integers, ``1.0`` stays a float.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn, Protocol

from findings_orm.errors import StorageValidationError, readable

_CHUNK = 1 << 18
_PARTIAL = 20
_SPACE = " \t\n\r"


class Readable(Protocol):
    """Something with a name that gives bytes."""

    name: str

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, ``b""`` at the end."""
        ...


class _FaultError(ValueError):
    """A rule of this package that a syntactically correct value breaks."""


class JsonReader:
    r"""A cursor in a JSON text.

    The methods take what comes next: `value` a whole value, `members` and `elements` an object or an array
    part by part. Property names must be unique in an object (RFC 8259, section 4, only recommends it; but of
    two values one would be lost), and NaN and Infinity are no JSON.

    With ``lenient=True``, for reports whose values are only carried along, what a document can't hold is
    replaced instead of refused: a lone surrogate by its escape as text (``\ud800``), a float beyond the
    range of a double and an integer of thousands of digits by its text.

    Raises:
        StorageValidationError: from every method; names line, column and the place in the structure.
    """

    def __init__(self, source: Readable, *, lenient: bool = False) -> None:
        self._source = source
        self._lenient = lenient
        self._bytes = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._line = 1
        self._column = 1
        self._ended = False
        self._path: list[str | int] = []
        self._scanner = json.JSONDecoder(
            object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_float if lenient else None
        )
        self._fill()
        if self._text.startswith("\ufeff"):
            self._at = 1

    @property
    def place(self) -> str:
        """Where in the structure the cursor is: ``runs[0].results[3]``; empty at the top."""
        text = ""
        for step in self._path:
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return text

    def peek(self) -> str:
        """Return the next character that is not white space, ``""`` at the end."""
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in _SPACE:
                at += 1
            self._at = at
            if at < len(text):
                return text[at]
            if self._ended:
                return ""
            self._fill()

    def ahead(self) -> str:
        """Return the text that comes next, a few words of it, without taking it."""
        self.peek()
        return self._text[self._at : self._at + 40]

    def value(self) -> Any:
        """Take the next value whole."""
        if not self.peek():
            self._refuse(f"a value is expected{self._ending()}")
        scanner = self._scanner
        while True:
            try:
                value, end = scanner.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                self._check_cut_off(error)
            except _FaultError as error:
                self._refuse(str(error))
            except RecursionError:
                self._refuse("objects and lists nest too deep")
            except ValueError:  # an integer beyond sys.get_int_max_str_digits()
                if not self._lenient:
                    self._refuse("an integer has too many digits")
                scanner = _long_scanner()
                continue
            else:
                partial = _PARTIAL if isinstance(value, (int, float)) else 0  # 1 may be the start of 1.5e9
                if self._ended or end < len(self._text) - partial:
                    return self._taken(value, end)
            self._fill()

    def _check_cut_off(self, error: json.JSONDecodeError) -> None:
        """Refuse, unless more text could mend the error: the window may end inside a text or a number."""
        partial = error.pos >= len(self._text) - _PARTIAL or error.msg.startswith("Unterminated string")
        if partial and not self._ended:
            return
        cut = error.pos >= len(self._text.rstrip(_SPACE)) or error.msg.startswith("Unterminated string")
        fault = error.msg.removesuffix(" at").removesuffix(" starting")
        self._refuse(f"{fault}; the text ends inside a value (cut off?)" if cut else fault, error.pos)

    def _taken(self, value: Any, end: int) -> Any:
        text, start = self._text, self._at
        self._at = end
        if self._lenient and (text.find("\\ud", start, end) >= 0 or text.find("\\uD", start, end) >= 0):
            return self._escaped(value)
        return value

    def _escaped(self, value: Any) -> Any:
        try:
            return _escaped(value)
        except (RecursionError, _FaultError) as error:
            self._refuse(str(error))

    def members(self) -> Iterator[str]:
        """Take an object: yield each name, with the cursor on its value, which the caller must take."""
        self._expect("{", "an object")
        seen = set()
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                self._refuse(f"a property name in double quotes is expected{self._ending()}")
            name = self.value()
            if name in seen:
                self._refuse(f"the property {readable(name)} is there twice")
            seen.add(name)
            self._expect(":", "a colon")
            self._path.append(name)
            yield name
            self._path.pop()
            if self._closes("}"):
                return

    def elements(self) -> Iterator[int]:
        """Take an array: yield each index, with the cursor on its value, which the caller must take."""
        self._expect("[", "an array")
        if self.peek() == "]":
            self._at += 1
            return
        index = 0
        while True:
            self._path.append(index)
            yield index
            self._path.pop()
            if self._closes("]"):
                return
            index += 1

    def objects(self) -> Iterator[dict[str, Any]]:
        """Take the rest, JSON Lines (values one after the other) or one array, whose items must be objects."""
        if self.peek() == "[":
            for _ in self.elements():
                yield self.object()
            self.end()
        while self.peek():
            yield self.object()

    def object(self) -> dict[str, Any]:
        """Take the next value, which must be an object."""
        if self.peek() != "{":
            self._refuse(f"an object is expected{self._ending()}")
        value: dict[str, Any] = self.value()
        return value

    def end(self) -> None:
        """Check that nothing but white space is left."""
        if self.peek():
            self._refuse("the text goes on after its end")

    def refuse(self, rule: str, value: Any = None) -> NoReturn:
        """Raise the error for a fault in what was just read or comes next."""
        self._refuse(rule, value=value)

    def _expect(self, char: str, name: str) -> None:
        if self.peek() != char:
            self._refuse(f"{name} is expected{self._ending()}")
        self._at += 1

    def _closes(self, bracket: str) -> bool:
        char = self.peek()
        if char not in {",", bracket}:
            self._refuse(f"a comma or {bracket} is expected{self._ending()}")
        self._at += 1
        return char == bracket

    def _ending(self) -> str:
        return "" if self.peek() else ", but the text ends here (cut off?)"

    def _fill(self) -> None:
        """Drop what was taken and read on: as much again as is left, so that long values take few rounds."""
        self._line, self._column = self._position(self._at)
        rest = self._text[self._at :]
        data = self._source.read(max(_CHUNK, len(rest)))
        self._ended = not data
        self._text, self._at = rest, 0
        try:
            self._text += self._bytes.decode(data, self._ended)
        except UnicodeDecodeError as error:
            self._text += error.object[: error.start].decode()
            self._refuse("the text is not UTF-8", len(self._text))

    def _position(self, at: int) -> tuple[int, int]:
        lines = self._text.count("\n", 0, at)
        if not lines:
            return self._line, self._column + at
        return self._line + lines, at - self._text.rfind("\n", 0, at)

    def _refuse(self, rule: str, at: int | None = None, value: Any = None) -> NoReturn:
        line, column = self._position(self._at if at is None else at)
        place = self.place
        where = f"line {line}, column {column}" + (f", in {place}" if place else "")
        given = f" (got {readable(value)})" if value is not None else ""
        raise StorageValidationError(
            f"{self._source.name}: {where}: {rule}{given}", field=place or None, rule=rule, value=value
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _FaultError(f"the property {readable(twice)} is there twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _FaultError(f"{name} is no JSON number")


def _float(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _integer(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _long_scanner() -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_float, parse_int=_integer
    )


def _escaped(value: Any) -> Any:
    """Return `value` with each lone surrogate as its six character escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return _unique([(_escaped(name), _escaped(item)) for name, item in value.items()])
    return value
