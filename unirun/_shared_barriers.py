"""Handles on events and barriers that live in a manager; `threading` says what they do."""

from __future__ import annotations

import threading

from unirun._handles import SharedObject, dump, handle, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class SharedEvent(SharedObject):
    """`threading.Event` among processes."""

    __slots__ = ()

    kind = "Event"

    @classmethod
    def make(cls, manager: Any) -> SharedObject:
        return handle(cls, manager.address, manager.create(cls.kind), ())

    def is_set(self) -> bool:
        """Whether the flag is set."""
        return bool(self._ask("is_set")[1])

    def set(self) -> None:
        """Set the flag and wake all who wait for it."""
        self._ask("set")

    def clear(self) -> None:
        """Reset the flag."""
        self._ask("clear")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set; False if it was not within `timeout` seconds."""
        if timeout is not None:
            timeout = max(0.0, timeout)
        return self._ask("wait", (), timeout)[0] == "ok"


class SharedBarrier(SharedObject):
    """`threading.Barrier` among processes; it breaks too when a party dies waiting."""

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
        or dies while it waits, and after `abort()` or `reset()`.
        """
        if timeout is None:
            timeout = self._facts[1]
        if timeout is not None:
            timeout = max(0.0, timeout)
        status, value = self._ask("wait", (), timeout)
        if status == "act":
            status, value = self._act(value)
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
