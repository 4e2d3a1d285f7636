"""Where the shared objects of one executor live: its manager, from the first of them on.

A manager that was lost is replaced when the next object is made.  What was in it is gone: handles
on that go on raising ManagerLost.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from unirun._deferral import uninterrupted
from unirun._errors import ManagerLost, UnirunError
from unirun.sync import make_shared

if TYPE_CHECKING:
    from unirun._manager import Manager
    from unirun._manager_process import ManagerProcess

__all__ = ["Place"]

LAST_MOMENTS: Final = 1.0  # seconds that a process takes to end after its connections have


class Place:
    """Makes shared objects; `where` is "thread" (of this process) or "process" (of its own)."""

    def __init__(self, where: str, key: bytes) -> None:
        self._where = where
        self._key = key
        # Guards `_manager`, and is held while one is started: whoever comes meanwhile needs it,
        # too.  Reentrant, since a signal handler may come meanwhile.
        self._lock = threading.RLock()
        self._manager: Manager | ManagerProcess | None = None

    def make(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        """A handle on a new object; raises what its constructor does."""
        manager = self.manager()
        try:
            return make_shared(manager, kind, *args, **kwargs)
        except ManagerLost:
            if not manager.has_ended(LAST_MOMENTS):
                raise
        return make_shared(self._manager_after(manager), kind, *args, **kwargs)

    def manager(self) -> Manager | ManagerProcess:
        """The manager, started if need be."""
        with self._lock:
            if self._manager is None:
                self._manager = self._start()
            return self._manager

    def objects(self) -> int:
        """How many objects live there; 0 where it is lost."""
        manager = self._manager
        try:
            return 0 if manager is None else manager.objects
        except ManagerLost:
            return 0

    def let_go(self) -> None:
        """Leave the manager to those who hold something that lives there."""
        with self._lock:
            self._manager = None

    def _manager_after(self, lost: Manager | ManagerProcess) -> Manager | ManagerProcess:
        with self._lock:
            if self._manager is lost:
                self._manager = None
        lost.close()
        return self.manager()

    @uninterrupted  # as else a manager could run that nobody knows
    def _start(self) -> Manager | ManagerProcess:
        try:
            return self._make()
        except (OSError, RuntimeError) as exc:  # no descriptor, thread or process to be had
            if isinstance(exc, UnirunError):
                raise
            from unirun._remedies import for_error

            text = f"no manager for shared objects can be started: {exc}{for_error(exc)}"
            raise ManagerLost(text) from exc

    def _make(self) -> Manager | ManagerProcess:
        if self._where == "process":
            from unirun._manager_process import ManagerProcess

            return ManagerProcess(key=self._key)
        from unirun._manager import Manager

        return Manager(key=self._key)
