"""What changes at each scan is no change of a finding."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from findings_orm.errors import StorageValidationError
from findings_orm.finding import validate_finding
from findings_orm.fingerprint import says_as_much
from findings_orm.formats import open_report
from findings_orm.formats.paths import without_passing_port
from findings_orm.formats.volatile import Splitter, join_volatile
from findings_orm.port import FindingStore, IngestReport
from findings_orm.registry import open_storage
from findings_orm.stores.memory import InMemoryStorageAdapter
from findings_orm.testing.samples import PROJECT, assert_same, finding, scanned

Log = dict[str, Any]


@pytest.fixture(params=["memory", "files", "sqlite", "postgresql"])
def any_store(request: pytest.FixtureRequest) -> Iterator[FindingStore]:
    """Return an empty store of each kind."""
    if request.param == "memory":
        store: FindingStore = InMemoryStorageAdapter()
    elif request.param == "postgresql":
        store = open_storage(request.getfixturevalue("emptied_postgresql_url"))
    else:
        store = request.getfixturevalue(f"open_{request.param}")()
    with closing(store):
        yield store


@pytest.fixture
def sqlite_store(open_sqlite: Callable[[], FindingStore]) -> Iterator[FindingStore]:
    """Return an empty SQLite store."""
    with closing(open_sqlite()) as store:
        yield store


def place(uri: str, index: int, line: int) -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": uri, "uriBaseId": "SRCROOT", "index": index},
            "region": {"startLine": line, "snippet": {"text": f"call({line})"}},
        },
        "logicalLocations": [{"name": "main", "index": index, "parentIndex": 0}],
    }


def a_log() -> Log:
    """Return a report with whatever a scanner writes anew each time."""
    flow = {
        "locations": [
            {"index": 3, "executionTimeUtc": "2031-05-01T03:00:01Z", "location": place("a.py", 0, 4)}
        ]
    }
    results = [
        {
            "ruleId": f"R{n}",
            "ruleIndex": n,
            "rule": {"id": f"R{n}", "index": n},
            "message": {"text": f"Problem {n} in /agent/11/ws/src/a.py"},
            "locations": [place("src/a.py", n, 10 * n + 7)],
            "relatedLocations": [place("file:///agent/11/ws/src/b.py", n + 1, 3)],
            "codeFlows": [{"threadFlows": [flow]}],
            "guid": f"11111111-0000-4000-8000-00000000000{n}",
            "baselineState": "new",
            "hostedViewerUri": "https://viewer.example/runs/11",
            "webRequest": {"target": "https://shop.example/", "headers": {"X-Probe": "7f01"}},
            "webResponse": {"headers": {"Date": "Thu, 01 May 2031 03:00:00 GMT"}},
            "provenance": {"lastDetectionTimeUtc": "2031-05-01T03:00:00Z", "invocationIndex": 0},
            "properties": {"confidence": "high", "index": 5},
        }
        for n in range(2)
    ]
    driver = {
        "name": "yardscan",
        "fullName": "Yardscan 2.0.1",
        "version": "2.0.1",
        "semanticVersion": "2.0.1",
        "guid": "11111111-0000-4000-8000-0000000000aa",
        "downloadUri": "https://x.example/2.0.1",
        "rules": [
            {"id": f"R{n}", "helpUri": f"https://x.example/2.0.1/R{n}", "help": {"text": "Don't."}}
            for n in range(2)
        ],
    }
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": "nightly/", "guid": "11111111-0000-4000-a000-000000000000"},
        "originalUriBaseIds": {"SRCROOT": {"uri": "file:///agent/11/ws/"}},
        "invocations": [{"executionSuccessful": True, "startTimeUtc": "2031-05-01T03:00:00Z"}],
        "artifacts": [
            {"location": {"uri": name}, "hashes": {"sha-256": "aa"}} for name in ("src/a.py", "src/b.py", "c")
        ],
        "results": results,
    }
    return {"version": "2.1.0", "runs": [run]}


def next_scan(log: Log) -> Log:
    """Return the report of the next scan by another version of the tool, in another folder, of the same problems."""
    text = json.dumps(log)
    for old, new in (
        ("2.0.1", "2.0.2"),
        ("/agent/11/", "/agent/12/"),
        ("2031-05-01", "2031-05-02"),
        ("01 May", "02 May"),
        ("11111111-", "22222222-"),
        ("runs/11", "runs/12"),
        ("7f01", "c233"),
        ('"new"', '"unchanged"'),
        ("Don't.", "You should not do that."),
        ('"aa"', '"bb"'),
    ):
        assert old in text
        text = text.replace(old, new)
    found: Log = json.loads(text)
    run = found["runs"][0]
    run["tool"]["driver"]["rules"].insert(0, {"id": "R9"})
    run["artifacts"].insert(0, {"location": {"uri": "0.py"}})
    for result in run["results"]:
        result["ruleIndex"] += 1
        result["rule"]["index"] += 1
        for one in (*result["locations"], *result["relatedLocations"]):
            one["physicalLocation"]["artifactLocation"]["index"] += 1
    return found


def load(store: FindingStore, report: object, **options: Any) -> IngestReport:
    data = report if isinstance(report, bytes) else json.dumps(report).encode()
    with open_report(io.BytesIO(data), **options) as opened:
        return store.ingest(PROJECT, opened, close_missing=True)


def counts(report: IngestReport) -> dict[str, int]:
    return {name: count for name, count in report.counts().items() if count}


def count_events(store: FindingStore) -> int:
    return sum(len(store.history(PROJECT, one["id"])) for one in store.list_findings(PROJECT))


def test_a_next_scan_changes_nothing(any_store: FindingStore) -> None:
    log = a_log()
    assert counts(load(any_store, log)) == {"created": 2}
    before = any_store.list_findings(PROJECT)
    for _ in range(3):
        assert counts(load(any_store, next_scan(log))) == {"unchanged": 2}
    assert any_store.list_findings(PROJECT) == before
    assert count_events(any_store) == 0
    assert before[0]["evidence"]["message"] == "Problem 0 in src/a.py"
    assert [run.tool["version"] for run in any_store.runs(PROJECT)] == ["2.0.1"] + ["2.0.2"] * 3


CHANGES: list[Callable[[dict[str, Any]], object]] = [
    lambda result: result.update(level="error"),
    lambda result: result["message"].update(text="Another problem"),
    lambda result: result["properties"].update(confidence="low"),
    lambda result: result["properties"].update(index=6),
    lambda result: result["relatedLocations"][0]["physicalLocation"]["region"].update(startLine=4),
    lambda result: result["relatedLocations"][0]["physicalLocation"]["artifactLocation"].update(
        uri="src/z.py"
    ),
    lambda result: result.update(suppressions=[{"kind": "inSource"}]),
    lambda result: result.update(rank=5.0),
    lambda result: result["locations"][0]["physicalLocation"]["region"].update(startLine=8),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_scan_says_is_a_change(change: Callable[[dict[str, Any]], object]) -> None:
    store = InMemoryStorageAdapter()
    load(store, a_log())
    log = next_scan(a_log())
    change(log["runs"][0]["results"][0])
    assert counts(load(store, log)) == {"updated": 1, "unchanged": 1}
    changed = next(one for one in store.list_findings(PROJECT) if store.history(PROJECT, one["id"]))
    events = store.history(PROJECT, changed["id"])
    assert "provenance" not in {name for event in events for name in event.changes}
    assert changed["provenance"]["sarif"]["guid"][:8] == "22222222", "the provenance is that of another scan"


def test_a_report_comes_out_as_it_went_in() -> None:
    with open_report(io.BytesIO(json.dumps(a_log()).encode())) as report:
        documents = list(report)
    for document, original in zip(documents, a_log()["runs"][0]["results"], strict=True):
        assert join_volatile(document["evidence"]["sarif"], document["provenance"]["sarif"]) == original
        text = json.dumps(document["evidence"])
        assert not any(word in text for word in ("2031", "11111111", "/agent/", "2.0.1", "7f01"))


def test_findings_of_an_older_release_are_not_changed_by_what_moved() -> None:
    """What is provenance now was evidence before."""
    log = a_log()
    for result in log["runs"][0]["results"]:
        result["message"]["text"] = (
            "A problem"  # without a folder: where that was in a text it is an update, once
        )
    later = next_scan(log)
    with open_report(io.BytesIO(json.dumps(log).encode())) as report:
        new = list(report)
    store = InMemoryStorageAdapter()
    old = copy.deepcopy(new)
    for document in old:
        evidence, provenance = document["evidence"], document.pop("provenance")
        evidence["sarif"] = join_volatile(evidence["sarif"], provenance.pop("sarif"))
        evidence.update(provenance)
    store.ingest(PROJECT, old)
    assert counts(load(store, later)) == {"unchanged": 2}
    assert counts(load(store, later)) == {"unchanged": 2}
    assert count_events(store) == 0
    later["runs"][0]["results"][0]["rank"] = 5.0
    assert counts(load(store, later)) == {"updated": 1, "unchanged": 1}


@pytest.mark.parametrize(
    ("old", "new", "taken", "same"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, {"b": 3}, True),
        ({"a": 1, "b": 2}, {"a": 1}, {}, False),
        ({"a": 1}, {"a": 2}, {"a": 1}, False),
        ({"a": "x"}, {"a": "y"}, {"a": "z"}, False),
        ({"a": "x"}, {"a": "y"}, {"a": "x"}, True),
        ({"a": "/old/x"}, {"a": "x"}, {"a": "/new/x"}, True),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, {"a": "x"}, False),
        ({"a": [{"i": 1, "n": 1}]}, {"a": [{"n": 1}]}, {"a": {"0": {"i": 2}}}, True),
        ({"a": [{"i": 1, "n": 1}]}, {"a": [{"n": 2}]}, {"a": {"0": {"i": 2}}}, False),
        ({"a": [{"i": 1}, {}]}, {"a": [{}]}, {"a": {"0": {"i": 2}}}, False),
        ({}, {"a": 1}, {"a": 1}, False),
        ({"a": 1}, {"a": 1.0}, {"b": 1}, False),
        ({"a": 1}, {}, None, False),
    ],
)
def test_what_says_as_much(old: Any, new: Any, taken: Any, same: bool) -> None:
    assert says_as_much(old, new, taken) is same


def probe(n: int, scan: int, **changes: Any) -> dict[str, Any]:
    return {
        "template-id": "open-admin",
        "template-path": f"/home/agent-{scan}/templates/open-admin.yaml",
        "info": {
            "name": "Admin page is open",
            "severity": "high",
            "description": "The page answers without a login.",
            "classification": {"cwe-id": ["cwe-284"], "epss-score": scan / 1000},
        },
        "type": "http",
        "host": f"shop-{n}.example",
        "port": "443",
        "matched-at": f"https://shop-{n}.example/admin",
        "timestamp": f"2031-04-{scan:02}T02:00:00Z",
        "curl-command": f"curl -H 'X-Probe: {scan}' https://shop-{n}.example/admin",
        "ip": f"192.0.2.{scan}",
        "request": f"GET /admin HTTP/1.1\r\nX-Probe: {scan}\r\n",
        "response": f"HTTP/1.1 200 OK\r\nDate: {scan}\r\n" + "page " * 200,
        "interaction": {"unique-id": f"c{scan}", "timestamp": f"2031-04-{scan:02}T02:00:00Z"},
        "matcher-status": True,
        **changes,
    }


def lines(results: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in results)


def test_scans_of_nuclei_leave_hardly_anything_behind(sqlite_store: FindingStore) -> None:
    count = 500
    load(sqlite_store, lines(probe(n, 1) for n in range(count)))
    before = size_of(sqlite_store)
    for scan in range(2, 12):
        report = load(sqlite_store, lines(probe(n, scan) for n in range(count)))
        assert counts(report) == {"unchanged": count}
    assert count_events(sqlite_store) == 0
    assert (size_of(sqlite_store) - before) / (10 * count) < 100
    again = load(
        sqlite_store, lines(probe(n, 12, info={"name": "x", "severity": "low"}) for n in range(count))
    )
    assert counts(again) == {"updated": count}


def size_of(store: Any) -> int:
    with store.transaction(), store.session() as session:
        connection = session.connection()
        pages, free, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "app.localhost", "[::1]", "0.0.0.0", "127.1.2.3"],  # noqa: S104  # nothing is bound
)
def test_ports_that_a_system_hands_out_are_left_out(host: str) -> None:
    def scan(port: int) -> bytes:
        at = {"host": f"{host}:{port}", "port": str(port), "matched-at": f"http://{host}:{port}/admin"}
        return lines(
            [probe(1, 1, **at, url=f"http://{host}:{port}/", **{"extracted-results": [f"{host}:{port}"]})]
        )

    store = InMemoryStorageAdapter()
    load(store, scan(41873))
    store.set_status(PROJECT, store.list_findings(PROJECT)[0]["id"], "risk_accepted", actor="ann")
    assert counts(load(store, scan(55012))) == {"unchanged": 1}
    (found,) = store.list_findings(PROJECT)
    assert (found["resource"], found["status"]) == (f"http://{host}/admin", "risk_accepted")
    assert found["provenance"]["nuclei"]["matched-at"] == f"http://{host}:41873/admin"
    assert counts(load(store, scan(8080))) == {"created": 1}


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8080/", "http://localhost:32767/", "http://shop.example:41873/", "http://10.0.0.1:41873/",
        "http://localhost.example:41873/", "http://notlocalhost:41873/", "http://127.0.0.1:418730/", "127.0.0.1",
        "http://1.127.0.0.1:41873/", "localhost:4187", "http://[::12]:41873/", "",
    ],
)  # fmt: skip
def test_other_ports_tell_services_apart(text: str) -> None:
    assert without_passing_port(text) == text


def test_json_lines_name_what_changes_at_each_scan(any_store: FindingStore) -> None:
    def scan(day: int, **changes: Any) -> bytes:
        http = {
            "time": day,
            "calls": [{"url": "https://a", "took": day}, {"url": "https://b", "took": day}],
            "code": 200,
        }
        return lines(
            [scanned(evidence={"http": http, "day": day, "note": "x", **changes}, provenance={"by": "me"})]
        )

    names = ["evidence.day", "evidence.http.time", "evidence.http.calls.took"]
    load(any_store, scan(1), volatile=names)
    assert counts(load(any_store, scan(2), volatile=names)) == {"unchanged": 1}
    (found,) = any_store.list_findings(PROJECT)
    kept = {"http": {"calls": [{"url": "https://a"}, {"url": "https://b"}], "code": 200}, "note": "x"}
    assert_same(found["evidence"], kept)
    taken = {"by": "me", "http": {"time": 1, "calls": {"0": {"took": 1}, "1": {"took": 1}}}, "day": 1}
    assert found["provenance"] == taken
    assert counts(load(any_store, scan(3, note="y"), volatile=iter(names))) == {"updated": 1}
    assert any_store.list_findings(PROJECT)[0]["provenance"]["day"] == 3
    assert counts(load(any_store, scan(4, note="y"))) == {"updated": 1}


@pytest.mark.parametrize(
    "name", ["title", "evidence", "evidence.", "provenance.x", "", ".", "evidence..a", "x.evidence.a"]
)
def test_only_members_of_the_evidence_are_named(name: str) -> None:
    with pytest.raises(StorageValidationError) as caught:
        open_report(io.BytesIO(lines([scanned()])), volatile=[name])
    assert caught.value.field == "volatile"


def test_other_readers_know_what_changes() -> None:
    with pytest.raises(StorageValidationError, match="sarif") as caught:
        open_report(io.BytesIO(json.dumps(a_log()).encode()), volatile=["evidence.sarif"])
    assert caught.value.field == "volatile"


@pytest.mark.parametrize(
    "document", [{"evidence": 5}, {"provenance": []}, {"evidence": {"a": 1}, "provenance": None}, {}]
)
def test_what_is_no_document_is_left_as_it_is(document: dict[str, Any]) -> None:
    given = {"detector_id": "a", **document}
    with open_report(io.BytesIO(lines([given])), "jsonl", volatile=["evidence.a"]) as report:
        assert list(report) == [given]


JSON = st.recursive(
    st.none() | st.integers(0, 3) | st.sampled_from(["", "long x", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
)


@given(st.dictionaries(st.sampled_from("abcd"), JSON))
def test_what_was_split_is_put_together(value: dict[str, Any]) -> None:
    splitter = Splitter("a", "b", "c", lambda _, text: text.removeprefix("long "))
    for split in (splitter.split, splitter.split_members):
        kept, taken = split(value)
        assert join_volatile(kept, taken) == value
        assert not {"a", "b"} & kept.keys()
        assert says_as_much(value, kept, taken)


def test_documents_of_nuclei_are_valid() -> None:
    with open_report(io.BytesIO(lines([probe(1, 1)]))) as report:
        (document,) = report
    assert validate_finding({**finding(1), **document})["rule_id"] == "open-admin"
