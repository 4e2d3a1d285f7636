"""A coordinator and its model, told the same; whatever they do differently is Broken.

Around both stand the sessions, with what each of them waits for and knows that it has acquired.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from unirun._hosted_barriers import BARRIERS
from unirun._hosted_locks import LOCKS
from unirun._hosted_queues import QUEUES
from unirun.coordinator import Coordinator
from unirun.testing import invariants
from unirun.testing._coordinator_model import Model, Thing
from unirun.testing.invariants import check

KINDS = {**BARRIERS, **LOCKS, **QUEUES}
Spec: TypeAlias = dict[str, tuple[Any, ...]]
"""Objects by name: the kind of each and what makes it; a condition names its lock."""


class Twins:
    """Sessions, each with one request at a time, and what their tasks know they have acquired."""

    def __init__(
        self, spec: Spec, make: Callable[..., Coordinator] = Coordinator, first_id: int = 1
    ) -> None:
        self.coordinator = make(KINDS, first_id)
        self.quiet = False  # nothing is compared: it was before, at the same place
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
        self.now: float = 1.0
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
        asked = self.pending if session in self.pending else self.answered
        op, name = asked[session]
        self.pending.pop(session, None)
        if session in self.answered and op == "acquire":
            self._forget(session, name)
        self.answered.pop(session, None)
        number = self.last[session]
        self._compare(self.coordinator.cancel(session, number), self.model.cancel(session, number))

    def acknowledge(self, session: str) -> None:
        """What its last get was answered has arrived."""
        self.answered.pop(session, None)
        self.coordinator.acknowledge(session, self.last[session])
        self.model.acknowledge(session, self.last[session])
        self._compare([], [])

    def die(self, session: str) -> None:
        for each in (self.pending, self.answered, self.acquired, self.last):
            each.pop(session, None)
        heirs = self._heirs_of(session)
        self._compare(self.coordinator.session_lost(session), self.model.die(session))
        for name, waiting in heirs.items():
            subject = self.subject(name)
            invariants.inheritance(subject.name, waiting, subject.owner, subject._abandoned)

    def _heirs_of(self, session: str) -> dict[str, list[str]]:
        """By lock that it holds, those who wait for it and will take it as it is."""
        owned = [name for name, each in self.model.things.items() if each.owner == session]
        others = [each for each in self.model.waits if each.session != session]
        return {
            name: [each.session for each in others if each.place == name and not each.raises]
            for name in owned
        }

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
        check(names == [self.subject(name).name for name in left], "rule 14")
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
        if not self.quiet:
            plain = [(*reply[:3], _plain(*reply[2:])) for reply in real]
            if plain != expected:  # else the order is as good as any other
                same = sorted(plain, key=repr) == sorted(expected, key=repr)
                check(same, f"{plain} is not {expected}")
        for session, number, status, _ in real:
            check(self.last.get(session) == number, f"rule 1: {session} has no request {number}")
            check(session in self.pending, f"rule 1: {session} was answered twice")
            op, name = self.pending.pop(session)
            if name in self.ids:
                self.answered[session] = op, name
                self._note(session, op, name, status)
        if not self.quiet:
            waiting = {wait.session for wait in self.model.waits}
            check(self.pending.keys() == waiting, f"rule 5: {waiting} wait, not {self.pending}")
            for name in self.ids:
                self._compare_state(name)
        self.replied(real)

    def replied(self, replies: list[Any]) -> None:
        """Where the replies go on to."""

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
        waiting = [each for each in self.model.waits if each.place == name]
        if thing.kind == "Queue":
            line = [*subject._getters, *subject._putters]
            waiting.sort(key=lambda each: each.item is not None)
        else:
            line = subject._waiting
        _same(name, "rule 3", [each.session for each in line], [each.session for each in waiting])
        if thing.is_lock:
            state = subject._depth, subject._abandoned, subject.owner
            _same(name, "rule 10", state, (thing.depth, thing.abandoned, thing.owner))
            living = {who: depth for who, depth in subject.depths.items() if who in self.last}
            _same(name, "depths", living, thing.saved)
        elif thing.kind == "Event":
            _same(name, "is set", subject._is_set, thing.flag)
        elif thing.kind == "Barrier":
            _same(name, "rule 6", subject._broken, thing.flag)
        elif thing.kind == "Queue":
            items = [entry[2] for entry in subject._items]
            _same(name, "rule 4", items, [item for _, item in thing.items])
        elif thing.kind != "Condition":
            _same(name, "rule 11", subject._value, thing.free)
            _same(name, "rule 11", subject._permits, thing.permits)

    def key(self) -> str:
        model = self.model
        waits = [repr(vars(each)) for each in model.waits]
        unread = {session: vars(wait) for session, wait in model.unread.items()}
        mine = (self.pending, self.answered, self.acquired, self.last, self.now)
        return repr((model.things, waits, unread, model.handed, mine))


def _plain(status: str, value: Any) -> Any:
    """Without the texts."""
    if status in ("deadlock", "abandoned"):
        return value[1]
    return None if status in ("runtime", "value", "timeout") else value


def _same(name: str, rule: str, real: Any, model: Any) -> None:
    if real != model:
        raise invariants.Broken(f"{rule}: {name} has {real}, and should have {model}")
