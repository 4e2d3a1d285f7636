"""What places tell, as the program hears it: handed to `_news`, as what its own workers tell.

    the line of a place ──hear──▶ the queue of `_news` ──▶ handlers ──▶ "heard" goes back

1. The thread of a line never waits for handlers: it puts what it hears into the queue, which cannot
   grow without bounds, as workers wait until their news were taken up (`_far_relay`).
2. A call ends after what its place has told before was dealt with: so who has its result finds its
   log records handled and its output printed.  Not for ever: if handlers hang, calls do not.
3. Clocks of other machines are others.  What a place says of its own when it comes is compared with
   ours; that is wrong by what the message took.
"""

from __future__ import annotations

import marshal
import threading
import time
from functools import partial

from unirun import _log_levels, _news, _observe
from unirun._callback_thread import CallbackThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unirun._clock import Clock

__all__ = ["FarNews"]

LOOK_AGAIN = 0.5
"""Seconds after which it is asked whether those who deal with news get on."""
TOGETHER = 4
"""So much of what a worker has told is taken up before it hears of it."""
_MOMENTS = ("at", "queued", "started", "finished")


class FarNews:
    """Of one backend; ended by `leave`."""

    def __init__(
        self,
        source: int,
        engine: str,
        call_of: Callable[[int], Any],
        seen: Callable[..., None],
        send: Callable[..., None],
        clock: Clock,
    ) -> None:
        """`source` is the backend, as in events; `seen(future, host, worker, pid)` is told that a
        call runs there; `send(host, ...)` goes to a place."""
        self._source = source
        self._engine = engine
        self._call_of = call_of
        self._seen = seen
        self._send = send
        self._clock = clock
        self._offsets: dict[int, float] = {}  # by place: what to add to a moment there
        self._machines: dict[int, str] = {}  # likewise
        self._levels = 0, b""  # version, and the snapshot of that
        self._taken: dict[tuple[int, int], int] = {}  # not told yet; of the thread of `_news`
        self._ends = CallbackThread(f"unirun-{engine.partition(':')[0]}-ends")  # ours
        # Guards all below.
        self._lock = threading.RLock()
        self._desk: _news.Desk | None = None  # once something was told
        self._last: dict[int, int] = {}  # by place: number of what it has told last
        self._held: dict[object, Callable[[], object]] = {}  # ends, held back
        self._since = 0.0  # when the first of them was
        self._done, self._moved = 0, 0.0  # what `_look` saw, and when that had changed
        self._stuck_at = -1  # how much was dealt with when handlers were found to hang

    # -- places -----------------------------------------------------------------------------------

    def comes(self, host: int, clock: float, name: str) -> None:
        """Rule 3. `name`: of its machine; "": it is ours."""
        self._offsets[host] = time.monotonic() - clock if name else 0.0
        self._machines[host] = name
        self._ends.run(_be_there)

    def machine(self, host: int) -> str | None:
        """None: ours."""
        return self._machines.get(host) or None

    def gone(self, host: int) -> None:
        with self._lock:
            self._last.pop(host, None)

    def here(self, host: int, moment: float | None) -> float | None:
        """A moment there, on our clock."""
        return None if moment is None else moment + self._offsets.get(host, 0.0)

    def levels(self) -> tuple[int, bytes]:
        """What workers are to let through, as marshalled, and the number of that."""
        if _log_levels.changed() or self._levels[0] != _log_levels.version:
            self._levels = _log_levels.version, marshal.dumps(_log_levels.snapshot)
        return self._levels

    # -- what they say: in the threads of their lines ---------------------------------------------

    def hear(
        self, host: int, by: int, number: int, topic: str, value: Any, who: tuple[Any, ...]
    ) -> None:
        """Rule 1."""
        future = self._call_of(number) if number else None
        if future is not None:
            self._seen(future, host, *who[1:])
        origin = _news.Origin(future, *who)
        origin.source = self._source
        if topic == "event":
            value = self._event(host, value)
        with self._lock:
            if self._desk is None:
                self._desk = _news.desk
                self._desk.enter()
            desk = self._desk
            self._last[host] = desk.put(self._deal, host, by, origin, topic, value)
        desk.attend()

    def _deal(self, host: int, by: int, origin: _news.Origin, topic: str, value: Any) -> None:
        """In the thread of `_news`."""
        _news.deliver(origin, topic, value)
        if topic == "lost":
            return  # nobody waits for that
        count = self._taken.get((host, by), 0) + 1
        if count < TOGETHER:
            self._taken[host, by] = count
            return
        self._taken.pop((host, by), None)
        self._send(host, "heard", by, count)

    def event(self, host: int, known: dict[str, Any]) -> None:
        """Something has happened there."""
        origin = _news.Origin(None, "", "", 0)
        origin.source = self._source
        _observe.heard(origin, self._event(host, known))

    def _event(self, host: int, known: dict[str, Any]) -> dict[str, Any]:
        moments = {name: self.here(host, known[name]) for name in _MOMENTS if name in known}
        return {**known, **moments, "backend": self._engine, "machine": self.machine(host)}

    # -- rule 2 -----------------------------------------------------------------------------------

    def after(self, host: int, end: Callable[[], object]) -> None:
        """`end()`, once what that place has told before is dealt with; now, or in a thread."""
        with self._lock:
            desk = self._desk
            if (
                desk is None
                or self._last.get(host, 0) <= desk.done
                or self._stuck_at == desk.done  # they hang still: once was enough
            ):
                desk = None
            else:
                self._hold_back(desk, end)
        if desk is None:
            end()
        else:
            desk.attend()

    def _hold_back(self, desk: _news.Desk, end: Callable[[], object]) -> None:
        key, now = object(), time.monotonic()
        if not self._held:
            self._done, self._moved, self._since = desk.done, now, now
            self._clock.call_at(now + LOOK_AGAIN, self._look)
        self._held[key] = end
        # Not in its own thread: what was a result is unpickled, which is user code.
        desk.put(self._ends.run, partial(self._let_go, key))

    def _let_go(self, key: object) -> None:
        with self._lock:
            end = self._held.pop(key, None)
        if end is not None:
            end()

    def _look(self) -> None:
        """Do handlers get on? In the thread of the clock."""
        now, late = time.monotonic(), []  # those that are not to wait any more
        with self._lock:
            desk = self._desk
            if desk is not None and desk.done != self._done:
                self._done, self._moved = desk.done, now
            is_stuck = now - self._moved >= _news.PATIENCE
            if is_stuck:
                self._stuck_at = self._done
            if is_stuck or now - self._since >= _news.AT_MOST:
                late, self._held = list(self._held.values()), {}
            elif self._held:
                self._clock.call_at(now + LOOK_AGAIN, self._look)
        for end in late:
            self._ends.run(partial(_carry_out, end))

    def leave(self) -> None:
        """No place is left: what was heard is dealt with before this returns, unless that hangs."""
        with self._lock:
            desk, self._desk = self._desk, None
        if desk is not None:
            desk.leave()
        self._ends.close()
        self._ends.join(_news.PATIENCE)


def _be_there() -> None:
    """For a thread to be started with the places, and not amid calls, or at the exit."""


def _carry_out(end: Callable[[], object]) -> None:
    end()
