"""The thread backend where its calls go without a lock: each race, many times."""

import concurrent.futures
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

import unirun
from unirun import Executor, Future, TaskContext
from unirun.backends.thread.calls import RunningCall, ThreadFuture
from unirun.testing import PATIENCE
from unirun.testing import _subjects as subjects
from unirun.testing._gate import comes_true

ROUNDS = 2000


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(3, backend="thread") as executor:
        yield executor


def beside(do: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=do)
    thread.start()
    return thread


@pytest.mark.usefixtures("often")
def test_a_call_is_cancelled_or_runs_however_these_race(executor: Executor) -> None:
    ran: list[int] = []
    futures: list[Future[None]] = []
    said: dict[int, bool] = {}
    more = threading.Event()

    def cancel() -> None:
        done = 0
        while done < ROUNDS:
            more.wait(PATIENCE)
            for number in range(done, len(futures)):
                said[number] = futures[number].cancel()
            done = len(said)

    canceller = beside(cancel)
    for number in range(ROUNDS):
        futures.append(executor.submit(ran.append, number))
        more.set()
    canceller.join(PATIENCE)
    concurrent.futures.wait(futures, PATIENCE)
    assert sorted(ran) == [n for n in range(ROUNDS) if not said[n]]
    assert [future.cancelled() for future in futures] == [said[n] for n in range(ROUNDS)]


@pytest.mark.usefixtures("often")
def test_nobody_who_waits_misses_an_end(executor: Executor) -> None:
    heard: list[int] = []
    for number in range(ROUNDS):
        future = executor.submit(int, number)
        future.add_done_callback(lambda f: heard.append(f.result()))
        assert future.result(PATIENCE) == number
    executor.shutdown()
    assert sorted(heard) == list(range(ROUNDS))


@pytest.mark.usefixtures("often")
def test_the_waits_of_the_standard_library_are_told_of_each_end_once(executor: Executor) -> None:
    for _ in range(ROUNDS // 40):
        futures = [executor.submit(int, n) for n in range(40)]
        found = [f.result() for f in concurrent.futures.as_completed(futures, PATIENCE)]
        assert sorted(found) == list(range(40))
        futures = [executor.submit(int, n) for n in range(40)]
        assert concurrent.futures.wait(futures, PATIENCE).done == set(futures)


@pytest.mark.usefixtures("often")
def test_a_call_runs_once_though_others_help_with_it() -> None:
    """Calls that wait for calls, on too few threads: each of these is taken by one of two."""
    ran: list[int] = []

    def outer(number: int) -> int:
        return inner(executor.submit(ran.append, number), number)

    def inner(future: Future[None], number: int) -> int:
        future.result(PATIENCE)
        return number

    with Executor(2, backend="thread") as executor:
        futures = [executor.submit(outer, n) for n in range(ROUNDS // 4)]
        assert [f.result(PATIENCE) for f in futures] == list(range(ROUNDS // 4))
    assert sorted(ran) == list(range(ROUNDS // 4))


@pytest.mark.usefixtures("often")
def test_a_call_that_has_begun_hears_that_it_is_to_stop(executor: Executor) -> None:
    """Also if it has begun this very moment."""

    def until_told() -> str:
        task = unirun.current_task()
        assert task is not None
        while not task.cancelled:
            task.token.wait(0.01)
        return "told"

    for _ in range(200):
        future = executor.submit(until_told)
        assert future.cancel() or future.result(PATIENCE) == "told"


def test_a_call_that_does_not_ask_has_no_context_made_for_it(executor: Executor) -> None:
    made: list[object] = []

    def look() -> None:
        from unirun._context import running

        made.append(getattr(running.get(), "_made", "not lazy"))

    executor.submit(look).result(PATIENCE)
    assert made == [None]


def test_everybody_gets_the_same_context_of_a_call(executor: Executor) -> None:
    def ask() -> list[TaskContext | None]:
        found = [unirun.current_task()]
        threads = [threading.Thread(target=copy_context().run, args=(add, found)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        return found

    def add(found: list[TaskContext | None]) -> None:
        found.append(unirun.current_task())

    first, *others = executor.submit(ask).result(PATIENCE)
    assert first is not None
    assert first.name.endswith("ask")
    assert others == [first] * 8


def test_a_context_that_outlives_its_call_keeps_neither_result_nor_arguments(
    executor: Executor,
) -> None:
    class Thing:
        pass

    contexts: list[Any] = []

    def make(_: Thing) -> Thing:
        contexts.append(copy_context())
        return Thing()

    future = executor.submit(make, Thing())
    references = sys.getrefcount(future.result(PATIENCE))
    del future
    assert references <= 3
    assert contexts[0].run(unirun.current_task).name.endswith("make")


def test_context_variables_reach_a_call_and_stay_in_it(executor: Executor) -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)
    variable.set(1)

    def add() -> int:
        variable.set(variable.get() + 1)
        return variable.get()

    assert [executor.submit(add).result(PATIENCE) for _ in range(3)] == [2, 2, 2]
    assert variable.get() == 1


def test_keywords_reach_a_call(executor: Executor) -> None:
    future = executor.submit(dict, [("a", 1)], b=2, fn=3, args=4, self=5)
    assert future.result(PATIENCE) == {"a": 1, "b": 2, "fn": 3, "args": 4, "self": 5}


def test_a_coroutine_function_runs_to_its_end_on_a_thread(executor: Executor) -> None:
    assert executor.submit(subjects.square, 3).result(PATIENCE) == 9

    async def three() -> int:
        return 3

    assert executor.options(backend="thread").submit(three).result(PATIENCE) == 3


# -- priority -------------------------------------------------------------------------------------


def test_priorities_hold_among_calls_that_came_before_the_first_of_them() -> None:
    ran: list[str] = []
    begun, go = threading.Event(), threading.Event()
    with Executor(1, backend="thread") as executor:
        executor.submit(lambda: (begun.set(), go.wait(PATIENCE)))
        begun.wait(PATIENCE)
        for name in "abc":
            executor.submit(ran.append, name)
        for name, priority in (("d", 1), ("e", 0), ("f", -1), ("g", 1), ("h", 2)):
            executor.options(priority=priority).submit(ran.append, name)
        executor.submit(ran.append, "i")
        go.set()
    assert "".join(ran) == "hdgabceif"


def test_calls_with_priorities_can_be_cancelled_and_helped_with() -> None:
    ran: list[str] = []
    begun, go = threading.Event(), threading.Event()

    def outer() -> None:
        begun.set()
        go.wait(PATIENCE)
        helped.result(PATIENCE)

    with Executor(1, backend="thread") as executor:
        first = executor.submit(outer)
        begun.wait(PATIENCE)
        futures = {
            name: executor.options(priority=priority).submit(ran.append, name)
            for name, priority in (("a", 1), ("b", 5), ("c", 3))
        }
        helped = futures["a"]
        assert futures["b"].cancel()
        go.set()
        first.result(PATIENCE)
    assert ran == ["a", "c"]


@pytest.mark.usefixtures("often")
def test_every_call_runs_once_while_priorities_come_up() -> None:
    ran: list[int] = []
    with Executor(3, backend="thread") as executor:

        def submit(part: int) -> None:
            for number in range(part, ROUNDS, 4):
                priority = number % 3 if number > ROUNDS // 2 else 0
                executor.options(priority=priority).submit(ran.append, number)

        threads = [beside(lambda part=part: submit(part)) for part in range(4)]  # type: ignore[misc]
        for thread in threads:
            thread.join(PATIENCE)
    assert sorted(ran) == list(range(ROUNDS))


def test_a_shutdown_cancels_calls_with_priorities_too() -> None:
    begun, go = threading.Event(), threading.Event()
    executor = Executor(1, backend="thread")
    executor.submit(lambda: (begun.set(), go.wait(PATIENCE)))
    begun.wait(PATIENCE)
    futures = [executor.options(priority=n).submit(int, n) for n in range(4)]
    threading.Timer(0.01, go.set).start()
    executor.shutdown(cancel_futures=True)
    assert [future.cancelled() for future in futures] == [True] * 4


# -- between two stores ---------------------------------------------------------------------------
# Threads rarely change there, so the worker's part is played by hand.


def half_way(state: str) -> tuple[ThreadFuture, RunningCall]:
    future, call = ThreadFuture(), RunningCall()
    future._state = state
    future._exception = future._listeners = future._backend = None
    future._asked = call.ending = False
    return future, call


def test_a_cancel_leaves_alone_what_its_worker_is_about_to_begin() -> None:
    future, _ = half_way(PENDING)
    future._taken = True
    said: list[bool] = []
    canceller = beside(lambda: said.append(future.cancel()))
    assert comes_true(lambda: future._asked)
    future._state = RUNNING
    canceller.join(PATIENCE)
    assert (said, future._state) == ([False], RUNNING)


def test_who_listens_waits_for_an_end_that_is_about_to_be_stored() -> None:
    future, call = half_way(RUNNING)
    future._running = call
    call.ending = True
    heard: list[object] = []
    listener = beside(lambda: future.add_done_callback(heard.append))
    assert comes_true(lambda: future._listeners is not None)
    future._result = 7
    future._state = FINISHED
    listener.join(PATIENCE)
    assert heard == [future]


# -- resize -------------------------------------------------------------------------------------


def test_more_threads_take_what_waits() -> None:
    with unirun.Executor(1, backend="thread") as executor:
        together = threading.Barrier(3)
        futures = [executor.submit(together.wait, 10) for _ in range(3)]
        executor.resize(3)  # with fewer than three the barrier would break
        assert sorted(future.result(10) for future in futures) == [0, 1, 2]
        assert executor.stats()["thread"].max_workers == 3


def test_surplus_threads_leave_and_no_call_is_disturbed() -> None:
    with unirun.Executor(3, backend="thread") as executor:
        together, go = threading.Barrier(4), threading.Event()

        def hold() -> bool:
            together.wait(10)
            return go.wait(10)

        held = [executor.submit(hold) for _ in range(3)]
        together.wait(10)
        executor.resize(1)
        waiting = [executor.submit(threading.get_ident) for _ in range(50)]
        go.set()
        assert all(future.result(10) for future in held)
        assert len({future.result(10) for future in waiting}) <= 3
        assert comes_true(lambda: executor.stats()["thread"].workers == 1)
        assert executor.submit(pow, 2, 3).result(10) == 8


def test_idle_threads_leave_when_they_are_surplus() -> None:
    with unirun.Executor(3, backend="thread") as executor:
        together = threading.Barrier(3)
        for future in [executor.submit(together.wait, 10) for _ in range(3)]:
            future.result(10)
        executor.resize(1)
        assert comes_true(lambda: executor.stats()["thread"].workers == 1)
        assert executor.submit(pow, 2, 3).result(10) == 8
