"""The metrics of Prometheus: names, labels and buckets, in one place."""

from __future__ import annotations

from typing import NamedTuple

PREFIX = "findings_orm_"
STORE = ("adapter", "store")
"""The labels that every metric has: the kind of store, and the name that the application gave it."""

IMPORTED = ("created", "updated", "unchanged", "reopened", "resolved", "rejected")
"""What an import does with a finding, as in `findings_orm.port.IngestReport`."""
RETRIED = ("conflict", "connection")
"""Why a unit of work is tried again."""


class Definition(NamedTuple):
    """A metric: what it says, its labels beside those of the store, and its buckets in seconds (of a histogram)."""

    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_STATEMENT = ("statement", "table")

HISTOGRAMS = {
    "operation_duration_seconds": Definition(
        "Operations of the store: how often, how long, and how they ended.",
        ("operation", "outcome"),
        (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    ),
    "statement_duration_seconds": Definition(
        "Statements of a SQL store: how often, and their time in the database with all fetches.",
        _STATEMENT,
        (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
    ),
    "pool_wait_seconds": Definition(
        "Time until a connection was had, new ones included.",
        (),
        (0.0001, 0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60),
    ),
}
COUNTERS = {
    "statement_rows_total": Definition("Rows that statements returned, or else wrote.", _STATEMENT),
    "statement_errors_total": Definition("Statements that failed.", _STATEMENT),
    "pool_timeouts_total": Definition("Waits for a connection in which none became free."),
    "retries_total": Definition("Units of work that were tried again.", ("reason",)),
    "cache_events_total": Definition(
        "What the cache in front of the store did, by operation.", ("operation", "event")
    ),
    "imported_findings_total": Definition(
        "Findings of committed imports, by what the import did.", ("outcome",)
    ),
}
GAUGES = {
    "up": Definition("1 where the store answered when it was last asked for figures, else 0."),
    "findings": Definition("Findings in all projects.", ("severity", "status")),
    "projects": Definition("Projects."),
    "store_size_bytes": Definition("What the store takes on disk."),
    "schema_info": Definition(
        "1 for the revision of the database and the version of the finding schema.", ("revision", "version")
    ),
    "figures_timestamp_seconds": Definition("When the store was last asked for figures, which are cached."),
    "pool_connections": Definition("Connections now: in_use and idle.", ("state",)),
    "pool_limit_connections": Definition("The most connections that the pool opens."),
    "pool_waiting_threads": Definition("Threads that wait for a connection now."),
}


def exported_series() -> dict[str, set[str]]:
    """Return the series that this package exports, by their names in queries, with their labels."""
    found = {
        f"{PREFIX}{name}{suffix}": {*STORE, *one.labels, *(["le"] if suffix == "_bucket" else [])}
        for name, one in HISTOGRAMS.items()
        for suffix in ("_bucket", "_count", "_sum")
    }
    plain = {**COUNTERS, **GAUGES}
    return found | {f"{PREFIX}{name}": {*STORE, *one.labels} for name, one in plain.items()}
