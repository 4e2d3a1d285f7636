"""Handles on locks, conditions and semaphores that live in a manager; see `threading`.

The owner of a lock is a thread, wherever it runs.  When it ends, is killed or loses its connection,
what it held is released: nobody waits for the dead.
"""

from __future__ import annotations

import threading
import time

from unirun._channel import NO_WAIT
from unirun._handles import SharedObject, handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class SharedLock(SharedObject):
    """`threading.Lock` among processes."""

    __slots__ = ()

    kind = "Lock"

    @classmethod
    def make(cls, manager: Any) -> SharedObject:
        return handle(cls, manager.address, manager.create(cls.kind))

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire it; False if that was not possible, at once or within `timeout` seconds."""
        threading.Lock().acquire(blocking, timeout)  # raises for arguments that make no sense
        wait = None if timeout == -1 else timeout
        return self._ask("acquire", (), wait if blocking else NO_WAIT)[0] == "ok"

    def release(self) -> None:
        """Release it; RuntimeError if it is not held."""
        self._ask("release")

    def locked(self) -> bool:
        """Whether somebody holds it."""
        return self._state()[0]

    @property
    def abandoned(self) -> bool:
        """Whether its owner died holding it, and nobody has acquired and released it since.

        Whoever acquires it sees by this that what it protects may be half done.
        """
        return self._state()[2]

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return self._state()[1]

    def _state(self) -> tuple[bool, bool, bool]:
        """Whether it is held, whether by us, and whether it is abandoned."""
        state: tuple[bool, bool, bool] = self._ask("state")[1]
        return state


class SharedRLock(SharedLock):
    """`threading.RLock` among processes."""

    __slots__ = ()

    kind = "RLock"


class SharedCondition(SharedObject):
    """`threading.Condition` among processes, with a shared Lock or RLock."""

    __slots__ = ()

    kind = "Condition"

    @classmethod
    def make(cls, manager: Any, lock: SharedLock | None = None) -> SharedObject:
        if lock is None:
            lock = SharedRLock.make(manager)  # type: ignore[assignment]
        if not isinstance(lock, SharedLock) or lock._address != manager.address:
            raise TypeError(
                f"the lock of a shared Condition cannot be {lock!r}; "
                "pass a Lock or RLock made by the same executor, or none"
            )
        return handle(cls, manager.address, manager.create(cls.kind, lock._object_id), (lock,))

    @property
    def _lock(self) -> SharedLock:
        lock: SharedLock = self._facts[0]
        return lock

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock."""
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, and acquire it again.

        False if nobody notified us within `timeout` seconds; the lock may take longer.
        """
        timeout = timeout if timeout is None else max(0.0, timeout)
        try:
            status, value = self._exchange("wait", (), timeout, patient=True)
        except ConnectionError:  # ManagerLost: there is no lock any more
            raise
        except BaseException:  # KeyboardInterrupt: our `with` will release the lock
            self._lock._ask("reacquire")
            raise
        self._check(status, value)
        return bool(value)

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until `predicate()` is true; returns what it returned last."""
        end = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        """Wake `n` of those who wait; RuntimeError without the lock."""
        self._ask("notify", (max(0, n),))

    def notify_all(self) -> None:
        """Wake all who wait."""
        self._ask("notify", (None,))


class SharedSemaphore(SharedObject):
    """`threading.Semaphore` among processes."""

    __slots__ = ()

    kind = "Semaphore"

    @classmethod
    def make(cls, manager: Any, value: int = 1) -> SharedObject:
        return handle(cls, manager.address, manager.create(cls.kind, value))

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take a permit; False if there was none, now or within `timeout` seconds."""
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        wait = timeout if timeout is None else max(0.0, timeout)
        return self._ask("acquire", (), wait if blocking else NO_WAIT)[0] == "ok"

    def release(self, n: int = 1) -> None:
        """Give `n` permits back."""
        self._ask("release", (n,))

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SharedBoundedSemaphore(SharedSemaphore):
    """`threading.BoundedSemaphore` among processes: ValueError for a release too many."""

    __slots__ = ()

    kind = "BoundedSemaphore"
