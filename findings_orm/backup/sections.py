"""The four kinds of records that a project has, as lines and back, in the order in which a backup holds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from findings_orm.backup.lines import pack, pack_ascii
from findings_orm.backup.manifest import ProjectHead
from findings_orm.errors import StorageUnavailableError
from findings_orm.finding import SCHEMA_VERSION, validate_finding
from findings_orm.importing import current_document
from findings_orm.plain import (
    get_event,
    get_identity,
    get_original,
    get_run,
    put_event,
    put_identity,
    put_original,
    put_run,
)
from findings_orm.records import Kept, Records, Stored, Streak, batches

RECORD = {"runs": "run", "findings": "finding", "events": "event", "rejected": "rejected"}
"""Section to the name of its records: the first name of their lines."""

SECTIONS = tuple(RECORD)

BATCH = 1_000

Key = tuple[Any, ...]
"""What tells the records of a section apart, and orders them."""

Record = dict[str, Any]


def project_head(unit: Records, project_id: str) -> ProjectHead:
    """Return the line that begins a project."""
    state = unit.project_state(project_id)
    if state is None:  # the snapshot has just named it
        raise StorageUnavailableError(f"project {project_id!r} vanished")
    return ProjectHead(id=project_id, revision=state.revision, created_at=state.created_at)


def section_lines(unit: Records, project_id: str, section: str) -> Iterator[list[tuple[Key, bytes]]]:
    """Yield the lines of one section of a project with their keys, in the order of these, in batches."""
    if section == "runs":
        for runs in batches(unit.runs(project_id), BATCH):
            yield [((run.number,), pack({"run": put_run(run)})) for run in runs]
    elif section == "findings":
        for rows in unit.all_findings(project_id):
            yield [((row.identity.finding_id,), finding_line(row)) for row in rows]
    elif section == "events":
        yield from _event_lines(unit, project_id)
    else:
        for originals in unit.all_rejected(project_id):
            yield [((one.rejected_id,), pack_ascii({"rejected": put_original(one)})) for one in originals]


def finding_line(row: Kept) -> bytes:
    """Return the line of a finding."""
    record: Record = {"finding": row.document, "identity": put_identity(row.identity)}
    if row.streaks:
        record["streaks"] = [streak[1:] for streak in row.streaks]
    return pack(record)


def _event_lines(unit: Records, project_id: str) -> Iterator[list[tuple[Key, bytes]]]:
    finding_id, number = "", 0
    for events in unit.all_events(project_id):
        lines = []
        for event in events:
            number = number + 1 if event.finding_id == finding_id else 0
            finding_id = event.finding_id
            lines.append(((finding_id, number), pack({"event": put_event(event), "n": number})))
        yield lines


def key_of(section: str, record: Record) -> Key:
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

    def values(self, section: str, records: list[Record]) -> list[Any]:
        """Return runs, `Kept` findings, events or refused originals."""
        if section == "findings":
            return [self.finding(record) for record in records]
        if section == "events":
            return [get_event(record["event"]) for record in records]
        if section == "runs":
            return [get_run(record["run"]) for record in records]
        return [get_original(record["rejected"]) for record in records]

    def finding(self, record: Record) -> Kept:
        """Return a finding in the current version."""
        document = record["finding"]
        if self.version != SCHEMA_VERSION:
            document = validate_finding(current_document(document))
        identity = get_identity(record["identity"])
        streaks = tuple(Streak(identity.finding_id, *pair) for pair in record.get("streaks", ()))
        return Kept(document, identity, streaks)


def load(unit: Records, project_id: str, revision: int, section: str, values: list[Any]) -> None:
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
