"""What a coroutine computes: the processor time of its thread, summed up step by step.

An event loop resumes a coroutine, which computes and hands back what it waits for.  Between two
steps the thread is busy with others.  So only what passes within the steps is the coroutine's: its
own, and that of all it awaits itself; not that of tasks that it has started beside it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from time import thread_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Measured"]


class Measured(Coroutine["Any", "Any", "Any"]):
    """Stands for a coroutine, for whoever drives it; `seconds` is what its steps have computed."""

    __slots__ = ("_coroutine", "seconds")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.seconds = 0.0

    def send(self, value: Any, /) -> Any:
        began = thread_time()
        try:
            return self._coroutine.send(value)
        finally:
            self.seconds += thread_time() - began

    def throw(self, *error: Any) -> Any:
        began = thread_time()
        try:
            return self._coroutine.throw(*error)
        finally:
            self.seconds += thread_time() - began

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        """Its frame and its name, for those who look at tasks: all that of the coroutine itself."""
        return getattr(self._coroutine, name)
