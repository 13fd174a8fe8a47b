from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from findings_orm.imports import alignment
from findings_orm.imports.alignment import Level, Place, pair_places


def place(
    line: int, text: str = "m", *, decided: bool = False, distinct: bool = False, column: int = 0
) -> Place:
    return Place(b"g", text, "", line, column, distinct, decided)


def paired_lines(before: list[Place], now: list[Place]) -> list[tuple[int, int]]:
    return [(before[one.before].line, now[one.now].line) for one in pair_places(before, now)]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([52, 54, 56], [54, 56, 58], [(52, 54), (54, 56), (56, 58)]),
        ([10, 22, 31, 47], [22, 31, 47, 75], [(22, 22), (31, 31), (47, 47)]),
        ([10, 22, 31], [22, 31, 75], [(22, 22), (31, 31)]),
        ([10], [160], [(10, 160)]),
        ([10, 20, 30], [12, 22, 32, 40], [(10, 12), (20, 22), (30, 32)]),
        ([10, 20, 30, 40], [10, 33, 43], [(10, 10), (30, 33), (40, 43)]),
        ([], [1], []),
        ([1], [], []),
    ],
)
def test_what_says_the_same_is_paired_by_order_and_distance(
    before: list[int], now: list[int], expected: list[tuple[int, int]]
) -> None:
    assert paired_lines([*map(place, before)], [*map(place, now)]) == expected


def test_what_is_said_comes_before_where_it_stands() -> None:
    before = [place(10, "a"), place(25, "b"), place(31, "c")]
    now = [place(25, "c"), place(10, "b"), place(31, "d")]
    assert paired_lines(before, now) == [(25, 10), (31, 25)]
    assert paired_lines([place(10, "costs 12")], [place(90, "costs 13")]) == [(10, 90)]


def test_a_reworded_finding_in_its_line_is_the_same() -> None:
    before, now = [place(10, "old"), place(20, "old")], [place(10, "new"), place(20, "new")]
    assert paired_lines(before, now) == [(10, 10), (20, 20)]


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("texts", ["aaa", "abc"])
def test_what_has_a_text_of_its_own_has_moved(texts: str, distinct: bool) -> None:
    """By a snippet or the word of the tool; or as it says what no other one says, of several that say different things."""
    before = [place(line, text, distinct=distinct) for line, text in zip((10, 20, 30), texts, strict=True)]
    now = [
        place(line, text, distinct=distinct)
        for line, text in zip((20, 30, 70), (*texts[1:], texts[0]), strict=True)
    ]
    found = [(one.before, one.now, one.level) for one in pair_places(before, now)]
    kept = [(1, 0, Level.ALIGNED), (2, 1, Level.ALIGNED)]
    assert found == ([(0, 2, Level.MOVED), *kept] if distinct or texts == "abc" else kept)


@pytest.mark.parametrize(
    ("before", "now", "doubtful"),
    [
        ([10, 40], [10], [False]),
        ([10, 40], [25], [True]),
        ([10, 22, 37, 58], [14, 26, 41], [False] * 3),
        ([10, 20, 30], [25, 35], [True, True]),
    ],
)
def test_a_decision_is_doubtful_where_another_could_be_meant(
    before: list[int], now: list[int], doubtful: list[bool]
) -> None:
    found = pair_places([place(line, decided=True) for line in before], [*map(place, now)])
    assert [one.doubtful for one in found] == doubtful


def test_a_large_file_makes_no_large_table(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    align = alignment._align_places

    def measured(olds: list[Place], news: list[Place]) -> list[tuple[int, int]]:
        sizes.append(len(olds) * len(news))
        return align(olds, news)

    monkeypatch.setattr(alignment, "_align_places", measured)
    before = [place(3 * n) for n in range(2_000)]
    inserted = [place(3 * n + 2 * (n >= 900)) for n in range(2_000)]
    assert [(one.before, one.now) for one in pair_places(before, inserted)] == [(n, n) for n in range(2_000)]
    scattered = [place(3 * n + n % 7) for n in range(2_100)]
    assert len(pair_places(before, scattered)) == 2_000
    assert sizes
    assert max(sizes) <= alignment.MOST_CELLS


LINES = st.lists(st.integers(1, 300), min_size=1, max_size=12, unique=True).map(sorted)


@given(lines=LINES, cuts=st.sets(st.integers(0, 300), max_size=4), data=st.data())
def test_an_edited_file_keeps_what_says_something_of_its_own(
    lines: list[int], cuts: set[int], data: st.DataObject
) -> None:
    """Insert a line at each cut, take some findings away, add some: whatever is still there is itself."""
    before = [place(line, f"text {chr(65 + n)}", decided=True) for n, line in enumerate(lines)]
    kept = data.draw(st.sets(st.sampled_from(range(len(lines)))))
    now = [place(lines[n] + sum(cut <= lines[n] for cut in cuts), before[n].text) for n in sorted(kept)]
    now += [place(line, "something new") for line in data.draw(st.lists(st.integers(1, 300), max_size=4))]
    now = data.draw(st.permutations(now))
    for one in pair_places(before, now):
        if one.now < len(now) and now[one.now].text != "something new":
            assert now[one.now].text == before[one.before].text
    found = {before[one.before].text for one in pair_places(before, now)}
    assert {before[n].text for n in kept} <= found


@given(lines=LINES, shift=st.integers(0, 100))
def test_lines_added_above_change_no_finding(lines: list[int], shift: int) -> None:
    before = [place(line, decided=True) for line in lines]
    found = pair_places(before, [place(line + shift) for line in lines])
    assert [(one.before, one.now, one.doubtful) for one in found] == [
        (n, n, False) for n in range(len(lines))
    ]
