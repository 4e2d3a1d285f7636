"""The calls of a backend that hands them to an engine as bytes: who waits, who runs, who has ended.

    submit ──encode──▶ waiting, by priority ──_next──▶ handed over ──▶ settled, or failed

1. What waits, waits here and not in the engine: so priority, `cancel` and the limits of waiting
   mean what they mean everywhere, and an engine never has a call that it could run twice.
2. A call is handed over once (`_next` takes it out of the line and begins it), whatever the engine
   does with what it was given.
3. The keeper is the one thread that waits for all: it ends what is to be ended when the last call
   has, and does whatever else is due.  It is there from the first call on, since at the exit of the
   interpreter none could be started.
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from unirun import _context, _observe
from unirun._again import run_again
from unirun._callback_thread import CallbackThread
from unirun._carried import carry, is_bare
from unirun._clock import Appointment, Clock
from unirun._deferral import imported, undisturbed
from unirun._dump_records import CallReport, Report, copied
from unirun._errors import ExecutorShutdown, QueueTimeout, SerializationError
from unirun._future import Future
from unirun._opaque import decode, encode, settle_in
from unirun._payload import is_reference
from unirun._prompt import Thread
from unirun._records import replace
from unirun._sites import note
from unirun.backend import Backend, CallOptions, Patience, Stats, WorkerSpec, describe, number_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._carried import Carried
    from unirun._far_state import Needs
    from unirun._info import CallInfo

__all__ = ["OpaqueBackend", "OpaqueFuture"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class OpaqueFuture(Future["Any"]):
    """A call as its caller sees it, with the bytes of it until it is over."""

    number: int
    name: str
    options: CallOptions
    payload: bytes = b""
    handles: Any = ()  # of shared objects in the payload, kept alive while it is on its way
    on_part: Callable[[bytes, Any], None] | None = None
    carried: Carried | None = None  # what comes with it
    worker: str | None = None  # where it runs
    pid: int | None = None
    machine: str | None = None  # of that process; None: this one
    begun: float | None = None  # when its body began, as far as is known
    figures: Mapping[str, Any] = _NOTHING  # others, as `_tell_info` names them
    told_begun = False  # to those who watch
    size = 0  # bytes of the payload
    _observed: bool = True
    _since = 0.0
    place: Any = None  # what the engine knows it by, while it runs
    needs: Needs = ()
    _backend: OpaqueBackend
    _kept: bytes | None = None  # of one that has failed, for `replay`
    _expiry: Appointment | None = None

    def _tell_info(self) -> dict[str, Any]:
        return {
            "options": self.options,
            "function": self.name,
            "worker": self.worker,
            "pid": self.pid,
            "machine": self.machine,
            "queued": self._since,
            "begun": self.begun,
            "bytes_in": self.size,
            "told_begun": self.told_begun,
            **self.figures,
        }

    @property
    def info(self) -> CallInfo:
        """As of any future; where a call runs that has not told it is asked for."""
        self._backend._look_at(self)
        return super().info

    def _again(self) -> Callable[[], tuple[Any, BaseException | None]] | None:
        return None if self._kept is None else partial(_rerun, self, self._kept)

    def unsaid(self, known: int) -> None:
        """Ask for what its worker has done of it beyond `known` items; that comes as a part."""
        self._backend._ask_for_parts(self)

    def _invoke_callbacks(self) -> None:
        self._backend.callbacks.run(super()._invoke_callbacks)


class OpaqueBackend(Backend):
    """Base of the backends that hand opaque calls to an engine."""

    takes_references = True
    future_type = OpaqueFuture

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        # Guards all below; notified when a call ends, and for the keeper. Reentrant: a `__del__`
        # that a garbage collection runs in here may submit.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._lines: dict[Needs, list[tuple[int, int, OpaqueFuture]]] = {}  # heaps
        self._order = itertools.count()
        self._open: set[OpaqueFuture] = set()
        self._running: dict[int, OpaqueFuture] = {}  # of those, what has begun, by number
        self._finished = self._killed = self._crashed = self._abandoned = 0
        self._closed = False
        self._stirred = False  # the keeper is to look again before it waits
        self._keeper: Thread | None = None  # ours; it ends after the last call
        self.callbacks = CallbackThread(f"{spec.name}-callbacks")
        self._clock = Clock(f"{spec.name}-clock")
        self._patience = Patience()

    # -- what an engine does ----------------------------------------------------------------------

    @abstractmethod
    def _start(self) -> None:
        """The first call is about to be taken; must not wait."""

    @abstractmethod
    def _pump(self) -> None:
        """There may be something to hand over."""

    @abstractmethod
    def _end_running(self, future: OpaqueFuture) -> None:
        """Begin to end by force what has begun: the executor is shut down with `kill`."""

    @abstractmethod
    def _release(self) -> None:
        """Nothing is open any more, and nothing will be: end the engine; may wait."""

    def _tick(self) -> float | None:
        """In the keeper, without a lock: do what is due; seconds until it is to be asked again."""
        return None

    def _encode(self, fn: Any, args: Any, kwargs: Any) -> tuple[bytes, list[Any]]:
        return encode(fn, args, kwargs)

    def _ask_for_parts(self, future: OpaqueFuture) -> None:
        """Have what is done of a call with many items told, where its worker can do that."""

    def _look_at(self, future: OpaqueFuture) -> None:
        """Find out where that call runs, where that is not known by itself; wait for a moment."""

    # -- contract ---------------------------------------------------------------------------------

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> OpaqueFuture:
        return self._take(fn, args, kwargs, options, None)

    def _take(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
        on_part: Callable[[bytes, Any], None] | None,
    ) -> OpaqueFuture:
        self._check_open()
        future = self.future_type()
        future._backend = self
        future._since = time.monotonic()
        future.number = number_for(options)
        future.name = options.name or describe(fn)
        future.options = options
        future.on_part = on_part
        future.needs = tuple(sorted((options.resources or {}).items()))
        try:
            future.carried, handles = (None, []) if is_bare(options) else carry(options)
            if options.settings is not None and future.carried is None:
                future.carried = options.settings, None, None, None
            future.payload, future.handles = self._encode(fn, args, kwargs)
            future.handles = [*future.handles, *handles] if handles else future.handles
        except (SerializationError, UserWarning) as exc:  # that is a ContextWarning, by a filter
            self._tell_submitted(future)
            future._fail(exc)
            return future
        self._tell_submitted(future)
        if options.deadline is not None and time.monotonic() >= options.deadline:
            future._fail(_waited_too_long(future))
            return future
        future._on_end = self._ended
        self._queue(future)
        self._limit_waiting(future)
        self._pump()
        return future

    def _tell_submitted(self, future: OpaqueFuture) -> None:
        future.size = self.size_of(future)
        if future.options.sites:
            note(future)
        if _observe.watchers:
            taken = time.monotonic() - future._since
            known = {"bytes_in": future.size, "packing": taken}
            _observe.submitted(future, future.name, future.options, **known)
        above = None if future.carried is None else future.carried[3]
        if above is not None and (task := _context.current_task()) is not None:
            task.hand_down(imported("unirun._heirs").Heir(future))

    def _check_open(self) -> None:
        if not self._closed and self._keeper is not None:
            return
        with self._lock:
            if self._closed:
                raise ExecutorShutdown("cannot schedule new futures after shutdown")
            if self._keeper is None:
                undisturbed(self._begin_to_work)

    def _begin_to_work(self) -> None:
        self._start()
        keeper = Thread(self._keep, f"{self.spec.name}-keeper")
        keeper.start()
        self._keeper = keeper

    def _queue(self, future: OpaqueFuture) -> None:
        with self._lock:
            if self._closed:
                raise ExecutorShutdown("cannot schedule new futures after shutdown")
            self._open.add(future)
            line = self._lines.setdefault(future.needs, [])
            heapq.heappush(line, (-future.options.priority, next(self._order), future))

    def _limit_waiting(self, future: OpaqueFuture) -> None:
        options = future.options
        ends = [] if options.deadline is None else [options.deadline]
        if options.queue_timeout is not None:
            ends.append(time.monotonic() + options.queue_timeout)
        if ends:
            expire = _Expiry(future)
            future._expiry = self._clock.call_at(min(ends), expire)

    def _next(self, needs: Needs) -> OpaqueFuture | None:
        """Rule 2: with the lock held, the next call of those with these needs, begun."""
        line = self._lines.get(needs)
        while line:
            future = heapq.heappop(line)[2]
            if not line:
                del self._lines[needs]
            if future._begin():
                self._running[future.number] = future
                if future._expiry is not None:
                    future._expiry.cancel()
                return future
        return None

    def _waiting(self, needs: Needs) -> int:
        """With the lock held: how many of those wait, about: some may have been cancelled."""
        return len(self._lines.get(needs, ()))

    def _ended(self, future: Any) -> None:
        """Every end of every call."""
        error = future._exception
        if future._expiry is not None:
            future._expiry.cancel()
        if error is not None and not future.cancelled() and future.on_part is None:
            # What is large lies elsewhere, and is let go of.
            future._kept = None if is_reference(future.payload) else future.payload or None
        future.payload, future.handles, future.place = b"", (), None
        with self._lock:
            if future not in self._open:
                return
            self._open.discard(future)
            self._running.pop(future.number, None)
            self._finished += 1
            self._killed += future.cancelled() and error is not None
            self._crashed += hasattr(error, "signal_name")  # a WorkerCrashed
            self._abandoned += bool(getattr(error, "abandoned", False))
            self._stir()

    def _stir(self) -> None:
        """With the lock held: wake the keeper."""
        self._stirred = True
        self._changed.notify_all()

    def withdraw(self, future: Future[Any]) -> None:
        assert isinstance(future, OpaqueFuture)
        with self._lock:
            line = self._lines.get(future.needs, [])
            # One that was cancelled stays in line until its turn, unless most of them were.
            if len(line) > 64 and sum(entry[2].done() for entry in line) * 2 > len(line):
                line[:] = [entry for entry in line if not entry[2].done()]
                heapq.heapify(line)

    def size_of(self, future: Future[Any]) -> int:
        return len(getattr(future, "payload", b""))

    def running_calls(self) -> list[str]:
        with self._lock:
            return [future.name for future in self._running.values()]

    def report(self) -> Report:
        calls = [_report_of(each) for each in copied(self._open)]
        return Report(self.name, self.max_workers, calls, [])

    # -- the end ----------------------------------------------------------------------------------

    def shutdown(self, *, cancel_futures: bool = False, kill: bool = False) -> None:
        with self._lock:
            self._closed = True
            unused = self._keeper is None
            running = list(self._running.values()) if kill else []
            cancels = cancel_futures or kill
            waiting = [call for call in self._open if call.number not in self._running and cancels]
            self._stir()
        if kill:
            self._patience.begin()
        for future in waiting:
            future.cancel()
        for future in running:
            self._end_running(future)
        if unused:
            self._release()

    def join(self, timeout: float | None = None) -> bool:
        keeper = self._keeper
        if keeper is None or keeper is threading.current_thread():
            return True
        until = None if timeout is None else time.monotonic() + timeout
        if not keeper.ends_within(timeout):
            return False
        left = None if until is None else max(0.0, until - time.monotonic())
        return self.callbacks.join(self._patience.within(left)) or self._patience.is_over

    def _keep(self) -> None:
        """Rule 3."""
        while True:
            pause = self._tick()
            with self._lock:
                if self._closed and not self._open:
                    break
                if not self._stirred:
                    self._changed.wait(pause)
                self._stirred = False
        self._release()
        self._clock.close()
        self._clock.join(1.0)
        self.callbacks.close()

    def stats(self) -> Stats:
        with self._lock:
            running = len(self._running)
            return Stats(
                backend=self.name,
                max_workers=self.max_workers,
                workers=running,
                pending=len(self._open) - running,
                running=running,
                finished=self._finished,
                killed=self._killed,
                crashed=self._crashed,
                abandoned=self._abandoned,
            )


def _report_of(future: OpaqueFuture) -> CallReport:
    options, now, runs = future.options, time.monotonic(), future.running()
    left = None if options.deadline is None else options.deadline - now
    if runs and future.begun is not None and options.timeout is not None:
        own = options.timeout - (now - future.begun)
        left = own if left is None else min(left, own)
    return CallReport(
        future,
        future.name,
        id=future.number,
        state="running" if runs else "waiting",
        age=now - future._since,
        ran=now - future.begun if runs and future.begun is not None else None,
        attempt=options.attempt,
        worker=future.worker or "",
        left=left,
    )


def _rerun(future: OpaqueFuture, payload: bytes) -> tuple[Any, BaseException | None]:
    """The outcome of that call, run once more, here."""
    inside = contextvars.Context()

    def arrive() -> Any:
        settle_in(future.carried)
        return decode(payload)

    try:
        call = inside.run(arrive)
    except BaseException as exc:  # noqa: BLE001  # user code runs in there, as in a worker
        return None, exc
    options = future.options
    if future.carried is not None:
        options = replace(options, seed=future.carried[2])
    return run_again(inside, future._backend.name, future.name, options, future.number, call)


class _Expiry:
    """What the clock does when the time of a call that waits is up."""

    __slots__ = ("_future",)

    def __init__(self, future: OpaqueFuture) -> None:
        self._future = future

    def __call__(self) -> None:
        future = self._future
        if future._begin():
            future._fail(_waited_too_long(future))


def _waited_too_long(future: OpaqueFuture) -> QueueTimeout:
    return QueueTimeout(f"{future.name} still waited for a worker when its time was up")
