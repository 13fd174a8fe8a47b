"""Backup and restore against what the databases bring along: SQLite's online backup, pg_dump and pg_restore.

Called by ``scripts/benchmark backup``. Each piece of work is a process of its own, so that its memory can be told. MB/s are
those of one text for all: the lines of our backup before compression.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from findings_orm import open_storage
from findings_orm.backup import verify_backup
from findings_orm.errors import StorageIntegrityError

ROOT = pathlib.Path(__file__).resolve().parent.parent
OPEN = "import sys; from findings_orm import open_storage; from findings_orm.backup import *; "
BACKUP = OPEN + "write_backup(open_storage(sys.argv[1]), sys.argv[2], verify=False)"
VERIFY = OPEN + "verify_backup(sys.argv[2])"
RESTORE = OPEN + "s = open_storage(sys.argv[1]); restore_backup(s, sys.argv[2]); s.close()"
COPY = OPEN + "copy_store(open_storage(sys.argv[1]), open_storage(sys.argv[2]))"
ONLINE = "import sqlite3, sys; a, b = (sqlite3.connect(p) for p in sys.argv[1:3]); a.backup(b); b.close(); a.close()"


class Measured(NamedTuple):
    """What a process took."""

    seconds: float
    peak_mb: float


LAUNCH = (
    "import os, sys, time; start = time.monotonic(); pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ); "
    "_, status, usage = os.wait4(pid, 0); print(status, time.monotonic() - start, usage.ru_maxrss)"
)
"""Starts a command from a small process: what a process had counts for the memory of those that it starts."""


def measured(command: list[Any], env: dict[str, str] | None = None) -> Measured:
    """Run a command and return how long it took and the most memory that it had."""
    words = [sys.executable, "-S", "-c", LAUNCH, *map(str, command)]
    done = subprocess.run(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    status, seconds, kilobytes = done.stdout.split()
    if int(status):
        raise SystemExit(f"failed: {command}")
    return Measured(float(seconds), int(kilobytes) / 1024)


def python(code: str, *arguments: object) -> Measured:
    """Run code of ours."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return measured(
        [sys.executable, "-c", code, *arguments], {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    )


class Figures:
    """Collects what was measured, and prints medians."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Measured]] = {}
        self.sizes: dict[str, int] = {}
        self.text = 0

    def add(self, name: str, found: Measured, file: pathlib.Path | None = None) -> None:
        """Take one measurement, and the size of the file that it made."""
        self.rows.setdefault(name, []).append(found)
        if file is not None:
            self.sizes[name] = file.stat().st_size
        print(f"  {name}: {found.seconds:.1f} s", file=sys.stderr)

    def results(self) -> list[dict[str, Any]]:
        """Return a row for each piece of work."""
        return [
            {
                "work": name,
                "seconds": (seconds := statistics.median(one.seconds for one in found)),
                "mb_per_second": self.text / 1e6 / seconds,
                "peak_mb": max(one.peak_mb for one in found),
                "file_mb": self.sizes.get(name, 0) / 1e6,
            }
            for name, found in self.rows.items()
        ]

    def show(self) -> None:
        """Print a table."""
        print(f"{'work':40} {'seconds':>8} {'MB/s':>7} {'peak MB':>8} {'file MB':>8}")
        for row in self.results():
            print(
                f"{row['work']:40} {row['seconds']:8.1f} {row['mb_per_second']:7.0f} {row['peak_mb']:8.0f} "
                f"{row['file_mb']:8.1f}"
            )
        print(f"MB/s: of {self.text / 1e6:,.0f} MB of text")


def run(arguments: argparse.Namespace, findings: Callable[[int], Iterable[dict[str, Any]]]) -> Figures:
    """Measure all, round by round."""
    sys.path.insert(0, str(ROOT / "tests"))
    from servers import embedded_binaries, postgresql_server

    figures = Figures()
    settings = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "shared_buffers": "128MB",
    }
    with (
        tempfile.TemporaryDirectory() as name,
        postgresql_server(embedded_binaries(), **settings) as server,
    ):
        folder = pathlib.Path(name)
        lite = f"sqlite:///{folder}/source.db"
        template, there = server.create_database(), server.create_database()
        for database in (template, there):
            open_storage(server.url(database), migrate=True).close()
        with open_storage(lite) as store:
            store.ingest("benchmark", findings(arguments.count))
        python(COPY, lite, server.url(there))
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
            _sqlite(figures, folder, lite, number)
            _postgresql(figures, folder, server, there, template)
    return figures


def _sqlite(figures: Figures, folder: pathlib.Path, url: str, number: int) -> None:
    path, copy, target = folder / "a.jsonl.zst", folder / f"copy{number}.db", folder / f"restored{number}.db"
    figures.add("SQLite: backup", python(BACKUP, url, path), path)
    figures.text = figures.text or _text_of(path)
    figures.add("verify", python(VERIFY, url, path))
    open_storage(f"sqlite:///{target}").close()
    figures.add("SQLite: restore (verify, then write)", python(RESTORE, f"sqlite:///{target}", path))
    figures.add("SQLite: its own .backup", python(ONLINE, folder / "source.db", copy), copy)
    for each in (copy, target):
        each.unlink()


def _text_of(path: pathlib.Path) -> int:
    from findings_orm.backup.container import FrameReader

    with path.open("rb") as stream:
        text = sum(
            len(chunk) for frame in FrameReader(stream, StorageIntegrityError).frames() for chunk in frame
        )
    verify_backup(path)
    return text


def _postgresql(figures: Figures, folder: pathlib.Path, server: Any, there: str, template: str) -> None:
    path, dump = folder / "b.jsonl.zst", folder / "b.dump"
    binaries, env = server._started.binaries, server._started.options["env"]
    figures.add("PostgreSQL: backup", python(BACKUP, server.url(there), path), path)
    target = server.create_database(template)
    figures.add("PostgreSQL: restore (verify, then write)", python(RESTORE, server.url(target), path))
    server.drop_database(target)
    for name, compression in (("none", ["--compress=0"]), ("gzip", [])):
        command = [binaries / "pg_dump", "-Fc", *compression, "-f", dump, server.url(there)]
        figures.add(f"PostgreSQL: pg_dump -Fc, {name}", measured(command, env), dump)
    target = server.create_database()
    restore = [binaries / "pg_restore", "-d", server.url(target), "--single-transaction", dump]
    figures.add("PostgreSQL: pg_restore", measured(restore, env))
    server.drop_database(target)
