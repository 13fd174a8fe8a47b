"""A backup made of a live store: one instant of it, with memory that does not grow with it."""

from __future__ import annotations

import itertools
import os
import pathlib
import time
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import BinaryIO, cast

from findings_orm.arguments import checked
from findings_orm.backup.chains import Chain, Cursor, Survey, chain_of, manifests_in, survey_backup
from findings_orm.backup.container import FRAME_TEXT, FrameWriter, pack_record
from findings_orm.backup.encryption import Key, encrypting_stream
from findings_orm.backup.manifest import FORMAT, Manifest, Place, ProjectHead, SectionEnd, Since, State
from findings_orm.backup.progress import SILENT, Progress
from findings_orm.backup.reading import seal_line
from findings_orm.backup.sections import BATCH, SECTIONS, RecordKey, Tally, project_head, section_lines
from findings_orm.backup.verifying import verify_backup
from findings_orm.clock import now, uuid7
from findings_orm.decorate import ForwardingStore
from findings_orm.errors import (
    FindingNotFoundError,
    SchemaVersionError,
    StorageValidationError,
)
from findings_orm.finding import SCHEMA_VERSION
from findings_orm.limits import DEFAULT, Limits
from findings_orm.port import FindingStore
from findings_orm.private import Access, writing
from findings_orm.process import block
from findings_orm.query import FindingQuery
from findings_orm.records import Records, RecordStore, batches

# -- the lines of a backup, written in their order, in frames ---------------------------------------------


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
        self._write_lines([pack_record({"manifest": self.manifest.model_dump(exclude_defaults=True)})])

    def _write_lines(self, lines: list[bytes]) -> None:
        text = b"".join(lines)
        self._lines += len(lines)
        self.text_bytes += len(text)
        self._frames.write(text)
        if self._frames.text >= FRAME_TEXT:
            self._frames.end_frame()

    def _write_place(self) -> None:
        """Say where the frame is that begins, unless it is the first."""
        if self._frames.text:
            return
        number, line, section = self._frames.frames + 1, self._lines + 1, self._section or None
        place = Place(
            number=number, line=line, project=self._project, section=section, count=self._tally.state.count
        )
        self._write_lines([pack_record({"frame": place.model_dump()})])

    @property
    def open_section(self) -> tuple[str, str]:
        """The project and the section that are open."""
        return (self._project.id if self._project else ""), self._section

    def begin_project(self, project: ProjectHead) -> None:
        """Begin a project."""
        self._write_place()
        self._write_lines([pack_record({"project": project.model_dump()})])
        self._project = project
        self._enter_section(SECTIONS[0])

    def _enter_section(self, section: str) -> None:
        self._section, self._tally = section, Tally()

    def add(self, lines: list[bytes]) -> None:
        """Add records (or what was removed) of the section that is open."""
        if not lines:
            return
        self._write_place()
        self._tally.add(lines)
        self._write_lines(lines)

    def end_section(self, state: State | None = None, *, known: bool = True) -> None:
        """End the section that is open, and with the last one the project.

        Args:
            state: the records that the project has of it, where these are not those that were added.
            known: whether that is known at all.
        """
        self._write_place()
        written = self._tally.state
        if known:
            state = state or written
        end = SectionEnd(name=self._section, count=written.count, sha256=written.sha256, state=state)
        self._write_lines([pack_record({"section": end.model_dump()})])
        self.records[self._section] += written.count
        position = SECTIONS.index(self._section) + 1
        if position < len(SECTIONS):
            self._enter_section(SECTIONS[position])
        else:
            self._project = None
            self._enter_section("")

    def seal(self) -> tuple[int, str]:
        """Close the backup; return its size and the SHA-256 that its seal holds."""
        backup_id, lines = self.manifest.id, self._lines
        return self._frames.seal(lambda size, sha256: seal_line(backup_id, lines, size, sha256))


# -- what changed since an earlier backup: the store and that backup, both sorted by key, read side by side


def write_changes(writer: Writer, unit: Records, chain: Chain, newest: Survey, progress: Progress) -> None:
    """Write what the projects of the manifest have that the chain does not have, and what they no longer have.

    A project with the revision that the newest backup has is the same and is not read.
    """
    known = {one for one, revision in newest.revisions.items() if revision and revision == unit.revision(one)}
    before = Cursor(chain.rows(skip=known))
    for project_id in writer.manifest.projects:
        writer.begin_project(project_head(unit, project_id))
        for number, section in enumerate(SECTIONS):
            if project_id in known:
                writer.end_section(newest.states[project_id][section], known=False)
            else:
                state = _write_section(writer, unit, before.section(project_id, number), progress)
                writer.end_section(state)
    before.read_rest()


def _write_section(
    writer: Writer, unit: Records, before: Iterator[tuple[RecordKey, bytes]], progress: Progress
) -> State:
    """Write the changes of the section that is open; return what the section has now."""
    project, section = writer.open_section
    old = next(before, None)
    tally = Tally()
    for lines in section_lines(unit, project, section):
        changes = []
        for key, line in lines:
            while old is not None and old[0] < key:
                changes.append(pack_record({"removed": old[0]}))
                old = next(before, None)
            if old is not None and old[0] == key:
                if old[1] != line[:-1]:
                    changes.append(line)
                old = next(before, None)
            else:
                changes.append(line)
        tally.add([line for _, line in lines])
        writer.add(changes)
        if section == "findings":
            progress.add(len(lines))
    if old is not None:
        for rest in batches(itertools.chain([old], before), BATCH):
            writer.add([pack_record({"removed": key}) for key, _ in rest])
    return tally.state


# -- A backup made of a live store: one instant of it, with memory that does not grow with it -------------


_OF_RECORDS = ("adapter", "limits", "snapshot", "writing")


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
        verified: it was read back and checked; never so for an encrypted one without a secret key.
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


@checked
def write_backup(
    store: FindingStore,
    path: str | os.PathLike[str],
    *,
    projects: Collection[str] | None = None,
    since: str | os.PathLike[str] | None = None,
    key: Key | None = None,
    level: int = LEVEL,
    verify: bool = True,
    group: str | None = None,
    progress: Progress = SILENT,
    limits: Limits | None = None,
) -> BackupReport:
    """Write a backup of a store as it is at one instant; other threads and processes go on working with it.

    The file is written beside `path`, read back, and renamed: what was there stays until a whole backup replaces it.

    Args:
        store: a store with records (`findings_orm.records.RecordStore`, docs/adapters.md), as all of this package have.
        path: the file.
        projects: the projects to save; None means all.
        since: an earlier backup: only what differs from it is written. The ones that it needs itself have to lie in its
            folder, and `key` has to open them. A folder stands for the newest backup in it; without one a full one is made.
        key: encrypt it for these keys.
        level: of compression, 1 to 19.
        verify: read it back and check everything before it takes its place.
        group: a group of the system whose members may read and write the file too; without one a new file is for its owner
            alone, and one that takes the place of another is for those who could open that.
        progress: is told how far the work is.
        limits: how large a line may be, and the whole text: of the earlier backup, and of this one when it is read back, so
            that it can be restored with the same limits. None takes those of the store.

    Raises:
        LimitExceededError: something in the store, or in the earlier backup, is beyond a limit; names it, and the option that
            raises it. The old file is as it was.
        FindingNotFoundError: the store lacks a project that was named.
        StorageUnavailableError: store or file can't be read or written.
        StorageConflictError: another process writes the same file.
        StorageIntegrityError: what was read back differs, or an earlier backup is damaged; the old file is as it was.
        SchemaVersionError: the earlier backup has another schema version; make a full one.
    """
    start = time.monotonic()
    target = pathlib.Path(path)
    check_level(level)
    limits = limits or record_store(store).limits
    before = None if since is None else _named_backup(pathlib.Path(since), key, limits)
    continued = None if before is None else chain_to_continue(before, key, limits)
    access = None if group is None else Access.of_group(group)
    with writing(target, access, alone=True) as (beside, file):
        with record_store(store).snapshot() as unit, backup_stream(file, key) as stream:
            chosen = chosen_projects(unit, projects)
            manifest = new_manifest(unit, chosen, record_store(store).adapter)
            if continued is not None:
                chain, newest = continued
                link = Since(id=chain.newest.id, sha256=newest.sha256)
                manifest = manifest.model_copy(update={"since": link})
            progress.phase("", manifest.findings)
            writer = Writer(stream, manifest, level)
            if continued is None:
                write_projects(writer, unit, progress)
            else:
                write_changes(writer, unit, chain, newest, progress)
            _, sha256 = writer.seal()
        file.flush()
        verified = verify and (key is None or bool(key.secret))
        if verified:
            verify_backup(beside, key=key, progress=progress, expected=sha256, limits=limits)
        size = beside.stat().st_size
        return BackupReport(  # made before the file gets its place: nothing is called after that
            target,
            manifest.id,
            sha256,
            len(chosen),
            writer.records,
            manifest.findings,
            size,
            writer.text_bytes,
            time.monotonic() - start,
            verified,
            manifest.since.id if manifest.since else None,
        )


def check_level(level: int) -> None:
    """Raise StorageValidationError for a level of compression that there is not."""
    if not 1 <= level <= 19:
        raise StorageValidationError.of_field("level", "must be 1 to 19", level)


def record_store(store: FindingStore) -> RecordStore:
    """Return a store as one whose records can be read and written.

    Raises:
        StorageValidationError: it has no records; says what is missing.
    """
    if isinstance(store, ForwardingStore):
        store = store.innermost()
    missing = [name for name in _OF_RECORDS if not hasattr(store, name)]
    if missing:
        rule = (
            "must show whole records to be backed up, restored or copied, as the methods of FindingStore don't: it lacks "
            f"{', '.join(missing)} of findings_orm.records.RecordStore. Derive from findings_orm.store.Store, hand them on "
            "to the store inside, or lift the adapter below it (docs/adapters.md)"
        )
        raise StorageValidationError.of_field("store", rule, type(store))
    return cast(RecordStore, store)


@block
def backup_stream(file: BinaryIO, key: Key | None) -> Iterator[BinaryIO]:
    """Yield the stream that a backup is written to."""
    with nullcontext(file) if key is None else encrypting_stream(file, key) as stream:
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


def _named_backup(path: pathlib.Path, key: Key | None, limits: Limits) -> pathlib.Path | None:
    """Return a backup that was named by itself or by its folder, where the newest one is meant."""
    if not os.path.isdir(path):  # never raises: opening it tells what is wrong
        return path
    found = manifests_in(path, key, limits).values()
    return max(found, key=lambda one: (one[1].created_at[:19], one[1].id))[0] if found else None


def chain_to_continue(path: pathlib.Path, key: Key | None, limits: Limits = DEFAULT) -> tuple[Chain, Survey]:
    """Return the chain that ends with a backup, whole and of the current schema, and what was seen of that backup.

    Raises:
        SchemaVersionError: it is of another schema.
        StorageIntegrityError: one of them is damaged or missing.
    """
    chain = chain_of(path, key, limits)
    if chain.newest.schema_version != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path}: its findings have schema {chain.newest.schema_version}, those of the store {SCHEMA_VERSION}: "
            "make a full backup"
        )
    surveys = [survey_backup(each, key, limits) for each in chain.paths]
    chain.check_links([each.sha256 for each in surveys])
    return chain, surveys[0]


def new_manifest(unit: Records, projects: list[str], source: str) -> Manifest:
    """Return the manifest of a new full backup."""
    return Manifest(
        format=FORMAT,
        id=uuid7(),
        created_at=now(),
        schema_version=SCHEMA_VERSION,
        release=_installed_release(),
        source=source,
        projects=projects,
        findings=sum(unit.count(FindingQuery(project_id=one)) for one in projects),
    )


def _installed_release() -> str:
    try:
        return version("findings-orm")
    except PackageNotFoundError:
        return ""


def write_projects(writer: Writer, unit: Records, progress: Progress) -> None:
    """Write the projects of the manifest, whole."""
    for project_id in writer.manifest.projects:
        writer.begin_project(project_head(unit, project_id))
        for section in SECTIONS:
            for lines in section_lines(unit, project_id, section):
                writer.add([line for _, line in lines])
                if section == "findings":
                    progress.add(len(lines))
            writer.end_section()
