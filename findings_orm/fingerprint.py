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

VERSION = 2
"""The version of the algorithm, stored with each fingerprint. Version 1 took any number after a colon in what has a ``/``
for a line, an image's tag too; what it stored is recognised and brought to this version when it is seen again."""

_LINE = re.compile(
    r"(?P<path>.*?)(?::(?P<line>\d+)(?:[:.-]\d+)*|\((?P<paren>\d+)(?:,\s*\d+)*\)|#L(?P<hash>\d+)(?:C\d+)?(?:-L?\d+(?:C\d+)?)?)",
    re.ASCII | re.DOTALL,
)
_ENDS_OF_LINES = frozenset("0123456789)")
_LONGEST = 100
"""How many characters at the end of a resource can be a line: the search for one must not grow with the text."""
_SOURCE_FILE = re.compile(
    r"(?:.*[/\\])?(?:[^/\\]+\.(?:py|pyi|pyx|ipynb|js|jsx|mjs|cjs|ts|tsx|mts|cts|vue|svelte|astro|java|kts?|groovy|gradle|scala|clj"
    r"|go|rs|zig|nim|c|cc|cpp|cxx|h|hh|hpp|hxx|inl|m|mm|cs|cshtml|fs|vb|xaml|csproj|swift|dart|rb|erb|php|pl|pm|lua|r|jl|exs?|erl|hs|ml"
    r"|sh|bash|zsh|ps1|psm1|bat|cmd|sql|html?|xhtml|css|scss|less|jsp|aspx?|xml|xsd|xsl|svg|ya?ml|json5?|jsonl|toml|ini|cfg|conf"
    r"|config|env|properties|plist|tf|tfvars|hcl|bicep|proto|graphql|cmake|mk|txt|md|rst|csv|log|lock|pem|key|crt|cls|trigger|sol)"
    r"|Dockerfile|Containerfile|Jenkinsfile|Vagrantfile|Makefile|Gemfile|Rakefile|Procfile|CMakeLists)",
    re.IGNORECASE | re.DOTALL,
)
_ROOTED = re.compile(r"[/\\~]|\.\.?[/\\]|[A-Za-z]:[/\\]|file:", re.ASCII)
_OTHER = re.compile(
    r"(?!file:|[A-Za-z]:[/\\])(?:.*://|(?:arn|urn|pkg|cpe|docker|oci):|\[)|.*@[A-Za-z0-9_+.-]+\Z|.*[T ]\d\d\Z"
    r"|[A-Za-z0-9.-]+:\d+/",
    re.ASCII | re.DOTALL,
)
_IMAGE = re.compile(r"(?:[A-Za-z0-9.-]+(?::\d+)?/)?[a-z0-9._/-]+(?::\d+)?", re.ASCII)


class Fingerprint(NamedTuple):
    """The identity of a document: the digest (SHA-256, 32 bytes) and the line that tells equal ones apart."""

    digest: bytes
    line: int | None


def fingerprint(document: Mapping[str, Any]) -> Fingerprint:
    """Return the fingerprint of a document, canonical or not: absent fields are as good as their defaults."""
    get = document.get
    resource, line = get("resource", ""), None
    location = get("location")
    if resource[-1:] in _ENDS_OF_LINES:
        resource, line = without_line(resource, location.get("path") if location else None)
    if location:
        line = location.get("start_line") or line
    if tool := get("fingerprint"):
        return Fingerprint(
            sha256(_encode_fields("tool", document["detector_id"]) + _length_prefixed(tool)).digest(), line
        )
    return Fingerprint(_content_digest(document, resource), line)


def former_digest(document: Mapping[str, Any]) -> bytes | None:
    """Return the digest that version 1 of the algorithm gave to a document, None where it is that of this version."""
    resource = document.get("resource", "")
    found = _match_line(resource)
    if found is None or found["hash"] or document.get("fingerprint"):
        return None
    location = document.get("location")
    file = resource[: found.end("path")]
    was_line = _named_file_1(file)
    if was_line == _is_line(found, file, location.get("path") if location else None):
        return None
    return _content_digest(document, file if was_line else resource)


def _content_digest(document: Mapping[str, Any], resource: str) -> bytes:
    words = _EMPTY
    if (location := document.get("location")) and (snippet := location.get("snippet")):
        words = _length_prefixed(" ".join(snippet.split()))
    rule = document.get("rule_id")
    kind, name = ("rule", rule) if rule else ("title", document["title"])
    return sha256(
        _encode_fields("content", document["detector_id"], kind, name) + _length_prefixed(resource) + words
    ).digest()


def without_line(resource: str, path: str | None = None) -> tuple[str, int | None]:
    r"""Split a line number off a resource: ``src/a.py:12:3``, ``a.py(12)``, ``a.py#L12-L14`` give ``a.py``, 12.

    A number after a colon is a line where a file stands before it:

    * the document's own `location` names that file (`path`),
    * or its name is that of a source file (``a.py``, ``Dockerfile``),
    * or the path is rooted (``/``, ``./``, ``../``, ``~``, ``C:\``, ``file:``) or has a backslash,
    * or it has a ``/``, and characters that the name of a container image can't have (``src/Main:12``).

    Everything else stays whole, and what begins with a host and its port is no file whatever its name ends in
    (``localhost:5000/site.js:1``): ports (``host:8080``), URLs, tags and digests of images (``ghcr.io/org/app:1``,
    ``app@sha256:…``), ``arn:``, ``urn:``, ``pkg:``, ``cpe:``, IPv6 addresses, times. A number in
    parentheses is a line after the name of a source file, in a path with a backslash, and where the location says so
    (``/api/Users(12)`` is an address). After ``#L`` it always is.
    """
    found = _match_line(resource)
    if found is None:
        return resource, None
    file = resource[: found.end("path")]
    return (file, _line_number(found)) if _is_line(found, file, path) else (resource, None)


def _is_line(found: re.Match[str], file: str, path: str | None) -> bool:
    return bool(found["hash"]) or file == path or _names_file(file, paren=found["paren"] is not None)


def _match_line(resource: str) -> re.Match[str] | None:
    if resource[-1:] not in _ENDS_OF_LINES:
        return None
    return _LINE.fullmatch(resource, max(0, len(resource) - _LONGEST))


def _names_file(path: str, *, paren: bool) -> bool:
    if _OTHER.match(path):
        return False
    if _SOURCE_FILE.fullmatch(path) or "\\" in path:
        return True
    if paren:
        return False
    return _ROOTED.match(path) is not None or ("/" in path and not _IMAGE.fullmatch(path))


def _named_file_1(path: str) -> bool:
    """Return whether version 1 took a number behind this for a line."""
    web = "://" in path and not path.startswith("file:")
    return not web and ("/" in path or "\\" in path or _SOURCE_FILE_1.fullmatch(path) is not None)


_SOURCE_FILE_1 = re.compile(
    r"[^/\\]+\.(?:py|pyi|js|jsx|mjs|ts|tsx|java|kt|go|rs|c|cc|cpp|cxx|h|hh|hpp|cs|rb|php|pl|sh|bash|ps1|sql|html?|xml"
    r"|ya?ml|json|toml|ini|cfg|conf|env|tf|swift|scala|vue|lua|m|r|txt|md|gradle|properties|lock)",
    re.IGNORECASE,
)


def _line_number(found: re.Match[str]) -> int | None:
    number = int((found["line"] or found["paren"] or found["hash"])[:10])
    return number if number < 2**31 else None


def _length_prefixed(text: str) -> bytes:
    """Return a field with its length before it, as without separators ("ab", "c") would equal ("a", "bc")."""
    encoded = text.encode()
    return len(encoded).to_bytes(8, "big") + encoded


@lru_cache(4096)
def _encode_fields(*fields: str) -> bytes:
    return b"".join(_length_prefixed(text) for text in fields)


_EMPTY = _length_prefixed("")


def content_digest(content: bytes) -> bytes:
    """Return 16 bytes for the content of a document."""
    return sha256(content).digest()[:16]


def changed_fields(
    old: Mapping[str, object], new: Mapping[str, object], fields: Iterable[str] = CONTENT_FIELDS
) -> dict[str, list[object]]:
    """Return ``{field: [old, new]}`` for the fields that differ, exactly: ``1`` is not ``1.0`` or True."""
    return {name: [old[name], new[name]] for name in fields if not _is_same_value(old[name], new[name])}


def _is_same_value(a: object, b: object) -> bool:
    if a is b:
        return True
    kind = type(a)
    if kind is type(b) and (kind is str or kind is int or (kind is not float and not a and not b)):
        return a == b
    return to_json(a) == to_json(b)


def says_as_much(old: Any, new: Any, taken: Any) -> bool:
    """Return whether evidence of now says what that of before did, but for what a reader has `taken` out of it to the
    provenance, where it stands under the same name: what changes at each scan was evidence once, and is no change."""
    if isinstance(old, dict) and isinstance(new, dict) and isinstance(taken, dict):
        return all(
            says_as_much(old[name], new[name], taken.get(name)) if name in new else name in taken
            for name in old
        ) and all(name in old for name in new)
    if isinstance(old, list) and isinstance(new, list) and isinstance(taken, dict):
        return len(old) == len(new) and all(
            says_as_much(one, other, taken.get(str(n)))
            for n, (one, other) in enumerate(zip(old, new, strict=True))
        )
    if isinstance(old, str) and isinstance(new, str) and isinstance(taken, str):
        return old == taken or old.endswith(new)
    return _is_same_value(old, new)
