"""Scenarios 1 to 20: a worker dies, at a bad moment; one call at most is the worse for it.

Those that are not here are in tests/process/ (test_death.py, test_last_words.py, test_launch.py).
"""

import gc
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import process.conftest as fixtures
import psutil
import pytest
import reliability_bodies_death as dying
from process import bodies, watch
from process.line import PATIENCE, Line

import unirun
from unirun import DeserializationError, InitializerFailed, Retry, WorkerCrashed

pool, line, method = fixtures.pool, fixtures.line, fixtures.method
Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]
RecordProperty = Callable[[str, object], None]
MB = 1_000_000


def crash_of(future: "unirun.Future[Any]") -> WorkerCrashed:
    with pytest.raises(WorkerCrashed) as caught:
        future.result(PATIENCE)
    return caught.value


def values_of(futures: "list[unirun.Future[Any]]") -> list[Any]:
    return [future.result(PATIENCE) for future in futures]


# -- how it dies ----------------------------------------------------------------------------------


@pytest.mark.scenario(2, "a task calls os._exit(0), os._exit(n) or the C library's exit")
@pytest.mark.scenario("a task calls os._exit(0)", "exit code 0 is still a crash")
@pytest.mark.parametrize(
    ("body", "status"), [(dying.exit_with_0, 0), (dying.exit_at_once, 3), (dying.exit_in_c, 7)]
)
def test_an_exit_is_a_crash_with_its_exit_code(
    pool: Pool, body: Callable[[], None], status: int
) -> None:
    executor = pool(1)
    error = crash_of(executor.submit(body))
    assert error.exitcode == status
    assert f"exit code {status}" in str(error)
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8


@pytest.mark.scenario(4, "an idle worker is killed and a call submitted at the same moment")
def test_a_call_submitted_while_an_idle_worker_dies_ends_either_way(pool: Pool) -> None:
    executor = pool(1)
    ends = []
    for number in range(12):
        pid = executor.submit(bodies.pid).result(PATIENCE)
        os.kill(pid, signal.SIGKILL)
        future = executor.submit(bodies.double, number)
        error = future.exception(PATIENCE)
        assert error is None or isinstance(error, WorkerCrashed)
        ends.append(error is None and future.result(0) == 2 * number)
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8
    assert any(ends), "every one of them was lost, though it had not begun"


@pytest.mark.scenario(5, "all of N workers killed at the same instant, N = 1, 2, 5, 13")
@pytest.mark.parametrize("workers", [1, 2, 5, 13])
def test_all_workers_are_killed_at_the_same_instant(pool: Pool, line: Lines, workers: int) -> None:
    executor, ready = pool(workers), line()
    running = [executor.submit(dying.say_and_sleep, ready) for _ in range(workers)]
    waiting = [executor.submit(bodies.double, number) for number in range(20)]
    pids = {int(ready.wait()) for _ in running}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert {crash_of(future).pid for future in running} == pids
    assert values_of(waiting) == [2 * n for n in range(20)]


@pytest.mark.scenario(6, "a worker kills its neighbour while both run tasks")
def test_a_worker_may_kill_its_neighbour(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(2), line(), line()
    for _ in range(3):
        victim = executor.submit(dying.say_and_sleep, ready)
        pid = int(ready.wait())
        killer = executor.submit(dying.kill_another, ready, go)
        ready.wait()
        go.send(pid)
        assert crash_of(victim).pid == pid
        assert killer.result(PATIENCE) == "killed it"


# -- while something is pickled -------------------------------------------------------------------

CAUSES = {
    dying.segfault: WorkerCrashed,
    dying.exit_at_once: WorkerCrashed,
    dying.leave: DeserializationError,
    dying.fail: DeserializationError,
}


def surrounded(
    executor: unirun.Executor, line: Lines, fn: Callable[..., Any], *args: Any
) -> BaseException | None:
    """How a call ends that has one beside it and some behind it; these must not notice."""
    ready, go = line(), line()
    beside = executor.submit(bodies.wait_for, go, ready)
    pid = int(ready.wait())
    future = executor.submit(fn, *args)
    behind = [executor.submit(bodies.double, number) for number in range(5)]
    error = future.exception(PATIENCE)
    assert values_of(behind) == [0, 2, 4, 6, 8]
    go.send()
    assert beside.result(PATIENCE) == pid
    return error


@pytest.mark.scenario(7, "crash while the argument is unpickled: that call fails, and no other")
@pytest.mark.parametrize("cause", CAUSES)
def test_a_crash_while_an_argument_is_unpickled_has_one_victim(
    pool: Pool, line: Lines, cause: Callable[[], None]
) -> None:
    error = surrounded(pool(2), line, dying.take, dying.Unpickled(cause))
    assert isinstance(error, CAUSES[cause])
    assert isinstance(error, WorkerCrashed) or error.__cause__ is not None


@pytest.mark.scenario(8, "crash while the result is pickled: that call fails, and no other")
@pytest.mark.parametrize("cause", CAUSES)
def test_a_crash_while_a_result_is_pickled_has_one_victim(
    pool: Pool, line: Lines, cause: Callable[[], None]
) -> None:
    error = surrounded(pool(2), line, dying.make_pickled, cause)
    crashes = CAUSES[cause] is WorkerCrashed
    assert isinstance(error, WorkerCrashed if crashes else unirun.SerializationError)
    assert crashes or error.__cause__ is not None


@pytest.mark.scenario(9, "exception or SystemExit while the result is unpickled in the parent")
@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_a_result_raises_at_home_ends_its_own_call(
    pool: Pool, line: Lines, kind: type[BaseException]
) -> None:
    executor = pool(2)
    error = surrounded(executor, line, dying.make_raising, os.getpid(), kind)
    assert isinstance(error, DeserializationError)
    assert isinstance(error.__cause__, kind)
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8


@pytest.mark.scenario(10, "crash in __del__ of an argument, after the result was sent")
def test_a_crash_after_the_answer_leaves_the_answer(pool: Pool) -> None:
    executor = pool(1)
    for _ in range(5):
        future = executor.submit(dying.take, dying.DiesLater())
        error = future.exception(PATIENCE)
        # The argument is dropped before the answer is sent or afterwards, as the worker has it;
        # a call that lost its answer so is told as what it is.
        assert error is None or (isinstance(error, WorkerCrashed) and error.exitcode == 6)
        assert executor.submit(bodies.double, 4).result(PATIENCE) == 8


@pytest.mark.scenario(10, "a worker that dies between two calls takes none along")
@pytest.mark.scenario("kill between 'task done' and 'idle'", "no call is lost")
def test_a_worker_that_dies_with_its_answer_on_the_way_takes_none_along(
    pool: Pool, line: Lines
) -> None:
    executor, die, ready = pool(1), line(), line()
    for number in range(10):
        answered = executor.submit(bodies.answer_and_die, die, ready)
        behind = [executor.submit(bodies.double, n) for n in range(number)]
        die.send()  # it dies at once when it has answered, whatever it does then
        pid = int(ready.wait())
        assert answered.exception(PATIENCE) is None or crash_of(answered)
        for n, future in enumerate(behind):
            error = future.exception(PATIENCE)
            assert error is None or isinstance(error, WorkerCrashed)
            assert error is not None or future.result(0) == 2 * n
        assert sum(future.exception(0) is not None for future in [answered, *behind]) <= 1
        watch.until_gone(pid)  # else the next one might be given to it, and never begin


# -- half way through a message -------------------------------------------------------------------


@pytest.mark.scenario(11, "a worker dies half way through reading a call: that runs elsewhere")
def test_a_call_that_was_half_read_runs_elsewhere(pool: Pool) -> None:
    executor = pool(1, arena_limit=0)  # so that it all goes through the pipe
    pid = executor.submit(bodies.pid).result(PATIENCE)
    os.kill(pid, signal.SIGSTOP)
    future = executor.submit(dying.length, bytes(10 * MB))
    watch.until(future.running, "it is on its way")
    os.kill(pid, signal.SIGKILL)
    assert future.result(PATIENCE) == 10 * MB
    assert executor.stats()["process"].crashed == 0


@pytest.mark.scenario(12, "a worker dies while it writes its result: the others go on")
@pytest.mark.scenario("kill while a worker sends a 10 MB result", "dead, then resolved")
@pytest.mark.parametrize("how", ["kill", "SIGKILL"])
def test_a_worker_that_dies_while_it_writes_holds_up_nobody(
    pool: Pool, line: Lines, how: str
) -> None:
    executor, ready = pool(2, arena_limit=0), line()
    for moment in (0.0, 0.001, 0.003, 0.01):
        future = executor.submit(dying.send_much, ready, 10 * MB)
        others = [executor.submit(bodies.double, n) for n in range(10)]
        pid = int(ready.wait())
        end = time.perf_counter() + moment
        while time.perf_counter() < end:
            pass
        if how == "kill":
            killed = future.kill()
            assert killed == future.cancelled()
            assert killed or len(future.result(0)) == 10 * MB
            assert not killed or watch.is_gone(pid)
        else:
            os.kill(pid, signal.SIGKILL)
            error = future.exception(PATIENCE)
            assert isinstance(error, WorkerCrashed) if error else len(future.result(0)) == 10 * MB
        assert values_of(others) == [2 * n for n in range(10)]


# -- what else is under way -----------------------------------------------------------------------


@pytest.mark.scenario(14, "crash after the executor was garbage collected, tasks still running")
def test_a_crash_after_the_executor_is_gone_is_told(line: Lines) -> None:
    ready = line()
    executor = unirun.Executor(2, backend="process")
    future = executor.submit(dying.say_and_sleep, ready)
    pid = int(ready.wait())
    waiting = [executor.submit(bodies.double, n) for n in range(4)]
    del executor
    gc.collect()
    os.kill(pid, signal.SIGKILL)
    assert crash_of(future).pid == pid
    assert values_of(waiting) == [0, 2, 4, 6]
    children = psutil.Process().children(recursive=True)
    watch.until_gone(*(child.pid for child in children if is_ours(child)))


def is_ours(child: psutil.Process) -> bool:
    try:
        return "unirun" in " ".join(child.cmdline())
    except psutil.Error:
        return False


@pytest.mark.scenario(15, "the pool is usable after a crash: the same object heals")
def test_the_next_result_comes_soon_after_a_crash(
    pool: Pool, line: Lines, record_property: RecordProperty
) -> None:
    executor, ready = pool(1), line()
    times = []
    for number in range(12):
        future = executor.submit(dying.say_and_sleep, ready)
        pid = int(ready.wait())
        after = executor.submit(bodies.double, number)
        began = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        assert after.result(PATIENCE) == 2 * number
        times.append(1000 * (time.perf_counter() - began))
        crash_of(future)
    median = statistics.median(times)
    figure = f"SIGKILL to next result: {median:.1f} ms median, {max(times):.1f} ms worst of 12"
    record_property("figure", figure)


@pytest.mark.scenario(16, "10 threads share a pool that was just broken: it heals under them")
def test_ten_threads_share_a_pool_whose_workers_were_just_killed(pool: Pool) -> None:
    executor = pool(3)
    values_of([executor.submit(bodies.double, n) for n in range(10)])
    wrong: list[object] = []

    def use(thread: int) -> None:
        for n in range(20):
            error = executor.submit(bodies.double, n).exception(PATIENCE)
            if error is not None and not isinstance(error, WorkerCrashed):
                wrong.append(error)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(10)]
    for pid in executor.stats()["process"].pids:
        os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.start()
    for pid in executor.stats()["process"].pids:
        os.kill(pid, signal.SIGKILL) if not watch.is_gone(pid) else None
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


@pytest.mark.scenario(16, "10 threads share a pool that cannot be healed: BrokenExecutor for all")
def test_ten_threads_share_a_pool_that_cannot_start_any_worker(pool: Pool) -> None:
    executor = pool(2, initializer=dying.exit_at_once)
    errors: list[BaseException | None] = []

    def use() -> None:
        for _ in range(5):
            try:
                errors.append(executor.submit(bodies.double, 1).exception(PATIENCE))
            except InitializerFailed as exc:
                errors.append(exc)

    threads = [threading.Thread(target=use) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(errors) == 50
    assert all(isinstance(error, InitializerFailed) for error in errors)


@pytest.mark.scenario(17, "a worker dies while a resize is under way, which completes")
@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3)])
def test_a_worker_dies_while_the_pool_is_resized(
    pool: Pool, line: Lines, before: int, after: int
) -> None:
    executor, ready, go = pool(before), line(), line()
    running = [executor.submit(bodies.wait_for, go, ready) for _ in range(before)]
    pids = [int(ready.wait()) for _ in running]
    waiting = [executor.submit(bodies.double, n) for n in range(10)]
    executor.resize(after)
    os.kill(pids[0], signal.SIGKILL)
    for _ in running[1:]:
        go.send()
    crashed = [future for future in running if future.exception(PATIENCE) is not None]
    assert [crash_of(future).pid for future in crashed] == [pids[0]]
    assert values_of(waiting) == [2 * n for n in range(10)]
    at_once = [executor.submit(bodies.wait_for, go, ready) for _ in range(after)]
    assert len({ready.wait() for _ in at_once}) == after, "so many run at the same time"
    for _ in at_once:
        go.send()
    values_of(at_once)
    enough = max(1, after)
    watch.until(lambda: executor.stats()["process"].workers <= enough, "the surplus has gone")


@pytest.mark.scenario(18, "shutdown(wait=True) right after a task that kills a worker")
def test_shutdown_returns_right_after_a_task_that_kills_its_worker(method: str) -> None:
    for _ in range(3):
        executor = unirun.Executor(2, backend="process", mp_context=method)
        futures = [executor.submit(dying.die_by_sigkill) for _ in range(2)]
        futures += [executor.submit(bodies.double, n) for n in range(3)]
        executor.shutdown(timeout=PATIENCE)
        assert [type(future.exception(0)) for future in futures[:2]] == [WorkerCrashed] * 2
        assert [future.result(0) for future in futures[2:]] == [0, 2, 4]


@pytest.mark.scenario(20, "a crash loop: the call fails after its retries, the others run")
def test_a_call_that_crashes_every_worker_fails_and_the_others_run(
    pool: Pool, tmp_path: Path
) -> None:
    executor = pool(2)
    retry = Retry(crashes=3, backoff=0)
    bad = executor.options(retries=retry).submit(dying.die_unless_tried, str(tmp_path / "a"), 99)
    often = executor.options(retries=retry).submit(dying.die_unless_tried, str(tmp_path / "b"), 1)
    others = [executor.submit(bodies.double, n) for n in range(50)]
    assert values_of(others) == [2 * n for n in range(50)]
    assert often.result(PATIENCE) == 2
    assert crash_of(bad).attempt <= 4
    assert len((tmp_path / "a").read_text().splitlines()) <= 4
