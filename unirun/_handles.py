"""Handles: what a process holds of an object that lives in a manager.

A handle pickles to any process of the same run.  Values are pickled where they are handed over and
unpickled where they are taken, each time: what is in a shared object is a copy, and the manager
never looks into it.  An object lives as long as there is a handle on it: here, in another process,
or on the way to one (`_references.py`, `_links.py`).

Light: a worker imports this when it unpickles its first handle.
"""

from __future__ import annotations

import os
import threading
import weakref

from unirun import _payload
from unirun._channel import GRACE, MAX_FRAME, homes, request
from unirun._connect import key_for_child, know_key
from unirun._deferral import uninterrupted
from unirun._links import (
    BRINGS,
    MARK,
    PATIENCE,
    Carrying,
    adopt,
    brings_handles,
    keeper_of,
    pickle_in,
    renew_links,
)
from unirun._payload import dumps, handles_in, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._connect import Address
    from unirun._links import Keeper, Name

_payload.handles_exist = True

MAX_ITEM = MAX_FRAME - (1 << 20)  # leaves room for what a frame holds beside it

# One handle per object and process, so that it keeps its identity wherever it has been.
_handles: weakref.WeakValueDictionary[tuple[Address, int], SharedObject] = (
    weakref.WeakValueDictionary()
)
# Makes look-up and entry one step.  Reentrant: the collector may run a finalizer that unpickles.
_handles_lock = threading.RLock()


def handle(
    kind: type[SharedObject],
    address: Address,
    object_id: int,
    facts: tuple[Any, ...] = (),
    key: bytes | None = None,
) -> SharedObject:
    """The handle on that object in this process; what a pickled one calls."""
    know_key(address, key)
    with _handles_lock:
        known = _handles.get((address, object_id))
        if known is None:
            known = _handles[address, object_id] = kind(address, object_id, facts)
    if not known._keeper.is_open:  # out of the lock: it may take a while
        known._keeper.open(PATIENCE)
    return known


def _alive() -> list[SharedObject]:
    """All handles there are, whatever other threads do meanwhile; some have no truth value."""
    found = [reference() for reference in _handles.valuerefs()]
    return [known for known in found if known is not None]


def _before_fork() -> None:
    """What the child inherits is on its way, as if it were pickled."""
    for known in _alive():
        known._leaves(False)


def _after_fork_in_child() -> None:
    """Another process has other references, and says so before its parent can drop the last."""
    global _handles_lock  # another thread may have held it
    _handles_lock = threading.RLock()
    renew_links()
    for keeper in {known._stay_in_fork() for known in _alive()}:
        keeper.open(PATIENCE)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


class SharedObject:
    """A handle: where the object is, which it is, and what never changes about it."""

    __slots__ = (
        *("__weakref__", "_address", "_facts", "_home", "_keeper", "_object_id"),
        "_has_left",
    )

    kind = ""

    def __init__(self, address: Address, object_id: int, facts: tuple[Any, ...]) -> None:
        self._address = address
        self._object_id = object_id
        self._facts = facts
        self._home = homes.get(address)  # the manager, if it lives here; keeps it alive
        self._has_left = False  # it has been pickled, or inherited by a fork
        self._keeper: Keeper = keeper_of(address)
        self._keeper.attach(object_id)

    def __del__(self) -> None:
        keeper = getattr(self, "_keeper", None)  # None if it never came to life
        if keeper is not None:
            keeper.detach(self._object_id)

    def __reduce__(self) -> tuple[Any, ...]:
        key = key_for_child(self._address)
        self._leaves(bool(key))
        _payload.note_handle(self)
        return handle, (type(self), self._address, self._object_id, self._facts, *key)

    def _leaves(self, to_child: bool) -> None:
        if to_child or not self._has_left:
            self._has_left = True
            self._keeper.escape(self._object_id, to_child)

    def _stay_in_fork(self) -> Keeper:
        self._keeper = keeper_of(self._address)
        self._keeper.attach(self._object_id)
        return self._keeper

    @property
    def _name(self) -> Name:
        """Where the object lives, and which it is."""
        return self._address, self._object_id

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

    @uninterrupted
    def _exchange(
        self, op: str, args: tuple[Any, ...], timeout: float | None, patient: bool = False
    ) -> tuple[str, Any]:
        home = self._home
        if home is not None and home.is_home:
            if brings_handles(args):
                args = adopt(args, self._address, self._object_id)
            return home.request(op, self._object_id, args, timeout)  # type: ignore[no-any-return]
        if brings_handles(args):
            op = BRINGS + op
        answer = request(self._address, op, self._object_id, args, timeout, patient)
        if not self._keeper.is_open:
            self._keeper.open(GRACE)  # its manager lives, so this is another attempt
        return answer

    def _check(self, status: str, value: Any) -> None:
        if status == "type":
            raise TypeError(value)
        if status == "value":
            raise ValueError(value)
        if status == "runtime":
            raise RuntimeError(value)
        if status == "lost":
            from unirun._errors import ManagerLost  # heavy, and rarely needed

            raise ManagerLost(
                f"the manager at {self._address!r} has no such {self.kind} any more, since nobody "
                "referred to it for some seconds; keep a handle while another one is on its way"
            )


def dump(value: Any, what: str) -> bytes:
    """`value` pickled; what is returned keeps the handles alive that are in it."""
    before = _payload.last_note
    data = dumps(value, what)
    if _payload.last_note is not before:  # here, or in another thread
        data, handles = handles_in(dumps, value, what)
        if handles:
            data = Carrying.of(data, handles)
    if len(data) > MAX_ITEM:
        from unirun._errors import SerializationError

        raise SerializationError(
            f"{what} of {len(data)} bytes is too large; the limit is {MAX_ITEM}, share a file"
        )
    return data


def load(data: bytes, what: str) -> Any:
    try:
        if data[:1] != MARK[:1]:
            return loads(data)
        held = adopt(data)  # until it is unpickled, which may take long
        value = loads(pickle_in(held))
        del held
        return value
    except Exception as exc:
        from unirun._errors import DeserializationError

        raise DeserializationError(
            f"{what} cannot be unpickled here: {type(exc).__name__}: {exc}; "
            "its class must be importable in this process"
        ) from exc
