"""Callers who wait at once for what they have submitted, and so read the answer themselves.

That saves the change to the loop's thread and back.  Only where epoll is, as only it can be told to
look away from one pipe while another thread looks there.

1. Whoever waits for a call leads: it reads the pipe of the worker that has it, until the call has
   ended, and the loop does not look there.
2. While callers do so one after the other (`eager`), the loop looks away as soon as a caller has
   given a call to a worker, as the same caller will read the answer.  One who does not come is
   noticed within EAGER_SECONDS.
3. Ctrl-C waits until the caller has put everything into order, SLICE_SECONDS at most.
"""

from __future__ import annotations

import time

from .interrupts import Deferral

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from .alarms import Alarms
    from .crew import Crew
    from .future import ProcessFuture
    from .peer import Peer
    from .role import Role
    from .state import PoolState
else:
    Protocol = object  # `typing` takes 3 ms to import

SLICE_SECONDS = 0.05
EAGER_SECONDS = 0.002
"""How long an answer may lie in a pipe because somebody was expected to read it."""
EAGER_TURNS = 10
"""After how many of those without anybody who waited no more are expected."""


class Pool(Protocol):
    role: Role

    def read(self, peer: Peer) -> bool: ...
    def post(self, do: Callable[..., None], *args: Any) -> None: ...


class Callers:
    """With the role, except for `lead`."""

    def __init__(self, pool: Pool, crew: Crew, state: PoolState, alarms: Alarms) -> None:
        self.eager = False  # rule 2
        self._pool = pool
        self._crew = crew
        self._state = state
        self._alarms = alarms
        self._led_at = 0.0  # when somebody waited last

    def lead(self, peer: Peer, future: ProcessFuture, until: float | None) -> bool:
        """Rule 1, from any thread; False if the call has not ended."""
        deferral, role = Deferral(), self._pool.role
        if not deferral.begin():
            return False
        try:
            if not role.take():
                return future.done()
            if peer.led or future._peer is not peer or peer.results < 0:
                role.give_up()
                return future.done()
            peer.led = deferral
            peer.mute()
            role.give_up()
            # Not `while` with that condition: on Python 3.13 such a loop that ends its block turns
            # outside of it, where what a signal handler raises would pass by the `finally`.
            while True:
                if peer.led is not deferral:  # another may lead already
                    return future.done()
                heard = peer.wait(_slice(until))
                over = deferral.arrived or (until is not None and time.monotonic() >= until)
                role.visit(self._read, peer, future, heard, over)
        finally:
            deferral.end()

    def _read(self, peer: Peer, future: ProcessFuture, heard: bool, over: bool) -> None:
        if heard and peer.results >= 0:  # else the loop has closed it, and it is another's by now
            self._pool.read(peer)
        gone = future._peer is not peer or future.done()  # done: killed after it was taken back
        if not over and not gone and peer.results >= 0:
            return
        peer.led = None
        self._led_at = time.monotonic()
        if not self.eager:
            self.eager = True
            self._pool.post(self._watch)
        if self._state.held(peer.number):
            peer.unmute()

    def expect(self, peer: Peer) -> None:
        """A caller gives a call to this worker."""
        if self.eager:
            peer.mute()

    def _watch(self) -> None:
        """Every EAGER_SECONDS: who was expected and did not come, and do callers still wait?"""
        now = time.monotonic()
        self.eager = now - self._led_at < EAGER_TURNS * EAGER_SECONDS
        for peer in self._crew.peers.values():
            late = now - peer.muted_at > EAGER_SECONDS and self._state.held(peer.number)
            if peer.muted and not peer.led and (late or not self.eager):
                peer.unmute()  # all of them at the last look: nobody looks after them from then on
        if self.eager:
            self._alarms.after(EAGER_SECONDS, self._watch)


def _slice(until: float | None) -> float:
    return SLICE_SECONDS if until is None else min(SLICE_SECONDS, until - time.monotonic())
