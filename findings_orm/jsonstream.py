"""Reads JSON piece by piece, so that memory follows the largest piece and not the file.

The standard library's scanner does the work on a window of the text; this module moves the window. Compared with
event parsers it knows the line and the column of a fault, and keeps numbers as the scanner gives them: integers
of any size stay integers, ``1.0`` stays a float.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol, cast

from findings_orm.errors import (
    LimitExceededError,
    StorageUnavailableError,
    StorageValidationError,
    readable,
    readable_place,
)
from findings_orm.limits import DEFAULT, Limits, memory_size, walk_json

_CHUNK = 1 << 18
_PARTIAL = 20
_SPACE = " \t\n\r"
_END_AFTER_COMMA = re.compile(r",?[ \t\n\r]*([\]}])")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


class Readable(Protocol):
    """Something with a name that gives bytes."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, ``b""`` at the end."""
        ...


class _FaultError(ValueError):
    """A rule of this package that a syntactically correct value breaks."""


@contextmanager
def open_json(path: Path) -> Iterator[BinaryIO]:
    """Open a file of UTF-8, or of another encoding that JSON may have.

    Raises:
        StorageUnavailableError: it can't be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise StorageUnavailableError(f"{path}: can't be read: {error.strerror or error}") from error
    with file:
        encoding = json.detect_encoding(file.read(4))
        file.seek(0)
        recoded = file if encoding.startswith("utf-8") else codecs.EncodedFile(file, "utf-8", encoding)
        yield cast(BinaryIO, recoded)


class JsonReader:
    r"""A cursor in a JSON text.

    The methods take what comes next: `value` a whole value, `members` and `elements` an object or an array
    part by part. Property names must be unique in an object (RFC 8259, section 4, only recommends it; but of
    two values one would be lost), and NaN and Infinity are no JSON.

    With ``lenient=True``, for reports whose values are only carried along, what a document can't hold is
    replaced instead of refused: a lone surrogate by its escape as text (``\ud800``), a float beyond the
    range of a double and an integer of thousands of digits by its text.

    `limits` hold for every value; what is too large is noticed while it is read. With ``again=True``, for a text that was read
    once, what can't fill memory is not counted again.

    Attributes:
        limits: the limits.
        taken: how many characters the value had that was taken last.

    Raises:
        StorageValidationError: from every method; names line, column and the place in the structure.
    """

    def __init__(
        self, source: Readable, *, lenient: bool = False, limits: Limits = DEFAULT, again: bool = False
    ) -> None:
        self._source = source
        self._lenient = lenient
        self.limits = limits
        self._again = again
        self.taken = 0
        self._kept = 0
        self._bytes = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._line = 1
        self._column = 1
        self._ended = False
        self._path: list[str | int] = []
        self._scanner = json.JSONDecoder(
            object_pairs_hook=_unique_members,
            parse_constant=_refuse_constant,
            parse_float=_parse_float if lenient else None,
        )
        self._fill_window()
        if self._text.startswith("\ufeff"):
            self._at = 1

    @property
    def place(self) -> str:
        """Where in the structure the cursor is: ``runs[0].results[3]``; empty at the top."""
        text = ""
        for step in self._path:
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return readable_place(text)

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
            self._fill_window()

    def peek_text(self) -> str:
        """Return the text that comes next, a few words of it, without taking it."""
        self.peek()
        return self._text[self._at : self._at + 40]

    def value(self) -> Any:
        """Take the next value whole."""
        if not self.peek():
            self._raise_fault(f"a value is expected{self._cut_off_hint()}")
        scanner = self._scanner
        while True:
            try:
                value, end = scanner.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                self._check_cut_off(error)
            except _FaultError as error:
                self._raise_fault(str(error))
            except RecursionError:
                rule = self.limits.rule("max_nesting_levels")
                self._raise_fault(f"objects and lists nest too deep; {rule}", kind=LimitExceededError)
            except ValueError:  # an integer beyond sys.get_int_max_str_digits()
                if not self._lenient:
                    self._raise_fault("an integer has too many digits")
                scanner = _long_scanner()
                continue
            else:
                partial = _PARTIAL if isinstance(value, (int, float)) else 0  # 1 may be the start of 1.5e9
                if self._ended or end < len(self._text) - partial:
                    return self._take_decoded(value, end)
            self._check_growth()
            self._fill_window()

    def _check_cut_off(self, error: json.JSONDecodeError) -> None:
        """Refuse, unless more text could mend the error: the window may end inside a text or a number."""
        partial = error.pos >= len(self._text) - _PARTIAL or error.msg.startswith("Unterminated string")
        if partial and not self._ended:
            return
        self._check_comma(error.pos)
        cut = error.pos >= len(self._text.rstrip(_SPACE)) or error.msg.startswith("Unterminated string")
        fault = error.msg.removesuffix(" at").removesuffix(" starting")
        self._raise_fault(f"{fault}; the text ends inside a value (cut off?)" if cut else fault, error.pos)

    def _check_comma(self, at: int) -> None:
        """Refuse a comma after the last item of an array or object. Python 3.13 names its place, older ones that of the end."""
        end = _END_AFTER_COMMA.match(self._text, at)
        if end and self._text[: end.start(1)].rstrip(_SPACE).endswith(","):
            self._raise_fault(f"there is a comma too many before this {end[1]}", end.start(1))

    def _take_decoded(self, value: object, end: int) -> object:
        text, start = self._text, self._at
        self.taken = end - start
        if self.taken > self.limits.max_nesting_levels and not self._again:
            self._check_value(value, start, end)
        self._at = end
        if self._lenient and (text.find("\\ud", start, end) >= 0 or text.find("\\uD", start, end) >= 0):
            return self._escape_surrogates(value)
        return value

    def _check_growth(self) -> None:
        """Refuse a value that is not read to its end and is too large already."""
        size = len(self._text) - self._at
        self.check("max_document_bytes", size, "the size of a value, in bytes, is at least")
        if size > _CHUNK:
            self._check_count(self._at, len(self._text))

    def _check_count(self, start: int, end: int) -> None:
        """Refuse too many values in a part of the text, which takes more memory for a value than for its text."""
        most = self.limits.max_document_values
        if _count_marks(self._text, start, end) > most:
            found = count_values_in(self._text[start:end])
            self.check("max_document_values", found, "the number of values in a value")

    def _check_value(self, value: object, start: int, end: int) -> None:
        text, limits, size = self._text, self.limits, end - start
        if text.count("{", start, end) + text.count("[", start, end) > limits.max_nesting_levels:
            self.check(
                "max_nesting_levels", _count_levels(value), "objects and lists nest too deep, in levels"
            )
        if 4 * size > limits.max_document_bytes:
            self.check("max_document_bytes", _bytes(text[start:end]), "the size of a value, in bytes")
        if size > limits.max_document_values:
            self._check_count(start, end)
        if 4 * size > limits.max_field_bytes:
            self.check("max_field_bytes", _longest_text(value), "the longest text in a value, in bytes")

    def keep(self, value: object, beside: int = 0) -> object:
        """Return a value that stays in memory; with all that were kept it may take `Limits.max_shared_bytes`.

        `beside` is how many bytes of memory are taken for it elsewhere.
        """
        self._kept += memory_size(value) + beside
        self.check("max_shared_bytes", self._kept, "the memory for what results refer to, in bytes")
        return value

    def check(self, name: str, found: int, what: str) -> None:
        """Refuse what is more than a limit allows, as `Limits.check`, and name the place."""
        if found > getattr(self.limits, name):
            self._raise_fault(f"{what}: {found:,}; {self.limits.rule(name)}", kind=LimitExceededError)

    def _escape_surrogates(self, value: object) -> object:
        try:
            return _escape_surrogates(value)
        except (RecursionError, _FaultError) as error:
            self._raise_fault(str(error))

    def members(self) -> Iterator[str]:
        """Take an object: yield each name, with the cursor on its value, which the caller must take."""
        self._expect_character("{", "an object")
        seen: set[str] = set()
        names = 0
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                self._raise_fault(f"a property name in double quotes is expected{self._cut_off_hint()}")
            name = self.value()
            if name in seen:
                self._raise_fault(f"the property {readable(name)} is there twice")
            seen.add(name)
            names += self.taken
            self.check("max_document_values", len(seen), "the number of members of an object")
            self.check("max_document_bytes", names, "the size of the names in an object, in bytes")
            self._expect_character(":", "a colon")
            self._path.append(name)
            yield name
            self._path.pop()
            if self._take_separator("}"):
                return
            self._refuse_end_after_comma("}")

    def elements(self) -> Iterator[int]:
        """Take an array: yield each index, with the cursor on its value, which the caller must take."""
        self._expect_character("[", "an array")
        if self.peek() == "]":
            self._at += 1
            return
        index = 0
        while True:
            self._path.append(index)
            yield index
            self._path.pop()
            if self._take_separator("]"):
                return
            self._refuse_end_after_comma("]")
            index += 1

    def objects(self) -> Iterator[dict[str, object]]:
        """Take the rest, JSON Lines (values one after the other) or one array, whose items must be objects."""
        if self.peek() == "[":
            for _ in self.elements():
                yield self.object()
            self.end()
        while self.peek():
            yield self.object()

    def object(self) -> dict[str, object]:
        """Take the next value, which must be an object."""
        if self.peek() != "{":
            self._raise_fault(f"an object is expected{self._cut_off_hint()}")
        value: dict[str, object] = self.value()
        return value

    def skip(self, levels: int) -> None:
        """Take a value and forget it; its outermost levels part by part."""
        start = self.peek() if levels else ""
        if start == "{":
            for _ in self.members():
                self.skip(levels - 1)
        elif start == "[":
            for _ in self.elements():
                self.skip(levels - 1)
        else:
            self.value()

    def end(self) -> None:
        """Check that nothing but white space is left."""
        if self.peek():
            self._raise_fault("the text goes on after its end")

    def refuse(self, rule: str, value: Any = None) -> NoReturn:
        """Raise the error for a fault in what was just read or comes next."""
        self._raise_fault(rule, value=value)

    def raise_with_place(self, error: LimitExceededError) -> NoReturn:
        """Raise an error of what was just read, with its place."""
        self._raise_fault(str(error), kind=LimitExceededError)

    def _expect_character(self, char: str, name: str) -> None:
        if self.peek() != char:
            self._raise_fault(f"{name} is expected{self._cut_off_hint()}")
        self._at += 1

    def _take_separator(self, bracket: str) -> bool:
        char = self.peek()
        if char not in {",", bracket}:
            self._raise_fault(f"a comma or {bracket} is expected{self._cut_off_hint()}")
        self._at += 1
        return char == bracket

    def _refuse_end_after_comma(self, bracket: str) -> None:
        if self.peek() == bracket:
            self._raise_fault(f"there is a comma too many before this {bracket}")

    def _cut_off_hint(self) -> str:
        return "" if self.peek() else ", but the text ends here (cut off?)"

    def _fill_window(self) -> None:
        """Drop what was taken and read on: as much again as is left, so that long values take few rounds."""
        self._line, self._column = self._line_and_column(self._at)
        rest = self._text[self._at :]
        most = self.limits.max_document_bytes
        data = self._source.read(max(_CHUNK, min(len(rest), most - len(rest) + 1)))
        self._ended = not data
        self._text, self._at = rest, 0
        try:
            self._text += self._bytes.decode(data, self._ended)
        except UnicodeDecodeError as error:
            self._text += error.object[: error.start].decode()
            byte = error.object[error.start]
            self._raise_fault(
                f"the text is not UTF-8, its byte here is 0x{byte:02x}: convert it, as in iconv -f latin1 -t UTF-8",
                len(self._text),
            )

    def _line_and_column(self, at: int) -> tuple[int, int]:
        lines = self._text.count("\n", 0, at)
        if not lines:
            return self._line, self._column + at
        return self._line + lines, at - self._text.rfind("\n", 0, at)

    def _raise_fault(
        self,
        rule: str,
        at: int | None = None,
        value: Any = None,
        kind: type[StorageValidationError] = StorageValidationError,
    ) -> NoReturn:
        line, column = self._line_and_column(self._at if at is None else at)
        place = self.place
        where = f"line {line}, column {column}" + (f", in {place}" if place else "")
        given = f" (got {readable(value)})" if value is not None else ""
        raise kind(
            f"{self._source.name}: {where}: {rule}{given}", field=place or None, rule=rule, value=value
        )


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _FaultError(f"the property {readable(twice)} is there twice in one object")
    return found


def count_values_in(text: str) -> int:
    """Return how many values a JSON text has."""
    found = _TEXT.sub("", text)
    return _count_marks(found, 0, len(found))


def _count_marks(text: str, start: int, end: int) -> int:
    """Return how many values there are, at most: each but the first of all begins with a bracket or follows a comma."""
    return text.count(",", start, end) + text.count("[", start, end) + text.count("{", start, end)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _count_levels(value: Any) -> int:
    """Return how deep objects and lists nest."""
    level = [value]
    depth = 0
    while level:
        depth += 1
        level = [
            inner
            for item in level
            for inner in (item.values() if type(item) is dict else item)
            if type(inner) is dict or type(inner) is list
        ]
    return depth


def _longest_text(value: object) -> int:
    """Return the bytes of the longest text in a value, of the names too."""
    longest = 0
    for part in walk_json(value):
        if isinstance(part, str) and 4 * len(part) > longest:
            longest = max(longest, _bytes(part))
    return longest


def _refuse_constant(name: str) -> NoReturn:
    raise _FaultError(f"{name} is no JSON number")


def _parse_float(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _parse_integer(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _long_scanner() -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_unique_members,
        parse_constant=_refuse_constant,
        parse_float=_parse_float,
        parse_int=_parse_integer,
    )


def _escape_surrogates(value: object) -> Any:
    """Return `value` with each lone surrogate as its six character escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_escape_surrogates(item) for item in value]
    if isinstance(value, dict):
        return _unique_members(
            [(_escape_surrogates(name), _escape_surrogates(item)) for name, item in value.items()]
        )
    return value
