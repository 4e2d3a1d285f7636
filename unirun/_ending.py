"""How executors end: by a shutdown, or when the interpreter exits.

At exit, as with `concurrent.futures`, work that was submitted is finished before the program ends.
But a call that makes the exit wait while nothing ends for `exit_grace` seconds (10 by default) is
taken for hung: it is killed, or left behind where it is a thread, and one line on stderr names it.
A program that dies of Ctrl-C does not wait: what waits is cancelled, and what runs is killed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from unirun._executor import Executor
    from unirun.backend import Backend

__all__ = ["around_exit", "close", "join", "on_exit"]

_open: weakref.WeakSet[Executor] = weakref.WeakSet()
_registered = False
# What is called at exit before and after the executors end; the first is told of a Ctrl-C.
_before: Callable[[bool], None] | None = None
_after: Callable[[], None] | None = None


def close(backends: Iterable[Backend], **how: bool) -> None:
    """Shut all of them down; does not wait."""
    for backend in backends:
        backend.shutdown(**how)


def join(backends: Iterable[Backend], until: float | None) -> bool:
    """Wait for all of them, after `close`; False if the moment `until` passed first."""
    return all(
        backend.join(None if until is None else max(0.0, until - time.monotonic()))
        for backend in backends
    )


def on_exit(executor: Executor) -> None:
    """Have `executor` ended when the interpreter exits, if it has not been by then."""
    global _registered
    _open.add(executor)
    if not _registered:
        _registered = True
        # Runs before the threads of the program are joined, when ours can still work. The
        # standard library's executors use it too; atexit would be too late for either.
        threading._register_atexit(_end_all)  # type: ignore[attr-defined]


def around_exit(before: Callable[[bool], None], after: Callable[[], None]) -> None:
    """Have these called before and after the executors end at exit; for `_lasting` alone."""
    global _before, _after
    _before, _after = before, after


def _end_all() -> None:
    interrupted = _ended_by_ctrl_c()
    if _before is not None:
        _before(interrupted)
    executors = [each for each in list(_open) if not each._closed or each._backends]
    for executor in executors:
        executor.shutdown(wait=False, cancel_futures=interrupted, kill=interrupted)
    for executor in executors:
        _end(executor)
    if _after is not None:
        _after()


def _ended_by_ctrl_c() -> bool:
    """Whether the program dies of a KeyboardInterrupt: nobody wants its results any more."""
    last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return isinstance(last, KeyboardInterrupt) and not hasattr(sys, "ps1")  # a REPL lives on


def _end(executor: Executor) -> None:
    for backend in list(executor._backends.values()):
        ended = backend.stats().finished
        while not backend.join(executor._exit_grace):
            before, ended = ended, backend.stats().finished
            if ended != before:
                continue  # slow, not hung
            _say(backend.running_calls(), executor._exit_grace)
            backend.shutdown(cancel_futures=True, kill=True)
            backend.join(5.0)
            break


def _say(names: list[str], seconds: float) -> None:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    text = f"unirun: at exit, ended calls that hung for {seconds:g} s: {shown or 'unknown'}\n"
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _forget_in_forked_child() -> None:
    for executor in list(_open):
        executor._closed = True  # its threads stayed in the parent; submit says so
        executor._backends.clear()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)
