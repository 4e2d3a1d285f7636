"""Workers that hold several calls: what have they begun, and are they stuck in one?"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    from .alarms import Alarms
    from .crew import Crew
    from .future import ProcessFuture
    from .peer import Peer
    from .state import Order, PoolState
else:
    Protocol = object  # `typing` takes 3 ms to import

WATCH_SECONDS = 0.003
"""How often to look whether a worker with several calls is stuck in one."""


class Pool(Protocol):
    def read(self, peer: Peer) -> bool: ...
    def answered(self, peer: Peer, answers: Sequence[Any]) -> None: ...
    def do(self, orders: list[Order]) -> None: ...
    def post(self, do: Callable[..., None], *args: Any) -> None: ...


class Crowd:
    """With the role."""

    def __init__(self, pool: Pool, crew: Crew, state: PoolState, alarms: Alarms) -> None:
        self._pool = pool
        self._crew = crew
        self._state = state
        self._alarms = alarms
        self._watching = False

    def hold(self, peer: Peer) -> None:
        peer.hold()
        self._pool.post(self._look, peer)

    def _look(self, peer: Peer) -> None:
        """A worker is held: what has it begun?

        That is asked before its answers are read, as it may answer that call at any moment.  And
        its pipe is read again after its journal, as what is in there may be sent at any moment.
        """
        index = peer.is_at
        self._read_all(peer)
        self._pool.answered(peer, peer.take_unsent())
        self._read_all(peer)
        if self._crew.peers.get(peer.number) is peer:
            left = self._unanswered(peer, index) or self._next_of(peer)
            peer.left_with = left._index if left is not None else 0
            self._pool.do(self._state.looked(peer.number, left))

    def _read_all(self, peer: Peer) -> None:
        while peer.results >= 0 and self._pool.read(peer):
            continue

    def _next_of(self, peer: Peer) -> ProcessFuture | None:
        """What it will begin, if it may: a worker is not left with nothing while it is held."""
        held = self._state.held(peer.number)
        return held[0] if held and held[0].reason is None else None

    def begun(self, peer: Peer) -> ProcessFuture | None:
        """The call that it has begun and not answered, of one that is dead, its last words read."""
        return self._unanswered(peer, peer.is_at)

    def _unanswered(self, peer: Peer, index: int) -> ProcessFuture | None:
        """The call with that index if it is the first that was not answered."""
        held = self._state.held(peer.number)
        return held[0] if held and held[0]._peer is peer and held[0]._index == index else None

    def sent_to(self, peer: Peer) -> None:
        if not self._watching and len(self._state.held(peer.number)) > 1:
            self._watching = True
            self._alarms.after(WATCH_SECONDS, self._watch)

    def _watch(self) -> None:
        """Of who is long at one call: what is done is told, what waits goes to others."""
        crowded = self._state.crowded()
        for number in crowded:
            peer = self._crew.peers[number]
            if peer.at == peer.seen_at:
                self._read_all(peer)  # what its calls have told comes before their answers
                self._pool.answered(peer, peer.take_unsent())
                self._pool.do(self._state.stuck(number))
            peer.seen_at = peer.at
        self._watching = bool(crowded)
        if crowded:
            self._alarms.after(WATCH_SECONDS, self._watch)
