"""The rows of the table ``findings`` in the middle of a migration: each is a document of a few fields.

A downgrade keeps what the older schema has no room for twice: in corners of `provenance`, as for any document, and in the table
``finding_kept``, where an older release does not look. So it comes back even where that release has
replaced a row's `provenance` since, as an import does. The upgrade uses it up. The table refers to no other: on PostgreSQL an
older release could not drop the table of findings then, and on SQLite not write it anew.

Revisions use this module for ever, as they do `corners`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql

from findings_orm.migrations.corners import KEY, PROVENANCE, Change, Corner, Document, is_same_json

KEPT = "finding_kept"
VERSION = "finding_schema_version"
BATCH = 1000

SORTED = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
UUID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
JSON = sa.Text().with_variant(postgresql.JSON(), "postgresql")
LIST = sa.Text().with_variant(postgresql.JSONB(), "postgresql")
TEXT = sa.Text()
NUMBER: sa.Double[float] = sa.Double()
FLOAT: sa.Double[float] = sa.Double()
"""As `NUMBER`, for a field that is always written with a fraction (`findings_orm.fields.Kind.FLOAT`)."""
INTEGER = sa.Integer()
TIME = sa.String(27).with_variant(sa.DateTime(timezone=True), "postgresql")

MAY_HAVE_CORNER = (
    "(CAST(provenance AS TEXT) LIKE '%\"findings!_orm\"%' ESCAPE '!' "
    "OR CAST(provenance AS TEXT) LIKE '%\\u00%' ESCAPE '!')"
)
"""A row may have a corner if its text holds the key, or an escape that could spell it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows, as the documents of one revision.

    Attributes:
        revision: the revision.
        before: the schema version before it.
        corner: where the newer documents leave what the older ones have no room for.
        types: the columns beside the key, with the types that values are written as, which are those of this module.
    """

    revision: str
    before: str
    corner: Corner
    types: Mapping[str, sa.types.TypeEngine[Any]]

    def open_corners(
        self,
        read: Sequence[str],
        write: Sequence[str],
        older: Change | None = None,
        canonical: Change | None = None,
    ) -> None:
        """Take up what a downgrade has put aside, in the rows that have a corner or something kept.

        Args:
            read: the columns to make a document of the older version from.
            write: the columns to write.
            older: makes that document of the columns, where they are those of the newer version already.
            canonical: gives the newer document the form in which it is stored.
        """
        if op.get_context().as_sql:
            self._write_guard(MAY_HAVE_CORNER, up=True)
            return
        has_kept = sa.inspect(op.get_bind()).has_table(KEPT)
        for rows in self._read_batches(MAY_HAVE_CORNER, read, with_kept=has_kept):
            changes = []
            for row in rows:
                document = {
                    VERSION: self.before,
                    **{name: self._read_value(name, row[name]) for name in read},
                }
                opened = self._open_corner(older(document) if older else document, row["kept"])
                if opened is not None:
                    opened = {PROVENANCE: {}, **opened}
                    changes.append(
                        self._change_of_row(row, canonical(opened) if canonical else opened, write)
                    )
            self._update_rows(changes, write)

    def close_corners(self, read: Sequence[str], write: Sequence[str], needed: str = "false") -> None:
        """Put aside what the older version has no room for, in the rows for which `needed`, a condition in SQL, holds, and
        in those that may have a corner already."""
        needed = f"({needed} OR {MAY_HAVE_CORNER})"
        if op.get_context().as_sql:
            self._write_guard(needed, up=False)
            return
        for rows in self._read_batches(needed, read):
            changes, kept = [], []
            for row in rows:
                document = {name: self._read_value(name, row[name]) for name in read}
                closed = self.corner.close({VERSION: self.corner.version, **document}, ordered=False)
                closed = {PROVENANCE: {}, **closed}
                if not all(is_same_json(closed[name], document[name]) for name in write if name != VERSION):
                    changes.append(self._change_of_row(row, closed, write))
                corner = closed[PROVENANCE].get(KEY)
                if corner != document[PROVENANCE].get(KEY) and corner["fields"]:
                    own = {name: corner[name] for name in ("version", "fields")}
                    kept.append(
                        {"the_project": row["project_id"], "the_id": row["id"], "corner": _json_text(own)}
                    )
            self._update_rows(changes, write)
            self._keep_corners(kept)

    def begin_keeping(self) -> None:
        """Make the table that keeps what is put aside, without anything of an earlier downgrade."""
        op.create_table(
            KEPT,
            sa.Column("project_id", SORTED, nullable=False),
            sa.Column("finding_id", UUID, nullable=False),
            sa.Column("version", TEXT, nullable=False),
            sa.Column("corner", JSON, nullable=False),
            sa.Column("closed_as", TEXT, nullable=True),
            sa.PrimaryKeyConstraint("project_id", "finding_id", "version", name=op.f(f"pk_{KEPT}")),
            if_not_exists=True,
        )
        if op.get_context().dialect.name == "postgresql":
            op.execute(f"ALTER TABLE {KEPT} ENABLE ROW LEVEL SECURITY")  # and no policy: the owner's alone
        op.execute(f"DELETE FROM {KEPT} WHERE version = '{self.corner.version}'")  # noqa: S608  # constants

    def end_keeping(self) -> None:
        """Drop what was kept, once it is used up."""
        if op.get_context().as_sql or not sa.inspect(op.get_bind()).has_table(KEPT):
            return
        op.execute(f"DELETE FROM {KEPT} WHERE version = '{self.corner.version}'")  # noqa: S608  # constants
        if op.get_bind().exec_driver_sql(f"SELECT 1 FROM {KEPT} LIMIT 1").first() is None:  # noqa: S608  # constants
            op.drop_table(KEPT)

    def _open_corner(self, document: Document, kept: str | None) -> Document | None:
        """Return a document with what its corner, or else the table, has kept; None where neither has anything.

        A corner that the table does not know is that of an early release, or the user's. Where it stands tells.
        """
        corner = json.loads(kept) if kept else {}
        there = document[PROVENANCE].get(KEY)
        if (
            corner
            and isinstance(there, dict)
            and is_same_json(corner, {name: there[name] for name in corner if name in there})
        ):
            return self.corner.take_up_corner(document)
        opened = self.corner.take_up_corner(document, in_place=True)
        if opened is not None or not corner:
            return opened
        if KEY in document[PROVENANCE]:
            corner["original"] = there
        return self.corner.take_up_corner({**document, PROVENANCE: {**document[PROVENANCE], KEY: corner}})

    # -- statements ---------------------------------------------------------------------------------------------

    def _findings_table(self) -> sa.TableClause:
        columns = (sa.column(name, kind) for name, kind in self.types.items())
        return sa.table(
            "findings",
            sa.column("project_id", TEXT),
            sa.column("id", UUID),
            sa.column(VERSION, TEXT),
            *columns,
        )

    def _is_json(self, column: str) -> bool:
        return self.types.get(column) in (JSON, LIST)

    def _read_value(self, column: str, value: Any) -> Any:
        """Return what a column holds as a document has it in canonical form."""
        kind = self.types.get(column)
        if value is None:
            return None
        if self._is_json(column):
            return json.loads(value)
        if kind is TIME:
            return _canonical_time(value)
        return int(value) if kind is NUMBER and value == int(value) else value

    def _write_value(self, column: str, value: Any) -> Any:
        """Return a value of a document as the statement takes it."""
        if value is None:
            return None
        if self._is_json(column):
            return _json_text(value)
        if self.types.get(column) is TIME and op.get_context().dialect.name == "sqlite":
            return value if "." in value else f"{value[:-1]}.000000Z"
        return value

    def _change_of_row(self, row: Any, document: Document, write: Sequence[str]) -> Document:
        values = {f"new_{name}": self._write_value(name, document[name]) for name in write}
        return {"the_project": row["project_id"], "the_id": row["id"], **values}

    def _update_rows(self, changes: list[Document], write: Sequence[str]) -> None:
        if not changes:
            return
        table = self._findings_table()
        columns = table.c
        types = {f"new_{name}": TEXT if self._is_json(name) else columns[name].type for name in write}
        new, parameters = _bind_changes(changes, types)
        values = {
            name: sa.cast(new[f"new_{name}"], columns[name].type)
            if self._is_json(name)
            else new[f"new_{name}"]
            for name in write
        }
        this_row = (columns.project_id == new["the_project"], columns.id == new["the_id"])
        op.get_bind().execute(sa.update(table).where(*this_row).values(values), parameters)

    def _keep_corners(self, kept: list[Document]) -> None:
        if not kept:
            return
        names = ("project_id", "finding_id", "version", "corner")
        table = sa.table(KEPT, *map(sa.column, names))
        new, parameters = _bind_changes(kept, {"corner": TEXT})
        version: Any = sa.literal_column(f"'{self.corner.version}'")
        values = (new["the_project"], new["the_id"], version, sa.cast(new["corner"], JSON))
        op.get_bind().execute(sa.insert(table).from_select(names, sa.select(*values)), parameters)

    def _read_batches(
        self, needed: str, columns: Sequence[str], *, with_kept: bool = False
    ) -> Iterator[list[Any]]:
        """Yield the rows that `needed` holds for or that have something kept, a batch of the primary key at a time.

        The condition is not in the WHERE, where PostgreSQL would rather sort the whole table than walk the key.
        """
        table = self._findings_table().c
        key = (table.project_id, table.id)
        the_project = sa.bindparam("the_project", type_=TEXT)
        the_id = sa.cast(sa.bindparam("the_id", type_=TEXT), UUID)
        of_this = "k.project_id = findings.project_id AND k.finding_id = findings.id"
        kept = (
            f"(SELECT CAST(k.corner AS TEXT) FROM {KEPT} k WHERE {of_this} AND k.version = '{self.corner.version}')"  # noqa: S608  # constants
            if with_kept
            else "CAST(NULL AS TEXT)"
        )
        batch = (
            sa.select(key[0], sa.cast(key[1], TEXT).label("id"))
            .add_columns(
                sa.literal_column(needed, sa.Boolean()).label("needed"),
                sa.literal_column(kept, TEXT).label("kept"),
            )
            .add_columns(
                *(
                    sa.cast(table[name], TEXT).label(name) if self._is_json(name) else table[name]
                    for name in columns
                )
            )
            .where(key[0] >= the_project, sa.tuple_(*key) > sa.tuple_(the_project, the_id))
            .order_by(*key)
            .limit(BATCH)
            .subquery("batch")
        ).c
        wanted = sa.or_(batch.needed, batch.kept.is_not(None))
        values = (sa.case((wanted, batch[name])).label(name) for name in columns)
        select = sa.select(batch.project_id, batch.id, wanted.label("wanted"), batch.kept, *values)
        select = select.order_by(batch.project_id, batch.id)
        last = {"the_project": "", "the_id": "00000000-0000-0000-0000-000000000000"}
        while True:
            rows = list(op.get_bind().execute(select, last).mappings())
            yield [row for row in rows if row["wanted"]]
            if len(rows) < BATCH:
                return
            last = {"the_project": rows[-1]["project_id"], "the_id": rows[-1]["id"]}

    def _write_guard(self, needed: str, *, up: bool) -> None:
        """Write SQL that fails where rows hold values that only Python can move into or out of corners."""
        context = op.get_context()
        problem = f"findings hold values that only an online run of revision {self.revision} can move"
        note = f"-- The next statement fails if {problem}. Stop there then, and run alembic on the database itself."
        found = f"(SELECT count(*) FROM findings WHERE {needed})"  # noqa: S608  # constants
        if context.dialect.name == "postgresql":
            context.impl.static_output(note)
            kept = f"SELECT count(*) FROM {KEPT} WHERE version = ''{self.corner.version}''"  # noqa: S608  # constants
            look = (
                f"IF to_regclass('{KEPT}') IS NOT NULL THEN EXECUTE '{kept}' INTO kept; END IF; "
                if up
                else ""
            )
            op.execute(
                f"DO $$ DECLARE kept BIGINT := 0; BEGIN {look}"
                f"IF kept + {found} > 0 THEN RAISE EXCEPTION '{problem}'; END IF; END $$"
            )
            return
        context.impl.static_output(f"{note} Use sqlite3 -bail.")
        check = f'found INTEGER CONSTRAINT "{problem}" CHECK (found = 0)'
        if up:
            op.execute(f"CREATE TABLE IF NOT EXISTS {KEPT} (corner TEXT)")
            found += f" + (SELECT count(*) FROM {KEPT})"  # noqa: S608  # constants
        op.execute(f"CREATE TEMPORARY TABLE findings_orm_guard ({check})")
        op.execute(f"INSERT INTO findings_orm_guard (found) SELECT {found}")  # constants
        op.execute("DROP TABLE findings_orm_guard")
        if up:
            op.execute(f"DROP TABLE {KEPT}")


def refuse_sql_on_sqlite(revision: str) -> None:
    """Refuse to write a downgrade as SQL: the sqlite3 shell goes on after a failed statement, and would drop columns that hold
    values."""
    if op.get_context().as_sql and op.get_context().dialect.name == "sqlite":
        raise CommandError(f"on SQLite a downgrade of {revision} needs the database: run it without --sql")


def _bind_changes(changes: list[Document], types: Mapping[str, sa.types.TypeEngine[Any]]) -> tuple[Any, Any]:
    """Return values for a statement by their names, and its parameters: the keys of rows, and values of these types."""
    if op.get_context().dialect.name != "postgresql":
        given: Any = {name: sa.bindparam(name, type_=TEXT) for name in ("the_project", "the_id")}
        return given | {name: sa.bindparam(name, type_=kind) for name, kind in types.items()}, changes
    # One statement a batch is several times as fast as one a row.
    recordset = sa.func.json_to_recordset(sa.cast(sa.bindparam("changes", type_=TEXT), postgresql.JSON()))
    new = recordset.table_valued(
        sa.column("the_project", TEXT),
        sa.column("the_id", UUID),
        *(sa.column(*each) for each in types.items()),
    ).render_derived("new", with_types=True)
    return new.c, {"changes": json.dumps(changes, ensure_ascii=False)}


def _canonical_time(stored: Any) -> str:
    """Return a time as a document has it: SQLite has text of one width, PostgreSQL a time."""
    if not isinstance(stored, str):
        stored = stored.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return f"{stored[:19]}Z" if stored.endswith(".000000Z") else stored


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
