"""A process that reads and writes through a cache of its own, and writes down what it saw. Started by the tests beside it.

    worker.py random URL REDIS OPTIONS NUMBER OPERATIONS    prints a history, one JSON array a line, and counts at the end
    worker.py summary URL REDIS OPTIONS THREADS             prints counts after all threads asked for one summary at once

Both print ``ready`` first and begin when a line comes in. Random operations go on at least until the input is closed.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import event

from findings_orm import FindingQuery, RedisCacheAdapter, open_storage
from findings_orm.testing.samples import PROJECT, finding, uuid_of

THREADS = 2
PROCESSES = 4
REGISTERS = THREADS * PROCESSES
"""Findings that a thread owns: it alone writes to its own, its `resource` counting up, and everybody reads all."""


def register(number: int, value: int) -> dict[str, Any]:
    """Return the finding that is a register with a value."""
    return finding(number, resource=f"{number}:{value}")


def values(resources: Any) -> dict[int, int]:
    """Return register to value."""
    return {int(number): int(value) for number, value in (one.split(":") for one in resources)}


class Client(threading.Thread):
    """One thread's random operations and their history: (kind, begin, end, register to value)."""

    def __init__(
        self, store: RedisCacheAdapter, number: int, operations: int, enough: threading.Event
    ) -> None:
        super().__init__()
        self.store = store
        self.number = number
        self.operations = operations
        self.enough = enough
        self.chance = random.Random(number)
        self.value = 0
        self.history: list[tuple[str, int, int, dict[int, int]]] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while len(self.history) < self.operations or not self.enough.is_set():
                self._operate()
        except BaseException as error:
            self.failure = error
            raise

    def _operate(self) -> None:
        choice = self.chance.random()
        if choice < 0.06:
            self._write("write", self.store.save_finding)
        elif choice < 0.08:
            self._write("write past", self.store.inner.save_finding)
        elif choice < 0.10:
            self._write("write", self._in_transaction)
        else:
            reads = [self._list, self._get, self._find, self._summarize, self._count]
            begin = time.monotonic_ns()
            seen = self.chance.choice(reads)()
            self.history.append(("read", begin, time.monotonic_ns(), seen))

    def _write(self, kind: str, save: Any) -> None:
        begin = time.monotonic_ns()
        save(register(self.number, self.value + 1))
        self.value += 1
        self.history.append((kind, begin, time.monotonic_ns(), {self.number: self.value}))

    def _in_transaction(self, document: dict[str, Any]) -> None:
        class UndoError(Exception):
            pass

        try:
            with self.store.transaction():
                self.store.save_finding(register(self.number, 999_999_999))
                self._list()
                raise UndoError
        except UndoError:
            pass
        with self.store.transaction():
            self.store.save_finding(document)
            assert self._list()[self.number] == self.value + 1

    def _list(self) -> dict[int, int]:
        return values(one["resource"] for one in self.store.list_findings(PROJECT))

    def _get(self) -> dict[int, int]:
        number = self.chance.randrange(REGISTERS)
        return values([self.store.get_finding(PROJECT, uuid_of(number))["resource"]])

    def _find(self) -> dict[int, int]:
        page = self.store.find(FindingQuery(project_id=PROJECT, limit=5, sort="-created_at"))
        return values(one["resource"] for one in page.items)

    def _summarize(self) -> dict[int, int]:
        return values(self.store.summarize(PROJECT).top_resources)

    def _count(self) -> dict[int, int]:
        query = FindingQuery(project_id=PROJECT, resource_prefix=f"{self.number}:{self.value}")
        return {self.number: self.value} if self.store.count(query) else {self.number: -1}


def operate(store: RedisCacheAdapter, number: int, operations: int) -> None:
    """Run the threads of one process."""
    enough = threading.Event()
    clients = [Client(store, THREADS * number + n, operations // THREADS, enough) for n in range(THREADS)]
    for client in clients:
        client.start()
    sys.stdin.read()
    enough.set()
    for client in clients:
        client.join()
        if client.failure is not None:
            raise client.failure
        for one in client.history:
            print(json.dumps([client.number, *one]))
    print(json.dumps(store.statistics()))


def ask_at_once(store: RedisCacheAdapter, threads: int) -> None:
    """Ask for one summary in all threads at once; print how often the store was asked, and the totals."""
    asked = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def _note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "GROUP BY severity, status" in statement:
            asked.append(statement)

    with ThreadPoolExecutor(threads) as pool:
        barrier = threading.Barrier(threads)

        def ask(_: int) -> int:
            barrier.wait(60)
            return store.summarize(PROJECT).total

        totals = list(pool.map(ask, range(threads)))
    print(json.dumps({"asked": len(asked), "totals": totals, "statistics": store.statistics()}))


def main() -> None:
    """Run what the arguments say."""
    kind, url, redis_url, options, *numbers = sys.argv[1:]
    with open_storage(url, cache=redis_url, cache_options=json.loads(options)) as store:
        assert isinstance(store, RedisCacheAdapter)
        store.count(FindingQuery(project_id="unknown"))
        print("ready", flush=True)
        sys.stdin.readline()
        work: dict[str, Callable[..., None]] = {"random": operate, "summary": ask_at_once}
        work[kind](store, *map(int, numbers))


if __name__ == "__main__":
    main()
