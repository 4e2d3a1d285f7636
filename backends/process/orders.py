"""What the pool's state machine may order the outside world to do.

They are made for every call, so they are not frozen: that would take twice as long.  Nor are they
dataclasses, which would take 10 ms of every program's start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal, TypeAlias

    Worker: TypeAlias = int
    End: TypeAlias = Literal["answered", "cancelled", "killed", "crashed", "refused"]
else:
    Worker, End = int, str


class _Order:
    """Compared by what they say."""

    __slots__: tuple[str, ...] = ()
    __match_args__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__match_args__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
        return f"{type(self).__name__}({said})"


class _ToWorker(_Order):
    __slots__ = ("worker",)
    __match_args__ = ("worker",)

    def __init__(self, worker: Worker) -> None:
        self.worker = worker


class Start(_ToWorker):
    """Launch a worker."""

    __slots__ = ()


class Stop(_ToWorker):
    """Ask an idle worker to end."""

    __slots__ = ()


class Kill(_ToWorker):
    """End a worker by force."""

    __slots__ = ()


class Hold(_ToWorker):
    """Keep a worker from beginning another call, look what it is at, and report with `looked`."""

    __slots__ = ()


class Resume(_ToWorker):
    """Let a worker that was held go on, without the calls that were sent and have not begun."""

    __slots__ = ()


class Send(_Order):
    """Hand calls to a worker, behind those it has."""

    __slots__ = ("calls", "worker")
    __match_args__ = ("worker", "calls")

    def __init__(self, worker: Worker, calls: list[Any]) -> None:
        self.worker = worker
        self.calls = calls


class Finish(_Order):
    """The calls are over."""

    __slots__ = ("calls", "how", "worker")
    __match_args__ = ("calls", "how", "worker")

    def __init__(self, calls: Sequence[Any], how: End, worker: Worker | None = None) -> None:
        self.calls = calls
        self.how = how
        self.worker = worker


if TYPE_CHECKING:
    Order: TypeAlias = Start | Send | Stop | Kill | Hold | Resume | Finish
else:
    Order = _Order
