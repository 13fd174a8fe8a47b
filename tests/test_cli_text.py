"""Parts of the command line by themselves: text for terminals, tables, arguments, messages."""

from __future__ import annotations

import io
import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from findings_orm.cli.failures import CommandError, ExitCode, explain_error
from findings_orm.cli.options import parse_age, parse_time, split
from findings_orm.cli.output import (
    Column,
    Grid,
    TerminalSafe,
    fit_widths,
    plain_lines,
    safe_lines,
    safe_text,
    shorten_text,
)
from findings_orm.cli.render import history_grid, resource_with_line
from findings_orm.cli.root import global_options_first
from findings_orm.cli.session import storage_path
from findings_orm.errors import (
    FindingNotFoundError,
    SchemaVersionError,
    StorageConflictError,
    StorageError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
)
from findings_orm.port import Event

DIRECTION_MARKS = {*"\u061c\u200e\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def is_obeyed(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in DIRECTION_MARKS


def test_no_character_that_a_terminal_obeys_gets_through() -> None:
    obeyed = [character for character in map(chr, range(sys.maxunicode + 1)) if is_obeyed(character)]
    assert len(obeyed) == 65 + 2048 + 2 + 12
    for character in obeyed:
        shown = safe_text(character)
        assert shown.startswith("\\")
        assert shown.isascii()
        assert shown.isprintable()


@pytest.mark.parametrize("text", ["plain", "Straße", "漢字", "😀👩‍💻", "[red]", ":smile:", "C:\\new"])
def test_other_text_is_left_alone(text: str) -> None:
    assert safe_text(text) == text


def test_lines_stay_lines() -> None:
    assert safe_lines("a\tb\r\nc\rd\x1b") == ["a   b", "c\\rd\\x1b"]


def test_shorten() -> None:
    assert shorten_text("abcdef", 6) == "abcdef"
    assert shorten_text("abcdefg", 6) == "abc..."


@given(st.text(st.characters(codec="utf-8")))
def test_json_on_a_terminal_is_still_the_same_json(text: str) -> None:
    stream = io.StringIO()
    json.dump({text: text}, TerminalSafe(stream), ensure_ascii=False)
    written = stream.getvalue()
    assert json.loads(written) == {text: text}
    assert not any(map(is_obeyed, written))


def test_a_csv_on_a_terminal_keeps_its_lines() -> None:
    stream = io.StringIO(newline="")
    TerminalSafe(stream).write("a\tb\r\nc\rd\ne\x1b\r\n")
    assert stream.getvalue() == "a\tb\r\nc\\rd\ne\\u001b\r\n"


def test_a_plain_table_is_aligned() -> None:
    grid = Grid(
        (Column("A"), Column("N", right=True), Column("LAST")),
        [("漢字", 5, "x"), ("b", 12, ""), ("c", 1, "\n")],
    )
    assert list(plain_lines(grid)) == ["A      N  LAST", "漢字   5  x", "b     12", "c      1  \\n"]


def test_a_plain_table_cuts_only_very_long_cells() -> None:
    lines = list(plain_lines(Grid((Column("A", least=3),), [("x" * 110,), ("y" * 1000,)])))
    assert lines[1] == "x" * 110
    assert lines[2] == "y" * 117 + "..."


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (100, {0: 10, 1: 30, 2: 8}),
        (40, {0: 10, 1: 18, 2: 8}),
        (27, {0: 10, 1: 5, 2: 8}),
        (26, {0: 10, 1: 14}),
        (17, {0: 10, 1: 5}),
        (5, {0: 10, 1: 5}),
    ],
)
def test_columns_are_cut_then_left_out(width: int, expected: dict[int, int]) -> None:
    columns = (Column("KEEP"), Column("CUT", least=5), Column("DROP", drop=1))
    assert fit_widths(columns, [("x" * 10, "y" * 30, "z" * 8)], width) == expected


def test_the_place_of_a_finding() -> None:
    assert resource_with_line({"resource": "a.py", "location": {"start_line": 3}}) == "a.py:3"
    assert resource_with_line({"resource": "a.py", "location": None}) == "a.py"
    assert resource_with_line({"resource": "", "location": {}}) == "(project)"


def test_changes_of_any_shape_can_be_shown() -> None:
    changes = {
        "status": ["open", "resolved"],
        "cwe_ids": [[], [79]],
        "title": "gone",
        "evidence": {"a": 1},
        "long": ["x" * 99, ""],
    }
    event = Event("id", "2026-01-01T00:00:00.5Z", "ana", "change", changes)
    (row,) = history_grid([event]).rows
    shown = str(row[3])
    assert "status: open -> resolved; cwe_ids: [] -> [79]; title: gone; evidence: {" in shown
    assert "x" * 57 + "... -> " in shown


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31", "2026-01-31T00:00:00Z"),
        ("2026-01-31T01:02:03Z", "2026-01-31T01:02:03Z"),
        ("2026-01-31T01:02:03.500Z", "2026-01-31T01:02:03.500000Z"),
    ],
)
def test_moments(text: str, time: str) -> None:
    assert parse_time("--from", text) == time


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-02-30", "2026-01-31T01:02:03", "٢٠٢٦-01-31", "2026-01-31\n"]
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(CommandError, match="--from: must be a date"):
        parse_time("--from", text)


def test_ages() -> None:
    assert parse_age("--older-than", "24h")[:13] == parse_age("--older-than", "1d")[:13]
    assert parse_age("--older-than", "2w")[:13] == parse_age("--older-than", "14d")[:13]
    assert parse_age("--older-than", "3d") > parse_age("--older-than", "4d")


def test_split() -> None:
    assert split(["a,b", " c ", ",", ""]) == ("a", "b", "c")
    assert split(None) == ()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["list", "--url", "x"], ["--url", "x", "list"]),
        (["list", "--url=x", "-q", "--all"], ["--url=x", "-q", "list", "--all"]),
        (["--debug", "list"], ["--debug", "list"]),
        (["list", "--", "--url", "x"], ["list", "--", "--url", "x"]),
        (["list", "--url"], ["--url"]),
    ],
)
def test_global_options_come_first(args: list[str], expected: list[str]) -> None:
    assert global_options_first(args) == expected


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///findings.db", "findings.db"),
        ("sqlite:////var/lib/x.db?synchronous=NORMAL", "/var/lib/x.db"),
        ("SQLite+pysqlite:///a%20b.db", "a b.db"),
        ("file:///srv/find%20ings", "/srv/find ings"),
        ("sqlite://", None),
        ("sqlite:///", None),
        ("sqlite:///:memory:", None),
        ("memory:", None),
        ("postgresql://user@host/db", None),
    ],
)
def test_the_file_of_a_url(url: str, path: str | None) -> None:
    found = storage_path(url)
    assert (None if found is None else found.as_posix()) == path


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageError("x"), 1),
        (StorageValidationError("x"), 1),
        (StorageIntegrityError("x"), 1),
        (StorageUnavailableError("x"), 3),
        (SchemaVersionError("x"), 4),
        (FindingNotFoundError("x"), 5),
        (StorageConflictError("x"), 6),
        (OSError(28, "No space left on device"), 1),
        (MemoryError(), 1),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_every_error_has_a_code_and_a_message(error: Exception, code: int) -> None:
    failure = explain_error(error)
    assert failure.code == ExitCode(code)
    assert str(failure)


def test_hints_say_what_to_do() -> None:
    assert "later" in explain_error(StorageUnavailableError("x", retryable=True)).hint
    assert explain_error(StorageUnavailableError("x")).hint == ""
    assert "--debug" in explain_error(ZeroDivisionError("x")).hint
    assert str(explain_error(FileNotFoundError(2, "No such file", "a.txt"))) == "a.txt: No such file"
    own = CommandError("x", hint="y", code=ExitCode.CONFLICT)
    assert explain_error(own) is own
