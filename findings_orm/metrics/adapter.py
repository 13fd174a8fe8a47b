"""Metrics of a store for Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Self
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from findings_orm.arguments import checked
from findings_orm.decorate import observable
from findings_orm.errors import StorageError
from findings_orm.metrics.instruments import COUNTERS, GAUGES, HISTOGRAMS, IMPORTED, PREFIX, RETRIED, STORE
from findings_orm.metrics.observed import ObservedStore, Operation, outcome_of
from findings_orm.observe import Ended, Figures, Observer, Statement
from findings_orm.port import FindingStore, Health, IngestReport
from findings_orm.process import block
from findings_orm.secrecy import hide_secrets
from findings_orm.units import bound

Sample = tuple[str, tuple[str, ...], float]


class MetricsAdapter(ObservedStore):
    """A store whose operations, statements, connections and imports are counted and timed for Prometheus.

    Works over any store, other decorators included; docs/metrics.md lists the metrics. Gauges (findings by severity
    and status, size, revision) are asked of the store at a scrape, at most once in `figures_every` seconds.

    Args:
        inner: the store that does the work; it is closed with this one.
        registry: where the metrics are registered; prometheus_client's default one when not given. Stores may share it.
        name: the label ``store``, to tell apart the stores of one process.
        figures_every: seconds for which figures are kept.
    """

    @checked
    def __init__(
        self,
        inner: FindingStore,
        *,
        registry: CollectorRegistry = REGISTRY,
        name: str = "default",
        figures_every: float = 60.0,
    ) -> None:
        instruments = instruments_of(registry)
        operations = instruments.histograms["operation_duration_seconds"]
        super().__init__(inner, observer := _Observed(instruments))
        self.labels: tuple[str, str] = (self.adapter, hide_secrets(name))
        observer.labels = self.labels
        self._instruments = instruments
        self._operations = lru_cache(1024)(
            lambda operation, outcome: operations.labels(*self.labels, operation, outcome).observe
        )
        for each in IMPORTED:
            instruments.counters["imported_findings_total"].labels(*self.labels, each)
        watched = observable(inner)
        if (
            watched is not None and watched.pool() is not None
        ):  # begin at 0, for a series that begins at 1 has no increase
            instruments.counters["pool_timeouts_total"].labels(*self.labels)
            for reason in RETRIED:
                instruments.counters["retries_total"].labels(*self.labels, reason)
        self._figures_every = figures_every
        self._figures_lock = threading.Lock()
        self._figures: tuple[float, Figures | None] | None = None
        self._asked_at = 0.0
        instruments.gauges.stores.add(self)

    def close(self) -> None:
        """See `FindingStore.close`; counters stay, gauges go."""
        self._instruments.gauges.stores.discard(self)
        super().close()

    # -- operations -----------------------------------------------------------------------------------------

    def _begin_operation(self, name: str) -> Operation:
        return _Counted(name, self)

    def _on_end(self, operation: Operation, result: object, error: BaseException | None) -> None:
        unwell = isinstance(result, Health) and not result.ok
        outcome = "unavailable" if unwell else outcome_of(error)
        self._operations(operation.name, outcome)(operation.seconds)
        if isinstance(result, IngestReport) and not (result.dry_run or result.repeated):
            self._count_imported(result.counts(), self._unit_value())

    @block
    def transaction(self, *, read_only: bool = False) -> Iterator[Self]:
        """See `FindingStore.transaction`. Imports count when it commits."""
        outer: list[Mapping[str, int]] | None = self._unit_value()
        imports: list[Mapping[str, int]] = []
        commits = self._commits_at_once()
        ended = False
        try:
            with super().transaction(read_only=read_only) as view, bound(self._scope, imports):
                yield self._view_of(view.inner, imports)
            ended = True
            for counts in imports:
                self._count_imported(counts, outer)
        except BaseException as error:
            if ended:
                self._note_late_exception(error, commits=commits)
            raise

    def _count_imported(
        self, counts: Mapping[str, int], pending: list[Mapping[str, int]] | None = None
    ) -> None:
        if pending is not None:
            pending.append(counts)
            return
        for outcome, count in counts.items():
            self._instruments.counters["imported_findings_total"].labels(*self.labels, outcome).inc(count)

    # -- figures --------------------------------------------------------------------------------------------

    def samples(self) -> Iterator[Sample]:
        """Yield the gauges: name, labels beside those of the store, value. The figures may be `figures_every` old."""
        if observable(self.inner) is None:
            return
        figures = self._recent_figures()
        yield "up", (), float(figures is not None)
        yield "figures_timestamp_seconds", (), self._asked_at
        if figures is not None:
            yield from _figure_samples(figures, self.get_schema_version())
        pool = self.pool()
        if pool is not None:
            yield "pool_connections", ("in_use",), pool.in_use
            yield "pool_connections", ("idle",), pool.idle
            yield "pool_waiting_threads", (), pool.waiting
            if pool.limit is not None:
                yield "pool_limit_connections", (), pool.limit

    def _recent_figures(self) -> Figures | None:
        with self._figures_lock:
            now = time.monotonic()
            old = self._figures is None or now - self._figures[0] >= self._figures_every
            if old and not (self._figures and self._is_pool_exhausted()):
                try:
                    found: Figures | None = self.figures()
                except StorageError:
                    found = None
                self._figures = (now, found)
                self._asked_at = time.time()
            return self._figures[1] if self._figures else None

    def _is_pool_exhausted(self) -> bool:
        """Return whether the figures would wait for a connection: the scrape would end before, with the pool untold."""
        pool = self.pool()
        return pool is not None and pool.limit is not None and pool.in_use >= pool.limit


def _figure_samples(figures: Figures, schema_version: str) -> Iterator[Sample]:
    for key, count in figures.findings.items():
        yield "findings", key, count
    yield "projects", (), figures.projects
    if figures.size_bytes is not None:
        yield "store_size_bytes", (), figures.size_bytes
    yield "schema_info", (figures.revision or "", schema_version), 1


class _Counted(Operation):
    __slots__ = ("_store",)

    def __init__(self, name: str, store: MetricsAdapter) -> None:
        super().__init__(name)
        self._store = store

    def end(self, result: object, error: BaseException | None) -> None:
        self._store._on_end(self, result, error)


class _Observed(Observer):
    """Counts what the store inside tells."""

    labels: tuple[str, str] = ("", "")

    def __init__(self, instruments: Instruments) -> None:
        self._histograms = instruments.histograms
        self._counters = instruments.counters
        self._on_end = lru_cache(1024)(self._end_counter)
        wait = self._histograms["pool_wait_seconds"]
        self._waited = lru_cache(1)(lambda labels: wait.labels(*labels).observe)

    def statement(self, statement: Statement) -> Ended:
        return self._on_end(statement.operation, statement.collection)

    def _end_counter(self, operation: str, table: str) -> Ended:
        labels = (*self.labels, operation, table)
        observe = self._histograms["statement_duration_seconds"].labels(*labels).observe
        count = self._counters["statement_rows_total"].labels(*labels).inc
        failed = self._counters["statement_errors_total"].labels(*labels).inc

        def ended(seconds: float, rows: int, error: BaseException | None) -> None:
            observe(seconds)
            if rows:
                count(rows)
            if error is not None:
                failed()

        return ended

    def connected(self, seconds: float, error: BaseException | None, *, timed_out: bool) -> None:
        self._waited(self.labels)(seconds)
        if timed_out:
            self._counters["pool_timeouts_total"].labels(*self.labels).inc()

    def retried(self, reason: str) -> None:
        self._counters["retries_total"].labels(*self.labels, reason).inc()

    def cached(self, operation: str, event: str) -> None:
        self._counters["cache_events_total"].labels(*self.labels, operation, event).inc()


class Instruments:
    """The metrics of a registry, shared by its stores.

    Attributes:
        histograms, counters: by name, without the prefix.
        gauges: the collector that asks the stores.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.histograms: Mapping[str, Histogram] = {
            name: Histogram(
                PREFIX + name, one.text, (*STORE, *one.labels), registry=registry, buckets=one.buckets
            )
            for name, one in HISTOGRAMS.items()
        }
        self.counters: Mapping[str, Counter] = {
            name: Counter(PREFIX + name, one.text, (*STORE, *one.labels), registry=registry)
            for name, one in COUNTERS.items()
        }
        self.gauges = Gauges()
        registry.register(self.gauges)


class Gauges(Collector):
    """What stores say of themselves, asked of them at each scrape."""

    def __init__(self) -> None:
        self.stores: WeakSet[MetricsAdapter] = WeakSet()

    def describe(self) -> Iterable[Metric]:
        """Name the metrics without asking a store, so that a second one of a name is refused."""
        return _gauge_families().values()

    def collect(self) -> Iterable[Metric]:
        """Ask the stores; of several with the same labels only one, for a series must not be there twice."""
        families = _gauge_families()
        for store in {store.labels: store for store in self.stores}.values():
            for name, labels, value in store.samples():
                families[name].add_metric([*store.labels, *labels], value)
        return families.values()


def _gauge_families() -> dict[str, GaugeMetricFamily]:
    return {
        name: GaugeMetricFamily(PREFIX + name, one.text, labels=(*STORE, *one.labels))
        for name, one in GAUGES.items()
    }


_LOCK = threading.Lock()
_KNOWN: WeakKeyDictionary[CollectorRegistry, Instruments] = WeakKeyDictionary()


def instruments_of(registry: CollectorRegistry) -> Instruments:
    """Return the metrics of a registry, made on first use.

    Raises:
        ValueError: the registry has metrics of these names already, of somebody else.
    """
    with _LOCK:
        if registry not in _KNOWN:
            _KNOWN[registry] = Instruments(registry)
        return _KNOWN[registry]
