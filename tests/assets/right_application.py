"""A small application in which type checkers find nothing to say."""

from __future__ import annotations

import json
import pathlib
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

import findings_orm
from findings_orm import (
    FindingDocument,
    FindingInput,
    FindingQuery,
    FindingStore,
    Severity,
    Status,
    StatusName,
    open_storage,
)
from findings_orm.formats import open_report
from findings_orm.orm import Event, Finding, finding_reference


class Notes:
    """An adapter with the six methods, as the contract has them."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def atomic_write(self, path: pathlib.Path, data: dict[str, Any]) -> None:
        path.write_text(json.dumps(data))

    def validate_store_layout(self, path: pathlib.Path) -> bool:
        return path.exists()

    def get_schema_version(self) -> str:
        return findings_orm.SCHEMA_VERSION

    def save_finding(self, finding: dict[str, Any]) -> None:
        self.kept.append(finding)

    def list_findings(self, project_id: str) -> list[dict[str, Any]]:
        return [one for one in self.kept if str(one["project_id"]) == project_id]

    def delete_project(self, project_id: str) -> None:
        self.kept = [one for one in self.kept if one["project_id"] != project_id]


def scan(count: int) -> Iterator[FindingInput]:
    for number in range(count):
        finding: FindingInput = {
            "detector_id": "scan.house",
            "title": f"Password in config {number}",
            "severity": "high",
            "location": {"path": "app.py", "start_line": number + 1},
            "evidence": {"headers": {"X-Key": "..."}, "tries": [1, 2.5, None]},
        }
        if number % 2:
            finding["cvss"] = 7
            finding["tags"] = ["secret"]
        yield finding


def read_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        document: dict[str, Any] = json.loads(line)
        document.setdefault("detector_id", "scan.house")
        yield document


def worst(store: FindingStore, project: str) -> list[FindingDocument]:
    query = FindingQuery(
        project_id=project,
        min_severity="high",
        status=["open", "triaged"],
        cwe=79,
        sort="-severity",
        limit=50,
    )
    found: list[FindingDocument] = []
    while True:
        page = store.find(query)
        found += page.items
        if page.next_cursor is None:
            return found
        query = replace(query, cursor=page.next_cursor)


def score(finding: FindingDocument) -> float:
    location = finding["location"] or {}
    lines = (location.get("end_line") or 0) - (location.get("start_line") or 0)
    return (
        (finding["cvss"] or 0.0)
        + Severity(finding["severity"]).rank
        + lines
        + len(finding["evidence"].get("tries", []))
    )


def decide(store: FindingStore, project: str, words: dict[str, StatusName]) -> None:
    for finding in store.iter_findings(project):
        status = words.get(finding["id"], Status.TRIAGED)
        changed = store.set_status(project, finding["id"], status, actor="ana")
        if changed["status"] == "triaged":
            store.save_finding({**changed, "tags": [*changed["tags"], "seen"]})


def work(engine: Engine, url: str) -> None:
    with open_storage(url, migrate=True, synchronous="NORMAL", pool_size=3) as store:
        with open_report("bandit.sarif") as report:
            print(store.ingest("acme-api", report, close_missing=True, on_invalid="quarantine").created)
        store.ingest("acme-api", scan(3))
        store.ingest("acme-api", read_lines(sys.stdin))
        store.ingest("acme-api", json.load(sys.stdin))
        store.ingest("acme-api", [{"detector_id": "scan.house", "title": "Debug mode", "severity": "low"}])
        store.save_findings(store.list_findings("acme-web"))
        decide(store, "acme-api", {"0": "false_positive"})
        print(sorted(map(score, worst(store, "acme-api"))), store.diagnose(), store.health().ok)
        with Session(engine) as session:
            with store.joined(session) as unit:
                unit.ingest("acme-api", scan(1))
            session.commit()
        with engine.begin() as connection, store.joined(connection):
            store.delete_project("acme-web")
        with store.transaction() as unit, unit.session() as session:
            session.flush()


class Base(DeclarativeBase):
    pass


reference = finding_reference(ondelete="CASCADE")


class Ticket(Base):
    __tablename__ = "tickets"
    __table_args__ = reference.table_args
    number: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = reference.project_id
    finding_id: Mapped[uuid.UUID] = reference.finding_id
    finding: Mapped[Finding] = relationship(Finding)


def query_models(session: Session, since: datetime) -> dict[uuid.UUID, Severity]:
    worst = (
        select(Finding)
        .where(Finding.severity >= Severity.HIGH, Finding.severity < "critical", Finding.created_at > since)
        .where(Finding.tags.has("secret"), Finding.cwe_ids.has_any([79, 89]), Finding.status == Status.OPEN)
        .where(Finding.severity.between("low", Severity.HIGH), Finding.first_seen > since)
        .where(Finding.severity.in_([Severity.LOW]), Finding.events.any(Event.actor == "ana"))
        .order_by(Finding.severity_rank.desc(), Finding.id)
        .options(selectinload(Finding.events), selectinload(Finding.runs))
    )
    found: dict[uuid.UUID, Severity] = {}
    finding: Finding
    for finding in session.scalars(worst):
        tags: Sequence[str] = finding.tags
        document: FindingDocument = finding.document()
        if finding.severity > Severity.LOW and "secret" in tags and finding.closed_at is None:
            found[finding.id] = finding.severity
        print(document["title"], finding.evidence.get("tries"), [run.number for run in finding.runs])
        print(finding.created_at.astimezone(), finding.status is Status.OPEN, finding.project.revision)
    for ticket in session.scalars(select(Ticket).join(Ticket.finding)):
        print(ticket.number, ticket.finding.title)
    return found


def use_notes(options: dict[str, Any]) -> None:
    findings_orm.register_adapter("notes", Notes)
    findings_orm.register_adapter("kept", findings_orm.FileStorageAdapter, {"path": "kept"})
    with findings_orm.lift(Notes()) as store, open_storage("house://here", **options) as other:
        store.save_findings(other.list_findings("acme-api"))
