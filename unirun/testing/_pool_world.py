"""A world around the process pool's state machine: workers, calls, and books of its own.

It knows for each event exactly which calls must end and how, and which workers must be told what,
and holds every order against the `invariants` and the rules in the docstring of `process/state.py`.

How far a worker has got with what it holds is decided only when somebody sees it: when it answers,
when it is looked at and when it is gone.  That covers every course of things in between.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

from unirun import _registry
from unirun.testing import invariants
from unirun.testing._pool_snapshot import ALL, LINES, SETS, copy_of, key_of
from unirun.testing.invariants import MOST_FAILED_STARTS, check

Event = tuple[Any, ...]


def new_pool(size: int) -> Any:
    """The machine of the process backend, which nobody outside it imports."""
    return _registry.machine("process")(size)


class Job:
    """A call."""

    def __init__(self, number: int, kind: int = 0, priority: int = 0) -> None:
        self.number, self.kind, self.priority = number, kind, priority

    def __repr__(self) -> str:
        return f"job {self.number}"


job = cache(Job)


class Hand(NamedTuple):
    """A worker as the outside world knows it."""

    calls: tuple[Job, ...] = ()  # sent and not answered
    ready: bool = False
    told: str = ""  # "stop" or "die"
    sure: bool = False  # somebody saw that it had begun the first of its calls
    held: bool = False
    slow: bool = False  # it went on after a look, and has not answered since
    proved: bool = False  # it has answered something
    leaving: bool = False  # it said that an answer was to be its last
    settled: tuple[Job, ...] = ()  # to be killed there, and answered too late


class _Book:
    """What an event must bring about, and what it did."""

    def __init__(
        self, todo: deque[Any], ends: dict[Job, str], by: int | None, stops: set[int]
    ) -> None:
        self.todo, self.ends, self.by, self.stops = todo, ends, by, stops
        self.done: dict[Job, str] = {}
        self.kills: set[int] = set()
        self.holds: set[int] = set()
        self.resumes: set[int] = set()
        self.stopped: set[int] = set()
        self.calm = True  # the world is still as it was when the machine made up its mind


_BOOKS = ("waiting", "dropped", "wanted", "began", "ended", "hands")


class World:
    """A pool's state machine, and everything around it."""

    def __init__(self, size: int, make: Callable[[int], Any] = new_pool) -> None:
        self.state = make(size)
        self.size = size
        self.lent = 0
        self.spares = 0
        self.closed = self.broken = self.aborted = False
        self.jobs: dict[int, Job] = {}
        self.windows: dict[int, int] = {}
        self.waiting: dict[Job, None] = {}
        self.dropped: set[Job] = set()  # cancelled, and the machine does not know it yet
        self.wanted: set[Job] = set()  # running, and to be killed
        self.began: set[Job] = set()
        self.ended: dict[Job, str] = {}
        self.hands: dict[int, Hand] = {}
        self.made = 0
        self.failed = 0
        self.moved = False  # the last event made the machine give out work
        self.fed: set[int] = set()  # workers that got some then
        self.narrow = 1 << 30  # the smallest window of what they got
        assert vars(self.state).keys() == ALL, "the machine has parts that are not compared"

    def clone(self) -> "World":
        new = object.__new__(World)
        books = new.__dict__ = self.__dict__.copy()
        for name in _BOOKS:
            books[name] = books[name].copy()
        new.state = copy_of(self.state)
        return new

    def key(self) -> int:
        """Equal for worlds with the same future: workers are numbered by age, the dead left out."""
        rank = {number: index for index, number in enumerate(self.hands)}
        books = (frozenset(self.dropped), frozenset(self.wanted), frozenset(self.ended))
        state = key_of(self.state, rank)
        return hash((state, *self.hands.values(), *self.waiting, books, self.failed))

    # -- what it holds --------------------------------------------------------------------------

    def kept(self) -> list[int]:
        """Workers that have not been told to go."""
        return [number for number, hand in self.hands.items() if not hand.told]

    def busy(self) -> list[int]:
        return [n for n, h in self.hands.items() if not h.told and (h.calls or h.held)]

    def idle(self) -> list[int]:
        hands = self.hands.items()
        return [n for n, h in hands if h.ready and not (h.told or h.calls or h.held)]

    def starting(self) -> list[int]:
        return [n for n, hand in self.hands.items() if not (hand.told or hand.ready)]

    def window(self, each: Job) -> int:
        return self.windows.get(each.kind, 1)

    def happen(self, event: Event) -> None:
        """Let one thing happen, and hold what is ordered against the rules."""
        self.moved, self.fed, self.narrow = False, set(), 1 << 30
        getattr(self, event[0])(*event[1:])

    # -- what may happen to calls ---------------------------------------------------------------

    def submit(self, *calls: Job) -> None:
        refused = self.closed or self.broken
        self.jobs = self.jobs | {each.number: each for each in calls}
        self.waiting |= dict.fromkeys(calls)
        self.moved = not refused
        twin = copy_of(self.state)
        given = twin.give(calls[0]) if len(calls) == 1 else None
        orders = self.state.submit(calls)
        if given is not None:
            got = [(each.worker, getattr(each, "calls", None)) for each in orders]
            check(got == [(given, [*calls])], "gave otherwise")
            ranks = {number: number for number in self.hands}
            check(key_of(twin, ranks) == key_of(self.state, ranks), "give leads elsewhere")
        self._obey(orders, dict.fromkeys(calls, "refused") if refused else {})

    def drop(self, number: int) -> None:
        """Somebody cancels it; the machine hears of that only if it wants to send it."""
        if (each := self.jobs.get(number)) in self.waiting:
            self.dropped.add(each)

    def cancel(self, number: int) -> None:
        each = self.jobs.get(number) or job(number)
        ends = {each: "cancelled"} if each in self.waiting else {}
        self._obey(self.state.cancel(each), ends)

    def kill(self, number: int) -> None:
        each = self.jobs.get(number) or job(number)
        ends = {each: "cancelled"} if each in self.waiting else {}
        kills: set[int] = set()
        holds: set[int] = set()
        for worker, hand in self.hands.items():
            if each in hand.calls:
                self.wanted.add(each)
                if not (hand.held or hand.told):
                    (kills if len(hand.calls) == 1 else holds).add(worker)
        self._obey(self.state.kill(each), ends, kills=kills, holds=holds)

    def set_window(self, kind: int, window: int) -> None:
        if kind != 0:
            self.windows = self.windows | {kind: max(1, window)}
        self.state.set_window(kind, window)

    # -- what may happen to workers -------------------------------------------------------------

    def ready(self, worker: int) -> None:
        self.moved = not self.hands[worker].told
        self._hand(worker, ready=True)
        self._obey(self.state.worker_ready(worker))

    def answer(self, worker: int, count: int = 1, last: bool = False) -> None:
        hand = self.hands[worker]
        done, rest = hand.calls[:count], hand.calls[count:]
        self._begin(done[1:] if hand.sure else done)
        late = tuple(each for each in done if hand.told == "die" and each in self.wanted)
        stops = set()
        if not hand.told:
            self.failed = min(self.failed, MOST_FAILED_STARTS - 1) if hand.proved else 0
            self.moved = True
            last = last or hand.leaving
            stops = {worker} if last and not rest and not hand.held else set()
            self._hand(worker, proved=True, slow=False, leaving=last)
        self._hand(worker, calls=rest, sure=False, settled=hand.settled + late)
        ends = dict.fromkeys((each for each in done if each not in late), "answered")
        orders = self.state.worker_answered(worker, count, last=last)
        self._obey(orders, ends, stops=stops, by=worker)

    def look(self, worker: int, begun: bool, left: bool = False) -> None:
        """It was held, and its answers were read; `left`: none had begun, and the first is left."""
        hand = self.hands[worker]
        first = hand.calls[0] if begun or left else None
        rest = hand.calls[begun or left :]
        if begun and not hand.sure:
            self._begin(hand.calls[:1])
        ends = {each: "killed" for each in rest if each in self.wanted}
        self._take_back(each for each in rest if each not in ends)
        self._hand(worker, calls=hand.calls[: begun or left], sure=begun)
        dies = first in self.wanted
        stays = first is not None or (self.broken and self.waiting)
        stops = {worker} if hand.leaving and not stays else set()
        told: dict[str, Any] = {"kills" if dies else "resumes": {worker}}
        self._obey(self.state.looked(worker, first), ends, stops=stops, **told)
        lost = not dies and any(self.ended.get(each) == "refused" for each in rest)
        # If all who are left wait, it is refused as what waited before: rule 7.
        check(not lost or self._is_stranded(), "9: a look at a worker lost what it held")

    def stuck(self, worker: int) -> None:
        hand = self.hands[worker]
        others = len(self.busy()) < self.size and not self.broken
        ripe = len(hand.calls) > 1 and not hand.held and not hand.told and others
        self._obey(self.state.stuck(worker), holds={worker} if ripe else set())

    def zygote(self) -> None:
        """With it goes whoever comes up; together they are one failed start."""
        for index, worker in enumerate(self.starting()):
            self.gone(worker, excused=index > 0)

    def gone(self, worker: int, begun: bool = False, excused: bool = False) -> None:
        """It is dead, and its last words were read."""
        hand = self.hands.pop(worker)
        if not hand.told:
            self.failed = 0 if begun else self.failed + (not hand.proved and not excused)
        ends = dict.fromkeys(hand.settled, "killed")
        for each in hand.calls:
            if each in self.wanted:
                ends[each] = "killed"
            elif begun and each is hand.calls[0]:
                ends[each] = "killed" if hand.told else "crashed"
            elif self.aborted:
                ends[each] = "cancelled"
        if begun and not hand.sure:
            self._begin(hand.calls[:1])
        self._take_back(each for each in hand.calls if each not in ends)
        self.moved = True
        first = hand.calls[0] if begun else None
        before = self.ended.copy() if hand.calls else self.ended
        self._obey(self.state.worker_gone(worker, first, excused=excused), ends, by=worker)
        ended = [each for each in hand.calls if each not in before and each in self.ended]
        invariants.one_victim(
            f"worker {worker}", first, [each for each in ended if self.ended[each] == "crashed"]
        )

    def echo(self, worker: int, begun: int | None = None) -> None:
        """What has been told of a worker that is gone is told once more: nothing comes of it."""
        for told in ("worker_ready", "worker_answered", "stuck", "retire", "hurry"):
            check(not getattr(self.state, told)(worker), f"{told} of a worker that is gone")
        call = self.jobs.get(begun) if begun is not None else None
        check(not self.state.looked(worker, call), "a look at a worker that is gone")
        self.moved = True
        self._obey(self.state.worker_gone(worker, call))

    def retire(self, worker: int) -> None:
        stops = {worker} & set(self.idle())
        self._obey(self.state.retire(worker), stops=stops)

    def hurry(self, worker: int) -> None:
        kills = {worker} if self.hands[worker].told == "stop" else set()
        self._obey(self.state.hurry(worker), kills=kills)

    # -- what may happen to the pool ------------------------------------------------------------

    def kill_all(self) -> None:
        self._obey(self.state.kill_all(), kills=set(self.kept()))

    def resize(self, size: int, lent: int = 0) -> None:
        self.size, self.lent, self.moved = size, lent, True
        self._obey(self.state.resize(size, lent))

    def prefer(self, number: int) -> None:
        """Before all others that wait, of its priority."""
        self.moved = True
        if (each := self.jobs.get(number) or job(number)) in self.waiting:
            self.waiting = {each: None} | self.waiting
        self._obey(self.state.prefer(each))

    def keep_spare(self, spares: int) -> None:
        self.spares, self.moved = 0 if self.closed else spares, True
        self._obey(self.state.keep_spare(spares))

    def break_down(self) -> None:
        self.broken = True
        self._obey(self.state.break_down(), dict.fromkeys(self.waiting, "refused"))

    def close(self, cancel: bool = False, kill: bool = False) -> None:
        self.closed, self.spares = True, 0
        self.aborted = self.aborted or kill
        ends = dict.fromkeys(self.waiting, "cancelled") if cancel or kill else {}
        kills = {n for n, hand in self.hands.items() if hand.told != "die"} if kill else set()
        self._obey(self.state.close(cancel=cancel, kill=kill), ends, kills=kills)

    # -- books ----------------------------------------------------------------------------------

    def _hand(self, worker: int, **changes: Any) -> None:
        self.hands[worker] = self.hands[worker]._replace(**changes)

    def _begin(self, calls: Iterable[Job]) -> None:
        for each in calls:
            invariants.starts(each, 1 + (each in self.began))
            self.began.add(each)

    def _take_back(self, calls: Iterable[Job]) -> None:
        self.waiting = dict.fromkeys(calls) | self.waiting

    # -- orders against the books ---------------------------------------------------------------

    def _obey(
        self,
        orders: Iterable[Any],
        ends: dict[Job, str] | None = None,
        by: int | None = None,
        stops: Iterable[int] = (),
        **told: set[int],
    ) -> None:
        """`ends`: what must end and how, `told`: who must be told what; no more, no less."""
        book = _Book(deque(orders), ends or {}, by, set(stops))
        while book.todo:
            order = book.todo.popleft()
            getattr(self, f"_{type(order).__name__.lower()}")(order, book)
        if self.failed >= MOST_FAILED_STARTS and not self.kept():
            self.broken = True  # rule 7
        if self.broken or self._is_stranded():
            refused = [each for each, how in book.done.items() if how == "refused"]
            book.ends |= dict.fromkeys([*self.waiting, *refused], "refused")
        check(book.done == book.ends, f"1/5: ended {book.done}, should have {book.ends}")
        for what in ("kills", "holds", "resumes"):
            done, wanted = getattr(book, what), told.get(what, set())
            check(done == wanted, f"3/9: {what} {done}, should be {wanted}")
        check(book.stopped >= book.stops, "a worker that should go was not told")

    def _is_stranded(self) -> bool:
        """Nobody comes any more, and all there are wait for calls of their own."""
        kept = len(self.kept())
        return self.failed >= MOST_FAILED_STARTS and len(self.busy()) == kept <= self.lent

    def _start(self, order: Any, book: "_Book") -> None:
        check(order.worker >= self.made, "a worker's number was used twice")
        kept, busy = len(self.kept()), len(self.busy())
        check(kept < self.size + self.spares, "4: more workers than slots")
        wanted = min(len(self.waiting), self.size - busy)
        wanted += self.spares if self.waiting or busy else 0
        check(not book.calm or kept - busy < wanted, "a worker was started for nothing")
        invariants.restarts(self.failed)
        check(not self.broken, "7: started a worker of a broken pool")
        self.made = order.worker + 1
        self.hands[order.worker] = Hand()

    def _send(self, order: Any, book: "_Book") -> None:
        hand, calls = self.hands[order.worker], order.calls
        check(not hand.told, "3: sent to a worker that was told to go")
        check(hand.ready and not hand.held, "9: sent to a worker that is not ready, or held")
        check(bool(calls), "2: sent nothing")
        if not self.broken:  # then it may get back what it had
            check(not hand.slow, "9: sent to a worker that is slow")
            check(not hand.leaving, "2: sent to a worker that is to go")
            self._check_window(hand.calls, calls)
        for each in calls:
            check(each in self.waiting, "1: sent a call that does not wait")
            if self.broken:  # it gets back what it had, as it had it: rules 2 and 7
                first = next(iter(self.waiting))
            else:
                first = max(self.waiting, key=lambda other: other.priority)  # the oldest of equals
            check(each is first, f"8: sent {each} before {first}")
            check(each not in self.began, f"1: sent {each} again after it had begun")
            del self.waiting[each]
        heard = tuple([each for each in calls if each not in self.dropped])
        self._hand(order.worker, calls=hand.calls + heard)
        self.fed.add(order.worker)
        self.narrow = min(self.narrow, *map(self.window, calls))
        if not hand.calls:  # a pool that shrinks disturbs nobody who runs
            invariants.slots(len(self.busy()), self.size)
        for each in [each for each in calls if each in self.dropped]:
            book.calm = False
            book.ends[each] = "cancelled"
            book.todo += self.state.unsent(order.worker, each)

    def _check_window(self, held: tuple[Job, ...], calls: list[Job]) -> None:
        check(len(calls) <= max(1, -(-len(self.waiting) // self.size)), "2: more than its share")
        if together := len(held) + len(calls) - 1:
            window = min(self.window(each) for each in (*held, *calls))
            check(together < window, f"2: {held} and {calls} in one worker")

    def _stop(self, order: Any, book: "_Book") -> None:
        hand = self.hands[order.worker]
        check(not hand.told, "told to stop twice")
        check(not hand.calls and not hand.held, "told to stop with calls in its hands")
        over = len(self.kept()) > self.size + self.spares and hand.ready
        drained = self.closed and not self.waiting
        wanted = order.worker in book.stops
        check(wanted or over or drained, "told to stop without a reason")
        self._hand(order.worker, told="stop")
        book.stopped.add(order.worker)

    def _kill(self, order: Any, book: "_Book") -> None:
        check(order.worker in self.hands, "told a worker to die that is gone")
        check(self.hands[order.worker].told != "die", "told to die twice")
        self._hand(order.worker, told="die", held=False)
        book.kills.add(order.worker)

    def _hold(self, order: Any, book: "_Book") -> None:
        hand = self.hands[order.worker]
        check(not hand.told and not hand.held and len(hand.calls) > 1, "9: held for nothing")
        self._hand(order.worker, held=True)
        book.holds.add(order.worker)

    def _resume(self, order: Any, book: "_Book") -> None:
        hand = self.hands[order.worker]
        check(hand.held, "9: told to go on and was not held")
        self._hand(order.worker, held=False, slow=bool(hand.calls))
        book.resumes.add(order.worker)

    def _finish(self, order: Any, book: "_Book") -> None:
        named = order.worker == book.by or order.how in ("cancelled", "refused")
        check(named, f"{order.worker} was named, and not {book.by}")
        for each in order.calls:
            invariants.ends_once(each, self.ended)
            if order.how == "killed":
                hands = self.hands.values()
                lives = any(each in hand.calls or each in hand.settled for hand in hands)
                invariants.dead_then_resolved(each, lives and each in self.began)
            self.ended[each] = book.done[each] = order.how
            self.waiting.pop(each, None)
            self.dropped.discard(each)
            self.wanted.discard(each)

    # -- what must be true at any time ----------------------------------------------------------

    def check(self) -> None:
        idle, starting, busy = self.idle(), self.starting(), self.busy()
        kept = len(idle) + len(starting) + len(busy)
        check(kept <= self.size + self.spares or not idle, "4: more workers than slots")
        if self.waiting:
            check(kept > 0 and not self.broken, "7: work waits and nobody will ever come")
            check(not self._is_stranded(), "7: work waits, and who could do it waits for it")
            if self.moved:
                self._check_windows_are_used()
        elif self.closed:
            check(not idle and not starting, "a worker outlives the pool")
        hopeless = self.failed >= MOST_FAILED_STARTS or self.broken
        coming_up = len(self.waiting) if hopeless else len(starting)
        invariants.progress(len(self.waiting), self.size - len(busy), len(idle), coming_up)
        wanted = min(len(self.waiting), self.size - len(busy))
        if (self.waiting or busy) and self.moved:
            wanted += self.spares
        coming = kept >= self.size + self.spares or kept - len(busy) >= wanted or hopeless
        check(coming, "6: work waits, a slot is free, and nobody comes")
        finished = self.closed and not self.waiting and not self.hands
        check(self.state.finished == finished, "it does not know whether all is over")
        self._check_answers(idle, starting, busy)

    def _check_windows_are_used(self) -> None:
        window = self.window(max(self.waiting, key=lambda other: other.priority))
        window = min(window, self.narrow)  # who had no room for what went first was passed over
        for number, hand in self.hands.items():
            shut = hand.told or hand.held or hand.slow or hand.leaving or number in self.fed
            if hand.calls and not shut:
                room = min(map(self.window, hand.calls))
                short = 2 * len(hand.calls) <= room and len(hand.calls) < window
                check(not short, "2: work waits, and a worker runs short of it")

    def _check_answers(self, idle: list[int], starting: list[int], busy: list[int]) -> None:
        """What the pool asks."""
        state, hands = self.state, self.hands
        check(state.alive == {*idle, *starting, *busy}, "alive")
        check(sorted(state.idle) == sorted(idle), "idle")
        check(state.waiting == len(self.waiting), "waiting")
        check(state.running == len(busy), "running")
        check(state.broken == self.broken or self.closed, "broken")
        check([n for n in hands if state.is_starting(n)] == starting, "is_starting")
        crowded = [n for n in busy if len(hands[n].calls) > 1]
        check(sorted(state.crowded()) == crowded, "crowded")
        left = set(self.waiting)
        for number, hand in hands.items():
            check((*state.held(number),) == hand.calls, "held")
            for each in hand.calls:
                check(state.holder(each) == number, "holder")
            left.update(hand.calls, hand.settled)
        check(left == set(state.calls()), "calls")
        free = len(busy) < self.size
        check(state.has_room == (bool(idle) and free and not self.waiting), "has_room")
        all_here = len(state.alive) >= self.size + self.spares
        taken = not free or (bool(busy) and not idle and all_here)
        check(state.saturated == taken, "saturated")
        for name in (*SETS, *LINES, "_targets"):
            check(hands.keys() >= set(getattr(state, name)), f"{name} remembers the dead")
