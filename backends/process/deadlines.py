"""The times that are set for calls and workers, and what happens when they are over."""

from __future__ import annotations

import time

from . import outcomes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from .alarms import Alarms
    from .crew import Crew
    from .future import ProcessFuture
    from .peer import Peer
    from .state import Order, PoolState
else:
    Protocol = object  # `typing` takes 3 ms to import


class Pool(Protocol):
    def read(self, peer: Peer) -> bool: ...
    def do(self, orders: list[Order]) -> None: ...
    def holder(self, future: ProcessFuture) -> Peer | None: ...
    def keep_spare(self) -> None: ...
    def kill(self, future: ProcessFuture, grace: float | None, reason: BaseException) -> None: ...


class Deadlines:
    """With the role."""

    def __init__(self, pool: Pool, state: PoolState, alarms: Alarms) -> None:
        self._pool = pool
        self._state = state
        self._alarms = alarms

    def of_waiting(self, future: ProcessFuture) -> None:
        """From now on."""
        if future.options.timeout is not None:
            self._pool.keep_spare()
        for end in future.ends_of_waiting():
            self._alarms.at(end, self._expire_waiting, future)

    def of_running(self, future: ProcessFuture) -> None:
        """From now on."""
        if (end := future.end_of_running()) is not None:
            self._alarms.at(end, self._expire_running, future)

    def _expire_waiting(self, future: ProcessFuture) -> None:
        if not future.done() and future.expire_unsent():
            self._pool.do(self._state.cancel(future))

    def _expire_running(self, future: ProcessFuture) -> None:
        peer = self._pool.holder(future)
        if peer is not None and peer.results >= 0:
            self._pool.read(peer)  # an answer that has arrived wins
        if self._pool.holder(future) is not None and future.is_overdue():
            self._pool.kill(future, None, outcomes.timeout_of(future))

    def of_idleness(self, crew: Crew, seconds: float | None) -> None:
        """Of workers: again and again."""
        if seconds is None:
            return
        now = time.monotonic()
        for number in self._state.idle:
            if now - crew.peers[number].idle_since >= seconds:
                self._pool.do(self._state.retire(number))
        self._alarms.after(max(seconds / 2, 0.01), self.of_idleness, crew, seconds)
