"""Findings in JSON files that people can read and compare. The layout is specified in ``docs/files.md``.

From the outside in: `storage` is the adapter (threads, processes, units of work), `loading` and `folding` turn files
into the working copy and back, `edits` takes over what people changed by hand, `journal` and `snapshot` are the two
kinds of files, `working_copy` is what a unit of work reads and changes, `tree` is where every change of a file goes through.
"""

from findings_orm.stores.files.damage import repair
from findings_orm.stores.files.storage import FileStorageAdapter, open_url

__all__ = ["FileStorageAdapter", "open_url", "repair"]
