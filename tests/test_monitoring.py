"""The dashboard, the alert rules and the page about metrics: they name what there is, and nothing else."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from promql_parser import MatchOp

from findings_orm.finding import Severity, Status
from findings_orm.metrics.instruments import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    IMPORTED,
    PREFIX,
    RETRIED,
    exported_series,
)
from findings_orm.metrics.observed import OUTCOMES
from findings_orm.port import FindingStore
from findings_orm.stores.cache import EVENTS

DOCS = Path(__file__).parents[1] / "docs"
DASHBOARD = json.loads((DOCS / "monitoring" / "grafana-dashboard.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DOCS / "monitoring" / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus adds to all series."""

OPERATIONS = {name for name in dir(FindingStore) if not name.startswith("_")} | {"figures"}
VALUES: dict[tuple[str, str], set[str]] = {
    ("operation_duration_seconds", "outcome"): {"ok", "error", *OUTCOMES.values()},
    ("operation_duration_seconds", "operation"): OPERATIONS,
    ("imported_findings_total", "outcome"): set(IMPORTED),
    ("retries_total", "reason"): set(RETRIED),
    ("findings", "severity"): {severity.value for severity in Severity},
    ("findings", "status"): {status.value for status in Status},
    ("pool_connections", "state"): {"in_use", "idle"},
    ("cache_events_total", "event"): set(EVENTS),
    ("cache_events_total", "operation"): OPERATIONS | {"writes", "redis"},
}
"""Metric and label to all values that a query may ask for."""


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def parsed(query: str) -> Any:
    """Parse a query, with values in place of Grafana's variables."""
    return promql_parser.parse(query.replace("$__rate_interval", "5m"))


def nodes(node: Any) -> Iterator[Any]:
    """Yield all nodes of a query."""
    yield node
    for name in ("expr", "param", "lhs", "rhs", "vector_selector"):
        inner = getattr(node, name, None)
        if inner is not None:
            yield from nodes(inner)
    for inner in getattr(node, "args", None) or []:
        yield from nodes(inner)


def selectors(node: Any) -> list[promql_parser.VectorSelector]:
    return [one for one in nodes(node) if isinstance(one, promql_parser.VectorSelector)]


def base(name: str) -> str:
    return re.sub(r"_(bucket|count|sum)$", "", name).removeprefix(PREFIX)


def check(query: str) -> None:
    """Check that a query names only series, labels and values that exist."""
    known = exported_series()
    tree = parsed(query)
    assert selectors(tree), query
    for selector in selectors(tree):
        assert selector.name in known, f"{selector.name} does not exist: {query}"
        labels = known[str(selector.name)] | OF_PROMETHEUS
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels, f"{selector.name} has no label {matcher.name}: {query}"
            if matcher.value.startswith("$"):
                continue
            is_regex = matcher.op in (MatchOp.Re, MatchOp.NotRe)
            wanted = set(matcher.value.split("|")) if is_regex else {matcher.value}
            values = VALUES[base(selector.name), matcher.name]
            assert wanted <= values, f"{matcher.name} is never {sorted(wanted - values)}: {query}"
    for node in nodes(tree):
        grouping = getattr(getattr(node, "modifier", None), "labels", None) or []
        for selector in selectors(node):
            missing = set(grouping) - known[str(selector.name)] - OF_PROMETHEUS
            assert not missing, f"{selector.name} can't be grouped by {sorted(missing)}: {query}"


@pytest.mark.parametrize("query", dashboard_queries())
def test_queries_of_the_dashboard_name_what_exists(query: str) -> None:
    check(query)


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_alert_rules_name_what_exists_and_say_what_to_do(rule: dict[str, Any]) -> None:
    check(rule["expr"])
    labels = {*set().union(*exported_series().values()), *OF_PROMETHEUS}
    for text in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.*)", (DOCS.parent / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor in [heading.strip("`").lower() for heading in headings]
    assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.parametrize(
    "query",
    [
        "sum(rate(findings_orm_operations_total[5m]))",
        'findings_orm_up{shop="a"}',
        'findings_orm_pool_connections{state="busy"}',
        'rate(findings_orm_operation_duration_seconds_count{outcome=~"ok|unavailble"}[5m])',
        "sum by (operation) (findings_orm_projects)",
        "1 + 1",
    ],
)
def test_the_check_finds_mistakes(query: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        check(query)


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {
        base(str(selector.name)) for query in dashboard_queries() for selector in selectors(parsed(query))
    }
    assert shown == {*HISTOGRAMS, *COUNTERS, *GAUGES} - {"figures_timestamp_seconds"}


def test_the_dashboard_can_be_imported() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    for query in dashboard_queries():
        used = set(re.findall(r"\$(\w+)", query)) - {"__rate_interval"}
        assert used <= set(variables), query
    for one in variables.values():
        if one["type"] == "query":
            match = re.fullmatch(r"label_values\((\w+), (\w+)\)", one["query"]["query"])
            assert match is not None
            assert match[2] in exported_series()[match[1]]
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + n, at["y"] + m) for n in range(at["w"]) for m in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(column for column, _ in cells) < 24
        taken |= cells


def test_the_page_lists_all_metrics_with_their_labels() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(findings_orm_\w+)` \| (\w+) \| ([^|]*)\|", text, re.MULTILINE)
    listed = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    kinds = {"histogram": HISTOGRAMS, "counter": COUNTERS, "gauge": GAUGES}
    assert listed == {
        PREFIX + name: (kind, set(one.labels))
        for kind, definitions in kinds.items()
        for name, one in definitions.items()
    }
    for name in ("grafana-dashboard.json", "alerts.yml"):
        assert f"(monitoring/{name})" in text


def test_the_page_lists_all_checks_of_the_doctor() -> None:
    made = set()
    for path in (DOCS.parent / "findings_orm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem":
                made.add(ast.literal_eval(node.args[1]))
    listed = re.findall(
        r"^\| `([\w-]+)` \|", (DOCS / "operations.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(made) == sorted(listed)
