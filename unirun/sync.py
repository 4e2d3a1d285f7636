"""Locks, queues and their kin under one name each, whatever runs the tasks.

Among threads they are the standard library's own objects.  Among processes they are handles on
objects that live in a manager: a handle pickles to any process of the same run, and behaves as
its original does, exceptions and edge cases included.

    make_thread("Queue", 3)            queue.Queue, with what the later Pythons and we add
    make_shared(manager, "Queue", 3)   SharedQueue ──▶ the manager, directly or by a connection
"""

from __future__ import annotations

import queue
import threading

from unirun._shared_barriers import SharedBarrier, SharedEvent
from unirun._shared_locks import (
    SharedBoundedSemaphore,
    SharedCondition,
    SharedLock,
    SharedRLock,
    SharedSemaphore,
)
from unirun._shared_queues import (
    SharedLifoQueue,
    SharedPriorityQueue,
    SharedQueue,
    SharedSimpleQueue,
)
from unirun._thread_queues import LifoQueue, PriorityQueue, Queue, ShutDown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = [
    "SharedBarrier",
    "SharedBoundedSemaphore",
    "SharedCondition",
    "SharedEvent",
    "SharedLifoQueue",
    "SharedLock",
    "SharedPriorityQueue",
    "SharedQueue",
    "SharedRLock",
    "SharedSemaphore",
    "SharedSimpleQueue",
    "ShutDown",
    "make_shared",
    "make_thread",
    "shared_objects",
    "thread_objects",
]

thread_objects: Mapping[str, Callable[..., Any]] = {
    "Barrier": threading.Barrier,
    "BoundedSemaphore": threading.BoundedSemaphore,
    "Condition": threading.Condition,
    "Event": threading.Event,
    "LifoQueue": LifoQueue,
    "Lock": threading.Lock,
    "PriorityQueue": PriorityQueue,
    "Queue": Queue,
    "RLock": threading.RLock,
    "Semaphore": threading.Semaphore,
    "SimpleQueue": queue.SimpleQueue,
    "local": threading.local,
}

shared_objects: Mapping[str, Any] = {
    each.kind: each
    for each in (
        SharedBarrier,
        SharedBoundedSemaphore,
        SharedCondition,
        SharedEvent,
        SharedLifoQueue,
        SharedLock,
        SharedPriorityQueue,
        SharedQueue,
        SharedRLock,
        SharedSemaphore,
        SharedSimpleQueue,
    )
}


def make_thread(kind: str, *args: Any, **kwargs: Any) -> Any:
    """An object for the threads of this process: `threading`'s or `queue`'s own."""
    return _known(thread_objects, kind)(*args, **kwargs)


def make_shared(manager: Any, kind: str, *args: Any, **kwargs: Any) -> Any:
    """A handle on a new object of that kind, hosted by that manager."""
    return _known(shared_objects, kind).make(manager, *args, **kwargs)


def _known(objects: Mapping[str, Any], kind: str) -> Any:
    if kind not in objects:
        raise TypeError(f"unknown kind of shared object {kind!r}; it is one of {sorted(objects)}")
    return objects[kind]
