"""In programs of asyncio: `await future` beside what asyncio has, and thousands of coroutines."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks._peers import Absent, open_pool
from benchmarks._tasks import nothing
from benchmarks._workload import Figures, Row, Sizes, Workload

OURS = {"wrap_future": "unirun", "wrap_future-thread": "unirun-thread"}
"""Contenders that wait for our own futures by `asyncio.wrap_future`."""


def awaits(contender: str, sizes: Sizes) -> Figures:
    with open_pool(OURS.get(contender, contender), 2) as pool:
        return asyncio.run(_await_all(_call_of(contender, pool.raw), sizes))


def _call_of(contender: str, executor: Any) -> Callable[[int], Awaitable[Any]]:
    """How that contender has an executor call `nothing(n)`, as something to be awaited."""
    if contender in OURS:
        return lambda n: asyncio.wrap_future(executor.submit(nothing, n))
    if contender.startswith("unirun"):
        return lambda n: executor.submit(nothing, n)
    loop = asyncio.get_running_loop
    return lambda n: loop().run_in_executor(executor, nothing, n)


async def _await_all(call: Callable[[int], Awaitable[Any]], sizes: Sizes) -> Figures:
    for n in range(sizes["warm"]):
        await call(n)
    return {"latency": await _latency(call, sizes), "gathered": await _gathered(call, sizes)}


async def _latency(call: Callable[[int], Awaitable[Any]], sizes: Sizes) -> float:
    times = []
    for n in range(sizes["alone"]):
        start = time.perf_counter()
        await call(n)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


async def _gathered(call: Callable[[int], Awaitable[Any]], sizes: Sizes) -> float:
    start = time.perf_counter()
    found = await asyncio.gather(*(call(n) for n in range(sizes["gathered"])))
    seconds = time.perf_counter() - start
    assert found == list(range(sizes["gathered"]))
    return seconds / sizes["gathered"]


# -- coroutines -----------------------------------------------------------------------------------


def coroutines(contender: str, sizes: Sizes) -> Figures:
    """From the first submit to the last result, for coroutines that all wait at the same time."""
    count = sizes["coroutines"]
    if contender == "asyncio":
        start = time.perf_counter()
        asyncio.run(_gather(count))
        return {"": (time.perf_counter() - start) / count}
    if contender != "unirun":
        raise Absent(f"{contender} runs no coroutines")
    import unirun

    start = time.perf_counter()
    with unirun.Executor(backend="coroutine") as executor:
        futures = [executor.submit(turns) for _ in range(count)]
        assert all(future.result() for future in futures)
    return {"": (time.perf_counter() - start) / count}


async def _gather(count: int) -> None:
    assert all(await asyncio.gather(*(turns() for _ in range(count))))


async def turns() -> bool:
    for _ in range(3):
        await asyncio.sleep(0)
    return True


WORKLOADS = (
    Workload(
        "await",
        "`await` of one call at a time, and of many gathered, per call; no-ops on processes",
        "us",
        awaits,
        tuple(
            Row(key, "unirun", peer, at_least)
            for key in ("latency", "gathered")
            for peer, at_least in (("ppe-fork", 1.3), ("wrap_future", 0.95))
        ),
        sizes={"alone": 2000, "gathered": 10_000, "warm": 300},
        quick={"alone": 20, "gathered": 50, "warm": 5},
    ),
    Workload(
        "await-thread",
        "the same on threads",
        "us",
        awaits,
        tuple(
            Row(key, "unirun-thread", peer, 0.95)
            for key in ("latency", "gathered")
            for peer in ("tpe", "wrap_future-thread")
        ),
        sizes={"alone": 2000, "gathered": 10_000, "warm": 300},
        quick={"alone": 20, "gathered": 50, "warm": 5},
    ),
    Workload(
        "coroutines",
        "10k coroutines at once, which give way three times each, per coroutine",
        "us",
        coroutines,
        (Row("", "unirun", "asyncio"),),
        sizes={"coroutines": 10_000},
        quick={"coroutines": 50},
    ),
)
