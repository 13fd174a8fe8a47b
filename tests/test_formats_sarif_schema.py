"""Whatever is odd in a report: its export fits the schema of SARIF, and has all of its results."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from findings_orm import open_storage
from findings_orm.formats import open_report, write_report
from findings_orm.formats.sarif_schema import UNFIT, fit_value
from findings_orm.testing.samples import PROJECT

SAMPLES = Path(__file__).parent / "samples"
ODD: list[Any] = [
    None,
    0,
    -7,
    1.5,
    "",
    "fatal",
    "text",
    [],
    [1],
    {},
    {"a": 1},
    True,
    [{"a": 1}, {"a": 1}],
    [[]],
]


def export_of(log: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return how many findings a log has, and its export."""
    stream = io.BytesIO()
    with open_storage("memory:") as store:
        report = open_report(io.BytesIO(json.dumps(log).encode()), "sarif")
        total = store.ingest(PROJECT, report).created
        write_report(store.iter_findings(PROJECT), stream, "sarif")
    found: dict[str, Any] = json.loads(stream.getvalue())
    return total, found


def change_at_random(value: Any, chance: random.Random) -> Any:
    """Return a value with odd ones in it."""
    if chance.random() < 0.04:
        return chance.choice(ODD)
    if isinstance(value, dict):
        return {name: change_at_random(inner, chance) for name, inner in value.items()}
    return [change_at_random(inner, chance) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("sample", ["bandit.sarif", "semgrep.sarif"])
def test_an_export_fits_the_schema_whatever_is_in_a_result(sample: str, seed: int) -> None:
    log = json.loads((SAMPLES / sample).read_text())
    chance = random.Random(seed)
    for run in log["runs"]:
        for result in run["results"]:
            changed = {name: change_at_random(value, chance) for name, value in result.items()}
            result.update(changed, kind="fail")
        for rule in run["tool"]["driver"].get("rules", ()):
            rule.update({name: change_at_random(rule[name], chance) for name in rule if name != "id"})
    total, found = export_of(log)
    results = [result for run in found["runs"] for result in run["results"]]
    assert len(results) == total
    for run in found["runs"]:
        assert fit_value(run, "run") == run
    assert export_of(found)[0] == total


def test_what_does_not_fit_goes_into_the_property_bag() -> None:
    odd = {"ruleId": "E", "message": "a text", "level": "fatal", "locations": {"a": 1}, "other": [0]}
    result = {**odd, "partialFingerprints": {"a/v1": 12, "b/v1": "x"}}
    run = {"tool": {"driver": {"name": "Demo"}}, "results": [result]}
    (found,) = export_of({"version": "2.1.0", "runs": [run]})[1]["runs"][0]["results"]
    unfit = {name: value for name, value in result.items() if name != "ruleId"}
    assert found["properties"]["findings_orm_unfit"] == unfit
    assert found["partialFingerprints"] == {"b/v1": "x"}


@pytest.mark.parametrize(
    ("value", "name", "fitting"),
    [
        ({"text": "a", "x": 1}, "message", {"text": "a"}),
        ({"markdown": "a"}, "message", UNFIT),
        ({"startLine": 0, "startColumn": 2}, "region", {"startColumn": 2}),
        ({"tags": ["a", "a", 1], "x": 1}, "propertyBag", {"tags": ["a"], "x": 1}),
        ({"id": 7}, "reportingDescriptor", UNFIT),
        ([], "message", UNFIT),
    ],
)
def test_what_fits(value: object, name: str, fitting: object) -> None:
    assert fit_value(value, name) == fitting
