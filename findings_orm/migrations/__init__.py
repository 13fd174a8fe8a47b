"""Migrations: of databases (Alembic), and of documents along the same chain of revisions.

>>> from findings_orm.migrations import SchemaMigrator
>>> [step.revision for step in SchemaMigrator().path("1.0.0", "1.1.0")]
['r0002']
"""

from findings_orm.migrations.connecting import Target
from findings_orm.migrations.database import DatabaseStatus, downgrade, require_current, status, upgrade
from findings_orm.migrations.documents import SchemaMigrator, Step
from findings_orm.migrations.drift import check
from findings_orm.migrations.files import FileMigration
from findings_orm.migrations.planning import MigrationPlan, PlannedStep, plan, script
from findings_orm.migrations.scripts import alembic_ini
from findings_orm.migrations.transaction import make_schema

__all__ = [
    "DatabaseStatus",
    "FileMigration",
    "MigrationPlan",
    "PlannedStep",
    "SchemaMigrator",
    "Step",
    "Target",
    "alembic_ini",
    "check",
    "downgrade",
    "make_schema",
    "plan",
    "require_current",
    "script",
    "status",
    "upgrade",
]
