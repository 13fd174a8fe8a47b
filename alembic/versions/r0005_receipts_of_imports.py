"""What a run leaves behind so that the same report is recognised when it comes again.

Revision r0005, follows r0004. The schema of a finding stays.

`revision_before` and `revision_after` are the revisions of the project before and after the run, `digests` is one SHA-256 for
each batch of its documents. Runs of older releases have none: their reports are compared finding by finding.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0005"
down_revision = "r0004"
branch_labels = None
depends_on = None

COLUMNS = (
    ("revision_before", sa.BigInteger),
    ("revision_after", sa.BigInteger),
    ("digests", sa.LargeBinary),
)


def upgrade() -> None:
    """Add the columns, empty."""
    for name, kind in COLUMNS:
        op.add_column("finding_runs", sa.Column(name, kind(), nullable=True))


def downgrade() -> None:
    """Drop the columns: the next import of each report compares finding by finding."""
    for name, _ in reversed(COLUMNS):
        op.drop_column("finding_runs", name)
