"""What the text index costs an import and gives a search: raw is a store without it."""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import methodcaller
from typing import Any

from findings_orm import FindingQuery, open_storage
from findings_orm.orm import text_index

Findings = Callable[[int], Iterator[dict[str, Any]]]
PROJECT, OTHER = "benchmark", "other"
SEARCHES = {"rare word": "call_{}(", "frequent word": "broken", "no such word": "giraffe"}


def run(arguments: argparse.Namespace, table: Any, findings: Findings, server: Callable[[], Any]) -> None:
    """Race a store without a text index against one with it, on both databases."""
    for number in range(arguments.rounds):
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            urls = [f"sqlite:///{pathlib.Path(folder) / name}.db" for name in ("plain", "indexed")]
            _round("SQLite", arguments.count, urls, table, findings)
        with server() as running:
            urls = [running.url(running.create_database()) for _ in range(2)]
            _round("PostgreSQL", arguments.count, urls, table, findings)


def _round(kind: str, count: int, urls: list[str], table: Any, findings: Findings) -> None:
    for url in urls:
        open_storage(url, migrate=True).close()
    text_index.create(urls[1])
    plain: Any
    indexed: Any
    plain, indexed = (open_storage(url) for url in urls)

    def both(work: str, amount: int, call: Callable[[Any], object]) -> None:
        table.race(f"{kind}: {work}", amount, lambda: call(plain), lambda: call(indexed))

    both("ingest, first", count, lambda store: store.ingest(PROJECT, findings(count)))
    both("ingest, again", count, lambda store: store.ingest(PROJECT, findings(count)))
    both("ingest, other project", count, lambda store: store.ingest(OTHER, findings(count)))
    ones = {
        store: store.find(FindingQuery(project_id=PROJECT, limit=200)).items for store in (plain, indexed)
    }
    both(
        "save one, changed",
        200,
        lambda store: [store.save_finding({**one, "title": "Changed"}) for one in ones[store]],
    )
    for store in (plain, indexed):
        with store.engine.connect() as connection:
            connection.exec_driver_sql("ANALYZE")
            connection.commit()
    for name, text in SEARCHES.items():
        query = FindingQuery(project_id=PROJECT, text=text.format(count // 2), limit=50)
        both(f"page, {name}", 1, methodcaller("find", query))
        both(f"best, {name}", 1, methodcaller("find", replace(query, sort="-relevance")))
        both(f"count, {name}", 1, methodcaller("count", query))
    plain.close()
    indexed.close()
