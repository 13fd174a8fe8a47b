"""The log of slow queries."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from servers import POSTGRESQL

from findings_orm import FindingQuery, FindingStore, StorageValidationError, open_storage
from findings_orm.finding import FindingInput
from findings_orm.metrics import SlowQueries

REPORT: list[FindingInput] = [
    {"detector_id": "scan.a", "title": f"zebra {n}", "severity": "low"} for n in range(30)
]


def logged(caplog: pytest.LogCaptureFixture) -> list[Any]:
    records = [record for record in caplog.records if record.name == "findings_orm.slow"]
    assert all(record.levelno == logging.WARNING for record in records)
    return records


@pytest.fixture(params=["sqlite", *POSTGRESQL])
def inner(request: pytest.FixtureRequest, open_sqlite: Callable[[], FindingStore]) -> FindingStore:
    if request.param == "sqlite":
        return open_sqlite()
    return open_storage(request.getfixturevalue(f"{request.param}_url"))


def test_a_record_says_what_was_slow_and_who_called_it(
    inner: FindingStore, caplog: pytest.LogCaptureFixture
) -> None:
    with SlowQueries(inner, threshold=0) as store:
        store.ingest("p", REPORT)
        caplog.clear()
        store.find(FindingQuery(project_id="p", severity="low", text="zebra"))
    (record,) = [record for record in logged(caplog) if "FROM findings" in record.statement]
    assert "FROM findings" in record.statement
    assert record.rows == 30
    assert record.seconds > 0
    assert record.batch == 1
    assert record.operation == "find"
    assert record.plan == []
    file, function = record.caller.rsplit(" ", 1)
    assert file.rpartition(":")[0] == __file__
    assert function == "test_a_record_says_what_was_slow_and_who_called_it"
    assert f"in find, called from {record.caller}: {record.statement}" in record.getMessage()
    assert "zebra" not in record.getMessage()


def test_the_plan_is_asked_for_on_request_only(inner: FindingStore, caplog: pytest.LogCaptureFixture) -> None:
    with SlowQueries(inner, threshold=0, plan=True) as store:
        store.ingest("p", REPORT)
        store.list_findings("p")
        with store.transaction():
            store.ingest("p", REPORT[:3])
            store.count(FindingQuery(project_id="p"))
            list(store.iter_findings("p"))
        assert len(store.list_findings("p")) == 30
    explained = [record for record in logged(caplog) if record.statement.startswith("SELECT")]
    assert len(explained) > 5
    for record in explained:
        assert record.plan, record.statement
        assert record.plan[0] in record.getMessage()
    listing = next(record for record in explained if record.operation == "list_findings")
    assert "findings" in "\n".join(listing.plan).lower()


def test_what_is_fast_is_not_logged(inner: FindingStore, caplog: pytest.LogCaptureFixture) -> None:
    with SlowQueries(inner, threshold=3600, plan=True) as store:
        store.ingest("p", REPORT)
        list(store.iter_findings("p"))
    assert logged(caplog) == []


def test_a_store_without_statements_logs_operations(caplog: pytest.LogCaptureFixture) -> None:
    with SlowQueries(open_storage("memory:"), threshold=0) as store:
        store.ingest("p", REPORT)
        list(store.iter_findings("p"))
    records = logged(caplog)
    assert [(record.operation, record.rows) for record in records] == [("ingest", 0), ("iter_findings", 30)]
    assert all(
        record.caller.endswith("test_a_store_without_statements_logs_operations") for record in records
    )


def test_a_threshold_is_seconds() -> None:
    with open_storage("memory:") as inner, pytest.raises(StorageValidationError, match="threshold"):
        SlowQueries(inner, threshold=-1)
