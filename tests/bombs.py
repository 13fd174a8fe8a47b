"""Hostile files: small on disk, huge where a reader builds what they ask for. Written as streams, none is in the repository.

Each function writes one file; `size` is about how many bytes it unpacks to, or makes its reader build.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from findings_orm.backup.container import FrameWriter, line_of, pack_record, seal_frame

Bomb = Callable[[Path, int], None]
_PIECE = 1 << 16


def _write(path: Path, parts: Iterable[str]) -> None:
    """Write a text, packed where the name says so."""
    with path.open("wb") as raw:
        packed = gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) if path.suffix == ".gz" else raw
        with io.TextIOWrapper(packed, encoding="utf-8") as file:
            for part in parts:
                file.write(part)


def _times(text: str, size: int) -> Iterator[str]:
    """Yield a text again and again, `size` characters of it and a few more."""
    piece = text * (_PIECE // len(text) + 1)
    for _ in range(size // len(piece) + 1):
        yield piece


def _log(results: Iterable[str], tool: Iterable[str] = (), run: Iterable[str] = ()) -> Iterator[str]:
    yield '{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "bomb"'
    yield from tool
    yield "}}"
    yield from run
    yield ', "results": ['
    yield from results
    yield "]}]}"


def _message(text: Iterable[str]) -> Iterator[str]:
    yield '{"ruleId": "R", "message": {"text": "'
    yield from text
    yield '"}}'


def placeholders(path: Path, size: int) -> None:
    """One long argument, and a message that has it in many places."""
    count = int(size**0.5)
    result = {"ruleId": "R", "message": {"id": "m", "arguments": ["A" * count]}}
    rule = {"id": "R", "messageStrings": {"m": {"text": "{0}" * count}}}
    _write(path, _log([json.dumps(result)], [f', "rules": [{json.dumps(rule)}]']))


def objects_as_arguments(path: Path, size: int) -> None:
    """As `placeholders`, with an argument that is no text."""
    count = int(size**0.5)
    _write(path, _log([json.dumps({"message": {"text": "{0}" * count, "arguments": [{"a": "A" * count}]}})]))


def one_text(path: Path, size: int) -> None:
    """One title of `size` bytes."""
    _write(path, _log(_message(_times("A", size))))


def one_wide_text(path: Path, size: int) -> None:
    """As `one_text`, where each character takes four times the memory."""
    _write(path, _log(_message(("\U0001f600", *_times("A", size)))))


def one_number(path: Path, size: int) -> None:
    """An integer of `size` digits."""
    _write(path, _log(('{"message": {"text": "m"}, "rank": ', *_times("7", size), "}")))


def deep_nesting(path: Path, size: int) -> None:
    """Lists in lists."""
    _write(path, _log(('{"message": {"text": "m"}, "properties": {"x": ', *_times("[", size))))


def nesting_in_text_limits(path: Path, size: int) -> None:
    """Nesting that a reader could follow, in many results."""
    one = '{"message": {"text": "m"}, "properties": {"x": ' + "[" * 900 + "]" * 900 + "}}"
    _write(path, _log((one, *_times(", " + one, size))))


def many_members(path: Path, size: int) -> None:
    """One object with many members."""
    members = (f'"{number:07}": 1, ' for number in range(size // 14))
    _write(path, _log(('{"message": {"text": "m"}, "properties": {', *members, '"x": 1}}')))


def many_objects(path: Path, size: int) -> None:
    """Empty objects, which take most memory for their text."""
    _write(path, _log(('{"message": {"text": "m"}, "x": [', *_times("{},", size), "{}]}")))


def members_of_the_log(path: Path, size: int) -> None:
    """An outermost object with many members."""
    members = (f'"{number:07}": 1, ' for number in range(size // 14))
    _write(path, ('{"version": "2.1.0", ', *members, '"runs": []}'))


def huge_rules(path: Path, size: int) -> None:
    """Rules that nothing refers to."""
    _write(path, _log((), (', "rules": [', *_times('{"id": "r"},', size), "{}]")))


def huge_rule_texts(path: Path, size: int) -> None:
    """Rules that nothing refers to, of long texts, where each character takes four times the memory."""
    one = '{"id": "r", "fullDescription": {"text": "\U0001f600' + "A" * 100_000 + '"}},'
    _write(path, _log((), (', "rules": [', *_times(one, size), "{}]")))


def huge_artifacts(path: Path, size: int) -> None:
    """Artifacts that nothing refers to."""
    one = '{"location": {"uri": "a"}},'
    _write(path, _log((), (), (', "artifacts": [', *_times(one, size), "{}]")))


def shared_rule(path: Path, size: int) -> None:
    """Tiny results, each of whose documents copies the text of one rule."""
    rule = {"id": "R", "fullDescription": {"text": "A" * 1_000_000}}
    result = '{"ruleId": "R", "message": {"text": "m"}}'
    results = (f", {result}" for _ in range(2 * size // 1_000_000))
    _write(path, _log((result, *results), [f', "rules": [{json.dumps(rule)}]']))


def chained_references(path: Path, size: int) -> None:
    """Places in places: each result refers to the last of a chain, and so to all."""
    count = 20_000
    places = (
        {"name": "A" * 100, "parentIndex": number - 1} if number else {"name": "a"} for number in range(count)
    )
    table = (("" if number == 0 else ", ") + json.dumps(place) for number, place in enumerate(places))
    result = json.dumps(
        {"message": {"text": "m"}, "locations": [{"logicalLocations": [{"index": count - 1}]}]}
    )
    results = (f", {result}" for _ in range(size // (count * 150)))
    _write(path, _log((result, *results), (), (', "logicalLocations": [', *table, "]")))


def named_taxa(path: Path, size: int) -> None:
    """A result with many taxa, each of which gets the long name of its taxonomy."""
    name = "A" * 1_000_000
    taxa = ", ".join(['{"index": 0, "toolComponent": {"index": 0}}'] * (size // len(name)))
    run = f', "taxonomies": [{{"name": "{name}", "taxa": [{{"id": "1"}}]}}]'
    _write(path, _log([f'{{"message": {{"text": "m"}}, "taxa": [{taxa}]}}'], (), [run]))


def guids(path: Path, size: int) -> None:
    """Results that each name another rule by its guid."""
    results = (
        f'{{"ruleId": "{number}", "rule": {{"guid": "{number:032x}"}}, "message": {{"text": "m"}}}}, '
        for number in range(size // 2_000)
    )
    rules = (f'{{"guid": "{number:030x}"}}, ' for number in range(1_000))
    _write(path, _log((*results, "{}"), (', "rules": [', *rules, "{}]")))


def equal_results(path: Path, size: int) -> None:
    """Results that are equal, so that only their number tells them apart."""
    _write(path, _log(("{}", *_times(', {"ruleId": "R"}', size))))


def many_runs(path: Path, size: int) -> None:
    """Runs without results."""
    one = '{"tool": {"driver": {"name": "t"}}, "results": []},'
    _write(path, ('{"version": "2.1.0", "runs": [', *_times(one, size), one[:-1], "]}"))


def json_lines(path: Path, size: int) -> None:
    """JSON Lines with one huge line."""
    head = '{"detector_id": "d", "title": "t", "severity": "low", "evidence": {"x": "'
    _write(path, (head, *_times("A", size), '"}}\n'))


def many_detectors(path: Path, size: int) -> None:
    """JSON Lines in which every line has a detector of its own."""
    _write(
        path,
        (
            f'{{"detector_id": "d{number}", "title": "t", "severity": "low"}}\n'
            for number in range(size // 60)
        ),
    )


def beside_the_findings(path: Path, size: int) -> None:
    """A store layout with much beside its findings."""
    value = '"' + "A" * 1_000_000 + '"'
    beside = (f', "x{number}": {value}' for number in range(size // len(value)))
    _write(path, ('{"finding_schema_version": "2.0.0", "findings": []', *beside, "}"))


def large_findings(path: Path, size: int) -> None:
    """JSON Lines of documents that are each within the limits, and too many of them for memory."""
    for_each = 1_000_000
    value = "A" * for_each
    lines = (
        f'{{"detector_id": "d", "title": "t{number}", "severity": "low", "evidence": {{"x": "{value}"}}}}\n'
        for number in range(size // for_each)
    )
    _write(path, lines)


def wrong_lines(path: Path, size: int) -> None:
    """JSON Lines of small documents that are all wrong, for the quarantine."""
    _write(path, (f'{{"detector_id": "{number}"}}\n' for number in range(min(size // 25, 60_000))))


def wrong_documents(path: Path, _size: int) -> None:
    """JSON Lines of large documents that are all wrong, for the quarantine."""
    value = "A" * 1_000_000
    _write(path, (f'{{"detector_id": "{n}", "evidence": {{"x": "{value}"}}}}\n' for n in range(80)))


def utf16(path: Path, size: int) -> None:
    """UTF-16, which is recoded into a file before it is read, with one title of `size` bytes."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(('\ufeff{"detector_id": "d", "severity": "low", "title": "').encode("utf-16-le"))
        for part in _times("A", size // 2):
            file.write(part.encode("utf-16-le"))


def nuclei(path: Path, size: int) -> None:
    """A response of nuclei without an end."""
    head = '{"template-id": "t", "info": {"name": "n", "severity": "low"}, "host": "h", "response": "'
    _write(path, (head, *_times("A", size), '"}\n'))


def legacy(path: Path, size: int) -> None:
    """A row of 0.3.0 with a request without an end."""
    head = '[{"pid": "p", "ts": "2024-01-01T00:00:00Z", "detector_id": "a:b", "title": "t", "severity": "low", "req": "'
    _write(path, (head, *_times("A", size), '"}]'))


def legacy_names(path: Path, size: int) -> None:
    """Rows of 0.3.0 whose fields have other names in every row, of 1,000 characters."""
    row = '{"pid": "p", "ts": "2024-01-01T00:00:00Z", "detector_id": "a", "title": "t", "severity": "low"'
    rows = (
        row + "".join(f', "u{one}_{n:0>1000}": 1' for n in range(300)) + "}"
        for one in range(size // 300_000 + 1)
    )
    _write(path, ("[", *(f"{text}," for text in rows), row, "}]"))


def layout(path: Path, size: int) -> None:
    """A store layout, for `migrate`, with one huge finding."""
    head = '{"finding_schema_version": "1.0.0", "findings": [{"title": "'
    _write(path, (head, *_times("A", size), '"}]}'))


def array(path: Path, size: int) -> None:
    """An array of empty objects, for `migrate`."""
    _write(path, ("[{}", *_times(",{}", size), "]"))


# -- backups ---------------------------------------------------------------------------------------------------


_MANIFEST = {
    "format": 1,
    "id": "01980000-0000-7000-8000-000000000000",
    "created_at": "2026-01-01T00:00:00Z",
    "schema_version": "2.0.0",
    "release": "0",
    "source": "memory",
    "projects": ["p"],
    "findings": 1,
    "since": None,
    "salvaged": False,
}


def _backup(path: Path, parts: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        writer = FrameWriter(file, 1)
        for part in parts:
            writer.write(part)
        writer.seal(lambda _size, _sha256: line_of(b"{}"))


def _project() -> Iterator[bytes]:
    yield pack_record({"manifest": _MANIFEST})
    yield pack_record({"project": {"id": "p", "revision": 1, "created_at": None}})


def backup_manifest(path: Path, size: int) -> None:
    """A first line without an end."""
    _backup(path, (b'{"crc":"00000000","manifest":{"id":"', *(part.encode() for part in _times("A", size))))


def backup_line(path: Path, size: int) -> None:
    """A run without an end."""
    _backup(path, (*_project(), b'{"crc":"00000000","run":"', *(part.encode() for part in _times("A", size))))


def backup_objects(path: Path, size: int) -> None:
    """A run of empty objects, with a checksum that fits."""
    text = b'{"run":[' + b"{}," * (min(size, 30_000_000) // 3) + b"{}]}"
    _backup(path, (*_project(), line_of(text)))


def backup_lines(path: Path, size: int) -> None:
    """Runs that are each within the limits, and too many of them for memory."""
    line = pack_record({"run": "A" * 1_000_000})
    _backup(path, (*_project(), *(line for _ in range(size // len(line)))))


def backup_window(path: Path, _size: int) -> None:
    """A frame that asks for a window of gigabytes (RFC 8878, 3.1.1.1.2)."""
    path.write_bytes(b"\x28\xb5\x2f\xfd\x04\xa8" + b"\x00" * 10 + seal_frame(b"{}\n"))


IMPORTED: dict[str, tuple[str, Bomb]] = {
    bomb.__name__: (ending, bomb)
    for ending, bombs in {
        ".sarif": (
            placeholders,
            objects_as_arguments,
            shared_rule,
            chained_references,
            named_taxa,
            many_runs,
            guids,
        ),
        ".sarif.gz": (
            equal_results,
            one_text,
            one_wide_text,
            one_number,
            deep_nesting,
            nesting_in_text_limits,
            many_members,
            many_objects,
            members_of_the_log,
            huge_rules,
            huge_rule_texts,
            huge_artifacts,
        ),
        ".json.gz": (
            json_lines,
            many_detectors,
            beside_the_findings,
            nuclei,
            legacy,
            large_findings,
            utf16,
            wrong_lines,
            wrong_documents,
        ),
    }.items()
    for bomb in bombs
}
"""What `findings import` may be given: the ending of the file's name, and who writes it."""

BACKUPS: dict[str, Bomb] = {
    bomb.__name__: bomb
    for bomb in (backup_manifest, backup_line, backup_objects, backup_lines, backup_window)
}
"""What `findings verify` and `findings restore` may be given."""

REFUSED = {"wrong_lines", "wrong_documents"}
"""Those that are imported with ``--quarantine``."""
