"""The memory with the cells of each manager that this process talks to; see `_cells.py`.

A manager hands its descriptor out to whoever has proved to know the key, over its unix socket;
where there is none, there are no cells, and everything goes by the server.
Light: what maps memory is imported when there is some.
"""

from __future__ import annotations

import os
import weakref

from unirun import _channel, _connect
from unirun._robust import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun._cells import Segment
    from unirun._connect import Address

AGAIN = "again"
"""The answer to a request that came when somebody was inside the cell."""

_TAG_BITS = 13  # of an object's id that say in which cell it is, if in any


def tagged(number: int, index: int | None) -> int:
    """An id with that in it."""
    return number << _TAG_BITS | (0 if index is None else index + 1)


def index_of(object_id: int) -> int | None:
    tag = object_id & ((1 << _TAG_BITS) - 1)
    return tag - 1 if tag else None


# Each lives as long as there is a handle with a cell in it.
_segments: weakref.WeakValueDictionary[Address, Segment] = weakref.WeakValueDictionary()
_without: set[Address] = set()  # managers that have none, or whose memory is of no use here


def segment_of(address: Address, give_up: float | None) -> Segment | None:
    """The memory of a manager elsewhere; raises ManagerLost, or TooLate at `give_up`."""
    segment = _segments.get(address)
    if segment is not None or address in _without:
        return segment
    fds: list[int] = []
    try:
        _connect.introduced(address, give_up, fds)[0].close()
        if fds and find() is not None:
            from unirun._cells import Segment  # mmap

            segment = Segment.attach(fds.pop(), lambda: _channel.check(address))
    finally:
        for fd in fds:
            os.close(fd)
    if segment is None:
        _without.add(address)
        return None
    return _segments.setdefault(address, segment)  # or that of a thread that was faster


def lost(address: Address) -> None:
    """That manager is gone, or will not have us.

    Whoever else sees its memory, and waits there or comes by, is made to look for himself.
    """
    _without.discard(address)
    segment = _segments.pop(address, None)
    if segment is not None:
        segment.close()


_connect.memory_lost = lost
