"""One run of the command line: its storage, its output, its project."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from findings_orm.cli.failures import CommandError, ExitCode, NotFoundError, UsageError
from findings_orm.cli.output import Output
from findings_orm.errors import SchemaVersionError, StorageValidationError
from findings_orm.secrecy import shown_url

if TYPE_CHECKING:
    from findings_orm.limits import Limits
    from findings_orm.port import FindingStore

DEFAULT_URL = "sqlite:///findings.db"
URL_VARIABLE = "FINDINGS_DATABASE_URL"
_NAMED = 10


class Session:
    """What the global options say, and what commands do with it."""

    def __init__(self, url: str, *, quiet: bool = False) -> None:
        self.url = url
        self.quiet = quiet

    @cached_property
    def out(self) -> Output:
        """Where the command writes."""
        return Output(quiet=self.quiet)

    @contextmanager
    def store(
        self, *, create: bool = False, migrate: bool | None = None, limits: Limits | None = None
    ) -> Iterator[FindingStore]:
        """Open the storage. Without `create`, a file that is not there is an error and is not made.

        `migrate` is the option ``--migrate``, None where the command has none.
        """
        if not create:
            self.require_file()
        with self._open_store(limits, migrate) as store:
            yield store

    def store_for_import(self, limits: Limits, *, dry_run: bool) -> AbstractContextManager[FindingStore]:
        """Open the storage, made if need be; what a dry run would make is not made."""
        if dry_run and self.missing_file():
            from findings_orm.registry import open_storage

            return open_storage("memory:", limits=limits)
        return self.store(create=True, limits=limits)

    def _open_store(self, limits: Limits | None, migrate: bool | None) -> FindingStore:
        from findings_orm.limits import DEFAULT
        from findings_orm.registry import StorageOptions, open_storage

        options: StorageOptions = {"migrate": True} if migrate and self.is_database else {}
        try:
            return open_storage(self.url, limits=limits or DEFAULT, **options)
        except SchemaVersionError as error:
            if migrate is None:
                raise
            from findings_orm.migrations.database import OR_MIGRATE

            raise SchemaVersionError(str(error).replace(OR_MIGRATE, "or add --migrate")) from error
        except StorageValidationError as error:
            raise UsageError(
                f"--url: {error}", hint=f"The URL comes from --url or {URL_VARIABLE}."
            ) from error

    @property
    def is_database(self) -> bool:
        """Whether the URL is that of a store with a schema to bring up or down."""
        return self.url.partition(":")[0].partition("+")[0].lower() not in ("memory", "file")

    def is_empty_database(self) -> bool:
        """Return whether the URL is that of a database without the tables."""
        from findings_orm import migrations

        return self.is_database and migrations.status(self.url).current is None

    def require_file(self) -> None:
        """Raise unless the file or folder of the URL exists (or the URL names none)."""
        path = self.missing_file()
        if path is None:
            return
        raise CommandError(
            f"there is no storage at {path} ({shown_url(self.url)})",
            hint=f"Make one with 'findings db upgrade' or 'findings import', or name another one with --url or "
            f"{URL_VARIABLE}.",
            code=ExitCode.UNAVAILABLE,
        )

    def missing_file(self) -> Path | None:
        """Return the SQLite file (or the folder of a file store) that the URL names, if it is not there; else None."""
        path = storage_path(self.url)
        return path if path is not None and not os.path.lexists(path) else None

    def project(self, store: FindingStore, given: str | None) -> str:
        """Return the project that a command is about: the given one, else the only one.

        Raises:
            NotFoundError: the store has no such project, or none at all.
            UsageError: none was given and there are several.
        """
        if given is not None and store.revision(given):
            return given
        known = store.list_projects()
        if given is not None and given in known:
            return given
        if not known:
            raise NotFoundError(
                f"{shown_url(self.url)} holds no projects yet",
                hint="Import a report first: findings import FILE --project NAME",
            )
        if given is not None:
            raise NotFoundError(f"no project {given!r}", hint=f"There are: {_enumerate_names(known)}")
        if len(known) > 1:
            raise UsageError(
                "which project? Say it with --project", hint=f"There are: {_enumerate_names(known)}"
            )
        return known[0]


def storage_path(url: str) -> Path | None:
    """Return the path that a ``sqlite:`` or ``file:`` URL names; None for other URLs and databases in memory."""
    if url.lower().startswith("file:"):
        folder = unquote(urlsplit(url).path)
        return Path(folder) if folder else None
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]*)(\?.*)?", url, re.IGNORECASE)
    if match is None:
        return None
    path = unquote(match[1])
    return Path(path) if path and path != ":memory:" and not path.startswith("file:") else None


def _enumerate_names(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more (findings projects)" if more > 0 else "")
