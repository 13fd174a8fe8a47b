"""The finding: one security observation by a detector about a resource of a project.

`Finding` is the only definition of the document. On the wire it is a JSON object, in Python a plain
``dict``; `validate_finding` turns any accepted input into the one canonical ``dict`` that every adapter
stores and returns.
"""

from __future__ import annotations

import marshal
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from itertools import combinations
from operator import itemgetter
from typing import Annotated, Any, Literal, Required, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    create_model,
    with_config,
)
from pydantic_core import PydanticCustomError, from_json, to_json
from typing_extensions import TypedDict

from findings_orm.errors import SchemaVersionError, StorageValidationError, readable
from findings_orm.fields import Kind, is_optional, kinds_of_fields, members_of_records

# -- what pydantic refuses, in the words of this package; and the patterns of text that have such words ---


UUID = r"^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$"
NO_NUL = r"^[^\x00]*$"
NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]*$"
URI = r"^[A-Za-z][A-Za-z0-9+.\-]*:(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+$"

_REFUSED = {
    "missing": "is required",
    "string_unicode": "must not hold lone surrogates (text that UTF-8 cannot encode)",
    "invalid-json-value": "must be a JSON value (object, list, text, finite number, true, false, null)",
    "finite_number": "must be a finite number (JSON has no NaN and no infinity)",
}
_PATTERNS = {
    UUID: "must be a UUID in its 36 character form (RFC 9562)",
    URI: "must be a URI (RFC 3986)",
    NO_NUL: "must not hold a NUL character",
    NO_CONTROL: "must not hold control characters",
}
_BRANCHES = {"str", "int", "float", "bool", "list", "dict", "[key]"}


def error_of_first_fault(
    document: Mapping[str, object], error: ValidationError, rules: Mapping[str, str]
) -> StorageValidationError:
    """Return the first fault that pydantic found as an error with field, rule and value.

    `rules` says in words what the schema forbids, by pydantic's type of the fault.
    """
    fault = error.errors(include_url=False)[0]
    kind = fault["type"]
    context = fault.get("ctx", {})
    if kind == "string_pattern_mismatch":
        pattern = str(context.get("pattern"))
        rule = _PATTERNS.get(pattern, f"must match {pattern}")
    else:
        rule = (
            rules.get(kind)
            or _REFUSED.get(kind)
            or fault["msg"]
            .replace("Input should be", "must be")
            .replace("Input should have", "must have")
            .replace("String should have", "must have")
        )
    value = None if kind == "missing" else fault["input"]
    return StorageValidationError.of_field(_dotted_path(document, fault["loc"]), rule, value)


def _dotted_path(document: Mapping[str, object], loc: tuple[int | str, ...]) -> str:
    """Return pydantic's location as a dotted path, without the names of union branches."""
    here: object = document
    text = ""
    for step in loc:
        if isinstance(here, dict) and step in here:
            here = here[step]
            text += f".{step}" if text else str(step)
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            here = here[step]
            text += f"[{step}]"
        elif not text or (step not in _BRANCHES and not isinstance(here, (str, int, float))):
            text += f".{step}" if text else str(step)
    return text


# -- the finding: one security observation by a detector about a resource of a project --------------------
# `Finding` is the only definition of the document. On the wire it is a JSON object, in Python a plain
# ``dict``; `validate_finding` turns any accepted input into the one canonical ``dict`` that every adapter
# stores and returns.


SchemaVersion = Literal["2.0.0"]
SCHEMA_VERSION: SchemaVersion = "2.0.0"
"""The schema version of `Finding` and of everything that the adapters of this release store."""

KNOWN_VERSIONS: tuple[str, ...] = ("0.3.0", "1.0.0", "1.1.0", "2.0.0")
"""The schema versions that this release can read, oldest first (a test compares them with the revisions)."""

MAX_DEPTH = 100
"""How deep objects and lists may nest inside `evidence` and `provenance` (JSON readers stop near 200)."""

MAX_DIGITS = 4300
"""How many digits an integer may have (the limit of Python's own text to integer conversion)."""

MAX_NUMBER = 2**31 - 1
"""The largest CWE number and line number (a signed 32 bit integer, as every database has it)."""


SeverityName = Literal["info", "low", "medium", "high", "critical"]
"""A severity as it stands in a document."""

StatusName = Literal[
    "open", "triaged", "in_progress", "resolved", "false_positive", "risk_accepted", "archived"
]
"""A status as it stands in a document."""


class Severity(StrEnum):
    """How bad a finding is, from `info` to `critical`: ordered by `rank`, beside names of severities too.

    Comparing with any other text raises ValueError.
    """

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for `info` up to 4 for `critical`."""
        return _SEVERITY_RANK[self]

    def __lt__(self, other: str) -> bool:
        return self.rank < Severity(other).rank

    def __le__(self, other: str) -> bool:
        return self.rank <= Severity(other).rank

    def __gt__(self, other: str) -> bool:
        return self.rank > Severity(other).rank

    def __ge__(self, other: str) -> bool:
        return self.rank >= Severity(other).rank

    @classmethod
    def at_least(cls, lowest: str) -> tuple[Severity, ...]:
        """Return the severities from `lowest` upwards. Raises ValueError for an unknown name."""
        return tuple(cls)[cls(lowest).rank :]


_SEVERITY_RANK = {severity: rank for rank, severity in enumerate(Severity)}


class Status(StrEnum):
    """Where a finding stands in its life; `TRANSITIONS` says which change follows which."""

    OPEN = "open"
    TRIAGED = "triaged"
    IN_PROGRESS = "in_progress"
    RESOLVED = "resolved"
    FALSE_POSITIVE = "false_positive"
    RISK_ACCEPTED = "risk_accepted"
    ARCHIVED = "archived"


_ACTIVE = (Status.OPEN, Status.TRIAGED, Status.IN_PROGRESS)
_CLOSED = (Status.RESOLVED, Status.FALSE_POSITIVE, Status.RISK_ACCEPTED)

TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    **{status: frozenset({*_ACTIVE, *_CLOSED, Status.ARCHIVED} - {status}) for status in _ACTIVE},
    **{status: frozenset({Status.OPEN, Status.TRIAGED, Status.ARCHIVED}) for status in _CLOSED},
    Status.ARCHIVED: frozenset({Status.OPEN}),
}
"""The legal status changes: work on a finding moves freely between open, triaged and in progress and may
close it in any way; what is closed is reopened, triaged again or archived; what is archived is reopened."""

ACTIVE_STATUSES: tuple[Status, ...] = _ACTIVE
"""The statuses that a scan which no longer reports the finding turns into `resolved`."""
DECISIONS = (Status.FALSE_POSITIVE, Status.RISK_ACCEPTED, Status.ARCHIVED)
"""The statuses that only a person, or a suppression, gives."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UUID_FORM = re.compile(UUID[1:-1])


def format_time(moment: datetime) -> str:
    """Return an aware `moment` in the canonical form: UTC, `Z`, no fraction when zero, else six digits."""
    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds" if utc.microsecond else "seconds")[:-6] + "Z"


@lru_cache(4096)
def canonical_time(text: str) -> str:
    """Return an RFC 3339 time in UTC in its canonical form.

    Raises:
        ValueError: for an offset, a naive time, more than six digits of a second, or no real date.
    """
    if not _TIME.fullmatch(text):
        raise ValueError("an RFC 3339 time in UTC that ends in Z, with at most six digits of a second")
    try:
        datetime.fromisoformat(text[:19])
    except ValueError as error:
        raise ValueError(f"a date and time that exist: {error}") from error
    fraction = text[20:-1].ljust(6, "0")
    return text[:19] + (f".{fraction}Z" if fraction != "000000" else "Z")


def _check_time(text: str) -> str:
    try:
        return canonical_time(text)
    except ValueError as error:
        raise PydanticCustomError("rule", "must be {rule}", {"rule": str(error)}) from None


def _require_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("rule", "must be a number")
    return value


def _plain_number(number: float) -> float:
    return int(number) if number == int(number) else float(number)


def _positive_zero(number: float) -> float:
    return number + 0.0


def _check_line_order(location: Location) -> Location:
    start, end = location.get("start_line"), location.get("end_line")
    if end is not None and (start is None or end < start):
        raise PydanticCustomError("rule", "end_line needs a start_line that is not after it")
    return location


_Uuid = Annotated[str, StringConstraints(pattern=UUID), AfterValidator(str.lower), Kind.UUID]
_Time = Annotated[str, AfterValidator(_check_time), Kind.TIME]
_Text = Annotated[str, StringConstraints(pattern=NO_NUL)]
_Name = Annotated[str, StringConstraints(pattern=NO_NUL, min_length=1)]
_Line = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
_JsonObject = dict[str, JsonValue]
_Confidence = Annotated[
    float, Field(ge=0, le=100), BeforeValidator(_require_number), AfterValidator(_plain_number), Kind.NUMBER
]
_Cvss = Annotated[float, Field(ge=0, le=10), BeforeValidator(_require_number), AfterValidator(_positive_zero)]
_EMPTY_LIST: Any = Field(default_factory=list)
_EMPTY_OBJECT: Any = Field(default_factory=dict)


@with_config(ConfigDict(extra="forbid", strict=True))
class Location(TypedDict, total=False):
    """The place of a finding in a file. Lines count from 1; absent members are unknown."""

    path: _Text | None
    start_line: _Line | None
    end_line: _Line | None
    snippet: _Text | None


class Finding(BaseModel):
    """One security observation: the schema of the document, version 2.0.0.

    Every field is of a JSON type, so that ``vars(finding)`` is the canonical document. Input is taken
    strictly: nothing is converted, cut or folded, except that `created_at` and the UUIDs get their
    canonical form (UUIDs in lower case: RFC 9562, section 4).
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    finding_schema_version: SchemaVersion = SCHEMA_VERSION
    id: _Uuid
    project_id: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=NO_CONTROL)]
    detector_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$")]
    title: _Name
    severity: SeverityName
    resource: _Text = ""
    created_at: _Time
    run_id: _Uuid | None = None
    status: StatusName = "open"
    rule_id: _Name | None = None
    fingerprint: _Name | None = None
    location: Annotated[Location, AfterValidator(_check_line_order)] | None = None
    confidence: _Confidence | None = None
    cwe_ids: list[Annotated[int, Field(ge=1, le=MAX_NUMBER)]] = Field(default_factory=list)
    owasp: list[Annotated[str, StringConstraints(pattern=r"^A[0-9]{2}(:[0-9]{4})?$")]] = Field(
        default_factory=list
    )
    cve_ids: list[Annotated[str, StringConstraints(pattern=r"^CVE-[0-9]{4}-[0-9]{4,}$")]] = Field(
        default_factory=list
    )
    cvss: _Cvss | None = None
    mitre_attack: list[Annotated[str, StringConstraints(pattern=r"^T[0-9]{4}(\.[0-9]{3})?$")]] = Field(
        default_factory=list
    )
    tags: list[Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]] = Field(
        default_factory=list
    )
    poc_links: list[Annotated[str, StringConstraints(pattern=URI)]] = _EMPTY_LIST
    evidence: _JsonObject = _EMPTY_OBJECT
    provenance: _JsonObject = _EMPTY_OBJECT


class FindingDocument(TypedDict):
    """A finding as stores return it, for type checkers: every field of `Finding` is there."""

    finding_schema_version: SchemaVersion
    id: str
    project_id: str
    detector_id: str
    title: str
    severity: SeverityName
    resource: str
    created_at: str
    run_id: str | None
    status: StatusName
    rule_id: str | None
    fingerprint: str | None
    location: Location | None
    confidence: float | None
    cwe_ids: list[int]
    owasp: list[str]
    cve_ids: list[str]
    cvss: float | None
    mitre_attack: list[str]
    tags: list[str]
    poc_links: list[str]
    evidence: dict[str, Any]
    provenance: dict[str, Any]


class FindingInput(TypedDict, total=False):
    """A finding as `ingest` takes it, for type checkers: what may be left out is filled in. `save_finding` needs `id`,
    `project_id` and `created_at` too."""

    finding_schema_version: SchemaVersion
    id: str
    project_id: str
    detector_id: Required[str]
    title: Required[str]
    severity: Required[SeverityName]
    resource: str
    created_at: str
    run_id: str | None
    status: StatusName
    rule_id: str | None
    fingerprint: str | None
    location: Location | None
    confidence: float | None
    cwe_ids: list[int]
    owasp: list[str]
    cve_ids: list[str]
    cvss: float | None
    mitre_attack: list[str]
    tags: list[str]
    poc_links: list[str]
    evidence: dict[str, Any]
    provenance: dict[str, Any]


class SeeFindingInput:
    """What no value is. A type checker takes a ``dict[str, Any]`` for a ``Mapping[str, SeeFindingInput]``, as nothing is
    known of its values, and no ``dict`` that is written out: that has to be a `FindingInput`."""


GivenFinding = FindingInput | FindingDocument | Mapping[str, SeeFindingInput]
"""What a store takes as a finding."""

FIELD_KINDS: Mapping[str, Kind] = kinds_of_fields(Finding)
"""The kind of each field, by which it is validated, stored and read."""

FIELDS: tuple[str, ...] = tuple(FIELD_KINDS)
"""The names of the document's fields, in their canonical order."""


def fields_of(*kinds: Kind) -> tuple[str, ...]:
    """Return the names of the fields of some kinds, in their canonical order."""
    return tuple(name for name, kind in FIELD_KINDS.items() if kind in kinds)


_UUIDS, _TIMES = fields_of(Kind.UUID), fields_of(Kind.TIME)
OBJECT_FIELDS = fields_of(Kind.OBJECT)
"""The fields that are objects with any members."""


def _quick_fields() -> Iterator[tuple[str, Any]]:
    quick: dict[Kind, Any] = {
        Kind.UUID: Annotated[str, StringConstraints(pattern=UUID)],
        Kind.TIME: str,
        Kind.OBJECT: Any,
    }
    hints = get_type_hints(Finding, include_extras=True)
    for name, kind in FIELD_KINDS.items():
        if kind in quick:
            field = Finding.model_fields[name]
            given = (
                {"default_factory": field.default_factory}
                if field.default_factory
                else {"default": field.default}
            )
            annotation = quick[kind] | None if is_optional(hints[name]) else quick[kind]
            yield name, (annotation, Field(**given))


# `Finding` without the steps that run Python code. It decides about nothing: what it refuses, `Finding` judges.
_QuickFinding = create_model("_QuickFinding", __base__=Finding, **dict(_quick_fields()))

STORE_FIELDS = frozenset({"finding_schema_version", "id", "project_id", "created_at", "run_id"})
"""The fields that a stored finding keeps when it is seen again."""

CONTENT_FIELDS = tuple(name for name in FIELDS if name not in STORE_FIELDS and name != "provenance")
"""The fields that a report decides: what differs in one of them is an update. `provenance` says of which scan they are: it is
taken over with them, and alone it is no change."""

DEFAULTS: Mapping[str, Any] = {
    name: field.get_default(call_default_factory=True)
    for name, field in Finding.model_fields.items()
    if not field.is_required()
}
"""What a document has where it lacks a field. The values are shared: not to be changed."""

_RULES = {
    "extra_forbidden": f"is not a field of a finding of schema {SCHEMA_VERSION}",
    "recursion_loop": f"must not nest deeper than {MAX_DEPTH} levels",
}
# Fields that say the same in several forms.
_FREE = tuple(
    name
    for kind in (Kind.RECORD, Kind.FLOAT, Kind.NUMBER, Kind.TIME, Kind.UUID)
    for name in CONTENT_FIELDS
    if FIELD_KINDS[name] is kind
)
_plain_values = itemgetter(*(name for name in CONTENT_FIELDS if name not in _FREE))
_free_values = itemgetter(*_FREE)
_validate = Finding.__pydantic_validator__.validate_python
_validate_quickly = _QuickFinding.__pydantic_validator__.validate_python
# Tried where digits begin only: a text of many digits would be read again from each of them.
_LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{%d}" % (MAX_DIGITS + 1))
TOO_LARGE = 10**MAX_DIGITS
_NUMBERS = (int, float)
_RECORDS_AT = tuple(
    (
        _FREE.index(name),
        members,
        frozenset(names for count in range(len(members) + 1) for names in combinations(members, count)),
    )
    for name, members in members_of_records(Finding).items()
)
_NUMBERS_AT = tuple(_FREE.index(name) for name in _FREE if FIELD_KINDS[name] in (Kind.FLOAT, Kind.NUMBER))
_FORMS_AT: tuple[tuple[int, Callable[[str], str]], ...] = tuple(
    (at, canonical_time if FIELD_KINDS[name] is Kind.TIME else str.lower)
    for at, name in enumerate(_FREE)
    if FIELD_KINDS[name] in (Kind.TIME, Kind.UUID)
)
_NOTHING: dict[str, object] = {}
MARSHAL_FORMAT = 2
"""The last format of `marshal` that writes equal values as equal bytes, whatever else refers to them."""


def validate_finding(document: Mapping[str, object]) -> FindingDocument:
    """Return the canonical document for `document`, which is left as it is.

    The result shares nothing with the input, has every field of `FIELDS` in that order (what is absent
    gets its default, optional ones ``None``), and belongs to the caller.

    Raises:
        SchemaVersionError: `finding_schema_version` is not the current one (migrate older ones first).
        StorageValidationError: a rule is broken; names field, rule and value.
    """
    return validate_content(document)[0]


Objects = tuple[bytes, ...]
"""The objects of a document as JSON, in the order of `OBJECT_FIELDS`, which a store may write as it is."""


def validate_content(
    document: Mapping[str, object], *, plain: bool | None = None
) -> tuple[FindingDocument, Objects | None]:
    """Do what `validate_finding` does; return its objects as JSON too, where that is at hand.

    `plain` says whether it has a `content_of`, where that is known already.
    """
    if not isinstance(document, dict):
        raise StorageValidationError.of_field("document", "must be a JSON object (a dict)", document)
    version = document.get("finding_schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"finding_schema_version is {readable(version)}; this release stores {SCHEMA_VERSION}"
        )
    try:
        if content_of(document) if plain is None else plain:
            return _quickly_validated(document)
    except (ValueError, RecursionError):
        pass
    return _validate_fully(document), None


def _quickly_validated(document: dict[str, object]) -> tuple[FindingDocument, Objects]:
    """Validate a document of exact types, as `content_of` found; raise ValueError for one that breaks a rule."""
    canonical: Any = vars(_validate_quickly(document))
    for name in _UUIDS:
        if canonical[name] is not None:
            canonical[name] = canonical[name].lower()
    for name in _TIMES:
        if canonical[name] is not None:
            canonical[name] = canonical_time(canonical[name])
    objects = []
    for name in OBJECT_FIELDS:
        canonical[name], data = _copy_through_json(canonical[name])
        objects.append(data)
    return canonical, tuple(objects)


def _copy_through_json(value: object) -> tuple[dict[str, object], bytes]:
    """Return a copy of an object made through its JSON, and that; raise ValueError if it may break a rule.

    What is of exact types and not of JSON's (a tuple, a key that is no text, NaN) does not equal its copy.
    """
    if not value and type(value) is dict:
        return {}, b"{}"
    data = to_json(value)
    copy = from_json(data, allow_inf_nan=False)
    if type(copy) is not dict or copy != value:
        raise ValueError("JSON does not say exactly this value")
    suspect = data.count(b"{") + data.count(b"[") >= MAX_DEPTH
    if (suspect or (len(data) > MAX_DIGITS and _LONG_NUMBER.search(data))) and any(
        _broken_rule(inner, depth) for _, inner, depth in _walk_values({"evidence": copy})
    ):
        raise ValueError("too deep, or too long a number")
    return copy, data


def _validate_fully(document: dict[str, object]) -> FindingDocument:
    try:
        canonical: FindingDocument = _validate(document).__dict__
    except ValidationError as error:
        raise error_of_first_fault(document, error, _RULES) from error
    except RecursionError as error:
        raise StorageValidationError.of_field(
            "document", f"must not nest deeper than {MAX_DEPTH} levels", None
        ) from error
    for path, value, depth in _walk_values(canonical):
        rule = _broken_rule(value, depth)
        if rule:
            raise StorageValidationError.of_field(path, rule, None if isinstance(value, int) else value)
    return canonical


def content_of(document: Mapping[str, object]) -> bytes:
    """Return what a report decides about a finding as bytes; no bytes where its values are not of exact, plain types.

    It is equal for documents with equal canonical `CONTENT_FIELDS`, and for no others: a document that would be
    refused for one of these fields never has the content of one that was accepted. It is the same before and after validation.
    What is in `provenance` does not count, only that it is of plain types.
    """
    full = document if len(document) == len(FIELDS) else {**DEFAULTS, **document}
    if len(full) != len(FIELDS):
        return b""
    try:
        plain = [*_plain_values(full), _NOTHING]  # in the place of `provenance`, so that older digests stay
        free = [*_free_values(full)]
        size_of_provenance(full)
        for at, members, orders in _RECORDS_AT:
            record = free[at]
            if record is not None and tuple(record) not in orders:
                free[at] = {name: record[name] for name in members if name in record}
                if len(free[at]) != len(record):
                    return b""
        for at in _NUMBERS_AT:
            number = free[at]
            if number is not None and type(number) in _NUMBERS:
                free[at] = number + 0.0
        for at, canonical_form in _FORMS_AT:
            if free[at] is not None:
                free[at] = canonical_form(free[at])
        return marshal.dumps((SCHEMA_VERSION, plain, *free), MARSHAL_FORMAT)
    except (ValueError, KeyError, TypeError, OverflowError):
        return b""


def size_of_provenance(document: Mapping[str, Any]) -> int:
    """Return how many bytes the provenance of a document has, about.

    Raises:
        ValueError: it has values that are not of exact, plain types.
    """
    return len(marshal.dumps(document["provenance"], MARSHAL_FORMAT)) if document.get("provenance") else 0


def is_valid_object(value: object) -> bool:
    """Return whether a value may be one of `OBJECT_FIELDS`; False where that takes a closer look."""
    try:
        _copy_through_json(value)
    except (ValueError, RecursionError):
        return False
    return True


def check_plain_text(name: str, text: str, *, empty: bool = True) -> None:
    """Check an argument that is stored as text: text, without NUL or lone surrogates, not empty unless allowed.

    Raises:
        StorageValidationError: names the argument, the rule and the value.
    """
    if not isinstance(text, str) or (not empty and not text):
        raise StorageValidationError.of_field(name, "must be text" + ("" if empty else ", not empty"), text)
    if "\x00" in text or not _is_encodable(text):
        raise StorageValidationError.of_field(name, "must not hold NUL or lone surrogates", text)


def is_uuid(text: object) -> bool:
    """Return whether `text` is a UUID in its 36 character form, in any case."""
    return isinstance(text, str) and _UUID_FORM.fullmatch(text) is not None


def check_project_id(project_id: str) -> None:
    """Check a project id by the rule of the document's field.

    Raises:
        StorageValidationError: names the rule and the value.
    """
    check_plain_text("project_id", project_id, empty=False)
    if len(project_id) > 255 or _CONTROL.search(project_id):
        raise StorageValidationError.of_field(
            "project_id", "must have 1 to 255 characters and no control characters", project_id
        )


def _broken_rule(value: object, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        return f"must not nest deeper than {MAX_DEPTH} levels"
    if isinstance(value, str) and not _is_encodable(value):
        return "must not hold lone surrogates (text that UTF-8 cannot encode)"
    if isinstance(value, int) and abs(value) >= TOO_LARGE:
        return f"must not have more than {MAX_DIGITS} digits"
    return None


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk_values(document: Mapping[str, object]) -> Iterator[tuple[str, object, int]]:
    """Yield each key and each value with its dotted path and depth, without recursion."""
    todo: list[tuple[str, object, int]] = [("", document, 0)]
    while todo:
        path, value, depth = todo.pop()
        yield path or "document", value, depth
        if depth > MAX_DEPTH:
            continue
        if isinstance(value, dict):
            for key, inner in value.items():
                yield f"{path}.{key!a}" if path else key, key, depth
                todo.append((f"{path}.{key}" if path else key, inner, depth + 1))
        elif isinstance(value, list):
            todo.extend((f"{path}[{n}]", inner, depth + 1) for n, inner in enumerate(value))
