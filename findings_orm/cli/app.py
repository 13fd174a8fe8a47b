"""All commands of `findings`, in the order in which ``--help`` lists them."""

from findings_orm.cli import (  # noqa: F401, I001  # imported for their commands; the order is that of --help
    imports,
    legacy,
    listing,
    reading,
    changing,
    runs,
    exporting,
    quarantine,
    migrating,
    database,
    text_index,
    access,
    files,
    backups,
    copying,
    cache,
    operating,
)
from findings_orm.cli.root import app

__all__ = ["app"]
