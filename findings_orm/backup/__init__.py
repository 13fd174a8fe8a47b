"""Backup, restore, verification and copies of stores: findings with everything that is known of them.

Needs the extra ``backup`` (zstd, and pyrage for encrypted files). The format is specified in docs/backup-format.md.
"""

from findings_orm.backup.copying import CopyReport, copy_store
from findings_orm.backup.encryption import Key
from findings_orm.backup.manifest import Manifest
from findings_orm.backup.merging import Conflict
from findings_orm.backup.restoring import RestoreReport, restore_backup
from findings_orm.backup.retention import Keep, PruneReport, prune_backups
from findings_orm.backup.salvaging import SalvageReport, salvage_backup
from findings_orm.backup.verifying import VerifyReport, verify_backup
from findings_orm.backup.writing import BackupReport, write_backup

__all__ = [
    "BackupReport",
    "Conflict",
    "CopyReport",
    "Keep",
    "Key",
    "Manifest",
    "PruneReport",
    "RestoreReport",
    "SalvageReport",
    "VerifyReport",
    "copy_store",
    "prune_backups",
    "restore_backup",
    "salvage_backup",
    "verify_backup",
    "write_backup",
]
