"""Keeps Ctrl-C out of a few statements of the main thread, without losing it.

Python runs signal handlers in the main thread between any two bytecodes, and they may raise there.
A thread of ours is not concerned; the thread of a caller that does our work for a moment is.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enums of what it returns
import os
import sys
import threading
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Handler: TypeAlias = Callable[[int, Any], Any] | int | None

# Those a program may handle by raising. Real-time signals are left out: to ask for each takes
# longer than a call may; if one of them does raise, the pool ends with an error, and nothing hangs.
_OTHERS = sorted(
    number for number in set(range(1, 32)) & set(_signal.valid_signals()) - {_signal.SIGINT}
)
_SIGINT, _getsignal, _set = _signal.SIGINT, _signal.getsignal, _signal.signal
_HARMLESS = {_signal.SIG_DFL, _signal.SIG_IGN, None}


class Deferral:
    """`begin()` ... `end()` around statements that must not be torn; one per section."""

    __slots__ = ("_handler", "_is_main", "arrived")

    def __init__(self) -> None:
        self.arrived = False

    def begin(self) -> bool:
        """False if it cannot be done: another handler of the program could raise here too."""
        self._is_main = get_ident() == _main
        if not self._is_main:
            return True
        if not _HARMLESS.issuperset(map(_getsignal, _OTHERS)):
            return False
        handler = _getsignal(_SIGINT)
        if handler is None:  # not Python's: it cannot raise, nor be put back
            return False
        self._handler: Handler = handler
        if callable(handler):
            _set(_SIGINT, self._note)
        return True

    def _note(self, signal: int, frame: Any) -> None:
        self.arrived = True

    def end(self) -> None:
        """What arrived meanwhile is handled now, so this may raise KeyboardInterrupt."""
        if self._is_main and callable(self._handler):
            _set(_SIGINT, self._handler)
            if self.arrived:
                self._handler(_SIGINT, sys._getframe(1))


_main = threading.main_thread().ident


def _learn_main_thread() -> None:
    """In a forked child: the thread that forked is its main thread."""
    global _main
    _main = get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_learn_main_thread)
