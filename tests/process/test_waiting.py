"""`process/waiting.py` against a list that is sorted for every question."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from unirun.backends.process.waiting import Waiting
from unirun.testing._pool_world import Job


class Line(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.waiting = Waiting()
        self.model: list[Job] = []  # first come first
        self.out: list[Job] = []  # taken out before
        self.made = 0

    def ordered(self) -> list[Job]:
        return sorted(self.model, key=lambda each: -each.priority)

    @rule(kinds=st.lists(st.integers(0, 2), max_size=4), priority=st.integers(-1, 1))
    def add(self, kinds: list[int], priority: int) -> None:
        calls = [Job(self.made + n, kind, priority) for n, kind in enumerate(kinds)]
        self.made += len(calls)
        self.waiting.add(iter(calls))
        self.model += calls

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        calls = data.draw(st.lists(st.sampled_from(self.out), unique_by=id))
        self.out = [each for each in self.out if each not in calls]
        self.waiting.put_back(iter(calls))
        self.model = calls + self.model

    @precondition(lambda self: self.model)
    @rule(most=st.integers(1, 6))
    def take_alike(self, most: int) -> None:
        first = self.ordered()[0]
        alike = []
        for each in self.ordered()[:most]:
            if (each.kind, each.priority) != (first.kind, first.priority):
                break
            alike.append(each)
        assert self.waiting.first() is first
        assert self.waiting.take_alike(most) == alike
        self.model = [each for each in self.model if each not in alike]
        self.out += alike

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from([*self.model, *self.out, Job(-1), Job(-1, 0, 9)]))
        assert self.waiting.remove(each) is (each in self.model)
        self.model = [other for other in self.model if other is not each]

    @rule()
    def take_all(self) -> None:
        assert self.waiting.take_all() == self.ordered()
        self.out += self.model
        self.model = []

    @invariant()
    def it_holds_what_it_should_in_order(self) -> None:
        assert list(self.waiting) == self.ordered()
        assert len(self.waiting) == len(self.model)
        assert bool(self.waiting) is bool(self.model)


class TestAnyOrder(Line.TestCase):
    settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_what_is_put_back_comes_before_all_others_of_its_priority_and_no_higher_one() -> None:
    waiting = Waiting()
    old, new, high = [Job(1), Job(2)], [Job(3)], [Job(4, 0, 5)]
    waiting.add(new + high)
    waiting.put_back(old)
    assert list(waiting) == [*high, *old, *new]


def test_calls_of_one_kind_that_are_not_neighbours_are_not_taken_together() -> None:
    waiting = Waiting()
    calls = [Job(1, 1), Job(2, 2), Job(3, 1)]
    waiting.add(calls)
    assert waiting.take_alike(3) == calls[:1]
    assert waiting.take_alike(3) == calls[1:2]
    assert waiting.take_alike(3) == calls[2:]
    assert not waiting
