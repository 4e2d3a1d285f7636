"""What is kept of a call that failed, so that it can be run again here: `Future.replay`.

Only of calls that failed, and only as long as somebody keeps the future.  Handles on shared objects
in the arguments are not kept alive for it.
"""

from __future__ import annotations

import contextvars
import os
from _pickle import Unpickler
from io import BytesIO
from marshal import loads as unmarshal

from unirun._again import run_again
from unirun._payload import loads

from .about import enter
from .arena import Parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .future import Profile

__all__ = ["Copied", "keep", "rerun"]

MOST = 64 << 20
"""Bytes of large arguments up to which they are copied out of the memory shared with workers."""


class Copied:
    """A large object, taken out of the arena; arrays in it may be as the call has left them."""

    __slots__ = ("_block", "_reference")

    def __init__(self, parcel: Parcel) -> None:
        self._reference = bytes(parcel)
        self._block = bytearray(os.pread(parcel._arena.fd, parcel.size, parcel.offset))
        if len(self._block) != parcel.size:
            raise EOFError("a block of the arena that is not there")

    def load(self) -> Any:
        _, _, spans, start, pickled, _ = unmarshal(memoryview(self._reference)[1:])
        whole = memoryview(bytearray(self._block))  # for this once: the call may change it
        buffers = [whole[begin : begin + length] for begin, length in spans]
        data = bytes(whole[start:]) if pickled is None else pickled
        return Unpickler(BytesIO(data), buffers=buffers).load()


def keep(payload: Any) -> Any:
    """What `rerun` needs of it; None where that would be too much, or is not to be had."""
    if type(payload) is Parcel:
        try:
            return Copied(payload) if payload.size <= MOST else None
        except (OSError, EOFError, MemoryError):  # closed meanwhile; or there is no room
            return None
    return bytes(payload) if isinstance(payload, bytes) else payload


def rerun(
    profile: Profile, carried: Any, number: int | None, kept: Any
) -> tuple[Any, BaseException | None]:
    """The outcome of the call, as a worker would have run it."""
    inside = contextvars.Context()

    def arrive() -> tuple[Any, Any, Any]:
        if carried is not None:
            enter(carried)
        return _decode(profile, kept)

    try:
        call = inside.run(arrive)
    except BaseException as exc:  # noqa: BLE001  # user code runs in there, as in a worker
        return None, exc
    return run_again(inside, "process", profile.name, profile.options, number, call)


def _decode(profile: Profile, kept: Any) -> tuple[Any, Any, Any]:
    whole = kept if isinstance(kept, tuple) else kept.load() if _is_copy(kept) else loads(kept)
    if not profile.function_id:
        fn, args, kwargs = whole
        return fn, args, kwargs
    assert profile.function is not None
    fn = loads(profile.function)
    args, kwargs = (whole, {}) if isinstance(kept, tuple) else whole
    return fn, args, kwargs


def _is_copy(kept: Any) -> bool:
    return isinstance(kept, Copied)
