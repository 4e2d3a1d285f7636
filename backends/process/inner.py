"""Calls that tasks submit, as their pool sees them: taken in, handed back, and told how they ended.

The other side is `home.py`.  Such a call is a call like any other, but its future is nobody's here:
its end is written to the worker of the task that submitted it, undecoded.

1. A call that waits is given back to the task that waits for it: taken out of the queue first, so
   it runs once.
2. A task that waits for a call it cannot run lends its slot: the pool of that call, be it this or
   another, has one worker more until the call ends.  So there are never more than `size` and those
   that wait.  It says so; or its process is seen to stand still while a call of it waits, since
   there are waits we know nothing of: in a callback, in a thread of its own, in another library.
3. When the worker of a task dies, the calls of that task end, too: cancelled, or killed.  What a
   task has left behind when it returned goes on.
"""

from __future__ import annotations

import time
from functools import partial

from unirun import _nesting, _observe
from unirun._errors import ExecutorShutdown, TaskKilled
from unirun._payload import dumps, is_reference
from unirun.backend import CallOptions

from . import outcomes, telling, wire
from .callbacks import CallbackThread
from .future import ProcessFuture, Profile
from .state import ALONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from unirun._future import Future
    from unirun._observe import Tally

    from .alarms import Alarms
    from .deadlines import Deadlines
    from .exchange import Side
    from .launch import Launcher
    from .peer import Peer
    from .state import Order, PoolState
else:
    Any = object  # `typing` takes 3 ms to import
    Protocol = object

__all__ = ["InnerCall", "InnerCalls"]

PATIENCE = 0.25
"""Seconds that a process stands still before it is taken for one that waits."""
STILL = 0.1
"""The part of a time in which one that waits may compute nevertheless."""


class Pool(Protocol):
    callbacks: CallbackThread

    def do(self, orders: list[Order]) -> None: ...
    def post(self, do: Callable[..., None], *args: Any) -> None: ...
    def kill(self, future: ProcessFuture, grace: float | None, reason: BaseException) -> None: ...
    def withdraw(self, future: ProcessFuture) -> None: ...
    def cancel_running(self, future: ProcessFuture) -> None: ...


class InnerCall(ProcessFuture):
    peer: Peer  # whose task submitted it
    name_there: int  # the number it has there
    parent: int  # index of that task
    home: InnerCalls  # of the pool of that task
    there: InnerCalls | None = None  # of the pool that runs it, which may be another
    lends = False  # rule 2: its task is known to wait; guarded by the role of that task's pool
    has_extra = False  # a worker was added for it; guarded by the role of the pool that runs it
    taken = False  # rule 1; then its process tells those who watch of it
    answer: Any = None  # as it came; a value that was decoded is the future's result

    @property
    def _observed(self) -> bool:  # type: ignore[override]
        return not self.taken

    def pass_on(self, side: Side | None, code: int, data: bytes) -> None:
        """It was answered."""
        if code == wire.RETURNED and is_reference(data):
            outcomes.settle_value(self, data, side)  # what lies in a worker's memory stays there
        else:
            self.answer = code, data
            self._succeed(None)

    def end(self) -> tuple[int, Any]:
        """What its task is told."""
        if self.cancelled() and self._exception is None:
            return (wire.TAKEN if self.taken else wire.CANCELLED), None
        if self._exception is not None:
            from unirun._remote import encode

            what = wire.KILLED if self.cancelled() else wire.FAILED
            return what, encode(self._exception, 99)
        if self.answer is not None:
            return wire.ANSWERED, self.answer
        if wire.is_plain(self._result):
            return wire.ANSWERED, self._result
        return wire.ANSWERED, (wire.RETURNED, dumps(self._result, f"the result of {self.name}"))


class InnerCalls:
    """Those of one pool; with the role, but what a future asks of its backend."""

    # Of the backend, for those who watch, and who count.
    name, source = "process", 0
    tally: Tally | None = None

    def __init__(
        self,
        pool: Pool,
        state: PoolState,
        deadlines: Deadlines,
        alarms: Alarms,
        launcher: Launcher,
        home: Any,
    ) -> None:
        """`home`: what workers are told of the executor whose pool it is."""
        self._pool = pool
        self._state = state
        self._deadlines = deadlines
        self._alarms = alarms
        self._launcher = launcher
        # To other pools, in order; not in the thread of the callbacks, which may wait for them. The
        # backend closes it when no worker is left.
        self.errands = CallbackThread("unirun-errands")
        self._watching = False
        self._seen: dict[Peer, float] = {}  # processor time of those with calls that wait
        self._number = None if home is None else home[1]
        self._calls: dict[Peer, dict[int, InnerCall]] = {}  # by whose they are
        self.refused = False  # since the pool was closed, and is not to end what it has
        self._lent = 0  # running calls that are known to wait for others
        self._extra = 0  # workers beyond the size that was asked for

    def hear(self, peer: Peer, message: wire.Message) -> None:
        code, number = message[0], message[1]
        if code == wire.SUBMIT:
            self._submit(peer, *message[1:])
            return
        call = self._calls.get(peer, {}).get(number)
        if call is None or call.done():
            return  # its end is on its way there
        if code == wire.TAKE:
            self._take(call, really=message[2])
        elif code == wire.LEND:
            self._lend(call)
        elif code == wire.END:
            _, _, force, grace = message
            if force == wire.DISCOURAGE:
                call._backend.request_stop(call)
            elif not call.cancel() and force:
                call._request_kill(grace)

    def _submit(
        self,
        peer: Peer,
        number: int,
        parent: int,
        executor: int,
        name: str,
        told: tuple[Any, ...],
        payload: bytes,
    ) -> None:
        timeout, queue_timeout, deadline, priority, memory, kind, attempt, call_id, carried = told
        options = CallOptions(
            timeout=timeout,
            queue_timeout=queue_timeout,
            deadline=deadline,
            priority=priority,
            memory=memory,
            kind=kind,
            attempt=attempt,
        )
        call = InnerCall()
        call.home, call.peer, call.name_there, call.parent = self, peer, number, parent
        call.number = call_id
        call._since = time.monotonic()
        call.priority = priority
        call._backend = self  # type: ignore[assignment]  # what futures ask of one is below
        call._profile = Profile(0, None, name, options, ALONE).carrying(carried, [])
        call._payload = payload
        call._on_end = self._ended
        if queue_timeout is not None:
            call._queued_until = time.monotonic() + queue_timeout
        self._calls.setdefault(peer, {})[number] = call
        if _observe.watchers:
            telling.submitted(call, parent=None if carried is None else carried[3])
        if deadline is not None and time.monotonic() >= deadline:
            call.expire_unsent()
        elif executor == self._number:
            self._deadlines.of_waiting(call)
            submit = self._state.submit if self.refused else self._state.submit_inner
            call.there = self
            self._pool.do(submit([call]))
        else:  # another pool is not asked with our role
            self.errands.run(partial(_submit_elsewhere, call, executor))
        if not self._watching and _waits(call):
            self._watching = True
            self._alarms.after(PATIENCE, self._watch)

    def _take(self, call: InnerCall, *, really: bool) -> None:
        call.taken = really
        if really and call.cancel_unsent():
            call._backend.withdraw(call)
        else:
            call.taken = False
            begun = call.running() or call.done()
            self._write(call, wire.AWAY if begun else wire.WAITS, None)

    def _lend(self, call: InnerCall) -> None:
        if call.lends or not _waits(call):
            return
        call.lends = True
        self._lent += 1
        if call.there is self:
            self._add_worker(call)
        else:
            self._pool.do(self._resize_by(0))
            self.errands.run(partial(_add_worker_elsewhere, call))  # once it is there

    def _end_wait(self, call: InnerCall) -> None:
        """Its task can go on; what was lent here comes back before it is given to others."""
        if call.lends:
            call.lends = False
            self._lent -= 1
            if call.there is self:
                self._take_worker(call)
            else:
                self._pool.do(self._resize_by(0))

    def _add_worker(self, call: InnerCall) -> None:
        """For a call of this pool, until it ends."""
        if _waits(call):
            call.has_extra = self._launcher.nests = True
            self._pool.do([*self._state.prefer(call), *self._resize_by(1)])

    def _take_worker(self, call: InnerCall) -> None:
        if call.has_extra:
            call.has_extra = False
            self._pool.do(self._resize_by(-1))

    def _resize_by(self, more: int) -> list[Order]:
        self._extra += more
        return self._state.resize(self._state.size + more, self._lent)

    def resize(self, size: int) -> list[Order]:
        """So many workers are asked for."""
        return self._state.resize(size + self._extra, self._lent)

    def _watch(self) -> None:
        """Whose calls wait while it stands still?"""
        seen, self._seen, some = self._seen, {}, False
        for peer, calls in list(self._calls.items()):
            waiting = [call for call in calls.values() if _waits(call)]
            some = some or bool(waiting)
            if not waiting or any(call.lends for call in calls.values()):
                continue
            used = self._seen[peer] = _processor_time(peer.pid)
            if peer in seen and used - seen[peer] < STILL * PATIENCE:
                self._lend(waiting[0])
        self._watching = some
        if some:
            self._alarms.after(PATIENCE, self._watch)

    def answered(self, peer: Peer, count: int) -> None:
        """The worker's first calls end now."""
        if self._extra:
            for call in [*self._state.held(peer.number)][:count]:
                if isinstance(call, InnerCall):
                    (self._end_wait if call.home is self else self._take_worker)(call)

    def condemned(self, peer: Peer) -> None:
        """Rule 3: before its slot goes to what its task has submitted, which nobody wants now."""
        for call in list(self._calls.get(peer, {}).values()):
            if call.parent == peer.is_at:
                call.cancel()

    def discourage(self, peer: Peer, index: int) -> None:
        """The call with that index was cancelled: those that it has submitted are to know it."""
        for call in list(self._calls.get(peer, {}).values()):
            if call.parent == index and not call.done():
                call._backend.request_stop(call)

    def exited(self, peer: Peer, begun: int) -> None:
        """Rule 3: a worker is dead, in the call with that index."""
        for call in self._calls.pop(peer, {}).values():
            if call.parent == begun and not call.cancel():
                call._request_kill()

    def _tell(self, call: InnerCall, what: int, outcome: Any) -> None:
        self._end_wait(call)
        calls = self._calls.get(call.peer, {})
        if calls.pop(call.name_there, None) is None:
            return  # its worker is gone
        if not calls:
            del self._calls[call.peer]
        self._write(call, what, outcome)

    def _write(self, call: InnerCall, what: int, outcome: Any) -> None:
        call.peer.write(wire.pack(wire.INNER, call.name_there, what, outcome))

    # -- what futures ask of their backend: any thread ------------------------------------------

    def _ended(self, call: Any) -> None:
        try:
            what, outcome = call.end()
        except BaseException as exc:  # a result that cannot be pickled again  # noqa: BLE001
            from unirun._remote import encode

            what, outcome = wire.FAILED, encode(exc, 99)
        call._result = call.answer = None
        there = call.there
        if call.lends and there is not None and there is not self:  # our pool may be over by now
            there._pool.post(there._take_worker, call)
        self._pool.post(self._tell, call, what, outcome)

    def kill(self, future: ProcessFuture, grace: float | None) -> None:
        self._pool.post(self._pool.kill, future, grace, TaskKilled(f"{future.name} was killed"))

    def withdraw(self, future: ProcessFuture) -> None:
        self._pool.post(self._pool.withdraw, future)

    def request_stop(self, future: ProcessFuture) -> None:
        self._pool.post(self._pool.cancel_running, future)

    def call_back(self, run: Callable[[], None]) -> None:
        self._pool.callbacks.run(run)

    def awaited(self, future: Future[Any]) -> None:
        return


def _processor_time(pid: int | None) -> float:
    """Seconds that process has computed; always the same where that cannot be known."""
    try:
        return 0.0 if pid is None else time.clock_gettime(~pid << 3 | _OF_PROCESS)
    except OSError:  # it is gone, or this is not Linux
        return 0.0


_OF_PROCESS = 2  # what the numbers of such clocks end with, beside the complement of the pid


def _waits(call: InnerCall) -> bool:
    """Whether it has not begun."""
    return not (call.running() or call.done())


def _submit_elsewhere(call: InnerCall, number: int) -> None:
    """To another executor of this process."""
    executor = _nesting.find(number)
    try:
        if executor is None:
            raise ExecutorShutdown("the executor of this call is gone; keep a reference to it")
        backend: Any = executor._backend("process")
        backend.submit_inner(call)
    except BaseException as exc:  # it was shut down, or cannot start  # noqa: BLE001
        call._fail(exc)


def _add_worker_elsewhere(call: InnerCall) -> None:
    if (there := call.there) is not None:
        there._pool.post(there._add_worker, call)
