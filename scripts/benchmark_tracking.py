"""How well findings are recognised from release to release, by the truth that a line diff of the sources gives.

For each series of releases: pip downloads them, a scanner reads each, and one store imports one report after the other. A
finding of a release and one of the next are really the same where the diff maps the line of the one to that of the other
(renamed files by similarity) and the same rule says the same there. Counted is how many of these keep their id, and how many
get that of another one; then the same of those that somebody decided about, every tenth of what is new in a release.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from findings_orm import FindingDocument, open_storage
from findings_orm.formats import open_report

SERIES = {
    "paramiko": [
        "2.0.0",
        "2.1.0",
        "2.2.0",
        "2.4.0",
        "2.6.0",
        "2.7.0",
        "2.9.0",
        "2.11.0",
        "2.12.0",
        "3.0.0",
        "3.2.0",
        "3.4.0",
        "3.5.0",
    ],
    "celery": ["4.0.0", "4.1.0", "4.2.0", "4.3.0", "4.4.0", "5.0.0", "5.1.0", "5.2.0", "5.3.0"],
    "pip": ["19.0", "19.3", "20.0", "20.2", "20.3", "21.0", "21.2", "22.0", "22.2", "23.0", "23.2", "24.0"],
    "django": ["2.2", "3.0", "3.1", "3.2", "4.0", "4.1", "4.2"],
}
SCANNERS = {
    "ruff": ["ruff", "check", "--isolated", "--exit-zero", "--no-cache", "--output-format", "sarif", "."],
    "bandit": ["bandit", "--recursive", ".", "--format", "sarif", "--exit-zero", "--quiet"],
}
PROJECT = "tracking"


class Spot(NamedTuple):
    """Where a finding of a release stands; of several that say the same there, which."""

    path: str
    line: int
    rule: str
    message: str
    number: int


class Counts:
    """What became of the findings that are really the same."""

    def __init__(self) -> None:
        self.same = self.kept = self.swapped = self.decided = self.decided_kept = self.misplaced = 0

    def row(self) -> dict[str, float]:
        """Return the shares, in %."""
        decided = max(1, self.decided)
        return {
            "same": self.same,
            "kept": 100 * self.kept / max(1, self.same),
            "given to another": 100 * self.swapped / max(1, self.same),
            "decided": self.decided,
            "decisions kept": 100 * self.decided_kept / decided,
            "decisions on another": 100 * self.misplaced / decided,
        }


def fetch_release(name: str, version: str, folder: pathlib.Path) -> pathlib.Path:
    """Download a wheel, and return the folder with its files."""
    target = folder / name / version
    if not target.exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
        ]
        with tempfile.TemporaryDirectory() as wheels:
            subprocess.run([*command, wheels, f"{name}=={version}"], check=True, stderr=subprocess.DEVNULL)
            (wheel,) = pathlib.Path(wheels).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
        for waste in [*target.glob("*.dist-info/*"), *target.glob("pip/_vendor/**/*.py")]:
            waste.unlink()
    return target


def scan_release(scanner: str, folder: pathlib.Path) -> dict[str, Any]:
    """Return the SARIF report of a scanner, with paths that are relative to the folder."""
    cached = folder.with_suffix(f".{scanner}.sarif")
    if not cached.exists():
        ran = subprocess.run(SCANNERS[scanner], cwd=folder, check=True, capture_output=True, text=True)
        cached.write_text(
            re.sub(f"(file://)?{re.escape(str(folder.resolve()))}/", "", ran.stdout).replace('"./', '"')
        )
    report: dict[str, Any] = json.loads(cached.read_text())
    return report


def map_lines(old: pathlib.Path, new: pathlib.Path) -> dict[str, tuple[str, list[tuple[int, int, int]]]]:
    """Return for each changed file of a release its name in the next and its hunks (first line, lines before, lines now)."""
    command = [
        "git",
        "diff",
        "--no-index",
        "--unified=0",
        "--find-renames=50%",
        "--no-color",
        str(old),
        str(new),
    ]
    text = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace").stdout
    files: dict[str, tuple[str, list[tuple[int, int, int]]]] = {}
    for part in re.split(r"^diff --git ", text, flags=re.MULTILINE)[1:]:
        names = re.search(r"^rename from (.*)\nrename to (.*)$", part, re.MULTILINE)
        if names is None:
            names = re.search(r"^--- a(/.*)\n\+\+\+ b(/.*)$", part, re.MULTILINE)
        if names is None:
            continue
        before, now = ("/" + name.lstrip("/") for name in names.groups())
        hunks = re.findall(r"^@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@", part, re.MULTILINE)
        files[before.removeprefix(f"{old}/")] = (
            now.removeprefix(f"{new}/"),
            [(int(first), int(lines or 1), int(added or 1)) for first, lines, added in hunks],
        )
    return files


def line_now(hunks: list[tuple[int, int, int]], line: int) -> int | None:
    """Return where a line is after a diff, None where it was changed."""
    shift = 0
    for first, lines, added in hunks:
        if line < first + (lines == 0):
            break
        if line < first + lines:
            return None
        shift += added - lines
    return line + shift


def spots_by_id(documents: Iterable[FindingDocument]) -> dict[Spot, str]:
    """Return the ids of findings by where they stand."""
    groups: defaultdict[tuple[str, int, str, str], list[tuple[int, str]]] = defaultdict(list)
    for document in documents:
        place: Any = document["location"] or {}
        message = re.sub(r"\d+", "0", str(document["evidence"].get("message", document["title"])))
        key = (place.get("path", ""), place.get("start_line", 0), document["rule_id"] or "", message)
        groups[key].append((place.get("start_column", 0), document["id"]))
    return {
        Spot(*key, number): one
        for key, found in groups.items()
        for number, (_, one) in enumerate(sorted(found))
    }


def follow_series(
    name: str, versions: list[str], scanner: str, folder: pathlib.Path, *, shuffled: bool
) -> Counts:
    """Import the releases of a series, and count what became of what is really the same."""
    counts, random_order = Counts(), random.Random(1)
    roots = [fetch_release(name, version, folder) for version in versions]
    with open_storage("memory:") as store:
        spots: dict[Spot, str] = {}
        known: set[str] = set()
        for number, root in enumerate(roots):
            report = scan_release(scanner, root)
            if shuffled:
                random_order.shuffle(report["runs"][0]["results"])
            with tempfile.NamedTemporaryFile("w", suffix=".sarif") as file:
                json.dump(report, file)
                file.flush()
                with open_report(file.name) as scan:
                    run = store.ingest(PROJECT, scan, close_missing=True).run_id
            seen = (
                one
                for one in store.iter_findings(PROJECT)
                if store.sighting(PROJECT, one["id"]).last_run == run
            )
            now = spots_by_id(seen)
            if number:
                count_step(counts, store, map_lines(roots[number - 1], root), spots, now)
            for one in sorted(set(now.values()) - known)[::10]:
                store.set_status(PROJECT, one, "false_positive", actor="benchmark")
            known |= {*now.values()}
            spots = now
    return counts


def count_step(counts: Counts, store: Any, lines: Any, before: dict[Spot, str], now: dict[Spot, str]) -> None:
    """Count one step from a release to the next."""
    origin = {one: spot for spot, one in before.items()}
    for spot, old in before.items():
        path, hunks = lines.get(spot.path, (spot.path, []))
        line = line_now(hunks, spot.line)
        new = now.get(spot._replace(path=path, line=line)) if line is not None else None
        decided = store.get_finding(PROJECT, old)["status"] == "false_positive"
        if new is None:
            continue
        counts.same += 1
        counts.kept += new == old
        swapped = new != old and new in origin
        counts.swapped += swapped
        counts.decided += decided
        counts.decided_kept += decided and new == old
        counts.misplaced += swapped and store.get_finding(PROJECT, new)["status"] == "false_positive"


def run(arguments: argparse.Namespace) -> None:
    """Print a row for each series and scanner."""
    folder = pathlib.Path(arguments.folder).resolve()
    for name in arguments.series or list(SERIES):
        for scanner in SCANNERS:
            counts = follow_series(name, SERIES[name], scanner, folder, shuffled=arguments.shuffled)
            row = {"series": name, "scanner": scanner, "releases": len(SERIES[name]), **counts.row()}
            print(
                json.dumps(row) if arguments.json else "  ".join(map(_format_cell, row.items())), flush=True
            )


def _format_cell(cell: tuple[str, object]) -> str:
    name, value = cell
    return f"{name} {value:.2f} %" if isinstance(value, float) else f"{name} {value}"
