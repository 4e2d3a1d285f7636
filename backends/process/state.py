"""What the process pool does next: a pure state machine.

Events come in as method calls; orders for the outside world come out as a list.  This file knows
nothing of processes, pipes, pickles, threads or clocks, so that every interleaving of events can
be tried in a test.

Rules it keeps, whatever the order of events:

1. A call ends exactly once: answered, cancelled, killed, crashed or refused.
2. A worker holds at most one call, and gets the next only after it has answered.
3. A worker that was told to die gets nothing more and is believed nothing more: once a kill was
   ordered the call ends as killed, and only when its worker is gone (dead, then resolved).
4. There are never more than `size` workers that have not been told to go; when `size` shrinks,
   those that are surplus go as soon as they are idle.
5. A worker's death by itself ends the call it held, and no other.
6. A call waits only if every worker is taken, coming up or broken: waiting work and a free slot
   mean progress.
7. When MAX_FAILED_STARTS workers in a row died before they were ready, no more are started until
   another worker answers; if there is none, every waiting call is refused, and so is every later
   one, instead of an endless respawn.
8. Higher priority first; among equals, first come first served.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, TypeAlias

Call: TypeAlias = int
Worker: TypeAlias = int
End: TypeAlias = Literal["answered", "cancelled", "killed", "crashed", "refused"]

MAX_FAILED_STARTS = 4


@dataclass(frozen=True, slots=True)
class Start:
    """Launch a worker."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Send:
    """Hand a call to a worker."""

    worker: Worker
    call: Call


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask an idle worker to end."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker by force."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Finish:
    """The call is over."""

    call: Call
    how: End
    worker: Worker | None = None


Order: TypeAlias = Start | Send | Stop | Kill | Finish


class PoolState:
    """The pool as a value: `size` slots, the calls that wait, the workers and what they hold."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.broken = False
        self.closed = False
        self._next_worker = 0
        self._failed_starts = 0
        self._waiting: dict[int, OrderedDict[Call, None]] = {}  # by priority
        self._priorities: list[int] = []  # keys of _waiting, negated, ascending
        self._priority_of: dict[Call, int] = {}  # of waiting calls
        self._starting: set[Worker] = set()
        self._idle: list[Worker] = []  # last in, first out: its caches are warm
        self._busy: dict[Worker, Call] = {}
        self._worker_of: dict[Call, Worker] = {}  # the inverse of _busy
        self._stopping: set[Worker] = set()  # told to stop, not yet gone
        self._dying: dict[Worker, Call | None] = {}  # told to die, not yet gone

    # -- what may be asked ------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return len(self._priority_of)

    @property
    def running(self) -> int:
        return len(self._busy)

    @property
    def idle(self) -> list[Worker]:
        return list(self._idle)

    @property
    def alive(self) -> set[Worker]:
        """Workers that have not been told to go."""
        return {*self._starting, *self._idle, *self._busy}

    @property
    def _strength(self) -> int:
        return len(self._starting) + len(self._idle) + len(self._busy)

    @property
    def finished(self) -> bool:
        """Nothing is left and nothing can come."""
        return self.closed and not (
            self._priority_of or self.alive or self._stopping or self._dying
        )

    def is_starting(self, worker: Worker) -> bool:
        return worker in self._starting

    def holder(self, call: Call) -> Worker | None:
        return self._worker_of.get(call)

    def held(self, worker: Worker) -> Call | None:
        return self._busy.get(worker)

    # -- events about calls -----------------------------------------------------------------

    def submit(self, call: Call, priority: int = 0) -> list[Order]:
        if self.closed or self.broken:
            return [Finish(call, "refused")]
        self._enqueue(call, priority)
        return self._advance()

    def cancel(self, call: Call) -> list[Order]:
        """Only a call that waits can be cancelled; for any other there is nothing to do."""
        if not self._forget(call):
            return []
        return [Finish(call, "cancelled"), *self._advance()]

    def kill(self, call: Call) -> list[Order]:
        """A waiting call is cancelled; a running one ends when its worker is gone (rule 3)."""
        if call in self._priority_of:
            return self.cancel(call)
        worker = self._worker_of.get(call)
        if worker is None:
            return []
        return [*self._condemn(worker), *self._advance()]

    # -- events about workers -----------------------------------------------------------------

    def worker_ready(self, worker: Worker) -> list[Order]:
        if worker not in self._starting:
            return []
        self._failed_starts = 0
        self._starting.remove(worker)
        self._idle.append(worker)
        return self._advance()

    def worker_answered(self, worker: Worker, *, last: bool = False) -> list[Order]:
        """The worker is done with its call; `last`: it has served its time and is replaced."""
        if worker not in self._busy:
            return []  # rule 3: it was told to die while its answer was on the way
        call = self._release(worker)
        self._failed_starts = min(self._failed_starts, MAX_FAILED_STARTS - 1)
        orders: list[Order] = [Finish(call, "answered", worker)]
        if last:
            self._stopping.add(worker)
            orders.append(Stop(worker))
        else:
            self._idle.append(worker)
        return orders + self._advance()

    def worker_deaf(self, worker: Worker, priority: int = 0) -> list[Order]:
        """The worker cannot be reached: the call it was to get waits on, before its equals."""
        if worker not in self._busy:
            return []
        self._enqueue(self._release(worker), priority, first=True)
        self._stopping.add(worker)
        return [Stop(worker), *self._advance()]

    def worker_gone(self, worker: Worker) -> list[Order]:
        orders: list[Order] = []
        if worker in self._dying:
            call = self._dying.pop(worker)
            if call is not None:
                orders.append(Finish(call, "killed", worker))
        elif worker in self._busy:
            orders.append(Finish(self._release(worker), "crashed", worker))  # rule 5
        elif worker in self._starting:
            self._starting.remove(worker)
            self._failed_starts += 1
        elif worker in self._idle:
            self._idle.remove(worker)
        self._stopping.discard(worker)
        return orders + self._advance()

    def retire(self, worker: Worker) -> list[Order]:
        """An idle worker is not needed any more."""
        if worker not in self._idle:
            return []
        self._idle.remove(worker)
        self._stopping.add(worker)
        return [Stop(worker)]

    def hurry(self, worker: Worker) -> list[Order]:
        """A worker that was told to stop took too long."""
        if worker not in self._stopping:
            return []
        self._stopping.remove(worker)
        self._dying[worker] = None
        return [Kill(worker)]

    def kill_all(self) -> list[Order]:
        """End every worker, with the calls they hold; what waits goes on with new ones."""
        orders = [order for worker in sorted(self.alive) for order in self._condemn(worker)]
        return orders + self._advance()

    # -- events about the pool ------------------------------------------------------------------

    def resize(self, size: int) -> list[Order]:
        self.size = size
        return self._advance()

    def break_down(self) -> list[Order]:
        """Workers cannot be made at all: refuse what waits and all that comes (rule 7)."""
        self.broken = True
        return [*self._drop_waiting("refused"), *self._advance()]

    def close(self, *, cancel: bool = False, kill: bool = False) -> list[Order]:
        """Take nothing more; `cancel` what waits, `kill` what runs."""
        self.closed = True
        orders: list[Order] = []
        if cancel or kill:
            orders += self._drop_waiting("cancelled")
        if kill:
            orders += self.kill_all()
            for worker in sorted(self._stopping):
                orders += self.hurry(worker)
        return orders + self._advance()

    # -- the pieces -------------------------------------------------------------------------------

    def _enqueue(self, call: Call, priority: int, *, first: bool = False) -> None:
        if priority not in self._waiting:
            self._waiting[priority] = OrderedDict()
            insort(self._priorities, -priority)
        self._waiting[priority][call] = None
        if first:
            self._waiting[priority].move_to_end(call, last=False)
        self._priority_of[call] = priority

    def _forget(self, call: Call) -> bool:
        priority = self._priority_of.pop(call, None)
        if priority is None:
            return False
        del self._waiting[priority][call]
        return True

    def _drop_waiting(self, how: End) -> list[Order]:
        calls = list(self._in_order())
        for call in calls:
            self._forget(call)
        return [Finish(call, how) for call in calls]

    def _in_order(self) -> list[Call]:
        return [call for minus in self._priorities for call in self._waiting[-minus]]

    def _release(self, worker: Worker) -> Call:
        call = self._busy.pop(worker)
        del self._worker_of[call]
        return call

    def _condemn(self, worker: Worker) -> list[Order]:
        self._starting.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        self._dying[worker] = self._release(worker) if worker in self._busy else None
        return [Kill(worker)]

    def _next_waiting(self) -> Call:
        while True:
            priority = -self._priorities[0]
            calls = self._waiting[priority]
            if calls:
                call = calls.popitem(last=False)[0]
                del self._priority_of[call]
                return call
            del self._waiting[priority], self._priorities[0]

    # -- the one place where work is given out ----------------------------------------------------

    def _advance(self) -> list[Order]:
        orders: list[Order] = []
        while self._idle and self._strength > self.size:
            orders += self.retire(self._idle[0])  # rule 4
        while self._priority_of and self._idle:
            worker, call = self._idle.pop(), self._next_waiting()
            self._busy[worker] = call
            self._worker_of[call] = worker
            orders.append(Send(worker, call))
        if self._failed_starts >= MAX_FAILED_STARTS and not self._strength:
            self.broken = True  # rule 7
        if self.broken:
            orders += self._drop_waiting("refused")
        while (
            self.waiting > len(self._starting)
            and self._strength < self.size
            and self._failed_starts < MAX_FAILED_STARTS
        ):
            worker = self._next_worker
            self._next_worker += 1
            self._starting.add(worker)
            orders.append(Start(worker))
        if self.closed and not self._priority_of:
            for worker in [*self._idle, *sorted(self._starting)]:
                self._stopping.add(worker)
                orders.append(Stop(worker))
            self._idle.clear()
            self._starting.clear()
        return orders
