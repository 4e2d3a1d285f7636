"""The rules of `process/state.py`: every interleaving of small programs, and random long ones.

No process, no pipe, no clock: `state_world` plays all of them.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from process.state_world import Broken, Event, Hand, World, check

from unirun.backends.process import state as state_module
from unirun.backends.process.state import PoolState

# -- every interleaving ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """Programs that run at the same time, and how much the workers may do of their own accord."""

    size: int
    programs: tuple[tuple[Event, ...], ...]
    deaths: int = 1  # of workers that are ready
    failures: int = 0  # of workers that start
    deaf: bool = False  # one may die unnoticed, before it could get its call
    last: bool = False  # a worker may say that this was its last answer
    tidy: bool = False  # idle workers are retired, slow ones hurried


@dataclass(frozen=True, slots=True)
class Place:
    """Where an exploration stands, apart from the world itself."""

    at: tuple[int, ...]  # how far each program has come
    deaths: int
    failures: int


def moves(scenario: Scenario, world: World, place: Place) -> Iterator[tuple[Event, Place]]:
    at = place.at
    for index, program in enumerate(scenario.programs):
        if at[index] < len(program):
            then = (*at[:index], at[index] + 1, *at[index + 1 :])
            yield program[at[index]], replace(place, at=then)
    for worker, hand in world.answers():
        yield ("answer", worker), place
        if scenario.deaf and not hand.told and place.deaths:
            yield ("deaf", worker), replace(place, deaths=place.deaths - 1)
        if scenario.last:
            yield ("answer", worker, True), place
    for worker, hand in world.hands.items():
        if not hand.ready:
            yield ("ready", worker), place
        if scenario.tidy:  # also those to whom it does not apply any more
            yield ("retire", worker), place
            yield ("hurry", worker), place
        yield from ends(worker, hand, place)


def ends(worker: int, hand: Hand, place: Place) -> Iterator[tuple[Event, Place]]:
    """Ways for a worker to go."""
    if hand.told:
        yield ("gone", worker), place
    elif hand.ready and place.deaths:
        yield ("gone", worker), replace(place, deaths=place.deaths - 1)
    elif not hand.ready and place.failures:
        yield ("gone", worker), replace(place, failures=place.failures - 1)


def explore(scenario: Scenario, make: Callable[[int], PoolState] = PoolState) -> int:
    """Try every order of events; how many different situations there were."""
    first = Place((0,) * len(scenario.programs), scenario.deaths, scenario.failures)
    todo: list[tuple[World, Place]] = [(World(scenario.size, make), first)]
    seen = set()
    while todo:
        world, place = todo.pop()
        if not world.hands and place.at == tuple(map(len, scenario.programs)):
            check(world.state.finished, "nothing can happen any more, and it is not over")
            check(not world.waiting and not world.running, "1: a call never ended")
        for event, then in list(moves(scenario, world, place)):
            new = world.clone()
            new.happen(event)
            key = (then, new.key())
            if key not in seen:
                seen.add(key)
                todo.append((new, then))
    return len(seen)


def submit(*calls: int, priority: int = 0) -> tuple[Event, ...]:
    return tuple(("submit", call, priority) for call in calls)


CLOSE: tuple[Event, ...] = (("close",),)
KILL: tuple[Event, ...] = (("close", False, True),)

SCENARIOS = {
    "cancel and kill, one slot": Scenario(
        1,
        ((*submit(1), ("kill", 1)), (*submit(2), ("cancel", 2), *CLOSE)),
        deaths=2,
        failures=1,
        last=True,
    ),
    "cancel and kill, two slots": Scenario(
        2, ((*submit(1), ("kill", 1)), (*submit(2), ("kill", 2)), CLOSE), deaths=1, last=True
    ),
    "a crowd": Scenario(2, (submit(1, 2), submit(3), CLOSE), deaths=2, failures=1),
    "killed twice": Scenario(
        1, ((*submit(1), ("kill", 1)), (("kill", 1), *submit(2)), CLOSE), deaths=1
    ),
    "priorities": Scenario(
        1,
        (
            (*submit(1), *submit(2, priority=5), *submit(3), *submit(4, priority=5)),
            (("cancel", 2), *submit(5, priority=-1), *CLOSE),
        ),
        deaths=0,
    ),
    "priority given up and taken up again": Scenario(
        1,
        ((*submit(1, priority=3), ("cancel", 1), *submit(2, 3, priority=3), *submit(4), *CLOSE),),
    ),
    "everybody is killed": Scenario(
        2, (submit(1, 2), submit(3), (("kill_all",), *CLOSE)), deaths=0
    ),
    "shut down at once": Scenario(2, (submit(1, 2), submit(3), (*CLOSE, *KILL)), tidy=True),
    "shut down, dropping what waits": Scenario(
        1, (submit(1, 2), (("close", True), *submit(3)), (("kill", 1),)), last=True
    ),
    "no worker ever starts": Scenario(1, (submit(1, 2), (*submit(3), *CLOSE)), failures=6),
    "no worker starts, two slots": Scenario(
        2, (submit(1, 2), (*submit(3), *CLOSE)), deaths=0, failures=5
    ),
    "workers fail while one works": Scenario(
        2, (submit(1, 2, 3), (("kill", 1), *CLOSE)), deaths=1, failures=4
    ),
    "workers cannot be made": Scenario(
        2, (submit(1, 2), (("break_down",), *submit(3), *CLOSE)), failures=1
    ),
    "shrinks and grows": Scenario(
        2, (submit(1, 2, 3), (("resize", 1), ("resize", 2), *CLOSE)), deaths=1, failures=0
    ),
    "workers die unnoticed": Scenario(
        2, (submit(1, 2), (*submit(3), ("kill", 1)), CLOSE), deaths=2, deaf=True
    ),
    "workers die unnoticed in a broken pool": Scenario(
        2, (submit(1, 2), (("break_down",), *CLOSE)), deaths=2, deaf=True
    ),
    "workers retire": Scenario(
        2, (submit(1), (*submit(2), *CLOSE)), deaths=1, last=True, tidy=True
    ),
    "retired workers are replaced": Scenario(1, ((*submit(1), *submit(2)), CLOSE), tidy=True),
}


LARGER = {
    "three calls, two slots, everything goes wrong": Scenario(
        2,
        ((*submit(1), ("kill", 1)), (*submit(2), ("cancel", 2)), (*submit(3), *CLOSE)),
        deaths=1,
        failures=1,
        last=True,
    ),
    "everybody is killed while some die": Scenario(
        2, (submit(1, 2, 3), (("kill_all",), *CLOSE)), deaths=1, failures=1
    ),
    "shut down while workers fail to start": Scenario(
        2, (submit(1, 2, 3), (("kill", 2),), (*CLOSE, *KILL)), deaths=1, failures=4
    ),
    "three slots": Scenario(3, (submit(1, 2, 3), (*submit(4), ("kill", 1), *CLOSE)), deaths=1),
}


@pytest.mark.parametrize("name", [*SCENARIOS, *LARGER])
def test_the_rules_hold_in_every_order_of_events(name: str) -> None:
    assert explore((SCENARIOS | LARGER)[name]) > 50


# -- the exploration sees what it should ---------------------------------------------------------


# The bugs that each scenario must notice: what is changed in the source, and into what.
MUTATIONS: dict[str, dict[str, tuple[str, str]]] = {
    "workers die unnoticed in a broken pool": {
        "a cancelled call keeps its place": (
            "        del self._waiting[priority][call]\n",
            "",
        ),
        "a call that was not heard is lost": (
            "self._enqueue(self._release(worker), priority, first=True)",
            "self._release(worker)",
        ),
    },
    "cancel and kill, two slots": {
        "a doomed worker is believed": (
            "= self._release(worker) if worker in self._busy else None",
            "= self._busy.get(worker)",
        ),
        "a killed call ends before its worker": (
            "return [*self._condemn(worker), *self._advance()]",
            'return [*self._condemn(worker), Finish(call, "killed", worker)]',
        ),
        "a crashed call is remembered": (
            'Finish(self._release(worker), "crashed"',
            'Finish(self._busy.pop(worker), "crashed"',
        ),
    },
    "killed twice": {
        "a killed call never ends": (
            'orders.append(Finish(call, "killed", worker))',
            "pass",
        ),
    },
    "everybody is killed": {
        "a condemned idle worker stays": (
            "            self._idle.remove(worker)\n        self._dying",
            "            pass\n        self._dying",
        ),
    },
    "shut down at once": {
        "a condemned starting worker stays": (
            "self._starting.discard(worker)",
            "pass",
        ),
        "those who stop are spared": (
            "                orders += self.hurry(worker)\n",
            "                ...\n",
        ),
        "what waits survives a kill": (
            "if cancel or kill:",
            "if cancel:",
        ),
    },
    "priorities": {
        "a slot too many": (
            "self._strength < self.size",
            "self._strength <= self.size",
        ),
        "nobody stops at the end": (
            "if self.closed and not self._priority_of:",
            "if False:",
        ),
        "over before the last is gone": (
            "or self._stopping or self._dying",
            "or self._dying",
        ),
    },
    "workers retire": {
        "a worker too few": (
            "> len(self._starting)\n",
            "> len(self._starting) + 1\n",
        ),
        "a worker that served its time is used again": (
            "if last:\n            self._stopping.add(worker)",
            "if last:\n            self._idle.append(worker)",
        ),
        "a busy worker retires": (
            "if worker not in self._idle:\n            return []",
            "if worker not in self._idle:\n            return [Stop(worker)]",
        ),
    },
    "shrinks and grows": {
        "a worker too many": (
            "> len(self._starting)\n",
            ">= len(self._starting)\n",
        ),
        "a shrunken pool keeps its workers": (
            "self._strength > self.size:",
            "False:",
        ),
    },
    "no worker starts, two slots": {
        "endless respawn": (
            "            self._failed_starts += 1\n",
            "",
        ),
        "one start too many": (
            "and self._failed_starts < MAX_FAILED_STARTS",
            "and self._failed_starts <= MAX_FAILED_STARTS",
        ),
        "an answer forgives nothing": (
            "self._failed_starts = min(self._failed_starts, MAX_FAILED_STARTS - 1)",
            "pass",
        ),
        "failures break a pool that still works": (
            "self._failed_starts >= MAX_FAILED_STARTS and not self._strength",
            "self._failed_starts >= MAX_FAILED_STARTS",
        ),
        "a broken pool strands what waits": (
            'orders += self._drop_waiting("refused")',
            "pass",
        ),
        "all stop too early": (
            "if self.closed and not self._priority_of:",
            "if self.closed:",
        ),
    },
    "no worker ever starts": {
        "failures are never forgiven": (
            "self._failed_starts = 0\n        self._starting.remove",
            "self._failed_starts += 0\n        self._starting.remove",
        ),
    },
    "priority given up and taken up again": {
        "lowest priority first": (
            "insort(self._priorities, -priority)",
            "insort(self._priorities, priority)",
        ),
        "last come, first served": (
            "calls.popitem(last=False)",
            "calls.popitem()",
        ),
        "a dead idle worker is given work": (
            "            self._idle.remove(worker)\n        self._stopping",
            "            pass\n        self._stopping",
        ),
    },
    "retired workers are replaced": {
        "a closed pool takes more": (
            "if self.closed or self.broken:",
            "if self.broken:",
        ),
        "over before the killed are gone": (
            "self._stopping or self._dying",
            "self._stopping",
        ),
        "a hurried worker is asked again": (
            "worker] = None\n        return [Kill",
            "worker] = None\n        return [Stop",
        ),
    },
    "workers cannot be made": {
        "a broken pool takes more": (
            "if self.closed or self.broken:",
            "if self.closed:",
        ),
    },
    "workers die unnoticed": {
        "a call that was not heard goes to the end": (
            "self._release(worker), priority, first=True",
            "self._release(worker), priority",
        ),
    },
    "cancel and kill, one slot": {
        "death frees no slot": (
            "self._stopping.discard(worker)\n        return orders + self._advance()",
            "self._stopping.discard(worker)\n        return orders",
        ),
    },
}


def mutated(old: str, new: str) -> Callable[[int], PoolState]:
    source = Path(state_module.__file__).read_text()
    assert source.count(old) == 1, "the mutation does not fit the source any more"
    module = ModuleType("mutated_state")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(source.replace(old, new), "mutated_state", "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    make: Callable[[int], PoolState] = module.__dict__["PoolState"]
    return make


def is_noticed(scenario: Scenario, make: Callable[[int], PoolState]) -> bool:
    try:
        explore(scenario, make)
    except (Broken, AssertionError, KeyError, ValueError):
        return True
    return False


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_bug_put_into_the_machine_is_noticed(name: str) -> None:
    bugs = MUTATIONS[name].items()
    assert [bug for bug, how in bugs if not is_noticed(SCENARIOS[name], mutated(*how))] == []


# -- random long programs --------------------------------------------------------------------


class Pool(RuleBasedStateMachine):
    """Up to five slots, any number of calls, in whatever order hypothesis thinks of."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(2)
        self.calls = 0

    def some_worker(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.world.hands)))

    @rule(priority=st.integers(-1, 1))
    def submit(self, priority: int) -> None:
        self.calls += 1
        self.world.happen(("submit", self.calls, priority))

    @rule(action=st.sampled_from(["cancel", "kill"]), back=st.integers(0, 6))
    def end(self, action: str, back: int) -> None:
        self.world.happen((action, self.calls - back))

    @precondition(lambda self: self.world.hands)
    @rule(action=st.sampled_from(["retire", "hurry"]), data=st.data())
    def tidy(self, action: str, data: st.DataObject) -> None:
        self.world.happen((action, self.some_worker(data)))

    @precondition(lambda self: self.world.hands)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.world.happen(("gone", self.some_worker(data)))

    @precondition(lambda self: any(not hand.ready for hand in self.world.hands.values()))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        waiting = [number for number, hand in self.world.hands.items() if not hand.ready]
        self.world.happen(("ready", data.draw(st.sampled_from(waiting))))

    @precondition(lambda self: any(self.world.answers()))
    @rule(last=st.booleans(), data=st.data())
    def answer(self, last: bool, data: st.DataObject) -> None:
        workers = [number for number, _ in self.world.answers()]
        self.world.happen(("answer", data.draw(st.sampled_from(workers)), last))

    @precondition(lambda self: any(not hand.told for _, hand in self.world.answers()))
    @rule(data=st.data())
    def miss(self, data: st.DataObject) -> None:
        workers = [number for number, hand in self.world.answers() if not hand.told]
        self.world.happen(("deaf", data.draw(st.sampled_from(workers))))

    @rule(size=st.integers(1, 5))
    def resize(self, size: int) -> None:
        self.world.happen(("resize", size))

    @rule(kind=st.sampled_from(["kill_all", "kill_all", "break_down"]))
    def disaster(self, kind: str) -> None:
        self.world.happen((kind,))

    @precondition(lambda self: self.calls > 10)
    @rule(cancel=st.booleans(), kill=st.booleans())
    def close(self, cancel: bool, kill: bool) -> None:
        self.world.happen(("close", cancel, kill))

    def teardown(self) -> None:
        """Whatever has happened: once closed, and every worker has done its part, all is over."""
        self.world.happen(("close",))
        while self.world.hands:
            number, hand = next(iter(self.world.hands.items()))
            move = "gone" if hand.told else "ready" if not hand.ready else "answer"
            self.world.happen((move, number))
        assert self.world.state.finished
        assert len(self.world.ended) == self.calls


class TestAnyProgram(Pool.TestCase):
    settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
