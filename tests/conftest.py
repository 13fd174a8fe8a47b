"""Fixtures of stores, and the size of property tests (``FINDINGS_TEST_SCALE=full`` for the large one)."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("findings_orm.testing")

from findings_orm import FindingStore, open_storage  # noqa: E402  # after the rewrite is registered

settings.register_profile("quick", max_examples=20, stateful_step_count=20, deadline=None)
settings.register_profile("full", max_examples=1_000, stateful_step_count=50, deadline=None)
settings.load_profile("full" if os.environ.get("FINDINGS_TEST_SCALE") == "full" else "quick")


@pytest.fixture
def open_sqlite(tmp_path: pathlib.Path) -> Callable[[], FindingStore]:
    """Return a callable that opens one SQLite file, new at first, as often as it is called."""
    return lambda: open_storage(f"sqlite:///{tmp_path / 'findings.db'}")
