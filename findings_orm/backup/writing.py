"""A backup made of a live store: one instant of it, with memory that does not grow with it."""

from __future__ import annotations

import hashlib
import os
import pathlib
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import BinaryIO

from findings_orm.backup.encryption import Key, encrypting
from findings_orm.backup.files import replacing
from findings_orm.backup.frames import FRAME_TEXT, FrameWriter
from findings_orm.backup.lines import pack
from findings_orm.backup.manifest import FORMAT, Manifest, Place, ProjectHead, SectionEnd, State
from findings_orm.backup.progress import SILENT, Progress
from findings_orm.backup.reading import seal_line
from findings_orm.backup.sections import SECTIONS, section_lines
from findings_orm.errors import FindingNotFoundError, StorageUnavailableError, StorageValidationError
from findings_orm.finding import SCHEMA_VERSION
from findings_orm.ids import now, uuid7
from findings_orm.port import FindingStore
from findings_orm.query import FindingQuery
from findings_orm.records import Records
from findings_orm.store import Store

LEVEL = 3
"""The level of compression: 1 (fast) to 19 (small)."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup holds.

    Attributes:
        path: the file.
        id: of the backup.
        sha256: of the backup without its seal (before encryption); the seal holds it.
        projects: how many.
        records: how many lines of each section the file has.
        findings: how many findings the projects have; for an incremental backup more than the file has.
        bytes: size of the file.
        text_bytes: size of the text in it.
        seconds: how long it took.
        verified: it was read back and compared. Without a secret key only the bytes of an encrypted one are.
        since: for an incremental backup, the id of the one that it continues.
    """

    path: pathlib.Path
    id: str
    sha256: str
    projects: int
    records: dict[str, int]
    findings: int
    bytes: int
    text_bytes: int
    seconds: float
    verified: bool
    since: str | None = None


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
    _count: int = 0
    _sha256: hashlib._Hash = field(default_factory=hashlib.sha256)

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
        place = Place(number=number, line=line, project=self._project, section=section, count=self._count)
        self._write([pack({"frame": place.model_dump()})])

    def begin(self, project: ProjectHead) -> None:
        """Begin a project."""
        self._place()
        self._write([pack({"project": project.model_dump()})])
        self._project = project
        self._enter(SECTIONS[0])

    def _enter(self, section: str) -> None:
        self._section, self._count, self._sha256 = section, 0, hashlib.sha256()

    def add(self, lines: list[bytes]) -> None:
        """Add records (or what was removed) of the section that is open."""
        if not lines:
            return
        self._place()
        self._sha256.update(b"".join(lines))
        self._count += len(lines)
        self._write(lines)

    def end_section(self, state: State | None = None, *, known: bool = True) -> None:
        """End the section that is open, and with the last one the project.

        Args:
            state: the records that the project has of it, where these are not those that were added.
            known: whether that is known at all.
        """
        self._place()
        digest = self._sha256.hexdigest()
        if known:
            state = state or State(count=self._count, sha256=digest)
        end = SectionEnd(name=self._section, count=self._count, sha256=digest, state=state)
        self._write([pack({"section": end.model_dump()})])
        self.records[self._section] += self._count
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


def write_backup(
    store: FindingStore,
    path: str | os.PathLike[str],
    *,
    projects: Collection[str] | None = None,
    key: Key | None = None,
    level: int = LEVEL,
    verify: bool = True,
    progress: Progress = SILENT,
) -> BackupReport:
    """Write a backup of a store as it is at one instant; other threads and processes go on working with it.

    The file is written beside `path`, read back, and renamed: what was there stays until a whole backup replaces it.

    Args:
        store: a store of this package.
        path: the file.
        projects: the projects to save; None means all.
        key: encrypt it for these keys.
        level: of compression, 1 to 19.
        verify: read it back and check everything before it takes its place.
        progress: is told how far the work is.

    Raises:
        FindingNotFoundError: the store lacks a project that was named.
        StorageUnavailableError: store or file can't be read or written.
        StorageConflictError: another process writes the same file.
        StorageIntegrityError: what was read back differs; the old file is as it was.
    """
    start = time.monotonic()
    target = pathlib.Path(path)
    check_level(level)
    with replacing(target) as (beside, file):
        with records_of(store).snapshot() as unit, encrypted(file, key) as stream:
            chosen = chosen_projects(unit, projects)
            manifest = manifest_of(unit, chosen, records_of(store).adapter)
            progress.phase("", manifest.findings)
            writer = Writer(stream, manifest, level)
            write_projects(writer, unit, progress)
            _, sha256 = writer.seal()
        file.flush()
        if verify:
            read_back(beside, key, sha256, progress)
        size = beside.stat().st_size
    return BackupReport(
        target,
        manifest.id,
        sha256,
        len(chosen),
        writer.records,
        manifest.findings,
        size,
        writer.text_bytes,
        time.monotonic() - start,
        verify,
    )


def check_level(level: int) -> None:
    """Raise StorageValidationError for a level of compression that there is not."""
    if not 1 <= level <= 19:
        raise StorageValidationError.of_field("level", "must be 1 to 19", level)


def records_of(store: FindingStore) -> Store:
    """Return a store as one whose records can be read and written.

    Raises:
        StorageValidationError: it is none of this package.
    """
    if not isinstance(store, Store):
        rule = "must be a store of findings_orm itself, not one around it"
        raise StorageValidationError.of_field("store", rule, store)
    return store


@contextmanager
def encrypted(file: BinaryIO, key: Key | None) -> Iterator[BinaryIO]:
    """Yield the stream that a backup is written to."""
    with nullcontext(file) if key is None else encrypting(file, key) as stream:
        yield stream


def chosen_projects(unit: Records, projects: Collection[str] | None) -> list[str]:
    """Return the projects to save, sorted.

    Raises:
        FindingNotFoundError: there is none of a name.
    """
    known = unit.projects()
    missing = sorted(set(projects or ()) - set(known))
    if missing:
        raise FindingNotFoundError(f"no project {missing[0]!r} to back up")
    return known if projects is None else sorted(set(projects))


def manifest_of(unit: Records, projects: list[str], source: str) -> Manifest:
    """Return the manifest of a new full backup."""
    return Manifest(
        format=FORMAT,
        id=uuid7(),
        created_at=now(),
        schema_version=SCHEMA_VERSION,
        release=_release(),
        source=source,
        projects=projects,
        findings=sum(unit.count(FindingQuery(project_id=one)) for one in projects),
    )


def _release() -> str:
    try:
        return version("findings-orm")
    except PackageNotFoundError:
        return ""


def write_projects(writer: Writer, unit: Records, progress: Progress) -> None:
    """Write the projects of the manifest, whole."""
    for project_id in writer.manifest.projects:
        writer.begin(project_head(unit, project_id))
        for section in SECTIONS:
            for lines in section_lines(unit, project_id, section):
                writer.add(lines)
                if section == "findings":
                    progress.add(len(lines))
            writer.end_section()


def project_head(unit: Records, project_id: str) -> ProjectHead:
    """Return the line that begins a project."""
    state = unit.project_state(project_id)
    if state is None:  # the snapshot has just named it
        raise StorageUnavailableError(f"project {project_id!r} vanished")
    return ProjectHead(id=project_id, revision=state.revision, created_at=state.created_at)


def read_back(path: pathlib.Path, key: Key | None, sha256: str, progress: Progress) -> None:
    """Verify what was written."""
    from findings_orm.backup.verifying import verify_backup

    if key is None or key.secret:
        verify_backup(path, key=key, progress=progress, expected=sha256)
