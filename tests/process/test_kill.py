"""Ending a running call by force: it dies, whatever it does, and nobody else notices."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from pathlib import Path

import pytest
from process import bodies
from process.bodies import double
from process.line import PATIENCE, Line
from process.watch import is_gone, until, until_gone

import unirun
from unirun import QueueTimeout, TaskKilled, TaskTimeout

Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]


# -- one call ----------------------------------------------------------------------------------


@pytest.mark.scenario(36, "killed while it sleeps, computes, or is in a loop in C: dead at once")
@pytest.mark.parametrize("body", [bodies.sleep, bodies.hold_the_gil, bodies.loop_in_c])
def test_a_killed_call_is_dead_when_kill_returns(pool: Pool, line: Lines, body: object) -> None:
    executor, started = pool(1), line()
    future = executor.submit(body, started)
    pid = int(started.wait())
    assert future.kill() is True
    assert is_gone(pid)
    with pytest.raises(TaskKilled):
        future.result(0)
    assert executor.submit(double, 4).result(PATIENCE) == 8


@pytest.mark.scenario(36, "other running calls are untouched, the worker is replaced")
def test_kill_works_with_every_start_method(pool: Pool, line: Lines, method: str) -> None:
    executor, started = pool(2, method), line()
    victim, other = executor.submit(bodies.sleep, started), executor.submit(bodies.sleep, started)
    pids = {int(started.wait()), int(started.wait())}
    assert victim.kill()
    assert sum(map(is_gone, pids)) == 1
    assert other.running()
    assert other.kill(grace=0)
    until_gone(*pids)
    assert executor.submit(double, 4).result(PATIENCE) == 8


def test_a_killed_future_counts_as_cancelled(pool: Pool, line: Lines) -> None:
    executor, started, calls = pool(1), line(), []
    future = executor.submit(bodies.sleep, started)
    future.add_done_callback(calls.append)
    started.wait()
    assert not future.cancel()
    assert future.kill()
    assert (future.cancelled(), future.done(), future.running()) == (True, True, False)
    assert future in wait([future], timeout=0).done
    with pytest.raises(CancelledError):
        future.exception(0)
    executor.shutdown()
    assert calls == [future]


def test_kill_says_whether_the_call_was_stopped(pool: Pool, line: Lines) -> None:
    executor, started = pool(1), line()
    running = executor.submit(bodies.sleep, started)
    waiting = executor.submit(double, 1)
    started.wait()
    assert waiting.kill() is True
    assert running.kill() is True
    assert running.kill() is True
    done = executor.submit(double, 1)
    assert done.result(PATIENCE) == 2
    assert done.kill() is False
    assert done.result(0) == 2
    assert executor.stats()["process"].killed == 1


def test_sigkill_follows_when_the_grace_is_over(pool: Pool, line: Lines) -> None:
    executor, started = pool(1), line()
    future = executor.submit(bodies.ignore_sigterm, started)
    pid = int(started.wait())
    began = time.monotonic()
    assert future.kill(grace=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    assert is_gone(pid)


def test_a_call_may_clean_up_within_the_grace(pool: Pool, line: Lines, tmp_path: Path) -> None:
    executor, started = pool(1), line()
    future = executor.submit(bodies.clean_up_on_sigterm, started, str(tmp_path / "mark"))
    started.wait()
    assert future.kill(grace=PATIENCE)
    assert (tmp_path / "mark").read_text() == "clean"
    assert future.cancelled()


def test_a_call_that_answers_after_it_was_killed_is_not_believed(pool: Pool, line: Lines) -> None:
    executor, started = pool(1, grace=0.2), line()
    future = executor.submit(bodies.answer_to_sigterm, started)
    started.wait()
    assert future.kill()
    with pytest.raises(TaskKilled):
        future.result(0)


def test_no_grace_means_at_once(pool: Pool, line: Lines, tmp_path: Path) -> None:
    executor, started = pool(1, grace=PATIENCE), line()
    future = executor.submit(bodies.clean_up_on_sigterm, started, str(tmp_path / "mark"))
    started.wait()
    assert future.kill(grace=0)
    assert not (tmp_path / "mark").exists()


def test_a_second_kill_can_be_harder(pool: Pool, line: Lines) -> None:
    executor, started = pool(1), line()
    future = executor.submit(bodies.ignore_sigterm, started)
    pid = int(started.wait())
    patient = threading.Thread(target=future.kill, args=(1000,))
    patient.start()
    until(lambda: future.reason is not None, "the first kill has begun")  # type: ignore[attr-defined]
    assert future.kill(grace=0)
    assert is_gone(pid)
    patient.join(PATIENCE)
    assert not patient.is_alive()


@pytest.mark.scenario(42, "what the call started dies with it")
def test_what_the_call_started_dies_with_it(pool: Pool, line: Lines) -> None:
    executor, started = pool(1), line()
    future = executor.submit(bodies.start_children, started)
    pids = [int(word) for _ in range(2) for word in started.wait().split()]
    assert len(pids) == 4  # in its group, in a session of its own, a tree of sessions
    assert future.kill()
    until_gone(*pids)


def test_what_the_call_started_dies_also_without_a_grace(pool: Pool, line: Lines) -> None:
    executor, started = pool(1, "spawn"), line()
    future = executor.submit(bodies.start_children, started)
    pids = [int(word) for _ in range(2) for word in started.wait().split()]
    assert future.kill(grace=0)
    until_gone(*pids)


# -- limits of time -------------------------------------------------------------------------------


@pytest.mark.scenario(33, "TaskTimeout; the neighbour goes on")
@pytest.mark.scenario(34, "a call that ignores SIGTERM is killed all the same")
@pytest.mark.scenario(35, "so is a loop in C that holds the GIL")
@pytest.mark.parametrize("body", [bodies.sleep, bodies.ignore_sigterm, bodies.loop_in_c])
def test_a_call_past_its_timeout_is_killed(pool: Pool, line: Lines, body: object) -> None:
    executor, started = pool(2), line()
    neighbour = executor.submit(bodies.sleep, line())
    future = executor.options(timeout=0.2).submit(body, started)
    with pytest.raises(TaskTimeout, match=r"ran longer than its 0\.2 s and was killed") as caught:
        future.result(PATIENCE)
    assert caught.value.abandoned is False
    assert is_gone(int(started.wait()))
    assert not future.cancelled()
    assert neighbour.running()


def test_the_timeout_does_not_count_the_time_in_the_queue(pool: Pool, line: Lines) -> None:
    executor, started = pool(1), line()
    first = executor.submit(bodies.sleep, started)
    second = executor.options(timeout=0.5).submit(double, 4)
    started.wait()
    with pytest.raises(TimeoutError):
        second.result(1.0)
    assert not second.done()
    first.kill()
    assert second.result(PATIENCE) == 8


@pytest.mark.parametrize("how", ["queue_timeout", "deadline"])
def test_a_call_may_wait_too_long_for_a_worker(pool: Pool, line: Lines, how: str) -> None:
    executor, started = pool(1), line()
    first = executor.submit(bodies.sleep, started)
    started.wait()
    limit = 0.2 if how == "queue_timeout" else time.monotonic() + 0.2
    second = executor.options(**{how: limit}).submit(double, 4)
    with pytest.raises(QueueTimeout, match="still waited for a worker"):
        second.result(PATIENCE)
    assert first.running()


def test_a_deadline_ends_a_running_call(pool: Pool, line: Lines) -> None:
    executor, started = pool(1), line()
    future = executor.options(deadline=time.monotonic() + 0.5).submit(bodies.sleep, started)
    with pytest.raises(TaskTimeout, match="ran past its deadline and was killed"):
        future.result(PATIENCE)


def test_a_timeout_that_is_not_reached_changes_nothing(pool: Pool) -> None:
    calls = pool(2).options(timeout=PATIENCE, queue_timeout=PATIENCE)
    futures = [calls.submit(double, number) for number in range(50)]
    assert [future.result(PATIENCE) for future in futures] == [2 * n for n in range(50)]


# -- many ----------------------------------------------------------------------------------


def test_kills_that_race_completion_lose_or_win_but_never_both(pool: Pool, tmp_path: Path) -> None:
    executor = pool(2, grace=1.0, preload=["process.bodies"])
    log = tmp_path / "log"
    chance = random.Random(7)
    ends: list[tuple[unirun.Future[int], bool]] = []
    calls: Counter[int] = Counter()
    for number in range(200):
        future = executor.submit(
            bodies.log_start, str(log), number, chance.choice([0, 2000, 20000])
        )
        future.add_done_callback(lambda _, number=number: calls.update([number]))
        if number % 5:
            until(lambda future=future: future.running() or future.done(), "it was sent")
        moment = time.perf_counter() + chance.choice([0, 0.0002, 0.0005, 0.001, 0.02])
        while time.perf_counter() < moment:
            pass
        ends.append((future, future.kill()))
    executor.shutdown()
    for number, (future, killed) in enumerate(ends):
        assert future.cancelled() is killed
        if not killed:
            assert future.result(0) == number
    started = Counter(map(int, log.read_text().split()))
    assert set(started.values()) == {1}, "a call ran twice"
    assert {n for n, (_, killed) in enumerate(ends) if not killed} <= set(started)
    assert calls == Counter(range(200))
    outcomes = Counter(killed for _, killed in ends)
    assert outcomes[True] > 10
    assert outcomes[False] > 10


def test_many_calls_killed_at_once(pool: Pool, line: Lines) -> None:
    executor, started = pool(6), line()
    futures = [executor.submit(bodies.sleep, started) for _ in range(6)]
    pids = [int(started.wait()) for _ in futures]
    threads = [threading.Thread(target=future.kill) for future in futures * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert all(future.cancelled() for future in futures)
    assert all(map(is_gone, pids))
    assert executor.submit(double, 4).result(PATIENCE) == 8


def test_the_slot_of_a_killed_call_is_free_at_once(pool: Pool, line: Lines) -> None:
    executor, started = pool(1, grace=1000), line()
    stubborn = executor.submit(bodies.ignore_sigterm, started)
    started.wait()
    threading.Thread(target=stubborn.kill, daemon=True).start()
    assert executor.submit(double, 4).result(PATIENCE) == 8
    assert not stubborn.done()
    stubborn.kill(grace=0)
