"""Questions to a store as data: `FindingQuery` in, `Page` and `Summary` out."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Literal

from findings_orm.arguments import checked
from findings_orm.errors import StorageValidationError
from findings_orm.finding import (
    MAX_DIGITS,
    TOO_LARGE,
    FindingDocument,
    Severity,
    SeverityName,
    Status,
    StatusName,
    canonical_time,
    check_plain_text,
    is_uuid,
)
from findings_orm.freetext import RELEVANCE, WHOLE, holds_all, relevance, search_text, words_of

SortKey = Literal[
    "created_at",
    "severity",
    "detector_id",
    "resource",
    "title",
    "relevance",
    "-created_at",
    "-severity",
    "-detector_id",
    "-resource",
    "-title",
    "-relevance",
]
"""A name of `SORTS` or `RELEVANCE`, with a leading ``-`` for descending order."""

SORTS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "created_at": lambda document: time_key(document["created_at"]),
    "severity": lambda document: Severity(document["severity"]).rank,
    "detector_id": lambda document: document["detector_id"],
    "resource": lambda document: document["resource"],
    "title": lambda document: document["title"],
}
"""What findings can always be sorted by, each with the value that decides; ties are broken by `id`."""

MAX_PAGE = 10_000
"""The largest page that `find` returns."""

MAX_MEMBERS = 100_000
"""How many values a set of conditions of a query may have."""


def time_key(text: str) -> str:
    """Return a canonical time with its fraction always written out, so that text order is time order."""
    return text if len(text) > 20 else f"{text[:-1]}.000000Z"


def latest_time(time: str, *others: str | None) -> str:
    """Return the latest of some canonical times."""
    return max((time, *filter(None, others)), key=time_key)


@dataclass(frozen=True, kw_only=True)
class FindingQuery:
    """Which findings of one project, in which order. Conditions are joined by AND, the members of a set by OR.

    Attributes:
        project_id: the project; required, as everything belongs to one.
        severity: any of these severities.
        min_severity: this severity or a higher one.
        status: any of these statuses.
        detector_id: any of these detectors, exactly; a value that ends in ``*`` is a prefix.
        rule_id: any of these rules, exactly.
        cwe: any of these CWE numbers.
        cve_id: findings that list any of these CVE ids.
        run_id: findings whose `run_id` (the run that first reported them) is any of these.
        tag: findings that carry any of these tags.
        resource_prefix: the resource starts with this text, compared exactly.
        created_from: created at this time or later (RFC 3339, UTC, `Z`).
        created_before: created before this time.
        text: every word (separated by white space) occurs somewhere in title, resource, detector, rule or
            snippet; case does not matter (Unicode case folding after NFKC), accents do.
        sort: one of `SORTS`, descending with a leading ``-``; ties are broken by id in the same direction. With `text`
            also ``relevance`` (see `findings_orm.freetext.relevance`); ``-relevance`` is the best first.
        limit: the size of a page, 1 to `MAX_PAGE`.
        cursor: `Page.next_cursor` of the page before; None for the first one. It holds for the same project, conditions and
            `sort` only; `limit` may change from page to page.

    A single value may be given in place of a set, which has up to `MAX_MEMBERS`. Raises `StorageValidationError` for values
    that can't match.
    """

    project_id: str
    severity: Severity | SeverityName | Collection[Severity | SeverityName] = ()
    min_severity: Severity | SeverityName | None = None
    status: Status | StatusName | Collection[Status | StatusName] = ()
    detector_id: Collection[str] = ()
    rule_id: Collection[str] = ()
    cwe: int | Collection[int] = ()
    cve_id: Collection[str] = ()
    run_id: Collection[str] = ()
    tag: Collection[str] = ()
    resource_prefix: str = ""
    created_from: str | None = None
    created_before: str | None = None
    text: str = ""
    sort: SortKey = "created_at"
    limit: int = 100
    cursor: str | None = None

    def __post_init__(self) -> None:
        for name in ("project_id", "resource_prefix", "text", "sort"):
            check_plain_text(name, getattr(self, name))
        for name in _SETS:
            values = _condition_values(name, getattr(self, name))
            for value in values:
                _check_member(name, value)
            object.__setattr__(self, name, values)
        object.__setattr__(self, "run_id", tuple(run.lower() for run in self.run_id))
        _check_names("severity", self.severity, Severity)
        _check_names("status", self.status, Status)
        if self.min_severity is not None:
            _check_names("min_severity", (self.min_severity,), Severity)
        self._check_sort()
        if type(self.limit) is not int or not 1 <= self.limit <= MAX_PAGE:
            raise StorageValidationError.of_field("limit", f"must be 1 to {MAX_PAGE}", self.limit)
        for name in ("created_from", "created_before"):
            self._canonical_time(name)
        self.after  # noqa: B018 - a broken cursor is refused when the query is made, not when it is used

    def _check_sort(self) -> None:
        if self.sort_field == RELEVANCE:
            if not self.words:
                raise StorageValidationError.of_field(
                    "sort", "by relevance needs a text to search", self.sort
                )
        elif self.sort_field not in SORTS:
            raise StorageValidationError.of_field(
                "sort", f"must be one of {', '.join(SORTS)}, or {RELEVANCE} with a text", self.sort
            )

    def _canonical_time(self, name: str) -> None:
        given = getattr(self, name)
        if given is None:
            return
        try:
            object.__setattr__(self, name, canonical_time(given))
        except (ValueError, TypeError) as error:
            raise StorageValidationError.of_field(name, f"must be {error}", given) from error

    @property
    def severities(self) -> tuple[str, ...]:
        """The severities that match: `severity` and `min_severity` together; empty where all do."""
        if self.min_severity is None:
            return tuple(self.severity)
        lowest = Severity.at_least(self.min_severity)
        return tuple(s for s in lowest if not self.severity or s in self.severity) or ("none",)

    @property
    def sort_field(self) -> str:
        """The name in `SORTS`, or `RELEVANCE`."""
        return self.sort.removeprefix("-")

    @property
    def descending(self) -> bool:
        """Whether the order is reversed."""
        return self.sort.startswith("-")

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The folded words of `text`, each once."""
        return words_of(self.text)

    def sort_value(self, document: Mapping[str, object]) -> object:
        """Return the value of a document that decides about its place."""
        with_value: Callable[[Mapping[str, object]], object] = SORTS.get(self.sort_field, self._relevance_of)
        try:
            return with_value(document)
        except _NO_FINDING as error:
            raise StorageValidationError.of_field("document", "must be a finding", document) from error

    def _relevance_of(self, document: Mapping[str, object]) -> int:
        return relevance(self.words, document)

    @cached_property
    def _cursor_binding(self) -> str:
        """What a cursor holds for, in short: the project, what matches, and the order, however it was written."""
        sets = [sorted(set(getattr(self, name))) for name in _SETS if name != "severity"]
        times = (self.created_from, self.created_before)
        meaning = (
            self.project_id,
            self.sort,
            sorted({str(severity) for severity in self.severities}),
            *sets,
            self.resource_prefix,
            *(time and time_key(time) for time in times),
            sorted(self.words),
        )
        return hashlib.blake2b(json.dumps(meaning).encode(), digest_size=6).hexdigest()

    @cached_property
    def after(self) -> tuple[Any, str] | None:
        """The sort value and the id of the last finding of the page before, from `cursor`."""
        if self.cursor is None:
            return None
        rule = "must be the next_cursor of a page of the same query"
        try:
            binding, value, finding_id = json.loads(base64.urlsafe_b64decode(self.cursor.encode()))
            if binding != self._cursor_binding:
                rule = _why_unbound(binding)
                raise ValueError("made for another query")
            return self._check_position(value, finding_id)
        except (
            StorageValidationError,
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise StorageValidationError.of_field("cursor", rule, self.cursor) from error

    def _check_position(self, value: Any, finding_id: Any) -> tuple[object, str]:
        """Return a place in the order, or raise."""
        if not is_uuid(finding_id):
            raise ValueError("no id")
        if self.sort_field in ("severity", RELEVANCE):
            highest = len(Severity) - 1 if self.sort_field == "severity" else WHOLE * len(self.words)
            if type(value) is not int or not 0 <= value <= highest:
                raise ValueError("no place in the order")
        else:
            check_plain_text("cursor", value)
        if self.sort_field == "created_at":
            value = time_key(canonical_time(value))
        return value, finding_id.lower()

    def cursor_after(self, document: Mapping[str, object]) -> str:
        """Return the cursor of the page that follows `document`."""
        position = [self._cursor_binding, self.sort_value(document)]
        try:
            text = json.dumps([*position, document["id"]], separators=(",", ":"))
        except _NO_FINDING as error:
            raise StorageValidationError.of_field("document", "must be a finding", document) from error
        return base64.urlsafe_b64encode(text.encode()).decode()

    @checked
    def page_of(self, documents: list[Any]) -> Page:
        """Return the page made of up to `limit` + 1 sorted documents, the last one only a sign of more."""
        items = documents[: self.limit]
        more = len(documents) > self.limit
        return Page(items=items, next_cursor=self.cursor_after(items[-1]) if more else None)


def _why_unbound(binding: object) -> str:
    """Return why a cursor does not hold for a query; releases before cursors were bound to one began them with the order."""
    order = binding.removeprefix("-").partition(" ")[0] if isinstance(binding, str) else ""
    if order in SORTS or order == RELEVANCE:
        return (
            "is one of an older release, which does not say what was asked: begin with the first page again"
        )
    return (
        "is the next_cursor of another query: project, conditions and sort must be those of the page before (only limit "
        "may change); leave it out for the first page"
    )


_SETS = ("severity", "status", "detector_id", "rule_id", "cwe", "cve_id", "run_id", "tag")


_NO_FINDING = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


def _condition_values(name: str, given: object) -> tuple[object, ...]:
    """Return the values of a set of conditions, of which there may be a single one."""
    if given is None:
        return ()
    if isinstance(given, (str, int)):
        return (given,)
    if not isinstance(given, Collection) or isinstance(given, (bytes, bytearray, Mapping)):
        raise StorageValidationError.of_field(name, "must be a value or a collection of values", given)
    members = tuple(islice(given, MAX_MEMBERS + 1))
    if len(members) > MAX_MEMBERS:
        raise StorageValidationError.of_field(name, f"must be at most {MAX_MEMBERS:,} values", given)
    return members


def _check_member(name: str, value: Any) -> None:
    if name == "cwe":
        if type(value) is not int or abs(value) >= TOO_LARGE:
            rule = f"must be integers of up to {MAX_DIGITS} digits"
            raise StorageValidationError.of_field(name, rule, value)
        return
    check_plain_text(name, value)
    if name == "run_id" and not is_uuid(value):
        raise StorageValidationError.of_field(name, "must be UUIDs", value)


def _check_names(name: str, given: Collection[str], known: type[Severity | Status]) -> None:
    names = [member.value for member in known]
    for value in given:
        if not isinstance(value, str) or value not in names:
            raise StorageValidationError.of_field(name, f"must be one of {', '.join(names)}", value)


def matches(query: FindingQuery, document: Mapping[str, Any]) -> bool:
    """Return whether a canonical `document` of the project meets every condition of `query`."""
    return (
        (not query.severities or document["severity"] in query.severities)
        and (not query.status or document["status"] in query.status)
        and (
            not query.detector_id
            or any(_same_or_prefix(d, document["detector_id"]) for d in query.detector_id)
        )
        and (not query.rule_id or document["rule_id"] in query.rule_id)
        and (not query.cwe or not set(_condition_values("cwe", query.cwe)).isdisjoint(document["cwe_ids"]))
        and (not query.cve_id or not set(query.cve_id).isdisjoint(document["cve_ids"]))
        and (not query.run_id or document["run_id"] in query.run_id)
        and (not query.tag or not set(query.tag).isdisjoint(document["tags"]))
        and document["resource"].startswith(query.resource_prefix)
        and (query.created_from is None or time_key(document["created_at"]) >= time_key(query.created_from))
        and (
            query.created_before is None or time_key(document["created_at"]) < time_key(query.created_before)
        )
        and (not query.words or holds_all(query.words, search_text(document)))
    )


def _same_or_prefix(wanted: str, detector_id: str) -> bool:
    return detector_id.startswith(wanted[:-1]) if wanted.endswith("*") else detector_id == wanted


@dataclass(frozen=True, slots=True)
class Page:
    """One page of findings. `next_cursor` is None on the last one."""

    items: list[FindingDocument]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The counts of one project.

    Attributes:
        total: all findings.
        by_severity: every severity, worst first, zeros included.
        by_status: every status, zeros included.
        by_detector: detector to count, most first.
        by_cwe: CWE number to the count of findings that name it, most first.
        top_resources: the ten resources with most findings, most first, then by name.
    """

    project_id: str
    total: int = 0
    by_severity: dict[str, int] = field(default_factory=dict)
    by_status: dict[str, int] = field(default_factory=dict)
    by_detector: dict[str, int] = field(default_factory=dict)
    by_cwe: dict[int, int] = field(default_factory=dict)
    top_resources: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of_counts(
        cls,
        project_id: str,
        severity: Mapping[str, int],
        status: Mapping[str, int],
        detector: Mapping[str, int],
        cwe: Mapping[int, int],
        resource: Mapping[str, int],
    ) -> Summary:
        """Return the summary of raw counts, with zeros filled in and everything in its order."""
        return cls(
            project_id,
            sum(severity.values()),
            {name.value: severity.get(name, 0) for name in reversed(Severity)},
            {name.value: status.get(name, 0) for name in Status},
            dict(_most_first(detector)),
            dict(_most_first(cwe)),
            dict(_most_first(resource)[:10]),
        )


def _most_first(counts: Mapping[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
