from __future__ import annotations

import io
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from findings_orm.errors import StorageUnavailableError, StorageValidationError
from findings_orm.finding import validate_finding
from findings_orm.formats import open_report, sarif_export, write_report, write_sarif

SAMPLES = pathlib.Path(__file__).parent / "samples"
FILLED_IN = {
    "id": "018f3b5c-1111-7000-8000-000000000000",
    "project_id": "acme-api",
    "created_at": "2024-05-01T00:00:00Z",
}
OWN = {**FILLED_IN, "detector_id": "scan.demo", "title": "A title", "severity": "medium"}

# SARIF 2.1.0, sections 3.13 to 3.52: the properties that objects may have, as far as exports of own findings use them.
PROPERTIES = {
    "sarifLog": {"version", "$schema", "runs"},
    "run": {
        "tool", "results", "artifacts", "logicalLocations", "threadFlowLocations", "originalUriBaseIds", "columnKind",
    },
    "tool": {"driver", "extensions"},
    "toolComponent": {
        "name", "fullName", "version", "semanticVersion", "organization", "informationUri", "rules", "properties",
        "globalMessageStrings", "guid",
    },
    "reportingDescriptor": {
        "id", "name", "shortDescription", "fullDescription", "help", "helpUri", "defaultConfiguration", "properties",
        "messageStrings", "relationships",
    },
    "result": {
        "ruleId", "ruleIndex", "rule", "kind", "level", "message", "locations", "guid", "fingerprints", "provenance",
        "partialFingerprints", "suppressions", "baselineState", "properties", "codeFlows", "fixes", "relatedLocations",
    },
    "suppression": {"kind", "status", "justification", "properties"},
}  # fmt: skip
GUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-5][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}")
URI = re.compile(r"(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", re.ASCII)


def check(kind: str, value: Any, *required: str) -> None:
    assert isinstance(value, dict), kind
    assert set(value) <= PROPERTIES[kind], kind
    assert set(required) <= set(value), kind


def check_log(log: dict[str, Any]) -> None:
    """Check what the schema asks for, and that every index is one of its table."""
    check("sarifLog", log, "version", "runs")
    assert log["version"] == "2.1.0"
    for run in log["runs"]:
        check("run", run, "tool", "results")
        check("tool", run["tool"], "driver")
        components = [run["tool"]["driver"], *run["tool"].get("extensions", [])]
        for component in components:
            check("toolComponent", component, "name")
            for rule in component.get("rules", []):
                check("reportingDescriptor", rule, "id")
        for table in ("artifacts", "logicalLocations", "threadFlowLocations"):
            texts = [json.dumps(entry, sort_keys=True) for entry in run.get(table, [])]
            assert len(texts) == len(set(texts)), table
        states = {result.get("baselineState") for result in run["results"]}
        assert len(states) <= 1
        for result in run["results"]:
            check_result(result, run, components)


def check_result(result: dict[str, Any], run: dict[str, Any], components: list[dict[str, Any]]) -> None:
    check("result", result, "message")
    assert result["message"].get("text") or result["message"].get("id")
    assert result.get("level", "none") in ("none", "note", "warning", "error")
    assert result.get("kind", "fail") == "fail" or result.get("level", "none") == "none"
    assert GUID.fullmatch(result.get("guid", "aaaaaaaa-aaaa-1aaa-8aaa-aaaaaaaaaaaa"))
    assert all(isinstance(value, str) for value in result.get("fingerprints", {}).values())
    owner = result.get("rule", {}).get("toolComponent", {}).get("index")
    rules = components[0 if owner is None else owner + 1].get("rules", [])
    for index in (result.get("ruleIndex"), result.get("rule", {}).get("index")):
        assert index is None or result.get("ruleId", rules[index]["id"]).startswith(rules[index]["id"])
    for suppression in result.get("suppressions", []):
        check("suppression", suppression, "kind")
        assert suppression.get("status", "accepted") in ("accepted", "underReview", "rejected")
    for location in result.get("locations", []):
        artifact = location.get("physicalLocation", {}).get("artifactLocation", {})
        assert URI.fullmatch(artifact.get("uri", ""))
        assert artifact.get("index", -1) < len(run.get("artifacts", []))
        for logical in location.get("logicalLocations", []):
            assert logical.get("index", -1) < len(run.get("logicalLocations", []))


def write(documents: Any) -> dict[str, Any]:
    stream = io.BytesIO()
    count = write_sarif(iter(documents), stream)
    log: dict[str, Any] = json.loads(stream.getvalue())
    assert count == sum(len(run["results"]) for run in log["runs"])
    return log


def read(log: Any) -> list[dict[str, Any]]:
    with open_report(io.BytesIO(json.dumps(log).encode()), "sarif") as report:
        return [dict(validate_finding({**FILLED_IN, **document})) for document in report]


def results(log: dict[str, Any]) -> list[dict[str, Any]]:
    return [result for run in log["runs"] for result in run["results"]]


def report(*given: Any, **run: Any) -> dict[str, Any]:
    tool = run.pop("tool", {"driver": {"name": "Demo", "rules": [{"id": "R1"}]}})
    return {"version": "2.1.0", "runs": [{"tool": tool, "results": list(given), **run}]}


def own(**fields: Any) -> dict[str, Any]:
    return dict(validate_finding({**OWN, **fields}))


def content(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in ("id", "evidence", "provenance")}


@pytest.mark.parametrize("sample", ["bandit.sarif", "ruff.sarif", "semgrep.sarif"])
def test_a_real_report_comes_out_as_it_went_in(sample: str) -> None:
    original = json.loads((SAMPLES / sample).read_text())
    documents = read(original)
    log = write(documents)
    check_log(log)
    expected = results(original)
    for result, source in zip(results(log), expected, strict=True):
        assert result.pop("ruleIndex", None) is not None or "ruleIndex" not in source
        assert result == {key: value for key, value in source.items() if key != "ruleIndex"}
    rules = {rule["id"]: rule for rule in original["runs"][0]["tool"]["driver"]["rules"]}
    for rule in log["runs"][0]["tool"]["driver"]["rules"]:
        assert rule == rules[rule["id"]]
    for document, before in zip(read(log), documents, strict=True):
        assert content({**document, "created_at": before["created_at"]}) == content(before)
    assert write(read(log)) == log


def everything() -> dict[str, Any]:
    """A report that uses every kind of reference to its run."""
    rule = {"id": "R1", "messageStrings": {"m": {"text": "{0}!"}}, "defaultConfiguration": {"level": "note"}}
    taxa = [{"id": "CWE-1"}, {"id": "CWE-79"}]
    tool = {
        "driver": {
            "name": "Demo",
            "version": "1",
            "rules": [{"id": "unused"}, rule],
            "globalMessageStrings": {"g": {"text": "global"}},
        },
        "extensions": [{"name": "empty"}, {"name": "pack", "rules": [{"id": "E1", "name": "of pack"}]}],
    }
    place = {
        "physicalLocation": {"artifactLocation": {"uri": "a.py", "index": 2}, "region": {"startLine": 4}}
    }
    return report(
        {
            "ruleId": "R1",
            "ruleIndex": 1,
            "message": {"id": "m", "arguments": ["x"]},
            "locations": [{**place, "logicalLocations": [{"index": 1}]}],
            "partialFingerprints": {"line": "1"},
            "codeFlows": [{"threadFlows": [{"locations": [{"index": 1}]}]}],
            "suppressions": [{"kind": "external", "status": "underReview", "justification": "look"}],
        },
        {
            "ruleId": "E1",
            "rule": {"id": "E1", "index": 0, "toolComponent": {"index": 1}},
            "message": {"text": "m"},
            "relatedLocations": [{"message": {"id": "g"}}],
            "provenance": {"invocationIndex": 1, "lastDetectionTimeUtc": "2020-01-01T00:00:00Z"},
            "fingerprints": {"id": "1"},
        },
        tool=tool,
        artifacts=[{}, {"location": {"uri": "zip"}}, {"location": {"uri": "a.py"}, "parentIndex": 1}],
        logicalLocations=[{"name": "top"}, {"name": "f", "parentIndex": 0}],
        threadFlowLocations=[{}, {"location": {"physicalLocation": {"artifactLocation": {"index": 1}}}}],
        taxonomies=[{"name": "CWE", "taxa": taxa}],
        invocations=[
            {},
            {
                "ruleConfigurationOverrides": [
                    {"descriptor": {"id": "E1"}, "configuration": {"level": "error"}}
                ]
            },
        ],
        originalUriBaseIds={"SRC": {"uri": "file:///build/"}},
        columnKind="utf16CodeUnits",
    )


def test_references_to_the_run_mean_the_same_in_the_export() -> None:
    original = everything()
    documents = read(original)
    assert [document["severity"] for document in documents] == ["low", "high"]
    log = write(documents)
    check_log(log)
    (run,) = log["runs"]
    first, second = run["results"]
    for name in ("ruleId", "message", "locations", "partialFingerprints", "codeFlows", "suppressions"):
        assert first[name] == original["runs"][0]["results"][0][name]
    assert "level" not in first
    assert first["ruleIndex"] == 0
    assert run["artifacts"][1:] == original["runs"][0]["artifacts"][1:]
    assert run["logicalLocations"] == original["runs"][0]["logicalLocations"]
    assert run["threadFlowLocations"][1] == original["runs"][0]["threadFlowLocations"][1]
    assert (run["columnKind"], list(run["originalUriBaseIds"])) == ("utf16CodeUnits", ["SRC"])
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["R1"]
    assert run["tool"]["driver"]["globalMessageStrings"] == {"g": {"text": "global"}}
    assert run["tool"]["extensions"] == [{"name": "pack", "rules": [{"id": "E1", "name": "of pack"}]}]
    assert second["rule"] == {"id": "E1", "index": 0, "toolComponent": {"index": 0}}
    assert second["level"] == "error"  # what the invocation said, which is not exported
    assert second["provenance"] == {"lastDetectionTimeUtc": "2020-01-01T00:00:00Z"}
    assert [content(document) for document in read(log)] == [content(document) for document in documents]


def test_taxa_are_exported_by_name() -> None:
    taxa = [{"index": 1, "toolComponent": {"index": 0}}, {"id": "X"}]
    taxonomies = [{"name": "CWE", "taxa": [{"id": "CWE-1"}, {"id": "CWE-79"}]}]
    rule = {"id": "R1", "relationships": [{"target": taxa[0], "kinds": ["superset"]}]}
    log = write(
        read(
            report(
                {"ruleId": "R1", "message": {"text": "m"}, "taxa": taxa},
                tool={"driver": {"name": "Demo", "rules": [rule]}},
                taxonomies=taxonomies,
            )
        )
    )
    named = {"id": "CWE-79", "toolComponent": {"name": "CWE"}}
    assert results(log)[0]["taxa"] == [named, {"id": "X"}]
    assert log["runs"][0]["tool"]["driver"]["rules"][0]["relationships"] == [
        {"target": named, "kinds": ["superset"]}
    ]
    assert read(log)[0]["cwe_ids"] == [79]


def test_reports_that_disagree_on_an_index_are_still_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif_export, "_HIGHEST_INDEX", 20)

    def scan(uri: str, text: str) -> list[dict[str, Any]]:
        location = {
            "physicalLocation": {"artifactLocation": {"index": 0}},
            "logicalLocations": [{"index": 20}],
        }
        given = {"ruleId": "R1", "message": {"id": "g"}, "locations": [location]}
        tool = {
            "driver": {"name": "Demo", "rules": [{"id": "R1"}], "globalMessageStrings": {"g": {"text": text}}}
        }
        names = [{"name": f"n{n}"} for n in range(21)]
        return read(report(given, tool=tool, artifacts=[{"location": {"uri": uri}}], logicalLocations=names))

    documents = [*scan("a.py", "one"), *scan("b.py", "one"), *scan("c.py", "two")]
    log = write(documents)
    check_log(log)
    assert len(log["runs"]) == 2
    assert [content(document) for document in read(log)] == [content(document) for document in documents]
    assert [document["evidence"]["message"] for document in read(log)] == ["one", "one", "two"]
    assert "logicalLocations" not in log["runs"][0]
    second = results(log)[1]["locations"][0]
    assert second["physicalLocation"]["artifactLocation"] == {"uri": "b.py"}
    assert second["logicalLocations"] == [{"name": "n20"}]
    taken = documents[1]["provenance"]["sarif"]["locations"]["0"]
    assert taken["logicalLocations"] == {"0": {"index": 20}}, "a document was changed"


def test_rules_of_the_same_id_stay_apart() -> None:
    rules = [{"id": "R1", "name": "one"}, {"id": "R1", "name": "two"}]
    given = [{"ruleId": "R1", "ruleIndex": n, "message": {"text": "m"}} for n in (1, 0)]
    documents = read(report(*given, tool={"driver": {"name": "Demo", "rules": rules}}))
    documents += read(
        report({"ruleId": "R1", "message": {"text": "m"}}, tool={"driver": {"name": "Demo", "rules": rules}})
    )
    log = write(documents)
    assert [document["title"] for document in read(log)] == ["two", "one", "one"]
    assert [result.get("ruleIndex") for result in results(log)] == [0, 1, 1]


def changed(result: dict[str, Any], **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Import a result, change the document, export it; return the result and what a new import gives."""
    (document,) = read(report(result))
    document.update(fields)
    log = write([document])
    check_log(log)
    (again,) = read(log)
    return results(log)[0], again


@pytest.mark.parametrize("severity", ["info", "low", "medium", "high", "critical"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"level": "error"},
        {"kind": "informational", "level": "none"},
        {"properties": {"security-severity": "7.5"}},
        {"level": "note", "kind": "fail"},
    ],
)
def test_a_changed_severity_is_exported(given: dict[str, Any], severity: str) -> None:
    source = {"ruleId": "R1", "message": {"text": "m"}, **given}
    (before,) = read(report(source))
    result, again = changed(source, severity=severity)
    assert again["severity"] == severity
    assert "findings_orm" not in result.get("properties", {})
    if before["severity"] == severity:
        assert result == source
    else:
        assert result["level"] == {"info": "none", "low": "note", "medium": "warning"}.get(severity, "error")


@pytest.mark.parametrize(
    ("status", "suppressions"),
    [
        ("open", []),
        ("triaged", ["underReview"]),
        ("in_progress", []),
        ("resolved", []),
        ("false_positive", ["accepted"]),
        ("risk_accepted", ["accepted"]),
        ("archived", []),
    ],
)
def test_a_changed_status_is_exported(status: str, suppressions: list[str]) -> None:
    for before in ({}, {"suppressions": [{"kind": "inSource"}]}, {"baselineState": "absent"}):
        source = {"ruleId": "R1", "message": {"text": "m"}, **before}
        result, again = changed(source, status=status)
        assert again["status"] == status
        states = [one.get("status", "accepted") for one in result.get("suppressions") or []]
        assert states == suppressions
        assert (result.get("baselineState") == "absent") == (status in ("resolved", "archived"))
        assert ("findings_orm" in result.get("properties", {})) == (
            status in ("in_progress", "false_positive", "archived")
        )


@pytest.mark.parametrize(
    ("states", "status", "exported"),
    [
        (["accepted", "rejected"], "open", ["rejected"]),
        (["accepted", "underReview"], "triaged", ["underReview"]),
        (["rejected", "underReview", "rejected"], "triaged", ["underReview"]),
        (["accepted", "accepted"], "risk_accepted", ["accepted", "accepted"]),
        (["rejected"], "open", ["rejected"]),
    ],
)
def test_an_export_says_one_thing_where_suppressions_disagree(
    states: list[str], status: str, exported: list[str]
) -> None:
    given = [
        {"kind": "external", "status": state, "justification": f"{number}: {state}"}
        for number, state in enumerate(states)
    ]
    result, again = changed({"ruleId": "R1", "message": {"text": "m"}, "suppressions": given})
    assert [one["status"] for one in result["suppressions"]] == exported
    assert all(one["justification"].endswith(f": {one['status']}") for one in result["suppressions"])
    assert again["status"] == status


def test_other_changes_are_exported_as_properties() -> None:
    fields = {
        "title": "New",
        "cwe_ids": [7],
        "tags": ["t"],
        "resource": "x",
        "location": None,
        "fingerprint": None,
    }
    source = {"ruleId": "R1", "message": {"text": "m"}, "fingerprints": {"a": "1"}, "properties": {"kept": 1}}
    result, again = changed(source, **fields)
    assert {name: again[name] for name in fields} == fields
    assert result["properties"]["kept"] == 1
    assert set(result["properties"]["findings_orm"]) == {
        "title",
        "cwe_ids",
        "tags",
        "resource",
        "fingerprint",
    }
    again.update(title="m", cwe_ids=[], tags=[], resource="", fingerprint="a=1")
    assert "findings_orm" not in results(write([again]))[0]["properties"]


def test_the_detector_of_an_export_is_the_documents() -> None:
    (document,) = read(report({"ruleId": "R1", "message": {"text": "m"}}))
    for detector in ("Scan.Other", "other", "a--b", "-x"):
        log = write([{**document, "detector_id": detector}, own(detector_id=detector)])
        check_log(log)
        assert {document["detector_id"] for document in read(log)} == {detector}


FULL = {
    "rule_id": "R/1",
    "fingerprint": "abc;1",
    "resource": "https://example.com/a?b=c",
    "cwe_ids": [79, 116],
    "cve_ids": ["CVE-2020-11022"],
    "cvss": 6.1,
    "owasp": ["A03:2021"],
    "mitre_attack": ["T1059.001"],
    "tags": ["web", "x y"],
    "poc_links": ["https://example.com/poc"],
    "confidence": 80,
    "location": {"path": "a.py", "start_line": 3, "end_line": 4, "snippet": "x"},
    "created_at": "2024-05-01T12:00:00.000001Z",
}


def test_a_finding_of_its_own_becomes_a_result() -> None:
    document = own(
        **FULL, evidence={"message": "The message", "secret": "s3cret"}, provenance={"host": "s3cret"}
    )
    log = write([document])
    check_log(log)
    (result,) = results(log)
    assert result["ruleId"] == "R/1"
    assert result["message"] == {"text": "The message"}
    assert result["level"] == "warning"
    assert result["properties"]["security-severity"] == "6.1"
    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "a.py"},
        "region": {"startLine": 3, "endLine": 4, "snippet": {"text": "x"}},
    }
    assert result["properties"]["tags"] == [
        "web",
        "x y",
        "external/cwe/cwe-079",
        "external/cwe/cwe-116",
        "CVE-2020-11022",
    ]
    assert result["provenance"] == {"firstDetectionTimeUtc": "2024-05-01T12:00:00.000001Z"}
    assert log["runs"][0]["tool"]["driver"] == {
        "name": "scan.demo",
        "rules": [
            {
                "id": "R/1",
                "shortDescription": {"text": "A title"},
                "defaultConfiguration": {"level": "warning"},
                "properties": {
                    "security-severity": "6.1",
                    "tags": ["security", "external/cwe/cwe-079", "external/cwe/cwe-116"],
                },
            }
        ],
    }
    assert "s3cret" not in json.dumps(log)
    assert content(read(log)[0]) == content(document)


@pytest.mark.no_cover
@pytest.mark.parametrize("cvss", [None, 0.0, 3.95, 9.9])
@pytest.mark.parametrize("severity", ["info", "low", "medium", "high", "critical"])
@pytest.mark.parametrize(
    "status", ["open", "triaged", "in_progress", "resolved", "false_positive", "risk_accepted", "archived"]
)
def test_severity_and_status_survive(severity: str, status: str, cvss: float | None) -> None:
    shared = {"rule_id": "R1", "cvss": cvss}
    documents = [
        own(**shared, severity="critical"),
        own(**shared, severity=severity, status=status, title="Other"),
    ]
    documents.append(own(severity=severity, status=status))
    log = write(documents)
    check_log(log)
    by_run = sorted(documents, key=lambda document: document["status"] in ("resolved", "archived"))
    assert [content(document) for document in read(log)] == [content(document) for document in by_run]


def test_findings_of_one_rule_share_it() -> None:
    log = write(own(rule_id="R1", title=f"Title {n}", severity="low") for n in range(3))
    assert len(log["runs"][0]["tool"]["driver"]["rules"]) == 1
    assert [document["title"] for document in read(log)] == ["Title 0", "Title 1", "Title 2"]
    other = write([own(rule_id="R1"), own(rule_id="R1", detector_id="other")])
    assert [run["tool"]["driver"]["name"] for run in other["runs"]] == ["scan.demo", "other"]


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
LOCATIONS = st.none() | st.builds(
    lambda start, more, rest: {**rest, "start_line": start, "end_line": start + more},
    st.integers(1, 99),
    st.integers(0, 9),
    st.fixed_dictionaries({}, optional={"path": TEXT, "snippet": TEXT}),
)
DOCUMENTS = st.fixed_dictionaries(
    {"title": TEXT.filter(bool), "severity": st.sampled_from(["info", "low", "medium", "high", "critical"])},
    optional={
        "detector_id": st.from_regex(r"[A-Za-z0-9_.-]{1,8}", fullmatch=True),
        "rule_id": TEXT.filter(bool),
        "fingerprint": TEXT.filter(bool),
        "resource": TEXT
        | st.sampled_from(["C:\\a b", "a%2", "a%20", "http://h:1/é", "//x", "h:22", "#", "{0}"]),
        "location": LOCATIONS | st.just({"path": "p"}) | st.just({"snippet": "s"}),
        "tags": st.lists(
            TEXT.filter(bool) | st.sampled_from(["CWE-5", "CVE-2020-1111", "security"]), max_size=3
        ),
        "cwe_ids": st.lists(st.integers(1, 2**31 - 1), max_size=3),
        "cve_ids": st.lists(st.sampled_from(["CVE-2020-1111", "CVE-2021-22222"]), max_size=2),
        "status": st.sampled_from(["open", "triaged", "resolved", "false_positive"]),
        "cvss": st.floats(0, 10),
        "evidence": st.fixed_dictionaries({"message": TEXT}),
    },
)


@given(st.lists(DOCUMENTS, max_size=4))
def test_any_finding_survives(fields: list[dict[str, Any]]) -> None:
    documents = [own(**one) for one in fields]
    log = write(documents)
    check_log(log)
    assert sorted(map(repr, map(content, read(log)))) == sorted(map(repr, map(content, documents)))


@pytest.mark.parametrize(
    "evidence",
    [
        {"sarif": 7},
        {"sarif": "no json", "sarif_run": {"tool": {"driver": {"name": "x"}}}},
        {"sarif": {}, "sarif_run": []},
        {
            "sarif": {},
            "sarif_run": {"tool": {"driver": {"name": "x"}}},
            "sarif_rule": 5,
            "sarif_references": 5,
        },
        {
            "sarif": {
                "message": {"text": "m"},
                "properties": 5,
                "rule": {"toolComponent": 7},
                "provenance": [],
            },
            "sarif_run": {"tool": {"driver": {"name": "scan.demo"}, "extensions": 5}},
            "sarif_rule": {"id": []},
            "sarif_references": {
                "artifacts": {"x": {}, "1": 5, "99999999999": {}},
                "taxa": 5,
                "globalMessageStrings": 7,
            },
        },
    ],
)
def test_evidence_that_is_not_what_an_import_wrote_does_no_harm(evidence: dict[str, Any]) -> None:
    document = own(evidence=evidence, rule_id="R1")
    assert content(read(write([document]))[0]) == content(document)


def test_a_deep_result_comes_out_again() -> None:
    deep: Any = {}
    for _ in range(200):
        deep = {"x": deep}
    source = {"ruleId": "R1", "message": {"text": "m"}, "properties": {"deep": deep}}
    assert results(write(read(report(source)))) == [source]


def test_no_findings_are_no_runs() -> None:
    log = write([])
    check_log(log)
    assert log["runs"] == []


def test_text_streams_and_formats() -> None:
    stream = io.StringIO()
    assert write_report([own(title="é")], stream, "sarif") == 1
    assert results(json.loads(stream.getvalue()))[0]["message"]["text"] == "é"
    with pytest.raises(
        StorageValidationError, match="'nuclei' is no format that can be written; known are sarif, "
    ):
        write_report([], stream, "nuclei")


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"detector_id": None}, "detector_id"), ({"title": ""}, "title"), ({"severity": "bad"}, "severity")],
)
def test_what_is_no_finding_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(StorageValidationError, match=f"document 1: {field}") as caught:
        write([own(), {**OWN, **fields}])
    assert (caught.value.field, caught.value.index) == (field, 1)


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(StorageValidationError, match="document 0"):
        write([{**OWN, "evidence": {"message": "\ud800"}}])
    with pytest.raises(StorageValidationError, match="document 0"):
        write([{**OWN, "tags": [object()]}])


class Full(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("format", ["sarif", "jsonl", "csv"])
def test_a_full_disk_is_unavailable(format: str) -> None:
    with pytest.raises(StorageUnavailableError, match="No space left"):
        write_report([own()], Full(), format)  # type: ignore[arg-type]


def test_documents_are_taken_one_by_one() -> None:
    taken = 0

    def documents() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for _ in range(3):
            taken += 1
            yield own()

    assert write_sarif(documents(), io.BytesIO()) == taken == 3
