"""Calls that wait for what only their caller could do, who waits for them to end.

Elsewhere a call runs beside its caller, inline within it: an event that is to be set after the
submit, an item that is to be put then, never comes.  Who waits cannot be looked at from within, so
a thread beside a call that was handed something to wait for looks now and then.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from unirun import _hangs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Lookout"]

_NAME = "unirun-lookout"
_WAITING = {"threading", "queue", "unirun._thread_queues", "unirun._hangs"}


class Lookout:
    """Looks at the call that this thread is about to run, until `end`; owns a thread."""

    def __init__(self, tell: Callable[[FrameType], None]) -> None:
        """`tell(frame)` is called once, in another thread, if it waits there for nobody.

        The frame is that of the task, at the line that waits.
        """
        self._tell = tell
        self._subject = threading.get_ident()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        if _hangs.warn_after is None:
            return
        thread = threading.Thread(target=self._look, name=_NAME, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there are no threads left, or the interpreter ends
            return
        self._thread = thread

    def end(self) -> None:
        """The call has ended."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        before: object = None
        patience = _hangs.warn_after
        while patience is not None and not self._over.wait(patience / 2):
            # Alone first: who has just ended the wait may end before it is noticed.
            frame = _waiting_line(self._subject) if self._is_alone() else None
            now = None if frame is None else (id(frame), frame.f_lasti)
            if frame is not None and now == before:
                return self._tell(frame)
            before = now
            del frame
        return None

    def _is_alone(self) -> bool:
        """Whether no other thread could end the wait."""
        others = [
            each
            for each in threading.enumerate()
            if each.ident != self._subject and each.name != _NAME
        ]
        return not others


def _waiting_line(thread: int) -> FrameType | None:
    """Where the task waits without a time-out; None if it does not."""
    frame = sys._current_frames().get(thread)
    waits = False
    while frame is not None and frame.f_globals.get("__name__") in _WAITING:
        variables = frame.f_locals
        waits = variables.get("timeout", None) is None
        frame = frame.f_back
    return frame if waits else None
