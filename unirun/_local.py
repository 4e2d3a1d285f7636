"""A `threading.local` that can be passed to tasks: each thread of each process has its own values.

Nothing of what is in it ever travels: what does is a handle, by which every process finds the
namespaces that its threads have for it.  They are kept while a process has no handle at all, as a
worker between two tasks, so somebody has to say when no handle is left anywhere: that is the
manager, which hosts an Event for each local that nobody ever sets, only to know who refers to it.
A process asks about those that it keeps when it meets a new one.
"""

from __future__ import annotations

import os
import threading
import weakref

from unirun._channel import NO_WAIT, homes, request
from unirun._shared_barriers import SharedEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from unirun._connect import Address

    Key: TypeAlias = tuple[Address, int]

__all__ = ["SharedLocal"]

_OWN = ("__dict__", "__dir__")  # of the names with underscores around, those the namespace answers

# Guards both; nothing is called while it is held.  Reentrant: the collector may run a finalizer
# that unpickles.
_lock = threading.RLock()
# One object for each local and process, so that it keeps its identity wherever it has been.
_known: weakref.WeakValueDictionary[Key, SharedLocal] = weakref.WeakValueDictionary()
# What the threads of this process have put there; the part of a thread goes with the thread.
_namespaces: dict[Key, threading.local] = {}


class SharedLocal:
    """`threading.local` among processes.

    Each worker has its own attributes, kept from task to task, and so has every thread of the
    program. They go when their thread or process ends, and some time after the last handle on the
    local has gone anywhere: in a worker, when it meets the next local. What stays until then, at
    most, is what belongs to the locals that a worker met last.
    """

    __slots__ = ("__weakref__", "_event", "_namespace")

    kind = "local"

    @classmethod
    def make(cls, manager: Any) -> SharedLocal:
        return _enter(SharedEvent.make(manager))

    def __init__(self, event: Any, namespace: threading.local) -> None:
        object.__setattr__(self, "_event", event)  # keeps the original alive
        object.__setattr__(self, "_namespace", namespace)

    def __getattribute__(self, name: str) -> Any:
        if name[:2] == "__" == name[-2:] and name not in _OWN:
            return object.__getattribute__(self, name)
        return getattr(_of(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_of(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_of(self), name)

    def __dir__(self) -> list[str]:
        return dir(_of(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return _enter, (object.__getattribute__(self, "_event"),)

    def __repr__(self) -> str:
        event = object.__getattribute__(self, "_event")
        return f"<unirun shared local {event._object_id:#x} at {event._address!r}>"


def _of(local: SharedLocal) -> threading.local:
    namespace: threading.local = object.__getattribute__(local, "_namespace")
    return namespace


def _enter(event: Any) -> SharedLocal:
    """The local with that handle, in this process; what a pickled one calls."""
    key = (event._address, event._object_id)
    with _lock:
        is_new = key not in _namespaces
    if is_new:
        _forget_the_dead()
        fresh = threading.local()
        with _lock:
            _namespaces.setdefault(key, fresh)
    with _lock:
        local = _known.get(key)
        if local is None:
            local = _known[key] = SharedLocal(event, _namespaces[key])
    return local


def _forget_the_dead() -> None:
    with _lock:
        kept = [key for key in _namespaces if key not in _known]
    dead = [key for key in kept if not _exists(*key)]
    with _lock:
        gone = [_namespaces.pop(key, None) for key in dead if key not in _known]
    del gone  # without the lock: values are the user's, and so are their finalizers


def _exists(address: Address, object_id: int) -> bool:
    """Whether anybody can still have a handle on it; in doubt, yes."""
    home = homes.get(address)
    try:
        if home is not None and home.is_home:
            status, _ = home.request("is_set", object_id, (), NO_WAIT)
        else:
            status, _ = request(address, "is_set", object_id, (), NO_WAIT)
    except ConnectionError:  # ManagerLost
        return False
    return bool(status != "lost")


def _after_fork_in_child() -> None:
    global _lock  # another thread may have held it
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
