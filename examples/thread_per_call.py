"""A backend of your own, whole: each call runs in a thread of its own, so many at a time.

    submit ──> waiting ──room──> running ──> its end
                  │                 └──too late──> abandoned: runs on, and counts no more
                  └──cancelled, or too late──> never begins

Try it:  UNIRUN_BACKEND=thread_per_call:ThreadPerCall PYTHONPATH=examples python your_program.py
"""

from __future__ import annotations

import contextvars
import threading
import time
from math import inf
from typing import Any

import unirun
from unirun import backend as contract
from unirun.backend import Backend, CallOptions, Capability, FlagToken, Stats, WorkerSpec
from unirun.sync import make_thread


class Call(unirun.Future[Any]):
    """One call: the future that its caller holds, with what is needed to run it."""

    def __init__(self, backend: Backend, body: Any, options: CallOptions) -> None:
        super().__init__()
        self._backend = backend  # whom cancel() and kill() ask
        self.body, self.options = body, options
        self.name = options.name or contract.describe(body[0])
        self.token = FlagToken()  # what current_task().cancelled looks at
        self.variables = contextvars.copy_context()
        self.timer: threading.Timer | None = None

    def limit(self, until: float | None, too_late: Any = None) -> None:
        """Have `too_late` called then, on `time.monotonic()`, instead of what was to be before."""
        if self.timer is not None:
            self.timer.cancel()
        if until is not None and until != inf:
            self.timer = threading.Timer(until - time.monotonic(), too_late, [self])
            self.timer.daemon = True
            self.timer.start()


class ThreadPerCall(Backend):
    """Runs each call in a new thread, `max_workers` at a time."""

    name = "thread-per-call"
    capabilities = frozenset({Capability.SHAREDMEM, Capability.COOPERATIVE})

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._most = spec.max_workers or contract.default_threads()
        self._ready: unirun.Future[None] = unirun.Future()  # ends as the initializer does
        # Guards all below: whoever moves a call on is the one who acts on it, outside the lock.
        self._changed = threading.Condition()
        self._calls: dict[Call, str] = {}  # "waiting", "running" or "abandoned", in their order
        self._finished = 0
        self._closed = False

    @property
    def max_workers(self) -> int:
        return self._most

    def submit(self, fn: Any, args: Any, kwargs: Any, options: CallOptions) -> Call:
        call = Call(self, (fn, args, kwargs), options)
        patience = inf if options.queue_timeout is None else options.queue_timeout
        end = inf if options.deadline is None else options.deadline
        until = min(time.monotonic() + patience, end)
        with self._changed:
            if self._closed:
                raise unirun.ExecutorShutdown("cannot schedule new futures after shutdown")
            self._calls[call] = "waiting"
        if until <= time.monotonic():
            self._waited_too_long(call)
        call.limit(until, self._waited_too_long)
        self._start()
        return call

    def shutdown(self, *, cancel_futures: bool = False, kill: bool = False) -> None:
        with self._changed:
            self._closed = True
        for call in self._those("waiting") if cancel_futures or kill else []:
            call.cancel()  # which calls `withdraw`
        for call in self._those("running") if kill else []:
            self._give_up(call, contract.left_behind(self.name, call.name))

    def join(self, timeout: float | None = None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: {*self._calls.values()} <= {"abandoned"}, timeout)

    def stats(self) -> Stats:
        waiting, running, left = map(len, map(self._those, ("waiting", "running", "abandoned")))
        counts: Any = {"pending": waiting, "running": running, "abandoned": left}
        return Stats(self.name, self._most, workers=running, finished=self._finished, **counts)

    def running_calls(self) -> list[str]:
        return [call.name for call in self._those("running")]

    def shared(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        return make_thread(kind, *args, **kwargs)  # threads share memory: the standard library's

    def kill(self, future: unirun.Future[Any], grace: float | None) -> None:
        raise unirun.NotKillable(self.name, "kill a call in a thread", "use kind='isolated'")

    def withdraw(self, call: Any) -> None:
        if self._move(call, "waiting", "ended"):
            call.limit(None)

    def request_stop(self, call: Any) -> None:
        call.token.set()

    def help_with(self, call: Any, until: float | None = None) -> bool:
        """A call that waits for another one makes room for it: it starts, whatever the limit."""
        if unirun.current_task() is not None:
            self._start(call)
        return False

    def awaited(self, call: Any) -> None:
        self.help_with(call)  # it waits by concurrent.futures or asyncio

    def _start(self, *calls: Call) -> None:
        with self._changed:
            room = self._most - len(self._those("running"))
            calls = calls or tuple(self._those("waiting")[: max(0, room)])
            begun = [call for call in calls if self._move(call, "waiting", "running")]
        for call in begun:
            threading.Thread(target=self._run, args=[call], name=call.name, daemon=True).start()

    def _run(self, call: Call) -> None:
        if (error := self._broken()) is not None:
            call._fail(error)
        elif call._begin():  # False: it was cancelled, and must not run
            call.limit(contract.end_of_body(call.options), self._ran_too_long)
            context = contract.context_of(self.name, call.name, call.options, call.token)
            value, error = call.variables.run(contract.run_in_context, context, *call.body)
            _ = call._succeed(value) if error is None else call._fail(error)
        call.limit(None)
        _ = self._move(call, "running", "ended") or self._move(call, "abandoned", "ended")
        self._start()

    def _broken(self) -> BaseException | None:
        """What is wrong with the initializer: run in the thread of the first call; others wait."""
        if self._ready._begin():
            begin = self.spec.initializer or (lambda: None)
            try:
                self._ready._succeed(begin(*self.spec.initargs))
            except BaseException as exc:  # noqa: BLE001  # user code; every call ends with it
                error = unirun.InitializerFailed(f"the initializer failed: {exc!r}")
                error.__cause__ = exc
                self._ready._fail(error)
        return self._ready.exception()

    def _waited_too_long(self, call: Call) -> None:
        if self._move(call, "waiting", "ended"):
            call._fail(unirun.QueueTimeout(f"{call.name} waited too long for a thread"))

    def _ran_too_long(self, call: Call) -> None:
        self._give_up(call, contract.abandoned(call.name, call.options))

    def _give_up(self, call: Call, error: Exception) -> None:
        """Nobody can end a thread: it runs on, and another call gets its place."""
        if self._move(call, "running", "abandoned"):
            call.token.set()
            call._fail(error)
            self._start()

    def _those(self, state: str) -> list[Call]:
        with self._changed:
            return [call for call, its in self._calls.items() if its == state]

    def _move(self, call: Call, old: str, new: str) -> bool:
        """Bring a call from one state to another; False if it is elsewhere."""
        with self._changed:
            if self._calls.get(call) != old:
                return False
            self._calls[call] = new
            if new == "ended":
                del self._calls[call]
                self._finished += 1
            self._changed.notify_all()
            return True
