"""What is kept of a result: JSON, compressed where it is large, with a checksum that belongs to its key."""

from __future__ import annotations

import hashlib
import hmac
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Generic, TypeVar

from pydantic_core import from_json, to_json

from findings_orm.errors import StorageUnavailableError
from findings_orm.finding import FindingDocument
from findings_orm.process import pause_garbage_collection
from findings_orm.query import Page, Summary
from findings_orm.stores.cache.options import CacheOptions

try:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError as missing:
    raise StorageUnavailableError(
        f"the cache needs zstandard ({missing}): pip install 'findings-orm[redis]'"
    ) from missing

T = TypeVar("T")

_MAGIC = b"FND1"
_SUM = 16
_HEAD = len(_MAGIC) + 1 + _SUM
_PLAIN, _COMPRESSED, _TOO_LARGE = b"\0", b"\1", b"\2"
_LEVEL = 1
_BATCH = 200
_LARGE = 2**18


class TooLargeError(Exception):
    """A result is larger than the cache takes."""


class DamagedError(Exception):
    """An entry is not one of ours, or not whole."""


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How results of one operation become JSON values and come back; `read` raises for another one's."""

    write: Callable[[T], object]
    read: Callable[[object], T]


def encode(value: object, limit: int) -> bytes:
    """Return a JSON value as bytes.

    Raises:
        TooLargeError: it is larger than `limit`; of a long list no more than that was encoded.
    """
    if not isinstance(value, list):
        data: bytes = to_json(value)
        if len(data) > limit:
            raise TooLargeError
        return data
    parts: list[bytes] = []
    size = 0
    for start in range(0, len(value), _BATCH):
        parts.append(to_json(value[start : start + _BATCH])[1:-1])
        size += len(parts[-1])
        if size > limit:
            raise TooLargeError
    return b"[" + b",".join(parts) + b"]"


def decode(data: bytes, form: Form[T]) -> T:
    """Return the result that JSON holds, new and the caller's own. Raises DamagedError."""
    try:
        return form.read(_parse_json(data))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(str(error)) from error


def _parse_json(data: bytes) -> object:
    if len(data) < _LARGE:
        return from_json(data, allow_inf_nan=False)
    with pause_garbage_collection():
        return from_json(data, allow_inf_nan=False)


class Codec:
    """Entries as Redis holds them: ``FND1``, a kind, a checksum over key, kind and content, the content."""

    def __init__(self, options: CacheOptions) -> None:
        self._options = options

    def pack_entry(self, key: str, data: bytes) -> bytes:
        """Return JSON as an entry. Raises TooLargeError."""
        kind = _PLAIN
        if len(data) >= self._options.compress_from:
            kind, data = _COMPRESSED, zstd.compress(data, _LEVEL)
        if len(data) > self._options.max_bytes:
            raise TooLargeError
        return self._seal_entry(key, kind, data)

    def too_large_entry(self, key: str) -> bytes:
        """Return the entry that says: this result is larger than the cache takes, don't wait for it."""
        return self._seal_entry(key, _TOO_LARGE, b"")

    def unpack_entry(self, key: str, entry: bytes) -> bytes:
        """Return the JSON of an entry. Raises DamagedError, and TooLargeError for one that says so."""
        kind, data = _split_entry(entry)
        if not hmac.compare_digest(entry[:_HEAD], self._entry_head(key, kind, data)):
            raise DamagedError("the checksum does not fit")
        if kind == _TOO_LARGE:
            raise TooLargeError
        if kind == _COMPRESSED:
            return self._decompress_entry(data)
        return data

    def is_sealed(self, key: str, entry: bytes) -> bool:
        """Return whether an entry was made with the secret of the options; without one, anybody can make such an entry."""
        return hmac.compare_digest(entry[:_HEAD], self._entry_head(key, *_split_entry(entry)))

    def _decompress_entry(self, data: bytes) -> bytes:
        stream = zstd.ZstdDecompressor()
        try:
            plain: bytes = stream.decompress(data, self._options.max_plain_bytes)
        except zstd.ZstdError as error:
            raise DamagedError(str(error)) from error
        if not stream.eof:
            raise DamagedError("is cut off, or larger than allowed")
        return plain

    def _seal_entry(self, key: str, kind: bytes, data: bytes) -> bytes:
        return self._entry_head(key, kind, data) + data

    def _entry_head(self, key: str, kind: bytes, data: bytes) -> bytes:
        name = key.encode()
        state = hashlib.blake2b(len(name).to_bytes(4, "big"), digest_size=_SUM, key=self._options.secret)
        for part in (name, kind, data):
            state.update(part)
        return _MAGIC + kind + state.digest()


# -- the forms of the operations ----------------------------------------------------------------------------


def _require_documents(value: object) -> list[FindingDocument]:
    if type(value) is not list or not all(type(one) is dict for one in value):
        raise ValueError("must be a list of objects")
    return value


def _require_document(value: object) -> FindingDocument:
    if type(value) is not dict:
        raise ValueError("must be an object")
    document: FindingDocument = value  # type: ignore[assignment]  # a document of this release, which only its maker could seal
    return document


def _require_count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("must be a count")
    return value


def _read_page(value: Any) -> Page:
    *items, cursor = value
    if cursor is not None and type(cursor) is not str:
        raise ValueError("must end in a cursor")
    return Page(_require_documents(items), cursor)


def _write_summary(summary: Summary) -> object:
    # As pairs: JSON turns the numbers that are keys into text.
    return {
        name: list(value.items()) if isinstance(value, dict) else value
        for name, value in asdict(summary).items()
    }


def _read_summary(value: Any) -> Summary:
    if set(value) != {one.name for one in fields(Summary)}:
        raise ValueError("must be a summary of this release")
    values: dict[str, Any] = {name: dict(one) if type(one) is list else one for name, one in value.items()}
    return Summary(**values)


def _same_value(value: T) -> T:
    return value


DOCUMENT: Form[FindingDocument] = Form(_same_value, _require_document)
DOCUMENTS: Form[list[FindingDocument]] = Form(_same_value, _require_documents)
PAGE: Form[Page] = Form(lambda page: [*page.items, page.next_cursor], _read_page)
COUNT: Form[int] = Form(_same_value, _require_count)
SUMMARY: Form[Summary] = Form(_write_summary, _read_summary)


def _split_entry(entry: bytes) -> tuple[bytes, bytes]:
    """Return the kind and the data of an entry."""
    return entry[len(_MAGIC) : _HEAD - _SUM], entry[_HEAD:]
