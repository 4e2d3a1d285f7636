"""Handles on events and barriers that live in a manager; `threading` says what they do."""

from __future__ import annotations

import threading

from unirun import _channel, _ownership
from unirun._celled import Celled
from unirun._handles import SharedObject, dump, handle, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unirun._cells import Segment


class SharedEvent(Celled):
    """`threading.Event` among processes."""

    __slots__ = ()

    kind = "Event"

    @classmethod
    def make(cls, manager: Any) -> SharedObject:
        return handle(cls, manager.address, manager.create(cls.kind), ())

    def _open_cell(self, segment: Segment, index: int) -> Any:
        from unirun._cell_barriers import EventCell

        return EventCell(segment, index)

    def is_set(self) -> bool:
        """Whether the flag is set."""
        return bool(self._ask("is_set")[1])

    def set(self) -> None:
        """Set the flag and wake all who wait for it."""
        cell = self._cell
        if not (cell and cell.is_of(self._object_id) and cell.set()):
            self._ask("set")

    def clear(self) -> None:
        """Reset the flag."""
        cell = self._cell
        if not (cell and cell.is_of(self._object_id) and cell.clear()):
            self._ask("clear")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set; False if it was not within `timeout` seconds."""
        cell = self._cell
        if cell and timeout is None and cell.is_of(self._object_id):
            was_set: bool | None = cell.wait(None)
            if was_set is not None:
                return was_set
        if timeout is not None:
            timeout = max(0.0, timeout)
        return self._ask("wait", (), timeout)[0] == "ok"


def _arrived(*args: Any) -> SharedObject:
    """The handle on a barrier, where a pickled one has arrived: in a task, it is needed there."""
    barrier = handle(*args)
    home = barrier._home
    if (home is None or not home.is_home) and _ownership.needs_saying(barrier):
        _channel.tell(barrier._address, "need", barrier._object_id)
    return barrier


class SharedBarrier(Celled):
    """`threading.Barrier` among processes.

    It breaks too when a party dies waiting, and when a task dies that was handed the barrier, or
    has waited for it: killed, timed out, crashed.  A task that ends, breaks nothing.
    """

    __slots__ = ()

    kind = "Barrier"

    @classmethod
    def make(
        cls,
        manager: Any,
        parties: int,
        action: Callable[[], Any] | None = None,
        timeout: float | None = None,
    ) -> SharedObject:
        data = None if action is None else dump(action, "barrier action")
        object_id = manager.create(cls.kind, parties, data)
        return handle(cls, manager.address, object_id, (parties, timeout))

    def __reduce__(self) -> tuple[Any, ...]:
        made_by, args = super().__reduce__()
        return _arrived if made_by is handle else made_by, args

    def _open_cell(self, segment: Segment, index: int) -> Any:
        from unirun._cell_barriers import BarrierCell

        return BarrierCell(segment, index)

    @property
    def parties(self) -> int:
        """How many parties pass it together."""
        number: int = self._facts[0]
        return number

    @property
    def n_waiting(self) -> int:
        """How many parties wait now."""
        number: int = self._ask("state")[1][0]
        return number

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return bool(self._ask("state")[1][1])

    def wait(self, timeout: float | None = None) -> int:
        """Wait for all parties; returns a number from 0 to `parties - 1`, another for each.

        One of them runs the action first, if there is one.  Raises
        `threading.BrokenBarrierError`, for all of them, when one times out, fails in the action,
        or dies, and after `abort()` or `reset()`; its subclass BarrierTooLarge when those that
        wait take up all workers of a pool, calls wait there for one of them, and nobody else comes.
        """
        if timeout is None:
            timeout = self._facts[1]
        if timeout is not None:
            timeout = max(0.0, timeout)
        home = self._home
        elsewhere = home is None or not home.is_home
        if elsewhere and _ownership.needs_saying(self):
            _channel.tell(self._address, "need", self._object_id, timeout)
        status, value = self._ask("wait", (_ownership.standing(),), timeout)
        if status == "act":
            status, value = self._act(value)
        if status == "broken" and value is not None:
            from unirun._errors import BarrierTooLarge  # heavy, and rarely needed

            raise BarrierTooLarge(value)
        if status != "ok":
            raise threading.BrokenBarrierError
        index: int = value
        return index

    def reset(self) -> None:
        """Make it as new; whoever waits gets BrokenBarrierError."""
        self._ask("reset")

    def abort(self) -> None:
        """Break it: whoever waits or comes gets BrokenBarrierError, until `reset()`."""
        self._ask("abort")

    def _act(self, action: bytes) -> tuple[str, Any]:
        try:
            load(action, "barrier action")()
        except BaseException:
            self._ask("acted", (False,))
            raise
        return self._ask("acted", (True,))
