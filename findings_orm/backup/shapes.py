"""The shape that each record of a backup must have, member by member."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict

from findings_orm.backup.manifest import Time
from findings_orm.finding import Status


def _check_status(text: str) -> str:
    return Status(text).value


_Uuid = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
]
_Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]*$")]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Small = Annotated[int, Field(ge=0, lt=2**31)]
_Status = Annotated[str, AfterValidator(_check_status)]
_strict = with_config(ConfigDict(extra="forbid", strict=True))


@_strict
class _Identity(TypedDict):
    finding_id: _Uuid
    fingerprint: Annotated[_Hex, StringConstraints(min_length=64, max_length=64)]
    ordinal: _Small
    version: Annotated[int, Field(ge=0, lt=2**15)]
    content: _Hex
    reported: _Status
    line: _Small | None
    first_seen: Time
    last_seen: Time
    first_run: _Count
    last_run: _Count
    closed_as: _Status | None
    closed_at: Time | None


@_strict
class _Finding(TypedDict):
    finding: dict[str, Any]
    identity: _Identity
    streaks: NotRequired[list[Annotated[list[_Count], Field(min_length=2, max_length=2)]]]


@_strict
class _EventMembers(TypedDict):
    finding_id: _Uuid
    at: Time
    actor: str
    kind: Literal["status", "change", "comment", "purge"]
    changes: dict[str, Any]
    comment: str
    run_id: _Uuid | None


@_strict
class _Event(TypedDict):
    event: _EventMembers
    n: _Count


@_strict
class _Refusal(TypedDict):
    index: _Count
    field: str
    reason: str
    rejected_id: _Uuid | None


@_strict
class _RunMembers(TypedDict):
    id: _Uuid
    detectors: list[str]
    started_at: Time
    tool: dict[str, Any]
    number: Annotated[int, Field(ge=1, lt=2**63)]
    counts: dict[str, int]
    rejected: list[_Refusal]


@_strict
class _Run(TypedDict):
    run: _RunMembers


@_strict
class _Original(TypedDict):
    rejected_id: _Uuid
    run_id: _Uuid
    index: _Count
    at: Time
    field: str
    reason: str
    original: Any
    as_text: NotRequired[Literal[True]]


@_strict
class _Rejected(TypedDict):
    rejected: _Original


@_strict
class _Removed(TypedDict):
    removed: Annotated[list[str | int], Field(min_length=1, max_length=2)]


SHAPES: dict[str, TypeAdapter[Any]] = {
    "runs": TypeAdapter(_Run),
    "findings": TypeAdapter(_Finding),
    "events": TypeAdapter(_Event),
    "rejected": TypeAdapter(_Rejected),
}
"""Section to the shape of its records."""

REMOVED: TypeAdapter[Any] = TypeAdapter(_Removed)
"""The shape of a line that says what an incremental backup no longer has."""
