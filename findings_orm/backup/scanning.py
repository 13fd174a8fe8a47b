"""A damaged backup searched for frames, and in them for lines that are intact."""

from __future__ import annotations

import mmap
from collections.abc import Generator, Iterator
from typing import NamedTuple

from pydantic import ValidationError

from findings_orm.backup.container import MAGIC, SEAL_HEAD, decompressed, is_frame_head, new_decompressor
from findings_orm.backup.lines import check_line, is_intact, kind_of, unpack
from findings_orm.backup.manifest import Manifest, Place, ProjectHead, SectionEnd, read_manifest
from findings_orm.backup.sections import RECORD, SECTIONS
from findings_orm.errors import LimitExceededError, StorageError, StorageIntegrityError
from findings_orm.limits import DEFAULT, Limits

_STEP = 256 * 1024
_SECTION_OF = {record: section for section, record in RECORD.items()}


class Found(NamedTuple):
    """An intact line that says something of a project."""

    project: ProjectHead
    section: str
    line: bytes | None
    end: SectionEnd | None = None


class Scan:
    """Finds frames, and in them intact lines."""

    def __init__(self, data: mmap.mmap | bytes, where: str, limits: Limits = DEFAULT) -> None:
        self._limits = limits.of_lines
        self._data = data
        self._where = where
        self.damages: list[str] = []
        self.manifest: Manifest | None = None
        self._project: ProjectHead | None = None
        self._section = ""
        self._end = 0
        self._read = 0

    def lines(self) -> Iterator[Found]:
        """Yield what is intact, from the front to the back."""
        position = 0
        while (position := self._data.find(MAGIC, position)) >= 0:
            head = self._data[position : position + 5]
            end = 0
            if head != SEAL_HEAD and is_frame_head(head):
                end = yield from self._frame(position)
            position = end or position + 1
        if self._read >= 0 and self._data[self._read : self._read + 5] != SEAL_HEAD:
            self.damages.append(f"{self._where}: behind byte {self._read} nothing is intact")

    def _frame(self, start: int) -> Generator[Found, None, int]:
        """Yield what a frame has; return where it ends, 0 for a damaged one."""
        rest, number, good = b"", 0, 0
        try:
            for chunk in self._texts(start):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > self._limits.max_document_bytes:
                    rest = rest[
                        :1
                    ]  # no line of a backup: whatever follows up to its end, the checksum won't fit
                for line in lines:
                    number += 1
                    if is_intact(line) and self._fits(line):
                        good += 1
                        if good == 1:
                            self._enter(start)
                        found = self._take(line)
                        if found is not None:
                            yield found
                    elif good:
                        self._note(start, f"line {number} of the frame is damaged")
            self._read = self._end
            return self._end
        except StorageIntegrityError as error:
            if good:
                self._note(start, f"{error}; {good} lines of it are intact")
                self._read = -1
            return 0

    def _fits(self, line: bytes) -> bool:
        try:
            check_line(line, self._limits)
        except LimitExceededError as error:
            self.damages.append(f"{self._where}: {error}")
            return False
        return True

    def _enter(self, start: int) -> None:
        """Take a frame for one: what is before it and was not read is lost, and so is what it said."""
        if self._read >= 0 and start > self._read:
            self.damages.append(f"{self._where}: bytes {self._read} to {start} hold no intact frame")
        if start != self._read:
            self._project = None

    def _texts(self, start: int) -> Iterator[bytes]:
        decompressor = new_decompressor()
        position = start
        while not decompressor.eof:
            data = self._data[position : position + _STEP]
            if not data:
                raise StorageIntegrityError("the file ends within the frame")
            position += len(data)
            yield from decompressed(decompressor, data, StorageIntegrityError)
        self._end = position - len(decompressor.unused_data)

    def _note(self, start: int, what: str) -> None:
        place = f"{self._section or 'line'} of project {self._project.id!r}: " if self._project else ""
        self.damages.append(f"{self._where}: frame at byte {start}: {place}{what}")

    def _take(self, line: bytes) -> Found | None:
        try:
            return self._understood(kind_of(line), line)
        except (ValidationError, StorageError, ValueError, TypeError, KeyError) as error:
            self.damages.append(f"{self._where}: {error}")
            return None

    def _understood(self, kind: str, line: bytes) -> Found | None:
        if kind == "manifest":
            self.manifest = read_manifest(self._where, unpack(line))
        elif kind == "project":
            self._project, self._section = ProjectHead.model_validate(unpack(line)[kind]), SECTIONS[0]
            return Found(self._project, self._section, None)
        elif kind == "frame":
            place = Place.model_validate(unpack(line)[kind])
            self._project, self._section = place.project, place.section or ""
        elif self._project is not None and kind == "section":
            end = SectionEnd.model_validate(unpack(line)[kind])
            found = Found(self._project, end.name, None, end)
            following = SECTIONS.index(end.name) + 1
            self._section = SECTIONS[following] if following < len(SECTIONS) else ""
            return found
        elif self._project is not None and kind in (*_SECTION_OF, "removed"):
            return Found(self._project, _SECTION_OF.get(kind, self._section), line)
        return None
