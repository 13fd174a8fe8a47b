"""``python -m findings_orm.cli``: the same as `findings`."""

from findings_orm.cli import main

main()
