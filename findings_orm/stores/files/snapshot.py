"""The snapshot: ``store.json``, and the files of each project's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_json

from findings_orm import records
from findings_orm.finding import SCHEMA_VERSION, FindingDocument, StatusName
from findings_orm.query import time_key
from findings_orm.records import Identity, Stored, Streak
from findings_orm.stores.files import codec, journal, tree
from findings_orm.stores.memory import Project

FORMAT = "findings-orm file store"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says of one project's folder: whose it is, and the SHA-256 of each of its files."""

    project_id: str
    revision: int
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """``store.json``. Replacing it is what makes a new snapshot the valid one.

    Attributes:
        generation: counts snapshots; the journal that continues this one has the same number.
        folded: checksum of the last journal line that is part of the snapshot; empty when there is more in it.
        projects: folder to entry.
        adopted: files of an older layout that the snapshot took in, with their SHA-256.
        removed: folders that are no longer.
    """

    generation: int = 0
    folded: str = ""
    projects: dict[str, Entry] = field(default_factory=dict)
    adopted: dict[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()

    def folder_of(self, project_id: str) -> str:
        """Return the name of a project's folder."""
        found = (name for name, entry in self.projects.items() if entry.project_id == project_id)
        return next(found, tree.folder_name(project_id))

    def render(self) -> bytes:
        """Return the content of the file."""
        content = {
            "finding_schema_version": SCHEMA_VERSION,
            "format": FORMAT,
            "layout": journal.LAYOUT,
            "generation": self.generation,
            "folded": self.folded,
            "adopted": self.adopted,
            "removed": sorted(self.removed),
            "projects": {
                name: {"project_id": entry.project_id, "revision": entry.revision, "files": entry.files}
                for name, entry in sorted(self.projects.items())
            },
        }
        text = json.dumps({**content, "checksum": _manifest_checksum(content)}, indent=2)
        return text.encode() + b"\n"


def _manifest_checksum(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_manifest(path: Path, data: bytes) -> Manifest:
    """Return the manifest. Raises StorageIntegrityError, and SchemaVersionError for one of a newer release."""
    try:
        content = json.loads(data)
        checksum = content.pop("checksum")
        if checksum != _manifest_checksum(content):
            raise ValueError("the checksum does not fit the content")
        layout, version = int(content["layout"]), str(content["finding_schema_version"])
        manifest = Manifest(
            int(content["generation"]),
            str(content["folded"]),
            {
                name: Entry(entry["project_id"], int(entry["revision"]), dict(entry["files"]))
                for name, entry in content["projects"].items()
            },
            dict(content["adopted"]),
            tuple(content["removed"]),
        )
    except json.JSONDecodeError as error:
        raise journal.damage_error(path, error.lineno, error.msg) from error
    except (*records.MALFORMED, RecursionError) as error:
        raise journal.damage_error(path, None, str(error)) from error
    journal.check_versions(path, layout, version)
    return manifest


def sha256(data: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


# -- writing -----------------------------------------------------------------------------------------------


def render_findings(project_id: str, documents: Iterable[FindingDocument]) -> bytes:
    """Return the content of ``findings.json``: sorted, indented, without what is null or empty by default."""
    ordered = sorted(documents, key=lambda document: (time_key(document["created_at"]), document["id"]))
    layout = {
        "finding_schema_version": SCHEMA_VERSION,
        "project_id": project_id,
        "findings": [codec.slim_document(document) for document in ordered],
    }
    return to_json(layout, indent=2) + b"\n"


def render(project_id: str, project: Project) -> dict[str, bytes]:
    """Return the files of a project's folder; those that would be empty are left out."""
    files = {
        tree.FINDINGS: render_findings(project_id, (row.document for row in project.findings.values())),
        tree.IDENTITIES: _pack_lines(_identity_rows(project)),
        tree.EVENTS: _pack_lines(
            records.encode_event(event) for _, events in sorted(project.events.items()) for event in events
        ),
        tree.RUNS: _pack_lines(
            records.encode_run(run) for run in sorted(project.runs.values(), key=lambda run: run.number)
        ),
        tree.REJECTED: _pack_lines(
            records.encode_original(one) for _, one in sorted(project.rejected.items())
        ),
    }
    return {name: content for name, content in files.items() if content}


def _identity_rows(project: Project) -> Iterable[dict[str, Any]]:
    for finding_id, (document, identity, *_) in sorted(project.findings.items()):
        yield {
            **records.encode_identity(identity),
            "status": document["status"],
            "document": codec.document_digest(document),
            "streaks": [streak[1:] for streak in project.streaks.get(finding_id, ())],
        }


def _pack_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(journal.pack_line(row)[0] for row in rows)


# -- reading -----------------------------------------------------------------------------------------------


class Known(NamedTuple):
    """A line of ``identities.jsonl``: what is known of a finding beside its document."""

    identity: Identity
    status: StatusName
    digest: str
    streaks: tuple[Streak, ...]


def _decode_known(row: dict[str, Any]) -> Known:
    identity = records.decode_identity(row)
    streaks = tuple(Streak(identity.finding_id, first, last) for first, last in row["streaks"])
    return Known(identity, row["status"], row["document"], streaks)


READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    tree.IDENTITIES: _decode_known,
    tree.EVENTS: records.decode_event,
    tree.RUNS: records.decode_run,
    tree.REJECTED: records.decode_original,
}


def read_lines(path: Path, data: bytes, get: Callable[[dict[str, Any]], Any]) -> list[Any]:
    """Return the records of a companion file. Raises StorageIntegrityError, naming file and line."""
    *lines, rest = data.split(b"\n")
    found = []
    for number, line in enumerate([*lines, rest] if rest else lines, 1):
        try:
            found.append(get(journal.unpack_line(line)[0]))
        except (*records.MALFORMED, RecursionError) as error:
            raise journal.damage_error(path, number, str(error)) from error
    return found


def empty_project(revision: int, companions: dict[str, list[Any]]) -> Project:
    """Return a project with its companions' records, but without findings."""
    project = Project(revision)
    for event in companions.get(tree.EVENTS, ()):
        project.events[event.finding_id] = (*project.events.get(event.finding_id, ()), event)
    project.runs.update((run.id, run) for run in companions.get(tree.RUNS, ()))
    project.rejected.update((one.rejected_id, one) for one in companions.get(tree.REJECTED, ()))
    return project


def put_finding(project: Project, document: FindingDocument, known: Known) -> None:
    """Add a finding with what is known of it."""
    identity = known.identity
    project.findings[identity.finding_id] = Stored(document, identity)
    others = project.by_fingerprint.get(identity.fingerprint, ())
    project.by_fingerprint[identity.fingerprint] = (*others, identity.finding_id)
    if known.streaks:
        project.streaks[identity.finding_id] = known.streaks
