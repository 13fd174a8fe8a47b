"""The working copy: the memory adapter's records, with a list of what was done and a way back that costs no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import Any

from findings_orm.errors import StorageConflictError
from findings_orm.port import Event, RejectedOriginal, Run
from findings_orm.process import block
from findings_orm.records import Identity, ProjectState, Receipt, StatusChange, Stored, Streak
from findings_orm.stores.memory import MemoryRecords, Project, State, identity_seen_at

Operation = tuple[Any, ...]
_ABSENT: Any = object()


class FileRecords(MemoryRecords):
    """`Records` that remember each change: forwards for the journal, backwards for a rollback.

    A rollback undoes single entries. The memory adapter copies the whole project instead, which makes a save as slow
    as the project is large.
    """

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.operations: list[Operation] = []
        self._undo: list[tuple[MutableMapping[Any, Any], Any, Any] | tuple[Project, int]] = []

    @block
    def savepoint(self) -> Iterator[None]:
        """See `Records.savepoint`."""
        undo, operations, interrupted = len(self._undo), len(self.operations), self.interrupted
        try:
            yield
        except BaseException:
            self.interrupted = True
            self.roll_back(undo)
            del self.operations[operations:]
            self.interrupted = interrupted
            raise

    def roll_back(self, length: int = 0) -> None:
        """Undo what was done since there were so many entries to undo."""
        while len(self._undo) > length:
            entry = self._undo.pop()
            if len(entry) == 2:
                entry[0].revision = entry[1]
                continue
            mapping, key, old = entry
            if old is _ABSENT:
                mapping.pop(key, None)
            else:
                mapping[key] = old

    def _remember_entries(self, mapping: MutableMapping[Any, Any], keys: Iterable[Any]) -> None:
        self._undo += [(mapping, key, mapping.get(key, _ABSENT)) for key in keys]

    def _log_operation(self, *operation: Any) -> None:
        self.operations.append(operation)

    def advance_to(self, project_id: str, revision: int) -> int:
        project = self.state.get(project_id)
        if project is None:
            self._remember_entries(self.state, [project_id])
        else:
            self._undo.append((project, project.revision))
        self._log_operation("advance", project_id, revision)
        return super().advance_to(project_id, revision)

    def put_project(self, project_id: str, state: ProjectState) -> None:
        if project_id not in self.state:
            self._remember_entries(self.state, [project_id])
            self._log_operation("put_project", project_id, list(state))
        super().put_project(project_id, state)

    def insert(self, project_id: str, rows: Sequence[Stored]) -> None:
        project = self.state[project_id]
        new = {row.identity.finding_id for row in rows}
        taken = sorted(new & project.findings.keys())
        if taken or len(new) < len(rows):
            raise StorageConflictError(
                f"project {project_id!r} has a finding {(taken or sorted(new))[0]} already"
            )
        self._remember_entries(project.findings, new)
        self._remember_entries(project.by_fingerprint, {row.identity.fingerprint for row in rows})
        self._log_operation("insert", project_id, list(rows))
        super().insert(project_id, rows)

    def replace(self, project_id: str, rows: Sequence[Stored]) -> None:
        project = self.state[project_id]
        old = [project.findings[row.identity.finding_id].identity.fingerprint for row in rows]
        self._remember_entries(project.findings, [row.identity.finding_id for row in rows])
        self._remember_entries(project.by_fingerprint, {*old, *(row.identity.fingerprint for row in rows)})
        self._log_operation("replace", project_id, list(rows))
        super().replace(project_id, rows)

    def reidentify(self, project_id: str, identities: Sequence[Identity]) -> None:
        self._remember_entries(self.state[project_id].findings, [one.finding_id for one in identities])
        self._log_operation("reidentify", project_id, list(identities))
        super().reidentify(project_id, identities)

    def seen(self, project_id: str, identities: Sequence[Identity], at: str, run: int) -> None:
        ids = [one.finding_id for one in identities]
        findings = self.state[project_id].findings
        self._remember_entries(findings, ids)
        self._log_operation("seen", project_id, ids, at, run)
        mark_seen(findings, ids, at, run)

    def change_status(self, project_id: str, changes: Sequence[StatusChange]) -> None:
        self._remember_entries(self.state[project_id].findings, [one.finding_id for one in changes])
        self._log_operation("change_status", project_id, list(changes))
        super().change_status(project_id, changes)

    def remove(self, project_id: str, finding_ids: Sequence[str]) -> None:
        project = self.state[project_id]
        self._remember_entries(
            project.by_fingerprint, {project.findings[one].identity.fingerprint for one in finding_ids}
        )
        self._remember_entries(project.findings, finding_ids)
        self._remember_entries(project.streaks, finding_ids)
        self._log_operation("remove", project_id, list(finding_ids))
        super().remove(project_id, finding_ids)

    def add_streaks(self, project_id: str, streaks: Sequence[Streak]) -> None:
        self._remember_entries(self.state[project_id].streaks, {one.finding_id for one in streaks})
        self._log_operation("add_streaks", project_id, list(streaks))
        super().add_streaks(project_id, streaks)

    def add_events(self, project_id: str, revision: int, events: Sequence[Event]) -> None:
        self._remember_entries(self.state[project_id].events, {one.finding_id for one in events})
        self._log_operation("add_events", project_id, list(events))
        super().add_events(project_id, revision, events)

    def put_run(self, project_id: str, run: Run, receipt: Receipt | None = None) -> None:
        """See `Records.put_run`. Receipts are not kept: they save time, which files take to be written."""
        self._remember_entries(self.state[project_id].runs, [run.id])
        self._log_operation("put_run", project_id, run)
        super().put_run(project_id, run)

    def put_rejected(self, project_id: str, originals: Sequence[RejectedOriginal]) -> None:
        self._remember_entries(self.state[project_id].rejected, [one.rejected_id for one in originals])
        self._log_operation("put_rejected", project_id, list(originals))
        super().put_rejected(project_id, originals)

    def remove_rejected(self, project_id: str, rejected_ids: Sequence[str]) -> int:
        self._remember_entries(self.state[project_id].rejected, rejected_ids)
        self._log_operation("remove_rejected", project_id, list(rejected_ids))
        return super().remove_rejected(project_id, rejected_ids)

    def delete_project(self, project_id: str) -> None:
        if project_id in self.state:
            self._remember_entries(self.state, [project_id])
            self._log_operation("delete_project", project_id)
        super().delete_project(project_id)


def mark_seen(findings: dict[str, Stored], finding_ids: Sequence[str], at: str, run: int) -> None:
    """Set when and by which run findings were last seen."""
    for finding_id in finding_ids:
        document, identity, *_ = findings[finding_id]
        findings[finding_id] = Stored(document, identity_seen_at(identity, at, run))


def redo_operations(state: State, operations: Iterable[Operation]) -> None:
    """Do again what `FileRecords.operations` says was done. Raises KeyError where it does not fit the state."""
    records = MemoryRecords(state)
    for name, project_id, *arguments in operations:
        if name == "advance":
            records.advance_to(project_id, _revision_after(state.get(project_id), *arguments))
        elif name == "seen":
            mark_seen(state[project_id].findings, *arguments)
        elif name == "add_events":
            records.add_events(project_id, 0, *arguments)
        elif name == "put_project":
            records.put_project(project_id, ProjectState(*arguments[0]))
        else:
            getattr(records, name)(project_id, *arguments)


def _revision_after(project: Project | None, given: int | str) -> int:
    """Return the revision that an operation leads to; a journal of schema 1.1.0 gives the time, and counts by one."""
    if isinstance(given, int):
        return given
    return 1 + (project.revision if project else 0)


def fit_operation(state: State, operation: Operation) -> list[Operation]:
    """Return an operation as one or more that fit a state from which findings are missing, or that has more."""
    name, project_id, *arguments = operation
    if name in ("advance", "delete_project"):
        return [operation]
    if name == "put_project":
        return [] if project_id in state else [operation]
    findings = state.setdefault(project_id, Project()).findings
    if name in ("insert", "replace"):
        new = [row for row in arguments[0] if row.identity.finding_id not in findings]
        old = [row for row in arguments[0] if row.identity.finding_id in findings]
        return [("insert", project_id, new), ("replace", project_id, old)]
    if name in ("reidentify", "change_status"):
        return [(name, project_id, [row for row in arguments[0] if row.finding_id in findings])]
    if name in ("seen", "remove"):
        ids, *rest = arguments
        return [(name, project_id, [one for one in ids if one in findings], *rest)]
    return [operation]
