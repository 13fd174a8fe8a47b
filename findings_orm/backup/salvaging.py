"""What is intact of a damaged backup, written to a new one."""

from __future__ import annotations

import mmap
import os
import pathlib
import tempfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import ValidationError

from findings_orm.arguments import checked
from findings_orm.backup.chains import survey_backup
from findings_orm.backup.container import (
    MAGIC,
    SEAL_HEAD,
    check_line,
    decompressed_text,
    is_encrypted,
    is_frame_head,
    is_intact,
    kind_of,
    new_decompressor,
    open_backup,
    unpack_record,
)
from findings_orm.backup.encryption import Key
from findings_orm.backup.manifest import FORMAT, Manifest, Place, ProjectHead, SectionEnd, read_manifest
from findings_orm.backup.progress import SILENT, Progress
from findings_orm.backup.sections import RECORD, SECTIONS, RecordKey, record_key
from findings_orm.backup.verifying import check_record
from findings_orm.backup.writing import Writer, backup_stream
from findings_orm.clock import now, uuid7
from findings_orm.errors import (
    LimitExceededError,
    StorageError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
)
from findings_orm.limits import DEFAULT, Limits
from findings_orm.private import writing
from findings_orm.process import block

# -- A damaged backup searched for frames, and in them for lines that are intact --------------------------


_SCAN_STEP = 256 * 1024
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
                end = yield from self._scan_frame(position)
            position = end or position + 1
        if self._read >= 0 and self._data[self._read : self._read + 5] != SEAL_HEAD:
            self.damages.append(f"{self._where}: behind byte {self._read} nothing is intact")

    def _scan_frame(self, start: int) -> Generator[Found, None, int]:
        """Yield what a frame has; return where it ends, 0 for a damaged one."""
        rest, number, good = b"", 0, 0
        try:
            for chunk in self._frame_texts(start):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > self._limits.max_document_bytes:
                    rest = rest[
                        :1
                    ]  # no line of a backup: whatever follows up to its end, the checksum won't fit
                for line in lines:
                    number += 1
                    if is_intact(line) and self._fits_limits(line):
                        good += 1
                        if good == 1:
                            self._enter_frame(start)
                        found = self._read_line(line)
                        if found is not None:
                            yield found
                    elif good:
                        self._note_damage(start, f"line {number} of the frame is damaged")
            self._read = self._end
            return self._end
        except StorageIntegrityError as error:
            if good:
                self._note_damage(start, f"{error}; {good} lines of it are intact")
                self._read = -1
            return 0

    def _fits_limits(self, line: bytes) -> bool:
        try:
            check_line(line, self._limits)
        except LimitExceededError as error:
            self.damages.append(f"{self._where}: {error}")
            return False
        return True

    def _enter_frame(self, start: int) -> None:
        """Take a frame for one: what is before it and was not read is lost, and so is what it said."""
        if self._read >= 0 and start > self._read:
            self.damages.append(f"{self._where}: bytes {self._read} to {start} hold no intact frame")
        if start != self._read:
            self._project = None

    def _frame_texts(self, start: int) -> Iterator[bytes]:
        decompressor = new_decompressor()
        position = start
        while not decompressor.eof:
            data = self._data[position : position + _SCAN_STEP]
            if not data:
                raise StorageIntegrityError("the file ends within the frame")
            position += len(data)
            yield from decompressed_text(decompressor, data, StorageIntegrityError)
        self._end = position - len(decompressor.unused_data)

    def _note_damage(self, start: int, what: str) -> None:
        place = f"{self._section or 'line'} of project {self._project.id!r}: " if self._project else ""
        self.damages.append(f"{self._where}: frame at byte {start}: {place}{what}")

    def _read_line(self, line: bytes) -> Found | None:
        try:
            return self._interpret_line(kind_of(line), line)
        except (ValidationError, StorageError, ValueError, TypeError, KeyError) as error:
            self.damages.append(f"{self._where}: {error}")
            return None

    def _interpret_line(self, kind: str, line: bytes) -> Found | None:
        if kind == "manifest":
            self.manifest = read_manifest(self._where, unpack_record(line))
        elif kind == "project":
            self._project, self._section = ProjectHead.model_validate(unpack_record(line)[kind]), SECTIONS[0]
            return Found(self._project, self._section, None)
        elif kind == "frame":
            place = Place.model_validate(unpack_record(line)[kind])
            self._project, self._section = place.project, place.section or ""
        elif self._project is not None and kind == "section":
            end = SectionEnd.model_validate(unpack_record(line)[kind])
            found = Found(self._project, end.name, None, end)
            following = SECTIONS.index(end.name) + 1
            self._section = SECTIONS[following] if following < len(SECTIONS) else ""
            return found
        elif self._project is not None and kind in (*_SECTION_OF, "removed"):
            return Found(self._project, _SECTION_OF.get(kind, self._section), line)
        return None


# -- what is intact of a damaged backup, written to a new one ---------------------------------------------


_STEP = 256 * 1024


@dataclass(slots=True)
class SalvageReport:
    """What was saved of a damaged backup.

    Attributes:
        path: the new backup.
        records: how many records of each section are in it.
        lost: how many are known to be missing, by project and section: those of which the end of the section is intact.
        damages: what was damaged, in words, from the front to the back.
    """

    path: pathlib.Path
    records: dict[str, int] = field(default_factory=dict)
    lost: dict[str, dict[str, int]] = field(default_factory=dict)
    damages: list[str] = field(default_factory=list)


@checked
def salvage_backup(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    key: Key | None = None,
    progress: Progress = SILENT,
    limits: Limits = DEFAULT,
) -> SalvageReport:
    """Write every intact record of a damaged backup to a new backup, which verifies and restores like any other.

    An encrypted one is read up to its first damage: what is behind that can't be decrypted. The new one is encrypted again.

    Args:
        path: the damaged backup.
        target: the new one.
        key: opens an encrypted one.
        progress: is told how far the work is.
        limits: how large a line may be; a larger one counts as damaged.

    Raises:
        StorageIntegrityError: nothing is intact, or it is an incremental one without its manifest.
        StorageUnavailableError, StorageValidationError: as `verify_backup`.
    """
    source, report = pathlib.Path(path), SalvageReport(pathlib.Path(target))
    same = False
    with suppress(OSError):  # one of them is not there, or can't be: who opens it says so
        same = report.path.samefile(source)
    if same:
        raise StorageValidationError.of_field(
            "target", "must be another file than the damaged one", str(target)
        )
    with _plain_bytes(source, key, report.damages) as (data, was_encrypted):
        scan = Scan(data, str(source), limits)
        manifest = _salvaged_manifest(scan, source)
        report.damages += scan.damages
        progress.phase("salvaging, ", manifest.findings)
        with (
            writing(report.path, alone=True) as (_, file),
            backup_stream(file, key if was_encrypted else None) as stream,
        ):
            writer = Writer(stream, manifest)
            _write_salvaged(writer, Scan(data, str(source), limits), report, progress)
            writer.seal()
            report.records = writer.records
    if not report.damages:
        try:
            survey_backup(source, key, limits)
        except (StorageIntegrityError, LimitExceededError) as error:
            report.damages.append(str(error))
    return report


@block
def _plain_bytes(
    path: pathlib.Path, key: Key | None, damages: list[str]
) -> Iterator[tuple[mmap.mmap | bytes, bool]]:
    """Yield the bytes of a backup, decrypted as far as that goes, and whether they were encrypted."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise StorageUnavailableError(f"{path}: can't be read: {error.strerror or error}") from error
    with file, tempfile.TemporaryFile() as decrypted:
        was_encrypted = is_encrypted(file)
        if was_encrypted:
            try:
                with open_backup(path, key) as stream:
                    while chunk := stream.read(_STEP):
                        decrypted.write(chunk)
            except StorageIntegrityError as error:
                damages.append(str(error))
            decrypted.flush()
        chosen = decrypted if was_encrypted else file
        if os.fstat(chosen.fileno()).st_size == 0:
            raise StorageIntegrityError(f"{path}: nothing of it is intact")
        with mmap.mmap(chosen.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data, was_encrypted


def _salvaged_manifest(scan: Scan, path: pathlib.Path) -> Manifest:
    """Return the manifest of the new backup."""
    projects: set[str] = set()
    findings, removing, version = 0, False, ""
    for found in scan.lines():
        projects.add(found.project.id)
        if found.line is not None:
            findings += found.section == "findings"
            kind = kind_of(found.line)
            removing = removing or kind == "removed"
            if kind == "finding" and not version:
                with suppress(ValueError, KeyError, TypeError):
                    version = str(unpack_record(found.line)["finding"]["finding_schema_version"])
    old = scan.manifest
    if not projects:
        raise StorageIntegrityError(f"{path}: nothing of it is intact")
    if old is None and (removing or not version):
        raise StorageIntegrityError(f"{path}: its manifest is lost, and with it what it continued")
    return Manifest(
        format=FORMAT,
        id=uuid7(),
        created_at=old.created_at if old else now(),
        schema_version=old.schema_version if old else version,
        release=old.release if old else "",
        source=old.source if old else "",
        projects=sorted(projects),
        findings=findings,
        since=old.since if old else None,
        salvaged=True,
    )


def _write_salvaged(writer: Writer, scan: Scan, report: SalvageReport, progress: Progress) -> None:
    """Write what is intact and valid, in its order."""
    known = writer.manifest.since is None
    version = writer.manifest.schema_version
    last: tuple[str, int, RecordKey] = ("", -1, ())
    kept = 0
    for found in scan.lines():
        place = (found.project.id, SECTIONS.index(found.section))
        if place < last[:2]:
            report.damages.append(f"{report.path}: {found.section} of {found.project.id!r} out of order")
            continue
        if place != last[:2]:
            _advance_writer(writer, found, known=known)
            last, kept = (*place, ()), 0
        if found.line is not None:
            try:
                record = unpack_record(found.line)
                check_record(found.project.id, found.section, record, version)
                key = record_key(found.section, record)
                if last[2] and not last[2] < key:
                    raise ValueError(f"{key} does not come after {last[2]}")
            except (ValidationError, StorageError, ValueError, TypeError, KeyError) as error:
                report.damages.append(f"{found.section} of project {found.project.id!r}: {error}")
                continue
            last = (*place, key)
            kept += 1
            writer.add([found.line + b"\n"])
            progress.add(found.section == "findings")
        elif found.end is not None and found.end.count > kept:
            report.lost.setdefault(found.project.id, {})[found.section] = found.end.count - kept
    _advance_writer(writer, None, known=known)


def _advance_writer(writer: Writer, found: Found | None, *, known: bool) -> None:
    """End and begin sections and projects until the one of `found` is open; None ends all."""
    while True:
        project_id, section = writer.open_section
        if found is not None and (project_id, section) == (found.project.id, found.section):
            return
        if project_id:
            writer.end_section(known=known)
        elif found is None:
            return
        else:
            writer.begin_project(
                ProjectHead(id=found.project.id, revision=None, created_at=found.project.created_at)
            )
