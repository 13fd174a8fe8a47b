"""What both databases are examined for: the schema, and missing or unknown indexes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlalchemy import Connection, Index
from sqlalchemy.schema import CreateIndex

from findings_orm.diagnosis import Problem
from findings_orm.orm import text_index
from findings_orm.orm.models import TABLES

MANY_WAITING = 10_000
"""From how many findings on that are not indexed, or no longer there, the text index should be looked after."""

_INDEX = re.compile(r"table (\S+): index (\S+) is (missing|not in the models)")


def schema_problems(connection: Connection) -> Iterator[Problem]:
    """Yield where the tables are not those of this release."""
    from findings_orm import migrations

    for line in migrations.check(connection):
        found = _INDEX.fullmatch(line)
        index = _declared_index(found[2]) if found else None
        if found and found[3] == "not in the models":
            yield Problem(
                "note",
                "index-unknown",
                f"index {found[2]} of table {found[1]} is none of this release",
                f"Every import pays for it. Unless it serves queries of your own: DROP INDEX {found[2]}",
            )
        elif index is not None:
            yield Problem(
                "warning",
                "index-missing",
                f"index {index.name} of table {found[1] if found else ''} is missing: queries that it serves read all rows",
                " ".join(str(CreateIndex(index).compile(dialect=connection.dialect)).split()),
            )
        else:
            yield Problem(
                "error",
                "schema",
                line,
                "Somebody changed the tables by hand, or an upgrade is due: see 'findings db status' and docs/migrations.md.",
            )


def text_index_problems(connection: Connection) -> Iterator[Problem]:
    """Yield why a text index that somebody made serves searches badly."""
    found = text_index.status(connection)
    if found.state == "incomplete":
        yield Problem(
            "warning",
            "text-index",
            "parts of the text index are missing or invalid: searches do without it and read the project",
            "findings db text-index create",
        )
    elif found.waiting >= MANY_WAITING:
        yield Problem(
            "warning",
            "text-index",
            f"{found.waiting:,} findings wait to be indexed: every search of their projects reads them",
            "findings db text-index create",
        )
    elif found.removed >= MANY_WAITING and found.removed > found.findings:
        yield Problem(
            "note",
            "text-index",
            f"{found.removed:,} entries of the text index are of findings that were changed or removed",
            "findings db text-index drop, then create",
        )


def _declared_index(name: str) -> Index | None:
    indexes = (index for table in TABLES for index in table.indexes)
    return next((index for index in indexes if index.name == name), None)


def format_size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GB"
