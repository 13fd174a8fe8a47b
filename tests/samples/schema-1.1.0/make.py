"""What made the files beside it, with the last state of this package that had schema 1.1.0. It can't be run any more."""

from __future__ import annotations

import os
import pathlib
import sys

from findings_orm import FindingStore, open_storage
from findings_orm.formats import write_report
from findings_orm.testing.samples import finding, run_of, scanned

P = "acme-api"
CHANGES = [
    {},
    {"cwe": 79, "owasp": "A03"},
    {"cwe": 89, "tags": ["a", "external/cwe/cwe-022"], "status": "triaged"},
    {"owasp": "A05", "rule_id": "R1", "location": {"path": "src/a.py", "start_line": 3, "snippet": "x"}},
    {"evidence": {"z": 1.0, "a": "\0"}, "provenance": {"tool": "x"}, "confidence": 90},
]


def fill(store: FindingStore) -> None:
    store.save_findings([finding(n, project_id=P, **change) for n, change in enumerate(CHANGES, 1)])


folder = pathlib.Path(sys.argv[1])
with open_storage("memory:") as store:
    fill(store)
    for form in ("sarif", "jsonl"):
        with (folder / f"export.{form}").open("w", encoding="utf-8") as stream:
            write_report(store.list_findings(P), stream, form)
store = open_storage((folder / "folded").as_uri())
fill(store)
store.ingest(P, [scanned("R1", 3, cwe=22), scanned("R2", 9, owasp="A01")], run=run_of(1))
store.close()
journal = open_storage((folder / "unfolded").as_uri())
fill(journal)
journal.ingest(P, [scanned("R1", 3, cwe=22), scanned("R2", 9, owasp="A01")], run=run_of(1))
journal.set_status(P, journal.list_findings(P)[0]["id"], "triaged", actor="ann")
os._exit(0)  # without closing: what was written stays in the journal
