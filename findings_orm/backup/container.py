"""The container of a backup: zstd frames one after another, the last of them a seal over every byte before it.

zstd ignores some bits of its own headers, so its checksums alone would not notice each change. The seal holds the SHA-256 of
all bytes before it, and is itself stored uncompressed in a frame of which every byte follows from its content.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

from findings_orm.errors import StorageIntegrityError
from findings_orm.limits import DEFAULT, FREE_BYTES, Limits

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
            self._put(self._compressor.compress(text))

    def end_frame(self) -> None:
        """Close the open frame."""
        if self.text:
            self._put(self._compressor.flush(zstd.ZstdCompressor.FLUSH_FRAME))
            self.text = 0

    def _put(self, data: bytes) -> None:
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
        while not self._at_seal():
            self.frame += 1
            self.offset = self.bytes
            yield self._text()

    def _at_seal(self) -> bool:
        self._fill(len(SEAL_HEAD))
        head = self._buffer[: len(SEAL_HEAD)]
        if head == SEAL_HEAD:
            return True
        if len(head) < len(SEAL_HEAD):
            raise self._damaged("the file ends without its closing record: it was cut off")
        if not is_frame_head(head):
            raise self._damaged("something follows that is no frame of a backup")
        return False

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size and (data := self._stream.read(_CHUNK)):
            self._buffer += data

    def _text(self) -> Iterator[bytes]:
        decompressor = new_decompressor()
        while not decompressor.eof:
            if not (data := self._buffer or self._stream.read(_CHUNK)):
                raise self._damaged("the file ends within the frame: it was cut off")
            for text in decompressed(decompressor, data, self._damaged):
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
        self._fill(_SEAL_MOST)
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


def decompressed(decompressor: zstd.ZstdDecompressor, data: bytes, damaged: Damaged) -> Iterator[bytes]:
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
