from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from findings_orm.errors import StorageValidationError
from findings_orm.finding import validate_finding
from findings_orm.formats import EXPORT_FORMATS, FORMATS, open_report, write_csv, write_jsonl, write_report
from findings_orm.formats.csv import COLUMNS

DOCUMENT = validate_finding(
    {
        "id": "018f3b5c-1111-7000-8000-000000000000",
        "project_id": "acme-api",
        "detector_id": "scan.demo",
        "title": "A title",
        "severity": "medium",
        "created_at": "2024-05-01T00:00:00Z",
    }
)


def read(text: str | bytes) -> list[dict[str, Any]]:
    data = text if isinstance(text, bytes) else text.encode()
    with open_report(io.BytesIO(data), "jsonl") as report:
        documents = list(report)
        assert report.total == len(documents)
        return documents


def lines(*documents: Any) -> bytes:
    stream = io.BytesIO()
    assert write_jsonl(iter(documents), stream) == len(documents)
    return stream.getvalue()


def rows(*documents: Any) -> list[dict[str, str]]:
    stream = io.BytesIO()
    assert write_csv(iter(documents), stream) == len(documents)
    return list(csv.DictReader(io.StringIO(stream.getvalue().decode(), newline="")))


def test_the_formats() -> None:
    assert FORMATS == ("sarif", "nuclei", "jsonl")
    assert EXPORT_FORMATS == ("sarif", "jsonl", "json", "csv")


def test_a_document_comes_back_equal() -> None:
    evidence = {
        "z": 1,
        "a": [1.0, 1, 10**40, -0.0, 1e-300],
        "nul\0": "\0é\u2028\U0001f600",
        "nested": {"b": None, "a": True},
    }
    document = {**DOCUMENT, "evidence": evidence}
    data = lines(document, DOCUMENT)
    assert data.count(b"\n") == 2
    assert [json.dumps(one) for one in read(data)] == [json.dumps(document), json.dumps(DOCUMENT)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_any_evidence_comes_back_equal(evidence: dict[str, Any]) -> None:
    document = {**DOCUMENT, "evidence": evidence}
    assert repr(read(lines(document))) == repr([document])


@pytest.mark.parametrize("version", ["0.3.0", "1.0.0", "1.1.0", "2.0.0"])
def test_documents_of_every_version_pass_as_they_are(version: str) -> None:
    document = {"finding_schema_version": version, "detector_id": "a:b", "anything": [1]}
    assert read(json.dumps(document)) == [document]
    assert read(json.dumps([document, document])) == [document, document]


def test_a_store_layout_gives_its_version_to_its_findings() -> None:
    findings = [{"detector_id": "a"}, {"detector_id": "b", "finding_schema_version": "1.1.0"}]
    expected = [{"detector_id": "a", "finding_schema_version": "1.0.0"}, findings[1]]
    for key in ("finding_schema_version", "store_schema_version"):
        assert read(json.dumps({key: "1.0.0", "findings": findings, "other": {}})) == expected
        assert read(json.dumps({"findings": findings, key: "1.0.0"})) == expected
    assert read(json.dumps({"findings": findings})) == findings


def test_the_detectors_are_those_of_the_documents() -> None:
    documents = [{**DOCUMENT, "detector_id": name} for name in ("b", "a", "b")] + [{"detector_id": 7}]
    with open_report(io.BytesIO(lines(*documents))) as report:
        assert report.detectors == ["b", "a"]
        assert report.tool[0] == {"name": "b", "detector_id": "b", "version": None}
        assert report.total == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"detector_id": "a"}\n[]', "line 2, column 1: an object is expected"),
        ('{"detector_id": "a"}\n{"detector_id": ', "line 2, column 17"),
        ('{"detector_id": "a", "x": NaN}', "NaN"),
        ('{"detector_id": "a", "x": "\\ud800"}', None),
        ('{"findings": {}, "finding_schema_version": "1.1.0"}', "in findings: an array is expected"),
        ('{"findings": [7], "finding_schema_version": "1.1.0"}', "in findings[0]: an object is expected"),
        ('{"findings": [], "finding_schema_version": "1.1.0"} {}', "goes on"),
        ('{"detector_id": "a", "x": ' + "1" * 5000 + "}", "digits"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(text: str, words: str | None) -> None:
    if words is None:
        assert read(text)[0]["x"] == "\ud800"  # for the store to refuse, with its index
        return
    with pytest.raises(StorageValidationError) as caught:
        read(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", object(), {1: {2}}])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    stream = io.BytesIO()
    with pytest.raises(StorageValidationError, match="document 1") as caught:
        write_jsonl([DOCUMENT, {**DOCUMENT, "evidence": {"x": value}}], stream)
    assert caught.value.index == 1


def test_text_streams() -> None:
    text = io.StringIO()
    write_report([{**DOCUMENT, "title": "é"}], text, "jsonl")
    assert read(text.getvalue())[0]["title"] == "é"
    text = io.StringIO(newline="")
    write_report([{**DOCUMENT, "title": "é\n"}], text, "csv")
    assert text.getvalue().splitlines(keepends=True)[0].endswith("run_id\r\n")
    assert '"é\n"' in text.getvalue()


def test_a_row_of_csv() -> None:
    document = {
        **DOCUMENT,
        "location": {"path": "a.py", "start_line": 3, "snippet": "x"},
        "cwe_ids": [79, 89],
        "owasp": ["A03:2021"],
        "cve_ids": ["CVE-2020-1111", "CVE-2020-2222"],
        "cvss": 9.8,
        "tags": ["a", "b; c"],
        "evidence": {"message": 'line 1\nline "2"'},
        "resource": "a,b",
    }
    (row,) = rows(document)
    assert tuple(row) == COLUMNS
    assert row["path"] == "a.py"
    assert (row["start_line"], row["end_line"]) == ("3", "")
    assert (row["cwe_ids"], row["owasp"]) == ("79; 89", "A03:2021")
    assert row["cve_ids"] == "CVE-2020-1111; CVE-2020-2222"
    assert row["cvss"] == "9.8"
    assert row["tags"] == "a; b; c"
    assert row["message"] == 'line 1\nline "2"'
    assert row["resource"] == "a,b"
    assert row["created_at"] == DOCUMENT["created_at"]
    assert row["run_id"] == row["confidence"] == ""


def test_no_findings_are_a_header() -> None:
    stream = io.BytesIO()
    assert write_csv([], stream) == 0
    assert stream.getvalue().decode() == ",".join(COLUMNS) + "\r\n"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t", "\r1", "\n1", "\uff1d1", '=HYPERLINK("x")', " =1", '"=1"']
)
def test_a_formula_is_text(text: str) -> None:
    (row,) = rows(
        {**DOCUMENT, "title": text, "resource": text, "tags": [text], "evidence": {"message": text}}
    )
    for name in ("title", "resource", "tags", "message"):
        assert row[name] == f"'{text}"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    "text",
    ["a;=1", "a\t=1", "a\n=1", "a\r\n+1", 'a;"=1"', "a; -1", ";;=1;=2", "\t=1", "\n=1", 'x";=1', "a\n\t@x"],
)
def test_no_cell_is_a_formula_whatever_the_separator_is(text: str, separator: str) -> None:
    stream = io.BytesIO()
    write_csv([{**DOCUMENT, "title": text, "resource": text, "evidence": {"message": text}}], stream)
    for row in csv.reader(io.StringIO(stream.getvalue().decode(), newline=""), delimiter=separator):
        for cell in row:
            assert not cell.strip(' "').startswith(("=", "+", "-", "@")), row


@pytest.mark.parametrize("text", ["a=1", "'=1", "1-1", " x", "http://a/?b=c", "a; b", "a - b", "a\nb"])
def test_other_text_stays(text: str) -> None:
    (row,) = rows({**DOCUMENT, "title": text})
    assert row["title"] == text


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_any_text_is_one_cell(title: str) -> None:
    (row,) = rows({**DOCUMENT, "title": title})
    assert row["title"].removeprefix("'") == title.removeprefix("'")
    assert not row["title"].startswith(tuple("=+-@\t\r\n"))
    assert row["run_id"] == ""
