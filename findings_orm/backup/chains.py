"""A full backup and the incremental ones that continue it, read as one."""

from __future__ import annotations

import heapq
import pathlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from findings_orm.backup.container import unpack_record
from findings_orm.backup.encryption import Key
from findings_orm.backup.manifest import Manifest, ProjectHead, State
from findings_orm.backup.reading import Reader, reading
from findings_orm.backup.sections import BATCH, BATCH_BYTES, SECTIONS, RecordKey, Tally, record_key
from findings_orm.errors import StorageError, StorageIntegrityError, StorageUnavailableError
from findings_orm.limits import DEFAULT, Limits


class Rows(NamedTuple):
    """Lines of one section of a project, without their newlines; each section has at least one of these, maybe empty."""

    project: ProjectHead
    section: str
    lines: list[bytes]


Place = tuple[str, int, bool, RecordKey]
"""Project, section, whether it is the end of the section, key: the order in which backups have everything."""


class Entry(NamedTuple):
    """A line of one backup of a chain, or the end of a section of the newest one.

    Attributes:
        place: where it belongs.
        age: 0 for the newest backup, 1 for the one before, ...
        line: the line; None for a record that is gone, and for an end.
        project: the project, as the backup has it.
        state: at an end, what the section has to be.
    """

    place: Place
    age: int
    line: bytes | None
    project: ProjectHead
    state: State | None


@dataclass(frozen=True, slots=True)
class Chain:
    """Backups of which each continues the next.

    Attributes:
        paths: newest first; the last one is a full backup.
        manifests: theirs.
        key: opens them.
    """

    paths: tuple[pathlib.Path, ...]
    manifests: tuple[Manifest, ...]
    key: Key | None = None
    limits: Limits = DEFAULT

    @property
    def newest(self) -> Manifest:
        """The manifest of the newest backup."""
        return self.manifests[0]

    def check_links(self, digests: Sequence[str]) -> None:
        """Compare what the seals of the backups hold, newest first, with what those say that continue them.

        Raises:
            StorageIntegrityError: a backup is not the one that was continued.
        """
        for number, manifest in enumerate(self.manifests[:-1], 1):
            if manifest.since is None or digests[number] != manifest.since.sha256:
                raise StorageIntegrityError(
                    f"{self.paths[number]}: is not what {self.paths[number - 1]} was made from: its seal differs"
                )

    def rows(self, projects: Collection[str] | None = None, skip: Collection[str] = ()) -> Iterator[Rows]:
        """Yield all records that the chain adds up to, in batches, and compare them with what the newest backup says.

        Args:
            projects: only these; None means all.
            skip: not these.

        Raises:
            StorageIntegrityError: a backup is damaged, or they don't add up.
        """
        wanted = set(self.newest.projects if projects is None else projects) - set(skip)
        lines: list[bytes] = []
        size = 0
        tally = Tally()
        if len(self.paths) == 1:
            yield from self._unfolded_rows(wanted)
            return
        with ExitStack() as stack:
            for entry in self._folded_entries(stack, wanted):
                project, section = entry.project, SECTIONS[entry.place[1]]
                if entry.line is not None:
                    lines.append(entry.line)
                    size += len(entry.line)
                    if len(lines) < BATCH and size < BATCH_BYTES:
                        continue
                tally.add([line + b"\n" for line in lines])
                yield Rows(project, section, lines)
                lines, size = [], 0
                if entry.line is None:
                    if entry.state not in (None, tally.state):
                        raise StorageIntegrityError(
                            f"{self.paths[0]}: the {section} of project {project.id!r} don't add up: "
                            f"{tally.state!r} instead of {entry.state!r}"
                        )
                    tally = Tally()

    def _unfolded_rows(self, wanted: set[str]) -> Iterator[Rows]:
        """Yield the records of a chain of one, which needs no folding."""
        with reading(self.paths[0], self.key, self.limits) as reader:
            for part in reader.read_parts():
                if part.project.id in wanted:
                    yield Rows(part.project, part.section, part.lines)

    def _folded_entries(self, stack: ExitStack, wanted: set[str]) -> Iterator[Entry]:
        """Yield the newest entry of each place, and the ends; without what is gone."""
        streams = []
        alive = wanted
        for age, path in enumerate(self.paths):
            alive = alive & set(self.manifests[age].projects)
            streams.append(
                _read_entries(stack.enter_context(reading(path, self.key, self.limits)), age, alive)
            )
        last: Place | None = None
        for entry in heapq.merge(*streams, key=lambda entry: entry[:2]):
            if entry.place != last:
                last = entry.place
                if entry.line is not None or entry.place[2]:
                    yield entry


def _read_entries(reader: Reader, age: int, wanted: set[str]) -> Iterator[Entry]:
    """Yield the entries of one backup for the wanted projects; all of it is read and checked."""
    for part in reader.read_parts():
        project = part.project
        if project.id not in wanted:
            continue
        number = SECTIONS.index(part.section)
        for line in part.lines:
            record = unpack_record(line)
            place = (project.id, number, False, record_key(part.section, record))
            yield Entry(place, age, None if "removed" in record else line, project, None)
        if part.end is not None and not age:
            yield Entry((project.id, number, True, ()), age, None, project, part.end.state)


class Cursor:
    """The records of a chain, section by section, in their order."""

    def __init__(self, rows: Iterator[Rows]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def project(self, project_id: str) -> ProjectHead:
        """Return the line that began a project; what comes before it is skipped.

        Raises:
            StorageIntegrityError: it is not there.
        """
        while self._next is not None and self._next.project.id < project_id:
            self._next = next(self._rows, None)
        if self._next is None or self._next.project.id != project_id:
            raise StorageIntegrityError(f"project {project_id!r} is missing")
        return self._next.project

    def section(self, project_id: str, number: int) -> Iterator[tuple[RecordKey, bytes]]:
        """Yield the keys and lines of a section; what comes before it in the chain is skipped. To be used up."""
        while self._next is not None and self._section_place(self._next) < (project_id, number):
            self._next = next(self._rows, None)
        while self._next is not None and self._section_place(self._next) == (project_id, number):
            for line in self._next.lines:
                yield record_key(self._next.section, unpack_record(line)), line
            self._next = next(self._rows, None)

    def read_rest(self) -> None:
        """Read the rest, which checks it."""
        for _ in self._rows:
            pass

    @staticmethod
    def _section_place(rows: Rows) -> tuple[str, int]:
        return rows.project.id, SECTIONS.index(rows.section)


class Survey(NamedTuple):
    """A backup that was read to its end.

    Attributes:
        sha256: what its seal holds.
        revisions: of its projects.
        states: project to section to what the project has of it.
    """

    sha256: str
    revisions: dict[str, int | None]
    states: dict[str, dict[str, State | None]]


def survey_backup(path: pathlib.Path, key: Key | None, limits: Limits = DEFAULT) -> Survey:
    """Read a backup to its end, without looking at its records.

    Raises:
        StorageIntegrityError: it is damaged.
    """
    revisions: dict[str, int | None] = {}
    states: dict[str, dict[str, State | None]] = {}
    with reading(path, key, limits) as reader:
        for part in reader.read_parts():
            revisions[part.project.id] = part.project.revision
            if part.end is not None:
                states.setdefault(part.project.id, {})[part.section] = part.end.state
        return Survey(reader.sha256, revisions, states)


def chain_of(path: pathlib.Path, key: Key | None = None, limits: Limits = DEFAULT) -> Chain:
    """Return the chain that ends with a backup; those that it continues have to lie in its folder.

    Raises:
        StorageIntegrityError: one is missing, or of another schema.
    """
    with reading(path, key, limits) as reader:
        paths, manifests = [path], [reader.manifest]
    others: dict[str, tuple[pathlib.Path, Manifest]] = {}
    while (since := manifests[-1].since) is not None:
        others = others or manifests_in(path.parent, key, limits)
        if since.id not in others:
            raise StorageIntegrityError(
                f"{paths[-1]}: continues the backup {since.id}, which is not in the folder {path.parent}"
            )
        before, manifest = others[since.id]
        if manifest.schema_version != manifests[0].schema_version or before in paths:
            raise StorageIntegrityError(f"{before}: can't be what {paths[-1]} continues")
        paths.append(before)
        manifests.append(manifest)
    return Chain(tuple(paths), tuple(manifests), key, limits)


def manifests_in(
    folder: pathlib.Path, key: Key | None, limits: Limits = DEFAULT
) -> dict[str, tuple[pathlib.Path, Manifest]]:
    """Return the backups in a folder by their ids; what is none, or can't be opened, is left out.

    Raises:
        StorageUnavailableError: the folder can't be read.
    """
    try:
        paths = [path for path in sorted(folder.iterdir()) if path.name[0] != "." and path.is_file()]
    except OSError as error:
        raise StorageUnavailableError(f"{folder}: can't be read: {error.strerror or error}") from error
    found = {}
    for path in paths:
        try:
            with reading(path, key, limits) as reader:
                found[reader.manifest.id] = path, reader.manifest
        except StorageError:
            continue
    return found
