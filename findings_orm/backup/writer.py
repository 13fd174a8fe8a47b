"""The lines of a backup, written in their order, in frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

from findings_orm.backup.container import FRAME_TEXT, FrameWriter
from findings_orm.backup.lines import pack
from findings_orm.backup.manifest import Manifest, Place, ProjectHead, SectionEnd, State
from findings_orm.backup.reading import seal_line
from findings_orm.backup.sections import SECTIONS, Tally

LEVEL = 3
"""The level of compression: 1 (fast) to 19 (small)."""


@dataclass(slots=True)
class Writer:
    """Writes the lines of a backup, in frames."""

    stream: BinaryIO
    manifest: Manifest
    level: int = LEVEL
    records: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SECTIONS, 0))
    text_bytes: int = 0
    _lines: int = 0
    _frames: FrameWriter = field(init=False)
    _project: ProjectHead | None = None
    _section: str = ""
    _tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._frames = FrameWriter(self.stream, self.level)
        self._write([pack({"manifest": self.manifest.model_dump(exclude_defaults=True)})])

    def _write(self, lines: list[bytes]) -> None:
        text = b"".join(lines)
        self._lines += len(lines)
        self.text_bytes += len(text)
        self._frames.write(text)
        if self._frames.text >= FRAME_TEXT:
            self._frames.end_frame()

    def _place(self) -> None:
        """Say where the frame is that begins, unless it is the first."""
        if self._frames.text:
            return
        number, line, section = self._frames.frames + 1, self._lines + 1, self._section or None
        place = Place(
            number=number, line=line, project=self._project, section=section, count=self._tally.state.count
        )
        self._write([pack({"frame": place.model_dump()})])

    @property
    def open_section(self) -> tuple[str, str]:
        """The project and the section that are open."""
        return (self._project.id if self._project else ""), self._section

    def begin(self, project: ProjectHead) -> None:
        """Begin a project."""
        self._place()
        self._write([pack({"project": project.model_dump()})])
        self._project = project
        self._enter(SECTIONS[0])

    def _enter(self, section: str) -> None:
        self._section, self._tally = section, Tally()

    def add(self, lines: list[bytes]) -> None:
        """Add records (or what was removed) of the section that is open."""
        if not lines:
            return
        self._place()
        self._tally.add(lines)
        self._write(lines)

    def end_section(self, state: State | None = None, *, known: bool = True) -> None:
        """End the section that is open, and with the last one the project.

        Args:
            state: the records that the project has of it, where these are not those that were added.
            known: whether that is known at all.
        """
        self._place()
        written = self._tally.state
        if known:
            state = state or written
        end = SectionEnd(name=self._section, count=written.count, sha256=written.sha256, state=state)
        self._write([pack({"section": end.model_dump()})])
        self.records[self._section] += written.count
        position = SECTIONS.index(self._section) + 1
        if position < len(SECTIONS):
            self._enter(SECTIONS[position])
        else:
            self._project = None
            self._enter("")

    def seal(self) -> tuple[int, str]:
        """Close the backup; return its size and the SHA-256 that its seal holds."""
        backup_id, lines = self.manifest.id, self._lines
        return self._frames.seal(lambda size, sha256: seal_line(backup_id, lines, size, sha256))
