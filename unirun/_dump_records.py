"""What a backend tells of its calls and workers, for a dump: plain facts, gathered without waiting.

Who gathers them may meet anything (a lock that is never given back, a process that is stopped), so
nothing here waits for more than a moment: rather a fact less than a dump that hangs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

__all__ = ["MOMENT", "CallReport", "Report", "WorkerReport", "copied", "held_for_a_moment"]

MOMENT = 0.2
"""Seconds to wait for a lock; after that what it guards is read without."""
TRIES = 20

T = TypeVar("T")


class CallReport(NamedTuple):
    """One call that has not ended. Times in seconds; None: not known, or none."""

    future: Any
    name: str
    id: int | None = None
    state: str = "waiting"
    age: float | None = None
    """Since it was submitted."""
    ran: float | None = None
    """Since its body began."""
    attempt: int = 1
    worker: str = ""
    left: float | None = None
    """Until its time-out or deadline; negative once that has passed."""
    parent: Any = None
    """The future of the call that submitted it."""


class WorkerReport(NamedTuple):
    """One worker: a process or a thread."""

    name: str
    state: str
    pid: int | None = None
    """Of a process other than this one."""
    ident: int | None = None
    """Of a thread of this process."""
    waits: int = 0
    """The id of the shared object that its task waits for without a time-out, as it tells."""
    awaits: Any = None
    """The future of the call that it waits for likewise."""
    waited: float = 0.0
    """For how long."""


class Report(NamedTuple):
    """A backend."""

    name: str
    size: int
    calls: list[CallReport]
    workers: list[WorkerReport]
    objects: list[str] = []  # noqa: RUF012  # never changed: the usual backend has none
    """Lines about the shared objects that live for it."""
    notes: list[str] = []  # noqa: RUF012
    """What else there is to say."""
    root: str = ""
    """The file whose functions call the tasks in a worker process: its stacks end before it."""


def copied(items: Iterable[T]) -> list[T]:
    """A list of what others may be changing right now."""
    for _ in range(TRIES):
        try:
            return list(items)
        except RuntimeError:  # changed while it was read
            time.sleep(0)
    return []


def held_for_a_moment(lock: Any, look: Callable[[], T]) -> T:
    """`look()`, with the lock if it can be had."""
    got = lock.acquire(timeout=MOMENT)
    try:
        return look()
    finally:
        if got:
            lock.release()
