"""Where the revisions are, and what they say: the one chain for documents and databases.

Alembic is loaded only where it has work to do. What the chain looks like is read from the files, so that a database
can be opened without it.
"""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from findings_orm.errors import SchemaVersionError, StorageError, readable

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

VERSION_TABLE = "findings_orm_version"
"""The table that holds a database's revision; an application's own ``alembic_version`` is another one."""

DocumentChange = Callable[[dict[str, object]], dict[str, object]]


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of the chain.

    Attributes:
        id: its identifier, as ``r0002``.
        schema_version: the schema version of findings after it.
        before: the schema version before it. The first one's is that of the documents which no database held.
        work: what it does to the tables, in words; "" for what takes no time.
        adds: the fields that it brings, where it names them in ``NEW_FIELDS``.
    """

    id: str
    schema_version: str
    before: str
    work: str = ""
    adds: tuple[str, ...] = ()

    @property
    def changes_documents(self) -> bool:
        """Whether it has the functions `upgrade_document` and `downgrade_document`."""
        return self.before != self.schema_version


def alembic_ini() -> pathlib.Path:
    """Return the path of the package's ``alembic.ini``, for ``alembic -c``.

    It lies inside the package where that is installed, and beside it in a checkout.

    Raises:
        StorageError: it is in neither place; the installation is broken.
    """
    package = pathlib.Path(__file__).absolute().parents[1]
    for folder in (package, package.parent):
        if (folder / "alembic.ini").is_file() and (folder / "alembic" / "env.py").is_file():
            return folder / "alembic.ini"
    raise StorageError(f"alembic.ini is neither in {package} nor beside it; install findings-orm again")


def new_config() -> Config:
    """Return a configuration of Alembic for the package's revisions; a path with ``%`` in it is no problem."""
    from alembic.config import Config

    config = Config()
    folder = alembic_ini().parent / "alembic"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@lru_cache(1)
def script_directory() -> ScriptDirectory:
    """Return the package's revisions as Alembic has them, loaded once."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(new_config())


def document_changes(revision: str) -> tuple[DocumentChange, DocumentChange]:
    """Return the functions `upgrade_document` and `downgrade_document` of a revision."""
    module: Any = script_directory().get_revision(revision).module
    return module.upgrade_document, module.downgrade_document


def large_indexes(revision: str) -> dict[str, str]:
    """Return what a revision names as ``LARGE_INDEXES``: name to the rest of ``CREATE INDEX`` on PostgreSQL."""
    module: object = script_directory().get_revision(revision).module
    return dict(getattr(module, "LARGE_INDEXES", {}))


@lru_cache(1)
def revision_chain() -> tuple[Revision, ...]:
    """Return all revisions, oldest first.

    Raises:
        StorageError: the revisions don't form one chain.
    """
    files = sorted((alembic_ini().parent / "alembic" / "versions").glob("*.py"))
    after: dict[object, dict[str, Any]] = {}
    for said in map(_read_constants, files):
        before = said.get("down_revision")
        if before in after:
            raise StorageError(
                f"revisions {after[before]['revision']} and {said['revision']} both follow {before}"
            )
        after[before] = said
    found: list[Revision] = []
    last = None
    while last in after:
        said = after[last]
        before = found[-1].schema_version if found else said["legacy_schema_version"]
        version = said.get("finding_schema_version", before)
        found.append(
            Revision(said["revision"], version, before, said.get("work", ""), said.get("NEW_FIELDS", ()))
        )
        last = found[-1].id
    if len(found) != len(files):
        raise StorageError("the revisions of findings-orm don't form one chain; install it again")
    return tuple(found)


def position_of(current: str | None, where: str) -> int:
    """Return how many revisions a database has, by the one that it is at.

    Raises:
        SchemaVersionError: this release does not know the revision.
    """
    ids = [one.id for one in revision_chain()]
    if current is None:
        return 0
    if current not in ids:
        raise SchemaVersionError(
            f"{where} is at revision {current}, which was made by a newer release; this one knows "
            f"{', '.join(ids)}: update findings-orm"
        )
    return ids.index(current) + 1


def goal_of(current: str | None, revision: str, where: str = "the database") -> int:
    """Return how many revisions there are up to the one that is named; relative ones count from `current`.

    Raises:
        SchemaVersionError: there is none of this name.
    """
    ids = [one.id for one in revision_chain()]
    if revision in ("base", "head"):
        return 0 if revision == "base" else len(ids)
    if revision in ids:
        return ids.index(revision) + 1
    goal = position_of(current, where) + int(revision) if re.fullmatch(r"[+-][0-9]{1,4}", revision) else -1
    if not 0 <= goal <= len(ids):
        raise SchemaVersionError(
            f"there is no revision {readable(revision)}; known are {', '.join(ids)}, base and head"
        )
    return goal


def _read_constants(path: pathlib.Path) -> dict[str, Any]:
    """Return the constants at the top level of a module; of a dict its keys, where these are constants."""
    found: dict[str, Any] = {}
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if isinstance(node.value, ast.Constant):
                found[name] = node.value.value
            elif isinstance(node.value, ast.Dict):
                found[name] = tuple(key.value for key in node.value.keys if isinstance(key, ast.Constant))
    return found
