"""Names that changed: of tools, which are known here, and of rules, which reports tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from findings_orm.finding import FindingDocument

NAMES_OF_TOOLS: tuple[tuple[str, ...], ...] = (
    ("semgrep", "semgrep-oss"),
    ("codeql-command-line-toolchain", "codeql"),
    ("anchore-container-vulnerability-report-t0", "grype"),
    ("tfsec", "defsec"),
    ("owasp-zap", "zap"),
)
"""The detectors that one tool has been called, by the names that drivers of its releases have in SARIF. Tools that report the
same rules, as forks do, are others."""


def detectors_by_new_names(known: Mapping[str, int]) -> dict[str, str]:
    """Return by the names of detectors that a project does not know those that it knows the same tools by; `known` has the
    number of the last run for each. A project that knows both has findings of both, and goes on so."""
    found = {}
    for names in NAMES_OF_TOOLS:
        if there := [name for name in names if name in known]:
            last = max(there, key=known.__getitem__)
            found.update({name: last for name in names if name not in known})
    return found


def former_rules(document: FindingDocument) -> Iterator[str]:
    """Yield the names that the rule of a document had (SARIF 2.1.0, 3.49.4), with what stands behind the rule's id, and
    without."""
    rule, name = document["provenance"].get("sarif_rule"), document["rule_id"]
    if not isinstance(rule, dict) or not name:
        return
    former = rule.get("deprecatedIds")
    behind = name.removeprefix(rule["id"]) if isinstance(rule.get("id"), str) else ""
    for old in former if isinstance(former, list) else ():
        if isinstance(old, str) and old:
            yield from dict.fromkeys((old + behind if behind.startswith("/") else old, old))


def correlation_of(document: FindingDocument) -> str | None:
    """Return the tool's word for what is one finding in all scans (SARIF 2.1.0, 3.27.4), None where it gives none."""
    result = document["evidence"].get("sarif")
    guid = result.get("correlationGuid") if isinstance(result, dict) else None
    return guid.lower() if isinstance(guid, str) and guid else None
