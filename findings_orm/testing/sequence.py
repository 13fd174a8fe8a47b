"""A fixed sequence of operations on a store, and a digest of all that can be seen of the result."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import random
from collections.abc import Mapping
from typing import Any

from findings_orm.errors import StorageError
from findings_orm.finding import Severity, Status
from findings_orm.imports.originals import tag_original
from findings_orm.port import Event, FindingStore, Run
from findings_orm.query import SORTS, FindingQuery
from findings_orm.testing.contract.queries import read_pages
from findings_orm.testing.samples import ids, run_id_of, uuid_of

PROJECTS = ("alpha", "beta \U0001f600", "acme-api")
_EVIDENCE: tuple[dict[str, Any], ...] = (
    {},
    {"n": 1},
    {"n": 1.0, "": "\x00"},
    {"b": [-0.0, 5e-324, 10**40, True, None], "a": {"z": "\U0001f600", "y": "e\u0301"}},
)


class _UndoError(Exception):
    """Rolls a transaction back."""


class _Sequence:
    """Operations drawn from one seeded generator; ids, runs and times are numbered, not taken from a clock."""

    def __init__(self, store: FindingStore, seed: int) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.last = 0
        self.reports: list[list[Any]] = [[]]

    def number(self) -> int:
        self.last += 1
        return self.last

    def next_time(self) -> str:
        number = self.number()
        return f"2024-{number // 28 % 12 + 1:02}-{number % 28 + 1:02}T00:00:00{('Z', '.25Z', '.000001Z')[number % 3]}"

    def document(self) -> dict[str, Any]:
        """Return a document of few identities."""
        choose = self.random.choice
        document = {
            "id": uuid_of(self.number()),
            "created_at": self.next_time(),
            "detector_id": choose(["scan.one", "scan.two"]),
            "rule_id": choose(["R1", "R2", None]),
            "title": choose(["A rule was broken", "Straße", "\U0001f600"]),
            "severity": choose([severity.value for severity in Severity]),
            "resource": choose(
                ["src/a.py", f"src/a.py:{self.random.randint(1, 20)}", "https://example.org:8080/", ""]
            ),
            "location": choose(
                [None, {"start_line": self.random.randint(1, 20), "snippet": choose(["eval", None])}]
            ),
            "evidence": choose(_EVIDENCE),
            "tags": choose([[], ["x"], ["y", "\u00e9"]]),
            "cwe_ids": choose([[], [79], [89, 79]]),
            "cve_ids": choose([[], ["CVE-2024-1234"]]),
        }
        if not self.random.randrange(10):
            document["fingerprint"] = choose(["f1", "f2"])
        return document

    def choose_project(self) -> str:
        return self.random.choice(PROJECTS)

    def do_step(self) -> None:
        """Do one operation; a refusal is a result like any other."""
        work = self.random.choices(
            [self.save, self.ingest, self.set_status, self.purge, self.delete, self.retry, self.transaction],
            [6, 8, 8, 1, 0.3, 2, 1],
        )[0]
        with contextlib.suppress(StorageError):
            work()

    def save(self) -> None:
        project_id = self.choose_project()
        there = self.store.list_findings(project_id)
        documents = [{**self.document(), "project_id": project_id} for _ in range(self.random.randint(1, 4))]
        if there and self.random.random() < 0.5:
            documents.append({**self.random.choice(there), "severity": "info", "status": "triaged"})
        if not self.random.randrange(8):
            documents.append({"broken": True})
        self.store.save_findings(documents)

    def ingest(self) -> None:
        project_id = self.choose_project()
        documents: list[Any] = [self.document() for _ in range(self.random.randint(0, 12))]
        there = self.store.list_findings(project_id)
        documents += [
            _seen_again(each) for each in self.random.sample(there, self.random.randint(0, len(there)))
        ]
        self.random.shuffle(documents)
        if self.random.random() < 0.3:
            documents = list(self.random.choice(self.reports[-2:]))
        self.reports.append(documents)
        bad = self.random.randrange(5) == 0
        if bad:
            documents.insert(
                self.random.randint(0, len(documents)), {"broken": self.number(), "\x00": [1, 1.0, "\ud800"]}
            )
        run = Run(
            run_id_of(self.random.randint(1, 500)),
            ["scan.one"],
            self.next_time(),
            {"name": "demo", "n": self.number()},
        )
        self.store.ingest(
            project_id,
            documents,
            run=run,
            close_missing=self.random.random() < 0.5,
            dry_run=self.random.random() < 0.1,
            on_invalid="quarantine" if self.random.random() < 0.9 else "raise",
        )

    def set_status(self) -> None:
        project_id = self.choose_project()
        there = self.store.list_findings(project_id)
        if there:
            chosen = self.random.choice(there)["id"]
            status = self.random.choice(list(Status))
            comment = self.random.choice(["", "checked by hand é"])
            self.store.set_status(project_id, chosen, status, actor="ann", comment=comment)

    def purge(self) -> None:
        self.store.purge(self.choose_project(), closed_before="9999-01-01T00:00:00Z")

    def delete(self) -> None:
        self.store.delete_project(self.choose_project())

    def retry(self) -> None:
        project_id = self.choose_project()
        kept = self.store.rejected_originals(project_id)
        if kept:
            chosen = min(kept, key=lambda each: json.dumps(each.original))
            self.store.retry_rejected(project_id, {chosen.rejected_id: self.document()})

    def transaction(self) -> None:
        undo = self.random.random() < 0.5
        with contextlib.suppress(_UndoError), self.store.transaction():
            for _ in range(3):
                with contextlib.suppress(StorageError):
                    self.random.choice([self.save, self.ingest, self.set_status])()
            if undo:
                raise _UndoError


def _seen_again(document: Mapping[str, Any]) -> dict[str, Any]:
    kept = (
        "detector_id",
        "rule_id",
        "title",
        "severity",
        "resource",
        "location",
        "fingerprint",
        "evidence",
        "created_at",
    )
    return {"id": document["id"], **{name: document[name] for name in kept}}


def run_sequence(store: FindingStore, seed: int, steps: int) -> None:
    """Do `steps` operations of every kind, the same ones for the same seed."""
    sequence = _Sequence(store, seed)
    for _ in range(steps):
        sequence.do_step()


def observe_store(store: FindingStore) -> list[Any]:
    """Return all that can be seen of a store, without times and ids that the store made itself."""
    return [_observe_project(store, project_id) for project_id in store.list_projects()]


def digest(store: FindingStore) -> str:
    """Return the SHA-256 of `observe_store` as JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(observe_store(store)).encode()).hexdigest()


def _observe_project(store: FindingStore, project_id: str) -> dict[str, Any]:
    runs = store.runs(project_id)
    names = {run.id: f"run {run.number}" for run in runs}
    documents = store.list_findings(project_id)
    return {
        "project": project_id,
        "findings": [{**document, "run_id": names.get(document["run_id"] or "")} for document in documents],
        "seen": [_observe_sighting(store, project_id, document["id"], names) for document in documents],
        "history": [
            [_observe_event(event, names) for event in store.history(project_id, finding_id)]
            for finding_id in (document["id"] for document in documents)
        ],
        "runs": [[run.number, sorted(run.detectors), dict(run.tool), dict(run.counts)] for run in runs],
        "diffs": [_observe_diff(store, project_id, a.id, b.id) for a, b in itertools.pairwise(runs)],
        "rejected": [
            [each.index, names.get(each.run_id), each.field, each.reason, tag_original(each.original)]
            for each in store.rejected_originals(project_id)
        ],
        "summary": [repr(store.summarize(project_id))],
        "orders": [_observe_order(store, project_id, sign + name) for name in SORTS for sign in ("", "-")],
    }


def _observe_sighting(
    store: FindingStore, project_id: str, finding_id: str, names: dict[str, str]
) -> list[Any]:
    seen = store.sighting(project_id, finding_id)
    return [seen.fingerprint, seen.fingerprint_version, seen.ordinal, names.get(seen.last_run or "")]


def _observe_event(event: Event, names: dict[str, str]) -> list[Any]:
    return [event.kind, event.actor, dict(event.changes), event.comment, names.get(event.run_id or "")]


def _observe_diff(store: FindingStore, project_id: str, a: str, b: str) -> list[Any]:
    diff = store.diff_runs(project_id, a, b)
    added, removed = (sorted(document["id"] for document in each) for each in (diff.added, diff.removed))
    return [added, removed, diff.common]


def _observe_order(store: FindingStore, project_id: str, sort: Any) -> list[str]:
    return ids(read_pages(store, FindingQuery(project_id=project_id, sort=sort, limit=17)))
