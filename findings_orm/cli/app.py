"""All commands of `findings`, in the order in which ``--help`` lists them."""

from findings_orm.cli.root import app

__all__ = ["app"]
