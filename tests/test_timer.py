"""Timer behaves as `threading.Timer`, and its call goes through the executor."""

import pickle
import sys
import threading
from typing import Any

import pytest
import timers
from parties import PATIENCE
from timers import LATER, put

import unirun
from unirun import Executor

executor, reported, threads = timers.executor, timers.reported, timers.threads


def fail(text: str) -> None:
    raise LookupError(text)


def ended(timer: Any) -> Any:
    timer.join(PATIENCE)
    assert not timer.is_alive()
    return timer


# -- as threading.Timer ---------------------------------------------------------------------------


def test_the_function_is_called_with_its_arguments(executor: Executor) -> None:
    queue = executor.Queue()
    timer = executor.Timer(0.01, put, [queue, 1], {"b": 2})
    timer.start()
    assert queue.get(timeout=PATIENCE) == ((1,), {"b": 2})
    assert ended(timer).finished.is_set()


def test_arguments_are_optional_and_not_shared_between_timers(threads: Executor) -> None:
    called = threading.Event()
    one, other = threads.Timer(0, called.set), threads.Timer(0, called.set)
    one.args.append("only for one")  # type: ignore[attr-defined]
    other.start()
    assert called.wait(PATIENCE)
    assert (other.args, other.kwargs) == ([], {})
    ended(other)


def test_nothing_is_called_before_the_interval_is_over(threads: Executor) -> None:
    order = threads.Queue()
    later, sooner = threads.Timer(0.5, order.put, [2]), threads.Timer(0.01, order.put, [1])
    later.start()
    sooner.start()
    assert [order.get(timeout=PATIENCE) for _ in range(2)] == [1, 2]
    ended(later)
    ended(sooner)


@pytest.mark.parametrize("interval", [0, -1, -1e9])
def test_an_interval_that_is_over_at_once_is_no_error(threads: Executor, interval: float) -> None:
    called = threading.Event()
    timer = threads.Timer(interval, called.set)
    timer.start()
    assert called.wait(PATIENCE)
    ended(timer)


@pytest.mark.parametrize(("interval", "error"), [("1", TypeError), (float("nan"), ValueError)])
def test_an_interval_that_is_none_is_refused_by_start(
    threads: Executor, interval: Any, error: type[Exception]
) -> None:
    timer = threads.Timer(interval, print)
    with pytest.raises(error):
        timer.start()
    assert not timer.is_alive()
    timer.interval = LATER
    timer.start()
    timer.cancel()


def test_a_cancelled_timer_calls_nothing(executor: Executor) -> None:
    queue = executor.Queue()
    timer = executor.Timer(LATER, put, [queue])
    timer.start()
    assert timer.is_alive()
    assert not timer.finished.is_set()
    timer.cancel()
    assert ended(timer).finished.is_set()
    assert (timer.future, timer.exception) == (None, None)
    assert queue.empty()
    timer.cancel()  # once more, for nothing


def test_a_timer_cancelled_before_its_start_ends_at_once(threads: Executor) -> None:
    called = threading.Event()
    timer = threads.Timer(0, called.set)
    timer.cancel()
    timer.start()
    ended(timer)
    assert not called.is_set()


def test_cancel_tells_a_function_that_runs(threads: Executor) -> None:
    begun, seen = threading.Event(), threading.Event()

    def body() -> None:
        begun.set()
        task = unirun.current_task()
        assert task is not None
        while not task.cancelled:
            pass
        seen.set()

    timer = threads.Timer(0, body)
    timer.start()
    assert begun.wait(PATIENCE)
    assert timer.is_alive()
    timer.cancel()
    assert timer.finished.is_set()
    assert seen.wait(PATIENCE)
    ended(timer)


def test_it_is_alive_until_the_function_has_returned(threads: Executor) -> None:
    begun, leave = threading.Event(), threading.Event()

    def body() -> None:
        begun.set()
        assert leave.wait(PATIENCE)

    timer = threads.Timer(0, body)
    assert not timer.is_alive()
    timer.start()
    assert begun.wait(PATIENCE)
    timer.join(0.01)
    assert timer.is_alive()
    assert not timer.finished.is_set()
    leave.set()
    ended(timer)


def test_it_can_be_started_only_once(threads: Executor) -> None:
    timer = threads.Timer(LATER, print)
    timer.start()
    with pytest.raises(RuntimeError, match="started once"):
        timer.start()
    timer.cancel()
    with pytest.raises(RuntimeError, match="started once"):
        timer.start()


def test_it_cannot_be_joined_before_its_start(threads: Executor) -> None:
    with pytest.raises(RuntimeError, match="before it is started"):
        threads.Timer(LATER, print).join()


@pytest.mark.parametrize("backend", ["inline", "thread"])
def test_it_cannot_be_joined_from_its_own_function(backend: str) -> None:
    with Executor(backend=backend, **({"copy": False} if backend == "inline" else {})) as executor:
        refused = threading.Event()

        def body() -> None:
            with pytest.raises(RuntimeError, match="from inside"):
                timer.join()
            refused.set()

        timer = executor.Timer(0, body)
        timer.start()
        assert refused.wait(PATIENCE)
        ended(timer)


def test_name_daemon_ident_and_repr_are_those_of_a_thread(threads: Executor) -> None:
    timer = threads.Timer(LATER, print)
    assert timer.name.startswith("Timer-")
    assert timer.name != threads.Timer(LATER, print).name
    assert (timer.daemon, timer.ident) == (False, None)
    assert repr(timer) == f"<Timer({timer.name}, initial)>"
    timer.name, timer.daemon = "egg", True
    timer.start()
    assert repr(timer) == f"<Timer(egg, started daemon {timer.ident})>"
    with pytest.raises(RuntimeError, match="daemon"):
        timer.daemon = False
    timer.cancel()
    assert repr(timer) == f"<Timer(egg, stopped daemon {timer.ident})>"


def test_daemon_is_inherited_from_a_thread_but_not_from_a_worker(threads: Executor) -> None:
    inherited = []
    thread = threading.Thread(
        target=lambda: inherited.append(threads.Timer(0, print).daemon), daemon=True
    )
    thread.start()
    thread.join()
    assert inherited == [True]
    assert threads.submit(lambda: threads.Timer(0, print).daemon).result() is False


def test_it_is_the_class_of_the_package_and_can_be_subclassed(threads: Executor) -> None:
    class Egg(unirun.Timer):
        pass

    assert isinstance(threads.Timer(0, print), unirun.Timer)
    called = threading.Event()
    with threads:
        egg = Egg(0, called.set)
        egg.start()
        assert called.wait(PATIENCE)
        ended(egg)
        assert egg.name.startswith("Egg-")


def test_it_cannot_be_pickled(threads: Executor) -> None:
    with pytest.raises(TypeError, match="make one where it is needed"):
        pickle.dumps(threads.Timer(0, print))


# -- an exception ---------------------------------------------------------------------------------


def test_an_exception_is_reported_as_that_of_a_thread(
    executor: Executor, reported: list[Any]
) -> None:
    timer = executor.Timer(0, fail, ["egg"])
    timer.start()
    ended(timer)
    (told,) = reported
    assert (told.exc_type, str(told.exc_value), told.thread) == (LookupError, "egg", timer)
    assert told.exc_traceback is not None
    assert timer.exception is told.exc_value


def test_an_exception_is_not_reported_to_who_has_asked_for_the_future(
    threads: Executor, reported: list[Any]
) -> None:
    begun, leave = threading.Event(), threading.Event()

    def body() -> None:
        begun.set()
        assert leave.wait(PATIENCE)
        fail("egg")

    timer = threads.Timer(0, body)
    timer.start()
    assert begun.wait(PATIENCE)
    future = timer.future
    assert future is not None
    leave.set()
    assert isinstance(future.exception(PATIENCE), LookupError)
    ended(timer)
    assert reported == []


def test_a_hook_that_fails_stops_no_other_timer(
    threads: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: fail("the hook"))
    monkeypatch.setattr(sys, "excepthook", lambda *args: complaints.append(args[0]))
    first = threads.Timer(0, fail, ["egg"])
    first.start()
    ended(first)
    assert complaints == [LookupError]
    called = threading.Event()
    second = threads.Timer(0, called.set)
    second.start()
    assert called.wait(PATIENCE)
    ended(second)
