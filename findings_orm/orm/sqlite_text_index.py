"""The text index of SQLite: FTS5 over trigrams of folded text, in tables beside `findings`.

Triggers give each finding a number as it comes or changes, and the store indexes what has a number above the last one
that was indexed, before it commits. What others wrote waits until then, and a search looks through it: so every answer is
exact whoever writes. Triggers alone could not do it: SQLite folds other letters than Python, and triggers must not call
functions of applications (``trusted_schema``).

The upper half of a number is that of its project, so that a search reads one project's part of each list. Numbers are never
used again, so what was removed needs no removal from the lists; they become shorter when the index is made anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cache
from typing import Any

from pydantic_core import from_json

from findings_orm.freetext import search_text
from findings_orm.orm.mapping import Row
from findings_orm.orm.queries import Clause

Run = Callable[[str, Sequence[object]], list[Row]]
RunMany = Callable[[str, Sequence[Row]], None]

BATCH = 1_000
MOST_TERMS = 24
"""How many trigrams a search looks up; words have more only when they are very many, and the rest is checked anyway."""

_SEARCHED = ("title", "resource", "detector_id", "rule_id", "location")
_CHANGED = " OR ".join(f"old.{name} IS NOT new.{name}" for name in ("project_id", "id", *_SEARCHED))
_OWN = "(SELECT number FROM finding_text_projects WHERE project_id = old.project_id)"
_OF_PROJECT = f"docid BETWEEN {_OWN} << 32 AND ({_OWN} + 1 << 32) - 1"
_FORGET = f"DELETE FROM finding_text_rows WHERE finding_id = old.id AND {_OF_PROJECT}"  # noqa: S608  # constants
_NUMBER = (
    "UPDATE finding_text_projects SET latest = latest + 1 WHERE project_id = new.project_id; "
    "INSERT INTO finding_text_rows SELECT (number << 32) + latest, new.id FROM finding_text_projects "
    "WHERE project_id = new.project_id"
)
TABLES = {
    "finding_text": (
        "CREATE VIRTUAL TABLE finding_text USING fts5("
        "folded, content='', tokenize='trigram case_sensitive 1', detail=none, columnsize=0)"
    ),
    "finding_text_projects": (
        "CREATE TABLE finding_text_projects (number INTEGER PRIMARY KEY AUTOINCREMENT, project_id TEXT NOT NULL UNIQUE, "
        "latest INTEGER NOT NULL DEFAULT 0, indexed INTEGER NOT NULL DEFAULT 0)"
    ),
    "finding_text_rows": (
        "CREATE TABLE finding_text_rows (docid INTEGER PRIMARY KEY, finding_id TEXT NOT NULL)"
    ),
}
TRIGGERS = {
    "finding_text_new_project": (
        "AFTER INSERT ON finding_projects BEGIN INSERT INTO finding_text_projects (project_id) VALUES (new.project_id); END"
    ),
    "finding_text_old_project": (
        f"BEFORE DELETE ON finding_projects BEGIN DELETE FROM finding_text_rows WHERE {_OF_PROJECT}; "  # noqa: S608  # constants
        "DELETE FROM finding_text_projects WHERE project_id = old.project_id; END"
    ),
    "finding_text_new": f"AFTER INSERT ON findings BEGIN {_NUMBER}; END",
    "finding_text_changed": (
        f"AFTER UPDATE OF project_id, id, {', '.join(_SEARCHED)} ON findings WHEN {_CHANGED} "
        f"BEGIN {_FORGET}; {_NUMBER}; END"
    ),
    "finding_text_old": f"AFTER DELETE ON findings BEGIN {_FORGET}; END",
}
_FIND = (
    "SELECT t.finding_id FROM finding_text CROSS JOIN finding_text_rows t ON t.docid = finding_text.rowid "
    "WHERE finding_text MATCH ? AND finding_text.rowid BETWEEN ? AND ? "
    "UNION ALL SELECT finding_id FROM finding_text_rows WHERE docid BETWEEN ? AND ?"
)


@cache
def is_supported() -> bool:
    """Return whether this process's SQLite has FTS5 with trigrams (3.34 or newer)."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(TABLES["finding_text"])
        except sqlite3.OperationalError:
            return False
    return True


def count_parts(run: Run) -> int:
    """Return how many of the tables and triggers of the index a database has."""
    names = (*TABLES, *TRIGGERS)
    marks = ", ".join("?" * len(names))
    return int(run(f"SELECT count(*) FROM sqlite_master WHERE name IN ({marks})", names)[0][0])  # noqa: S608


def has_index(run: Run) -> bool:
    """Return whether a database has the index, whole."""
    return count_parts(run) == len(TABLES) + len(TRIGGERS)


def stop_watching_columns(run: Run) -> None:
    """Drop the trigger that names columns of findings: SQLite drops none of those."""
    run(f"DROP TRIGGER IF EXISTS {_BY_COLUMNS}", ())


def watch_columns(run: Run) -> bool:
    """Make that trigger again; return whether the index is whole then."""
    run(f"CREATE TRIGGER {_BY_COLUMNS} {TRIGGERS[_BY_COLUMNS]}", ())
    return has_index(run)


_BY_COLUMNS = "finding_text_changed"


def make_index(run: Run) -> None:
    """Make the empty index, and give all findings their numbers."""
    for sql in TABLES.values():
        run(sql, ())
    run("INSERT INTO finding_text (finding_text, rank) VALUES ('automerge', 8)", ())
    run("CREATE INDEX ix_finding_text_rows_finding_id ON finding_text_rows (finding_id)", ())
    for name, body in TRIGGERS.items():
        run(f"CREATE TRIGGER {name} {body}", ())
    run("INSERT INTO finding_text_projects (project_id) SELECT project_id FROM finding_projects", ())
    run(
        "INSERT INTO finding_text_rows SELECT (p.number << 32) + row_number() OVER "
        "(PARTITION BY f.project_id ORDER BY f.id), f.id FROM findings f JOIN finding_text_projects p USING (project_id)",
        (),
    )
    run(
        "UPDATE finding_text_projects SET latest = (SELECT count(*) FROM finding_text_rows "
        "WHERE docid BETWEEN number << 32 AND (number + 1 << 32) - 1)",
        (),
    )


def drop_index(run: Run) -> None:
    """Drop what there is of the index."""
    for name in TRIGGERS:
        run(f"DROP TRIGGER IF EXISTS {name}", ())
    for name in TABLES:
        run(f"DROP TABLE IF EXISTS {name}", ())


def waiting(run: Run) -> list[str]:
    """Return the projects that have findings to be indexed."""
    rows = run("SELECT project_id FROM finding_text_projects WHERE indexed < latest", ())
    return [row[0] for row in rows]


def index_waiting(run: Run, run_many: RunMany, project_id: str, *, spare: int = 0) -> Iterator[int]:
    """Index the findings of a project that wait for it, if they are more than `spare`, in batches; yield how many numbers
    each went through."""
    known = run(
        "SELECT number << 32, indexed, latest FROM finding_text_projects WHERE project_id = ?", (project_id,)
    )
    base, indexed, latest = known[0] if known else (0, 0, 0)
    columns = ", ".join(f"f.{name}" for name in _SEARCHED)
    sql = (
        f"SELECT t.docid, {columns} FROM finding_text_rows t CROSS JOIN findings f ON f.project_id = ? "  # noqa: S608
        "AND f.id = t.finding_id WHERE t.docid BETWEEN ? AND ? ORDER BY t.docid"
    )
    while latest - indexed > spare:
        until = min(indexed + BATCH, latest)
        rows = run(sql, (project_id, base + indexed + 1, base + until))
        run_many(
            "INSERT INTO finding_text (rowid, folded) VALUES (?, ?)",
            [(docid, _fold_texts(texts)) for docid, *texts in rows],
        )
        run("UPDATE finding_text_projects SET indexed = ? WHERE project_id = ?", (until, project_id))
        yield until - indexed
        indexed = until


def _fold_texts(texts: Sequence[str | None]) -> str:
    values: dict[str, Any] = dict(zip(_SEARCHED, texts, strict=True))
    if values["location"]:
        values["location"] = from_json(values["location"])
    return search_text(values)


def trigram_query(words: Iterable[str]) -> str:
    """Return what FTS5 has to match for folded words to occur: trigrams that cover them, joined; empty if all are shorter."""
    found: dict[str, None] = {}
    for word in words:
        if len(word) >= 3:
            starts = (*range(0, len(word) - 2, 3), len(word) - 3)
            found.update(dict.fromkeys(word[start : start + 3] for start in starts))
    quoted = (term.replace('"', '""') for term in list(found)[:MOST_TERMS])
    return " AND ".join(f'"{term}"' for term in quoted)


def select_candidates(run: Run, project_id: str, words: Iterable[str]) -> Clause | None:
    """Return the SELECT of the ids of all findings of a project that may have folded words; None if those are too short."""
    wanted = trigram_query(words)
    if not wanted:
        return None
    known = run("SELECT number << 32, indexed FROM finding_text_projects WHERE project_id = ?", (project_id,))
    base, indexed = known[0] if known else (0, 0)
    indexed += base
    return Clause(_FIND, (wanted, base, indexed, indexed + 1, base + (1 << 32) - 1))


def index_figures(run: Run) -> tuple[int, int, int, int]:
    """Return how many findings the index knows, how many of them wait, how many entries are of no use, and its bytes."""
    known = run("SELECT count(*) FROM finding_text_rows", ())[0][0]
    waits = run(
        "SELECT count(*) FROM finding_text_projects p JOIN finding_text_rows t "
        "ON t.docid BETWEEN (p.number << 32) + p.indexed + 1 AND (p.number << 32) + p.latest",
        (),
    )[0][0]
    given = run("SELECT coalesce(sum(latest), 0) FROM finding_text_projects", ())[0][0]
    size = run("SELECT coalesce(sum(length(block)), 0) FROM finding_text_data", ())[0][0]
    return known, waits, given - known, size
