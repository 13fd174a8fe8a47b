"""What pydantic refuses, in the words of this package; and the patterns of text that have such words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from findings_orm.errors import StorageValidationError

UUID = r"^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$"
NO_NUL = r"^[^\x00]*$"
NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]*$"
URI = r"^[A-Za-z][A-Za-z0-9+.\-]*:(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+$"

_RULES = {
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


def refusal(
    document: dict[str, Any], error: ValidationError, rules: Mapping[str, str]
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
            or _RULES.get(kind)
            or fault["msg"]
            .replace("Input should be", "must be")
            .replace("Input should have", "must have")
            .replace("String should have", "must have")
        )
    value = None if kind == "missing" else fault["input"]
    return StorageValidationError.of_field(_path(document, fault["loc"]), rule, value)


def _path(document: dict[str, Any], loc: tuple[int | str, ...]) -> str:
    """Return pydantic's location as a dotted path, without the names of union branches."""
    here: Any = document
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
