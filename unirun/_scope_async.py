"""The block of an `async with` scope: how it is stopped, and waits, under asyncio and under trio.

A block that awaits something can be stopped: when the scope is cancelled, or its time is up, its
task is cancelled, and what that raises goes no further than the end of the block.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod

from unirun._awaiting import here
from unirun._scope_members import is_cancellation_of_task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._scope_members import Members

__all__ = ["AsyncBody", "body_here"]


class AsyncBody(ABC):
    """Of the task that is running."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._is_cancelled = False  # while it waited for its calls

    @abstractmethod
    def leave(self, exc: BaseException | None) -> bool:
        """The block is left; whether by our own cancellation."""

    def is_foreign(self, exc: BaseException | None) -> bool:
        """Whether its task was cancelled by somebody else; after `leave`."""
        return is_cancellation_of_task(exc)

    async def wait(self, seen: int) -> BaseException | None:
        """Until the members have changed; returns the cancellation that ends the wait, once."""
        wait = here()
        self._members.tell_change(seen, wake := wait.wake)
        try:
            await (wait.outlast() if self._is_cancelled else wait.ended())
        except BaseException as exc:
            if not is_cancellation_of_task(exc):
                raise
            if self._was_ours():
                return None
            self._is_cancelled = True
            return exc
        finally:
            self._members.forget_waker(wake)
        return None

    def _was_ours(self) -> bool:
        """Whether a cancellation that comes only now is the one we have asked for."""
        return False

    async def settle(self) -> None:
        """Nothing of ours may hit what comes after the block."""
        return

    def pass_on(self) -> None:
        """It was cancelled by somebody else, but what is raised may not tell of that."""
        return


class _AsyncioBody(AsyncBody):
    def __init__(self, members: Members, loop: Any) -> None:
        super().__init__(members)
        self._loop = loop
        self._task = sys.modules["asyncio"].current_task(loop)
        self._left = self._asked = self._due = False
        deadline = members.deadline
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        self._alarm = None if left is None else loop.call_later(left, members.expire)
        members.on_stop = self._stop

    def _stop(self) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            return  # the loop was closed: nobody waits there any more

    def _cancel(self) -> None:
        if not self._left:
            self._asked = True
            self._task.cancel()

    def leave(self, exc: BaseException | None) -> bool:
        self._left = True
        if self._alarm is not None:
            self._alarm.cancel()
        if not self._asked:
            return False
        others = self._task.uncancel()
        self._due = not is_cancellation_of_task(exc)
        return not others and not self._due

    def _was_ours(self) -> bool:
        ours, self._due = self._due and not self._task.cancelling(), False
        return ours

    async def settle(self) -> None:
        """A cancellation that the block has not met comes at the next await."""
        if self._due:
            asyncio = sys.modules["asyncio"]
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if not self._was_ours():
                    raise

    def pass_on(self) -> None:
        if self._task.cancelling():
            self._task.uncancel()
            self._task.cancel()


class _TrioBody(AsyncBody):
    def __init__(self, members: Members, trio: Any) -> None:
        super().__init__(members)
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._scope = trio.CancelScope()
        if members.deadline is not None:
            self._scope.deadline = trio.current_time() + members.deadline - time.monotonic()
        self._scope.__enter__()
        members.on_stop = self._stop

    def _stop(self) -> None:
        try:
            self._token.run_sync_soon(self._scope.cancel)
        except self._trio.RunFinishedError:
            return

    def leave(self, exc: BaseException | None) -> bool:
        ours = self._scope.__exit__(type(exc), exc, None if exc is None else exc.__traceback__)
        if self._scope.cancelled_caught and self._members.is_late():
            self._members.expire()
        return bool(ours)


def body_here(members: Members) -> AsyncBody:
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    if asyncio is not None and loop is not None and asyncio.current_task(loop) is not None:
        return _AsyncioBody(members, loop)
    if trio is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            pass
        else:
            return _TrioBody(members, trio)
    raise RuntimeError(
        "no task is running here that unirun knows; use `async with` under asyncio, trio or anyio"
    )
