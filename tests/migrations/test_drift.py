from __future__ import annotations

import pytest
from rows import connection_to
from sqlalchemy import text

from findings_orm import migrations
from findings_orm.migrations.connecting import engine_of

DRIFTS = [
    (
        "DROP INDEX ix_findings_project_id_created_at_id",
        "index ix_findings_project_id_created_at_id is missing",
    ),
    ("CREATE INDEX mine ON findings (title)", "index mine is not in the models"),
    ("ALTER TABLE findings ADD COLUMN mine TEXT", "column mine is not in the models"),
    ("ALTER TABLE findings DROP COLUMN fingerprint", "column fingerprint is missing"),
    ("DROP TABLE finding_rejected", "table finding_rejected is missing"),
]
POSTGRESQL_DRIFTS = [
    ("ALTER TABLE findings DROP CONSTRAINT ck_findings_cvss", "check ck_findings_cvss is missing"),
    ("ALTER TABLE findings ADD CONSTRAINT mine CHECK (cvss < 9)", "check mine is not in the models"),
    ("ALTER TABLE findings ALTER title DROP NOT NULL", "column title: null is allowed, should be refused"),
    ("ALTER TABLE findings ALTER status DROP DEFAULT", "column status: default is none, should be 'open'"),
    ("ALTER TABLE findings ALTER status SET DEFAULT 'x'", "column status: default is 'x', should be 'open'"),
    (
        "ALTER TABLE finding_identities ALTER line TYPE BIGINT",
        "column line: type is BIGINT, should be INTEGER",
    ),
    ("ALTER TABLE findings ALTER evidence TYPE JSONB", "column evidence: type is JSONB, should be JSON"),
    (
        'ALTER TABLE findings ALTER resource TYPE TEXT COLLATE "default"',
        'column resource: type is TEXT, should be TEXT COLLATE "C"',
    ),
    ("ALTER TABLE finding_events DROP CONSTRAINT fk_finding_events_finding_projects", "foreign key"),
    ("ALTER TABLE finding_runs DROP CONSTRAINT pk_finding_runs", "primary key pk_finding_runs is missing"),
    (
        "ALTER TABLE finding_runs ADD CONSTRAINT mine UNIQUE (number)",
        "unique constraint mine is not in the models",
    ),
    (
        (
            "ALTER TABLE findings DROP CONSTRAINT ck_findings_severity, "
            "ADD CONSTRAINT ck_findings_severity CHECK (severity IN ('info', 'low', 'medium', 'high'))"
        ),
        "should be severity in ('info', 'low', 'medium', 'high', 'critical')",
    ),
    (
        (
            "ALTER TABLE findings DROP CONSTRAINT ck_findings_cvss, "
            "ADD CONSTRAINT ck_findings_cvss CHECK (cvss BETWEEN 0 AND 11)"
        ),
        "check ck_findings_cvss: rule is cvss >= 0 and cvss <= 11, should be cvss >= 0 and cvss <= 10",
    ),
    (
        (
            "ALTER TABLE findings DROP CONSTRAINT ck_findings_title, "
            "ADD CONSTRAINT ck_findings_title CHECK (length(title) > 1)"
        ),
        "check ck_findings_title: rule is length(title) > 1, should be length(title) >= 1",
    ),
    (
        (
            "DROP INDEX ix_finding_identities_closed; CREATE INDEX ix_finding_identities_closed ON finding_identities "
            "(project_id, closed_at, finding_id)"
        ),
        "condition is none, should be closed_at is not null",
    ),
    (
        (
            "DROP INDEX uq_finding_runs_project_id_number; CREATE INDEX uq_finding_runs_project_id_number "
            "ON finding_runs (number, project_id)"
        ),
        "columns is number, project_id, should be project_id, number",
    ),
]


@pytest.mark.parametrize(("change", "words"), DRIFTS)
def test_drift_is_told_in_words(sqlite: str, change: str, words: str) -> None:
    migrations.upgrade(sqlite)
    with connection_to(sqlite) as connection:
        connection.execute(text(change))
    assert any(words in line for line in migrations.check(sqlite)), migrations.check(sqlite)


def test_every_kind_of_drift_is_seen_on_postgresql(postgresql: str) -> None:
    migrations.upgrade(postgresql)
    engine = engine_of(postgresql)
    for change, words in [*DRIFTS, *POSTGRESQL_DRIFTS]:
        with engine.connect() as connection:
            for statement in change.split("; "):
                connection.execute(text(statement))
            drift = migrations.check(connection)
        assert len(drift) in (1, 2), drift
        assert any(words in line for line in drift), (change, drift)
    assert migrations.check(postgresql) == []


def test_changed_enum_values_are_seen_on_sqlite(sqlite: str) -> None:
    migrations.upgrade(sqlite)
    with connection_to(sqlite) as connection:
        connection.execute(text("PRAGMA writable_schema = ON"))
        connection.execute(text("UPDATE sqlite_master SET sql = replace(sql, ', ''archived''', '')"))
    found = migrations.check(sqlite)
    assert len(found) == 1
    assert found[0].startswith("table findings: check ck_findings_status: rule is status in ('open',")


def test_check_of_a_database_that_is_behind_says_so(url: str) -> None:
    migrations.upgrade(url, "r0001")
    drift = migrations.check(url)
    assert drift[0].startswith("the database is at revision r0001, the models are those of r")
    assert "table findings: column tags is missing" in drift
