"""Schema 1.1.0: status, rule, fingerprint, location, confidence and tags; MITRE ATT&CK sub-techniques.

Revision r0002, follows r0001.

What 1.0.0 has no room for, and the whole list of `mitre_attack` where it has sub-techniques, travels in a corner of
`provenance` (`findings_orm.migrations.corners`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

from findings_orm.migrations.corners import Corner
from findings_orm.migrations.rewriting import JSON, KEPT, LIST, NUMBER, TEXT, Rows, refuse_sql_on_sqlite

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None

finding_schema_version = "1.1.0"
work = "writes each row of the table findings once"

BEFORE = "1.0.0"
VERSION = "finding_schema_version"
DEFAULTS: dict[str, Any] = {
    "status": "open",
    "rule_id": None,
    "fingerprint": None,
    "location": None,
    "confidence": None,
    "tags": [],
}
AFTER = {"run_id": ("status", "rule_id", "fingerprint", "location", "confidence"), "mitre_attack": ("tags",)}
"""Where the new fields stand: after which one."""
STATUSES = ("open", "triaged", "in_progress", "resolved", "false_positive", "risk_accepted", "archived")
TECHNIQUE = re.compile(r"T[0-9]{4}(\.[0-9]{3})?")
MEMBERS = ("path", "start_line", "end_line", "snippet")
MAX_NUMBER = 2**31 - 1

Document = dict[str, Any]


# -- documents ----------------------------------------------------------------------------------------------------


def upgrade_document(document: Document) -> Document:
    """Return a document of 1.0.0 as one of 1.1.0; what was put aside on the way down comes back."""
    return CORNER.open(document)


def downgrade_document(document: Document) -> Document:
    """Return a document of 1.1.0 as one of 1.0.0; what that has no room for is put aside in `provenance`."""
    return CORNER.close(document)


def _widen_document(document: Document) -> Document:
    new = {name: value for name, value in {**DEFAULTS, "tags": []}.items() if name not in document}
    changed: Document = {}
    for name, value in document.items():
        changed[name] = value
        changed |= {each: new[each] for each in AFTER.get(name, ()) if each in new}
    return {
        **changed,
        **{name: value for name, value in new.items() if name not in changed},
        VERSION: finding_schema_version,
    }


def _narrow_document(document: Document) -> Document:
    changed = {name: value for name, value in document.items() if name not in DEFAULTS}
    techniques = [str(one) for one in document.get("mitre_attack", ())]
    if any("." in technique for technique in techniques):
        changed["mitre_attack"] = list(dict.fromkeys(one.partition(".")[0] for one in techniques))
    return {**changed, VERSION: BEFORE}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\x00" not in value


def _is_name(value: object) -> bool:
    return _is_text(value) and value != ""


def _allow_none(is_valid: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_valid(value)


def _is_line(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_NUMBER


def _is_location(value: object) -> bool:
    if not isinstance(value, dict) or not value.keys() <= set(MEMBERS):
        return False
    texts = (value.get("path"), value.get("snippet"))
    start, end = value.get("start_line"), value.get("end_line")
    if not all(text is None or _is_text(text) for text in texts):
        return False
    if not all(line is None or _is_line(line) for line in (start, end)):
        return False
    return end is None or (start is not None and bool(start <= end))


def _is_confidence(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100


def _are_tags(value: object) -> bool:
    return isinstance(value, list) and all(_is_name(tag) and len(tag) <= 64 for tag in value)


def _are_techniques(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and TECHNIQUE.fullmatch(one) for one in value)


CORNER = Corner(
    finding_schema_version,
    away=_narrow_document,
    home=_widen_document,
    fields={
        "status": lambda value: isinstance(value, str) and value in STATUSES,
        "rule_id": _allow_none(_is_name),
        "fingerprint": _allow_none(_is_name),
        "location": _allow_none(_is_location),
        "confidence": _allow_none(_is_confidence),
        "tags": _are_tags,
        "mitre_attack": _are_techniques,
    },
)


# -- tables -------------------------------------------------------------------------------------------------------

TYPES = {
    "postgresql": {"text": 'TEXT COLLATE "C"', "json": "JSON", "list": "JSONB", "number": "DOUBLE PRECISION"},
    "sqlite": {"text": "TEXT", "json": "TEXT", "list": "TEXT", "number": "DOUBLE"},
}
COLUMNS = (
    f"status {{text}} DEFAULT 'open' NOT NULL CONSTRAINT ck_findings_status CHECK (status IN {STATUSES})",
    "rule_id {text}",
    "fingerprint {text}",
    "location {json}",
    "confidence {number} CONSTRAINT ck_findings_confidence CHECK (confidence BETWEEN 0 AND 100)",
    "tags {list} DEFAULT '[]' NOT NULL",
)
ROWS = Rows(
    revision,
    BEFORE,
    CORNER,
    {
        "status": TEXT,
        "rule_id": TEXT,
        "fingerprint": TEXT,
        "location": JSON,
        "confidence": NUMBER,
        "tags": LIST,
        "mitre_attack": LIST,
        "provenance": JSON,
    },
)
NEEDED = (
    "status <> 'open' OR rule_id IS NOT NULL OR fingerprint IS NOT NULL OR location IS NOT NULL "
    "OR confidence IS NOT NULL OR tags <> '[]' OR CAST(mitre_attack AS TEXT) LIKE '%.%'"
)
OF_FINDING = "i.project_id = {0}.project_id AND i.finding_id = {0}."


def upgrade() -> None:
    """Add the columns, and fill them from the corners that a downgrade left."""
    types = TYPES[op.get_context().dialect.name]
    columns = [f"ADD COLUMN {column.format_map(types)}" for column in COLUMNS]
    if op.get_context().dialect.name == "postgresql":
        columns = [", ".join(columns)]
    for column in columns:
        op.execute(f"ALTER TABLE findings {column}")
    ROWS.open_corners(
        ("mitre_attack", "provenance"),
        (*DEFAULTS, "mitre_attack", "provenance", VERSION),
        canonical=lambda document: {**document, "location": _order_members(document["location"])},
    )
    _take_over_closings()
    ROWS.end_keeping()
    _set_version(finding_schema_version)
    op.drop_index(op.f("ix_findings_project_id_severity"), "findings")
    op.create_index(
        op.f("ix_findings_project_id_severity_status"), "findings", ["project_id", "severity", "status"]
    )


def downgrade() -> None:
    """Put what 1.0.0 has no room for into the corners, and drop the columns."""
    refuse_sql_on_sqlite(revision)
    ROWS.begin_keeping()
    ROWS.close_corners(
        (*DEFAULTS, "mitre_attack", "provenance"), ("mitre_attack", "provenance", VERSION), NEEDED
    )
    op.execute(
        f"UPDATE {KEPT} SET closed_as = i.closed_as FROM finding_identities i "  # noqa: S608  # constants
        f"WHERE i.closed_at IS NOT NULL AND {OF_FINDING.format(KEPT)}finding_id AND {KEPT}.version = '{finding_schema_version}'"
    )
    _set_version(BEFORE)
    op.drop_index(op.f("ix_findings_project_id_severity_status"), "findings")
    # SQLite drops a column without rebuilding the table, so no child row is touched.
    for column in reversed(DEFAULTS):
        op.drop_column("findings", column)
    op.create_index(op.f("ix_findings_project_id_severity"), "findings", ["project_id", "severity"])


def _set_version(version: str) -> None:
    op.execute(f"UPDATE findings SET {VERSION} = '{version}' WHERE {VERSION} <> '{version}'")  # noqa: S608  # constants


def _order_members(location: Any) -> Any:
    return location and {member: location[member] for member in MEMBERS if member in location}


def _take_over_closings() -> None:
    """Give findings that were closed or reopened at 1.0.0 the status that follows; it has no other one."""
    here = OF_FINDING.format("findings") + "id"
    op.execute(
        f"UPDATE findings SET status = i.closed_as FROM finding_identities i "  # noqa: S608  # constants
        f"WHERE i.closed_at IS NOT NULL AND {here} AND i.closed_as <> status AND i.closed_as IN {STATUSES}"
    )
    if not op.get_context().as_sql and sa.inspect(op.get_bind()).has_table(KEPT):
        op.execute(
            f"UPDATE findings SET status = 'open' FROM {KEPT} k JOIN finding_identities i "  # noqa: S608  # constants
            "ON i.project_id = k.project_id AND i.finding_id = k.finding_id AND i.closed_at IS NULL "
            "WHERE k.project_id = findings.project_id AND k.finding_id = findings.id "
            f"AND k.version = '{finding_schema_version}' AND k.closed_as = status"
        )
