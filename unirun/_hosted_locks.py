"""Locks, conditions and semaphores as they live in their host.

The rules they keep are in `coordinator.py`.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple

from unirun.coordinator import Coordinator, Kinds, Request, Session, SharedObject

UNACQUIRED: Final = "cannot release un-acquired lock"
UNLOCKED: Final = "release unlocked lock"


class Entry(NamedTuple):
    """What becomes of a lock, and of who asked for it, once that request is served."""

    depth: int
    value: bool  # what the request is answered
    raises: bool = False  # rather than taking a lock that is abandoned
    returns: bool = False  # to a lock it held before it waited on a condition
    condition: Condition | None = None  # where it was notified, and another might have been


class Lock(SharedObject):
    """A lock; between events, somebody waits only if it is held."""

    kind = "Lock"
    reentrant = False

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__(coordinator)
        self.owner: Session | None = None
        self._depth = 0  # how often its owner acquired it; 0 if nobody did
        self._abandoned = False
        self._waiting: deque[Request] = deque()  # each has an Entry as its `detail`
        self._to_notify: list[Condition] = []  # once more, each time: rule 15
        # By session, the depth it had when it began to wait on a condition.
        self.depths: dict[Session, int] = {}

    def acquire(self, request: Request, who: str = "", raises: bool = False) -> None:
        request.who = who
        self.enter(request, Entry(1, True, raises))

    def reacquire(self, request: Request, who: str = "", raises: bool = False) -> None:
        """Acquire as deeply as before a wait on a condition that was interrupted."""
        if self._depth and self.owner == request.session:
            self._answer(request, "ok", True)  # that was so early that it never left the lock
            return
        request.who = who
        depth = self.depths.get(request.session, 1)
        self.enter(request, Entry(depth, True, raises, returns=True))

    def enter(self, request: Request, entry: Entry) -> None:
        """Serve that request, now or later."""
        request.detail = entry
        if self._depth == 0:
            self._serve(request)
        elif self.reentrant and self.owner == request.session:
            self._depth += entry.depth
            self._coordinator.grant(request, entry.value)
        else:
            self._waiting.append(request)
            self._park(request)
            if request.state == "open" and request.deadline is None:
                self._coordinator.refuse_circles(request)

    def release(self, request: Request) -> None:
        if self.reentrant and self.owner != request.session:
            raise RuntimeError(UNACQUIRED)
        if self._depth == 0:
            raise RuntimeError(UNLOCKED)
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
        return self._depth > 0 and (not self.reentrant or self.owner == session)

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
            if self.owner == request.session:  # else somebody has released it for them
                self._depth -= request.detail.depth
            if request.detail.returns:
                self.depths[request.session] = request.detail.depth  # it will try again
            if self._depth == 0:
                self._become_free()
        elif request in self._waiting:
            self._waiting.remove(request)
        else:
            return
        if request.detail.condition is not None and request.detail.value:
            self._to_notify.append(request.detail.condition)

    def lost(self, request: Request) -> None:
        self.withdrawn(request)
        self.depths.pop(request.session, None)

    def owner_lost(self, session: Session) -> None:
        self._abandoned = True
        self._become_free()

    def left_behind(self, session: Session, times: int) -> bool:
        if self._depth == 0 or self.owner != session:
            return False  # it was released by somebody else
        self._depth -= min(times, self._depth)
        if self._depth == 0:
            self._become_free()
            self.resume()
        return True

    def has_to_return(self, request: Request) -> bool:
        return bool(request.detail.returns)

    def refused(self, request: Request, why: str) -> None:
        self.withdrawn(request)
        self._answer(request, "deadlock", (why, self._depth_given_up(request)))

    def resume(self) -> None:
        while self._depth == 0 and self._waiting:
            self._serve(self._waiting.popleft())
        while self._to_notify:
            self._to_notify.pop().notify_next()

    def _serve(self, request: Request) -> None:
        """Give the lock, which is free, to that request, if it wants it as it is."""
        if self._abandoned and request.detail.raises:
            self._answer(request, "abandoned", (self.name, self._depth_given_up(request)))
            return
        self._depth = request.detail.depth
        self.owner = request.session
        self.depths.pop(request.session, None)
        self._coordinator.hold(request.session, self)
        self._coordinator.grant(request, request.detail.value)

    def _depth_given_up(self, request: Request) -> int:
        """How often its sender will release what it has not got back; 0 for a mere acquire."""
        self.depths.pop(request.session, None)
        return request.detail.depth if request.detail.returns else 0

    def take_over(self, *state: Any) -> None:
        self.owner, self._depth, self._abandoned = state
        if self._depth:
            self._coordinator.hold(self.owner, self)

    def hand_over(self) -> tuple[Session | None, int, bool] | None:
        if self.kept or self._waiting or self.depths or self._to_notify:
            return None
        self._coordinator.let_go(self.owner, self)
        return self.owner, self._depth, self._abandoned

    def _become_free(self) -> None:
        self._coordinator.let_go(self.owner, self)
        self.owner, self._depth = None, 0

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
        self.made_of = (lock,)
        self._waiting: deque[Request] = deque()

    def wait(self, request: Request, who: str = "", raises: bool = False) -> None:
        """Wait to be notified until the deadline, and then for the lock however long it takes."""
        if not self._lock.is_owned_by(request.session):
            raise RuntimeError("cannot wait on un-acquired lock")
        request.who, request.detail = who, raises
        self._waiting.append(request)
        self._lock.leave_for(request.session)
        self._park(request)

    def notify(self, request: Request, number: int | None = 1) -> None:
        if not self._lock.is_owned_by(request.session):
            raise RuntimeError("cannot notify on un-acquired lock")
        number = len(self._waiting) if number is None else min(number, len(self._waiting))
        for _ in range(number):
            self.notify_next()
        self._answer(request, "ok")

    def notify_next(self) -> None:
        if self._waiting:
            self._wait_for_lock(self._waiting.popleft(), True)

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
        depth = self._lock.depths.get(request.session, 1)
        entry = Entry(depth, notified, bool(request.detail), returns=True, condition=self)
        self._coordinator.wait_on(request, self._lock)
        self._lock.enter(request, entry)

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
        self._settle_accounts()
        self.resume()

    def state(self, request: Request) -> None:
        self._answer(request, "ok", self._value)

    def timed_out(self, request: Request) -> None:
        self.withdrawn(request)
        self._answer(request, "timeout")

    def withdrawn(self, request: Request) -> None:
        if request.held is not None:
            self._take_back(request.session, 1)
            if self.kind == "Semaphore" or self._value < self._initial:  # else it was released
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

    def _settle_accounts(self) -> None:
        """Nobody has more permits than are out: what was released for others was of the first."""
        surplus = sum(self._permits.values()) - max(0, self._initial - self._value)
        for session, permits in list(self._permits.items()):
            if surplus <= 0:
                return
            self._take_back(session, min(permits, surplus))
            surplus -= permits

    operations: ClassVar = {"acquire": acquire, "release": release, "state": state}


LOCKS: Final[Kinds] = {
    "BoundedSemaphore": partial(Semaphore, kind="BoundedSemaphore"),
    "Condition": Condition,
    "Lock": Lock,
    "RLock": RLock,
    "Semaphore": Semaphore,
}
