"""What the parts of the suite share: capabilities and small helpers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, settings

from findings_orm.errors import StorageError
from findings_orm.imports.originals import tag_original
from findings_orm.port import Event, FindingStore, StoragePort
from findings_orm.query import FindingQuery
from findings_orm.testing.samples import PROJECT

Reopen = Callable[[], FindingStore]
_Test = TypeVar("_Test", bound=Callable[..., None])

relaxed = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.differing_executors,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
"""For property tests: one store serves all examples, and each example starts by deleting its project."""


def needs_capability(capability: str) -> Callable[[_Test], _Test]:
    """Mark a test that only stores with a capability have."""

    def mark_test(test: _Test) -> _Test:
        test.needed_capability = capability  # type: ignore[attr-defined]
        return test

    return mark_test


class Capabilities:
    """What a store can do. A subclass of the suite says where its store departs from the defaults.

    Attributes:
        persistent: the fixture ``reopen`` returns another store on the same data, also after a `close`.
        shared_between_processes: several such stores may be open at once.
        reads_beside_writers: a unit for reading does not wait for one that writes.
    """

    persistent: ClassVar[bool] = False
    shared_between_processes: ClassVar[bool] = False
    reads_beside_writers: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, test in inspect.getmembers(cls, inspect.isfunction):
            capability = getattr(test, "needed_capability", None)
            if capability and not getattr(cls, capability):
                setattr(cls, name, None)


def project_contents(store: FindingStore, project_id: str = PROJECT) -> list[Any]:
    """Return all that a project holds, to compare before and after; times included. Originals are tagged: NaN is equal."""
    documents = store.list_findings(project_id)
    return [
        documents,
        [store.history(project_id, document["id"]) for document in documents],
        [store.sighting(project_id, document["id"]) for document in documents],
        store.runs(project_id),
        [replace(one, original=tag_original(one.original)) for one in store.rejected_originals(project_id)],
        store.revision(project_id),
        store.list_projects(),
    ]


def visible_contents(store: StoragePort) -> list[Any]:
    """Return what can be seen of a project, of a store that may have only the six methods."""
    return project_contents(store) if isinstance(store, FindingStore) else store.list_findings(PROJECT)


def error_of_call(call: Callable[[], object]) -> StorageError | None:
    """Return the error that a call ends with, or None where it ends well."""
    try:
        call()
    except StorageError as error:
        return error
    return None


def found(store: FindingStore, project_id: str = PROJECT, **conditions: Any) -> list[str]:
    """Return the ids of what `find` gives, in its order."""
    page = store.find(FindingQuery(project_id=project_id, **conditions))
    return [document["id"] for document in page.items]


def summarize_events(events: list[Event]) -> list[tuple[str, str, dict[str, Any], str]]:
    """Return kind, actor, changes and comment of events."""
    return [(event.kind, event.actor, dict(event.changes), event.comment) for event in events]


def list_statuses(store: FindingStore, project_id: str = PROJECT) -> list[str]:
    """Return the statuses of a project's findings, in the order of the list."""
    return [document["status"] for document in store.list_findings(project_id)]
