"""Backup, restore and verification of stores: findings with everything that is known of them, in one file.

Needs the extra ``backup`` (zstd, and pyrage for encrypted files). The format is specified in docs/backup-format.md.
"""

from findings_orm.backup.copying import CopyReport, copy_store
from findings_orm.backup.encryption import Key
from findings_orm.backup.manifest import Manifest
from findings_orm.backup.restoring import RestoreReport, restore_backup
from findings_orm.backup.verifying import VerifyReport, verify_backup
from findings_orm.backup.writing import BackupReport, write_backup

__all__ = [
    "BackupReport",
    "CopyReport",
    "Key",
    "Manifest",
    "RestoreReport",
    "VerifyReport",
    "copy_store",
    "restore_backup",
    "verify_backup",
    "write_backup",
]
