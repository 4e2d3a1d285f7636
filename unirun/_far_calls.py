"""Calls of a backend on an engine, of which what is large travels apart, and once to each place.

1. A call of `LARGE` bytes and more is a blob (`_blobs`), which its place maps or is sent; and so
   is what was put (`_put`).
2. A place that has what a call needs is preferred: among the first calls in line with the same
   priority for a place, and among places without a call for a call.  No place waits for that.
3. A call that is killed while it is on its way is killed where it arrives.
"""

from __future__ import annotations

import heapq
from functools import partial

from unirun._blobs import Blob, blobs_in
from unirun._far_blobs import Deliveries
from unirun._opaque import encode
from unirun._opaque_calls import OpaqueBackend, OpaqueFuture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._far_state import Needs
    from unirun._future import Future
    from unirun.backend import WorkerSpec

__all__ = ["FarCalls", "FarFuture"]

LARGE = 1 << 20
"""Bytes; what is smaller is in no need of a path of its own."""
LOOK = 16
"""So many calls in line may be asked whether a place suits them better (rule 2)."""


class FarFuture(OpaqueFuture):
    """A call with blobs that it needs, alive while it is open."""

    passed_over = 0
    """How often another one went first, whose place had what it needs."""
    has_left = False
    """Its place has been told of it."""
    held_orders: tuple[tuple[Any, ...], ...] = ()
    """What its place is to be told as soon as it has; guarded by the backend's lock."""

    @property
    def blobs(self) -> list[Blob]:
        """Those that hang on its handles; none once it has ended."""
        return blobs_in(self.handles) if self.handles else []


class FarCalls(OpaqueBackend):
    """Base of the backends on engines that spread over machines."""

    future_type = FarFuture

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._deliveries = Deliveries(self._tell)

    def _tell(self, host: int | None, *message: Any) -> None:
        raise AssertionError("whoever has places says how to talk to them")

    def _encode(self, fn: Any, args: Any, kwargs: Any) -> tuple[bytes, list[Any]]:
        made: list[Blob] = []
        payload, handles = encode(fn, args, kwargs, store=partial(_kept_in, made))
        return payload, [*handles, *made]

    def _take_for(self, needs: Needs, host: int | None) -> OpaqueFuture | None:
        """Rule 2, with the lock held: the next call for a place there, begun."""
        line = self._lines.get(needs)
        if line and len(line) > 1 and (call := self._nearest(line, host)) is not None:
            line.remove(call)
            heapq.heapify(line)
            heapq.heappush(line, (call[0], -1, call[2]))  # the first of its priority
        return self._next(needs)

    def _nearest(self, line: list[Any], host: int | None) -> Any:
        """One that is not the first, but better served by that place; else None."""
        first = line[0][2]
        if not first.handles or not (blobs := first.blobs) or self._deliveries.near(blobs, host):
            return None
        if first.passed_over >= LOOK:
            return None
        first.passed_over += 1
        some = [each for each in heapq.nsmallest(LOOK, line)[1:] if each[0] == line[0][0]]
        near = self._deliveries.near
        served = [(near(each[2].blobs, host), each) for each in some if each[2].handles]
        most = max((size for size, _ in served), default=0)
        return next((each for size, each in served if size == most), None) if most else None

    def _instruct(self, future: Future[Any], what: str, *args: Any) -> None:
        """Rule 3: tell its place to do that with a call that has begun."""
        assert isinstance(future, FarFuture)
        with self._lock:
            if not future.has_left:
                future.held_orders += ((what, future.number, *args),)
                return
        self._tell(future.place, what, future.number, *args)

    def _has_left(self, future: FarFuture) -> None:
        with self._lock:
            future.has_left = True
            held, future.held_orders = future.held_orders, ()
        for message in held:
            self._tell(future.place, *message)

    def size_of(self, future: Future[Any]) -> int:
        assert isinstance(future, FarFuture)
        apart = sum(each.size for each in future.handles if type(each) is Blob)
        return super().size_of(future) + apart

    def _near(self, needs: Needs, host: int | None) -> int:
        """How much of what the first in line needs is there; with the lock held."""
        line = self._lines.get(needs)
        if not line or not line[0][2].handles:
            return 0
        first = line[0][2]
        assert isinstance(first, FarFuture)
        return self._deliveries.near(first.blobs, host)


def _kept_in(made: list[Blob], frames: list[bytes], buffers: list[memoryview]) -> bytes | None:
    if sum(map(len, frames)) + sum(each.nbytes for each in buffers) < LARGE:
        return None
    made[:] = [Blob(frames, buffers)]
    return made[0].named()
