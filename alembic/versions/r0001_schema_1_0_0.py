"""Make the tables of schema 1.0.0.

Revision r0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None

finding_schema_version = "1.0.0"

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
        _of_finding("finding_sightings"),
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
        _of_project("finding_runs"),
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
        _of_project("finding_events"),
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
        _of_project("finding_rejected"),
    )


def downgrade() -> None:
    """Drop the tables with everything in them."""
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


def _of_project(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["project_id"],
        ["finding_projects.project_id"],
        name=op.f(f"fk_{table}_finding_projects"),
        ondelete="CASCADE",
    )


def _of_finding(table: str) -> sa.ForeignKeyConstraint:
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
        _of_project("findings"),
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
        _of_finding("finding_identities"),
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
