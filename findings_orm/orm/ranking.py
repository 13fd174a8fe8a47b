"""Relevance over rows: what `findings_orm.freetext.relevance` says of a document, without reading all of it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

from pydantic_core import from_json

from findings_orm.freetext import WHOLE, relevance
from findings_orm.orm.mapping import Row
from findings_orm.query import FindingQuery


def best(query: FindingQuery, batches: Iterable[Sequence[Row]], limit: int) -> list[str]:
    """Return the ids of the first `limit` findings after the query's cursor, of all candidates.

    Args:
        query: a query by relevance.
        batches: rows of the columns `queries.RANKED`; those that don't have all words are left out.
        limit: how many ids are kept in memory.
    """
    after = query.after
    scores = (pair for rows in batches for pair in _scores(query, rows))
    if query.descending:
        found = heapq.nlargest(limit, (pair for pair in scores if after is None or pair < after))
    else:
        found = heapq.nsmallest(limit, (pair for pair in scores if after is None or pair > after))
    return [finding_id for _, finding_id in found]


def begins_perfectly(query: FindingQuery, latest: Sequence[Row], limit: int) -> list[str] | None:
    """Return the ids of the first `limit` findings after the query's cursor, if the latest ones show them; None if not.

    A finding that has every word as a token of its title can't be surpassed, and ties are in the order of ids. So where a
    word is frequent, nearly always a page is full before all that have it are scored.

    Args:
        query: a query by relevance, the best first.
        latest: rows of the columns `queries.RANKED` of the findings with the largest ids below the cursor's.
        limit: how many ids are wanted.
    """
    perfect = WHOLE * len(query.words)
    found = [finding_id for score, finding_id in _scores(query, latest) if score == perfect]
    return sorted(found, reverse=True)[:limit] if len(found) >= limit else None


def _scores(query: FindingQuery, rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
    for finding_id, title, resource, detector_id, rule_id, location in rows:
        score = relevance(
            query.words,
            {
                "title": title,
                "resource": resource,
                "detector_id": detector_id,
                "rule_id": rule_id,
                "location": from_json(location) if location else None,
            },
        )
        if score:
            yield score, str(finding_id)
