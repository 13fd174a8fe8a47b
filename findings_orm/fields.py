"""What kinds of values the fields of a document have. Everything that stores or reads a field goes by its kind."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict


class Kind(StrEnum):
    """The kind of a field's values. All but lists and objects may be None where the field is optional.

    The order is part of the stored digest of a finding's content (`finding.content_of`): new kinds go to the end.
    """

    RECORD = "record"
    """An object with fixed members, of which any may be absent."""
    FLOAT = "float"
    """A number that is always written with a fraction, as 7.0."""
    NUMBER = "number"
    """A number that is written without a fraction where it has none, as 90."""
    TIME = "time"
    """A time in canonical form (`finding.canonical_time`). Marked in the annotation."""
    UUID = "uuid"
    """A UUID in lower case (RFC 9562, section 4). Marked in the annotation."""
    TEXT = "text"
    INTEGER = "integer"
    LIST = "list"
    """A list of texts or integers; empty where nothing is given, never None."""
    OBJECT = "object"
    """A JSON object with any members; empty where nothing is given, never None."""


def kinds_of_fields(model: type) -> dict[str, Kind]:
    """Return the kind of each field of a model, in its order.

    Raises:
        TypeError: the annotation of a field says no kind that the stores know.
    """
    return {
        name: _kind_of_field(name, *_unwrap_annotation(hint)) for name, hint in _field_hints(model).items()
    }


def members_of_records(model: type) -> dict[str, tuple[str, ...]]:
    """Return the names of the members of each field that is a record, in their order."""
    return {
        name: tuple(annotation.__annotations__)
        for name, hint in _field_hints(model).items()
        if is_typeddict(annotation := _unwrap_annotation(hint)[0])
    }


def is_optional(annotation: object) -> bool:
    """Return whether an annotation takes None."""
    return get_origin(annotation) in (Union, UnionType) and type(None) in get_args(annotation)


def _field_hints(model: type) -> dict[str, object]:
    hints = get_type_hints(model, include_extras=True)
    return {name: hints[name] for name in getattr(model, "model_fields", ())}


def _unwrap_annotation(annotation: object) -> tuple[Any, list[object]]:
    """Return an annotation without None and without its marks, and the marks."""
    if is_optional(annotation):
        (annotation,) = (member for member in get_args(annotation) if member is not type(None))
    if get_origin(annotation) is Annotated:
        annotation, *marks = get_args(annotation)
        return annotation, marks
    return annotation, []


def _kind_of_field(name: str, annotation: object, marks: list[object]) -> Kind:
    marked = next((mark for mark in marks if isinstance(mark, Kind)), None)
    known = Kind.RECORD if is_typeddict(annotation) else _KINDS.get(get_origin(annotation) or annotation)
    kind = marked or known
    if kind is None:
        raise TypeError(f"field {name}: there is no kind of field for {annotation} (see findings_orm.fields)")
    return kind


_KINDS: Mapping[object, Kind] = {
    str: Kind.TEXT,
    Literal: Kind.TEXT,
    int: Kind.INTEGER,
    float: Kind.FLOAT,
    list: Kind.LIST,
    dict: Kind.OBJECT,
}
