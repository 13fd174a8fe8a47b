"""The package's own documents in and out: JSON Lines, a JSON array, or a store layout.

JSON Lines is the lossless format: a line a document, every field as it is stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from findings_orm.arguments import checked
from findings_orm.errors import SchemaVersionError, StorageValidationError, readable
from findings_orm.finding import KNOWN_VERSIONS, SCHEMA_VERSION
from findings_orm.formats.base import Format, Head, Stream, Survey, TextSink
from findings_orm.jsonstream import JsonReader
from findings_orm.layout import LEGACY_VERSION, VERSION_KEYS, looks_legacy, version_of

_LEGACY_KEYS = frozenset({"pid", "ts"})
_DETECTOR = re.compile(r"[A-Za-z0-9_.-]+")


class _Context(NamedTuple):
    is_layout: bool
    version: object


def recognize_report(head: Head) -> bool:
    """Return whether the first object of a text is a finding of any schema version, or a store layout."""
    keys = head.values.keys()
    is_bare = head.is_complete and keys <= {"findings"}  # a layout of 0.3.0
    is_layout = head.is_layout and (is_bare or any(key in keys for key in VERSION_KEYS))
    return head.last_name == "detector_id" or is_layout or keys >= _LEGACY_KEYS


def survey_report(reader: JsonReader, head: Head) -> Survey:
    """Read documents up to the end; they speak for the detectors that they name.

    Args:
        reader: at the start of the text.
        head: says whether it is a store layout, an object whose `findings` are the documents.

    Raises:
        StorageValidationError: not JSON, or something in it is no object.
    """
    beside: dict[str, object] = {}
    named: dict[tuple[str, Any], None] = {}
    found = Survey()
    size = 0
    for document in _walk_documents(reader, beside, head.is_layout):
        found.total += 1
        found.legacy = found.legacy or looks_legacy(document)
        detector = document.get("detector_id")
        name = (detector, str(version_of(document) or "")) if isinstance(detector, str) else None
        if name and name not in named:
            named[name] = None
            size += sum(map(len, name))
            reader.check("max_names", len(named), "the number of detectors")
            reader.check("max_document_bytes", size, "the size of the names of detectors, in bytes")
    version = next((beside[key] for key in VERSION_KEYS if key in beside), None)
    found.context = _Context(head.is_layout, version)
    found.detectors = _detectors_of_today(named, version)
    found.tool = [{"name": name, "detector_id": name, "version": None} for name in found.detectors]
    return found


def _detectors_of_today(named: Iterable[tuple[str, str]], version: object) -> list[str]:
    """Return the detectors that documents of some version name, as they are called today; a wrong one speaks for none."""
    names = (name.replace(":", ".") if (said or version) == LEGACY_VERSION else name for name, said in named)
    return [name for name in dict.fromkeys(names) if _DETECTOR.fullmatch(name)]


def read_documents(reader: JsonReader, found: Survey) -> Iterator[dict[str, object]]:
    """Yield each document as it is, of whatever schema version.

    Those of a store layout that name no version of their own get the layout's. Those of 0.3.0, which had none, are
    known by their `pid`.
    """
    context: _Context = found.context
    for document in _walk_documents(reader, {}, context.is_layout):
        version = context.version or version_of(document)
        if version is not None:
            document.setdefault("finding_schema_version", version)
        yield document


@checked
def write_jsonl(documents: Iterable[Mapping[str, object] | bytes], stream: Stream) -> int:
    """Write a line of JSON for each document and return how many there were.

    Args:
        documents: consumed one by one, each written before the next is taken; or each as JSON already, as
            `FindingStore.iter_findings_json` yields it.
        stream: of bytes (gets UTF-8) or of text.

    Raises:
        StorageValidationError: a document holds something that JSON can't; names its index.
        StorageUnavailableError: writing failed.
    """
    sink = TextSink(stream)
    count = 0
    for line in _json_lines(documents):
        sink.write(line + "\n")
        count += 1
    return count


@checked
def write_layout(
    documents: Iterable[Mapping[str, object]], stream: Stream, schema_version: str = SCHEMA_VERSION
) -> int:
    """Write a store layout, in 0.3.0 a bare array, and return how many documents there were.

    Args:
        documents: of `schema_version`; consumed one by one, each written before the next is taken.
        stream: of bytes (gets UTF-8) or of text.
        schema_version: what the layout says.

    Raises:
        StorageValidationError, StorageUnavailableError: as `write_jsonl`.
        SchemaVersionError: the version is unknown.
    """
    if schema_version not in KNOWN_VERSIONS:
        raise SchemaVersionError(
            f"there is no schema version {readable(schema_version)}; known are {', '.join(KNOWN_VERSIONS)}"
        )
    sink = TextSink(stream)
    is_bare = schema_version == LEGACY_VERSION
    sink.write("[" if is_bare else f'{{"finding_schema_version": "{schema_version}", "findings": [')
    count = 0
    for line in _json_lines(documents):
        sink.write((",\n" if count else "\n") + line)
        count += 1
    sink.write("\n]\n" if is_bare else "\n]}\n")
    return count


def _json_lines(documents: Iterable[Mapping[str, object] | bytes]) -> Iterator[str]:
    for index, document in enumerate(documents):
        if isinstance(document, bytes):
            yield document.decode()
            continue
        try:
            line = json.dumps(document, ensure_ascii=False, allow_nan=False)
            line.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise StorageValidationError(
                f"document {index}: JSON can't hold it: {error}", index=index
            ) from error
        yield line


def _walk_documents(
    reader: JsonReader, layout: dict[str, object], is_layout: bool
) -> Iterator[dict[str, object]]:
    """Yield the documents; what a store layout has beside them goes to `layout`."""
    if not is_layout:
        yield from reader.objects()
        return
    for name in reader.members():
        if name == "findings":
            for _ in reader.elements():
                yield reader.object()
        elif name in VERSION_KEYS:
            layout[name] = reader.value()
        else:
            reader.value()
    reader.end()


JSONL = Format(
    name="jsonl",
    summary="findings of this package, a line each, nothing lost; reads a JSON array and a store layout too",
    endings=(".jsonl", ".ndjson"),
    recognize_report=recognize_report,
    survey=survey_report,
    read=read_documents,
    is_strict=True,
    write=lambda documents, stream, _: write_jsonl(documents, stream),
    has_versions=True,
)

LAYOUT = Format(
    name="json",
    summary="a store layout: one JSON object with the schema version and all findings",
    endings=(".json",),
    write=write_layout,
    has_versions=True,
)
