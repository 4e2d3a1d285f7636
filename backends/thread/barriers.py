"""The barrier for more parties than the pool has threads: what waits in vain is told so."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from typing import Any

from unirun._crowding import Crowding
from unirun._errors import BarrierTooLarge


class PoolBarrier(threading.Barrier):
    """Breaks, with BarrierTooLarge, once it holds up the whole pool while calls wait for it."""

    def __init__(self, crowding: Crowding, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.key = id(self)  # of what is looked after as long as somebody waits here
        self._crowding = crowding
        self._standing: list[Hashable] = []  # appended and removed by whom it is: atomic
        self._reason: str | None = None

    def wait(self, timeout: float | None = None) -> int:
        """As `threading.Barrier`, or BarrierTooLarge, which is a BrokenBarrierError."""
        me = os.getpid(), threading.get_ident()
        self._standing.append(me)
        try:
            self._crowding.noted(self)
            return super().wait(timeout)
        except threading.BrokenBarrierError:
            if self._reason is None:
                raise
            raise BarrierTooLarge(self._reason) from None
        finally:
            self._standing.remove(me)

    def reset(self) -> None:
        super().reset()
        self._reason = None

    def standing(self) -> list[Hashable]:
        return list(self._standing)

    def give_up(self, reason: str, standing: list[Hashable]) -> None:
        if self._standing == standing:
            self._reason = reason
            self.abort()
