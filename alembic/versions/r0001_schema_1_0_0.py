"""Make the tables of schema 1.0.0, which replaced the flat documents of 0.3.0.

Revision r0001, the first. No database held documents of 0.3.0: they were files, one bare JSON array a project.

On the way up each legacy field gets its place, or stays in `evidence` under its own name. It is placed in a document of
2.0.0, since 0.3.0 says things that 1.0.0 has no room for (a status, tags, a confidence, the year of a category); the document
functions of the revisions in between carry these through 1.0.0. What the new form does not say (``"CWE-079"`` for 79, the text
behind a category, an epoch, the order of the fields) is kept in a corner of `provenance`; on the way down, where 0.3.0 has no
room, likewise.

A time without an offset is not placed: nobody knows which moment it was. Nor is a placeholder for a CVE, nor a confidence that
may be a share as well as a percentage. A `status` that is a number is that of HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from findings_orm.migrations.corners import Corner, exchange_corners, is_same_json
from findings_orm.migrations.rewriting import KEPT
from findings_orm.migrations.scripts import document_changes

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None

finding_schema_version = "1.0.0"
legacy_schema_version = "0.3.0"

PLACED_VERSION = "2.0.0"
"""The schema version that the values of 0.3.0 are placed in."""

DEFAULTS: dict[str, Any] = {
    "resource": "",
    "run_id": None,
    "status": "open",
    "rule_id": None,
    "fingerprint": None,
    "location": None,
    "confidence": None,
    "cwe_ids": [],
    "owasp": [],
    "cve_ids": [],
    "cvss": None,
    "mitre_attack": [],
    "tags": [],
    "poc_links": [],
    "evidence": {},
    "provenance": {},
}
FIELDS = (
    *(
        "finding_schema_version",
        "id",
        "project_id",
        "detector_id",
        "title",
        "severity",
        "resource",
        "created_at",
    ),
    *(name for name in DEFAULTS if name != "resource"),
)
STATUSES = {
    "open": "open",
    "accepted_risk": "risk_accepted",
    "false_positive": "false_positive",
    "fixed": "resolved",
    "triaged": "triaged",
    "in_progress": "in_progress",
    "archived": "archived",
}
"""The words of 0.3.0 for statuses; the last three are those of today, which it had no word for."""
WORDS = {status: word for word, status in STATUSES.items()}
LATER = ("status", "rule_id", "fingerprint", "location", "confidence", "tags")
"""Fields that 1.0.0 does not have."""
ACTIVE = ("open", "triaged", "in_progress")
TRIAGE = ("status", "owner", "tags", "notes", "suppress")
"""The members of a triage, in their order."""
SEVERITIES = ("info", "low", "medium", "high", "critical")
MAX_NUMBER = 2**31 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UUID_FORM = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,6})?\d*(Z|z|[+-]\d\d:\d\d)", re.ASCII)
CWE = re.compile(r"cwe[-_: ]*0*(\d{1,10})(?!\d).*|0*(\d{1,10})", re.ASCII | re.IGNORECASE | re.DOTALL)
CVE = re.compile(r"CVE-(\d{4})-(\d{4,})", re.ASCII)
CATEGORY = re.compile(r"A(\d{1,2})(?:(:\d{4})(?![A-Za-z0-9])|(?![A-Za-z0-9])).*", re.ASCII | re.DOTALL)
TECHNIQUE = re.compile(r"T\d{4}(\.\d{3})?", re.ASCII)
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")

Document = dict[str, Any]
Places = dict[str, tuple[str, Callable[[object], Any]]]

# -- documents ----------------------------------------------------------------------------------------------------


def upgrade_document(document: Document) -> Document:
    """Return a flat document of 0.3.0 as one of 1.0.0; what was put aside on the way down comes back."""
    early = EARLY.take_up_corner(document)
    if early is not None and _is_flat_of(early, document):
        return early
    return _carry_down(exchange_corners(document, NEWER, OLDER))


def downgrade_document(document: Document) -> Document:
    """Return a document of 1.0.0 as a flat one of 0.3.0; what that has no room for is put aside in `provenance`."""
    return exchange_corners(_carry_up(document), OLDER, NEWER)


BETWEEN = ("r0002", "r0004")
"""The revisions that change documents of 1.0.0 to those of `PLACED_VERSION`."""


def _carry_up(document: Document) -> Document:
    """Return a document of 1.0.0 as one of `PLACED_VERSION`."""
    for revision_between in BETWEEN:
        document = document_changes(revision_between)[0](document)
    return document


def _carry_down(placed: Document) -> Document:
    """Return a document of `PLACED_VERSION` as one of 1.0.0."""
    for revision_between in reversed(BETWEEN):
        placed = document_changes(revision_between)[1](placed)
    return placed


def _comes_back(placed: Document) -> bool:
    """Tell whether a document of `PLACED_VERSION` comes back from 1.0.0: one with values that are not valid does not."""
    return is_same_json(_carry_up(_carry_down(placed)), placed)


def _place_document(flat: Document) -> Document:
    """Return the document of `PLACED_VERSION` for a flat one, without a corner."""
    placed, triage = _place_triage(flat)
    return _place_values(PLACES, flat, placed, triage)


def _place_values(places: Places, flat: Document, placed: Document, triage: object) -> Document:
    """Return the document for a flat one of which something is placed already; `triage` is what is left of that member."""
    rest = dict(flat)
    for old, (new, place) in places.items():
        found = place(flat.get(old))
        if found is not None and placed.setdefault(new, found) == found:
            del rest[old]
    if triage is not None:
        rest["triage"] = triage
    if rest.get("triage") == {}:
        del rest["triage"]
    rest.pop("finding_schema_version", None)
    own = rest.pop("evidence", None)
    rest = {name: rest[name] for name in sorted(rest, key=str)}
    if isinstance(own, dict):
        rest = {**own, **rest}
    elif own is not None:
        rest["evidence"] = own
    placed["evidence"] = rest
    for name in ("subcategory", "detector_id"):
        if "title" not in placed and isinstance(flat.get(name), str) and flat[name]:
            placed["title"] = flat[name]
    if "severity" not in placed and "severity" in flat:
        placed["severity"] = flat["severity"]  # it is refused, by name
    placed = {**DEFAULTS, **_fresh_defaults(), **placed, "finding_schema_version": PLACED_VERSION}
    return {name: placed[name] for name in FIELDS if name in placed}


def _place_triage(flat: Document) -> tuple[Document, object]:
    """Return what the triage of a flat document says, and what is left of it.

    It has the last word: a status beside it is that of an earlier day. `suppress` closes a finding that no status has closed.
    """
    triage = flat.get("triage")
    if not isinstance(triage, dict):
        return {}, triage
    placed: Document = {}
    rest = dict(triage)
    for name, place in (("status", _parse_status), ("tags", _parse_tags)):
        found = place(triage.get(name))
        if found is not None:
            placed[name] = found
            del rest[name]
    suppress = triage.get("suppress")
    status = placed.get("status") or _parse_status(flat.get("status")) or "open"
    if suppress is True and status in ACTIVE:
        placed["status"] = "risk_accepted"
    if suppress is False or (suppress is True and status != "resolved"):
        del rest["suppress"]
    return placed, rest


def _fresh_defaults() -> Document:
    return {name: type(default)() for name, default in DEFAULTS.items() if isinstance(default, (dict, list))}


def _flatten_document(document: Document) -> Document:
    """Return the flat document of 0.3.0 for one of `PLACED_VERSION`, without a corner."""
    flat: Document = {}
    triage: Document = {}
    for name, value in document.items():
        old, put = FLATTENED.get(name, (name, None))
        if name in ELSEWHERE or (name in DEFAULTS and value == DEFAULTS[name]):
            continue
        (triage if name in ("status", "tags") else flat)[old] = put(value) if put else value
    evidence = document.get("evidence")
    evidence = dict(evidence) if isinstance(evidence, dict) else {}
    if triage:
        left = evidence.pop("triage", {})
        if not isinstance(left, dict) or not triage.keys().isdisjoint(left):
            return {**flat, "triage": triage, "evidence": document["evidence"]}
        together = {**left, **triage}
        known = {name: together[name] for name in TRIAGE if name in together}
        flat["triage"] = {**known, **together}
    if not evidence:
        return flat
    spread = list(evidence) == sorted(evidence, key=str) and not any(
        _is_taken(name, value, flat) for name, value in evidence.items()
    )
    return {**flat, **evidence} if spread else {**flat, "evidence": evidence}


def _is_taken(name: object, value: object, flat: Document) -> bool:
    """Return whether a member of the evidence would not come back from the top of a flat document."""
    if not isinstance(name, str) or name in flat or name in (*ELSEWHERE, "provenance"):
        return True
    return name in PLACES and PLACES[name][1](value) is not None


# -- the values of 0.3.0: each function returns what 1.0.0 has for it, None for what it can't say -------------------


def _parse_text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _parse_any_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _parse_uuid(value: object) -> str | None:
    return value.lower() if isinstance(value, str) and UUID_FORM.fullmatch(value) else None


def _parse_detector(value: object) -> str | None:
    return value.replace(":", ".") if isinstance(value, str) else None


def _parse_severity(value: object) -> str | None:
    name = value.strip().lower() if isinstance(value, str) else ""
    name = "info" if name == "informational" else name
    return name if name in SEVERITIES else None


def _parse_time(value: object) -> str | None:
    """RFC 3339 with an offset, or the seconds since 1970."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            moment = EPOCH + timedelta(seconds=value)
        else:
            found = INSTANT.fullmatch(value) if isinstance(value, str) else None
            if not found:
                return None
            date, clock, fraction, offset = found.groups()
            moment = datetime.fromisoformat(
                f"{date}T{clock}{(fraction or '.').ljust(7, '0')}{offset.upper()}"
            ).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment.isoformat(timespec="microseconds" if moment.microsecond else "seconds")[:-6] + "Z"


def _parse_cwe(value: object) -> int | None:
    if isinstance(value, str):
        found = CWE.fullmatch(value.strip())
        value = int(found[1] or found[2]) if found else None
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 1 <= value <= MAX_NUMBER else None  # type: ignore[operator, return-value]  # an int


def _parse_cves(value: object) -> list[str] | None:
    texts = re.split(r"[,;\s]+", value.upper()) if isinstance(value, str) else value
    if not isinstance(texts, list):
        return None
    found = [CVE.fullmatch(text.upper()) for text in texts if isinstance(text, str)]
    real = [one[0] for one in found if one and int(one[1]) >= 1999 and one[2].strip("0")]
    return list(dict.fromkeys(real)) or None


def _parse_cwes(value: object) -> list[int] | None:
    number = _parse_cwe(value)
    return None if number is None else [number]


def _parse_categories(value: object) -> list[str] | None:
    """The category, with its year where the tool said it."""
    found = CATEGORY.fullmatch(value.strip()) if isinstance(value, str) else None
    return [f"A{found[1]:0>2}{found[2] or ''}"] if found and found[1].strip("0") else None


def _parse_status(value: object) -> str | None:
    """The word of 0.3.0, or of today."""
    word = value.strip().lower() if isinstance(value, str) else ""
    return STATUSES.get(word, word if word in STATUSES.values() else None)


def _parse_tags(value: object) -> list[str] | None:
    is_list = isinstance(value, list) and all(
        isinstance(one, str) and 1 <= len(one) <= 64 and "\0" not in one for one in value
    )
    return value if is_list and value else None  # type: ignore[return-value]  # a list of text


def _parse_percentage(value: object) -> float | None:
    """A confidence above 1 and up to 100, or 0; one between may be a share."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and (value == 0 or 1 < value <= 100) else None  # type: ignore[operator, return-value]


def _parse_cvss(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 10:
        return float(value) + 0.0
    return None


def _parse_techniques(value: object) -> list[str] | None:
    return _parse_list(value, TECHNIQUE)


def _parse_uris(value: object) -> list[str] | None:
    return _parse_list(value, URI)


def _parse_list(value: object, form: re.Pattern[str]) -> list[str] | None:
    is_list = isinstance(value, list) and all(isinstance(one, str) and form.fullmatch(one) for one in value)
    return value if is_list and value else None  # type: ignore[return-value]  # a list of text


def _parse_object(value: object) -> Document | None:
    return value if isinstance(value, dict) else None


PLACES: Places = {
    "id": ("id", _parse_uuid),
    "pid": ("project_id", _parse_text),
    "project_id": ("project_id", _parse_text),
    "created_at": ("created_at", _parse_time),
    "ts": ("created_at", _parse_time),
    "title": ("title", _parse_text),
    "severity": ("severity", _parse_severity),
    "detector_id": ("detector_id", _parse_detector),
    "url": ("resource", _parse_any_text),
    "resource": ("resource", _parse_any_text),
    "run_id": ("run_id", _parse_uuid),
    "status": ("status", _parse_status),
    "confidence": ("confidence", _parse_percentage),
    "cwe": ("cwe_ids", _parse_cwes),
    "owasp": ("owasp", _parse_categories),
    "cve_id": ("cve_ids", _parse_cves),
    "cvss": ("cvss", _parse_cvss),
    "mitre_attack": ("mitre_attack", _parse_techniques),
    "tags": ("tags", _parse_tags),
    "poc_links": ("poc_links", _parse_uris),
    "provenance": ("provenance", _parse_object),
}
"""Names of 0.3.0: where they are placed, and how. Of several with one place the first that can be placed has it; another stays
in `evidence` if it says something else."""


def _join_texts(value: object) -> object:
    return (
        ", ".join(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else value
    )


FLATTENED: dict[
    str, tuple[str, Callable[[Any], Any] | None]
] = {  # a corner that somebody else wrote may hold anything
    "project_id": ("pid", None),
    "created_at": ("ts", None),
    "resource": ("url", None),
    "detector_id": (
        "detector_id",
        lambda value: value.replace(".", ":") if isinstance(value, str) else value,
    ),
    "status": ("status", lambda value: WORDS.get(value, value) if isinstance(value, str) else value),
    "cwe_ids": ("cwe", lambda value: f"CWE-{value[0]}" if value and isinstance(value, list) else value),
    "owasp": ("owasp", lambda value: value[0] if value and isinstance(value, list) else value),
    "cve_ids": ("cve_id", _join_texts),
}
ELSEWHERE = ("finding_schema_version", "rule_id", "fingerprint", "location", "evidence")
"""Fields that 0.3.0 has no name for, or no value."""


# -- early releases placed in a document of 1.0.0, and had no place for some names ------------------------------------

EARLY_PLACES = {
    name: place
    for name, place in PLACES.items()
    if name not in ("project_id", "created_at", "resource", "status", "confidence", "tags")
}
LISTS = {"cwe_ids": "cwe", "owasp": "owasp"}


def _place_early(flat: Document) -> Document:
    """Return the document of 1.0.0 for a flat one that an early release made."""
    placed = _place_values(EARLY_PLACES, flat, {}, flat.get("triage"))
    singles = {old: (placed[new] or [None])[0] for new, old in LISTS.items()}
    older = {name: value for name, value in placed.items() if name not in (*LISTS, *LATER)}
    return {**older, **singles, "finding_schema_version": finding_schema_version}


def _flatten_early(document: Document) -> Document:
    values = ((new, document.get(old)) for new, old in LISTS.items())
    lists = {new: [] if value is None else [value] for new, value in values}
    return _flatten_document(
        {**{name: value for name, value in document.items() if name not in LISTS.values()}, **lists}
    )


def _is_flat_of(early: Document, flat: Document) -> bool:
    """Tell whether all values of a flat document are written as an early release wrote them; another's have no way back."""
    shown = _flatten_early(early)
    return all(
        shown[name] == flat.get(name) for name in EARLY_PLACES if name in shown and name != "provenance"
    )


def _checks_of_kinds(kinds: dict[str, tuple[type, ...]]) -> dict[str, Callable[[object], bool]]:
    """Return for each field, by its default, what a corner may hold."""

    def is_of(kind: tuple[type, ...]) -> Callable[[object], bool]:
        return lambda value: isinstance(value, kind)

    return {name: is_of(kind) for name, kind in kinds.items()}


KINDS: dict[str, tuple[type, ...]] = {
    name: (object,) if DEFAULTS.get(name) is None else (type(DEFAULTS[name]),)
    for name in sorted(FIELDS)
    if name != "finding_schema_version"
}
EARLY_KINDS = {name: kind for name, kind in KINDS.items() if name not in (*LISTS, *LATER)}
EARLY = Corner(
    finding_schema_version,
    away=_flatten_early,
    home=_place_early,
    fields=_checks_of_kinds({**EARLY_KINDS, "cwe": (int, type(None)), "owasp": (str, type(None))}),
)
NEWER = Corner(
    PLACED_VERSION,
    away=_flatten_document,
    home=_place_document,
    fields=_checks_of_kinds(KINDS),
    is_valid=_comes_back,
)
OLDER = Corner(legacy_schema_version, away=_place_document, home=_flatten_document, innermost=True)


# -- tables -------------------------------------------------------------------------------------------------------

# Compared and sorted by code point on every database.
SORTED = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
UUID = sa.String(36).with_variant(postgresql.UUID(), "postgresql")
TIME = sa.String(27).with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
# The text as it was written: order of keys, 1.0, large integers, NUL.
JSON = sa.Text().with_variant(postgresql.JSON(), "postgresql")
LIST = sa.Text().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "finding_projects",
        sa.Column("project_id", SORTED, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_finding_projects")),
        sa.CheckConstraint(
            "length(project_id) BETWEEN 1 AND 255", name=op.f("ck_finding_projects_project_id")
        ),
    )
    _create_findings()
    _create_identities()
    op.create_table(
        "finding_sightings",
        sa.Column("project_id", SORTED, nullable=False),
        sa.Column("finding_id", UUID, nullable=False),
        sa.Column("first_run", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_run", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "finding_id", "first_run", name=op.f("pk_finding_sightings")),
        _reference_to_finding("finding_sightings"),
    )
    op.create_table(
        "finding_runs",
        sa.Column("project_id", SORTED, nullable=False),
        sa.Column("run_id", UUID, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("detectors", LIST, nullable=False),
        sa.Column("tool", JSON, nullable=False),
        sa.Column("counts", JSON, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "run_id", name=op.f("pk_finding_runs")),
        _reference_to_project("finding_runs"),
    )
    op.create_index(
        op.f("uq_finding_runs_project_id_number"), "finding_runs", ["project_id", "number"], unique=True
    )
    op.create_table(
        "finding_events",
        sa.Column("project_id", SORTED, nullable=False),
        sa.Column("finding_id", UUID, nullable=False),
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("changes", JSON, nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("run_id", UUID, nullable=True),
        sa.PrimaryKeyConstraint(
            "project_id", "finding_id", "revision", "position", name=op.f("pk_finding_events")
        ),
        _reference_to_project("finding_events"),
        sa.CheckConstraint(
            "kind IN ('status', 'change', 'comment', 'purge')", name=op.f("ck_finding_events_kind")
        ),
    )
    op.create_table(
        "finding_rejected",
        sa.Column("project_id", SORTED, nullable=False),
        sa.Column("rejected_id", UUID, nullable=False),
        sa.Column("run_id", UUID, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("original", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "rejected_id", name=op.f("pk_finding_rejected")),
        _reference_to_project("finding_rejected"),
    )


def downgrade() -> None:
    """Drop the tables with everything in them, and what other revisions have kept beside them."""
    op.execute(f"DROP TABLE IF EXISTS {KEPT}")
    for table in (
        "finding_rejected",
        "finding_events",
        "finding_runs",
        "finding_sightings",
        "finding_identities",
        "findings",
        "finding_projects",
    ):
        op.drop_table(table)


def _reference_to_project(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["project_id"],
        ["finding_projects.project_id"],
        name=op.f(f"fk_{table}_finding_projects"),
        ondelete="CASCADE",
    )


def _reference_to_finding(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["project_id", "finding_id"],
        ["findings.project_id", "findings.id"],
        name=op.f(f"fk_{table}_findings"),
        ondelete="CASCADE",
    )


def _create_findings() -> None:
    op.create_table(
        "findings",
        sa.Column("project_id", SORTED, nullable=False),
        sa.Column("id", UUID, nullable=False),
        sa.Column("finding_schema_version", sa.Text(), nullable=False),
        sa.Column("detector_id", SORTED, nullable=False),
        sa.Column("title", SORTED, nullable=False),
        sa.Column("severity", SORTED, nullable=False),
        sa.Column("resource", SORTED, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("run_id", UUID, nullable=True),
        sa.Column("cwe", sa.Integer(), nullable=True),
        sa.Column("owasp", sa.Text(), nullable=True),
        sa.Column("cve_ids", LIST, nullable=False),
        sa.Column("cvss", sa.Double(), nullable=True),
        sa.Column("mitre_attack", LIST, nullable=False),
        sa.Column("poc_links", LIST, nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.Column("provenance", JSON, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "id", name=op.f("pk_findings")),
        _reference_to_project("findings"),
        sa.CheckConstraint("length(title) >= 1", name=op.f("ck_findings_title")),
        sa.CheckConstraint("length(detector_id) >= 1", name=op.f("ck_findings_detector_id")),
        sa.CheckConstraint(
            "severity IN ('info', 'low', 'medium', 'high', 'critical')", name=op.f("ck_findings_severity")
        ),
        sa.CheckConstraint("cwe >= 1", name=op.f("ck_findings_cwe")),
        sa.CheckConstraint("cvss BETWEEN 0 AND 10", name=op.f("ck_findings_cvss")),
    )
    op.create_index(
        op.f("ix_findings_project_id_created_at_id"), "findings", ["project_id", "created_at", "id"]
    )
    op.create_index(op.f("ix_findings_project_id_severity"), "findings", ["project_id", "severity"])


def _create_identities() -> None:
    op.create_table(
        "finding_identities",
        sa.Column("project_id", SORTED, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("ordinal", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("finding_id", UUID, nullable=False),
        sa.Column("fingerprint_version", sa.SmallInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("reported", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=True),
        sa.Column("first_seen", TIME, nullable=False),
        sa.Column("last_seen", TIME, nullable=False),
        sa.Column("first_run", sa.BigInteger(), nullable=False),
        sa.Column("last_run", sa.BigInteger(), nullable=False),
        sa.Column("closed_as", sa.Text(), nullable=True),
        sa.Column("closed_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("project_id", "fingerprint", "ordinal", name=op.f("pk_finding_identities")),
        _reference_to_finding("finding_identities"),
    )
    op.create_index(
        op.f("uq_finding_identities_project_id_finding_id"),
        "finding_identities",
        ["project_id", "finding_id"],
        unique=True,
    )
    op.create_index(
        op.f("ix_finding_identities_closed"),
        "finding_identities",
        ["project_id", "closed_at", "finding_id"],
        sqlite_where=sa.text("closed_at IS NOT NULL"),
        postgresql_where=sa.text("closed_at IS NOT NULL"),
    )
