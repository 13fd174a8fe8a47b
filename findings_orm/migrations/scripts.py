"""Where the revisions are, and what they say: the one chain for documents and databases."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory

from findings_orm.errors import StorageError

VERSION_TABLE = "findings_orm_version"
"""The table that holds a database's revision; an application's own ``alembic_version`` is another one."""

DocumentChange = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of the chain.

    Attributes:
        id: its identifier, as ``r0002``.
        schema_version: the schema version of findings after it.
        upgrade_document: turns a document of the version before into one of `schema_version`; None where the
            revision changes tables only, and for the first version.
        downgrade_document: the way back.
    """

    id: str
    schema_version: str
    upgrade_document: DocumentChange | None
    downgrade_document: DocumentChange | None


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
    config = Config()
    folder = alembic_ini().parent / "alembic"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@lru_cache(1)
def script_directory() -> ScriptDirectory:
    """Return the package's revisions, loaded once."""
    return ScriptDirectory.from_config(new_config())


@lru_cache(1)
def chain() -> tuple[Revision, ...]:
    """Return all revisions, oldest first.

    Raises:
        StorageError: the revisions don't form one chain.
    """
    scripts = list(script_directory().walk_revisions())[::-1]
    found: list[Revision] = []
    for script in scripts:
        if script.down_revision != (found[-1].id if found else None):
            raise StorageError(f"revision {script.revision} does not follow the one before; the chain forks")
        before = found[-1].schema_version if found else ""
        version = getattr(script.module, "finding_schema_version", before)
        changes = bool(before) and version != before
        found.append(
            Revision(
                script.revision,
                version,
                script.module.upgrade_document if changes else None,
                script.module.downgrade_document if changes else None,
            )
        )
    return tuple(found)
