"""A detector gets another name in what is stored, so that reports under the new name find their findings."""

from __future__ import annotations

from dataclasses import replace

from findings_orm.arguments import checked
from findings_orm.clock import now
from findings_orm.errors import StorageConflictError, StorageValidationError, readable
from findings_orm.finding import FindingDocument, check_plain_text, check_project_id, content_of
from findings_orm.fingerprint import VERSION, content_digest, fingerprint
from findings_orm.imports.intake import as_run
from findings_orm.imports.matching import events_of
from findings_orm.imports.saving import Ordinals
from findings_orm.imports.scopes import name_categories
from findings_orm.port import Run
from findings_orm.records import Records, RecordStore, Stored, batches

_BATCH = 1_000


@checked
def rename_detector(store: RecordStore, project_id: str, old: str, new: str, *, actor: str) -> int:
    """Give the findings of a detector another one, in one transaction, and return how many they were.

    Ids, statuses and times stay; the history of each has an entry. Runs get the new name too, so that `diff_runs` and
    `close_missing` go on with what they knew.

    Raises:
        StorageValidationError: the new name is no detector_id, or the old one.
        StorageConflictError: the project has findings of the new name already: which of them are which can't be told.
    """
    check_project_id(project_id)
    check_plain_text("actor", actor, empty=False)
    try:
        as_run(Run(detectors=[new]), now())
    except StorageValidationError as error:
        raise StorageValidationError.of_field("new", error.rule or "", new) from error
    if old == new:
        raise StorageValidationError.of_field("new", "must be another name than the old one", new)
    with store.writing() as unit:
        if not unit.revision(project_id):
            return 0
        at = now()
        revision = unit.advance(project_id, at).now
        ids = _ids_of_detector(unit, project_id, old, new)
        ordinals = Ordinals(unit, project_id)
        for some in batches(ids, _BATCH):
            rows = sorted(unit.stored(project_id, some).values(), key=lambda row: row.identity.ordinal)
            _rename_rows(unit, project_id, new, rows, ordinals)
            changes: dict[str, list[object]] = {"detector_id": [old, new]}
            events = [
                event
                for row in rows
                for event in events_of(row.identity.finding_id, changes, row.not_before(at), actor)
            ]
            unit.add_events(project_id, revision, events)
        runs = [_rename_in_run(run, old, new) for run in unit.runs(project_id) if old in run.detectors]
        unit.replace_runs(project_id, runs)
        return len(ids)


def _rename_in_run(run: Run, old: str, new: str) -> Run:
    """Return a run with the new name, and without what would tell its report, which says the old one."""
    scopes = {(new if detector == old else detector, category) for detector, category in run.scopes()}
    category, categories = name_categories(scopes)
    detectors = tuple(sorted({detector for detector, _ in scopes}))
    return replace(run, detectors=detectors, category=category, categories=categories, content="")


def _ids_of_detector(unit: Records, project_id: str, old: str, new: str) -> list[str]:
    """Return the ids of what has the old name, equal ones in their order; nothing may have the new one."""
    found = []
    for some in unit.all_findings(project_id):
        for kept in some:
            detector = kept.document["detector_id"]
            if detector == new:
                raise StorageConflictError(
                    f"project {readable(project_id)} has findings of {readable(new)} already, {kept.identity.finding_id} "
                    f"for one: those of {readable(old)} can't be told from them under one name"
                )
            if detector == old:
                found.append((kept.identity.ordinal, kept.identity.finding_id))
    return [finding_id for _, finding_id in sorted(found)]


def _rename_rows(unit: Records, project_id: str, new: str, old: list[Stored], ordinals: Ordinals) -> None:
    renamed: list[tuple[FindingDocument, Stored]] = [
        ({**row.document, "detector_id": new}, row) for row in old
    ]
    identified = [(document, fingerprint(document), row) for document, row in renamed]
    ordinals.load_taken({digest for _, (digest, _), _ in identified})
    rows = []
    for document, (digest, line), row in identified:
        reported: FindingDocument = {**document, "status": row.identity.reported}  # type: ignore[typeddict-item]
        identity = row.identity._replace(
            fingerprint=digest,
            ordinal=ordinals.take_ordinal(digest),
            version=VERSION,
            line=line,
            content=content_digest(content_of(reported)),
        )
        rows.append(Stored(document, identity))
    unit.replace(project_id, rows)
