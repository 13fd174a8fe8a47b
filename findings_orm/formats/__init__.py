"""Scanner reports in, findings out.

`open_report` reads SARIF 2.1.0, nuclei's JSON and JSON Lines, and the package's own documents (JSON Lines, a JSON
array, a store layout). `write_report` writes SARIF, JSON Lines, store layouts and CSV. Both stream: memory does not
grow with the number of findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from findings_orm.arguments import checked
from findings_orm.errors import StorageValidationError, readable
from findings_orm.finding import SCHEMA_VERSION
from findings_orm.formats.base import Stream
from findings_orm.formats.csv import write_csv
from findings_orm.formats.jsonl import write_jsonl, write_layout
from findings_orm.formats.report import (
    EXPORT_FORMATS,
    FORMATS,
    VERSIONED_FORMATS,
    Report,
    export_format_of,
    find_format,
    open_report,
)
from findings_orm.formats.sarif_export import write_sarif

__all__ = [
    "EXPORT_FORMATS",
    "FORMATS",
    "VERSIONED_FORMATS",
    "Report",
    "export_format_of",
    "open_report",
    "write_csv",
    "write_jsonl",
    "write_layout",
    "write_report",
    "write_sarif",
]


@checked
def write_report(
    documents: Iterable[Mapping[str, object]],
    stream: Stream,
    format: str,
    *,
    schema_version: str = SCHEMA_VERSION,
) -> int:
    """Write documents in one of `EXPORT_FORMATS` and return how many there were.

    Args:
        documents: of the current schema version; consumed one by one.
        stream: of bytes (gets UTF-8) or of text.
        format: its name; ``json`` is a store layout, ``jsonl`` a document a line.
        schema_version: the version to write the findings in, for `VERSIONED_FORMATS`: old readers know no newer one.

    Raises:
        StorageValidationError: the format is not known or has no schema version, or a document can't be written in it.
        SchemaVersionError: the schema version is unknown.
        StorageUnavailableError: writing failed.
    """
    found = find_format(format, "written")
    if schema_version != SCHEMA_VERSION:
        if not found.has_versions:
            raise StorageValidationError(
                f"{format} has columns or a schema of its own: only {' and '.join(VERSIONED_FORMATS)} can be of finding "
                f"schema {readable(schema_version)}",
                field="schema_version",
                rule=f"must be {SCHEMA_VERSION} in this format",
                value=schema_version,
            )
        from findings_orm.migrations import SchemaMigrator

        documents = SchemaMigrator().migrate_many(SCHEMA_VERSION, schema_version, documents)
    return found.write(documents, stream, schema_version)
