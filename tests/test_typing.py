"""What type checkers say of an application: nothing of a right one, and each mistake of one with sixteen."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Required, get_args, get_origin, get_type_hints

import pytest

from findings_orm import FileStorageAdapter, PostgreSQLStorageAdapter, Severity, SQLiteStorageAdapter, Status
from findings_orm.finding import (
    OBJECT_FIELDS,
    Finding,
    FindingDocument,
    FindingInput,
    SeverityName,
    StatusName,
)
from findings_orm.freetext import RELEVANCE
from findings_orm.orm.postgresql_engine import Options
from findings_orm.query import SORTS, SortKey
from findings_orm.registry import StorageOptions

ROOT = Path(__file__).parent.parent
RIGHT, MISTAKEN = (ROOT / "tests" / "assets" / f"{kind}_application.py" for kind in ("right", "mistaken"))
MISTAKES = 16

Faults = dict[tuple[str, int], set[str]]
"""What a checker says: file and line to the names of the faults there."""


def run_checker(*command: str) -> str:
    """Return what a checker writes about both applications."""
    ran = subprocess.run(
        [sys.executable, "-m", *command, str(RIGHT), str(MISTAKEN)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    return ran.stdout


def run_mypy() -> Faults:
    faults: Faults = {}
    for path, line, code in re.findall(
        r"^(.+?):(\d+): error: .*\[([a-z-]+)\]$", run_checker("mypy"), re.MULTILINE
    ):
        faults.setdefault((Path(path).name, int(line)), set()).add(code)
    return faults


def run_pyright() -> Faults:
    said = json.loads(run_checker("pyright", "--outputjson", "--pythonpath", sys.executable))
    faults: Faults = {}
    for one in said["generalDiagnostics"]:
        place = Path(one["file"]).name, one["range"]["start"]["line"] + 1
        faults.setdefault(place, set()).add(one["rule"])
    return faults


def planted_mistakes(checker: str) -> Faults:
    lines = enumerate(MISTAKEN.read_text("utf-8").splitlines(), 2)
    found = ((number, re.search(rf"# expected: .*\b{checker} ([\w-]+)", line)) for number, line in lines)
    return {(MISTAKEN.name, number): {match[1]} for number, match in found if match}


@pytest.mark.no_cover
@pytest.mark.slow
@pytest.mark.parametrize("run", [run_mypy, run_pyright])
def test_type_checkers_find_each_mistake_and_nothing_else(run: Callable[[], Faults]) -> None:
    planted = planted_mistakes(run.__name__.removeprefix("run_"))
    assert len(planted) == MISTAKES
    assert run() == planted


def test_typed_documents_have_the_fields_of_the_model() -> None:
    """What is in evidence has a shape that only its reader knows: to type checkers it may be anything."""
    hints = get_type_hints(Finding)
    wanted = {name: hints[name] for name in Finding.model_fields}
    wanted |= dict.fromkeys(OBJECT_FIELDS, dict[str, Any])
    for typed in (FindingDocument, FindingInput):
        assert list(get_type_hints(typed).items()) == list(wanted.items())
    needed = {
        name
        for name, hint in get_type_hints(FindingInput, include_extras=True).items()
        if get_origin(hint) is Required
    }
    assert needed == {"detector_id", "title", "severity"}
    assert (FindingInput.__total__, FindingDocument.__total__) == (False, True)


def test_words_for_type_checkers_are_those_that_there_are() -> None:
    assert get_args(SeverityName) == tuple(Severity)
    assert get_args(StatusName) == tuple(Status)
    assert set(get_args(SortKey)) == {sign + name for name in (*SORTS, RELEVANCE) for sign in ("", "-")}


def test_options_for_type_checkers_are_those_of_the_stores() -> None:
    kinds: dict[str, set[object]] = {}
    adapters = (SQLiteStorageAdapter, FileStorageAdapter, PostgreSQLStorageAdapter)
    for made in (*(adapter.__init__ for adapter in adapters), Options.__init__):
        hints = get_type_hints(made)
        for name, one in inspect.signature(made).parameters.items():
            if one.kind is one.KEYWORD_ONLY or (made is Options.__init__ and name != "self"):
                kinds.setdefault(name, set()).add(hints[name])
    del kinds["disk"]  # of tests
    options = get_type_hints(StorageOptions)
    assert options == {name: reduce(or_, some) for name, some in kinds.items()}
