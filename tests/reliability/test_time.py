"""Scenarios 33 to 40: what takes too long, or is not wanted any more, ends; nothing else does.

Others that prove them are in tests/process/test_kill.py and tests/process/test_map_deaths.py.
"""

import asyncio
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import process.conftest as fixtures
import pytest
import reliability_bodies_evidence as bodies
from process.line import PATIENCE, Line
from process.watch import until, until_gone

import unirun
from unirun import TaskKilled, TaskTimeout

pool, line = fixtures.pool, fixtures.line
Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]
RecordProperty = Callable[[str, object], None]
MB = 1_000_000


@pytest.mark.scenario(33, "a call that sleeps ends at its time-out, and the next one works")
def test_a_time_out_comes_at_its_time(pool: Pool, record_property: RecordProperty) -> None:
    executor = pool(1)
    executor.submit(bodies.sleep_quietly, 0).result(PATIENCE)
    late = []
    for _ in range(20):
        future = executor.options(timeout=0.05).submit(bodies.sleep_quietly, 1000)
        until(future.running, "it runs")
        began = time.monotonic()
        with pytest.raises(TaskTimeout):
            future.result(PATIENCE)
        late.append(max(0.0, time.monotonic() - began - 0.05))
        assert executor.submit(bodies.sleep_quietly, 0).result(PATIENCE) == 0
    figure = f"time-out late by: {statistics.median(late) * 1000:.1f} ms median of {len(late)}"
    record_property("figure", figure)


@pytest.mark.scenario(36, "a running call is cancelled by kill(): at once, and others go on")
def test_who_waits_for_a_call_that_is_killed_learns_it(pool: Pool, line: Lines) -> None:
    executor, started, other = pool(2), line(), line()
    neighbour = executor.submit(bodies.sleep, other)
    future = executor.submit(bodies.sleep, started)
    waited: list[BaseException] = []

    def wait() -> None:
        try:
            future.result(PATIENCE)
        except CancelledError as exc:
            waited.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    pid, spared = int(started.wait()), int(other.wait())
    assert future.kill(grace=0)
    thread.join(PATIENCE)
    until_gone(pid)
    assert isinstance(waited[0], TaskKilled)
    assert neighbour.running()
    assert spared in executor.stats()["process"].pids
    assert executor.submit(bodies.sleep_quietly, 0).result(PATIENCE) == 0


async def _outcome(future: "unirun.Future[Any]") -> Any:
    return await future


async def _wait_for(executor: unirun.Executor, started: Line) -> int:
    waiting = asyncio.ensure_future(_outcome(executor.submit(bodies.sleep, started)))
    pid = int(await asyncio.to_thread(started.wait))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting, 0.05)
    return pid


async def _cancel(executor: unirun.Executor, started: Line) -> int:
    waiting = asyncio.ensure_future(_outcome(executor.submit(bodies.sleep, started)))
    pid = int(await asyncio.to_thread(started.wait))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    return pid


async def _time_out(executor: unirun.Executor, started: Line) -> int:
    loop = asyncio.get_running_loop()
    limited = executor.options(timeout=0.3)
    waiting = asyncio.wrap_future(limited.submit(bodies.sleep, started), loop=loop)
    pid = int(await asyncio.to_thread(started.wait))
    with pytest.raises(TimeoutError):
        await waiting
    return pid


@pytest.mark.scenario(37, "wait_for, cancel() and a time-out through asyncio end the body")
@pytest.mark.parametrize("ask", [_wait_for, _cancel, _time_out])
def test_asyncio_ends_what_it_does_not_want_any_more(
    pool: Pool, line: Lines, ask: Callable[..., object]
) -> None:
    executor, other = pool(2), line()
    neighbour = executor.submit(bodies.sleep, other)
    other.wait()
    pid = asyncio.run(ask(executor, line()))  # type: ignore[arg-type]
    until_gone(pid)
    assert neighbour.running()
    assert executor.submit(bodies.sleep_quietly, 0).result(PATIENCE) == 0


async def _in_executor(executor: unirun.Executor, started: Line) -> int:
    loop = asyncio.get_running_loop()
    waiting = loop.run_in_executor(executor, bodies.sleep, started)
    pid = int(await asyncio.to_thread(started.wait))
    queued = loop.run_in_executor(executor, bodies.sleep_quietly, 1)
    for future in (waiting, queued):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.05)
    return pid


@pytest.mark.scenario(
    37, "run_in_executor: what waits is cancelled; what runs goes on, as in asyncio"
)
def test_run_in_executor_keeps_the_meaning_it_has_in_asyncio(pool: Pool, line: Lines) -> None:
    executor = pool(1)
    pid = asyncio.run(_in_executor(executor, line()))
    until(lambda: executor.stats()["process"].pending == 0, "what waited is withdrawn")
    assert executor.stats()["process"].pids == (pid,)  # asyncio's own future knows no kill
    executor.kill_workers()
    until_gone(pid)
    assert executor.submit(bodies.sleep_quietly, 0).result(PATIENCE) == 0


@pytest.mark.scenario(38, "cancelled while 100 MB arguments are on their way: stops soon")
@pytest.mark.parametrize("limit", [None, 0])
def test_large_arguments_hold_up_no_end(
    pool: Pool, limit: int | None, record_property: RecordProperty
) -> None:
    executor = pool(2, **({} if limit is None else {"arena_limit": limit}))
    data = bytes(100 * MB)
    futures = [executor.submit(bodies.size, data) for _ in range(4)]
    began = time.monotonic()
    for future in futures:
        future.cancel()
    executor.shutdown(kill=True)
    record_property("figure", f"to the end of all: {(time.monotonic() - began) * 1000:.0f} ms")
    assert all(future.done() for future in futures)
    for future in futures:
        if not future.cancelled():
            assert future.result(0) == len(data)


@pytest.mark.scenario(39, "a time-out or an error of one element: the later ones are given")
@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_goes_on_past_an_element_that_took_too_long(pool: Pool, ordered: bool) -> None:
    limited = pool(2).options(timeout=0.3)
    found = limited.map(bodies.odd_ones_sleep, range(6), ordered=ordered, errors="return")
    kinds = Counter(type(each) for each in found)
    assert kinds == {int: 3, TaskTimeout: 3}


@pytest.mark.scenario(39, "an error within a chunk: the other elements of the chunk are given")
@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_a_map_goes_on_past_an_element_that_failed(pool: Pool, chunksize: int) -> None:
    found = pool(2).map(
        bodies.odd_ones_fail, range(20), chunksize=chunksize, errors="return", timeout=PATIENCE
    )
    outcomes = list(found)
    assert [each for each in outcomes if isinstance(each, int)] == list(range(0, 20, 2))
    assert [each.args for each in outcomes if isinstance(each, ValueError)] == [
        (number,) for number in range(1, 20, 2)
    ]


@pytest.mark.scenario(40, "timed out and done at the same moment: one outcome each, no worker lost")
def test_a_time_out_that_races_the_end_has_one_winner(
    pool: Pool, record_property: RecordProperty
) -> None:
    executor, seen, ends = pool(4), Counter[str](), Counter[int]()
    limit, times = 0.02, 240  # the limit moves to where both ends are equally likely
    for first in range(0, times, 4):
        limited = executor.options(timeout=limit)
        futures = [limited.submit(time.sleep, 0.01) for _ in range(4)]
        for number, future in enumerate(futures, first):
            future.add_done_callback(lambda _, number=number: ends.update([number]))  # type: ignore[misc]
        for future in futures:
            timed_out = isinstance(future.exception(PATIENCE), TaskTimeout)
            seen["timed out" if timed_out else "done"] += 1
            limit = limit * 1.1 if timed_out else max(0.005, limit * 0.95)
    assert sum(seen.values()) == times
    assert min(seen["done"], seen["timed out"]) > 0, seen
    until(lambda: len(ends) == times, "every callback was called")
    assert set(ends.values()) == {1}
    assert [executor.submit(bodies.sleep_quietly, 0).result(PATIENCE) for _ in range(8)] == [0] * 8
    record_property("figure", f"{seen['done']} done, {seen['timed out']} timed out, none astray")
