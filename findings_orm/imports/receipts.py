"""A report that comes again, to findings that did not change since: recognised whole, batch by batch.

A run leaves a `Receipt`. Where the revisions of later runs join on to it without a gap, and none of them spoke for its
detectors, every finding that it saw is as it left it: the same documents, in the same order, change nothing but when it was
seen last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import IO, Any

from findings_orm.finding import SCHEMA_VERSION
from findings_orm.fingerprint import VERSION
from findings_orm.imports.encoding import documents_in
from findings_orm.imports.scopes import Scope
from findings_orm.port import Run
from findings_orm.records import Receipt

LOOK_BACK = 100
"""How many runs of a project may lie between a report and the same report again."""

_SIZE = 32
_IN_MEMORY = 16_000_000
_RULES = f"{SCHEMA_VERSION} {VERSION} ".encode()
"""Begins each digest: under other rules the same documents may be other findings."""


class Recognition:
    """The comparison of one report with the receipts of earlier runs, while it is read.

    Args:
        runs: the runs of the project.
        receipts: the newest receipts, newest first.
        revision: the revision of the project before this import.
        scope_of: tells the scope of a document.
    """

    def __init__(
        self,
        runs: Iterable[Run],
        receipts: Iterable[Receipt],
        revision: int,
        scope_of: Callable[[Mapping[str, Any]], Scope],
    ) -> None:
        self._scope_of = scope_of
        self._may_be = dict(_unchanged_runs(runs, receipts, revision))
        self._digests: list[bytes] = []
        self._aside: list[tuple[int, bytes | int]] = []
        self._size = 0
        self._file: IO[bytes] | None = None
        self.count = 0
        self.scopes: set[Scope] = set()

    def recognise_batch(self, batch: list[Any], data: bytes) -> bool:
        """Note a batch and its bytes; return whether the report is one that came before as far as it was read.

        Then it is put aside.
        """
        if data and not _is_current(batch):
            data = b""
        digest = sha256(_RULES + data).digest() if data else b""
        at = len(self._digests) * _SIZE
        self._digests.append(digest)
        if self._may_be:
            self._may_be = {
                number: digests
                for number, digests in self._may_be.items()
                if digest and digests[at : at + _SIZE] == digest
            }
        if not self._may_be or not self._put_batch_aside(data, len(batch)):
            return False
        self.count += len(batch)
        self.scopes.update(map(self._scope_of, batch))
        return True

    def _put_batch_aside(self, data: bytes, count: int) -> bool:
        """Keep a batch, in memory or in a file; return False where the disk is full."""
        self._size += len(data)
        if self._size <= _IN_MEMORY:
            self._aside.append((count, data))
            return True
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed in `close`
            whole = self._file.write(data) == len(data)
        except OSError:
            return False
        if whole:
            self._aside.append((count, len(data)))
        return whole

    def replay_batches(self) -> Iterator[list[Any]]:
        """Yield the batches that were put aside, once, as the report turned out to be another one."""
        self._may_be = {}
        if self._file is not None:
            self._file.seek(0)
        for count, kept in self._aside:
            data = kept if isinstance(kept, bytes) else self._file.read(kept) if self._file else b""
            yield list(documents_in(data, count))
        self.close()

    def recognised(self) -> int | None:
        """Return the number of the run that brought the same report, or None, at the end of the report."""
        whole = len(self._digests) * _SIZE
        return next((number for number, digests in self._may_be.items() if len(digests) == whole), None)

    @property
    def digests(self) -> bytes:
        """The digests for this run's own receipt."""
        return b"".join(self._digests) if all(self._digests) else b""

    def close(self) -> None:
        """Forget what was put aside."""
        self._aside.clear()
        if self._file is not None:
            self._file.close()
            self._file = None


def _unchanged_runs(
    runs: Iterable[Run], receipts: Iterable[Receipt], revision: int
) -> Iterator[tuple[int, bytes]]:
    """Yield number and digests of the runs of which all findings are as the run left them."""
    detectors_of: Mapping[int, Sequence[str]] = {run.number: run.detectors for run in runs}
    spoken_for: set[str] = set()
    for receipt in receipts:
        if receipt.after != revision:
            return
        detectors = detectors_of[receipt.number]
        if receipt.digests and spoken_for.isdisjoint(detectors):
            yield receipt.number, receipt.digests
        spoken_for.update(detectors)
        revision = receipt.before


def _is_current(batch: list[object]) -> bool:
    """Return whether all documents are of this version."""
    for document in batch:
        if (
            type(document) is not dict
            or document.get("finding_schema_version", SCHEMA_VERSION) != SCHEMA_VERSION
        ):
            return False
    return True
