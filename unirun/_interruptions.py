"""Requests made in the middle of another request of the same thread, in the process of the host.

The collector may run a finalizer anywhere, and a signal its handler, also while their thread holds
the host's lock: who waited for it there would wait for ever.  What has no answer to wait for is put
off until the lock is free, in the order in which it came; the rest is an error that says so.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from unirun._segments import AGAIN
from unirun._sessions import HomeThread, Waiter
from unirun.coordinator import NOW, Coordinator, Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Operation and number of arguments of what never waits and never fails: put of a SimpleQueue,
# which `queue` promises to be safe in a finalizer, and set and clear of an Event.
UNANSWERED: Final = {("put", 1), ("set", 0), ("clear", 0)}


class Interruptions:
    """What was put off; `serve` is called under the host's lock, the rest by who holds it."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._session = HomeThread()  # of whoever asks: nobody owns anything by these operations
        self.asked: deque[tuple[str, int, tuple[Any, ...]]] = deque()

    def put_off(self, op: str, object_id: int, args: tuple[Any, ...]) -> tuple[str, Any]:
        """Take that request; answers it as if it were served by now."""
        if (op, len(args)) not in UNANSWERED:
            raise interrupted(op)
        self.asked.append((op, object_id, args))
        self._wake()
        return "ok", None

    def serve(self, coordinator: Coordinator) -> list[Reply] | None:
        """Have the oldest served, and everybody answered who waited for it; None if not now."""
        op, object_id, args = self.asked[0]
        request_id = self._session.next_id()
        replies = coordinator.request(self._session, request_id, op, object_id, args, NOW)
        if any(status == AGAIN for _, _, status, _ in replies):
            return None
        self.asked.popleft()
        self._session.waiters[request_id] = Waiter()
        return replies


def interrupted(op: str) -> RuntimeError:
    return RuntimeError(
        f"{op!r} of a shared object in a finalizer or signal handler that interrupted another use "
        "of shared objects in its thread; put into a SimpleQueue there, or set an Event"
    )
