"""${message}.

Revision ${up_revision}, follows ${down_revision | comma,n}.

What the version before has no room for travels in a corner of `provenance` (`findings_orm.migrations.corners`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic import op

from findings_orm.migrations.corners import Corner
from findings_orm.migrations.rewriting import (
    FLOAT,
    INTEGER,
    JSON,
    LIST,
    NUMBER,
    TEXT,
    TIME,
    UUID,
    Rows,
    refuse_sql_on_sqlite,
)
${imports if imports else ""}
revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

# This is a whole revision for new fields that may be missing. Change the versions and `NEW_FIELDS`. For another change write
# the functions anew, keeping what they promise. A revision that changes tables only has none of this: see r0006.
finding_schema_version = "X.Y.Z"
BEFORE = "X.Y.Z"
VERSION = "finding_schema_version"
work = "writes the version of each row"

Document = dict[str, Any]


class Field(NamedTuple):
    """The type of a column, what values the field may have beside its default, and the default: None, "[]" or "{}"."""

    type: sa.types.TypeEngine[Any]
    is_valid: Callable[[Any], bool]
    default: str | None = None


NEW_FIELDS = {
    "the_field": Field(TEXT, lambda value: isinstance(value, str)),
}


# -- documents ----------------------------------------------------------------------------------------------------


def upgrade_document(document: Document) -> Document:
    """Return a document of the version before as one of this; what was put aside on the way down comes back."""
    return CORNER.open(document)


def downgrade_document(document: Document) -> Document:
    """Return a document in the version before; what that has no room for is put aside in `provenance`."""
    return CORNER.close(document)


def _default_of(name: str) -> Any:
    return {None: None, "[]": [], "{}": {}}[NEW_FIELDS[name].default]


def _widen_document(document: Document) -> Document:
    new = {name: _default_of(name) for name in NEW_FIELDS if name not in document}
    return {**document, **new, VERSION: finding_schema_version}


def _narrow_document(document: Document) -> Document:
    return {**{name: value for name, value in document.items() if name not in NEW_FIELDS}, VERSION: BEFORE}


def _check_of(name: str) -> Callable[[object], bool]:
    return lambda value: value == _default_of(name) or NEW_FIELDS[name].is_valid(value)


CORNER = Corner(
    finding_schema_version,
    away=_narrow_document,
    home=_widen_document,
    fields={name: _check_of(name) for name in NEW_FIELDS},
)


# -- tables -------------------------------------------------------------------------------------------------------

ROWS = Rows(
    revision, BEFORE, CORNER, {**{name: field.type for name, field in NEW_FIELDS.items()}, "provenance": JSON}
)
NEEDED = " OR ".join(
    f"{name} IS NOT NULL" if field.default is None else f"CAST({name} AS TEXT) <> '{field.default}'"
    for name, field in NEW_FIELDS.items()
)


def upgrade() -> None:
    """Add the columns, and open the corners that a downgrade left."""
    for name, field in NEW_FIELDS.items():
        may_be_null = field.default is None
        op.add_column("findings", sa.Column(name, field.type, nullable=may_be_null, server_default=field.default))
    ROWS.open_corners(("provenance",), (*NEW_FIELDS, "provenance"))
    ROWS.end_keeping()
    op.execute(f"UPDATE findings SET {VERSION} = '{finding_schema_version}'")  # noqa: S608  # constants


def downgrade() -> None:
    """Put the fields into corners, and drop the columns."""
    refuse_sql_on_sqlite(revision)
    ROWS.begin_keeping()
    ROWS.close_corners((*NEW_FIELDS, "provenance"), ("provenance",), NEEDED)
    op.execute(f"UPDATE findings SET {VERSION} = '{BEFORE}'")  # noqa: S608  # constants
    for name in reversed(NEW_FIELDS):
        op.drop_column("findings", name)
