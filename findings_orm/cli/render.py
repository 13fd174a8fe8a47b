"""Data as text: findings, runs, histories, summaries and reports as tables and lines. No command logic."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from findings_orm.cli.output import (
    Column,
    Grid,
    Output,
    no_style,
    safe_lines,
    safe_text,
    severity_style,
    shorten_text,
)
from findings_orm.finding import FindingDocument
from findings_orm.port import Event, IngestReport, RejectedOriginal, Run, RunDiff, Sighting
from findings_orm.query import Summary

SHOWN_REFUSALS = 20
_SNIPPET_LINES = 20
_LONGEST_BAR = 40

FINDING_COLUMNS = (
    Column("SEVERITY", style=severity_style),
    Column("ID"),
    Column("STATUS", drop=2),
    Column("DETECTOR", least=12, drop=3),
    Column("RULE", least=10, drop=4),
    Column("TITLE", least=16),
    Column("RESOURCE", least=14, drop=1),
)


def resource_with_line(document: Mapping[str, Any]) -> str:
    """Return the resource of a finding, with the line if there is one."""
    line = (document.get("location") or {}).get("start_line")
    resource = document["resource"] or "(project)"
    return f"{resource}:{line}" if line else str(resource)


def findings_grid(documents: Iterable[FindingDocument]) -> Grid:
    """Return findings as a table, one a row."""
    return Grid(
        FINDING_COLUMNS,
        [
            (
                document["severity"],
                document["id"],
                document["status"],
                document["detector_id"],
                document["rule_id"] or "",
                document["title"],
                resource_with_line(document),
            )
            for document in documents
        ],
    )


def write_finding(out: Output, document: FindingDocument, sighting: Sighting) -> None:
    """Write everything of one finding for a person."""
    severity = document["severity"]
    out.line((severity.upper(), severity_style(severity)), "  ", (document["title"], "bold"))
    for name, value in _finding_fields(document, sighting):
        out.line((f"  {name:<13} ", "dim"), value)
    snippet = (document["location"] or {}).get("snippet")
    if snippet:
        _write_block(out, "snippet", snippet)
    for name, members in (("evidence", document["evidence"]), ("provenance", document["provenance"])):
        if members:
            _write_block(out, name, json.dumps(members, indent=2, ensure_ascii=False), limit=0)


def _finding_fields(document: FindingDocument, sighting: Sighting) -> Iterable[tuple[str, str]]:
    values: dict[str, Any] = {**document}
    for name in ("id", "project_id", "status", "detector_id", "rule_id"):
        if values[name]:
            yield name, str(values[name])
    yield "resource", resource_with_line(document)
    location = document["location"] or {}
    path = location.get("path")
    if path and path != document["resource"]:
        yield "path", path
    if location.get("end_line"):
        yield "lines", f"{location['start_line']} to {location['end_line']}"
    for name in ("confidence", "cvss", "run_id", "fingerprint", "created_at"):
        if values[name] is not None:
            yield name, str(values[name])
    for name in ("cwe_ids", "owasp", "cve_ids", "mitre_attack", "tags", "poc_links"):
        if values[name]:
            yield name, ", ".join(map(str, values[name]))
    yield "first seen", sighting.first_seen
    yield (
        "last seen",
        f"{sighting.last_seen} {f'in run {sighting.last_run}' if sighting.last_run else ''}".strip(),
    )


def _write_block(out: Output, name: str, text: str, *, limit: int = _SNIPPET_LINES) -> None:
    lines = safe_lines(text)
    out.line((f"  {name}", "dim"))
    shown = lines[:limit] if limit else lines
    for line in shown:
        out.line(f"    {line}")
    if len(shown) < len(lines):
        out.line((f"    ... {len(lines) - len(shown)} more lines (--format json has them)", "dim"))


def write_summary(out: Output, summary: Summary) -> None:
    """Write the counts of a project, severities as bars."""
    out.line((summary.project_id, "bold"), f": {summary.total:,} findings")
    out.line("")
    _write_bars(out, "severity", summary.by_severity, severity_style)
    _write_bars(out, "status", {name: count for name, count in summary.by_status.items() if count})
    _write_bars(out, "detector", summary.by_detector)
    cwes = dict(list(summary.by_cwe.items())[:10])
    title = "CWE" if len(cwes) == len(summary.by_cwe) else f"CWE (10 of {len(summary.by_cwe)})"
    _write_bars(out, title, {f"CWE-{number}": count for number, count in cwes.items()})
    _write_bars(
        out, "top resources", {name or "(project)": count for name, count in summary.top_resources.items()}
    )


def _write_bars(
    out: Output, title: str, counts: Mapping[str, int], style: Callable[[str], str] = no_style
) -> None:
    if not counts:
        return
    labels = {name: safe_text(name) for name in counts}
    space = max(20, out.width - 30)
    wide = min(max(map(len, labels.values())), space)
    digits = max(len(f"{count:,}") for count in counts.values())
    longest = max(4, min(_LONGEST_BAR, out.width - wide - digits - 6))
    most = max(counts.values()) or 1
    out.line((title, "bold"))
    for name, count in counts.items():
        bar = out.bar_character * (-(-count * longest // most))
        label = shorten_text(labels[name], space)
        out.line(
            (f"  {label:<{wide}}", style(name)), f"  {count:>{digits},}  ", (bar, bar_style(style(name)))
        )
    out.line("")


def bar_style(style: str) -> str:
    """Return the style of a bar beside a label of `style`: its colour alone."""
    return {"bold white on red": "red", "": "blue"}.get(style, style)


def history_grid(events: Iterable[Event]) -> Grid:
    """Return the history of a finding as a table."""
    columns = (
        Column("AT"),
        Column("ACTOR", least=8),
        Column("KIND"),
        Column("CHANGES", least=20),
        Column("COMMENT", least=10, drop=1),
    )
    return Grid(
        columns, [(whole_seconds(e.at), e.actor, e.kind, _describe_changes(e), e.comment) for e in events]
    )


def _describe_changes(event: Event) -> str:
    """Return the changes of an event in words; values of other shapes than old and new are shown as they are."""
    parts = []
    for name, change in event.changes.items():
        if isinstance(change, Sequence) and not isinstance(change, str) and len(change) == 2:
            parts.append(f"{name}: {_brief_value(change[0])} -> {_brief_value(change[1])}")
        else:
            parts.append(f"{name}: {_brief_value(change)}")
    return "; ".join(parts)


def _brief_value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return shorten_text(text, 60)


def runs_grid(runs: Iterable[Run]) -> Grid:
    """Return the imports of a project as a table."""
    counted = {"created": 0, "updated": 3, "unchanged": 2, "reopened": 2, "resolved": 0, "rejected": 4}
    columns = (
        Column("RUN", right=True),
        Column("ID", drop=5),
        Column("STARTED"),
        *(Column(name.upper(), right=True, drop=drop) for name, drop in counted.items()),
        Column("DETECTORS", least=10, drop=1),
    )
    rows = [
        (
            run.number,
            run.id,
            whole_seconds(run.started_at),
            *(run.counts.get(name, 0) for name in counted),
            ", ".join(run.detectors),
        )
        for run in runs
    ]
    return Grid(columns, rows)


def whole_seconds(time: str) -> str:
    """Return a canonical time without the fraction of a second."""
    return f"{time[:19]}Z"


def write_diff(out: Output, diff: RunDiff) -> None:
    """Write what changed between two runs."""
    for title, documents in (("added", diff.added), ("removed", diff.removed)):
        out.line((f"{title}: {len(documents):,}", "bold"))
        if documents:
            out.grid(findings_grid(documents))
    out.line((f"in both: {diff.common:,}", "bold"))


def write_report(out: Output, name: str, project_id: str, report: IngestReport) -> None:
    """Write what one import did."""
    out.line((name, "bold"), f" into {project_id}, run {report.run_id}{_report_remark(report)}")
    out.line("  " + "  ".join(f"{key} {count:,}" for key, count in report.counts().items()))
    for refusal in report.rejected[:SHOWN_REFUSALS]:
        kept = f" (kept as {refusal.rejected_id})" if refusal.rejected_id and not report.dry_run else ""
        out.line(f"  rejected #{refusal.index} {refusal.field}: {refusal.reason}{kept}")
    more = len(report.rejected) - SHOWN_REFUSALS
    if more > 0:
        out.line(f"  and {more:,} more")


def _report_remark(report: IngestReport) -> str:
    if report.repeated:
        return " (imported before: nothing was done again, these are its counts)"
    return " (dry run: nothing was written)" if report.dry_run else ""


def rejected_grid(originals: Iterable[RejectedOriginal]) -> Grid:
    """Return refused documents as a table."""
    columns = (
        Column("ID"),
        Column("AT", drop=2),
        Column("INDEX", right=True, drop=1),
        Column("FIELD", least=8),
        Column("REASON", least=20),
    )
    return Grid(
        columns, [(o.rejected_id, whole_seconds(o.at), o.index, o.field, o.reason) for o in originals]
    )
