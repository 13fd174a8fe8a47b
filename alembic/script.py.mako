"""${message}.

Revision ${up_revision}, follows ${down_revision | comma,n}.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

# The schema version that a finding has after this revision. Leave it, and the two document functions, out
# if the revision changes tables only.
finding_schema_version = "X.Y.Z"


def upgrade() -> None:
    """Change the tables."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Change the tables back, with the data in them."""
    ${downgrades if downgrades else "pass"}


def upgrade_document(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document in this revision's schema version; what was put aside on the way down comes back."""
    return {**document, "finding_schema_version": finding_schema_version}


def downgrade_document(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document in the version before; what that has no room for is put aside in `provenance`."""
    return {**document}
