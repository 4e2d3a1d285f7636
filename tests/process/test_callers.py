"""Threads that wait in `result()` and read the answers themselves, while anything else happens.

pytest-timeout keeps a handler of its own for SIGALRM, which makes the main thread wait like a
stranger; so those who wait here are other threads, or the main thread of a program of its own.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import random
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from process import bodies, short
from process.bodies import double
from process.line import PATIENCE, Line
from process.watch import until, with_tests_on_path

import unirun
from unirun import TaskKilled, WorkerCrashed

Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]

PROGRAM = Path(__file__).parents[1] / "apps" / "interrupted.py"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as made:
        yield made


def leaders(executor: unirun.Executor) -> int:
    """How many workers have a thread that reads their answers itself."""
    pool: Any = executor._backends["process"]._pool  # type: ignore[attr-defined]
    return sum(peer.led is not None for peer in list(pool._crew.peers.values()))


def lead(
    threads: ThreadPoolExecutor, executor: unirun.Executor, *asks: Callable[[float], Any]
) -> list[Any]:
    """Have each of them asked by a thread that leads, and perhaps by others that do not."""
    waiting = []
    for count, ask in enumerate(asks, 1):
        for _ in range(10):  # who finds the pool busy waits as a stranger
            waiting.append(threads.submit(ask, 2 * PATIENCE))
            try:
                until(lambda count=count: leaders(executor) >= count, "a worker is led", 0.3)
                break
            except AssertionError:
                continue
    assert leaders(executor) == len(asks)
    return waiting


# -- interrupted ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        "default",
        "handler-raises",
        "handler-returns",
        "alarm-raises",
        "alarm-returns",
        "term-raises",
    ],
)
def test_no_signal_is_lost_and_none_tears_anything(how: str) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), how, "300"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=with_tests_on_path(),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- time-outs ------------------------------------------------------------------------------------


def test_a_time_out_comes_in_time_and_harms_nothing(
    pool: Pool, line: Lines, threads: ThreadPoolExecutor
) -> None:
    executor, go, ready = pool(1), line(), line()
    future = executor.submit(bodies.wait_for, go, ready)
    ready.wait()
    for seconds in (0, 0.001, 0.07):
        began = time.monotonic()
        assert isinstance(threads.submit(future.exception, seconds).exception(), TimeoutError)
        assert time.monotonic() - began >= seconds
    waiting = lead(threads, executor, future.result)
    go.send()
    assert {each.result(PATIENCE) for each in waiting} == {future.result(PATIENCE)}
    assert executor.submit(double, 4).result(PATIENCE) == 8


def test_time_outs_that_race_with_answers_lose_none(
    pool: Pool, threads: ThreadPoolExecutor
) -> None:
    """Threads take turns in reading the pipe of one worker, as fast as they can."""
    executor, chance = pool(1), random.Random(1)

    def ask(start: int) -> None:
        for value in range(start, start + 200):
            future = executor.submit(double, value)
            with contextlib.suppress(TimeoutError):
                future.result(chance.uniform(0, 0.0005))
            assert future.result(PATIENCE) == 2 * value

    for each in [threads.submit(ask, start) for start in range(0, 2000, 200)]:
        each.result()


# -- many who wait --------------------------------------------------------------------------------


def test_many_threads_may_wait_for_one_call(
    pool: Pool, line: Lines, threads: ThreadPoolExecutor
) -> None:
    executor, go, ready = pool(1), line(), line()
    future = executor.submit(bodies.wait_for, go, ready)
    pid = int(ready.wait())
    waiting = lead(threads, executor, future.result)
    waiting += [threads.submit(future.result, PATIENCE) for _ in range(8)]
    go.send()
    assert {each.result(PATIENCE) for each in waiting} == {pid}


def test_threads_wait_for_different_calls_of_one_worker(
    pool: Pool, threads: ThreadPoolExecutor
) -> None:
    executor = pool(1)
    for seed in range(30):
        futures = [executor.submit(double, n) for n in range(100)]
        asked = random.Random(seed).sample(range(100), 40)
        waiting = [threads.submit(futures[n].result, PATIENCE) for n in asked]
        assert [each.result() for each in waiting] == [2 * n for n in asked]
        assert [future.result(PATIENCE) for future in futures] == [2 * n for n in range(100)]


def test_every_way_to_wait_works_beside_threads_that_lead(
    pool: Pool, line: Lines, threads: ThreadPoolExecutor
) -> None:
    executor, go, ready = pool(2), line(), line()
    futures = [executor.submit(bodies.wait_for, go, ready) for _ in range(2)]
    pids = {int(ready.wait()), int(ready.wait())}
    called: list[Any] = []
    ended = threading.Semaphore(0)

    def call_back(future: Any) -> None:
        called.append(future)
        ended.release()

    async def gather() -> list[int]:
        wrapped = [asyncio.wrap_future(future) for future in futures]
        return await asyncio.gather(*wrapped)

    waiting = lead(threads, executor, *(future.result for future in futures))
    for future in futures:
        future.add_done_callback(call_back)
    others = [
        threads.submit(lambda: len(concurrent.futures.wait(futures, PATIENCE).done)),
        threads.submit(lambda: len(list(concurrent.futures.as_completed(futures, PATIENCE)))),
        threads.submit(lambda: len(asyncio.run(gather()))),
    ]
    go.send()
    go.send()
    assert {each.result(PATIENCE) for each in waiting} == pids
    assert [each.result(PATIENCE) for each in others] == [2, 2, 2]
    for _ in futures:
        assert ended.acquire(timeout=PATIENCE)
    assert set(called) == set(futures)


# -- what happens to a worker whose answers a caller reads -----------------------------------------


@pytest.mark.parametrize("others", ["too", "not"])
def test_a_call_whose_worker_dies_while_it_is_led_has_crashed(
    pool: Pool, line: Lines, threads: ThreadPoolExecutor, others: str
) -> None:
    executor, go, ready = pool(2), line(), line()
    victim = executor.submit(bodies.die_when_told, go, ready)
    ready.wait()
    waiting = lead(threads, executor, victim.exception)
    if others == "too":
        waiting.append(threads.submit(victim.exception, PATIENCE))
    go.send()
    assert {type(each.result()) for each in waiting} == {WorkerCrashed}
    assert executor.submit(double, 4).result(PATIENCE) == 8


def test_a_call_may_be_killed_while_its_worker_is_led(
    pool: Pool, line: Lines, threads: ThreadPoolExecutor
) -> None:
    executor, ready = pool(1), line()
    for _ in range(3):
        victim = executor.submit(bodies.sleep, ready)
        ready.wait()
        waiting = lead(threads, executor, victim.result)
        assert victim.kill()
        assert {type(each.exception(PATIENCE)) for each in waiting} == {TaskKilled}
        assert executor.submit(double, 4).result(PATIENCE) == 8


@pytest.mark.parametrize("kill", [False, True])
def test_an_executor_may_be_shut_down_while_its_workers_are_led(
    pool: Pool, line: Lines, threads: ThreadPoolExecutor, kill: bool
) -> None:
    executor, go, ready = pool(2), line(), line()
    futures = [executor.submit(bodies.wait_for, go, ready) for _ in range(2)]
    pids = {int(ready.wait()), int(ready.wait())}
    waiting = lead(threads, executor, *(future.result for future in futures))
    ending = threads.submit(executor.shutdown, kill=kill)
    if kill:
        assert {type(each.exception(PATIENCE)) for each in waiting} == {TaskKilled}
    else:
        go.send()
        go.send()
        assert {each.result(PATIENCE) for each in waiting} == pids
    assert ending.result(PATIENCE) is None


def crowded(pool: Pool, line: Lines, log: Path) -> tuple[Any, list[Any], Line]:
    """A pool of one where calls wait behind one that goes on until it is told to end."""
    executor, ready, go = pool(1), line(), line()
    until(lambda: _fits_many(executor, str(log), ready, go), "calls share their worker")
    futures = [
        executor.submit(short.wait_at, str(log), number, 1000, ready, go)
        for number in range(1000, 1030)
    ]
    ready.wait()
    executor.submit(double, 1).cancel()  # has the pool look, though all workers are taken
    until(lambda: futures[5].running(), "calls are sent before they can begin")
    return executor, futures, go


def _fits_many(executor: Any, log: str, ready: Line, go: Line) -> bool:
    futures = [executor.submit(short.wait_at, log, n, -1, ready, go) for n in range(200)]
    concurrent.futures.wait(futures)
    return max(executor._backends["process"]._state._windows.values(), default=1) >= 16


def test_one_who_waits_behind_a_long_call_hears_that_its_own_was_killed(
    pool: Pool, line: Lines, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    executor, futures, go = crowded(pool, line, tmp_path / "log")
    waiting = lead(threads, executor, futures[5].result)
    assert futures[5].kill()
    assert {type(each.exception(PATIENCE)) for each in waiting} == {TaskKilled}
    assert not futures[0].done()
    go.send()
    del futures[5]
    assert {future.result(PATIENCE) for future in futures} == {1000, *range(1001, 1030)} - {1005}
    assert "1005 " not in (tmp_path / "log").read_text()


def test_one_who_waits_behind_a_long_call_hears_of_its_own_from_another_worker(
    pool: Pool, line: Lines, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    executor, futures, go = crowded(pool, line, tmp_path / "log")
    waiting = lead(threads, executor, futures[5].result)
    executor.resize(2)
    assert {each.result(PATIENCE) for each in waiting} == {1005}
    assert not futures[0].done()
    go.send()
    assert futures[0].result(PATIENCE) == 1000


# -- afterwards -----------------------------------------------------------------------------------


def test_calls_nobody_waits_for_end_though_callers_led_a_moment_ago(
    pool: Pool, threads: ThreadPoolExecutor
) -> None:
    """The loop must look at the pipes again when callers stop to read them, whenever that is."""
    executor, chance = pool(2), random.Random(1)

    def burst() -> None:
        for n in range(4):
            assert executor.submit(double, n).result(PATIENCE) == 2 * n
        time.sleep(chance.uniform(0, 0.03))  # no more callers are expected after some 20 ms
        ended = threading.Event()
        executor.submit(double, 1).add_done_callback(lambda _: ended.set())
        assert ended.wait(PATIENCE)

    for _ in range(100):
        threads.submit(burst).result()


def test_threads_may_come_and_go(pool: Pool) -> None:
    executor, found = pool(2), []

    def ask(value: int) -> None:
        found.append(executor.submit(double, value).result(PATIENCE))

    for value in range(100):
        thread = threading.Thread(target=ask, args=(value,))
        thread.start()
        thread.join(PATIENCE)
    assert found == [2 * value for value in range(100)]


def test_the_program_may_fork_while_another_thread_leads(
    pool: Pool, line: Lines, threads: ThreadPoolExecutor
) -> None:
    executor, go, ready = pool(2), line(), line()
    future = executor.submit(bodies.wait_for, go, ready)
    pid = int(ready.wait())
    waiting = lead(threads, executor, future.result)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, from 3.12
        child = os.fork()
    if not child:
        os._exit(_in_child(executor))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    go.send()
    assert {each.result(PATIENCE) for each in waiting} == {pid}
    assert executor.submit(double, 4).result(PATIENCE) == 8


def _in_child(executor: unirun.Executor) -> int:
    """The exit status: 0 if the executor of the parent says that it is no use here."""
    import signal

    signal.alarm(10)
    try:
        executor.submit(double, 1).result(5)
    except RuntimeError as exc:
        return int("shutdown" not in str(exc))
    except BaseException:
        return 2
    return 3
