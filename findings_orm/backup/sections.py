"""The four kinds of records that a project has, as lines and back, in the order in which a backup holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from findings_orm.backup.container import pack_ascii, pack_record, unpack_record
from findings_orm.backup.manifest import ProjectHead, State
from findings_orm.errors import StorageUnavailableError
from findings_orm.finding import SCHEMA_VERSION, validate_finding
from findings_orm.imports.intake import current_document
from findings_orm.limits import MB
from findings_orm.port import Event
from findings_orm.process import pause_garbage_collection
from findings_orm.records import (
    Kept,
    Records,
    Stored,
    Streak,
    batches,
    decode_event,
    decode_identity,
    decode_original,
    decode_run,
    encode_event,
    encode_identity,
    encode_original,
    encode_run,
)

RECORD = {"runs": "run", "findings": "finding", "events": "event", "rejected": "rejected"}
"""Section to the name of its records: the first name of their lines."""

SECTIONS = tuple(RECORD)

BATCH = 1_000
BATCH_BYTES = 4 * MB
"""How many lines, and about how many bytes of them, are taken together."""

RecordKey = tuple[object, ...]
"""What tells the records of a section apart, and orders them."""

Record = dict[str, Any]


def project_head(unit: Records, project_id: str) -> ProjectHead:
    """Return the line that begins a project."""
    state = unit.project_state(project_id)
    if state is None:  # the snapshot has just named it
        raise StorageUnavailableError(f"project {project_id!r} vanished")
    return ProjectHead(id=project_id, revision=state.revision, created_at=state.created_at)


def section_values(unit: Records, project_id: str, section: str) -> Iterator[list[Any]]:
    """Yield what a project has of a section (runs, `Kept` findings, events, refused originals) in batches, by keys."""
    if section == "findings":
        return unit.all_findings(project_id)
    if section == "events":
        return unit.all_events(project_id)
    if section == "runs":
        return batches(unit.runs(project_id), BATCH)
    return unit.all_rejected(project_id)


def section_lines(unit: Records, project_id: str, section: str) -> Iterator[list[tuple[RecordKey, bytes]]]:
    """Yield the lines of one section of a project with their keys, in the order of these, in batches."""
    encoder = Encoder(section)
    for values in section_values(unit, project_id, section):
        yield encoder.lines(values)


class Encoder:
    """Makes the lines of one section of a project; it counts the events of each finding."""

    def __init__(self, section: str) -> None:
        self._section = section
        self._finding_id = ""
        self._number = 0

    def lines(self, values: list[Any]) -> list[tuple[RecordKey, bytes]]:
        """Return the lines of the values that come next, with their keys."""
        with pause_garbage_collection():
            return self._encode_values(values)

    def _encode_values(self, values: list[Any]) -> list[tuple[RecordKey, bytes]]:
        if self._section == "findings":
            return [((row.identity.finding_id,), finding_line(row)) for row in values]
        if self._section == "events":
            return [self._event_line(event) for event in values]
        if self._section == "runs":
            return [((run.number,), pack_record({"run": encode_run(run)})) for run in values]
        return [((one.rejected_id,), pack_ascii({"rejected": encode_original(one)})) for one in values]

    def _event_line(self, event: Event) -> tuple[RecordKey, bytes]:
        self._number = self._number + 1 if event.finding_id == self._finding_id else 0
        self._finding_id = event.finding_id
        record = {"event": encode_event(event), "n": self._number}
        return (event.finding_id, self._number), pack_record(record)


def finding_line(row: Kept) -> bytes:
    """Return the line of a finding."""
    record: Record = {"finding": row.document, "identity": encode_identity(row.identity)}
    if row.streaks:
        record["streaks"] = [streak[1:] for streak in row.streaks]
    return pack_record(record)


States = dict[str, State]
"""Section to the number and the SHA-256 of its lines: equal ones mean equal projects."""


class Tally:
    """Counts the lines of a section and takes their digest."""

    def __init__(self) -> None:
        self._count = 0
        self._sha256 = hashlib.sha256()

    def add(self, lines: list[bytes]) -> None:
        """Take lines, with their newlines."""
        self._count += len(lines)
        self._sha256.update(b"".join(lines))

    @property
    def state(self) -> State:
        """What was taken so far."""
        return State(count=self._count, sha256=self._sha256.hexdigest())


def record_key(section: str, record: Record) -> RecordKey:
    """Return the key of a record: the number of a run, the id of a finding, (finding, position) of an event, the id of a
    refused original; also of a record that says what was removed.

    Raises:
        KeyError, TypeError: the record has not the shape that it should have.
    """
    if "removed" in record:
        return tuple(record["removed"])
    if section == "findings":
        return (record["finding"]["id"],)
    if section == "events":
        return record["event"]["finding_id"], record["n"]
    if section == "runs":
        return (record["run"]["number"],)
    return (record["rejected"]["rejected_id"],)


class Decoder(NamedTuple):
    """Makes what `Records` takes out of records; documents of an older `version` become current ones."""

    version: str = SCHEMA_VERSION

    def values(self, section: str, lines: Iterable[bytes]) -> list[Any]:
        """Return what lines hold: runs, `Kept` findings, events or refused originals."""
        with pause_garbage_collection():
            return [self._decode_record(section, unpack_record(line)) for line in lines]

    def _decode_record(self, section: str, record: Record) -> object:
        if section == "findings":
            return self.finding(record)
        if section == "events":
            return decode_event(record["event"])
        return decode_run(record["run"]) if section == "runs" else decode_original(record["rejected"])

    def finding(self, record: Record) -> Kept:
        """Return a finding in the current version."""
        document = record["finding"]
        if self.version != SCHEMA_VERSION:
            document = validate_finding(current_document(document))
        identity = decode_identity(record["identity"])
        streaks = tuple(Streak(identity.finding_id, *pair) for pair in record.get("streaks", ()))
        return Kept(document, identity, streaks)


def load_values(unit: Records, project_id: str, revision: int, section: str, values: list[Any]) -> None:
    """Write values of a section into a project that lacks them, in an open unit of work."""
    if section == "findings":
        unit.insert(project_id, [Stored(row.document, row.identity) for row in values])
        unit.add_streaks(project_id, [streak for row in values for streak in row.streaks])
    elif section == "events":
        unit.add_events(project_id, revision, values)
    elif section == "runs":
        for run in values:
            unit.put_run(project_id, run)
    else:
        unit.put_rejected(project_id, values)
