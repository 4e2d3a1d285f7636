"""`current_task().report()`: what is known of it here, on every backend, and what it may not do."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from fractions import Fraction
from typing import Any

import pytest

import unirun
from unirun import Executor, Progress, TaskKilled, WorkerCrashed, _observe, current_task

PATIENCE = 20.0
BACKENDS = ("process", "thread", "inline")


@pytest.fixture(scope="module")
def executors() -> Iterator[dict[str, Executor]]:
    made = {name: Executor(2, backend=name) for name in (*BACKENDS, "coroutine")}
    for executor in made.values():  # what a test finds there it does not leave behind
        for future in [executor.submit(begins) for _ in range(2)]:
            future.result(PATIENCE)
    yield made
    for executor in made.values():
        executor.shutdown()


@pytest.fixture
def own() -> Iterator[Executor]:
    """For a test that has workers started, or shared objects."""
    with Executor(2, backend="process") as executor:
        yield executor


async def begins() -> None:
    """In a worker: have it do all that is done once."""
    current_task().report(0)
    await asyncio.sleep(0.2)


def tells(*reports: tuple[Any, ...]) -> None:
    for each in reports:
        current_task().report(*each)


async def tells_later(*reports: tuple[Any, ...]) -> None:
    for each in reports:
        await asyncio.sleep(0)
        current_task().report(*each)


def floods(count: int) -> None:
    report = current_task().report
    for n in range(count):
        report(n + 1, count)


def wait_until(seen: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_report_is_there_with_the_result(
    executors: dict[str, Executor], backend: str
) -> None:
    future = executors[backend].submit(tells, (1, 4), (2, 4, "two"), (3, 4, "three"))
    future.result(PATIENCE)
    assert future.progress == Progress(3, 4, "three")
    assert future.progress.fraction == 0.75
    assert str(future.progress) == "75% three"


def test_coroutines_report(executors: dict[str, Executor]) -> None:
    for backend in ("coroutine", "process", "thread"):
        future = executors[backend].submit(tells_later, (1,), (2.5, None, "more"))
        future.result(PATIENCE)
        assert future.progress == Progress(2.5, None, "more")
        assert str(future.progress) == "2.5 more"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_that_says_nothing_has_no_progress(
    executors: dict[str, Executor], backend: str
) -> None:
    future = executors[backend].submit(tells)
    future.result(PATIENCE)
    assert future.progress is None


def holds(gate: Any) -> None:
    current_task().report(1, 2, "before")
    current_task().report(2, 2, "held back for a moment")
    gate.wait()


def test_what_was_held_back_comes_though_the_task_says_nothing_more(own: Executor) -> None:
    gate = own.Event()
    future = own.submit(holds, gate)
    wait_until(lambda: future.progress == Progress(2, 2, "held back for a moment"))
    assert not future.done()
    gate.set()
    future.result(PATIENCE)


def test_a_worker_sends_a_few_reports_of_very_many_and_the_last(
    executors: dict[str, Executor],
) -> None:
    seen: list[Any] = []
    stop = _observe.watch(seen.append, ["progress"])
    try:
        future = executors["process"].submit(floods, 20_000)
        future.result(PATIENCE)
    finally:
        stop()
    assert future.progress == Progress(20_000, 20_000)
    assert 1 <= len(seen) < 1000
    assert seen[-1].done == seen[-1].total == 20_000
    assert [each.done for each in seen] == sorted(each.done for each in seen)


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_watches_is_told(executors: dict[str, Executor], backend: str) -> None:
    seen: list[Any] = []
    stop = _observe.watch(seen.append, ["progress"])
    try:
        future = executors[backend].options(name="named").submit(tells, (1, 2, "half"))
        future.result(PATIENCE)
    finally:
        stop()
    (event,) = seen
    assert (event.done, event.total, event.message) == (1, 2, "half")
    assert event.task == "named"
    assert event.backend == backend
    assert event.call == _observe.number_of(future)


def fails_first(path: str) -> None:
    attempt = current_task().attempt
    current_task().report(attempt, 9)
    if attempt == 1:
        raise ValueError


@pytest.mark.parametrize("backend", ["process", "thread"])
def test_calls_that_are_run_again_or_wait_in_a_view_tell_too(backend: str) -> None:
    with Executor(2, backend=backend) as executor:
        view = executor.options(retries=1, limit=1)
        futures = [view.submit(fails_first, "") for _ in range(2)]
        wait(futures, PATIENCE)
    assert [future.progress for future in futures] == [Progress(2, 9)] * 2


def reports_and_crashes() -> None:
    current_task().report(3, 4)
    os._exit(5)


def test_a_report_outlives_the_worker(own: Executor) -> None:
    future = own.submit(reports_and_crashes)
    assert isinstance(future.exception(PATIENCE), WorkerCrashed)
    assert future.progress == Progress(3, 4)


def test_a_killed_call_keeps_what_it_has_said(own: Executor) -> None:
    gate = own.Event()
    future = own.submit(holds, gate)
    wait_until(lambda: future.progress is not None)
    assert future.kill(0.0)
    with pytest.raises(TaskKilled):
        future.result()
    assert future.progress.total == 2


def forks() -> int:
    current_task().report(1, 2)
    child = os.fork()
    if not child:
        current_task().report(2, 2, "from the child")
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("backend", ["process", "thread"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork with threads, from Python 3.12 on
def test_a_forked_child_does_not_report_for_its_parent(
    executors: dict[str, Executor], backend: str
) -> None:
    future = executors[backend].submit(forks)
    assert future.result(PATIENCE) == 0
    assert future.progress == Progress(1, 2)


def keeps() -> unirun.TaskContext:
    current_task().report(1, 2)
    return current_task()


@pytest.mark.parametrize("backend", ["thread", "inline"])
def test_a_report_after_the_end_changes_nothing(backend: str) -> None:
    with Executor(1, backend=backend, **({"copy": False} if backend == "inline" else {})) as ex:
        future = ex.submit(keeps)
        task = future.result(PATIENCE)
        task.report(2, 2)
        assert future.progress == Progress(1, 2)


def leaves_a_thread(go: Any, done: Any) -> None:
    task = current_task()

    def late() -> None:
        go.wait()
        task.report(7, 7, "late")
        done.set()

    threading.Thread(target=late, daemon=True).start()
    task.report(1, 2)


def test_a_thread_that_a_task_has_left_reports_for_nobody(own: Executor) -> None:
    executor = own
    go, done = executor.Event(), executor.Event()
    future = executor.submit(leaves_a_thread, go, done)
    future.result(PATIENCE)
    others = [executor.submit(tells, (n, 9)) for n in range(4)]
    go.set()
    assert done.wait(PATIENCE)
    wait(others, PATIENCE)
    assert future.progress == Progress(1, 2)
    assert [each.progress for each in others] == [Progress(n, 9) for n in range(4)]


def test_numbers_of_other_types_are_taken(executors: dict[str, Executor]) -> None:
    import numpy

    for backend in BACKENDS:
        future = executors[backend].submit(
            tells, (numpy.int64(3), numpy.float32(4.0)), (Fraction(1, 2), True)
        )
        future.result(PATIENCE)
        assert future.progress == Progress(0.5, 1)


@pytest.mark.parametrize("wrong", [("1",), (None,), (1, "2"), (1j,), ([],)], ids=repr)
def test_what_is_no_number_is_refused(executors: dict[str, Executor], wrong: Any) -> None:
    for backend in BACKENDS:
        error = executors[backend].submit(tells, wrong).exception(PATIENCE)
        assert isinstance(error, TypeError)
        assert "must be a number, not" in str(error)


def test_a_message_is_cut_and_may_be_anything(executors: dict[str, Executor]) -> None:
    for backend in BACKENDS:
        future = executors[backend].submit(tells, (1, 2, "x" * 10_000))
        future.result(PATIENCE)
        assert future.progress.message == "x" * 200
        future = executors[backend].submit(tells, (1, 2, 17))
        future.result(PATIENCE)
        assert future.progress.message == "17"


def submits_and_reports() -> Any:
    inner = unirun.submit(tells, (5, 6, "inside"))
    inner.result()
    current_task().report(1, 2, "outside")
    return inner.progress


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_nested_call_does_not_report_for_its_parent(backend: str) -> None:
    with Executor(2, backend=backend) as executor:
        future = executor.submit(submits_and_reports)
        future.result(PATIENCE)
    assert future.progress == Progress(1, 2, "outside")


def has_a_pool() -> Any:
    with Executor(1, backend="process") as inner:
        future = inner.submit(tells, (5, 6, "inside"))
        future.result()
        return future.progress


def test_the_pool_of_a_task_tells_the_task(own: Executor) -> None:
    future = own.submit(has_a_pool)
    assert future.result(PATIENCE) == Progress(5, 6, "inside")
    assert future.progress is None


@pytest.mark.parametrize(
    ("done", "total", "part"),
    [(1, 0, None), (1, None, None), (-1, 4, 0.0), (9, 4, 1.0), (float("inf"), 4, 1.0)],
)
def test_a_fraction_is_between_nothing_and_all(done: float, total: Any, part: Any) -> None:
    assert Progress(done, total).fraction == part
