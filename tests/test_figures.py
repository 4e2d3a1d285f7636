"""`future.info` and `stats`: what calls took, on every backend, with nobody watching."""

import threading
import time
from collections.abc import Iterator

import pytest
import watching

import unirun
from unirun import Executor, _observe
from unirun.backend import Stats
from unirun.testing._gate import comes_true

MIB = 1 << 20


@pytest.fixture(scope="module", params=("thread", "process", "inline"))
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor(1, backend=request.param) as made:
        watching.warm_up(made, 1)
        yield made


@pytest.fixture(scope="module")
def process() -> Iterator[Executor]:
    with Executor(1, backend="process") as made:
        watching.warm_up(made, 1)
        yield made


def stats_of(executor: Executor) -> Stats:
    (stats,) = executor.stats().values()
    return stats


# -- future.info ---------------------------------------------------------------------------------


def test_a_call_says_when_it_was_queued_started_and_finished(executor: Executor) -> None:
    before = time.time()
    future = executor.submit(watching.sleep, 0.01)
    future.result()
    info, after = future.info, time.time()
    assert info.queued_at is not None
    assert info.started_at is not None
    assert info.finished_at is not None
    slack = 0.05  # somebody may have set the clock since the process began, a little
    assert before - slack <= info.queued_at <= info.started_at <= info.finished_at <= after + slack
    assert info.took is not None
    assert info.took >= 0.01
    assert info.waited is not None


def test_processor_time_tells_computing_from_waiting(executor: Executor) -> None:
    computing, waiting = executor.submit(watching.burn, 0.02), executor.submit(watching.sleep, 0.05)
    computing.result()
    waiting.result()
    computed, waited = computing.info.cpu_seconds, waiting.info.cpu_seconds
    assert computed is not None
    assert waited is not None
    assert computed >= 0.02
    assert waited < 0.02


def test_what_calls_before_have_computed_is_not_counted(executor: Executor) -> None:
    for future in [executor.submit(watching.burn, 0.0001) for _ in range(100)]:
        future.result()
    future = executor.submit(watching.sleep, 0.005)
    future.result()
    assert future.info.cpu_seconds is not None
    assert future.info.cpu_seconds < 0.004


def test_peak_memory_is_that_of_the_call_and_not_of_those_before(process: Executor) -> None:
    peaks = []
    for size in (0, 100 * MIB, 0):
        future = process.submit(watching.fill, size)
        future.result()
        small = process.submit(watching.sleep, 0.002)
        small.result()
        peaks += [future.info.peak_memory, small.info.peak_memory]
    _, base, large, after, _, last = peaks
    assert base is not None
    assert large is not None
    assert after is not None
    assert last is not None
    assert large - base >= 95 * MIB  # what is there before is known up to 1 MiB
    assert after - base < 50 * MIB
    assert last - base < 50 * MIB


def test_bytes_in_and_out_are_told_for_small_and_large(process: Executor) -> None:
    for size in (10_000, 4 * MIB):
        future = process.submit(watching.take, b"x" * size)
        future.result()
        info = future.info
        assert info.bytes_in is not None
        assert info.bytes_out is not None
        assert size <= info.bytes_in < size + 2000
        assert size // 2 <= info.bytes_out < size // 2 + 2000


def test_a_short_call_has_figures_only_while_somebody_watches(process: Executor) -> None:
    for _ in range(50):
        process.submit(watching.echo, 1).result()
    futures = [process.submit(watching.echo, 1) for _ in range(20)]
    for future in futures:
        future.result()
    assert min(futures, key=lambda each: each.info.took or 0).info.took is None
    stop = _observe.watch(lambda event: None)
    try:
        comes_true(lambda: measured(process))
        assert measured(process)
    finally:
        stop()


def measured(executor: Executor) -> bool:
    future = executor.submit(watching.echo, 1)
    future.result()
    return future.info.took is not None


def test_a_killed_call_says_what_is_known() -> None:
    with Executor(1, backend="process") as single:
        future = single.submit(watching.sleep, 30)
        assert comes_true(lambda: future.info.started_at is not None)
        assert future.info.finished_at is None
        (pid,) = stats_of(single).pids
        future.kill(0)
        crashed = single.submit(watching.die)
        crashed.exception()
        late = single.options(timeout=0.5).submit(watching.sleep, 30)
        late.exception()
    info = future.info
    assert info.state == "cancelled"
    assert info.pid == pid
    for each in (info, crashed.info, late.info):
        assert each.started_at is not None
        assert each.finished_at is not None
        assert each.took is not None
        assert each.pid is not None


def test_a_call_that_waits_has_only_been_queued() -> None:
    with Executor(1, backend="thread") as single:
        gate = threading.Event()
        first, second = single.submit(gate.wait), single.submit(watching.echo, 1)
        assert comes_true(first.running)
        assert first.info.started_at is not None
        assert first.info.finished_at is None
        assert second.info.queued_at is not None
        assert second.info.started_at is None
        gate.set()


def test_a_coroutine_says_when_it_ran() -> None:
    with Executor(backend="coroutine") as loop:
        future = loop.submit(watching.wait_a_little)
        future.result()
    info = future.info
    assert info.took is not None
    assert info.took >= 0.002


@pytest.fixture
def watched_loop() -> Iterator[Executor]:
    stop = _observe.watch(lambda event: None)
    try:
        with Executor(backend="coroutine") as loop:
            yield loop
    finally:
        stop()


def test_a_coroutine_has_the_processor_time_of_its_own_steps(watched_loop: Executor) -> None:
    long = watched_loop.submit(watching.burn_in_steps, 5, 0.01)
    short = watched_loop.submit(watching.burn_in_steps, 5, 0.001)
    waiting = watched_loop.submit(watching.wait_a_little)
    seconds = []
    for future in (long, short, waiting):
        future.result()
        seconds.append(future.info.cpu_seconds)
    assert seconds[0] is not None
    assert seconds[1] is not None
    assert seconds[2] is not None
    assert seconds[0] >= 0.05
    assert 0.005 <= seconds[1] < 0.04  # not what the other has computed between its steps
    assert seconds[2] < 0.004


def test_so_has_a_coroutine_that_failed_and_one_that_was_cancelled(watched_loop: Executor) -> None:
    failed = watched_loop.submit(watching.burn_and_raise, 0.01)
    assert isinstance(failed.exception(), ValueError)
    cancelled = watched_loop.submit(watching.burn_when_cancelled, 0.01)
    assert comes_true(cancelled.running)
    watched_loop.submit(watching.wait_a_little).result()  # by now it waits
    assert cancelled.kill()
    for each in (failed, cancelled):
        assert each.info.cpu_seconds is not None
        assert each.info.cpu_seconds >= 0.01


def test_a_measured_coroutine_looks_as_it_is() -> None:
    with Executor(backend="coroutine") as loop:
        plain = loop.submit(watching.seen_from_outside).result()
        stop = _observe.watch(lambda event: None)
        try:
            future = loop.submit(watching.seen_from_outside)
            assert future.result() == plain
        finally:
            stop()
    assert future.info.cpu_seconds is not None
    assert plain[1][0] == "_body"


def test_nobody_pays_for_the_steps_of_coroutines_while_nobody_watches() -> None:
    with Executor(backend="coroutine") as loop:
        future = loop.submit(watching.burn_in_steps, 2, 0.002)
        future.result()
    assert future.info.cpu_seconds is None


def test_figures_are_in_what_info_says_for_reading(process: Executor) -> None:
    future = process.submit(watching.burn, 0.003)
    future.result()
    text = str(future.info)
    assert "s of processor time" in text
    assert "peak memory: " in text
    assert "bytes: " in text


# -- stats ---------------------------------------------------------------------------------------


def test_stats_count_what_has_failed_and_was_retried(executor: Executor) -> None:
    before = stats_of(executor)
    executor.submit(watching.fail).exception()
    executor.options(retries=unirun.Retry(2, backoff=0)).submit(watching.fail).exception()
    executor.submit(watching.echo, 1).result()
    assert comes_true(lambda: stats_of(executor).finished == before.finished + 5)
    after = stats_of(executor)
    assert after.failed == before.failed + 4
    assert after.retried == before.retried + 2
    assert after.busy >= before.busy


def test_stats_of_processes_count_bytes_restarts_and_time() -> None:
    with Executor(1, backend="process") as single:
        single.submit(watching.take, b"x" * MIB).result()
        first = stats_of(single)
        assert MIB <= first.bytes_in < 2 * MIB
        assert MIB // 2 <= first.bytes_out < 2 * MIB
        single.submit(watching.burn, 0.05).result()
        assert stats_of(single).busy >= 0.05
        late = single.options(timeout=0.02).submit(watching.sleep, 30)
        late.exception()
        single.submit(watching.die).exception()
        single.submit(watching.echo, 1).result()
        last = stats_of(single)
    assert (last.timed_out, last.crashed, last.restarts) == (1, 1, 2)
    assert last.utilisation is not None
    assert 0 < last.utilisation <= 1


def test_workers_that_are_replaced_by_rule_count_as_restarts() -> None:
    with Executor(1, backend="process", max_tasks_per_child=1) as single:
        for _ in range(3):
            single.submit(watching.echo, 1).result()
        assert comes_true(lambda: stats_of(single).restarts == 3)


def test_stats_of_threads_count_time_and_those_given_up() -> None:
    with Executor(1, backend="thread") as single:
        single.submit(watching.sleep, 0.03).result()
        assert comes_true(lambda: stats_of(single).busy >= 0.03)
        gate = threading.Event()
        single.options(timeout=0.01).submit(gate.wait).exception()
        found = stats_of(single)
        gate.set()
    assert (found.timed_out, found.abandoned, found.restarts) == (1, 1, 1)
    assert found.utilisation is not None
    assert 0 < found.utilisation <= 1


def test_a_cancelled_call_is_counted() -> None:
    with Executor(1, backend="thread") as single:
        gate = threading.Event()
        single.submit(gate.wait)
        assert single.submit(watching.echo, 1).cancel()
        gate.set()
        assert stats_of(single).cancelled == 1
