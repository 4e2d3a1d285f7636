"""How long a call computes and waits, and how long the GIL is held meanwhile.

CPU time of the thread over wall time tells computing from waiting.  A probe, a thread that sleeps
half a millisecond again and again, tells who holds the GIL: while somebody does, it cannot go on
until the interpreter makes that thread give way, or a call ends.  The naps that took too long, of
all, are the share of time that the GIL was held, by all calls that ran meanwhile.  On a busy
machine it also comes late because no core is free for it; Linux tells how long a thread has waited
for one, and that time is left out.  It runs only while somebody asks (`Probe.enter`), which is for
some calls of a function that may gain from it.
"""

from __future__ import annotations

import os
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["PROBE", "Measured", "Probe", "Sample", "weigh"]

NAP = 0.0005
"""Seconds that the probe sleeps."""
LINGERS = 20
"""So many naps after the last call it ends: to start a thread for each call would cost more."""
LATE = 0.00012
"""What a sleep takes longer where nobody is in the way, at most."""


class Probe:
    """Counts, while anybody is in, for how long the GIL was held."""

    def __init__(self) -> None:
        # Guards all below. Invariant: while _inside > 0, the thread runs. It ends by itself soon
        # after nobody is inside any more, so nobody has to close it.
        self._lock = threading.Lock()
        self._inside = 0
        self._runs = False
        self._held = self._looked = 0.0
        self._was_inside = False  # somebody, since the last look
        self._user: object = None

    def enter(self, user: object) -> tuple[float, float] | None:
        """From now on it looks, for that `user`. Seconds that the GIL was held, and that it looked,
        so far; None if nobody else was here since the same user left."""
        with self._lock:
            same, self._user = self._user is user, user
            self._inside += 1
            self._was_inside = True
            if not self._runs:
                self._runs = True
                try:
                    threading.Thread(target=self._run, name="unirun-probe", daemon=True).start()
                except RuntimeError:  # no thread to be had: nothing is found out
                    self._runs = False
            return None if same else (self._held, self._looked)

    def leave(self) -> tuple[float, float]:
        """As `enter`, at the end."""
        with self._lock:
            self._inside -= 1
            return self._held, self._looked

    def _run(self) -> None:
        fd = _open_schedule()  # ours, closed when this thread ends
        try:
            self._look(fd)
        finally:
            if fd >= 0:
                os.close(fd)

    def _look(self, fd: int) -> None:
        clock, sleep = time.perf_counter, time.sleep
        before, queued, idle = clock(), _queued(fd), 0
        while True:
            sleep(NAP)
            now, queued_now = clock(), _queued(fd)
            took = max(0.0, now - before - (queued_now - queued))
            before, queued = now, queued_now
            with self._lock:
                idle = 0 if self._inside or self._was_inside else idle + 1
                self._was_inside = self._inside > 0
                if not idle:
                    self._looked += took
                    self._held += took if took > NAP + LATE else 0.0
                if idle > LINGERS:
                    self._runs = False
                    return


PROBE = Probe()


def _begin_anew_in_forked_child() -> None:
    """The probe's thread stayed in the parent, which may have held its lock."""
    PROBE.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_forked_child)


def _open_schedule() -> int:
    """What tells how long this thread has waited for a core; -1 where nothing does."""
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except OSError:
        return -1


def _queued(fd: int) -> float:
    """Seconds that the thread which opened `fd` has waited for a core so far."""
    if fd < 0:
        return 0.0
    try:
        return int(os.pread(fd, 80, 0).split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return 0.0


class Sample:
    """One measured call; for a piece of a map, all its items together."""

    __slots__ = ("cpu", "items", "probe", "queued", "wall")

    def __init__(self, items: int) -> None:
        self.items = items
        self.wall = self.cpu = self.queued = 0.0
        self.probe: tuple[float, float] | None = None  # what it said at the end; None: not asked


class Measured:
    """A function that is measured while it does its work, for a `Route` that hears of it.

    It hears in the thread of the call, before the future ends.
    """

    __unirun_frames__ = 1  # that the traceback of what it raises has of ours

    def __init__(self, fn: Any, route: Any, *, items: int, probes: bool) -> None:
        self.__wrapped__ = fn
        self.__module__ = getattr(fn, "__module__", None) or type(fn).__module__
        self.__qualname__ = getattr(fn, "__qualname__", None) or repr(fn)
        self.items = items
        self._route = route
        self._probes = probes
        self._ran = False

    def __del__(self) -> None:
        if not self._ran:  # it was cancelled
            self._route.not_run()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._ran = True
        sample, value = Sample(self.items or 1), None
        fd = self._begin() if self._probes else -1
        # To ask for the queue lets go of the GIL: that belongs to the time that is measured.
        wall, queued, cpu = time.perf_counter(), _queued(fd), time.thread_time()
        try:
            value = self.__wrapped__(*args, **kwargs)
        finally:
            sample.cpu = time.thread_time() - cpu
            queued = _queued(fd) - queued
            sample.wall = time.perf_counter() - wall
            if self._probes:
                sample.probe = PROBE.leave()
                sample.queued = max(0.0, min(queued, sample.wall - sample.cpu))
            if fd >= 0:
                os.close(fd)
            self._route.heard(
                self, sample, args if not kwargs else (*args, *kwargs.values()), value
            )
        return value

    def _begin(self) -> int:
        self._route.probing(PROBE.enter(self._route))
        return _open_schedule()


_FEW = 8


def weigh(value: Any, depth: int = 3) -> tuple[float, float]:
    """How many bytes a pickle of `value` has, about, and how many objects; looks at a few."""
    cls = type(value)
    if cls is str or cls is bytes or cls is bytearray:
        return 8.0 + len(value), 1.0
    if cls in (list, tuple, set, frozenset, dict) and value and depth:
        return _weigh_members(value, depth)
    if cls.__module__ == "numpy" and cls.__name__ == "ndarray":
        return float(value.nbytes) + 120, 1.0
    return 9.0, 1.0


def _weigh_members(value: Any, depth: int) -> tuple[float, float]:
    count = len(value)
    if type(value) in (list, tuple):
        some = value[:: max(1, count // _FEW)]
    else:
        from itertools import islice

        some = list(islice(value.items() if type(value) is dict else value, _FEW))
    size = objects = 0.0
    for each in some[: 2 * _FEW]:
        part = weigh(each, depth - 1)
        size, objects = size + part[0], objects + part[1]
    share = count / min(len(some), 2 * _FEW)
    return 8 + size * share, 1 + objects * share
