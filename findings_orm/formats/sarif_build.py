"""One document becomes one SARIF result, with what of its run explains it.

A result that came from SARIF is the original again. Where the document has changed since (severity, status), the
result says the new thing the way SARIF does; every other document gets a result built from its fields. What SARIF
has no place for stands in the result's property bag under `findings_orm`, and nothing there that importing the
result would give anyway.

Evidence beside the message and the provenance are not exported: they may hold requests, responses and secrets. JSON
Lines has them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from findings_orm.errors import LimitExceededError
from findings_orm.formats.sarif_result import FINGERPRINT, OWN_FIELDS, OWN_PROPERTY, fields
from findings_orm.formats.sarif_run import RUN_PROPERTIES, Rule, Run
from findings_orm.formats.sarif_values import (
    DETECTOR_PROPERTY,
    detector_id,
    element,
    index_in,
    items,
    mapping,
    slug,
)

_LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "info": "none"}
_SCORES = {
    "critical": (9.0, 10.0, "9.5"),
    "high": (7.0, 8.9, "8.0"),
    "medium": (4.0, 6.9, "5.5"),
    "low": (0.1, 3.9, "2.0"),
    "info": (0.0, 0.0, "0.0"),
}
_SUPPRESSED = {"false_positive": "accepted", "risk_accepted": "accepted", "triaged": "underReview"}
_GONE = frozenset({"resolved", "archived"})
_URI_REFERENCE = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_GUID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)  # no newer ones
_URI_CHARACTERS = "/:?#[]@!$&'()*+,;=~"
_DEFAULTS = {"status": "open", "resource": ""}


@dataclass
class Exported:
    """A result and what explains it.

    Attributes:
        result: the result.
        run: the run that it is from, without results, rules and tables.
        rule: the descriptor of its rule, or None.
        extension: the tool extension that defines the rule, or None for the driver.
        references: what it refers to in the run, as `sarif_references.collected` returns it.
        gone: the finding no longer exists; its `baselineState` says so.
    """

    result: dict[str, Any]
    run: dict[str, Any]
    rule: dict[str, Any] | None = None
    extension: dict[str, Any] | None = None
    references: dict[str, Any] = field(default_factory=dict)
    gone: bool = False

    def point(self, rule: int | None, extension: int | None) -> None:
        """Make the result refer to its rule at index `rule` of component `extension`; None drops the index."""
        reference = mapping(self.result.get("rule"))
        for owner, key, index in (
            (self.result, "ruleIndex", rule),
            (reference, "index", rule),
            (mapping(reference.get("toolComponent")), "index", extension),
        ):
            if key in owner:
                if index is None:
                    del owner[key]
                else:
                    owner[key] = index


def exported(document: Mapping[str, Any], rules: dict[tuple[str, str], dict[str, Any]]) -> Exported:
    """Return what to write for a document of the current schema.

    Args:
        document: the document.
        rules: the rules that were made for documents so far, by detector and id: findings of one rule share it,
            as the first of them gave it. Is added to.
    """
    found = _original(document)
    if found is not None:
        try:
            _reflect(found, document)
        except LimitExceededError:  # its message would be larger than a field may be
            found = None
    if found is None:
        found = _built(document, rules)
        _reflect(found, document)
    found.gone = found.result.get("baselineState") == "absent"
    return found


def _reflect(found: Exported, document: Mapping[str, Any]) -> None:
    """Make the result say what the document says, as an import would understand it."""
    tool: dict[str, Any] = {"driver": found.run["tool"]["driver"]}
    strings = found.references.get("globalMessageStrings")
    if strings:
        tool["driver"] = {**tool["driver"], "globalMessageStrings": strings}
    run = Run({**found.references, "tool": tool})
    rule = Rule(run, found.rule, None) if found.rule else None
    again = fields(run, found.result, rule)
    if again["severity"] != document["severity"]:
        _set_severity(found.result, document)
    if again["status"] != _field(document, "status"):
        _set_status(found.result, document)
    again = fields(run, found.result, rule)
    own = {name: document.get(name) for name in OWN_FIELDS if _field(again, name) != _field(document, name)}
    if own:
        _properties(found.result)[OWN_PROPERTY] = own


def entry_of(references: Mapping[str, Any], reference: tuple[str, int]) -> dict[str, Any] | None:
    """Return the element that a reference stands for, or None where it was not in the report either."""
    table, index = reference
    return element(references.get(table), index) or None


def _field(document: Mapping[str, Any], name: str) -> Any:
    """Return a field so that absent, None and empty are equal."""
    value = document.get(name)
    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if inner is not None}
    return value or _DEFAULTS.get(name) if not isinstance(value, (int, float)) else value


def _original(document: Mapping[str, Any]) -> Exported | None:
    """Return the result that the document was imported from, if it was one of SARIF."""
    evidence = mapping(document.get("evidence"))
    result = evidence.get("sarif")
    if isinstance(result, str):
        try:
            result = json.loads(result)
        except (ValueError, RecursionError):
            return None
    kept = mapping(evidence.get("sarif_run"))
    tool = mapping(kept.get("tool"))
    driver = mapping(tool.get("driver"))
    if not isinstance(result, dict) or not driver:
        return None
    run = {name: kept[name] for name in RUN_PROPERTIES if name in kept}
    same = detector_id(driver) == document["detector_id"]
    run["tool"] = {"driver": dict(driver) if same else _driver(document["detector_id"])}
    rule = evidence.get("sarif_rule")
    extensions = items(tool.get("extensions"))
    references = mapping(evidence.get("sarif_references"))
    return Exported(
        _resolved(result, references),
        run,
        rule if isinstance(rule, dict) else None,
        extensions[0] if extensions else None,
        references,
    )


def _resolved(original: Mapping[str, Any], references: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a result, as deep as it may be changed, without what only its run explains.

    That are the indexes of taxa and of the invocation, and what an earlier export wrote for this package.
    """
    result = dict(original)
    for name in ("properties", "provenance", "rule"):
        if isinstance(result.get(name), dict):
            result[name] = dict(result[name])
    reference = mapping(result.get("rule"))
    if isinstance(reference.get("toolComponent"), dict):
        reference["toolComponent"] = dict(reference["toolComponent"])
    mapping(result.get("properties")).pop(OWN_PROPERTY, None)
    if index_in(mapping(result.get("provenance")).get("invocationIndex")) is not None:
        del result["provenance"]["invocationIndex"]
    if isinstance(references.get("taxa"), list):
        result["taxa"] = references["taxa"]
    return result


def _driver(detector: str) -> dict[str, Any]:
    driver: dict[str, Any] = {"name": detector}
    if slug(detector) != detector:
        driver["properties"] = {DETECTOR_PROPERTY: detector}
    return driver


def _built(document: Mapping[str, Any], rules: dict[tuple[str, str], dict[str, Any]]) -> Exported:
    """Return a result made of the document's fields."""
    message = mapping(document.get("evidence")).get("message")
    text = message if isinstance(message, str) and message.strip() else document["title"]
    result: dict[str, Any] = {}
    if document.get("rule_id"):
        result["ruleId"] = document["rule_id"]
    result["message"] = {"text": text}
    locations = _locations(document)
    if locations:
        result["locations"] = locations
    if _GUID.fullmatch(document.get("id") or ""):
        result["guid"] = document["id"]
    if document.get("fingerprint"):
        result["fingerprints"] = {FINGERPRINT: document["fingerprint"]}
    if document.get("created_at"):
        result["provenance"] = {"firstDetectionTimeUtc": document["created_at"]}
    result["suppressions"] = []
    numbers = [f"external/cwe/cwe-{number:03d}" for number in document.get("cwe_ids") or ()]
    result["properties"] = {
        "tags": list(
            dict.fromkeys([*(document.get("tags") or []), *numbers, *(document.get("cve_ids") or [])])
        )
    }
    _set_severity(result, document)
    _set_status(result, document)
    run = {"tool": {"driver": _driver(document["detector_id"])}}
    name = document.get("rule_id")
    if not name:
        return Exported(result, run)
    return Exported(result, run, rules.setdefault((document["detector_id"], name), _rule(document, numbers)))


def _rule(document: Mapping[str, Any], cwes: list[str]) -> dict[str, Any]:
    return {
        "id": document["rule_id"],
        "shortDescription": {"text": document["title"]},
        "defaultConfiguration": {"level": _LEVELS[document["severity"]]},
        "properties": {"security-severity": _score(document), "tags": ["security", *cwes]},
    }


def _locations(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    location = document.get("location") or {}
    path = location.get("path") or document.get("resource")
    if not path:
        return []
    uri = path if _URI_REFERENCE.fullmatch(path) else quote(path, safe=_URI_CHARACTERS)
    physical: dict[str, Any] = {"artifactLocation": {"uri": uri}}
    region = {
        "startLine": location.get("start_line"),
        "endLine": location.get("end_line"),
        "snippet": {"text": location["snippet"]} if location.get("snippet") else None,
    }
    if region["startLine"]:
        physical["region"] = {name: value for name, value in region.items() if value}
    return [{"physicalLocation": physical}]


def _properties(result: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(result.get("properties"), dict):
        result["properties"] = {}
    bag: dict[str, Any] = result["properties"]
    return bag


def _set_severity(result: dict[str, Any], document: Mapping[str, Any]) -> None:
    """Say the severity as a level, and as the `security-severity` that tells high from critical."""
    level = _LEVELS[document["severity"]]
    result["level"] = level
    if level == "none":
        if result.get("kind", "fail") == "fail":
            result["kind"] = "informational"
    elif result.get("kind", "fail") != "fail":
        del result["kind"]
    _properties(result)["security-severity"] = _score(document)


def _score(document: Mapping[str, Any]) -> str:
    """Return the document's CVSS score if it is one of its severity, else one from the middle of it."""
    least, most, usual = _SCORES[document["severity"]]
    cvss = document.get("cvss")
    return str(float(cvss)) if cvss is not None and least <= cvss <= most else usual


def _set_status(result: dict[str, Any], document: Mapping[str, Any]) -> None:
    """Say the status as a suppression, or as `baselineState` where the finding is gone."""
    status = _field(document, "status")
    if result.get("baselineState") == "absent":
        del result["baselineState"]
    if status in _GONE:
        result["baselineState"] = "absent"
    suppressed = _SUPPRESSED.get(status)
    if suppressed:
        result["suppressions"] = [{"kind": "external", "status": suppressed, **_justified(document)}]
    elif result.get("suppressions"):
        result["suppressions"] = []


def _justified(document: Mapping[str, Any]) -> dict[str, str]:
    comment = mapping(document.get("evidence")).get("status_comment")
    return {"justification": comment} if isinstance(comment, str) and comment else {}
