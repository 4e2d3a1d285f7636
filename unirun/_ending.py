"""What happens to executors when the interpreter exits.

Policy: as with `concurrent.futures`, work that was submitted is finished before the program ends.
But a call that makes the exit wait while nothing ends for `exit_grace` seconds (10 by default) is
taken for hung: it is killed, or left behind where it is a thread, and one line on stderr names it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unirun._executor import Executor

__all__ = ["on_exit"]

_open: weakref.WeakSet[Executor] = weakref.WeakSet()
_registered = False


def on_exit(executor: Executor) -> None:
    """Have `executor` ended when the interpreter exits, if it has not been by then."""
    global _registered
    _open.add(executor)
    if not _registered:
        _registered = True
        # Runs before the threads of the program are joined, when ours can still work. The
        # standard library's executors use it too; atexit would be too late for either.
        threading._register_atexit(_end_all)  # type: ignore[attr-defined]


def _end_all() -> None:
    executors = [each for each in list(_open) if not each._closed or each._backends]
    for executor in executors:
        executor.shutdown(wait=False)
    for executor in executors:
        _end(executor)


def _end(executor: Executor) -> None:
    for backend in list(executor._backends.values()):
        while not backend.join(executor._exit_grace):
            hung = backend.running_calls()
            if _progress(backend, executor._exit_grace):
                continue
            _say(hung, executor._exit_grace)
            backend.shutdown(cancel_futures=True, kill=True)
            backend.join(5.0)
            break


def _progress(backend: Any, seconds: float) -> bool:
    """Whether a call ends within `seconds`: then it is slow, not hung."""
    before = backend.stats().finished
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if backend.join(min(0.1, seconds)) or backend.stats().finished != before:
            return True
    return False


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
