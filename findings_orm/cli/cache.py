"""`findings cache`: the Redis that applications put in front of a store."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from findings_orm.cli.failures import UsageError
from findings_orm.cli.options import AsJson
from findings_orm.cli.progress import Tracker
from findings_orm.cli.root import app, command, session_of
from findings_orm.errors import StorageValidationError

CACHE_VARIABLE = "FINDINGS_CACHE_URL"

cache = typer.Typer(
    name="cache",
    help="Look at the Redis that applications put in front of a store, and empty it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExample:\n  findings cache status --cache redis://localhost:6379/0\n",
)
app.add_typer(cache)

Url = Annotated[
    str,
    typer.Option("--cache", envvar=CACHE_VARIABLE, metavar="URL", help="The Redis.", show_envvar=True),
]
Namespace = Annotated[
    str, typer.Option("--namespace", metavar="NAME", help="The first part of all keys, where it was changed.")
]


@command(
    "status",
    "findings cache status --cache redis://localhost:6379/0",
    "findings cache status --cache redis://localhost:6379/0 --format json",
    group=cache,
)
def status(ctx: typer.Context, url: Url, namespace: Namespace = "findings", form: AsJson = "text") -> None:
    """Show whether Redis answers and what it holds. It counts keys, which takes a while where there are millions."""
    from findings_orm.cli.render import as_json
    from findings_orm.stores.cache.maintenance import cache_status
    from findings_orm.stores.cache.options import SIGN, UNSIGNED

    out = session_of(ctx).out
    try:
        with Tracker(out, "counting keys") as tracker:
            found = cache_status(url, namespace=namespace, progress=tracker.add)
    except StorageValidationError as error:
        raise UsageError(str(error)) from error
    if form == "json":
        out.json(as_json(found))
        return
    limit = f"of {found.memory_limit:,}" if found.memory_limit else "without a limit"
    out.line(f"cache      {found.url}")
    out.line(f"server     {found.server}")
    out.line(f"memory     {found.memory:,} bytes {limit}, {found.eviction}")
    out.line(f"listeners  {found.listeners}")
    out.line(f"entries    {sum(found.entries.values())}")
    for operation, count in found.entries.items():
        out.line(f"  {operation}  {count}")
    if not found.memory_limit or found.eviction == "noeviction":
        out.note("set maxmemory and maxmemory-policy allkeys-lru, so that the cache can't fill the server")
    if found.unsigned:
        out.note(f"{UNSIGNED}. {SIGN}")


@command(
    "secret", "findings cache secret", 'export FINDINGS_CACHE_SECRET="$(findings cache secret)"', group=cache
)
def make_secret(ctx: typer.Context) -> None:
    """Make a secret for a cache, and show it. It is new each time, and kept nowhere.

    With one, a cache believes only the entries that it made itself; without, everything that somebody writes into the
    Redis. Keep it where you keep passwords, and give it to every process. In an application:
    open_storage(url, cache=redis_url, cache_options={"secret": os.environ["FINDINGS_CACHE_SECRET"].encode()})
    """
    session_of(ctx).out.line(secrets.token_hex(32))


@command(
    "clear",
    "findings cache clear --cache redis://localhost:6379/0",
    "findings cache clear --cache redis://localhost:6379/0 --project acme-api",
    group=cache,
)
def clear(
    ctx: typer.Context,
    url: Url,
    project: Annotated[
        str | None, typer.Option("--project", "-p", metavar="NAME", help="Only what is kept of this project.")
    ] = None,
    namespace: Namespace = "findings",
) -> None:
    """Remove all entries, or those of a project. Nothing is lost by it: applications ask the store again."""
    from findings_orm.stores.cache.maintenance import clear_cache

    out = session_of(ctx).out
    try:
        with Tracker(out, "removing keys") as tracker:
            count = clear_cache(url, namespace=namespace, project_id=project, progress=tracker.add)
    except StorageValidationError as error:
        raise UsageError(str(error)) from error
    with out.report():
        out.line(f"removed {count} key{'' if count == 1 else 's'}")
