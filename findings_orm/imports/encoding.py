"""Documents as bytes, as they come in: counted while they are written, so that none becomes larger than it may be."""

from __future__ import annotations

import pickle  # nosec B403  # writes plain types only, and reads what it wrote
from collections.abc import Iterator
from io import BytesIO
from typing import Any, NamedTuple

from findings_orm.errors import LimitExceededError
from findings_orm.limits import MB, Limits, check_counted, check_parts

_PROTOCOL = 4
_BESIDE = 64 * 1024
"""What the bytes of a document have beside its JSON, at most."""
_TOGETHER = 64 * MB
"""How many bytes documents have together that are not looked at one by one."""
# KeyError: of values that hold themselves, from 50 levels on
_NOT_PLAIN = (pickle.PicklingError, LimitExceededError, ValueError, TypeError, KeyError, RecursionError)


class Oversized(NamedTuple):
    """Stands for a document that is larger than one may be: nothing was made of it."""

    error: LimitExceededError


class Encoder:
    """Writes documents as bytes, as they come in and before anything else is done with them: none that is too large.

    What a document holds several times is written each time, so the bytes are as many as those of its JSON, about.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._begin()

    def _begin(self) -> None:
        self._written = _Written(self._limits)
        pickler = _PlainPickler(self._written, _PROTOCOL)
        pickler.fast = True  # equal values are equal bytes, whatever else refers to them
        self._dump = pickler.dump

    def bytes_of(self, document: object) -> bytes:
        """Return a document as bytes that no other has; none where a value of it is not of an exact, plain type.

        Raises:
            LimitExceededError: it is larger than a document may be.
        """
        try:
            self._dump(document)
            return self._written.take()
        except LimitExceededError:
            self._begin()
            raise
        except _NOT_PLAIN:
            self._begin()
            check_parts(document, self._limits)
            return b""

    def bytes_of_all(self, documents: list[object]) -> bytes:
        """Return the bytes of many documents, one after the other; none where they have to be looked at one by one."""
        self._written.room += _TOGETHER
        try:
            for document in documents:
                self._dump(document)
        except _NOT_PLAIN:
            self._begin()
            return b""
        self._written.room -= _TOGETHER
        return self._written.take()


class _Written:
    """Takes what a pickler writes."""

    __slots__ = ("_limits", "_parts", "_size", "room")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.room = limits.max_document_bytes + _BESIDE
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self.room:
            check_counted(self._size, self._limits)
        self._parts.append(data)

    def take(self) -> bytes:
        """Return what was written since this was asked last."""
        parts, self._parts, self._size = self._parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _PlainPickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        raise ValueError(f"no plain type: {type(value)}")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        raise ValueError(f"no plain type: {module}.{name}")


def documents_in(data: bytes, count: int) -> Iterator[object]:
    """Yield the documents of which `Encoder` made bytes, joined in their order."""
    unpickler = _PlainUnpickler(BytesIO(data))
    for _ in range(count):
        yield unpickler.load()
