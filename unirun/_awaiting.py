"""How a coroutine waits for a future: `await future`. Loaded by the first that does."""

from __future__ import annotations

import asyncio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from unirun._future import Future

    T = TypeVar("T")

__all__ = ["outcome_of"]


async def outcome_of(future: Future[T]) -> T:
    """Its result; cancelling the task that waits cancels the call, or kills it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    future.add_done_callback(lambda _: _wake(loop, ended))
    if future._backend is not None:
        future._backend.awaited(future)
    try:
        await ended.wait()
    except asyncio.CancelledError:
        if not future.cancel() and future._stop_for_good():
            await ended.wait()
        raise
    return future.result()


def _wake(loop: Any, event: Any) -> None:
    try:
        loop.call_soon_threadsafe(event.set)
    except RuntimeError:
        return  # the loop was closed meanwhile: nobody waits there any more
