"""A backup read from front to back: every checksum, count and digest is compared on the way."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from findings_orm.backup.container import (
    TEXT_CHUNK,
    FrameReader,
    check_line,
    is_intact,
    kind_of,
    open_backup,
    pack_record,
    unpack_record,
)
from findings_orm.backup.encryption import Key
from findings_orm.backup.manifest import (
    Manifest,
    Place,
    ProjectHead,
    SectionEnd,
    first_fault,
    read_manifest,
)
from findings_orm.backup.sections import BATCH, BATCH_BYTES, RECORD, SECTIONS
from findings_orm.errors import LimitExceededError, StorageIntegrityError
from findings_orm.limits import DEFAULT, Limits
from findings_orm.process import block

Model = TypeVar("Model", bound=BaseModel)


class Part(NamedTuple):
    """Some lines of a section, without their newlines; the last part of a section has its `end`, and may be empty."""

    project: ProjectHead
    section: str
    lines: list[bytes]
    end: SectionEnd | None


def seal_line(backup_id: str, lines: int, size: int, sha256: str) -> bytes:
    """Return the line of the seal: how many lines and bytes are before it, and the SHA-256 of these bytes."""
    return pack_record({"end": {"id": backup_id, "lines": lines, "bytes": size, "sha256": sha256}})


class Reader:
    """Reads one backup.

    Attributes:
        manifest: its first line.
        lines: how many lines were read so far.
        sha256: what the seal holds; known once `read_parts` is used up.
    """

    def __init__(self, stream: BinaryIO, where: str, limits: Limits = DEFAULT) -> None:
        self.where = where
        self._limits = limits.of_lines
        self._frames = FrameReader(stream, self.damage_error, limits)
        self._texts = self._frames.frames()
        self.lines = 0
        self.sha256 = ""
        self._project: ProjectHead | None = None
        self._section = ""
        self._count = 0
        self._stream = self._checked_lines()
        first = next(self._stream, b"")
        self.manifest: Manifest = read_manifest(where, self._read_record(first) if first else {})

    def _checked_lines(self) -> Iterator[bytes]:
        """Yield the lines of all frames without those that say where a frame is."""
        for text in self._texts:
            rest, opening = b"", self.lines > 0
            for chunk in text:
                *lines, rest = (rest + chunk).split(b"\n")
                self._check_size(lines[0] if lines else rest)
                for line in lines:
                    self.lines += 1
                    if not is_intact(line):
                        raise self.damage_error("the checksum of the line does not fit")
                    if opening:
                        opening = False
                        self._check_place(line)
                    else:
                        yield line
            if rest:
                raise self.damage_error("the frame ends within a line")

    def _check_size(self, line: bytes) -> None:
        """Refuse a line that is too large, read to its end or not."""
        if len(line) <= TEXT_CHUNK:
            return
        try:
            check_line(line, self._limits)
        except LimitExceededError as error:
            raise LimitExceededError(
                str(self.damage_error(str(error))), rule=error.rule, value=error.value
            ) from error

    def _check_place(self, line: bytes) -> None:
        place = self._read_model(line, "frame", Place)
        section = self._section or None
        expected = Place(
            number=self._frames.frame,
            line=self.lines,
            project=self._project,
            section=section,
            count=self._count,
        )
        if place != expected:
            raise self.damage_error(f"does not follow what is before it: it says {place!r}")

    def read_parts(self) -> Iterator[Part]:
        """Yield everything in order, and check the seal at the end.

        Raises:
            StorageIntegrityError: something is damaged or missing; names the line, and the record where there is one.
        """
        for project_id in self.manifest.projects:
            line = next(self._stream, None)
            if line is None:
                raise self.damage_error(f"project {project_id!r} is missing")
            self._project = self._read_model(line, "project", ProjectHead)
            if self._project.id != project_id:
                raise self.damage_error(
                    f"the manifest has project {project_id!r} here, not {self._project.id!r}"
                )
            for self._section in SECTIONS:
                self._count = 0
                yield from self._section_parts(self._project)
            self._project, self._section, self._count = None, "", 0
        if next(self._stream, None) is not None:
            raise self.damage_error("is not of a project that the manifest names")
        self._frames.check_seal(lambda size, sha256: seal_line(self.manifest.id, self.lines, size, sha256))
        self.sha256 = self._frames.sha256

    def _section_parts(self, project: ProjectHead) -> Iterator[Part]:
        digest = hashlib.sha256()
        wanted, size = RECORD[self._section], 0
        found: list[bytes] = []
        removing = self.manifest.since is not None
        for line in self._stream:
            kind = kind_of(line)
            if kind == wanted or (removing and kind == "removed"):
                self._count += 1
                found.append(line)
                size += len(line)
                if len(found) == BATCH or size >= BATCH_BYTES:
                    digest.update(b"\n".join(found) + b"\n")
                    yield Part(project, self._section, found, None)
                    found, size = [], 0
                continue
            if found:
                digest.update(b"\n".join(found) + b"\n")
            yield Part(project, self._section, found, self._read_section_end(line, digest.hexdigest()))
            return
        raise self.damage_error(f"the {self._section} of project {project.id!r} don't end")

    def _read_section_end(self, line: bytes, sha256: str) -> SectionEnd:
        end = self._read_model(line, "section", SectionEnd)
        if (end.name, end.count, end.sha256) != (self._section, self._count, sha256):
            raise self.damage_error(f"says {end!r}, but there were {self._count} with SHA-256 {sha256}")
        if self.manifest.since is None and (
            end.state is None or (end.state.count, end.state.sha256) != (end.count, end.sha256)
        ):
            raise self.damage_error("the state is not that of the records")
        return end

    def _read_model(self, line: bytes, kind: str, model: type[Model]) -> Model:
        record = self._read_record(line)
        if list(record) != [kind]:
            raise self.damage_error(f"must be a line of the kind {kind!r}, is {kind_of(line)!r}")
        try:
            return model.model_validate(record[kind])
        except ValidationError as error:
            raise self.damage_error(first_fault(error)) from error

    def _read_record(self, line: bytes) -> dict[str, object]:
        try:
            return unpack_record(line)
        except (ValueError, RecursionError) as error:
            raise self.damage_error(f"is not JSON: {error}") from error

    def damage_error(self, what: str) -> StorageIntegrityError:
        """Return the error for a damage of what comes now: the line, and the record that it holds or begins with."""
        place = f"{self.where}: line {self.lines} (frame {self._frames.frame} at byte {self._frames.offset})"
        if self._project is not None and self._section:
            place += f": {RECORD[self._section]} {self._count + 1} of project {self._project.id!r}"
        return StorageIntegrityError(f"{place}: {what}")


@block
def reading(path: pathlib.Path, key: Key | None = None, limits: Limits = DEFAULT) -> Iterator[Reader]:
    """Open a backup for reading; its lines may be four times as large as `limits` allow for a document.

    Raises:
        StorageUnavailableError, StorageValidationError, StorageIntegrityError: as `open_backup`, `Reader`.
        SchemaVersionError: it is of a newer release.
    """
    with open_backup(path, key) as stream:
        yield Reader(stream, str(path), limits)
