"""The home of shared objects, as whoever makes them has it: a thread of this process.

`_manager_process.py` has the other one, with the same methods.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from unirun import _channel, _connect
from unirun._deferral import in_finalizer
from unirun._host import Host

if TYPE_CHECKING:
    from unirun._cells import Segment
    from unirun._connect import Address

__all__ = ["Manager", "create_at"]


class Manager:
    """Hosts shared objects, from when it is made until it is closed or nobody refers to it.

    `family` is "AF_UNIX" or "AF_INET" (loopback only); by default the first where it works.
    `key` is what other processes must know; by default the key of this run.
    """

    def __init__(self, *, family: str | None = None, key: bytes | None = None) -> None:
        self._host = host = Host(family, key)
        self.address: Address = host.address
        self.key: bytes = host.key
        _connect.keys[self.address] = self.key
        _channel.homes[self.address] = self
        # Nothing of the host refers to us.  The finalizer may run anywhere, under any lock: it
        # only tells the thread to end.
        self._finalizer = weakref.finalize(self, in_finalizer, host.stop)
        self._finalizer.atexit = False  # `_close_all` also waits

    def close(self) -> None:
        """End the thread and remove the socket; whoever waits gets ManagerLost.  Idempotent."""
        self._finalizer()
        self._host.join()

    @property
    def is_home(self) -> bool:
        """Whether this is the process that hosts the objects, and not a fork of it."""
        return self._host.is_home

    def has_ended(self, patience: float) -> bool:
        """Whether it serves nobody any more, at the latest in `patience` seconds."""
        self._host.join(patience)
        return not self.is_home or not self._host.is_alive

    def create(self, kind: str, *params: Any) -> int:
        """Make an object of that kind and return its id."""
        if not self.is_home:  # in a fork
            return create_at(self.address, kind, params)
        return self._host.create(kind, params)

    @property
    def segment(self) -> Segment | None:
        """The memory with the cells of its objects, if there is one."""
        return self._host.segment

    @property
    def seat(self) -> int:
        """The number of the session of this thread."""
        return self._host.seat

    def request(
        self, op: str, object_id: int, args: tuple[Any, ...], timeout: float | None
    ) -> tuple[str, Any]:
        """As `_channel.request`, without a connection."""
        return self._host.request(op, object_id, args, timeout)

    def end_task(self, task: str, acquired: tuple[tuple[int, int], ...]) -> None:
        """A task has ended in this thread: release what it has left, and warn of it."""
        self._host.end_task(task, acquired)

    def tell(self, patience: float) -> list[str]:
        """Lines about its objects, for a dump; waits no longer than that."""
        return self._host.tell()

    @property
    def objects(self) -> int:
        """How many objects it hosts; those that nobody refers to any more go within seconds."""
        return self._host.count()

    def __repr__(self) -> str:
        state = f"with {self.objects} objects at" if self._finalizer.alive else "closed, was at"
        return f"<unirun Manager {state} {self.address!r}>"


def create_at(address: Address, kind: str, params: Iterable[Any]) -> int:
    """Have the manager at that address make an object; returns its id."""
    status, value = _channel.request(address, "create", 0, (kind, *params), None)
    if status == "ok":
        return int(value)
    raise _MISTAKES[status](value)


_MISTAKES: Final = {"type": TypeError, "value": ValueError}
