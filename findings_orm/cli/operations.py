"""`findings doctor` and `findings metrics`: what an operator asks a store."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from findings_orm.cli.cache import CACHE_VARIABLE
from findings_orm.cli.failures import CommandError, ExitCode, UsageError
from findings_orm.cli.options import AsJson, one_of
from findings_orm.cli.root import app, command, session_of
from findings_orm.errors import (
    SchemaVersionError,
    StorageIntegrityError,
    StorageUnavailableError,
    StorageValidationError,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from findings_orm.cli.output import Output
    from findings_orm.cli.session import Session
    from findings_orm.diagnosis import Problem

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
    of_cache = _of_cache(cache) if cache else []
    problems, code = _examined(session, fix=fix)
    problems += of_cache
    if form == "json":
        from findings_orm.cli.render import as_json

        session.out.json([as_json(problem) for problem in problems])
    else:
        _write(session.out, problems)
    failing = LEVELS[: LEVELS.index(fail_on) + 1]
    if code == ExitCode.OK and any(problem.level in failing for problem in problems):
        code = ExitCode.FAILED
    if code != ExitCode.OK:
        raise typer.Exit(code)


def _examined(session: Session, *, fix: bool) -> tuple[list[Problem], ExitCode]:
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


def _of_cache(url: str) -> list[Problem]:
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


def _write(out: Output, problems: list[Problem]) -> None:
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
                _serve(session.out, registry, host, port)
    except KeyboardInterrupt:
        if once:
            raise
        session.out.note("ended")


def _serve(out: Output, registry: CollectorRegistry, host: str, port: int) -> None:
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
