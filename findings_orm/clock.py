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


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def uuid7() -> str:
    """Return a new UUID version 7 as text, larger than every one that this process made before."""
    return uuid7s(1)[0]


def uuid7s(count: int) -> list[str]:
    """Return new UUIDs version 7 as text, each larger than every one that this process made before.

    The 12 bits after the milliseconds hold their fraction (RFC 9562 section 6.2, method 3); within one
    step of that clock the value is counted up.
    """
    with _lock:
        nanoseconds = time.time_ns()
        ticks = (nanoseconds // 1_000_000 << 12) | (nanoseconds % 1_000_000 * 4096 // 1_000_000)
        first = max(ticks, _last[0] + 1)
        _last[0] = first + count - 1
    random = os.urandom(8 * count).hex()
    made = []
    for n in range(count):
        clock = f"{first + n:015x}"
        start = 16 * n
        made.append(
            f"{clock[:8]}-{clock[8:12]}-7{clock[12:]}-{_VARIANT[random[start]]}"
            f"{random[start + 1 : start + 4]}-{random[start + 4 : start + 16]}"
        )
    return made


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
