"""What a line number is, and that findings of an older version of the algorithm are recognised by every store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, cast

import pytest

from findings_orm import FindingStore, open_storage
from findings_orm.fingerprint import VERSION, fingerprint, former_digest, without_line
from findings_orm.records import Stored
from findings_orm.store import Store
from findings_orm.testing.samples import PROJECT, scanned

FILES = {
    "src/a.py:12": "src/a.py",
    "src/a.py:12:5": "src/a.py",
    "src/a.py:12-14": "src/a.py",
    "src/a.py(12)": "src/a.py",
    "src/a.py(12,5)": "src/a.py",
    "src/a.py#L12": "src/a.py",
    "a.py#L12-L14": "a.py",
    "https://git.example/o/r/blob/main/a.py#L12": "https://git.example/o/r/blob/main/a.py",
    "a.py:12": "a.py",
    "Dockerfile:12": "Dockerfile",
    "src/Makefile:12": "src/Makefile",
    "src/Main:12": "src/Main",
    "my app/run:12": "my app/run",
    "/etc/passwd:12": "/etc/passwd",
    "./run:12": "./run",
    "../bin/run:12": "../bin/run",
    "~/.bashrc:12": "~/.bashrc",
    "C:\\src\\a.c:12": "C:\\src\\a.c",
    "C:\\bin\\run(12)": "C:\\bin\\run",
    "D:/bin/run:12": "D:/bin/run",
    "file:///srv/run:12": "file:///srv/run",
    "ghcr.io/org/src/a.py:12": "ghcr.io/org/src/a.py",
}
WHOLE = [
    "ghcr.io/org/app:1",
    "ghcr.io/org/app:1.2.3",
    "org/app:12",
    "nginx:1",
    "localhost:5000/org/app:1",
    "localhost:5000/site.js:1",
    "10.0.0.1:5000/node.js:18",
    "REGISTRY.example/app:3",
    "app@sha256:12",
    "ghcr.io/org/App@sha256:12",
    "bin/run:12",
    "host:8080",
    "service:8080",
    "http://h:8080",
    "http://h/a.py:12",
    "10.0.0.1:80",
    "10.0.0.0/24:80",
    "[::1]:8080",
    "[::1]/a:80",
    "fe80::1",
    "2001:db8::1:8080",
    "C:12",
    "12:30:45",
    "logs/2024-01-01T12:30",
    "logs/2024-01-01T12:30:45",
    "arn:aws:sns:eu-west-1:123456789012",
    "arn:aws:ecs:eu-west-1:1:task-definition/Web:7",
    "urn:X/Y:3",
    "pkg:docker/org/App@1:2",
    "cpe:2.3:a:b/C:1",
    "/api/Users(12)",
    "Users(12)",
]


@pytest.mark.parametrize("resource", FILES)
def test_line_of_a_file(resource: str) -> None:
    assert without_line(resource) == (FILES[resource], 12)


@pytest.mark.parametrize("resource", WHOLE)
def test_number_that_is_no_line(resource: str) -> None:
    assert without_line(resource) == (resource, None)


def test_location_that_names_the_file() -> None:
    assert without_line("bin/run:12", "bin/run") == ("bin/run", 12)
    assert without_line("bin/run:12", "bin/other") == ("bin/run:12", None)


def test_search_for_a_line_does_not_grow_with_the_text() -> None:
    """The time of an earlier search grew with the square of the length: this would take hours."""
    text = "a:1" + ":1" * 500_000 + ")"
    assert without_line(text) == (text, None)


def test_former_digest() -> None:
    tag = scanned(resource="ghcr.io/org/app:1")
    assert former_digest(tag) == fingerprint({**tag, "resource": "ghcr.io/org/app"}).digest
    assert former_digest({**tag, "fingerprint": "own"}) is None
    for resource in ("src/a.py:1", "http://h:80", "app", ""):
        assert former_digest(scanned(resource=resource)) is None


# -- findings that version 1 identified ------------------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite", "file", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    opened: dict[str, Callable[[], FindingStore]] = {
        "memory": lambda: open_storage("memory:"),
        "sqlite": lambda: open_storage("sqlite://"),
        "file": request.getfixturevalue("open_files"),
        "postgresql": lambda: open_storage(request.getfixturevalue("postgresql_url")),
    }
    with opened[request.param]() as made:
        yield cast(Store, made)


def _image(tag: str, **changes: Any) -> dict[str, Any]:
    return scanned("CVE-2026-1", resource=f"ghcr.io/org/app:{tag}", **changes)


def _as_version_1(store: Store, documents: list[dict[str, Any]]) -> dict[str, str]:
    """Import documents, give their findings the identities of version 1, and return resource to id."""
    store.ingest(PROJECT, documents)
    ordinals: dict[bytes, int] = {}
    with store.writing() as unit:
        unit.advance(PROJECT, "2026-01-01T00:00:00Z")
        rows = []
        for document in store.list_findings(PROJECT):
            kept = unit.stored(PROJECT, [document["id"]])[document["id"]]
            digest = former_digest(document) or kept.identity.fingerprint
            ordinal = ordinals[digest] = ordinals.get(digest, -1) + 1
            identity = kept.identity._replace(fingerprint=digest, ordinal=ordinal, version=1, line=1)
            rows.append(Stored(kept.document, identity))
        unit.replace(PROJECT, rows)
    return {one["resource"]: one["id"] for one in store.list_findings(PROJECT)}


def test_findings_of_version_1_are_recognised(store: Store) -> None:
    report = [_image("1"), _image("2"), scanned("R1", resource="src/a.py:3"), scanned("R2", resource="h:80")]
    ids = _as_version_1(store, report)
    image = ids["ghcr.io/org/app:1"]
    store.set_status(PROJECT, image, "risk_accepted", actor="ana")
    before = store.history(PROJECT, image)
    detectors = (report[0]["detector_id"],)

    first = store.ingest(PROJECT, report, run={"detectors": detectors}, close_missing=True)
    assert (first.created, first.updated, first.unchanged, first.resolved) == (0, 0, 4, 0)
    assert {one["resource"]: one["id"] for one in store.list_findings(PROJECT)} == ids
    assert store.get_finding(PROJECT, image)["status"] == "risk_accepted"
    assert store.history(PROJECT, image) == before
    seen = store.sighting(PROJECT, image)
    assert (seen.fingerprint, seen.fingerprint_version) == (fingerprint(report[0]).digest.hex(), VERSION)

    again = store.ingest(PROJECT, report, run={"detectors": detectors}, close_missing=True)
    assert (again.unchanged, again.created, again.resolved) == (4, 0, 0)
    store.ingest(PROJECT, report[1:], run={"detectors": detectors}, close_missing=True)
    assert [one["status"] for one in store.list_findings(PROJECT) if one["id"] != image] == ["open"] * 3


def test_what_version_1_took_for_one_finding_is_two(store: Store) -> None:
    ids = _as_version_1(store, [_image("2")])
    report = store.ingest(PROJECT, [_image("1"), _image("2")])
    assert (report.created, report.unchanged) == (1, 1)
    assert {one["resource"]: one["id"] for one in store.list_findings(PROJECT)}.items() >= ids.items()


def test_dry_run_leaves_findings_of_version_1_as_they_are(store: Store) -> None:
    image = next(iter(_as_version_1(store, [_image("1")]).values()))
    assert store.ingest(PROJECT, [_image("1")], dry_run=True).unchanged == 1
    assert store.sighting(PROJECT, image).fingerprint_version == 1


def test_a_finding_of_version_1_and_one_that_was_saved_since(store: Store) -> None:
    """Both have one fingerprint now, and stay two."""
    ids = _as_version_1(store, [_image("1")])
    other = store.list_findings(PROJECT)[0] | {"id": "00000000-0000-4000-8000-000000000001"}
    store.save_finding(other)
    report = store.ingest(PROJECT, [_image("1"), _image("1")])
    assert (report.created, report.unchanged) == (0, 2)
    assert {one["id"] for one in store.list_findings(PROJECT)} == {*ids.values(), other["id"]}


def test_digest_is_that_of_the_documented_algorithm() -> None:
    fields = ("content", "scan.demo", "rule", "R1", "src/a.py", "a b")
    data = b"".join(len(text.encode()).to_bytes(8, "big") + text.encode() for text in fields)
    document = {
        "detector_id": "scan.demo",
        "title": "t",
        "rule_id": "R1",
        "resource": "src/a.py:9",
        "location": {"snippet": " a\n b"},
    }
    assert fingerprint(document) == (sha256(data).digest(), 9)
