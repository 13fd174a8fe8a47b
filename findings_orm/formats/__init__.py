"""Scanner reports in, findings out.

`open_report` reads SARIF 2.1.0, nuclei's JSON and JSON Lines, and the package's own documents (JSON Lines, a JSON
array, a store layout). `write_report` writes SARIF, JSON Lines, store layouts and CSV. Both stream: memory does not
grow with the number of findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from findings_orm.arguments import checked
from findings_orm.errors import StorageValidationError, readable
from findings_orm.finding import SCHEMA_VERSION
from findings_orm.formats.csv import write_csv
from findings_orm.formats.jsonl import write_jsonl, write_layout
from findings_orm.formats.report import FORMATS, Report, open_report
from findings_orm.formats.sarif_export import write_sarif
from findings_orm.formats.writing import Stream

__all__ = [
    "EXPORT_FORMATS",
    "FORMATS",
    "Report",
    "open_report",
    "write_csv",
    "write_jsonl",
    "write_layout",
    "write_report",
    "write_sarif",
]

_WRITERS = {"sarif": write_sarif, "jsonl": write_jsonl, "json": write_layout, "csv": write_csv}
_VERSIONED = ("jsonl", "json")

EXPORT_FORMATS = tuple(_WRITERS)
"""The names of the formats that can be written."""


@checked
def write_report(
    documents: Iterable[Mapping[str, Any]],
    stream: Stream,
    format: str,
    *,
    schema_version: str = SCHEMA_VERSION,
) -> int:
    """Write documents in one of `EXPORT_FORMATS` and return how many there were.

    Args:
        documents: of the current schema version; consumed one by one.
        stream: of bytes (gets UTF-8) or of text.
        format: ``jsonl`` (a document a line), ``json`` (a store layout), ``sarif`` or ``csv``.
        schema_version: the version to write the findings in, for ``jsonl`` and ``json``: old readers know no newer one.

    Raises:
        StorageValidationError: the format is not known or has no schema version, or a document can't be written in it.
        SchemaVersionError: the schema version is unknown.
        StorageUnavailableError: writing failed.
    """
    writer = _WRITERS.get(format)
    if writer is None:
        known = ", ".join(EXPORT_FORMATS)
        raise StorageValidationError(
            f"{readable(format)} is no format that can be written; known are {known}",
            field="format",
            rule=f"must be one of {known}",
            value=format,
        )
    if schema_version == SCHEMA_VERSION:
        return writer(documents, stream)
    if format not in _VERSIONED:
        raise StorageValidationError(
            f"{format} has columns or a schema of its own: only {' and '.join(_VERSIONED)} can be of finding schema "
            f"{readable(schema_version)}",
            field="schema_version",
            rule=f"must be {SCHEMA_VERSION} in this format",
            value=schema_version,
        )
    from findings_orm.migrations import SchemaMigrator

    older = SchemaMigrator().migrate_many(SCHEMA_VERSION, schema_version, documents)
    if format == "json":
        return write_layout(older, stream, schema_version)
    return write_jsonl(older, stream)
