"""What changes at each scan although nobody would call it a change: it is taken out of the evidence, and put together again.

Times, GUIDs, indexes into a report, folders of a build agent and the like tell where a finding comes from, not what it
says. They go to the `provenance` of the document, which is not compared, under the name that they have in the `evidence`:
an object has the members that were taken out of one, or out of its members; of a list it has the elements by their
numbers, as texts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from findings_orm.errors import StorageValidationError


class Splitter:
    """Takes the volatile members out of JSON values.

    Args:
        outermost: the names of those of the value itself.
        anywhere: the names of those of every object in it.
        opaque: the names of members that are left as they are.
        shorten: returns the lasting part of a text, of which the name is given.
    """

    def __init__(
        self,
        outermost: Collection[str],
        anywhere: Collection[str] = (),
        opaque: Collection[str] = (),
        shorten: Callable[[str, str], str] = lambda _, text: text,
    ) -> None:
        self._outermost = frozenset(outermost) | frozenset(anywhere)
        self._anywhere = frozenset(anywhere)
        self._opaque = frozenset(opaque)
        self._shorten = shorten

    def split(self, value: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what is left of an object, and what was taken out of it."""
        return self._split_object(value, self._outermost)

    def split_members(self, value: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Do what `split` does with the members of the object alone, not with what is in them."""
        kept = {name: inner for name, inner in value.items() if name not in self._outermost}
        return kept, {name: inner for name, inner in value.items() if name in self._outermost}

    def _split_object(
        self, value: Mapping[str, Any], names: Collection[str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        kept: dict[str, Any] = {}
        taken: dict[str, Any] = {}
        for name, inner in value.items():
            if name in names:
                taken[name] = inner
            elif name in self._opaque:
                kept[name] = inner
            else:
                kept[name], below = self._split_value(name, inner)
                if below is not None:
                    taken[name] = below
        return kept, taken

    def _split_value(self, name: str, value: Any) -> tuple[Any, Any]:
        """Return what is left of a value, and what was taken out of it, None where nothing was."""
        if isinstance(value, str):
            short = self._shorten(name, value)
            return short, None if short == value else value
        if isinstance(value, dict):
            kept, taken = self._split_object(value, self._anywhere)
            return kept, taken or None
        if not isinstance(value, list):
            return value, None
        parts = [self._split_value(name, inner) for inner in value]
        below = {str(n): taken for n, (_, taken) in enumerate(parts) if taken is not None}
        return [kept for kept, _ in parts], below or None


Names = dict[str, "Names"]
"""Members of an object, and of what is in them; all of a member without any."""


def names_of_paths(paths: Iterable[str]) -> Names:
    """Return what dotted paths as ``evidence.http.time`` name below the evidence.

    Raises:
        StorageValidationError: one names nothing in the evidence.
    """
    found: Names = {}
    for path in paths:
        first, *rest = path.split(".") if isinstance(path, str) else [""]
        if first != "evidence" or not rest or not all(rest):
            raise StorageValidationError.of_field(
                "volatile", "must name members of the evidence, as evidence.scan.time", path
            )
        here = found
        for name in rest:
            here = here.setdefault(name, {})
    return found


def move_to_provenance(document: dict[str, Any], names: Names) -> dict[str, Any]:
    """Return a document with members of its evidence in its provenance, in the place of what is there under the same names.
    A path goes through lists."""
    evidence, provenance = document.get("evidence"), document.get("provenance", {})
    if not isinstance(evidence, dict) or not isinstance(provenance, dict):
        return document
    kept, taken = _take_names(evidence, names)
    return (
        {**document, "evidence": kept, "provenance": join_volatile(provenance, taken)} if taken else document
    )


def _take_names(value: Any, names: Names) -> tuple[Any, dict[str, Any]]:
    if isinstance(value, list):
        parts = [_take_names(inner, names) for inner in value]
        return [kept for kept, _ in parts], {str(n): taken for n, (_, taken) in enumerate(parts) if taken}
    if not isinstance(value, dict):
        return value, {}
    kept, found = {}, {}
    for name, inner in value.items():
        if name not in names:
            kept[name] = inner
        elif not names[name]:
            found[name] = inner
        else:
            kept[name], below = _take_names(inner, names[name])
            if below:
                found[name] = below
    return kept, found


def join_volatile(kept: Any, taken: Any) -> Any:
    """Return the value of which a `Splitter` made two; members that were taken out come last."""
    if isinstance(kept, dict) and isinstance(taken, dict):
        joined = {
            name: join_volatile(inner, taken[name]) if name in taken else inner
            for name, inner in kept.items()
        }
        return {**joined, **{name: inner for name, inner in taken.items() if name not in kept}}
    if isinstance(kept, list) and isinstance(taken, dict):
        return [
            join_volatile(inner, taken[str(n)]) if str(n) in taken else inner for n, inner in enumerate(kept)
        ]
    return taken
