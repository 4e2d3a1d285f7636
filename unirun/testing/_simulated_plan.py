"""What happens in a simulation of its own accord: drawn from the seed before it begins.

A plan says what the user does and when, what each call does, and how often what goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeAlias

from unirun.testing._coordinator_world import Spec
from unirun.testing._simulated_time import MILLISECOND, SECOND

Step: TypeAlias = tuple[Any, ...]
"""What a call does next: "work" for so long, "crash", "call" another one and wait for it, or an
operation on a shared object."""
Action: TypeAlias = tuple[Any, ...]
"""What the user does, or what becomes of a process."""

SHARED: Final[Spec] = {
    "lock": ("Lock",),
    "rlock": ("RLock",),
    "condition": ("Condition", "rlock"),
    "semaphore": ("Semaphore", 2),
    "queue": ("Queue", 2),
    "barrier": ("Barrier", 2),
    "event": ("Event",),
}
"""The objects that calls share, by name."""


@dataclass(frozen=True)
class Call:
    """What one call is, and what it does."""

    kind: int
    priority: int
    script: tuple[Step, ...]
    timeout: int | None  # microseconds of its body
    retries: int


@dataclass
class Plan:
    """Everything that is known beforehand; times in microseconds, chances from 0 to 1."""

    size: int
    spares: int
    windows: dict[int, int]
    actions: list[tuple[int, Action]]
    calls: list[Call]
    per_message: float  # that a party dies before, amid or after a message
    lost_spawn: float
    late_notice: float
    double_notice: float
    ignores_terminate: float
    slow_exit: float
    interrupt: float
    most_tasks: int | None  # of a worker, until it is replaced
    idle_timeout: int | None
    grace: int
    spec: Spec = field(default_factory=lambda: SHARED)


def draw(rng: Random) -> Plan:
    """A plan; small ones more often than large ones, calm ones as often as stormy ones."""
    storm = rng.choice([0.0, 0.0, 0.3, 1.0])
    length = rng.choice([5, 20, 100]) * MILLISECOND
    calls: list[Call] = []
    actions = _submissions(rng, calls, length)
    actions += _interventions(rng, len(calls), length)
    actions += _disasters(rng, storm, length)
    actions += _ends(rng, length)
    actions.sort(key=lambda each: each[0])
    return Plan(
        size=rng.choice([1, 2, 2, 3, 5]),
        spares=rng.choice([0, 0, 0, 1, 2]),
        windows={kind: rng.choice([1, 2, 4, 8]) for kind in (1, 2) if rng.random() < 0.7},
        actions=actions,
        calls=calls,
        per_message=storm * rng.choice([0.0, 0.05, 0.15]),
        lost_spawn=storm * rng.choice([0.0, 0.05, 0.3, 0.8]),
        late_notice=rng.choice([0.0, 0.2, 1.0]),
        double_notice=rng.choice([0.0, 0.3]),
        ignores_terminate=rng.choice([0.0, 0.5]),
        slow_exit=rng.choice([0.0, 0.1]),
        interrupt=rng.choice([0.0, 0.4]),
        most_tasks=rng.choice([None, None, None, 1, 3]),
        idle_timeout=rng.choice([None, None, 5 * MILLISECOND]),
        grace=rng.choice([0, 3 * MILLISECOND]),
    )


# -- what the user does ---------------------------------------------------------------------------


def _submissions(rng: Random, calls: list[Call], length: int) -> list[tuple[int, Action]]:
    actions: list[tuple[int, Action]] = []
    flavour = rng.choice([_plain, _any, rng.choice(_FLAVOURS)])  # alike, they meet more often
    for _ in range(rng.randint(1, 6)):
        kind = rng.randint(0, 2)
        batch = range(len(calls), len(calls) + rng.choice([1, 1, 2, 4, 9]))
        calls += [_call(rng, kind, flavour) for _ in batch]
        actions.append((rng.randrange(length), ("submit", tuple(batch))))
    return actions


def _call(rng: Random, kind: int, flavour: Callable[[Random], list[Step]]) -> Call:
    return Call(
        kind,
        rng.choice([0, 0, 0, 0, 1, -1]),
        tuple(flavour(rng)),
        rng.choice([None, None, None, 2 * MILLISECOND, 10 * MILLISECOND]),
        rng.choice([0, 0, 1, 3]),
    )


def _interventions(rng: Random, calls: int, length: int) -> list[tuple[int, Action]]:
    actions: list[tuple[int, Action]] = []
    for _ in range(rng.choice([0, 2, 5, 10])):
        what = rng.choice(["cancel", "kill", "kill", "drop", "drop"])
        at, first = rng.randrange(length), rng.randrange(calls)
        several = range(first, min(calls, first + rng.choice([1, 1, 3])))  # at one instant
        actions += [(at, (what, number)) for number in several]
    for _ in range(rng.choice([0, 0, 1, 4])):
        what = rng.choice(["resize", "keep_spare", "set_window", "set_window", "kill_all", "stuck"])
        values: dict[str, tuple[Any, ...]] = {
            "resize": (rng.randint(1, 4),),
            "keep_spare": (rng.randint(0, 2),),
            "set_window": (rng.randint(0, 2), rng.choice([0, 1, 2, 8])),
            "kill_all": (),
            "stuck": (rng.randrange(8),),
        }
        actions.append((rng.randrange(length), (what, *values[what])))
    return actions


def _disasters(rng: Random, storm: float, length: int) -> list[tuple[int, Action]]:
    """What becomes of processes; which of them, is a number."""
    actions: list[tuple[int, Action]] = []
    for _ in range(round(storm * rng.choice([0, 1, 3, 6]))):
        what = rng.choice(["crash", "crash", "freeze", "zygote", "manager"])
        which = (rng.randrange(8),) if what in ("crash", "freeze") else ()
        actions.append((rng.randrange(length), (what, *which)))
    actions += [(rng.randrange(length), ("manager",)) for _ in range(rng.choice([0, 0, 0, 2]))]
    if rng.random() < 0.05:
        actions.append((rng.randrange(length), ("break_down",)))
    return actions


def _ends(rng: Random, length: int) -> list[tuple[int, Action]]:
    """Shut down in the middle or when all is over, politely or not, once or twice."""
    at = rng.choice([rng.randrange(length), 10 * SECOND, 100 * SECOND])
    ends: list[tuple[int, Action]] = []
    for _ in range(rng.choice([1, 1, 2])):
        ends.append((at, ("close", rng.random() < 0.3, rng.random() < 0.3)))
        at += rng.randrange(length)
    return ends


# -- what calls do --------------------------------------------------------------------------------


def _plain(rng: Random) -> list[Step]:
    steps: list[Step] = [_work(rng)]
    if rng.random() < 0.05:
        steps.append(("crash",))
    return steps


def _any(rng: Random) -> list[Step]:
    return rng.choice(_FLAVOURS)(rng)


def _work(rng: Random) -> Step:
    return "work", rng.choice([20, 200, MILLISECOND, 5 * MILLISECOND, 30 * MILLISECOND])


def _within(rng: Random) -> int | None:
    """How long a request may wait: for ever, not at all, or so long."""
    return rng.choice([None, None, 0, MILLISECOND, 20 * MILLISECOND])


def _critical(rng: Random) -> list[Step]:
    """Locks in one order or the other, not always released, and now and then with a crash."""
    names = rng.choice([["lock"], ["rlock"], *2 * [["lock", "rlock"], ["rlock", "lock"]]])
    names += names[-1:] if names[-1] == "rlock" and rng.random() < 0.3 else []
    steps: list[Step] = [("misuse", "rlock")] if rng.random() < 0.05 else []
    patient = rng.random() < 0.5
    for name in names:
        within = None if patient else _within(rng)
        steps += [("acquire", name, within, rng.random() < 0.2), _work(rng)]
    if rng.random() < 0.1:
        steps.append(("crash",))
    if rng.random() < 0.9:  # else its task is over, and it has not released them
        steps += [("release", name) for name in reversed(names)]
    return steps


def _permits(rng: Random) -> list[Step]:
    return [
        ("acquire", "semaphore", _within(rng)),
        _work(rng),
        ("release", "semaphore"),
        _work(rng),
    ]


def _conditions(rng: Random) -> list[Step]:
    within = rng.choice([MILLISECOND, 20 * MILLISECOND])
    inner: Step = ("wait", "condition", within, rng.random() < 0.2)
    if rng.random() < 0.5:
        inner = ("notify", "condition", rng.choice([1, None]))
    depth = rng.choice([1, 1, 2])
    acquires: list[Step] = depth * [("acquire", "rlock", None, False)]
    return [*acquires, inner, _work(rng), *depth * [("release", "rlock")]]


def _items(rng: Random) -> list[Step]:
    steps: list[Step] = []
    for _ in range(rng.randint(1, 3)):
        within = rng.choice([0, MILLISECOND, 20 * MILLISECOND])
        steps += [(rng.choice(["put", "get"]), "queue", within), _work(rng)]
    return steps


def _meetings(rng: Random) -> list[Step]:
    within = rng.choice([MILLISECOND, 20 * MILLISECOND])
    meeting: Step = ("wait", rng.choice(["barrier", "event"]), within)
    return [rng.choice([meeting, meeting, ("set", "event"), ("reset", "barrier")]), _work(rng)]


def _parents(rng: Random) -> list[Step]:
    """It submits a call, which may do the same, and waits for it.

    That one is of the kind that never shares a worker, as all that tasks submit (`process/inner`):
    another might be sent to the very worker that waits for it.
    """
    inner = _parents if rng.random() < 0.4 else _any
    return [_work(rng), ("call", _call(rng, 0, inner)), *_plain(rng)]


_FLAVOURS: Final = (
    *(_plain, _critical, _critical, _permits, _conditions, _items, _items, _meetings, _parents),
)
