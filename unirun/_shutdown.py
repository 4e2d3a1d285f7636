"""Shutdown: how one executor takes no more calls, waits for those it has, and ends its workers.

    shutdown ──> maps hand in what is left ──> held calls ──> backends ──> activities

What happens at the exit of the interpreter is in `_ending`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from unirun._ending import close, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun._activity import Activity
    from unirun._choice import Chooser
    from unirun._held import HeldCalls
    from unirun._map import OpenMaps
    from unirun._pending import Gate
    from unirun.backend import Backend

__all__ = ["Shutdown"]


class Shutdown:
    """The part of an executor that ends it; all state is made by `Executor`."""

    _lock: threading.RLock  # guards _backends and _closed
    _backends: dict[str, Backend]
    _closed: bool
    _killed: bool
    _chooser: Chooser
    _gate: Gate | None
    _held: HeldCalls
    _maps: OpenMaps | None
    _activities: dict[int, Activity]
    _ahead: Callable[[], None] | None

    def shutdown(
        self,
        wait: bool = True,
        *,
        cancel_futures: bool = False,
        timeout: float | None = None,
        kill: bool = False,
    ) -> None:
        """Take no more calls; may be called again, from any thread.

        Args:
            wait: return when all calls have ended and all workers are gone.
            cancel_futures: cancel the calls that have not begun.
            timeout: seconds to wait at most.
            kill: kill what still runs: at once, or after `timeout` if that is given. This includes
                activities, which are left alone otherwise.

        Raises:
            TimeoutError: `timeout` passed and `kill` was not set; calls go on.
        """
        at_once = kill and timeout is None
        if self._gate is not None and not wait:
            self._gate.open()  # what is left of maps goes in at once
        if not (cancel_futures or at_once) and self._maps is not None:
            self._maps.complete(endless=wait)
        with self._lock:
            self._closed = True
            backends = list(self._backends.values())
        if self._ahead is not None:
            self._ahead()
        if self._gate is not None:
            self._gate.close()
        if cancel_futures or at_once:
            self._held.stop()
            close(backends, cancel_futures=True, kill=at_once)
        if at_once:
            self._kill_activities(wait)
        if not wait:
            self._held.then(lambda: close(backends))
        else:
            try:
                self._wait_for(backends, timeout, kill)
            except KeyboardInterrupt:  # the second Ctrl-C, or the first with nobody else to stop
                close(backends)
                for backend in self._process_backends():
                    backend.kill_workers()
                raise

    def _wait_for(self, backends: list[Backend], timeout: float | None, kill: bool) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        settled = self._maps is None or self._maps.settle(until)
        self._held.then(lambda: close(backends))
        if settled and self._held.wait(until):
            close(backends)  # who waited may be here before `then` has done it
            if join(backends, until):
                if kill and until is not None:
                    self._kill_activities(wait=True, until=until)
                return
        if not kill:
            running = [name for backend in backends for name in backend.running_calls()]
            raise TimeoutError(f"calls still run after {timeout:g} s: {', '.join(running)}")
        self._held.stop()
        close(backends, cancel_futures=True, kill=True)
        self._kill_activities(wait=True)
        join(backends, None)

    def _kill_activities(self, wait: bool, until: float | None = None) -> None:
        self._killed = True
        if self._activities:
            from unirun._activity import kill_all  # few programs have one

            kill_all(self._activities.values(), wait, until)

    def terminate_workers(self) -> None:
        """End all worker processes politely (SIGTERM, grace, SIGKILL); the executor goes on.

        The calls they run end as killed; those that wait run in new workers.
        """
        for backend in self._process_backends():
            backend.terminate_workers()

    def kill_workers(self) -> None:
        """End all worker processes at once; the executor goes on, as after `terminate_workers`."""
        for backend in self._process_backends():
            backend.kill_workers()

    def _process_backends(self) -> list[Backend]:
        backends = list(self._backends.values())
        killable = [each for each in backends if "killable" in each.capabilities]
        return killable or ([] if self._chooser.fixed is None else backends)
