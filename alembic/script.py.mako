"""${message}.

Revision ${up_revision}, follows ${down_revision | comma,n}.

What the version before has no room for travels in a corner of `provenance`, under the key ``findings_orm``::

    {"version": "X.Y.Z", "fields": {"the_field": ...}, "absent": [...], "original": ...}

`absent` are fields that a partial document did not have, `original` is what the document itself had under that key. A
corner is taken for one of ours only if `downgrade_document` would have written exactly it; anything else there is the
user's and is left alone. So each of the two functions undoes the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
${imports if imports else ""}
revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

# This is a whole revision for one new field that may be missing. Change these lines, and `is_valid`. For another change
# write the functions anew, keeping what they promise. A revision that changes tables only has none of this.
finding_schema_version = "X.Y.Z"
BEFORE = "X.Y.Z"
FIELD = "the_field"
TYPE = sa.Text()
work = "writes the version of each row"

CORNER = "findings_orm"
BATCH = 1000

Document = dict[str, Any]


def is_valid(value: object) -> bool:
    """Tell whether the field can have this value."""
    return value is None or isinstance(value, str)


# -- documents ----------------------------------------------------------------------------------------------------


def upgrade_document(document: Document) -> Document:
    """Return a document of the version before as one of this; what was put aside on the way down comes back."""
    opened = _opened(document)
    if opened is not None:
        return opened
    return {**document, "finding_schema_version": finding_schema_version, FIELD: None}


def downgrade_document(document: Document) -> Document:
    """Return a document in the version before; what that has no room for is put aside in `provenance`."""
    plain = {name: value for name, value in document.items() if name != FIELD}
    plain["finding_schema_version"] = BEFORE
    fields = {FIELD: document[FIELD]} if document.get(FIELD) is not None else {}
    absent = [name for name in (FIELD, "provenance") if name not in document]
    if not fields and FIELD in document and _opened(plain) is None:
        return plain
    provenance = document.get("provenance", {})
    corner: Document = {"version": finding_schema_version, "fields": fields}
    if absent:
        corner["absent"] = absent
    if CORNER in provenance:
        corner["original"] = provenance[CORNER]
    return {**plain, "provenance": {**provenance, CORNER: corner}}


def _opened(document: Document) -> Document | None:
    """Return the document that `downgrade_document` made this one of, or None if it did not make it."""
    provenance = document.get("provenance")
    corner = provenance.get(CORNER) if isinstance(provenance, dict) else None
    if not isinstance(provenance, dict) or not isinstance(corner, dict):
        return None
    fields, absent = corner.get("fields"), corner.get("absent", [])
    if corner.get("version") != finding_schema_version:
        return None
    if not isinstance(fields, dict) or not fields.keys() <= {FIELD}:
        return None
    if absent not in ([], [FIELD], ["provenance"], [FIELD, "provenance"]) or not is_valid(fields.get(FIELD)):
        return None
    before = {name: value for name, value in provenance.items() if name != CORNER or "original" in corner}
    if "original" in corner:
        before[CORNER] = corner["original"]
    opened = {**document, "finding_schema_version": finding_schema_version, "provenance": before, FIELD: None}
    opened |= fields
    for name in absent:
        del opened[name]
    again = downgrade_document(opened)
    return opened if json.dumps(again["provenance"]) == json.dumps(provenance) else None


# -- tables -------------------------------------------------------------------------------------------------------

JSON = sa.Text().with_variant(postgresql.JSON(), "postgresql")
UUID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
FINDINGS = sa.table(
    "findings",
    sa.column("project_id", sa.Text()),
    sa.column("id", UUID),
    sa.column("finding_schema_version", sa.Text()),
    sa.column("provenance", JSON),
    sa.column(FIELD, TYPE),
)

# A row may have a corner if its text holds the key, or an escape that could spell it.
MAY_HAVE_CORNER = sa.text(
    "(CAST(provenance AS TEXT) LIKE '%\"findings!_orm\"%' ESCAPE '!' "
    "OR CAST(provenance AS TEXT) LIKE '%\\u00%' ESCAPE '!')"
)


def upgrade() -> None:
    """Add the column, and open the corners that a downgrade left."""
    op.add_column("findings", sa.Column(FIELD, TYPE, nullable=True))
    _convert(MAY_HAVE_CORNER, _upgraded)
    op.execute(sa.update(FINDINGS).values(finding_schema_version=finding_schema_version))


def downgrade() -> None:
    """Put the field into corners, and drop the column."""
    _convert(sa.or_(FINDINGS.c[FIELD].is_not(None), MAY_HAVE_CORNER), downgrade_document)
    op.drop_column("findings", FIELD)
    op.execute(sa.update(FINDINGS).values(finding_schema_version=BEFORE))


def _upgraded(row: Document) -> Document:
    return {"provenance": {}, **upgrade_document({"provenance": row["provenance"]})}


def _convert(needed: Any, change: Callable[[Document], Document]) -> None:
    """Write what `change` makes of the rows that need Python."""
    if op.get_context().as_sql:
        _guard(needed)
        return
    table = FINDINGS.c
    the_id = sa.cast(sa.bindparam("the_id", type_=sa.Text()), UUID)
    statement = sa.update(FINDINGS).where(table.project_id == sa.bindparam("the_project"), table.id == the_id)
    values = {"provenance": sa.cast(sa.bindparam("new", type_=sa.Text()), JSON), FIELD: sa.bindparam("value")}
    for rows in _batches(needed):
        changes = []
        for row in rows:
            changed = change({FIELD: row[FIELD], "provenance": json.loads(row["provenance"])})
            new = json.dumps(changed["provenance"], ensure_ascii=False, separators=(",", ":"))
            key = {"the_project": row["project_id"], "the_id": row["id"]}
            changes.append({**key, "new": new, "value": changed.get(FIELD)})
        if changes:
            op.get_bind().execute(statement.values(values), changes)


def _batches(needed: Any) -> Iterator[list[Any]]:
    """Yield the rows that need Python, a batch of the primary key at a time: memory does not grow with the table.

    The condition is not in the WHERE, where PostgreSQL would rather sort the whole table than walk the key.
    """
    key = (FINDINGS.c.project_id, FINDINGS.c.id)
    the_project = sa.bindparam("the_project", type_=sa.Text())
    the_id = sa.cast(sa.bindparam("the_id", type_=sa.Text()), UUID)
    text = sa.cast(FINDINGS.c.provenance, sa.Text()).label("provenance")
    chosen = sa.case((needed, 1), else_=0).label("needed")
    select = (
        sa.select(key[0], sa.cast(key[1], sa.Text()).label("id"), FINDINGS.c[FIELD], text, chosen)
        .where(key[0] >= the_project, sa.tuple_(*key) > sa.tuple_(the_project, the_id))
        .order_by(*key)
        .limit(BATCH)
    )
    last = {"the_project": "", "the_id": "00000000-0000-0000-0000-000000000000"}
    while True:
        rows = list(op.get_bind().execute(select, last).mappings())
        yield [row for row in rows if row["needed"]]
        if len(rows) < BATCH:
            return
        last = {"the_project": rows[-1]["project_id"], "the_id": rows[-1]["id"]}


def _guard(needed: Any) -> None:
    """Write SQL that fails where there are rows that need Python."""
    context = op.get_context()
    problem = f"findings hold values that only an online run of revision {revision} can move"
    context.impl.static_output(f"-- The next statement fails if {problem}. Use the database itself then.")
    found = sa.select(sa.func.count()).select_from(FINDINGS).where(needed)
    if context.dialect.name == "postgresql":
        text = found.compile(dialect=context.dialect, compile_kwargs={"literal_binds": True})
        op.execute(f"DO $$ BEGIN IF ({text}) > 0 THEN RAISE EXCEPTION '{problem}'; END IF; END $$")
        return
    check = f'found INTEGER CONSTRAINT "{problem}" CHECK (found = 0)'
    op.execute(f"CREATE TEMPORARY TABLE findings_orm_guard ({check})")
    guard = sa.table("findings_orm_guard", sa.column("found"))
    op.execute(sa.insert(guard).from_select(["found"], found))
    op.execute("DROP TABLE findings_orm_guard")
