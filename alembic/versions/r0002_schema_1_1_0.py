"""Schema 1.1.0: status, rule, fingerprint, location, confidence and tags; MITRE ATT&CK sub-techniques.

Revision r0002, follows r0001.

What 1.0.0 has no room for travels in a corner of `provenance`, under the key ``findings_orm``::

    {"version": "1.1.0", "fields": {"rule_id": "B608"}, "absent": ["tags"], "original": ...}

`fields` holds the values that are not the default (and the list of `mitre_attack`, if it has sub-techniques), `absent`
the fields that a partial document did not have, `original` what the document itself had under that key. A corner is
taken for one of ours only if `downgrade_document` would have written exactly it; anything else there is the user's
and is left alone. So each of the two functions undoes the other, whatever a document holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None

finding_schema_version = "1.1.0"
work = "writes each row of the table findings once"

BEFORE = "1.0.0"
CORNER = "findings_orm"
DEFAULTS: dict[str, Any] = {
    "status": "open",
    "rule_id": None,
    "fingerprint": None,
    "location": None,
    "confidence": None,
    "tags": [],
}
STATUSES = ("open", "triaged", "in_progress", "resolved", "false_positive", "risk_accepted", "archived")
TECHNIQUE = re.compile(r"T[0-9]{4}(\.[0-9]{3})?")
MEMBERS = ("path", "start_line", "end_line", "snippet")
MAX_NUMBER = 2**31 - 1
BATCH = 1000

Document = dict[str, Any]


# -- documents ----------------------------------------------------------------------------------------------------


def upgrade_document(document: Document) -> Document:
    """Return a document of 1.0.0 as one of 1.1.0; what was put aside on the way down comes back."""
    opened = _opened(document)
    if opened is not None:
        return opened
    return {**_defaults(), **document, "finding_schema_version": finding_schema_version}


def downgrade_document(document: Document) -> Document:
    """Return a document of 1.1.0 as one of 1.0.0; what that has no room for is put aside in `provenance`."""
    plain = {name: value for name, value in document.items() if name not in DEFAULTS}
    plain["finding_schema_version"] = BEFORE
    fields = {
        name: document[name]
        for name, default in DEFAULTS.items()
        if name in document and document[name] != default
    }
    techniques = document.get("mitre_attack")
    if techniques and any("." in technique for technique in techniques):
        fields["mitre_attack"] = techniques
        plain["mitre_attack"] = _parents(techniques)
    absent = [name for name in DEFAULTS if name not in document]
    if fields or absent or _opened(plain) is not None:
        plain["provenance"] = _wrapped(plain.get("provenance"), fields, absent)
    return plain


def _defaults() -> Document:
    return {**DEFAULTS, "tags": []}


def _parents(techniques: list[str]) -> list[str]:
    return list(dict.fromkeys(technique.partition(".")[0] for technique in techniques))


def _wrapped(provenance: Document | None, fields: Document, absent: list[str]) -> Document:
    corner: Document = {"version": finding_schema_version, "fields": fields}
    if provenance is None:
        absent = [*absent, "provenance"]
    if absent:
        corner["absent"] = absent
    if provenance is not None and CORNER in provenance:
        corner["original"] = provenance[CORNER]
    return {**(provenance or {}), CORNER: corner}


def _opened(document: Document) -> Document | None:
    """Return the document of 1.1.0 that `downgrade_document` made this one of, or None if it did not make it."""
    provenance = document.get("provenance")
    corner = provenance.get(CORNER) if isinstance(provenance, dict) else None
    if not isinstance(provenance, dict) or not isinstance(corner, dict):
        return None
    fields, absent = corner.get("fields"), corner.get("absent", [])
    if not isinstance(fields, dict) or not isinstance(absent, list):
        return None
    if not all(name in _VALID and _VALID[name](value) for name, value in fields.items()):
        return None
    if not _are_techniques(document.get("mitre_attack", [])):
        return None
    before = {name: value for name, value in provenance.items() if name != CORNER or "original" in corner}
    if "original" in corner:
        before[CORNER] = corner["original"]
    kept = {name: default for name, default in _defaults().items() if name not in absent}
    opened = {**document, **kept, **fields, "provenance": before}
    opened["finding_schema_version"] = finding_schema_version
    if "provenance" in absent:
        del opened["provenance"]
    again = downgrade_document(opened)
    return opened if _identical(again, {**document, "finding_schema_version": BEFORE}) else None


def _identical(again: Document, document: Document) -> bool:
    """Tell whether a document came out as it was, down to the order of the keys that make up the corner."""
    if again != document:
        return False
    ours, theirs = again["provenance"], document["provenance"]
    pairs = (
        (ours, theirs),
        (ours[CORNER], theirs[CORNER]),
        (ours[CORNER]["fields"], theirs[CORNER]["fields"]),
    )
    return all(list(a) == list(b) for a, b in pairs)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\x00" not in value


def _is_name(value: object) -> bool:
    return _is_text(value) and value != ""


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


_VALID: dict[str, Callable[[object], bool]] = {
    "status": lambda value: isinstance(value, str) and value in STATUSES,
    "rule_id": _is_name,
    "fingerprint": _is_name,
    "location": _is_location,
    "confidence": _is_confidence,
    "tags": _are_tags,
    "mitre_attack": _are_techniques,
}


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
UUID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
JSON = sa.Text().with_variant(postgresql.JSON(), "postgresql")
LIST = sa.Text().with_variant(postgresql.JSONB(), "postgresql")
FINDINGS = sa.table(
    "findings",
    sa.column("project_id", sa.Text()),
    sa.column("id", UUID),
    sa.column("finding_schema_version", sa.Text()),
    sa.column("status", sa.Text()),
    sa.column("rule_id", sa.Text()),
    sa.column("fingerprint", sa.Text()),
    sa.column("location", JSON),
    sa.column("confidence", sa.Double()),
    sa.column("tags", LIST),
    sa.column("mitre_attack", LIST),
    sa.column("provenance", JSON),
)
VERSION = "finding_schema_version"
AS_JSON = ("location", "tags", "mitre_attack", "provenance")
UP = (*DEFAULTS, "mitre_attack", "provenance")
DOWN = ("mitre_attack", "provenance")

# A row may have a corner if its text holds the key, or an escape that could spell it.
MAY_HAVE_CORNER = (
    "(CAST(provenance AS TEXT) LIKE '%\"findings!_orm\"%' ESCAPE '!' "
    "OR CAST(provenance AS TEXT) LIKE '%\\u00%' ESCAPE '!')"
)
NEEDS_CORNER = (
    "(status <> 'open' OR rule_id IS NOT NULL OR fingerprint IS NOT NULL OR location IS NOT NULL "
    "OR confidence IS NOT NULL OR tags <> '[]' OR CAST(mitre_attack AS TEXT) LIKE '%.%' "
    f"OR {MAY_HAVE_CORNER})"
)


def upgrade() -> None:
    """Add the columns, and fill them from the corners that a downgrade left."""
    types = TYPES[op.get_context().dialect.name]
    columns = [f"ADD COLUMN {column.format_map(types)}" for column in COLUMNS]
    if op.get_context().dialect.name == "postgresql":
        columns = [", ".join(columns)]
    for column in columns:
        op.execute(f"ALTER TABLE findings {column}")
    _convert(upgrade_document, MAY_HAVE_CORNER, DOWN, UP)
    _set_version(finding_schema_version)
    op.drop_index(op.f("ix_findings_project_id_severity"), "findings")
    op.create_index(
        op.f("ix_findings_project_id_severity_status"), "findings", ["project_id", "severity", "status"]
    )


def downgrade() -> None:
    """Put what 1.0.0 has no room for into the corners, and drop the columns."""
    _convert(downgrade_document, NEEDS_CORNER, UP, DOWN)
    _set_version(BEFORE)
    op.drop_index(op.f("ix_findings_project_id_severity_status"), "findings")
    # SQLite drops a column without rebuilding the table, so no child row is touched.
    for column in reversed(DEFAULTS):
        op.drop_column("findings", column)
    op.create_index(op.f("ix_findings_project_id_severity"), "findings", ["project_id", "severity"])


def _set_version(version: str) -> None:
    column = FINDINGS.c.finding_schema_version
    op.execute(sa.update(FINDINGS).where(column != version).values(finding_schema_version=version))


def _convert(
    change: Callable[[Document], Document], where: str, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    """Change the rows that may need it, a batch at a time: `change` is given the columns `before` as a document."""
    if op.get_context().as_sql:
        _guard(where)
        return
    for rows in _batches(where, before):
        changes = []
        for row in rows:
            document = {name: _read(name, row[name]) for name in before}
            changed = {**_defaults(), "provenance": {}, **change(document)}
            if any(changed[name] != document.get(name, DEFAULTS.get(name)) for name in after):
                values = {f"new_{name}": _write(name, changed[name]) for name in (*after, VERSION)}
                changes.append({"the_project": row["project_id"], "the_id": row["id"], **values})
        if changes:
            _update(changes, (*after, VERSION))


def _update(changes: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    text = sa.Text()
    table = FINDINGS.c
    types = {name: text if name in AS_JSON else table[name].type for name in columns}
    if op.get_context().dialect.name == "postgresql":
        # One statement a batch is several times as fast as one a row.
        recordset = sa.func.json_to_recordset(sa.cast(sa.bindparam("changes", type_=text), postgresql.JSON()))
        new = recordset.table_valued(
            sa.column("the_project", text),
            sa.column("the_id", UUID),
            *(sa.column(f"new_{name}", kind) for name, kind in types.items()),
        ).render_derived("new", with_types=True)
        given: Any = new.c
        parameters: Any = {"changes": json.dumps(changes, ensure_ascii=False)}
    else:
        given = {name: sa.bindparam(name, type_=text) for name in ("the_project", "the_id")}
        given |= {f"new_{name}": sa.bindparam(f"new_{name}", type_=kind) for name, kind in types.items()}
        parameters = changes
    values: Any = {
        name: sa.cast(given[f"new_{name}"], table[name].type) if name in AS_JSON else given[f"new_{name}"]
        for name in columns
    }
    this_row = (table.project_id == given["the_project"], table.id == given["the_id"])
    op.get_bind().execute(sa.update(FINDINGS).where(*this_row).values(values), parameters)


def _batches(where: str, columns: tuple[str, ...]) -> Iterator[list[Any]]:
    """Yield the rows that `where` holds for, a batch of the primary key at a time.

    The condition is not in the WHERE, where PostgreSQL would rather sort the whole table than walk the key.
    """
    key = (FINDINGS.c.project_id, FINDINGS.c.id)
    the_project = sa.bindparam("the_project", type_=sa.Text())
    the_id = sa.cast(sa.bindparam("the_id", type_=sa.Text()), UUID)
    batch = (
        sa.select(key[0], _as_text("id"), sa.literal_column(where, sa.Boolean()).label("needed"))
        .add_columns(*(_as_text(name) if name in AS_JSON else FINDINGS.c[name] for name in columns))
        .where(key[0] >= the_project, sa.tuple_(*key) > sa.tuple_(the_project, the_id))
        .order_by(*key)
        .limit(BATCH)
        .subquery("batch")
    )
    needed = batch.c.needed
    values = (sa.case((needed, batch.c[name])).label(name) for name in columns)
    select = sa.select(batch.c.project_id, batch.c.id, needed, *values).order_by(
        batch.c.project_id, batch.c.id
    )
    last = {"the_project": "", "the_id": "00000000-0000-0000-0000-000000000000"}
    while True:
        rows = list(op.get_bind().execute(select, last).mappings())
        yield [row for row in rows if row["needed"]]
        if len(rows) < BATCH:
            return
        last = {"the_project": rows[-1]["project_id"], "the_id": rows[-1]["id"]}


def _as_text(column: str) -> sa.Label[str]:
    return sa.cast(FINDINGS.c[column], sa.Text()).label(column)


def _read(column: str, value: Any) -> Any:
    """Return what a column holds as a document has it in canonical form."""
    if column in AS_JSON and value is not None:
        return json.loads(value)
    if column == "confidence" and value is not None and value == int(value):
        return int(value)
    return value


def _write(column: str, value: Any) -> Any:
    """Return what is stored for a value, in canonical form."""
    if column not in AS_JSON or value is None:
        return value
    if column == "location":
        value = {member: value[member] for member in MEMBERS if member in value}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _guard(where: str) -> None:
    """Write SQL that fails where rows need more than SQL: values that Python moves into or out of corners."""
    context = op.get_context()
    problem = f"findings hold values that only an online run of revision {revision} can move"
    note = (
        f"-- The next statement fails if {problem}. Stop there then, and run alembic on the database itself."
    )
    found = sa.select(sa.func.count()).select_from(FINDINGS).where(sa.text(where))
    if context.dialect.name == "postgresql":
        context.impl.static_output(note)
        op.execute(f"DO $$ BEGIN IF ({found}) > 0 THEN RAISE EXCEPTION '{problem}'; END IF; END $$")
        return
    if where == NEEDS_CORNER:
        # The sqlite3 shell goes on after a failed statement, and would drop columns that hold values.
        raise CommandError(f"on SQLite a downgrade of {revision} needs the database: run it without --sql")
    context.impl.static_output(f"{note} Use sqlite3 -bail.")
    guard = sa.table("findings_orm_guard", sa.column("found"))
    op.execute(
        f'CREATE TEMPORARY TABLE {guard.name} (found INTEGER CONSTRAINT "{problem}" CHECK (found = 0))'
    )
    op.execute(sa.insert(guard).from_select(["found"], found))
    op.execute(f"DROP TABLE {guard.name}")
