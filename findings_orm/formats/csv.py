"""CSV out (RFC 4180), for spreadsheets: a header, then a row a finding. For reading; JSON Lines loses nothing."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from typing import Any

from findings_orm.arguments import checked
from findings_orm.errors import StorageValidationError
from findings_orm.formats.base import Format, Stream, TextSink

COLUMNS = (
    "id",
    "project_id",
    "severity",
    "status",
    "title",
    "detector_id",
    "rule_id",
    "resource",
    "path",
    "start_line",
    "end_line",
    "cwe_ids",
    "cve_ids",
    "cvss",
    "owasp",
    "mitre_attack",
    "tags",
    "confidence",
    "message",
    "poc_links",
    "fingerprint",
    "created_at",
    "run_id",
)
"""The columns, always these and in this order."""

_FORMULA = re.compile(r"""\A(?=[\t\r\n])|(?:\A|(?<=[;\t\r\n]))(?=[" ]*[=+\-@\uff1d\uff0b\uff0d\uff20])""")
"""Where a cell begins, in whatever of the usual separators a spreadsheet sees, that it may take for a formula."""


@checked
def write_csv(documents: Iterable[Mapping[str, object]], stream: Stream) -> int:
    """Write the header and a row for each document, and return how many documents there were.

    Lists are joined by ``; ``; what is absent is an empty cell; `message` is the text under that name in the
    evidence. Text that a spreadsheet may take for a formula (it starts with one of ``= + - @``, their full-width
    forms, a tab or a line break) gets an apostrophe before it (OWASP, CSV Injection); so does such text after a semicolon, a
    tab or a line break inside of a cell, as a spreadsheet begins a cell there where these are its separators.

    Args:
        documents: consumed one by one, each written before the next is taken.
        stream: of bytes (gets UTF-8) or of text; a file of text is to be opened with ``newline=""``.

    Raises:
        StorageValidationError: a document is no finding; names its index.
        StorageUnavailableError: writing failed.
    """
    writer = csv.writer(TextSink(stream), lineterminator="\r\n")
    writer.writerow(COLUMNS)
    count = 0
    for document in documents:
        try:
            row = _row_of(document)
        except (AttributeError, TypeError) as error:
            raise StorageValidationError.of_field(
                "document", "must be a finding", document, index=count
            ) from error
        writer.writerow(row)
        count += 1
    return count


def _row_of(document: Mapping[str, Any]) -> list[object]:
    location = document.get("location") or {}
    evidence = document.get("evidence") or {}
    message = evidence.get("message")
    cells = {
        **document,
        "path": location.get("path"),
        "start_line": location.get("start_line"),
        "end_line": location.get("end_line"),
        "message": message if isinstance(message, str) else None,
    }
    return [_cell_value(cells.get(name)) for name in COLUMNS]


def _cell_value(value: object) -> object:
    if isinstance(value, list):
        value = "; ".join(str(item) for item in value)
    if isinstance(value, str):
        return _FORMULA.sub("'", value)
    return "" if value is None else value


CSV = Format(
    name="csv",
    summary="a table for spreadsheets (RFC 4180), a row a finding",
    endings=(".csv",),
    write=lambda documents, stream, _: write_csv(documents, stream),
)
