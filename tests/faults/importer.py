"""A process that imports findings into a store, for the tests to kill: URL, project, first and count, run id.

Prints ``acknowledged RUN`` after each import that returned.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from typing import Any

from findings_orm import open_storage


def findings(first: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield the findings numbered `first` and on; the same number is the same finding in every report."""
    for number in range(first, first + count):
        yield {
            "detector_id": "scan.fault",
            "rule_id": f"R{number % 50}",
            "title": f"Rule {number % 50} was broken",
            "severity": "medium",
            "resource": f"src/module{number}.py",
            "evidence": {"number": number, "padding": "x" * 200},
        }


def main() -> None:
    """Import, in one run a block, and say so."""
    url, project, first, count, runs = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    with open_storage(url) as store:
        print("ready", flush=True)
        for number in range(runs):
            run_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{first}/{number}"))
            store.ingest(project, findings(first + number * count, count), run=run_id)
            print(f"acknowledged {run_id}", flush=True)


if __name__ == "__main__":
    main()
