"""Foreign keys of an application's own tables to findings."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from sqlalchemy import ForeignKeyConstraint, Index
from sqlalchemy.orm import MappedColumn, mapped_column

from findings_orm.orm.models import Finding


class FindingReference(NamedTuple):
    """What a table needs to refer to a finding: its two columns, and what holds for both of them.

    Attributes:
        project_id: the column of the project.
        finding_id: the column of the finding's id, a `uuid.UUID`.
        table_args: the foreign key and its index, for ``__table_args__``.
    """

    project_id: MappedColumn[Any]
    finding_id: MappedColumn[Any]
    table_args: tuple[ForeignKeyConstraint, Index]


def finding_reference(
    project_id: str = "project_id",
    finding_id: str = "finding_id",
    *,
    ondelete: Literal["CASCADE", "RESTRICT", "NO ACTION"] = "CASCADE",
    nullable: bool = False,
    primary_key: bool = False,
    name: str | None = None,
) -> FindingReference:
    """Return the columns and the foreign key of a table that refers to findings, on whatever ``Base`` it is declared.

    Each finding that a purge or the removal of its project takes away is looked up by the index: without one the database reads
    the whole table each time.

    Args:
        project_id: the name of the column of the project.
        finding_id: the name of the column of the finding's id.
        ondelete: what removing a finding does: its rows go with it, or it is refused while there are any.
        nullable: whether a row may refer to no finding.
        primary_key: whether the columns are the first ones of the primary key.
        name: the name of the foreign key; None leaves it to the naming convention of the metadata.
    """
    referred = Finding.__table__.columns
    columns = [
        mapped_column(column, referred[of].type, nullable=nullable, primary_key=primary_key)
        for column, of in ((project_id, "project_id"), (finding_id, "id"))
    ]
    key = ForeignKeyConstraint(
        [project_id, finding_id], [referred["project_id"], referred["id"]], name=name, ondelete=ondelete
    )
    return FindingReference(columns[0], columns[1], (key, Index(None, project_id, finding_id)))
