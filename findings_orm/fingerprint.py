"""Identity of a finding across scans: which incoming document is which stored finding.

The fingerprint has two tiers: the tool's own (`fingerprint` in the document, with the detector, as two tools may use
the same text), else the content: detector, rule (else title), resource without line numbers, and the matched
snippet if there is one. Findings that share a fingerprint are told apart by an ordinal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from pydantic_core import to_json

from findings_orm.finding import CONTENT_FIELDS

VERSION = 1
"""The version of the algorithm, stored with each fingerprint so that it can be computed anew later."""

_SUFFIX = re.compile(
    r"(?P<path>.*?)(?::(?P<line>\d+)(?:[:.-]\d+)*|\((?P<paren>\d+)(?:,\s*\d+)*\)|#L(?P<hash>\d+)(?:C\d+)?(?:-L?\d+(?:C\d+)?)?)",
    re.ASCII | re.DOTALL,
)
_ENDS_OF_LINES = frozenset("0123456789)")
_SOURCE_FILE = re.compile(
    r"[^/\\]+\.(?:py|pyi|js|jsx|mjs|ts|tsx|java|kt|go|rs|c|cc|cpp|cxx|h|hh|hpp|cs|rb|php|pl|sh|bash|ps1|sql|html?|xml"
    r"|ya?ml|json|toml|ini|cfg|conf|env|tf|swift|scala|vue|lua|m|r|txt|md|gradle|properties|lock)",
    re.IGNORECASE,
)


class Fingerprint(NamedTuple):
    """The identity of a document: the digest (SHA-256, 32 bytes) and the line that tells equal ones apart."""

    digest: bytes
    line: int | None


def fingerprint(document: Mapping[str, Any]) -> Fingerprint:
    """Return the fingerprint of a document, canonical or not: absent fields are as good as their defaults."""
    get = document.get
    resource, line = get("resource", ""), None
    if resource[-1:] in _ENDS_OF_LINES:
        resource, line = without_line(resource)
    words = _EMPTY
    if location := get("location"):
        line = location.get("start_line") or line
        if snippet := location.get("snippet"):
            words = _sized(" ".join(snippet.split()))
    if tool := get("fingerprint"):
        return Fingerprint(sha256(_prefix("tool", document["detector_id"]) + _sized(tool)).digest(), line)
    rule = get("rule_id")
    kind, name = ("rule", rule) if rule else ("title", document["title"])
    prefix = _prefix("content", document["detector_id"], kind, name)
    return Fingerprint(sha256(prefix + _sized(resource) + words).digest(), line)


def without_line(resource: str) -> tuple[str, int | None]:
    """Split a line number off a resource: ``src/a.py:12:3``, ``a.py(12)``, ``a.py#L12-L14`` give ``a.py``, 12.

    A port is no line: ``host:8080`` and ``http://host:8080/`` stay whole. Only what looks like a path (it has a
    separator and no scheme) or like a source file has a ``:`` or ``()`` suffix taken off.
    """
    found = _SUFFIX.fullmatch(resource) if resource[-1:] in _ENDS_OF_LINES else None
    if found is None:
        return resource, None
    path = found["path"]
    if not found["hash"]:
        web = "://" in path and not path.startswith("file:")
        if web or not ("/" in path or "\\" in path or _SOURCE_FILE.fullmatch(path)):
            return resource, None
    number = int((found["line"] or found["paren"] or found["hash"])[:10])
    return path, number if number < 2**31 else None


def _sized(text: str) -> bytes:
    """Return a field with its length before it, as without separators ("ab", "c") would equal ("a", "bc")."""
    encoded = text.encode()
    return len(encoded).to_bytes(8, "big") + encoded


@lru_cache(4096)
def _prefix(*fields: str) -> bytes:
    return b"".join(_sized(text) for text in fields)


_EMPTY = _sized("")


def content_digest(content: bytes) -> bytes:
    """Return 16 bytes for the content of a document."""
    return sha256(content).digest()[:16]


def changed_fields(
    old: Mapping[str, Any], new: Mapping[str, Any], fields: Iterable[str] = CONTENT_FIELDS
) -> dict[str, list[Any]]:
    """Return ``{field: [old, new]}`` for the fields that differ, exactly: ``1`` is not ``1.0`` or True."""
    return {name: [old[name], new[name]] for name in fields if not _same(old[name], new[name])}


def _same(a: object, b: object) -> bool:
    if a is b:
        return True
    kind = type(a)
    if kind is type(b) and (kind is str or kind is int or (kind is not float and not a and not b)):
        return a == b
    return to_json(a) == to_json(b)
