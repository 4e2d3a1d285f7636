"""What a worker process runs: read a call, run it, answer, until the pipe ends.

Light by rule (a test counts its imports): it is loaded before the first call can run, and again
for every worker that replaces one.  Nothing here trusts the task: whatever it raises, closes,
forks or exits is an outcome.

1. SIGINT is ignored: Ctrl-C is the parent's business.  SIGTERM ends the process, unless the task
   installed a handler of its own; SIGKILL follows after the grace.
2. A task may fork. The child drops our pipes at once, and if it returns into this loop it exits.
3. A call begins, and its answer is kept, as `control` says: it is looked at before each call
   whether that may begin.  Answers to calls known to be short are sent together.
4. What runs here may submit other calls: from the first of them on, a thread of `home` reads the
   task pipe, as what becomes of them is told there.
5. If the parent dies, the life-line ends, and the kernel ends this process and its group (SIGIO,
   whose default is to terminate) whatever the task is doing; where the kernel cannot, a thread
   watches it.
"""

from __future__ import annotations

import contextvars
import os
import sys
import time
import types
from _thread import allocate_lock, get_ident

from unirun import _context
from unirun._payload import loads

from . import wire
from .about import Cancellations, WorkerContext, enter, relay, surround
from .control import BEGUN, BEGUN_AT, HOLD, LONG, WATCHED, Control, open_control
from .ends import FAILED_START, STOPPED, finish_threads, flush, status_of_fork
from .garbage import Garbage
from .large import LargeObjects, prepare_for
from .system import die_with, signals_of_a_worker
from .wire import is_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from unirun.backend import Backend, WorkerSpec

    from .home import Home
    from .meter import Meter
    from .upward import Upward

    Dump: TypeAlias = Callable[[Any, str], bytes]

SHORT = 50_000
"""Nanoseconds up to which calls of a function are known to be short, by the last of them."""
TOGETHER = 200_000
"""Nanoseconds of work whose answers are kept, at most, to be sent together."""


def main(
    tasks: int,
    results: int,
    lifeline: int,
    shared: int,
    arguments: int,
    values: int,
    *,
    local_setup: Any = None,
) -> None:
    """Serve the pipes until `tasks` ends; never returns.

    `local_setup` is the (initializer, initargs) of a forked worker, which needs no pickle for them.
    """
    status = 1
    try:
        for fd in (tasks, results, lifeline, shared, arguments, values):
            os.set_inheritable(fd, False)  # not for the programs that a task starts
        _settle_in(lifeline)
        large = LargeObjects(arguments, values)
        worker = Worker(tasks, results, open_control(shared), large)
        _context.tell = worker.tell
        status = worker.serve(local_setup)
    except BaseException:  # ours, not the task's: show it, and die  # noqa: BLE001
        _print_traceback()
    finally:
        _leave(status)


def _settle_in(lifeline: int) -> None:
    signals_of_a_worker()
    die_with(lifeline)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True)  # what is printed before a crash is seen
    sys.modules["__main__"] = types.ModuleType("__main__")  # the user's is never run here
    _context.in_worker_process = True


def _leave(status: int) -> None:
    try:
        finish_threads()
        import atexit

        atexit._run_exitfuncs()
    except BaseException:  # the exit functions are the user's  # noqa: BLE001
        _print_traceback()
    finally:
        flush()
        os._exit(status)


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


class Worker(Cancellations):
    """The loop, and what it knows."""

    _upward: Upward | None = None  # from the first news on
    _meter: Meter | None = None  # from the first call on

    def __init__(self, tasks: int, results: int, control: Control, large: LargeObjects) -> None:
        super().__init__()
        self._tasks = tasks
        self._results = results
        self._control = control
        self._large = large
        self.pid = os.getpid()
        self._reader = wire.FrameReader()
        self._inbox: list[wire.Message] = []
        # Guards the task pipe while a call runs: any of its threads may ask for cancellation.
        self._pipe = allocate_lock()
        self.writing = allocate_lock()  # one frame at a time: a task's threads may emit
        self.writer = 0  # the thread that does
        self._functions: dict[int, Any] = {}  # bytes until one has been unpickled
        self._short: set[int] = set()  # functions whose last call was short
        self._main_thread = get_ident()
        self._garbage = Garbage()
        self._is_brisk = False  # the last call came soon after the answer before
        self._poll = wire.poll_of(tasks)
        self._index = 0  # of the next call
        self._running = 0  # index of the call that runs
        self._answers: list[Any] = []  # not sent yet; also in the journal
        self._given = 0  # answers so far, sent or not
        self._spent = 0  # nanoseconds that those not sent yet have taken
        self.facts: Any = None  # about the executor whose calls it runs
        self._home: Home | None = None  # from the first call on that a task submits there
        self._reading = False  # the main thread reads from the task pipe; guarded by _pipe
        self._asked = False  # some task has looked at its token: then its pipe may be in use
        os.register_at_fork(after_in_child=self._forget_pipes)

    def _forget_pipes(self) -> None:
        """Rule 2: in a child that a task forked."""
        fds = [self._tasks, self._results, *self._large.abandon()]
        self._tasks = self._results = -1
        self._running = 0
        self._home = _context.home = None
        self.__dict__.pop("_upward", None)
        self._pipe = allocate_lock()
        for fd in fds:
            try:
                if fd >= 0:
                    os.close(fd)
            except OSError:
                continue  # the task has closed what was not its own
        _context.in_worker_process = False
        _context.note_wait = _context.tell = None

    # -- the loop -------------------------------------------------------------------------------

    def serve(self, local_setup: Any) -> int:
        while (message := self._next()) is not None:
            code = message[0]
            if code == wire.CALLS:
                self._calls(message[1], message[2])
            elif code == wire.FORGET:
                self._functions.clear()
                self._short.clear()
            elif code == wire.LEARN:
                self._learn(message[1])
            elif code == wire.CANCEL:
                self.stop_call(message[1])  # of one that waits behind, or has ended meanwhile
            elif code == wire.FREE:
                self._large.free(message[1])
            elif code == wire.PATH:
                surround(*message[1:])
            elif code == wire.SETUP and not self._set_up(local_setup, *message[1:]):
                return FAILED_START
        return STOPPED

    def _learn(self, functions: dict[int, bytes]) -> None:
        """While there is nothing else to do: unpickle what other workers have been called for."""
        for number, function in functions.items():
            self._functions[number] = function
            try:
                self._functions[number] = loads(function)
            except BaseException:  # noqa: BLE001  # user code; a call of it will say so
                continue

    def _next(self) -> wire.Message | None:
        while not self._inbox:
            if self._answers:
                self._deliver()
            with self._pipe:
                self._reading = self._home is None
            if self._home is not None:
                return self._home.next_message()
            begun = time.perf_counter()
            if begun >= self._garbage.look_at:
                self._garbage.look(begun)
            if self._is_brisk and self._poll is not None:
                wire.spin(self._poll, begun)
            try:
                self._inbox += self.receive()
            except EOFError:
                return None
            self._is_brisk = time.perf_counter() - begun < wire.SPIN_SECONDS
            self._stop_reading()
        return self._inbox.pop(0)

    def receive(self) -> list[wire.Message]:
        """For whoever reads from the task pipe at the moment."""
        return self._reader.receive(self._tasks)

    def _stop_reading(self) -> None:
        with self._pipe:
            self._reading = False
        if self._home is not None:  # a thread that some task has left behind has submitted a call
            self._home.take_over(self._inbox)
            self._inbox = []

    def home(self) -> Home:
        """Rule 4."""
        if self._home is None:
            from .home import Home

            with self._pipe:
                if self._home is None:
                    self._home = Home(self)
                    if not self._reading:
                        self._home.take_over(self._inbox)
                        self._inbox = []
        return self._home

    def backend(self, spec: WorkerSpec) -> Backend:
        """What takes the calls that tasks submit to the executor they run in, or to its like."""
        from .nested import NestedBackend

        return NestedBackend(spec, self.home())

    @property
    def running(self) -> int:
        """Index of the call that runs; 0: none."""
        return self._running

    def send(self, *message: Any) -> None:
        self._write(wire.pack(*message))

    def _write(self, frame: bytes) -> None:
        if self._upward is not None:
            self._upward.write(frame)
            return
        me = get_ident()  # before: no signal handler runs between the lock and its `writer`
        with self.writing:
            self.writer = me
            try:
                wire.write_all(self._results, frame)
            finally:
                self.writer = 0
        if self._upward is not None:
            self._upward.pump()  # what a signal handler has told meanwhile

    def tell(self, topic: str, index: int, value: Any, origin: Any = None) -> None:
        """As `_context.tell`; `origin`: of what is passed on."""
        if (upward := self._upward) is None:
            from .upward import Upward  # which is there, unless nothing is relayed

            made = Upward(self, self._results, self._control)
            upward = self.__dict__.setdefault("_upward", made)  # another thread was quicker?
        upward.tell(topic, index, value, origin)

    def send_part(self, index: int, part: bytes) -> None:
        self.send(wire.PART, index, part)

    def _set_up(
        self,
        local_setup: Any,
        path: list[str],
        argv: list[str],
        cwd: str | None,
        authkey: bytes,
        place: tuple[Any, int],
        settings: bytes | None,
        preload: tuple[str, ...],
        initializer: bytes | None,
        large: tuple[str, int | None, int],
        libraries: dict[str, str],
        relayed: tuple[Any, ...] | None,
    ) -> bool:
        os.environ.update(libraries)
        self._large.configure(*large)
        sys.argv[:] = argv
        surround(path, authkey, None)
        relay(relayed)
        _context.inherited_settings = settings
        (self.facts, _context.depth), _context.home = place, self
        doing = "the worker could not enter the working directory of its parent"
        try:
            if cwd is not None:
                os.chdir(cwd)  # the zygote's may be an older one
            for name in preload:  # it has, unless this worker comes from no zygote
                doing = f"cannot preload {name!r}"
                __import__(name)
            doing = "the initializer failed in a worker"
            setup = loads(initializer) if initializer is not None else local_setup
            if setup is not None:
                setup[0](*setup[1])
        except BaseException as exc:  # user code; the parent is told  # noqa: BLE001
            self.send(wire.BROKEN, doing, _encode(exc, 1))
            return False
        self.send(wire.READY)
        return True

    # -- calls ----------------------------------------------------------------------------------

    def _calls(self, index: int, groups: list[tuple[Any, ...]]) -> None:
        self._index = index
        for number, function, *_ in groups:
            if function is not None:  # also for calls that are dropped: others rely on it
                self._functions[number] = function
        for number, _, about, ids, payloads in groups:
            if self._answers and number not in self._short:
                self._deliver()
            self._run(number, about, ids, payloads)

    def _run(
        self, number: int, about: tuple[Any, ...], ids: list[int], payloads: list[Any]
    ) -> None:
        words, clock, getpid = self._control.words, time.perf_counter_ns, os.getpid
        outcome, new_context, carried = self.outcome, contextvars.Context, about[-1]
        meter = self._meter or self._make_meter()
        if (watched := words[WATCHED]) != meter.watched:
            meter.watch(watched)
        for call_id, payload in zip(ids, payloads):  # noqa: B905  # made of equal length
            index = self._index
            self._index = index + 1
            words[BEGUN] = index
            if words[HOLD] and not self._may_begin(index):
                continue
            self._running = index
            words[BEGUN_AT] = start = clock()
            if start > meter.fresh_until:
                meter.begin(start)
            context = WorkerContext(self, about, call_id, index)
            inside = new_context()
            if carried is not None:
                inside.run(enter, carried)
            answer = inside.run(outcome, context, number, payload)
            if getpid() != self.pid:
                leave_forked_child(answer)
            if _context.at_task_end is not None:
                _context.at_task_end(context)
            self._running = 0  # before the look at _asked: `poll_cancelled` does it the other way
            if self._asked:
                with self._pipe:  # from here on, a thread the task has left does not read from it
                    self.forget_cancelled(index)
            now = clock()
            if now - start > LONG or watched:
                meter.end(self._given, start, now)
            self._answer(number, answer, now - start)

    def _make_meter(self) -> Meter:
        from .meter import Meter

        self._meter = Meter(self)
        return self._meter

    def _may_begin(self, index: int) -> bool:
        """The pool looks at us, or has taken calls back."""
        control = self._control
        if control.words[HOLD] == 1:
            self._deliver()
            control.park()
        return not control.is_taken_back(index)

    def _answer(self, number: int, answer: Any, nanoseconds: int) -> None:
        self._spent += nanoseconds
        is_short = nanoseconds < SHORT
        if is_short and self._control.note(self._given, answer):
            self._given += 1
            self._answers.append(answer)
            self._short.add(number)
            if self._spent > TOGETHER:
                self._deliver()
            return
        if not is_short:
            self._short.discard(number)
        self._given += 1
        self._answers.append(answer)
        self._deliver()

    def _deliver(self) -> None:
        """Send the answers there are; `control`, rule 4."""
        answers, self._answers = self._answers, []
        if not answers:
            return
        flush()  # who sees an answer finds printed what the call has printed
        before, microseconds = self._given - len(answers), self._spent // 1000
        self._spent = 0
        rest = self._large.collect(), None if self._meter is None else self._meter.take()
        try:
            frame = wire.pack(wire.ANSWERS, before, microseconds, answers, *rest)
        except (MemoryError, ValueError) as exc:  # larger than memory, or than marshal can write
            answers[-1] = (wire.UNSENDABLE, _encode(exc, 99))  # the others were in the journal
            frame = wire.pack(wire.ANSWERS, before, microseconds, answers, *rest)
        self._write(frame)
        self._control.sent()

    def _decode(self, number: int, payload: Any) -> Any:
        if not number:
            prepare_for(payload)
            return self._large.load(payload)
        fn = self._functions[number]
        if type(fn) is bytes:  # it is sent only once, but may fail to unpickle more often
            prepare_for(fn)
            fn = self._functions[number] = loads(fn)
        if type(payload) is tuple:
            return fn, payload, {}
        prepare_for(payload)
        args, kwargs = self._large.load(payload)
        return fn, args, kwargs

    def outcome(self, context: Any, number: int, payload: Any, dump: Dump | None = None) -> Any:
        """The answer: a plain value, or a pair of code and bytes; `dump` pickles the value."""
        _context.running.set(context)  # what its arguments need, the task needs
        try:
            fn, args, kwargs = self._decode(number, payload)
        except BaseException as exc:  # user code runs in there  # noqa: BLE001
            return wire.UNREADABLE, _encode(exc, 1)
        try:
            value = fn(*args, **kwargs)
            if type(value) is types.CoroutineType:
                import asyncio

                value = asyncio.run(value)
        except BaseException as exc:  # whatever a task raises is its outcome  # noqa: BLE001
            return wire.RAISED, _encode_call(exc, context, fn, args, kwargs)
        if is_plain(value):
            return value
        try:
            return wire.RETURNED, (dump or self._large.dump)(value, f"the result of {context.name}")
        except BaseException as exc:  # SerializationError, or a MemoryError in it  # noqa: BLE001
            return wire.UNSENDABLE, _encode(exc, 99)


def _encode(exc: BaseException, skip_frames: int) -> bytes:
    from unirun._remote import encode  # only a task that failed pays for it

    return encode(exc, skip_frames)


def _encode_call(exc: BaseException, *call: Any) -> bytes:
    from unirun._remote import encode_call

    return encode_call(exc, *call)


def leave_forked_child(answer: Any) -> None:
    """Rule 2: what a task forked came back as if it were the task."""
    has_raised = type(answer) is tuple and answer[0] == wire.RAISED
    _leave(status_of_fork(answer[1] if has_raised else None))
