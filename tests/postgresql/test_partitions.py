"""The hash partitions of docs/scaling.md, made by the very SQL that stands there."""

from __future__ import annotations

import pathlib
import re

import psycopg
import pytest
from servers import POSTGRESQL

from findings_orm import FindingQuery, migrations, open_storage
from findings_orm.orm import text_index
from findings_orm.testing.machine import digest, run_sequence
from findings_orm.testing.samples import scanned

pytestmark = [pytest.mark.no_cover, pytest.mark.slow]

GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "scaling.md"


@pytest.mark.parametrize("version", POSTGRESQL)
def test_store_is_the_same_on_hash_partitions(request: pytest.FixtureRequest, version: str) -> None:
    url: str = request.getfixturevalue(f"{version}_url")
    found = re.search(r"```sql\n(DO .*?)\n```", GUIDE.read_text(), re.DOTALL)
    assert found is not None
    with open_storage(url) as store, open_storage("memory:") as memory:
        for each in (store, memory):
            run_sequence(each, 3, 60)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(found[1])
        assert digest(store) == digest(memory)
        for each in (store, memory):
            run_sequence(each, 4, 60)
        assert digest(store) == digest(memory)
        assert text_index.create(url).state == "ready"
        for number in range(20):
            report = [scanned(f"R{n}", n + 1) for n in range(60)]
            assert store.ingest(f"project {number}", report).created == 60
            assert store.ingest(f"project {number}", report).unchanged == 60
        store.delete_project("project 7")
        assert len(store.list_findings("project 8")) == 60
        query = FindingQuery(project_id="project 8", text="r5 broken", sort="-relevance")
        assert len(store.find(query).items) == store.count(query) == 11
        assert text_index.status(url).state == "ready"
    with psycopg.connect(url) as connection:
        used = connection.execute("SELECT count(DISTINCT tableoid) FROM findings").fetchone()
        plan = connection.execute("EXPLAIN SELECT * FROM findings WHERE project_id = 'project 1'").fetchall()
    assert used is not None
    assert used[0] > 5
    assert len(set(re.findall(r"on (findings_\d+)", str(plan)))) == 1
    assert migrations.check(url) == []
    assert text_index.drop(url) is True
    assert migrations.check(url) == []
