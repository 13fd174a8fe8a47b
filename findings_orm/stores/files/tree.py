"""The files and folders of a store: how they are called, every change of them, and who may open them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from findings_orm.errors import StorageUnavailableError
from findings_orm.private import (
    NO_LINKS,
    OWNER,
    Access,
    fsync_folder,
    give_access,
    make_folder,
    new_file,
    set_access,
    temporary_name,
)
from findings_orm.process import block

# -- names of files and folders: safe on every file system, readable where the project id allows it -------


MANIFEST = "store.json"
JOURNAL = "journal.jsonl"
LOCK = ".lock"
FINDINGS = "findings.json"
IDENTITIES = "identities.jsonl"
EVENTS = "events.jsonl"
RUNS = "runs.jsonl"
REJECTED = "rejected.jsonl"
COMPANIONS = (IDENTITIES, EVENTS, RUNS, REJECTED)
ASIDE = ".orig-"
DAMAGED = "damaged~"

_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9_-])?")
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
_TAKEN = {MANIFEST, JOURNAL, FINDINGS}
_UNSAFE = re.compile(r"[^a-z0-9]+")


def folder_name(project_id: str) -> str:
    """Return the name of a project's folder.

    An id of lower case ASCII letters, digits, dots, dashes and underscores (a slug, a UUID) names its own folder. Any
    other one gives what is readable of it, a tilde, which no plain name has, and 80 bits of its SHA-256.

    >>> folder_name("acme-api")
    'acme-api'
    >>> folder_name("../Straße")
    'strasse~39ac1cef83565a193088'
    """
    if _PLAIN.fullmatch(project_id) and not _DEVICES.fullmatch(project_id) and project_id not in _TAKEN:
        return project_id
    ascii_text = unicodedata.normalize("NFKD", project_id.casefold()).encode("ascii", "ignore").decode()
    readable = _UNSAFE.sub("-", ascii_text).strip("-")[:40].strip("-") or "project"
    return f"{readable}~{hashlib.sha256(project_id.encode()).hexdigest()[:20]}"


def pending_name(name: str, generation: int) -> str:
    """Return the name that a file of a generation has until the generation is complete."""
    return f".{name}.{generation}.new"


# -- every change of a file goes through `Disk`, one method an operation, so that a test can record and replay them


_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE}


class Disk:
    """Changes files. Nothing is durable before `sync` of the file and `sync_folder` of the names in its folder.

    No file is written through a link.

    Attributes:
        access: who may open the files and folders that are made.
    """

    access: Access = OWNER

    def make_folder(self, path: Path) -> None:
        """Make a folder."""
        make_folder(path, self.access)

    def write(self, path: Path, content: bytes) -> None:
        """Write a new file, which takes the place of one that may be there."""
        self.unlink(path)
        _write_and_close(new_file(path, self.access), content)

    def append(self, path: Path, content: bytes) -> None:
        """Append to a file that exists."""
        _write_and_close(os.open(path, os.O_WRONLY | os.O_APPEND | NO_LINKS), content)

    def sync(self, path: Path) -> None:
        """Make the content of a file durable."""
        handle = os.open(path, os.O_RDWR | NO_LINKS)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        fsync_folder(path)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file, over another one if there is one."""
        os.replace(old, new)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file."""
        handle = os.open(path, os.O_RDWR | NO_LINKS)
        try:
            os.ftruncate(handle, size)
        finally:
            os.close(handle)

    def unlink(self, path: Path) -> None:
        """Remove a file that may be gone already."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove a folder, unless somebody else keeps files in it."""
        with suppress(OSError):
            path.rmdir()

    def replace(self, path: Path, content: bytes) -> None:
        """Write a file so that a reader, or a crash, sees the old one or the new one."""
        temporary = path.with_name(temporary_name(path.name))
        try:
            self.write(temporary, content)
            self.sync(temporary)
            self.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                self.unlink(temporary)
            raise
        self.sync_folder(path.parent)


def _write_and_close(handle: int, content: bytes) -> None:
    """Write to an open file, and close it."""
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
    finally:
        os.close(handle)


@block
def translate_os_errors(what: object) -> Iterator[None]:
    """Turn an `OSError` raised inside the block into `StorageUnavailableError`."""
    try:
        yield
    except OSError as error:
        place = error.filename or what
        raise StorageUnavailableError(
            f"{place}: {error.strerror or error}; what was stored is as it was",
            retryable=error.errno in _PASSING,
        ) from error


# -- who may open the files of a store: its owner alone, or a group too. Its journal shows it; all files are like that


def access_of(root: Path, new: Access) -> Access:
    """Return the access to the files of a store; `new` where there is none yet."""
    for name in (JOURNAL, MANIFEST):
        try:
            return Access.of_stat((root / name).stat())
        except FileNotFoundError:
            continue
    return new


def make_root(root: Path, access: Access) -> None:
    """Make the folder of a store. One that is there, empty and this user's own, gets the access too; as ``initdb`` does it."""
    root = root.resolve()  # modes are never changed through a link
    make_folder(root, access)
    if root.stat().st_uid == os.geteuid() and not any(root.iterdir()):
        set_access(root, access)


def give_store_access(root: Path, access: Access) -> list[Path]:
    """Give the files of a store that are this user's own an access; return those that had another one."""
    return give_access(walk_files(root), access) if (root / JOURNAL).exists() else []


def walk_files(root: Path) -> Iterator[Path]:
    """Yield the folder of a store, and all folders and files in it."""
    for folder, _, files in os.walk(root.resolve()):
        yield Path(folder)
        yield from (Path(folder, name) for name in files)
