"""What a pool counts of all its workers, those that are gone included, for `stats`.

With the pool's role, but for `told`, which any thread may ask for: it sees each count as it is at
some moment near to now.
"""

from __future__ import annotations

import time

from .control import BEGUN_AT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .arena import Arena
    from .peer import Peer

__all__ = ["Totals"]


class Totals:
    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.replaced = 0
        self.busy = 0  # microseconds of calls that were answered
        # Of workers that are gone: bytes, and seconds that they lived and ran calls unanswered.
        self._sent = self._received = 0
        self._lived = self._lost = 0.0
        self._told = 0.0  # seconds: what is told never becomes less

    def gone(self, peer: Peer, *, replaced: bool) -> None:
        self.replaced += replaced
        self._sent += peer.written
        self._received += _received(peer)
        self._lived += time.monotonic() - peer.born
        self._lost += _running(peer)

    def told(self, peers: Iterable[Peer]) -> dict[str, Any]:
        now, peers = time.monotonic(), list(peers)
        lived = self._lived + sum(now - peer.born for peer in peers)
        busy = self.busy / 1e6 + self._lost + sum(map(_running, peers))
        self._told = busy = max(self._told, busy)
        return {
            "restarts": self.replaced,
            "bytes_in": self._sent + self._arena.stored + sum(peer.written for peer in peers),
            "bytes_out": self._received + sum(map(_received, peers)),
            "busy": busy,
            "utilisation": min(1.0, busy / lived) if lived else None,
        }


def _received(peer: Peer) -> int:
    side = peer.side
    return peer.received + (0 if side is None else side.loaded)


def _running(peer: Peer) -> float:
    """Seconds of the call that it is in."""
    if peer.control is None or peer.at <= peer.answered:
        return 0.0
    return max(0.0, (time.perf_counter_ns() - int(peer.control.words[BEGUN_AT])) / 1e9)
