"""Limited views: `ex.options(limit=n)` runs at most n of its calls at a time."""

import asyncio
import concurrent.futures
import threading
import time

import pytest

import unirun
from unirun import Executor, ExecutorShutdown, QueueTimeout, Retry, TaskKilled
from unirun.testing import PATIENCE, Gate
from unirun.testing import _subjects as subjects
from unirun.testing._gate import comes_true

both = pytest.mark.parametrize("backend", ["thread", "process"])


# -- the limit ------------------------------------------------------------------------------------


@both
def test_never_more_run_at_once_than_the_limit(backend: str, gate: Gate) -> None:
    with Executor(4, backend=backend) as executor:
        view = executor.options(limit=2)
        futures = [view.submit(subjects.hold, gate.address, n) for n in range(6)]
        present = gate.arrivals(2)
        for _ in range(4):
            assert gate.is_empty()
            assert comes_true(lambda: sum(future.running() for future in futures) == 2)
            present.pop(0).release()
            present.append(gate.arrival())
        gate.open()
        assert [future.result(PATIENCE) for future in futures] == list(range(6))


@both
def test_other_calls_of_the_executor_are_not_limited(backend: str, gate: Gate) -> None:
    with Executor(3, backend=backend) as executor:
        limited = [executor.options(limit=1).submit(subjects.hold, gate.address) for _ in range(2)]
        free = executor.submit(subjects.hold, gate.address)
        gate.arrivals(3)  # each call of options() has a limit of its own
        gate.open()
        concurrent.futures.wait([*limited, free], PATIENCE)


@both
def test_views_made_from_it_share_the_limit(backend: str, gate: Gate) -> None:
    with Executor(3, backend=backend) as executor:
        view = executor.options(limit=1)
        first = view.submit(subjects.hold, gate.address, 1)
        second = view.options(name="second").submit(subjects.hold, gate.address, 2)
        other = view.options(limit=1).submit(subjects.hold, gate.address, 3)
        gate.arrivals(2)
        assert gate.is_empty()
        assert comes_true(lambda: first.running() and other.running())
        assert not second.running()
        gate.open()
        assert [f.result(PATIENCE) for f in (first, second, other)] == [1, 2, 3]


def test_those_that_wait_go_by_priority_and_then_by_their_order(gate: Gate) -> None:
    with Executor(2, backend="process") as executor:
        view = executor.options(limit=1)
        view.submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        order: list[int] = []
        for number, priority in enumerate([0, 5, 0, -1, 5]):
            future = view.options(priority=priority).submit(subjects.same, number)
            future.add_done_callback(lambda f: order.append(f.result()))
        arrival.release()
        assert comes_true(lambda: len(order) == 5)
        assert order == [1, 4, 0, 2, 3]


def test_coroutines_can_be_limited() -> None:
    running = most = 0

    async def body(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return n

    with Executor(backend="coroutine") as executor:
        view = executor.options(limit=3)
        assert [f.result(PATIENCE) for f in [view.submit(body, n) for n in range(30)]] == [
            *range(30)
        ]
    assert most == 3


def test_inline_calls_never_wait() -> None:
    with Executor(backend="inline") as executor:
        view = executor.options(limit=1)
        assert [view.submit(subjects.square, n).result() for n in range(3)] == [0, 1, 4]


@both
def test_a_map_can_be_limited(backend: str) -> None:
    with Executor(3, backend=backend) as executor:
        results = executor.options(limit=2).map(subjects.square, range(300))
        assert list(results) == [n * n for n in range(300)]


def test_a_call_inside_a_call_of_the_view_needs_no_place() -> None:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * view.submit(factorial, n - 1).result(PATIENCE)

    with Executor(2, backend="thread") as executor:
        view = executor.options(limit=1)
        futures = [view.submit(factorial, 6) for _ in range(3)]
        assert [f.result(PATIENCE) for f in futures] == [720] * 3


def test_arguments_and_context_are_those_of_the_submit(gate: Gate) -> None:
    with Executor(1, backend="thread") as executor, unirun.config(kind="io"):
        view = executor.options(limit=1)
        view.submit(subjects.hold, gate.address)
        waiting = view.options(name="mine").submit(subjects.identity)
        gate.open()
        about = waiting.result(PATIENCE)
        assert (about["name"], about["kind"]) == ("mine", "io")


# -- what waits -----------------------------------------------------------------------------------


@both
def test_what_waits_is_pending_and_can_be_cancelled_and_killed(backend: str, gate: Gate) -> None:
    with Executor(2, backend=backend) as executor:
        view = executor.options(limit=1)
        first = view.submit(subjects.hold, gate.address, "first")
        waiting = [view.submit(subjects.square, n) for n in range(4)]
        gate.arrival()
        assert not any(f.running() or f.done() for f in waiting)
        assert executor.stats()[backend].pending == 4
        assert waiting[0].cancel()
        assert waiting[1].kill()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting[0].result(0)
        assert executor.stats()[backend].pending == 2
        gate.open()
        assert [f.result(PATIENCE) for f in (first, *waiting[2:])] == ["first", 4, 9]


def test_one_that_has_its_turn_can_be_killed(gate: Gate) -> None:
    with Executor(2, backend="process") as executor:
        view = executor.options(limit=1)
        view.submit(subjects.hold, gate.address)
        held = view.submit(subjects.hold, gate.address)
        last = view.submit(subjects.square, 3)
        gate.arrival().release()
        arrival = gate.arrival()
        assert comes_true(held.running)
        assert held.cancel() is False
        assert held.kill(grace=0.1)
        assert arrival.is_gone()
        with pytest.raises(TaskKilled):
            held.result(0)
        assert last.result(PATIENCE) == 9


@both
def test_errors_are_those_of_the_call(backend: str, gate: Gate) -> None:
    with Executor(1, backend=backend) as executor:
        view = executor.options(limit=1)
        first = view.submit(subjects.hold, gate.address)
        failing = view.submit(subjects.inverse, 0)
        gate.open()
        assert isinstance(failing.exception(PATIENCE), ZeroDivisionError)
        first.result(PATIENCE)


def test_an_argument_that_cannot_be_sent_ends_its_own_call_and_frees_the_place(gate: Gate) -> None:
    with Executor(1, backend="process") as executor:
        view = executor.options(limit=1)
        view.submit(subjects.hold, gate.address)
        bad = view.submit(subjects.same, threading.Lock())
        good = view.submit(subjects.square, 3)
        gate.open()
        assert isinstance(bad.exception(PATIENCE), unirun.SerializationError)
        assert good.result(PATIENCE) == 9


@both
@pytest.mark.parametrize("limit", ["queue_timeout", "deadline"])
def test_the_time_to_wait_counts_in_the_view_too(backend: str, limit: str, gate: Gate) -> None:
    with Executor(1, backend=backend) as executor:
        view = executor.options(limit=1)
        view.submit(subjects.hold, gate.address)
        gate.arrival()
        end = 0.05 if limit == "queue_timeout" else time.monotonic() + 0.05
        waiting = view.options(**{limit: end}).submit(subjects.square, 2)
        assert isinstance(waiting.exception(PATIENCE), QueueTimeout)
        gate.open()


@both
def test_a_call_with_retries_keeps_its_place(backend: str, gate: Gate) -> None:
    with Executor(2, backend=backend) as executor:
        view = executor.options(limit=1, retries=Retry(2, backoff=0.001))
        first = view.submit(subjects.hold, gate.address)
        failing = view.submit(subjects.inverse, 0)
        after = view.submit(subjects.square, 3)
        gate.open()
        error = failing.exception(PATIENCE)
        assert isinstance(error, ZeroDivisionError)
        assert "attempt 3 was the last" in error.__notes__[-1]
        assert after.result(PATIENCE) == 9
        first.result(PATIENCE)


def test_a_future_in_line_can_be_awaited_and_waited_for(gate: Gate) -> None:
    with Executor(2, backend="thread") as executor:
        view = executor.options(limit=1)
        futures = [view.submit(subjects.hold, gate.address, n) for n in range(3)]
        gate.open()

        async def wait_for_last() -> int:
            return await futures[2]

        assert asyncio.run(wait_for_last()) == 2
        assert {f.result() for f in concurrent.futures.as_completed(futures, PATIENCE)} == {0, 1, 2}


# -- ends -----------------------------------------------------------------------------------------


@both
def test_a_shutdown_waits_for_what_is_in_line(backend: str, gate: Gate) -> None:
    executor = Executor(1, backend=backend)
    view = executor.options(limit=1)
    futures = [view.submit(subjects.hold, gate.address, n) for n in range(3)]
    gate.arrival()
    executor.shutdown(wait=False)
    with pytest.raises(ExecutorShutdown):
        view.submit(subjects.square, 2)
    gate.open()
    executor.shutdown()
    assert [f.result(0) for f in futures] == [0, 1, 2]


@both
def test_a_shutdown_can_cancel_what_is_in_line(backend: str, gate: Gate) -> None:
    executor = Executor(1, backend=backend)
    view = executor.options(limit=1)
    first = view.submit(subjects.hold, gate.address, "first")
    waiting = [view.submit(subjects.square, n) for n in range(3)]
    gate.arrival().release()
    executor.shutdown(cancel_futures=True)
    assert first.result(0) == "first"
    assert [f.done() for f in waiting] == [True] * 3


@both
def test_an_executor_that_is_dropped_finishes_what_is_in_line(backend: str, gate: Gate) -> None:
    view = Executor(1, backend=backend).options(limit=1)
    futures = [view.submit(subjects.hold, gate.address, n) for n in range(3)]
    del view
    gate.open()
    assert [f.result(PATIENCE) for f in futures] == [0, 1, 2]


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2"])
def test_a_limit_is_a_whole_number_of_one_or_more(limit: object) -> None:
    with (
        Executor(backend="thread") as executor,
        pytest.raises((ValueError, TypeError), match="limit must be"),
    ):
        executor.options(limit=limit)  # type: ignore[arg-type]


def test_a_view_shows_its_limit() -> None:
    with Executor(backend="thread") as executor:
        assert "'limit': 3" in repr(executor.options(limit=3).options(name="n"))


def test_many_threads_may_use_one_view() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def body(n: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0)
        with lock:
            running -= 1
        return n

    with Executor(8, backend="thread") as executor:
        view = executor.options(limit=3)
        with concurrent.futures.ThreadPoolExecutor(4) as submitters:
            parts = list(
                submitters.map(lambda _: [view.submit(body, n) for n in range(200)], range(4))
            )
        for futures in parts:
            assert [f.result(PATIENCE) for f in futures] == list(range(200))
    assert most <= 3
