"""Make the frozen SQLite database of a revision, beside this script: ``python tests/migrations/assets/make.py r0003``.

Run it once, from the checkout in which the revision is new, and never again: a frozen database shows what that release
wrote. The documents are those of ``rows.canonical_documents``; a revision that adds fields adds documents there.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[2])]

from rows import canonical_documents, downgraded, fill  # noqa: E402  # after the path is set

from findings_orm import migrations  # noqa: E402  # as above
from findings_orm.migrations.scripts import revision_chain  # noqa: E402  # as above


def make(revision: str) -> None:
    """Make the database of a revision, unless it is there."""
    path = HERE / f"{revision}.sqlite3"
    if path.exists():
        sys.exit(f"{path} exists; frozen databases are not made again")
    url = f"sqlite:///{path}"
    migrations.upgrade(url, revision)
    version = next(each.schema_version for each in revision_chain() if each.id == revision)
    fill(url, downgraded(canonical_documents(), version), version)
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("PRAGMA page_size = 1024")
        connection.execute("VACUUM")
    connection.close()


if __name__ == "__main__":
    make(sys.argv[1])
