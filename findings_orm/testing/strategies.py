"""Hypothesis strategies for documents that reach every corner of the schema, good ones and bad ones."""

from __future__ import annotations

import copy
import string
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from findings_orm.finding import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_NUMBER,
    SCHEMA_VERSION,
    Severity,
    Status,
)
from findings_orm.freetext import RELEVANCE, words_of
from findings_orm.query import SORTS, FindingQuery
from findings_orm.testing.hostile import BREAKS, Break, break_document
from findings_orm.testing.samples import assert_equal_values, assert_same

__all__ = [
    "assert_equal_values",
    "assert_same",
    "documents",
    "hostile_documents",
    "hostile_values",
    "json_objects",
    "legacy_documents",
    "project_ids",
    "queries",
    "scans",
    "texts",
    "times",
]

Document = dict[str, Any]

HARD_TEXTS = (
    "é",
    "e\u0301\u0323",
    "\u05e9\u05dc\u05d5\u05dd \u202eمرحبا\u202c",
    "👩\u200d👩\u200d👧\u200d👦 \U0001f3f4\U000e0067\U000e0062\U000e007f",
    "\U00010000\uffff\ufffd\ufeff\U0010ffff",
    "ß ẞ İ ı ﬃ Ⅳ ｆｕｌｌ",
    "100% _ \\ ' \" ; -- /* $$ {} %s :x ?",
    "line\r\nline\u2028line\x0b\x0c\x1b[31m\x7f\x85",
    " leading and trailing \t",
    "null",
    "1.0",
    "日本語テキスト",
)
_HARD_NUMBERS = (
    *(0, -1, 2**31, 2**53 + 1, -(2**63), 2**64, 10**40, 10**MAX_DIGITS - 1, -(10**MAX_DIGITS - 1)),
    *(-0.0, 0.0, 1.0, 1e16, 1e22, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1 + 0.2),
    *(True, False, None, 1, 100, 100.0, 1e-7),
)
_HARD_TIMES = (
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999Z",
    "2024-02-29T12:00:00Z",
    "2000-02-29T00:00:00.000001Z",
    "1969-12-31T23:59:59.9Z",
    "2024-01-01T00:00:00.000000Z",
    "2024-01-01T00:00:00.120Z",
)
_CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
_WITH_NUL = st.characters(exclude_categories=["Cs"])
_URI_CHARACTERS = string.ascii_letters + string.digits + "-._~:/?#[]@!$&'()*+,;="
_URIS = (
    "https://example.org/a%20b?x=[1]#y",
    "urn:cve:CVE-2024-1234",
    "mailto:a@example.org",
    "file:///etc/passwd",
)


def texts(min_size: int = 0, max_size: int | None = None) -> SearchStrategy[str]:
    """Text of all planes of Unicode without lone surrogates and NUL, often of the kind that breaks stores."""
    hard = [text for text in HARD_TEXTS if max_size is None or len(text) <= max_size]
    return st.sampled_from(hard) | st.text(_CHARACTERS, min_size=min_size, max_size=max_size)


def project_ids() -> SearchStrategy[str]:
    """Names of projects: slugs, UUIDs, any text without control characters, up to 255 characters."""
    visible = st.characters(exclude_categories=["Cs", "Cc"])
    return (
        st.from_regex(r"[a-z][a-z0-9]{0,10}(-[a-z0-9]{1,8}){0,3}", fullmatch=True)
        | st.uuids().map(str)
        | st.text(visible, min_size=1, max_size=255)
        | st.sampled_from(
            ["p" * 255, "\U0001f600" * 255, "../..", "a/b\\c", "CON", ".", " ", "%", "_", "Ä", "A\u0308"]
        )
    )


@st.composite
def times(draw: st.DrawFn) -> str:
    """RFC 3339 times in UTC with zero to six digits of a second, year 1 to 9999, leap days among them."""
    if draw(st.booleans()):
        return draw(st.sampled_from(_HARD_TIMES))
    moment = draw(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)))
    digits = draw(st.integers(0, 6))
    fraction = f".{moment.microsecond:06}"[: digits + 1] if digits else ""
    return moment.replace(microsecond=0).isoformat() + fraction + "Z"


def _nest_value(depth: int, leaf: Any, lists: bool) -> Any:
    value = leaf
    for level in range(depth):
        value = [value] if lists and level % 2 else {"k": value}
    return value


def json_objects(max_leaves: int = 8) -> SearchStrategy[dict[str, Any]]:
    """JSON objects with NUL, empty keys, integers of any size, every kind of float, and deep nesting."""
    any_text = texts() | st.text(_WITH_NUL) | st.just("nul \x00 inside")
    numbers = (
        st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(_HARD_NUMBERS)
    )
    keys = st.text(_WITH_NUL, max_size=8) | st.sampled_from(["", "\x00", "a.b", "10"])
    values = st.recursive(
        any_text | numbers,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=max_leaves,
    )
    # The document is level 0 and the object itself level 1, so MAX_DEPTH - 1 containers may hold a leaf.
    depths = st.sampled_from([1, 7, MAX_DEPTH - 2])
    deep = st.builds(_nest_value, depths, any_text | numbers, st.booleans()).map(lambda value: {"": value})
    return st.dictionaries(keys, values, max_size=4) | deep


def hostile_values(max_leaves: int = 8) -> SearchStrategy[Any]:
    """Values of Python that JSON can't say or that its readers refuse, those of JSON, and those that look like tags of
    `findings_orm.imports.originals`, within each other."""
    hashable = st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.sampled_from([10**640, -(10 ** (MAX_DIGITS - 1))]),  # longer ones have no repr for a report
            st.floats(allow_nan=False),
            st.text(max_size=8),
            st.sampled_from(["\x00", "\ud800", "\udc00\ud800", "\ud83d\ude00"]),
            st.binary(max_size=8),
            st.decimals(allow_nan=False),
            st.uuids(),
            st.dates(),
            st.times(timezones=st.none() | st.just(UTC)),
            st.datetimes(timezones=st.none() | st.timezones()),
            st.timedeltas(),
            st.complex_numbers(allow_nan=False),
        ),
        lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
        max_leaves=3,
    )
    leaves = (
        hashable
        | st.sets(hashable, max_size=3)
        | st.binary(max_size=8).map(bytearray)
        | st.just(float("nan"))
        | st.just(Decimal("NaN"))
    )
    tags = st.sampled_from(["$bytes", "$object", "$tagged", "$part", "$repr", "$", "$$bytes"])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(hashable, inner, max_size=3),
            st.dictionaries(st.text(max_size=4), inner, max_size=3),
            st.dictionaries(tags, inner, min_size=1, max_size=2),
            inner.map(lambda value: _nest_value(MAX_DEPTH + 20, value, lists=True)),
        ),
        max_leaves=max_leaves,
    )


@st.composite
def _locations(draw: st.DrawFn) -> dict[str, Any]:
    lines = st.integers(1, MAX_NUMBER) | st.integers(1, 50)
    location: dict[str, Any] = {}
    if draw(st.booleans()):
        location["path"] = draw(st.none() | texts())
    if draw(st.booleans()):
        location["snippet"] = draw(st.none() | texts())
    if draw(st.booleans()):
        first, second = sorted((draw(lines), draw(lines)))
        location["start_line"] = first
        if draw(st.booleans()):
            location["end_line"] = second
    return location


def _uuids() -> SearchStrategy[str]:
    return (
        st.uuids().map(str)
        | st.uuids().map(lambda value: str(value).upper())
        | st.just(str(uuid.UUID(int=0)))
    )


def _optional_fields(version: str) -> dict[str, SearchStrategy[Any]]:
    """Return a strategy for each field that a document may lack; those that may be None sometimes are."""
    cve = st.from_regex(r"CVE-[0-9]{4}-[0-9]{4,9}", fullmatch=True)
    mitre = r"T[0-9]{4}" if version == "1.0.0" else r"T[0-9]{4}(\.[0-9]{3})?"
    uris = st.sampled_from(_URIS) | st.text(_URI_CHARACTERS, min_size=1, max_size=30).map(
        lambda t: f"x-y+z.1:{t}"
    )
    numbers = st.integers(1, MAX_NUMBER) | st.sampled_from([1, 79, 89, MAX_NUMBER])
    single = version in ("1.0.0", "1.1.0")
    category = r"A[0-9]{2}" if single else r"A[0-9]{2}(:[0-9]{4})?"
    categories = st.from_regex(category, fullmatch=True)
    fields: dict[str, SearchStrategy[Any]] = {
        "resource": texts()
        | st.sampled_from(["", "src/a.py:12", "https://example.org:8443/x?y=%41", "C:\\x\\y.c(3)"]),
        "run_id": st.none() | _uuids(),
        "cve_ids": st.lists(cve, max_size=4),
        "cvss": st.none()
        | st.floats(0, 10)
        | st.sampled_from([0, 10, 5, -0.0, 0.1, 5e-324, 9.999999999999998]),
        "mitre_attack": st.lists(st.from_regex(mitre, fullmatch=True), max_size=3),
        "poc_links": st.lists(uris, max_size=3),
        "evidence": json_objects(),
        "provenance": json_objects(),
    }
    later = {
        "status": st.sampled_from([status.value for status in Status]),
        "rule_id": st.none() | texts(1),
        "fingerprint": st.none() | texts(1),
        "location": st.none() | _locations(),
        "confidence": st.none()
        | st.floats(0, 100)
        | st.integers(0, 100)
        | st.sampled_from([-0.0, 50.0, 1e-9]),
        "tags": st.lists(texts(1, 64), max_size=4),
    }
    if single:
        fields |= {"cwe": st.none() | numbers, "owasp": st.none() | categories}
    else:
        fields |= {"cwe_ids": st.lists(numbers, max_size=4), "owasp": st.lists(categories, max_size=3)}
    return fields if version == "1.0.0" else {**fields, **later}


@st.composite
def documents(
    draw: st.DrawFn,
    version: str = SCHEMA_VERSION,
    project_id: str | SearchStrategy[str] | None = None,
    sparse: bool | None = None,
) -> Document:
    """Valid documents of a schema version, as callers write them: not all are in canonical form.

    Args:
        draw: hypothesis' own.
        version: from ``"1.0.0"`` on; `legacy_documents` are those of 0.3.0.
        project_id: the project, or a strategy for it; any when None.
        sparse: only required fields (True), every field (False), or any mix (None).
    """
    projects = st.just(project_id) if isinstance(project_id, str) else project_id or project_ids()
    document: Document = {
        "id": draw(_uuids()),
        "project_id": draw(projects),
        "detector_id": draw(st.from_regex(r"[A-Za-z0-9_.\-]{1,40}", fullmatch=True)),
        "title": draw(texts(1)),
        "severity": draw(st.sampled_from([severity.value for severity in Severity])),
        "created_at": draw(times()),
    }
    for name, values in _optional_fields(version).items():
        if sparse is False or (sparse is None and draw(st.booleans())):
            document[name] = draw(values)
    if version != SCHEMA_VERSION or draw(st.booleans()):
        document["finding_schema_version"] = version
    return dict(draw(st.permutations(list(document.items()))))


_LEGACY_STATUSES = ("open", "accepted_risk", "false_positive", "fixed", "Fixed", "triaged", "wontfix")


def _legacy_fields() -> dict[str, SearchStrategy[Any]]:
    anything = st.none() | st.booleans() | st.integers() | texts() | st.lists(texts(), max_size=2)
    objects = st.dictionaries(st.text(_WITH_NUL, max_size=4), anything, max_size=3)
    moments = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1))
    return {
        "id": _uuids() | st.integers(1, 99) | st.just("scan-1"),
        "pid": project_ids(),
        "ts": moments.map(lambda moment: moment.isoformat(" "))
        | moments.map(lambda moment: f"{moment.isoformat()}+02:00")
        | st.integers(0, 2**41)
        | st.floats(0, 2e9)
        | times()
        | anything,
        "url": texts() | st.none() | st.just("https://shop.example/?q=1"),
        "method": st.sampled_from(["GET", "POST", None]),
        "cwe": st.sampled_from(
            ["CWE-79", "CWE-079: XSS", "cwe_89", "79", 79, 0, -1, "N/A", "", None, True, 79.0]
        ),
        "cve_id": st.sampled_from(
            ["CVE-2021-44228", "cve-2021-44228", "CVE-0000-0000", "CVE-XXXX-XXXX", "N/A", "", None, 5]
        )
        | st.sampled_from(["CVE-2021-1111, CVE-2021-2222", "CVE-2021-1111;N/A", ["CVE-2021-1111"], []]),
        "owasp": st.sampled_from(
            ["A05:2021-Security Misconfiguration", "A05", "A5:2017", "A00", "LLM01", "", None, ["A05"]]
        ),
        "req": texts() | st.text(_WITH_NUL),
        "res": texts() | objects,
        "match": texts(),
        "confidence": st.sampled_from(["high", 0.9, 90, None, "firm"]),
        "subcategory": texts(),
        "status": st.sampled_from([200, 404, 0, None]) | st.sampled_from(_LEGACY_STATUSES),
        "created_at": times() | anything,
        "triage": st.fixed_dictionaries(
            {},
            optional={
                "status": st.sampled_from(_LEGACY_STATUSES) | anything,
                "owner": texts() | anything,
                "tags": st.lists(texts(1, 64), max_size=3) | anything,
                "notes": texts() | anything,
                "suppress": st.booleans() | anything,
                "more": anything,
            },
        )
        | anything,
        "cvss": st.sampled_from([7.5, 7, 0, 11, "7.5", None, -0.0]),
        "mitre_attack": st.sampled_from([["T1059"], ["T1059.001"], [], "T1059"]),
        "evidence": objects | anything,
        "provenance": objects | anything,
        "finding_schema_version": st.just("0.3.0"),
        "project_id": st.from_regex(r"[a-z]{1,9}", fullmatch=True) | st.none() | st.integers(),
        "resource": anything,
        "cwe_ids": st.just([79]),
        "findings": texts(),
        "Zz": anything,
    }


@st.composite
def legacy_documents(draw: st.DrawFn) -> Document:
    """Documents of schema 0.3.0: flat, with values that have no place in later versions, and with other fields."""
    document: Document = {
        "detector_id": draw(st.from_regex(r"[A-Za-z0-9_.\-:]{1,20}", fullmatch=True)),
        "title": draw(texts(1)),
        "severity": draw(st.sampled_from(["High", "low", "INFO", "informational", " critical"])),
    }
    for name, values in _legacy_fields().items():
        if draw(st.booleans()):
            document[name] = draw(values)
    return dict(draw(st.permutations(list(document.items()))))


def scans(max_size: int = 12) -> SearchStrategy[list[Document]]:
    """Reports of one scan for `ingest`: few rules, files and lines, so that many findings are equal."""
    document = st.fixed_dictionaries(
        {
            "detector_id": st.sampled_from(["scan.one", "scan.two"]),
            "rule_id": st.sampled_from(["R1", "R2"]),
            "title": st.just("a rule was broken"),
            "severity": st.sampled_from(["low", "high"]),
            "resource": st.sampled_from(["src/a.py", "src/b.py"]),
            "location": st.none() | st.builds(lambda line: {"start_line": line}, st.integers(1, 6)),
        },
        optional={"evidence": st.sampled_from([{}, {"n": 1}, {"n": 1.0}])},
    )
    return st.lists(document, max_size=max_size)


def _values_of_field(
    found: Sequence[Mapping[str, Any]], name: str, other: Sequence[Any]
) -> SearchStrategy[list[Any]]:
    there: list[Any] = []
    for document in found:
        value = document[name]
        there += value if isinstance(value, list) else [] if value is None else [value]
    return st.lists(st.sampled_from([*there, *other]), min_size=1, max_size=3)


@st.composite
def queries(draw: st.DrawFn, project_id: str, found: Sequence[Mapping[str, Any]] = ()) -> FindingQuery:
    """Queries of a project; their values are mostly those of canonical documents that it holds (`found`)."""
    severities = [severity.value for severity in Severity]
    detectors = [document["detector_id"] for document in found] + ["none"]
    prefixes = [detector[: len(detector) // 2] + "*" for detector in detectors] + ["*"]
    created = [document["created_at"] for document in found] + ["2024-05-01T00:00:00Z"]
    resources = [document["resource"] for document in found] + ["src/", "%", "_"]
    words = [document["title"] for document in found] + ["finding", "STRASSE", "e\u0301", "%"]
    cut = draw(st.integers(1, 12))
    conditions: dict[str, SearchStrategy[Any]] = {
        "severity": st.lists(st.sampled_from(severities), min_size=1, max_size=3),
        "min_severity": st.sampled_from(severities),
        "status": st.lists(st.sampled_from([status.value for status in Status]), min_size=1, max_size=3),
        "detector_id": st.lists(st.sampled_from(detectors + prefixes), min_size=1, max_size=2),
        "rule_id": _values_of_field(found, "rule_id", ["R1"]),
        "cwe": _values_of_field(found, "cwe_ids", [79]),
        "cve_id": _values_of_field(found, "cve_ids", ["CVE-2024-1234"]),
        "run_id": _values_of_field(found, "run_id", [str(uuid.UUID(int=7))]),
        "tag": _values_of_field(found, "tags", ["x"]),
        "resource_prefix": st.sampled_from([resource[:cut] for resource in resources]),
        "created_from": st.sampled_from(created),
        "created_before": st.sampled_from(created),
        "text": st.sampled_from([word[:cut] for word in words]) | st.sampled_from([w.upper() for w in words]),
    }
    names = draw(st.lists(st.sampled_from(sorted(conditions)), max_size=3, unique=True))
    chosen = {name: draw(conditions[name]) for name in names}
    sorts = [*SORTS, RELEVANCE] if words_of(chosen.get("text", "")) else list(SORTS)
    sort: Any = draw(st.sampled_from([*sorts, *(f"-{name}" for name in sorts)]))
    return FindingQuery(project_id=project_id, sort=sort, limit=draw(st.integers(1, 20)), **chosen)


@st.composite
def hostile_documents(draw: st.DrawFn, version: str = SCHEMA_VERSION) -> tuple[Document, str, str]:
    """Documents that break exactly one rule, each with the rule's name and the field at fault."""
    rule: Break = draw(st.sampled_from([each for each in BREAKS if version in each.versions]))
    document = draw(documents(version=version, sparse=draw(st.sampled_from([True, None]))))
    return break_document(copy.deepcopy(document), rule), rule.name, rule.field
