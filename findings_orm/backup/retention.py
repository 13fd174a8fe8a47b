"""Which backups of a folder are kept: the newest ones, one a day, one a week, and what these continue."""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

from findings_orm.arguments import check_fields, checked
from findings_orm.backup.chains import manifests_in
from findings_orm.backup.container import is_encrypted, remove_leftovers
from findings_orm.backup.encryption import Key
from findings_orm.backup.manifest import Manifest
from findings_orm.errors import StorageUnavailableError, StorageValidationError

_PERIODS = {"daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m", "yearly": "%Y"}


@dataclass(frozen=True, slots=True)
class Keep:
    """How many backups to keep: the newest ones, and the newest one of each of so many days, weeks (ISO 8601), months
    and years (UTC) that have one.

    Raises:
        StorageValidationError: nothing would be kept, or a number is negative.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        numbers = (self.last, self.daily, self.weekly, self.monthly, self.yearly)
        if min(numbers) < 0 or not any(numbers):
            raise StorageValidationError.of_field("keep", "must keep at least one backup", numbers)


@dataclass(slots=True)
class PruneReport:
    """What was kept and removed (or would be), newest first.

    Attributes:
        kept: path to the reasons: ``last``, ``daily``, ..., ``continued`` for what a kept incremental backup needs.
        removed: the others.
    """

    kept: dict[pathlib.Path, list[str]] = field(default_factory=dict)
    removed: list[pathlib.Path] = field(default_factory=list)


@checked
def prune_backups(
    folder: str | os.PathLike[str], keep: Keep, *, key: Key | None = None, dry_run: bool = False
) -> PruneReport:
    """Remove the backups of a folder that are not to be kept, and what killed backups left. Other files are left alone.

    Args:
        folder: where they are.
        keep: which ones to keep.
        key: opens encrypted ones.
        dry_run: only say what would be removed.

    Raises:
        StorageValidationError: there are encrypted backups that the key does not open.
        StorageUnavailableError: the folder can't be read, or a file not removed.
    """
    place = pathlib.Path(folder)
    try:
        found = manifests_in(place, key)
        _check_all_open(place, {path for path, _ in found.values()})
        report = _choose_backups(found, keep)
        if not dry_run:
            for path in report.removed:
                path.unlink()
            remove_leftovers(place)
    except OSError as error:
        raise StorageUnavailableError(f"{error.filename or place}: {error.strerror or error}") from error
    return report


def _check_all_open(folder: pathlib.Path, readable: set[pathlib.Path]) -> None:
    """Refuse to judge where an encrypted backup may be what another one continues."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path not in readable and not path.name.startswith("."):
            with path.open("rb") as file:
                if is_encrypted(file):
                    rule = f"{path}: is encrypted; pruning takes the secret key, to see what continues what"
                    raise StorageValidationError(rule, field="key")


def _choose_backups(found: dict[str, tuple[pathlib.Path, Manifest]], keep: Keep) -> PruneReport:
    newest_first = sorted(found.values(), key=lambda one: (_creation_time(one[1]), one[1].id), reverse=True)
    reasons: dict[str, list[str]] = {}
    for _, manifest in newest_first[: keep.last]:
        reasons.setdefault(manifest.id, []).append("last")
    for name, form in _PERIODS.items():
        seen: set[str] = set()
        for _, manifest in newest_first:
            period = _creation_time(manifest).strftime(form)
            if period not in seen and len(seen) < getattr(keep, name):
                seen.add(period)
                reasons.setdefault(manifest.id, []).append(name)
    for backup_id in list(reasons):
        since = found[backup_id][1].since
        while since is not None and since.id in found:
            if since.id not in reasons:
                reasons[since.id] = ["continued"]
            since = found[since.id][1].since
    report = PruneReport()
    for path, manifest in newest_first:
        if manifest.id in reasons:
            report.kept[path] = reasons[manifest.id]
        else:
            report.removed.append(path)
    return report


def _creation_time(manifest: Manifest) -> datetime:
    return datetime.fromisoformat(manifest.created_at).astimezone(UTC)
