"""The names of shared objects, as methods of an executor and as functions of the package.

What each is depends on the backend: the very objects of `threading` and `queue` where calls share
our memory, handles on hosted ones where they do not; see `unirun.sync`.
"""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["NAMES", "SharedNames"]

NAMES = ("Barrier", "Event", "LifoQueue", "PriorityQueue", "Queue", "SimpleQueue")


class SharedNames:
    """Constructors with the signatures of `threading` and `queue`."""

    def _shared(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        raise AttributeError(kind)

    def Queue(self, maxsize: int = 0) -> Any:
        """A FIFO queue, as `queue.Queue`, usable in tasks; with `shutdown` on every Python."""
        return self._shared("Queue", maxsize)

    def LifoQueue(self, maxsize: int = 0) -> Any:
        """A stack, as `queue.LifoQueue`, usable in tasks; its order is global."""
        return self._shared("LifoQueue", maxsize)

    def PriorityQueue(self, maxsize: int = 0) -> Any:
        """As `queue.PriorityQueue`, usable in tasks; its order is global."""
        return self._shared("PriorityQueue", maxsize)

    def SimpleQueue(self) -> Any:
        """As `queue.SimpleQueue`, usable in tasks."""
        return self._shared("SimpleQueue")

    def Event(self) -> Any:
        """As `threading.Event`, usable in tasks."""
        return self._shared("Event")

    def Barrier(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """As `threading.Barrier`, usable in tasks; `action` is run by one of the parties."""
        return self._shared("Barrier", parties, action, timeout)
