"""Locks, conditions and semaphores as they live in their host.

The rules they keep are in `coordinator.py`.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import ClassVar, Final

from unirun.coordinator import Coordinator, Kinds, Request, Session, SharedObject


class Lock(SharedObject):
    """A lock; between events, somebody waits only if it is held."""

    kind = "Lock"
    reentrant = False

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__(coordinator)
        self._owner: Session | None = None
        self._depth = 0  # how often its owner acquired it; 0 if nobody did
        self._abandoned = False
        # Each has the depth it is to get, and what it is to be told, as its `detail`.
        self._waiting: deque[Request] = deque()
        # By session, the depth it had when it began to wait on a condition.
        self.depths: dict[Session, int] = {}

    def acquire(self, request: Request) -> None:
        self.enter(request, 1, True)

    def reacquire(self, request: Request) -> None:
        """Acquire as deeply as before a wait on a condition that was interrupted."""
        self.enter(request, self.depths.get(request.session, 1), True)

    def enter(self, request: Request, depth: int, value: bool) -> None:
        """Give the lock to that request, now or later, and tell it `value` then."""
        request.detail = (depth, value)
        if self._depth == 0:
            self._give(request)
        elif self.reentrant and self._owner == request.session:
            self._depth += depth
            self._coordinator.grant(request, value)
        else:
            self._waiting.append(request)
            self._park(request)

    def release(self, request: Request) -> None:
        if self._depth == 0:
            raise RuntimeError("release unlocked lock")
        if self.reentrant and self._owner != request.session:
            raise RuntimeError("cannot release un-acquired lock")
        self._answer(request, "ok")
        self._depth -= 1
        if self._depth == 0:
            self._abandoned = False
            self._become_free()
            self.resume()

    def state(self, request: Request) -> None:
        owned = self.is_owned_by(request.session)
        self._answer(request, "ok", (self._depth > 0, owned, self._abandoned))

    def is_owned_by(self, session: Session) -> bool:
        """As for the original, anybody owns a plain lock that is held."""
        return self._depth > 0 and (not self.reentrant or self._owner == session)

    def leave_for(self, session: Session) -> None:
        """Release it however often it was acquired, while `session` waits on a condition."""
        self.depths[session] = self._depth
        self._become_free()
        self.resume()

    def timed_out(self, request: Request) -> None:
        self.withdrawn(request)
        self._answer(request, "timeout")

    def withdrawn(self, request: Request) -> None:
        if request.held is not None:
            if self._owner == request.session:  # else somebody has released it for them
                self._depth -= request.detail[0]
            if self._depth == 0:
                self._become_free()
        elif request in self._waiting:
            self._waiting.remove(request)

    def lost(self, request: Request) -> None:
        self.withdrawn(request)
        self.depths.pop(request.session, None)

    def owner_lost(self, session: Session) -> None:
        self._abandoned = True
        self._become_free()

    def resume(self) -> None:
        if self._depth == 0 and self._waiting:
            self._give(self._waiting.popleft())

    def _give(self, request: Request) -> None:
        self._depth, value = request.detail
        self._owner = request.session
        self.depths.pop(request.session, None)
        self._coordinator.hold(request.session, self)
        self._coordinator.grant(request, value)

    def _become_free(self) -> None:
        self._coordinator.let_go(self._owner, self)
        self._owner, self._depth = None, 0

    operations: ClassVar = {
        "acquire": acquire,
        "reacquire": reacquire,
        "release": release,
        "state": state,
    }


class RLock(Lock):
    """A lock that its owner may acquire again, and only its owner may release."""

    kind = "RLock"
    reentrant = True


class Condition(SharedObject):
    """A condition; whoever is notified waits for the lock next."""

    kind = "Condition"

    def __init__(self, coordinator: Coordinator, lock_id: int) -> None:
        super().__init__(coordinator)
        lock = coordinator.subject(lock_id)
        if not isinstance(lock, Lock):
            raise TypeError("the lock of a condition must be a Lock or RLock of the same manager")
        self._lock = lock
        self._waiting: deque[Request] = deque()

    def wait(self, request: Request) -> None:
        """Wait to be notified until the deadline, and then for the lock however long it takes."""
        if not self._lock.is_owned_by(request.session):
            raise RuntimeError("cannot wait on un-acquired lock")
        self._waiting.append(request)
        self._lock.leave_for(request.session)
        self._park(request)

    def notify(self, request: Request, number: int | None = 1) -> None:
        if not self._lock.is_owned_by(request.session):
            raise RuntimeError("cannot notify on un-acquired lock")
        number = len(self._waiting) if number is None else min(number, len(self._waiting))
        for _ in range(number):
            self._wait_for_lock(self._waiting.popleft(), True)
        self._answer(request, "ok")

    def timed_out(self, request: Request) -> None:
        self.withdrawn(request)
        self._wait_for_lock(request, False)

    def withdrawn(self, request: Request) -> None:
        if request in self._waiting:
            self._waiting.remove(request)

    def lost(self, request: Request) -> None:
        self.withdrawn(request)
        self._lock.depths.pop(request.session, None)

    def _wait_for_lock(self, request: Request, notified: bool) -> None:
        self._coordinator.wait_on(request, self._lock)
        self._lock.enter(request, self._lock.depths.get(request.session, 1), notified)

    operations: ClassVar = {"notify": notify, "wait": wait}


class Semaphore(SharedObject):
    """A semaphore; between events, somebody waits only if there is no permit."""

    def __init__(
        self, coordinator: Coordinator, value: int = 1, *, kind: str = "Semaphore"
    ) -> None:
        super().__init__(coordinator)
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        self.kind = kind
        self._initial = self._value = value
        self._permits: dict[Session, int] = {}
        self._waiting: deque[Request] = deque()

    def acquire(self, request: Request) -> None:
        self._waiting.append(request)
        self.resume()
        if request.state == "open":
            self._park(request)

    def release(self, request: Request, number: int = 1) -> None:
        if number < 1:
            raise ValueError("n must be one or more")
        if self.kind == "BoundedSemaphore" and self._value + number > self._initial:
            raise ValueError("Semaphore released too many times")
        self._answer(request, "ok")
        self._take_back(request.session, number)
        self._value += number
        self.resume()

    def state(self, request: Request) -> None:
        self._answer(request, "ok", self._value)

    def timed_out(self, request: Request) -> None:
        self.withdrawn(request)
        self._answer(request, "timeout")

    def withdrawn(self, request: Request) -> None:
        if request.held is not None:
            self._take_back(request.session, 1)
            self._value += 1
        elif request in self._waiting:
            self._waiting.remove(request)

    def lost(self, request: Request) -> None:
        if request.held is None:  # else `owner_lost` sees to it
            self.withdrawn(request)

    def owner_lost(self, session: Session) -> None:
        permits = self._permits.pop(session, 0)
        self._value = max(self._value, min(self._initial, self._value + permits))

    def resume(self) -> None:
        while self._value > 0 and self._waiting:
            request = self._waiting.popleft()
            self._value -= 1
            self._permits[request.session] = self._permits.get(request.session, 0) + 1
            self._coordinator.hold(request.session, self)
            self._coordinator.grant(request, True)

    def _take_back(self, session: Session, number: int) -> None:
        left = self._permits.pop(session, 0) - number
        if left > 0:
            self._permits[session] = left
        else:
            self._coordinator.let_go(session, self)

    operations: ClassVar = {"acquire": acquire, "release": release, "state": state}


LOCKS: Final[Kinds] = {
    "BoundedSemaphore": partial(Semaphore, kind="BoundedSemaphore"),
    "Condition": Condition,
    "Lock": Lock,
    "RLock": RLock,
    "Semaphore": Semaphore,
}
