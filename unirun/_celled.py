"""Handles on objects that may be in a cell (see `_cells.py`): what they have in common.

    an operation ──▶ the cell, if this process sees it: done, in microseconds
                 └─▶ else, or if the cell says so: freeze it, and request it of the server

Light: a worker imports this with its first handle.
"""

from __future__ import annotations

import threading
import time

from unirun import _channel
from unirun._channel import GRACE, NO_WAIT, PATIENCE
from unirun._connect import TooLate
from unirun._deferral import interruptible, uninterrupted
from unirun._handles import SharedObject
from unirun._segments import AGAIN, index_of, segment_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._cells import Segment
    from unirun._connect import Address
    from unirun._links import Keeper

__all__ = ["UNKNOWN", "Celled"]

NOW = 0.0  # as in `_cells`: the end of what does not wait
UNKNOWN: Any = False
"""Instead of a cell: nobody has looked for one yet."""
RETRY = 0.001  # seconds until the server is asked again


def _until(end: float | None) -> float:
    """When to give up a connection for something that has to be over then."""
    now = time.monotonic()
    if end is None or end == NOW:
        return now + PATIENCE
    return max(end, now) + GRACE  # "no time" is time to ask, too


class Celled(SharedObject):
    """A handle on an object that may be in a cell, or whose parts may."""

    __slots__ = ("_cell",)

    def __init__(self, address: Address, object_id: int, facts: tuple[Any, ...]) -> None:
        super().__init__(address, object_id, facts)
        self._cell: Any = UNKNOWN if index_of(object_id) is not None else None

    def _find_cell(self, end: float | None) -> Any:
        """The cell, None if this process cannot use it; raises ManagerLost, or TooLate at `end`."""
        index, home = index_of(self._object_id), self._home
        if index is None:
            return None
        if home is not None and home.is_home:
            segment = home.segment
        else:
            segment = segment_of(self._address, None if end is None else _until(end))
        cell: Any = None
        if segment is not None:
            try:
                cell = self._open_cell(segment, index)
            except (OSError, ValueError):
                pass  # no room for it in the address space of this process
        if cell is not None and not cell.is_of(self._object_id):
            cell = None  # the server says what has become of it
        self._cell = cell
        return cell

    def _stay_in_fork(self) -> Keeper:
        if self._cell is not None:
            self._cell = UNKNOWN  # what looks after it stayed in the parent
        return super()._stay_in_fork()

    def _open_cell(self, segment: Segment, index: int) -> Any:
        """The cell of that number, as what this object is."""
        raise AssertionError(f"a {self.kind} has no cell")

    def _seat(self, end: float | None) -> int:
        """By which cells know this thread; raises ManagerLost, or TooLate at `end`."""
        home = self._home
        if home is not None and home.is_home:
            number: int = home.seat
            return number
        return _channel.seat(self._address, None if end is None else _until(end))

    def _freeze(self, end: float | None) -> None:
        """Leave it all to the server; raises TooLate at `end`."""
        cell = self._cell
        if cell is UNKNOWN:
            cell = self._find_cell(end)
        if cell is not None and cell.is_of(self._object_id):
            cell.freeze(end)

    @uninterrupted
    def _exchange(
        self, op: str, args: tuple[Any, ...], timeout: float | None, patient: bool = False
    ) -> tuple[str, Any]:
        end = None if timeout is None else NOW
        if timeout is not None and timeout != NO_WAIT:
            if not timeout <= threading.TIMEOUT_MAX:  # NaN too
                raise OverflowError("timeout value is too large")
            end = time.monotonic() + timeout
        cell = self._cell
        try:
            if cell is UNKNOWN:
                cell = self._find_cell(end)
            if cell is None or not cell.is_of(self._object_id):
                return self._exchange_with_server(op, args, timeout, patient)
            answer: tuple[str, Any] | None = cell.request(op, args, end, self)
        except TooLate:
            return "timeout", None
        if answer is not None:
            return answer
        if end is not None and timeout != NO_WAIT:
            timeout = max(0.0, end - time.monotonic())
        return self._exchange_with_server(op, args, timeout, patient)

    def _exchange_with_server(
        self, op: str, args: tuple[Any, ...], timeout: float | None, patient: bool
    ) -> tuple[str, Any]:
        wait = PATIENCE if timeout == NO_WAIT else timeout
        end = None if wait is None else time.monotonic() + wait
        while True:
            try:
                self._freeze(end)
            except TooLate:
                return "timeout", None
            answer = super()._exchange(op, args, timeout, patient)
            if answer[0] != AGAIN:
                return answer
            if end is not None and time.monotonic() >= end + GRACE:
                return "timeout", None  # who is inside the cell does not go on; we do not see it
            interruptible(time.sleep, RETRY)
            if end is not None and timeout != NO_WAIT:
                timeout = max(0.0, end - time.monotonic())
