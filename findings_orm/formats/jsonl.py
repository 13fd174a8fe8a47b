"""The package's own documents in and out: JSON Lines, a JSON array, or a store layout.

JSON Lines is the lossless format: a line a document, every field as it is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from findings_orm.errors import StorageValidationError
from findings_orm.formats.jsonstream import JsonReader
from findings_orm.formats.survey import Survey
from findings_orm.formats.writing import Stream, TextSink
from findings_orm.layout import version_of

VERSION_KEYS = ("finding_schema_version", "store_schema_version")


class _Context(NamedTuple):
    is_layout: bool
    version: Any


def survey(reader: JsonReader, *, layout: bool = False) -> Survey:
    """Read documents up to the end; they speak for the detectors that they name.

    Args:
        reader: at the start of the text.
        layout: it is a store layout, an object whose `findings` are the documents.

    Raises:
        StorageValidationError: not JSON, or something in it is no object.
    """
    beside: dict[str, Any] = {}
    detectors: dict[str, None] = {}
    found = Survey()
    for document in _all(reader, beside, layout):
        found.total += 1
        detector = document.get("detector_id")
        if isinstance(detector, str):
            detectors[detector] = None
    found.context = _Context(layout, next((beside[key] for key in VERSION_KEYS if key in beside), None))
    found.detectors = list(detectors)
    found.tool = [{"name": name, "detector_id": name, "version": None} for name in detectors]
    return found


def documents(reader: JsonReader, found: Survey) -> Iterator[dict[str, Any]]:
    """Yield each document as it is, of whatever schema version.

    Those of a store layout that name no version of their own get the layout's. Those of 0.3.0, which had none, are
    known by their `pid`.
    """
    context: _Context = found.context
    for document in _all(reader, {}, context.is_layout):
        version = context.version or version_of(document)
        if version is not None:
            document.setdefault("finding_schema_version", version)
        yield document


def write_jsonl(documents: Iterable[Mapping[str, Any]], stream: Stream) -> int:
    """Write a line of JSON for each document and return how many there were.

    Args:
        documents: consumed one by one, each written before the next is taken.
        stream: of bytes (gets UTF-8) or of text.

    Raises:
        StorageValidationError: a document holds something that JSON can't; names its index.
        StorageUnavailableError: writing failed.
    """
    sink = TextSink(stream)
    count = 0
    for document in documents:
        try:
            line = json.dumps(document, ensure_ascii=False, allow_nan=False)
            line.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise StorageValidationError(
                f"document {count}: JSON can't hold it: {error}", index=count
            ) from error
        sink.write(line + "\n")
        count += 1
    return count


def _all(reader: JsonReader, layout: dict[str, Any], is_layout: bool) -> Iterator[dict[str, Any]]:
    """Yield the documents; what a store layout has beside them goes to `layout`."""
    if not is_layout:
        yield from reader.objects()
        return
    for name in reader.members():
        if name == "findings":
            for _ in reader.elements():
                yield reader.object()
        else:
            layout[name] = reader.value()
    reader.end()
