"""What tests of backups share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from findings_orm import FindingStore
from findings_orm.testing.contract.base import project_contents
from findings_orm.testing.sequence import digest

FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"
KINDS = ("memory", "file", "sqlite", "postgresql")
Open = Callable[[str], FindingStore]


def whole(store: FindingStore) -> dict[str, Any]:
    """Return everything of a store: by project, times, revisions and the history of what was purged included."""
    return {
        project_id: [project_contents(store, project_id), _tombstones(store, project_id)]
        for project_id in store.list_projects()
    }


def _tombstones(store: FindingStore, project_id: str) -> list[Any]:
    with store.snapshot() as unit:  # type: ignore[attr-defined]
        return [event for events in unit.all_events(project_id) for event in events]


def assert_equal(found: FindingStore, expected: FindingStore) -> None:
    assert whole(found) == whole(expected)
    assert digest(found) == digest(expected)
