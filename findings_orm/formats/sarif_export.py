"""One document becomes one SARIF result, with what of its run explains it.

A result that came from SARIF is the original again. Where the document has changed since (severity, status), the
result says the new thing the way SARIF does; every other document gets a result built from its fields. What SARIF
has no place for stands in the result's property bag under `findings_orm`, and nothing there that importing the
result would give anyway.

Other evidence than the message, and other provenance, are not exported: they may hold requests, responses and secrets. JSON
Lines has them.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.parse import quote

from findings_orm.arguments import checked
from findings_orm.errors import LimitExceededError, StorageUnavailableError, StorageValidationError
from findings_orm.finding import Severity
from findings_orm.formats.base import Stream, TextSink
from findings_orm.formats.sarif_references import inline_references
from findings_orm.formats.sarif_result import (
    FINGERPRINT,
    OWN_FIELDS,
    OWN_PROPERTY,
    fields,
    suppression_state,
)
from findings_orm.formats.sarif_run import RUN_PROPERTIES, TABLES, Rule, Run
from findings_orm.formats.sarif_schema import UNFIT, fit_member, fit_value
from findings_orm.formats.sarif_values import (
    DETECTOR_PROPERTY,
    as_object,
    detector_id,
    detector_slug,
    element_at,
    index_in,
    items,
)
from findings_orm.formats.texts import canonical_json, clone_json, limit_depth
from findings_orm.formats.volatile import join_volatile

_LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "info": "none"}
_SCORES = {
    "critical": (9.0, 10.0, "9.5"),
    "high": (7.0, 8.9, "8.0"),
    "medium": (4.0, 6.9, "5.5"),
    "low": (0.1, 3.9, "2.0"),
    "info": (0.0, 0.0, "0.0"),
}
SUPPRESSED = {"false_positive": "accepted", "risk_accepted": "accepted", "triaged": "underReview"}
"""The states of the suppressions that say what somebody decided."""
_GONE = frozenset({"resolved", "archived"})
_URI_REFERENCE = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_GUID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)  # no newer ones
_URI_CHARACTERS = "/:?#[]@!$&'()*+,;=~"
_DEFAULTS = {"status": "open", "resource": ""}
UNFIT_PROPERTY = "findings_orm_unfit"
"""The property of a result with what of it the schema of SARIF does not allow."""


@dataclass
class Exported:
    """A result and what explains it.

    Attributes:
        result: the result.
        run: the run that it is from, without results, rules and tables.
        rule: the descriptor of its rule, or None.
        extension: the tool extension that defines the rule, or None for the driver.
        references: what it refers to in the run, as `sarif_references` collects it.
        gone: the finding no longer exists; its `baselineState` says so.
    """

    result: dict[str, object]
    run: dict[str, Any]
    rule: dict[str, object] | None = None
    extension: dict[str, object] | None = None
    references: dict[str, object] = field(default_factory=dict)
    gone: bool = False

    def point_to_rule(self, rule: int | None, extension: int | None) -> None:
        """Make the result refer to its rule at index `rule` of component `extension`; None drops the index."""
        reference = as_object(self.result.get("rule"))
        for owner, key, index in (
            (self.result, "ruleIndex", rule),
            (reference, "index", rule),
            (as_object(reference.get("toolComponent")), "index", extension),
        ):
            if key in owner:
                if index is None:
                    del owner[key]
                else:
                    owner[key] = index


def export_document(
    document: Mapping[str, object], rules: dict[tuple[str, str], dict[str, object]]
) -> Exported:
    """Return what to write for a document of the current schema.

    Args:
        document: the document.
        rules: the rules that were made for documents so far, by detector and id: findings of one rule share it,
            as the first of them gave it. Is added to.
    """
    found = _original_result(document)
    if found is not None:
        try:
            _reflect_document(found, document)
        except LimitExceededError:  # its message would be larger than a field may be
            found = None
    if found is None:
        found = _build_result(document, rules)
        _reflect_document(found, document)
    found.gone = found.result.get("baselineState") == "absent"
    return found


def _reflect_document(found: Exported, document: Mapping[str, object]) -> None:
    """Make the result say what the document says, as an import would understand it."""
    tool: dict[str, Any] = {"driver": found.run["tool"]["driver"]}
    strings = found.references.get("globalMessageStrings")
    if strings:
        tool["driver"] = {**tool["driver"], "globalMessageStrings": strings}
    run = Run({**found.references, "tool": tool})
    rule = Rule(run, found.rule, None) if found.rule else None
    again = fields(run, found.result, rule)
    if again["severity"] != document["severity"]:
        _set_severity(found.result, document)
    states = {suppression_state(one) for one in items(found.result.get("suppressions"))}
    if again["status"] != _field_value(document, "status") or len(states) > 1:  # readers differ over several
        _set_status(found.result, document)
    again = fields(run, found.result, rule)
    own = {
        name: document.get(name)
        for name in OWN_FIELDS
        if _field_value(again, name) != _field_value(document, name)
    }
    if own:
        _property_bag(found.result)[OWN_PROPERTY] = own


def entry_of(references: Mapping[str, object], reference: tuple[str, int]) -> dict[str, object] | None:
    """Return the element that a reference stands for, or None where it was not in the report either."""
    table, index = reference
    return element_at(references.get(table), index) or None


def _field_value(document: Mapping[str, object], name: str) -> Any:
    """Return a field so that absent, None and empty are equal."""
    value = document.get(name)
    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if inner is not None}
    return value or _DEFAULTS.get(name) if not isinstance(value, (int, float)) else value


def _original_result(document: Mapping[str, Any]) -> Exported | None:
    """Return the result that the document was imported from, if it was one of SARIF."""
    evidence = as_object(document.get("evidence"))
    provenance = as_object(document.get("provenance"))
    explained = {**evidence, **provenance}  # all of it was evidence once
    result = evidence.get("sarif")
    if isinstance(result, str):
        try:
            result = json.loads(result)
        except (ValueError, RecursionError):
            return None
    if isinstance(result, dict):
        result = join_volatile(result, as_object(provenance.get("sarif")))
    kept = as_object(explained.get("sarif_run"))
    tool = as_object(kept.get("tool"))
    driver = as_object(tool.get("driver"))
    if not isinstance(result, dict) or not driver:
        return None
    own = fit_value(driver, "toolComponent") if detector_id(driver) == document["detector_id"] else UNFIT
    run = {name: kept[name] for name in (*RUN_PROPERTIES, "automationDetails") if name in kept}
    run["tool"] = {"driver": _driver(document["detector_id"]) if own is UNFIT else own}
    rule = fit_value(explained.get("sarif_rule"), "reportingDescriptor")
    extensions = [fit_value(one, "toolComponent") for one in items(tool.get("extensions"))]
    references = as_object(explained.get("sarif_references"))
    return Exported(
        _keep_fitting(_detach_from_run(result, references), document),
        fit_value(run, "run"),
        None if rule is UNFIT else rule,
        extensions[0] if extensions and extensions[0] is not UNFIT else None,
        _fit_references(references),
    )


def _fit_references(references: Mapping[str, Any]) -> dict[str, object]:
    found: dict[str, object] = {}
    for table, entries in references.items():
        of_run = ("toolComponent", table) if table == "globalMessageStrings" else ("run", table)
        if not isinstance(entries, dict):
            continue
        fitting = {name: fit_member(entry, *of_run) for name, entry in entries.items()}
        found[table] = {name: entry for name, entry in fitting.items() if entry is not UNFIT}
    return found


def _keep_fitting(result: dict[str, object], document: Mapping[str, Any]) -> dict[str, object]:
    """Return what of a result the schema allows, and what it does not in the property bag."""
    found = fit_value(result, "result")
    if found is UNFIT:  # it has no message
        message = _message_of(document)
        found = fit_value({**result, "message": {"text": message}}, "result")
    unfit = {name: value for name, value in result.items() if found.get(name) != value}
    if unfit:
        _property_bag(found)[UNFIT_PROPERTY] = clone_json(limit_depth(unfit))
    kept: dict[str, object] = found
    return kept


def _message_of(document: Mapping[str, Any]) -> str:
    message = as_object(document.get("evidence")).get("message")
    return message if isinstance(message, str) and message.strip() else document["title"]


def _detach_from_run(original: Mapping[str, Any], references: Mapping[str, Any]) -> dict[str, object]:
    """Return a copy of a result, as deep as it may be changed, without what only its run explains.

    That are the indexes of taxa and of the invocation, and what an earlier export wrote for this package.
    """
    result = dict(original)
    for name in ("properties", "provenance", "rule"):
        if isinstance(result.get(name), dict):
            result[name] = dict(result[name])
    reference = as_object(result.get("rule"))
    if isinstance(reference.get("toolComponent"), dict):
        reference["toolComponent"] = dict(reference["toolComponent"])
    as_object(result.get("properties")).pop(OWN_PROPERTY, None)
    if index_in(as_object(result.get("provenance")).get("invocationIndex")) is not None:
        del result["provenance"]["invocationIndex"]
    if isinstance(references.get("taxa"), list):
        result["taxa"] = references["taxa"]
    return result


def _driver(detector: str) -> dict[str, object]:
    driver: dict[str, object] = {"name": detector}
    if detector_slug(detector) != detector:
        driver["properties"] = {DETECTOR_PROPERTY: detector}
    return driver


def _build_result(document: Mapping[str, Any], rules: dict[tuple[str, str], dict[str, object]]) -> Exported:
    """Return a result made of the document's fields."""
    text = _message_of(document)
    result: dict[str, object] = {}
    if document.get("rule_id"):
        result["ruleId"] = document["rule_id"]
    result["message"] = {"text": text}
    locations = _build_locations(document)
    if locations:
        result["locations"] = locations
    if _GUID.fullmatch(document.get("id") or ""):
        result["guid"] = document["id"]
    if document.get("fingerprint"):
        result["fingerprints"] = {FINGERPRINT: document["fingerprint"]}
    if document.get("created_at"):
        result["provenance"] = {"firstDetectionTimeUtc": document["created_at"]}
    result["suppressions"] = []
    numbers = [f"external/cwe/cwe-{number:03d}" for number in document.get("cwe_ids") or ()]
    result["properties"] = {
        "tags": list(
            dict.fromkeys([*(document.get("tags") or []), *numbers, *(document.get("cve_ids") or [])])
        )
    }
    _set_severity(result, document)
    _set_status(result, document)
    run = {"tool": {"driver": _driver(document["detector_id"])}}
    name = document.get("rule_id")
    if not name:
        return Exported(result, run)
    return Exported(
        result, run, rules.setdefault((document["detector_id"], name), _build_rule(document, numbers))
    )


def _build_rule(document: Mapping[str, Any], cwes: list[str]) -> dict[str, Any]:
    return {
        "id": document["rule_id"],
        "shortDescription": {"text": document["title"]},
        "defaultConfiguration": {"level": _LEVELS[document["severity"]]},
        "properties": {"security-severity": _exported_score(document), "tags": ["security", *cwes]},
    }


def _build_locations(document: Mapping[str, Any]) -> list[dict[str, object]]:
    location = document.get("location") or {}
    path = location.get("path") or document.get("resource")
    if not path:
        return []
    uri = path if _URI_REFERENCE.fullmatch(path) else quote(path, safe=_URI_CHARACTERS)
    physical: dict[str, object] = {"artifactLocation": {"uri": uri}}
    region = {
        "startLine": location.get("start_line"),
        "endLine": location.get("end_line"),
        "snippet": {"text": location["snippet"]} if location.get("snippet") else None,
    }
    if region["startLine"]:
        physical["region"] = {name: value for name, value in region.items() if value}
    return [{"physicalLocation": physical}]


def _property_bag(result: dict[str, Any]) -> dict[str, object]:
    if not isinstance(result.get("properties"), dict):
        result["properties"] = {}
    bag: dict[str, object] = result["properties"]
    return bag


def _set_severity(result: dict[str, object], document: Mapping[str, Any]) -> None:
    """Say the severity as a level, and as the `security-severity` that tells high from critical."""
    level = _LEVELS[document["severity"]]
    result["level"] = level
    if level == "none":
        if result.get("kind", "fail") == "fail":
            result["kind"] = "informational"
    elif result.get("kind", "fail") != "fail":
        del result["kind"]
    _property_bag(result)["security-severity"] = _exported_score(document)


def _exported_score(document: Mapping[str, Any]) -> str:
    """Return the document's CVSS score if it is one of its severity, else one from the middle of it."""
    least, most, usual = _SCORES[document["severity"]]
    cvss = document.get("cvss")
    return str(float(cvss)) if cvss is not None and least <= cvss <= most else usual


def _set_status(result: dict[str, object], document: Mapping[str, object]) -> None:
    """Say the status as a suppression, or as `baselineState` where the finding is gone."""
    status = _field_value(document, "status")
    if result.get("baselineState") == "absent":
        del result["baselineState"]
    if status in _GONE:
        result["baselineState"] = "absent"
    suppressed = SUPPRESSED.get(status)
    if suppressed:
        result["suppressions"] = [{"kind": "external", "status": suppressed, **_justification(document)}]
    elif result.get("suppressions"):
        refused = [one for one in items(result["suppressions"]) if suppression_state(one) == "rejected"]
        result["suppressions"] = refused


def _justification(document: Mapping[str, object]) -> dict[str, str]:
    comment = as_object(document.get("evidence")).get("status_comment")
    return {"justification": comment} if isinstance(comment, str) and comment else {}


# -- SARIF 2.1.0 out: results by tool, streamed through one temporary file --------------------------------
# A run of the log is a tool with its rules; results that are gone (`baselineState` `absent`) are a run of their own, as
# of the results in a run all or none have a state (§3.27.24). Indexes into tables of the original run (artifacts and
# the like) stay as they were, and the tables are written again; where two reports disagree on an index, the result gets
# the element itself.


SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_INDEX = re.compile(r"\d{1,9}", re.ASCII)
_HIGHEST_INDEX = 100_000
"""Up to here tables are written with their gaps filled, so that indexes can stay."""


@checked
def write_sarif(documents: Iterable[Mapping[str, object]], stream: Stream) -> int:
    """Write a SARIF 2.1.0 log with a result for each document and return how many there were.

    Args:
        documents: of the current schema, consumed once and one by one. Results go to a temporary file first, as
            a run's rules are written before them; in memory are rules, the tables and 8 bytes a result.
        stream: of bytes (gets UTF-8) or of text.

    Raises:
        StorageValidationError: a document has no detector, title or severity, or holds what JSON can't.
        StorageUnavailableError: writing failed.
    """
    with ExitStack() as stack:
        with _translate_write_errors(0):
            spool = stack.enter_context(tempfile.TemporaryFile(prefix="findings-"))
        made = _Made(spool)
        count = 0
        for document in documents:
            _check_document(document, count)
            with _translate_write_errors(count):
                made.add(document)
            count += 1
        with _translate_write_errors(count):
            made.write(TextSink(stream))
    return count


@contextmanager
def _translate_write_errors(index: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailableError(f"writing failed: {error.strerror or error}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageValidationError(f"document {index}: JSON can't hold it: {error}", index=index) from error


def _check_document(document: Mapping[str, object], index: int) -> None:
    if not isinstance(document, Mapping):
        raise StorageValidationError.of_field("document", "must be a finding", document, index=index)
    for name in ("detector_id", "title"):
        if not isinstance(document.get(name), str) or not document[name]:
            raise StorageValidationError.of_field(name, "must be a text", document.get(name), index=index)
    if document.get("severity") not in tuple(Severity):
        rule = f"must be one of {', '.join(Severity)}"
        raise StorageValidationError.of_field("severity", rule, document.get("severity"), index=index)


class _Rules:
    """The rules of a tool component, each descriptor once."""

    def __init__(self, component: dict[str, object]) -> None:
        self.component = component
        self.descriptors: list[dict[str, object]] = []
        self._known: dict[str, int] = {}
        self._ids: dict[str, int] = {}

    def add(self, descriptor: dict[str, object]) -> tuple[int, bool]:
        """Return the index of a descriptor, and whether its id alone finds it."""
        key = hashlib.sha256(canonical_json(descriptor).encode()).hexdigest()
        index = self._known.setdefault(key, len(self.descriptors))
        if index == len(self.descriptors):
            self.descriptors.append(descriptor)
        return index, self._ids.setdefault(str(descriptor.get("id")), index) == index

    def component_with_rules(self) -> dict[str, object]:
        return {**self.component, "rules": self.descriptors} if self.descriptors else self.component


class _Group:
    """A run in the making: everything but its results, and where these are in the temporary file."""

    def __init__(self, run: dict[str, Any]) -> None:
        self.run = run
        self.offsets = array("Q")
        self._driver = _Rules(run["tool"]["driver"])
        self._extensions: dict[str, tuple[int, _Rules]] = {}
        self._tables: dict[str, dict[int, object]] = {name: {} for name in TABLES}
        self._strings: dict[str, object] = {}

    def explains_messages(self, found: Exported) -> bool:
        """Whether the messages of this run are, as far as `found` uses them, its own."""
        strings = as_object(found.references.get("globalMessageStrings"))
        return all(self._strings.get(name, text) == text for name, text in strings.items())

    def add(self, found: Exported, spool: IO[bytes]) -> None:
        """Write the result to the temporary file, and keep what explains it."""
        self._add_rule(found)
        self._strings.update(as_object(found.references.get("globalMessageStrings")))
        unfit = self._add_tables(found.references)
        if unfit:
            found.result = clone_json(found.result)
            inline_references(
                found.result,
                lambda reference: entry_of(found.references, reference) if reference in unfit else None,
            )
        line = json.dumps(found.result, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self.offsets.append(spool.tell())
        spool.write(line)

    def _add_rule(self, found: Exported) -> None:
        if found.rule is None:
            found.point_to_rule(None, None)
            return
        place, rules = None, self._driver
        if found.extension is not None:
            key = canonical_json(found.extension)
            place, rules = self._extensions.setdefault(key, (len(self._extensions), _Rules(found.extension)))
        index, by_id = rules.add(found.rule)
        if not by_id and place is None:
            found.result.setdefault("ruleIndex", index)
        found.point_to_rule(index, place)

    def _add_tables(self, references: Mapping[str, object]) -> set[tuple[str, int]]:
        """Take the elements over and return the references whose index is taken by something else."""
        unfit = set()
        for table, known in self._tables.items():
            for text, entry in as_object(references.get(table)).items():
                index = int(text) if _INDEX.fullmatch(text) else _HIGHEST_INDEX
                if index >= _HIGHEST_INDEX or known.setdefault(index, entry) != entry:
                    unfit.add((table, index))
        return unfit

    def header(self) -> dict[str, object]:
        """Return the run without its results."""
        tool: dict[str, Any] = {"driver": self._driver.component_with_rules()}
        if self._strings:
            tool["driver"] = {**tool["driver"], "globalMessageStrings": self._strings}
        if self._extensions:
            tool["extensions"] = [rules.component_with_rules() for _, rules in self._extensions.values()]
        tables = {name: _fill_gaps(known) for name, known in self._tables.items() if known}
        return {**self.run, "tool": tool, **tables}


def _fill_gaps(known: Mapping[int, object]) -> list[object]:
    """Return a table as an array; the elements that no result refers to are empty but for their number."""
    return [known.get(index, {"properties": {"unused": index}}) for index in range(max(known) + 1)]


class _Made:
    """The log in the making: its runs, and the temporary file that their results are in."""

    def __init__(self, spool: IO[bytes]) -> None:
        self._spool = spool
        self._groups: dict[tuple[str, int], _Group] = {}
        self._rules: dict[tuple[str, str], dict[str, object]] = {}

    def add(self, document: Mapping[str, object]) -> None:
        """Add the result for a document to the run that it belongs to."""
        found = export_document(document, self._rules)
        name = hashlib.sha256(canonical_json([found.run, found.gone]).encode()).hexdigest()
        part = 0
        while (name, part) in self._groups and not self._groups[name, part].explains_messages(found):
            part += 1
        if (name, part) not in self._groups:
            self._groups[name, part] = _Group(found.run)
        self._groups[name, part].add(found, self._spool)

    def write(self, sink: TextSink) -> None:
        """Write the log."""
        sink.write(f'{{"version": "2.1.0", "$schema": "{SCHEMA}", "runs": [')
        for number, group in enumerate(self._groups.values()):
            header = json.dumps(group.header(), ensure_ascii=False, allow_nan=False)
            sink.write((",\n" if number else "\n") + header[:-1] + ', "results": [')
            separator = "\n"
            for offset in group.offsets:
                self._spool.seek(offset)
                sink.write(separator + self._spool.readline()[:-1].decode())
                separator = ",\n"
            sink.write("\n]}")
        sink.write("\n]}\n")
