"""The call of a Timer goes through its executor, which waits, kills and ends it."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest
import timers
from parties import PATIENCE
from timers import LATER, put

import unirun
from unirun import Executor, ExecutorShutdown, NotKillable, TaskKilled, UnsupportedByBackend

executor, reported, threads = timers.executor, timers.reported, timers.threads


def hang(begun: Any) -> None:
    begun.set()
    threading.Event().wait()


def ended(timer: Any) -> Any:
    timer.join(PATIENCE)
    assert not timer.is_alive()
    return timer


# -- through the executor -------------------------------------------------------------------------


def test_the_call_goes_where_its_kind_belongs() -> None:
    with Executor(1) as executor:
        pids = []
        for kind in ("io", "isolated"):
            queue = executor.Queue()
            timer = executor.options(kind=kind).Timer(0, put, [queue])
            timer.start()
            queue.get(timeout=PATIENCE)
            ended(timer)
            assert timer.future is not None
            pids.append(timer.future.result(PATIENCE))
    assert pids[0] == os.getpid() != pids[1]


def test_a_coroutine_function_is_awaited() -> None:
    async def later(event: threading.Event) -> str:
        await asyncio.sleep(0)
        event.set()
        return "egg"

    with Executor() as executor:
        event = threading.Event()
        timer = executor.Timer(0, later, [event])
        timer.start()
        assert event.wait(PATIENCE)
        ended(timer)
        assert timer.future is not None
        assert timer.future.result() == "egg"


def test_the_module_level_one_uses_the_current_executor() -> None:
    with Executor(1, backend="thread", thread_name_prefix="egg") as executor, executor:
        names = executor.Queue()
        timer = unirun.Timer(0, lambda: names.put(threading.current_thread().name))
        timer.start()
        assert names.get(timeout=PATIENCE).startswith("egg")
        ended(timer)


def test_what_cannot_run_is_refused_by_start() -> None:
    with Executor(backend="coroutine") as executor:
        # Its backend would refuse it, too; this is refused while somebody is there to be told.
        timer = executor.options(priority=1).Timer(0, asyncio.sleep, [0])
        with pytest.raises(UnsupportedByBackend):
            timer.start()


def test_context_variables_are_those_of_whoever_started_it(threads: Executor) -> None:
    from contextvars import ContextVar

    number: ContextVar[int] = ContextVar("number", default=0)
    seen = threads.Queue()
    number.set(7)
    timer = threads.Timer(0, lambda: seen.put(number.get()))
    timer.start()
    number.set(8)
    assert seen.get(timeout=PATIENCE) == 7
    ended(timer)


def start_one(queue: Any) -> bool:
    timer = unirun.Timer(0.01, put, [queue, "from a task"])
    timer.start()
    timer.join(PATIENCE)
    return timer.is_alive()


def test_it_works_inside_a_task(executor: Executor) -> None:
    queue = executor.Queue()
    assert executor.submit(start_one, queue).result(PATIENCE) is False
    assert queue.get(timeout=PATIENCE) == (("from a task",), {})


def test_it_outlives_the_deadline_of_the_task_that_starts_it(threads: Executor) -> None:
    called = threading.Event()
    timer = threads.Timer(0.3, called.set)
    threads.options(timeout=0.1).submit(timer.start).result(PATIENCE)
    assert called.wait(PATIENCE)
    ended(timer)


@pytest.mark.parametrize("backend", ["process"])
def test_kill_ends_a_function_that_runs(backend: str, reported: list[Any]) -> None:
    with Executor(1, backend=backend) as executor:
        begun = executor.Event()
        timer = executor.Timer(0, hang, [begun])
        timer.start()
        assert begun.wait(PATIENCE)
        assert timer.kill() is True
        assert isinstance(ended(timer).exception, TaskKilled)
        assert timer.kill() is True  # as of a future: it was killed
    assert reported == []


def test_kill_of_one_that_waits_is_a_cancel(executor: Executor) -> None:
    timer = executor.Timer(LATER, put)
    with pytest.raises(RuntimeError, match="before it is started"):
        timer.kill()
    timer.start()
    assert timer.kill() is True
    ended(timer)


def test_kill_of_one_that_has_ended_says_so(threads: Executor) -> None:
    timer = threads.Timer(0, int)
    timer.start()
    assert ended(timer).kill() is False


@pytest.mark.parametrize("backend", ["inline", "thread"])
def test_a_function_in_this_process_cannot_be_killed(backend: str) -> None:
    with Executor(1, backend=backend) as executor:
        begun, leave = executor.Event(), executor.Event()
        timer = executor.Timer(0, _begin_and_wait, [begun, leave])
        timer.start()
        assert begun.wait(PATIENCE)
        with pytest.raises(NotKillable, match="isolated"):
            timer.kill()
        leave.set()
        ended(timer)


def _begin_and_wait(begun: Any, leave: Any) -> None:
    begun.set()
    assert leave.wait(PATIENCE)


# -- threads, clocks and ends ---------------------------------------------------------------------


def test_a_thousand_timers_take_one_thread(threads: Executor) -> None:
    before = threading.active_count()
    timers = [threads.Timer(LATER, print) for _ in range(1000)]
    for timer in timers:
        timer.start()
    assert threading.active_count() == before + 1
    for timer in timers:
        timer.cancel()


def test_a_function_that_waits_for_another_timer_does_not_hold_it_up(executor: Executor) -> None:
    event, queue = executor.Event(), executor.Queue()
    first = executor.Timer(0, _begin_and_wait, [executor.Event(), event])
    second = executor.Timer(0.05, _set_and_put, [event, queue])
    first.start()
    second.start()
    assert queue.get(timeout=PATIENCE) == "set"
    ended(first)
    ended(second)


def _set_and_put(event: Any, queue: Any) -> None:
    event.set()
    queue.put("set")


def test_a_submit_that_waits_for_room_is_made_when_there_is_some() -> None:
    with Executor(1, backend="thread", max_pending=1) as executor:
        leave, order = threading.Event(), executor.Queue()
        executor.submit(leave.wait, PATIENCE)
        stuck = executor.Timer(0, order.put, [1])
        stuck.start()
        other = executor.Timer(0, order.put, [2])
        other.start()
        leave.set()
        assert {order.get(timeout=PATIENCE) for _ in range(2)} == {1, 2}
        ended(stuck)
        ended(other)


@pytest.mark.parametrize("how", [{"cancel_futures": True}, {"kill": True}])
def test_a_shutdown_that_cancels_ends_timers_silently(
    how: dict[str, bool], reported: list[Any]
) -> None:
    executor = Executor(backend="thread")
    timer = executor.Timer(LATER, print)
    timer.start()
    executor.shutdown(**how)
    assert ended(timer).exception is None
    assert reported == []


def test_any_other_shutdown_ends_timers_with_a_report(reported: list[Any]) -> None:
    executor = Executor(backend="thread")
    timer = executor.Timer(LATER, print)
    timer.start()
    executor.shutdown()
    assert isinstance(ended(timer).exception, ExecutorShutdown)
    assert [told.exc_type for told in reported] == [ExecutorShutdown]
    with pytest.raises(ExecutorShutdown):
        executor.Timer(0, print).start()


def test_shutdown_waits_for_a_function_that_runs(executor: Executor) -> None:
    begun, leave = executor.Event(), executor.Event()
    timer = executor.Timer(0, _begin_and_wait, [begun, leave])
    timer.start()
    assert begun.wait(PATIENCE)
    waits = threading.Thread(target=executor.shutdown)
    waits.start()
    leave.set()
    waits.join(PATIENCE)
    assert not waits.is_alive()
    ended(timer)


def run(program: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore:This process", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_the_interpreter_waits_for_a_timer_but_not_for_a_daemon() -> None:
    program = """
        import unirun
        unirun.submit(int).result()  # Python 3.12.1 starts no threads any more when it ends
        waits = unirun.Timer(0.2, print, ["waited for"])
        daemon = unirun.Timer(3600, print, ["never"])
        daemon.daemon = True
        waits.start()
        daemon.start()
        print("the end")
    """
    assert run(program) == "the end\nwaited for\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_no_timers_of_its_parent() -> None:
    program = """
        import os, unirun
        timer = unirun.Timer(3600, print)
        timer.start()
        if os.fork() == 0:
            print(timer.is_alive(), flush=True)
            timer.join()
            os._exit(0)
        os.wait()
        print(timer.is_alive())
        timer.cancel()
    """
    assert run(program) == "False\nTrue\n"


def test_no_call_is_made_twice_or_lost_when_cancels_race(threads: Executor) -> None:
    calls: list[int] = []
    timers = [threads.Timer(0.001 * (n % 5), calls.append, [n]) for n in range(300)]
    for timer in timers:
        timer.start()
    for timer in timers[::2]:
        timer.cancel()
    for timer in timers:
        ended(timer)
    assert len(calls) == len(set(calls))
    assert set(calls) >= set(range(1, 300, 2))
    uncalled = [n for n in range(300) if n not in calls]
    assert all(timers[n].future is None or timers[n].future.cancelled() for n in uncalled)  # type: ignore[union-attr]
