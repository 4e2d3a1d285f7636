"""Small programs around the process pool's state machine, and every order of events in them.

A scenario is a few programs that run at the same time, and workers that start, answer, stop before
the next call, get stuck and die whenever they may.  `explore` plays all of that in all orders.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from unirun.backends.process.state import ALONE, PoolState
from unirun.testing import invariants
from unirun.testing._pool_world import Event, Hand, World, job
from unirun.testing.invariants import Broken, check

SHORT, OTHER, UNKNOWN = 1, 2, 3
"""Kinds of calls; nobody ever sets a window for UNKNOWN."""


@dataclass(frozen=True)
class Scenario:
    """Programs that run at the same time, and how much the workers may do of their own accord."""

    size: int
    programs: tuple[tuple[Event, ...], ...]
    deaths: int = 1  # of workers that are ready
    failures: int = 0  # of workers that start
    twice: int = 0  # how often a death is told a second time
    zygotes: int = 0  # that die, with all who come up
    stuck: int = 0  # how often a worker is found to be long at one call
    last: bool = False  # a worker may say that this was its last answer
    tidy: bool = False  # idle workers are retired, slow ones hurried
    brisk: bool = False  # to have fewer orders: those that were told to go, and have nothing, do
    windows: tuple[tuple[int, int], ...] = ()
    spares: int = 0


class Place(NamedTuple):
    """Where an exploration stands, apart from the world itself."""

    at: tuple[int, ...]  # how far each program has come
    deaths: int
    failures: int
    stuck: int
    twice: int = 0
    zygotes: int = 0


Move = tuple[Event, Place]


def moves(scenario: Scenario, world: World, place: Place) -> Iterator[Move]:
    """What may happen next."""
    if scenario.brisk:
        for worker, hand in world.hands.items():
            if hand.told and not (hand.calls or hand.settled):
                yield ("gone", worker), place
                return
    at = place.at
    for index, program in enumerate(scenario.programs):
        if at[index] < len(program):
            then = (*at[:index], at[index] + 1, *at[index + 1 :])
            yield program[at[index]], place._replace(at=then)
    for worker, hand in world.hands.items():
        for event in must(worker, hand):
            yield event, place
        yield from may(scenario, worker, hand, place)
    if place.zygotes and world.starting():
        yield ("zygote",), place._replace(zygotes=place.zygotes - 1)
    if place.twice and (dead := [n for n in range(world.made) if n not in world.hands]):
        yield ("echo", dead[-1]), place._replace(twice=place.twice - 1)


def must(worker: int, hand: Hand) -> Iterator[Event]:
    """What a worker does in the end, if it is left to itself."""
    if not hand.ready:
        yield ("ready", worker)
    for count in range(1, len(hand.calls) + 1):
        yield ("answer", worker, count)
    for begun in sights(hand):
        if hand.held:
            yield ("look", worker, begun)
            if hand.calls and not begun:
                yield ("look", worker, False, True)
        if hand.told:
            yield ("gone", worker, begun)


def sights(hand: Hand) -> list[bool]:
    """Whether it can be seen that the worker has begun its first call."""
    return [begun for begun in (False, True) if (hand.calls or not begun) and begun >= hand.sure]


def may(scenario: Scenario, worker: int, hand: Hand, place: Place) -> Iterator[Move]:
    """What may happen to a worker, and may not."""
    if hand.calls and scenario.last:
        yield ("answer", worker, 1, True), place
    if hand.calls and place.stuck:
        yield ("stuck", worker), place._replace(stuck=place.stuck - 1)
    if scenario.tidy:  # also those to whom it does not apply any more
        yield ("retire", worker), place
        yield ("hurry", worker), place
    if not hand.told and hand.ready and place.deaths:
        for begun in sights(hand):
            yield ("gone", worker, begun), place._replace(deaths=place.deaths - 1)
    if not hand.told and not hand.ready and place.failures:
        yield ("gone", worker), place._replace(failures=place.failures - 1)


def world_of(scenario: Scenario, make: Callable[[int], PoolState]) -> World:
    world = World(scenario.size, make)
    for kind, window in scenario.windows:
        world.set_window(kind, window)
    world.keep_spare(scenario.spares)
    return world


def explore(
    scenario: Scenario, make: Callable[[int], PoolState] = PoolState, most: int = 100_000
) -> int:
    """Try every order of events; how many different situations there were."""
    start = (0,) * len(scenario.programs)
    first = Place(
        start,
        *(scenario.deaths, scenario.failures, scenario.stuck, scenario.twice, scenario.zygotes),
    )
    todo = [(world_of(scenario, make), first)]
    seen, checked = set(), set()
    while todo:
        assert len(seen) < most, "there is no end to it"
        world, place = todo.pop()
        for event, then in progress(scenario, world, place):
            new = world.clone()
            try:
                new.happen(event)
                key = new.key()
                if (about := (key, new.moved, new.narrow, *new.fed)) not in checked:
                    checked.add(about)
                    new.check()
            except Broken as exc:
                raise Broken(f"{exc} (at {event})") from None
            if (key, then) not in seen:
                seen.add((key, then))
                todo.append((new, then))
    return len(seen)


def progress(scenario: Scenario, world: World, place: Place) -> list[Move]:
    """The next moves; if none of them is sure to come, all must be over."""
    over = place.at == tuple(map(len, scenario.programs))
    if over and not any(any(must(*item)) for item in world.hands.items()):
        check(world.state.finished, "nothing will happen any more, and it is not over")
        invariants.nothing_left(world.jobs.values() - world.ended.keys(), world.hands)
    return list(moves(scenario, world, place))


def is_noticed(scenario: Scenario, make: Callable[[int], PoolState]) -> bool:
    """Does a machine with a bug in it break a rule?"""
    try:
        explore(scenario, make, most=10_000)
    except Exception:  # a rule does not hold, or the machine itself fails
        return True
    return False


# -- programs --------------------------------------------------------------------------------------


def one_by_one(*calls: int, kind: int = ALONE, priority: int = 0) -> tuple[Event, ...]:
    return tuple(("submit", job(call, kind, priority)) for call in calls)


def together(*calls: int, kind: int = SHORT, priority: int = 0) -> tuple[Event, ...]:
    return (("submit", *(job(call, kind, priority) for call in calls)),)


CLOSE: tuple[Event, ...] = (("close",),)
KILL: tuple[Event, ...] = (("close", False, True),)

# With every window at 1 a worker never holds more than one call, and is never held itself.
ONE_EACH = {
    "cancel and kill, one slot": Scenario(
        1,
        ((*one_by_one(1), ("kill", 1)), (*one_by_one(2), ("cancel", 2), *CLOSE)),
        deaths=2,
        failures=1,
        last=True,
    ),
    "cancel and kill, two slots": Scenario(
        2, ((*one_by_one(1), ("kill", 1)), (*one_by_one(2), ("kill", 2)), CLOSE), last=True
    ),
    "a crowd": Scenario(
        2, (one_by_one(1, 2), one_by_one(3), CLOSE), deaths=2, failures=1, brisk=True
    ),
    "killed twice": Scenario(
        1, ((*one_by_one(1), ("kill", 1)), (("kill", 1), *one_by_one(2)), CLOSE)
    ),
    "priorities": Scenario(
        1,
        (
            (
                *one_by_one(1),
                *one_by_one(2, priority=5),
                *one_by_one(3),
                *one_by_one(4, priority=5),
            ),
            (("cancel", 2), *one_by_one(5, priority=-1), *CLOSE),
        ),
        deaths=0,
    ),
    "priority given up and taken up again": Scenario(
        1,
        (
            (
                *one_by_one(1, priority=3),
                ("cancel", 1),
                *one_by_one(2, 3, priority=3),
                *one_by_one(4),
                *CLOSE,
            ),
        ),
    ),
    "everybody is killed": Scenario(
        2, (one_by_one(1, 2), one_by_one(3), (("kill_all",), *CLOSE)), deaths=0, brisk=True
    ),
    "shut down at once": Scenario(2, (one_by_one(1, 2), one_by_one(3), KILL), tidy=True),
    "shut down, dropping what waits": Scenario(
        1, (one_by_one(1, 2), (("close", True), *one_by_one(3)), (("kill", 1),)), last=True
    ),
    "no worker ever starts": Scenario(1, (one_by_one(1, 2), (*one_by_one(3), *CLOSE)), failures=6),
    "no worker starts, two slots": Scenario(
        2, (one_by_one(1, 2), (*one_by_one(3), *CLOSE)), deaths=0, failures=5
    ),
    "no worker ever begins": Scenario(1, (one_by_one(1, 2), CLOSE), deaths=6),
    "workers fail while one works": Scenario(
        2, (one_by_one(1, 2, 3), (("kill", 1), *CLOSE)), deaths=0, failures=4, brisk=True
    ),
    "workers cannot be made": Scenario(
        2, (one_by_one(1, 2), (("break_down",), *one_by_one(3), *CLOSE)), failures=1
    ),
    "nobody starts while a call waits for another": Scenario(
        1,
        (
            (*one_by_one(1), ("resize", 2, 1), *one_by_one(2, 3), ("prefer", 3)),
            (("resize", 1), *CLOSE),
        ),
        deaths=0,
        failures=4,
        brisk=True,
    ),
    "shrinks and grows": Scenario(
        2, (one_by_one(1, 2, 3), (("resize", 1), ("resize", 2), *CLOSE)), failures=0
    ),
    "cancelled a moment before": Scenario(
        2, (one_by_one(1, 2), (("drop", 1), ("drop", 2), ("cancel", 1)), CLOSE), last=True
    ),
    "cancelled in a broken pool": Scenario(
        2, (one_by_one(1, 2, 3), (("drop", 2), ("break_down",), *CLOSE)), deaths=2
    ),
    "workers retire": Scenario(2, (one_by_one(1), (*one_by_one(2), *CLOSE)), last=True, tidy=True),
    "retired workers are replaced": Scenario(
        1, ((*one_by_one(1), *one_by_one(2)), CLOSE), tidy=True
    ),
    "a spare takes over from a killed call": Scenario(
        1, ((*one_by_one(1, 2), ("kill", 1)), CLOSE), failures=1, spares=1
    ),
    "spares come and go": Scenario(
        1, (one_by_one(1, 2), (("keep_spare", 2), ("keep_spare", 0)), CLOSE), spares=1
    ),
    "spares of a pool that ends": Scenario(
        1, (one_by_one(1), (*CLOSE, ("keep_spare", 1))), spares=1, tidy=True
    ),
    "spares never start": Scenario(1, (one_by_one(1, 2), CLOSE), failures=4, spares=1),
    "spares of a pool that breaks": Scenario(
        1, (one_by_one(1, 2), (("break_down",), *CLOSE)), failures=1, spares=1
    ),
}

THREE = ((SHORT, 3),)
FOUR = ((SHORT, 4),)

WINDOWS = {
    "four short calls": Scenario(2, (together(1, 2, 3, 4), CLOSE), deaths=2, windows=FOUR),
    "short calls one by one": Scenario(
        2,
        (one_by_one(1, 2, kind=SHORT), one_by_one(3, 4, kind=SHORT), CLOSE),
        brisk=True,
        windows=FOUR,
    ),
    "short calls and others": Scenario(
        1,
        (
            (*together(1, 2), *one_by_one(3), *together(4), *one_by_one(5, kind=UNKNOWN)),
            CLOSE,
        ),
        windows=FOUR,
    ),
    "two windows": Scenario(
        1,
        (
            (*together(1, 2), *together(3, 4, kind=OTHER), *together(5), *CLOSE),
            (("set_window", SHORT, 1), ("set_window", OTHER, 3)),
        ),
        deaths=0,
        windows=((SHORT, 3), (OTHER, 2)),
    ),
    "a longer call in the middle": Scenario(
        1,
        ((*together(1, 2), *together(3, kind=OTHER), *together(4, 5, 6), *CLOSE),),
        deaths=0,
        windows=((SHORT, 6), (OTHER, 3)),
    ),
    "a longer call between two batches": Scenario(
        2,
        ((*together(1), *together(2, kind=OTHER), *together(3, 4, 5, 6), ("drop", 3), *CLOSE),),
        deaths=0,
        brisk=True,
        windows=((SHORT, 6), (OTHER, 3)),
    ),
    "a window for calls that never share": Scenario(
        1,
        (
            (("set_window", ALONE, 4), ("set_window", SHORT, 0), *one_by_one(1, 2)),
            (*together(3, 4), *CLOSE),
        ),
        deaths=0,
        windows=FOUR,
    ),
    "the first is killed": Scenario(
        1, ((*together(1, 2, 3), ("kill", 1)), CLOSE), deaths=2, windows=THREE
    ),
    "one in the middle is killed": Scenario(
        1, ((*together(1, 2, 3), ("kill", 2)), CLOSE), deaths=2, windows=THREE
    ),
    "the last is killed": Scenario(
        1, ((*together(1, 2, 3), ("kill", 3)), CLOSE), deaths=2, windows=THREE
    ),
    "two are killed in one worker": Scenario(
        1, (together(1, 2, 3), (("kill", 2),), (("kill", 1), ("kill", 1)), CLOSE), windows=THREE
    ),
    "two slots, two killed": Scenario(
        2,
        ((*together(1, 2, 3, 4), ("kill", 1)), (("kill", 4), *CLOSE)),
        deaths=0,
        brisk=True,
        windows=FOUR,
    ),
    "everybody is killed, with all they hold": Scenario(
        2, (together(1, 2, 3), (("kill", 2),), (("kill_all",), *CLOSE)), brisk=True, windows=THREE
    ),
    "aborted with calls in hand": Scenario(
        1, (together(1, 2, 3), (("kill", 2),), KILL), windows=THREE
    ),
    "aborted, two slots": Scenario(
        2, (together(1, 2, 3), (*CLOSE, *KILL)), windows=FOUR, spares=1, brisk=True
    ),
    "ends and drops what waits": Scenario(
        1, (together(1, 2, 3), (("kill", 1),), (("close", True),)), windows=((SHORT, 2),)
    ),
    "stuck": Scenario(2, (together(1, 2, 3), CLOSE), stuck=2, brisk=True, windows=FOUR),
    "stuck, and one behind it is killed": Scenario(
        2, ((*together(1, 2, 3), ("kill", 2)), CLOSE), stuck=1, brisk=True, windows=FOUR
    ),
    "stuck with a spare": Scenario(
        2, (together(1, 2, 3), CLOSE), stuck=1, windows=FOUR, spares=1, failures=1, deaths=0
    ),
    "breaks with calls in hand": Scenario(
        2,
        (together(1, 2, 3, 4), (("break_down",), ("kill", 2), *CLOSE)),
        deaths=0,
        stuck=1,
        brisk=True,
        windows=FOUR,
    ),
    "shrinks and grows with calls in hand": Scenario(
        2,
        (together(1, 2, 3, 4), (("resize", 1), ("kill", 1), ("resize", 2), *CLOSE)),
        deaths=0,
        stuck=1,
        brisk=True,
        windows=FOUR,
    ),
    "served its time with calls in hand": Scenario(
        1,
        (together(1, 2, 3), (("kill", 2), *together(4), *CLOSE)),
        deaths=0,
        last=True,
        windows=FOUR,
    ),
    "a spare takes over from a killed batch": Scenario(
        1, ((*together(1, 2, 3), ("kill", 2)), CLOSE), windows=THREE, spares=1
    ),
    "batches of different priority": Scenario(
        1,
        (
            (*together(1, 2), *together(3, 4, priority=5), ("kill", 1)),
            (*together(5, priority=5), *CLOSE),
        ),
        deaths=0,
        windows=THREE,
    ),
    "some of a batch were cancelled a moment before": Scenario(
        1, (together(1, 2, 3), (("drop", 2), ("drop", 1)), (("kill", 3),), CLOSE), windows=THREE
    ),
}

CALLS = (
    (*one_by_one(1), ("kill", 1)),
    (*one_by_one(2), ("cancel", 2)),
    (*one_by_one(3), *CLOSE),
)
BATCH = (together(1, 2, 3), (("kill", 2), *CLOSE))


def one_fault(**fault: int) -> tuple[Scenario, Scenario]:
    """Three calls on two workers, apart and in a batch, and one thing goes wrong."""
    fault = {"deaths": 0, **fault}
    batch = Scenario(2, BATCH, windows=FOUR, brisk=True, **fault)  # type: ignore[arg-type]
    return Scenario(2, CALLS, brisk=True, **fault), batch  # type: ignore[arg-type]


# A death that is noticed late is one that is noticed now, of a worker that did nothing for a while;
# one before, amid or after a message leaves the calls in it begun, answered or neither.  So every
# order of events has these, and a worker that is stopped, without a fault of their own.
FAULTS = {
    "nothing": one_fault(),
    "a worker dies, whenever that is noticed": one_fault(deaths=1),
    "a start is lost": one_fault(failures=1),
    "a death is told twice": one_fault(deaths=1, twice=1),
    "the zygote dies": one_fault(zygotes=1),
    "a worker is stopped, and found to be": one_fault(stuck=1),
}

LARGER = {
    "three calls, two slots, everything goes wrong": Scenario(
        2,
        ((*one_by_one(1), ("kill", 1)), (*one_by_one(2), ("cancel", 2)), (*one_by_one(3), *CLOSE)),
        failures=1,
        brisk=True,
    ),
    "everybody is killed while some die": Scenario(
        2, (one_by_one(1, 2, 3), (("kill_all",), *CLOSE)), failures=1, brisk=True
    ),
    "shut down while workers fail to start": Scenario(
        2, (one_by_one(1, 2, 3), (("kill", 2),), KILL), deaths=0, failures=4, brisk=True
    ),
    "three slots": Scenario(3, (one_by_one(1, 2, 3), (("kill", 1), *CLOSE)), brisk=True),
    "three slots, batches": Scenario(
        3, ((*together(1, 2, 3, 4), *CLOSE),), deaths=0, stuck=1, brisk=True, windows=FOUR
    ),
    "batches, and everything goes wrong": Scenario(
        2,
        ((*together(1, 2, 3), ("kill", 1)), (("kill", 3), *CLOSE)),
        brisk=True,
        windows=FOUR,
    ),
}
