"""Scanner reports in, findings out.

`open_report` reads SARIF 2.1.0, nuclei's JSON and JSON Lines, and the package's own documents (JSON Lines, a JSON
array, a store layout). `write_report` writes SARIF, JSON Lines and CSV. Both stream: memory does not grow with the
number of findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from findings_orm.errors import StorageValidationError, readable
from findings_orm.formats.csv import write_csv
from findings_orm.formats.jsonl import write_jsonl
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
    "write_report",
    "write_sarif",
]

_WRITERS = {"sarif": write_sarif, "jsonl": write_jsonl, "csv": write_csv}

EXPORT_FORMATS = tuple(_WRITERS)
"""The names of the formats that can be written."""


def write_report(documents: Iterable[Mapping[str, Any]], stream: Stream, format: str) -> int:
    """Write documents in one of `EXPORT_FORMATS` and return how many there were.

    Raises:
        StorageValidationError: the format is not known, or a document can't be written in it.
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
    return writer(documents, stream)
