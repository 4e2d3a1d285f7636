"""Who wants to hear of the end of one future; made when the first of them comes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _thread
    import threading
    from collections.abc import Callable
    from typing import Any

__all__ = ["Listeners"]


class Listeners:
    """Who wants to hear of the end of one future."""

    __slots__ = ("callbacks", "condition", "hooks", "on_end", "parked", "waiters")

    def __init__(self) -> None:
        self.parked: list[_thread.LockType] = []  # one locked lock for each thread in result()
        self.callbacks: list[Callable[[Any], object]] | None = None
        self.condition: threading.Condition | None = None
        self.waiters: list[Any] | None = None  # of `concurrent.futures`, who hold the condition
        self.on_end: Callable[[Any], None] | None = None
        self.hooks: list[Callable[[Any], None]] | None = None
