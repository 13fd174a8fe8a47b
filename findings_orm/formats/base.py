"""What a format is: how it is called, recognised, read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from findings_orm.errors import StorageValidationError
from findings_orm.formats.survey import Survey
from findings_orm.formats.writing import Stream
from findings_orm.jsonstream import JsonReader

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
    def last(self) -> str | None:
        """The name of the property read last."""
        return next(reversed(self.values), None)

    @property
    def is_layout(self) -> bool:
        """The object has findings, as a store layout has."""
        return self.is_top and "findings" in self.values


def _refuse(*_: Any) -> NoReturn:
    """What a format has in place of what it can't do; `known.find_format` keeps callers from here."""
    raise StorageValidationError("the format can't do this", field="format")


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of reports, of exports, or of both.

    Attributes:
        name: what ``--format`` calls it.
        summary: what it is, in a few words.
        endings: the endings of file names, with their dot, by which an export chooses it.
        recognize: tells by the first object of a text whether it is of this format.
        survey: reads a report once, up to its end, and says what is in it.
        read: reads it again and yields its documents.
        is_strict: a text holds documents, and what no document can hold is refused, not replaced.
        write: writes documents of a schema version to a stream and returns how many there were.
        has_versions: it can be written in older schema versions.
    """

    name: str
    summary: str
    endings: tuple[str, ...] = ()
    recognize: Callable[[Head], bool] = lambda _: False
    survey: Callable[[JsonReader, Head], Survey] = _refuse
    read: Callable[[JsonReader, Survey], Iterator[dict[str, Any]]] = _refuse
    is_strict: bool = False
    write: Callable[[Iterable[Mapping[str, Any]], Stream, str], int] = _refuse
    has_versions: bool = False

    def can(self, use: Literal["read", "written"]) -> bool:
        """Return whether it can be read, or written."""
        return (self.read if use == "read" else self.write) is not _refuse
