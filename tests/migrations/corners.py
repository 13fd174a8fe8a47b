"""Documents whose `provenance` holds, under the reserved key, whatever could be mistaken for a corner of ours."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from findings_orm.finding import KNOWN_VERSIONS
from findings_orm.migrations.scripts import document_changes, revision_chain
from findings_orm.testing import strategies

Document = dict[str, Any]

CORNER = "findings_orm"
VERSIONS = KNOWN_VERSIONS
STEPS = {one.id: (one.before, one.schema_version) for one in revision_chain() if one.changes_documents}
"""The revisions that change documents: from which version to which."""
ADDED = ("status", "rule_id", "fingerprint", "location", "confidence", "tags")
REQUIRED = ("id", "project_id", "detector_id", "title", "severity", "created_at")

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "status": st.sampled_from(["open", "resolved", "closed", 200, True, None]),
    "rule_id": st.sampled_from(["B608", "", None, 1, "nul\x00"]),
    "fingerprint": st.sampled_from(["f", "", None]),
    "location": st.sampled_from(
        [
            None,
            {},
            {"path": "a", "start_line": 1, "end_line": 2},
            {"end_line": 2, "start_line": 1},
            {"start_line": True},
            {"start_line": 3, "end_line": 2},
            {"end_line": 1},
            {"start_line": 1.0},
            {"column": 1},
            {"path": 1},
        ]
    ),
    "confidence": st.sampled_from([None, 0, 50, 50.0, -0.0, 101, "50", True]),
    "tags": st.sampled_from([[], ["a"], [""], ["t" * 65], "a", None]),
    "mitre_attack": st.sampled_from(
        [[], ["T1059"], ["T1059.001"], ["T1059.001", "T1059.002"], ["T1059.01"], "T1059.001"]
    ),
    "cwe_ids": st.sampled_from([[], [79], [79, 89], [89, 79], [79, 79], [0], [True], [79, 1.0], 79, None]),
    "owasp": st.sampled_from([[], ["A03"], ["A03:2021"], ["A03:2021", "A01"], ["A3"], [None], "A03", None]),
    "severity": st.sampled_from(["low", "High"]),
    "ts": st.sampled_from([1672912800, "2023-01-05T10:00:00Z"]),
    "cwe": st.sampled_from(["CWE-079", "CWE-79", 79, None]),
    "unknown": st.just(1),
}


def _looks_like(original: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects with the members of a corner, in any order, right and wrong."""
    fields = st.lists(st.sampled_from(sorted(_VALUES)), unique=True, max_size=4).flatmap(
        lambda names: st.fixed_dictionaries({name: _VALUES[name] for name in names})
    )
    absent = st.lists(st.sampled_from([*ADDED, "provenance", "pid", "x", 1]), max_size=7) | st.just(
        list(ADDED)
    )
    members = st.fixed_dictionaries(
        {"version": st.sampled_from([*VERSIONS, 1]), "fields": fields},
        optional={
            "absent": absent | st.none(),
            "order": st.sampled_from([[], ["tags", "id", "x"], ["x", "x"], None]),
            "original": original,
            "more": st.just(1),
        },
    )
    return members | members.flatmap(lambda corner: st.permutations(list(corner.items())).map(dict))


corners: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(
        [None, {}, "ours", [], 1, {"version": "1.1.0"}]
        + [{"version": version, "fields": {}} for version in VERSIONS]
    ),
    _looks_like,
)
"""Values under the reserved key: nested, half right, wrong."""


@st.composite
def documents(draw: st.DrawFn, version: str) -> Document:
    """Valid documents of a version, complete or partial, most with something under the reserved key."""
    legacy = version == "0.3.0"
    document = draw(strategies.legacy_documents() if legacy else strategies.documents(version=version))
    if not legacy:
        document["finding_schema_version"] = version
    provenance = document.get("provenance", {})
    if draw(st.integers(0, 3)) and isinstance(provenance, dict):
        items = list(provenance.items())
        items.insert(draw(st.sampled_from([0, len(items)])), (CORNER, draw(corners)))
        document["provenance"] = dict(items)
    if draw(st.booleans()):
        techniques = ["T1059", "T1059.001"] if version in ("1.1.0", "2.0.0") else ["T1059"]
        document["mitre_attack"] = draw(st.lists(st.sampled_from(techniques), max_size=3))
    for name in draw(st.lists(st.sampled_from(["id", "project_id", "created_at"]), max_size=2)):
        document.pop(name, None)
    if draw(st.integers(0, 3)) == 0:
        for name in ADDED:
            document.pop(name, None)
    return document


def relabelled(document: Document, revision: str) -> Document:
    """Return a document of the version below a revision as if it were one of the version above."""
    changed = {**document, "finding_schema_version": STEPS[revision][1]}
    if revision == "r0004":
        lists = {name: changed.pop(name) for name in ("cwe", "owasp") if name in changed}
        for name, value in lists.items():
            changed["cwe_ids" if name == "cwe" else name] = [] if value is None else [value]
    return changed


@st.composite
def downgraded_documents(draw: st.DrawFn, revision: str) -> Document:
    """Documents with a real corner, down by a revision once or more; most with one thing changed afterwards."""
    document = draw(documents(STEPS[revision][1]))
    down = document_changes(revision)[1]
    document = down(
        document if revision == "r0001" else {**document, "finding_schema_version": STEPS[revision][1]}
    )
    for _ in range(draw(st.integers(0, 2)) if revision != "r0001" else 0):
        document = down(relabelled(document, revision))
    provenance = document.get("provenance")
    corner = provenance.get(CORNER) if isinstance(provenance, dict) else None
    if (
        not isinstance(provenance, dict)
        or not isinstance(corner, dict)
        or not isinstance(corner.get("fields"), dict)
    ):
        return document
    change = draw(
        st.sampled_from(["none", "members", "order", "order of fields", "a field", "a gap", "techniques"])
    )
    if change == "techniques":
        return {**document, "mitre_attack": draw(st.lists(st.sampled_from(["T1059", "T1001"]), max_size=2))}
    return {**document, "provenance": {**provenance, CORNER: _changed(draw, change, dict(corner))}}


def _changed(draw: st.DrawFn, change: str, corner: Document) -> Document:
    fields = corner["fields"]
    if change == "members":
        key = draw(st.sampled_from(["more", "original", "absent"]))
        return {**corner, key: draw(st.sampled_from([None, [], {}, "x", ["tags"], ["provenance"]]))}
    if change == "order":
        return dict(draw(st.permutations(list(corner.items()))))
    if change == "order of fields":
        return {**corner, "fields": dict(draw(st.permutations(list(fields.items()))))}
    if change == "a field":
        name = draw(st.sampled_from(sorted(_VALUES)))
        return {**corner, "fields": {**fields, name: draw(_VALUES[name])}}
    if change == "a gap":
        del corner[draw(st.sampled_from(list(corner)))]
    return corner
