"""Runs each call at submit, in the thread that submits: the reference, and a debugger's friend.

What passes here passes on processes, because arguments and results make a pickle round trip
(switch it off with `copy=False`) and an exception waits for `result()`.

A call runs in the caller's thread unless it could not end there.  Two kinds cannot, and get a
thread of their own: one with a time limit (the caller waits for it, and abandons it when its
time is up), and one that is handed a Barrier (it needs company to come back, so the caller goes
on and the call is waited for later).
"""

from __future__ import annotations

import contextvars
import io
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from unirun import _payload
from unirun._errors import (
    DeserializationError,
    ExecutorShutdown,
    InitializerFailed,
    NotKillable,
    QueueTimeout,
    SerializationError,
)
from unirun._future import Future
from unirun.backend import (
    Backend,
    CallOptions,
    Capability,
    FlagToken,
    Stats,
    WorkerSpec,
    abandoned,
    context_of,
    describe,
    end_of_body,
    left_behind,
    run_in_context,
)


class InlineFuture(Future[Any]):
    _token: FlagToken | None = None


class InlineBackend(Backend):
    """Runs calls at submit, in the caller.

    Options: `copy` (default True): arguments and results make a pickle round trip.
    """

    name = "inline"
    capabilities = frozenset({Capability.PRIORITY})
    option_names = ("copy",)

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._copy = bool(spec.options.get("copy", True))
        # Guards the counters, the threads and _initialized.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._side: dict[InlineFuture, str] = {}  # calls in threads of their own, by name
        self._running = self._finished = self._abandoned = 0
        self._closed = False
        self._initialized = spec.initializer is None
        self._broken: InitializerFailed | None = None

    @property
    def max_workers(self) -> int:
        return 1

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> InlineFuture:
        self._open_for_business()
        future = InlineFuture()
        future._backend = self
        if options.deadline is not None and time.monotonic() >= options.deadline:
            future._fail(QueueTimeout("the deadline of the call had passed before it began"))
            return future
        try:
            fn, args, kwargs, meets_others = self._copied(fn, args, kwargs)
        except SerializationError as exc:
            future._fail(exc)
            return future
        future._begin()
        limited = end_of_body(options) is not None
        if limited or meets_others:
            self._run_aside(future, fn, args, kwargs, options, wait=not meets_others)
        else:
            self._run(future, fn, args, kwargs, options)
        return future

    def kill(self, future: Future[Any], grace: float | None) -> None:
        raise NotKillable(
            self.name,
            "kill a call that runs in the caller's process",
            "use kind='isolated' or backend='process'",
        )

    def request_stop(self, future: Future[Any]) -> None:
        if isinstance(future, InlineFuture) and future._token is not None:
            future._token.set()

    def shutdown(self, *, cancel_futures: bool = False, kill: bool = False) -> None:
        with self._lock:
            self._closed = True
            side = list(self._side) if kill else []
        for future in side:
            self.request_stop(future)
            future._fail(left_behind(self.name, self._side.get(future, "the call")))
            self._forget(future)

    def join(self, timeout: float | None = None) -> bool:
        with self._lock:
            return self._changed.wait_for(lambda: not self._side, timeout)

    def stats(self) -> Stats:
        with self._lock:
            return Stats(
                backend=self.name,
                max_workers=1,
                workers=1,
                running=self._running,
                finished=self._finished,
                abandoned=self._abandoned,
            )

    def running_calls(self) -> list[str]:
        with self._lock:
            return list(self._side.values())

    def shared(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        from unirun.sync import make_thread

        made = make_thread(kind, *args, **kwargs)
        _shared[id(made)] = made
        return made

    # -- how it runs ------------------------------------------------------------------------------

    def _open_for_business(self) -> None:
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if self._closed:
                raise ExecutorShutdown("cannot schedule new futures after shutdown")
            first, self._initialized = not self._initialized, True
        if first:
            self._initialize()

    def _initialize(self) -> None:
        assert self.spec.initializer is not None
        try:
            self.spec.initializer(*self.spec.initargs)
        except KeyboardInterrupt:  # Ctrl-C is for the caller, whose thread this is
            self._initialized = False
            raise
        except BaseException as exc:  # user code; every caller is told
            self._broken = InitializerFailed(f"the initializer failed: {type(exc).__name__}: {exc}")
            raise self._broken from exc

    def _copied(self, fn: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any, bool]:
        if not self._copy:
            met = any(isinstance(arg, threading.Barrier) for arg in (*args, *kwargs.values()))
            return fn, args, kwargs, met
        data, kept = _dump((fn, args, kwargs), "the call", (describe(fn), "args", "kwargs"))
        fn, args, kwargs = _load(data, kept)
        return fn, args, kwargs, any(isinstance(obj, threading.Barrier) for obj in kept)

    def _run(
        self, future: InlineFuture, fn: Any, args: Any, kwargs: Any, options: CallOptions
    ) -> None:
        token = future._token = FlagToken()
        context = context_of(self.name, options.name or describe(fn), options, token)
        with self._lock:
            self._running += 1
        with _Interrupts() as interrupts:
            value, error = contextvars.copy_context().run(run_in_context, context, fn, args, kwargs)
        if error is None and self._copy:
            try:
                value = _load(*_dump(value, "the result"))
            except SerializationError as exc:
                error = exc
        with self._lock:
            self._running -= 1
            self._finished += 1
        if error is None:
            future._succeed(value)
        else:
            future._fail(error)
        if interrupts.seen:
            raise KeyboardInterrupt  # meant for the program, which happens to be in here

    def _run_aside(
        self,
        future: InlineFuture,
        fn: Any,
        args: Any,
        kwargs: Any,
        options: CallOptions,
        wait: bool,
    ) -> None:
        """Run in a thread of its own; the thread ends with the call, and is ours until then."""

        def body() -> None:
            context.run(self._run, future, fn, args, kwargs, options)
            self._forget(future)

        context = contextvars.copy_context()
        end = end_of_body(options)
        with self._lock:
            self._side[future] = options.name or describe(fn)
        threading.Thread(target=body, name=f"{self.spec.name}-aside", daemon=True).start()
        if end is not None:
            waited = time.monotonic() - end
            if not future._wait_ended(-waited if wait else 0) and wait:
                self._abandon(future, options)

    def _abandon(self, future: InlineFuture, options: CallOptions) -> None:
        error = abandoned(self._side.get(future, "the call"), options)
        if future._fail(error):
            with self._lock:
                self._abandoned += 1
            self.request_stop(future)
            self._forget(future)

    def _forget(self, future: InlineFuture) -> None:
        with self._lock:
            self._side.pop(future, None)
            self._changed.notify_all()


class _Interrupts:
    """Tells Ctrl-C during a call in the main thread from a KeyboardInterrupt the task raised."""

    def __init__(self) -> None:
        self.seen = False
        self._watching = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )

    def __enter__(self) -> Self:
        if self._watching:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        # Unless the task has put a handler of its own there.
        if self._watching and signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        signal.default_int_handler(number, frame)


# -- the round trip -----------------------------------------------------------------------------

# Objects that are shared, not copied, on every backend: those that an inline backend made.
_shared: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


class _Pickler(pickle.Pickler):
    """Keeps shared objects as they are, and copies the rest."""

    def __init__(self, file: io.BytesIO, kept: list[Any]) -> None:
        super().__init__(file, _payload.PROTOCOL)
        self._kept = kept

    def persistent_id(self, obj: Any) -> int | None:
        if _shared.get(id(obj)) is obj and obj is not None:
            self._kept.append(obj)
            return len(self._kept) - 1
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, kept: list[Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._kept = kept

    def persistent_load(self, pid: Any) -> Any:
        return self._kept[pid]


def _dump(obj: Any, what: str, parts: tuple[str, ...] = ()) -> tuple[bytes, list[Any]]:
    kept: list[Any] = []
    file = io.BytesIO()
    try:
        _Pickler(file, kept).dump(obj)
        return file.getvalue(), kept
    except KeyboardInterrupt:
        raise
    except BaseException:  # a lambda, say; or something no pickler takes  # noqa: BLE001
        return _dump_by_value(obj, what, parts)


def _dump_by_value(obj: Any, what: str, parts: tuple[str, ...]) -> tuple[bytes, list[Any]]:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        persistent_id = _Pickler.persistent_id

    kept: list[Any] = []
    file = io.BytesIO()
    pickler = Pickler(file, protocol=_payload.PROTOCOL)
    pickler._kept = kept
    try:
        pickler.dump(obj)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # user code runs in there
        raise SerializationError(
            f"{what} cannot be pickled: {_payload.blame(obj, exc, parts)}"
        ) from exc
    return file.getvalue(), kept


def _load(data: bytes, kept: list[Any]) -> Any:
    try:
        return _Unpickler(data, kept).load()
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # user code runs in there
        text = f"cannot be unpickled: {type(exc).__name__}: {exc}"
        raise DeserializationError(text) from exc
