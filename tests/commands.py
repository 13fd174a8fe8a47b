"""All commands and groups of `findings`, as its own tree names them: a new one is tested without being listed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from findings_orm.cli.app import app

APP: Any = typer.main.get_command(app)


def _walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, group
    for name, each in getattr(group, "commands", {}).items():
        yield from _walk(each, (*path, name))


GROUPS_AND_COMMANDS: dict[tuple[str, ...], Any] = dict(_walk(APP, ()))
COMMANDS = {name: each for name, each in GROUPS_AND_COMMANDS.items() if not hasattr(each, "commands")}
