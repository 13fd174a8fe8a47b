"""The category of a run: with the detector the scope within which a report is complete.

Revision r0007, follows r0006. The schema of a finding stays.

`category` is that of the whole run, `categories` has those of a detector where a run has several, else it is NULL. Runs of
older releases reported without one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.dialects.postgresql.TEXT(collation="C"), "postgresql")
JSON = sa.Text().with_variant(sa.JSON(), "postgresql")


def upgrade() -> None:
    """Add the columns; what ran so far has no category."""
    op.add_column("finding_runs", sa.Column("category", TEXT, server_default="", nullable=False))
    op.add_column("finding_runs", sa.Column("categories", JSON))


def downgrade() -> None:
    """Drop the columns: an import closes for its detectors in all categories again."""
    op.drop_column("finding_runs", "categories")
    op.drop_column("finding_runs", "category")
