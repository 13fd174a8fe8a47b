"""Where an export goes: a stream of bytes or of text."""

from __future__ import annotations

import io
from typing import BinaryIO, TextIO

from findings_orm.errors import StorageUnavailableError, StorageValidationError

Stream = BinaryIO | TextIO
"""What an export is written to; a stream of bytes gets UTF-8."""


class TextSink:
    """Writes text to a stream of either kind.

    Raises:
        StorageUnavailableError: writing failed: disk full, pipe closed.
    """

    def __init__(self, stream: Stream) -> None:
        if not callable(getattr(stream, "write", None)):
            raise StorageValidationError.of_field("stream", "must be a stream that can be written", stream)
        self._stream = stream
        self._is_text = isinstance(stream, io.TextIOBase) or hasattr(stream, "encoding")

    def write(self, text: str) -> int:
        """Write `text` and return its length."""
        try:
            self._stream.write(text if self._is_text else text.encode())  # type: ignore[arg-type]
        except OSError as error:
            raise StorageUnavailableError(f"writing failed: {error.strerror or error}") from error
        return len(text)
