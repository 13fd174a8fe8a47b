"""SARIF 2.1.0 out: results by tool, streamed through one temporary file.

A run of the log is a tool with its rules; results that are gone (`baselineState` `absent`) are a run of their own, as
of the results in a run all or none have a state (§3.27.24). Indexes into tables of the original run (artifacts and
the like) stay as they were, and the tables are written again; where two reports disagree on an index, the result gets
the element itself.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import IO, Any

from findings_orm.arguments import checked
from findings_orm.errors import StorageUnavailableError, StorageValidationError
from findings_orm.finding import Severity
from findings_orm.formats.sarif_build import Exported, entry_of, exported
from findings_orm.formats.sarif_references import inline
from findings_orm.formats.sarif_run import TABLES
from findings_orm.formats.sarif_values import mapping
from findings_orm.formats.texts import canonical, copied
from findings_orm.formats.writing import Stream, TextSink

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_INDEX = re.compile(r"\d{1,9}", re.ASCII)
_HIGHEST_INDEX = 100_000
"""Up to here tables are written with their gaps filled, so that indexes can stay."""


@checked
def write_sarif(documents: Iterable[Mapping[str, Any]], stream: Stream) -> int:
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
        with _translated(0):
            spool = stack.enter_context(tempfile.TemporaryFile(prefix="findings-"))
        made = _Made(spool)
        count = 0
        for document in documents:
            _check(document, count)
            with _translated(count):
                made.add(document)
            count += 1
        with _translated(count):
            made.write(TextSink(stream))
    return count


@contextmanager
def _translated(index: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailableError(f"writing failed: {error.strerror or error}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageValidationError(f"document {index}: JSON can't hold it: {error}", index=index) from error


def _check(document: Mapping[str, Any], index: int) -> None:
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

    def __init__(self, component: dict[str, Any]) -> None:
        self.component = component
        self.descriptors: list[dict[str, Any]] = []
        self._known: dict[str, int] = {}
        self._ids: dict[str, int] = {}

    def add(self, descriptor: dict[str, Any]) -> tuple[int, bool]:
        """Return the index of a descriptor, and whether its id alone finds it."""
        key = hashlib.sha256(canonical(descriptor).encode()).hexdigest()
        index = self._known.setdefault(key, len(self.descriptors))
        if index == len(self.descriptors):
            self.descriptors.append(descriptor)
        return index, self._ids.setdefault(str(descriptor.get("id")), index) == index

    def written(self) -> dict[str, Any]:
        return {**self.component, "rules": self.descriptors} if self.descriptors else self.component


class _Group:
    """A run in the making: everything but its results, and where these are in the temporary file."""

    def __init__(self, run: dict[str, Any]) -> None:
        self.run = run
        self.offsets = array("Q")
        self._driver = _Rules(run["tool"]["driver"])
        self._extensions: dict[str, tuple[int, _Rules]] = {}
        self._tables: dict[str, dict[int, Any]] = {name: {} for name in TABLES}
        self._strings: dict[str, Any] = {}

    def explains(self, found: Exported) -> bool:
        """Whether the messages of this run are, as far as `found` uses them, its own."""
        strings = mapping(found.references.get("globalMessageStrings"))
        return all(self._strings.get(name, text) == text for name, text in strings.items())

    def add(self, found: Exported, spool: IO[bytes]) -> None:
        """Write the result to the temporary file, and keep what explains it."""
        self._add_rule(found)
        self._strings.update(mapping(found.references.get("globalMessageStrings")))
        unfit = self._add_tables(found.references)
        if unfit:
            found.result = copied(found.result)
            inline(
                found.result,
                lambda reference: entry_of(found.references, reference) if reference in unfit else None,
            )
        line = json.dumps(found.result, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self.offsets.append(spool.tell())
        spool.write(line)

    def _add_rule(self, found: Exported) -> None:
        if found.rule is None:
            found.point(None, None)
            return
        place, rules = None, self._driver
        if found.extension is not None:
            key = canonical(found.extension)
            place, rules = self._extensions.setdefault(key, (len(self._extensions), _Rules(found.extension)))
        index, by_id = rules.add(found.rule)
        if not by_id and place is None:
            found.result.setdefault("ruleIndex", index)
        found.point(index, place)

    def _add_tables(self, references: Mapping[str, Any]) -> set[tuple[str, int]]:
        """Take the elements over and return the references whose index is taken by something else."""
        unfit = set()
        for table, known in self._tables.items():
            for text, entry in mapping(references.get(table)).items():
                index = int(text) if _INDEX.fullmatch(text) else _HIGHEST_INDEX
                if index >= _HIGHEST_INDEX or known.setdefault(index, entry) != entry:
                    unfit.add((table, index))
        return unfit

    def header(self) -> dict[str, Any]:
        """Return the run without its results."""
        tool: dict[str, Any] = {"driver": self._driver.written()}
        if self._strings:
            tool["driver"] = {**tool["driver"], "globalMessageStrings": self._strings}
        if self._extensions:
            tool["extensions"] = [rules.written() for _, rules in self._extensions.values()]
        tables = {name: _filled(known) for name, known in self._tables.items() if known}
        return {**self.run, "tool": tool, **tables}


def _filled(known: Mapping[int, Any]) -> list[Any]:
    """Return a table as an array; the elements that no result refers to are empty but for their number."""
    return [known.get(index, {"properties": {"unused": index}}) for index in range(max(known) + 1)]


class _Made:
    """The log in the making: its runs, and the temporary file that their results are in."""

    def __init__(self, spool: IO[bytes]) -> None:
        self._spool = spool
        self._groups: dict[tuple[str, int], _Group] = {}
        self._rules: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, document: Mapping[str, Any]) -> None:
        """Add the result for a document to the run that it belongs to."""
        found = exported(document, self._rules)
        name = hashlib.sha256(canonical([found.run, found.gone]).encode()).hexdigest()
        part = 0
        while (name, part) in self._groups and not self._groups[name, part].explains(found):
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
