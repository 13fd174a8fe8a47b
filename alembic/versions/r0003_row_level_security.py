"""Row-level security on PostgreSQL: a database role sees the projects that it was granted.

Revision r0003, follows r0002. On SQLite, which has no roles, there is nothing to do.

The grants are rows of ``finding_access``, which only the owner of the tables can write. The policies ask for
``current_user``, not for a setting: a setting could be changed by the very SQL that it should stop. The setting
``findings.project_id`` can only narrow what a role was granted. The owner of the tables is not under the policies.

Each import updates the identities of what it saw again. Pages that are half empty have room for the new versions, so
that no index has to be touched (HOT).

The planner keeps no statistics of ``project_id``. With them it takes a project that is newer than the last ANALYZE for an
empty one, and then any index that begins with ``project_id`` for as good as the right one: a lookup by key reads the
whole project. Without them it takes every project for a two hundredth of the table. It also says less about other
projects to a role that asks for query plans.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None

ACCESS = "finding_access"
TABLES = (
    "finding_projects",
    "findings",
    "finding_identities",
    "finding_sightings",
    "finding_runs",
    "finding_events",
    "finding_rejected",
)
SORTED = postgresql.TEXT(collation="C")
GRANTED = (
    "project_id IN (SELECT granted.project_id FROM finding_access granted "
    "WHERE granted.role = CAST(current_user AS text)) "
    "AND coalesce(current_setting('findings.project_id', true), '') IN ('', project_id)"
)


def upgrade() -> None:
    """Make the table of grants and the policies."""
    if op.get_context().dialect.name != "postgresql":
        return
    op.create_table(
        ACCESS,
        sa.Column("project_id", SORTED, nullable=False),
        sa.Column("role", SORTED, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "role", name=op.f("pk_finding_access")),
    )
    op.execute(f"ALTER TABLE {ACCESS} ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY {ACCESS} ON {ACCESS} FOR SELECT USING (role = CAST(current_user AS text))")
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY {ACCESS} ON {table} USING ({GRANTED}) WITH CHECK ({GRANTED})")
    for table in TABLES[1:]:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN project_id SET STATISTICS 0")
    op.execute("ALTER TABLE finding_identities SET (fillfactor = 50)")


def downgrade() -> None:
    """Drop the policies, and the grants with their table."""
    if op.get_context().dialect.name != "postgresql":
        return
    op.execute("ALTER TABLE finding_identities RESET (fillfactor)")
    for table in TABLES[1:]:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN project_id SET STATISTICS -1")
    for table in TABLES:
        op.execute(f"DROP POLICY {ACCESS} ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    op.drop_table(ACCESS)
