"""Workers, zygotes and parents that die by themselves: who notices, and who does not."""

import os
import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import psutil
import pytest
from process import bodies, watch
from process.line import PATIENCE, Line

import unirun
from unirun import InitializerFailed, WorkerCrashed

Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]


def crash_of(future: "unirun.Future[Any]") -> WorkerCrashed:
    with pytest.raises(WorkerCrashed) as caught:
        future.result(PATIENCE)
    return caught.value


# -- a worker -----------------------------------------------------------------------------------


@pytest.mark.scenario(1, "SIGKILL in a task: told with pid and signal")
@pytest.mark.scenario(2, "exit code in the message, 0 too")
@pytest.mark.scenario(15, "the next call works")
@pytest.mark.parametrize(
    ("body", "exitcode", "how"),
    [
        (bodies.by_sigkill, -signal.SIGKILL, "SIGKILL"),
        (bodies.by_segfault, -signal.SIGSEGV, "SIGSEGV"),
        (bodies.by_abort, -signal.SIGABRT, "SIGABRT"),
        (bodies.by_exit_0, 0, "exit code 0"),
        (bodies.by_exit_3, 3, "exit code 3"),
    ],
)
def test_a_crash_tells_how_and_the_pool_goes_on(
    pool: Pool, body: Callable[[], None], exitcode: int, how: str
) -> None:
    executor = pool(1)
    before = executor.submit(bodies.pid).result(PATIENCE)
    error = crash_of(executor.submit(body))
    assert (error.exitcode, error.pid, error.attempt) == (exitcode, before, 1)
    assert error.task == f"process.bodies.{body.__name__}"
    assert f"running {error.task} died" in str(error)
    assert how in str(error)
    assert isinstance(error, BrokenProcessPool)
    assert executor.submit(bodies.pid).result(PATIENCE) != before
    assert executor.stats()["process"].crashed == 1


def test_a_crash_is_seen_with_every_start_method(pool: Pool, method: str) -> None:
    executor = pool(1, method)
    assert crash_of(executor.submit(bodies.by_sigkill)).signal_name == "SIGKILL"
    assert crash_of(executor.submit(bodies.by_exit_3)).exitcode == 3
    assert executor.submit(bodies.double, 1).result(PATIENCE) == 2


@pytest.mark.parametrize("status", [0, 3, "text", None])
@pytest.mark.scenario("sys.exit in a task", "is its outcome, and no crash")
def test_sys_exit_in_a_task_is_an_exception_and_no_crash(pool: Pool, status: object) -> None:
    executor = pool(1)
    before = executor.submit(bodies.pid).result(PATIENCE)
    error = executor.submit(bodies.raise_exit, status).exception(PATIENCE)
    assert isinstance(error, SystemExit)
    assert error.code == status
    assert executor.submit(bodies.pid).result(PATIENCE) == before


@pytest.mark.scenario(7, "the worker exits while the argument is unpickled")
def test_a_crash_while_the_arguments_are_unpickled(pool: Pool) -> None:
    executor = pool(1)
    assert crash_of(executor.submit(bodies.double, bodies.DiesUnpickled())).exitcode == 3
    assert executor.submit(bodies.double, 1).result(PATIENCE) == 2


@pytest.mark.scenario(8, "the worker exits while the result is pickled")
def test_a_crash_while_the_result_is_pickled(pool: Pool) -> None:
    executor = pool(1)
    assert crash_of(executor.submit(bodies.return_what_dies)).exitcode == 4
    assert executor.submit(bodies.double, 1).result(PATIENCE) == 2


@pytest.mark.scenario(13, "worker dies half way through writing a 100 MB result")
def test_a_crash_half_way_through_a_large_result(pool: Pool, line: Lines) -> None:
    executor, ready, go, write = pool(2, arena_limit=0), line(), line(), line()
    future = executor.submit(bodies.return_much, write, ready)
    writer = psutil.Process(int(ready.wait()))
    slow = executor.submit(bodies.make_slow, go, ready)
    ready.wait()  # from here on the loop is busy with that result and reads no other
    write.send()
    ready.wait()
    watch.until(lambda: writer.status() == psutil.STATUS_SLEEPING, "the pipe is full")
    writer.kill()
    go.send()
    assert crash_of(future).signal_name == "SIGKILL"
    assert isinstance(slow.result(PATIENCE), bodies.Slow)


@pytest.mark.scenario(5, "each running task fails, what waits is done")
def test_all_workers_at_once(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(4), line(), line()
    futures = [executor.submit(bodies.die_when_told, go, ready) for _ in range(4)]
    waiting = [executor.submit(bodies.double, number) for number in range(20)]
    pids = {int(ready.wait()) for _ in futures}
    for _ in futures:
        go.send()
    assert {crash_of(future).pid for future in futures} == pids
    assert [future.result(PATIENCE) for future in waiting] == [2 * n for n in range(20)]


@pytest.mark.scenario(1, "only the running call fails")
def test_a_crash_has_one_victim(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(2), line(), line()
    victim = executor.submit(bodies.sleep, ready)
    pid = int(ready.wait())
    neighbour = executor.submit(bodies.wait_for, go, ready)
    other = int(ready.wait())
    waiting = executor.submit(bodies.double, 1)
    os.kill(pid, signal.SIGKILL)
    assert crash_of(victim).pid == pid
    go.send()
    assert neighbour.result(PATIENCE) == other
    assert waiting.result(PATIENCE) == 2


@pytest.mark.scenario(4, "an idle worker that has died gets no call")
def test_a_call_is_not_given_to_an_idle_worker_that_has_died(pool: Pool, method: str) -> None:
    executor = pool(1, method)
    for _ in range(10):
        pid = executor.submit(bodies.pid).result(PATIENCE)
        os.kill(pid, signal.SIGKILL)
        watch.until_gone(pid)
        assert executor.submit(bodies.double, 4).result(PATIENCE) == 8
    assert executor.stats()["process"].crashed == 0


@pytest.mark.scenario(10, "the answer counts, later calls run elsewhere")
def test_a_worker_that_dies_after_its_answer_takes_no_other_call_along(
    pool: Pool, line: Lines
) -> None:
    executor, ready, go, die = pool(2), line(), line(), line()
    slow = executor.submit(bodies.make_slow, go, ready)
    ready.wait()  # from here on the loop is busy with that result
    answered = executor.submit(bodies.answer_and_die, die, ready)
    after = executor.submit(bodies.double, 4)
    go.send()
    slow.result(PATIENCE)
    assert answered.result(PATIENCE) == "answer"
    pid = int(ready.wait())
    slow = executor.submit(bodies.make_slow, go, ready)
    ready.wait()
    die.send()
    watch.until_gone(pid)
    others = [executor.submit(bodies.double, number) for number in range(4)]
    go.send()
    assert after.result(PATIENCE) == 8
    assert [other.result(PATIENCE) for other in others] == [0, 2, 4, 6]
    assert executor.stats()["process"].crashed == 0


# -- before the first call ----------------------------------------------------------------------


@pytest.mark.scenario(19, "four attempts, then BrokenProcessPool")
@pytest.mark.scenario("crash during the initializer", "told after at most 4 attempts")
def test_workers_that_die_in_the_initializer_are_not_started_for_ever(
    pool: Pool, method: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    executor = pool(1, method, initializer=bodies.note_and_die, initargs=(str(log),))
    futures = [executor.submit(bodies.double, number) for number in range(3)]
    for future in futures:
        with pytest.raises(InitializerFailed, match=r"die while they start .* exit code 5"):
            future.result(PATIENCE)
    assert log.read_text().count("attempt") == 4
    with pytest.raises(BrokenProcessPool, match=r"die while they start .* exit code 5"):
        executor.submit(bodies.double, 1).result(PATIENCE)
    assert log.read_text().count("attempt") == 4


def test_an_initializer_that_raises_is_named(pool: Pool, method: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    executor = pool(1, method, initializer=bodies.note_and_raise, initargs=(str(log),))
    futures = [executor.submit(bodies.double, number) for number in range(3)]
    for future in futures:
        with pytest.raises(InitializerFailed, match="LookupError: no licence found") as caught:
            future.result(PATIENCE)
        assert type(caught.value.__cause__) is LookupError
    assert len({id(future.exception(0)) for future in futures}) == 3
    watch.until(lambda: not executor.stats()["process"].workers, "the worker has ended")
    with pytest.raises(InitializerFailed, match="LookupError: no licence found"):
        executor.submit(bodies.double, 1).result(PATIENCE)
    assert log.read_text().count("attempt") == 1


# -- the zygote ---------------------------------------------------------------------------------


def test_an_idle_pool_outlives_its_zygote(pool: Pool) -> None:
    executor = pool(1)
    executor.submit(bodies.pid).result(PATIENCE)
    zygote = watch.zygote_of(executor)
    zygote.kill()
    watch.until_gone(zygote.pid)
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8
    assert crash_of(executor.submit(bodies.by_sigkill))
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8


def test_calls_outlive_the_zygote(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(2), line(), line()
    futures = [executor.submit(bodies.wait_for, go, ready) for _ in range(2)]
    pids = {int(ready.wait()) for _ in futures}
    watch.zygote_of(executor).kill()
    waiting = executor.submit(bodies.double, 4)
    go.send()
    go.send()
    assert {future.result(PATIENCE) for future in futures} == pids
    assert waiting.result(PATIENCE) == 8


def test_workers_without_a_zygote_can_be_killed_and_may_crash(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(2), line(), line()
    killed = executor.submit(bodies.sleep, ready)
    pid = int(ready.wait())
    crashed = executor.submit(bodies.die_when_told, go, ready)
    ready.wait()
    zygote = watch.zygote_of(executor)
    zygote.kill()
    watch.until_gone(zygote.pid)
    go.send()
    error = crash_of(crashed)
    assert error.exitcode is None
    assert "how it ended is not known" in str(error)
    assert killed.kill()
    assert watch.is_gone(pid)
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8


def test_a_stopped_zygote_does_not_hold_up_the_shutdown(
    pool: Pool, line: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unirun.backends.process.crew.NEWS_PATIENCE", 0.2)
    executor, ready = pool(3), line()
    running = executor.submit(bodies.sleep, ready)
    pid = int(ready.wait())
    idle = executor.submit(bodies.pid).result(PATIENCE)
    zygote = watch.zygote_of(executor)
    zygote.suspend()
    unborn = [executor.submit(bodies.sleep, ready) for _ in range(3)]
    executor.shutdown(kill=True)
    assert running.cancelled()
    assert all(future.cancelled() for future in unborn)
    watch.until_gone(pid, idle, zygote.pid)


# -- the loop -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_loop_leaves_no_future_waiting(
    pool: Pool, method: str, line: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, ready = pool(2, method), line()
    running = executor.submit(bodies.sleep, ready)
    pid = int(ready.wait())

    def settle(*_: object) -> None:
        raise ZeroDivisionError("the bug")

    monkeypatch.setattr("unirun.backends.process.outcomes.settle", settle)
    first, waiting = executor.submit(bodies.hand_back, []), executor.submit(bodies.sleep, ready)
    for future in (first, running, waiting):
        with pytest.raises(unirun.UnirunError, match=r"ZeroDivisionError: the bug.*report it"):
            future.result(PATIENCE)
    with pytest.raises(unirun.UnirunError, match="the bug"):
        executor.submit(bodies.pid)
    executor.shutdown()
    watch.until_gone(pid)


# -- the parent ---------------------------------------------------------------------------------

PARENT = """
import os, signal, sys, time
import psutil
import unirun
from process import bodies
from process.line import Line

method, ready, body, inner = *sys.argv[1:4], Line(sys.argv[4])
executor = unirun.Executor(2, backend="process", mp_context=method)
go = Line(ready)
if body == "idle":
    for _ in range(2):
        executor.submit(bodies.wait_for, go, inner)
    pids = [int(inner.wait()), int(inner.wait())]
    go.send()
    go.send()
    deadline = time.monotonic() + 20
    while executor.stats()["process"].running and time.monotonic() < deadline:
        time.sleep(0.01)
else:
    for _ in range(2):
        executor.submit(getattr(bodies, body), inner)
    pids = [word for _ in range(2) for word in inner.wait().split()]
parent = psutil.Process(executor.stats()["process"].pids[0]).ppid()
if parent != os.getpid():
    pids.append(parent)  # the zygote
print(*pids, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("body", ["idle", "sleep", "hold_the_gil", "start_a_child"])
@pytest.mark.scenario(43, "with idle, busy and deaf workers, and what these have started")
def test_nothing_outlives_a_parent_that_was_killed(
    method: str, body: str, tmp_path: Path, line: Lines
) -> None:
    ready, inner = line(), line()
    done = watch.run(
        tmp_path, PARENT, method, ready.path, body, inner.path, env=watch.with_tests_on_path()
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(word) for word in done.stdout.split()]
    assert len(set(pids)) >= (3 if method == "zygote" else 2)
    watch.until_gone(*pids, timeout=5)
