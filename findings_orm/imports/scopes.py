"""Scopes: a report is complete for its detectors, and of each only for the category that it was made for.

SARIF calls it the category of a run: CodeQL writes one for each language, a pipeline one for each folder or image. Whoever
reports one of them says nothing about the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Scope = tuple[str, str]
"""A detector and a category, ``""`` where there is none."""

LONGEST_CATEGORY = 1_000
"""How many characters a category may have."""


def category_of_id(identifier: object) -> str:
    """Return the category in the id of a run: what is before its last slash (SARIF 2.1.0, 3.17.3); one too long is none."""
    found = identifier.rpartition("/")[0] if isinstance(identifier, str) else ""
    return found.replace("\0", "\u2400") if len(found) <= LONGEST_CATEGORY else ""


def category_of(document: Mapping[str, Any]) -> str:
    """Return the category that a document says, as those of SARIF do; of a document that may be invalid, too."""
    found: Any = document
    for name in ("provenance", "sarif_run", "automationDetails"):
        found = found.get(name)
        if not isinstance(found, dict):
            return ""
    return category_of_id(found.get("id"))


def scope_of(document: Mapping[str, Any], category: str) -> Scope:
    """Return the scope of a document of a run; its category, where that has one."""
    return document["detector_id"], category or category_of(document)


def name_categories(scopes: Iterable[Scope]) -> tuple[str, Mapping[str, Sequence[str]]]:
    """Return scopes as `Run.category` and `Run.categories` say them."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for detector, category in sorted(scopes):
        found[detector].append(category)
    names = {name for categories in found.values() for name in categories}
    if len(names) <= 1:
        return "".join(names), {}
    return "", {detector: categories for detector, categories in found.items() if categories != [""]}
