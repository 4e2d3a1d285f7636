"""The way from a worker to the pool it belongs to, for calls that its tasks submit.

    threads of tasks ── SUBMIT, TAKE, LEND, END ──▶ result pipe ──▶ `inner.py`, in the pool
    listener thread  ◀── INNER: what became of it ── task pipe ◀──

The listener reads the task pipe from the first such call on, since these words may come while a
call runs; what is for the worker's main thread it puts into a queue.  Where a call is, is said by
its `place`: it WAITS at home, was ASKED for, is AWAY in some worker, was TAKEN back, or has ENDED.
A call is run here only by the one thread that asked for it and got it: never twice.
"""

from __future__ import annotations

import itertools
import os
import threading
from _queue import SimpleQueue

from unirun import _context, _hangs
from unirun._errors import ExecutorShutdown

from . import wire
from .callbacks import CallbackThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .nested import NestedFuture
    from .worker import Worker

__all__ = ["ASKED", "ENDED", "Home"]

ASKED, ENDED = -1, -2
"""Places besides those of `wire`."""


class Home:
    """One for each worker process; its thread ends with that."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.pid = os.getpid()
        self.callbacks = CallbackThread("unirun-callbacks")
        _hangs.note = _context.note_wait
        # Guards what is below, and the places of calls; notified whenever the listener has heard
        # something. Reentrant, since a __del__ may submit.
        self._changed = threading.Condition(threading.RLock())
        self._calls: dict[int, NestedFuture] = {}
        self._is_over = False
        self._numbers = itertools.count(1)
        self._messages: SimpleQueue[wire.Message | None] = SimpleQueue()  # for the main thread

    # -- the worker's main thread -----------------------------------------------------------------

    def take_over(self, messages: list[wire.Message]) -> None:
        """Read the task pipe from now on; `messages` were read before."""
        threading.Thread(
            target=self._listen, args=(messages,), name="unirun-home", daemon=True
        ).start()

    def next_message(self) -> wire.Message | None:
        return self._messages.get()

    # -- threads of tasks -------------------------------------------------------------------------

    def submit(self, call: NestedFuture) -> None:
        """Send a call home; raises what is wrong with it where it cannot be written."""
        with self._changed:
            if self._is_over:
                raise ExecutorShutdown("the executor that runs this task has ended")
            call.number = next(self._numbers)
            self._calls[call.number] = call
        try:
            self._send_call(call)
        except BaseException:
            self._forget(call)
            raise

    def _send_call(self, call: NestedFuture) -> None:
        index = self.worker.running
        self.worker.send(
            wire.SUBMIT, call.number, index, call.executor, call.name, call.told, call.payload
        )

    def _forget(self, call: NestedFuture) -> None:
        with self._changed:
            self._calls.pop(call.number, None)

    def take(self, call: NestedFuture) -> bool:
        """Have it back, if it has not begun; True for whoever is to run it, or to cancel it."""
        return self._ask(call, take=True) == wire.TAKEN

    def waits(self, call: NestedFuture) -> bool:
        """Whether it has not begun."""
        return self._ask(call, take=False) == wire.WAITS

    def _ask(self, call: NestedFuture, *, take: bool) -> int:
        """Where it is; TAKEN is told to one thread only."""
        with self._changed:
            self._changed.wait_for(lambda: call.place != ASKED)
            if call.place != wire.WAITS:
                return wire.AWAY
            call.place = ASKED
        self.worker.send(wire.TAKE, call.number, take)
        with self._changed:
            try:
                self._changed.wait_for(lambda: call.place != ASKED)
            except BaseException:  # raised by a signal handler of the task
                self._changed.wait_for(lambda: call.place != ASKED)  # not for long
                if call.place == wire.TAKEN:
                    call.place = wire.WAITS
                    self._send_call(call)  # nobody would run it
                raise
            if call.place == wire.TAKEN:
                del self._calls[call.number]
            return call.place

    def lend(self, call: NestedFuture) -> None:
        """This task will wait for the call, and cannot run it: have it run elsewhere."""
        self.worker.send(wire.LEND, call.number)

    def end(self, call: NestedFuture, grace: float | None, *, force: int) -> None:
        """Have a call that runs somewhere else asked to stop, or killed; as `wire` says."""
        self.worker.send(wire.END, call.number, force, grace)

    def wait_for(self, condition: Callable[[], bool], seconds: float | None) -> bool:
        """Wait until something was heard that makes it true; False after so many seconds."""
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    # -- the listener -----------------------------------------------------------------------------

    def _listen(self, messages: list[wire.Message]) -> None:
        try:
            while True:
                for message in messages:
                    self._hear(message)
                messages = self.worker.receive()
        except (EOFError, OSError):
            self._end()  # it is told to leave, or nobody is left to leave for

    def _hear(self, message: wire.Message) -> None:
        if message[0] == wire.INNER:
            self._told(*message[1:])
        elif message[0] == wire.CANCEL:
            self.worker.stop_call(message[1])
            with self._changed:
                self._changed.notify_all()
        else:
            self._messages.put(message)

    def _told(self, number: int, what: int, outcome: Any) -> None:
        with self._changed:
            call = self._calls.get(number)
            if call is None:
                return
            if what in (wire.WAITS, wire.TAKEN, wire.AWAY):
                call.place = what
                self._changed.notify_all()
                return
            del self._calls[number]
            call.place = ENDED
        call.arrive(what, outcome)
        with self._changed:
            self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._is_over = True
            calls, self._calls = list(self._calls.values()), {}
            for call in calls:
                call.place = ENDED
        for call in calls:
            call._fail(ExecutorShutdown("the executor ended before this call did"))
        with self._changed:
            self._changed.notify_all()
        self._messages.put(None)
