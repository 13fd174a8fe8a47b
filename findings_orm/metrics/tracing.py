"""Traces of a store for OpenTelemetry: a span for each operation, and one for each statement in it.

Names and attributes are those of OpenTelemetry's semantic conventions for database client spans (stable since 1.33):
https://opentelemetry.io/docs/specs/semconv/database/database-spans/. No span holds a value of a finding, an id or the text of
an error: statements have marks in place of values, and errors are named by their kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextvars import ContextVar
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from findings_orm.arguments import checked
from findings_orm.metrics.observed import ObservedStore, Operation, outcome_of
from findings_orm.observe import Ended, Observer, Statement
from findings_orm.port import FindingStore, IngestReport, PurgeReport
from findings_orm.process import block

_PLACE: ContextVar[None] = ContextVar("findings_orm.tracing")
"""Tells whether a block is left in the context in which it was entered."""
_SYSTEMS = {"postgresql": "postgresql", "sqlite": "sqlite"}


class TracingAdapter(ObservedStore):
    """A store whose operations and statements are spans.

    Args:
        inner: the store that does the work; it is closed with this one.
        tracer_provider: where spans go; the global one of OpenTelemetry when not given.
        statements: also make a span for each statement of a SQL store.
    """

    @checked
    def __init__(
        self, inner: FindingStore, *, tracer_provider: TracerProvider | None = None, statements: bool = True
    ) -> None:
        tracer = trace.get_tracer("findings_orm", tracer_provider=tracer_provider)
        observer = _Traced(tracer) if statements else None
        super().__init__(inner, observer)
        self._tracer = tracer
        self._system = _SYSTEMS.get(self.adapter, f"findings_orm.{self.adapter}")
        if observer is not None:
            observer.system = self._system

    def _begin_operation(self, name: str) -> Operation:
        span = self._tracer.start_span(
            f"findings_orm.{name}",
            kind=SpanKind.INTERNAL,
            attributes={"db.system.name": self._system, "db.operation.name": name},
        )
        return _Span(name, span)


class _Span(Operation):
    __slots__ = ("_current", "_span")

    def __init__(self, name: str, span: Span) -> None:
        super().__init__(name)
        self._span = span

    def __enter__(self) -> None:
        super().__enter__()
        self._current = trace.use_span(
            self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        )
        self._current.__enter__()

    def __exit__(self, *_: object) -> None:
        self._current.__exit__(None, None, None)
        super().__exit__()

    @block
    def around(self) -> Iterator[None]:
        """See `Operation.around`; the span is the current one in the context in which the block is entered."""
        token, place = None, _PLACE.set(None)
        try:
            token = context.attach(trace.set_span_in_context(self._span))
            with super().around():
                yield
        finally:
            try:
                _PLACE.reset(place)
            except ValueError:
                pass  # the block is left in another context, where the span never was the current one
            else:
                if token is not None:
                    context.detach(token)

    def end(self, result: object, error: BaseException | None) -> None:
        if error is not None:
            _mark_error(self._span, error)
        if isinstance(result, int):
            self._span.set_attribute("db.response.returned_rows", result)
        elif isinstance(result, IngestReport):
            for name, count in result.counts().items():
                self._span.set_attribute(f"findings_orm.import.{name}", count)
        elif isinstance(result, PurgeReport):
            self._span.set_attribute("findings_orm.purged", result.purged)
        elif isinstance(result, Sized) and not isinstance(result, (str, dict)):
            self._span.set_attribute("db.response.returned_rows", len(result))
        self._span.end()


class _Traced(Observer):
    system = ""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def statement(self, statement: Statement) -> Ended:
        attributes: dict[str, Any] = {
            "db.system.name": self.system,
            "db.operation.name": statement.operation,
            "db.query.text": statement.masked,
            "db.query.summary": f"{statement.operation} {statement.collection}".strip(),
        }
        if statement.collection:
            attributes["db.collection.name"] = statement.collection
        if statement.batch > 1:
            attributes["db.operation.batch.size"] = statement.batch
        span = self._tracer.start_span(
            attributes["db.query.summary"], kind=SpanKind.CLIENT, attributes=attributes
        )

        def end_span(_seconds: float, rows: int, error: BaseException | None) -> None:
            span.set_attribute("db.response.returned_rows", rows)
            if error is not None:
                _mark_error(span, error)
            span.end()

        return end_span

    def retried(self, reason: str) -> None:
        trace.get_current_span().add_event("findings_orm.retry", {"findings_orm.reason": reason})


def _mark_error(span: Span, error: BaseException) -> None:
    """Name the kind of an error; its text may hold values."""
    span.set_attribute("error.type", _error_kind(error))
    span.set_status(Status(StatusCode.ERROR, outcome_of(error)))


def _error_kind(error: BaseException) -> str:
    state = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    return str(state or type(error).__qualname__)
