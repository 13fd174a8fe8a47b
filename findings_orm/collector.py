"""Python's search for reference cycles, kept off work that makes none."""

from __future__ import annotations

import gc
from collections.abc import Iterator

from findings_orm.process import block


@block
def no_collection() -> Iterator[bool]:
    """Pause the search for reference cycles, and say whether there was one: the many small dicts and lists of documents
    have none, and walking them again and again costs a third of an import, and two thirds of reading a long list."""
    if not gc.isenabled():
        yield False
        return
    gc.disable()
    try:
        yield True
    finally:
        gc.enable()
