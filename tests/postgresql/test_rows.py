"""The two ways to a binary row agree."""

from __future__ import annotations

from hypothesis import given, settings

from findings_orm.finding import validate_finding
from findings_orm.orm.mapping import finding_row
from findings_orm.orm.postgresql_types import FINDING_ROWS, binary_finding
from findings_orm.testing.strategies import documents


@settings(deadline=None)
@given(documents())
def test_short_way_gives_what_the_general_one_gives(given_document: dict[str, object]) -> None:
    document = validate_finding(given_document)
    (general,) = FINDING_ROWS.encode([finding_row(document)])
    assert tuple(binary_finding(document)) == tuple(general)
