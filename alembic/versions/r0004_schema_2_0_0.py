"""Schema 2.0.0: several CWE numbers (`cwe` becomes `cwe_ids`), several OWASP categories with their years.

Revision r0004, follows r0003.

What 1.1.0 has no room for (a second CWE number, a second category, a year) travels in a corner of `provenance`
(`findings_orm.migrations.corners`): the whole list.
"""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

from findings_orm.migrations.corners import KEY, Corner
from findings_orm.migrations.rewriting import JSON, KEPT, LIST, MAY_HAVE_CORNER, Rows

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None

finding_schema_version = "2.0.0"
work = "rewrites the table findings once, and its indexes with it"

BEFORE = "1.1.0"
VERSION = "finding_schema_version"
LISTS = {"cwe": "cwe_ids", "owasp": "owasp"}
MAX_NUMBER = 2**31 - 1
CATEGORY = re.compile(r"A[0-9]{2}(:[0-9]{4})?")

Document = dict[str, Any]


# -- documents ----------------------------------------------------------------------------------------------------


def upgrade_document(document: Document) -> Document:
    """Return a document of 1.1.0 as one of 2.0.0; what was put aside on the way down comes back."""
    return CORNER.open(document)


def downgrade_document(document: Document) -> Document:
    """Return a document of 2.0.0 as one of 1.1.0; what that has no room for is put aside in `provenance`."""
    return CORNER.close(document)


def _widen_document(document: Document) -> Document:
    changed: Document = {}
    for name, value in document.items():
        if name in ("cwe", "owasp"):
            changed[LISTS[name]] = [] if value is None else [value]
        else:
            changed[name] = value
    return {**changed, VERSION: finding_schema_version}


def _narrow_document(document: Document) -> Document:
    changed: Document = {}
    for name, value in document.items():
        if name == "cwe_ids":
            changed["cwe"] = value[0] if value else None
        elif name == "owasp":
            changed["owasp"] = str(value[0]).partition(":")[0] if value else None
        else:
            changed[name] = value
    return {**changed, VERSION: BEFORE}


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, int) and not isinstance(one, bool) and 1 <= one <= MAX_NUMBER for one in value
    )


def _are_categories(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and CATEGORY.fullmatch(one) for one in value)


CORNER = Corner(
    finding_schema_version,
    away=_narrow_document,
    home=_widen_document,
    fields={"cwe_ids": _are_numbers, "owasp": _are_categories},
)


# -- tables -------------------------------------------------------------------------------------------------------

ROWS = Rows(revision, BEFORE, CORNER, {"cwe_ids": LIST, "owasp": LIST, "provenance": JSON})
COLUMNS = tuple(ROWS.types)
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
        _rebuild_table("cwe_ids TEXT NOT NULL, owasp TEXT NOT NULL", "", values)
    ROWS.open_corners(COLUMNS, COLUMNS, older=_narrow_document)
    ROWS.end_keeping()


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
        _rebuild_table("cwe INTEGER, owasp TEXT", "CONSTRAINT ck_findings_cwe CHECK (cwe >= 1), ", values)


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


def _rebuild_table(columns: str, check: str, values: dict[str, str]) -> None:
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


def _close_corners() -> None:
    """Write corners: by one statement where nothing is in the way, by Python where there may be one already."""
    ROWS.begin_keeping()
    ROWS.close_corners(COLUMNS, ("provenance",))
    dialect = op.get_context().dialect.name
    needs = {name: by_dialect[dialect] for name, by_dialect in NEEDS_CORNER.items()}
    members = [
        f"CASE WHEN {needs[name]} THEN '\"{name}\":' || CAST({name} AS TEXT) || ',' ELSE '' END"
        for name in needs
    ]
    corner = f"""'{{"version":"{finding_schema_version}","fields":{{' || """
    corner += f"""rtrim({" || ".join(members)}, ',') || '}}}}'"""
    text = "CAST(provenance AS TEXT)"
    whole = (
        f"substr({text}, 1, length({text}) - 1) || CASE WHEN {text} = '{{}}' THEN '' ELSE ',' END "
        f"""|| '"{KEY}":' || {corner} || '}}'"""
    )
    where = f"({' OR '.join(needs.values())}) AND NOT {MAY_HAVE_CORNER}"
    as_json = "CAST({} AS JSON)" if dialect == "postgresql" else "{}"
    columns = ("project_id", "finding_id", "version", "corner")
    op.execute(
        sa.text(
            f"INSERT INTO {KEPT} ({', '.join(columns)}) SELECT project_id, id, '{finding_schema_version}', "  # noqa: S608  # constants
            f"{as_json.format(corner)} FROM findings WHERE {where}"
        )
    )
    op.execute(sa.text(f"UPDATE findings SET provenance = {as_json.format(whole)} WHERE {where}"))  # noqa: S608  # constants
