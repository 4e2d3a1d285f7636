"""Shutdown: how one executor takes no more calls, waits for those it has, and ends its workers.

    shutdown ──> maps hand in what is left ──> held calls ──> backends ──> activities

What happens at the exit of the interpreter is in `_ending`.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from unirun._ending import close, join
from unirun._errors import ExecutorShutdown
from unirun._prompt import in_slices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._activity import Activity
    from unirun._choice import Chooser
    from unirun._drain import Drain
    from unirun._held import HeldCalls
    from unirun._open_maps import OpenMaps
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
    _name: str
    _finalizer: weakref.finalize[..., Any]
    _why_closed = "cannot schedule new futures after shutdown"
    _drains = False  # it takes no calls since SIGTERM, and the program is about to end
    _has_drain = False  # SIGTERM would drain it
    _ended = False  # it was shut down, and waited for
    if TYPE_CHECKING:
        _end_delivery: Callable[[], None]

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
            except (KeyboardInterrupt, SystemExit):  # Ctrl-C, or a handler of SIGTERM that exits
                self._interrupted(backends, again=at_once)
                raise
            self._ended = True
            self._end_delivery()
            if self._has_drain:
                from unirun._drain import forget

                forget(self)

    def drain_on_sigterm(self, timeout: float, *, wait_for_main: bool = False) -> Drain:
        """Have SIGTERM drain this executor, and end the program: for containers and services.

        From then on `submit` raises ExecutorShutdown; the calls there are end as they would; then
        SystemExit(143) is raised in the main thread, or the handler is called that the program had
        before.  A second SIGTERM ends all calls at once.  See docs/signals.md.

        Args:
            timeout: seconds after which calls that still run are killed (SIGTERM, `grace`,
                SIGKILL; those in threads are left behind), those that wait are cancelled, and a
                line on stderr says so.
            wait_for_main: let the main thread go on by itself until the timeout; else it has half
                a second for the last results, and as long as it iterates over a map.

        Returns:
            A handle: `cancel()` undoes it, as does leaving a `with` block of it, or the shutdown
            of the executor; `begun` tells whether SIGTERM has come.

        Raises:
            ConfigError: not in the main thread, in a worker, or no such time.
        """
        from unirun._drain import drain_on_sigterm  # few programs want it

        return drain_on_sigterm(self, timeout, wait_for_main=wait_for_main)

    def _refusal(self) -> ExecutorShutdown:
        return ExecutorShutdown(self._why_closed)

    def _interrupted(self, backends: list[Backend], *, again: bool) -> None:
        """A signal's handler raised while we waited: end all calls; the second time, at once."""
        if not again:
            try:
                self._held.stop()
                close(backends, cancel_futures=True, kill=True)
                self._kill_activities(wait=True)
                join(backends, None)
                return
            except (KeyboardInterrupt, SystemExit):
                pass  # as the first one, which is on its way to the caller
        close(backends)
        for backend in backends:
            if "killable" in backend.capabilities:
                backend.kill_workers()

    def _wait_for(self, backends: list[Backend], timeout: float | None, kill: bool) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        settled = self._maps is None or self._maps.settle(until)
        self._held.then(lambda: close(backends))
        left = None if until is None else max(0.0, until - time.monotonic())
        if settled and in_slices(self._held_over, left):
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

    def _held_over(self, seconds: float | None) -> bool:
        return self._held.wait(None if seconds is None else time.monotonic() + seconds)

    def _kill_activities(self, wait: bool, until: float | None = None) -> None:
        self._killed = True
        if self._activities:
            from unirun._activity import kill_all  # few programs have one

            kill_all(self._activities.values(), wait, until)

    def _stayed_in_parent(self) -> None:
        """This process is a fork: take nothing, and wait for nobody, since all of it is there."""
        self._lock = threading.RLock()  # another thread may have held it, or what is renewed below
        self._closed = True
        for backend in self._backends.values():
            backend.stays_in_parent = True
        self._backends.clear()
        self._maps = self._gate = None
        self._held = type(self._held)(self._name)
        self._activities.clear()
        self._finalizer.detach()

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
