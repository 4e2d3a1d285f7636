"""Where the manager of a test lives, and every way to wait for something that lives there."""

import os
import threading
from collections.abc import Callable
from typing import Any

from parties import PATIENCE, ThreadParty

from unirun import Executor
from unirun._errors import UnirunError
from unirun._manager import Manager
from unirun._manager_process import ManagerProcess
from unirun.sync import make_shared

FAMILIES = ["AF_UNIX", "AF_INET"]
PLACES = [(place, family) for place in ("thread", "process") for family in FAMILIES]

AnyManager = Manager | ManagerProcess


def manager_in(place: str, family: str | None = None, key: bytes | None = None) -> AnyManager:
    made = ManagerProcess if place == "process" else Manager
    return made(family=family, key=key)


def process_of(manager: AnyManager) -> int:
    """The process that serves its objects."""
    return manager.pid if isinstance(manager, ManagerProcess) else os.getpid()


# -- every way to wait ----------------------------------------------------------------------------


def waiting_objects(maker: AnyManager | Executor) -> dict[str, Any]:
    """One of each, such that whoever does what WAITS says waits for ever."""
    objects = {name: _make(maker, kind, *args) for name, (kind, args, _) in WAITS.items()}
    for name in ("lock", "rlock"):
        objects[name].acquire()
    for name in ("put", "join"):
        objects[name].put("in the way")
    return objects


def _make(maker: AnyManager | Executor, kind: str, *args: Any) -> Any:
    if isinstance(maker, Executor):
        return getattr(maker, kind)(*args)
    return make_shared(maker, kind, *args)


def wait_for_notice(condition: Any) -> None:
    with condition:
        condition.wait()


def put_more(q: Any) -> None:
    q.put("too much")


WAITS: dict[str, tuple[str, tuple[Any, ...], Callable[[Any], Any]]] = {
    "lock": ("Lock", (), lambda lock: lock.acquire()),
    "rlock": ("RLock", (), lambda lock: lock.acquire(timeout=1000)),
    "condition": ("Condition", (), wait_for_notice),
    "semaphore": ("Semaphore", (0,), lambda semaphore: semaphore.acquire()),
    "bounded": ("BoundedSemaphore", (0,), lambda semaphore: semaphore.acquire(timeout=1000)),
    "event": ("Event", (), lambda event: event.wait()),
    "barrier": ("Barrier", (100,), lambda barrier: barrier.wait()),
    "get": ("Queue", (), lambda q: q.get()),
    "put": ("Queue", (1,), put_more),
    "join": ("Queue", (), lambda q: q.join()),
    "stack": ("LifoQueue", (), lambda q: q.get(timeout=1000)),
    "heap": ("PriorityQueue", (), lambda q: q.get_many(3)),
    "simple": ("SimpleQueue", (), lambda q: q.get()),
}


def wait_for(name: str, subject: Any) -> Any:
    """What came of that wait: what it returned, or the name of what it raised."""
    try:
        return WAITS[name][2](subject)
    except UnirunError as exc:
        return type(exc).__name__


class Waiters:
    """A thread for each of these objects, which waits for it."""

    def __init__(self, objects: dict[str, Any]) -> None:
        self._begun = threading.Semaphore(0)
        self._parties = {
            name: ThreadParty().start(self._wait, name, each) for name, each in objects.items()
        }
        for _ in objects:
            assert self._begun.acquire(timeout=PATIENCE)

    def _wait(self, name: str, subject: Any) -> Any:
        self._begun.release()
        return wait_for(name, subject)

    def results(self) -> dict[str, Any]:
        return {name: party.result() for name, party in self._parties.items()}


def wait_for_all(objects: dict[str, Any], begun: Callable[[], object]) -> dict[str, Any]:
    """Wait for each in a thread of its own; calls `begun` when all are about to."""
    waiters = Waiters(objects)
    begun()
    return waiters.results()


LOST = dict.fromkeys(WAITS, "ManagerLost")
"""What comes of all of them when the manager is killed."""
