from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from findings_orm import jsonstream
from findings_orm.errors import StorageError, StorageUnavailableError, StorageValidationError
from findings_orm.formats import FORMATS, open_report
from findings_orm.formats.report import Source
from findings_orm.jsonstream import JsonReader

DOCUMENT = {"detector_id": "scan.x", "title": "t", "severity": "low"}
LINE = json.dumps(DOCUMENT).encode()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reader(text: str | bytes, **options: Any) -> JsonReader:
    return JsonReader(Source(io.BytesIO(text if isinstance(text, bytes) else text.encode())), **options)


def members(source: JsonReader) -> dict[str, Any]:
    found = {name: source.value() for name in source.members()}
    source.end()
    return found


@pytest.fixture(params=[1, 2, 3, 7, 1 << 18])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(jsonstream, "_CHUNK", request.param)
    return int(request.param)


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2.0, -3e5, true, false, null, "x\\u00e9\\ud83d\\ude00\\n"], "b": {}, "c": []}',
        "[12345678901234567890123456789, 1.0, 1, 1e0, -0.5]",
        ' {"long": "' + "é" * 500 + '", "after": 1} ',
        "123",
        "null",
    ],
)
def test_a_value_is_what_the_standard_library_reads_wherever_the_window_ends(text: str) -> None:
    source = reader(text)
    value = source.value()
    source.end()
    assert repr(value) == repr(json.loads(text))


@example(value=0.0, size=1, ascii_only=False)  # the window ends inside a number
@given(VALUES, st.integers(1, 30), st.booleans())
def test_any_json_is_read_through_any_window(value: Any, size: int, ascii_only: bool) -> None:
    text = json.dumps({"items": [value, value]}, ensure_ascii=ascii_only, indent=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonstream, "_CHUNK", size)
        source = reader(text)
        found = [source.value() for _ in source.members() for _ in source.elements()]
    assert repr(found) == repr([value, value])


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('{\n "a": [1,\n  2 3]}', "line 3, column 5, in a", "','"),
        ('{\n "a": {"b": tru}}', "line 2, column 13, in a", "Expecting value"),
        ('{"a": "x', "line 1, column 7, in a", "cut off"),
        ('{"a": [1, 2', "in a", "cut off"),
        ('{"a": 1', "line 1, column 8", "cut off"),
        ('{"a": 1, 2: 3}', "line 1, column 10", "property name"),
        ('{"a": 1, "a": 2}', "", "'a' is there twice"),
        ('{"a": {"b": 1, "b": 2}}', "in a", "'b' is there twice"),
        ('{"a": NaN}', "in a", "NaN"),
        ('{"a": [Infinity]}', "in a", "Infinity"),
        ('{"a": 1}}', "line 1, column 9", "goes on"),
        ('{"a": ' + "9" * 5000 + "}", "in a", "digits"),
        ('{"a": ' + "[" * 200_000 + "}", "in a", "nest too deep"),
        ('{"a": "\t"}', "line 1, column 8, in a", "control character"),
    ],
)
def test_a_fault_is_refused_with_its_place(text: str, place: str, words: str) -> None:
    with pytest.raises(StorageValidationError) as caught:
        members(reader(text))
    assert place in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.usefixtures("window")
def test_a_fault_in_the_encoding_has_its_place() -> None:
    with pytest.raises(
        StorageValidationError, match=r"line 2, column 3.* not UTF-8, .* 0xe9: convert it, .*iconv"
    ):
        reader(b'[\n "\xe9"]').value()


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize(
    "text", ["[1,\n]", "[1 ,\n ]", '{"a": 1,\n}', '[{"a": [1,\n]}]', '{"a": {"b": 1,\n} }']
)
def test_a_comma_too_many_is_named(text: str) -> None:
    for take in (lambda: reader(text).value(), lambda: reader(text).skip(1), lambda: reader(text).skip(9)):
        with pytest.raises(
            StorageValidationError, match=r"line 2, column \d.*: there is a comma too many before this [\]}]"
        ):
            take()


def test_lenient_reading_keeps_what_a_document_cannot_hold_as_text() -> None:
    text = '["\\ud800x", {"\\uDFFF": 1e999}, ' + "7" * 5000 + ', "\\ud83d\\ude00"]'
    assert reader(text, lenient=True).value() == ["\\ud800x", {"\\udfff": "1e999"}, "7" * 5000, "\U0001f600"]


def test_lenient_reading_does_not_merge_two_names() -> None:
    with pytest.raises(StorageValidationError, match="twice"):
        reader('{"\\ud800": 1, "\\\\ud800": 2}', lenient=True).value()


class Pipe(io.RawIOBase):
    """A stream that can't be rewound, as standard input is."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._data.read(min(len(buffer), 5))
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize(
    "data",
    [
        LINE,
        b"\xef\xbb\xbf" + LINE,
        LINE.decode().encode("utf-16"),
        b"\xfe\xff" + LINE.decode().encode("utf-16-be"),
        gzip.compress(LINE, mtime=0),
        gzip.compress(LINE.decode().encode("utf-16"), mtime=0),
        b"\n\n  " + LINE + b"\n\n" + b"\r\n",
        b"[" + LINE + b"]",
    ],
)
@pytest.mark.parametrize("seekable", [True, False])
def test_a_report_is_read_from_every_kind_of_stream(data: bytes, seekable: bool) -> None:
    stream: Any = io.BytesIO(data) if seekable else Pipe(data)
    with open_report(stream) as report:
        assert list(report) == [DOCUMENT]
        assert list(report) == [DOCUMENT]
        assert report.total == len(report) == 1
        assert report.position == (len(data), len(data))
    assert not stream.closed


def test_a_stream_in_the_middle_is_read_from_there() -> None:
    stream = io.BytesIO(b"garbage" + LINE)
    stream.seek(7)
    with open_report(stream) as report:
        assert list(report) == [DOCUMENT]


def test_standard_input_is_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINE)))
    with open_report("-") as report:
        assert list(report) == [DOCUMENT]


@pytest.mark.parametrize("kind", ["str", "path"])
def test_a_path_is_text_or_a_path(tmp_path: Any, kind: str) -> None:
    path = tmp_path / "report"
    path.write_bytes(LINE)
    with open_report(str(path) if kind == "str" else path) as report:
        assert list(report) == [DOCUMENT]
        assert report.name == str(path)


def test_an_open_file_is_not_closed(tmp_path: Any) -> None:
    path = tmp_path / "report"
    path.write_bytes(LINE)
    with path.open("rb") as file:
        with open_report(file) as report:
            assert report.name == str(path)
        assert not file.closed


def test_a_closed_report_says_so() -> None:
    report = open_report(io.BytesIO(LINE))
    half = iter(report)
    report.close()
    for reading in (lambda: next(half), lambda: list(report)):
        with pytest.raises(StorageValidationError, match="closed"):
            reading()


def test_a_missing_file_is_unavailable(tmp_path: Any) -> None:
    with pytest.raises(StorageUnavailableError, match=r"no\.sarif: can't be read: No such file"):
        open_report(tmp_path / "no.sarif")
    with pytest.raises(StorageUnavailableError, match="directory"):
        open_report(tmp_path)


@pytest.mark.parametrize(
    "stream",
    [io.StringIO("{}"), 7, None, "a\0b", os.devnull, io.BytesIO()],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_report_is_refused(stream: Any) -> None:
    with pytest.raises(StorageError):
        open_report(stream)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(LINE, mtime=0)[:-9], "gzip"),
        (gzip.compress(LINE, mtime=0)[:12] + b"xxxxxxxxxxxx", "gzip"),
        (b"\x1f\x8b", "gzip"),
        (b"\xff\xfe\x00\xd8", "UTF-16"),
        (b"\xff\xfea", "UTF-16"),
        (b"", f"it is empty, which is none of the known formats: {', '.join(FORMATS)}"),
        (b"  \n", "it is empty"),
        (b"", "of a tool that found nothing, name the format (--format, format=)"),
        (b'{"SchemaVersion": 2, "ArtifactName": "a"}', "; trivy writes SARIF with --format sarif"),
        (b'{"matches": [], "descriptor": {}}', "; grype writes SARIF with -o sarif"),
        (
            b'[{"Match": "x", "RuleID": "a", "Fingerprint": "b"}]',
            "; gitleaks writes SARIF with --report-format sarif",
        ),
        (b"<?xml version='1.0'?>", "it starts with"),
        (b"PK\x03\x04", "it starts with"),
        (b"7", "it starts with '7'"),
        (b"[1, 2]", "array that starts with 1"),
        (b"{}", "an object with no properties"),
        (b'{"results": [], "errors": []}', "an object with results, errors"),
        (b'[{"results": []}]', "an array of objects with results"),
        (b'{"runs"', "line 1, column 8"),
        (b'{"vulnerabilities": ', "line 1, column 21"),
    ],
)
def test_what_cannot_be_told_is_refused_by_what_was_seen(data: bytes, words: str) -> None:
    with pytest.raises(StorageValidationError) as caught:
        open_report(io.BytesIO(data))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (b'{"version": "2.1.0", "runs": []}', "sarif"),
        (
            b'{"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": []}',
            "sarif",
        ),
        (b'{"template-id": "a", "info": {}}', "nuclei"),
        (b'[{"info": {}, "host": "h"}]', "nuclei"),
        (b'{"templateID": "a"}\n{"templateID": "b"}', "nuclei"),
        (LINE, "jsonl"),
        (b'{"pid": "p", "ts": "t"}', "jsonl"),
        (b"[]", "jsonl"),
        (b'{"finding_schema_version": "1.1.0", "findings": []}', "jsonl"),
        (b'{"findings": [], "store_schema_version": "1.1.0"}', "jsonl"),
    ],
)
def test_the_content_tells_the_format(data: bytes, format: str) -> None:
    with open_report(io.BytesIO(data)) as report:
        assert report.format == format
    with open_report(io.BytesIO(data), format) as report:
        assert report.format == format


def test_another_format_than_asked_for_is_refused() -> None:
    with pytest.raises(StorageValidationError, match="it is jsonl, not sarif"):
        open_report(io.BytesIO(LINE), "sarif")
    with pytest.raises(
        StorageValidationError, match=r"'xml' is no format that can be read; known are sarif, nuclei"
    ):
        open_report(io.BytesIO(LINE), "xml")


@pytest.mark.parametrize("data", [b"", b"[]"])
def test_an_empty_report_of_a_known_format_has_no_documents(data: bytes) -> None:
    with open_report(io.BytesIO(data), "nuclei") as report:
        assert (list(report), report.total, report.detectors) == ([], 0, ["scan.nuclei"])
    with open_report(io.BytesIO(data), "jsonl") as report:
        assert (list(report), report.detectors) == ([], [])
    with pytest.raises(StorageValidationError, match="an object is expected"):
        open_report(io.BytesIO(data), "sarif")


def test_memory_follows_one_result_and_not_the_report() -> None:
    line = json.dumps({**DOCUMENT, "evidence": {"text": "x" * 1000}}).encode() + b"\n"
    stream = io.BytesIO(line * 5_000)
    tracemalloc.start()
    with open_report(stream) as report:
        assert sum(1 for _ in report) == 5_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000
