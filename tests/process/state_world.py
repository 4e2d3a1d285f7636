"""A world around the process pool's state machine: workers, calls, and books of its own.

It knows for each event exactly which calls must end and how, and holds every order against the
rules in the docstring of `process/state.py`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from unirun.backends.process.state import MAX_FAILED_STARTS, PoolState

Event = tuple[Any, ...]


class Broken(Exception):
    """A rule does not hold; the text says which, and how it came to that."""


def check(holds: bool, rule: str) -> None:
    if not holds:
        raise Broken(rule)


# -- the world -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Hand:
    """A worker as the outside world knows it."""

    ready: bool = False
    call: int | None = None
    told: str = ""  # "stop" or "die"
    silent: bool = True  # False: doomed, but something of it is still on the way


class World:
    """A pool's state machine, and everything around it."""

    def __init__(self, size: int, make: Callable[[int], PoolState] = PoolState) -> None:
        self.state = make(size)
        self.size = size
        self.closed = self.broken = False
        self.waiting: dict[int, int] = {}  # call -> priority
        self.priority: dict[int, int] = {}
        self.running: dict[int, int] = {}  # call -> worker
        self.ended: dict[int, str] = {}
        self.hands: dict[int, Hand] = {}
        self.made = 0
        self.failed = 0

    def clone(self) -> "World":
        new = object.__new__(World)
        new.__dict__.update({name: _copied(value) for name, value in self.__dict__.items()})
        new.hands = {
            number: Hand(hand.ready, hand.call, hand.told, hand.silent)
            for number, hand in self.hands.items()
        }
        new.state = object.__new__(type(self.state))
        new.state.__dict__.update({k: _copied(v) for k, v in self.state.__dict__.items()})
        return new

    def key(self) -> Any:
        """Equal for worlds with the same future: workers are numbered by age, the dead left out."""
        rank = {number: index for index, number in enumerate(self.hands)}
        hands = tuple((h.ready, h.call, h.told, h.silent) for h in self.hands.values())
        s = self.state
        state = (
            *(tuple(rank.get(n, ~n) for n in each) for each in (s._starting, s._idle, s._stopping)),
            *(tuple((rank.get(n, ~n), c) for n, c in each.items()) for each in (s._busy, s._dying)),
            tuple((c, rank.get(n, ~n)) for c, n in s._worker_of.items()),
            tuple((each, tuple(calls)) for each, calls in s._waiting.items()),
            (*s._priorities, s._failed_starts, s.size, s.broken, s.closed),
        )
        return state, hands, tuple(self.waiting.items()), tuple(self.ended), self.failed

    # -- what it holds --------------------------------------------------------------------------

    def kept(self) -> set[int]:
        """Workers that have not been told to go."""
        return {number for number, hand in self.hands.items() if not hand.told}

    def idle(self) -> set[int]:
        return {n for n in self.kept() if self.hands[n].ready and self.hands[n].call is None}

    def starting(self) -> set[int]:
        return {n for n in self.kept() if not self.hands[n].ready}

    def told(self, how: str) -> set[int]:
        return {number for number, hand in self.hands.items() if hand.told == how}

    # -- what may happen ---------------------------------------------------------------------------

    def answers(self) -> Iterator[tuple[int, Hand]]:
        for number, hand in self.hands.items():
            if hand.call is not None and (hand.told != "die" or not hand.silent):
                yield number, hand

    def happen(self, event: Event) -> None:
        """Let one thing happen, and hold what is ordered against the rules."""
        try:
            getattr(self, event[0])(*event[1:])
            self._check_all()
        except Broken as exc:
            raise Broken(f"{exc} (at {event})") from None

    def submit(self, call: int, priority: int = 0) -> None:
        refused = self.closed or self.broken
        self.waiting[call] = self.priority[call] = priority
        self._obey(self.state.submit(call, priority), {call: "refused"} if refused else {})

    def cancel(self, call: int) -> None:
        ends = {call: "cancelled"} if call in self.waiting else {}
        self._obey(self.state.cancel(call), ends)

    def kill(self, call: int) -> None:
        worker = self.running.get(call)
        kills = {worker} if worker is not None and self.hands[worker].told != "die" else set()
        ends = {call: "cancelled"} if call in self.waiting else {}
        self._obey(self.state.kill(call), ends, kills)

    def ready(self, worker: int) -> None:
        hand = self.hands[worker]
        hand.ready = True
        if not hand.told:
            self.failed = 0
        self._obey(self.state.worker_ready(worker), {})

    def answer(self, worker: int, last: bool = False) -> None:
        hand = self.hands[worker]
        assert hand.call is not None
        ends, stops = {}, set()
        if hand.told == "die":
            hand.silent = True  # nothing more comes, and this is not believed (rule 3)
        else:
            ends = {hand.call: "answered"}
            stops = {worker} if last else set()
            self.failed = min(self.failed, MAX_FAILED_STARTS - 1)
        self._obey(self.state.worker_answered(worker, last=last), ends, stops=stops)

    def deaf(self, worker: int) -> None:
        """What was sent could not be written: the worker has died, and nobody has told us yet."""
        hand = self.hands[worker]
        call = hand.call
        assert call is not None
        hand.call = None
        del self.running[call]
        self.waiting = {call: self.priority[call], **self.waiting}
        self._obey(self.state.worker_deaf(worker, self.priority[call]), {}, stops={worker})

    def gone(self, worker: int) -> None:
        hand = self.hands.pop(worker)
        self.failed += not hand.ready and not hand.told
        ends = {}
        if hand.call is not None:
            ends[hand.call] = "killed" if hand.told == "die" else "crashed"
        self._obey(self.state.worker_gone(worker), ends, gone={worker: hand})

    def retire(self, worker: int) -> None:
        stops = {worker} & self.idle()
        self._obey(self.state.retire(worker), {}, stops=stops)

    def hurry(self, worker: int) -> None:
        self._obey(self.state.hurry(worker), {}, {worker} & self.told("stop"))

    def kill_all(self) -> None:
        self._obey(self.state.kill_all(), {}, self.kept())

    def resize(self, size: int) -> None:
        self.size = size
        self._obey(self.state.resize(size), {})

    def break_down(self) -> None:
        self.broken = True
        self._obey(self.state.break_down(), dict.fromkeys(self.waiting, "refused"))

    def close(self, cancel: bool = False, kill: bool = False) -> None:
        self.closed = True
        ends = dict.fromkeys(self.waiting, "cancelled") if cancel or kill else {}
        kills = self.kept() | self.told("stop") if kill else set()
        self._obey(self.state.close(cancel=cancel, kill=kill), ends, kills)

    # -- orders against the books ---------------------------------------------------------------

    def _obey(
        self,
        orders: list[Any],
        ends: dict[int, str],
        kills: set[int | None] | set[int] = frozenset(),  # type: ignore[assignment]
        stops: set[int] | None = None,
        gone: dict[int, Hand] | None = None,
    ) -> None:
        """`ends`: what must end and how; `kills`, `stops`: who must be told; no more, no less."""
        self._gone = gone or {}
        finished: dict[int, str] = {}
        killed: set[int] = set()
        stopped: set[int] = set()
        for order in orders:
            match type(order).__name__:
                case "Start":
                    self._start(order.worker)
                case "Send":
                    self._send(order.worker, order.call)
                case "Stop":
                    self._stop(order.worker, stops or set())
                    stopped.add(order.worker)
                case "Kill":
                    self._doom(order.worker)
                    killed.add(order.worker)
                case "Finish":
                    check(order.call not in finished, "1: a call ended twice")
                    self._finish(order)
                    finished[order.call] = order.how
        if self.failed >= MAX_FAILED_STARTS and not self.kept():
            self.broken = True  # rule 7
        if self.broken:
            ends = ends | dict.fromkeys(self.waiting, "refused")
            ends |= {call: how for call, how in finished.items() if how == "refused"}
        check(finished == ends, f"1/5: ended {finished}, should have {ends}")
        check(killed == kills, f"3: killed {killed}, should have {kills}")
        check(stopped >= (stops or set()), "a worker that should go was not told")

    def _start(self, worker: int) -> None:
        check(worker >= self.made, "a worker's number was used twice")
        check(len(self.kept()) < self.size, "4: more workers than slots")
        check(len(self.waiting) > len(self.starting()), "a worker was started for nothing")
        check(self.failed < MAX_FAILED_STARTS, "7: started again after too many failures")
        check(not self.broken, "7: started a worker of a broken pool")
        self.made = worker + 1
        self.hands[worker] = Hand()

    def _send(self, worker: int, call: int) -> None:
        hand = self.hands.get(worker)
        check(hand is not None, "3: sent to a worker that is gone")
        assert hand is not None
        check(not hand.told, "3: sent to a worker that was told to go")
        check(hand.ready and hand.call is None, "2: sent to a worker that is not free")
        check(call in self.waiting, "1: sent a call that does not wait")
        first = max(self.waiting, key=lambda each: self.waiting[each])  # the oldest of equals
        check(call == first, f"8: sent {call} before {first}")
        del self.waiting[call]
        hand.call = call
        self.running[call] = worker

    def _stop(self, worker: int, wanted: set[int]) -> None:
        hand = self.hands[worker]
        check(not hand.told, "told to stop twice")
        check(hand.call is None, "told to stop with a call in its hands")
        over = len(self.kept()) > self.size and hand.ready
        drained = self.closed and not self.waiting
        check(worker in wanted or over or drained, "told to stop without a reason")
        hand.told = "stop"

    def _doom(self, worker: int) -> None:
        check(worker in self.hands, "told a worker to die that is gone")
        hand = self.hands[worker]
        check(hand.told != "die", "told to die twice")
        hand.told = "die"
        hand.silent = hand.call is None

    def _finish(self, order: Any) -> None:
        call, how = order.call, order.how
        check(call not in self.ended, "1: a call ended twice")
        self.ended[call] = how
        if self.waiting.pop(call, None) is not None:
            check(how in ("cancelled", "refused"), f"1: a waiting call {how}")
            return
        worker = self.running.pop(call)
        check(order.worker == worker, "the wrong worker was named")
        if how == "answered":
            self.hands[worker].call = None
        else:
            check(worker in self._gone, f"3: {how} before its worker was gone")

    def _check_all(self) -> None:
        kept, idle, starting = self.kept(), self.idle(), self.starting()
        check(len(kept) <= self.size or not idle, "4: more workers than slots")
        if self.waiting:
            check(not idle, "6: work waits, and so does a worker")
            hopeless = self.failed >= MAX_FAILED_STARTS
            coming = len(kept) >= self.size or len(starting) >= len(self.waiting) or hopeless
            check(coming, "6: work waits, a slot is free, and nobody comes")
            check(bool(kept) and not self.broken, "7: work waits and nobody will ever come")
        elif self.closed:
            check(not idle and not starting, "a worker outlives the pool")
        finished = self.closed and not self.waiting and not self.hands
        check(self.state.finished == finished, "it does not know whether all is over")
        self._check_answers(kept, idle, starting)

    def _check_answers(self, kept: set[int], idle: set[int], starting: set[int]) -> None:
        """What the pool asks."""
        state = self.state
        busy = {n: self.hands[n].call for n in kept if self.hands[n].call is not None}
        check(state.alive == kept, "alive")
        check(sorted(state.idle) == sorted(idle), "idle")
        check(state.waiting == len(self.waiting), "waiting")
        check(state.running == len(busy), "running")
        check(state.broken == self.broken or self.closed, "broken")
        check({n for n in self.hands if state.is_starting(n)} == starting, "is_starting")
        check({n: state.held(n) for n in self.hands if state.held(n) is not None} == busy, "held")
        holders = {state.holder(call): call for call in self.running}
        holders.pop(None, None)
        check(holders == busy, "holder")


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: OrderedDict(each) if isinstance(each, OrderedDict) else each
            for key, each in value.items()
        }
    return value.copy() if isinstance(value, (list, set)) else value
