"""The whole chain down and up with many findings: nothing is lost, and memory does not grow with their number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from findings_orm import migrations, open_storage
from findings_orm.formats import open_report
from findings_orm.migrations.scripts import revision_chain
from findings_orm.testing.samples import scanned

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
COUNT = 200_000 if FULL else 2_000
REPORTS = sorted((Path(__file__).parents[1] / "samples").glob("*.sarif"))
MOST_MEMORY = 150_000_000

MOVE = """
import json, pathlib, sys, time
from findings_orm import migrations
direction, url, revision = sys.argv[1:]
start = time.perf_counter()
getattr(migrations, direction)(url, revision)
seconds = time.perf_counter() - start
peak = pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]  # ru_maxrss counts the parent's
print(json.dumps([seconds, int(peak) * 1024]))
"""
DIGEST = """
import hashlib, json, sys
from findings_orm import open_storage
digest, count = hashlib.sha256(), 0
with open_storage(sys.argv[1]) as store:
    for project_id in store.list_projects():
        for document in store.iter_findings(project_id):
            digest.update(json.dumps(document, separators=(",", ":")).encode())
            count += 1
print(json.dumps([digest.hexdigest(), count]))
"""


def reported() -> Iterator[dict[str, Any]]:
    """Yield what real scanners reported."""
    for path in REPORTS:
        with open_report(path) as report:
            yield from report


def generated(count: int) -> Iterator[dict[str, Any]]:
    """Yield findings that each older version has no room for in some way, and plain ones."""
    for n in range(count):
        yield scanned(
            f"R{n % 50}",
            resource=f"src/{n % 999}/{n}.py",
            cwe_ids=[n % 900 + 1, 79][: n % 3],
            owasp=[["A03:2021"], ["A01"], []][n % 3],
            tags=[["a", "ü"], []][n % 2],
            confidence=[None, 50, 0.5][n % 3],
            mitre_attack=[["T1059.001"], [], [], []][n % 4],
            evidence={"message": "x" * 200, "n": n, "f": 1.0},
            provenance=[{}, {"tool": "t}"}, {"findings_orm": "theirs"}, {"nul": "\x00"}, {"a": {"b": {}}}][
                n % 5
            ],
        )


def run(code: str, *arguments: str) -> Any:
    command = [sys.executable, "-c", code, *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_the_whole_chain_with_many_findings(url: str) -> None:
    with open_storage(url, migrate=True) as store:
        store.ingest("real", reported())
        store.ingest("generated", generated(COUNT))
    before = run(DIGEST, url)
    assert before[1] > COUNT
    for direction, revision in (("downgrade", "r0001"), ("upgrade", revision_chain()[-1].id)):
        seconds, memory = run(MOVE, direction, url, revision)
        print(
            f"{url.partition(':')[0]} {direction}: {before[1] / seconds:,.0f} rows a second, {memory / 1e6:.0f} MB"
        )
        assert memory < MOST_MEMORY
        assert migrations.status(url).current == revision
    assert run(DIGEST, url) == before
    assert migrations.check(url) == []
