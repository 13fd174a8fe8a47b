"""`findings file`, `cache`, `doctor` and `metrics`: what an operator asks."""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qsl, unquote, urlsplit

import typer

from findings_orm.cli.failures import CommandError, ExitCode, UsageError
from findings_orm.cli.options import AsJson, one_of
from findings_orm.cli.progress import Tracker
from findings_orm.cli.root import app, command, session_of
from findings_orm.errors import (
    SchemaVersionError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
)
from findings_orm.secrecy import shown_url

# -- `findings file`: a store in JSON files ---------------------------------------------------------------


files = typer.Typer(
    name="file",
    help="Check and repair a store in JSON files.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExample:\n  findings --url file:///srv/findings file check\n",
)
app.add_typer(files)

Folder = Annotated[
    Path | None,
    typer.Argument(metavar="FOLDER", help="The store's folder; the one that --url names, if left out."),
]


@command(
    "check", "findings file check ./findings", "findings --url file:///srv/findings file check", group=files
)
def check(ctx: typer.Context, folder: Folder = None) -> None:
    """Say what is wrong with the files of a store. The exit code is 1 when something is."""
    from findings_orm.stores.files.damage import check as check_folder

    session = session_of(ctx)
    path = _store_folder(session.url, folder)
    problems = check_folder(path)
    for problem in problems:
        session.out.line(problem)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise CommandError(f"{path} has {count}", hint="Save what is intact with 'findings file repair'.")
    session.out.line(f"{path} is as it should be")


@command(
    "repair",
    "findings file repair ./findings",
    "findings --url file:///srv/findings file repair",
    group=files,
)
def repair(ctx: typer.Context, folder: Folder = None) -> None:
    """Make a damaged store work again, with everything that is intact. The files as they were are kept beside it.

    On a file system without locks: --url 'file:///srv/findings?lock=soft'.
    """
    from findings_orm.stores.files import repair as repair_folder

    session = session_of(ctx)
    path = _store_folder(session.url, folder)
    lock = dict(parse_qsl(urlsplit(session.url).query)).get("lock", "hard")
    found = repair_folder(path, lock=lock)  # type: ignore[arg-type]  # it refuses other words
    with session.out.report():
        for line in found or [f"nothing to do: {path} is as it should be"]:
            session.out.line(line)


def _store_folder(url: str, given: Path | None) -> Path:
    if given is not None:
        return given
    parts = urlsplit(url)
    if parts.scheme.lower() != "file" or not parts.path:
        raise UsageError(
            f"{shown_url(url)} is no store in files", hint="Name its folder, or --url file:///FOLDER"
        )
    return Path(unquote(parts.path))


# -- `findings cache`: the Redis that applications put in front of a store --------------------------------


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
    from findings_orm.stores.cache.maintenance import cache_status

    out = session_of(ctx).out
    try:
        with Tracker(out, "counting keys") as tracker:
            found = cache_status(url, namespace=namespace, progress=tracker.add)
    except StorageValidationError as error:
        raise UsageError(str(error)) from error
    out.answer(form, found, lambda: _write_cache_status(out, found))


def _write_cache_status(out: Output, found: CacheStatus) -> None:
    from findings_orm.stores.cache.options import SIGN, UNSIGNED

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


# -- `findings doctor` and `findings metrics`: what an operator asks a store ------------------------------


if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from findings_orm.cli.output import Output
    from findings_orm.cli.session import Session
    from findings_orm.diagnosis import Problem
    from findings_orm.stores.cache.maintenance import CacheStatus

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
PORT = 9464


@command(
    "doctor",
    "findings doctor",
    "findings doctor --fix",
    "findings doctor --fail-on error --format json",
    group=app,
)
def doctor(
    ctx: typer.Context,
    form: AsJson = "text",
    fail_on: Annotated[
        str,
        typer.Option(
            "--fail-on", metavar="LEVEL", help="From which level on the exit code is 1: error, warning, note."
        ),
    ] = "warning",
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="Take files of the storage from users other than their owner and a group that writes.",
        ),
    ] = False,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache",
            envvar=CACHE_VARIABLE,
            metavar="URL",
            help="A Redis that caches it; its entries are examined too.",
        ),
    ] = None,
) -> None:
    """Examine the storage: schema, indexes, space, statistics, settings, orphans, permissions. Says what to do.

    Without --fix it changes nothing.

    The exit code is 1 when there are errors or warnings, 4 when the schema is not that of this release.
    """
    from findings_orm.diagnosis import LEVELS

    one_of("--fail-on", fail_on, LEVELS)
    session = session_of(ctx)
    of_cache = _examine_cache(cache) if cache else []
    problems, code = _examine_store(session, fix=fix)
    problems += of_cache
    session.out.answer(form, problems, lambda: _write_problems(session.out, problems))
    failing = LEVELS[: LEVELS.index(fail_on) + 1]
    if code == ExitCode.OK and any(problem.level in failing for problem in problems):
        code = ExitCode.FAILED
    if code != ExitCode.OK:
        raise typer.Exit(code)


def _examine_store(session: Session, *, fix: bool) -> tuple[list[Problem], ExitCode]:
    """Return the problems of a store; those that keep it from being opened are problems too."""
    from findings_orm.decorate import diagnosable
    from findings_orm.diagnosis import Problem

    try:
        with session.store() as store:
            for line in diagnosable(store).mend() if fix else ():
                session.out.note(f"fixed {line}", always=True)
            return diagnosable(store).diagnose(), ExitCode.OK
    except SchemaVersionError as error:
        advice = "Make a backup, then bring the database to this release: 'findings db upgrade'."
        return [Problem("error", "schema-version", str(error), advice)], ExitCode.VERSION
    except StorageIntegrityError as error:
        advice = "Keep a copy, then restore a backup ('findings restore'); a store in files: 'findings file repair'."
        return [Problem("error", "damage", str(error), advice)], ExitCode.FAILED


def _examine_cache(url: str) -> list[Problem]:
    """Return the problems of a cache; that it can't be reached is one of them.

    Raises:
        UsageError: the URL is none of a Redis.
    """
    from findings_orm.diagnosis import Problem
    from findings_orm.stores.cache.maintenance import cache_status
    from findings_orm.stores.cache.options import unsigned_problem

    try:
        found = cache_status(url)
    except StorageUnavailableError as error:
        return [Problem("warning", "cache", str(error), "Start it, or name another one with --cache.")]
    except StorageValidationError as error:
        raise UsageError(str(error)) from error
    return [unsigned_problem(url)] if found.unsigned else []


def _write_problems(out: Output, problems: list[Problem]) -> None:
    for problem in problems:
        out.line((f"{problem.level:8}", _STYLES[problem.level]), f"{problem.check}: {problem.message}")
        out.line(f"         -> {problem.advice}")
    counts = Counter(problem.level for problem in problems)
    said = ", ".join(f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items())
    out.line(said or "all is well")


@command("metrics", "findings metrics --port 9464", "findings metrics --once > findings.prom", group=app)
def metrics(
    ctx: typer.Context,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Where to listen; 0 takes a free port.")
    ] = PORT,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="The address to listen on; 0.0.0.0 is every one.")
    ] = "127.0.0.1",
    every: Annotated[
        float,
        typer.Option("--every", min=0, metavar="SECONDS", help="How long figures are kept between scrapes."),
    ] = 60.0,
    once: Annotated[
        bool, typer.Option("--once", help="Write the metrics to standard output and end.")
    ] = False,
) -> None:
    """Serve figures of the storage to Prometheus under /metrics: findings, size, schema. Ctrl-C or SIGTERM ends it.

    Ended like that the exit code is 0, the store is closed and the port is free.
    What applications do is counted in them: docs/metrics.md.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest

        from findings_orm.metrics import MetricsAdapter
    except ImportError as error:
        raise CommandError(f"{error}", hint="pip install 'findings-orm[metrics]'") from error
    session = session_of(ctx)
    registry = CollectorRegistry()
    try:
        with session.store() as inner, MetricsAdapter(inner, registry=registry, figures_every=every):
            if once:
                with session.out.file() as stream:
                    stream.write(generate_latest(registry).decode())
            else:
                _serve_metrics(session.out, registry, host, port)
    except KeyboardInterrupt:
        if once:
            raise
        session.out.note("ended")


def _serve_metrics(out: Output, registry: CollectorRegistry, host: str, port: int) -> None:
    """Serve the metrics until something interrupts."""
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise CommandError(
            f"can't listen on {host}:{port}: {error.strerror or error}",
            hint="Name another one with --port or --host.",
        ) from error
    try:
        out.note(f"serving http://{host}:{server.server_port}/metrics; Ctrl-C ends it", always=True)
        thread.join()
    finally:
        server.shutdown()
        server.server_close()
