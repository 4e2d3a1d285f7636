"""Keeps Ctrl-C and SIGTERM out of a few statements of the main thread, without losing them.

Python runs signal handlers in the main thread between any two bytecodes, and they may raise there.
A thread of ours is not concerned; the thread of a caller that does our work for a moment is.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enums of what it returns
import os
import sys
import threading
from _thread import get_ident, interrupt_main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Handler: TypeAlias = Callable[[int, Any], Any] | int | None

# Put off: Ctrl-C, and what services are told to end by.
_SIGINT, _SIGTERM = _signal.SIGINT, _signal.SIGTERM
# The others that a program may handle by raising. Real-time signals are left out: to ask for each
# takes longer than a call may; if one of them does raise, the pool ends with an error, and nothing
# hangs.
_OTHERS = sorted(set(range(1, 32)) & set(_signal.valid_signals()) - {_SIGINT, _SIGTERM})
_getsignal, _set = _signal.getsignal, _signal.signal
_HARMLESS = {_signal.SIG_DFL, _signal.SIG_IGN, None}


class Deferral:
    """`begin()` ... `end()` around statements that must not be torn; one per section."""

    __slots__ = ("_handler", "_is_main", "_terminator", "arrived")

    def __init__(self) -> None:
        self.arrived: tuple[Any, ...] = ()  # the numbers of signals

    def begin(self) -> bool:
        """False if it cannot be done: another handler of the program could raise here too."""
        self._is_main = get_ident() == _main
        if not self._is_main:
            return True
        if not _HARMLESS.issuperset(map(_getsignal, _OTHERS)):
            return False
        handler, terminator = _getsignal(_SIGINT), _getsignal(_SIGTERM)
        if handler is None:  # not Python's: it cannot raise, nor be put back
            return False
        self._handler: Handler = handler
        self._terminator: Handler = terminator
        if terminator in _HARMLESS:
            if callable(handler):
                _set(_SIGINT, self._note)
            return True
        try:
            _set(_SIGTERM, self._note)
            if callable(handler):
                _set(_SIGINT, self._note)
        except BaseException:  # one of the two has raised before it was put off
            self._put_back()
            raise
        return True

    def _note(self, signal: int, frame: Any) -> None:
        if signal not in self.arrived:
            self.arrived = (*self.arrived, signal)

    def _put_back(self) -> None:
        """Both, though a handler that is back may raise at once; then send again what came."""
        try:
            if _getsignal(_SIGTERM) == self._note:
                _set(_SIGTERM, self._terminator)
        finally:
            try:
                if callable(self._handler) and _getsignal(_SIGINT) == self._note:
                    _set(_SIGINT, self._handler)
            finally:
                _send(self.arrived)

    def end(self) -> None:
        """What arrived meanwhile is handled now, so this may raise KeyboardInterrupt."""
        if not self._is_main:
            return
        if self._terminator not in _HARMLESS:
            self._put_back()
        elif callable(self._handler):
            _set(_SIGINT, self._handler)
            if self.arrived:
                self._handler(_SIGINT, sys._getframe(1))


def _send(numbers: tuple[Any, ...]) -> None:
    if numbers:
        try:
            interrupt_main(numbers[0])
        finally:  # its handler may have raised
            _send(numbers[1:])


_main = threading.main_thread().ident


def _learn_main_thread() -> None:
    """In a forked child: the thread that forked is its main thread."""
    global _main
    _main = get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_learn_main_thread)
