"""Traces: a span for each operation and each statement, and nothing of the findings in any of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from findings_orm import FindingQuery, FindingStore, StorageConflictError, StorageError, open_storage
from findings_orm.finding import FindingInput
from findings_orm.metrics import TracingAdapter
from findings_orm.testing.samples import finding

HIDDEN = "looked-for-in-spans"


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exported: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return provider


@pytest.fixture(params=["sqlite", "postgresql"])
def store(
    request: pytest.FixtureRequest, open_sqlite: Callable[[], FindingStore], provider: TracerProvider
) -> Iterator[TracingAdapter]:
    if request.param == "sqlite":
        inner = open_sqlite()
    else:
        inner = open_storage(request.getfixturevalue("postgresql_url"), project_id=HIDDEN)
    with TracingAdapter(inner, tracer_provider=provider) as store:
        yield store


def text_of(span: ReadableSpan) -> str:
    events = [(event.name, dict(event.attributes or {})) for event in span.events]
    return f"{span.name} {dict(span.attributes or {})} {events} {span.status.description}"


def test_statements_are_children_of_their_operation(
    store: TracingAdapter, exported: InMemorySpanExporter
) -> None:
    report: list[FindingInput] = [
        {"detector_id": "scan.a", "title": f"title {n}", "severity": "low"} for n in range(80)
    ]
    store.ingest(HIDDEN, report)
    *statements, operation = exported.get_finished_spans()
    assert operation.name == "findings_orm.ingest"
    assert operation.kind is SpanKind.INTERNAL
    assert operation.attributes is not None
    assert operation.attributes["findings_orm.import.created"] == 80
    assert operation.context is not None
    for span in statements:
        assert span.kind is SpanKind.CLIENT
        assert span.parent is not None
        assert span.parent.span_id == operation.context.span_id
        assert span.attributes is not None
        assert span.attributes["db.system.name"] == store.adapter
        assert span.name == span.attributes["db.query.summary"]
    copied = "COPY findings" if store.adapter == "postgresql" else "INSERT findings"
    (written,) = [span for span in statements if span.name == copied]
    assert written.attributes is not None
    assert written.attributes["db.collection.name"] == "findings"
    assert written.attributes["db.response.returned_rows"] == 80
    if store.adapter == "sqlite":
        assert written.attributes["db.operation.batch.size"] == 80


def test_a_stream_is_one_operation_and_not_the_parent_of_what_its_reader_does(
    store: TracingAdapter, exported: InMemorySpanExporter
) -> None:
    store.ingest(HIDDEN, [{"detector_id": "scan.a", "title": f"{n}", "severity": "low"} for n in range(3)])
    exported.clear()
    for document in store.iter_findings(HIDDEN):
        store.get_finding(HIDDEN, document["id"])
    spans = [span for span in exported.get_finished_spans() if span.name.startswith("findings_orm.")]
    assert [span.name for span in spans] == [*["findings_orm.get_finding"] * 3, "findings_orm.iter_findings"]
    assert all(span.parent is None for span in spans)
    assert spans[-1].attributes is not None
    assert spans[-1].attributes["db.response.returned_rows"] == 3


def test_no_span_holds_a_value(store: TracingAdapter, exported: InMemorySpanExporter) -> None:
    document = finding(
        project_id=HIDDEN, title=HIDDEN, resource=HIDDEN, evidence={HIDDEN: HIDDEN}, tags=[HIDDEN]
    )
    store.save_finding(document)
    store.save_finding(document | {"title": f"{HIDDEN}, changed"})
    store.ingest(HIDDEN, [{"detector_id": HIDDEN, "title": HIDDEN, "severity": "low"}])
    store.find(FindingQuery(project_id=HIDDEN, text=HIDDEN, resource_prefix=HIDDEN, tag=HIDDEN))
    store.count(FindingQuery(project_id=HIDDEN, text=f"'{HIDDEN}'"))
    store.set_status(HIDDEN, document["id"], "triaged", actor=HIDDEN, comment=HIDDEN)
    list(store.iter_findings(HIDDEN))
    store.summarize(HIDDEN)
    with pytest.raises(StorageError):
        store.save_finding(document | {"severity": HIDDEN})
    with pytest.raises(StorageConflictError):
        store.ingest(
            HIDDEN, [{"id": document["id"], "detector_id": "another", "title": HIDDEN, "severity": "low"}]
        )
    store.delete_project(HIDDEN)
    spans = exported.get_finished_spans()
    assert len(spans) > 30
    for span in spans:
        for value in (HIDDEN, document["id"]):
            assert value not in text_of(span), json.dumps(text_of(span))


def test_an_error_is_named_by_its_kind(store: TracingAdapter, exported: InMemorySpanExporter) -> None:
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE finding_runs RENAME TO gone")
    exported.clear()
    with pytest.raises(StorageError):
        store.runs(HIDDEN)
    operation = exported.get_finished_spans()[-1]
    (statement,) = [span for span in exported.get_finished_spans() if span.name == "SELECT finding_runs"]
    assert operation.attributes is not None
    assert statement.attributes is not None
    assert operation.status.status_code is statement.status.status_code is StatusCode.ERROR
    assert operation.attributes["error.type"] == "StorageIntegrityError"
    assert statement.attributes["error.type"] == (
        "42P01" if store.adapter == "postgresql" else "SQLITE_ERROR"
    )


def test_statements_can_be_left_out(
    open_sqlite: Callable[[], FindingStore], provider: TracerProvider, exported: InMemorySpanExporter
) -> None:
    with TracingAdapter(open_sqlite(), tracer_provider=provider, statements=False) as store:
        store.list_projects()
    assert [span.name for span in exported.get_finished_spans()] == ["findings_orm.list_projects"]
