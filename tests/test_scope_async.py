"""`async with` a scope: it waits without blocking the loop, and is stopped as a TaskGroup is."""
# ruff: noqa: PT012, SIM117  # what a block raises as it is left is the point here

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import unirun
from unirun import Executor, ScopeTimeout

PATIENCE = 20


@pytest.fixture(params=["process", "thread", "coroutine"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor(2 if request.param != "coroutine" else None, backend=request.param) as made:
        yield made


@pytest.fixture
def process() -> Iterator[Executor]:
    with Executor(2, backend="process") as made:
        yield made


async def double(x: int) -> int:
    return 2 * x


async def fail(text: str) -> None:
    raise ValueError(text)


async def wait_long() -> None:
    task = unirun.current_task()
    assert task is not None
    for _ in range(PATIENCE * 100):
        task.check()
        await asyncio.sleep(0.01)


def run(main: Any) -> Any:
    return asyncio.run(asyncio.wait_for(main, PATIENCE))


def test_leaving_waits_and_the_loop_goes_on(executor: Executor) -> None:
    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        ticking = asyncio.create_task(tick())
        async with executor.scope() as scope:
            for x in range(5):
                scope.submit(double, x)
            unirun.submit(asyncio.sleep, 0.2)
        assert scope.results[:5] == [0, 2, 4, 6, 8]
        assert ticks > 2
        ticking.cancel()

    run(main())


def test_a_failure_stops_the_block_and_the_siblings(executor: Executor) -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with executor.scope() as scope:
                sibling = scope.submit(wait_long)
                scope.submit(fail, "no")
                await asyncio.sleep(PATIENCE)
                raise AssertionError("nobody has stopped it")
        assert [str(each) for each in caught.value.exceptions] == ["no"]
        assert sibling.done()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)  # nothing of it is left

    run(main())


def test_the_time_out_stops_the_block(process: Executor) -> None:
    async def main() -> None:
        await process.submit(double, 1)  # it is up
        with pytest.raises(ScopeTimeout):
            async with process.scope(timeout=1) as scope:
                scope.submit(wait_long)
                await asyncio.sleep(PATIENCE)
        assert len(scope.cancelled) == 1

    run(main())


@pytest.mark.parametrize("while_waiting", [False, True])
def test_cancelling_the_task_around_kills(process: Executor, while_waiting: bool) -> None:
    async def main() -> None:
        entered = asyncio.Event()
        calls = []

        async def around() -> None:
            async with process.scope() as scope:
                calls.append(scope.submit(wait_long))
                entered.set()
                if not while_waiting:
                    await asyncio.sleep(PATIENCE)

        task = asyncio.create_task(around())
        await entered.wait()
        await asyncio.sleep(0.05 if while_waiting else 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert calls[0].cancelled()

    run(main())


def test_a_time_out_of_asyncio_works_around_it(process: Executor) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                async with process.scope() as scope:
                    call = scope.submit(wait_long)
        assert call.cancelled()

    run(main())


def test_a_failure_that_comes_as_the_block_ends_hits_nothing_else(process: Executor) -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup):
            async with process.scope() as scope:
                future = scope.submit(fail, "no")
                future._wait_ended(PATIENCE)  # not awaiting anything: it cannot be stopped
        await asyncio.sleep(0.01)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main())


def test_awaiting_a_call_that_fails_is_the_same_failure(process: Executor) -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with process.scope() as scope:
                await scope.submit(fail, "no")
        assert len(caught.value.exceptions) == 1

    run(main())


def test_a_scope_of_plain_with_refuses_to_block_the_loop_its_calls_need() -> None:
    """As `result()` does there."""

    async def inside(executor: Executor) -> None:
        with pytest.raises(unirun.DeadlockError):
            with executor.scope() as scope:
                scope.submit(double, 1)

    with Executor(backend="coroutine") as executor:
        executor.submit(inside, executor).result(PATIENCE)


def test_there_must_be_a_task_to_stop(process: Executor) -> None:
    with pytest.raises(RuntimeError, match="no task is running here"):
        process.scope().__aenter__().send(None)


def test_under_trio(process: Executor) -> None:
    trio = pytest.importorskip("trio")

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            async with process.scope() as scope:
                scope.submit(double, 4)
            assert scope.results == [8]
            with pytest.raises(ExceptionGroup):
                async with process.scope() as scope:
                    waiting = scope.submit(wait_long)
                    scope.submit(fail, "no")
                    await trio.sleep(PATIENCE)
            assert waiting.done()
            with trio.move_on_after(0.2) as around:
                async with process.scope() as scope:
                    waiting = scope.submit(wait_long)
            assert around.cancelled_caught
            assert waiting.cancelled()
            with pytest.raises(ScopeTimeout):
                async with process.scope(timeout=0.2) as scope:
                    scope.submit(wait_long)
                    await trio.sleep(PATIENCE)

    trio.run(main)


def test_under_anyio(process: Executor) -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> None:
        with anyio.fail_after(PATIENCE):
            with anyio.move_on_after(0.2) as around:
                async with process.scope() as scope:
                    waiting = scope.submit(wait_long)
            assert around.cancelled_caught
            assert waiting.cancelled()
            with pytest.raises(ExceptionGroup):
                async with process.scope() as scope:
                    scope.submit(fail, "no")
                    await anyio.sleep(PATIENCE)

    anyio.run(main, backend="asyncio")
