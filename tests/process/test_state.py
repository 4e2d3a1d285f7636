"""The rules of `process/state.py`: every interleaving of small programs, and random long ones.

No process, no pipe, no clock: `unirun.testing._pool_world` plays all of them, `state_scenarios` has
the programs, and `state_mutations` the bugs that must not pass.
"""

import gc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from mutants import pool_with
from process.state_mutations import MUTATIONS
from process.state_scenarios import (
    FAULTS,
    LARGER,
    ONE_EACH,
    WINDOWS,
    explore,
    is_noticed,
    must,
    sights,
)

from unirun.backends.process.state import Hold, PoolState, Send
from unirun.testing._pool_world import World, job
from unirun.testing.invariants import Broken

SCENARIOS = ONE_EACH | WINDOWS | LARGER


@pytest.fixture(autouse=True)
def no_collections() -> Iterator[None]:
    """An exploration makes many objects and no cycle of them."""
    gc.disable()
    yield
    gc.enable()


# -- every interleaving ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_rules_hold_in_every_order_of_events(name: str) -> None:
    assert explore(SCENARIOS[name]) > 20


@pytest.mark.scenario("every interleaving", "3 calls, 2 workers, 1 fault: every order of events")
def test_three_calls_on_two_workers_survive_any_one_fault(
    record_property: Callable[[str, object], None],
) -> None:
    counts = {fault: [explore(each) for each in both] for fault, both in FAULTS.items()}
    least = counts["nothing"]
    assert all(min(each) >= 100 for each in counts.values())
    assert all(n >= few for each in counts.values() for n, few in zip(each, least, strict=True))
    told = "; ".join(f"{fault}: {sum(each)}" for fault, each in counts.items())
    record_property("figure", f"situations, each in every order: {told}")


def spied(orders: list[object]) -> type[PoolState]:
    """A machine that notes what it orders."""

    class Spied(PoolState):
        def _advance(self) -> list[object]:
            orders.extend(found := super()._advance())
            return found

        def kill(self, call: object) -> list[object]:
            orders.extend(found := super().kill(call))
            return found

    return Spied


@pytest.mark.parametrize("name", ["cancel and kill, two slots", "a crowd", "shrinks and grows"])
def test_with_every_window_at_one_no_worker_has_two_calls_or_is_held(name: str) -> None:
    orders: list[object] = []
    explore(ONE_EACH[name], spied(orders))
    sent = [order.calls for order in orders if isinstance(order, Send)]
    assert sent
    assert all(len(calls) == 1 for calls in sent)
    assert not [order for order in orders if isinstance(order, Hold)]


def test_with_wider_windows_workers_do_have_several_calls_and_are_held() -> None:
    orders: list[object] = []
    explore(WINDOWS["two are killed in one worker"], spied(orders))
    assert max(len(order.calls) for order in orders if isinstance(order, Send)) == 3
    assert [order for order in orders if isinstance(order, Hold)]


# -- the exploration sees what it should ---------------------------------------------------------


def test_a_machine_that_was_not_changed_is_found_right() -> None:
    make = pool_with("Rules it keeps", "Rules it keeps")
    assert not is_noticed(ONE_EACH["retired workers are replaced"], make)
    assert not is_noticed(WINDOWS["two are killed in one worker"], make)


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_bug_put_into_the_machine_is_noticed(name: str) -> None:
    bugs = MUTATIONS[name].items()
    assert [bug for bug, how in bugs if not is_noticed(SCENARIOS[name], pool_with(*how))] == []


def test_there_are_enough_bugs_to_trust_the_exploration() -> None:
    assert sum(map(len, MUTATIONS.values())) >= 45


# -- random long programs --------------------------------------------------------------------


class Pool(RuleBasedStateMachine):
    """Up to four slots, any number of calls, in whatever order hypothesis thinks of."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(2)
        self.calls = 0

    def some_worker(self, data: st.DataObject, **wanted: object) -> int:
        hands = self.world.hands.items()
        fit = [n for n, h in hands if all(getattr(h, k) == v for k, v in wanted.items())]
        return data.draw(st.sampled_from(fit or sorted(self.world.hands)))

    @rule(
        kind=st.integers(0, 3),
        priority=st.integers(-1, 1),
        many=st.sampled_from([1, 1, 2, 5, 12]),
    )
    def submit(self, kind: int, priority: int, many: int) -> None:
        numbers = range(self.calls + 1, self.calls + many + 1)
        self.calls += many
        self.world.happen(("submit", *(job(number, kind, priority) for number in numbers)))

    @rule(kind=st.integers(0, 3), window=st.integers(0, 8))
    def set_window(self, kind: int, window: int) -> None:
        self.world.happen(("set_window", kind, window))

    @rule(action=st.sampled_from(["cancel", "kill", "kill", "drop"]), back=st.integers(0, 12))
    def end(self, action: str, back: int) -> None:
        self.world.happen((action, self.calls - back))

    @precondition(lambda self: self.world.hands)
    @rule(action=st.sampled_from(["retire", "hurry", "stuck", "stuck"]), data=st.data())
    def tidy(self, action: str, data: st.DataObject) -> None:
        self.world.happen((action, self.some_worker(data)))

    @precondition(lambda self: self.world.hands)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker = self.some_worker(data)
        begun = data.draw(st.sampled_from(sights(self.world.hands[worker])))
        self.world.happen(("gone", worker, begun))

    @precondition(lambda self: any(not hand.ready for hand in self.world.hands.values()))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.world.happen(("ready", self.some_worker(data, ready=False)))

    @precondition(lambda self: any(hand.calls for hand in self.world.hands.values()))
    @rule(last=st.sampled_from([False, False, False, True]), data=st.data())
    def answer(self, last: bool, data: st.DataObject) -> None:
        workers = [n for n, hand in self.world.hands.items() if hand.calls]
        worker = data.draw(st.sampled_from(workers))
        count = data.draw(st.integers(1, len(self.world.hands[worker].calls)))
        self.world.happen(("answer", worker, count, last))

    @precondition(lambda self: any(hand.held for hand in self.world.hands.values()))
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        worker = self.some_worker(data, held=True)
        begun = data.draw(st.sampled_from(sights(self.world.hands[worker])))
        self.world.happen(("look", worker, begun))

    @rule(size=st.integers(1, 4))
    def resize(self, size: int) -> None:
        self.world.happen(("resize", size))

    @rule(spares=st.integers(0, 2))
    def keep_spare(self, spares: int) -> None:
        self.world.happen(("keep_spare", spares))

    @precondition(lambda self: self.calls > 8)
    @rule(kind=st.sampled_from(["kill_all", "kill_all", "break_down"]))
    def disaster(self, kind: str) -> None:
        self.world.happen((kind,))

    @precondition(lambda self: self.calls > 20)
    @rule(cancel=st.booleans(), kill=st.booleans())
    def close(self, cancel: bool, kill: bool) -> None:
        self.world.happen(("close", cancel, kill))

    @invariant()
    def the_rules_hold(self) -> None:
        self.world.check()

    @invariant()
    def has_room_and_saturated_foretell_what_a_call_would_bring(self) -> None:
        twin = self.world.clone().state
        room, full = twin.has_room, twin.saturated
        call = job(-1, 9, -9)  # of a kind nobody ever set a window for
        orders = twin.submit([call])
        sent = [order for order in orders if isinstance(order, Send) and call in order.calls]
        assert not (full and sent)
        assert not (room and not twin.broken and not twin.closed and not sent)

    def teardown(self) -> None:
        """Whatever has happened: once closed, and every worker has done its part, all is over."""
        self.world.happen(("close",))
        while self.world.hands:
            moves = (list(must(*item)) for item in self.world.hands.items())
            self.world.happen(next(found[-1] for found in moves if found))
            self.world.check()
        assert self.world.state.finished
        assert len(self.world.ended) == self.calls


class TestAnyProgram(Pool.TestCase):
    settings = settings(max_examples=80, stateful_step_count=50, deadline=None)


def test_what_is_found_says_which_rule_and_at_which_event() -> None:
    make = pool_with("            self._leaving.add(worker)\n", "            pass\n")
    with pytest.raises(Broken, match=r"should go was not told \(at \('answer', 0, 1, True\)\)"):
        explore(SCENARIOS["served its time with calls in hand"], make)
