"""The corner of `provenance` that carries what another version of a document has no room for.

A revision says in two plain functions how a document looks in the other version (`away`) and back (`home`). What `home`
can't tell from what `away` made is put into a corner, under the key ``findings_orm``::

    {"version": "1.1.0", "fields": {"rule_id": "B608"}, "absent": ["tags"], "order": [...], "original": ...}

`version` is that of the document whose values these are. `fields` are the values, `absent` are fields that it did not have,
`order` are the names of its fields where their order does not follow, `original` is what was under the key before: the corner
of another revision, or something of the user's.

On the way back it is field by field: a value comes back where the other version still shows what was made of it; where
that was changed, the change wins. Of a list that was changed, each member that is still there comes back as what it was
made of.

Anything else under the key is the user's, and is left alone: a corner is ours only if closing what it opens to puts just these
fields into one. Early releases wrote the same, but for `order`, and open what they would have written.

Revisions use this module for ever: whatever it has opened once, it goes on to open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]
Change = Callable[[Document], Document]

KEY = "findings_orm"
PROVENANCE = "provenance"
_MEMBERS = frozenset({"version", "fields", "absent", "order", "original"})
_MISSING = object()


@dataclass(frozen=True, slots=True)
class _Read:
    """A corner that is ours, and the document around it.

    Attributes:
        document: the document without the corner.
        home: what can be told from that.
        kept: the same with all that the corner holds, as if nothing had been changed since.
        seen: `kept` as the other version shows it.
        names: the fields that the corner speaks of.
        order: the names of the fields in their order, as far as that is known.
    """

    document: Document
    home: Document
    kept: Document
    seen: Document
    names: list[str]
    order: list[str]


@dataclass(frozen=True, slots=True)
class Corner:
    """Where documents of one version leave what a neighbouring version has no room for.

    Attributes:
        version: the schema version of the documents.
        away: returns a document of `version` as one of the other version, as far as that has room. It knows no corners, and
            may share values with what it is given. The same goes for `home`.
        home: returns a document of the other version as one of `version`, as far as it can be told.
        fields: the fields that may have to be put aside, each with the function that tells whether it may have a value, in
            the order that they have in the corner. Without any, every field may, with any value.
        is_valid: tells whether a document that a corner opens to may be one of `version`, where `fields` do not.
        innermost: it stands inside the corners of other revisions, not around them. So it does for the older version of a
            revision: the newer revisions, which go up first, find theirs.
    """

    version: str
    away: Change
    home: Change
    fields: Mapping[str, Callable[[object], bool]] = field(default_factory=dict)
    is_valid: Callable[[Document], bool] | None = None
    innermost: bool = False

    def open(self, document: Document) -> Document:
        """Return a document of the other version as one of `version`, with what a corner of ours has kept."""
        found = self.take_up_corner(document)
        return self.home(document) if found is None else found

    def take_up_corner(self, document: Document, *, in_place: bool = False) -> Document | None:
        """Return the same where the document has a corner of ours, else None; with `in_place`, only where it still stands where
        closing puts it: behind what was in `provenance`."""
        provenance = document.get(PROVENANCE)
        if in_place and provenance and [*provenance][-1] != KEY and "original" not in provenance.get(KEY, ""):
            return None
        read = self._read_corner(document)
        return None if read is None else self._open_corner(read)

    def close(self, document: Document, changed: Document | None = None, *, ordered: bool = True) -> Document:
        """Return a document of `version` as one of the other version, with a corner where one is needed.

        Args:
            document: the document.
            changed: the one of the other version; what `away` makes of it if None.
            ordered: keep the order of the fields; a row of a table has none.
        """
        changed = self.away(document) if changed is None else changed
        if not self._lost_members(document, changed, ordered=ordered) and self._read_corner(changed) is None:
            return changed
        if not isinstance(
            changed.get(PROVENANCE), dict
        ):  # 0.3.0 may have anything there; then it is lost, and put aside
            changed = {**changed, PROVENANCE: {}}
        lost = self._lost_members(document, changed, ordered=ordered)
        corner = {"version": self.version, "fields": {}, **lost}
        provenance = changed[PROVENANCE]
        before = provenance.get(KEY, _MISSING)
        around = _chain_of_corners(before) if self.innermost else []
        inside = around[-1].get("original", _MISSING) if around else before
        put = _nest_corners(around, _nest_corners([corner], inside))
        return {**changed, PROVENANCE: {**provenance, KEY: put}}

    def _comes_back(self, document: Document, changed: Document) -> bool:
        """Tell whether all fields of a document come back from one of the other version that it is closed into."""
        found = {PROVENANCE: {}, **self.open(self.close(document, changed))}
        return _fields_agree(found, {PROVENANCE: {}, **document}, {**found, **document})

    def _fit_document(self, document: Document, changed: Document) -> Document:
        """Return a document of the other version that a document comes back from, with as many fields as `changed` has them as
        can be. A corner can't be read where the fields that it speaks of are not shown as `away` shows them."""
        fitted = self.away(document)
        for name in [name for name in changed if name in fitted]:
            tried = {**fitted, name: changed[name]}
            if self._comes_back(document, tried):
                fitted = tried
        return {name: fitted[name] for name in {**changed, **fitted} if name in fitted}

    def _read_corner(self, document: Document) -> _Read | None:
        provenance = document.get(PROVENANCE)
        chain = _chain_of_corners(provenance.get(KEY)) if isinstance(provenance, dict) else []
        if not isinstance(provenance, dict) or not chain:
            return None
        corner = chain[-1 if self.innermost else 0]
        fields, absent, order = corner["fields"], corner.get("absent", []), corner.get("order", [])
        has_form = _are_names(absent) and _are_names(order)
        if (
            corner["version"] != self.version
            or not has_form
            or ("original" in corner and PROVENANCE in absent)
        ):
            return None
        before = _nest_corners(chain[:-1] if self.innermost else [], corner.get("original", _MISSING))
        document = {
            **document,
            PROVENANCE: _with_member(provenance, KEY, {} if before is _MISSING else {KEY: before}),
        }
        home = self.home(document)
        if not self._may_have_values(fields, home):
            return None
        if "order" in corner and not self._is_order(order, fields, absent):
            return None
        kept = _with_members(home, fields, absent)
        seen = {PROVENANCE: {}, **self.away(kept)}
        read = _Read(document, home, kept, seen, [*fields, *absent], order)
        if not self._would_be_written(read, corner) or (self.is_valid and not self.is_valid(kept)):
            return None
        return read

    def _would_be_written(self, read: _Read, corner: Document) -> bool:
        """Tell whether a corner holds just what closing a document puts into one."""
        if not read.names and "order" not in corner and self._read_corner(read.document) is None:
            return False
        fields, absent = corner["fields"], corner.get("absent", [])

        def is_written(kept: Document, seen: Document) -> bool:
            lost = self._lost_members(kept, {PROVENANCE: {}, **seen}, ordered=False)
            return lost.get("fields", {}).keys() == fields.keys() and set(lost.get("absent", ())) == {*absent}

        if is_written(read.kept, read.seen):
            return True
        # An edit may have left a value in another form than `away` writes it, a cvss of 5 for 5.0: then that form is asked.
        kept = _with_members(self.home({PROVENANCE: {}, **self.away(read.home)}), fields, absent)
        return is_written(kept, self.away(kept))

    def _is_order(self, order: list[str], fields: Document, absent: list[str]) -> bool:
        """Tell whether a document of `version` may have had just these names, beside those that it did not have."""
        always = {"severity", *self.home({})}  # no version has documents without a severity
        return {*fields, *always} <= {*order, *absent} and {*order}.isdisjoint(absent)

    def _may_have_values(self, fields: Document, home: Document) -> bool:
        """Tell whether documents of `version` may have all these values."""
        if not self.fields:
            return True
        there = {name: home[name] for name in self.fields if name in home}
        return all(
            name in self.fields and self.fields[name](value)
            for values in (fields, there)
            for name, value in values.items()
        )

    def _lost_members(self, document: Document, changed: Document, *, ordered: bool) -> Document:
        """Return what `home` can't tell from a changed document, as members of a corner."""
        found = self.home(changed)
        lost: Document = {}
        fields = {
            name: document[name]
            for name in self._names_in_order(document)
            if not _fields_agree(found, document, [name])
        }
        absent = [name for name in self._names_in_order(found) if name not in document]
        if fields:
            lost["fields"] = fields
        if absent:
            lost["absent"] = absent
        if ordered and [name for name in {**found, **fields} if name not in absent] != list(document):
            lost["order"] = list(document)
        return lost

    def _names_in_order(self, document: Document) -> list[str]:
        known = [name for name in self.fields if name in document]
        return known + sorted((name for name in document if name not in self.fields), key=str)

    def _open_corner(self, read: _Read) -> Document:
        """Return the document of `version` that a corner opens to."""
        untouched = _fields_agree(read.seen, read.document, {**read.seen, **read.document})
        opened = read.kept if untouched else self._merge_changes(read)
        first = {name: opened[name] for name in read.order if name in opened}
        return {**first, **opened}

    def _merge_changes(self, read: _Read) -> Document:
        """Return what is kept, but the fields that the other version shows otherwise as they were changed to."""
        merged = read.home
        for name in read.names:
            there = {PROVENANCE: {}, **self.away(_with_member(read.kept, name, read.home))}
            shown = [key for key in {**read.seen, **there} if not _fields_agree(read.seen, there, [key])]
            if _fields_agree(read.seen, read.document, shown):
                merged = _with_member(merged, name, read.kept)
            elif isinstance(read.kept.get(name), list) and isinstance(read.home.get(name), list):
                merged = {**merged, name: self._merge_members(name, read.kept[name], read.home[name])}
        return merged

    def _merge_members(self, name: str, kept: list[Any], changed: list[Any]) -> list[Any]:
        """Return a changed list with its members as they are kept, if the other version shows that as it was changed."""

        def shown(members: list[Any]) -> Document:
            return self.away({name: members})

        merged = []
        for one in changed:
            merged += [each for each in kept if shown([each]) == shown([one])] or [one]
        return merged if shown(merged) == shown(changed) else changed


def exchange_corners(document: Document, there: Corner, here: Corner) -> Document:
    """Return a document of the version of `here` as one of the version of `there`, where each has no room for something of
    the other: what `there` left is taken up, and what `here` has to leave is put aside."""
    read = there._read_corner(document)
    if read is None:
        return here.close(document, there.home(document))
    plain, opened = read.document, there._open_corner(read)
    if not plain[PROVENANCE] and PROVENANCE not in here.home(opened):  # it was there for the corner only
        plain = _with_member(plain, PROVENANCE, {})
    # What an edit adds stands last. That is no order to keep in a document that is of the other version by origin.
    ordered = bool(here._lost_members(plain, opened, ordered=False))
    if not here._comes_back(plain, opened):
        opened = here._fit_document(plain, opened)
    return here.close(plain, opened, ordered=ordered)


def _chain_of_corners(value: object) -> list[Document]:
    """Return a value under the key and what is inside of it, from the outermost on, as long as it has the form of a corner."""
    chain: list[Document] = []
    while (
        isinstance(value, dict)
        and isinstance(value.get("version"), str)
        and isinstance(value.get("fields"), dict)
        and value.keys() <= _MEMBERS
    ):
        chain.append(value)
        value = value.get("original")
    return chain


def _nest_corners(around: list[Document], inside: object) -> Any:
    """Return a value with corners around it; without one where it is missing."""
    for corner in reversed(around):
        inside = _with_member(corner, "original", {} if inside is _MISSING else {"original": inside})
    return inside


def _with_members(document: Document, fields: Document, absent: list[str]) -> Document:
    """Return a document with all that a corner holds."""
    return {name: value for name, value in {**document, **fields}.items() if name not in absent}


def _with_member(document: Document, name: str, other: Document) -> Document:
    """Return an object with a member as another one has it, or has it not."""
    if name in other:
        return {**document, name: other[name]}
    return {key: value for key, value in document.items() if key != name}


def _fields_agree(one: Document, other: Document, names: Iterable[str]) -> bool:
    """Tell whether two documents have the same in some fields."""
    return all(is_same_json(one.get(name, _MISSING), other.get(name, _MISSING)) for name in names)


def is_same_json(one: object, other: object) -> bool:
    """Compare as JSON text would: 1 is not 1.0, and the order of keys counts."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(
            is_same_json(value, other[name]) for name, value in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same_json, one, other))
    return repr(one) == repr(other) if isinstance(one, float) else one == other


def _are_names(value: object) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(name, str) for name in value)
        and len(set(value)) == len(value)
    )
