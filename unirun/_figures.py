"""What one call has taken, measured in the thread that runs it from its beginning to its end."""

from __future__ import annotations

import threading
from time import monotonic, thread_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Figures"]


class Figures:
    """Of a call that begins now, in this thread."""

    __slots__ = ("_computed", "begun", "cpu", "ended", "worker")

    def __init__(self) -> None:
        self.worker: str = threading.current_thread().name
        self.begun: float = monotonic()
        self.ended: float | None = None
        self.cpu: float | None = None
        self._computed = thread_time()

    def end(self) -> None:
        """Its body is over."""
        self.cpu = thread_time() - self._computed
        self.ended = monotonic()

    @property
    def took(self) -> float:
        """Seconds; 0.0 while it runs."""
        return 0.0 if self.ended is None else self.ended - self.begun

    def told(self) -> dict[str, Any]:
        """For a future's `_tell_info`."""
        known = {"begun": self.begun, "ended": self.ended, "cpu": self.cpu}
        return {"worker": self.worker, **known}
