"""Schema 2.0.0: several CWE numbers (`cwe` becomes `cwe_ids`), several OWASP categories with their years.

Revision r0004, follows r0003.

What 1.1.0 has no room for (a second CWE number, a second category, a year) travels in a corner of `provenance`, under
the key ``findings_orm``::

    {"version": "2.0.0", "fields": {"cwe_ids": [79, 89], "owasp": ["A03:2021"]}, "absent": [...], "original": ...}

`fields` holds the whole lists, `absent` is there if a partial document had no `provenance`, `original` is what the
document itself had under that key. A corner is taken for one of ours only if `downgrade_document` would have written
exactly it; anything else there is the user's and is left alone. So each of the two functions undoes the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None

finding_schema_version = "2.0.0"
work = "rewrites the table findings once, and its indexes with it"

BEFORE = "1.1.0"
CORNER = "findings_orm"
MAX_NUMBER = 2**31 - 1
CATEGORY = re.compile(r"A[0-9]{2}(:[0-9]{4})?")
BATCH = 1000

Document = dict[str, Any]


# -- documents ----------------------------------------------------------------------------------------------------


def upgrade_document(document: Document) -> Document:
    """Return a document of 1.1.0 as one of 2.0.0; what was put aside on the way down comes back."""
    opened = _opened(document)
    return _wider(document) if opened is None else opened


def downgrade_document(document: Document) -> Document:
    """Return a document of 2.0.0 as one of 1.1.0; what that has no room for is put aside in `provenance`."""
    plain = _narrower(document)
    fields = {name: document[name] for name in ("cwe_ids", "owasp") if _needs_corner(name, document)}
    if fields or _opened(plain) is not None:
        plain["provenance"] = _wrapped(plain.get("provenance"), fields)
    return plain


def _wider(document: Document) -> Document:
    changed: Document = {"finding_schema_version": finding_schema_version}
    for name, value in document.items():
        if name == "cwe":
            changed["cwe_ids"] = [] if value is None else [value]
        elif name == "owasp":
            changed["owasp"] = [] if value is None else [value]
        elif name != "finding_schema_version":
            changed[name] = value
    return changed


def _narrower(document: Document) -> Document:
    changed: Document = {"finding_schema_version": BEFORE}
    for name, value in document.items():
        if name == "cwe_ids":
            changed["cwe"] = value[0] if value else None
        elif name == "owasp":
            changed["owasp"] = value[0].partition(":")[0] if value else None
        elif name != "finding_schema_version":
            changed[name] = value
    return changed


def _needs_corner(name: str, document: Document) -> bool:
    values = document.get(name) or []
    return len(values) > 1 or (name == "owasp" and any(":" in value for value in values))


def _wrapped(provenance: Document | None, fields: Document) -> Document:
    corner: Document = {"version": finding_schema_version, "fields": fields}
    if provenance is None:
        corner["absent"] = ["provenance"]
    elif CORNER in provenance:
        corner["original"] = provenance[CORNER]
    return {**(provenance or {}), CORNER: corner}


def _opened(document: Document) -> Document | None:
    """Return the document of 2.0.0 that `downgrade_document` made this one of, or None if it did not make it."""
    provenance = document.get("provenance")
    corner = provenance.get(CORNER) if isinstance(provenance, dict) else None
    fields = corner.get("fields") if isinstance(corner, dict) else None
    if not isinstance(provenance, dict) or not isinstance(corner, dict) or not isinstance(fields, dict):
        return None
    if not all(name in _VALID and _VALID[name](value) for name, value in fields.items()):
        return None
    before = {name: value for name, value in provenance.items() if name != CORNER or "original" in corner}
    if "original" in corner:
        before[CORNER] = corner["original"]
    opened = {**_wider(document), **fields, "provenance": before}
    if "absent" in corner:
        del opened["provenance"]
    if not all(valid(opened[name]) for name, valid in _VALID.items() if name in opened):
        return None
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


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, int) and not isinstance(one, bool) and 1 <= one <= MAX_NUMBER for one in value
    )


def _are_categories(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and CATEGORY.fullmatch(one) for one in value)


_VALID = {"cwe_ids": _are_numbers, "owasp": _are_categories}


# -- tables -------------------------------------------------------------------------------------------------------

JSON = sa.Text().with_variant(postgresql.JSON(), "postgresql")
LIST = sa.Text().with_variant(postgresql.JSONB(), "postgresql")
UUID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
FINDINGS = sa.table(
    "findings",
    sa.column("project_id", sa.Text()),
    sa.column("id", UUID),
    sa.column("cwe_ids", LIST),
    sa.column("owasp", LIST),
    sa.column("provenance", JSON),
)
COLUMNS = ("cwe_ids", "owasp", "provenance")

# A row may have a corner if its text holds the key, or an escape that could spell it.
MAY_HAVE_CORNER = (
    "(CAST(provenance AS TEXT) LIKE '%\"findings!_orm\"%' ESCAPE '!' "
    "OR CAST(provenance AS TEXT) LIKE '%\\u00%' ESCAPE '!')"
)
NEEDS_CORNER = {
    "cwe_ids": {"postgresql": "jsonb_array_length(cwe_ids) > 1", "sqlite": "json_array_length(cwe_ids) > 1"},
    "owasp": {
        "postgresql": "(jsonb_array_length(owasp) > 1 OR CAST(owasp AS text) LIKE '%:%')",
        "sqlite": "(json_array_length(owasp) > 1 OR owasp LIKE '%:%')",
    },
}


def upgrade() -> None:
    """Turn the two columns into lists, and open the corners that a downgrade left."""
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE findings RENAME COLUMN cwe TO cwe_ids")
        op.execute(
            "ALTER TABLE findings DROP CONSTRAINT ck_findings_cwe, "
            "ALTER COLUMN cwe_ids TYPE JSONB USING "
            "CASE WHEN cwe_ids IS NULL THEN '[]'::jsonb ELSE jsonb_build_array(cwe_ids) END, "
            "ALTER COLUMN owasp TYPE JSONB USING "
            "CASE WHEN owasp IS NULL THEN '[]'::jsonb ELSE jsonb_build_array(owasp) END, "
            f"ALTER COLUMN finding_schema_version TYPE TEXT USING '{finding_schema_version}', "
            "ALTER COLUMN cwe_ids SET NOT NULL, ALTER COLUMN owasp SET NOT NULL"
        )
    else:
        values = {
            "cwe_ids": "CASE WHEN cwe IS NULL THEN '[]' ELSE json_array(cwe) END",
            "owasp": "CASE WHEN owasp IS NULL THEN '[]' ELSE json_array(owasp) END",
            "finding_schema_version": f"'{finding_schema_version}'",
        }
        _rebuild("cwe_ids TEXT NOT NULL, owasp TEXT NOT NULL", "", values)
    _open_corners()


def downgrade() -> None:
    """Put what 1.1.0 has no room for into the corners, and turn the lists into single values."""
    _close_corners()
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            "ALTER TABLE findings ALTER COLUMN cwe_ids DROP NOT NULL, ALTER COLUMN owasp DROP NOT NULL, "
            "ALTER COLUMN cwe_ids TYPE INTEGER USING (cwe_ids ->> 0)::integer, "
            "ALTER COLUMN owasp TYPE TEXT USING split_part(owasp ->> 0, ':', 1), "
            f"ALTER COLUMN finding_schema_version TYPE TEXT USING '{BEFORE}', "
            "ADD CONSTRAINT ck_findings_cwe CHECK (cwe_ids >= 1)"
        )
        op.execute("ALTER TABLE findings RENAME COLUMN cwe_ids TO cwe")
    else:
        values = {
            "cwe": "json_extract(cwe_ids, '$[0]')",
            "owasp": "substr(json_extract(owasp, '$[0]'), 1, 3)",
            "finding_schema_version": f"'{BEFORE}'",
        }
        _rebuild("cwe INTEGER, owasp TEXT", "CONSTRAINT ck_findings_cwe CHECK (cwe >= 1), ", values)


# -- SQLite: a column that a CHECK names can't be dropped, so the table is written anew -------------------------------

TABLE = """
    CREATE TABLE findings_anew (
        project_id TEXT NOT NULL, id VARCHAR(36) NOT NULL, finding_schema_version TEXT NOT NULL,
        detector_id TEXT NOT NULL, title TEXT NOT NULL, severity TEXT NOT NULL, resource TEXT NOT NULL,
        created_at VARCHAR(27) NOT NULL, run_id VARCHAR(36), {columns}, cve_ids TEXT NOT NULL, cvss DOUBLE,
        mitre_attack TEXT NOT NULL, poc_links TEXT NOT NULL, evidence TEXT NOT NULL, provenance TEXT NOT NULL,
        status TEXT DEFAULT 'open' NOT NULL CONSTRAINT ck_findings_status
            CHECK (status IN ('open', 'triaged', 'in_progress', 'resolved', 'false_positive', 'risk_accepted', 'archived')),
        rule_id TEXT, fingerprint TEXT, location TEXT,
        confidence DOUBLE CONSTRAINT ck_findings_confidence CHECK (confidence BETWEEN 0 AND 100),
        tags TEXT DEFAULT '[]' NOT NULL,
        CONSTRAINT pk_findings PRIMARY KEY (project_id, id),
        CONSTRAINT fk_findings_finding_projects FOREIGN KEY (project_id)
            REFERENCES finding_projects (project_id) ON DELETE CASCADE,
        CONSTRAINT ck_findings_title CHECK (length(title) >= 1),
        CONSTRAINT ck_findings_detector_id CHECK (length(detector_id) >= 1),
        CONSTRAINT ck_findings_severity CHECK (severity IN ('info', 'low', 'medium', 'high', 'critical')),
        {check}CONSTRAINT ck_findings_cvss CHECK (cvss BETWEEN 0 AND 10)
    )
"""
BESIDE_THEM = (
    "project_id id finding_schema_version detector_id title severity resource created_at run_id",
    "cve_ids cvss mitre_attack poc_links evidence provenance status rule_id fingerprint location confidence tags",
)
INDEXES = (("project_id", "created_at", "id"), ("project_id", "severity", "status"))
CHILDREN = ("finding_identities", "finding_sightings")


def _rebuild(columns: str, check: str, values: dict[str, str]) -> None:
    """Write the table anew with other columns between `run_id` and `cve_ids`; `values` are those that change."""
    changed = [column.split()[0] for column in columns.split(", ")]
    names = [*BESIDE_THEM[0].split(), *changed, *BESIDE_THEM[1].split()]
    selected = ", ".join(values.get(name, name) for name in names)
    kept = _keep_children()
    op.execute(sa.text(TABLE.format(columns=columns, check=check)))
    op.execute(f"INSERT INTO findings_anew ({', '.join(names)}) SELECT {selected} FROM findings")  # noqa: S608  # constants
    op.execute("DROP TABLE findings")
    op.execute("ALTER TABLE findings_anew RENAME TO findings")
    for index in INDEXES:
        op.create_index(op.f("ix_findings_" + "_".join(index)), "findings", list(index))
    for child in kept:
        op.execute(f"INSERT INTO {child} SELECT * FROM temp.kept_{child}")  # noqa: S608  # constants
        op.execute(f"DROP TABLE temp.kept_{child}")


def _keep_children() -> tuple[str, ...]:
    """Put the rows aside that DROP TABLE would delete; only in a transaction of the caller are foreign keys on."""
    if op.get_context().as_sql or not op.get_bind().exec_driver_sql("PRAGMA foreign_keys").scalar():
        return ()
    others = op.get_bind().exec_driver_sql(
        "SELECT DISTINCT m.name FROM sqlite_master m, pragma_foreign_key_list(m.name) f "
        "WHERE m.type = 'table' AND f.\"table\" IN ('findings', 'finding_identities', 'finding_sightings')"
    )
    strangers = sorted({row[0] for row in others} - set(CHILDREN))
    if strangers:
        raise CommandError(
            f"the table {strangers[0]} refers to findings, which revision {revision} has to write anew: "
            "run the migration outside of a transaction, or with PRAGMA foreign_keys = OFF"
        )
    for child in CHILDREN:
        op.execute(f"CREATE TEMPORARY TABLE kept_{child} AS SELECT * FROM {child}")  # noqa: S608  # constants
    return CHILDREN


# -- corners ----------------------------------------------------------------------------------------------------------


def _open_corners() -> None:
    """Open the corners that a downgrade left: few rows, and only Python can tell whether they are ours."""
    if op.get_context().as_sql:
        _guard(MAY_HAVE_CORNER)
        return
    for rows in _batches(MAY_HAVE_CORNER):
        _convert(rows, lambda row: {"provenance": {}, **upgrade_document(_narrower(row))})


def _close_corners() -> None:
    """Write corners: by one statement where nothing is in the way, by Python where there may be one already."""
    dialect = op.get_context().dialect.name
    needs = {name: by_dialect[dialect] for name, by_dialect in NEEDS_CORNER.items()}
    if op.get_context().as_sql:
        _guard(MAY_HAVE_CORNER)
    else:
        for rows in _batches(MAY_HAVE_CORNER):
            _convert(rows, lambda row: {**row, "provenance": downgrade_document(row)["provenance"]})
    members = [
        f"CASE WHEN {needs[name]} THEN '\"{name}\":' || CAST({name} AS TEXT) || ',' ELSE '' END"
        for name in needs
    ]
    corner = f"""'"{CORNER}":{{"version":"{finding_schema_version}","fields":{{' || """
    corner += f"""rtrim({" || ".join(members)}, ',') || '}}}}}}'"""
    text = "CAST(provenance AS TEXT)"
    whole = (
        f"substr({text}, 1, length({text}) - 1) || CASE WHEN {text} = '{{}}' THEN '' ELSE ',' END || {corner}"
    )
    as_json = f"CAST({whole} AS JSON)" if dialect == "postgresql" else whole
    op.execute(
        sa.text(
            f"UPDATE findings SET provenance = {as_json} "  # noqa: S608  # constants
            f"WHERE ({' OR '.join(needs.values())}) AND NOT {MAY_HAVE_CORNER}"
        )
    )


def _convert(rows: list[Any], change: Any) -> None:
    table = FINDINGS.c
    changes = []
    for row in rows:
        before = {name: json.loads(row[name]) for name in COLUMNS}
        changed = change(before)
        if any(json.dumps(changed[name]) != json.dumps(before[name]) for name in COLUMNS):
            texts = {
                f"new_{name}": json.dumps(changed[name], ensure_ascii=False, separators=(",", ":"))
                for name in COLUMNS
            }
            changes.append({"the_project": row["project_id"], "the_id": row["id"], **texts})
    if changes:
        the_id = sa.cast(sa.bindparam("the_id", type_=sa.Text()), UUID)
        values = {
            name: sa.cast(sa.bindparam(f"new_{name}", type_=sa.Text()), table[name].type) for name in COLUMNS
        }
        statement = sa.update(FINDINGS).where(
            table.project_id == sa.bindparam("the_project"), table.id == the_id
        )
        op.get_bind().execute(statement.values(values), changes)


def _batches(where: str) -> Iterator[list[Any]]:
    """Yield the rows that `where` holds for, a batch of the primary key at a time.

    The condition is not in the WHERE, where PostgreSQL would rather sort the whole table than walk the key.
    """
    key = (FINDINGS.c.project_id, FINDINGS.c.id)
    the_project = sa.bindparam("the_project", type_=sa.Text())
    the_id = sa.cast(sa.bindparam("the_id", type_=sa.Text()), UUID)
    needed = sa.literal_column(where, sa.Boolean())
    texts = [sa.case((needed, sa.cast(FINDINGS.c[name], sa.Text()))).label(name) for name in COLUMNS]
    select = (
        sa.select(key[0], sa.cast(key[1], sa.Text()).label("id"), needed.label("needed"), *texts)
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


def _guard(where: str) -> None:
    """Write SQL that fails where rows hold what may be corners: only Python can tell."""
    context = op.get_context()
    problem = f"findings hold values that only an online run of revision {revision} can move"
    note = (
        f"-- The next statement fails if {problem}. Stop there then, and run alembic on the database itself."
    )
    found = f"SELECT count(*) FROM findings WHERE {where}"  # noqa: S608  # constants
    if context.dialect.name == "postgresql":
        context.impl.static_output(note)
        op.execute(f"DO $$ BEGIN IF ({found}) > 0 THEN RAISE EXCEPTION '{problem}'; END IF; END $$")
        return
    context.impl.static_output(f"{note} Use sqlite3 -bail.")
    op.execute(
        f'CREATE TEMPORARY TABLE findings_orm_guard (found INTEGER CONSTRAINT "{problem}" CHECK (found = 0))'
    )
    op.execute(f"INSERT INTO findings_orm_guard (found) {found}")
    op.execute("DROP TABLE findings_orm_guard")
