"""Refused documents as JSON with tags: what such JSON must be. That values come back equal is part of the suite."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from findings_orm import StorageIntegrityError, StorageValidationError, open_storage
from findings_orm.imports.originals import LostValue, tag_original, untag_original
from findings_orm.testing.samples import PROJECT, broken


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"a": [{"$int": "0xg"}]}, r"a\[0\]: \$int: is not what this tag holds"),
        ({"$float": "1.0"}, r"document: \$float: is not"),
        ({"$text": [1]}, r"\$text: is not"),
        ({"$bytes": "?"}, r"\$bytes: is not"),
        ({"$decimal": "x"}, r"\$decimal: is not"),
        ({"$uuid": 1}, r"\$uuid: is not"),
        ({"$datetime": ["2024-01-01T00:00:00", None]}, r"\$datetime: is not"),
        ({"$timedelta": [10**10, 0, 0]}, r"\$timedelta: is not"),
        ({"$set": [[]]}, r"\$set: must be a list"),
        ({"$tuple": "ab"}, r"\$tuple: must be a list"),
        ({"$object": [["a"]]}, r"\$object: must be a list"),
        ({"$part": 0}, r"\$part: is no part that came before"),
        ({"$more": 1}, r"\$more: is no tag that this release knows"),
    ],
)
def test_a_wrong_tag_is_refused_with_its_place(form: Any, message: str) -> None:
    with pytest.raises(StorageValidationError, match=message):
        untag_original({"$tagged": form})


def test_json_that_nests_too_deep_inside_tags_is_refused() -> None:
    form: Any = 1
    for _ in range(sys.getrecursionlimit()):
        form = [form]
    for wrong in ({"$tagged": form}, {"$tagged": 1, "$parts": 7}):
        with pytest.raises(StorageValidationError, match=r"\$parts: must be a list of parts"):
            untag_original(wrong)


def test_a_zone_that_this_system_does_not_know_is_not_guessed() -> None:
    found = untag_original({"$tagged": {"$datetime": ["2024-01-01T00:00:00", "Mars/Olympus", 0]}})
    assert found == LostValue("datetime.datetime", "2024-01-01T00:00:00[Mars/Olympus]")


def test_only_what_json_lacks_is_tagged() -> None:
    for plain in ({"a": [1, 1.0, "\x00\ud800", None]}, {"$bytes": "x"}, {"a": {"$tagged": 1}}, 10**639):
        assert tag_original(plain) == plain
    assert tag_original({"a": 10**640}) == {"$tagged": {"a": {"$int": hex(10**640)}}}


@pytest.mark.parametrize("limit", [640, 0])
def test_the_limit_of_digits_that_a_process_has_does_not_matter(limit: int) -> None:
    before = sys.get_int_max_str_digits()
    given = {"n": [10**639, 10**640, 10**5000]}
    sys.set_int_max_str_digits(limit)
    try:
        text = json.dumps(tag_original(given))
        sys.set_int_max_str_digits(640)
        assert untag_original(json.loads(text)) == given
    finally:
        sys.set_int_max_str_digits(before)


def test_a_damaged_original_is_named(tmp_path: Path) -> None:
    with open_storage(f"sqlite:///{tmp_path / 'f.db'}") as store:
        store.ingest(PROJECT, [broken(x=b"y")], on_invalid="quarantine")
        name = store.rejected_originals(PROJECT)[0].rejected_id
        with closing(sqlite3.connect(tmp_path / "f.db")) as database, database:
            database.execute("UPDATE finding_rejected SET original = replace(original, '$bytes', '$more')")
        with pytest.raises(StorageIntegrityError, match=f"{name} is damaged: x: .more: is no tag"):
            store.rejected_originals(PROJECT)
