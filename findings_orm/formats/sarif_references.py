"""The references of a SARIF result by index into tables of its run: collected on import, inlined on export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from findings_orm.formats.sarif_run import TABLES, Rule, Run
from findings_orm.formats.sarif_values import as_object, element_at, index_in, items
from findings_orm.formats.texts import clone_json, limit_depth

_TABLE_OF = {
    "address": "addresses",
    "analysisTarget": "artifacts",
    "artifactLocation": "artifacts",
    "logicalLocation": "logicalLocations",
    "logicalLocations": "logicalLocations",
    "locations": "threadFlowLocations",
    "webRequest": "webRequests",
    "webResponse": "webResponses",
}
_MESSAGES = frozenset({"message", "description", "label"})
_ARTIFACT = ("location", "parentIndex", "sourceLanguage", "mimeType", "encoding")

Reference = tuple[str, int]
"""A table of the run, and an index in it."""


def shorten_artifact(value: object) -> dict[str, object]:
    """Return what is kept of an artifact (§3.24): where it is, not its contents, hashes and times."""
    return {key: inner for key, inner in as_object(value).items() if key in _ARTIFACT}


class Collected:
    """What of a run a result refers to, so that it can be explained without the run.

    Attributes:
        found: for each table ``{index as text: element}``, with the elements that elements refer to;
            `globalMessageStrings` with the messages that are looked up there; `taxa`, the result's taxa with ids
            and names where it has only indexes. Empty where the result explains itself.
        depth: how deep the result nests.
    """

    def __init__(self, run: Run, result: Mapping[str, object], rule: Rule | None) -> None:
        self._run = run
        self._own_messages = rule.strings if rule else {}
        self._elements: list[tuple[str, object]] = []
        self.found: dict[str, Any] = {}
        self._size = 0
        self.depth = self._note_references("", result)
        while self._elements:
            self._note_references(*self._elements.pop())
        taxa = items(result.get("taxa"))
        if any("index" in taxon or "index" in as_object(taxon.get("toolComponent")) for taxon in taxa):
            self.found["taxa"] = [clone_json(run.name_taxon(taxon)) for taxon in taxa]
        self.found = {name: limit_depth(kept, 90) for name, kept in self.found.items() if kept}

    def _note_references(self, name: str, value: Any) -> int:
        """Note the references in every object inside `value`, level by level, and return how many levels it has."""
        level = [(name, value)]
        depth = 0
        while level:
            depth += 1
            below = []
            for key, item in level:
                if isinstance(item, dict):
                    if key in _TABLE_OF or key in _MESSAGES or key in TABLES:
                        self._note_object(key, item)
                    below += [(k, v) for k, v in item.items() if isinstance(v, (dict, list))]
                else:
                    below += [(key, v) for v in item if isinstance(v, (dict, list))]
            level = below
        return depth

    def _note_object(self, name: str, value: Mapping[str, object]) -> None:
        table = _TABLE_OF.get(name, name)
        if name in _TABLE_OF:
            self._take_element(table, value.get("index"))
        if table in TABLES:
            self._take_element(table, value.get("parentIndex"))
        message = value.get("id") if name in _MESSAGES else None
        if isinstance(message, str) and message not in self._own_messages:
            known = self._run.global_strings
            if message in known:
                self.found.setdefault("globalMessageStrings", {})[message] = clone_json(known[message])

    def _take_element(self, table: str, index: Any) -> None:
        entry = element_at(self._run.tables.get(table), index)
        kept = self.found.setdefault(table, {})
        if entry and str(index) not in kept:
            self._size += self._run.size_of_element(table, index, entry)
            self._run.limits.check(
                "max_document_bytes", self._size, "the size of what a result refers to, in bytes, is at least"
            )
            kept[str(index)] = clone_json(entry)
            self._elements.append((table, entry))


def inline_references(
    result: dict[str, Any], entry_of: Callable[[Reference], Mapping[str, object] | None]
) -> None:
    """Replace references by the elements they stand for.

    Args:
        result: is changed.
        entry_of: returns for a reference the element to put in its place, or None to leave it.
    """
    for name, value in _named_objects(result):
        index = index_in(value.get("index")) if name in _TABLE_OF else None
        if index is None:
            continue
        table = _TABLE_OF[name]
        entry = entry_of((table, index))
        if entry is None:
            continue
        del value["index"]
        for key, inner in (as_object(entry.get("location")) if table == "artifacts" else entry).items():
            if key not in ("index", "parentIndex"):
                value.setdefault(key, clone_json(inner))


def _named_objects(value: object) -> list[tuple[str, dict[str, object]]]:
    """Return every object inside `value`, with the name of the property it belongs to; without recursion."""
    found = []
    todo = [("", value)]
    while todo:
        key, item = todo.pop()
        if isinstance(item, dict):
            found.append((key, item))
            todo += [(k, v) for k, v in item.items() if isinstance(v, (dict, list))]
        elif isinstance(item, list):
            todo += [(key, v) for v in item]
    return found
