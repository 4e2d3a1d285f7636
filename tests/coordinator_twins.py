"""A coordinator and its model, told the same; whatever they do differently is an AssertionError.

python tests/coordinator_twins.py 10000        # random programs with the seeds 0 to 9999
"""

import math
import random
import sys
from collections.abc import Iterator
from typing import Any

from lock_model import Model, Thing

from unirun._hosted_barriers import BARRIERS
from unirun._hosted_locks import LOCKS
from unirun.coordinator import Coordinator

KINDS = {**BARRIERS, **LOCKS}
Move = tuple[Any, ...]


class Twins:
    """Sessions, each with one request at a time, and what their tasks know they have acquired."""

    def __init__(self, spec: dict[str, tuple[Any, ...]]) -> None:
        self.coordinator = Coordinator(KINDS)
        self.ids: dict[str, int] = {}
        things = {}
        for name, (kind, *params) in spec.items():
            real = [self.ids.get(param, param) for param in params]
            self.ids[name] = self.coordinator.create(kind, *real)
            number = params[0] if params and isinstance(params[0], int) else 0
            lock = params[0] if kind == "Condition" else ""
            things[name] = Thing(kind, number, lock, free=number)
        self.model = Model(things)
        self.last: dict[str, int] = {}
        self.pending: dict[str, tuple[str, str]] = {}  # op and name
        self.answered: dict[str, tuple[str, str]] = {}  # likewise, of an answer just come
        self.acquired: dict[str, list[str]] = {}  # by the task of each session, as it knows
        self.now = 1.0
        self.events = 0

    # -- events -----------------------------------------------------------------------------------

    def ask(self, session: str, op: str, name: str, *args: Any, within: Any = None) -> None:
        deadline = self.now + within if within else within
        number = self.last[session] = self.last.get(session, 0) + 1
        self.pending[session] = (op, name)
        self.answered.pop(session, None)
        real_args = args if op not in ("acquire", "wait", "reacquire") else (session, *args)
        if self.model.things[name].kind not in ("Lock", "RLock", "Condition"):
            real_args = args
        real = self.coordinator.request(session, number, op, self.ids[name], real_args, deadline)
        self._compare(real, self.model.ask(session, number, op, name, args, deadline))

    def cancel(self, session: str) -> None:
        op, name = self.pending.pop(session, None) or self.answered[session]
        if session in self.answered and op == "acquire":
            self._forget(session, name)
        self.answered.pop(session, None)
        number = self.last[session]
        self._compare(self.coordinator.cancel(session, number), self.model.cancel(session, number))

    def die(self, session: str) -> None:
        for each in (self.pending, self.answered, self.acquired, self.last):
            each.pop(session, None)
        self._compare(self.coordinator.session_lost(session), self.model.die(session))

    def end_task(self, session: str, before: int = 0) -> None:
        """The task ends; the first so many were acquired before it began, by the one around it."""
        known = self.acquired.get(session, [])
        acquired, known[before:] = known[before:], []
        self.answered.pop(session, None)
        times = {name: acquired.count(name) for name in acquired}
        real, names = self.coordinator.end_task(
            session, [(self.ids[name], number) for name, number in times.items()]
        )
        expected, left = self.model.end_task(session, times)
        assert names == [self.subject(name).name for name in left], "rule 14"
        self._compare(real, expected)

    def remove(self, name: str) -> None:
        """The last handle on that object has gone; nobody can ask for it any more."""
        for session, names in self.acquired.items():
            self.acquired[session] = [each for each in names if each != name]
        for session, (_, subject) in list(self.answered.items()):
            if subject == name:
                del self.answered[session]
        removed = self.ids.pop(name)
        self._compare(self.coordinator.remove(removed), self.model.remove(name))

    def tick(self) -> None:
        now = self.coordinator.next_deadline()
        assert now is not None
        self.now = now
        self._compare(self.coordinator.expire(now), self.model.tick(now))

    # -- what must be the same --------------------------------------------------------------------

    def _compare(self, real: list[Any], expected: list[Any]) -> None:
        self.events += 1
        plain = [(*reply[:3], _plain(*reply[2:])) for reply in real]
        assert sorted(plain, key=repr) == sorted(expected, key=repr), f"{plain} is not {expected}"
        for session, number, status, _ in real:
            assert self.last.get(session) == number, "rule 1"
            assert session in self.pending, "rule 1"
            op, name = self.pending.pop(session)
            if name in self.ids:
                self.answered[session] = op, name
                self._note(session, op, name, status)
        assert set(self.pending) == {wait.session for wait in self.model.waits}, "rule 5"
        for name in self.ids:
            self._compare_state(name)

    def _note(self, session: str, op: str, name: str, status: str) -> None:
        """What the session knows it has acquired."""
        thing = self.model.things[name]
        if thing.is_lock and status == "ok" and op == "acquire":
            if thing.kind == "Lock":
                self._forget(session, name)
            self.acquired.setdefault(session, []).append(name)
        elif op == "release" and status == "ok":
            self._forget(session, name)
        elif op in ("wait", "reacquire") and status in ("deadlock", "abandoned"):
            lock = thing.lock or name
            while lock in self.acquired.get(session, ()):
                self._forget(session, lock)

    def _forget(self, session: str, name: str) -> None:
        if name in self.acquired.get(session, ()):
            self.acquired[session].remove(name)

    def subject(self, name: str) -> Any:
        return self.coordinator.subject(self.ids[name])

    def _compare_state(self, name: str) -> None:
        thing, subject = self.model.things[name], self.subject(name)
        waiting = [each.session for each in self.model.waits if each.place == name]
        assert [each.session for each in subject._waiting] == waiting, "rule 3"
        if thing.is_lock:
            assert (subject._depth, subject._abandoned) == (thing.depth, thing.abandoned)
            assert subject.owner == thing.owner
            living = {who: depth for who, depth in subject.depths.items() if who in self.last}
            assert living == thing.saved
        elif thing.kind == "Event":
            assert subject._is_set == thing.flag
        elif thing.kind == "Barrier":
            assert subject._broken == thing.flag
        elif thing.kind != "Condition":
            assert subject._value == thing.free
            assert subject._permits == thing.permits

    def key(self) -> str:
        model = self.model
        waits = [repr(vars(each)) for each in model.waits]
        unread = {session: vars(wait) for session, wait in model.unread.items()}
        mine = (self.pending, self.answered, self.acquired, self.last, self.now)
        return repr((model.things, waits, unread, mine))


def _plain(status: str, value: Any) -> Any:
    """Without the texts."""
    if status in ("deadlock", "abandoned"):
        return value[1]
    return None if status in ("runtime", "value") else value


# -- random programs ----------------------------------------------------------------------------

SPECS: tuple[dict[str, tuple[Any, ...]], ...] = (
    {"a": ("Lock",), "b": ("Lock",), "c": ("RLock",)},
    {"a": ("Lock",), "b": ("RLock",), "c": ("Condition", "a"), "d": ("Condition", "b")},
    {"a": ("RLock",), "b": ("Condition", "a"), "c": ("Condition", "a"), "d": ("Lock",)},
    {"a": ("Semaphore", 2), "b": ("BoundedSemaphore", 1), "c": ("Semaphore", 0), "d": ("Lock",)},
    {"a": ("Barrier", 2), "b": ("Barrier", 3), "c": ("Event",), "d": ("RLock",)},
)
LOCK_OPS = ["acquire"] * 5 + ["release"] * 4
OPS = {
    "Lock": [*LOCK_OPS, "reacquire"],
    "RLock": [*LOCK_OPS, "reacquire"],
    "Condition": ["wait"] * 3 + ["notify"] * 2,
    "Semaphore": LOCK_OPS,
    "BoundedSemaphore": LOCK_OPS,
    "Event": ["wait"] * 3 + ["set", "clear"],
    "Barrier": ["wait"] * 5 + ["need", "unneed", "unneed", "reset", "reset", "abort"],
}


def play(seed: int, length: int = 60) -> int:
    """A random program; returns how many events it had."""
    rng = random.Random(seed)
    twins = Twins(rng.choice(SPECS))
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
            if chance < 0.2:
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
        if op in ("acquire", "set") or lock in twins.acquired.get(session, ()):
            break
    args: tuple[Any, ...] = ()
    if op == "notify":
        args = (rng.choice([1, 2, None]),)
    elif op in ("acquire", "wait") and kind in ("Lock", "RLock", "Condition"):
        args = (rng.random() < 0.2,)
    within = rng.choice([None, None, None, 0.0, 1.0, 2.0]) if op in ("acquire", "wait") else None
    twins.ask(session, op, name, *args, within=within)


# -- every order ----------------------------------------------------------------------------------


def explore(
    spec: dict[str, tuple[Any, ...]], programs: dict[str, list[Move]], deaths: int = 1
) -> tuple[int, list[Twins]]:
    """Every order in which these programs, deaths, interrupts and time-outs can happen.

    Returns how many different situations there were, and the last ones.
    """
    seen: set[str] = set()
    ends: list[Twins] = []
    stack: list[tuple[tuple[str, str], ...]] = [()]
    while stack:
        path = stack.pop()
        twins = Twins(spec)
        left = {session: list(program) for session, program in programs.items()}
        losses = deaths
        for what, session in path:
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
