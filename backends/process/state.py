"""What the process pool does next: a pure state machine.

Events come in as method calls; orders for the outside world come out as a list.  This file knows
nothing of processes, pipes, pickles, threads or clocks, so that every interleaving of events can
be tried in a test.  A call is any object with a `kind` and a `priority`; it is told apart by
identity.

Rules it keeps, whatever the order of events:

1. A call ends exactly once: answered, cancelled, killed, crashed or refused.
2. A worker runs the calls it holds one after the other, in the order they were sent.  It holds
   one, unless all of them are of kinds known to be short: then up to the smallest of their windows.
3. A worker that was told to die gets nothing more.  Once a kill was ordered for the call it runs,
   that call ends as killed, whatever the worker still says, and only when it is gone (dead, then
   resolved).
4. Of the workers that were not told to go, never more than `size` run calls, and never more than
   `spares` others are kept; when `size` shrinks, the surplus goes as soon as it is idle.
5. A worker's death ends the call that had begun there and no other; those behind it have not
   begun, and go back to the front of what waits.
6. A call waits only if every worker is taken, coming up or broken: waiting work and a free slot
   mean progress.
7. When MAX_FAILED_STARTS workers in a row died before they began anything, no more are started
   until another worker answers; if there is none, every waiting call is refused, and so is every
   later one, instead of an endless respawn.  What a broken pool's workers hold is left to them.
   So is what waits when all who are left lent their slots: they wait for it themselves.
8. Higher priority first; among equals, first come first served.
9. Before a call that is not alone in its worker is killed, the worker is held, and the outside
   looks which call has begun there.  What has not begun is taken back (but for the next one, where
   none has), so a kill hits the right call; and a worker that is stuck in a long call is relieved
   of those behind it the same way.
   One that goes on after the look gets more only when it has answered what it had begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from .orders import End, Finish, Hold, Kill, Order, Resume, Send, Start, Stop, Worker
from .waiting import Call, Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ALONE", "MAX_FAILED_STARTS", "Call", "End", "PoolState", "Worker"]
__all__ += ["Finish", "Hold", "Kill", "Order", "Resume", "Send", "Start", "Stop"]

MAX_FAILED_STARTS = 4
MAX_WINDOWS = 1024
"""Kinds whose windows are remembered; of the others a worker holds one call."""
ALONE = 0
"""The kind of calls that never share a worker."""


class PoolState:
    """The pool as a value: `size` slots, the calls that wait, the workers and what they hold."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.spares = 0  # workers beyond `size` that are kept ready while there is work
        self.broken = False
        self.closed = False
        self._lent = 0  # of the slots, so many stand for running calls that wait for others
        self._next_worker = 0
        self._failed_starts = 0
        self._windows: dict[int, int] = {}  # by kind; 1 where nothing is known
        self._waiting = Waiting()
        self._starting: set[Worker] = set()
        self._idle: list[Worker] = []  # last in, first out: its caches are warm
        self._busy: dict[Worker, deque[Call]] = {}  # what each holds, in the order it was sent
        self._fresh: set[Worker] = set()  # ready, and not known to have begun anything
        self._held_up: set[Worker] = set()  # busy, and kept from beginning another call
        self._slow: set[Worker] = set()  # busy, and since a look still at the call it had begun
        self._leaving: set[Worker] = set()  # busy, and to be replaced as soon as they are not
        self._mixed: set[Worker] = set()  # busy; what they hold may be of several kinds
        self._targets: dict[Worker, set[Call]] = {}  # the calls to be killed there
        self._stopping: set[Worker] = set()  # told to stop, not yet gone
        self._dying: dict[Worker, deque[Call]] = {}  # told to die, not yet gone; what they held
        self._settled: dict[Worker, list[Call]] = {}  # of the dying: targets that answered
        self._aborted = False  # closed with a kill: nothing is taken back any more

    # -- what may be asked ------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return len(self._waiting)

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
    def has_room(self) -> bool:
        """A call that came now could be given to a worker at once."""
        return bool(self._idle) and len(self._busy) < self.size and not self._waiting

    @property
    def saturated(self) -> bool:
        """Another ordinary call would change nothing: every slot is taken or coming up."""
        taken = not self._idle and self._strength >= self.size + self.spares
        return len(self._busy) >= self.size or (taken and bool(self._busy))

    @property
    def finished(self) -> bool:
        """Nothing is left and nothing can come."""
        return self.closed and not (self._waiting or self.alive or self._stopping or self._dying)

    @property
    def is_hopeless(self) -> bool:
        """No worker is started, unless one of those that are left answers (rule 7)."""
        return self._failed_starts >= MAX_FAILED_STARTS

    def calls(self) -> list[Any]:
        """All that are not over."""
        held = [*self._busy.values(), *self._dying.values(), *self._settled.values()]
        return [*self._waiting, *(call for calls in held for call in calls)]

    def is_starting(self, worker: Worker) -> bool:
        return worker in self._starting

    def holder(self, call: Call) -> Worker | None:
        """The worker that has the call."""
        for workers in (self._busy, self._dying):
            for worker, held in workers.items():
                if call in held:
                    return worker
        return None

    def held(self, worker: Worker) -> Sequence[Any]:
        """What the worker has not answered, in order."""
        return self._busy.get(worker) or self._dying.get(worker) or ()

    def crowded(self) -> list[Worker]:
        """Workers with calls that wait behind another."""
        return [worker for worker, held in self._busy.items() if len(held) > 1]

    # -- events about calls -----------------------------------------------------------------

    def submit(self, calls: Iterable[Call]) -> list[Order]:
        if self.closed or self.broken:
            return [Finish(list(calls), "refused")]
        self._waiting.add(calls)
        return self._advance()

    def submit_inner(self, calls: Iterable[Call]) -> list[Order]:
        """Calls of a call that may need them to end: while it runs, also after a `close`."""
        if self.broken or self._aborted or (self.closed and not self._busy):
            return [Finish(list(calls), "refused")]
        self._waiting.add(calls)
        return self._advance()

    def give(self, call: Call) -> Worker | None:
        """`submit` where that only hands the call to an idle worker; None where it does more."""
        if not self.has_room or self.closed or self.broken:
            return None
        if self.spares and self._strength < self.size + self.spares:
            return None
        worker = self._idle.pop()
        self._busy[worker] = deque((call,))
        return worker

    def unsent(self, worker: Worker, call: Call) -> list[Order]:
        """A call that was to be sent was not: it was over by then, or could not be written."""
        held = self._busy.get(worker)
        if held is None or call not in held:
            return []
        held.remove(call)
        return [Finish([call], "cancelled"), *self._rest_if_empty(worker), *self._advance()]

    def cancel(self, call: Call) -> list[Order]:
        """Only a call that waits can be cancelled; for any other there is nothing to do."""
        if not self._waiting.remove(call):
            return []
        return [Finish([call], "cancelled"), *self._advance()]

    def prefer(self, call: Call) -> list[Order]:
        """A waiting call is to be the next of its priority."""
        if self._waiting.remove(call):
            self._waiting.put_back([call])
        return self._advance()

    def kill(self, call: Call) -> list[Order]:
        """A waiting call is cancelled; a running one ends when its worker is gone (rule 3)."""
        if (worker := self.holder(call)) is None:
            return self.cancel(call)
        self._targets.setdefault(worker, set()).add(call)
        if worker in self._held_up or worker in self._dying:
            return []
        if len(self._busy[worker]) == 1:
            return [*self._condemn(worker), *self._advance()]
        self._held_up.add(worker)  # rule 9
        return [Hold(worker)]

    def set_window(self, kind: int, window: int) -> None:
        """Calls of this kind are so short, or so long, that a worker may hold that many."""
        if kind == ALONE:
            return
        self._windows.pop(kind, None)  # so that the one that was told longest ago comes first
        if len(self._windows) >= MAX_WINDOWS:
            del self._windows[next(iter(self._windows))]
        self._windows[kind] = max(1, window)

    # -- events about workers -----------------------------------------------------------------

    def worker_ready(self, worker: Worker) -> list[Order]:
        if worker not in self._starting:
            return []
        self._starting.remove(worker)
        self._fresh.add(worker)
        self._idle.append(worker)
        return self._advance()

    def worker_answered(self, worker: Worker, count: int = 1, *, last: bool = False) -> list[Order]:
        """The worker is done with its next `count` calls; `last`: it is to be replaced."""
        held = self._busy.get(worker)
        if held is None:
            return self._last_words(worker, count)
        if worker in self._fresh:
            self._fresh.remove(worker)
            self._failed_starts = 0
        self._failed_starts = min(self._failed_starts, MAX_FAILED_STARTS - 1)
        self._slow.discard(worker)
        if last:
            self._leaving.add(worker)
        done = [held.popleft() for _ in range(min(count, len(held)))]
        orders: list[Order] = [Finish(done, "answered", worker)]
        if not held:
            orders += self._rest_if_empty(worker)
        return orders + self._advance()

    def looked(self, worker: Worker, begun: Call | None) -> list[Order]:
        """A worker that was held has begun this call, and nothing that was sent after it."""
        held = self._busy.get(worker)
        if worker not in self._held_up or held is None:
            return []  # it was told to die, or died, meanwhile
        self._held_up.remove(worker)
        targets = self._targets.pop(worker, set())
        rest = [call for call in held if call is not begun]
        self._busy[worker] = deque(call for call in held if call is begun)
        orders: list[Order] = [Finish([call], "killed") for call in rest if call in targets]
        rest = [call for call in rest if call not in targets]
        if begun is not None and begun in targets:
            self._targets[worker] = {begun}
            orders += self._condemn(worker)
        else:
            orders.append(Resume(worker))
            if self.broken and rest:  # there may be nobody else for them
                self._busy[worker].extend(rest)
                return [*orders, Send(worker, rest)]
            if begun is not None:
                self._slow.add(worker)
            orders += self._rest_if_empty(worker)
        self._waiting.put_back(rest)
        return orders + self._advance()

    def stuck(self, worker: Worker) -> list[Order]:
        """It is long at one call: others could do what waits behind it (rule 9)."""
        alone = len(self._busy.get(worker, ())) < 2
        if alone or worker in self._held_up or self.broken or len(self._busy) >= self.size:
            return []
        self._held_up.add(worker)
        return [Hold(worker)]

    def worker_gone(
        self, worker: Worker, begun: Call | None = None, *, excused: bool = False
    ) -> list[Order]:
        """It is dead; `begun` is the call it had begun and not answered, if any.

        `excused`: that it never came up says nothing about the next (rule 7).
        """
        orders: list[Order] = []
        if worker in self._dying:
            orders = self._end_held(worker, self._dying.pop(worker), begun, "killed")
        elif worker in self._busy:
            orders = self._end_held(worker, self._busy.pop(worker), begun, "crashed")
            if begun is not None:
                self._failed_starts = 0
        elif worker in self._idle:
            self._idle.remove(worker)
        if (worker in self._fresh and begun is None) or worker in self._starting:
            self._failed_starts += not excused
        self._starting.discard(worker)
        self._stopping.discard(worker)
        self._forget_habits(worker)
        return orders + self._advance()

    def retire(self, worker: Worker) -> list[Order]:
        """An idle worker is not needed any more."""
        if worker not in self._idle:
            return []
        self._idle.remove(worker)
        return self._dismiss(worker)

    def hurry(self, worker: Worker) -> list[Order]:
        """A worker that was told to stop took too long."""
        if worker not in self._stopping:
            return []
        self._stopping.remove(worker)
        self._dying[worker] = deque()
        return [Kill(worker)]

    def kill_all(self) -> list[Order]:
        """End every worker, with the calls they run; what waits goes on with new ones."""
        orders = [order for worker in sorted(self.alive) for order in self._condemn(worker)]
        return orders + self._advance()

    # -- events about the pool ------------------------------------------------------------------

    def resize(self, size: int, lent: int = 0) -> list[Order]:
        self.size, self._lent = size, lent
        return self._advance()

    def keep_spare(self, spares: int) -> list[Order]:
        """Keep that many workers ready beyond those that run calls, while there is work."""
        self.spares = 0 if self.closed else spares
        return self._advance()

    def break_down(self) -> list[Order]:
        """Workers cannot be made at all: refuse what waits and all that comes (rule 7)."""
        self.broken = True
        return [*self._drop_waiting("refused"), *self._advance()]

    def close(self, *, cancel: bool = False, kill: bool = False) -> list[Order]:
        """Take nothing more; `cancel` what waits, `kill` what runs."""
        self.closed = True
        self.spares = 0
        orders: list[Order] = []
        if cancel or kill:
            orders += self._drop_waiting("cancelled")
        if kill:
            self._aborted = True
            orders += self.kill_all()
            for worker in sorted(self._stopping):
                orders += self.hurry(worker)
        return orders + self._advance()

    # -- the pieces -------------------------------------------------------------------------------

    def _drop_waiting(self, how: End) -> list[Order]:
        calls = self._waiting.take_all()
        return [Finish(calls, how)] if calls else []

    def _rest_if_empty(self, worker: Worker) -> list[Order]:
        if self._busy[worker] or worker in self._held_up:
            return []
        del self._busy[worker]
        self._mixed.discard(worker)
        if worker in self._leaving:
            return self._dismiss(worker)
        self._idle.append(worker)
        return []

    def _dismiss(self, worker: Worker) -> list[Order]:
        self._forget_habits(worker)
        self._stopping.add(worker)
        return [Stop(worker)]

    def _condemn(self, worker: Worker) -> list[Order]:
        self._starting.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        self._forget_habits(worker)
        self._dying[worker] = self._busy.pop(worker, deque())
        return [Kill(worker)]

    def _forget_habits(self, worker: Worker) -> None:
        for workers in (self._fresh, self._held_up, self._slow, self._leaving, self._mixed):
            workers.discard(worker)

    def _last_words(self, worker: Worker, count: int) -> list[Order]:
        """Answers of a worker that was told to die: rule 3 for the targets, the rest is done."""
        held = self._dying.get(worker, deque())
        targets = self._targets.get(worker, set())
        orders: list[Order] = []
        for _ in range(min(count, len(held))):
            call = held.popleft()
            if call in targets:
                self._settled.setdefault(worker, []).append(call)  # ends when the worker is gone
            else:
                orders.append(Finish([call], "answered", worker))
        return orders

    def _end_held(
        self, worker: Worker, held: Iterable[Call], begun: Call | None, how: End
    ) -> list[Order]:
        """Rule 5, for a worker that is gone."""
        targets = self._targets.pop(worker, set())
        orders: list[Order] = []
        if settled := self._settled.pop(worker, []):
            orders.append(Finish(settled, "killed", worker))
        rest = []
        for call in held:
            if call in targets:
                orders.append(Finish([call], "killed", worker))
            elif call is begun:
                orders.append(Finish([call], how, worker))
            elif self._aborted:
                orders.append(Finish([call], "cancelled", worker))
            else:
                rest.append(call)
        self._waiting.put_back(rest)
        return orders

    # -- the one place where work is given out ----------------------------------------------------

    def _advance(self) -> list[Order]:
        orders: list[Order] = []
        if not self._waiting and not self.closed and self._strength == self.size + self.spares:
            return orders  # the usual case, for speed: nothing below applies
        while self._idle and self._strength > self.size + self.spares:
            orders += self.retire(self._idle[0])  # rule 4
        if self._waiting:
            self._give_out(orders)
        if self._failed_starts >= MAX_FAILED_STARTS and not self._strength:
            self.broken = True  # rule 7
        if self._waiting and (self.broken or self._is_stranded()):
            orders += self._drop_waiting("refused")
        if self._strength < self.size + self.spares and not self.broken:
            self._start_workers(orders)
        if self.closed and not self._waiting and (self._idle or self._starting):
            orders += self._stop_idle()
        return orders

    def _is_stranded(self) -> bool:
        return self.is_hopeless and len(self._busy) == self._strength <= self._lent  # rule 7

    def _start_workers(self, orders: list[Order]) -> None:
        wanted = len(self._waiting)
        if self._waiting or self._busy:
            wanted += self.spares
        while (
            len(self._idle) + len(self._starting) < wanted
            and self._strength < self.size + self.spares
            and self._failed_starts < MAX_FAILED_STARTS
        ):
            worker = self._next_worker
            self._next_worker += 1
            self._starting.add(worker)
            orders.append(Start(worker))

    def _stop_idle(self) -> list[Order]:
        workers = [*self._idle, *sorted(self._starting)]
        self._idle.clear()
        self._starting.clear()
        return [order for worker in workers for order in self._dismiss(worker)]

    def _give_out(self, orders: list[Order]) -> None:
        """Rules 2 and 6: first to those that have nothing, then to those that run short."""
        while self._idle and self._waiting and len(self._busy) < self.size:
            worker = self._idle.pop()
            self._busy[worker] = deque()
            self._fill(worker, orders, len(self._waiting))
        if not self._windows:
            return
        for worker, held in self._busy.items():
            if not self._waiting:
                return
            if worker in self._held_up or worker in self._slow or worker in self._leaving:
                continue
            if 2 * len(held) <= (room := self._room(worker, held)):
                self._fill(worker, orders, room)

    def _room(self, worker: Worker, held: deque[Call]) -> int:
        """How many calls it may hold altogether; not looked at one by one without need."""
        windows = self._windows
        room = min(windows.get(held[0].kind, 1), windows.get(held[-1].kind, 1))
        if worker in self._mixed and 2 * len(held) <= room:
            room = min(windows.get(kind, 1) for kind in {call.kind for call in held})
        return room

    def _fill(self, worker: Worker, orders: list[Order], room: int) -> None:
        """Send it its share of what waits, as far as the window of each call allows."""
        held, waiting = self._busy[worker], self._waiting
        share = max(1, -(-len(waiting) // self.size))
        batch: list[Call] = []
        while waiting and len(batch) < share:
            room = min(room, self._windows.get(waiting.first().kind, 1))
            if len(held) >= room:
                break
            calls = waiting.take_alike(min(share - len(batch), room - len(held)))
            if held and held[-1].kind != calls[0].kind:
                self._mixed.add(worker)
            held.extend(calls)
            batch += calls
        if batch:
            orders.append(Send(worker, batch))
