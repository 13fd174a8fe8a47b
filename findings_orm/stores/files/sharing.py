"""Who may open the files of a store: its owner alone, or a group too. Its journal shows it; all files are like that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from findings_orm.private import Access, give_access, make_folder, set_access
from findings_orm.stores.files import names


def access_of(root: Path, new: Access) -> Access:
    """Return the access to the files of a store; `new` where there is none yet."""
    for name in (names.JOURNAL, names.MANIFEST):
        try:
            return Access.like((root / name).stat())
        except FileNotFoundError:
            continue
    return new


def make_root(root: Path, access: Access) -> None:
    """Make the folder of a store. One that is there, empty and this user's own, gets the access too; as ``initdb`` does it."""
    root = root.resolve()  # modes are never changed through a link
    make_folder(root, access)
    if root.stat().st_uid == os.geteuid() and not any(root.iterdir()):
        set_access(root, access)


def give(root: Path, access: Access) -> list[Path]:
    """Give the files of a store that are this user's own an access; return those that had another one."""
    return give_access(files_of(root), access) if (root / names.JOURNAL).exists() else []


def files_of(root: Path) -> Iterator[Path]:
    """Yield the folder of a store, and all folders and files in it."""
    for folder, _, files in os.walk(root.resolve()):
        yield Path(folder)
        yield from (Path(folder, name) for name in files)
