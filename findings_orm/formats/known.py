"""The formats that there are, in the order in which they are named and asked whether a report is theirs."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

from findings_orm.arguments import checked
from findings_orm.errors import StorageValidationError, readable
from findings_orm.formats import csv, jsonl, nuclei, sarif
from findings_orm.formats.base import Format

KNOWN: dict[str, Format] = {
    known.name: known for known in (sarif.SARIF, nuclei.NUCLEI, jsonl.JSONL, jsonl.LAYOUT, csv.CSV)
}
"""Every format by its name. A new one is a module with a `Format`, and its place here."""

FORMATS = tuple(name for name, known in KNOWN.items() if known.can("read"))
"""The names of the formats that can be read."""

EXPORT_FORMATS = tuple(name for name, known in KNOWN.items() if known.can("written"))
"""The names of the formats that can be written."""

VERSIONED_FORMATS = tuple(name for name, known in KNOWN.items() if known.has_versions)
"""The names of the formats that can be written in older schema versions."""


def find_format(name: str, use: Literal["read", "written"]) -> Format:
    """Return the format of a name.

    Raises:
        StorageValidationError: there is none that can be read, or written; names those that can.
    """
    known = KNOWN.get(name)
    if known is None or not known.can(use):
        names = ", ".join(FORMATS if use == "read" else EXPORT_FORMATS)
        raise StorageValidationError(
            f"{readable(name)} is no format that can be {use}; known are {names}",
            field="format",
            rule=f"must be one of {names}",
            value=name,
        )
    return known


@checked
def export_format_of(path: PurePath | None) -> str:
    """Return the name of the format in which a file is written by its ending; JSON Lines where that says nothing."""
    ending = path.suffix.lower() if path is not None else ""
    return next((name for name in EXPORT_FORMATS if ending in KNOWN[name].endings), jsonl.JSONL.name)
