"""All commands of `findings`, in the order in which ``--help`` lists them."""

from findings_orm.cli import (  # noqa: F401, I001  # imported for their commands; the order is that of --help
    imports,
    legacy,
    queries,
    changing,
    exporting,
    quarantine,
    migrating,
    database,
    backups,
    operations,
)
from findings_orm.cli.root import app

__all__ = ["app"]
