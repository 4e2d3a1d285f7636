"""The pure machine of leases: every call is given away once, and no lease is forgotten."""

import random
from collections import deque
from typing import Any

import pytest

from unirun._far_state import ASK, DROP, OVER, RUN, Leases

GPU = (("gpu", 1.0),)


class World:
    """A cluster of so many slots, its calls, and a clock; carries out what is ordered."""

    def __init__(self, slots: int, most: int | None = None) -> None:
        self.lines: dict[Any, deque[int]] = {(): deque(), GPU: deque()}
        self.now = 0.0
        self.asked: dict[int, Any] = {}  # leases that have not begun, in the engine
        self.held: dict[int, int] = {}  # leases that a place keeps: its number
        self.running: dict[int, int] = {}  # lease: call
        self.given: list[int] = []
        self.count = 0
        self.leases = Leases(
            lambda needs: len(self.lines[needs]), self._take, most=most, linger=0.1, span=2.0
        )
        self.do(self.leases.resized(slots, ()))

    def _take(self, needs: Any, host: Any) -> Any:
        return self.lines[needs].popleft() if self.lines[needs] else None

    def do(self, orders: Any) -> None:
        for order in orders:
            if order.what == ASK:
                self.asked[order.lease] = order.needs
            elif order.what == RUN:
                assert self.held[order.lease] == order.host
                assert order.lease not in self.running
                self.running[order.lease] = order.call
                self.given.append(order.call)
            elif order.what == OVER:
                if self.held.get(order.lease) == order.host:
                    assert order.lease not in self.running
                    del self.held[order.lease]
            elif order.what == DROP:
                self.asked.pop(order.lease, None)

    def submit(self, needs: Any = ()) -> int:
        self.count += 1
        self.lines[needs].append(self.count)
        self.do(self.leases.submitted(needs, self.now))
        return self.count

    def begin(self, lease: int, host: int) -> None:
        self.asked.pop(lease, None)
        self.held[lease] = host
        self.do(self.leases.begun(lease, host, self.now))

    def end(self, lease: int) -> None:
        del self.running[lease]
        self.do(self.leases.ended(lease, self.now))

    def lose(self, host: int) -> list[Any]:
        gone = [lease for lease, where in self.held.items() if where == host]
        for lease in gone:
            del self.held[lease]
            self.running.pop(lease, None)
        calls, orders = self.leases.host_gone(host)
        self.do(orders)
        return calls

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.leases.tick(self.now, [each for each in self.lines if self.lines[each]]))


def test_one_lease_runs_one_call_after_the_other() -> None:
    world = World(1)
    for _ in range(3):
        world.submit()
    assert len(world.asked) == 1
    world.begin(1, 7)
    for _ in range(3):
        world.end(1)
    assert world.given == [1, 2, 3]
    world.tick(0.2)
    assert not world.held


def test_a_lease_that_the_engine_runs_twice_gets_nothing_the_second_time() -> None:
    world = World(1)
    world.submit()
    world.begin(1, 7)
    world.do(world.leases.begun(1, 8, world.now))
    assert world.given == [1]


def test_no_more_calls_run_than_are_allowed() -> None:
    world = World(4, most=1)
    for _ in range(3):
        world.submit()
    assert len(world.asked) == 1
    world.begin(1, 7)
    world.submit(GPU)
    for lease in list(world.asked):
        world.begin(lease, 8)
    assert len(world.running) == 1


def test_a_call_that_waits_while_slots_are_free_has_another_lease_asked_for() -> None:
    world = World(2)
    world.submit()
    world.tick(0.6)
    world.tick(0.1)
    assert len(world.asked) == 2
    world.begin(2, 7)
    assert world.given == [1]
    world.tick(0.1)
    assert 1 not in world.asked  # nobody needs it any more


def test_no_more_leases_are_asked_for_than_would_fill_the_cluster_some_times() -> None:
    """However long somebody else keeps it."""
    world = World(2, None)
    world.submit()
    for _ in range(1000):
        world.tick(0.7)
    assert 1 < len(world.asked) <= 6


def test_what_ran_at_a_lost_place_is_told_and_not_given_again() -> None:
    world = World(1)
    first, second = world.submit(), world.submit()
    world.begin(1, 7)
    assert world.lose(7) == [first]
    (lease,) = world.asked
    world.begin(lease, 8)
    assert world.given == [first, second]


def happen(world: World, chance: random.Random) -> None:
    """One event."""
    act = chance.randrange(6)
    if act == 0:
        world.submit(chance.choice([(), (), GPU]))
    elif act == 1 and world.asked:
        world.begin(chance.choice(list(world.asked)), chance.randint(1, 3))
    elif act == 2 and world.running:
        world.end(chance.choice(list(world.running)))
    elif act == 3 and world.held and chance.random() < 0.2:
        world.lose(chance.choice(list(world.held.values())))
    elif act == 4 and world.asked and chance.random() < 0.3:
        lease = chance.choice(list(world.asked))
        del world.asked[lease]
        world.do(world.leases.gone(lease)[1])
    else:
        world.tick(chance.choice([0.01, 0.1, 0.7]))


@pytest.mark.parametrize("seed", range(150))
def test_in_any_order_of_events_each_call_is_given_once(seed: int) -> None:
    chance = random.Random(seed)
    world = World(chance.randint(1, 3), chance.choice([None, None, 1, 2]))
    for _ in range(300):
        happen(world, chance)
    finish(world)
    assert world.given == list(dict.fromkeys(world.given))
    assert sorted(world.given) == list(range(1, world.count + 1))
    assert not world.leases.leases


def finish(world: World) -> None:
    for _ in range(5000):
        if world.asked:
            world.begin(next(iter(world.asked)), 1)
        if world.running:
            world.end(next(iter(world.running)))
        world.tick(0.2)
        if not (any(world.lines.values()) or world.running or world.held or world.asked):
            return
