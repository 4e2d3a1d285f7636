"""`unirun.trace`: a picture of a run, as a file for Perfetto and for `python -m unirun report`.

    threads that tell ──rows──> a deque, bounded ──> one thread ──> lines ──> file

1. A call is never held up: `see` puts what an event knows into the deque.  What comes while it is
   full is dropped, counted, and said in the file.
2. One thread for each trace, there only while it is on, does everything else: it makes lines,
   writes them, and reads what the processes use.  It looks each LOOK, and writes when nothing has
   come since the last one, or much, or the first has waited for LATEST: a line that is made alone
   costs five times as much as one of many.  So memory is bounded, and of a program that is killed
   the file has all but the last second.
3. A trace ends once: by `stop`, by the end of its block, or when the interpreter exits, after the
   executors; also when that is by an exception, SystemExit, or a drain after SIGTERM.
4. A forked child has no trace, and a worker process starts none: what it does is told to its
   parent.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import warnings
from _thread import get_ident
from collections import deque

from unirun import _context, _ending, _observe
from unirun._errors import ConfigError
from unirun._machine import cpu_count
from unirun._trace_file import InUse, TraceFile, named
from unirun._trace_picture import Picture
from unirun._trace_sample import Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["trace", "trace_by_setting"]

LIMIT = 200_000
"""Calls that are drawn one by one; docs/trace.md says what is told of later ones."""
MOST = 200_000
"""Events that may wait to be written; a few hundred bytes each."""
AT_ONCE = 4_000
"""Events between two writes."""
A_MOMENT = 100
"""Events between two offers of the interpreter's lock, which others get only after 5 ms else. Each
may cost a switch to another process."""
LOOK = 0.1
"""Seconds between two looks at what waits."""
LATEST = 1.0
"""Seconds that an event waits to be written while others come: many at once cost less each."""
SAMPLE = 0.2
"""Seconds between two samples, at first."""
SLOWEST = 5.0
"""Seconds between two samples of a trace that has been on for long."""
PATIENCE = 30.0
"""Seconds for what waits to be written when a trace ends."""


class trace:
    """Writes what happens to calls, in all executors of this process, to a file.

        with unirun.trace("run.json"):
            ...

    The file is JSON in the Trace Event Format: open it at ui.perfetto.dev or chrome://tracing, or
    make a page of it by `python -m unirun report run.json -o run.html`. The environment's
    UNIRUN_TRACE=run.json, or the setting `trace`, traces a program from its first executor to its
    exit. Also a decorator, for functions and coroutine functions; and `start()` and `stop()`.
    Several may be on at once, with a file each.

    Args:
        path: of the file, which is replaced; compressed if it ends in ".gz". "%p" and "{pid}" in
            it stand for the number of the process, "%%" for "%".
        limit: how many calls are drawn one by one; of later ones only those that failed or took
            0.1 s, and the others are summed up by task.
        sample: whether processor time and memory of the processes are noted, too.

    Raises:
        ConfigError: a `limit` below 1; when it starts, because another trace writes to that file
            or this one is on already.
        OSError: the file cannot be made.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, limit: int = LIMIT, sample: bool = True
    ) -> None:
        self._pattern = os.fspath(path)
        if not isinstance(self._pattern, str) or not self._pattern:
            raise ConfigError(f"{path!r} is no name of a file for a trace; use text")
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ConfigError(f"limit={limit!r} is no number of calls; use 1 or more")
        self._limit = limit
        self._sample = sample
        self._recording: _Recording | None = None  # while it is on
        self.path: str | None = None
        """Of the file, once it was started."""

    def start(self) -> Self:
        """Begin, from now on; calls that run already are drawn too, when they end."""
        if self._recording is not None and self._recording in _on:
            raise ConfigError(f"the trace to {self.path} is on already; stop it first")
        self.path = os.path.abspath(named(self._pattern, os.getpid()))
        try:
            self._recording = _Recording(TraceFile(self.path), self._limit, self._sample)
        except InUse:
            raise ConfigError(
                f"another trace writes to {self.path}; stop it first, or put %p into the name"
            ) from None
        return self

    def stop(self) -> None:
        """Write what there is and close the file; from any thread, and no effect when it is off.

        Calls that still run are not in it: a call is drawn when it ends.
        """
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.end()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __call__(self, fn: F) -> F:
        import functools
        import inspect

        made_with = (self._pattern, self._limit, self._sample)

        @functools.wraps(fn)
        def traced(*args: Any, **kwargs: Any) -> Any:
            with _again(*made_with):
                return fn(*args, **kwargs)

        @functools.wraps(fn)
        async def traced_async(*args: Any, **kwargs: Any) -> Any:
            with _again(*made_with):
                return await fn(*args, **kwargs)

        return traced_async if inspect.iscoroutinefunction(fn) else traced  # type: ignore[return-value]

    def __repr__(self) -> str:
        state = "on" if self._recording is not None else "off"
        return f"<unirun.trace {self.path or self._pattern!r}, {state}>"


trace.__module__ = "unirun"


def _again(pattern: str, limit: int, sample: bool) -> trace:
    """One for each call of a decorated function."""
    return trace(pattern, limit=limit, sample=sample)


# -- by a setting ---------------------------------------------------------------------------------

_set = False  # a trace was started by the setting, in this process


def trace_by_setting(pattern: str) -> None:
    """Trace from now to the exit, if that is not done already.

    What prevents it is no reason not to work: a warning tells of it.
    """
    global _set
    if _set or _context.in_worker_process:
        return
    _set = True
    try:
        trace(pattern).start()
    except (OSError, RuntimeError, ConfigError) as exc:
        # As when a program that is traced starts another one.
        text = f"the setting trace has no effect: {exc}"
        warnings.warn(text, RuntimeWarning, stacklevel=4)


# -- while it is on -------------------------------------------------------------------------------

_on: set[_Recording] = set()  # guarded by _lock
_lock = threading.Lock()


class _Recording:
    """From start to stop."""

    def __init__(self, file: TraceFile, limit: int, sample: bool) -> None:
        self._file = file  # closed by its thread, at the end
        self._waiting: deque[tuple[Any, ...]] = deque()
        self._seen, self._written_at = 0, 0.0  # at the last look, and when none waited any more
        self.dropped = 0
        self._wake = threading.Event()
        self._ends = False
        self._failure: OSError | None = None
        self._sampler = Sampler() if sample else None
        self._next_sample, self._interval, self._samples = 0.0, SAMPLE, 0
        self._pid = os.getpid()
        self._workers: set[int] = set()  # processes
        self._threads: dict[int, tuple[int, str]] = {}  # by Python's number: the system's, and name
        self._origin = time.monotonic()
        self._picture = Picture(self._origin, self._pid, limit)
        self._picture.begin(_about())
        try:
            file.write(self._picture.lines())
            self._thread = threading.Thread(target=self._run, name="unirun-trace", daemon=True)
            self._thread.start()
        except BaseException:
            file.forget()
            raise
        with _lock:
            _on.add(self)
        self._unwatch = _observe.watch(self._see, _WANTED, self._keep)

    def _see(self, event: _observe.Event) -> None:
        """Rule 1; in any thread, perhaps under a lock of a pool."""
        self._keep((event.__dict__, get_ident()))  # so not the future: it has the result

    def _keep(self, row: tuple[Any, ...]) -> None:
        """Likewise, of the usual events."""
        if len(self._waiting) < MOST:
            self._waiting.append(row)
        else:
            self.dropped += 1

    def end(self) -> None:
        self._unwatch()
        with _lock:
            if self not in _on:
                return
            _on.discard(self)
        self._ends = True
        self._wake.set()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._failure = TimeoutError(f"it was not written within {PATIENCE:g} s")
        if self._failure is not None:
            reason = self._failure.strerror or self._failure
            text = f"the trace {self._file.path} is incomplete: {reason}"
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def forget(self) -> None:
        """In a forked child: file and thread are the parent's."""
        self._file.forget()

    # -- in a thread of its own -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._ends:
                self._wake.wait(LOOK)
                self._look()
            self._finish()
        except OSError as exc:
            self._failure = exc  # a full disk, say; `end` tells of it
            self._unwatch()
            self._waiting.clear()
        finally:
            self._file.forget()

    def _look(self) -> None:
        """Rule 2."""
        now, seen = time.monotonic(), len(self._waiting)
        if seen == self._seen or seen >= AT_ONCE or now - self._written_at >= LATEST:
            self._write()
            self._written_at, seen = now, 0
        self._seen = seen
        if now >= self._next_sample and self._sampler is not None:
            self._note(now, self._sampler)
            self._file.write(self._picture.lines())

    def _write(self) -> None:
        """What waits now: the few that come meanwhile would cost as much as many."""
        left = len(self._waiting)
        while left:
            self._take(min(left, AT_ONCE))
            self._file.write(self._picture.lines())
            left -= min(left, AT_ONCE)

    def _take(self, count: int) -> None:
        for n in range(count):
            if n % A_MOMENT == 0:
                time.sleep(0)  # a thread that woke up for a call must not wait until all is done
            row = self._waiting.popleft()
            what = row[0]
            if what == "submitted":
                _, call, attempt, at, packing, parent, ident = row
                made = call, attempt, at, packing, parent
                self._picture.submit(*made, *self._thread_of(ident))
            elif type(what) is str:
                self._tell(*_observe.known_of(row))
            else:
                self._tell(*row)

    def _tell(self, known: dict[str, Any], ident: int) -> None:
        pid = known.get("pid")
        if pid is not None and pid != self._pid and not known.get("machine"):
            gone = known["what"] in ("worker_ended", "worker_died")
            (self._workers.discard if gone else self._workers.add)(pid)
        self._picture.see(known, *self._thread_of(ident))

    def _thread_of(self, ident: int) -> tuple[int, str]:
        known = self._threads.get(ident)
        if known is None:
            threads = {each.ident: each for each in threading.enumerate()}
            found = threads.get(ident)
            if found is None or found.native_id is None:  # it has ended, or is none of Python's
                return ident % (1 << 24), f"thread {ident % (1 << 24)}"
            known = self._threads[ident] = found.native_id, found.name
        return known

    def _note(self, now: float, sampler: Sampler) -> None:
        counts = {"waiting": 0.0, "running": 0.0}
        for executor in list(_ending._open):
            for stats in executor.stats().values():
                counts["waiting"] += stats.pending
                counts["running"] += stats.running
        self._picture.count("calls", self._pid, now, counts)
        for pid, cores, memory in sampler.sample([self._pid, *self._workers], now):
            if cores is not None:
                self._picture.count("CPU", pid, now, {"cpu": round(cores, 3)})
            self._picture.count("memory", pid, now, {"memory": memory})
        self._samples += 1
        if self._samples % 300 == 0:  # a minute, at first
            self._interval = min(SLOWEST, self._interval * 2)
        self._next_sample = now + self._interval - LOOK / 2  # or it would be a look later

    def _finish(self) -> None:
        while self._waiting:
            self._write()
        now = time.monotonic()
        if self._sampler is not None:
            self._note(now, self._sampler)
        self._picture.end(dropped=self.dropped)
        self._file.close(self._picture.lines())


# Not when a body begins: the end of a call tells that, too, and each event has its price.
_WANTED = ("submitted", "retried", *_observe.ENDS, *_observe.WORKERS)


def _about() -> dict[str, object]:
    package = sys.modules["unirun"]  # which stands above us
    return {
        "unirun": getattr(package, "__version__", ""),
        "program": " ".join(sys.argv)[:300] or "python",
        "began": time.strftime("%Y-%m-%d %H:%M:%S"),
        "cores": cpu_count(),
        "python": f"Python {sys.version.split()[0]}",
        "platform": sys.platform,
    }


def _end_all() -> None:
    for recording in list(_on):
        recording.end()


def _forget_in_forked_child() -> None:
    global _lock, _set
    for recording in _on:
        recording.forget()
    _on.clear()
    _lock, _set = threading.Lock(), True


atexit.register(_end_all)  # when the executors have ended, and daemon threads still run
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)
