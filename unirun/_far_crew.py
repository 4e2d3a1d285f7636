"""The slots of an engine, as those see them who look for barriers that nobody can pass."""

from __future__ import annotations

import time
import weakref

from unirun import _crowding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun._far_backend import FarBackend

__all__ = ["FarCrew"]

FORGET = 5.0
"""Seconds without being asked, after which an earlier look counts no more; see `_crowding`."""


class FarCrew:
    """Stands for a backend in `_crowding.pools`.

    A cluster that may grow is not full yet: it gets as long for that as a call would wait for a
    worker that can run it.
    """

    def __init__(self, backend: FarBackend) -> None:
        self._backend = weakref.ref(backend)
        self.name = backend.name
        # Of the thread that looks: how many slots there were, since when, and when it last looked.
        self._seen = (0, 0.0, 0.0)
        _crowding.pools.add(self)

    @property
    def max_workers(self) -> int:
        backend = self._backend()
        if backend is None or not backend._workers:
            return 1 << 30  # nobody knows yet
        slots, most = backend._leases.slots, backend.spec.max_workers
        return slots if most is None else min(slots, most)

    def crew(self) -> _crowding.Crew:
        backend = self._backend()
        if backend is None:
            return _crowding.Crew((), 0)
        stats, now = backend.stats(), time.monotonic()
        slots, since, looked = self._seen
        if slots != self.max_workers or now - looked > FORGET:
            slots, since = self.max_workers, now
        self._seen = slots, since, now
        may_grow = backend._leases.may_grow and slots < (backend.spec.max_workers or slots + 1)
        waiting = 0 if may_grow and now - since < backend.patience else stats.pending
        return _crowding.Crew([(pid, 0) for pid in stats.pids], waiting)
