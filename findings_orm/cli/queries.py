"""`findings list`, `show`, `history`, `summary`, `runs`, `diff`, `projects`: questions to the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from findings_orm.cli.failures import NotFoundError, UsageError
from findings_orm.cli.options import AsJson, Project, one_of, parse_time, split
from findings_orm.cli.root import command, session_of
from findings_orm.errors import StorageValidationError

# -- `findings list`: questions to the store, answered as a table or as a file ----------------------------


if TYPE_CHECKING:
    from findings_orm.cli.output import Output
    from findings_orm.finding import FindingDocument
    from findings_orm.port import FindingStore
    from findings_orm.query import FindingQuery, Page

DEFAULT_LIMIT = 50
_ALL_PAGE = 1_000

_OPTIONS = {"detector_id": "--detector", "rule_id": "--rule", "cve_id": "--cve", "run_id": "--run"}
"""The options of those fields of a query that are called otherwise."""


@command(
    "list",
    "findings list --project acme-api --min-severity high --status open",
    "findings list --detector 'bandit*' --sort -severity --limit 10",
    "findings list --cwe 79,89 --from 2026-01-01 --all --format csv > cwe.csv",
    "findings list --text 'sql injection' --sort -relevance",
)
def list_(
    ctx: typer.Context,
    *,
    project: Project = None,
    severity: Annotated[
        list[str] | None,
        typer.Option(
            "--severity",
            "-s",
            metavar="S",
            help="info, low, medium, high, critical; repeat, or 'high,critical'.",
        ),
    ] = None,
    min_severity: Annotated[
        str | None, typer.Option("--min-severity", metavar="S", help="This severity or a higher one.")
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status",
            metavar="S",
            help="open, triaged, in_progress, resolved, false_positive, risk_accepted, archived.",
        ),
    ] = None,
    detector: Annotated[
        list[str] | None, typer.Option("--detector", metavar="D", help="A detector; 'name*' is a prefix.")
    ] = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", metavar="R", help="A rule, template or check.")
    ] = None,
    cwe: Annotated[list[str] | None, typer.Option("--cwe", metavar="N", help="As 79 or CWE-79.")] = None,
    cve: Annotated[list[str] | None, typer.Option("--cve", metavar="CVE", help="As CVE-2021-44228.")] = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="RUN", help="The run that first reported it, by id or number."),
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag.")] = None,
    resource_prefix: Annotated[
        str, typer.Option("--resource-prefix", metavar="TEXT", help="How the resource starts.")
    ] = "",
    created_from: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="TIME", help="Created then or later: 2026-01-31 or a full time in UTC."
        ),
    ] = None,
    created_before: Annotated[
        str | None, typer.Option("--before", metavar="TIME", help="Created before then.")
    ] = None,
    text: Annotated[
        str,
        typer.Option(
            "--text", metavar="WORDS", help="All words occur in title, resource, detector, rule or snippet."
        ),
    ] = "",
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            metavar="FIELD",
            help="created_at, severity, detector_id, resource, title; with --text also relevance. -FIELD: descending.",
        ),
    ] = "created_at",
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", metavar="N", help=f"Size of a page (default {DEFAULT_LIMIT})."),
    ] = None,
    cursor: Annotated[
        str | None,
        typer.Option("--cursor", metavar="CURSOR", help="Where the page before ended, of the same query."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All findings instead of one page.")] = False,
    form: Annotated[
        str,
        typer.Option(
            "--format", "-f", metavar="FORMAT", help="table, or one that 'findings formats' exports."
        ),
    ] = "table",
) -> None:
    """List findings that match all the filters.

    Filters may be repeated: any of the values matches. The format json is one object with
    "items" and "next_cursor" (null on the last page).
    """
    from findings_orm.query import FindingQuery

    if form not in ("table", "json"):
        from findings_orm.formats import EXPORT_FORMATS

        one_of("--format", form, ("table", *EXPORT_FORMATS))
    if everything and limit is not None:
        raise UsageError("--all and --limit exclude each other")
    times = {
        "created_from": parse_time("--from", created_from) if created_from is not None else None,
        "created_before": parse_time("--before", created_before) if created_before is not None else None,
    }
    numbers = _cwe_numbers(split(cwe))
    words: dict[str, Any] = {  # `FindingQuery` says what they may be
        "severity": split(severity),
        "min_severity": min_severity,
        "status": split(status),
        "sort": sort,
    }
    page_size = _ALL_PAGE if everything else DEFAULT_LIMIT if limit is None else limit
    session = session_of(ctx)
    with session.store() as store:
        project_id = session.project(store, project)
        try:
            query = FindingQuery(
                project_id=project_id,
                **words,
                detector_id=detector or (),
                rule_id=rule or (),
                cwe=numbers,
                cve_id=tuple(name.upper() for name in split(cve)),
                run_id=_run_ids(store, project_id, run),
                tag=tag or (),
                resource_prefix=resource_prefix,
                created_from=times["created_from"],
                created_before=times["created_before"],
                text=text,
                limit=page_size,
                cursor=cursor,
            )
        except StorageValidationError as error:
            name = error.field or "query"
            option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
            raise UsageError(f"{option}: {str(error).partition(': ')[2]}") from error
        _answer_query(session.out, store, query, form, everything=everything)


def _cwe_numbers(values: tuple[str, ...]) -> tuple[int, ...]:
    numbers = []
    for value in values:
        digits = value.upper().removeprefix("CWE-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
            raise UsageError(f"--cwe: must be a number, as 79 or CWE-79 (got {value!r})")
        numbers.append(int(digits))
    return tuple(numbers)


def _run_ids(store: FindingStore, project_id: str, given: list[str] | None) -> tuple[str, ...]:

    if not given:
        return ()
    known = store.runs(project_id)
    return tuple(named_run(known, project_id, name).id for name in given)


def _answer_query(
    out: Output, store: FindingStore, query: FindingQuery, form: str, *, everything: bool
) -> None:
    """Write what the store has for the query."""
    pages = _query_pages(store, query, everything=everything)
    if form == "json":
        with out.file() as stream:
            _write_json(stream, pages)
    elif form == "table":
        _write_table(out, store, query, pages)
    else:
        from findings_orm.formats import write_report

        last: list[str | None] = []
        with out.file() as stream:
            write_report(_page_items(pages, last), stream, form)
        if last and last[-1] is not None:
            out.note(f"there are more: add --all, or for the next page --cursor {last[-1]}")


def _query_pages(store: FindingStore, query: FindingQuery, *, everything: bool) -> Iterator[Page]:
    """Yield the page of the query, or that and all that follow."""
    from dataclasses import replace

    page = store.find(query)
    yield page
    while everything and page.next_cursor is not None:
        page = store.find(replace(query, cursor=page.next_cursor))
        yield page


def _page_items(pages: Iterator[Page], last: list[str | None]) -> Iterator[FindingDocument]:
    for page in pages:
        last.append(page.next_cursor)
        yield from page.items


def _write_json(stream: TextIO, pages: Iterator[Page]) -> None:
    """Write one JSON object, item by item: a million findings need no memory."""
    stream.write('{"items": [')
    separator = "\n"
    following = None
    for page in pages:
        following = page.next_cursor
        for document in page.items:
            stream.write(separator + json.dumps(document, ensure_ascii=False))
            separator = ",\n"
    stream.write(f'\n], "next_cursor": {json.dumps(following)}}}\n')


def _write_table(out: Output, store: FindingStore, query: FindingQuery, pages: Iterator[Page]) -> None:
    from findings_orm.cli.render import findings_grid

    shown = 0
    following = None
    for page in pages:
        following = page.next_cursor
        shown += len(page.items)
        if page.items:
            out.grid(findings_grid(page.items))
    if not shown:
        out.note(f"no findings of {query.project_id} match")
    if following is not None:
        total = store.count(query)
        out.line("")
        out.line(f"{shown:,} of {total:,} findings. For the next page add: --cursor {following}")


# -- `findings show`, `history` and `summary`: one finding, and a project at a glance ---------------------


FindingId = Annotated[
    str, typer.Argument(metavar="ID", help="The id of a finding, as 'findings list' shows it.")
]


@command(
    "show",
    "findings show 01980000-0000-7000-8000-000000000001",
    "findings show 01980000-0000-7000-8000-000000000001 --format json",
)
def show(ctx: typer.Context, finding_id: FindingId, project: Project = None, form: AsJson = "text") -> None:
    """Show everything of one finding. The format json is the document itself."""
    from findings_orm.cli.render import write_finding

    session = session_of(ctx)
    with session.store() as store:
        project_id = session.project(store, project)
        document = store.get_finding(project_id, finding_id)
        sighting = store.sighting(project_id, finding_id)
    session.out.answer(form, document, lambda: write_finding(session.out, document, sighting))


@command("history", "findings history 01980000-0000-7000-8000-000000000001")
def history(
    ctx: typer.Context, finding_id: FindingId, project: Project = None, form: AsJson = "text"
) -> None:
    """Show what happened to a finding.

    Oldest first; a purged finding still has its history.
    """
    from findings_orm.cli.render import history_grid

    session = session_of(ctx)
    with session.store() as store:
        project_id = session.project(store, project)
        events = store.history(project_id, finding_id)
        if not events:
            store.get_finding(project_id, finding_id)
    session.out.answer_rows(form, events, history_grid, "nothing has changed since it was created")


@command("summary", "findings summary --project acme-api", "findings summary --format json")
def summary(ctx: typer.Context, project: Project = None, form: AsJson = "text") -> None:
    """Show a project at a glance.

    Counts by severity, status, detector and CWE, and the resources with most findings.
    """
    from findings_orm.cli.render import write_summary

    session = session_of(ctx)
    with session.store() as store:
        counts = store.summarize(session.project(store, project))
    session.out.answer(form, counts, lambda: write_summary(session.out, counts))


# -- `findings runs`, `diff`, `projects`: what was imported, and when -------------------------------------


if TYPE_CHECKING:
    from findings_orm.port import Run


@command("runs", "findings runs --project acme-api")
def runs(ctx: typer.Context, project: Project = None, form: AsJson = "text") -> None:
    """List the imports of a project, oldest first."""
    from findings_orm.cli.render import runs_grid

    session = session_of(ctx)
    with session.store() as store:
        found = store.runs(session.project(store, project))
    session.out.answer_rows(form, found, runs_grid, "no runs yet")


@command("diff", "findings diff 1 2 --project acme-api", "findings diff 3 4 --format json")
def diff(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(metavar="RUN_A", help="The earlier run: its number or id.")],
    b: Annotated[str, typer.Argument(metavar="RUN_B", help="The later run.")],
    project: Project = None,
    form: AsJson = "text",
) -> None:
    """Show what changed from one run to another.

    That is, findings that only one of them saw.
    """
    from findings_orm.cli.render import write_diff

    session = session_of(ctx)
    with session.store() as store:
        project_id = session.project(store, project)
        known = store.runs(project_id)
        first, second = (named_run(known, project_id, name) for name in (a, b))
        difference = store.diff_runs(project_id, first.id, second.id)
    session.out.answer(form, difference, lambda: write_diff(session.out, difference))


def named_run(known: Sequence[Run], project_id: str, name: str) -> Run:
    """Return the run that a number or an id names.

    Raises:
        NotFoundError: there is none.
    """
    for run in known:
        if name.lower() == run.id or name == str(run.number):
            return run
    hint = (
        f"Its runs have the numbers {known[0].number} to {known[-1].number}"
        if known
        else "It has no runs yet"
    )
    raise NotFoundError(f"project {project_id!r} has no run {name!r}", hint=f"{hint} (findings runs).")


@command("projects", "findings projects", "findings projects --format json")
def projects(ctx: typer.Context, form: AsJson = "text") -> None:
    """List the projects."""
    session = session_of(ctx)
    with session.store() as store:
        known = store.list_projects()
    session.out.answer_lines(form, known, known, "no projects yet")
