"""How a coroutine waits for what ends elsewhere: under asyncio, under trio, and so under anyio.

    coroutine ── here() ──> Wait ── ended() ──> the event loop goes on
    any thread ── wake() ──────────────────────> ... until then

Neither library is imported: whoever runs a coroutine has imported its own.  That one is asked first
whose task is running, so either may run as a guest of the other.

Cancelling who awaits a future cancels the call, or kills it, and is not over before that is; what
cannot be killed is told by its token, and not waited for.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, TypeVar

    from unirun._future import Future

    T = TypeVar("T")

    class Wait(Protocol):
        """One wait of one coroutine."""

        def wake(self, _: object = None) -> None:
            """End the wait; from any thread, any number of times, without waiting."""

        async def ended(self, seconds: float | None = None) -> None:
            """Return once it was woken, or after so many seconds."""

        async def outlast(self) -> None:
            """As `ended`, for who has been cancelled: nothing of that is heard meanwhile."""

        async def checkpoint(self) -> None:
            """Let others run, where nothing had to be waited for."""

        async def shielded(self, awaitable: Any) -> None:
            """Await it, for who has been cancelled, or stopped."""

        def begin(self, coroutine: Coroutine[Any, Any, None]) -> Callable[[], None]:
            """Run it beside; returns what cancels it, from any thread. It must not raise."""


__all__ = ["elsewhere", "end_all", "here", "listens", "outcome_of"]


async def outcome_of(future: Future[T]) -> T:
    """Its result; cancelling the task that waits cancels the call, or kills it."""
    wait = here()
    if future.done():
        if type(wait) is _TrioWait:  # which wants that of everything that can be awaited
            await wait.checkpoint()
        return future.result()
    future._check_here()
    if future._backend is not None:
        future._backend.awaited(future)
    future._when_ended(wait.wake)
    try:
        await wait.ended()
    except GeneratorExit:  # dropped, maybe by a garbage collection: nothing can be done here
        raise
    except BaseException:  # cancelled; or a Ctrl-C that trio has raised here
        await end_all([future])
        raise
    return future.result()


def listens(future: Future[Any], fn: Any) -> None:
    """A function of asyncio's adds itself as a callback: `wrap_future`, or `wait`."""
    if fn.__module__ == "asyncio.tasks":  # it would be called in another thread than its loop's
        raise TypeError(
            "asyncio.wait() cannot wait for a future that ends in another thread; give it "
            "asyncio.ensure_future(future), or use asyncio.gather() or as_completed()"
        )
    if future._backend is not None:
        future._backend.awaited(future)


async def end_all(futures: list[Any]) -> None:
    """Cancel these calls, kill what runs, and wait until that is over; for who was cancelled."""
    killed = [future for future in futures if _is_being_killed(future)]
    for future in killed:
        wait = here()
        future._when_ended(wait.wake)
        await wait.outlast()


def _is_being_killed(future: Any) -> bool:
    """Whether its kill has been begun here, since it could not be cancelled any more."""
    return not (future.cancel() or future.done()) and bool(future._stop_for_good())


async def elsewhere(do: Callable[[], T], instead: Callable[[], object] | None = None) -> T:
    """`do()` in a thread of its own, while the event loop goes on.

    If who waits is cancelled, `instead()` is called in another thread, and waited for; what `do` is
    at then is not.
    """
    try:  # from the start: under trio a Ctrl-C is raised anywhere
        first = _Errand(do)
        await first.wait.ended()
    except (Exception, GeneratorExit):
        raise
    except BaseException:  # cancelled; or that Ctrl-C
        if instead is not None:
            second = _Errand(instead)
            await second.wait.outlast()
            second.outcome()
        raise
    value: T = first.outcome()
    return value


class _Errand:
    """A thread that does one thing and ends; nobody has to wait for it."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self.wait = here()
        self._do = do
        self._context = copy_context()  # what waits in a call is part of it
        self._value: Any = None
        self._error: BaseException | None = None
        thread = threading.Thread(target=self._run, name="unirun-errand", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there is no thread to be had: then the loop has to stand still
            self._run()

    def _run(self) -> None:
        try:
            self._value = self._context.run(self._do)
        except BaseException as exc:  # raised where it is waited for  # noqa: BLE001
            self._error = exc
        self.wait.wake()

    def outcome(self) -> Any:
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            del self._error  # the traceback must not keep itself alive


def here() -> Wait:
    """A wait of the task that is running.

    Raises RuntimeError where there is none of a library that is known.
    """
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    if asyncio is not None and loop is not None and _in_task_of(asyncio, loop):
        return _AsyncioWait(loop)
    if trio is not None:
        try:
            return _TrioWait(trio)
        except RuntimeError:  # no task of trio's is running either
            pass
    if loop is not None:
        return _AsyncioWait(loop)
    raise RuntimeError(
        "no event loop is running here that unirun knows; await under asyncio, trio or anyio, or "
        "call result()"
    )


def _in_task_of(asyncio: Any, loop: Any) -> bool:
    """Else it is an asyncio that has trio for a guest, or somebody drives a coroutine by hand."""
    return asyncio.current_task(loop) is not None


class _AsyncioWait:
    __slots__ = ("_loop", "_waiter", "_woken")

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._woken = False  # like _waiter, of the loop's thread alone
        self._waiter: Any = None

    def wake(self, _: object = None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            return  # the loop was closed meanwhile: nobody waits there any more

    def _wake(self) -> None:
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def ended(self, seconds: float | None = None) -> None:
        if self._woken:
            return
        self._waiter = self._loop.create_future()
        alarm = None if seconds is None else self._loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if alarm is not None:
                alarm.cancel()

    async def outlast(self) -> None:
        await self.shielded(self.ended())

    async def shielded(self, awaitable: Any) -> None:
        # A scope of anyio cancels its tasks again and again, unless they are shielded.
        scope = getattr(sys.modules.get("anyio"), "CancelScope", None)
        if scope is None:
            await awaitable
            return
        with scope(shield=True):
            await awaitable

    async def checkpoint(self) -> None:
        await sys.modules["asyncio"].sleep(0)

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> Callable[[], None]:
        loop, task = self._loop, self._loop.create_task(coroutine)

        def cancel() -> None:
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:
                return  # the loop was closed meanwhile, and has ended its tasks

        return cancel


class _TrioWait:
    __slots__ = ("_event", "_token", "_trio")

    def __init__(self, trio: Any) -> None:
        trio.lowlevel.current_task()  # raises RuntimeError where trio runs no task
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def wake(self, _: object = None) -> None:
        try:
            self._token.run_sync_soon(self._event.set)
        except self._trio.RunFinishedError:
            return  # nobody waits there any more

    async def ended(self, seconds: float | None = None) -> None:
        if seconds is None:
            await self._event.wait()
            return
        with self._trio.move_on_after(seconds):
            await self._event.wait()

    async def outlast(self) -> None:
        await self.shielded(self._event.wait())

    async def shielded(self, awaitable: Any) -> None:
        with self._trio.CancelScope(shield=True):
            await awaitable

    async def checkpoint(self) -> None:
        await self._trio.lowlevel.checkpoint()

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> Callable[[], None]:
        scope, token, over = self._trio.CancelScope(), self._token, self._trio.RunFinishedError

        async def run() -> None:
            with scope:
                await coroutine

        def cancel() -> None:
            try:
                token.run_sync_soon(scope.cancel)
            except over:
                return  # as has the task

        self._trio.lowlevel.spawn_system_task(run, context=copy_context())
        return cancel
