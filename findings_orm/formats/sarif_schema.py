"""What the official JSON schema of SARIF 2.1.0 (OASIS) asks of a result, and what of a value fits it.

``sarif_schema.json`` has the definitions of a result and of what is in it, without descriptions and defaults.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from findings_orm.formats.texts import canonical_json

UNFIT: Any = object()
"""Stands for a value of which nothing fits."""

_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "number": (int, float),
}


@cache
def _definitions() -> dict[str, dict[str, Any]]:
    path = Path(__file__).with_name("sarif_schema.json")
    definitions: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return definitions


def fit_value(value: object, name: str) -> Any:
    """Return what of a value fits a definition: without the members and items that don't; `UNFIT` if that is not enough."""
    return _fit(value, _definitions()[name])


def fit_member(value: object, name: str, member: str) -> Any:
    """Return what of a value fits as an item or a member of a property of a definition."""
    schema = _definitions()[name]["properties"].get(member, {})
    return _fit(value, schema.get("items") or schema.get("additionalProperties") or {})


def _fit(value: Any, schema: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        return fit_value(value, schema["$ref"])
    if not _is_allowed(value, schema):
        return UNFIT
    if isinstance(value, dict):
        return _fit_object(value, schema)
    return _fit_array(value, schema) if isinstance(value, list) else value


def _is_allowed(value: Any, schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type", ())
    if kinds and not any(_is_of(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if value not in schema.get("enum", [value]):
        return False
    if isinstance(value, str):
        return re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, (int, float)):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return True


def _is_of(value: object, kind: str) -> bool:
    if kind == "null":
        return value is None
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, _TYPES[kind])


def _fit_array(value: list[Any], schema: Mapping[str, Any]) -> Any:
    found = [one for item in value if (one := _fit(item, schema.get("items", {}))) is not UNFIT]
    if schema.get("uniqueItems"):
        found = list({canonical_json(one): one for one in reversed(found)}.values())[::-1]
    return UNFIT if len(found) < schema.get("minItems", 0) else found


def _fit_object(value: dict[str, Any], schema: Mapping[str, Any]) -> Any:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    found = {}
    for name, inner in value.items():
        wanted = known.get(name, others)
        one = UNFIT if wanted is False else _fit(inner, wanted)
        if one is not UNFIT:
            found[name] = one
    choices: Any = schema.get("anyOf") or schema.get("oneOf") or ({},)
    whole = any(
        found.keys() >= {*schema.get("required", ()), *choice.get("required", ())} for choice in choices
    )
    return found if whole else UNFIT
