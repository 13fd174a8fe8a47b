"""Opens a report of any known format: finds out which it is, checks it whole, and streams its documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Self

from findings_orm.arguments import checked
from findings_orm.errors import StorageValidationError, readable
from findings_orm.formats import jsonl, nuclei, sarif
from findings_orm.formats.reading import PathOrStream, Source
from findings_orm.formats.survey import Survey
from findings_orm.jsonstream import JsonReader
from findings_orm.layout import VERSION_KEYS
from findings_orm.limits import DEFAULT, Limits

FORMATS = ("sarif", "nuclei", "jsonl")
"""The names of the formats that can be read."""

_SARIF_KEYS = frozenset({"runs", "inlineExternalProperties"})
_LEGACY_KEYS = frozenset({"pid", "ts"})
_NUCLEI_KEYS = frozenset({"info", "host"})


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

    def __init__(self, source: Source, format: str, survey: Survey, limits: Limits = DEFAULT) -> None:
        self._source = source
        self._limits = limits
        self._survey = survey
        self.name = source.name
        self.format = format
        self.detectors = survey.detectors
        self.tool = survey.tool
        self.total = survey.total
        self.notes = survey.notes
        self.legacy = survey.legacy

    def __iter__(self) -> Iterator[dict[str, Any]]:
        reader = _reader(self._source, self.format, self._limits, again=True)
        if self.format == "sarif":
            return sarif.documents(reader, self._survey)
        if self.format == "nuclei":
            return nuclei.documents(reader)
        return jsonl.documents(reader, self._survey)

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
    if format is not None and format not in FORMATS:
        raise StorageValidationError(
            f"{readable(format)} is no format that can be read; known are {', '.join(FORMATS)}",
            field="format",
            rule=f"must be one of {', '.join(FORMATS)}",
            value=format,
        )
    source = Source(path_or_stream, limits)
    try:
        seen = _look(_reader(source, None, limits))
        chosen = _chosen(source.name, format, seen)
        return Report(source, chosen, _survey(source, chosen, seen, limits), limits)
    except BaseException:
        source.close()
        raise


class _Seen(NamedTuple):
    """What the start of a text looks like.

    Attributes:
        format: the format, if it is a known one.
        what: the same in words.
        layout: it is a store layout.
        empty: it is an empty array, which may be any format that has arrays.
    """

    format: str | None
    what: str
    layout: bool = False
    empty: bool = False


def _chosen(name: str, format: str | None, seen: _Seen) -> str:
    """Return the format to read: the one asked for unless the text is another, else the one seen."""
    rule = f"must be one of {', '.join(FORMATS)}"
    if format is None and seen.empty:
        return "jsonl"
    if format is None and seen.format is None:
        raise StorageValidationError(
            f"{name}: {seen.what}, which is none of the known formats: {', '.join(FORMATS)}", rule=rule
        )
    if format and seen.format and format != seen.format:
        raise StorageValidationError(f"{name}: it is {seen.format}, not {format}", field="format", rule=rule)
    return format or str(seen.format)


def _reader(source: Source, format: str | None, limits: Limits, *, again: bool = False) -> JsonReader:
    source.rewind()
    return JsonReader(source, lenient=format != "jsonl", limits=limits, again=again)


def _survey(source: Source, format: str, seen: _Seen, limits: Limits) -> Survey:
    reader = _reader(source, format, limits)
    if format == "sarif":
        found = sarif.survey(reader)
    elif format == "nuclei":
        found = nuclei.survey(reader)
    else:
        found = jsonl.survey(reader, layout=seen.layout)
    found.size = source.size
    return found


def _look(reader: JsonReader) -> _Seen:
    """Tell the format by the first object, which is read no further than needed."""
    start = reader.peek()
    if start == "{":
        return _look_at_object(reader, top=True)
    if start != "[":
        return _Seen(None, f"it starts with {readable(reader.ahead())}" if start else "it is empty")
    for _ in reader.elements():
        if reader.peek() == "{":
            return _look_at_object(reader, top=False)
        return _Seen(None, f"it is an array that starts with {readable(reader.value())}")
    return _Seen(None, "it is an empty array", empty=True)


def _look_at_object(reader: JsonReader, *, top: bool) -> _Seen:
    keys: dict[str, None] = {}
    for name in reader.members():
        keys[name] = None
        format = _format_of(name, keys, top)
        if format:
            return _Seen(format, "", layout=top and "findings" in keys)
        value = reader.value()
        if top and name == "$schema" and "sarif" in str(value).lower():
            return _Seen("sarif", "")
    if keys.keys() >= _NUCLEI_KEYS:
        return _Seen("nuclei", "")
    names = ", ".join(islice(keys, 10))[:200] or "no properties"
    kind = "an object" if top else "an array of objects"
    return _Seen(None, f"it is {kind} with {names}", layout=top and "findings" in keys)


def _format_of(name: str, keys: Mapping[str, None], top: bool) -> str | None:
    """Return the format that the property `name` gives away, after `keys` with it."""
    if top and name in _SARIF_KEYS:
        return "sarif"
    if name in nuclei.TEMPLATE_KEYS:
        return "nuclei"
    layout = top and "findings" in keys and any(key in keys for key in VERSION_KEYS)
    if name == "detector_id" or layout or keys.keys() >= _LEGACY_KEYS:
        return "jsonl"
    return None
