"""Which of several equal findings is which: two reports of a file are compared as a diff compares two texts.

The fingerprint leaves open which of the findings that share it is which; a line alone does not tell, as lines are added above.
Both sides in the order of their lines, the best pairing keeps that order: its pairs say the same, and go on at the distance at
which the ones above them stand, or stayed where they were. What is left over has moved, if a text of its own tells which it is.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import chain, takewhile
from typing import NamedTuple

MOST_CELLS = 100_000
"""The largest table that is made for a file, findings before times findings now. A larger one is cut down to where the two
sides begin and end to differ; if it still is, equal findings are paired by the nearest line alone. The time must not grow
with the square of a file."""

_EQUAL, _ALIKE, _DIFFERENT = 1.0, 0.5, -2.0
_KEPT_DISTANCE = 3.0
"""More than saying the same: in a file whose findings all say the same, those that stayed are not those that came."""
_OPEN = 0.01
"""Of two that are as good the open one is paired: a decision is not handed on by guess."""
_NUMBER = re.compile(r"\d+", re.ASCII)


class Level(StrEnum):
    """How a finding was recognised."""

    EXACT = "exact"
    ALIGNED = "aligned"
    MOVED = "moved"
    RENAMED = "renamed"


class Place(NamedTuple):
    """A finding in a file.

    Attributes:
        group: what it must have in common with its partner.
        text: what it says.
        code: what stands there, empty where nobody says.
        line, column: where it stands, 0 where nobody says.
        distinct: whether `group` has a text of the place itself, or the word of the tool.
        decided: whether somebody decided about it.
    """

    group: bytes
    text: str
    code: str
    line: int
    column: int
    distinct: bool
    decided: bool = False


class Pairing(NamedTuple):
    """The positions of a finding before and of one now that are the same. It is doubtful where somebody decided about a finding
    that has an equal rival."""

    before: int
    now: int
    level: Level
    doubtful: bool


def pair_places(before: Sequence[Place], now: Sequence[Place], *, is_identity: bool = True) -> list[Pairing]:
    """Pair the findings of one file. Where the groups are no identities, who is left alone on both sides is no pair."""
    old = sorted(range(len(before)), key=lambda n: (before[n].line, before[n].column, n))
    new = sorted(range(len(now)), key=lambda n: (now[n].line, now[n].column, n))
    olds, news = compare_alike((before[n] for n in old), (now[n] for n in new))
    pairs = _pair_in_order(olds, news)
    aligned = [(a, b, Level.ALIGNED) for a, b in pairs]
    moved = [(a, b, Level.MOVED) for a, b in _pair_moved_places(olds, news, pairs, is_identity)]
    doubts = _Doubts(olds, news)
    return [
        Pairing(old[a], new[b], level, olds[a].decided and doubts.has_rival(a, b))
        for a, b, level in sorted(aligned + moved)
    ]


def compare_alike(before: Iterable[Place], now: Iterable[Place]) -> tuple[list[Place], list[Place]]:
    """Return both sides without code where only one of them has any: a scanner may begin to give it, or stop."""
    olds, news = [*before], [*now]
    if any(place.code for place in olds) == any(place.code for place in news):
        return olds, news
    return [place._replace(code="") for place in olds], [place._replace(code="") for place in news]


def _pair_in_order(olds: list[Place], news: list[Place]) -> list[tuple[int, int]]:
    if len(olds) * len(news) <= MOST_CELLS:
        return _align_places(olds, news)
    least = min(len(olds), len(news))
    head = _count_same(zip(olds, news, strict=False), 0)
    last = news[-1].line - olds[-1].line
    tail = min(_count_same(zip(reversed(olds), reversed(news), strict=False), last), least - head)
    inner = olds[head : len(olds) - tail], news[head : len(news) - tail]
    align = _align_places if len(inner[0]) * len(inner[1]) <= MOST_CELLS else _pair_nearest_lines
    return [
        *((n, n) for n in range(head)),
        *((head + a, head + b) for a, b in sorted(align(*inner))),
        *((len(olds) - n, len(news) - n) for n in range(tail, 0, -1)),
    ]


def _count_same(pairs: Iterable[tuple[Place, Place]], distance: int) -> int:
    """Count the pairs from the first one on that say the same and have a distance."""
    same = (_say(old) == _say(new) and new.line - old.line == distance for old, new in pairs)
    return sum(1 for _ in takewhile(bool, same))


class _Agreement:
    """Tells how well two places of a file agree. What says something else may be the same, reworded, only where nothing on the
    other side says what it says."""

    def __init__(self, olds: list[Place], news: list[Place]) -> None:
        self._olds = [(place, _say(place)) for place in olds]
        self._news = [(place, _say(place)) for place in news]
        self._said = {said for _, said in self._olds}
        self._says = {says for _, says in self._news}

    def measure(self, a: int, b: int) -> float | None:
        """Return a number for the old place and the new one at two positions, None where they can't be the same."""
        (old, said), (new, says) = self._olds[a], self._news[b]
        if old.group != new.group or (old.code != new.code and old.code and new.code):
            return None
        if old.text == new.text and old.code == new.code:
            return _EQUAL
        if said[:2] == says[:2]:  # a number changed, or only one of them has its code with it
            return _ALIKE
        if said in self._says or says in self._said:
            return None
        return _ALIKE if old.code == new.code != "" else _DIFFERENT


def _without_numbers(text: str) -> str:
    return _NUMBER.sub("0", text)


def _align_places(olds: list[Place], news: list[Place]) -> list[tuple[int, int]]:
    """Return the pairs of the best alignment, by dynamic programming over both sides.

    `best` is the value of the best pairing of what is above a cell, `ended` that of the best one that ends with its pair.
    """
    agreements = _Agreement(olds, news)
    width = len(news) + 1
    best, distances = [0.0] * width, [0] * width
    ended: list[float | None] = [None] * width
    steps: list[bytearray] = []
    for old in olds:
        row, row_distances = [0.0] * width, [0] * width
        row_ended: list[float | None] = [None] * width
        step = bytearray(width)
        for n, new in enumerate(news, 1):
            above, left = best[n], row[n - 1]
            row[n], row_distances[n], step[n] = (
                (above, distances[n], _SKIP_OLD) if above >= left else (left, row_distances[n - 1], _SKIP_NEW)
            )
            agreement = agreements.measure(len(steps), n - 1)
            if agreement is None:
                continue
            value = agreement - min(abs(new.line - old.line), 10_000) * 1e-6 - _OPEN * old.decided
            distance = new.line - old.line
            apart = best[n - 1] + value + _KEPT_DISTANCE * (distance == distances[n - 1])
            before = ended[n - 1]
            if before is not None and _distance_before(olds, news, len(steps), n) == distance:
                together = before + value + _KEPT_DISTANCE
            else:
                together = apart - 1
            row_ended[n] = ends = max(apart, together)
            step[n] |= _GOES_ON * (together > apart)
            if ends > row[n]:
                row[n], row_distances[n] = ends, distance
                step[n] = (step[n] & _GOES_ON) | _PAIR
        best, distances, ended = row, row_distances, row_ended
        steps.append(step)
    return _trace_pairs(steps, len(news))


_SKIP_OLD, _SKIP_NEW, _PAIR, _GOES_ON = 0, 1, 2, 4


def _distance_before(olds: list[Place], news: list[Place], row: int, column: int) -> int:
    return news[column - 2].line - olds[row - 1].line


def _trace_pairs(steps: list[bytearray], column: int) -> list[tuple[int, int]]:
    pairs = []
    row, must_pair = len(steps), False
    while row and column:
        step = steps[row - 1][column]
        if must_pair or step & 3 == _PAIR:
            pairs.append((row - 1, column - 1))
            must_pair = bool(step & _GOES_ON)
            row, column = row - 1, column - 1
        elif step & 3 == _SKIP_OLD:
            row -= 1
        else:
            column -= 1
    return pairs[::-1]


def _pair_nearest_lines(olds: list[Place], news: list[Place]) -> Iterator[tuple[int, int]]:
    """Yield pairs of places that say the same, each with the first free one that is not further away than the next."""
    groups: defaultdict[tuple[bytes, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, places in enumerate((olds, news)):
        for position, place in enumerate(places):
            groups[place.group, place.text][side].append(position)
    for ones, others in groups.values():
        few, many = (ones, others) if len(ones) <= len(others) else (others, ones)
        lines = (olds, news) if few is ones else (news, olds)
        position = 0
        for number, one in enumerate(few):
            line, last = lines[0][one].line, len(many) - (len(few) - number)
            while position < last and _is_nearer(lines[1], line, many[position + 1], many[position]):
                position += 1
            yield (one, many[position]) if few is ones else (many[position], one)
            position += 1


def _is_nearer(places: list[Place], line: int, one: int, other: int) -> bool:
    return abs(places[one].line - line) <= abs(places[other].line - line)


def _pair_moved_places(
    olds: list[Place], news: list[Place], pairs: list[tuple[int, int]], is_identity: bool
) -> Iterator[tuple[int, int]]:
    """Yield pairs of what is left over and has a text of its own: those that say the same in order, then what is left alone."""
    paired = [{a for a, _ in pairs}, {b for _, b in pairs}]
    counts = [Counter(map(_say, places)) for places in (olds, news)]
    texts: defaultdict[bytes, set[str]] = defaultdict(set)
    for group, text, _ in counts[0] | counts[1]:
        texts[group].add(text)

    def tells(place: Place) -> bool:
        is_alone = counts[0][_say(place)] == counts[1][_say(place)] == 1
        return place.distinct or (is_alone and len(texts[place.group]) > 1)

    free_olds = [n for n, place in enumerate(olds) if n not in paired[0] and tells(place)]
    free_news = [n for n, place in enumerate(news) if n not in paired[1] and tells(place)]
    waiting: defaultdict[object, list[int]] = defaultdict(list)
    for n in reversed(free_olds):
        waiting[_say(olds[n])].append(n)
    alone: defaultdict[bytes, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for n in free_news:
        if found := waiting[_say(news[n])]:
            yield found.pop(), n
        else:
            alone[news[n].group][1].append(n)
    for n in (n for found in waiting.values() for n in found):
        alone[olds[n].group][0].append(n)
    for ones, others in alone.values():
        if is_identity and len(ones) == len(others) == 1:
            yield ones[0], others[0]


_NEIGHBOURS = 5
"""How many findings above and below tell how far the text around one has gone."""


_RIVALS = 20
"""How many on each side may be rivals: in a file with thousands that say the same, each can't be compared with all."""


class _Doubts:
    """Tells which pairs have an equal rival: another finding that says the same, and could as well be the partner.

    A pair is beyond doubt where both sides have as many that say the same, where it stayed in its line, or where more of its
    neighbours have gone its distance than that of any other pair that says the same.
    """

    def __init__(self, olds: list[Place], news: list[Place]) -> None:
        self._olds = olds
        self._news = news
        self._there = {(*_say(place), place.line) for place in news}
        self._equals: list[defaultdict[tuple[bytes, str, str], list[int]]] = [
            defaultdict(list),
            defaultdict(list),
        ]
        for side, places in zip(self._equals, (olds, news), strict=True):
            for n, place in enumerate(places):
                side[_say(place)].append(n)

    def has_rival(self, a: int, b: int) -> bool:
        """Tell whether another finding could as well be the partner."""
        old, new = self._olds[a], self._news[b]
        said, says = _say(old), _say(new)
        likes, others = self._equals[0][said], self._equals[1][says]
        if old.line == new.line or (said == says and len(likes) == len(others)):
            return False
        support = self._count_support(a, b)
        rivals = [(c, b) for c in _nearest_positions(likes, a)]
        rivals += [(a, d) for d in _nearest_positions(others, b)]
        return not support or any(self._count_support(c, d) >= support for c, d in rivals)

    def _count_support(self, a: int, b: int) -> int:
        """Count the neighbours of an old finding that have gone as far as it has in a pair."""
        distance = self._news[b].line - self._olds[a].line
        beside = [*self._olds[max(0, a - _NEIGHBOURS) : a], *self._olds[a + 1 : a + 1 + _NEIGHBOURS]]
        return sum((*_say(place), place.line + distance) in self._there for place in beside)


def _nearest_positions(positions: list[int], n: int) -> list[int]:
    middle = bisect_left(positions, n)
    near = positions[max(0, middle - _RIVALS) : middle + 1 + _RIVALS]
    return [position for position in near if position != n]


def _say(place: Place) -> tuple[bytes, str, str]:
    return place.group, _without_numbers(place.text), place.code


def pair_files(
    before: Mapping[str, Sequence[Place]], now: Mapping[str, Sequence[Place]]
) -> Iterator[tuple[str, str]]:
    """Yield the files of which one is the other by a new name: at least half of what they have says the same, and no other
    file is as alike. One finding alone is no proof, unless only the folder is another one.
    """
    olds, news = compare_alike(chain(*before.values()), chain(*now.values()))
    old_places, new_places = iter(olds), iter(news)
    said = {name: Counter(_say(next(old_places)) for _ in places) for name, places in before.items()}
    says = {name: Counter(_say(next(new_places)) for _ in places) for name, places in now.items()}
    saying: defaultdict[object, list[str]] = defaultdict(list)
    for name, counts in says.items():
        for say in counts:
            saying[say].append(name)
    likeness: list[tuple[float, str, str]] = []
    for old, counts in said.items():
        for new in sorted({name for say in counts for name in saying.get(say, ())[:_RIVALS]} - {old}):
            common = (counts & says[new]).total()
            share = common / max(counts.total(), says[new].total())
            same_name = _name_of(old) == _name_of(new)
            if share >= _LEAST_SHARE and (common > 1 or same_name):
                likeness.append((share + same_name, old, new))
    best: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    for share, old, new in likeness:
        best[0, old].append(share)
        best[1, new].append(share)
    for share, old, new in likeness:
        if all(max(shares) == share and shares.count(share) == 1 for shares in (best[0, old], best[1, new])):
            yield old, new


_LEAST_SHARE = 0.5


def _name_of(file: str) -> str:
    return re.split(r"[/\\\\]", file)[-1]
