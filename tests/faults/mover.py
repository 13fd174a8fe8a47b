"""A process that backs up, restores or copies, for the tests to kill: what, source URL or file, target URL or file."""

from __future__ import annotations

import pathlib
import sys

from findings_orm import open_storage
from findings_orm.backup import copy_store, restore_backup, write_backup


def main() -> None:
    what, source, target = sys.argv[1:4]
    print("ready", flush=True)
    if what == "backup":
        with open_storage(source) as store:
            write_backup(store, pathlib.Path(target))
    elif what == "restore":
        with open_storage(target) as store:
            restore_backup(store, pathlib.Path(source))
    else:
        with open_storage(source) as one, open_storage(target) as other:
            copy_store(one, other)
    print("done", flush=True)


if __name__ == "__main__":
    main()
