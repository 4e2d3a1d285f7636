"""What calls in workers tell the program: in order, before they end, and never without bounds."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from process import tellers
from process.line import PATIENCE, Line

import unirun
from unirun import TaskKilled, WorkerCrashed, _news
from unirun.testing._gate import comes_true

Pool = Callable[..., unirun.Executor]


@pytest.fixture(scope="module")
def executor() -> Iterator[unirun.Executor]:
    """A worker for most of these tests, which has told something before."""
    with unirun.Executor(1, backend="process") as made:
        made.submit(tellers.tell, "first").result(PATIENCE)
        yield made


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    """What is told under "test"."""
    found: list[Any] = []
    stop = _news.subscribe("test", lambda origin, value: found.append(value))
    yield found
    stop()


def test_what_a_call_has_told_is_there_with_its_result(
    executor: unirun.Executor, heard: list[Any]
) -> None:
    for number in range(100):
        executor.submit(tellers.tell, number).result(PATIENCE)
        assert heard[-1] == number


def test_the_handler_learns_who_told_it(executor: unirun.Executor) -> None:
    found: list[_news.Origin] = []
    stop = _news.subscribe("test", lambda origin, value: found.append(origin))
    future = executor.submit(tellers.tell, "x")
    future.result(PATIENCE)
    stop()
    (origin,) = found
    assert origin.future is future
    assert origin.task == "process.tellers.tell"
    assert origin.worker == f"pid {origin.pid}"


def test_it_is_there_with_an_exception_and_for_callbacks(pool: Pool, heard: list[Any]) -> None:
    executor = pool(1)
    seen: list[list[Any]] = []
    done = threading.Event()

    def note(future: object) -> None:
        seen.append(list(heard))
        done.set()

    future = executor.submit(tellers.tell, "told", object)  # marshal has no classes
    future.add_done_callback(note)
    assert isinstance(future.exception(PATIENCE), ValueError)
    assert done.wait(PATIENCE)
    assert seen == [["told"]]


def test_all_of_a_map_is_heard_and_each_worker_in_order(pool: Pool, heard: list[Any]) -> None:
    assert list(pool(2).map(tellers.tell_and_return, range(500))) == list(range(500))
    assert sorted(heard) == list(range(500))


def test_threads_of_a_call_are_heard_each_in_order(
    executor: unirun.Executor, heard: list[Any]
) -> None:
    executor.submit(tellers.tell_from_threads, 4, 100).result(PATIENCE)
    for number in range(4):
        assert [each for who, each in heard if who == number] == list(range(100))


def test_what_was_told_before_a_crash_arrives_before_the_call_ends(
    pool: Pool, heard: list[Any]
) -> None:
    assert isinstance(pool(1).submit(tellers.tell_and_die, 7).exception(PATIENCE), WorkerCrashed)
    assert heard == [7]


def test_what_was_told_before_a_kill_arrives_before_the_call_ends(
    pool: Pool, heard: list[Any], line: Callable[[], Line]
) -> None:
    pipe = line()
    future = pool(1).submit(tellers.tell_and_wait, "last", pipe.path)
    pipe.wait()
    assert future.kill(0)
    assert heard == ["last"]
    with pytest.raises(TaskKilled):
        future.result(PATIENCE)


def test_what_is_told_while_a_worker_leaves_arrives_before_the_shutdown_is_over(
    heard: list[Any],
) -> None:
    with unirun.Executor(1, backend="process") as executor:
        executor.submit(tellers.tell_at_exit, "leaving").result(PATIENCE)
    assert heard == ["leaving"]


def test_an_initializer_is_heard(heard: list[Any], pool: Pool) -> None:
    executor = pool(1, initializer=tellers.tell, initargs=("begun",))
    executor.submit(tellers.tell, "told").result(PATIENCE)
    assert heard == ["begun", "told"]


def test_signal_handlers_that_tell_and_raise_spoil_nothing(
    executor: unirun.Executor, heard: list[Any]
) -> None:
    size = 60_000  # more than the pipe has room for, so that much is written in parts
    lost: list[int] = []
    stop = _news.subscribe("lost", lambda origin, count: lost.append(count))
    rung = executor.submit(tellers.tell_while_alarms_ring, 300, size).result(PATIENCE)
    # All of them, but for what this program was told to be too slow for.
    assert rung > 0
    assert comes_true(lambda: heard.count("alarm") + sum(lost) >= rung)
    assert heard.count("alarm") == rung or lost
    assert heard.count("alarm") <= rung
    stop()
    assert set(heard) == {"x" * size, "alarm"}


def test_a_child_that_a_task_forks_tells_nothing(executor: unirun.Executor) -> None:
    assert executor.submit(tellers.tell_in_child).result(PATIENCE)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_an_executor_in_a_task_hears_is_passed_on(
    executor: unirun.Executor, heard: list[Any]
) -> None:
    found: list[_news.Origin] = []
    stop = _news.subscribe("test", lambda origin, value: found.append(origin))
    executor.submit(tellers.nest, tellers.tell_and_return, "deep").result(PATIENCE)
    stop()
    assert heard == ["deep"]
    assert found[0].task == "process.tellers.tell_and_return"
    assert found[0].pid != os.getpid()


def test_a_task_hears_its_own_executor(executor: unirun.Executor, heard: list[Any]) -> None:
    assert executor.submit(tellers.reports_of_inner, "near").result(PATIENCE) == ["near"]
    assert heard == []


def test_a_handler_that_raises_is_logged_and_hurts_no_other(
    executor: unirun.Executor, heard: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(origin: object, value: object) -> None:
        raise SystemExit("spam")

    stop = _news.subscribe("test", fail)
    executor.submit(tellers.tell, 1, 2).result(PATIENCE)
    stop()
    assert heard == [1, 2]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "'test'" in errors[0].getMessage()


def test_what_happens_here_is_handled_here(heard: list[Any]) -> None:
    _news.here("test", {"any": object})
    assert heard == [{"any": object}]


def test_slow_handlers_lose_nothing(executor: unirun.Executor) -> None:
    """The worker waits for them, as for a slow terminal."""
    found = []
    lull = threading.Event()

    def take(origin: object, value: Any) -> None:
        lull.wait(0.0005)
        found.append(value[0])

    stop = _news.subscribe("test", take)
    executor.submit(tellers.tell_much, 800, 10).result(PATIENCE)
    stop()
    assert found == list(range(800))


def test_a_handler_that_hangs_delays_nobody_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    going_on, found, other = threading.Event(), [], []

    def hang(origin: object, value: Any) -> None:
        going_on.wait(PATIENCE)
        found.append(value)

    stops = [_news.subscribe("test", hang), _news.subscribe("lost", lambda _, n: other.append(n))]
    with unirun.Executor(1, backend="process") as executor:
        try:
            future = executor.submit(tellers.tell_much, 3000, 100)
            assert future.result(PATIENCE) == 3000
            assert not found
        finally:
            going_on.set()
    assert len(found) + sum(other) == 3000
    assert 0 < len(found) < 1000
    for stop in stops:
        stop()


def test_what_was_dropped_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    _news.deliver(_news.Origin(None, "task", "pid 7", 7), "lost", 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("unirun: 3 messages (logs, output, progress) of worker pid 7 were drop")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_of_the_program_begins_anew(executor: unirun.Executor) -> None:
    pid = os.fork()
    if not pid:
        fine = False
        try:
            with unirun.Executor(1, backend="process") as own:
                found: list[Any] = []
                _news.subscribe("test", lambda origin, value: found.append(value))
                own.submit(tellers.tell, "child").result(PATIENCE)
                fine = found == ["child"]
        finally:
            os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
