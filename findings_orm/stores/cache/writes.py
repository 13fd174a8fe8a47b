"""Writes of any kind through one store, and which projects they changed once they are committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self, TypeVar

from findings_orm.arguments import checked
from findings_orm.decorate import ForwardingStore
from findings_orm.finding import FindingDocument, GivenFinding, Status, StatusName
from findings_orm.port import GivenRun, IngestReport, OnInvalid, PurgeReport
from findings_orm.process import block
from findings_orm.units import bound

T = TypeVar("T")

Projects = set[str | None]
"""Projects that were written to; None stands for any."""

if TYPE_CHECKING:
    from findings_orm.decorate import SqlTransaction


class NotifyingStore(ForwardingStore):
    """A store that says what was written to: after the commit of the outermost unit of work, and nothing of what was rolled
    back. A subclass provides `_announce_changes` and `_forget_project`."""

    def _announce_changes(self, changed: Projects) -> None:
        """Take notice of projects that a committed unit wrote to."""
        raise NotImplementedError

    def _forget_project(self, project_id: str | None) -> None:
        """Forget what is remembered of a project, or of all: a write to it may have happened, in part."""
        raise NotImplementedError

    # -- writing --------------------------------------------------------------------------------------------

    def save_finding(self, finding: GivenFinding) -> None:
        self._write_and_notify({_project_of(finding)}, lambda: self.inner.save_finding(finding))

    @checked
    def save_findings(self, documents: Iterable[GivenFinding]) -> None:
        if isinstance(documents, Sequence):
            self._write_and_notify(
                set(map(_project_of, documents)), lambda: self.inner.save_findings(documents)
            )
        else:
            changed: Projects = set()
            self._write_and_notify(
                changed, lambda: self.inner.save_findings(_note_projects(documents, changed))
            )

    def delete_project(self, project_id: str) -> None:
        self._write_and_notify(_changed_project(project_id), lambda: self.inner.delete_project(project_id))

    def ingest(
        self,
        project_id: str,
        documents: Iterable[GivenFinding],
        *,
        run: GivenRun = None,
        close_missing: bool = False,
        dry_run: bool = False,
        on_invalid: OnInvalid = "raise",
    ) -> IngestReport:
        return self._write_and_notify(
            set() if dry_run is True else _changed_project(project_id),
            lambda: self.inner.ingest(
                project_id,
                documents,
                run=run,
                close_missing=close_missing,
                dry_run=dry_run,
                on_invalid=on_invalid,
            ),
        )

    def discard_rejected(self, project_id: str, rejected_ids: Iterable[str]) -> int:
        return self._write_and_notify(
            _changed_project(project_id), lambda: self.inner.discard_rejected(project_id, rejected_ids)
        )

    def retry_rejected(
        self, project_id: str, fixed: Mapping[str, GivenFinding] | None = None
    ) -> IngestReport:
        return self._write_and_notify(
            _changed_project(project_id), lambda: self.inner.retry_rejected(project_id, fixed)
        )

    def set_status(
        self, project_id: str, finding_id: str, status: Status | StatusName, *, actor: str, comment: str = ""
    ) -> FindingDocument:
        return self._write_and_notify(
            _changed_project(project_id),
            lambda: self.inner.set_status(project_id, finding_id, status, actor=actor, comment=comment),
        )

    def purge(self, project_id: str, *, closed_before: str, dry_run: bool = False) -> PurgeReport:
        return self._write_and_notify(
            set() if dry_run is True else _changed_project(project_id),
            lambda: self.inner.purge(project_id, closed_before=closed_before, dry_run=dry_run),
        )

    @block
    def transaction(self, *, read_only: bool = False) -> Iterator[Self]:
        commits = self._commits_at_once()
        ended = False
        try:
            with self._notify_after(set(), call=False) as changed:
                with self.inner.transaction(read_only=read_only) as inner:
                    yield self._view_of(inner, changed)
                ended = True
        except BaseException as error:
            if ended:
                self._note_late_exception(error, commits=commits)
            raise

    @block
    def joined(self, bind: SqlTransaction, *, actor: str | None = None) -> Iterator[Self]:
        """See `ForwardingStore.joined`. Other instances in bounded mode hear of the writes when the block ends, which may be
        before the application commits: until `max_staleness` later they may read what was before."""
        with (
            self._notify_after(set(), call=False) as changed,
            self._join_inner(bind, actor) as inner,
        ):
            yield self._view_of(inner, changed)

    def _write_and_notify(self, changed: Projects, write: Callable[[], T]) -> T:
        """Let the store inside write to projects, and take notice of what interrupts anything after that."""
        commits = self._commits_at_once()
        returned = False
        try:
            with self._notify_after(changed):
                result = write()
                returned = True
        except BaseException as error:
            if returned and changed:
                self._note_late_exception(error, commits=commits)
            raise
        return result

    @block
    def _notify_after(self, changed: Projects, *, call: bool = True) -> Iterator[Projects]:
        """Let a write happen, then make it known: once the outermost unit is committed, not at all if it is rolled back.

        Args:
            changed: what is written to.
            call: it is one call, and no block of the application.
        """
        outer: Projects | None = self._unit_value()
        try:
            with bound(self._scope, changed, call=call, alone=True):
                yield changed
        except BaseException:
            # Part of it may have been committed all the same (a purge in batches, an answer that was lost).
            for project_id in changed:
                self._forget_project(project_id)
            raise
        if outer is not None:
            outer |= changed  # no call, so that nothing comes between the write and its return
        elif changed:
            self._announce_changes(changed)


def _changed_project(project_id: object) -> Projects:
    """Return a project as all that a write changes; none where it is no name, as the store inside will say."""
    return {project_id} if isinstance(project_id, str) else set()


def _project_of(document: object) -> str | None:
    """Return the project of a document that may be of any version, or broken; None where it does not say."""
    found = document.get("project_id") if isinstance(document, Mapping) else None
    return found if isinstance(found, str) else None


def _note_projects(documents: Iterable[GivenFinding], changed: Projects) -> Iterator[GivenFinding]:
    for document in documents:
        changed.add(_project_of(document))
        yield document
