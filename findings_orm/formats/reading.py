"""Where the bytes of a report come from: a path, standard input or a stream, made seekable.

Reports are read twice (once to check and survey, once for the findings), so what can't be rewound is copied to
a temporary file first. gzip is unpacked while reading; UTF-16 (RFC 8259 asks for UTF-8, but PowerShell's ``>``
writes it) is recoded to a temporary file.
"""

from __future__ import annotations

import codecs
import gzip
import io
import os
import sys
import tempfile
import zlib
from contextlib import ExitStack
from typing import IO, Any, BinaryIO, cast

from findings_orm.errors import StorageUnavailableError, StorageValidationError, readable
from findings_orm.limits import DEFAULT, FREE_BYTES, Limits

_COPY_SIZE = 1 << 20
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

PathOrStream = str | os.PathLike[str] | BinaryIO
"""What a report can be read from: a path (``-`` is standard input) or a stream of bytes."""


class Source:
    """A report as a seekable stream of UTF-8.

    Attributes:
        name: what to call it in messages.
        total: the number of bytes it has on disk or in the stream, or None where that is not known.
        size: how many bytes were read since the start, unpacked.

    Raises:
        StorageValidationError: it has more bytes than `limits` allow, or more for its compressed size.
        StorageUnavailableError: the file is missing or can't be read.
        StorageValidationError: the stream does not give bytes, or the gzip or UTF-16 in it is damaged.
    """

    def __init__(self, origin: PathOrStream, limits: Limits = DEFAULT) -> None:
        self._owned = ExitStack()
        self._limits = limits
        self._packed = False
        self.size = 0
        self.total: int | None = None
        self.closed = False
        try:
            self.name, self._raw = self._open(origin)
            self._file = self._decoded(self._raw)
        except Exception as error:
            self.close()
            own = translated(error, getattr(self, "name", readable(origin)))
            if own is error:
                raise
            raise own from error

    def _open(self, origin: PathOrStream) -> tuple[str, IO[bytes]]:
        if isinstance(origin, (str, os.PathLike)) and os.fspath(origin) != "-":
            self.name = os.fspath(origin)
            opened: IO[bytes] = self._owned.enter_context(io.BufferedReader(io.FileIO(origin)))
        else:
            opened = sys.stdin.buffer if isinstance(origin, (str, os.PathLike)) else _binary(origin)
            self.name = _name(opened)
        seekable = opened.seekable() and opened.tell() == 0
        file = opened if seekable else self._copy(opened)
        self.total = file.seek(0, io.SEEK_END)
        file.seek(0)
        return self.name, file

    def _copy(self, stream: IO[bytes]) -> IO[bytes]:
        copy = self._temporary()
        while chunk := stream.read(_COPY_SIZE):
            self._count(chunk)
            copy.write(chunk)
        return copy

    def _temporary(self) -> IO[bytes]:
        return cast(IO[bytes], self._owned.enter_context(tempfile.TemporaryFile(prefix="findings-")))

    def _decoded(self, raw: IO[bytes]) -> IO[bytes]:
        file = raw
        start = raw.read(4)
        raw.seek(0)
        if start[:2] == b"\x1f\x8b":
            self._packed = True
            file = cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="rb"))
            start = file.read(4)
            file.seek(0)
        encoding = _UTF16.get(start[:2])
        return self._recoded(file, encoding) if encoding else file

    def _recoded(self, file: IO[bytes], encoding: str) -> IO[bytes]:
        decoder = codecs.getincrementaldecoder(encoding)()
        copy = self._temporary()
        self.size = 0
        while chunk := file.read(_COPY_SIZE):
            self._count(chunk)
            copy.write(decoder.decode(chunk).encode())
        copy.write(decoder.decode(b"", final=True).encode())
        copy.seek(0)
        return copy

    def rewind(self) -> None:
        """Go back to the first byte."""
        if self.closed:
            raise StorageValidationError(f"{self.name}: the report is closed")
        self._file.seek(0)
        self.size = 0

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, ``b""`` at the end."""
        if self.closed:
            raise StorageValidationError(f"{self.name}: the report is closed")
        try:
            data = self._file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise translated(error, self.name) from error
        self._count(data)
        return data

    def _count(self, data: bytes) -> None:
        self.size += len(data)
        self._limits.check(
            "max_report_bytes", self.size, f"{self.name}: the size of the report, in bytes, is at least"
        )
        if self._packed and self.size > FREE_BYTES:
            times = self.size // max(1, self._raw.tell())
            self._limits.check(
                "max_expansion_ratio", times, f"{self.name}: unpacked it is larger, by a factor of at least"
            )

    @property
    def position(self) -> int:
        """How many of the `total` bytes are read."""
        return 0 if self.closed else self._raw.tell()

    def close(self) -> None:
        """Close what this object opened; a stream of the caller stays open."""
        self.closed = True
        self._owned.close()


def translated(error: Exception, name: str) -> Exception:
    """Return the package's own error for one of reading, or `error` itself where it is none of these."""
    if isinstance(error, (gzip.BadGzipFile, EOFError, zlib.error)):
        return StorageValidationError(f"{name}: the gzip data is damaged or cut off: {error}")
    if isinstance(error, UnicodeError):
        return StorageValidationError(f"{name}: the UTF-16 text is damaged: {error}")
    if isinstance(error, OSError):
        return StorageUnavailableError(f"{name}: can't be read: {error.strerror or error}")
    if isinstance(error, (ValueError, TypeError)):  # a name with a NUL, a closed stream, one that gives text
        return StorageValidationError(f"{name!a}: can't be read: {error}")
    return error


def _binary(stream: Any) -> IO[bytes]:
    buffer = getattr(stream, "buffer", stream)
    if isinstance(buffer, io.TextIOBase) or not hasattr(buffer, "read"):
        raise StorageValidationError(
            f"a report is read from a path or a stream of bytes, not from {type(stream).__name__}"
        )
    return cast(IO[bytes], buffer)


def _name(stream: IO[bytes]) -> str:
    name = getattr(stream, "name", None)
    return name if isinstance(name, str) else "the report"
