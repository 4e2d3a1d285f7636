"""Item 7: many threads submit, cancel, kill and shut down at once, and every future ends rightly.

The large runs are `python -m benchmarks.storm` and `python -m benchmarks.stress`.
"""

import functools
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import reliability_bodies_load as bodies
from process.watch import until

import unirun
from unirun import Executor

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks/ is never installed

from benchmarks import _verdict, storm

PATIENCE = 20.0
BACKENDS = pytest.mark.parametrize("backend", ["process", "thread"])


@pytest.mark.scenario("load: storm", "16 threads submit, cancel, kill, time out and shut down")
@pytest.mark.parametrize(("backend", "calls"), [("process", 4000), ("thread", 8000)])
def test_sixteen_threads_disturb_each_other_and_every_future_ends_rightly(
    backend: str, calls: int, tmp_path: Path, record_property: Callable[[str, str], None]
) -> None:
    seed = random.randrange(10**6)
    counts, found = storm.storm(backend, calls, seed, tmp_path / "log", seasons=6)
    record_property("figure", f"{calls} calls on {backend}s: {len(found)} wrong ends")
    assert found == [], f"seed {seed}: {counts}"
    assert {_verdict.VALUE, _verdict.RAISED, _verdict.EXPIRED} <= counts["ends"].keys()


def errors_behind_a_kill() -> set[type[BaseException]]:
    """A call is killed, and a shutdown cancels those that had been with the same worker."""
    executor = Executor(1, backend="process", grace=0)
    for future in [executor.submit(bodies.double_or_hang, n) for n in range(300)]:
        future.result(PATIENCE)  # known to be short: a worker gets many at once
    first = executor.submit(bodies.double_or_hang, -1)
    rest = [executor.submit(bodies.double_or_hang, n) for n in range(50)]
    state = executor._backends["process"]._state
    until(first.running, "the first is with the worker")
    until(lambda: rest[0].running() or state.waiting, "and others, or it is known to be slow")
    first._request_kill()
    until(lambda: state.waiting or first.done(), "what is behind it was taken back")
    executor.shutdown(wait=False, cancel_futures=True)
    found = set()
    for future in rest:
        try:
            future.result(PATIENCE)
        except CancelledError as exc:
            found.add(type(exc))
    executor.shutdown()
    return found


def test_a_call_that_a_shutdown_cancels_is_not_called_killed_though_it_was_with_a_worker() -> None:
    for _ in range(20):
        if found := errors_behind_a_kill():  # else the next worker was quicker than the shutdown
            break
    assert unirun.TaskKilled not in found


@BACKENDS
def test_a_call_with_retries_that_is_waited_for_at_once_has_its_result(backend: str) -> None:
    """Who waits may read the answer of the attempt before the call itself has ended by it."""
    found: list[Any] = []

    def ask() -> None:
        view = executor.options(retries=2)
        found.append([view.submit(bodies.double, n).result(PATIENCE) for n in range(200)])
        view = executor.options(limit=1)
        found.append([view.submit(bodies.double, n).result(PATIENCE) for n in range(200)])

    with Executor(1, backend=backend) as executor:
        # Not the main thread: with the signal handler of a time-out it reads no answers itself.
        thread = threading.Thread(target=ask)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading, "excepthook", lambda args: found.append(args.exc_value))
            thread.start()
            thread.join(PATIENCE)
    assert found == [[2 * n for n in range(200)]] * 2


@pytest.mark.scenario(63, "1,000 tasks from 10 threads mixing submit, map and cancel: sums right")
@BACKENDS
def test_ten_threads_that_submit_map_and_cancel_get_their_sums(backend: str) -> None:
    wrong: list[str] = []

    def work(index: int) -> None:
        chance = random.Random(index)
        numbers = range(1000 * index, 1000 * index + 100)
        futures = [executor.submit(bodies.double, n) for n in numbers]
        drawn = [n for n in numbers if chance.random() < 0.2]
        cancelled = {n for n in drawn if futures[n - numbers[0]].cancel()}
        mapped = sum(executor.map(bodies.double, numbers))
        left = sum(f.result(PATIENCE) for f in futures if not f.cancelled())
        if mapped != 2 * sum(numbers) or left != 2 * sum(set(numbers) - cancelled):
            wrong.append(f"thread {index}: {mapped}, {left}, without {cancelled}")

    with Executor(2, backend=backend) as executor:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert wrong == []


@pytest.mark.scenario(64, "3 chains of 100 callbacks that submit; callbacks that raise or exit")
@BACKENDS
@pytest.mark.filterwarnings("ignore")  # what a callback raises is logged
def test_callbacks_that_submit_one_another_all_run_whatever_others_raise(backend: str) -> None:
    ended = [threading.Event() for _ in range(3)]
    with Executor(2, backend=backend) as executor:

        def go_on(chain: int, depth: int, future: unirun.Future[int]) -> None:
            if future.result() != 2 * depth or depth == 100:
                ended[chain].set() if depth == 100 else None
                return
            following = executor.submit(bodies.double, depth + 1)
            following.add_done_callback(lambda _: [][1])  # raises
            following.add_done_callback(lambda _: sys.exit("not so"))
            following.add_done_callback(functools.partial(go_on, chain, depth + 1))

        for chain in range(3):
            first = executor.submit(bodies.double, 0)
            first.add_done_callback(functools.partial(go_on, chain, 0))
        assert all(event.wait(PATIENCE) for event in ended)
        assert executor.submit(bodies.double, 4).result(PATIENCE) == 8


@pytest.mark.scenario(65, "inputs of a map that raise in the middle are told; the pool is unharmed")
@BACKENDS
@pytest.mark.parametrize("chunksize", [1, 7, "auto"])
def test_inputs_that_raise_in_the_middle_of_a_map_are_told_behind_the_results(
    backend: str, chunksize: Any
) -> None:
    def inputs() -> Iterator[int]:
        yield from range(40)
        raise LookupError("in the middle")

    with Executor(2, backend=backend) as executor:
        seen: list[int] = []
        results = executor.map(bodies.double, inputs(), chunksize=chunksize, buffersize=8)
        with pytest.raises(LookupError, match="in the middle"):
            seen.extend(results)
        assert seen == [2 * n for n in range(40)]
        assert list(executor.map(bodies.double, range(5))) == [0, 2, 4, 6, 8]


@pytest.mark.scenario(59, "2 x cores + 2 tasks that meet at a barrier all run at the same time")
@BACKENDS
def test_more_workers_than_cores_all_run_at_the_same_time(backend: str) -> None:
    count = 2 * unirun.cpu_count() + 2
    with Executor(count, backend=backend) as executor:
        barrier = executor.Barrier(count)
        futures = [executor.submit(bodies.meet, barrier) for _ in range(count)]
        met = {future.result(PATIENCE) for future in futures}
    assert len(met) == (count if backend == "process" else 1)


@pytest.mark.scenario(58, "idle workers end; calls that come at that very moment are not lost")
def test_calls_that_come_when_idle_workers_leave_are_not_lost(
    record_property: Callable[[str, str], None],
) -> None:
    idle = 0.02
    pids = set()
    with Executor(2, backend="process", idle_timeout=idle) as executor:
        for number in range(60):
            # From a little before to a little after the moment at which a worker may leave.
            time.sleep(idle * (0.8 + 0.5 * (number % 12) / 12))
            argument = bodies.Slow(0.005) if number % 5 == 0 else number
            pids.add(executor.submit(bodies.pid, argument).result(PATIENCE))
        end = time.monotonic() + PATIENCE
        while executor.stats()["process"].workers:
            assert time.monotonic() < end, "idle workers stay"
            time.sleep(0.01)
        assert executor.stats()["process"].crashed == 0
    record_property("figure", f"60 calls around the idle time-out: 0 lost, {len(pids)} workers")
    assert len(pids) > 1


@pytest.mark.scenario(56, "workers are replaced after N tasks while others wait: none is lost")
def test_workers_that_are_replaced_after_each_few_calls_lose_none() -> None:
    with Executor(2, backend="process", max_tasks_per_child=5) as executor:
        futures = [executor.submit(bodies.pid, n) for n in range(60)]
        served = Counter(future.result(PATIENCE) for future in futures)
    assert sum(served.values()) == 60
    assert max(served.values()) <= 5
    assert os.getpid() not in served
