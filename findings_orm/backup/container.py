"""The container of a backup: a file of zstd frames, and in them lines with checksums."""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO
from zlib import crc32

from pydantic_core import from_json, to_json

from findings_orm.backup.encryption import AGE_HEAD, Key, decrypting_stream
from findings_orm.errors import StorageIntegrityError, StorageUnavailableError, StorageValidationError
from findings_orm.jsonstream import count_values_in
from findings_orm.limits import DEFAULT, FREE_BYTES, Limits
from findings_orm.private import remove_abandoned

# -- the lines of a backup: one JSON object each, with a checksum of its own in front ---------------------
# A line is ``{"crc":"1a2b3c4d",`` followed by the rest of the object: the CRC-32 is that of everything behind this prefix,
# without the newline. The first name behind it says what the line is: ``manifest``, ``project``, ``finding``, ...


HEAD = len('{"crc":"00000000",')
_PREFIX = b'{"crc":"%08x",'


def line_of(record: bytes) -> bytes:
    """Return a JSON object, given as JSON without line breaks, as a line."""
    body = record[1:]
    return b"%b%b\n" % (_PREFIX % crc32(body), body)


def is_intact(line: bytes) -> bool:
    """Return whether the checksum of a line (without its newline) fits."""
    return line[:HEAD] == _PREFIX % crc32(line[HEAD:])


def check_line(line: bytes, limits: Limits) -> None:
    """Compare a line, or what was read of it, with limits, before it becomes an object.

    Raises:
        LimitExceededError: it is larger, or has more values.
    """
    limits.check("max_document_bytes", len(line), "the size of the line, in bytes, is at least")
    marks = line.count(b",") + line.count(b"[") + line.count(b"{")
    if marks > limits.max_document_values:
        count = count_values_in(line.decode("latin-1"))
        limits.check("max_document_values", count, "the number of values in the line is at least")


def kind_of(line: bytes) -> str:
    """Return the first name behind the checksum of an intact line; "" where there is none."""
    end = line.find(b'"', HEAD + 1)
    return line[HEAD + 1 : end].decode(errors="replace") if line[HEAD : HEAD + 1] == b'"' else ""


def pack_record(record: object) -> bytes:
    """Return an object as a line."""
    return line_of(to_json(record))


def pack_ascii(record: object) -> bytes:
    """Return an object as a line in ASCII, which can hold lone surrogates too."""
    return line_of(json.dumps(record, separators=(",", ":"), allow_nan=False).encode())


def unpack_record(line: bytes) -> dict[str, Any]:
    """Return the object of an intact line, without its checksum.

    Raises:
        ValueError: it is not JSON.
    """
    text = b"{" + line[HEAD:]
    try:
        record: dict[str, Any] = from_json(text, allow_inf_nan=False)
    except ValueError:
        record = json.loads(text)  # lone surrogates, which only Python's own reader takes
    return record


# -- the container of a backup: zstd frames one after another, the last of them a seal over every byte before it
# zstd ignores some bits of its own headers, so its checksums alone would not notice each change. The seal holds the SHA-256
# of all bytes before it, and is itself stored uncompressed in a frame of which every byte follows from its content.


try:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError as error:
    raise ImportError("backups need zstd: pip install 'findings-orm[backup]'") from error

FRAME_TEXT = 4 * 1024 * 1024
"""After how many bytes of text a writer begins a new frame: what is intact after a damage begins there."""

MAGIC = b"\x28\xb5\x2f\xfd"
SEAL_HEAD = MAGIC + b"\xa0"
"""How the seal begins: a single segment whose size is given in four bytes, without a checksum (RFC 8878, 3.1.1.1)."""

_CHUNK = 256 * 1024
_TEXT_PIECE = 16 * 1024
TEXT_CHUNK = 512 * 1024
_WINDOW_LOG = 26
"""64 MB: level 19 takes 8."""

_SEAL_MOST = 64 * 1024

Damaged = Callable[[str], StorageIntegrityError]
"""Makes the error for a damage, which says where it is."""

SealLine = Callable[[int, str], bytes]
"""Makes the line of the seal from the number and the SHA-256 of the bytes before it."""


def seal_frame(line: bytes) -> bytes:
    """Return the zstd frame that holds a line as it is: one raw block, the last."""
    block = len(line) << 3 | 1
    return SEAL_HEAD + len(line).to_bytes(4, "little") + block.to_bytes(3, "little") + line


class FrameWriter:
    """Writes text as frames.

    Attributes:
        frames: how many frames were begun.
        text: bytes of text in the frame that is open; 0 when none is.
    """

    def __init__(self, stream: BinaryIO, level: int) -> None:
        parameter = zstd.CompressionParameter
        self._options: dict[int, int] = {parameter.compression_level: level, parameter.checksum_flag: 1}
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self._bytes = 0
        self._compressor = zstd.ZstdCompressor(options=self._options)
        self.frames = 0
        self.text = 0

    def write(self, text: bytes) -> None:
        """Write text into the frame that is open, else into a new one."""
        if text:
            self.frames += not self.text
            self.text += len(text)
            self._write_bytes(self._compressor.compress(text))

    def end_frame(self) -> None:
        """Close the open frame."""
        if self.text:
            self._write_bytes(self._compressor.flush(zstd.ZstdCompressor.FLUSH_FRAME))
            self.text = 0

    def _write_bytes(self, data: bytes) -> None:
        self._sha256.update(data)
        self._bytes += len(data)
        self._stream.write(data)

    def seal(self, line: SealLine) -> tuple[int, str]:
        """Close the backup; return how many bytes it has, and the SHA-256 that the seal holds."""
        self.end_frame()
        digest = self._sha256.hexdigest()
        frame = seal_frame(line(self._bytes, digest))
        self._stream.write(frame)
        return self._bytes + len(frame), digest


class FrameReader:
    """Reads frames strictly, in one pass.

    Attributes:
        frame: number of the frame that is read, from 1.
        offset: where in the file it begins.
        bytes, sha256: of all before the seal; known once that was read.
    """

    def __init__(self, stream: BinaryIO, damaged: Damaged, limits: Limits = DEFAULT) -> None:
        self._limits = limits
        self._unpacked = 0
        self._stream = stream
        self._damaged = damaged
        self._buffer = b""
        self._sha256 = hashlib.sha256()
        self.frame = 0
        self.offset = 0
        self.bytes = 0
        self.sha256 = ""

    def frames(self) -> Iterator[Iterator[bytes]]:
        """Yield the text of each frame in chunks; it has to be used up before the next one is asked for.

        Raises:
            StorageIntegrityError: a frame is damaged or is none. What is before the damage was yielded.
        """
        while not self._is_at_seal():
            self.frame += 1
            self.offset = self.bytes
            yield self._frame_text()

    def _is_at_seal(self) -> bool:
        self._fill_buffer(len(SEAL_HEAD))
        head = self._buffer[: len(SEAL_HEAD)]
        if head == SEAL_HEAD:
            return True
        if len(head) < len(SEAL_HEAD):
            raise self._damaged("the file ends without its closing record: it was cut off")
        if not is_frame_head(head):
            raise self._damaged("something follows that is no frame of a backup")
        return False

    def _fill_buffer(self, size: int) -> None:
        while len(self._buffer) < size and (data := self._stream.read(_CHUNK)):
            self._buffer += data

    def _frame_text(self) -> Iterator[bytes]:
        decompressor = new_decompressor()
        while not decompressor.eof:
            if not (data := self._buffer or self._stream.read(_CHUNK)):
                raise self._damaged("the file ends within the frame: it was cut off")
            for text in decompressed_text(decompressor, data, self._damaged):
                self._unpacked += len(text)
                if self._unpacked > FREE_BYTES:
                    times = self._unpacked // (self.bytes + len(data))
                    what = str(self._damaged("unpacked it is larger, by a factor of at least"))
                    self._limits.check("max_expansion_ratio", times, what)
                yield text
            self._buffer = decompressor.unused_data if decompressor.eof else b""
            self._sha256.update(memoryview(data)[: len(data) - len(self._buffer)])
            self.bytes += len(data) - len(self._buffer)

    def check_seal(self, line: SealLine) -> None:
        """Compare the seal with what was read, to the byte; nothing may follow it.

        Raises:
            StorageIntegrityError: they differ.
        """
        self._fill_buffer(_SEAL_MOST)
        self.sha256 = self._sha256.hexdigest()
        expected = seal_frame(line(self.bytes, self.sha256))
        if self._buffer == expected:
            return
        if self._buffer.startswith(expected):
            raise self._damaged("something follows the closing record")
        raise self._damaged(
            f"the closing record does not fit what is before it: {self.bytes} bytes with SHA-256 {self.sha256}"
        )


def new_decompressor() -> zstd.ZstdDecompressor:
    """Return what decompresses one frame, with no more memory than any level of `FrameWriter` makes necessary."""
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})


def decompressed_text(decompressor: zstd.ZstdDecompressor, data: bytes, damaged: Damaged) -> Iterator[bytes]:
    """Yield the text that compressed bytes add; what is before a damage is yielded before that is raised."""
    pieces: list[bytes] = []
    size = 0
    failure = None
    while not decompressor.eof and (data or not decompressor.needs_input):
        try:
            pieces.append(decompressor.decompress(data, _TEXT_PIECE))
        except (zstd.ZstdError, MemoryError) as error:
            failure = error
            break
        data = b""
        size += len(pieces[-1])
        if size >= TEXT_CHUNK:
            yield b"".join(pieces)
            pieces, size = [], 0
    if size:
        yield b"".join(pieces)
    if failure is not None:
        raise damaged(str(failure)) from failure


def is_frame_head(head: bytes) -> bool:
    """Return whether bytes begin a frame as backups have them: with a checksum, without a dictionary or unused bits."""
    return head[:4] == MAGIC and head[4] & 0b00011111 == 0b00000100


# -- the files that backups are: replaced only by a whole new one, opened as what they hold ---------------


def remove_leftovers(folder: pathlib.Path) -> list[pathlib.Path]:
    """Remove what killed backups left in a folder; return it. What a running one writes is locked, and stays."""
    return [
        path
        for path in sorted(folder.glob(".*.tmp"))
        if path.is_file() and remove_abandoned(path, MAGIC, AGE_HEAD)
    ]


@contextmanager
def open_backup(path: pathlib.Path, key: Key | None) -> Iterator[BinaryIO]:
    """Yield what a backup holds, decrypted where it is encrypted.

    Raises:
        StorageUnavailableError: the file can't be read.
        StorageValidationError: it is encrypted and there is no key.
        StorageIntegrityError: it can't be decrypted.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise StorageUnavailableError(f"{path}: can't be read: {error.strerror or error}") from error
    with file:
        if not is_encrypted(file):
            yield file
            return
        if key is None:
            raise StorageValidationError(f"{path}: is encrypted; opening it takes a secret key", field="key")
        with decrypting_stream(file, str(path), key) as stream:
            yield stream


def is_encrypted(file: BinaryIO) -> bool:
    """Return whether a file is encrypted; it is at its beginning afterwards."""
    head = file.read(len(AGE_HEAD))
    file.seek(0)
    return head == AGE_HEAD
