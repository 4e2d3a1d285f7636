"""Item 6: what has come and gone has left nothing behind, and what stays does not grow.

The large runs are `python -m benchmarks --only leaks-executors,leaks-calls`.
"""

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import reliability_bodies_load as bodies

import unirun
from unirun import Executor
from unirun.backends.process.pace import MANY, Pace
from unirun.backends.process.state import MAX_WINDOWS, PoolState

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks/ is never installed

from benchmarks import leaks

PATIENCE = 20.0
MiB = 1 << 20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="what a process has is read from /proc")
BACKENDS = pytest.mark.parametrize("backend", ["process", "thread"])


@pytest.fixture(params=["process", "thread"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor(1, backend=request.param) as executor:
        yield executor


@contextmanager
def without_collector() -> Iterator[None]:
    """What is freed in here is freed by its last reference, not by a search for cycles."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def until_freed(*found: "weakref.ref[Any]", collect: bool = False) -> None:
    """Threads may hold on for a moment to what they were just given."""
    end = time.monotonic() + PATIENCE
    while any(ref() is not None for ref in found):
        if collect:
            gc.collect()
        assert time.monotonic() < end, f"{[ref() for ref in found if ref() is not None]} is kept"
        time.sleep(0.005)


class Thing:
    """Something that can be watched."""

    def __call__(self, *_: Any) -> None:
        """As a callback."""


# -- executors ------------------------------------------------------------------------------------


@LINUX
@pytest.mark.scenario(67, "descriptors, threads, mappings and files are as many after 48 pools")
@pytest.mark.scenario("leaks: executors", "opened, used, killed in and closed, they leave nothing")
def test_executors_leave_nothing_behind(record_property: Callable[[str, str], None]) -> None:
    sizes = {"executors": 9, "warm": 3, "length": MiB}
    found = leaks.executors("unirun", sizes)
    record_property(
        "figure",
        "left of 36 executors of 4 kinds: "
        + ", ".join(f"{count:g} {name}" for name, count in found.items() if name != "MiB"),
    )
    for name in ("descriptors", "threads", "processes", "files, semaphores"):
        assert found[name] == 0, found
    assert found["mappings"] <= 40  # arenas of the C library
    assert found["objects per executor"] < 30  # caches of the interpreter
    assert found["MiB"] < 30


@BACKENDS
def test_an_executor_that_was_dropped_is_freed_without_a_search_for_cycles(backend: str) -> None:
    with without_collector():
        executor = Executor(1, backend=backend)
        assert executor.submit(bodies.double, 1).result(PATIENCE) == 2
        executor.submit(bodies.fail, 1).exception(PATIENCE)
        kept = weakref.ref(executor)
        del executor
        until_freed(kept)


@BACKENDS
def test_a_backend_is_freed_when_its_executor_is(backend: str) -> None:
    executor = Executor(1, backend=backend)
    assert executor.submit(bodies.double, 1).result(PATIENCE) == 2
    kept = weakref.ref(executor._backends[backend])
    executor.shutdown()
    del executor
    until_freed(kept, collect=True)


@BACKENDS
def test_an_executor_that_its_own_callback_refers_to_is_freed(backend: str) -> None:
    executor = Executor(1, backend=backend)
    future = executor.submit(bodies.double, 1)
    called = []
    future.add_done_callback(lambda _, held=executor: called.append(held._closed))
    assert future.result(PATIENCE) == 2
    executor.shutdown()
    assert len(called) == 1
    kept = weakref.ref(executor)
    del executor, future
    until_freed(kept, collect=True)


# -- futures --------------------------------------------------------------------------------------


def test_an_exception_that_is_kept_keeps_no_future_of_its_batch(executor: Executor) -> None:
    """The frames of its traceback must not lead to those that settle a batch of futures."""
    with without_collector():
        futures = [
            executor.submit(bodies.fail if n == 50 else bodies.double, n) for n in range(100)
        ]
        error = futures[50].exception(PATIENCE)
        assert isinstance(error, ValueError)
        assert futures[99].result(PATIENCE) == 198
        kept = [weakref.ref(future) for future in futures]
        del futures
        until_freed(*kept)
        assert error.__traceback__ is not None


@pytest.mark.scenario("leaks: cycles", "futures and callbacks are freed by their last reference")
def test_a_future_is_freed_with_its_callbacks_without_a_search_for_cycles(
    executor: Executor,
) -> None:
    with without_collector():
        future, callback = executor.submit(bodies.double, 1), Thing()
        future.add_done_callback(callback)
        future.add_done_callback(lambda _, cycle=future: None)  # as people write it
        assert future.result(PATIENCE) == 2
        assert executor.submit(bodies.double, 2).result(PATIENCE) == 4  # callbacks are over
        kept = weakref.ref(future), weakref.ref(callback)
        del future, callback
        until_freed(*kept)


def test_a_future_that_raised_is_freed_without_a_search_for_cycles(executor: Executor) -> None:
    with without_collector():
        future = executor.submit(bodies.fail, 1)
        with pytest.raises(ValueError, match="1"):
            future.result(PATIENCE)
        kept = weakref.ref(future)
        del future
        until_freed(kept)


def test_a_future_that_was_retried_is_freed_without_a_search_for_cycles(
    executor: Executor,
) -> None:
    with without_collector():
        view = executor.options(retries=unirun.Retry(1, backoff=0))
        for fn in (bodies.double, bodies.fail):
            future = view.submit(fn, 1)
            future.exception(PATIENCE)
            kept = weakref.ref(future)
            del future
            until_freed(kept)


def test_a_future_that_is_kept_keeps_neither_arguments_nor_executor() -> None:
    argument = Thing()
    executor = Executor(1, backend="thread")
    future = executor.submit(bool, argument)
    failed = executor.submit(bodies.fail, 1)
    assert future.result(PATIENCE) is True
    error = failed.exception(PATIENCE)
    executor.shutdown()
    kept = weakref.ref(argument), weakref.ref(executor)
    del argument, executor
    until_freed(*kept, collect=True)
    assert (future.result(), str(error)) == (True, "1")


def test_a_cancelled_call_lets_go_of_its_arguments_while_others_still_run() -> None:
    """On threads; on processes they are a pickle, and the caller's own are let go at once."""
    go_on = threading.Event()
    with Executor(1, backend="thread") as executor:
        busy = executor.submit(go_on.wait, PATIENCE)
        thing = Thing()
        kept, future = weakref.ref(thing), executor.submit(bool, thing)
        del thing
        assert future.cancel()
        until_freed(kept)
        go_on.set()
        assert busy.result(PATIENCE)


@BACKENDS
def test_a_map_that_was_left_half_way_is_freed_with_its_inputs(backend: str) -> None:
    with Executor(1, backend=backend) as executor:
        things = [Thing()]

        def inputs() -> Iterator[int]:
            held = things.pop()
            yield from range(10**9)
            held()

        source, kept = inputs(), weakref.ref(things[0])
        results = executor.map(bodies.double, source, buffersize=50)
        assert [next(results) for _ in range(3)] == [0, 2, 4]
        del results, source
        until_freed(kept, collect=True)


# -- what a long-lived executor gathers -----------------------------------------------------------


@LINUX
@pytest.mark.scenario("leaks: calls", "calls of all sorts leave parent and workers as big")
@pytest.mark.parametrize("contender", ["unirun", "unirun-thread"])
def test_calls_of_all_sorts_leave_the_parent_and_its_workers_as_they_were(
    contender: str, record_property: Callable[[str, str], None]
) -> None:
    found = leaks.calls(contender, {"calls": 10_000, "warm": 1_400, "odd": 700})
    told = ", ".join(f"{name.split(',')[0]} +{grown:.1f} MiB" for name, grown in found.items())
    record_property("figure", f"10,700 calls, {contender}: {told}")
    assert max(found.values()) < 8, found


@pytest.mark.scenario("leaks: functions", "functions made for one call are forgotten everywhere")
@BACKENDS
def test_functions_that_are_made_for_one_call_are_forgotten(backend: str) -> None:
    count = 2500
    with Executor(1, backend=backend) as executor:
        codes = []
        for number in range(count // 50):
            functions = [eval(f"lambda: {50 * number + n}") for n in range(50)]
            codes += [weakref.ref(fn.__code__) for fn in functions]
            for n, future in enumerate([executor.submit(fn) for fn in functions]):
                assert future.result(PATIENCE) == 50 * number + n
        del functions, future
        gc.collect()
        assert sum(code() is not None for code in codes) < 1700
        if backend == "process":
            assert max(executor.submit(bodies.functions_known).result(PATIENCE)) < 1200


def test_the_pool_remembers_the_windows_of_so_many_kinds_and_no_more() -> None:
    state = PoolState(1)
    for kind in range(1, 3 * MAX_WINDOWS):
        state.set_window(kind, 64)
        state.set_window(1, 64)  # in use all the time
    assert len(state._windows) == MAX_WINDOWS
    assert state._windows[1] == 64


def test_a_pace_that_was_forgotten_is_told_again() -> None:
    """Or a call that has become slow would be taken for short for ever."""
    pace = Pace()
    assert pace.learn(1, 1.0, None) == 1024
    assert pace.learn(1, 1.0, None) is None
    for kind in range(2, MANY + 2):
        pace.learn(kind, 1.0, None)
    assert len(pace._pace) == len(pace._windows) == MANY
    assert pace.learn(1, 1e6, None) == 1


# -- what tasks leave in their worker -------------------------------------------------------------


@LINUX
@pytest.mark.scenario(57, "cycles that tasks leave are collected by size: 300 of 1 MiB")
@pytest.mark.scenario("pain 19", "a worker whose tasks leave cycles does not grow without end")
def test_cycles_that_tasks_leave_are_collected_by_their_size(
    record_property: Callable[[str, str], None],
) -> None:
    with Executor(1, backend="process") as executor:
        before = most = executor.submit(bodies.private_bytes).result(PATIENCE)
        for _ in range(30):
            for future in [executor.submit(bodies.leave_a_cycle, MiB) for _ in range(10)]:
                future.result(PATIENCE)
            most = max(most, executor.submit(bodies.private_bytes).result(PATIENCE))
    record_property("figure", f"300 cycles of 1 MiB: at most +{(most - before) / MiB:.0f} MiB")
    assert most - before < 120 * MiB  # of 300
