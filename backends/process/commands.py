"""What a pool is told to do with calls it has, and with its workers: by post, so with the role."""

from __future__ import annotations

from unirun import _observe

from . import telling, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .crew import Crew
    from .deadlines import Deadlines
    from .future import ProcessFuture
    from .inner import InnerCalls
    from .peer import Peer
    from .state import Order, PoolState

__all__ = ["Commands"]


class Commands:
    """A part of `Pool`."""

    _state: PoolState
    _crew: Crew
    _deadlines: Deadlines
    inner: InnerCalls

    def __init__(self) -> None:
        # Calls whose caller was cancelled before they were sent; they are told then.
        self.unwanted: set[ProcessFuture] = set()

    def _send(self, peer: Peer, futures: list[ProcessFuture]) -> list[Order]:
        """As `give`, simply."""
        raise TypeError("a part of a pool, and no pool")

    def do(self, orders: list[Order]) -> None:
        """Carry these out."""
        raise TypeError("a part of a pool, and no pool")

    def withdraw(self, future: ProcessFuture) -> None:
        self.do(self._state.cancel(future))

    def cancel_running(self, future: ProcessFuture) -> None:
        if (peer := self.holder(future)) is not None:
            peer.write(wire.pack(wire.CANCEL, future._index))
            self.inner.discourage(peer, future._index)
        elif not future.done() and future not in self.unwanted:
            self.unwanted.add(future)
            future._when_ended(self.unwanted.discard)

    def give(self, peer: Peer, futures: list[ProcessFuture]) -> list[Order]:
        """Send these calls to it; returns what is to be done about those that cannot be sent."""
        if peer.muted and not peer.led:
            peer.unmute()
        orders = self._send(peer, futures)
        if _observe.watchers:
            telling.began(self._state, peer)
        if self.unwanted:
            self._tell_unwanted(futures)
        return orders

    def _tell_unwanted(self, futures: list[ProcessFuture]) -> None:
        """They were sent: those that have been cancelled before are to know it."""
        for future in self.unwanted.intersection(futures):
            self.cancel_running(future)

    def kill(self, future: ProcessFuture, grace: float | None, reason: BaseException) -> None:
        peer = self.holder(future)
        if peer is not None and future.reason is None:
            peer.grace = grace
        if future.reason is None and (peer is not None or future.running()):  # or taken back
            future.reason, future.victim_of = reason, peer
        elif future.victim_of is not None:
            self._crew.hasten(future.victim_of, grace)
        self._deadlines.keep_spare()
        self.do(self._state.kill(future))

    def kill_all(self, grace: float | None, reason: BaseException) -> None:
        self._condemn_all(grace, reason)
        self.do(self._state.kill_all())

    def resize(self, size: int) -> None:
        self.do(self.inner.resize(size))

    def close(self, cancel: bool, kill: bool, reason: BaseException) -> None:
        if kill:
            self._condemn_all(None, reason)
        self.inner.refused = cancel or kill
        self.do(self._state.close(cancel=cancel, kill=kill))

    def _condemn_all(self, grace: float | None, reason: BaseException) -> None:
        for peer in self._crew.peers.values():
            if peer.doomed is not None:
                self._crew.hasten(peer, grace)
            elif peer.grace is None:
                peer.grace = grace
        for future in self._state.calls():
            if future.running() and future.reason is None:
                future.reason = reason

    def holder(self, future: ProcessFuture) -> Peer | None:
        holder = self._state.holder(future)
        return None if holder is None else self._crew.peers.get(holder)
