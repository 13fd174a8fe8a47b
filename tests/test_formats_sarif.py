from __future__ import annotations

import hashlib
import io
import json
import pathlib
from typing import Any

import pytest

from findings_orm.errors import StorageValidationError
from findings_orm.finding import validate_finding
from findings_orm.formats import open_report, sarif
from findings_orm.formats.volatile import join_volatile

SAMPLES = pathlib.Path(__file__).parent / "samples"
FILLED_IN = {
    "id": "018f3b5c-1111-7000-8000-000000000000",
    "project_id": "acme-api",
    "created_at": "2024-05-01T00:00:00Z",
}
RULE = {"id": "R1", "shortDescription": {"text": "A rule"}}


def log(*results: Any, rules: Any = (RULE,), **run: Any) -> dict[str, Any]:
    tool = run.pop("tool", {"driver": {"name": "Demo", "rules": list(rules)}})
    return {"version": "2.1.0", "runs": [{"tool": tool, "results": list(results), **run}]}


def read(content: dict[str, Any] | str) -> list[dict[str, Any]]:
    text = content if isinstance(content, str) else json.dumps(content)
    with open_report(io.BytesIO(text.encode()), "sarif") as report:
        documents = list(report)
        assert len(documents) == report.total
    for document in documents:
        validate_finding({**FILLED_IN, **document})
    return documents


def one(result: Any, **run: Any) -> dict[str, Any]:
    (document,) = read(log(result, **run))
    return document


def whole(document: dict[str, Any]) -> Any:
    """Return the result as it was in the report."""
    return join_volatile(document["evidence"]["sarif"], document["provenance"].get("sarif", {}))


def result(**properties: Any) -> dict[str, Any]:
    return {"ruleId": "R1", "message": {"text": "m"}, **properties}


def at(uri: str, **region: Any) -> list[dict[str, Any]]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": uri}}
    return [{"physicalLocation": {**physical, "region": region} if region else physical}]


def refused(content: dict[str, Any] | str) -> str:
    with pytest.raises(StorageValidationError) as caught:
        read(content)
    return str(caught.value)


@pytest.mark.parametrize(
    ("sample", "detector", "severities", "cwes"),
    [
        (
            "bandit.sarif",
            "bandit",
            {
                "B403": "low",
                "B404": "low",
                "B105": "low",
                "B608": "medium",
                "B324": "high",
                "B101": "low",
                "B602": "high",
                "B307": "medium",
            },
            {502, 78, 259, 89, 327, 703},
        ),
        (
            "ruff.sarif",
            "ruff",
            dict.fromkeys(["S403", "S404", "S105", "S608", "S324", "S101", "S602", "S301", "S307"], "high"),
            set(),
        ),
        (
            "semgrep.sarif",
            "semgrep-oss",
            {"python.weak-hash": "medium", "python.eval-of-input": "high"},
            {95, 328},
        ),
    ],
)
def test_real_reports_are_read(
    sample: str, detector: str, severities: dict[str, str], cwes: set[int]
) -> None:
    original = json.loads((SAMPLES / sample).read_text())["runs"][0]["results"]
    with open_report(SAMPLES / sample) as report:
        documents = list(report)
        assert report.detectors == [detector]
        assert report.tool[0]["detector_id"] == detector
    assert [whole(document) for document in documents] == original
    assert {document["detector_id"] for document in documents} == {detector}
    found = {document["rule_id"]: document["severity"] for document in documents}
    assert found.items() <= severities.items()
    assert len(found) > 1
    assert {document["cwe_ids"][0] for document in documents if document["cwe_ids"]} <= cwes
    assert bool(cwes) == any(document["cwe_ids"] for document in documents)
    for document, source in zip(documents, original, strict=True):
        physical = source["locations"][0]["physicalLocation"]
        assert document["resource"] == document["location"]["path"] == physical["artifactLocation"]["uri"]
        assert document["location"]["start_line"] == physical["region"]["startLine"]
        assert document["evidence"]["message"] == source["message"]["text"]
        validate_finding({**FILLED_IN, **document})


def test_a_placeholder_of_semgrep_is_no_fingerprint() -> None:
    with open_report(SAMPLES / "semgrep.sarif") as report:
        documents = list(report)
    assert documents[0]["evidence"]["sarif"]["fingerprints"] == {"matchBasedId/v1": "requires login"}
    assert [document["fingerprint"] for document in documents] == [None, None]


def test_the_time_of_the_scan_is_that_of_the_finding() -> None:
    sample = json.loads((SAMPLES / "bandit.sarif").read_text())
    ended = sample["runs"][0]["invocations"][0]["endTimeUtc"]
    assert {document["created_at"] for document in read(sample)} == {ended}


@pytest.mark.parametrize(
    ("name", "detector"),
    [
        ("CodeQL", "codeql"),
        ("Shell Script Analysis", "shell-script-analysis"),
        ("scan.nuclei", "scan.nuclei"),
        ("a_b-c.D", "a_b-c.d"),
        (" -- Foo (R) / Bär -- ", "foo-r-b-r"),
        ("Trivy  &  Co.", "trivy-co."),
        ("", "sarif"),
        (None, "sarif"),
        ("扫描", "sarif-" + hashlib.sha256("扫描".encode()).hexdigest()[:12]),
    ],
)
def test_the_detector_is_the_drivers_name_as_a_slug(name: Any, detector: str) -> None:
    tool = {"driver": {"name": name, "version": "1"}}
    with open_report(io.BytesIO(json.dumps(log(result(), tool=tool)).encode())) as report:
        assert report.detectors == [detector]
        assert next(iter(report))["detector_id"] == detector


def test_a_report_without_results_still_speaks_for_its_detectors() -> None:
    runs = [
        {
            "tool": {"driver": {"name": "A", "semanticVersion": "1.2", "informationUri": "https://a"}},
            "results": [],
        },
        {
            "tool": {"driver": {"name": "B"}},
            "results": [],
            "invocations": [{"executionSuccessful": True}, {"executionSuccessful": False}],
        },
        {"tool": {"driver": {"name": "C"}}, "results": None},
        {"tool": {"driver": {"name": "D"}}},
        {"tool": {"driver": {"name": "A"}}, "results": [], "invocations": [{"executionSuccessful": True}]},
    ]
    content = json.dumps({"version": "2.1.0", "runs": runs}).encode()
    with open_report(io.BytesIO(content)) as report:
        assert (list(report), report.total) == ([], 0)
        assert report.detectors == ["a", "b"]
        assert report.tool[0] == {
            "name": "A",
            "detector_id": "a",
            "version": "1.2",
            "information_uri": "https://a",
            "successful": None,
        }
        assert [tool["successful"] for tool in report.tool] == [None, False, None, None, True]
        assert [note.split(":")[0] for note in report.notes] == ["C", "D"]


@pytest.mark.parametrize("runs", ["[]", "null"])
def test_a_log_without_runs_is_empty(runs: str) -> None:
    assert read(f'{{"version": "2.1.0", "runs": {runs}}}') == []


def test_the_order_of_the_parts_of_a_log_does_not_matter() -> None:
    content = log(result(level=None, locations=[{"physicalLocation": {"artifactLocation": {"index": 1}}}]))
    run = content["runs"][0]
    run["artifacts"] = [{}, {"location": {"uri": "a.py"}, "contents": {"text": "x"}}]
    turned = {"runs": [dict(reversed(run.items()))], "version": "2.1.0"}
    assert read(content) == read(turned)
    assert read(turned)[0]["title"] == "A rule"
    assert read(turned)[0]["resource"] == "a.py"


@pytest.mark.parametrize(
    ("level", "severity"), [("error", "high"), ("warning", "medium"), ("note", "low"), ("none", "info")]
)
def test_a_level_is_a_severity(level: str, severity: str) -> None:
    assert one(result(level=level))["severity"] == severity
    assert one(result(), rules=[{**RULE, "defaultConfiguration": {"level": level}}])["severity"] == severity


@pytest.mark.parametrize(
    ("properties", "severity"),
    [
        ({}, "medium"),
        ({"kind": "fail"}, "medium"),
        ({"kind": "informational"}, "info"),
        ({"kind": "open"}, "info"),
        ({"kind": "review", "level": "error"}, "info"),
        ({"kind": "review", "properties": {"security-severity": "9.8"}}, "info"),
        ({"kind": "fail", "properties": {"security-severity": "9.8"}}, "critical"),
        ({"level": "fatal"}, "medium"),
        ({"level": ["error"]}, "medium"),
        ({"kind": {}}, "info"),
    ],
)
def test_a_missing_level_has_a_default(properties: dict[str, Any], severity: str) -> None:
    assert one(result(**properties))["severity"] == severity


@pytest.mark.parametrize(
    ("invocations", "provenance", "severity"),
    [
        (["error"], None, "high"),
        (["error"], {"invocationIndex": 0}, "high"),
        (["error", "none"], {"invocationIndex": 1}, "info"),
        (["error", "none"], None, "low"),
        (["error", "none"], {"invocationIndex": -1}, "low"),
        (["error", "none"], {"invocationIndex": 7}, "low"),
        ([None], None, "low"),
    ],
)
def test_the_invocation_overrides_the_level_of_the_rule(
    invocations: list[str | None], provenance: Any, severity: str
) -> None:
    rules = [{"id": "R0"}, {**RULE, "defaultConfiguration": {"level": "note"}}]
    for descriptor in ({"id": "R1"}, {"index": 1}, {"id": "R1", "index": 1}):
        said = [
            {"ruleConfigurationOverrides": [{"descriptor": descriptor, "configuration": {"level": level}}]}
            for level in invocations
        ]
        given = result() if provenance is None else result(provenance=provenance)
        assert one(given, rules=rules, invocations=said)["severity"] == severity
        assert one({**given, "level": "warning"}, rules=rules, invocations=said)["severity"] == "medium"


@pytest.mark.parametrize(
    ("score", "severity"),
    [
        ("10.0", "critical"),
        ("9.0", "critical"),
        (9.0, "critical"),
        ("8.9", "high"),
        ("7.0", "high"),
        (6.99, "medium"),
        ("4.0", "medium"),
        ("3.9", "low"),
        ("0.1", "low"),
        ("0.0", "info"),
        ("-1", "info"),
        ("high", "high"),
        (" CRITICAL ", "critical"),
        ("Moderate", "medium"),
        ("low", "low"),
        ("none", "info"),
        ("grave", "info"),
        ("nan", "info"),
        ("1_0", "info"),
        (None, "info"),
        (True, "info"),
        ([9], "info"),
        (10**400, "info"),
    ],
)
def test_a_score_outranks_the_level(score: Any, severity: str) -> None:
    bag = {"security-severity": score}
    assert one(result(level="none", properties=bag))["severity"] == severity
    rules = [{**RULE, "properties": bag}]
    assert one(result(level="none"), rules=rules)["severity"] == severity


@pytest.mark.parametrize("kind", ["pass", "notApplicable"])
def test_a_check_that_found_nothing_is_no_finding(kind: str) -> None:
    content = log(result(kind=kind), result(kind="fail"), result(kind=kind, ruleId="R2"))
    assert [document["rule_id"] for document in read(content)] == ["R1"]
    with open_report(io.BytesIO(json.dumps(content).encode())) as report:
        assert report.notes == ["Demo: 2 results say that a check passed or does not apply: no findings"]
        assert (report.total, report.detectors) == (1, ["demo"])


@pytest.mark.parametrize(
    ("tag", "category"),
    [
        ("OWASP-A03:2021 - Injection", "A03:2021"),
        ("OWASP-A03:2021", "A03:2021"),
        ("owasp-a3", "A03"),
        ("external/owasp/owasp-a10", "A10"),
        ("OWASP A1: 2017", "A01:2017"),
        ("owasp-a0", None),
        ("owasp-a11", None),
        ("owasp-api1:2019", None),
        ("owasp", None),
        ("my-owasp-a3", None),
    ],
)
def test_a_tag_of_owasp(tag: str, category: str | None) -> None:
    expected = ([category], []) if category else ([], [tag])
    document = one(result(properties={"tags": [tag]}))
    assert (document["owasp"], document["tags"]) == expected
    document = one(result(), rules=[{**RULE, "properties": {"tags": [tag]}}])
    assert (document["owasp"], document["tags"]) == expected


@pytest.mark.parametrize(
    "text", ["CWE-79,CWE-80", "CWE-79; CWE-80", "cwe-79 | external/cwe/cwe-080", "CWE-79: XSS, CWE-80: too"]
)
def test_several_cwes_in_one_text(text: str) -> None:
    for properties in ({"tags": [text]}, {"cwe": text}, {"cwe": [text]}):
        assert one(result(properties=properties))["cwe_ids"] == [79, 80]
    assert one(result(properties={"tags": ["CWE-79: see 80, not CWE 81"]}))["cwe_ids"] == [79]


def test_where_a_result_without_a_file_is() -> None:
    request = {"target": "https://shop.example/login"}
    assert one(result(webRequest=request))["resource"] == "https://shop.example/login"
    assert (
        one(result(webRequest={"index": 1}), webRequests=[{}, request])["resource"]
        == "https://shop.example/login"
    )
    address = {"fullyQualifiedName": "app.exe!parse+16", "name": "parse"}
    in_binary = [{"physicalLocation": {"address": address}}]
    assert one(result(locations=in_binary, webRequest=request))["resource"] == "app.exe!parse+16"
    cached = [{"physicalLocation": {"address": {"index": 0}}}]
    assert one(result(locations=cached), addresses=[{"name": "parse"}])["resource"] == "parse"
    assert one(result(locations=at("a.c"), webRequest=request))["resource"] == "a.c"
    nothing: Any
    for nothing in ({}, {"target": 7}, {"index": 9}, [], None):
        assert one(result(webRequest=nothing))["resource"] == ""


def test_the_score_of_the_result_outranks_that_of_the_rule() -> None:
    rules = [{**RULE, "properties": {"security-severity": "9.8"}}]
    document = one(result(properties={"security-severity": "2"}), rules=rules)
    assert (document["severity"], document["evidence"]["security_severity"]) == ("low", 2.0)
    assert one(result(properties={"security-severity": "?"}), rules=rules)["severity"] == "critical"
    assert one(result(level="none", properties={"security-severity": 0}), rules=rules)["severity"] == "info"
    assert document.get("cvss") is None


@pytest.mark.parametrize(
    ("rule", "message", "title"),
    [
        ({"shortDescription": {"text": "Short"}, "name": "Name"}, "m", "Short"),
        ({"shortDescription": {"markdown": "*Short*"}}, "m", "*Short*"),
        ({"shortDescription": "Short"}, "m", "Short"),
        ({"shortDescription": {"text": " "}, "name": "Name"}, "m", "Name"),
        ({"name": ""}, "\n  first \nsecond", "first"),
        ({"name": 7, "shortDescription": 7}, "m\r\nn", "m"),
        ({}, "", "R1"),
        ({"name": "a\0b"}, "m", "a␀b"),
    ],
)
def test_the_title(rule: dict[str, Any], message: str, title: str) -> None:
    assert one(result(message={"text": message}), rules=[{"id": "R1", **rule}])["title"] == title


def test_a_result_of_nothing_has_a_title() -> None:
    document = one({})
    assert (document["title"], document["rule_id"], document["resource"]) == ("Demo result", None, "")
    assert one({}, tool={"driver": {"name": "", "version": "1"}})["title"] == "SARIF result"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"text": "plain {0} {{x}}"}, "plain {0} {{x}}"),
        ({"text": "{1} and {0}, {0}; {{0}} {2}", "arguments": ["a", "b"]}, "b and a, a; {0} {2}"),
        ({"text": "{0}", "arguments": [{"b": 1, "a": 2}]}, '{"a":2,"b":1}'),
        ({"id": "default", "arguments": ["a"]}, "rule a {x}"),
        ({"id": "default"}, "rule {0} {x}"),
        ({"id": "global", "arguments": ["a"]}, "driver a"),
        ({"id": "nowhere"}, ""),
        ({"id": 7}, ""),
        ({"markdown": "*m*"}, "*m*"),
        ("a text", "a text"),
        (None, ""),
        ([], ""),
        ({"text": "nul \0"}, "nul \0"),
    ],
)
def test_the_message(message: Any, text: str) -> None:
    strings = {"default": {"text": "rule {0} {{x}}"}, "both": {"text": "rule"}}
    tool = {
        "driver": {
            "name": "Demo",
            "rules": [{**RULE, "messageStrings": strings}],
            "globalMessageStrings": {"global": {"text": "driver {0}"}, "both": {"text": "driver"}},
        }
    }
    assert one(result(message=message), tool=tool)["evidence"].get("message", "") == text


@pytest.mark.parametrize(
    ("reference", "name", "title"),
    [
        ({"ruleId": "D1"}, "D1", "driver one"),
        ({"ruleId": "D1", "ruleIndex": 0}, "D1", "driver one"),
        ({"ruleIndex": 1}, "D1/x", "driver two"),
        ({"ruleIndex": -1}, None, "m"),
        ({"ruleIndex": 99, "ruleId": "D1"}, "D1", "driver one"),
        ({"ruleIndex": 1, "ruleId": "D1"}, "D1", "driver one"),
        ({"ruleId": "D1/y/z"}, "D1/y/z", "driver one"),
        ({"ruleId": "D1/x/z"}, "D1/x/z", "driver two"),
        ({"ruleId": "D1/x", "ruleIndex": 0}, "D1/x", "driver one"),
        ({"rule": {"id": "D1"}}, "D1", "driver one"),
        ({"rule": {"index": 0}}, "D1", "driver one"),
        ({"rule": {"guid": "ABCDEF00-1111-4111-8111-111111111111"}}, "D1", "driver one"),
        ({"rule": {"index": 0, "toolComponent": {"index": 0}}}, "E1", "extension one"),
        (
            {"rule": {"index": 0, "toolComponent": {"guid": "EEEEEEEE-1111-4111-8111-111111111111"}}},
            "E1",
            "extension one",
        ),
        ({"ruleId": "E1", "rule": {"id": "E1", "toolComponent": {"name": "pack"}}}, "E1", "extension one"),
        ({"ruleId": "E1", "rule": {"index": 0, "toolComponent": {"index": 5}}}, "E1", "extension one"),
        ({"ruleId": "E1"}, "E1", "extension one"),
        ({"ruleId": "unknown", "ruleIndex": 0}, "unknown", "m"),
        ({"ruleId": 1}, "1", "numbered"),
        ({"ruleId": True, "rule": [], "ruleIndex": "0"}, None, "m"),
    ],
)
def test_the_rule_is_found(reference: dict[str, Any], name: str | None, title: str) -> None:
    guid = "abcdef00-1111-4111-8111-111111111111"
    tool = {
        "driver": {
            "name": "Demo",
            "rules": [
                {"id": "D1", "name": "driver one", "guid": guid},
                {"id": "D1/x", "name": "driver two"},
                {"id": "1", "name": "numbered"},
            ],
        },
        "extensions": [
            {
                "name": "pack",
                "guid": "eeeeeeee-1111-4111-8111-111111111111",
                "rules": [{"id": "E1", "name": "extension one"}],
            }
        ],
    }
    document = one({"message": {"text": "m"}, **reference}, tool=tool)
    assert (document["rule_id"], document["title"]) == (name, title)


@pytest.mark.parametrize(
    ("suppressions", "status", "comment"),
    [
        (None, "open", None),
        ([], "open", None),
        ([{"kind": "external"}], "risk_accepted", None),
        ([{"kind": "inSource", "justification": "ours"}], "risk_accepted", "ours"),
        ([{"kind": "external", "status": "accepted", "justification": "ok"}], "risk_accepted", "ok"),
        ([{"kind": "external", "state": "accepted"}], "risk_accepted", None),
        ([{"status": "underReview", "justification": "hm"}], "triaged", "hm"),
        ([{"state": "underReview"}], "triaged", None),
        ([{"status": "rejected", "justification": "no"}], "open", None),
        ([{"status": None}], "risk_accepted", None),
        ([{"status": "maybe"}], "open", None),
        ([{"status": {}}], "risk_accepted", None),
        ([{"status": ["accepted"]}], "open", None),
        (
            [{"justification": "a"}, {"status": "accepted", "justification": "b"}, {"justification": "a"}],
            "risk_accepted",
            "a\nb",
        ),
        ([{"justification": "a"}, {"status": "underReview", "justification": "b"}], "triaged", "b"),
        ([{"justification": "a"}, {"status": "rejected"}], "open", None),
        ([{"status": "rejected"}, {"status": "underReview"}], "triaged", None),
        ([{"justification": 7}], "risk_accepted", None),
        (["accepted"], "open", None),
        ({"kind": "external"}, "open", None),
    ],
)
def test_suppressions_are_a_status(suppressions: Any, status: str, comment: str | None) -> None:
    document = one(result(suppressions=suppressions))
    assert document["status"] == status
    assert document["evidence"].get("status_comment") == comment
    assert document["evidence"].get("suppressions") == (suppressions or None)


def test_a_result_that_is_gone_is_resolved() -> None:
    assert one(result(baselineState="absent"))["status"] == "resolved"
    assert one(result(baselineState="new"))["status"] == "open"
    assert (
        one(result(baselineState="absent", suppressions=[{"kind": "external"}]))["status"] == "risk_accepted"
    )


@pytest.mark.parametrize(
    ("tag", "number"),
    [
        ("external/cwe/cwe-079", 79),
        ("CWE-79: Improper Neutralization", 79),
        ("CWE-79", 79),
        ("cwe:79", 79),
        ("cwe-0", None),
        ("cwe-99999999999", None),
        ("cwe", None),
        ("my-cwe-79", None),
        ("security", None),
        (79, None),
    ],
)
def test_a_cwe_tag(tag: Any, number: int | None) -> None:
    numbers = [] if number is None else [number]
    assert one(result(properties={"tags": [tag]}))["cwe_ids"] == numbers
    document = one(result(), rules=[{**RULE, "properties": {"tags": [tag]}}])
    assert document["cwe_ids"] == numbers


@pytest.mark.parametrize(
    ("target", "numbers"),
    [
        ({"id": "CWE-79", "toolComponent": {"name": "CWE"}}, [79]),
        ({"id": "79", "toolComponent": {"name": "cwe"}}, [79]),
        ({"id": "CWE-119!/CWE-120", "toolComponent": {"name": "CWE"}}, [119, 120]),
        ({"index": 1, "toolComponent": {"index": 0}}, [89]),
        ({"index": 0, "toolComponent": {"guid": "FFC64C90-42B6-44CE-8BEB-F6B7DAE649E5"}}, [79]),
        ({"id": "79", "toolComponent": {"guid": "ffc64c90-42b6-44ce-8beb-f6b7dae649e5"}}, [79]),
        ({"id": "CWE-79"}, [79]),
        ({"id": "79"}, None),
        ({"id": "79", "toolComponent": {"name": "OWASP"}}, None),
        ({"index": 5, "toolComponent": {"index": 0}}, None),
        ({"index": 0, "toolComponent": {"index": 9}}, None),
        ({}, None),
    ],
)
def test_a_taxon_of_cwe(target: dict[str, Any], numbers: list[int] | None) -> None:
    taxonomies = [
        {
            "name": "CWE",
            "guid": "ffc64c90-42b6-44ce-8beb-f6b7dae649e5",
            "taxa": [{"id": "79"}, {"id": "CWE-89"}],
        }
    ]
    by_result = one(result(taxa=[target]), taxonomies=taxonomies)
    rules = [{**RULE, "relationships": [{"target": target, "kinds": ["superset"]}]}]
    by_rule = one(result(), rules=rules, taxonomies=taxonomies)
    for document in (by_result, by_rule):
        assert document["cwe_ids"] == (numbers or [])


def test_the_cwes_of_the_result_come_first() -> None:
    rules = [{**RULE, "properties": {"tags": ["CWE-1", "CWE-2"], "cwe": ["CWE-3", 4, -5, "x"]}}]
    document = one(result(properties={"tags": ["CWE-2"], "cwe": 6}, taxa=[{"id": "CWE-5"}]), rules=rules)
    assert document["cwe_ids"] == [2, 5, 6, 1, 3, 4]


def test_cve_ids_and_tags() -> None:
    tags = ["external/cve/cve-2021-44228", "security", "CWE-79", "", "x" * 65, "a\0b", "security", 7]
    document = one({**result(), "ruleId": "BDSA-1 (CVE-2020-11022)", "properties": {"tags": tags}})
    assert document["cve_ids"] == ["CVE-2020-11022", "CVE-2021-44228"]
    assert document["tags"] == ["security"]
    assert one({**result(), "ruleId": "XCVE-2020-11022"})["cve_ids"] == []
    assert one({**result(), "ruleId": "CVE-2020-123"})["cve_ids"] == []


@pytest.mark.parametrize(
    ("region", "location"),
    [
        ({}, {}),
        ({"startLine": 3}, {"start_line": 3}),
        ({"startLine": 3, "endLine": 4}, {"start_line": 3, "end_line": 4}),
        ({"startLine": 3.0, "endLine": 3}, {"start_line": 3, "end_line": 3}),
        ({"startLine": 4, "endLine": 3}, {"start_line": 4}),
        ({"endLine": 3}, {}),
        ({"startLine": 0}, {}),
        ({"startLine": True}, {}),
        ({"startLine": "3"}, {}),
        ({"startLine": 2**31}, {}),
        ({"startLine": 2**31 - 1}, {"start_line": 2**31 - 1}),
        ({"startLine": 1, "endLine": 10**30}, {"start_line": 1}),
        ({"startLine": 1, "snippet": {"text": "a\0b"}}, {"start_line": 1, "snippet": "a␀b"}),
        ({"startLine": 1, "snippet": "text"}, {"start_line": 1}),
    ],
)
def test_the_region(region: dict[str, Any], location: dict[str, Any]) -> None:
    document = one(result(locations=at("src/a%20b.py", **region)))
    assert document["resource"] == "src/a b.py"
    assert document["location"] == {"path": "src/a b.py", **location}


@pytest.mark.parametrize(
    ("locations", "resource"),
    [
        ([], ""),
        ({}, ""),
        (["a.py"], ""),
        ([{}], ""),
        (at(""), ""),
        (at("a.py") + at("b.py"), "a.py"),
        ([{"physicalLocation": {"artifactLocation": {"uri": "a.py", "uriBaseId": "SRC"}}}], "a.py"),
        ([{"physicalLocation": {"artifactLocation": {"index": 0}}}], "cached.py"),
        ([{"physicalLocation": {"artifactLocation": {"index": 7}}}], ""),
        ([{"physicalLocation": {"artifactLocation": {"uri": 7}}}], ""),
        ([{"logicalLocations": [{"fullyQualifiedName": "a::b", "name": "b"}]}], "a::b"),
        ([{"logicalLocations": [{"name": "b"}]}], "b"),
        ([{"logicalLocations": [{"index": 0}]}], "cached::name"),
        ([{"logicalLocations": [{"name": "b"}]}, *at("a.py")], "a.py"),
    ],
)
def test_the_resource(locations: Any, resource: str) -> None:
    document = one(
        result(locations=locations),
        originalUriBaseIds={"SRC": {"uri": "file:///build/src/"}},
        artifacts=[{"location": {"uri": "cached.py"}}],
        logicalLocations=[{"fullyQualifiedName": "cached::name"}],
    )
    assert document["resource"] == resource


def fingerprint(**properties: Any) -> str | None:
    found: str | None = one(result(locations=at("a.py"), **properties))["fingerprint"]
    return found


def test_the_fingerprint_is_the_tools_own() -> None:
    assert fingerprint() is None
    assert fingerprint(fingerprints={"hash/v1": "abc"}) == "hash/v1=abc"
    assert fingerprint(fingerprints={"b": "2", "a": "1"}) == "a=1;b=2"
    assert fingerprint(fingerprints={"b": "2", "a": "1"}) == fingerprint(fingerprints={"a": "1", "b": "2"})
    assert fingerprint(fingerprints={"a": "1;b=2"}) == "a=1%3Bb%3D2"
    assert fingerprint(fingerprints={"a": {"y": 1, "x": "é"}}) == 'a={"x":"é","y":1}'
    assert fingerprint(fingerprints={"a": "1", "b": "", "c": None}) == "a=1"
    assert fingerprint(fingerprints={"a": ""}) is None
    assert fingerprint(fingerprints=["a"]) is None
    assert fingerprint(fingerprints={"a": "1"}, partialFingerprints={"p": "1"}) == "a=1"
    long = fingerprint(fingerprints={"a": "x" * 300})
    assert long is not None
    assert long.startswith("sha256:")
    assert long != fingerprint(fingerprints={"a": "x" * 301})


def test_partial_fingerprints_are_parts_beside_rule_and_file() -> None:
    here = fingerprint(partialFingerprints={"line": "1", "column": "2"})
    assert here is not None
    assert here.startswith("partial/v1:")
    assert here == fingerprint(partialFingerprints={"column": "2", "line": "1"})
    assert here == fingerprint(partialFingerprints={"column": "2", "line": "1"}, message={"text": "other"})
    others = [
        fingerprint(partialFingerprints={"line": "2", "column": "1"}),
        fingerprint(partialFingerprints={"line": "1"}),
        fingerprint(partialFingerprints={"line": "1", "column": "2"}, ruleId="R2"),
        one(result(locations=at("b.py"), partialFingerprints={"line": "1", "column": "2"}))["fingerprint"],
    ]
    assert len({here, *others}) == 5


@pytest.mark.parametrize(
    ("time", "created"),
    [
        ("2016-07-16T14:18:25Z", "2016-07-16T14:18:25Z"),
        ("2016-07-16T14:18:25.119Z", "2016-07-16T14:18:25.119000Z"),
        ("2016-07-16T16:18:25+02:00", "2016-07-16T14:18:25Z"),
        ("2016-07-16T14:18:25", None),
        ("2016-13-16T14:18:25Z", None),
        (5, None),
    ],
)
def test_created_at_is_given_where_the_report_gives_a_time(time: Any, created: str | None) -> None:
    assert one(result(provenance={"firstDetectionTimeUtc": time})).get("created_at") == created
    assert one(result(), invocations=[{"endTimeUtc": time}]).get("created_at") == created
    assert one(result(), invocations=[{"startTimeUtc": time}]).get("created_at") == created
    assert "created_at" not in one(result(), invocations=[{"endTimeUtc": time}, {"endTimeUtc": time}])


def test_nothing_of_a_result_is_lost() -> None:
    given = result(
        rank=1.0, hostedViewerUri="https://x", properties={"big": 10**30, "nul": "\0", "n": [1, 1.0, None]}
    )
    assert json.dumps(whole(one(given)), sort_keys=True) == json.dumps(given, sort_keys=True)


def test_what_a_document_cannot_hold_is_kept_as_text() -> None:
    content = json.dumps(log(result(properties={"x": "@"}, locations=at("@"))))
    document = read(content.replace('"@"', '"\\ud800"'))[0]
    assert document["resource"] == "\\ud800"
    assert document["evidence"]["sarif"]["properties"] == {"x": "\\ud800"}
    huge = content.replace('{"x": "@"}', '{"x": 1e999, "y": ' + "1" * 5000 + "}")
    assert read(huge)[0]["evidence"]["sarif"]["properties"] == {"x": "1e999", "y": "1" * 5000}


def test_a_result_that_nests_too_deep_is_kept_as_text() -> None:
    deep: Any = {}
    for _ in range(200):
        deep = {"x": deep}
    document = one(result(properties={"deep": deep}, suppressions=[{"properties": deep}]))
    assert json.loads(document["evidence"]["sarif"])["properties"]["deep"] == deep
    assert document["status"] == "risk_accepted"
    assert one(result(), rules=[{**RULE, "properties": {"deep": deep}}])["title"] == "A rule"
    assert one(result(), originalUriBaseIds={"X": deep})["title"] == "A rule"
    referring = result(locations=[{"logicalLocations": [{"index": 0}]}])
    assert one(referring, logicalLocations=[{"name": "n", "properties": deep}])["resource"] == "n"


def test_what_a_result_refers_to_is_kept_with_it() -> None:
    tool = {
        "driver": {
            "name": "Demo",
            "version": "1",
            "rules": [{**RULE, "help": {"text": "h" * 5000}}, {"id": "other"}],
            "globalMessageStrings": {"g": {"text": "global"}, "unused": {"text": "u"}},
        }
    }
    flow = {"threadFlows": [{"locations": [{"index": 1}]}]}
    given = result(
        locations=[
            {"physicalLocation": {"artifactLocation": {"index": 2}}, "logicalLocations": [{"index": 1}]}
        ],
        relatedLocations=[{"message": {"id": "g"}}],
        codeFlows=[flow],
        webRequest={"index": 0},
        taxa=[{"index": 0, "toolComponent": {"index": 0}}],
    )
    document = one(
        given,
        tool=tool,
        artifacts=[
            {},
            {"location": {"uri": "zip"}},
            {"location": {"uri": "a"}, "parentIndex": 1, "hashes": {"a": "1"}},
        ],
        logicalLocations=[{"name": "top"}, {"name": "inner", "parentIndex": 0}],
        threadFlowLocations=[{}, {"location": {"physicalLocation": {"artifactLocation": {"index": 1}}}}],
        webRequests=[{"method": "GET"}],
        taxonomies=[{"name": "CWE", "taxa": [{"id": "CWE-5"}]}],
        columnKind="utf16CodeUnits",
        versionControlProvenance=[{"repositoryUri": "https://x", "revisionId": "changes"}],
    )
    explained = document["provenance"]
    assert explained["sarif_rule"] == RULE
    assert explained["sarif_run"] == {
        "tool": {"driver": {"name": "Demo", "version": "1"}},
        "columnKind": "utf16CodeUnits",
    }
    assert explained["sarif_references"] == {
        "artifacts": {"1": {"location": {"uri": "zip"}}, "2": {"location": {"uri": "a"}, "parentIndex": 1}},
        "logicalLocations": {"0": {"name": "top"}, "1": {"name": "inner", "parentIndex": 0}},
        "threadFlowLocations": {"1": {"location": {"physicalLocation": {"artifactLocation": {"index": 1}}}}},
        "webRequests": {"0": {"method": "GET"}},
        "globalMessageStrings": {"g": {"text": "global"}},
        "taxa": [{"id": "CWE-5", "toolComponent": {"name": "CWE"}}],
    }
    assert document["cwe_ids"] == [5]


def test_documents_share_nothing() -> None:
    first, second = read(log(result(), result(), columnKind="x", artifacts=[{}]))
    first["provenance"]["sarif_rule"]["id"] = "changed"
    first["provenance"]["sarif_run"]["tool"]["driver"]["name"] = "changed"
    first["tags"].append("changed")
    assert second["provenance"]["sarif_rule"]["id"] == "R1"
    assert second["provenance"]["sarif_run"]["tool"]["driver"]["name"] == "Demo"
    assert second["tags"] == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"version": "2.0.0", "runs": []}, "its version is (got '2.0.0')"),
        ({"version": 2, "runs": []}, "its version is"),
        ({"runs": []}, "its version is (got 'missing')"),
        ({"version": "2.1.0"}, "array of runs"),
        ({"version": "2.1.0", "runs": {}}, "in runs: an array is expected"),
        ({"version": "2.1.0", "runs": [7]}, "in runs[0]: an object is expected"),
        ({"version": "2.1.0", "runs": [{}]}, "in runs[0]: a run names its tool"),
        ({"version": "2.1.0", "runs": [{"tool": {"driver": []}}]}, "in runs[0]: a run names its tool"),
        (log(results={}), "in runs[0].results: an array is expected"),
        (log(results="x"), "in runs[0].results: an array is expected"),
        (log(result(), 7), "in runs[0].results[1]: an object is expected"),
        (log(result(), None), "in runs[0].results[1]: an object is expected"),
        (json.dumps(log(result()))[:-4], "in runs[0].results"),
        (
            json.dumps(log(result())).replace("Demo", "De\nmo"),
            "line 1, column 63, in runs[0].tool.driver.name: Invalid control",
        ),
        (json.dumps(log(result())) + "x", "goes on"),
        (
            '{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "results": [], "results": [{}]}]}',
            "in runs[0]: the property 'results' is there twice",
        ),
        (
            log(externalPropertyFileReferences={"results": [{"location": {"uri": "x"}}]}),
            "results of this run are in another file",
        ),
        (
            {"version": "2.1.0", "runs": [], "inlineExternalProperties": [{"results": [{}]}]},
            "inlineExternalProperties",
        ),
    ],
)
def test_what_is_no_sarif_is_refused_with_its_place(content: Any, words: str) -> None:
    assert words in refused(content)


def test_other_external_properties_are_noted() -> None:
    content = log(result(), externalPropertyFileReferences={"taxonomies": [{"location": {"uri": "x"}}]})
    with open_report(io.BytesIO(json.dumps(content).encode())) as report:
        assert report.notes == [
            "runs[0].externalPropertyFileReferences: taxonomies in other files were not read"
        ]
        assert report.total == 1
    assert read({**content, "inlineExternalProperties": [{"guid": "x"}], "properties": {}})


def test_a_fault_after_the_first_results_is_found_on_opening() -> None:
    text = json.dumps(log(*[result() for _ in range(5000)]))
    with pytest.raises(StorageValidationError, match=r"results\[4999\]"):
        open_report(io.BytesIO(text[:-20].encode()))


def test_fields_that_an_export_wrote_are_taken_if_they_are_valid() -> None:
    bag = {"title": "Own", "cvss": 5.0, "detector_id": "other", "id": "x", "cwe_ids": []}
    document = one(result(properties={"findings_orm": bag, "tags": ["CWE-7"]}))
    assert (document["title"], document["cvss"], document["cwe_ids"]) == ("Own", 5.0, [])
    assert (document["detector_id"], document.get("id")) == ("demo", None)
    assert (
        one(result(properties={"findings_orm": {"title": "Own", "severity": "awful"}}))["title"] == "A rule"
    )
    assert one(result(properties={"findings_orm": ["title"]}))["title"] == "A rule"


@pytest.mark.parametrize("name", ["document_of_result", "Run"])
def test_nesting_that_python_cannot_follow_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(*_given: Any) -> None:
        raise RecursionError

    monkeypatch.setattr(sarif, name, too_deep)
    assert "in runs[0]" in refused(log(result()))
    assert "nest too deep" in refused(log(result()))
