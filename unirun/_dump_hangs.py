"""What is wrong with waits that have lasted: circles of them, and pools in which nobody moves.

    a circle   the waiting thread alone can end what ends its wait: DeadlockError, in that thread
    a pool     every worker waits for something that only another call could do, and calls wait for
               a worker: a HangWarning, since somebody outside may do it after all

Called by threads that wait, see `_hangs`; what workers in other processes wait for is known to the
backend that has them.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from concurrent.futures._base import PENDING
from typing import Any

from unirun import _crowding, _hangs
from unirun._dump_frames import place_of, task_stack_of
from unirun._errors import DeadlockError
from unirun._hangs import Wait, lasting

__all__ = ["call_name", "look", "warning_about"]

NAMED = 5
"""How many of a kind are named in a warning."""
SHOWN = 12
"""Frames of each thread in it."""

_told_lock = threading.Lock()  # guards _told
_told: set[object] = set()  # what people have been warned of; few


def look(wait: Wait) -> None:
    """Raise DeadlockError if this thread waits in a circle; warn of pools that stand still."""
    circle = _circle(wait)
    if circle:
        raise _deadlock(circle)
    for pool in list(_crowding.pools):
        _look_at(pool)


def _circle(wait: Wait) -> list[int]:
    """The threads of the circle that this one is in, itself first."""
    me = threading.get_ident()
    threads, ahead = [me], wait.runner()
    while ahead is not None and ahead != me:
        following = lasting(ahead)
        if following is None or ahead in threads:
            return []
        threads.append(ahead)
        ahead = following.runner()
    return threads if ahead == me else []


def _deadlock(threads: list[int]) -> DeadlockError:
    frames = sys._current_frames()
    parts = []
    for thread in threads:
        wait = lasting(thread)
        if wait is not None:
            place = place_of(frames.get(thread))
            parts.append(f"thread {_thread_name(thread)!r} waits for {described(wait)} at {place}")
    text = (
        "this wait would never have ended, as only the threads that wait could end it: "
        f"{'; '.join(parts)}; wait for a call outside of the calls that it needs, or with a timeout"
    )
    error = DeadlockError(text)
    for thread in threads:
        error.add_note(_stack(_thread_name(thread), frames.get(thread)))
    return error


def _look_at(pool: Any) -> None:
    if _hangs.warn_after is None:
        return
    crew = pool.crew()
    idents = [ident for pid, ident in crew.workers if pid == os.getpid()]
    waits = [lasting(ident) for ident in idents]
    if len(idents) < pool.max_workers or not crew.waiting:
        return
    if not all(wait is not None and _is_in_vain(wait, pool) for wait in waits):
        return
    key = (id(pool), frozenset((ident, wait.since) for ident, wait in zip(idents, waits)))  # type: ignore[union-attr]  # noqa: B905
    with _told_lock:
        if key in _told:
            return
        _told.add(key)
    frames = sys._current_frames()
    doing = []
    for ident, wait in zip(idents, waits, strict=True):
        assert wait is not None
        place = place_of(frames.get(ident))
        doing.append(f"{_thread_name(ident)} waits for {described(wait)} at {place}")
    stacks = [_stack(_thread_name(ident), frames.get(ident)) for ident in idents[:NAMED]]
    names = [call.name for call in pool.report().calls if call.state == "waiting"]
    _hangs.warn(warning_about(pool, doing, names, crew.waiting, stacks))


def _is_in_vain(wait: Wait, pool: Any, depth: int = 0) -> bool:
    """Whether nothing that runs now, as far as is known, is going to end that wait."""
    assert _hangs.warn_after is not None
    if wait.lasted < _hangs.warn_after or depth > 100:
        return False
    state = getattr(wait.subject, "_state", None)
    if state is None:
        return True  # a queue, a lock: what ends that is a call that does not run, or is not ours
    if state is PENDING:
        return getattr(wait.subject, "_backend", None) is pool
    runner = wait.runner()
    following = None if runner is None else lasting(runner)
    return following is not None and _is_in_vain(following, pool, depth + 1)


def warning_about(
    pool: Any, doing: list[str], names: Iterable[str], waiting: int, stacks: Iterable[str]
) -> str:
    """The text of the warning about a pool in which nobody moves."""
    size = pool.max_workers
    everybody = "the only worker" if size == 1 else f"all {size} workers"
    have = "has" if size == 1 else "have"
    kinds = sorted(set(names))
    of = f" ({', '.join(kinds[:NAMED])}{', ...' if len(kinds) > NAMED else ''})" if kinds else ""
    more = "; ..." if len(doing) > NAMED else ""
    text = (
        f"{everybody} of the {pool.name!r} backend {have} waited for {_hangs.warn_after:g} s, "
        f"while {calls_wait(waiting)}{of} for {'it' if size == 1 else 'one of them'}: "
        f"{'; '.join(doing[:NAMED])}{more}; unless something outside of these calls ends that, it "
        f"never ends: use max_workers={size + 1} or more, or submit first what the others wait for"
    )
    return "\n".join([text, *stacks])


def calls_wait(count: int) -> str:
    return "1 call waits" if count == 1 else f"{count} calls wait"


def described(wait: Wait) -> str:
    return f"{wait.what} {call_name(wait.subject)}".strip()


def call_name(subject: Any) -> str:
    """A future by the name of its call; anything else by its own."""
    if getattr(subject, "_state", None) is None:
        return repr(subject)
    name = getattr(subject, "name", None)
    return f"call {name() if callable(name) else name or repr(subject)!s}"


def _thread_name(ident: int) -> str:
    thread = threading._active.get(ident)  # type: ignore[attr-defined]  # without its lock
    return "an unknown thread" if thread is None else str(thread.name)


def _stack(name: str, frame: Any) -> str:
    return "\n".join([f"thread {name!r}:", *task_stack_of(frame)[:SHOWN]])


_hangs.look = look
