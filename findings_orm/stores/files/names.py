"""Names of files and folders: safe on every file system, readable where the project id allows it."""

from __future__ import annotations

import hashlib
import re
import unicodedata

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
