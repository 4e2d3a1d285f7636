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

from unirun._local import SharedLocal
from unirun._shared_barriers import SharedBarrier, SharedEvent
from unirun._shared_lists import SharedList
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
from unirun._shared_values import SharedDict, SharedValue
from unirun._thread_queues import LifoQueue, PriorityQueue, Queue, ShutDown
from unirun._thread_values import Dict, List, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = [
    "SharedBarrier",
    "SharedBoundedSemaphore",
    "SharedCondition",
    "SharedDict",
    "SharedEvent",
    "SharedLifoQueue",
    "SharedList",
    "SharedLocal",
    "SharedLock",
    "SharedPriorityQueue",
    "SharedQueue",
    "SharedRLock",
    "SharedSemaphore",
    "SharedSimpleQueue",
    "SharedValue",
    "ShutDown",
    "make_shared",
    "make_thread",
    "shared_objects",
    "thread_objects",
]


def _lock_of_threads(*, on_abandoned: str = "flag") -> Any:
    """`threading`'s own: a thread cannot die holding it, so nobody abandons one."""
    _check_choice(on_abandoned)
    return threading.Lock()


def _rlock_of_threads(*, on_abandoned: str = "flag") -> Any:
    """Likewise."""
    _check_choice(on_abandoned)
    return threading.RLock()


def _check_choice(on_abandoned: str) -> None:
    if on_abandoned not in ("flag", "raise"):
        raise ValueError(f"on_abandoned cannot be {on_abandoned!r}; it is 'flag' or 'raise'")


thread_objects: Mapping[str, Callable[..., Any]] = {
    "Barrier": threading.Barrier,
    "BoundedSemaphore": threading.BoundedSemaphore,
    "Condition": threading.Condition,
    "Dict": Dict,
    "Event": threading.Event,
    "LifoQueue": LifoQueue,
    "List": List,
    "Lock": _lock_of_threads,
    "PriorityQueue": PriorityQueue,
    "Queue": Queue,
    "RLock": _rlock_of_threads,
    "Semaphore": threading.Semaphore,
    "SimpleQueue": queue.SimpleQueue,
    "Value": Value,
    "local": threading.local,
}

shared_objects: Mapping[str, Any] = {
    each.kind: each
    for each in (
        SharedBarrier,
        SharedBoundedSemaphore,
        SharedCondition,
        SharedDict,
        SharedEvent,
        SharedLifoQueue,
        SharedList,
        SharedLocal,
        SharedLock,
        SharedPriorityQueue,
        SharedQueue,
        SharedRLock,
        SharedSemaphore,
        SharedSimpleQueue,
        SharedValue,
    )
}


def make_thread(kind: str, /, *args: Any, **kwargs: Any) -> Any:
    """An object for the threads of this process: `threading`'s or `queue`'s own."""
    return _known(thread_objects, kind)(*args, **kwargs)


def make_shared(manager: Any, kind: str, /, *args: Any, **kwargs: Any) -> Any:
    """A handle on a new object of that kind, hosted by that manager."""
    return _known(shared_objects, kind).make(manager, *args, **kwargs)


def _known(objects: Mapping[str, Any], kind: str) -> Any:
    if kind not in objects:
        raise TypeError(f"unknown kind of shared object {kind!r}; it is one of {sorted(objects)}")
    return objects[kind]
