"""Time-ordered UUIDs (version 7, RFC 9562 section 5.7), the clock, and the numbers of revisions."""

from __future__ import annotations

import os
import secrets
import threading
import time
from datetime import UTC, datetime

from findings_orm.finding import format_time

_lock = threading.Lock()
_last = [0]


def uuid7() -> str:
    """Return a new UUID version 7 as text, larger than every one that this process made before.

    The 12 bits after the milliseconds hold their fraction (RFC 9562 section 6.2, method 3); within one
    step of that clock the value is counted up.
    """
    with _lock:
        nanoseconds = time.time_ns()
        ticks = (nanoseconds // 1_000_000 << 12) | (nanoseconds % 1_000_000 * 4096 // 1_000_000)
        _last[0] = ticks = max(ticks, _last[0] + 1)
    random = int.from_bytes(os.urandom(8), "big") & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
    text = f"{ticks >> 12:012x}7{ticks & 0xFFF:03x}{random:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def first_revision() -> int:
    """Return the first revision of a project: 2**32 to 2**61, by chance."""
    return secrets.randbelow(2**61 - 2**32) + 2**32


def revision_step() -> int:
    """Return by how much a write makes a revision larger: 1 to 2**31, by chance.

    So a revision names one state of one project for ever: it does not come back when the project is deleted and made
    again, when a database is restored or a crash of its server loses the last writes, nor in a copy of the database. A column
    of 64 bits has room for more than 3,000,000,000 writes.
    """
    return secrets.randbelow(2**31) + 1


def now() -> str:
    """Return the present time in the canonical form of `created_at`."""
    return format_time(datetime.now(UTC))
