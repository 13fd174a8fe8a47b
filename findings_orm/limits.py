"""How large what comes in from outside may be. Every limit is counted before what it limits is built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from sys import getsizeof, maxsize
from typing import Self

from findings_orm.arguments import checked
from findings_orm.errors import LimitExceededError, StorageValidationError, readable

KB, MB, GB = 1024, 1024**2, 1024**3

FREE_BYTES = 64 * MB
"""What may be unpacked, or made of a report, before `Limits.max_expansion_ratio` counts."""

_VALUE_SIZE = 8
_COUNTED_LEVELS = 2_100
"""Nothing that makes bytes of a document goes deeper; a value that holds itself, and once, is no larger than this."""
_COLLECTIONS = (list, tuple, set, frozenset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of what is read from reports and files, and of the documents that a store takes. What is beyond is refused.

    With these defaults reading takes less than 300 MB of memory, whatever the file. They are several times what real scanners
    write.

    Attributes:
        max_field_bytes: of one text: a title, a snippet, a response, a message with its arguments filled in. In UTF-8.
        max_document_bytes: of one result of a report, of one rule, and of one document, as JSON. A line of a backup may have
            four times as many: an event holds two versions of a document, a run everything that it refused.
        max_document_values: how many values a document may have (members, elements, objects, lists), and how many
            members the outermost objects of a report.
        max_shared_bytes: of memory for what the results of a report refer to: rules, artifacts, taxonomies; and for the notes
            of an import of 0.3.0.
        max_report_bytes: of a report or file, unpacked.
        max_nesting_levels: how deep objects and lists may nest in a report. (A document holds 100 levels; what a result
            has beyond is kept as text.)
        max_expansion_ratio: how many times as large as the compressed file the text in it may be, and how many times as
            large as a report its documents, each of which holds a copy of its rule. The first 64 MB are free.
        max_equal_findings: how many findings of a project may be equal in what makes their fingerprint.
        max_rejected: how many documents of one import may be refused and go to the quarantine.
        max_rejected_bytes: how large their originals may be together, as JSON.
        max_names: how many runs of tools (SARIF), detectors (JSON Lines), projects (0.3.0) or fields without a place (0.3.0)
            may be in one report.

    Raises:
        StorageValidationError: a limit is no integer of at least 1.
    """

    max_field_bytes: int = 4 * MB
    max_document_bytes: int = 8 * MB
    max_document_values: int = 250_000
    max_shared_bytes: int = 128 * MB
    max_report_bytes: int = 16 * GB
    max_nesting_levels: int = 400
    max_expansion_ratio: int = 500
    max_names: int = 10_000
    max_rejected: int = 50_000
    max_rejected_bytes: int = 64 * MB
    max_equal_findings: int = 100_000

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise StorageValidationError.of_field(one.name, "must be an integer of at least 1", value)

    @classmethod
    @checked
    def of_sizes(cls, *, document: int | None = None, report: int | None = None, **others: int) -> Self:
        """Return limits for documents (with what belongs to one in proportion) and reports in bytes, and others by name."""
        made = cls()
        if document is not None:
            times = document / made.max_document_bytes
            made = replace(
                made,
                max_document_bytes=document,
                max_field_bytes=max(1, int(made.max_field_bytes * times)),
                max_document_values=max(1_000, int(made.max_document_values * times)),
                max_shared_bytes=int(made.max_shared_bytes * max(1, times)),
            )
        if report is not None:
            made = replace(made, max_report_bytes=report)
        return replace(made, **others)

    @property
    def of_lines(self) -> Self:
        """The limits of a line of a backup as those of a document."""
        return replace(
            self,
            max_document_bytes=4 * self.max_document_bytes,
            max_document_values=4 * self.max_document_values,
        )

    def rule(self, name: str) -> str:
        """Return a limit in words: its name, its value, and how to raise it."""
        option = OPTIONS.get(name, f"--limit {name}=N")
        how = f"{option}, or limits=Limits({name}=...)"
        return f"at most {getattr(self, name):,} are allowed ({name}); to allow more: {how}"

    def check(self, name: str, found: int, what: str) -> None:
        """Compare what was found with a limit; `what` names it and its unit.

        Raises:
            LimitExceededError: it is more.
        """
        if found > getattr(self, name):
            rule = self.rule(name)
            raise LimitExceededError(f"{what}: {found:,}; {rule}", rule=rule, value=found)


OPTIONS = {
    "max_field_bytes": "--max-document SIZE",
    "max_document_bytes": "--max-document SIZE",
    "max_document_values": "--max-document SIZE",
    "max_shared_bytes": "--max-document SIZE",
    "max_report_bytes": "--max-report SIZE",
}
"""The options of the command line that raise limits; ``--limit`` raises the others."""

DEFAULT = Limits()


UNLIMITED = Limits(**dict.fromkeys((one.name for one in fields(Limits)), maxsize))
"""For what this program has just written itself."""


class FieldNames:
    """The names of fields that a report counts: so many, and so much text, as `limits` allow; `place` is what is read."""

    def __init__(self, limits: Limits, place: object) -> None:
        self._limits, self._place = limits, place
        self._names: set[str] = set()
        self._size = 0

    def add(self, name: str) -> None:
        """Take a name, which may have come before.

        Raises:
            LimitExceededError: there are more than `Limits.max_names`, or they are larger than a document may be.
        """
        if name in self._names:
            return
        self._names.add(name)
        self._size += len(name)
        self._limits.check("max_names", len(self._names), f"{self._place}: the number of names of fields")
        what = f"{self._place}: the size of the names of fields, in characters"
        self._limits.check("max_document_bytes", self._size, what)


def check_limits(limits: object) -> Limits:
    """Return `limits`, if that is what it is.

    Raises:
        StorageValidationError: it is something else.
    """
    if not isinstance(limits, Limits):
        raise StorageValidationError(
            f"limits: must be Limits (got {readable(limits)})", field="limits", value=limits
        )
    return limits


def walk_json(value: object) -> Iterator[object]:
    """Yield a JSON value and all that is in it, names too, without recursion."""
    todo = [value]
    while todo:
        item = todo.pop()
        yield item
        if isinstance(item, dict):
            todo.extend(item)
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)


def count_values(value: object) -> int:
    """Return how many values a JSON value has, as `jsonstream.count_values_in` counts them in its text."""
    return sum(max(1, len(part)) for part in walk_json(value) if isinstance(part, (dict, list)))


def json_size(value: object, most: int) -> int:
    """Return about how many bytes a JSON value has as JSON; the count stops where it is more than `most`."""
    size = 0
    for part in walk_json(value):
        size += _VALUE_SIZE + (len(part) if isinstance(part, str) else 0)
        if size > most:
            break
    return size


def check_parts(value: object, limits: Limits) -> None:
    """Refuse a value that is larger as JSON than a document may be, before anything is made of it.

    What it holds several times counts each time: a few lists that hold each other twice are a JSON without an end.

    Raises:
        LimitExceededError: it is larger, as far as it was counted.
    """
    size, values, levels, level = 0, 0, 0, [value]
    seen: set[int] = set()
    while level:
        inner: list[object] = []
        for part in level:
            size += _least_size(part)
            if isinstance(part, dict):
                inner.extend(part.values())
                size += sum(len(name) for name in part if isinstance(name, str))
            elif isinstance(part, _COLLECTIONS):
                inner.extend(part)
            check_counted(size + len(inner), limits)
        values += len(inner)
        _check_document("max_document_values", values, "the number of values in the document", limits)
        level = inner
        levels += 1
        if levels > _COUNTED_LEVELS:
            level = [part for part in level if id(part) not in seen]
            seen.update(map(id, level))


def check_counted(size: int, limits: Limits) -> None:
    """Refuse a document of which so many bytes were counted, and not all.

    Raises:
        LimitExceededError: they are more than a document may have.
    """
    _check_document("max_document_bytes", size, "the size of the document, in bytes", limits)


def _check_document(name: str, found: int, what: str, limits: Limits) -> None:
    try:
        limits.check(name, found, f"{what}, as far as it was counted")
    except LimitExceededError as error:
        error.field = "document"
        raise


def _least_size(part: object) -> int:
    """Return how many bytes a value has as JSON at least, without what is in it."""
    if isinstance(part, (str, bytes, bytearray)):
        return 1 + len(part)
    return 1 + part.bit_length() // 4 if isinstance(part, int) else 1


def memory_size(value: object) -> int:
    """Return how many bytes of memory a JSON value takes."""
    return sum(map(getsizeof, walk_json(value)))
