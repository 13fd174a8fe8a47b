"""Store security findings: one API over memory, files and databases.

>>> import findings_orm
>>> store = findings_orm.open_storage("memory:")
>>> store.list_findings("acme-api")
[]
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from findings_orm.decorate import ApplicationStore
from findings_orm.errors import (
    FindingNotFoundError,
    LimitExceededError,
    ReadOnlyError,
    SchemaVersionError,
    StorageConflictError,
    StorageError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
    UncheckedWriteError,
)
from findings_orm.finding import (
    SCHEMA_VERSION,
    Finding,
    FindingDocument,
    FindingInput,
    Severity,
    SeverityName,
    Status,
    StatusName,
    validate_finding,
)
from findings_orm.limits import Limits
from findings_orm.port import (
    Event,
    FindingStore,
    Health,
    IngestReport,
    PurgeReport,
    Rejected,
    RejectedOriginal,
    Run,
    RunDiff,
    Sighting,
    StoragePort,
)
from findings_orm.query import FindingQuery, Page, Summary
from findings_orm.registry import STORAGE_REGISTRY, open_storage, register_adapter, unregister_adapter

if TYPE_CHECKING:
    from findings_orm.aio import AsyncFindingStore
    from findings_orm.migrations import SchemaMigrator
    from findings_orm.orm.postgresql import PostgreSQLStorageAdapter
    from findings_orm.orm.sqlite import SQLiteStorageAdapter
    from findings_orm.stores.cache import RedisCacheAdapter
    from findings_orm.stores.files import FileStorageAdapter
    from findings_orm.stores.lifted import lift
    from findings_orm.stores.memory import InMemoryStorageAdapter

_LAZY = {
    "AsyncFindingStore": "findings_orm.aio",
    "FileStorageAdapter": "findings_orm.stores.files",
    "InMemoryStorageAdapter": "findings_orm.stores.memory",
    "PostgreSQLStorageAdapter": "findings_orm.orm.postgresql",
    "RedisCacheAdapter": "findings_orm.stores.cache",
    "SQLiteStorageAdapter": "findings_orm.orm.sqlite",
    "SchemaMigrator": "findings_orm.migrations",
    "lift": "findings_orm.stores.lifted",
}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Load an adapter, and the libraries it needs, on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


__all__ = [
    "SCHEMA_VERSION",
    "STORAGE_REGISTRY",
    "ApplicationStore",
    "AsyncFindingStore",
    "Event",
    "FileStorageAdapter",
    "Finding",
    "FindingDocument",
    "FindingInput",
    "FindingNotFoundError",
    "FindingQuery",
    "FindingStore",
    "Health",
    "InMemoryStorageAdapter",
    "IngestReport",
    "LimitExceededError",
    "Limits",
    "Page",
    "PostgreSQLStorageAdapter",
    "PurgeReport",
    "ReadOnlyError",
    "RedisCacheAdapter",
    "Rejected",
    "RejectedOriginal",
    "Run",
    "RunDiff",
    "SQLiteStorageAdapter",
    "SchemaMigrator",
    "SchemaVersionError",
    "Severity",
    "SeverityName",
    "Sighting",
    "Status",
    "StatusName",
    "StorageConflictError",
    "StorageError",
    "StorageIntegrityError",
    "StoragePort",
    "StorageUnavailableError",
    "StorageValidationError",
    "Summary",
    "UncheckedWriteError",
    "lift",
    "open_storage",
    "register_adapter",
    "unregister_adapter",
    "validate_finding",
]
