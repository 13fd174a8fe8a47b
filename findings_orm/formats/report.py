"""Opens a report of any known format: finds out which it is, checks it whole, and streams its documents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Self

from findings_orm.arguments import checked
from findings_orm.errors import StorageValidationError, readable
from findings_orm.formats.base import MAX_HEAD_TEXT, Format, Head
from findings_orm.formats.jsonl import JSONL
from findings_orm.formats.known import FORMATS, KNOWN, find_format
from findings_orm.formats.reading import PathOrStream, Source
from findings_orm.formats.survey import Survey
from findings_orm.jsonstream import JsonReader
from findings_orm.limits import DEFAULT, Limits


class Report:
    """The documents of a report, read as they are asked for.

    The report was read once already, so a fault anywhere in it has shown by now, and `total` and `detectors` are
    known. Iterating reads it again from the start, with memory for one result at a time (and for what results
    refer to: rules, the names of artifacts); one iteration at a time.

    What is yielded is a plain dict that the caller may change: for scanner reports of the current schema and
    without `id`, `project_id` and `run_id`, with `created_at` only where the report gives a time; for ``jsonl`` as
    it is in the file.

    Attributes:
        name: the path, or what the stream is called.
        format: one of `FORMATS`.
        detectors: the detector_ids that the report speaks for, even with no results.
        tool: a JSON object for each run of a tool: `name`, `detector_id`, `version`, for SARIF also
            `information_uri` and `successful` (whether the tool says that it ran without failure).
        total: how many documents it has.
        notes: what was not read or can't be told from the report, for people.
        legacy: it has documents that look like those of schema 0.3.0, which `import_legacy` reads.
    """

    @checked
    def __init__(self, source: Source, format: Format, survey: Survey, limits: Limits = DEFAULT) -> None:
        self._source = source
        self._format = format
        self._limits = limits
        self._survey = survey
        self.name = source.name
        self.format = format.name
        self.detectors = survey.detectors
        self.tool = survey.tool
        self.total = survey.total
        self.notes = survey.notes
        self.legacy = survey.legacy

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._format.read(_reader(self._source, self._format, self._limits, again=True), self._survey)

    def __len__(self) -> int:
        return self.total

    @property
    def position(self) -> tuple[int, int | None]:
        """How many bytes this iteration has read, of how many (None where unknown)."""
        return self._source.position, self._source.total

    def close(self) -> None:
        """Close the file; a stream that the caller gave stays open."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@checked
def open_report(
    path_or_stream: PathOrStream, format: str | None = None, *, limits: Limits = DEFAULT
) -> Report:
    """Open a report and check that it is whole.

    Args:
        path_or_stream: a path, ``-`` for standard input, or a stream of bytes. gzip and UTF-16 are unpacked.
        format: one of `FORMATS`; None tells by the content.
        limits: how large the report and what is in it may be.

    Raises:
        StorageValidationError: something is beyond a limit (names it, what was found, and where).
        StorageValidationError: the format is not known or not to be told, or the text is broken: not JSON, cut
            off, not of this format. Names line, column and place.
        StorageUnavailableError: the file is missing or can't be read.
    """
    asked = None if format is None else find_format(format, "read")
    source = Source(path_or_stream, limits)
    try:
        seen = _look(_reader(source, None, limits))
        chosen = _chosen(source.name, asked, seen)
        return Report(source, chosen, _survey(source, chosen, seen.head, limits), limits)
    except BaseException:
        source.close()
        raise


class _Seen(NamedTuple):
    """What the start of a text looks like.

    Attributes:
        format: the format, if it is a known one.
        what: what else it is, in words.
        head: its first object, as far as it was read.
        is_empty: it is an empty array, which may be any format that has arrays.
    """

    format: Format | None
    what: str
    head: Head
    is_empty: bool = False


def _chosen(name: str, asked: Format | None, seen: _Seen) -> Format:
    """Return the format to read: the one asked for unless the text is another, else the one seen."""
    rule = f"must be one of {', '.join(FORMATS)}"
    if asked and seen.format and asked != seen.format:
        raise StorageValidationError(
            f"{name}: it is {seen.format.name}, not {asked.name}", field="format", rule=rule
        )
    chosen = asked or seen.format or (JSONL if seen.is_empty else None)
    if chosen is None:
        raise StorageValidationError(
            f"{name}: {seen.what}, which is none of the known formats: {', '.join(FORMATS)}", rule=rule
        )
    return chosen


def _reader(source: Source, format: Format | None, limits: Limits, *, again: bool = False) -> JsonReader:
    source.rewind()
    return JsonReader(source, lenient=format is None or not format.is_strict, limits=limits, again=again)


def _survey(source: Source, format: Format, head: Head, limits: Limits) -> Survey:
    found = format.survey(_reader(source, format, limits), head)
    found.size = source.size
    return found


def _look(reader: JsonReader) -> _Seen:
    """Tell the format by the first object, which is read no further than needed."""
    start = reader.peek()
    if start == "{":
        return _look_at_object(reader, Head(is_top=True))
    head = Head(is_top=False)
    if start != "[":
        return _Seen(None, f"it starts with {readable(reader.ahead())}" if start else "it is empty", head)
    for _ in reader.elements():
        if reader.peek() == "{":
            return _look_at_object(reader, head)
        return _Seen(None, f"it is an array that starts with {readable(reader.value())}", head)
    return _Seen(None, "it is an empty array", head, is_empty=True)


def _look_at_object(reader: JsonReader, head: Head) -> _Seen:
    for name in reader.members():
        head.values[name] = None
        format = _recognized(head)
        if format:
            return _Seen(format, "", head)
        value = reader.value()
        if isinstance(value, str) and len(value) <= MAX_HEAD_TEXT:
            head.values[name] = value
    head.is_complete = True
    names = ", ".join(islice(head.values, 10))[:200] or "no properties"
    kind = "an object" if head.is_top else "an array of objects"
    return _Seen(_recognized(head), f"it is {kind} with {names}", head)


def _recognized(head: Head) -> Format | None:
    """Return the format that what was read of the first object gives away."""
    return next((known for known in KNOWN.values() if known.recognize(head)), None)
