"""What a first reading of a report finds out: it is whole, how much is in it, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Survey:
    """The result of reading a report once.

    Attributes:
        total: how many documents it has.
        size: how many bytes it has, unpacked.
        detectors: the detector_ids that it speaks for.
        named: how many bytes the names of tools have.
        tool: for each run of a tool its name, version and the like, as JSON.
        notes: what was left out or can't be told, for people.
        legacy: it has documents that look like those of schema 0.3.0.
        context: what the second reading needs to know, per format.
    """

    total: int = 0
    size: int = 0
    named: int = 0
    detectors: list[str] = field(default_factory=list)
    tool: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    legacy: bool = False
    context: Any = None
