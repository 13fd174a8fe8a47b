"""Free text, once for every adapter: what a word is, where it is looked for, and what it is worth there."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

RELEVANCE = "relevance"
"""The sort by how well the words of a query fit."""

WHOLE, BEGINNING, TITLE, NAMES, RESOURCE, SNIPPET = 6, 5, 4, 3, 2, 1
"""What a word is worth at the best place where it occurs: as a token of the title, at the beginning of one, elsewhere in
the title; in rule or detector, in the resource, in the snippet."""


def fold_text(text: str) -> str:
    """Return `text` as the free text search compares it: compatibility form, accents kept, case folded."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def words_of(text: str) -> tuple[str, ...]:
    """Return the folded words that white space separates in a text, each once."""
    return tuple(dict.fromkeys(fold_text(text).split()))


def search_text(document: Mapping[str, Any]) -> str:
    """Return the folded text that free text search looks into: title, resource, detector, rule, snippet."""
    parts = (
        document["title"],
        document["resource"],
        document["detector_id"],
        document["rule_id"] or "",
    )
    return folded_text("\n".join(parts), document)


def folded_text(texts: str, document: Mapping[str, Any]) -> str:
    """Return the folded text of a document whose other texts are at hand, a line each; its snippet is taken from it."""
    return fold_text(f"{texts}\n{_snippet_of(document)}")


def _snippet_of(document: Mapping[str, Any]) -> str:
    return (document.get("location") or {}).get("snippet") or ""


def holds_all(words: Iterable[str], text: str) -> bool:
    """Return whether every word occurs in a text; both folded."""
    return all(word in text for word in words)


def relevance(words: Iterable[str], document: Mapping[str, Any]) -> int:
    """Return how well folded words fit a document: the sum of what each is worth (`WHOLE` ... `SNIPPET`), 0 unless all occur.

    A token is a run of letters, digits and their marks; a word that begins or ends with something else has no token to
    complete there, so ``eval(`` is whole in ``call of eval(x)``.
    """
    title = fold_text(document["title"])
    total = 0
    elsewhere: tuple[tuple[int, str], ...] = ()
    for word in words:
        worth = _worth_in_title(word, title)
        if not worth:
            elsewhere = elsewhere or _worth_beside_title(document)
            worth = next((each for each, text in elsewhere if word in text), 0)
        if not worth:
            return 0
        total += worth
    return total


def _worth_beside_title(document: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    """Return what a word is worth, with the folded text where it is worth that."""
    names = fold_text(f"{document['rule_id'] or ''}\n{document['detector_id']}")
    return (
        (NAMES, names),
        (RESOURCE, fold_text(document["resource"])),
        (SNIPPET, fold_text(_snippet_of(document))),
    )


def _worth_in_title(word: str, title: str) -> int:
    found = 0
    at = title.find(word)
    while at >= 0:
        end = at + len(word)
        if at == 0 or not (_is_token_character(title[at - 1]) and _is_token_character(word[0])):
            if end == len(title) or not (_is_token_character(title[end]) and _is_token_character(word[-1])):
                return WHOLE
            found = BEGINNING
        found = found or TITLE
        at = title.find(word, at + 1)
    return found


def _is_token_character(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")
