"""Programs for the coordinator and its model: random ones, and every order of small ones.

python tests/coordinator_twins.py 10000        # random programs with the seeds 0 to 9999
"""

import math
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

from unirun.coordinator import Coordinator
from unirun.testing._coordinator_world import Twins

Move = tuple[Any, ...]

# -- random programs ----------------------------------------------------------------------------

SPECS: tuple[dict[str, tuple[Any, ...]], ...] = (
    {"a": ("Lock",), "b": ("Lock",), "c": ("RLock",)},
    {"a": ("Lock",), "b": ("RLock",), "c": ("Condition", "a"), "d": ("Condition", "b")},
    {"a": ("RLock",), "b": ("Condition", "a"), "c": ("Condition", "a"), "d": ("Lock",)},
    {"a": ("Semaphore", 2), "b": ("BoundedSemaphore", 1), "c": ("Semaphore", 0), "d": ("Lock",)},
    {"a": ("Barrier", 2), "b": ("Barrier", 3), "c": ("Event",), "d": ("RLock",)},
    {"a": ("Queue", 2), "b": ("Queue", 0), "c": ("Lock",)},
)
LOCK_OPS = ["acquire"] * 5 + ["release"] * 4
OPS = {
    "Lock": [*LOCK_OPS, "reacquire"],
    "RLock": [*LOCK_OPS, "reacquire"],
    "Condition": ["wait"] * 3 + ["notify"] * 2,
    "Semaphore": LOCK_OPS,
    "BoundedSemaphore": LOCK_OPS,
    "Event": ["wait"] * 3 + ["set", "clear"],
    "Queue": ["put"] * 4 + ["get"] * 5,
    "Barrier": ["wait"] * 5 + ["need", "unneed", "unneed", "reset", "reset", "abort"],
}


def play(seed: int, length: int = 60, make: Callable[..., Coordinator] = Coordinator) -> int:
    """A random program; returns how many events it had."""
    rng = random.Random(seed)
    twins = Twins(rng.choice(SPECS), make)
    sessions = ["s1", "s2", "s3", "s4"][: rng.randint(2, 4)]
    for born in range(length):
        if rng.random() < 0.05 and twins.coordinator.next_deadline() is not None:
            twins.tick()
            continue
        if rng.random() < 0.004 and len(twins.ids) > 1:
            _remove(rng, twins)
            continue
        at = rng.randrange(len(sessions))
        session = sessions[at]
        chance = rng.random()
        if chance < 0.04:
            twins.die(session)
            sessions[at] = f"t{born}"
        elif chance < 0.1 and (session in twins.pending or session in twins.answered):
            interrupted = twins.pending.get(session) or twins.answered[session]
            twins.cancel(session)
            if interrupted[0] == "wait":
                _reacquire(twins, session, interrupted[1])
        elif session not in twins.pending:
            if chance < 0.5 and twins.answered.get(session, ("",))[0] == "get":
                twins.acknowledge(session)
            elif chance < 0.2:
                twins.end_task(session, rng.randint(0, len(twins.acquired.get(session, ()))))
            else:
                _ask(rng, twins, session)
    return twins.events


def _remove(rng: random.Random, twins: Twins) -> None:
    kept = {thing.lock for thing in twins.model.things.values()}  # by its condition
    twins.remove(rng.choice([name for name in twins.ids if name not in kept]))


def _reacquire(twins: Twins, session: str, name: str) -> None:
    lock = twins.model.things[name].lock if name in twins.ids else ""
    if lock:
        twins.ask(session, "reacquire", lock)


def _ask(rng: random.Random, twins: Twins, session: str) -> None:
    for _ in range(3):  # it mostly makes sense
        name = rng.choice(list(twins.ids))
        kind = twins.model.things[name].kind
        op = rng.choice(OPS[kind])
        lock = twins.model.things[name].lock or name
        if op in ("acquire", "set", "put", "get") or lock in twins.acquired.get(session, ()):
            break
    args: tuple[Any, ...] = ()
    if op == "notify":
        args = (rng.choice([1, 2, None]),)
    elif op in ("acquire", "wait") and kind in ("Lock", "RLock", "Condition"):
        args = (rng.random() < 0.2,)
    elif op == "put":
        args = (str(twins.events).encode(),)
    waits = op in ("acquire", "wait", "put", "get")
    within = rng.choice([None, None, None, 0.0, 1.0, 2.0]) if waits else None
    twins.ask(session, op, name, *args, within=within)


# -- every order ----------------------------------------------------------------------------------


def explore(
    spec: dict[str, tuple[Any, ...]],
    programs: dict[str, list[Move]],
    deaths: int = 1,
    make: Callable[..., Coordinator] = Coordinator,
) -> tuple[int, list[Twins]]:
    """Every order in which these programs, deaths, interrupts and time-outs can happen.

    Returns how many different situations there were, and the last ones.
    """
    seen: set[str] = set()
    ends: list[Twins] = []
    stack: list[tuple[tuple[str, str], ...]] = [()]
    while stack:
        path = stack.pop()
        twins = Twins(spec, make)
        left = {session: list(program) for session, program in programs.items()}
        losses = deaths
        for step, (what, session) in enumerate(path, 1):
            twins.quiet = step < len(path)  # the rest was compared on the way here
            losses -= what in ("die", "cancel")
            _step(twins, left, what, session)
        key = repr((twins.key(), left, losses))
        if key in seen:
            continue
        seen.add(key)
        moves = list(_moves(twins, left, losses))
        stack += [(*path, move) for move in moves]
        if all(what in ("die", "cancel") for what, _ in moves):
            ends.append(twins)
    return len(seen), ends


def _moves(twins: Twins, left: dict[str, list[Move]], losses: int) -> Iterator[tuple[str, str]]:
    for session, program in left.items():
        if session not in twins.pending and program:
            yield "go", session
        if losses:
            yield "die", session
            if session in twins.pending or session in twins.answered:
                yield "cancel", session
    if twins.coordinator.next_deadline() is not None:
        yield "tick", ""


def _step(twins: Twins, left: dict[str, list[Move]], what: str, session: str) -> None:
    if what == "go":
        move = left[session].pop(0)
        if move[0] == "end_task":
            twins.end_task(session)
        else:
            within = move[-1] if isinstance(move[-1], float) else None
            args = move[:-1] if within is not None else move
            twins.ask(session, *args, within=None if within == math.inf else within)
    elif what == "die":
        del left[session]
        twins.die(session)
    elif what == "cancel":
        interrupted = twins.pending.get(session) or twins.answered[session]
        twins.cancel(session)
        if interrupted[0] == "wait":
            _reacquire(twins, session, interrupted[1])
    else:
        twins.tick()


if __name__ == "__main__":
    events = sum(map(play, range(int(sys.argv[1]))))
    sys.stdout.write(f"{sys.argv[1]} programs, {events} events, no difference\n")
