"""A process whose imports are interrupted by signals: URL, how many of them, how many findings each has.

The store has a pool of one connection. After each interruption another process writes at once. The handlers raise
`KeyboardInterrupt`, `SystemExit` or the class of a worker's time limit, at any instant. Prints what came of it as JSON: how
many imports were interrupted, and of what went wrong, how often. Python swallows an exception in a finalizer.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any

from findings_orm import FindingQuery, FindingStore, open_storage
from findings_orm.process import COMMITTED
from findings_orm.testing.samples import finding, run_id_of, scanned


class SoftTimeLimitExceeded(Exception):  # noqa: N818  # named and made as that of a task queue
    """A task takes too long."""


ERRORS = (KeyboardInterrupt, SystemExit, SoftTimeLimitExceeded)


@cache
def _opened(url: str) -> FindingStore:
    waiting: dict[str, Any] = {"busy_timeout": 1.0} if url.startswith("sqlite") else {"lock_timeout": 5.0}
    return open_storage(url, **waiting)


def _write(url: str, number: int, project: str) -> None:
    _opened(url).save_finding(finding(number, project_id=project))


def main() -> None:
    """Interrupt imports, and look after each at what it left."""
    url, wanted, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(4)
    told: Counter[str] = Counter()
    raised: list[BaseException] = []
    alone: dict[str, Any] = {} if url.startswith("sqlite") else {"max_overflow": 0, "pool_timeout": 5}

    def interrupt(_number: int, _frame: Any) -> None:
        raised.append(chance.choice(ERRORS)())
        raise raised[-1]

    signal.signal(signal.SIGALRM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    others = ProcessPoolExecutor(1, get_context("spawn"))
    with open_storage(url, pool_size=1, **alone) as store, others:
        start = time.perf_counter()
        store.ingest("whole", [scanned(f"R{n}") for n in range(size)])
        longest = time.perf_counter() - start
        number = 0
        while told["interrupted"] < wanted:
            number += 1
            project = f"p{number}"
            documents = [scanned(f"R{n}") for n in range(size)]
            raised.clear()
            caught: BaseException | None = None
            acknowledged = False
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, longest))
                store.ingest(project, documents, run=run_id_of(number))
                acknowledged = True
                signal.setitimer(signal.ITIMER_REAL, 0)
            except BaseException as error:  # noqa: BLE001  # any at all is what this is about
                caught = error
            signal.setitimer(signal.ITIMER_REAL, 0)
            told["interrupted"] += bool(raised)
            told["swallowed"] += bool(raised) and caught is None
            if caught is not None and caught not in raised:
                told[f"replaced: {caught!r}"[:200]] += 1
            try:
                others.submit(_write, url, number, project).result()
                there = store.count(FindingQuery(project_id=project)) - 1
                told["half"] += there not in (0, size)
                noted = COMMITTED in getattr(caught, "__notes__", ())
                told["lost"] += not there and (acknowledged or noted)
                told["untold"] += bool(there and not acknowledged and not noted)
                store.ingest(project, documents, run=run_id_of(number))
                told["incomplete"] += store.count(FindingQuery(project_id=project)) != size + 1
            except Exception as error:  # noqa: BLE001  # a finding of this campaign
                told[f"broken: {type(error).__name__}: {error}"[:200]] += 1
        pool: Any = getattr(store, "pool")()  # noqa: B009  # the port has no such method
        told["in use"] = pool.in_use
    print(json.dumps(told))


if __name__ == "__main__":
    main()
