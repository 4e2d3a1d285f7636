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


SPARE_SECONDS = 0.05


class Pool(Protocol):
    def read(self, peer: Peer) -> bool: ...
    def do(self, orders: list[Order]) -> None: ...
    def holder(self, future: ProcessFuture) -> Peer | None: ...
    def kill(self, future: ProcessFuture, grace: float | None, reason: BaseException) -> None: ...


class Deadlines:
    """With the role."""

    def __init__(self, pool: Pool, state: PoolState, alarms: Alarms) -> None:
        self._pool = pool
        self._state = state
        self._alarms = alarms
        self._has_spare = False  # or will have

    def keep_spare(self) -> None:
        """Where calls are killed, a worker is kept ready to take the place of the one that dies.

        Not at once: the first to be killed is replaced first.
        """
        if not self._has_spare:
            self._has_spare = True
            self._alarms.after(SPARE_SECONDS, self._add_spare)

    def _add_spare(self) -> None:
        if not self._state.closed:
            self._pool.do(self._state.keep_spare(1))

    def of_waiting(self, future: ProcessFuture) -> None:
        """From now on."""
        if future.options.timeout is not None:
            self.keep_spare()
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
