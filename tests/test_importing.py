"""What an import does to the process that it runs in."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from findings_orm import open_storage
from findings_orm.testing.samples import PROJECT, scanned


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_as_it_was_before(enabled: bool) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield scanned()
        raise LookupError("the report ends here")

    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with open_storage("memory:") as store:
            store.ingest(PROJECT, [scanned()])
            with pytest.raises(LookupError):
                store.ingest(PROJECT, broken())
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.no_cover
def test_cycles_of_the_caller_are_collected_during_an_import() -> None:
    alive: list[int] = []

    class Cycle:
        def __init__(self) -> None:
            self.me = self
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    most = 0

    def report() -> Iterator[dict[str, Any]]:
        nonlocal most
        for number in range(45_000):
            Cycle()
            most = max(most, len(alive))
            yield scanned(f"R{number}")

    with open_storage("memory:") as store:
        store.ingest(PROJECT, report(), dry_run=True)
    assert most < 30_000, "nothing was collected while the import ran"
