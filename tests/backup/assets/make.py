"""Make the frozen backups of this release: ``python tests/backup/assets/make.py``.

Run once for each version of the schema, from the commit in which it is the newest, and never again: a frozen backup shows what
that release wrote. That of 1.0.0, which no release had as its newest, has the documents of 1.1.0 brought down.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "migrations"), str(HERE.parents[2])]

from rows import canonical_documents  # noqa: E402  # after the path is set

from findings_orm import open_storage  # noqa: E402  # as above
from findings_orm.backup import write_backup  # noqa: E402  # as above
from findings_orm.finding import SCHEMA_VERSION  # noqa: E402  # as above
from findings_orm.testing.samples import scanned  # noqa: E402  # as above
from findings_orm.testing.sequence import run_sequence  # noqa: E402  # as above


def make() -> None:
    """Make the backup of the current schema, unless it is there."""
    path = HERE / f"{SCHEMA_VERSION}.jsonl.zst"
    if path.exists():
        sys.exit(f"{path} exists; frozen backups are not made again")
    with open_storage("memory:") as store:
        run_sequence(store, 5, 60)
        store.save_findings({**one, "project_id": "corners"} for one in canonical_documents())
        store.ingest(
            "scanned", [scanned("R1", 3), scanned("R1", 3), scanned("R2", cve_ids=["CVE-2024-1234"])]
        )
        store.ingest("scanned", [scanned("R1", 3), scanned("R1", 3)], close_missing=True)
        chosen = store.list_findings("scanned")[0]["id"]
        store.set_status("scanned", chosen, "false_positive", actor="ana", comment="test data")
        write_backup(store, path, level=19)


if __name__ == "__main__":
    make()
