"""Handles on locks, conditions and semaphores that live in a manager; see `threading`.

The owner of a lock is a thread, wherever it runs, and the task that runs in it.  When the thread
ends, is killed or loses its connection, what it held is released: nobody waits for the dead.  When
the task ends, the locks it acquired are released, with a ResourceWarning.  Permits of a semaphore
are not: to acquire them in one task and release them in another is what some are made for.
"""

from __future__ import annotations

import threading
import time

from unirun import _ownership
from unirun._celled import Celled
from unirun._channel import NO_WAIT
from unirun._deferral import uninterrupted
from unirun._handles import SharedObject, handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unirun._cells import Segment


class Ownable(Celled):
    """What may be refused to whoever waits for it."""

    __slots__ = ()

    def _check(self, status: str, value: Any) -> None:
        if status == "deadlock":
            from unirun._errors import DeadlockError  # heavy, and rarely needed

            raise DeadlockError(value[0])
        if status == "abandoned":
            from unirun._errors import LockAbandoned

            raise LockAbandoned(
                f"{value[0]} was held by somebody who died, and what it protects may be half done; "
                "repair that after acquire(on_abandoned='flag'), then release it"
            )
        super()._check(status, value)


class SharedLock(Ownable):
    """`threading.Lock` among processes.

    `on_abandoned` says what `acquire` does after an owner has died: "flag" acquires it, and
    `abandoned` is true; "raise" raises LockAbandoned, and does not.
    """

    __slots__ = ()

    kind = "Lock"
    reentrant = False

    @classmethod
    def make(cls, manager: Any, *, on_abandoned: str = "flag") -> SharedObject:
        _raises(on_abandoned)
        return handle(cls, manager.address, manager.create(cls.kind), (on_abandoned,))

    def acquire(
        self, blocking: bool = True, timeout: float = -1, *, on_abandoned: str | None = None
    ) -> bool:
        """Acquire it; False if that was not possible, at once or within `timeout` seconds.

        Raises LockAbandoned, if `on_abandoned` says so, here or where it was made; DeadlockError
        if it would wait for ever since others wait, directly or not, for what this thread holds.
        """
        cell = self._cell
        if cell and blocking and timeout == -1 and cell.is_of(self._object_id):
            note = [False]
            try:
                if cell.take(self._seat(None), note):
                    _ownership.acquired(self)
                    return True
            except BaseException:  # a signal handler's, perhaps with the lock in our hands
                if note[0]:
                    self.release()
                raise
        return self._acquire(blocking, timeout, on_abandoned)

    @uninterrupted
    def _acquire(self, blocking: bool, timeout: float, on_abandoned: str | None) -> bool:
        threading.Lock().acquire(blocking, timeout)  # raises for arguments that make no sense
        raises = self._raises if on_abandoned is None else _raises(on_abandoned)
        if blocking and timeout == -1:
            status = self._ask("acquire", (_ownership.who(), raises))[0]
        else:
            args = ("", raises)
            status = self._ask("acquire", args, timeout if blocking else NO_WAIT)[0]
        if status != "ok":
            return False
        _ownership.acquired(self)
        return True

    def release(self) -> None:
        """Release it; RuntimeError if it is not held."""
        cell = self._cell
        if (
            cell
            and not _ownership.any_forfeited
            and cell.is_of(self._object_id)
            and cell.drop(self._seat(None) if self.reentrant else None)
        ):
            _ownership.released(self)
            return
        self._release()

    @uninterrupted
    def _release(self) -> None:
        if _ownership.any_forfeited and _ownership.is_forfeited(self):
            return
        self._ask("release")
        _ownership.released(self)

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

    def _open_cell(self, segment: Segment, index: int) -> Any:
        from unirun._cell_locks import LockCell

        return LockCell(segment, index)

    @property
    def _raises(self) -> bool:
        return bool(self._facts[0] == "raise")

    def _is_owned(self) -> bool:
        return self._state()[1]

    def _state(self) -> tuple[bool, bool, bool]:
        """Whether it is held, whether by us, and whether it is abandoned."""
        state: tuple[bool, bool, bool] = self._ask("state")[1]
        return state


def _raises(on_abandoned: str) -> bool:
    if on_abandoned not in ("flag", "raise"):
        raise ValueError(f"on_abandoned={on_abandoned!r} is unknown; it is 'flag' or 'raise'")
    return on_abandoned == "raise"


class SharedRLock(SharedLock):
    """`threading.RLock` among processes; `on_abandoned` as for a Lock."""

    __slots__ = ()

    kind = "RLock"
    reentrant = True


class SharedCondition(Ownable):
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

    def _freeze(self, end: float | None) -> None:
        self._lock._freeze(end)  # which is what a request acts upon

    def acquire(
        self, blocking: bool = True, timeout: float = -1, *, on_abandoned: str | None = None
    ) -> bool:
        """Acquire the lock."""
        return self._lock.acquire(blocking, timeout, on_abandoned=on_abandoned)

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @uninterrupted
    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, and acquire it again.

        False if nobody notified us within `timeout` seconds; the lock may take longer.  Raises
        DeadlockError or LockAbandoned where acquiring the lock again does; it is not held then,
        and the release that belongs to it, which may be that of a `with`, does nothing.
        """
        timeout = timeout if timeout is None else max(0.0, timeout)
        args = (_ownership.who(), self._lock._raises)
        try:
            status, value = self._exchange("wait", args, timeout, patient=True)
        except ConnectionError:  # ManagerLost: there is no lock any more
            raise
        except BaseException:  # KeyboardInterrupt: our `with` will release the lock
            self._note_loss(*self._lock._exchange("reacquire", args, None))
            raise
        self._note_loss(status, value)
        self._check(status, value)
        return bool(value)

    def _note_loss(self, status: str, value: Any) -> None:
        if status in ("deadlock", "abandoned"):
            _ownership.forfeit(self._lock, value[1])

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until `predicate()` is true; returns what it returned last."""
        end = None if timeout is None else time.monotonic() + timeout
        left, looks = timeout, 0
        while not (result := predicate()):
            if looks and end is not None and (left := end - time.monotonic()) <= 0:
                break
            self.wait(left)  # once at least: others get the lock, also where we have no time
            looks += 1
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

    @uninterrupted
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
