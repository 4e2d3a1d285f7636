"""The names of shared objects, as methods of an executor and as functions of the package.

What each is depends on the backend: the very objects of `threading` and `queue` where calls share
our memory, handles on hosted ones where they do not; see `unirun.sync`.  Timers and activities
are the same everywhere; see `_timer` and `_activity`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._activity import Activity as _Activity  # the names below are methods in there
    from unirun._timer import Timer as _Timer

__all__ = ["NAMES", "SharedNames"]

NAMES: tuple[str, ...] = (
    "Activity",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Dict",
    "Event",
    "LifoQueue",
)
NAMES += ("List", "Lock", "PriorityQueue", "Queue", "RLock", "Semaphore", "SimpleQueue", "Timer")
NAMES += ("Value", "local")


class SharedNames:
    """Constructors with the signatures of `threading` and `queue`."""

    def _shared(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        raise AttributeError(kind)

    def _lasting(self, what: str, /, *args: Any, **kwargs: Any) -> Any:
        raise AttributeError(what)

    # -- queues -----------------------------------------------------------------------------------

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

    # -- locks and signals ------------------------------------------------------------------------

    def Lock(self, *, on_abandoned: str = "flag") -> Any:
        """As `threading.Lock`, usable in tasks; released when its holder dies.

        Args:
            on_abandoned: among processes, what an acquire of one whose holder died does: "flag"
                acquires it, and `abandoned` is true; "raise" raises LockAbandoned.
        """
        return self._shared("Lock", on_abandoned=on_abandoned)

    def RLock(self, *, on_abandoned: str = "flag") -> Any:
        """As `threading.RLock`, usable in tasks; for the rest see `Lock`."""
        return self._shared("RLock", on_abandoned=on_abandoned)

    def Condition(self, lock: Any = None) -> Any:
        """As `threading.Condition`, usable in tasks; `lock` is a Lock or RLock made likewise."""
        return self._shared("Condition", lock)

    def Semaphore(self, value: int = 1) -> Any:
        """As `threading.Semaphore`, usable in tasks; who dies gives back what it had."""
        return self._shared("Semaphore", value)

    def BoundedSemaphore(self, value: int = 1) -> Any:
        """As `threading.BoundedSemaphore`, usable in tasks; who dies gives back what it had."""
        return self._shared("BoundedSemaphore", value)

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

    # -- values -----------------------------------------------------------------------------------

    def Value(self, /, *args: Any) -> Any:
        """One value that tasks share: `get`, `set`, and `update(fn)` as one step."""
        return self._shared("Value", *args)

    def Dict(self, /, *args: Any, **kwargs: Any) -> Any:
        """A dict that tasks share, made as a `dict` is; `update(fn)` as one step."""
        return self._shared("Dict", *args, **kwargs)

    def List(self, iterable: Iterable[Any] = ()) -> Any:
        """A list that tasks share; `update(fn)` as one step."""
        return self._shared("List", iterable)

    def local(self) -> Any:
        """As `threading.local`: every thread of every worker has its own values, between tasks.

        They never travel, and go with their thread or process, or some time after nobody refers to
        the object any more.
        """
        return self._shared("local")

    # -- what lasts -------------------------------------------------------------------------------

    def Timer(
        self,
        interval: float,
        function: Callable[..., object],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> _Timer:
        """As `threading.Timer`, but the call goes through this executor and can be killed."""
        made: _Timer = self._lasting("Timer", interval, function, args, kwargs)
        return made

    def Activity(
        self,
        target: Callable[..., object] | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        *,
        kind: str | None = None,
        daemon: bool | None = None,
    ) -> _Activity:
        """A thread or process of its own, by its kind, with the settings of this executor.

        See `unirun.Activity`.
        """
        how = {"kind": kind, "daemon": daemon}
        made: _Activity = self._lasting("Activity", target, args, kwargs, name, **how)
        return made
