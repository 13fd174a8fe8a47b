"""SARIF 2.1.0 (OASIS) in, and the format as a whole: the structure of the log, streamed.

The log is read twice, as what explains a result (rules, artifacts, taxonomies) may come after it: first everything
but the results, which are only checked and counted, then the results. `sarif_result` says what becomes of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from sys import getsizeof

from findings_orm.errors import LimitExceededError
from findings_orm.formats.base import Format, Head, Survey
from findings_orm.formats.sarif_export import write_sarif
from findings_orm.formats.sarif_references import shorten_artifact
from findings_orm.formats.sarif_result import document_of_result, says_failure
from findings_orm.formats.sarif_run import RUN_PROPERTIES, TABLES, Run
from findings_orm.formats.sarif_values import as_object, items
from findings_orm.jsonstream import JsonReader
from findings_orm.limits import FREE_BYTES, json_size

VERSION = "2.1.0"

_OWN_KEYS = frozenset({"runs", "inlineExternalProperties"})

_KEPT = {
    **dict.fromkeys(RUN_PROPERTIES, 0),
    **dict.fromkeys(("automationDetails", "invocations", *TABLES), 1),
    "taxonomies": 3,
    "tool": 4,
}
"""The properties of a run that are kept, and how many levels of each are read one by one: what is below is one value."""

_RUN_BYTES, _RULE_BYTES = 4096, 2048
"""How much memory a run and a rule take beside their JSON, generously."""


def recognize_report(head: Head) -> bool:
    """Return whether the first object of a text is a SARIF log."""
    schema = head.values.get("$schema") or ""
    return head.is_top and (head.last_name in _OWN_KEYS or "sarif" in schema.lower())


def survey_report(reader: JsonReader, head: Head) -> Survey:  # noqa: ARG001  # as `Format` calls it
    """Read a SARIF log up to its end.

    A run without an array of results is one whose scan did not take place (§3.14.23): it speaks for no
    detector, so that nothing counts as gone because a scanner failed to start.

    Raises:
        StorageValidationError: not JSON, not SARIF 2.1.0, something is not where or what it has to be, or
            results are in another file.
    """
    found = Survey(context=[])
    version: object = None
    runs = False
    for name in reader.members():
        if name == "version":
            version = reader.value()
            _check_version(reader, version)
        elif name == "runs":
            runs = True
            _read_runs(reader, found)
        elif name == "inlineExternalProperties":
            _check_inline(reader, reader.value())
        else:
            reader.value()
    reader.end()
    _check_version(reader, version)
    if not runs:
        reader.refuse("a SARIF log has an array of runs, here it is missing")
    found.detectors = list(dict.fromkeys(found.detectors))
    return found


def read_documents(reader: JsonReader, found: Survey) -> Iterator[dict[str, object]]:
    """Yield a document for each result, from a log that `survey_report` has read."""
    runs: list[Run] = found.context
    most = max(FREE_BYTES, reader.limits.max_expansion_ratio * found.size)
    made = 0
    for name in reader.members():
        if name != "runs" or reader.peek() != "[":
            reader.value()
            continue
        for number in reader.elements():
            for key in reader.members():
                if key != "results" or reader.peek() != "[":
                    reader.skip(
                        _KEPT.get(key, 0)
                    )  # by parts, as `survey_report` took it: whole it may be too large
                    continue
                for _ in reader.elements():
                    result = reader.object()
                    if not says_failure(result):
                        continue
                    yield _make_document(reader, runs[number], result)
                    made += reader.taken + runs[number].added
                    if made > most:
                        reader.check(
                            "max_expansion_ratio",
                            made // max(1, found.size),
                            "with their rules the documents of the report are larger than it, by a factor of at least",
                        )


def _make_document(reader: JsonReader, run: Run, result: dict[str, object]) -> dict[str, object]:
    try:
        return document_of_result(run, result)
    except RecursionError:
        reader.refuse("objects and lists nest too deep")
    except LimitExceededError as error:
        reader.raise_with_place(error)


def _check_version(reader: JsonReader, version: object) -> None:
    if version != VERSION:
        reader.refuse(
            f"this is no SARIF of version {VERSION}: let the tool write that, or convert the file (the SDK for SARIF has "
            "a command for it, transform); its version is",
            version or "missing",
        )


def _read_runs(reader: JsonReader, found: Survey) -> None:
    if reader.peek() == "n":
        reader.value()  # null: the runs could not be determined (§3.13.4)
        return
    for _ in reader.elements():
        _read_run(reader, found)


def _read_run(reader: JsonReader, found: Survey) -> None:
    properties: dict[str, object] = {}
    counts: tuple[int, int] | None = None
    for name in reader.members():
        if name == "results":
            counts = _count_results(reader)
        elif name == "artifacts" and reader.peek() == "[":
            properties[name] = [reader.keep(shorten_artifact(reader.value())) for _ in reader.elements()]
        elif name == "externalPropertyFileReferences":
            _check_external(reader, reader.value(), found)
        elif name in _KEPT:
            properties[name] = _keep_value(reader, _KEPT[name])
        else:
            reader.value()
    if not as_object(as_object(properties.get("tool")).get("driver")):
        reader.refuse("a run names its tool in tool.driver, here it is missing")
    reader.keep(None, _RUN_BYTES + _RULE_BYTES * _count_rules(properties["tool"]))
    run = _make_run(reader, properties)
    found.context.append(run)
    found.tool.append(run.tool_info)
    found.started_at = min(filter(None, (found.started_at, run.started_at)), default="")
    found.named += json_size(run.tool_info, reader.limits.max_document_bytes)
    reader.check("max_names", len(found.tool), "the number of runs")
    reader.check("max_document_bytes", found.named, "the size of the names of tools, in bytes")
    name = run.name[:100] or "a run"
    if counts is None:
        found.notes.append(f"{name}: there are no results, the scan did not take place")
        return
    failures, others = counts
    if others:
        found.notes.append(f"{name}: {others} results say that a check passed or does not apply: no findings")
    found.total += failures
    found.detectors.append(run.detector_id)
    found.scopes.add((run.detector_id, run.category))


def _keep_value(reader: JsonReader, levels: int) -> object:
    """Take a value that stays in memory, part by part on its outermost levels."""
    start = reader.peek() if levels else ""
    if start == "{":
        found = {name: _keep_value(reader, levels - 1) for name in reader.members()}
        reader.keep(None, getsizeof(found) + sum(map(getsizeof, found)))
        return found
    if start == "[":
        return [_keep_value(reader, levels - 1) for _ in reader.elements()]
    return reader.keep(reader.value())


def _count_rules(tool: object) -> int:
    """Return how many rules the components of a tool have."""
    components = [as_object(tool).get("driver"), *items(as_object(tool).get("extensions"))]
    rules = [as_object(component).get("rules") for component in components]
    return sum(len(array) for array in rules if isinstance(array, list))


def _make_run(reader: JsonReader, properties: dict[str, object]) -> Run:
    try:
        return Run(properties, reader.limits)
    except RecursionError:
        reader.refuse("objects and lists nest too deep")


def _count_results(reader: JsonReader) -> tuple[int, int] | None:
    """Return how many results are of a problem, and how many are of none; None for results that there are not."""
    if reader.peek() == "n":
        reader.value()
        return None
    counts = [0, 0]
    for _ in reader.elements():
        counts[not says_failure(reader.object())] += 1
    return counts[0], counts[1]


def _check_inline(reader: JsonReader, value: object) -> None:
    if any(one.get("results") for one in items(value)):
        reader.refuse("results in inlineExternalProperties are not supported: put them into their runs")


def _check_external(reader: JsonReader, value: object, found: Survey) -> None:
    references = as_object(value)
    if references.get("results"):
        reader.refuse(
            "the results of this run are in another file: put them into this one", references["results"]
        )
    if references:
        names = ", ".join(references)[:200]
        found.notes.append(f"{reader.place}: {names} in other files were not read")


SARIF = Format(
    name="sarif",
    summary=f"SARIF {VERSION}, as most static analysers write it",
    endings=(".sarif",),
    recognize_report=recognize_report,
    survey=survey_report,
    read=read_documents,
    write=lambda documents, stream, _: write_sarif(documents, stream),
)
