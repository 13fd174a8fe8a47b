"""Opens a report of any known format: finds out which it is, checks it whole, and streams its documents."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import PurePath
from types import TracebackType
from typing import IO, Any, BinaryIO, Literal, NamedTuple, Self, cast

from findings_orm.arguments import checked
from findings_orm.errors import StorageUnavailableError, StorageValidationError, readable
from findings_orm.formats import csv, jsonl, nuclei, sarif
from findings_orm.formats.base import MAX_HEAD_TEXT, Format, Head, Survey
from findings_orm.formats.jsonl import JSONL
from findings_orm.formats.volatile import move_to_provenance, names_of_paths
from findings_orm.imports.scopes import name_categories
from findings_orm.jsonstream import JsonReader
from findings_orm.limits import DEFAULT, FREE_BYTES, Limits
from findings_orm.port import Run

# -- where the bytes of a report come from: a path, standard input or a stream, made seekable -------------
# Reports are read twice (once to check and survey, once for the findings), so what can't be rewound is copied to
# a temporary file first. gzip is unpacked while reading; UTF-16 (RFC 8259 asks for UTF-8, but PowerShell's ``>``
# writes it) is recoded to a temporary file.


_COPY_SIZE = 1 << 20
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

PathOrStream = str | os.PathLike[str] | BinaryIO
"""What a report can be read from: a path (``-`` is standard input) or a stream of bytes."""


class Source:
    """A report as a seekable stream of UTF-8.

    Attributes:
        name: what to call it in messages.
        total: the number of bytes it has on disk or in the stream, or None where that is not known.
        size: how many bytes were read since the start, unpacked.

    Raises:
        StorageValidationError: it has more bytes than `limits` allow, or more for its compressed size.
        StorageUnavailableError: the file is missing or can't be read.
        StorageValidationError: the stream does not give bytes, or the gzip or UTF-16 in it is damaged.
    """

    def __init__(self, origin: PathOrStream, limits: Limits = DEFAULT) -> None:
        self._owned = ExitStack()
        self._limits = limits
        self._packed = False
        self.size = 0
        self.total: int | None = None
        self.closed = False
        try:
            self.name, self._raw = self._open_origin(origin)
            self._file = self._decode_file(self._raw)
        except Exception as error:
            self.close()
            own = translate_read_error(error, getattr(self, "name", readable(origin)))
            if own is error:
                raise
            raise own from error

    def _open_origin(self, origin: PathOrStream) -> tuple[str, IO[bytes]]:
        if isinstance(origin, (str, os.PathLike)) and os.fspath(origin) != "-":
            self.name = os.fspath(origin)
            opened: IO[bytes] = self._owned.enter_context(io.BufferedReader(io.FileIO(origin)))
        else:
            opened = sys.stdin.buffer if isinstance(origin, (str, os.PathLike)) else _binary_stream(origin)
            self.name = _stream_name(opened)
        seekable = opened.seekable() and opened.tell() == 0
        file = opened if seekable else self._copy_stream(opened)
        self.total = file.seek(0, io.SEEK_END)
        file.seek(0)
        return self.name, file

    def _copy_stream(self, stream: IO[bytes]) -> IO[bytes]:
        copy = self._temporary_file()
        while chunk := stream.read(_COPY_SIZE):
            self._count_bytes(chunk)
            copy.write(chunk)
        return copy

    def _temporary_file(self) -> IO[bytes]:
        return cast(IO[bytes], self._owned.enter_context(tempfile.TemporaryFile(prefix="findings-")))

    def _decode_file(self, raw: IO[bytes]) -> IO[bytes]:
        file = raw
        start = raw.read(4)
        raw.seek(0)
        if start[:2] == b"\x1f\x8b":
            self._packed = True
            file = cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="rb"))
            start = file.read(4)
            file.seek(0)
        encoding = _UTF16.get(start[:2])
        return self._recode_file(file, encoding) if encoding else file

    def _recode_file(self, file: IO[bytes], encoding: str) -> IO[bytes]:
        decoder = codecs.getincrementaldecoder(encoding)()
        copy = self._temporary_file()
        self.size = 0
        while chunk := file.read(_COPY_SIZE):
            self._count_bytes(chunk)
            copy.write(decoder.decode(chunk).encode())
        copy.write(decoder.decode(b"", final=True).encode())
        copy.seek(0)
        return copy

    def rewind(self) -> None:
        """Go back to the first byte."""
        if self.closed:
            raise StorageValidationError(f"{self.name}: the report is closed")
        self._file.seek(0)
        self.size = 0

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, ``b""`` at the end."""
        if self.closed:
            raise StorageValidationError(f"{self.name}: the report is closed")
        try:
            data = self._file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise translate_read_error(error, self.name) from error
        self._count_bytes(data)
        return data

    def _count_bytes(self, data: bytes) -> None:
        self.size += len(data)
        self._limits.check(
            "max_report_bytes", self.size, f"{self.name}: the size of the report, in bytes, is at least"
        )
        if self._packed and self.size > FREE_BYTES:
            times = self.size // max(1, self._raw.tell())
            self._limits.check(
                "max_expansion_ratio", times, f"{self.name}: unpacked it is larger, by a factor of at least"
            )

    @property
    def position(self) -> int:
        """How many of the `total` bytes are read."""
        return 0 if self.closed else self._raw.tell()

    def close(self) -> None:
        """Close what this object opened; a stream of the caller stays open."""
        self.closed = True
        self._owned.close()


def translate_read_error(error: Exception, name: str) -> Exception:
    """Return the package's own error for one of reading, or `error` itself where it is none of these."""
    if isinstance(error, (gzip.BadGzipFile, EOFError, zlib.error)):
        return StorageValidationError(f"{name}: the gzip data is damaged or cut off: {error}")
    if isinstance(error, UnicodeError):
        return StorageValidationError(f"{name}: the UTF-16 text is damaged: {error}")
    if isinstance(error, OSError):
        return StorageUnavailableError(f"{name}: can't be read: {error.strerror or error}")
    if isinstance(error, (ValueError, TypeError)):  # a name with a NUL, a closed stream, one that gives text
        return StorageValidationError(f"{name!a}: can't be read: {error}")
    return error


def _binary_stream(stream: object) -> IO[bytes]:
    buffer = getattr(stream, "buffer", stream)
    if isinstance(buffer, io.TextIOBase) or not hasattr(buffer, "read"):
        raise StorageValidationError(
            f"a report is read from a path or a stream of bytes, not from {type(stream).__name__}"
        )
    return cast(IO[bytes], buffer)


def _stream_name(stream: IO[bytes]) -> str:
    name = getattr(stream, "name", None)
    return name if isinstance(name, str) else "the report"


# -- the formats that there are, in the order in which they are named and asked whether a report is theirs


KNOWN: dict[str, Format] = {
    known.name: known for known in (sarif.SARIF, nuclei.NUCLEI, jsonl.JSONL, jsonl.LAYOUT, csv.CSV)
}
"""Every format by its name. A new one is a module with a `Format`, and its place here."""

FORMATS = tuple(name for name, known in KNOWN.items() if known.can_be("read"))
"""The names of the formats that can be read."""

EXPORT_FORMATS = tuple(name for name, known in KNOWN.items() if known.can_be("written"))
"""The names of the formats that can be written."""

VERSIONED_FORMATS = tuple(name for name, known in KNOWN.items() if known.has_versions)
"""The names of the formats that can be written in older schema versions."""


def find_format(name: str, use: Literal["read", "written"]) -> Format:
    """Return the format of a name.

    Raises:
        StorageValidationError: there is none that can be read, or written; names those that can.
    """
    known = KNOWN.get(name)
    if known is None or not known.can_be(use):
        names = ", ".join(FORMATS if use == "read" else EXPORT_FORMATS)
        raise StorageValidationError(
            f"{readable(name)} is no format that can be {use}; known are {names}",
            field="format",
            rule=f"must be one of {names}",
            value=name,
        )
    return known


@checked
def export_format_of(path: PurePath | None) -> str:
    """Return the name of the format in which a file is written by its ending; JSON Lines where that says nothing."""
    ending = path.suffix.lower() if path is not None else ""
    return next((name for name in EXPORT_FORMATS if ending in KNOWN[name].endings), jsonl.JSONL.name)


# -- opens a report of any known format: finds out which it is, checks it whole, and streams its documents


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
        run: detectors, tools, time and category of the scan, as `ingest` takes them from here where its argument does not say
            them.
        total: how many documents it has.
        notes: what was not read or can't be told from the report, for people.
        legacy: it has documents that look like those of schema 0.3.0, which `import_legacy` reads.
    """

    @checked
    def __init__(
        self,
        source: Source,
        format: Format,
        survey: Survey,
        limits: Limits = DEFAULT,
        volatile: Iterable[str] = (),
    ) -> None:
        self._source = source
        self._volatile = names_of_paths(volatile)
        self._format = format
        self._limits = limits
        self._survey = survey
        self.name = source.name
        self.format = format.name
        self.detectors = survey.detectors
        self.tool = survey.tool
        category, categories = name_categories(survey.scopes)
        self.run = Run(
            detectors=tuple(survey.detectors),
            started_at=survey.started_at,
            tool=_tools_as_one(survey.tool),
            category=category,
            categories=categories,
        )
        self.total = survey.total
        self.notes = survey.notes
        self.legacy = survey.legacy

    def __iter__(self) -> Iterator[dict[str, Any]]:
        reader = _start_reader(self._source, self._format, self._limits, again=True)
        documents = self._format.read(reader, self._survey)
        if not self._volatile:
            return documents
        return (move_to_provenance(document, self._volatile) for document in documents)

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


def _tools_as_one(tools: list[dict[str, object]]) -> Mapping[str, object]:
    """Return what a report says of its tools as one object."""
    if len(tools) == 1:
        return tools[0]
    return {"tools": tools} if tools else {}


@checked
def open_report(
    path_or_stream: PathOrStream,
    format: str | None = None,
    *,
    limits: Limits = DEFAULT,
    volatile: Iterable[str] = (),
) -> Report:
    """Open a report and check that it is whole.

    Args:
        path_or_stream: a path, ``-`` for standard input, or a stream of bytes. gzip and UTF-16 are unpacked.
        format: one of `FORMATS`; None tells by the content.
        limits: how large the report and what is in it may be.
        volatile: members of the evidence that change at each scan, as ``evidence.scan.time``, of documents of this package
            (``jsonl``): they go to the provenance, where they are no change. The readers of other formats know theirs.

    Raises:
        StorageValidationError: `volatile` names no member of the evidence, or the format is another one.
        StorageValidationError: something is beyond a limit (names it, what was found, and where).
        StorageValidationError: the format is not known or not to be told, or the text is broken: not JSON, cut
            off, not of this format. Names line, column and place.
        StorageUnavailableError: the file is missing or can't be read.
    """
    asked = None if format is None else find_format(format, "read")
    paths = tuple(volatile)
    names_of_paths(paths)
    source = Source(path_or_stream, limits)
    try:
        seen = _look_at_start(_start_reader(source, None, limits))
        chosen = _choose_format(source.name, asked, seen)
        if paths and not chosen.is_strict:
            raise StorageValidationError.of_field(
                "volatile",
                f"must be left out: the reader of {chosen.name} knows what changes at each scan",
                paths,
            )
        return Report(source, chosen, _survey(source, chosen, seen.head, limits), limits, paths)
    except BaseException:
        source.close()
        raise


_OWN_FORMS = {
    ("SchemaVersion", "ArtifactName"): "trivy writes SARIF with --format sarif",
    ("matches", "descriptor"): "grype writes SARIF with -o sarif",
    ("results", "errors", "generated_at", "metrics"): "bandit writes SARIF with -f sarif",
    ("results", "errors", "paths", "version"): "semgrep writes SARIF with --sarif",
    ("check_type", "results", "summary"): "checkov writes SARIF with -o sarif",
    ("Golang errors", "Issues"): "gosec writes SARIF with -fmt sarif",
    ("scan_info", "warnings"): "brakeman writes SARIF with -f sarif",
    ("reportSchema", "scanInfo", "dependencies"): "dependency-check writes SARIF with --format SARIF",
    ("vulnerabilities", "dependencyCount"): "snyk writes SARIF with --sarif",
    ("RuleID", "Fingerprint", "Match"): "gitleaks writes SARIF with --report-format sarif",
    ("filePath", "messages", "errorCount"): "eslint writes SARIF with -f @microsoft/eslint-formatter-sarif",
    ("cell", "code", "filename", "noqa_row"): "ruff writes SARIF with --output-format sarif",
    ("code", "column", "file", "level"): "hadolint writes SARIF with -f sarif",
}
"""Properties that give away a tool's own form of report, and what writes one that can be read here."""


class _Seen(NamedTuple):
    """What the start of a text looks like.

    Attributes:
        format: the format, if it is a known one.
        what: what else it is, in words.
        way_out: how to get a report that can be read, where that is known.
        head: its first object, as far as it was read.
        is_empty: it is an empty array, which may be any format that has arrays.
    """

    format: Format | None
    what: str
    head: Head
    is_empty: bool = False
    way_out: str = ""


def _choose_format(name: str, asked: Format | None, seen: _Seen) -> Format:
    """Return the format to read: the one asked for unless the text is another, else the one seen."""
    rule = f"must be one of {', '.join(FORMATS)}"
    if asked and seen.format and asked != seen.format:
        raise StorageValidationError(
            f"{name}: it is {seen.format.name}, not {asked.name}", field="format", rule=rule
        )
    chosen = asked or seen.format or (JSONL if seen.is_empty else None)
    if chosen is None:
        raise StorageValidationError(
            f"{name}: {seen.what}, which is none of the known formats: {', '.join(FORMATS)}{seen.way_out}",
            rule=rule,
        )
    return chosen


def _start_reader(
    source: Source, format: Format | None, limits: Limits, *, again: bool = False
) -> JsonReader:
    source.rewind()
    return JsonReader(source, lenient=format is None or not format.is_strict, limits=limits, again=again)


def _survey(source: Source, format: Format, head: Head, limits: Limits) -> Survey:
    found = format.survey(_start_reader(source, format, limits), head)
    found.size = source.size
    return found


def _look_at_start(reader: JsonReader) -> _Seen:
    """Tell the format by the first object, which is read no further than needed."""
    start = reader.peek()
    if start == "{":
        return _look_at_object(reader, Head(is_top=True))
    head = Head(is_top=False)
    if not start:
        return _Seen(
            None,
            "it is empty",
            head,
            way_out="; of a tool that found nothing, name the format (--format, format=)",
        )
    if start != "[":
        return _Seen(None, f"it starts with {readable(reader.peek_text())}", head)
    for _ in reader.elements():
        if reader.peek() == "{":
            return _look_at_object(reader, head)
        return _Seen(None, f"it is an array that starts with {readable(reader.value())}", head)
    return _Seen(None, "it is an empty array", head, is_empty=True)


def _look_at_object(reader: JsonReader, head: Head) -> _Seen:
    for name in reader.members():
        head.values[name] = None
        format = _recognize_format(head)
        if format:
            return _Seen(format, "", head)
        value = reader.value()
        if isinstance(value, str) and len(value) <= MAX_HEAD_TEXT:
            head.values[name] = value
    head.is_complete = True
    names = ", ".join(islice(head.values, 10))[:200] or "no properties"
    kind = "an object" if head.is_top else "an array of objects"
    tool = next((tool for given, tool in _OWN_FORMS.items() if head.values.keys() >= set(given)), None)
    way_out = f"; {tool}" if tool else ""
    return _Seen(_recognize_format(head), f"it is {kind} with {names}", head, way_out=way_out)


def _recognize_format(head: Head) -> Format | None:
    """Return the format that what was read of the first object gives away."""
    return next((known for known in KNOWN.values() if known.recognize_report(head)), None)
