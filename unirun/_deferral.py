"""Ctrl-C waits while the main thread is inside an operation on a shared object.

Python runs signal handlers in the main thread between any two bytecodes, and they may raise there:
in the middle of the manager's books, of a frame, or with a lock just acquired and nobody to know.

    @uninterrupted acquire ──▶ handlers are put aside ──▶ `interruptible(wait)`: they run, may raise
                           ◀── and put back: what arrived meanwhile is handled by the caller

So whoever waits can be interrupted, and nothing else can.  An operation that has come to its end
returns, and its last step sends the signal once more: the handler runs in the code that called, as
with the operations of `threading` that are written in C.  It costs two microseconds, there only.

Other threads never run handlers, and are not touched.  Light: whoever has a shared object has this.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enums of what it returns
import os
import sys
import threading
from _thread import get_ident, interrupt_main, start_new_thread
from functools import partial, wraps
from operator import methodcaller
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])
    R = TypeVar("R")

__all__ = ["imported", "in_finalizer", "interruptible", "resent", "undisturbed", "uninterrupted"]

# Those whose handlers are likely to raise; the others only where the first one has a handler.
_SIGINT, _SIGTERM = _signal.SIGINT, _signal.SIGTERM
_SIGALRM = getattr(_signal, "SIGALRM", _SIGTERM)  # Windows has none
_NUMBERS = tuple(dict.fromkeys((_SIGINT, _SIGALRM, _SIGTERM)))
_getsignal, _set = _signal.getsignal, _signal.signal
IMPATIENCE = 1.0
"""Seconds after which a signal that comes again is not put off any more, whatever we do."""

resent = dict.fromkeys(_signal.valid_signals(), 0)
"""So often has each signal been sent once more: who counts what the system tells, counts less."""

_main = threading.main_thread().ident
_handlers: dict[int, Any] = {}  # put aside; not empty inside an operation of the main thread
_arrived: dict[int, float] = {}  # signals put off, and when the first of each came
_waits = False  # whether handlers may run as ever


class _Step:
    """A call of C made by looking at an attribute: handlers run after calls, but not after that."""

    __slots__ = ("_call",)

    done = property(methodcaller("_call"))

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self._call = partial(call, *args)


_NOTHING = _Step(int)
_again = {number: _Step(interrupt_main, number) for number in _NUMBERS}
_backs: dict[int, tuple[Any, _Step]] = {}  # by number, the last handler and how to put it back


def uninterrupted(method: F) -> F:
    """Have signal handlers run before that method, after it, and where it waits, only."""

    @wraps(method)
    def shielded(*args: Any, **kwargs: Any) -> Any:
        if _getsignal(_SIGINT).__class__ is int or get_ident() != _main or _handlers:
            return method(*args, **kwargs)  # as in every worker, which ignores it
        if not _put_aside():
            return method(*args, **kwargs)
        try:
            return method(*args, **kwargs)
        finally:
            _put_back()

    return shielded  # type: ignore[return-value]


def undisturbed(make: Callable[..., R], *args: Any) -> R:
    """`make(*args)`, during which no handler of any signal runs: for what is done once.

    A handler could raise in it; or submit, and so begin in the middle of it to do the same.
    """
    return make(*args) if get_ident() != _main else _shielded(_send, make, *args)


def in_finalizer(act: Callable[..., object], *args: Any) -> None:
    """`undisturbed(act, *args)` for finalizers, where what a handler raises is lost.

    Signals that came meanwhile come once more a moment later, when the finalizer is over.
    """
    if get_ident() != _main:
        act(*args)
    else:
        _shielded(_send_later, act, *args)


def _shielded(send: Callable[[list[Any]], None], make: Callable[..., R], *args: Any) -> R:
    aside: dict[int, Any] = {}
    arrived: dict[int, float] = {}

    def note(number: int, frame: Any) -> None:
        if monotonic() - arrived.setdefault(number, monotonic()) > IMPATIENCE:
            aside[number](number, frame)

    try:
        for number in _signal.valid_signals():
            handler = _getsignal(number)
            if handler.__class__ is not int and handler is not None:
                aside[number] = handler
                _set(number, note)
        return make(*args)
    finally:
        _restore(list(aside.items()), note, lambda: send(list(arrived)))


# Held while something is imported late, and by every fork: a child that inherited an import half
# done, by a thread it has not, would wait for its end for ever.
_importing = threading.RLock()


def imported(name: str) -> Any:
    """That module of ours or of what we build on, for what is imported late.

    Neither a handler that submits nor the child of a fork finds it half imported.
    """
    module = sys.modules.get(name)
    if module is None or getattr(module.__spec__, "_initializing", False):
        with _importing:
            undisturbed(__import__, name)
        module = sys.modules[name]
    return module


def _restore(aside: list[tuple[int, Any]], note: Any, send: Callable[[], None]) -> None:
    """Whatever raises as soon as it is back, the others come back too, and run if they have to."""
    if not aside:
        send()
        return
    number, handler = aside[0]
    try:
        if _getsignal(number) is note:
            _set(number, handler)
    finally:
        _restore(aside[1:], note, send)


def _send(numbers: list[Any]) -> None:
    if numbers:
        try:
            resent[numbers[0]] += 1  # before it is, as everywhere
            interrupt_main(numbers[0])
        finally:
            _send(numbers[1:])


def _send_later(numbers: list[Any]) -> None:
    """By a thread that runs nothing of Python: it gets its turn when this one waits, or soon."""
    for number in numbers:
        resent[number] += 1
        try:
            start_new_thread(_signal.pthread_kill, (_main, number))
        except (AttributeError, RuntimeError):  # Windows; no more threads, or the program ends
            interrupt_main(number)


def interruptible(wait: Callable[..., R], *args: Any) -> R:
    """`wait(*args)`, during which handlers may run, and raise."""
    global _waits
    if not _handlers or get_ident() != _main:
        return wait(*args)
    before, _waits = _waits, True
    try:
        _handle_arrived()
        return wait(*args)
    finally:
        _waits = before


def _put_aside() -> bool:
    """Whether there was any handler that could raise."""
    try:
        for number in _NUMBERS:
            handler = _getsignal(number)
            if handler.__class__ is not int and handler is not None:  # not ignored, not C's
                _handlers[number] = handler
                _set(number, _note)
    except BaseException:
        _put_back()
        raise
    return bool(_handlers)


def _put_back() -> None:
    first = second = third = _NOTHING
    for number, handler in _handlers.items():
        if _getsignal(number) is _note:  # else a handler has set another one
            first, second, third = _back(number, handler), first, second
    _handlers.clear()
    # From here on their handlers run after every call and every turn of a loop: there is none, so
    # that they run in the code that called us.
    _ = first.done, second.done, third.done
    if _arrived:
        first = second = third = _NOTHING
        if _SIGINT in _arrived:
            del _arrived[_SIGINT]
            resent[_SIGINT] += 1
            first = _again[_SIGINT]
        if _SIGALRM in _arrived:
            del _arrived[_SIGALRM]
            resent[_SIGALRM] += 1
            second = _again[_SIGALRM]
        if _SIGTERM in _arrived:
            del _arrived[_SIGTERM]
            resent[_SIGTERM] += 1
            third = _again[_SIGTERM]
        _ = first.done, second.done, third.done


def _back(number: int, handler: Any) -> _Step:
    known = _backs.get(number)
    if known is None or known[0] is not handler:
        known = _backs[number] = (handler, _Step(_set, number, handler))
    return known[1]


def _note(number: int, frame: Any) -> None:
    """What runs in place of their handlers."""
    first = _arrived.setdefault(number, monotonic())
    if _handlers and (_waits or monotonic() - first > IMPATIENCE):
        _handle_arrived()


def _handle_arrived() -> None:
    global _waits
    while _arrived:
        number, _ = _arrived.popitem()
        before, _waits = _waits, False  # an operation in the handler is one like any other
        try:
            _handlers[number](number, None)
        finally:
            _waits = before


def _after_fork_in_child() -> None:
    global _main
    _main = get_ident()  # the thread that forked
    _arrived.clear()  # they were the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
    os.register_at_fork(
        before=_importing.acquire,
        after_in_parent=_importing.release,
        after_in_child=_importing.release,
    )
