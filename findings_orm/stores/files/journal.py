"""Checksummed lines, and the journal that is made of them: one line a transaction, each naming the one before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from findings_orm.errors import SchemaVersionError, StorageIntegrityError
from findings_orm.finding import KNOWN_VERSIONS, SCHEMA_VERSION

FORMAT = "findings-orm journal"
LAYOUT = 1
_SUM = 32
_HEAD = b'{"sum":"'
_MIDDLE = b'","record":'
_START = len(_HEAD) + _SUM + len(_MIDDLE)


def pack_line(record: Any) -> tuple[bytes, str]:
    """Return a record as a line with its checksum, and the checksum."""
    return _checksummed_line(to_json(record))


def to_json(value: Any) -> bytes:
    """Return a value as compact JSON in ASCII, which can hold lone surrogates too."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _checksummed_line(body: bytes) -> tuple[bytes, str]:
    checksum = _line_checksum(body)
    return _HEAD + checksum.encode() + _MIDDLE + body + b"}\n", checksum


def unpack_line(line: bytes) -> tuple[Any, str]:
    """Return record and checksum of a line (without its end). Raises ValueError, saying what is wrong."""
    body = line[_START:-1]
    checksum = line[len(_HEAD) : len(_HEAD) + _SUM]
    if line != _HEAD + checksum + _MIDDLE + body + b"}" or _line_checksum(body).encode() != checksum:
        raise ValueError("the checksum does not fit the line")
    return json.loads(body), checksum.decode()


def _line_checksum(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=_SUM // 2).hexdigest()


@dataclass(frozen=True, slots=True)
class Position:
    """How far a journal was read: the header's values, and where the last whole record ends.

    Attributes:
        generation: the generation of the snapshot that the journal continues.
        version: the schema version of its documents.
        end: bytes up to the end of the last whole record.
        lines: how many lines that are.
        last: checksum of the last line.
        torn: bytes after `end`: a record that was never finished.
    """

    generation: int
    version: str
    end: int
    lines: int
    last: str
    torn: int = 0


def header_line(generation: int) -> bytes:
    """Return the first line of a journal."""
    record = {
        "format": FORMAT,
        "layout": LAYOUT,
        "generation": generation,
        "finding_schema_version": SCHEMA_VERSION,
    }
    return pack_line(record)[0]


def record_line(number: int, previous: str, operations: bytes) -> tuple[bytes, str]:
    """Return the line of a transaction, its operations given as JSON, and its checksum."""
    return _checksummed_line(
        b'{"n":%d,"previous":"%s","operations":%s}' % (number, previous.encode(), operations)
    )


def read_header(path: Path, data: bytes) -> Position:
    """Return the position after the first line.

    Raises:
        StorageIntegrityError: it is damaged.
        SchemaVersionError: a newer release wrote the journal.
    """
    line, end, _ = data.partition(b"\n")
    try:
        if not end:
            raise ValueError("the line has no end")
        record, checksum = unpack_line(line)
        generation, version = int(record["generation"]), str(record["finding_schema_version"])
        layout = int(record["layout"])
    except (ValueError, KeyError, TypeError) as error:
        raise damage_error(path, 1, str(error)) from error
    check_versions(path, layout, version)
    return Position(generation, version, len(line) + 1, 1, checksum)


def check_versions(path: Path, layout: int, version: str) -> None:
    """Refuse files of a newer release."""
    if layout > LAYOUT or version not in KNOWN_VERSIONS:
        raise SchemaVersionError(
            f"{path}: was written by another release (layout {layout}, finding schema {version}); "
            f"this one knows layout {LAYOUT} and {', '.join(KNOWN_VERSIONS)}: update findings-orm"
        )


def read_records(path: Path, data: bytes, after: Position) -> Iterator[tuple[Position, list[Any]]]:
    """Yield the operations of each record of `data`, the journal's bytes from `after.end` on.

    With each comes the position after it. A last line without an end was never acknowledged: it is not yielded, and
    the last position names its length as `torn`. Each line names the one before it, so that one that is missing,
    doubled or out of its place is found.

    Raises:
        StorageIntegrityError: any other line is damaged; names file and line.
    """
    *lines, rest = data.split(b"\n")
    position = after
    for line in lines:
        number = position.lines + 1
        try:
            record, checksum = unpack_line(line)
            if record["previous"] != position.last or record["n"] != number:
                raise ValueError("the line before it is missing or another one")
            operations = list(record["operations"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise damage_error(path, number, str(error)) from error
        position = Position(after.generation, after.version, position.end + len(line) + 1, number, checksum)
        yield position, operations
    yield replace(position, torn=len(rest)), []


def position_after_cut(position: Position) -> Position:
    """Return the position in a journal whose unfinished record was cut off."""
    return replace(position, torn=0)


def damage_error(path: Path, line: int | None, reason: str) -> StorageIntegrityError:
    """Return the error for a damaged file."""
    place = f"{path}, line {line}" if line else str(path)
    return StorageIntegrityError(
        f"{place}: is damaged: {reason}; 'findings file repair' saves what is intact"
    )


def position_after_append(position: Position, length: int, lines: int, last: str) -> Position:
    """Return the position after lines that were appended."""
    return replace(position, end=position.end + length, lines=position.lines + lines, last=last)
