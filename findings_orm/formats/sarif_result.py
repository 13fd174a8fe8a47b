"""One SARIF result becomes one document, by fixed rules.

Sections (§) are those of the SARIF 2.1.0 specification (OASIS); `security-severity` is GitHub's ("SARIF support
for code scanning"). What no rule can place stays in `evidence`:

* `message`: the text of the message.
* `sarif`: the result without what changes at each scan (`Run.volatile`). Where it nests deeper than a document may, its JSON
  as text.
* `level`: the level that applies to it.
* `suppressions`: its suppressions as they are, and `status_comment`: the justification of the status.
* `security_severity`: the score, where there is one. It is no `cvss`: CodeQL's is that of the rule, not of the find.

Where the result comes from is `provenance`:

* `sarif`: what was taken out of the result (`join_volatile` puts it together).
* `sarif_rule`, `sarif_run`, `sarif_references`: what of the rule and of the run explains the result. A new version of the
  tool has other words about a rule, and does not change what was found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from findings_orm.errors import StorageError
from findings_orm.finding import FIELDS, MAX_DEPTH, MAX_NUMBER, SCHEMA_VERSION, validate_finding
from findings_orm.formats import texts
from findings_orm.formats.paths import canonical_path
from findings_orm.formats.sarif_references import Collected
from findings_orm.formats.sarif_run import Rule, Run
from findings_orm.formats.sarif_values import (
    Tags,
    as_object,
    component_texts,
    element_at,
    index_in,
    items,
    own_fields_of_today,
    property_cwes,
    rule_id,
)
from findings_orm.formats.texts import replace_nul

FINGERPRINT = "findings_orm/v1"
"""The name under which an export writes a fingerprint that is no SARIF tool's."""

OWN_PROPERTY = "findings_orm"
"""The property of a result under which an export writes the fields that SARIF has no place for."""

OWN_FIELDS = tuple(
    name
    for name in FIELDS
    if name
    not in {
        "finding_schema_version",
        "id",
        "project_id",
        "detector_id",
        "created_at",
        "run_id",
        "evidence",
        "provenance",
    }
)
"""The fields that may stand under `OWN_PROPERTY`."""

_NO_FAILURES = ("pass", "notApplicable")
_BY_WORD = {
    "critical": "critical",
    "high": "high",
    "medium": "medium",
    "moderate": "medium",
    "low": "low",
    "info": "info",
    "informational": "info",
    "none": "info",
}
_BY_LEVEL = {"error": "high", "warning": "medium", "note": "low", "none": "info"}
_BY_SCORE = ((9.0, "critical"), (7.0, "high"), (4.0, "medium"))
_LONGEST_FINGERPRINT = 255
_PLACEHOLDER_FINGERPRINTS = frozenset({"requires login"})  # what semgrep writes for users without an account


def says_failure(result: Mapping[str, object]) -> bool:
    """Return whether a result is one of a problem: not of a check that passed or does not apply (`kind`, §3.27.9)."""
    return result.get("kind") not in _NO_FAILURES


def document_of_result(run: Run, result: dict[str, object]) -> dict[str, object]:
    """Return the document for a result: a plain dict of the current schema, without id, project and run.

    Args:
        run: the run that the result is from.
        result: the result; the document keeps it, so it must not be changed afterwards.
    """
    rule = run.rule_of(result)
    evidence, provenance = _collect_evidence(run, result, rule)
    return {**fields(run, result, rule), "evidence": evidence, "provenance": provenance}


def fields(run: Run, result: Mapping[str, object], rule: Rule | None) -> dict[str, object]:
    """Return the fields of the document for a result, without evidence and provenance."""
    properties = as_object(result.get("properties"))
    name = replace_nul(rule_id(result) or (rule.id if rule else ""))
    where = _first_location(run, result)
    tags = [Tags(properties), *([rule.tags] if rule else [])]
    found: dict[str, object] = {
        "finding_schema_version": SCHEMA_VERSION,
        "detector_id": run.detector_id,
        "title": _title_of_result(run, result, rule) or name or f"{run.name or 'SARIF'} result",
        "severity": _severity_of_result(run, result, rule),
        "resource": where.resource,
        "status": status_of(result)[0],
        "rule_id": name or None,
        "fingerprint": fingerprint_of(result, name, where.resource),
        "location": where.location,
        "cwe_ids": _cwe_numbers(run, result, rule),
        "cve_ids": texts.unique_items([*texts.cve_ids([name]), *(cve for one in tags for cve in one.cves)]),
        "owasp": texts.unique_items(category for one in tags for category in one.owasp),
        "tags": texts.unique_items(tag for one in tags for tag in one.others),
    }
    created = _detection_time(run, result)
    if created:
        found["created_at"] = created
    own = properties.get(OWN_PROPERTY)
    return _with_own_fields(found, own) if isinstance(own, dict) else found


class _Where:
    """Where a result is: `resource` and `location` of the document."""

    __slots__ = ("location", "resource")

    def __init__(self, resource: str = "", location: dict[str, object] | None = None) -> None:
        self.resource = resource
        self.location = location


def _first_location(run: Run, result: Mapping[str, object]) -> _Where:
    """Return the place of the first location that has an artifact, else of the first with a logical name, else the name of
    an address (§3.32), else the target of the web request (§3.46.6).

    The URI is relative to its `uriBaseId` (§3.4.4: so that it means the same on every machine; what the base was on the machine
    of the scan is in the evidence), and in one form (`canonical_path`). The region gives lines and snippet.
    """
    locations = items(result.get("locations"))
    for location in locations:
        physical = as_object(location.get("physicalLocation"))
        uri = _artifact_uri(run, physical.get("artifactLocation"))
        if uri:
            return _Where(uri, _location_of_region(uri, as_object(physical.get("region"))))
    for location in locations:
        for logical in items(location.get("logicalLocations")):
            cached = element_at(run.tables.get("logicalLocations"), logical.get("index"))
            for key in ("fullyQualifiedName", "decoratedName", "name"):
                text = logical.get(key) or cached.get(key)
                if isinstance(text, str) and text:
                    return _Where(replace_nul(text))
    addresses = [as_object(as_object(one.get("physicalLocation")).get("address")) for one in locations]
    for table, keys, given in (
        *(("addresses", ("fullyQualifiedName", "name"), address) for address in addresses),
        ("webRequests", ("target",), as_object(result.get("webRequest"))),
    ):
        cached = element_at(run.tables.get(table), given.get("index"))
        for key in keys:
            text = given.get(key) or cached.get(key)
            if isinstance(text, str) and text:
                return _Where(replace_nul(text))
    return _Where()


def _artifact_uri(run: Run, location: object) -> str:
    """Return the URI of an artifactLocation, given there or in the run's artifacts (§3.4.3, §3.4.5)."""
    given = as_object(location)
    uri = given.get("uri")
    if not uri:
        cached = element_at(run.tables.get("artifacts"), given.get("index"))
        uri = as_object(cached.get("location")).get("uri")
    return canonical_path(replace_nul(uri), run.roots) if isinstance(uri, str) else ""


def _location_of_region(path: str, region: Mapping[str, object]) -> dict[str, object]:
    location: dict[str, object] = {"path": path}
    start, end = _line_number(region.get("startLine")), _line_number(region.get("endLine"))
    if start:
        location["start_line"] = start
        if end and end >= start:
            location["end_line"] = end
    snippet = as_object(region.get("snippet")).get("text")
    if isinstance(snippet, str) and snippet:
        location["snippet"] = replace_nul(snippet)
    return location


def _line_number(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    line = index_in(value)
    return line if line and line <= MAX_NUMBER else None


def _title_of_result(run: Run, result: Mapping[str, object], rule: Rule | None) -> str:
    if rule and rule.title:
        return replace_nul(rule.title)
    return replace_nul(texts.first_line(run.cut_roots(run.message(result.get("message"), rule))))


def _security_severity(properties: Mapping[str, object], rule: Rule | None) -> float | None:
    for bag in (properties, rule.properties if rule else {}):
        score = texts.number(bag.get("security-severity"))
        if score is not None:
            return score
    return None


def _severity_of_result(run: Run, result: Mapping[str, object], rule: Rule | None) -> str:
    """Return the severity by `security-severity`, a number or a word, the result's before the rule's; else by the level.

    The rule's is about failures: a result of another kind (informational, open, review) is `info`, as its level is (§3.27.10).
    """
    level = run.level(result, rule)
    if result.get("kind", "fail") not in ("fail", None):
        return _BY_LEVEL[level]
    for bag in (as_object(result.get("properties")), rule.properties if rule else {}):
        value = bag.get("security-severity")
        score = texts.number(value)
        if score is not None:
            return severity_of(level, score)
        word = _BY_WORD.get(value.strip().lower()) if isinstance(value, str) else None
        if word:
            return word
    return _BY_LEVEL[level]


def severity_of(level: str, score: float | None) -> str:
    """Return the severity for a `security-severity` score, else (none, zero, negative) for a level."""
    if score is None or score <= 0:
        return _BY_LEVEL[level]
    return next((name for least, name in _BY_SCORE if score >= least), "low")


def suppression_state(suppression: Mapping[str, object]) -> str:
    """Return the status of a suppression, ``accepted`` where there is none (§3.35.3); `state` is its name in drafts."""
    return str(suppression.get("status", suppression.get("state")) or "accepted")


def status_of(result: Mapping[str, object]) -> tuple[str, str]:
    """Return the status that suppressions give (§3.27.23, §3.35), and its comment.

    A result is suppressed (`risk_accepted`) if it has suppressions and all are accepted, as without a status
    they are; one under review makes it `triaged`, one that is rejected leaves it `open`. That an open request
    or a refusal outweighs an acceptance is how Microsoft's SARIF viewers and SDK decide it. `state` is the
    name that drafts used for `status`. A result that a comparison found gone (`baselineState` `absent`,
    §3.27.24) is `resolved`.

    Returns:
        The status, and the justifications of the suppressions that decided, a line each.
    """
    suppressions = items(result.get("suppressions"))
    states = [suppression_state(one) for one in suppressions]
    if "underReview" in states:
        status, deciding = "triaged", "underReview"
    elif states and all(state == "accepted" for state in states):
        status, deciding = "risk_accepted", "accepted"
    else:
        status = "resolved" if result.get("baselineState") == "absent" else "open"
        return status, ""
    reasons = [
        one.get("justification") for one, state in zip(suppressions, states, strict=True) if state == deciding
    ]
    return status, "\n".join(texts.unique_items(text for text in reasons if isinstance(text, str) and text))


def fingerprint_of(result: Mapping[str, object], rule: str, uri: str) -> str | None:
    """Return the tool's own identity for a result.

    From `fingerprints` (§3.27.16) it is ``name=value``, sorted and joined by ``;`` (``%``, ``;`` and ``=`` are
    percent-encoded, values that are no text are JSON); beyond 255 characters the SHA-256 of that. Each of
    `partialFingerprints` (§3.27.17) is only a part of an identity and may be the same for other rules and
    files, so they give a SHA-256 of rule, URI and parts: ``partial/v1:…``. Without both there is none.
    """
    full = _fingerprint_parts(result.get("fingerprints"))
    own = full.get(FINGERPRINT)
    if own:
        return own
    if full:
        text = ";".join(
            f"{_quote_separators(key)}={_quote_separators(value)}" for key, value in sorted(full.items())
        )
        return text if len(text) <= _LONGEST_FINGERPRINT else f"sha256:{texts.hash_fields(text)}"
    partial = _fingerprint_parts(result.get("partialFingerprints"))
    if not partial:
        return None
    fields = [text for pair in sorted(partial.items()) for text in pair]
    return f"partial/v1:{texts.hash_fields(rule, uri, *fields)}"


def _fingerprint_parts(fingerprints: object) -> dict[str, str]:
    found = {
        replace_nul(key): replace_nul(value)
        if isinstance(value, str)
        else replace_nul(texts.canonical_json(value))
        for key, value in as_object(fingerprints).items()
        if value not in (None, "", {}, [])
    }
    return {key: value for key, value in found.items() if value not in _PLACEHOLDER_FINGERPRINTS}


def _quote_separators(text: str) -> str:
    return text.replace("%", "%25").replace(";", "%3B").replace("=", "%3D")


def _cwe_numbers(run: Run, result: Mapping[str, object], rule: Rule | None) -> list[int]:
    """Return the CWE numbers of tags, taxa and `cwe` properties: the result's before the rule's."""
    properties = as_object(result.get("properties"))
    taxa = [number for taxon in items(result.get("taxa")) for number in run.cwes_of(taxon)]
    found = [*Tags(properties).cwes, *taxa, *property_cwes(properties)]
    return texts.unique_items(found + rule.cwes if rule else found)


def _detection_time(run: Run, result: Mapping[str, object]) -> str | None:
    """Return when the result was first detected (§3.48.3), else when its invocation ended or began (§3.20.7)."""
    first = as_object(result.get("provenance")).get("firstDetectionTimeUtc")
    invocation = run.invocation(result)
    times = (first, invocation.get("endTimeUtc"), invocation.get("startTimeUtc"))
    return next((time for value in times if (time := texts.utc_time(value))), None)


def _collect_evidence(
    run: Run, result: dict[str, object], rule: Rule | None
) -> tuple[dict[str, object], dict[str, object]]:
    """Return evidence and provenance."""
    explained = Collected(run, result, rule)
    fits = explained.depth <= MAX_DEPTH - 4
    run_kept = texts.clone_json(run.stored)
    if rule and rule.extension is not None:
        run_kept["tool"]["extensions"] = [component_texts(run.component(rule.extension))]
    message = run.message(result.get("message"), rule)
    run.count_added(rule, message, explained.found)
    kept, taken = run.volatile.split(result) if fits else run.volatile.split_members(result)
    evidence = {
        "message": run.cut_roots(message),
        "sarif": kept if fits else json.dumps(kept, ensure_ascii=False),
        "level": run.level(result, rule),
        "suppressions": texts.clone_json(kept.get("suppressions")) if fits else None,
        "status_comment": status_of(result)[1],
        "security_severity": _security_severity(as_object(result.get("properties")), rule),
    }
    provenance = {
        "sarif": texts.limit_depth(taken),
        "sarif_rule": texts.clone_json(rule.stored) if rule else None,
        "sarif_run": run_kept,
        "sarif_references": explained.found,
    }
    return (
        {key: value for key, value in evidence.items() if key == "sarif" or value or value == 0.0},
        {key: value for key, value in provenance.items() if value},
    )


def _with_own_fields(found: dict[str, object], own: Mapping[str, object]) -> dict[str, object]:
    """Return the document with the fields that an export of this package wrote, if they are valid."""
    own = own_fields_of_today(own)
    changed = {**found, **{key: texts.clone_json(own[key]) for key in OWN_FIELDS if key in own}}
    missing = {
        "id": "00000000-0000-0000-0000-000000000000",
        "project_id": "-",
        "created_at": "2000-01-01T00:00:00Z",
    }
    try:
        validate_finding({**missing, **changed})
    except StorageError:
        return found
    return changed
