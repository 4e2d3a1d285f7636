"""Handles: what a process holds of an object that lives in a manager.

A handle pickles to any process of the same run.  Values are pickled where they are handed over and
unpickled where they are taken, each time: what is in a shared object is a copy, and the manager
never looks into it.  Light: a worker imports this when it unpickles its first handle.
"""

from __future__ import annotations

import os
import threading
import weakref

from unirun._channel import MAX_FRAME, homes, request
from unirun._payload import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._channel import Address

MAX_ITEM = MAX_FRAME - (1 << 20)  # leaves room for what a frame holds beside it

# One handle per object and process, so that it keeps its identity wherever it has been.
_handles: weakref.WeakValueDictionary[tuple[Address, int], SharedObject] = (
    weakref.WeakValueDictionary()
)
# Makes look-up and entry one step.  Reentrant: the collector may run a finalizer that unpickles.
_handles_lock = threading.RLock()


def handle(
    kind: type[SharedObject], address: Address, object_id: int, facts: tuple[Any, ...] = ()
) -> SharedObject:
    """The handle on that object in this process; what a pickled one calls."""
    with _handles_lock:
        known = _handles.get((address, object_id))
        if known is None:
            known = _handles[address, object_id] = kind(address, object_id, facts)
    return known


def _after_fork_in_child() -> None:
    global _handles_lock  # another thread may have held it
    _handles_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class SharedObject:
    """A handle: where the object is, which it is, and what never changes about it."""

    __slots__ = ("__weakref__", "_address", "_facts", "_home", "_object_id")

    kind = ""

    def __init__(self, address: Address, object_id: int, facts: tuple[Any, ...]) -> None:
        self._address = address
        self._object_id = object_id
        self._facts = facts
        self._home = homes.get(address)  # the manager, if it lives here; keeps it alive

    def __reduce__(self) -> tuple[Any, ...]:
        return handle, (type(self), self._address, self._object_id, self._facts)

    def __repr__(self) -> str:
        return f"<unirun shared {self.kind} {self._object_id:#x} at {self._address!r}>"

    def _ask(
        self, op: str, args: tuple[Any, ...] = (), timeout: float | None = None
    ) -> tuple[str, Any]:
        """Status and value of a request; raises what does not depend on the operation."""
        status, value = self._exchange(op, args, timeout)
        if status not in ("ok", "item"):
            self._check(status, value)
        return status, value

    def _exchange(
        self, op: str, args: tuple[Any, ...], timeout: float | None, patient: bool = False
    ) -> tuple[str, Any]:
        home = self._home
        if home is not None and home.is_home:
            return home.request(op, self._object_id, args, timeout)  # type: ignore[no-any-return]
        return request(self._address, op, self._object_id, args, timeout, patient)

    def _check(self, status: str, value: Any) -> None:
        if status == "type":
            raise TypeError(value)
        if status == "value":
            raise ValueError(value)
        if status == "runtime":
            raise RuntimeError(value)
        if status == "lost":
            from unirun._errors import ManagerLost  # heavy, and rarely needed

            raise ManagerLost(f"the manager at {self._address!r} has no such {self.kind} any more")


def dump(value: Any, what: str) -> bytes:
    data = dumps(value, what)
    if len(data) > MAX_ITEM:
        from unirun._errors import SerializationError

        raise SerializationError(
            f"{what} of {len(data)} bytes is too large; the limit is {MAX_ITEM}, share a file"
        )
    return data


def load(data: bytes, what: str) -> Any:
    try:
        return loads(data)
    except Exception as exc:
        from unirun._errors import DeserializationError

        raise DeserializationError(
            f"{what} cannot be unpickled here: {type(exc).__name__}: {exc}; "
            "its class must be importable in this process"
        ) from exc
