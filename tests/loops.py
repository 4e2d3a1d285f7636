"""Event loops for tests of queues: what runs in them does not run for ever."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from parties import PATIENCE

from unirun import _async_channel
from unirun._handles import SharedObject


def run(body: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    async def within_patience() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await body(*args)

    return asyncio.run(within_patience())


async def settled() -> None:
    """Let every coroutine go as far as it can by itself."""
    for _ in range(5):
        await asyncio.sleep(0)


async def waiting(q: Any, number: int = 1) -> list[Any]:
    """Tasks that wait for an item, and certainly do."""
    tasks = [asyncio.create_task(q.aget()) for _ in range(number)]
    await settled()
    if isinstance(q, SharedObject):  # served by the same connection, after those
        await _async_channel._ask(q, "state", (), None)
    return tasks
