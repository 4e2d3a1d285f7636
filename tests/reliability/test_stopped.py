"""Whoever is stopped holds up its own work only; and a zygote may die with workers unborn."""

import os
import signal
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
from unirun import TaskKilled, WorkerCrashed

pool, line = fixtures.pool, fixtures.line
Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]
RecordProperty = Callable[[str, object], None]


def crash_of(future: "unirun.Future[Any]") -> WorkerCrashed:
    with pytest.raises(WorkerCrashed) as caught:
        future.result(PATIENCE)
    return caught.value


def values_of(futures: "list[unirun.Future[Any]]") -> list[Any]:
    return [future.result(PATIENCE) for future in futures]


def is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


# -- a worker -------------------------------------------------------------------------------------


@pytest.mark.scenario("SIGSTOP of a worker", "only its call hangs; a kill and a time-out end it")
@pytest.mark.parametrize("how", ["kill", "timeout"])
def test_a_stopped_worker_holds_up_its_own_call_only(pool: Pool, line: Lines, how: str) -> None:
    # It goes on for its SIGTERM: a grace of any length is not waited for.
    executor, ready = pool(2, grace=1000.0), line()
    view = executor.options(timeout=0.5) if how == "timeout" else executor
    future = view.submit(dying.stop_now, ready)
    pid = int(ready.wait())
    watch.until(lambda: is_stopped(pid), "it stands still")
    others = [executor.submit(bodies.double, n) for n in range(20)]
    assert values_of(others) == [2 * n for n in range(20)]
    if how == "kill":
        assert future.kill()
    expected = TaskKilled if how == "kill" else unirun.TaskTimeout
    with pytest.raises(expected):
        future.result(PATIENCE)
    assert watch.is_gone(pid)


@pytest.mark.scenario("SIGSTOP of a worker", "one stopped while it starts is replaced")
def test_a_worker_that_is_stopped_while_it_starts_is_replaced(pool: Pool, tmp_path: Path) -> None:
    executor = pool(1, initializer=dying.stop_once, initargs=(str(tmp_path / "stopped"),))
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8
    assert (tmp_path / "stopped").exists()


@pytest.mark.scenario("SIGSTOP of a worker", "one that is idle does not hold up the shutdown")
def test_a_stopped_idle_worker_does_not_hold_up_the_shutdown(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, record_property: RecordProperty
) -> None:
    monkeypatch.setattr("unirun.backends.process.crew.STOP_PATIENCE", 1000.0)
    executor = pool(1)
    pid = executor.submit(bodies.pid).result(PATIENCE)
    os.kill(pid, signal.SIGSTOP)
    watch.until(lambda: is_stopped(pid), "it stands still")
    began = time.monotonic()
    executor.shutdown(timeout=PATIENCE)
    record_property("figure", f"shutdown with a stopped worker: {time.monotonic() - began:.2f} s")
    assert watch.is_gone(pid)


@pytest.mark.scenario("SIGSTOP of the zygote", "replaced when a worker is needed")
def test_a_stopped_zygote_is_replaced_when_a_worker_is_needed(
    pool: Pool, line: Lines, record_property: RecordProperty
) -> None:
    executor, ready, go = pool(2), line(), line()
    running = executor.submit(bodies.wait_for, go, ready)
    pid = int(ready.wait())
    zygote = watch.zygote_of(executor)
    zygote.suspend()
    began = time.monotonic()
    needs_another = executor.submit(bodies.double, 4)
    assert needs_another.result(PATIENCE) == 8
    record_property("figure", f"call that needs a worker: {time.monotonic() - began:.2f} s")
    go.send()
    assert running.result(PATIENCE) == pid
    watch.until_gone(zygote.pid)


@pytest.mark.scenario("SIGSTOP of the zygote", "the crash of a worker is noticed nevertheless")
def test_a_crash_is_noticed_while_the_zygote_stands_still(
    pool: Pool, line: Lines, record_property: RecordProperty
) -> None:
    executor, ready = pool(1), line()
    future = executor.submit(dying.say_and_sleep, ready)
    pid = int(ready.wait())
    watch.zygote_of(executor).suspend()
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    assert crash_of(future).pid == pid
    record_property("figure", f"crash to WorkerCrashed: {time.monotonic() - began:.2f} s")
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8


@pytest.mark.scenario("SIGSTOP of the zygote", "one that goes on again does no harm")
def test_a_zygote_that_goes_on_again_does_no_harm(pool: Pool, line: Lines) -> None:
    executor, ready = pool(3), line()
    executor.submit(bodies.pid).result(PATIENCE)
    zygote = watch.zygote_of(executor)
    zygote.suspend()
    futures = [executor.submit(dying.say_and_sleep, ready) for _ in range(3)]
    killed = futures.pop()
    threading.Timer(0.1, zygote.resume).start()
    assert killed.kill()
    for _ in futures:
        ready.wait()
    assert all(future.kill() for future in futures)
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8


# -- the zygote dies ------------------------------------------------------------------------------


@pytest.mark.scenario("SIGKILL of the zygote", "before it has said or heard a word")
@pytest.mark.parametrize("preload", [(), ("reliability_bodies_death",)])
def test_a_zygote_that_dies_at_once_is_replaced(pool: Pool, preload: tuple[str, ...]) -> None:
    from unirun.backends.process import early

    drop = early.begin()
    begun = early._begun[-1]
    zygote = begun[0]
    os.kill(zygote, signal.SIGKILL)
    watch.until_gone(zygote)
    executor = pool(2, preload=preload)
    futures = [executor.submit(bodies.double, n) for n in range(10)]
    assert begun not in early._begun, "the pool has taken it"
    drop()
    assert values_of(futures) == [2 * n for n in range(10)]


@pytest.mark.scenario("SIGKILL of the zygote", "with many workers unborn: one failure")
def test_a_zygote_that_dies_with_many_workers_unborn_does_not_break_the_pool(
    pool: Pool, line: Lines
) -> None:
    executor, ready = pool(8), line()
    executor.submit(bodies.pid).result(PATIENCE)
    zygote = watch.zygote_of(executor)
    zygote.suspend()
    futures = [executor.submit(dying.say_and_sleep, ready) for _ in range(8)]
    watch.until(lambda: executor.stats()["process"].workers == 8, "seven more are asked for")
    zygote.kill()
    assert len({ready.wait() for _ in futures}) == 8
    assert all(future.kill() for future in futures)
