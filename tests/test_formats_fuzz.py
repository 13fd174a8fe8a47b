"""Damaged reports: whatever is done to one, it is refused with the package's own error, or gives valid documents."""

from __future__ import annotations

import copy
import io
import json
import pathlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from findings_orm.errors import StorageError
from findings_orm.finding import validate_finding
from findings_orm.formats import EXPORT_FORMATS, FORMATS, open_report, write_report

SAMPLES = pathlib.Path(__file__).parent / "samples"
FILLED_IN = {
    "id": "018f3b5c-1111-7000-8000-000000000000",
    "project_id": "acme-api",
    "created_at": "2024-05-01T00:00:00Z",
}
NUCLEI = [
    {
        "template-id": "CVE-2021-44228",
        "info": {
            "name": "Log4j",
            "severity": "critical",
            "tags": ["cve"],
            "classification": {"cve-id": ["cve-2021-44228"], "cwe-id": ["cwe-20"], "cvss-score": 10.0},
        },
        "type": "file",
        "host": "h",
        "matched-at": "h/x",
        "matched-line": [3],
        "extracted-results": ["a"],
        "timestamp": "2023-11-06T14:48:31.559886123+01:00",
        "matcher-status": True,
    },
    {
        "templateID": "t",
        "info": {"name": "n", "severity": "low", "tags": "a,b"},
        "matched": "m",
        "matcher_name": "x",
    },
]
RICH = {
    "version": "2.1.0",
    "runs": [
        {
            "tool": {
                "driver": {
                    "name": "Demo",
                    "rules": [
                        {
                            "id": "R1",
                            "name": "n",
                            "shortDescription": {"text": "s"},
                            "messageStrings": {"m": {"text": "{0}"}},
                            "defaultConfiguration": {"level": "note"},
                            "relationships": [{"target": {"index": 0, "toolComponent": {"index": 0}}}],
                            "properties": {"tags": ["CWE-1"], "security-severity": "5", "cwe": [7]},
                        }
                    ],
                    "globalMessageStrings": {"g": {"text": "g"}},
                },
                "extensions": [{"name": "e", "guid": "g", "rules": [{"id": "E1"}]}],
            },
            "taxonomies": [{"name": "CWE", "guid": "c", "taxa": [{"id": "79"}]}],
            "artifacts": [{"location": {"uri": "a"}, "parentIndex": 0}],
            "logicalLocations": [{"fullyQualifiedName": "l", "parentIndex": 0}],
            "threadFlowLocations": [{"location": {}}],
            "originalUriBaseIds": {"S": {"uri": "file:///"}},
            "invocations": [
                {
                    "endTimeUtc": "2020-01-01T00:00:00Z",
                    "executionSuccessful": True,
                    "ruleConfigurationOverrides": [
                        {"descriptor": {"id": "R1"}, "configuration": {"level": "error"}}
                    ],
                }
            ],
            "externalPropertyFileReferences": {"taxonomies": []},
            "results": [
                {
                    "ruleId": "R1/x",
                    "ruleIndex": 0,
                    "rule": {"id": "R1/x", "index": 0, "toolComponent": {"index": 0, "guid": "g"}},
                    "kind": "fail",
                    "level": "error",
                    "message": {"id": "m", "text": "{0}", "arguments": ["a"]},
                    "locations": [
                        {
                            "physicalLocation": {
                                "artifactLocation": {"uri": "a", "index": 0, "uriBaseId": "S"},
                                "region": {"startLine": 1, "endLine": 2, "snippet": {"text": "s"}},
                            },
                            "logicalLocations": [{"index": 0, "name": "n"}],
                        }
                    ],
                    "codeFlows": [{"threadFlows": [{"locations": [{"index": 0}]}]}],
                    "relatedLocations": [{"message": {"id": "g"}}],
                    "fingerprints": {"a": "1"},
                    "partialFingerprints": {"b": "2"},
                    "suppressions": [{"kind": "external", "status": "accepted", "justification": "j"}],
                    "baselineState": "new",
                    "taxa": [{"index": 0, "toolComponent": {"index": 0}}],
                    "provenance": {"invocationIndex": 0, "firstDetectionTimeUtc": "2020-01-01T00:00:00Z"},
                    "properties": {
                        "tags": ["t"],
                        "findings_orm": {"title": "own", "location": {"path": "p"}},
                    },
                }
            ],
        }
    ],
}
DOCUMENTS = [
    {**FILLED_IN, "detector_id": "scan.demo", "title": "t", "severity": "low", "evidence": {"a": [1, 1.0]}}
]
REPORTS: list[tuple[str, Any]] = [
    ("sarif", RICH),
    ("sarif", json.loads((SAMPLES / "bandit.sarif").read_text())),
    ("sarif", json.loads((SAMPLES / "semgrep.sarif").read_text())),
    ("nuclei", NUCLEI),
    ("jsonl", DOCUMENTS),
]
ODD: list[Any] = [
    None, True, 0, -1, 1, 2**31, 10**40, 0.5, -1e300, "", " ", "\0", "x\n", "é" * 300, "=1", "{0}{{", [], [[]], [None],
    {}, {"": {}}, {"text": 7}, {"index": 0}, {"id": "R1"}, ["CWE-5"], "CWE-5", "2020-01-01T00:00:00Z", "1" * 400,
]  # fmt: skip


def test_every_format_is_read() -> None:
    assert {name for name, _ in REPORTS} == set(FORMATS)


def consume(data: bytes, format: str | None) -> None:
    try:
        with open_report(io.BytesIO(data), format) as report:
            documents = list(report)
            assert len(documents) == report.total
            assert all(isinstance(detector, str) for detector in report.detectors)
            json.dumps([report.tool, report.notes])
            kind = report.format
    except StorageError:
        return
    if kind == "jsonl":
        return  # passed on as they are, for the store to judge
    canonical = [validate_finding({**FILLED_IN, **document}) for document in documents]
    for name in EXPORT_FORMATS:
        stream = io.BytesIO()
        assert write_report(canonical, stream, name) == len(documents)
    stream = io.BytesIO()
    write_report(canonical, stream, "sarif")
    with open_report(io.BytesIO(stream.getvalue()), "sarif") as report:
        again = [validate_finding({**FILLED_IN, **document}) for document in report]
    same = (
        "title",
        "severity",
        "status",
        "rule_id",
        "resource",
        "location",
        "fingerprint",
        "cwe_ids",
        "cve_ids",
        "tags",
    )
    wanted, got = (
        sorted(repr([dict(one)[name] for name in same]) for one in each) for each in (canonical, again)
    )
    assert got == wanted


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every part of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(way for key, one in inner for way in paths(one, (*path, key)))]


PATHS = [paths(content)[1:] for _, content in REPORTS]


@pytest.mark.no_cover
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_report_with_parts_missing_or_of_another_type(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(REPORTS) - 1))
    format, original = REPORTS[number]
    content = copy.deepcopy(original)
    for _ in range(data.draw(st.integers(1, 3))):
        way = data.draw(st.sampled_from(PATHS[number]))
        change(content, way, data.draw(st.none() | st.integers(0, len(ODD) - 1)))
    consume(json.dumps(content).encode(), data.draw(st.sampled_from([format, None])))


def change(content: Any, way: tuple[Any, ...], odd: int | None) -> None:
    """Replace the part at `way` by an odd value, or remove it; an earlier change may have taken it away."""
    try:
        for key in way[:-1]:
            content = content[key]
        if odd is None:
            del content[way[-1]]
        else:
            content[way[-1]] = copy.deepcopy(ODD[odd])
    except (KeyError, IndexError, TypeError):
        return


BYTES = [json.dumps(content).encode() for _, content in REPORTS]


@pytest.mark.no_cover
@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(BYTES), st.data())
def test_a_report_with_damaged_bytes(original: bytes, data: st.DataObject) -> None:
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        end = at + data.draw(st.integers(0, 3))
        content[at:end] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"]", b"\\ud800", b"1e999"])
        )
    consume(bytes(content), None)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(BYTES), st.floats(0, 1))
def test_a_report_that_is_cut_off_is_refused(original: bytes, share: float) -> None:
    cut = original[: int(share * (len(original) - 1))]
    for format in ("sarif", None):
        try:
            open_report(io.BytesIO(cut), format).close()
        except StorageError:
            continue
        raise AssertionError(f"{cut[-40:]!r} was taken for whole")


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=60), st.sampled_from([None, *FORMATS]))
def test_noise(data: bytes, format: str | None) -> None:
    consume(data, format)
