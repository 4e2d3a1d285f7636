"""What an executor tells of itself: `on` and `stats`."""

from __future__ import annotations

from unirun._records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from threading import RLock
    from typing import Any, TypeVar, overload

    from unirun._errors import ExecutorShutdown
    from unirun._events import Delivery, Subscription
    from unirun._held import HeldCalls
    from unirun._observe import Event
    from unirun.backend import Backend, Stats

    F = TypeVar("F", bound=Callable[[Event], object])
else:

    def overload(function):  # `typing` takes 3 ms to import
        return function


__all__ = ["Watched"]


class Watched:
    """The part of an executor that can be watched; all state but `_delivery` is `Executor`'s."""

    _delivery: Delivery | None = None
    """Of events to callbacks, from the first of these on; closed with the executor."""
    if TYPE_CHECKING:
        _backends: dict[str, Backend]
        _held: HeldCalls
        _name: str
        _lock: RLock
        _closed: bool

        def _refusal(self) -> ExecutorShutdown: ...

    @overload
    def on(
        self, event: str | Iterable[str], callback: Callable[[Event], object]
    ) -> Subscription: ...
    @overload
    def on(self, event: str | Iterable[str]) -> Callable[[F], F]: ...  # noqa: F811
    def on(self, event: str | Iterable[str], callback: Any = None) -> Any:  # noqa: F811
        """Have `callback(event)` called when such a thing happens to a call or a worker.

        Callbacks run in one thread of this executor, one after the other and in the order of what
        happened, on all backends; also for calls that tasks submit to it, wherever they run.
        What they raise is logged to "unirun".  While they are slower than things happen, 10,000
        events wait, and further ones are dropped, counted and logged.  See docs/events.md.

        Args:
            event: "submitted", "held" (in the line of a view), "started", "progress", "retried",
                "finished", "failed", "cancelled", "killed", "timed_out", "crashed", or for workers
                "worker_started", "worker_ended", "worker_killed", "worker_died"; several of them;
                "ended" for every end of a call; "all".
            callback: gets a `unirun.CallEvent`; without it, this is a decorator.

        Returns:
            A handle: `close()` takes the callback off, as does leaving a `with` block of it, or
            the shutdown of the executor.

        Raises:
            ValueError: there is no such event.
            ExecutorShutdown: after `shutdown()`.
        """
        from unirun._events import Delivery, names_of

        kinds = names_of(event)
        if callback is None:
            return lambda function: (self.on(event, function), function)[1]
        if not callable(callback):
            raise TypeError(f"{callback!r} is not callable; on(event, callback) calls it")
        with self._lock:
            if self._closed:
                raise self._refusal()
            if self._delivery is None:
                self._delivery = Delivery(self, self._name)  # type: ignore[arg-type]  # as above
            delivery = self._delivery
        return delivery.add(kinds, callback)

    def _end_delivery(self) -> None:
        """All calls have ended, and all workers: tell of it, and call back no more."""
        if self._delivery is not None:
            self._delivery.close()

    def stats(self) -> dict[str, Stats]:
        """A snapshot of counters for each backend that has started, by name."""
        return {name: self._stats(name, each) for name, each in list(self._backends.items())}

    def _stats(self, name: str, backend: Backend) -> Stats:
        stats, held = backend.stats(), 0
        if name == backend.name or backend.name not in self._backends:  # once, if it has two pools
            held = self._held.waiting_for(backend.name)
        counted = backend.tally.counted()
        return replace(stats, **counted, pending=stats.pending + held)
