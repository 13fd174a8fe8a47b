"""Documents of an import that wait for the end of the report: a better partner may come later."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from typing import IO

from findings_orm.imports.matching import Incoming

_IN_MEMORY = 20_000
_PARTS = 32


class Deferred:
    """Documents that wait for the end of the report; on disk, in parts by fingerprint, when there are many."""

    def __init__(self) -> None:
        self._memory: list[Incoming] = []
        self._files: list[IO[bytes]] = []

    def add(self, waiting: list[Incoming]) -> None:
        """Keep documents for the end."""
        self._memory += waiting
        if len(self._memory) > _IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        if not self._files:
            self._files = [tempfile.TemporaryFile() for _ in range(_PARTS)]  # noqa: SIM115  # closed in groups
        for one in self._memory:
            line = json.dumps(
                [one.position, one.document, one.fingerprint.hex(), one.line, one.content.hex(), one.has_id]
            )
            self._files[one.fingerprint[0] % _PARTS].write(line.encode() + b"\n")
        self._memory = []

    def groups(self) -> Iterator[list[Incoming]]:
        """Yield everything that waits, equal fingerprints together."""
        if not self._files:
            waiting, self._memory = self._memory, []
            yield waiting
            return
        self._spill()
        for file in self._files:
            with file:
                file.seek(0)
                yield [_thawed(line) for line in file]


def _thawed(line: bytes) -> Incoming:
    index, document, digest, number, content, has_id = json.loads(line)
    return Incoming(index, document, bytes.fromhex(digest), number, bytes.fromhex(content), has_id)
