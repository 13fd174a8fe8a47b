"""Every way to break one rule of the schema: a table."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from findings_orm.finding import KNOWN_VERSIONS, MAX_DEPTH, MAX_DIGITS, MAX_NUMBER
from findings_orm.limits import MB

VERSION_FIELD = "finding_schema_version"
"""The field whose breaks raise `SchemaVersionError`; all others raise `StorageValidationError`."""

ALL = KNOWN_VERSIONS[1:]
NEW = KNOWN_VERSIONS[2:]
ONE_CWE = ("1.0.0", "1.1.0")
SEVERAL_CWES = KNOWN_VERSIONS[3:]
MISSING: Any = object()
LONE = "\ud800"
ENDLESS_NUMBER = 10 ** (MAX_DIGITS + 700)


@dataclass(frozen=True, slots=True)
class Break:
    """One way to break a rule.

    Attributes:
        name: the rule, in words.
        field: the field at fault as the error names it, a dotted path.
        key: the key of the document that is set.
        value: returns the bad value; `MISSING` for a key that is taken away.
        versions: the schema versions that have the rule.
    """

    name: str
    field: str
    key: str
    value: Callable[[], Any]
    versions: tuple[str, ...] = ALL


def break_document(document: dict[str, Any], rule: Break) -> dict[str, Any]:
    """Return the valid `document`, which is changed, with one rule broken."""
    value = rule.value()
    if value is MISSING:
        del document[rule.key]
    else:
        document[rule.key] = value
    return document


def _deep_object(levels: int) -> dict[str, Any]:
    """Return an object that nests `levels` containers, itself one of them."""
    value: Any = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return dict(value)


def _object_with_cycle() -> dict[str, Any]:
    loop: list[Any] = []
    loop.append(loop)
    return {"a": loop}


def _doubling_lists(part: Any = None) -> list[Any]:
    """Return lists that hold each other twice: few in memory, a JSON without an end."""
    shared: list[Any] = [part]
    for _ in range(40):
        shared = [shared, shared]
    return shared


def _list_with_two_cycles() -> list[Any]:
    loop: list[Any] = []
    loop.extend([loop, loop])
    return loop


_TIMES = {
    "no naive times": "2024-01-01T00:00:00",
    "no offsets": "2024-01-01T00:00:00+02:00",
    "no offset even if zero": "2024-01-01T00:00:00+00:00",
    "no negative zero offset": "2024-01-01T00:00:00-00:00",
    "at most six digits of a second": "2024-01-01T00:00:00.1234567Z",
    "seven digits even if zero": "2024-01-01T00:00:00.0000000Z",
    "a point needs digits": "2024-01-01T00:00:00.Z",
    "no comma before the fraction": "2024-01-01T00:00:00,5Z",
    "no 30 February": "2024-02-30T00:00:00Z",
    "29 February only in leap years": "2023-02-29T00:00:00Z",
    "1900 was no leap year": "1900-02-29T00:00:00Z",
    "no hour 24": "2024-01-01T24:00:00Z",
    "no minute 60": "2024-01-01T00:60:00Z",
    "no leap seconds": "2016-12-31T23:59:60Z",
    "no month 13": "2024-13-01T00:00:00Z",
    "no year 0000": "0000-01-01T00:00:00Z",
    "no five digit years": "10000-01-01T00:00:00Z",
    "no dates without time": "2024-01-01",
    "no times without seconds": "2024-01-01T00:00Z",
    "no space for T": "2024-01-01 00:00:00Z",
    "capital T": "2024-01-01t00:00:00Z",
    "capital Z": "2024-01-01T00:00:00z",
    "no newline after a time": "2024-01-01T00:00:00Z\n",
    "no space before a time": " 2024-01-01T00:00:00Z",
    "ASCII digits in times": "２０２４-01-01T00:00:00Z",
    "ASCII digits in fractions": "2024-01-01T00:00:00.٣Z",
    "no basic format": "20240101T000000Z",
    "no week dates": "2024-W01-1T00:00:00Z",
    "times are not empty": "",
}


def _bad_times() -> Iterator[Break]:
    for name, text in _TIMES.items():
        yield Break(name, "created_at", "created_at", lambda text=text: text)  # type: ignore[misc]
    moment = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    for name, value in (
        ("times are text", moment),
        ("times are no numbers", 1704067200),
        ("times are not null", None),
    ):
        yield Break(name, "created_at", "created_at", lambda value=value: value)  # type: ignore[misc]


_UUIDS = ("", "1", "00000000000040008000000000000001", "{00000000-0000-4000-8000-000000000001}")
_MORE_UUIDS = (
    "urn:uuid:00000000-0000-4000-8000-000000000001",
    "00000000-0000-4000-8000-000000000001\n",
    "0000000g-0000-4000-8000-000000000001",
    "٠0000000-0000-4000-8000-000000000001",
)
_NAN, _INFINITY = float("nan"), float("inf")

_VALUES: tuple[tuple[str, tuple[Any, ...], tuple[str, ...]], ...] = (
    ("id", (MISSING, None, 1, uuid.UUID(int=1), *_UUIDS, *_MORE_UUIDS), ALL),
    ("run_id", (1, uuid.UUID(int=1), *_UUIDS, *_MORE_UUIDS), ALL),
    (
        "project_id",
        (MISSING, None, "", 1, b"p", "p" * 256, "a\n", "\ta", "a\x00", "a\x7f", "a\x85", LONE),
        ALL,
    ),
    ("detector_id", (MISSING, None, "", "a b", "a:b", "a/b", "a\n", "é", "٣", "a\x00", 1, LONE), ALL),
    (
        "title",
        (MISSING, None, "", "a\x00b", "\x00", 1, ENDLESS_NUMBER, b"title", ["title"], f"a{LONE}", "\udfff"),
        ALL,
    ),
    ("severity", (MISSING, None, "", "High", "HIGH", "unknown", "high\n", " high", 3, ["high"]), ALL),
    ("resource", (None, 1, "a\x00", f"{LONE}a", ["a"], {}), ALL),
    ("cwe", (0, -1, MAX_NUMBER + 1, 10**30, ENDLESS_NUMBER, True, 79.0, "79", "CWE-79", [79], _NAN), ONE_CWE),
    ("cwe_ids", (None, 79, "79", (79,), {79}, {}), SEVERAL_CWES),
    (
        "owasp",
        ("", "A1", "A001", "a01", "A01\n", "A٠١", "A05:2021", "A05:2021-Security Misconfiguration", 5),
        ONE_CWE,
    ),
    ("owasp", (None, "A05", "A05:2021", ("A05",), {"A05"}, {}, 5), SEVERAL_CWES),
    ("cvss", (-0.1, 10.1, _NAN, _INFINITY, -_INFINITY, True, "5.0", decimal.Decimal(5), [5.0], 10**400), ALL),
    ("evidence", (None, [], "", "{}", 0, [["a", 1]], ()), ALL),
    ("provenance", (None, [], "", "{}", 0, [["a", 1]], ()), ALL),
    ("cve_ids", (None, "CVE-2024-1234", ("CVE-2024-1234",), {"CVE-2024-1234"}, {}, 1), ALL),
    ("mitre_attack", (None, "T1059", ("T1059",), {"T1059"}, {}, 1), ALL),
    ("poc_links", (None, "https://example.org", ("https://example.org",), {}, 1), ALL),
    ("status", (None, "", "Open", "closed", "open\n", 200, True, ["open"]), NEW),
    ("rule_id", ("", 1, "a\x00", LONE, ["R1"]), NEW),
    ("fingerprint", ("", 1, "a\x00", LONE, b"f"), NEW),
    ("confidence", (-1, 100.5, 101, _NAN, _INFINITY, True, "50", "high", [50]), NEW),
    ("tags", (None, "tag", ("tag",), {"tag"}, {}, 1), NEW),
    ("location", ("src/a.py:1", [], 1, {"start_line": 5, "end_line": 4}, {"end_line": 4}), NEW),
)
_ITEMS: tuple[tuple[str, tuple[Any, ...], tuple[str, ...]], ...] = (
    (
        "cve_ids",
        (
            "",
            "CVE-2024-123",
            "CVE-20240-1234",
            "cve-2024-1234",
            "CVE-2024-1234\n",
            "CVE-２０２４-1234",
            "CVE-24-1234",
            1,
            None,
        ),
        ALL,
    ),
    (
        "mitre_attack",
        ("", "1059", "T105", "T10590", "t1059", "T1059\n", "T١٠٥٩", "T1059.1", "T1059.0011", 1, None),
        ALL,
    ),
    ("mitre_attack", ("T1059.001\n", "T1059.٠٠١"), NEW),
    ("mitre_attack", ("T1059.001",), ("1.0.0",)),
    (
        "poc_links",
        (
            "",
            "example.org",
            "//x",
            "a b:c",
            "https://exa mple",
            "https://é",
            "x:%",
            "x:%zz",
            "x:y\n",
            ":x",
            1,
        ),
        ALL,
    ),
    ("tags", ("", "t" * 65, 1, None, "a\x00", LONE, ["a"]), NEW),
    ("cwe_ids", (0, -1, MAX_NUMBER + 1, ENDLESS_NUMBER, True, 79.0, "79", None, [79], _NAN), SEVERAL_CWES),
    (
        "owasp",
        ("", "A1", "a01", "A01\n", "A05:21", "A05:20211", "A05:2021-Injection", ":2021", "A05:٢٠٢١", 5, None),
        SEVERAL_CWES,
    ),
)
_LOCATION: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("path", (1, "a\x00", LONE, b"a")),
    ("start_line", (0, -1, MAX_NUMBER + 1, True, 1.0, "1")),
    ("end_line", (0, MAX_NUMBER + 1, False, 2.0, "2")),
    ("snippet", (1, "a\x00", LONE, ["a"])),
    ("column", (1,)),
)
_IN_JSON: tuple[tuple[str, str, Any], ...] = (
    ("NaN", ".a", {"a": _NAN}),
    ("infinity", ".a[1].b", {"a": [0, {"b": _INFINITY}]}),
    ("negative infinity", ".a", {"a": -_INFINITY}),
    ("a tuple", ".a", {"a": (1, 2)}),
    ("a set", ".a", {"a": {1}}),
    ("bytes", ".a", {"a": b"x"}),
    ("a UUID", ".a", {"a": uuid.UUID(int=1)}),
    ("a datetime", ".a[0]", {"a": [dt.datetime(2024, 1, 1, tzinfo=dt.UTC)]}),
    ("a decimal", ".a", {"a": decimal.Decimal("1.5")}),
    ("a complex number", ".a", {"a": 1j}),
    ("an object", ".a", {"a": object()}),
    ("a number as key", ".1", {1: "a"}),
    ("null as key", ".None", {None: "a"}),
    ("bytes as key", ".b'a'", {b"a": "a"}),
    ("a lone surrogate", ".a", {"a": f"x{LONE}"}),
    ("a lone low surrogate", ".a[0]", {"a": ["\udc00"]}),
    ("swapped surrogates", ".a", {"a": "\udc00\ud800"}),
    ("a lone surrogate as key", f".{LONE!a}", {LONE: 1}),
    ("an integer with too many digits", ".a", {"a": 10**MAX_DIGITS}),
    ("a negative integer with too many digits", ".a[0]", {"a": [-(10**MAX_DIGITS)]}),
)
_VERSIONS = (None, "", 1, 1.1, "1", "1.1", "v1.1.0", "01.1.0", "1.1.0\n", "1.1.0-rc1", "١.١.٠", ["1.1.0"])
_UNKNOWN_VERSIONS = ("0.0.1", "1.0.1", "1.99.0", "9.0.0", "99999999999999999999.0.0", "x" * 10_000)


def _describe_value(value: object) -> str:
    if value is ENDLESS_NUMBER:
        return "an integer with too many digits"
    return "missing" if value is MISSING else repr(value)[:60]


def _break_with_value(name: str, field: str, key: str, value: Any, versions: tuple[str, ...] = ALL) -> Break:
    return Break(name, field, key, lambda: value, versions)


def _bad_values() -> Iterator[Break]:
    for key, values, versions in _VALUES:
        for value in values:
            yield _break_with_value(f"{key} must not be {_describe_value(value)}", key, key, value, versions)
    for key, values, versions in _ITEMS:
        for value in values:
            yield _break_with_value(
                f"{key} must not hold {_describe_value(value)}", f"{key}[0]", key, [value], versions
            )
    for member, values in _LOCATION:
        for value in values:
            bad = {"start_line": 1, member: value} if member == "end_line" else {member: value}
            name = f"location.{member} must not be {_describe_value(value)}"
            yield _break_with_value(name, f"location.{member}", "location", bad, NEW)


def _bad_json() -> Iterator[Break]:
    for key in ("evidence", "provenance"):
        for what, place, value in _IN_JSON:
            yield _break_with_value(f"{key} must not hold {what}", f"{key}{place}", key, value)
        deepest = key + ".a" * MAX_DEPTH
        yield Break(f"{key} must not nest too deep", deepest, key, lambda: _deep_object(MAX_DEPTH + 1))


def _bad_fields() -> Iterator[Break]:
    for name in ("severity_level", "ID", "cwe_id", "pid", "id ", "é"):
        yield _break_with_value(f"{name!r} is no field", name, name, "x")
    for name in ("status", "rule_id", "fingerprint"):
        yield _break_with_value(f"{name} is no field of 1.0.0", name, name, "open", ("1.0.0",))
    yield _break_with_value("tags is no field of 1.0.0", "tags", "tags", ["a"], ("1.0.0",))
    yield _break_with_value("cwe_ids is no field before 2.0.0", "cwe_ids", "cwe_ids", [79], ONE_CWE)
    yield _break_with_value("cwe is no field of 2.0.0", "cwe", "cwe", 79, SEVERAL_CWES)
    for version in (*_VERSIONS, *_UNKNOWN_VERSIONS):
        yield _break_with_value(
            f"version must not be {_describe_value(version)}", VERSION_FIELD, VERSION_FIELD, version
        )


BREAKS: tuple[Break, ...] = (*_bad_times(), *_bad_values(), *_bad_json(), *_bad_fields())
"""All breaks."""

ENDLESS: tuple[Break, ...] = (
    Break("evidence must not hold itself", "evidence", "evidence", _object_with_cycle),
    Break("evidence must not nest without bounds", "evidence", "evidence", lambda: _deep_object(20_000)),
)
"""Breaks whose place an error can't name to the end."""

UNBOUNDED: tuple[Break, ...] = (
    Break(
        "evidence must not hold parts many times over",
        "document",
        "evidence",
        lambda: {"a": _doubling_lists()},
    ),
    Break(
        "provenance must not hold parts many times over",
        "document",
        "provenance",
        lambda: {"a": _doubling_lists()},
    ),
    Break("tags must not hold parts many times over", "document", "tags", _doubling_lists),
    Break(
        "other types don't hide what is held many times",
        "document",
        "evidence",
        lambda: {"a": _doubling_lists({1})},
    ),
    Break(
        "evidence must not hold itself twice", "document", "evidence", lambda: {"a": _list_with_two_cycles()}
    ),
    Break(
        "evidence must not hold a long text many times",
        "document",
        "evidence",
        lambda: {"a": ["x" * MB] * MB},
    ),
)
"""Documents that are small in memory, and larger as JSON than any limit: refused in bounded time and memory."""
