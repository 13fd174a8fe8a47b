"""Files that the package writes: for their owner alone, or for a group too; replaced whole, through temporary ones that
follow no links."""

from __future__ import annotations

import errno
import os
import pathlib
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from findings_orm.errors import StorageConflictError, StorageUnavailableError, StorageValidationError
from findings_orm.process import COMMITTED, block, is_committed

try:
    import fcntl
except (
    ImportError
):  # not on Windows, where nothing tells a temporary file that is being written from one that was left
    fcntl = None  # type: ignore[assignment]

NO_LINKS: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_WAITING: int = getattr(os, "O_NONBLOCK", 0)
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)
_LONGEST = 200
_MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class Access:
    """Who may open files besides their owner.

    Attributes:
        mode: the permissions of a file.
        group: number of the group that they are of; None: the one that the system gives them.
    """

    mode: int = 0o600
    group: int | None = None

    @classmethod
    def of_group(cls, name: str | None) -> Access:
        """Return the access for a group of the system, whose members may read and write; None: for the owner alone.

        Raises:
            StorageValidationError: there is no such group, or this process is no member of it.
        """
        if name is None:
            return cls()
        number = _number_of_group(name)
        if os.geteuid() != 0 and number not in (os.getegid(), *os.getgroups()):
            raise StorageValidationError.of_field("group", "must be a group that this process is in", name)
        return cls(0o660, number)

    @classmethod
    def of_stat(cls, found: os.stat_result) -> Access:
        """Return the access that a file has."""
        return cls(stat.S_IMODE(found.st_mode) & 0o777, found.st_gid)

    def without_others(self) -> Access:
        """Return the access for those only who may write: the owner, and the group if it may."""
        return Access(0o660, self.group) if self.mode & 0o020 else OWNER

    @property
    def folder_mode(self) -> int:
        """The permissions of a folder of such files: who may read them may enter it, and what a group makes in it is the
        group's."""
        return self.mode | (self.mode & 0o444) >> 2 | (0o2000 if self.mode & 0o020 else 0)

    def give_to(self, handle: int, *, folder: bool = False) -> None:
        """Give an open file (or folder) this access; without the right to give it the group, to nobody but the owner."""
        if os.name != "posix":
            return
        mode = self.folder_mode if folder else self.mode
        found = os.fstat(handle)
        if self.group is not None and found.st_gid != self.group:
            try:
                os.fchown(handle, -1, self.group)
            except PermissionError:
                mode &= ~0o2070
        if stat.S_IMODE(os.fstat(handle).st_mode) != mode:
            os.fchmod(handle, mode)


OWNER = Access()
"""For the owner alone."""


def _number_of_group(name: object) -> int:
    try:
        import grp

        return grp.getgrnam(str(name)).gr_gid
    except (ImportError, KeyError, ValueError, UnicodeError) as error:
        raise StorageValidationError.of_field("group", "must be a group of this system", name) from error


def new_file(path: pathlib.Path, access: Access = OWNER) -> int:
    """Make a file, which must not exist (be it as a link), and return it open for reading and writing.

    Raises:
        OSError: it can't be made; FileExistsError: there is something.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINKS, 0o600)
    try:
        access.give_to(handle)
    except BaseException:
        os.close(handle)
        os.unlink(path)
        raise
    return handle


def make_file(path: pathlib.Path, access: Access = OWNER) -> None:
    """Make an empty file (where `path` is a link, what it leads to), unless there is one.

    Raises:
        OSError: it can't be made.
    """
    if not path.exists():
        with suppress(FileExistsError):
            os.close(new_file(target_of(path), access))


def make_folder(path: pathlib.Path, access: Access = OWNER) -> None:
    """Make a folder, unless it exists, and those above it that are missing; the others have this access too.

    Raises:
        OSError: it can't be made.
    """
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_folder(path.parent, access)
    with suppress(FileExistsError):
        path.mkdir(0o700)
        set_access(path, access)


def set_access(path: pathlib.Path, access: Access) -> None:
    """Give a file or a folder an access; a link is left alone.

    Raises:
        OSError: that is not possible.
    """
    handle = os.open(path, os.O_RDONLY | NO_LINKS | _NO_WAITING)
    try:
        access.give_to(handle, folder=stat.S_ISDIR(os.fstat(handle).st_mode))
    finally:
        os.close(handle)


def give_access(paths: Iterable[pathlib.Path], access: Access) -> list[pathlib.Path]:
    """Give the files and folders that are this user's own (root's are all) an access; return those that had another one.

    Raises:
        OSError: that is not possible.
    """
    changed = []
    for path in paths:
        with suppress(FileNotFoundError):
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode) or os.geteuid() not in (0, found.st_uid):
                continue
            wanted = access.folder_mode if stat.S_ISDIR(found.st_mode) else access.mode
            if stat.S_IMODE(found.st_mode) != wanted or access.group not in (None, found.st_gid):
                set_access(path, access)
                changed.append(path)
    return changed


def open_to_everybody(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Return the files and folders that every user of the machine may open."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if mode & 0o007 and not stat.S_ISLNK(mode):
                found.append(path)
    return found


def temporary_name(name: str) -> str:
    """Return a new name, which nobody can guess, for a file that will take the place of one of this name."""
    return f"{_temporary_prefix(name)}{secrets.token_hex(8)}.tmp"


def _temporary_prefix(name: str) -> str:
    return f".{os.fsencode(name)[:_LONGEST].decode(errors='ignore')}."


def is_temporary(name: str) -> bool:
    """Return whether a file has a name that `temporary_name` makes."""
    return _TEMPORARY.fullmatch(name) is not None


def target_of(path: pathlib.Path) -> pathlib.Path:
    """Return the file that a path names: a link is followed, as ``>`` of a shell does.

    Raises:
        PermissionError: somebody else made the link, in a folder where everybody may do that, such as ``/tmp``.
        OSError: the links go in a circle.
    """
    for _ in range(_MOST_LINKS):
        try:
            found = path.lstat()
        except FileNotFoundError:
            return path
        if not stat.S_ISLNK(found.st_mode):
            return path
        folder = path.parent.stat()
        shared = folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH
        if shared and found.st_uid not in (os.geteuid(), folder.st_uid):
            raise PermissionError(errno.EACCES, "is a link that somebody else made; remove it", str(path))
        path = path.parent / os.readlink(path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


@block
def writing(
    path: pathlib.Path, access: Access | None = None, *, alone: bool = False
) -> Iterator[tuple[pathlib.Path, BinaryIO]]:
    """Yield a file beside `path` that takes its place when the block ends well; see `replacing`.

    Raises:
        StorageConflictError: another process writes the same file.
        StorageUnavailableError: the file can't be written.
    """
    try:
        with replacing(path, access, alone=alone) as pair:
            yield pair
    except OSError as error:
        problem = "was written, but not for good" if is_committed(error) else "can't be written"
        raise StorageUnavailableError(
            f"{error.filename or path}: {problem}: {error.strerror or error}"
        ) from error


@block
def replacing(
    path: pathlib.Path, access: Access | None = None, *, alone: bool = False
) -> Iterator[tuple[pathlib.Path, BinaryIO]]:
    """Yield a file beside `path` that takes its place, durably, when the block ends well; else it vanishes.

    It is for the owner alone, unless it takes the place of a file that others may open. What killed processes left of
    earlier ones is removed.

    Args:
        path: the file; where it is a link, the one that it leads to (`target_of`).
        access: who may open it; None: who may open the one there is, or else the owner.
        alone: refuse to begin while another process writes the same file.

    Raises:
        StorageConflictError: another process writes the same file.
        OSError: the file can't be written; what was there is as it was, unless the exception has the note `COMMITTED`.
    """
    target = target_of(pathlib.Path(path))
    try:
        there = target.stat()
    except FileNotFoundError:
        there = None
    if there is not None and not stat.S_ISREG(there.st_mode):
        raise OSError(errno.EINVAL, "is no file that can be replaced", str(target))
    access = access or (Access.of_stat(there) if there else OWNER)
    placing = taken = False
    while not taken:
        beside = target.with_name(temporary_name(target.name))
        try:
            with open(new_file(beside, access), "w+b") as file:
                taken = _lock_file(file, beside)  # if not, one who tidies up was quicker
                if taken:
                    busy = _remove_abandoned(target, beside)
                    if busy and alone:
                        raise StorageConflictError(
                            f"{target}: another process writes this file ({busy.name})"
                        )
                    yield beside, file
                    file.flush()
                    os.fsync(file.fileno())
                    placing = True
                    os.replace(beside, target)
            if taken:
                fsync_folder(target.parent)
        except BaseException as error:
            with suppress(OSError):
                try:
                    beside.unlink()
                except FileNotFoundError:
                    if placing:
                        error.add_note(COMMITTED)
            raise


def _lock_file(file: BinaryIO, path: pathlib.Path) -> bool:
    """Lock the file at a path, and return whether that was possible; True where nothing can be locked."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, where nothing is taken for abandoned either
        return True
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _remove_abandoned(target: pathlib.Path, own: pathlib.Path) -> pathlib.Path | None:
    """Remove what killed processes left of a file; return what another one is writing."""
    beginning = _temporary_prefix(target.name)
    busy = None
    for name in os.listdir(target.parent):
        other = target.with_name(name)
        ours = name.startswith(beginning) and is_temporary(name) and len(name) == len(own.name)
        if ours and other != own and not remove_abandoned(other):
            busy = other
    return busy


def remove_abandoned(path: pathlib.Path, *beginnings: bytes) -> bool:
    """Remove a temporary file that nobody is writing; return whether it is gone.

    Args:
        path: the file.
        beginnings: how it has to begin, if it is not empty.
    """
    if fcntl is None:
        return False
    try:
        with open(os.open(path, os.O_RDONLY | NO_LINKS | _NO_WAITING), "rb") as file:
            head = file.read(max(map(len, beginnings))) if beginnings else b""
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) or (
                head and not head.startswith(beginnings)
            ):
                return False
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.lstat()):
                path.unlink()
    except FileNotFoundError:
        return True
    except OSError:  # it is being written, or somebody else's, or a link
        return False
    return True


def replace_file(path: pathlib.Path, content: bytes, access: Access | None = None) -> None:
    """Replace the content of a file durably; see `replacing`."""
    with replacing(path, access) as (_, file):
        file.write(content)


def fsync_folder(folder: pathlib.Path) -> None:
    """Make the names in a folder durable (POSIX: a rename is only on disk when its folder is)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
