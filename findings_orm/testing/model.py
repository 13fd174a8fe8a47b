"""A model of a store in plain dictionaries, and a store that is compared with it call by call.

The model restates what a store means in the simplest way and shares no code with the stores beyond
validation and `matches`. Of an import it asserts what must hold whatever the pairing of equal findings was.
"""

from __future__ import annotations

import copy
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from findings_orm.errors import FindingNotFoundError, StorageConflictError, StorageValidationError
from findings_orm.finding import TRANSITIONS, FindingDocument, Severity, Status, StatusName, validate_finding
from findings_orm.port import Event, FindingStore, IngestReport, Run
from findings_orm.query import FindingQuery, matches
from findings_orm.testing.contract.base import error_of_call
from findings_orm.testing.contract.queries import expected_order, read_pages
from findings_orm.testing.samples import assert_all_same, assert_same, run_id_of

Document = Mapping[str, Any]
ACTIVE = ("open", "triaged", "in_progress")
KEPT = ("finding_schema_version", "id", "project_id", "created_at", "run_id")
FUTURE, PAST = "9999-01-01T00:00:00Z", "2000-01-01T00:00:00Z"


@dataclass(slots=True)
class ModelRun:
    """A run: what it was given, what it counted, the detectors it spoke for, the findings it saw."""

    given: list[Any]
    counts: dict[str, int]
    detectors: set[str]
    seen: set[str]


@dataclass(slots=True)
class Project:
    """Everything of one project; the documents in canonical form by id."""

    findings: dict[str, FindingDocument] = field(default_factory=dict)
    events: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    runs: dict[str, ModelRun] = field(default_factory=dict)
    rejected: list[Any] = field(default_factory=list)

    def listed(self) -> list[FindingDocument]:
        """Return the documents in the order of `list_findings`."""
        return sorted(self.findings.values(), key=lambda d: (_sortable_time(d["created_at"]), d["id"]))

    def record_change(
        self, old: Document, new: Document, actor: str, run_id: str | None, comment: str = ""
    ) -> None:
        """Add the events of a change from one document to another."""
        changed = {
            name: [old[name], new[name]] for name in new if _json_text(old[name]) != _json_text(new[name])
        }
        status = {name: both for name, both in changed.items() if name == "status"}
        other = {name: both for name, both in changed.items() if name != "status"}
        if other:
            self.events[new["id"]].append(_event_text("change", actor, other, "", run_id))
        if status:
            self.events[new["id"]].append(_event_text("status", actor, status, comment, run_id))


def _sortable_time(time: str) -> str:
    return time[:-1].ljust(19) if "." in time else time[:-1] + ".000000"


def _json_text(value: object) -> str:
    return json.dumps(value)


def _event_text(kind: str, actor: str, changes: Any, comment: str, run_id: str | None) -> str:
    if kind == "purge":
        return kind
    return json.dumps([kind, actor, changes, comment, run_id], sort_keys=True)


def _text_of_event(event: Event) -> str:
    is_level = event.actor == "ingest" and event.kind == "change" and event.comment in _LEVELS
    comment = "" if is_level else event.comment
    return _event_text(event.kind, event.actor, dict(event.changes), comment, event.run_id)


_LEVELS = ("recognised: aligned", "recognised: moved", "recognised: renamed")


def line_of(document: Document) -> int | None:
    """Return the line of a finding, from its location or else its resource."""
    line = (document["location"] or {}).get("start_line")
    _, _, suffix = document["resource"].partition(":")
    return line or (int(suffix) if suffix else None)


def identity_of(document: Document) -> tuple[Any, ...]:
    """Return what equal findings have in common. Resources of the model are ``path`` or ``path:line``."""
    detector = document["detector_id"]
    if document["fingerprint"]:
        return (detector, document["fingerprint"])
    rule = (document["rule_id"], "") if document["rule_id"] else (None, document["title"])
    snippet = (document["location"] or {}).get("snippet")
    return (detector, rule, document["resource"].partition(":")[0], snippet)


def content_of(document: Document) -> str:
    """Return what a report decides of a finding, without its status."""
    return json.dumps(
        {name: value for name, value in document.items() if name not in (*KEPT, "status", "provenance")}
    )


class CheckedStore:
    """A store and its model; each method does the same to both and compares what comes back."""

    def __init__(self, store: FindingStore, project_ids: list[str]) -> None:
        self.store = store
        self.project_ids = project_ids
        self.model: dict[str, Project] = {}
        self._numbers = 0
        self._reports: list[Sequence[Document]] = []

    def number(self) -> int:
        """Return a number that was not returned before."""
        self._numbers += 1
        return self._numbers

    def project(self, project_id: str) -> Project:
        """Return a project of the model, made if it is new."""
        return self.model.setdefault(project_id, Project())

    def listed(self, project_id: str) -> list[FindingDocument]:
        """Return the model's documents of a project, in order."""
        return self.model[project_id].listed() if project_id in self.model else []

    # -- writing -------------------------------------------------------------------------------------------

    def save(self, documents: Sequence[Document]) -> None:
        """Save one document by `save_finding`, or any other number by `save_findings`."""
        if len(documents) == 1:
            self.store.save_finding(documents[0])
        else:
            self.store.save_findings(documents)
        for document in map(validate_finding, documents):
            project = self.project(document["project_id"])
            old = project.findings.get(document["id"])
            project.findings[document["id"]] = document
            if old is not None:
                project.record_change(old, document, "save", None)

    def save_with_a_bad_one(self, documents: Sequence[Document]) -> None:
        """Try to save documents of which the last is broken."""
        bad = [*documents, {**documents[0], "severity": "High"}]
        error = error_of_call(lambda: self.store.save_findings(bad))
        assert isinstance(error, StorageValidationError), "a broken document was saved"
        assert (error.index, error.field) == (len(documents), "severity")

    def set_status(self, project_id: str, position: int, status: StatusName, comment: str) -> None:
        """Set a status, legal or not, of the finding at a position of the list."""
        here = self.listed(project_id)
        if not here:
            return self._set_status_of_nothing(project_id)
        old = here[position % len(here)]
        new: FindingDocument = {**old, "status": status}
        project = self.project(project_id)
        try:
            returned = self.store.set_status(project_id, old["id"], status, actor="ann", comment=comment)
        except StorageValidationError:
            assert Status(status) not in TRANSITIONS[Status(old["status"])], (
                f"{old['status']} -> {status} refused"
            )
            assert status != old["status"], "the status that it has was refused"
            return None
        assert status == old["status"] or Status(status) in TRANSITIONS[Status(old["status"])], (
            "illegal change"
        )
        assert_same(returned, new)
        project.findings[old["id"]] = new
        project.record_change(old, new, "ann", None, comment)
        if status == old["status"] and comment:
            project.events[old["id"]].append(_event_text("comment", "ann", {}, comment, None))
        return None

    def _set_status_of_nothing(self, project_id: str) -> None:
        error = error_of_call(lambda: self.store.set_status(project_id, run_id_of(0), "open", actor="ann"))
        assert isinstance(error, FindingNotFoundError), "the status of a finding that does not exist was set"

    def delete_project(self, project_id: str) -> None:
        """Delete a project."""
        self.store.delete_project(project_id)
        self.model.pop(project_id, None)

    def purge(self, project_id: str, everything: bool, dry_run: bool) -> None:
        """Purge everything that is closed, or nothing as all is younger."""
        report = self.store.purge(project_id, closed_before=FUTURE if everything else PAST, dry_run=dry_run)
        closed = [d["id"] for d in self.listed(project_id) if d["status"] not in ACTIVE] if everything else []
        assert report.purged == len(closed)
        if dry_run:
            return
        for finding_id in closed:
            project = self.project(project_id)
            del project.findings[finding_id]
            project.events[finding_id].append("purge")
            for run in project.runs.values():
                run.seen.discard(finding_id)

    # -- imports -------------------------------------------------------------------------------------------

    def ingest(
        self, project_id: str, report: Sequence[Document], close_missing: bool, bad: int, rehearse: bool
    ) -> None:
        """Import a report, some of its documents broken, after a dry run or without."""
        run_id = run_id_of(self.number())
        self._reports.append(report)
        broken: list[Any] = [{"broken": self.number()} for _ in range(bad)]
        options: dict[str, Any] = {
            "run": Run(run_id, ["scan.one"] if not report else []),
            "close_missing": close_missing,
            "on_invalid": "quarantine" if bad else "raise",
        }
        told = (
            self.store.ingest(project_id, [*broken, *report], dry_run=True, **options) if rehearse else None
        )
        if rehearse:
            self.check_everything()
        done = self.store.ingest(project_id, iter([*broken, *report]), **options)
        assert not done.repeated
        assert told is None or told.counts() == done.counts(), "the dry run told otherwise"
        assert [refused.index for refused in done.rejected] == list(range(bad))
        closes = close_missing and not bad  # what was refused does not say which finding it is
        self._check_import(project_id, report, done, {"scan.one"} if not report else set(), closes)
        self.project(project_id).runs[run_id].given += broken
        self.project(project_id).rejected += broken

    def ingest_again(self, project_id: str, position: int, close_missing: bool, rehearse: bool) -> None:
        """Import a report that was imported before, mostly the last one."""
        if self._reports:
            report = self._reports[-1 - position // 4 % len(self._reports)]
            self.ingest(project_id, report, close_missing, 0, rehearse)

    def repeat_run(self, project_id: str, position: int, report: Sequence[Document], dry_run: bool) -> None:
        """Import the report of a run again, and something as a run that was imported before."""
        runs = self.model[project_id].runs if project_id in self.model else {}
        if not runs:
            return
        run_id = list(runs)[position % len(runs)]
        given = runs[run_id].given
        options: dict[str, Any] = {
            "run": run_id,
            "close_missing": True,
            "dry_run": dry_run,
            "on_invalid": "quarantine",
        }
        done = self.store.ingest(project_id, given[::-1], **options)
        assert done.repeated
        assert done.counts() == runs[run_id].counts
        other = [*report, {"broken": self.number()}]
        error = error_of_call(lambda: self.store.ingest(project_id, other, **options))
        assert isinstance(error, StorageConflictError), "another report came under the id of a run"

    def retry(self, project_id: str, position: int, fixed: Document) -> None:
        """Import a refused original again, fixed."""
        kept = self.store.rejected_originals(project_id)
        if not kept:
            return
        chosen = kept[position % len(kept)]
        done = self.store.retry_rejected(project_id, {chosen.rejected_id: fixed})
        self._check_import(project_id, [fixed], done, set(), close_missing=False)
        self.project(project_id).rejected.remove(chosen.original)

    def _check_import(
        self,
        project_id: str,
        report: Sequence[Document],
        done: IngestReport,
        more: set[str],
        close_missing: bool,
    ) -> None:
        """Assert what an import did, and take it over into the model."""
        project = self.project(project_id)
        before = dict(project.findings)
        after = {document["id"]: document for document in self.store.list_findings(project_id)}
        assert set(before) <= set(after), "an import removed a finding"
        incoming = [self._complete_document(project_id, document, done.run_id) for document in report]
        detectors = more | {document["detector_id"] for document in incoming}
        seen = {each for each in after if self.store.sighting(project_id, each).last_run == done.run_id}
        _check_pairing(before, after, incoming, seen)
        expected = dict.fromkeys(IngestReport().counts(), 0)
        expected["rejected"] = len(done.rejected)
        for finding_id, new in after.items():
            old = before.get(finding_id)
            if old is None:
                assert finding_id in seen, "a new finding was not seen by this run"
                assert new["run_id"] == done.run_id
                expected["created"] += 1
                self._take_doubt(project_id, finding_id, before, seen)
                continue
            active = old["status"] in ACTIVE
            missing = finding_id not in seen
            closes = missing and close_missing and active and old["detector_id"] in detectors
            reopens = not missing and old["status"] == "resolved"
            status = "resolved" if closes else "open" if reopens else old["status"]
            kept = old if missing else {**new, **{name: value for name, value in old.items() if name in KEPT}}
            assert_same(new, {**kept, "status": status}, "finding after the import")
            updates = not missing and content_of(old) != content_of(new)
            word = "resolved" if closes else "reopened" if reopens else "updated" if updates else "unchanged"
            expected[word] += closes or not missing
            project.record_change(old, new, "ingest", done.run_id)
        assert done.counts() == expected
        project.findings = after
        project.runs[done.run_id] = ModelRun([*report], done.counts(), detectors, seen)

    def _take_doubt(
        self, project_id: str, finding_id: str, before: Mapping[str, Document], seen: set[str]
    ) -> None:
        """Take over the history entry of a new finding that may be one that somebody decided about."""
        for event in self.store.history(project_id, finding_id):
            assert (event.kind, event.actor) == ("comment", "ingest")
            old = before[event.comment.removeprefix("may be ")[:36]]
            assert old["id"] not in seen, "a finding was paired, and doubted all the same"
            assert old["status"] not in (*ACTIVE, "resolved")
            assert old["detector_id"] == self.store.get_finding(project_id, finding_id)["detector_id"]
            self.project(project_id).events[finding_id].append(_text_of_event(event))

    def _complete_document(self, project_id: str, document: Document, run_id: str) -> FindingDocument:
        filled = {"id": run_id_of(0), "project_id": project_id, "run_id": run_id, "created_at": PAST}
        return validate_finding({**filled, **document})

    # -- reading -------------------------------------------------------------------------------------------

    def find(self, query: FindingQuery) -> None:
        """Compare all pages of a query."""
        expected = [document for document in self.listed(query.project_id) if matches(query, document)]
        assert_all_same(read_pages(self.store, query), expected_order(expected, query.sort, query.text))
        assert self.store.count(query) == len(expected)

    def diff_runs(self, project_id: str, first: int, second: int) -> None:
        """Compare the difference of two runs."""
        runs = self.model[project_id].runs if project_id in self.model else {}
        if not runs:
            return
        a, b = (list(runs)[position % len(runs)] for position in (first, second))
        diff = self.store.diff_runs(project_id, a, b)
        assert {document["id"] for document in diff.added} == runs[b].seen - runs[a].seen, "added"
        assert {document["id"] for document in diff.removed} == runs[a].seen - runs[b].seen, "removed"
        assert diff.common == len(runs[a].seen & runs[b].seen)

    def check_everything(self) -> None:
        """Compare everything that can be read with the model."""
        assert self.store.list_projects() == sorted(self.model)
        for project_id in self.project_ids:
            self._check_project(project_id, self.model.get(project_id) or Project())

    def _check_project(self, project_id: str, project: Project) -> None:
        listed = project.listed()
        assert_all_same(self.store.list_findings(project_id), listed)
        assert_all_same(list(self.store.iter_findings(project_id)), listed)
        for finding_id, document in project.findings.items():
            assert_same(self.store.get_finding(project_id, finding_id), document)
        for finding_id in project.findings.keys() | project.events.keys():
            events = [_text_of_event(event) for event in self.store.history(project_id, finding_id)]
            assert events == project.events.get(finding_id, []), f"history of {finding_id}"
        runs = self.store.runs(project_id)
        assert [(run.id, dict(run.counts), set(run.detectors)) for run in runs] == [
            (run_id, run.counts, run.detectors) for run_id, run in project.runs.items()
        ]
        assert [run.number for run in runs] == list(range(1, len(runs) + 1))
        originals = [_json_text(each.original) for each in self.store.rejected_originals(project_id)]
        assert Counter(originals) == Counter(map(_json_text, project.rejected))
        summary = self.store.summarize(project_id)
        severities = Counter(document["severity"] for document in listed)
        assert summary.total == len(listed)
        assert summary.by_severity == {each.value: severities[each.value] for each in Severity}

    def copy_model(self) -> dict[str, Project]:
        """Return a copy of the model, to come back to after a rollback."""
        return copy.deepcopy(self.model)


def _check_pairing(
    before: Mapping[str, Document],
    after: Mapping[str, Document],
    incoming: Sequence[Document],
    seen: set[str],
) -> None:
    """Assert of each group of equal findings what holds whichever was paired with which."""
    identities = Counter(map(identity_of, incoming))
    assert Counter(identity_of(after[each]) for each in seen) == identities, "N equal findings did not stay N"
    contents = Counter(map(content_of, incoming))
    assert Counter(content_of(after[each]) for each in seen) == contents, (
        "the findings are not those of the report"
    )
    new = after.keys() - before.keys()
    assert len(new) == len(seen) - len(seen & before.keys()) >= len(incoming) - len(before)
    for finding_id in seen & before.keys():
        old, one = before[finding_id], after[finding_id]
        if identity_of(old) != identity_of(one):  # its text changed, or its file has another name
            assert _rule_of(old) == _rule_of(one), "a finding became one of another rule"
    same = {identity: _instances(before.values(), identity) for identity in identities}
    for identity in identities:
        if same[identity] == _instances(incoming, identity):
            kept = [each for each in seen & before.keys() if identity_of(before[each]) == identity]
            moved = [each for each in kept if line_of(before[each]) != line_of(after[each])]
            assert (len(kept), moved) == (identities[identity], []), (
                f"nothing changed, but an id did: {identity}"
            )


def _rule_of(document: Document) -> tuple[str, str]:
    return document["detector_id"], document["rule_id"] or document["title"]


def _instances(documents: Iterable[Document], identity: tuple[Any, ...]) -> Counter[tuple[int | None, str]]:
    return Counter((line_of(one), content_of(one)) for one in documents if identity_of(one) == identity)
