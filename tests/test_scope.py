"""Scopes: every call ends before the block does, and what fails ends the rest."""
# ruff: noqa: PT012, SIM117  # what a block raises as it is left is the point here

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from scoped import BACKENDS, PATIENCE, double, fail, one_of_each, wait_long

import unirun
from unirun import Executor, ScopeTimeout, TaskCancelled


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


def fail_at_3(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


def stop() -> None:
    raise SystemExit(3)


def interrupt() -> None:
    raise KeyboardInterrupt


class Odd(BaseException):
    pass


def raise_odd() -> None:
    raise Odd


# -- what comes out -----------------------------------------------------------------------------


def test_leaving_waits_for_all_and_results_are_in_the_order_of_submits(executor: Executor) -> None:
    with executor.scope() as scope:
        futures = [scope.submit(double, x) for x in range(6)]
    assert all(future.done() for future in futures)
    assert scope.results == [0, 2, 4, 6, 8, 10]
    assert scope.done == tuple(futures)
    assert scope.failed == scope.cancelled == ()


def test_the_group_has_what_failed(executor: Executor) -> None:
    with pytest.raises(ExceptionGroup) as caught, executor.scope(name="load") as scope:
        failing = scope.submit(fail, "no")
        failing.exception(PATIENCE)
    assert str(caught.value) == "errors in scope 'load' (1 sub-exception)"
    assert caught.value.exceptions == (failing.exception(),)
    assert scope.failed == (failing,)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_first_failure_cancels_what_waits_and_ends_what_runs() -> None:
    with Executor(2, backend="process") as executor:
        with pytest.raises(ExceptionGroup) as caught, executor.scope() as scope:
            scope.submit(wait_long)
            scope.submit(fail, "no")
            for _ in range(9):
                scope.submit(wait_long)
    assert [str(each) for each in caught.value.exceptions] == ["no"]
    assert len(scope.cancelled) == 10


def test_a_failing_call_ends_its_siblings_while_the_block_computes(parallel: Executor) -> None:
    with pytest.raises(ExceptionGroup), parallel.scope() as scope:
        sibling = scope.submit(wait_long)
        scope.submit(fail, "no")
        assert sibling._wait_ended(PATIENCE), "nobody waits for anything here"
        assert scope.cancelling
    assert scope.cancelled == (sibling,)


def test_collect_lets_the_others_end_and_raises_all(executor: Executor) -> None:
    with pytest.raises(ExceptionGroup) as caught, executor.scope(on_error="collect") as scope:
        for text in ("a", "b"):
            scope.submit(fail, text)
        last = scope.submit(double, 4)
    assert sorted(str(each) for each in caught.value.exceptions) == ["a", "b"]
    assert last.result() == 8
    assert scope.results == [8]


def test_what_the_block_raises_is_in_the_group_and_cancels(parallel: Executor) -> None:
    with pytest.raises(ExceptionGroup) as caught, parallel.scope() as scope:
        scope.submit(wait_long)
        raise LookupError("of the block")
    assert [type(each) for each in caught.value.exceptions] == [LookupError]


def test_what_a_call_and_the_block_raise_is_there_once(executor: Executor) -> None:
    with pytest.raises(ExceptionGroup) as caught, executor.scope() as scope:
        scope.submit(fail, "no").result(PATIENCE)
    assert len(caught.value.exceptions) == 1


def test_except_star_sorts_the_failures(executor: Executor) -> None:
    seen = []
    try:
        with executor.scope(on_error="collect") as scope:
            scope.submit(fail, "no")
            scope.submit(double, "x", "y")  # type: ignore[call-arg]
    except* ValueError as group:
        seen += list(group.exceptions)
    except* TypeError as group:
        seen += list(group.exceptions)
    assert {type(each) for each in seen} == {ValueError, TypeError}


@pytest.mark.parametrize(("task", "kind"), [(stop, SystemExit), (interrupt, KeyboardInterrupt)])
def test_what_ends_programs_passes_as_it_is(parallel: Executor, task: Any, kind: type) -> None:
    with pytest.raises(kind), parallel.scope() as scope:
        scope.submit(wait_long)
        scope.submit(task)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_programs_passes_from_the_block(parallel: Executor, kind: type) -> None:
    error = kind()
    with pytest.raises(kind) as caught, parallel.scope() as scope:
        waiting = scope.submit(wait_long)
        raise error
    assert caught.value is error
    assert waiting.done()


def test_other_base_exceptions_make_a_base_group(parallel: Executor) -> None:
    with pytest.raises(BaseExceptionGroup) as caught, parallel.scope() as scope:
        scope.submit(raise_odd)
    assert not isinstance(caught.value, ExceptionGroup)


# -- cancelling ---------------------------------------------------------------------------------


def test_a_scope_that_is_cancelled_ends_without_an_error(parallel: Executor) -> None:
    with parallel.scope() as scope:
        waiting = scope.submit(wait_long)
        scope.cancel()
        waiting.result(PATIENCE)
        raise AssertionError("it was cancelled")
    assert scope.cancelled == (waiting,)
    assert repr(scope).startswith("<unirun.Scope ended of ")


def test_a_cancelled_scope_takes_no_calls(thread: Executor) -> None:
    with thread.scope() as scope:
        scope.cancel()
        with pytest.raises(TaskCancelled, match="a scope has been cancelled, and takes no more"):
            scope.submit(double, 1)


def test_a_call_that_somebody_cancelled_is_no_failure(process: Executor) -> None:
    with process.scope() as scope:
        killed = scope.submit(wait_long)
        killed.kill(0)
        other = scope.submit(double, 2)
    assert scope.cancelled == (killed,)
    assert other.result() == 4


def test_a_cancelled_call_that_the_block_waits_for_raises_as_it_does(process: Executor) -> None:
    with pytest.raises(CancelledError), process.scope() as scope:
        killed = scope.submit(wait_long)
        killed.kill(0)
        killed.result()


# -- time ---------------------------------------------------------------------------------------


def test_at_the_time_out_what_is_there_is_there(parallel: Executor) -> None:
    assert parallel.submit(double, 1).result(PATIENCE) == 2  # it is up
    with pytest.raises(ScopeTimeout) as caught, parallel.scope(timeout=1, name="slow") as scope:
        early = scope.submit(double, 5)
        early.result(PATIENCE)
        late = scope.submit(wait_long)
    assert isinstance(caught.value, TimeoutError)
    assert str(caught.value) == (
        "scope 'slow' was not done within 1 s: 1 calls had returned, 0 had failed, 1 were cut off"
    )
    assert (scope.results, scope.cancelled) == ([10], (late,))
    assert caught.value.__cause__ is None


def test_failures_before_the_time_out_are_its_cause() -> None:
    with (
        Executor(2, backend="thread") as executor,
        pytest.raises(ScopeTimeout) as caught,
        executor.scope(timeout=0.5, on_error="collect") as scope,
    ):
        scope.submit(fail, "no")
        scope.submit(wait_long)
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert [str(each) for each in cause.exceptions] == ["no"]


def test_waiting_for_a_call_that_is_cut_off_is_the_same_time_out(parallel: Executor) -> None:
    with pytest.raises(ScopeTimeout), parallel.scope(timeout=0.2) as scope:
        scope.submit(wait_long).result(PATIENCE)


def test_a_call_that_is_over_its_own_time_has_failed(process: Executor) -> None:
    with pytest.raises(ExceptionGroup) as caught, process.scope(timeout=PATIENCE) as scope:
        scope.options(timeout=0.1).submit(wait_long)
    assert [type(each) for each in caught.value.exceptions] == [unirun.TaskTimeout]


def deadline_left() -> float:
    task = unirun.current_task()
    assert task is not None
    assert task.deadline is not None
    return task.deadline - time.monotonic()


def test_calls_know_the_deadline(parallel: Executor) -> None:
    with parallel.scope(timeout=50) as scope:
        scope.submit(deadline_left)
        with unirun.scope(timeout=500) as inner:
            inner.submit(deadline_left)
    assert 0 < scope.results[0] <= 50
    assert 0 < inner.results[0] <= 50


def test_a_block_that_is_late_but_has_lost_nothing_is_no_time_out(thread: Executor) -> None:
    with thread.scope(timeout=0.5) as scope:
        scope.submit(double, 1).result(PATIENCE)
        while not scope.cancelling:
            time.sleep(0.001)
    assert scope.results == [2]


# -- maps ---------------------------------------------------------------------------------------


def test_a_map_is_done_when_the_block_is_left(executor: Executor) -> None:
    with executor.scope() as scope:
        results = scope.map(double, range(50))
    assert list(results) == list(range(0, 100, 2))


def test_a_map_that_nobody_reads_fails_the_scope(parallel: Executor) -> None:
    with pytest.raises(ExceptionGroup) as caught, parallel.scope() as scope:
        scope.map(fail_at_3, range(5))
    assert [str(each) for each in caught.value.exceptions] == ["three"]


def test_who_reads_a_map_may_handle_its_failures(executor: Executor) -> None:
    with executor.scope() as scope:
        with pytest.raises(ValueError, match="three"):
            list(scope.map(fail_at_3, range(5)))
        found = list(scope.map(fail_at_3, range(5), errors="return"))
        scope.map(fail_at_3, range(5), errors="skip")
    assert isinstance(found[3], ValueError)


def test_a_map_of_a_cancelled_scope_does_not_just_end(parallel: Executor) -> None:
    with parallel.scope() as scope:
        results = scope.map(double, iter(range(10_000)), buffersize=4)
        assert next(results) == 0
        scope.cancel()
        with pytest.raises(CancelledError):
            list(results)
