"""`executor.put(obj)`: an argument that is sent once, and then only named.

    put(obj) ──▶ Reference ──pickled in a call──▶ the key of a blob ──unpickled there──▶ obj

1. A Reference becomes what it refers to where it is unpickled: so it may stand anywhere in an
   argument, and a function never sees one.  A process does that once and keeps the object, which
   its calls share, for as long as the Reference lives.
2. Calls that are not pickled get the object itself: it is looked for in their arguments, and in
   the lists, tuples and dicts there.
3. It is pickled when the first process needs it, so one that threads use costs nothing.
4. Objects below `LARGE` bytes travel in each call.
"""

from __future__ import annotations

import threading
from _thread import get_ident
from typing import Any, Generic, Self, TypeVar

from unirun import _blobs, _config, _payload
from unirun._blobs import Blob
from unirun._payload import handles_in, loads

__all__ = ["Reference", "put", "resolved"]

T = TypeVar("T")

DEPTH = 8
_LOOKED_INTO = (list, tuple, dict)


class Reference(Generic[T]):
    """What `Executor.put` returns: given to a call, the call gets the object.

    The object must not be changed as long as calls use it: those in threads get this very object,
    and those of one worker process share a copy. It is kept where it was sent until this is gone.
    """

    __slots__ = ("__weakref__", "_blob", "_data", "_handles", "_lock", "_obj")

    def __init__(self, obj: T) -> None:
        self._obj = obj
        # Guards what follows, which is made at first need: bytes, or a blob.
        self._lock = threading.Lock()
        self._data = b""
        self._blob: Blob | None = None
        self._handles: list[Any] = []  # in it

    def get(self) -> T:
        """The object itself."""
        return self._obj

    def __reduce__(self) -> Any:
        if get_ident() not in _payload._notes:
            raise TypeError("a Reference travels in the arguments of calls only; get() its object")
        self._encode()
        _payload.note_handle(self)  # whoever sends it keeps it alive meanwhile
        return (
            (loads, (self._data,)) if self._blob is None else (_blobs.arrived, (self._blob.place,))
        )

    def _encode(self) -> None:
        if self._data:
            return
        made: list[Blob] = []

        def store(frames: list[bytes], buffers: list[memoryview]) -> bytes:
            made.append(Blob(frames, buffers))
            return made[0].named()

        encode = _payload.encode
        what = f"the {type(self._obj).__name__} that was put"
        data, handles = handles_in(encode, self._obj, what, store=store, inside=(self._obj,))
        with self._lock:
            if self._data:
                return  # another thread was faster
            self._handles = handles
            self._blob = made[0] if made else None
            self._data = data
        if made:
            _blobs.mine[made[0].key] = self

    def _holds(self) -> list[Any]:
        """What has to be there where this is unpickled."""
        return self._handles if self._blob is None else [self._blob, *self._handles]

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<unirun.Reference to a {type(self._obj).__name__}>"


Reference.__module__ = "unirun"


def put(obj: T) -> Reference[T]:
    """See `Executor.put`."""
    if not _payload.references_exist:
        _payload.handles_exist = _payload.references_exist = True
        _config.renew()  # calls that are not pickled have to be looked at from now on
    return Reference(obj)


def resolved(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Rule 2: the arguments of a call that is not pickled."""
    return _resolved(args, DEPTH), _resolved(kwargs, DEPTH)


def _resolved(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is Reference:
        return value.get()
    if kind not in _LOOKED_INTO or not depth:
        return value
    inside = list(value.values()) if kind is dict else value
    if _KINDS.isdisjoint(map(type, inside)):
        return value
    found = [_resolved(each, depth - 1) for each in inside]
    if all(new is old for new, old in zip(found, inside, strict=True)):
        return value
    return dict(zip(value, found, strict=True)) if kind is dict else kind(found)


_KINDS = {Reference, *_LOOKED_INTO}
