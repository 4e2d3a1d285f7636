"""The barriers of one host, for `_crowding`; and its locks that a thread waits for and holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from functools import partial

from unirun import _hangs
from unirun._clock import Clock
from unirun._crowding import Crowding
from unirun._dump_objects import who_is
from unirun._hosted_barriers import Barrier
from unirun._hosted_locks import Lock
from unirun.coordinator import Coordinator, Reply, Request

__all__ = ["WatchedBarriers"]


class WatchedBarriers:
    """Those of a coordinator, whose lock the host owns."""

    def __init__(
        self,
        coordinator: Coordinator,
        lock: threading.RLock,
        deliver: Callable[[list[Reply]], None],
    ) -> None:
        self.coordinator = coordinator
        self.lock = lock
        self.deliver = deliver
        self.say: Callable[[str], None] = _hangs.warn
        """How to warn people; where they are in another process, the host has a way."""
        self._clock = Clock("unirun-barriers")  # ours: `close`
        self._crowding = Crowding(self._clock)

    def noted(self, object_id: int) -> None:
        """Somebody may wait for that object, a barrier perhaps; called with the lock held."""
        subject = self.coordinator.subject(object_id)
        if isinstance(subject, Barrier) and subject.standing:
            self._crowding.noted(_Watched(self, object_id, subject.parties))
        elif isinstance(subject, Lock) and _hangs.warn_after is not None:
            for request in subject._waiting:
                if _waits_for_itself(request):
                    when = time.monotonic() + _hangs.warn_after
                    self._clock.call_at(when, partial(self._look_at_lock, request))

    def _look_at_lock(self, request: Request) -> None:
        with self.lock:
            if request.state != "open" or not _waits_for_itself(request):
                return
            text = (
                f"{request.who or who_is(request.session)} waits for {request.subject.name}, which "
                "it holds itself; make it an RLock, or release it first"
            )
        self.say(text)

    def find_out_by(self, ask: Callable[[int, int, list[Hashable]], None]) -> None:
        """Have another process find out, by the object's id and parties and who stands there."""
        self._crowding.ask = lambda barrier, standing: ask(barrier.key, barrier.parties, standing)

    def give_up(self, object_id: int, reason: str, standing: list[Hashable]) -> None:
        """Break that barrier, if still these stand there; called with the lock held."""
        if self.standing(object_id) == standing:
            self.deliver(self.coordinator.spoil(object_id, reason))

    def standing(self, object_id: int) -> list[Hashable]:
        """Who stands in that barrier; called with the lock held."""
        barrier = self.coordinator.subject(object_id)
        return barrier.standing if isinstance(barrier, Barrier) else []

    def close(self) -> None:
        """Look no more; does not wait for the clock's thread, which may want the lock."""
        self._clock.close()


def _waits_for_itself(request: Request) -> bool:
    """Without end, unless another thread releases it, which it may: so that is no DeadlockError."""
    return request.deadline is None and request.subject.owner == request.session


class _Watched:
    def __init__(self, host: WatchedBarriers, object_id: int, parties: int) -> None:
        self._host = host
        self.key = object_id
        self.parties = parties

    def standing(self) -> list[Hashable]:
        with self._host.lock:
            return self._host.standing(self.key)

    def give_up(self, reason: str, standing: list[Hashable]) -> None:
        with self._host.lock:
            self._host.give_up(self.key, reason, standing)
