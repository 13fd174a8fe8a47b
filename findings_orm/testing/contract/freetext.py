"""The suite, part 4: free text. The oracle is written a second time here, so that it can disagree with the store."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from findings_orm.errors import StorageValidationError
from findings_orm.port import FindingStore
from findings_orm.query import MAX_PAGE, FindingQuery
from findings_orm.testing.contract.base import Capabilities, found, relaxed
from findings_orm.testing.contract.queries import forge_cursor, read_pages
from findings_orm.testing.samples import OTHER, PROJECT, finding, ids, uuid_of

Document = dict[str, Any]
CORPUS: list[Document] = [
    finding(1, title="SQL injection", resource="app/db.py"),
    finding(2, title="MySQLi used", resource="app/sql/q.py"),
    finding(3, title="sqlmap was here", resource="x"),
    finding(4, title="t", rule_id="sql.raw", resource="x"),
    finding(5, title="t", detector_id="sql-lint", resource="sql"),
    finding(6, title="t", resource="db/SQL"),
    finding(7, title="t", resource="x", location={"path": "sql", "snippet": "run(sql)"}),
    finding(8, title="noSQL sqlx sql", resource="x"),
    finding(9, title="get_sql()", resource="x"),
    finding(10, title="t", resource="x", evidence={"sql": "sql"}, tags=["sql"]),
    finding(11, title="ｓｑｌ Injektion ÜBER", resource="STRASSE"),
    finding(12, title="call of eval(x), Straße", resource="injection"),
]  # fmt: skip
BEST_FIRST: list[tuple[str, list[int]]] = [
    ("sql", [11, 9, 8, 1, 3, 2, 5, 4, 6, 7]),
    ("SQL sql ＳＱＬ", [11, 9, 8, 1, 3, 2, 5, 4, 6, 7]),
    ("inj", [11, 1, 12]),
    ("sql inj", [11, 1]),
    ("injection", [1, 12]),
    ("strasse", [12, 11]),
    ("eval(", [12]),
    ("()", [9]),
    ("über", [11]),
    ("uber", []),
    ("u", [2, 7]),
]
"""Texts, and the findings that have them. Ties: the larger id first."""

HOSTILE = (
    "aAbß\u1e9eſIİıi\u0307e\u0301éﬁＡ²Ⅳ\u0345\u03a3\u03c2\u0939\u093f한\u1112\u1161"
    "'\"\\%_*()^-+:.{}~|$\U0001f600 \u00a0\u3000\t\n"
)
letters = st.text(st.sampled_from(HOSTILE), max_size=12)


@st.composite
def hostile_findings(draw: st.DrawFn) -> list[Document]:
    """Findings of hostile text."""
    snippets = st.none() | letters.map(lambda snippet: {"snippet": snippet})
    return [
        finding(
            number,
            title=draw(letters) or "t",
            resource=draw(letters),
            rule_id=draw(st.none() | letters.filter(bool)),
            location=draw(snippets),
        )
        for number in range(1, draw(st.integers(2, 6)))
    ]


def fold_text(text: str | None) -> str:
    """Return a text as it is compared."""
    return unicodedata.normalize("NFKC", text or "").casefold()


def score_word(document: Mapping[str, Any], word: str) -> int:
    """Return what a folded word is worth in a document, by looking at every place in it."""
    title = fold_text(document["title"])
    kinds = "".join(
        "t" if c.isalnum() or unicodedata.category(c) in ("Mn", "Mc", "Me") else "-" for c in title
    )
    edges = {n for n in range(len(title) + 1) if kinds[max(n - 1, 0) : n + 1] != "tt" or n in (0, len(title))}
    worth = [0]
    for start in range(len(title)):
        if title[start:].startswith(word):
            end = start + len(word)
            worth.append(6 if {start, end} <= edges else 5 if start in edges else 4)
    rest = ((document["rule_id"], 3), (document["detector_id"], 3), (document["resource"], 2))
    worth += [each for text, each in rest if word in fold_text(text)]
    worth.append(int(word in fold_text((document["location"] or {}).get("snippet"))))
    return max(worth)


def best_first(documents: Sequence[Mapping[str, Any]], text: str) -> list[str]:
    """Return the ids of the findings that have all words of a text, best first."""
    words = set(fold_text(text).split())
    scores = {document["id"]: [score_word(document, word) for word in words] for document in documents}
    having = [finding_id for finding_id, each in scores.items() if all(each)]
    return sorted(having, key=lambda finding_id: (sum(scores[finding_id]), finding_id), reverse=True)


def draw_text(data: st.DataObject, documents: list[Document]) -> str:
    """Draw words, mostly parts of what there is."""
    there = [
        str(text)
        for document in documents
        for text in (document["title"], document["resource"], (document.get("location") or {}).get("snippet"))
    ]
    cut = st.builds(
        lambda text, a, b: text[a : a + b], st.sampled_from(there), st.integers(0, 9), st.integers(1, 9)
    )
    return " ".join(data.draw(st.lists(cut | letters, min_size=1, max_size=3)))


class FreeTextContract(Capabilities):
    """What a text finds, and in which order."""

    def test_best_come_first(self, store: FindingStore) -> None:
        store.save_findings([*CORPUS, finding(20, project_id=OTHER, title="sql")])
        for text, numbers in BEST_FIRST:
            expected = [uuid_of(number) for number in numbers]
            assert found(store, text=text, sort="-relevance") == expected, text
            assert found(store, text=text, sort="relevance") == expected[::-1], text
            assert sorted(found(store, text=text)) == sorted(expected), text
            assert store.count(FindingQuery(project_id=PROJECT, text=text)) == len(numbers), text

    @relaxed
    @given(data=st.data(), documents=hostile_findings())
    @example(data=None, documents=[finding(1, title="i\u0307"), finding(2, title="İ"), finding(3, title="ı")])
    def test_any_text_finds_what_has_it(
        self, store: FindingStore, data: st.DataObject | None, documents: list[Document]
    ) -> None:
        store.delete_project(PROJECT)
        store.save_findings(documents)
        stored = store.list_findings(PROJECT)
        for text in ["İ"] if data is None else [draw_text(data, documents) for _ in range(4)]:
            if fold_text(text).split():
                expected = best_first(stored, text)
                assert found(store, text=text, sort="-relevance", limit=MAX_PAGE) == expected
                assert sorted(found(store, text=text)) == sorted(expected)
                assert store.count(FindingQuery(project_id=PROJECT, text=text)) == len(expected)

    def test_other_conditions_hold_beside_a_text(self, store: FindingStore) -> None:
        store.save_findings([document | {"severity": "low"} for document in CORPUS[:6]] + CORPUS[6:])
        low = found(store, text="sql", sort="-relevance", severity="low")
        assert low == [uuid_of(number) for number in (1, 3, 2, 5, 4, 6)]

    def test_what_was_changed_is_found_by_what_it_is_now(self, store: FindingStore) -> None:
        store.save_findings(CORPUS)
        store.save_finding(CORPUS[0] | {"title": "Überlauf of a buffer", "resource": "app/größe.c"})
        assert found(store, text="injection") == [uuid_of(12)]
        assert found(store, text="überlauf GRÖSSE") == [uuid_of(1)]
        store.save_finding(CORPUS[0] | {"title": "Overflow"})
        assert found(store, text="überlauf") == []
        assert found(store, text="overflow") == [uuid_of(1)]
        store.delete_project(PROJECT)
        assert found(store, text="overflow") == []
        store.save_findings(CORPUS[:2])
        assert found(store, text="sql", sort="-relevance") == [uuid_of(1), uuid_of(2)]

    def test_what_was_undone_is_not_found(self, store: FindingStore) -> None:
        store.save_findings(CORPUS[:1])
        with contextlib.suppress(KeyError), store.transaction():
            store.save_findings([finding(30, title="größer"), finding(31, title="greater")])
            assert found(store, text="größer") == [uuid_of(30)]
            assert found(store, text="greater") == [uuid_of(31)]
            raise KeyError
        assert found(store, text="größer") == found(store, text="greater") == []
        assert found(store, text="injection") == [uuid_of(1)]

    # -- pages ---------------------------------------------------------------------------------------------

    def test_pages_by_relevance_give_everything_once(self, store: FindingStore) -> None:
        again = [{**document, "id": uuid_of(100 - n)} for n, document in enumerate(CORPUS)]
        store.save_findings([*CORPUS, *again])
        for sort in ("relevance", "-relevance"):
            whole = found(store, sort=sort, text="sql")
            assert len(whole) == 20
            for limit in (1, 2, 3, 7, 19, 20, 21):
                query = FindingQuery(project_id=PROJECT, sort=sort, text="sql", limit=limit)
                assert ids(read_pages(store, query)) == whole, f"pages of {limit} by {sort}"

    def test_relevance_needs_a_text(self) -> None:
        for sort in ("relevance", "-relevance"):
            for text in ("", " \t\n\u3000"):
                with pytest.raises(StorageValidationError) as caught:
                    FindingQuery(project_id=PROJECT, sort=sort, text=text)
                assert caught.value.field == "sort"
                assert "text" in str(caught.value)

    def test_cursor_of_another_text_is_refused(self, store: FindingStore) -> None:
        store.save_findings(CORPUS)
        first = FindingQuery(project_id=PROJECT, sort="-relevance", text="sql", limit=2)
        cursor = store.find(first).next_cursor
        for changed in (
            {"text": "inj"},
            {"sort": "relevance", "text": "sql"},
            {"sort": "-title", "text": "sql"},
        ):
            with pytest.raises(StorageValidationError) as caught:
                found(store, cursor=cursor, **{"sort": "-relevance", **changed})
            assert caught.value.field == "cursor"
        assert (
            found(store, cursor=cursor, sort="-relevance", text="SQL")
            == found(store, sort="-relevance", text="sql")[2:]
        )

    def test_forged_position_is_refused(self, store: FindingStore) -> None:
        store.save_findings(CORPUS)
        query = FindingQuery(project_id=PROJECT, sort="-relevance", text="sql", limit=2)
        wrong: list[Any] = [-1, 7, 10**30, "6", None, [], 1.5]
        for value in wrong:
            cursor = forge_cursor(query, value, uuid_of(1))
            with pytest.raises(StorageValidationError, match="next_cursor of a page") as caught:
                found(store, cursor=cursor, sort="-relevance", text="sql")
            assert caught.value.field == "cursor", value
