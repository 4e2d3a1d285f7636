"""The coordinator behind a lock: what the threads of the owner call, without any socket.

The host's thread does the same for other processes, see `_host.py`.
"""

from __future__ import annotations

import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from unirun import _channel, _hangs
from unirun._cell_host import CelledCoordinator
from unirun._channel import limits
from unirun._deferral import interruptible, uninterrupted
from unirun._dump_objects import objects_of, wait_for_object
from unirun._errors import ManagerLost
from unirun._hosted_barriers import BARRIERS
from unirun._hosted_locks import LOCKS
from unirun._hosted_queues import QUEUES
from unirun._hosted_values import VALUES
from unirun._interruptions import Interruptions, interrupted
from unirun._leavings import warn_of
from unirun._links import Own, adopt
from unirun._references import CREATED, References
from unirun._sessions import HomeThread, ThreadEnd, Waiter
from unirun._watched_barriers import WatchedBarriers
from unirun.coordinator import Reply

if TYPE_CHECKING:
    from unirun._cells import Segment
    from unirun._connect import Address

__all__ = ["Desk"]

KINDS: Final = {**BARRIERS, **LOCKS, **QUEUES, **VALUES}


class Desk(ABC):
    """Serves the threads of the process that it is in."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.is_home = True
        # Ids differ between managers, lest a stale handle meets another one's object at a port.
        self._coordinator = CelledCoordinator(
            KINDS,
            secrets.randbits(30) << 20,
            self._check_open,
            cells=isinstance(address, str),  # a unix socket passes descriptors on
        )
        # Guards the coordinator, what sessions wait for and are sent, and `_closed`.
        # It is reentrant only to be asked whether this thread has it, see `_interruptions`.
        self._lock = threading.RLock()
        self._closed = False
        self._stopping = False
        self._threads = threading.local()
        self._home_threads: set[HomeThread] = set()
        self._interruptions = Interruptions(self._wake)
        # Messages for the host's thread; a deque is safe without a lock, which finalizers need.
        self._ended_threads: deque[HomeThread] = deque()
        self._barriers = WatchedBarriers(self._coordinator, self._lock, self._deliver)
        self._references = References()  # the thread's, but for what reaches it by the keeper
        self._keeper = Own(address, self._references.news, self._wake)

    @abstractmethod
    def _wake(self) -> None:
        """Have the host's thread look at its messages; safe in a finalizer."""

    @uninterrupted
    def create(self, kind: str, params: Iterable[Any]) -> int:
        if self._lock._is_owned():  # type: ignore[attr-defined]
            raise interrupted(kind)
        with self._lock:
            self._check_open()
            return self._create(kind, params)

    def _create(self, kind: str, params: Iterable[Any]) -> int:
        object_id = self._coordinator.create(kind, *adopt(tuple(params), self.address))
        self._references.news.append((CREATED, None, object_id))
        return object_id

    def tell(self) -> list[str]:
        """Lines about the objects, for a dump."""
        return objects_of(self._coordinator, self._lock)

    def count(self) -> int:
        """How many objects there are."""
        return self._coordinator.count

    @uninterrupted
    def request(
        self, op: str, object_id: int, args: tuple[Any, ...], timeout: float | None
    ) -> tuple[str, Any]:
        if self._lock._is_owned():  # type: ignore[attr-defined]  # as Condition asks an RLock
            self._check_open()
            return self._interruptions.put_off(op, object_id, args)
        deadline = limits(timeout)[0]
        session = self._own_session()
        request_id, waiter = session.next_id(), Waiter()
        try:
            with self._lock:
                self._check_open()
                session.waiters[request_id] = waiter
                self._deliver(
                    self._coordinator.request(session, request_id, op, object_id, args, deadline)
                )
                if op == "wait" or op == "acquire":
                    self._barriers.noted(object_id)
                if waiter.status is None:
                    waiter.gate = threading.Lock()
                    waiter.gate.acquire()
                else:
                    self._coordinator.acknowledge(session, request_id)
            if waiter.gate is not None:
                self._wait(session, request_id, waiter.gate, deadline, object_id)
        except BaseException:  # KeyboardInterrupt, or what any signal handler raises
            with self._lock:
                session.waiters.pop(request_id, None)
                self._deliver(self._coordinator.cancel(session, request_id))
            raise
        if waiter.status is None or waiter.status == "closed":
            raise self._lost()
        return waiter.status, waiter.value

    def _wait(
        self,
        session: HomeThread,
        request_id: int,
        gate: threading.Lock,
        deadline: float | None,
        object_id: int,
    ) -> None:
        """Wait for the answer, and see to it ourselves that the deadline is kept."""
        if deadline is None:
            wait = partial(interruptible, gate.acquire, True)
            if not wait(_hangs.first_pause()):
                _hangs.wait_on(wait, wait_for_object(self._coordinator, object_id))
            gate.release()  # for the loop below, which has nothing to wait for
        while not interruptible(gate.acquire, True, _gate_timeout(deadline)):
            now = time.monotonic()
            with self._lock:
                self._deliver(self._coordinator.expire(now))
            if deadline is not None and now >= deadline:
                deadline = None  # answered, or a condition that has to wait for its lock now
        with self._lock:
            self._coordinator.acknowledge(session, request_id)

    @uninterrupted
    def end_task(self, task: str, acquired: tuple[tuple[int, int], ...]) -> None:
        session = self._own_session()
        with self._lock:
            if self._closed:
                return  # and with it all that was held
            replies, names = self._coordinator.end_task(session, acquired)
            self._deliver(replies)
        warn_of(task, names)

    @property
    def segment(self) -> Segment | None:
        return self._coordinator.segment

    @property
    def seat(self) -> int:
        end: ThreadEnd | None = self._threads.__dict__.get("end")
        return self._own_session().seat if end is None else end.session.seat

    def _own_session(self) -> HomeThread:
        end: ThreadEnd | None = self._threads.__dict__.get("end")
        if end is None:
            self._threads.end = end = ThreadEnd(HomeThread(), self._thread_ended)
            with self._lock:
                self._home_threads.add(end.session)
                self._coordinator.enroll(end.session)
        return end.session

    def _check_open(self) -> None:
        """Raise ManagerLost if nobody is served any more; cells ask it too, also in a fork."""
        if not self.is_home:
            _channel.check(self.address)
        if self._closed or self._stopping:
            raise self._lost()

    def _lost(self) -> ManagerLost:
        return ManagerLost(
            f"the manager of this shared object, at {self.address!r}, is closed; "
            "use the object while what made it is open"
        )

    def _deliver(self, replies: list[Reply]) -> None:
        for session, request_id, status, value in replies:
            session.deliver(request_id, status, value)

    def _thread_ended(self, session: HomeThread) -> None:
        """Called wherever that thread ends, whatever is locked there."""
        self._ended_threads.append(session)
        self._wake()


def _gate_timeout(deadline: float | None) -> float:
    if deadline is None:
        return -1.0
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
