"""Small rules that several formats share: text, time, CWE and CVE numbers, tags, hashes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar

from findings_orm.finding import MAX_DEPTH, MAX_NUMBER, format_time

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_CWE = re.compile(r"(?:external/cwe/)?cwe[-_: ]*0*(\d{1,10})(?!\d).*", re.ASCII | re.IGNORECASE | re.DOTALL)
_OWASP = re.compile(
    r"(?:external/owasp/)?owasp[-_: ]*a0?(\d{1,2})(?!\d)(?:[-_: ]*(20\d\d)(?!\d))?.*",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
_BETWEEN = re.compile(r"[,;|]")
_CVE = re.compile(r"(?<![A-Za-z0-9-])CVE-\d{4}-\d{4,}(?![A-Za-z0-9-])", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?", re.ASCII)
_MAX_TAG = 64

T = TypeVar("T")


def replace_nul(text: str) -> str:
    """Return `text` as a plain field of a document can hold it: NUL becomes ``␀`` (U+2400)."""
    return text.replace("\x00", "\u2400")


def first_line(text: str) -> str:
    """Return the first line of `text` that is not blank, stripped; ``""`` where there is none."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def utc_time(value: object) -> str | None:
    """Return an RFC 3339 time as the canonical time in UTC, cut to microseconds; None for anything else.

    A time without an offset has no meaning on its own and is not placed. Neither is year 1, which is what
    Go writes for a time that was never set.
    """
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if not found or found[2].startswith("24"):
        return None
    date, clock, fraction, offset = found.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}.{(fraction or '')[:6]:0<6}{offset.upper()}")
        return format_time(moment) if moment.year > 1 else None
    except (ValueError, OverflowError):
        return None


def number(value: object) -> float | None:
    """Return a finite number, given as a number or as text (``"7.5"``); None for anything else."""
    if isinstance(value, str):
        value = value.strip() if _NUMBER.fullmatch(value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def strings_in(value: object, *, separator: str | None = None) -> list[str]:
    """Return the texts in `value`: a list of texts, or one text, split at `separator` if there is one."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator)] if separator else [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def cwe_number(text: str) -> int | None:
    """Return the number in ``external/cwe/cwe-079``, ``CWE-79: …``, ``CWE-79`` or ``cwe:79``, else None."""
    found = _CWE.fullmatch(text)
    value = int(found[1]) if found else 0
    return value if 1 <= value <= MAX_NUMBER else None


def cwe_numbers(text: str) -> list[int]:
    """Return the numbers in a text that may name several, as in ``CWE-79,CWE-80``."""
    return [number for part in _BETWEEN.split(text) if (number := cwe_number(part.strip()))]


def owasp_category(text: str) -> str | None:
    """Return the category of the OWASP Top 10 in ``OWASP-A03:2021 - Injection`` or ``owasp-a3``, as a document has it: the year
    where the text says it. None for anything else."""
    found = _OWASP.fullmatch(text)
    if not found or not 1 <= int(found[1]) <= 10:
        return None
    return f"A{int(found[1]):02}" + (f":{found[2]}" if found[2] else "")


def cve_ids(texts: Iterable[str]) -> list[str]:
    """Return the CVE ids in `texts` in upper case, each once."""
    return unique_items(found.upper() for text in texts for found in _CVE.findall(text))


def valid_tags(texts: Iterable[str]) -> list[str]:
    """Return those of `texts` that a document takes as tags (1 to 64 characters, no NUL), each once."""
    return unique_items(text for text in texts if 1 <= len(text) <= _MAX_TAG and "\x00" not in text)


def unique_items(items: Iterable[T]) -> list[T]:
    """Return `items` in their order, each once."""
    return list(dict.fromkeys(items))


def hash_fields(*fields: str) -> str:
    """Return the SHA-256 (hexadecimal) of `fields`, each with its length before it so that none can move."""
    data = bytearray()
    for field in fields:
        encoded = field.encode()
        data += len(encoded).to_bytes(8, "big") + encoded
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: object) -> str:
    """Return JSON that is the same for equal values, whatever the order of their keys."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def limit_depth(value: object, limit: int = MAX_DEPTH - 4) -> object:
    """Return `value`, or its JSON as text where it nests deeper than evidence may."""
    todo = [(value, 1)]
    while todo:
        item, depth = todo.pop()
        if depth > limit:
            return json.dumps(value, ensure_ascii=False)
        if isinstance(item, dict):
            todo.extend((inner, depth + 1) for inner in item.values() if isinstance(inner, (dict, list)))
        elif isinstance(item, list):
            todo.extend((inner, depth + 1) for inner in item if isinstance(inner, (dict, list)))
    return value


def clone_json(value: object) -> Any:
    """Return a copy of a JSON value that shares nothing with it."""
    if isinstance(value, dict):
        return {key: clone_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [clone_json(inner) for inner in value]
    return value
