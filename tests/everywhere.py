"""An executor of each backend, for tests of what holds on all of them alike."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager

from unirun import Executor

PATIENCE = 20


@contextmanager
def everywhere() -> Iterator[dict[str, Executor]]:
    """By name of the backend, with all the threads and processes that they will have."""
    with (
        Executor(2, backend="thread", name="threads") as thread,
        Executor(1, backend="process") as process,
        Executor(backend="inline", strict=False) as inline,
        Executor(backend="coroutine", name="loop") as coroutine,
    ):
        found = {"thread": thread, "process": process, "inline": inline, "coroutine": coroutine}
        for each in found.values():
            each.options(retries=1, limit=9).submit(nothing).result(PATIENCE)
            wait([each.submit(asyncio.sleep, 0.1) for _ in range(3)])
        assert list(process.map(abs, range(3))) == [0, 1, 2]
        yield found


async def nothing() -> None:
    pass
