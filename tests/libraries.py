"""The libraries that run coroutines, for claims that hold under each of them.

Each says in its own words how a task is begun, cancelled amid its wait, and given a time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import pytest

PATIENCE = 20.0

Function = Callable[..., Awaitable[Any]]


class Library(Protocol):
    def run(self, fn: Function, *args: Any) -> Any:
        """The result of `fn(*args)`, in an event loop of its own."""

    async def cancel_amid(self, fn: Function, *args: Any) -> bool:
        """Begin it, cancel it where it waits; whether that was how it ended."""

    async def turn(self) -> None:
        """Let the others run."""

    async def at_once(self, *fns: Function) -> None:
        """Run them at the same time, to their ends."""

    async def within(self, seconds: float, fn: Function, *args: Any) -> bool:
        """Whether it ended in that time; else it was cancelled."""


class Asyncio:
    def run(self, fn: Function, *args: Any) -> Any:
        async def within_patience() -> Any:
            async with asyncio.timeout(PATIENCE):
                return await fn(*args)

        return asyncio.run(within_patience())

    async def cancel_amid(self, fn: Function, *args: Any) -> bool:
        task = asyncio.ensure_future(fn(*args))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    async def turn(self) -> None:
        await asyncio.sleep(0)

    async def at_once(self, *fns: Function) -> None:
        await asyncio.gather(*(fn() for fn in fns))

    async def within(self, seconds: float, fn: Function, *args: Any) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await fn(*args)
        except TimeoutError:
            return False
        return True


class Trio:
    def __init__(self) -> None:
        self.trio = pytest.importorskip("trio", reason="trio is not installed")
        pytest.importorskip("trio.testing")

    def run(self, fn: Function, *args: Any) -> Any:
        async def within_patience() -> Any:
            with self.trio.fail_after(PATIENCE):
                return await fn(*args)

        return self.trio.run(within_patience)

    async def cancel_amid(self, fn: Function, *args: Any) -> bool:
        async with self.trio.open_nursery() as nursery:
            nursery.start_soon(fn, *args)
            await self.trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return bool(nursery.cancel_scope.cancelled_caught)

    async def turn(self) -> None:
        await self.trio.lowlevel.checkpoint()

    async def at_once(self, *fns: Function) -> None:
        async with self.trio.open_nursery() as nursery:
            for fn in fns:
                nursery.start_soon(fn)

    async def within(self, seconds: float, fn: Function, *args: Any) -> bool:
        with self.trio.move_on_after(seconds) as scope:
            await fn(*args)
        return not scope.cancelled_caught


class Anyio:
    def __init__(self, backend: str) -> None:
        self.anyio = pytest.importorskip("anyio", reason="anyio is not installed")
        if backend == "trio":
            pytest.importorskip("trio", reason="trio is not installed")
        self.backend = backend

    def run(self, fn: Function, *args: Any) -> Any:
        async def within_patience() -> Any:
            with self.anyio.fail_after(PATIENCE):
                return await fn(*args)

        return self.anyio.run(within_patience, backend=self.backend)

    async def cancel_amid(self, fn: Function, *args: Any) -> bool:
        async with self.anyio.create_task_group() as group:
            group.start_soon(fn, *args)
            await self.anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        return bool(group.cancel_scope.cancelled_caught)

    async def turn(self) -> None:
        await self.anyio.sleep(0)

    async def at_once(self, *fns: Function) -> None:
        async with self.anyio.create_task_group() as group:
            for fn in fns:
                group.start_soon(fn)

    async def within(self, seconds: float, fn: Function, *args: Any) -> bool:
        with self.anyio.move_on_after(seconds) as scope:
            await fn(*args)
        return not scope.cancelled_caught


LIBRARIES: dict[str, Callable[[], Library]] = {
    "asyncio": Asyncio,
    "trio": Trio,
    "anyio": lambda: Anyio("asyncio"),
    "anyio-trio": lambda: Anyio("trio"),
}


def library_of(request: pytest.FixtureRequest) -> Library:
    return LIBRARIES[request.param]()
