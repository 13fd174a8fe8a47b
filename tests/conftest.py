"""Fixtures of stores, and the size of property tests (``FINDINGS_TEST_SCALE=full`` for the large one)."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("findings_orm.testing")

from findings_orm import FindingStore, open_storage  # noqa: E402  # after the rewrite is registered

settings.register_profile("quick", max_examples=20, stateful_step_count=20, deadline=None)
settings.register_profile("full", max_examples=1_000, stateful_step_count=50, deadline=None)
settings.load_profile("full" if os.environ.get("FINDINGS_TEST_SCALE") == "full" else "quick")


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a SQLite file that an adapter made and closed, to copy: making one runs all migrations."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    open_storage(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def open_sqlite(tmp_path: pathlib.Path, empty_sqlite: pathlib.Path) -> Callable[[], FindingStore]:
    """Return a callable that opens one SQLite file, empty at first, as often as it is called."""
    path = shutil.copy(empty_sqlite, tmp_path / "findings.db")
    return lambda: open_storage(f"sqlite:///{path}")
