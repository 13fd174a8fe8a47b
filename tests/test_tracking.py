"""A tree of files that is edited at random: what is still there keeps its id, and decisions never move."""

from __future__ import annotations

import itertools
import os
import random
from typing import Any, NamedTuple

import pytest

from findings_orm import FindingStore, open_storage
from findings_orm.testing.samples import PROJECT

SEEDS = 400 if os.environ.get("FINDINGS_TEST_SCALE") == "full" else 12


class Fault(NamedTuple):
    """What is wrong with a line, and what a scanner says of it."""

    number: int
    rule: str
    message: str
    code: str


Tree = dict[str, list[Fault | None]]


class Editor:
    """Edits a tree as people do: lines are added, taken away and moved, files get other names and folders."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._numbers = itertools.count()
        self.tree: Tree = {f"src/f{n}.py": [self._write_line() for _ in range(40)] for n in range(4)}

    def _write_line(self) -> Fault | None:
        if self.random.random() > 0.25:
            return None
        number = next(self._numbers)
        name = "".join(chr(97 + int(digit)) for digit in str(number))
        return Fault(number, "R1", f"the name {name} is bad", f"{name} = 1")

    def edit(self) -> None:
        """Change something."""
        path = self.random.choice(list(self.tree))
        lines = self.tree[path]
        start = self.random.randrange(len(lines) - 8) if len(lines) > 8 else 0
        place = self.random.randint(0, len(lines))
        kind = self.random.choice(["add", "add faults", "remove", "move", "rename", "move folder"])
        if kind == "add":
            lines[place:place] = [None] * self.random.randint(1, 5)
        elif kind == "add faults":
            lines[place:place] = [self._write_line() for _ in range(3)]
        elif kind == "remove":
            del lines[start : start + self.random.randint(1, 3)]
        elif kind == "move":
            block = lines[start : start + 4]
            del lines[start : start + 4]
            place = self.random.randint(0, len(lines))
            lines[place:place] = block
        else:
            folder, _, name = path.rpartition("/")
            new = f"{folder}/{name[:-3]}_.py" if kind == "rename" else f"{folder}/lib/{name}"
            self.tree[new] = self.tree.pop(path)

    def report(self, *, with_code: bool) -> list[dict[str, Any]]:
        """Return what a scanner says, in any order."""
        found = [
            {
                "detector_id": "scan.demo",
                "rule_id": fault.rule,
                "title": fault.rule,
                "severity": "low",
                "resource": path,
                "location": {
                    "path": path,
                    "start_line": line,
                    **({"snippet": fault.code} if with_code else {}),
                },
                "evidence": {"message": fault.message},
            }
            for path, lines in self.tree.items()
            for line, fault in enumerate(lines, 1)
            if fault
        ]
        self.random.shuffle(found)
        return found


def ids_by_message(store: FindingStore, run_id: str) -> dict[str, str]:
    seen = (
        one for one in store.list_findings(PROJECT) if store.sighting(PROJECT, one["id"]).last_run == run_id
    )
    return {str(one["evidence"]["message"]): one["id"] for one in seen}


@pytest.mark.parametrize("with_code", [False, True], ids=["bare", "code"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_still_there_is_itself(seed: int, with_code: bool) -> None:
    editor = Editor(seed)
    known: dict[str, str] = {}
    decided: set[str] = set()
    with open_storage("memory:") as store:
        for _ in range(6):
            run = store.ingest(PROJECT, editor.report(with_code=with_code), close_missing=True)
            now = ids_by_message(store, run.run_id)
            assert {message: now[message] for message in known if message in now} == {
                message: one for message, one in known.items() if message in now
            }
            assert {
                message for message, one in now.items() if store.get_finding(PROJECT, one)["status"] != "open"
            } == decided & now.keys()
            for message in sorted(now.keys() - known.keys())[::5]:
                store.set_status(PROJECT, now[message], "false_positive", actor="ann")
                decided.add(message)
            known.update(now)
            for _ in range(editor.random.randint(1, 3)):
                editor.edit()
