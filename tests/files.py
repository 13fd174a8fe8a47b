"""A disk that records what is done to it, and a computer that loses its power."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from findings_orm import FindingStore
from findings_orm.stores.files.tree import Disk

Operation = tuple[Any, ...]


class Recorder(Disk):
    """Does everything, and keeps a list of it: (name, relative path, argument)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.operations: list[Operation] = []

    def _note(self, name: str, path: Path, *arguments: Any) -> None:
        self.operations.append((name, path.relative_to(self.root).as_posix(), *arguments))

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self._note("make_folder", path)

    def write(self, path: Path, content: bytes) -> None:
        super().write(path, content)
        self._note("write", path, content)

    def append(self, path: Path, content: bytes) -> None:
        super().append(path, content)
        self._note("append", path, content)

    def sync(self, path: Path) -> None:
        super().sync(path)
        self._note("sync", path)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self._note("sync_folder", path)

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._note("rename", old, new.relative_to(self.root).as_posix())

    def truncate(self, path: Path, size: int) -> None:
        super().truncate(path, size)
        self._note("truncate", path, size)

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._note("unlink", path)

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        self._note("remove_folder", path)

    def written(self) -> int:
        """Return how many bytes were written."""
        return sum(len(each[2]) for each in self.operations if each[0] in ("write", "append"))


@dataclass
class Inode:
    """The content of a file, as it is and as it is on the platter."""

    now: bytes = b""
    kept: bytes = b""


@dataclass
class Computer:
    """A file system that keeps what was synced, and may lose the rest."""

    now: dict[str, Inode | None] = field(default_factory=dict)
    kept: dict[str, Inode | None] = field(default_factory=dict)

    def do(self, operation: Operation, cut: int | None = None) -> None:
        """Do an operation; of the bytes of a write only the first `cut`."""
        name, path, *arguments = operation
        if name == "make_folder":
            self.now[path] = None
        elif name in ("write", "append"):
            old = self.now.get(path)
            inode = old if old is not None else Inode()
            self.now[path] = inode
            content = arguments[0] if cut is None else arguments[0][:cut]
            inode.now = content if name == "write" else inode.now + content
        elif name == "sync":
            inode = self._file(path)
            inode.kept = inode.now
        elif name == "rename":
            self.now[arguments[0]] = self.now.pop(path)
        elif name == "truncate":
            inode = self._file(path)
            inode.now = inode.now[: arguments[0]]
        elif name == "unlink":
            self.now.pop(path, None)
        elif name == "remove_folder":
            if not any(other.startswith(f"{path}/") for other in self.now):
                self.now.pop(path, None)
        else:
            self._keep_names("" if path == "." else f"{path}/")

    def _file(self, path: str) -> Inode:
        inode = self.now[path]
        assert inode is not None
        return inode

    def _keep_names(self, folder: str) -> None:
        def inside(name: str) -> bool:
            return name.startswith(folder) and "/" not in name[len(folder) :]

        self.kept = {name: inode for name, inode in self.kept.items() if not inside(name)}
        self.kept.update((name, inode) for name, inode in self.now.items() if inside(name))

    def after_kill(self) -> Iterator[tuple[str, bytes | None]]:
        """Yield the files as they are when the process dies."""
        for name, inode in self.now.items():
            yield name, None if inode is None else inode.now

    def after_power_cut(self) -> Iterator[tuple[str, bytes | None]]:
        """Yield the files as they are when nothing survives but what was synced."""
        for name, inode in self.kept.items():
            folder = name.rpartition("/")[0]
            if not folder or folder in self.kept:
                yield name, None if inode is None else inode.kept


def lay_out(root: Path, files: Iterator[tuple[str, bytes | None]]) -> None:
    """Make a folder of files."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, content in sorted(files):
        if content is None:
            (root / name).mkdir(exist_ok=True)
        else:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(content)


def whole(store: FindingStore) -> list[Any]:
    """Return everything that a store holds, times included, as something that can be compared exactly."""
    found = []
    for project_id in store.list_projects():
        documents = store.list_findings(project_id)
        ids = [document["id"] for document in documents]
        found.append(
            [
                project_id,
                repr(documents),
                repr([store.sighting(project_id, each) for each in ids]),
                repr([store.history(project_id, each) for each in ids]),
                repr(store.runs(project_id)),
                repr(store.rejected_originals(project_id)),
                store.revision(project_id),
            ]
        )
    return found
