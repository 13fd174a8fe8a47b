"""Indexes for what findings are filtered and sorted by.

Revision r0006, follows r0005. The schema of a finding stays.

An entry of an index on PostgreSQL has at most 2704 bytes, and these texts have no limit: what is longer than 400 characters
is in indexes of its own, which have the ids alone. SQLite has no limit; it has an index for each list where PostgreSQL has
one over the members of three.

On PostgreSQL these indexes can be large: the migrator builds them before the transaction that runs the revisions, while
others write. What is there already is taken as it is.
"""

from __future__ import annotations

from alembic import op

revision = "r0006"
down_revision = "r0005"
branch_labels = None
depends_on = None

BEFORE = "ix_findings_project_id_severity_status"
SORTED = ("detector_id", "resource", "title")
COMMON = {
    "ix_findings_severity": "findings (project_id, severity, status, id)",
    "ix_findings_status": "findings (project_id, status, severity, created_at, id)",
    "ix_findings_run_id": "findings (project_id, run_id, created_at, id) WHERE run_id IS NOT NULL",
}
SQLITE = {
    **COMMON,
    **{
        f"ix_findings_{name}": f"findings (project_id, {name}, created_at, id)"
        for name in ("detector_id", "rule_id")
    },
    **{f"ix_findings_by_{name}": f"findings (project_id, {name}, id)" for name in SORTED},
    **{
        f"ix_findings_{name}": f"findings (project_id, {name}, created_at, id) WHERE {name} <> '[]'"
        for name in ("cwe_ids", "cve_ids", "tags")
    },
}
LARGE_INDEXES = {
    **COMMON,
    **{
        f"ix_findings_{name}": f"findings (project_id, {name}, created_at, id) WHERE length({name}) <= 400"
        for name in ("detector_id", "rule_id")
    },
    **{
        f"ix_findings_by_{name}": f"findings (project_id, {name}, id) WHERE length({name}) <= 400"
        for name in SORTED
    },
    **{
        f"ix_findings_long_{name}": f"findings (project_id, id) WHERE length({name}) > 400" for name in SORTED
    },
    "ix_findings_lists": (
        "findings USING gin (cwe_ids jsonb_path_ops, cve_ids jsonb_path_ops, tags jsonb_path_ops)"
    ),
}
"""Name to the rest of ``CREATE INDEX`` on PostgreSQL."""

DROP_UNFINISHED = f"""
    DO $$
    DECLARE unfinished regclass;
    BEGIN
        FOR unfinished IN
            SELECT i.indexrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE i.indrelid = 'findings'::regclass AND NOT i.indisvalid
            AND c.relname IN ({", ".join(f"'{name}'" for name in LARGE_INDEXES)})
        LOOP
            EXECUTE format('DROP INDEX %s', unfinished);
        END LOOP;
    END $$
"""  # noqa: S608  # constants


def upgrade() -> None:
    """Make the indexes, and drop the one that they replace."""
    on_postgresql = op.get_context().dialect.name == "postgresql"
    if on_postgresql:
        op.execute(DROP_UNFINISHED)
    for name, definition in (LARGE_INDEXES if on_postgresql else SQLITE).items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {definition}")
    op.drop_index(BEFORE, "findings")


def downgrade() -> None:
    """Drop the indexes, and make the one that was there before."""
    op.create_index(BEFORE, "findings", ["project_id", "severity", "status"])
    on_postgresql = op.get_context().dialect.name == "postgresql"
    for name in reversed(LARGE_INDEXES if on_postgresql else SQLITE):
        op.drop_index(name, "findings")
