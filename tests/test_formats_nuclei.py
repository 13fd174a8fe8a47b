from __future__ import annotations

import io
import json
from typing import Any

import pytest

from findings_orm.errors import StorageValidationError
from findings_orm.finding import SCHEMA_VERSION, validate_finding
from findings_orm.formats import nuclei, open_report
from findings_orm.formats.volatile import join_volatile

FILLED_IN = {
    "id": "018f3b5c-1111-7000-8000-000000000000",
    "project_id": "acme-api",
    "created_at": "2024-05-01T00:00:00Z",
}
OLD = {
    "templateID": "tech-detect",
    "info": {
        "name": "Technology Detection",
        "author": "someone",
        "severity": "info",
        "tags": "tech, web,,tech",
        "reference": "- https://example.com/1\n",
    },
    "matcher_name": "nginx",
    "type": "http",
    "host": "https://shop.example",
    "matched": "https://shop.example/",
    "extracted_results": ["1.14.2"],
    "ip": "192.0.2.1",
    "timestamp": "2021-05-20T11:11:12.417275+03:00",
}
NEW = {
    "template": "http/cves/2021/CVE-2021-44228.yaml",
    "template-id": "CVE-2021-44228",
    "info": {
        "name": "Apache Log4j2 - Remote Code Injection",
        "author": ["melbadry9"],
        "tags": ["cve", "cve2021", "x" * 65],
        "description": "Log4j2 evaluates what it logs.",
        "reference": ["https://logging.apache.org/log4j/2.x/security.html"],
        "severity": "critical",
        "classification": {
            "cve-id": ["cve-2021-44228"],
            "cwe-id": ["cwe-20", "cwe-917"],
            "cvss-metrics": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H",
            "cvss-score": 10,
        },
    },
    "matcher-name": "word-1",
    "type": "http",
    "host": "shop.example",
    "matched-at": "https://shop.example/?x=1",
    "request": "GET / HTTP/1.1\r\n",
    "curl-command": "curl https://shop.example/",
    "timestamp": "2023-11-06T14:48:31.559886123+01:00",
    "matcher-status": True,
}
VOLATILE = ("info", "request", "curl-command", "timestamp")


def whole(document: dict[str, Any]) -> Any:
    """Return the result as it was in the report."""
    return join_volatile(document["evidence"]["nuclei"], document["provenance"]["nuclei"])


def read(*results: Any, array: bool = False) -> list[dict[str, Any]]:
    text = json.dumps(list(results)) if array else "\n".join(map(json.dumps, results))
    with open_report(io.BytesIO(text.encode()), "nuclei") as report:
        documents = list(report)
        assert report.total == len(documents)
    for document in documents:
        validate_finding({**FILLED_IN, **document})
    return documents


def one(base: dict[str, Any] = NEW, **properties: Any) -> dict[str, Any]:
    (document,) = read({**base, **properties})
    return document


def with_info(**info: Any) -> dict[str, Any]:
    return one(info={**NEW["info"], **info})  # type: ignore[dict-item]


def test_a_result_of_version_3() -> None:
    document = one()
    assert document.pop("fingerprint").startswith("nuclei/v1:")
    assert document == {
        "finding_schema_version": SCHEMA_VERSION,
        "detector_id": "scan.nuclei",
        "title": "Apache Log4j2 - Remote Code Injection",
        "severity": "critical",
        "resource": "https://shop.example/?x=1",
        "status": "open",
        "rule_id": "CVE-2021-44228",
        "location": None,
        "cwe_ids": [20, 917],
        "cve_ids": ["CVE-2021-44228"],
        "cvss": 10.0,
        "tags": ["cve", "cve2021"],
        "created_at": "2023-11-06T13:48:31.559886Z",
        "evidence": {
            "message": "Log4j2 evaluates what it logs.",
            "nuclei": {name: value for name, value in NEW.items() if name not in VOLATILE},
        },
        "provenance": {"nuclei": {name: value for name, value in NEW.items() if name in VOLATILE}},
    }


def test_a_result_of_version_2() -> None:
    document = one(OLD)
    assert document["rule_id"] == "tech-detect"
    assert document["title"] == "Technology Detection"
    assert document["severity"] == "info"
    assert document["resource"] == "https://shop.example/"
    assert document["tags"] == ["tech", "web"]
    assert document["created_at"] == "2021-05-20T08:11:12.417275Z"
    assert whole(document) == OLD
    assert document["cwe_ids"] == []


def test_lines_and_array_give_the_same() -> None:
    assert read(OLD, NEW) == read(OLD, NEW, array=True)


def test_the_report_speaks_for_nuclei() -> None:
    with open_report(io.BytesIO(json.dumps(OLD).encode())) as report:
        assert report.format == "nuclei"
        assert report.detectors == ["scan.nuclei"]
        assert report.tool == [{"name": "nuclei", "detector_id": "scan.nuclei", "version": None}]


@pytest.mark.parametrize(
    ("given", "severity"),
    [
        ("info", "info"),
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
        ("critical", "critical"),
        (" High ", "high"),
        ("unknown", "info"),
        ("undefined", "info"),
        ("", "info"),
        (None, "info"),
        (["high"], "info"),
    ],
)
def test_the_severity(given: Any, severity: str) -> None:
    assert with_info(severity=given)["severity"] == severity


@pytest.mark.parametrize(
    ("given", "created"),
    [
        ("2021-05-20T11:11:12+03:00", "2021-05-20T08:11:12Z"),
        ("2021-05-20T11:11:12Z", "2021-05-20T11:11:12Z"),
        ("2021-05-20t11:11:12z", "2021-05-20T11:11:12Z"),
        ("2021-05-20T11:11:12.9999999Z", "2021-05-20T11:11:12.999999Z"),
        ("2021-05-20T11:11:12.000000999Z", "2021-05-20T11:11:12Z"),
        ("2021-05-20T11:11:12.5-11:30", "2021-05-20T22:41:12.500000Z"),
        ("2021-12-31T23:30:00-01:00", "2022-01-01T00:30:00Z"),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+03:00", None),
        ("9999-12-31T23:59:59-01:00", None),
        ("2021-05-20T11:11:12", None),
        ("2021-02-30T11:11:12Z", None),
        ("2021-05-20T24:00:00Z", None),
        ("2021-05-20T11:11:12+99:00", None),
        ("2021-05-20 11:11:12Z", None),
        ("2021-05-20T11:11:12Z\n", None),
        ("٢٠٢١-05-20T11:11:12Z", None),
        (1621501872, None),
        (None, None),
    ],
)
def test_the_time(given: Any, created: str | None) -> None:
    document = one(timestamp=given)
    assert document.get("created_at") == created
    assert document["provenance"]["nuclei"]["timestamp"] == given


@pytest.mark.parametrize(
    ("properties", "resource"),
    [
        ({}, "https://shop.example/?x=1"),
        ({"matched-at": ""}, "shop.example"),
        ({"matched-at": None, "host": None}, ""),
        ({"matched-at": 7, "host": "a\0b"}, "a␀b"),
    ],
)
def test_the_resource(properties: dict[str, Any], resource: str) -> None:
    assert one(**properties)["resource"] == resource


@pytest.mark.parametrize(
    ("classification", "cwes", "cves", "cvss"),
    [
        (None, None, [], None),
        ([], None, [], None),
        ({"cwe-id": None, "cve-id": None, "cvss-score": None}, None, [], None),
        (
            {"cwe-id": "cwe-79,CWE-80", "cve-id": "CVE-2020-1111,cve-2020-2222"},
            [79, 80],
            ["CVE-2020-1111", "CVE-2020-2222"],
            None,
        ),
        ({"cwe-id": ["cwe", "79", 79], "cve-id": ["CVE-1", 5], "cvss-score": "7.5"}, None, [], 7.5),
        ({"cvss-score": 10.1}, None, [], None),
        ({"cvss-score": -1}, None, [], None),
        ({"cvss-score": True}, None, [], None),
        ({"cvss-score": 0}, None, [], 0.0),
    ],
)
def test_the_classification(
    classification: Any, cwes: list[int] | None, cves: list[str], cvss: float | None
) -> None:
    document = with_info(classification=classification)
    assert document["cwe_ids"] == (cwes or [])
    assert document["cve_ids"] == cves
    assert document["cvss"] == cvss


def test_little_is_needed() -> None:
    assert one({"template-id": "a"})["title"] == "a"
    document = one({"info": {}})
    assert (document["title"], document["rule_id"], document["severity"]) == ("nuclei result", None, "info")
    assert one({"template-id": "a", "info": None, "type": 7, "extracted-results": {"a": 1}})["rule_id"] == "a"


@pytest.mark.parametrize(
    ("properties", "same"),
    [
        ({"timestamp": "2024-01-01T00:00:00Z"}, True),
        ({"ip": "192.0.2.7", "request": "x", "response": "y", "curl-command": "z"}, True),
        ({"host": "https://shop.example"}, True),
        ({"info": {"severity": "low", "name": "Renamed"}}, True),
        ({"matcher-status": None}, True),
        ({"matcher-name": "word-2"}, False),
        ({"extractor-name": "version"}, False),
        ({"type": "dns"}, False),
        ({"matched-at": "https://shop.example/?x=2"}, False),
        ({"template-id": "CVE-2021-45046"}, False),
        ({"extracted-results": ["a"]}, False),
        ({"extracted-results": "a"}, False),
        ({"matcher-status": False}, False),
    ],
)
def test_what_tells_results_apart(properties: dict[str, Any], same: bool) -> None:
    assert (one(**properties)["fingerprint"] == one()["fingerprint"]) == same


def test_versions_and_orders_agree_on_the_fingerprint() -> None:
    new = {
        "template-id": OLD["templateID"],
        "matcher-name": OLD["matcher_name"],
        "extracted-results": ["b", "a"],
        "matched-at": OLD["matched"],
        "type": "http",
    }
    old = {**OLD, "extracted_results": ["a", "b"]}
    assert one(new)["fingerprint"] == one(old)["fingerprint"]


def test_a_template_that_did_not_match_is_no_finding_of_its_severity() -> None:
    document = one({**NEW, "matcher-status": False})
    assert document["severity"] == "info"
    assert document["provenance"]["nuclei"]["info"]["severity"] == "critical"


@pytest.mark.parametrize(
    ("properties", "location"),
    [
        ({"type": "file"}, {"path": "https://shop.example/?x=1"}),
        ({"type": "file", "matched-line": [7, 9]}, {"path": "https://shop.example/?x=1", "start_line": 7}),
        ({"type": "file", "matched-line": [0]}, {"path": "https://shop.example/?x=1"}),
        ({"type": "file", "matched-line": ["7"]}, {"path": "https://shop.example/?x=1"}),
        ({"type": "file", "matched-line": [2**31]}, {"path": "https://shop.example/?x=1"}),
        ({"type": "file", "matched-at": "", "host": ""}, None),
        ({"type": "http", "matched-line": [7]}, None),
    ],
)
def test_a_place_in_a_file(properties: dict[str, Any], location: Any) -> None:
    assert one(**properties)["location"] == location


def test_a_deep_result_is_kept_as_text() -> None:
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    assert json.loads(one(meta=deep)["evidence"]["nuclei"])["meta"] == deep


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"template-id": "a"}\n{"template-id": "b"\n{"template-id": "c"}', "line 3, column 1"),
        ('{"template-id": "a"}\n\n{"template-id": "b', "line 3, column 17"),
        ('{"template-id": "a"}\n7', "line 2, column 1: an object is expected"),
        ('{"template-id": "a"}\n{"error": "x"}', "line 2, column 15: a result of nuclei has a template-id"),
        ('[{"template-id": "a"}, []]', "in [1]: an object is expected"),
        ('[{"template-id": "a"},', "in [1]: an object is expected, but the text ends here"),
        ('[{"template-id": "a"}] []', "goes on"),
    ],
)
def test_a_broken_report_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(StorageValidationError) as caught:
        open_report(io.BytesIO(text.encode()))
    assert words in str(caught.value)


def test_nesting_that_python_cannot_follow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(*_given: Any) -> None:
        raise RecursionError

    monkeypatch.setattr(nuclei, "document_of_result", too_deep)
    with pytest.raises(StorageValidationError, match="nest too deep"):
        read(NEW)
