"""An event loop in a thread of its own: run to its end whatever its tasks do, and watched.

    clock's thread ── beat ──> loop        a beat that is not answered in time: who blocks the loop?

One coroutine that blocks keeps all the others waiting, and looks from outside as if all hung.  So
while there are calls, the loop is asked now and then whether it goes on; if it does not for as long
as `hang_warning` says, a HangWarning names the coroutine, and the line where it stands.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable

from unirun import _hangs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from unirun._clock import Clock

__all__ = ["LoopWatch", "end_loop", "run_loop"]

A_TURN = 0.1
"""Seconds for what takes one turn of a loop."""


def run_loop(loop: asyncio.AbstractEventLoop, is_over: Callable[[], bool]) -> None:
    """Run it until that is true, also if a task or a callback tries to end it."""
    while not is_over():
        try:
            loop.run_forever()
        except (KeyboardInterrupt, SystemExit) as exc:
            # asyncio hands these to who runs the loop. The task has it as its outcome, too; the
            # other calls have nothing to do with it.
            said = f"a task or callback of an event loop raised {type(exc).__name__}"
            loop.call_exception_handler({"message": said, "exception": exc})


def end_loop(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Close it, after the tasks and generators that calls have left are ended, or have had that
    time for it."""
    try:
        _cancel_rest(loop, seconds)
        # Even where there are none, that takes a turn of the loop, for which no time is too little.
        _run(loop, asyncio.wait_for(loop.shutdown_asyncgens(), max(seconds, A_TURN)))
    finally:
        loop.close()


def _cancel_rest(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    rest = asyncio.all_tasks(loop)
    if not rest:
        return
    for task in rest:
        task.cancel()
    _run(loop, asyncio.wait(rest, timeout=seconds))
    for task in rest:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            said = f"{task.get_name()} was left over by a call, and failed when it was cancelled"
            loop.call_exception_handler({"message": said, "exception": error, "task": task})


def _run(loop: asyncio.AbstractEventLoop, end: Coroutine[Any, Any, Any]) -> None:
    last = loop.create_task(end)
    last.add_done_callback(lambda _: loop.stop())
    run_loop(loop, last.done)
    if not last.cancelled() and (error := last.exception()) is not None:
        loop.call_exception_handler({"message": "an event loop was not left clean", "task": last})
        del error


class LoopWatch:
    """Warns when one event loop stands still while there are calls.

    `begin` is called by the loop's thread, `_look` by the clock's; each field says who writes it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        clock: Callable[[], Clock],
        is_busy: Callable[[], bool],
        name_of: Callable[[Any], str | None],
    ) -> None:
        self._loop = loop
        self._name = name
        self._clock = clock
        self._is_busy = is_busy
        self._name_of = name_of  # what a call whose task that is, is called
        self._thread = threading.get_ident()
        self._armed = False  # both, see `_look`
        self._heard = 0  # the loop's
        self._beat = 0  # the clock's, as what follows
        self._since = 0.0  # when the beat was sent
        self._told = 0  # the beat of which was warned

    def begin(self) -> None:
        """There is a call."""
        if not self._armed and _hangs.warn_after is not None:
            self._armed = True
            self._send()
            self._look_later(_hangs.warn_after)

    def _look_later(self, seconds: float) -> None:
        self._clock().call_at(time.monotonic() + max(0.05, seconds / 5), self._look)

    def _look(self) -> None:
        limit = _hangs.warn_after
        self._armed = False  # before the look at who is busy: `begin` comes after there is a call
        if limit is None or not self._is_busy() or self._loop.is_closed():
            return
        self._armed = True
        stood = time.monotonic() - self._since
        if self._heard == self._beat:
            self._send()
        elif stood >= limit and self._told != self._beat:
            self._told = self._beat
            said = self._in_words(stood)
            # In a thread of its own, as it may run code of the user's.
            threading.Thread(
                target=_hangs.warn, args=(said,), name="unirun-warning", daemon=True
            ).start()
        self._look_later(limit)

    def _send(self) -> None:
        self._since = time.monotonic()
        self._beat += 1
        try:
            self._loop.call_soon_threadsafe(self._answer, self._beat)
        except RuntimeError:
            return  # it was closed meanwhile

    def _answer(self, beat: int) -> None:
        self._heard = beat

    def _in_words(self, stood: float) -> str:
        task = asyncio.current_task(self._loop)
        who = "a callback" if task is None else self._name_of(task) or _coroutine_of(task)
        frame = sys._current_frames().get(self._thread)
        where = ""
        if frame is not None:
            code = frame.f_code
            where = f" at {code.co_filename}:{frame.f_lineno}, in {code.co_name}"
        return (
            f"the event loop of {self._name!r} has stood still for {stood:.1f} s, and with it all "
            f"its calls: {who} blocks it{where}; await what takes long, or give it kind='io' and "
            "make it a plain function"
        )


def _coroutine_of(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", None) or task.get_name()
