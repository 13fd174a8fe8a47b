"""What a format is: how it is called, recognised, read and written."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, NoReturn, TextIO

from findings_orm.errors import StorageUnavailableError, StorageValidationError
from findings_orm.imports.scopes import Scope
from findings_orm.jsonstream import JsonReader

# -- what a first reading of a report finds out: it is whole, how much is in it, and whose it is ----------


@dataclass
class Survey:
    """The result of reading a report once.

    Attributes:
        total: how many documents it has.
        size: how many bytes it has, unpacked.
        detectors: the detector_ids that it speaks for.
        scopes: the detectors with the categories that it speaks for, where its format has any.
        named: how many bytes the names of tools have.
        tool: for each run of a tool its name, version and the like, as JSON.
        started_at: when the first of these runs began (RFC 3339, UTC), where the report says that.
        notes: what was left out or can't be told, for people.
        legacy: it has documents that look like those of schema 0.3.0.
        context: what the second reading needs to know, per format.
    """

    total: int = 0
    size: int = 0
    named: int = 0
    detectors: list[str] = field(default_factory=list)
    scopes: set[Scope] = field(default_factory=set)
    tool: list[dict[str, object]] = field(default_factory=list)
    started_at: str = ""
    notes: list[str] = field(default_factory=list)
    legacy: bool = False
    context: Any = None


# -- where an export goes: a stream of bytes or of text ---------------------------------------------------


Stream = BinaryIO | TextIO
"""What an export is written to; a stream of bytes gets UTF-8."""


class TextSink:
    """Writes text to a stream of either kind.

    Raises:
        StorageUnavailableError: writing failed: disk full, pipe closed.
    """

    def __init__(self, stream: Stream) -> None:
        if not callable(getattr(stream, "write", None)):
            raise StorageValidationError.of_field("stream", "must be a stream that can be written", stream)
        self._stream = stream
        self._is_text = isinstance(stream, io.TextIOBase) or hasattr(stream, "encoding")

    def write(self, text: str) -> int:
        """Write `text` and return its length."""
        try:
            self._stream.write(text if self._is_text else text.encode())  # type: ignore[arg-type]
        except OSError as error:
            raise StorageUnavailableError(f"writing failed: {error.strerror or error}") from error
        return len(text)


# -- what a format is: how it is called, recognised, read and written -------------------------------------


MAX_HEAD_TEXT = 1_000
"""How many characters a text may have to be kept in a `Head`: one object may be as large as the whole report."""


@dataclass
class Head:
    """What the first object of a report shows until a format recognises it.

    Attributes:
        is_top: the object is the whole text, or the first of several; not the first item of an array.
        values: the properties read so far, with their value where it is a short text (`MAX_HEAD_TEXT`), else None. The
            last one has no value yet: it is read only when no format recognises the report by its name.
        is_complete: all properties were read.
    """

    is_top: bool
    values: dict[str, str | None] = field(default_factory=dict)
    is_complete: bool = False

    @property
    def last_name(self) -> str | None:
        """The name of the property read last."""
        return next(reversed(self.values), None)

    @property
    def is_layout(self) -> bool:
        """The object has findings, as a store layout has."""
        return self.is_top and "findings" in self.values


def _refuse_use(*_: object) -> NoReturn:
    """What a format has in place of what it can't do; `report.find_format` keeps callers from here."""
    raise StorageValidationError("the format can't do this", field="format")


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of reports, of exports, or of both.

    Attributes:
        name: what ``--format`` calls it.
        summary: what it is, in a few words.
        endings: the endings of file names, with their dot, by which an export chooses it.
        recognize_report: tells by the first object of a text whether it is of this format.
        survey: reads a report once, up to its end, and says what is in it.
        read: reads it again and yields its documents.
        is_strict: a text holds documents, and what no document can hold is refused, not replaced.
        write: writes documents of a schema version to a stream and returns how many there were.
        has_versions: it can be written in older schema versions.
    """

    name: str
    summary: str
    endings: tuple[str, ...] = ()
    recognize_report: Callable[[Head], bool] = lambda _: False
    survey: Callable[[JsonReader, Head], Survey] = _refuse_use
    read: Callable[[JsonReader, Survey], Iterator[dict[str, object]]] = _refuse_use
    is_strict: bool = False
    write: Callable[[Iterable[Mapping[str, object]], Stream, str], int] = _refuse_use
    has_versions: bool = False

    def can_be(self, use: Literal["read", "written"]) -> bool:
        """Return whether it can be read, or written."""
        return (self.read if use == "read" else self.write) is not _refuse_use
