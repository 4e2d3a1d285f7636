"""What is known of a worker that has died, while there is still somebody to ask.

Its memory is let go of when it is buried, and the kernel's count of kills goes on, so all of it is
taken down at once: by who has the pool's role, before the call that it ran ends.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enums of what it has

from . import remains
from .oom import OomCounter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun._broken import WorkerCrashed

    from .future import ProcessFuture
    from .peer import Peer

__all__ = ["UNKNOWN", "Coroner", "Obituary"]


class Obituary:
    """How a worker ended: `status` as in `subprocess` (None: not known), and what it left."""

    __slots__ = ("oom", "pid", "stack", "status", "stderr")

    def __init__(
        self,
        pid: int | None,
        status: int | None,
        left: remains.Remains,
        *,
        oom: bool,
    ) -> None:
        self.pid = pid
        self.status = status
        self.stderr = left.stderr
        self.stack = left.stack
        self.oom = oom

    def error(self, future: ProcessFuture) -> WorkerCrashed:
        """For the call that it died in."""
        from unirun._broken import WorkerCrashed  # it takes 20 ms to import

        return WorkerCrashed(
            future.name,
            self.pid,
            self.status,
            attempt=future.options.attempt,
            detail="" if self.status is not None else "how it ended is not known",
            stderr=self.stderr,
            stack=self.stack,
            oom=self.oom,
        )

    def last_words(self) -> str:
        """What it left, as far as that fits an error message."""
        from unirun._broken import last_words

        return last_words(self.stack, self.stderr)


UNKNOWN = Obituary(None, None, remains.Remains(), oom=False)


class Coroner:
    """Looks at the dead workers of one pool."""

    def __init__(self) -> None:
        self._kills = OomCounter()

    def expect(self, peer: Peer) -> None:
        """A worker comes to life."""
        peer.kills_before = self._kills.count()

    def examine(self, peer: Peer, status: int | None, index: int) -> Obituary:
        """It died in the call with that index; 0: before the first."""
        left = remains.Remains()
        if peer.control is not None:
            left = remains.read(peer.control.memory, index)
        ours = peer.grace is not None  # we told it to die
        oom = status == -_signal.SIGKILL and not ours and self._kills.count() > peer.kills_before
        return Obituary(peer.pid, status, left, oom=oom)
