"""Text of findings on its way to a terminal: it comes from scanned targets, so it is never trusted.

A terminal obeys control characters (colours, titles, cursor movement, replies typed for the user) and shows text
with bidirectional marks in another order. `safe` makes all of them visible as escapes.
"""

from __future__ import annotations

import json
import re
from typing import TextIO

_HIDDEN = (
    "\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_UNSAFE = re.compile(f"[\x00-\x1f\x7f-\x9f{_HIDDEN}]")
_UNSAFE_IN_FILES = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{_HIDDEN}]|\r(?!\n)")
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def safe(text: object) -> str:
    """Return `text` as one line without any character that a terminal acts upon."""
    return _UNSAFE.sub(_escape, str(text))


def safe_lines(text: object) -> list[str]:
    """Return the lines of `text`, each one `safe`, tabs as spaces."""
    return [safe(line) for line in str(text).expandtabs(4).replace("\r\n", "\n").split("\n")]


def shorten(text: str, width: int) -> str:
    """Return `text` cut to `width` characters, with an ellipsis where something is missing."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if character in _NAMED:
        return _NAMED[character]
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


class TerminalSafe:
    """A text stream for files shown on a terminal: what that would act upon is escaped, as JSON does it."""

    encoding = "utf-8"

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`, escaped."""
        self._stream.write(_UNSAFE_IN_FILES.sub(lambda match: json.dumps(match.group())[1:-1], text))
        return len(text)

    def flush(self) -> None:
        """Pass on what is buffered."""
        self._stream.flush()
