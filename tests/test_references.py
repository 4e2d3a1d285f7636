"""The ledger of references by itself: news in, objects to be freed out."""

import random
from collections import Counter

import pytest

from unirun._references import (
    ATTACH,
    CREATED,
    DETACH,
    ESCAPE,
    ESCAPE_TO_CHILD,
    GONE,
    HOME,
    LINGER,
    START_LINGER,
    References,
)


def told(*news: tuple[int, object, int]) -> References:
    references = References()
    references.news.extend(news)
    return references


def test_nothing_is_freed_before_somebody_has_attached() -> None:
    references = told((CREATED, HOME, 1))
    assert references.settle(1e9) == []
    assert references.next_ends() == []


def test_the_last_detach_frees_at_once_what_never_left() -> None:
    references = told((CREATED, HOME, 1), (ATTACH, HOME, 1), (ATTACH, HOME, 1), (DETACH, HOME, 1))
    assert references.settle(0.0) == []
    references.news.append((DETACH, HOME, 1))
    assert references.settle(0.0) == [1]


def test_what_has_left_lingers_from_the_last_detach_on() -> None:
    references = told((CREATED, HOME, 1), (ATTACH, HOME, 1), (ESCAPE, HOME, 1), (DETACH, HOME, 1))
    assert references.settle(10.0) == []
    assert references.next_ends() == [10.0 + LINGER]
    references.news += [(ATTACH, "a", 1), (DETACH, "a", 1)]
    assert references.settle(12.0) == []
    assert references.next_ends() == [12.0 + LINGER]
    assert references.settle(12.0 + LINGER) == [1]
    assert references.next_ends() == []


def test_what_went_to_a_process_being_started_lingers_for_longer() -> None:
    references = told((CREATED, HOME, 1), (CREATED, HOME, 2), (ATTACH, HOME, 1), (ATTACH, HOME, 2))
    references.news += [(ESCAPE_TO_CHILD, HOME, 1), (ESCAPE, HOME, 1), (ESCAPE, HOME, 2)]
    references.news += [(DETACH, HOME, 1), (DETACH, HOME, 2)]
    assert references.settle(0.0) == []
    assert sorted(references.next_ends()) == [LINGER, START_LINGER]
    assert references.settle(LINGER) == [2]
    assert references.settle(START_LINGER) == [1]


def test_an_attach_ends_the_lingering() -> None:
    references = told((CREATED, HOME, 1), (ATTACH, HOME, 1), (ESCAPE, HOME, 1), (DETACH, HOME, 1))
    references.settle(0.0)
    references.news.append((ATTACH, "a", 1))
    assert references.settle(2 * LINGER) == []
    references.news.append((GONE, "a", 0))
    assert references.settle(2 * LINGER) == []
    assert references.settle(3 * LINGER) == [1]


def test_a_holder_lets_go_of_its_own_references_only() -> None:
    references = told((CREATED, HOME, 1), (ATTACH, HOME, 1), (ATTACH, "a", 1))
    references.news += [(DETACH, "b", 1), (DETACH, "a", 1), (DETACH, "a", 1), (GONE, "a", 0)]
    assert references.settle(0.0) == []
    references.news.append((DETACH, HOME, 1))
    assert references.settle(0.0) == [1]


def test_what_was_freed_stays_so() -> None:
    references = told((CREATED, HOME, 1), (ATTACH, HOME, 1), (DETACH, HOME, 1))
    assert references.settle(0.0) == [1]
    references.news += [(ATTACH, "a", 1), (ESCAPE, "a", 1), (DETACH, "a", 1), (GONE, "a", 0)]
    assert references.settle(1e9) == []


def test_what_a_link_says_is_noted() -> None:
    references = told((CREATED, HOME, 1), (CREATED, HOME, 2))
    assert references.hear("a", [1, 1, (2, False), 2, -2])
    assert references.settle(0.0) == []
    assert references.settle(LINGER) == [2]
    assert references.hear("a", [-1, -1])
    assert references.settle(LINGER) == [1]


@pytest.mark.parametrize("message", [["1"], [None], [(1, 2)], [()], [(1,)], [1, [2, 3]]])
def test_what_makes_no_sense_is_refused(message: list[object]) -> None:
    assert not References().hear("a", message)


class Model:
    """A bag of references, and when each object goes to which none belongs."""

    def __init__(self) -> None:
        self.bag: Counter[tuple[object, int]] = Counter()
        self.known: set[int] = set()
        self.alive: set[int] = set()
        self.escaped: set[int] = set()
        self.ends: dict[int, float] = {}
        self.freed: list[int] = []

    def allows(self, what: int, holder: object, each: int) -> bool:
        """Whether that may be said: home never lets go of what it does not have, nor dies."""
        if what == CREATED:
            return each not in self.known
        return holder is not HOME or (what != GONE and (what != DETACH or self.bag[HOME, each] > 0))

    def hear(self, what: int, holder: object, each: int, now: float) -> None:
        had = {one for one in self.alive if self._count(one)}
        if what == CREATED:
            self.known.add(each)
            self.alive.add(each)
        elif what == GONE:
            self.bag = Counter({key: n for key, n in self.bag.items() if key[0] != holder})
        elif each in self.alive:
            self._note(what, holder, each)
        for one in had:
            if not self._count(one):
                self.ends[one] = now + LINGER if one in self.escaped else float("-inf")
        self.end_what_is_due(float("-inf"))

    def _note(self, what: int, holder: object, each: int) -> None:
        if what == ESCAPE:
            self.escaped.add(each)
        elif what == ATTACH:
            self.bag[holder, each] += 1
            self.ends.pop(each, None)
        elif self.bag[holder, each]:
            self.bag[holder, each] -= 1

    def _count(self, each: int) -> int:
        return sum(number for (_, one), number in self.bag.items() if one == each)

    def end_what_is_due(self, now: float) -> None:
        for one in [one for one, end in self.ends.items() if end <= now]:
            del self.ends[one]
            self.alive.discard(one)
            self.freed.append(one)


@pytest.mark.parametrize("seed", range(200))
def test_it_frees_what_a_simple_model_frees(seed: int) -> None:
    rng = random.Random(seed)
    references, model, now = References(), Model(), 0.0
    for _ in range(60):
        now += rng.choice([0.0, 0.5, LINGER])
        for _ in range(rng.randrange(3)):
            what = rng.choice([CREATED, ATTACH, ATTACH, DETACH, DETACH, ESCAPE, GONE])
            holder, each = rng.choice([HOME, "a", "b"]), rng.randrange(4)
            if model.allows(what, holder, each):
                references.news.append((what, holder, each))
                model.hear(what, holder, each, now)
        model.end_what_is_due(now)
        assert sorted(references.settle(now)) == sorted(model.freed)
        assert references.next_ends() == sorted(model.ends.values())[:1]
        model.freed.clear()
