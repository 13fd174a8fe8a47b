"""The lines of a backup: one JSON object each, with a checksum of its own in front.

A line is ``{"crc":"1a2b3c4d",`` followed by the rest of the object: the CRC-32 is that of everything behind this prefix,
without the newline. The first name behind it says what the line is: ``manifest``, ``project``, ``finding``, ...
"""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

from pydantic_core import from_json, to_json

from findings_orm.jsonstream import values_in
from findings_orm.limits import Limits

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
        count = values_in(line.decode("latin-1"))
        limits.check("max_document_values", count, "the number of values in the line is at least")


def kind_of(line: bytes) -> str:
    """Return the first name behind the checksum of an intact line; "" where there is none."""
    end = line.find(b'"', HEAD + 1)
    return line[HEAD + 1 : end].decode(errors="replace") if line[HEAD : HEAD + 1] == b'"' else ""


def pack(record: Any) -> bytes:
    """Return an object as a line."""
    return line_of(to_json(record))


def pack_ascii(record: Any) -> bytes:
    """Return an object as a line in ASCII, which can hold lone surrogates too."""
    return line_of(json.dumps(record, separators=(",", ":"), allow_nan=False).encode())


def unpack(line: bytes) -> dict[str, Any]:
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
