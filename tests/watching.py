"""Functions for the tests of events and figures, as worker processes can import them."""

import os
import threading
import time

import unirun


def echo(value: object) -> object:
    return value


def fail() -> None:
    raise ValueError("as it should")


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def burn(seconds: float) -> float:
    """Compute for so much of this thread's time; returns what it has taken by the wall clock."""
    began, until = time.perf_counter(), time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    return time.perf_counter() - began


def fill(size: int) -> int:
    return len(bytearray(b"x") * size)


def take(data: bytes) -> bytes:
    time.sleep(0.002)
    return data[: len(data) // 2]


def who() -> int:
    task = unirun.current_task()
    assert task is not None
    return task.id


def nest(depth: int) -> int:
    """A call in a call, so deep; the ids of all, outermost first, as one string of digits."""
    if depth:
        unirun.submit(nest, depth - 1).result()
    return who()


def in_a_thread() -> int:
    """A call on a thread of an executor that the task makes."""
    with unirun.Executor(1, backend="thread") as executor:
        return executor.submit(who).result()


def die() -> None:
    os._exit(3)


async def wait_a_little() -> int:
    import asyncio

    await asyncio.sleep(0.002)
    return 7


async def burn_in_steps(steps: int, seconds: float) -> None:
    """Compute so often for so much of the thread's time, and let others have it in between."""
    import asyncio

    for _ in range(steps):
        burn(seconds)
        await asyncio.sleep(0)


async def burn_and_raise(seconds: float) -> None:
    burn(seconds)
    raise ValueError("as it should")


async def burn_when_cancelled(seconds: float) -> None:
    import asyncio

    try:
        await asyncio.sleep(60)
    finally:
        burn(seconds)


async def seen_from_outside() -> tuple[str, list[str]]:
    """The name of the task's coroutine and of its frames, as who looks at tasks sees them."""
    import asyncio

    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    coroutine = task.get_coro()
    seen: asyncio.Future[list[str]] = loop.create_future()
    loop.call_soon(lambda: seen.set_result([each.f_code.co_name for each in task.get_stack()]))
    return coroutine.__qualname__, await seen


def warm_up(executor: unirun.Executor, workers: int) -> None:
    """Have all its workers and threads, which tests are not to be blamed for."""
    for future in [executor.submit(sleep, 0.1) for _ in range(workers)]:
        future.result()
    executor.options(retries=1).submit(echo, 1).result()
    executor.on("held", print).close()
    for _ in range(3):  # the thread of callbacks, which one that has ended by then does not start
        called, future = threading.Event(), executor.submit(sleep, 0.1)
        future.add_done_callback(lambda _, called=called: called.set())  # type: ignore[misc]
        was_open = not future.done()
        assert called.wait(20)
        if was_open:
            break
