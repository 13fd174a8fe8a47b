"""nuclei in: its JSON Lines (``-jsonl``) and its JSON array (``-json-export``), keys of version 2 and 3.

Source of the keys: `ResultEvent` in nuclei's pkg/output and `Info` in its pkg/model. In `evidence` a document has
`nuclei`, the result without what changes at each scan (times, what went over the wire) and what the template says of
itself, and `message`, the template's description. The rest of the result is `nuclei` in `provenance` (`join_volatile` puts
it together).

References of a template are advisories and articles, no proofs of concept, so `poc_links` stays empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from findings_orm.finding import MAX_NUMBER, SCHEMA_VERSION
from findings_orm.formats import texts
from findings_orm.formats.base import Format, Head, Survey
from findings_orm.formats.paths import without_passing_port
from findings_orm.formats.texts import replace_nul
from findings_orm.formats.volatile import Splitter
from findings_orm.jsonstream import JsonReader

DETECTOR = "scan.nuclei"

TEMPLATE_KEYS = ("template-id", "templateID", "template_id")
_KEYS_WITHOUT_TEMPLATE = frozenset({"info", "host"})
_MATCHED = ("matched-at", "matched", "matched_at")
_MATCHER = ("matcher-name", "matcher_name")
_EXTRACTOR = ("extractor-name", "extractor_name")
_EXTRACTED = ("extracted-results", "extracted_results")
_STATUS = ("matcher-status", "matcher_status")
_LINES = ("matched-line", "matched_line")
_VOLATILE = (
    "timestamp",
    "curl-command",
    "curl_command",
    "ip",
    "request",
    "response",
    "interaction",
    "analyzer_details",
    "template-path",
    "template-encoded",
    "info",
)
_SEVERITIES = ("info", "low", "medium", "high", "critical")


def recognize_report(head: Head) -> bool:
    """Return whether the first object of a text is a result of nuclei."""
    return head.last_name in TEMPLATE_KEYS or (
        head.is_complete and head.values.keys() >= _KEYS_WITHOUT_TEMPLATE
    )


def survey_report(reader: JsonReader, head: Head) -> Survey:  # noqa: ARG001  # as `Format` calls it
    """Read a report up to its end; it speaks for `DETECTOR` even where it is empty.

    Raises:
        StorageValidationError: not JSON, or something in it is no result of nuclei (an object with a template
            or its `info`).
    """
    found = Survey(detectors=[DETECTOR], tool=[{"name": "nuclei", "detector_id": DETECTOR, "version": None}])
    for result in reader.objects():
        if not _first_text(result, TEMPLATE_KEYS) and not isinstance(result.get("info"), dict):
            reader.refuse("a result of nuclei has a template-id or an info, here both are missing")
        found.total += 1
    return found


def read_documents(reader: JsonReader, found: Survey) -> Iterator[dict[str, object]]:  # noqa: ARG001  # as `Format` calls it
    """Yield a document for each result."""
    for result in reader.objects():
        try:
            made = document_of_result(result)
        except RecursionError:
            reader.refuse("objects and lists nest too deep")
        yield made


def document_of_result(result: dict[str, object]) -> dict[str, object]:
    """Return the document for a result: a plain dict of the current schema, without id, project and run.

    A result whose `matcher-status` is false (``-matcher-status`` reports these) says that a template did *not*
    match: it is kept as `info`, whatever the template's severity, and under a fingerprint of its own.
    """
    info = _as_object(result.get("info"))
    classification = _as_object(info.get("classification"))
    template = _first_text(result, TEMPLATE_KEYS)
    place = _first_text(result, _MATCHED) or _first_text(result, ("host", "url"))
    resource = without_passing_port(place)
    found: dict[str, object] = {
        "finding_schema_version": SCHEMA_VERSION,
        "detector_id": DETECTOR,
        "title": _first_text(info, ("name",)) or template or "nuclei result",
        "severity": _severity_of(info) if has_matched(result) else "info",
        "resource": resource,
        "status": "open",
        "rule_id": template or None,
        "fingerprint": _fingerprint_of(result, template, resource),
        "location": _file_location(result, resource),
        "cwe_ids": _cwe_numbers(classification),
        "cve_ids": texts.cve_ids(texts.strings_in(classification.get("cve-id"), separator=",")),
        "cvss": _cvss_score(classification),
        "tags": texts.valid_tags(texts.strings_in(info.get("tags"), separator=",")),
    }
    created = texts.utc_time(result.get("timestamp"))
    if created:
        found["created_at"] = created
    description = info.get("description")
    splitter = _AT_PASSING_PORT if resource != place else _ELSEWHERE
    is_deep = isinstance(texts.limit_depth(result), str)
    kept, taken = splitter.split_members(result) if is_deep else splitter.split(result)
    evidence = {
        "message": description if isinstance(description, str) else "",
        "nuclei": texts.limit_depth(kept),
    }
    found["evidence"] = {key: value for key, value in evidence.items() if value}
    found["provenance"] = {"nuclei": texts.limit_depth(taken)} if taken else {}
    return found


_ELSEWHERE = Splitter(_VOLATILE, shorten=lambda _, text: without_passing_port(text))
_AT_PASSING_PORT = Splitter((*_VOLATILE, "port"), shorten=lambda _, text: without_passing_port(text))


def has_matched(result: Mapping[str, object]) -> bool:
    """Whether the template matched, which it did unless the result says otherwise."""
    return not any(result.get(key) is False for key in _STATUS)


def _as_object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _first_text(result: Mapping[str, object], keys: tuple[str, ...]) -> str:
    for key in keys:
        value = result.get(key)
        if isinstance(value, str) and value.strip():
            return replace_nul(value)
    return ""


def _severity_of(info: Mapping[str, object]) -> str:
    """Return the severity; `unknown`, none, and what nuclei does not know are `info`. It ignores case itself."""
    value = info.get("severity")
    name = value.strip().lower() if isinstance(value, str) else ""
    return name if name in _SEVERITIES else "info"


def _cwe_numbers(classification: Mapping[str, object]) -> list[int]:
    found = map(texts.cwe_number, texts.strings_in(classification.get("cwe-id"), separator=","))
    return texts.unique_items(number for number in found if number)


def _cvss_score(classification: Mapping[str, object]) -> float | None:
    score = texts.number(classification.get("cvss-score"))
    return score if score is not None and 0 <= score <= 10 else None


def _file_location(result: Mapping[str, object], resource: str) -> dict[str, object] | None:
    """Return the place in a file, which only templates of the type `file` have."""
    if result.get("type") != "file" or not resource:
        return None
    location: dict[str, object] = {"path": resource}
    for key in _LINES:
        lines = result.get(key)
        first = lines[0] if isinstance(lines, list) and lines else None
        if isinstance(first, int) and not isinstance(first, bool) and 1 <= first <= MAX_NUMBER:
            location["start_line"] = first
    return location


def _fingerprint_of(result: Mapping[str, object], template: str, resource: str) -> str:
    """Return what tells results apart: the parts by which nuclei itself finds duplicates (pkg/reporting/dedupe).

    Template, matcher, extractor, type, place and extracted values, these sorted; not the host beside the
    place, whose form differs between versions. Time, address, request and response do not count.
    """
    extracted: object = next(
        (result[key] for key in _EXTRACTED if isinstance(result.get(key), (list, str))), []
    )
    fields = [
        template,
        _first_text(result, _MATCHER),
        _first_text(result, _EXTRACTOR),
        _first_text(result, ("type",)),
        resource,
        "matched" if has_matched(result) else "not matched",
        *sorted(map(without_passing_port, texts.strings_in(extracted))),
    ]
    return f"nuclei/v1:{texts.hash_fields(*fields)}"


NUCLEI = Format(
    name="nuclei",
    summary="nuclei, JSON Lines (-jsonl) and JSON (-json-export) of its versions 2 and 3",
    recognize_report=recognize_report,
    survey=survey_report,
    read=read_documents,
)
