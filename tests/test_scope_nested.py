"""Scopes: what is in them, one in another, and what is around them."""
# ruff: noqa: PT012, SIM117  # what a block raises as it is left is the point here

import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from scoped import BACKENDS, PATIENCE, double, fail, one_of_each, wait_long

import unirun
from unirun import Executor


@pytest.fixture(scope="module", autouse=True)
def executors() -> Iterator[dict[str, Executor]]:
    with one_of_each() as made:
        yield made


@pytest.fixture(params=BACKENDS)
def executor(request: pytest.FixtureRequest, executors: dict[str, Executor]) -> Executor:
    return executors[request.param]


@pytest.fixture
def thread(executors: dict[str, Executor]) -> Executor:
    return executors["thread"]


@pytest.fixture(params=["thread", "process"])
def parallel(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """For tests that kill."""
    with Executor(2, backend=request.param) as made:
        yield made


@pytest.fixture
def process() -> Iterator[Executor]:
    with Executor(2, backend="process") as made:
        yield made


# -- who is in it -------------------------------------------------------------------------------


@unirun.task
def tripled(x: int) -> int:
    return 3 * x


def test_inside_the_block_tasks_and_functions_use_the_scope(executor: Executor) -> None:
    with executor.scope() as scope:
        futures = [
            unirun.submit(double, 1),
            tripled.submit(1),
            scope.options(name="x").submit(double, 2),
        ]
        assert list(tripled.map([1, 2])) == [3, 6]
        assert unirun.current_executor() is executor
    assert scope.done == tuple(futures)


def test_a_view_with_a_limit_stays_in_the_scope(thread: Executor) -> None:
    with thread.scope() as scope:
        futures = [scope.options(limit=1).submit(double, x) for x in range(3)]
    assert scope.done == tuple(futures)


def test_calls_of_a_scope_may_be_retried(thread: Executor) -> None:
    with pytest.raises(ExceptionGroup) as caught, thread.scope() as scope:
        scope.options(retries=unirun.Retry(1, backoff=0.001)).submit(fail, "no")
    assert "attempt 2 was the last" in caught.value.exceptions[0].__notes__[-1]


def spawn(scope: unirun.Scope, count: int) -> int:
    if count:
        scope.submit(spawn, scope, count - 1)
        unirun.submit(double, count)
    return count


def test_tasks_may_submit_into_their_scope(thread: Executor) -> None:
    with thread.scope() as scope:
        scope.submit(spawn, scope, 5)
    assert sorted(scope.results) == [0, 1, 2, 2, 3, 4, 4, 5, 6, 8, 10]


def test_a_scope_does_not_travel_to_processes(executors: dict[str, Executor]) -> None:
    with pytest.raises(ExceptionGroup) as caught, executors["process"].scope() as scope:
        scope.submit(spawn, scope, 1)
    assert "a scope cannot be pickled" in str(caught.value.exceptions[0])


def test_a_context_that_outlives_its_scope_has_the_executor(thread: Executor) -> None:
    with thread.scope():
        inside = contextvars.copy_context()
    future = inside.run(unirun.submit, double, 2)
    assert future.result(PATIENCE) == 4
    assert inside.run(unirun.current_executor) is thread


def in_a_scope(depth: int) -> int:
    with unirun.scope() as scope:
        futures = [scope.submit(double, depth) for _ in range(2)]
        if depth:
            futures.append(scope.submit(in_a_scope, depth - 1))
    return sum(future.result() for future in futures)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scopes_in_tasks_need_no_more_workers_than_there_are(backend: str) -> None:
    with Executor(1, backend=backend) as executor:
        assert executor.submit(in_a_scope, 3).result(PATIENCE) == 24


def test_a_scope_is_cancelled_with_the_one_around_it(parallel: Executor) -> None:
    with pytest.raises(ExceptionGroup) as caught, parallel.scope() as outer:
        with unirun.scope() as inner:
            waiting = inner.submit(wait_long)
            outer.submit(fail, "no")
    assert [str(each) for each in caught.value.exceptions] == ["no"]
    assert inner.cancelled == (waiting,)


def with_a_scope(begun: threading.Event) -> None:
    with Executor(1, backend="thread") as own, own.scope() as scope:
        scope.submit(wait_long)
        begun.set()


def test_a_scope_in_a_call_is_cancelled_with_that(thread: Executor) -> None:
    begun = threading.Event()
    future = thread.submit(with_a_scope, begun)
    assert begun.wait(PATIENCE)
    future.cancel()
    assert isinstance(future.exception(PATIENCE), unirun.TaskCancelled)


def test_a_scope_in_a_call_in_a_process_is_cancelled_with_that(process: Executor) -> None:
    with process.scope() as scope:
        future = scope.submit(in_a_long_scope)
        reported = future._wait_ended(0.0)
        while not reported and future.progress is None:
            reported = future._wait_ended(0.01)
        future.cancel()
        assert isinstance(future.exception(PATIENCE), unirun.TaskCancelled)


def in_a_long_scope() -> None:
    task = unirun.current_task()
    assert task is not None
    with unirun.scope() as scope:
        scope.submit(wait_long)
        task.report(1)


def name_and_seed(x: int) -> tuple[str, int | None]:
    task = unirun.current_task()
    assert task is not None
    return task.name, task.seed


def test_a_view_has_scopes_whose_calls_have_its_options(executor: Executor) -> None:
    view = executor.options(name="viewed")
    assert executor.options(limit=3).scope().options(name="x")._given.limit.most == 3
    with view.scope(name="outer") as outer:
        outer.submit(name_and_seed, 1)
        outer.options(seed=5).submit(name_and_seed, 2)
        with outer.scope() as inner:
            inner.submit(name_and_seed, 3)
    assert outer.results == [("viewed", None), ("viewed", 5)]
    assert inner.results == [("viewed", None)]


def test_a_scope_made_from_a_scope_ends_with_it_in_any_thread(thread: Executor) -> None:
    ended: list[tuple[Any, ...]] = []
    begun = threading.Event()

    def other(outer: unirun.Scope) -> None:
        try:
            with outer.scope() as inner:
                inner.submit(wait_long)
                begun.set()
        except unirun.TaskCancelled:
            ended.append(inner.cancelled)

    with thread.scope() as outer:
        other_thread = threading.Thread(target=other, args=(outer,))
        other_thread.start()
        assert begun.wait(PATIENCE)
        outer.cancel()
    other_thread.join(PATIENCE)
    assert len(ended[0]) == 1


def test_what_fails_inside_is_a_group_in_the_group(executor: Executor) -> None:
    with pytest.raises(ExceptionGroup) as caught, executor.scope(name="outer"):
        with executor.scope(name="inner") as inner:
            inner.submit(fail, "no")
    (group,) = caught.value.exceptions
    assert isinstance(group, ExceptionGroup)
    assert group.message == "errors in scope 'inner'"


# -- around it ----------------------------------------------------------------------------------


def test_a_scope_is_used_once_and_inside_its_block(thread: Executor) -> None:
    scope = thread.scope()
    with pytest.raises(RuntimeError, match="a scope was not entered"):
        scope.submit(double, 1)
    with scope:
        with pytest.raises(RuntimeError, match="cannot be entered twice"):
            scope.__enter__()
    with pytest.raises(RuntimeError, match="a scope has ended"):
        scope.submit(double, 1)


@pytest.mark.parametrize(
    "wrong", [{"on_error": "ignore"}, {"timeout": -1}, {"timeout": float("nan")}]
)
def test_what_makes_no_sense_is_refused(thread: Executor, wrong: dict[str, Any]) -> None:
    with pytest.raises(unirun.ConfigError):
        thread.scope(**wrong)


def test_another_thread_may_leave_the_block(thread: Executor) -> None:
    scope = thread.scope().__enter__()
    scope.submit(double, 3)
    left: list[bool] = []
    other = threading.Thread(target=lambda: left.append(scope.__exit__(None, None, None)))
    other.start()
    other.join(PATIENCE)
    assert scope.results == [6]


def test_a_shutdown_meanwhile_ends_the_calls_and_the_scope() -> None:
    with Executor(1, backend="process") as executor:
        with pytest.raises(ExceptionGroup) as caught, executor.scope() as scope:
            waiting = scope.submit(wait_long)
            executor.shutdown(wait=False, cancel_futures=True, kill=True)
            scope.submit(double, 1)
    assert [type(each) for each in caught.value.exceptions] == [unirun.ExecutorShutdown]
    assert scope.cancelled == (waiting,)


def test_a_scope_keeps_nothing_alive_that_is_gone(thread: Executor) -> None:
    class Thing:
        pass

    def make() -> Thing:
        return Thing()

    with thread.scope() as scope:
        watched = weakref.ref(scope.submit(make).result(PATIENCE))
    assert watched() is not None
    del scope
    gc.collect()
    assert watched() is None


CTRL_C = """
import os, signal, sys, threading, time, unirun
def wait_long():
    print("begun", flush=True)
    time.sleep(60)
with unirun.Executor(1, backend="process") as executor:
    with executor.scope() as scope:
        scope.submit(wait_long)
"""


def test_ctrl_c_while_it_is_left_kills_and_passes() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", CTRL_C],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "begun\n"
    begun = time.monotonic()
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=PATIENCE)
    assert time.monotonic() - begun < PATIENCE
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "ExceptionGroup" not in errors
