"""What a backend on an engine tells of its calls while they run, and of its places.

What places say of it comes in the threads of their lines; `_far_news` has it dealt with.
"""

from __future__ import annotations

import time

from unirun import _observe
from unirun._far_calls import FarCalls
from unirun._far_news import FarNews
from unirun._records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._far_hub import Hub
    from unirun._opaque_calls import OpaqueFuture
    from unirun.backend import CallOptions, Stats, WorkerSpec

__all__ = ["FarTelling"]

REPLY = 0.3
"""Seconds to wait for what places say of themselves."""


class FarTelling(FarCalls):
    """The part of a backend on an engine that is about what people see."""

    captures = True
    _hub: Hub | None
    _hosts: dict[int, str]
    _place: Any

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._news = FarNews(id(self), self.name, self._call, self._seen, self._tell, self._clock)
        # Guarded by the lock of the backend.
        self._replies: dict[int, list[Any]] = {}
        self._sent = self._received = 0  # bytes, of calls and of outcomes
        self._followed: dict[int, int] = {}  # by place: which levels of loggers it knows
        _observe.pools.add(self)

    def _setup_of(self, host: int, levels: bytes) -> bytes:
        raise AssertionError("whoever has places says how they are set up")

    def check(self, options: CallOptions) -> None:
        super().check(options)
        if options.capture and self.spec.output != "relay":
            self._refuse("keep what a call prints with output='direct'", "drop one of the two")

    # -- places -----------------------------------------------------------------------------------

    def _comes(self, host: int, clock: float, machine: str) -> None:
        """A place is there, with that clock; `machine`: where, unless that is here."""
        self._news.comes(host, clock, machine)
        version, levels = self._news.levels()
        self._followed[host] = version
        self._tell(host, "setup", self._setup_of(host, levels if self.spec.logs else b""))
        if _observe.watchers:
            self._tell(host, "watch", True)

    def _precede(self, host: int, future: OpaqueFuture) -> None:
        """Before a call: what the program wants to hear of, if that has changed."""
        with self._lock:
            self._sent += future.size
        if self.spec.logs:
            version, levels = self._news.levels()
            if self._followed.get(host) != version:
                self._followed[host] = version
                self._tell(host, "levels", levels)

    def be_watched(self, watched: bool) -> None:
        """As `_observe.pools` says."""
        if self._hub is not None:
            self._hub.send_all("watch", watched)

    # -- what they say ----------------------------------------------------------------------------

    def _hear(self, host: int, what: str, *args: Any) -> None:
        if what == "news":
            self._news.hear(host, *args)
        elif what == "event":
            self._news.event(host, args[0])
        elif what == "began":
            self._began(host, *args)
        elif what == "stats":
            with self._lock:
                if args[0] in self._replies:
                    self._replies[args[0]].append(args[1:])
                    self._changed.notify_all()

    def _call(self, number: int) -> OpaqueFuture | None:
        with self._lock:
            return self._running.get(number)

    def _began(self, host: int, number: int, figures: tuple[Any, ...]) -> None:
        """Where that call runs, and since when."""
        future, (pid, begun, *_) = self._call(number), figures
        if future is None or pid is None:
            return
        if begun is not None:
            future.begun = self._news.here(host, begun)
        machine = self._news.machine(host)
        self._seen(future, host, f"pid {pid} on {machine}" if machine else f"pid {pid}", pid)
        with self._lock:
            self._changed.notify_all()

    def _seen(self, future: OpaqueFuture, host: int, worker: str, pid: int) -> None:
        """That call runs there; told again and again."""
        future.worker, future.pid, future.machine = worker, pid, self._news.machine(host)
        if not future.told_begun and future.running() and "started" in _observe.wanted:
            future.told_begun = True
            _observe.started(future, future.begun)

    def _measured(
        self, host: int, future: OpaqueFuture, figures: tuple[Any, ...], size: int
    ) -> None:
        """It has ended."""
        pid, begun, ended, cpu, peak = figures
        here, machine = self._news.here, self._news.machine(host)
        if pid is not None:
            future.worker = f"pid {pid} on {machine}" if machine else f"pid {pid}"
            future.pid, future.machine = pid, machine
        if begun is not None:
            future.begun = here(host, begun)
        future.figures = {"ended": here(host, ended), "cpu": cpu, "peak": peak, "bytes_out": size}
        with self._lock:
            self._received += size

    # -- who asks ---------------------------------------------------------------------------------

    def _look_at(self, future: OpaqueFuture) -> None:
        """Have it said where that call runs, if it does, and wait for that, but not for long."""
        if future.running() and future.begun is None and future.place is not None:
            self._tell(future.place, "where", future.number)
            with self._lock:
                self._changed.wait_for(lambda: future.begun or future.done(), REPLY)

    def stats(self) -> Stats:
        told = self._ask_places()
        counts = [each[0] for each in told]
        shares = [(each[4], each[0]) for each in told if each[4] is not None and each[0]]
        weight = sum(count for _, count in shares)
        return replace(
            super().stats(),
            workers=sum(counts),
            pids=tuple(pid for each in told for pid in each[1]),
            bytes_in=self._sent,
            bytes_out=self._received,
            restarts=sum(each[2] for each in told),
            busy=sum(each[3] for each in told),
            utilisation=sum(u * n for u, n in shares) / weight if weight else None,
            objects=0 if self._place is None else self._place.objects(),
        )

    def _ask_places(self) -> list[Any]:
        if self._hub is None or not self._hosts:
            return []
        token = time.monotonic_ns() & 0xFFFFFFFF
        with self._lock:
            replies = self._replies[token] = []
        count = self._hub.send_all("stats", token)
        with self._lock:
            self._changed.wait_for(lambda: len(replies) >= count, REPLY)
            return self._replies.pop(token)
