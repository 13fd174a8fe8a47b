"""The values of a SARIF log, read so that a wrong type counts as absent.

Sections (§) are those of the SARIF 2.1.0 specification (OASIS).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from findings_orm.finding import MAX_NUMBER
from findings_orm.formats.texts import (
    canonical_json,
    cve_ids,
    cwe_numbers,
    owasp_category,
    strings_in,
    valid_tags,
)
from findings_orm.limits import Limits

LEVELS = ("none", "note", "warning", "error")

DETECTOR_PROPERTY = "findings_orm/detector_id"
"""The property of a driver that holds a detector_id which the driver's name would not give."""

_DETECTOR = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\d{1,9})\}", re.ASCII)


def as_object(value: object) -> dict[str, Any]:
    """Return `value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[dict[str, Any]]:
    """Return the objects in `value` if it is an array."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def index_in(value: object) -> int | None:
    """Return an array index, or None; -1 is how SARIF writes none (§3.7.4)."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def element_at(table: object, index: object) -> dict[str, object]:
    """Return the object at `index` of an array, or of an object whose names are indexes; else an empty one."""
    position = index_in(index)
    if position is None:
        return {}
    if isinstance(table, list):
        return as_object(table[position]) if position < len(table) else {}
    return as_object(as_object(table).get(str(position)))


def id_text(value: object) -> str:
    """Return an id as text: a few tools write numbers; ``""`` where there is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def text_of(message: object) -> str:
    """Return the text of a message or multiformatMessageString, ``""`` where it has none (§3.11.8, §3.12.3)."""
    if isinstance(message, str):
        return message
    for name in ("text", "markdown"):
        text = as_object(message).get(name)
        if isinstance(text, str) and text.strip():
            return text
    return ""


def detector_slug(name: str) -> str:
    """Return a driver's name as a detector_id.

    Lower case; each run of characters outside ``A-Za-z0-9_.-`` becomes one ``-``, none at the ends. A name
    that leaves nothing (or no name) gives ``sarif`` with the start of the name's SHA-256.
    """
    text = re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9_.-]+", "-", name.lower())).strip("-")
    if text:
        return text
    return f"sarif-{hashlib.sha256(name.encode()).hexdigest()[:12]}" if name.strip() else "sarif"


def fill_placeholders(text: str, arguments: object, limits: Limits) -> str:
    """Replace ``{0}`` by the argument and ``{{``, ``}}`` by braces (§3.11.5); without argument it stays.

    Raises:
        StorageValidationError: the text gets longer than a field may be.
    """
    given = arguments if isinstance(arguments, list) else []
    size = len(text)

    def replace_placeholder(found: re.Match[str]) -> str:
        nonlocal size
        if found[1] is None:
            return found[0][0]
        number = int(found[1])
        if number >= len(given):
            return found[0]
        new = given[number] if isinstance(given[number], str) else canonical_json(given[number])
        size += len(new)
        limits.check(
            "max_field_bytes", size, "the size of a message with its arguments, in bytes, is at least"
        )
        return new

    return _PLACEHOLDER.sub(replace_placeholder, text)


def detector_id(driver: Mapping[str, object]) -> str:
    """Return the detector_id of a driver (§3.18.2): the slug of its name, or what `DETECTOR_PROPERTY` says."""
    given = as_object(driver.get("properties")).get(DETECTOR_PROPERTY)
    name = driver.get("name")
    return (
        given
        if isinstance(given, str) and _DETECTOR.fullmatch(given)
        else detector_slug(name if isinstance(name, str) else "")
    )


class Tags:
    """The tags of a property bag (§3.8.2): those that name a CWE, a CVE or a category of OWASP are that, the others tags.

    Attributes:
        cwes, cves, owasp: the numbers of CWEs, the ids of CVEs, and the categories.
        others: the other tags that a document takes.
    """

    __slots__ = ("cves", "cwes", "others", "owasp")

    def __init__(self, properties: Mapping[str, object]) -> None:
        names = strings_in(properties.get("tags"))
        self.cwes = [number for name in names for number in cwe_numbers(name)]
        self.cves = cve_ids(names)
        self.owasp = [category for name in names if (category := owasp_category(name))]
        self.others = valid_tags(
            name for name in names if not (cwe_numbers(name) or cve_ids([name]) or owasp_category(name))
        )


def property_cwes(properties: Mapping[str, object]) -> list[int]:
    """Return the CWE numbers of a property named `cwe` (not of the standard, but several tools write it)."""
    value = properties.get("cwe")
    found = []
    for item in value if isinstance(value, list) else [value]:
        number = index_in(item)
        if number and number <= MAX_NUMBER:
            found.append(number)
        elif isinstance(item, str):
            found += cwe_numbers(item)
    return found


def rule_id(result: Mapping[str, object]) -> str:
    """Return the id of a result's rule as the result gives it (§3.27.5, §3.52.4), else ``""``."""
    return id_text(result.get("ruleId")) or id_text(as_object(result.get("rule")).get("id"))


def component_texts(component: Mapping[str, object]) -> dict[str, str]:
    """Return the properties of a tool component that are texts: name, version, guid, URIs."""
    return {key: value for key, value in component.items() if isinstance(value, str)}


def own_fields_of_today(own: Mapping[str, object]) -> Mapping[str, object]:
    """Return what an older release wrote, with one CWE number and one OWASP category, as the lists of today."""
    changed = dict(own)
    if "cwe" in own and "cwe_ids" not in own:
        changed["cwe_ids"] = [] if own["cwe"] is None else [own["cwe"]]
    if "owasp" in own and not isinstance(own["owasp"], list):
        changed["owasp"] = [] if own["owasp"] is None else [own["owasp"]]
    return changed
