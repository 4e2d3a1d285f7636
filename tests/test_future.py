"""Future by itself, driven by hand: what holds whatever backend it belongs to."""

import asyncio
import concurrent.futures
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError
from typing import Any

import pytest

from unirun import Future, TaskKilled
from unirun.backend import Backend

PATIENCE = 20.0


def run_together(count: int, do: Callable[[int], object]) -> None:
    """`do(0)` ... `do(count - 1)` in threads that begin at the same moment."""
    start = threading.Barrier(count, timeout=PATIENCE)
    failures: list[BaseException] = []

    def run(number: int) -> None:
        start.wait()
        try:
            do(number)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []


# -- states ---------------------------------------------------------------------------------------


def test_it_is_a_standard_future() -> None:
    assert issubclass(Future, concurrent.futures.Future)
    assert Future[int].__origin__ is Future


def test_a_new_future_is_pending() -> None:
    future: Future[int] = Future()
    assert (future.done(), future.running(), future.cancelled()) == (False, False, False)
    assert "state=pending" in repr(future)


def test_it_goes_from_pending_over_running_to_its_end() -> None:
    future: Future[int] = Future()
    assert future.set_running_or_notify_cancel() is True
    assert future.running()
    assert "state=running" in repr(future)
    future.set_result(7)
    assert future.result() == 7
    assert "state=finished returned int" in repr(future)


def test_one_that_was_cancelled_does_not_begin() -> None:
    future: Future[int] = Future()
    assert future.cancel() is True
    assert future.set_running_or_notify_cancel() is False
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result()


def test_one_that_runs_does_not_begin_again() -> None:
    future: Future[int] = Future()
    future.set_running_or_notify_cancel()
    with pytest.raises(RuntimeError, match="unexpected state"):
        future.set_running_or_notify_cancel()


@pytest.mark.parametrize("first", ["result", "exception", "cancel", "kill"])
def test_what_has_ended_stays_as_it_ended(first: str) -> None:
    future: Future[int] = Future()
    error = ValueError("first")
    ends: dict[str, Callable[[], object]] = {
        "result": lambda: future.set_result(1),
        "exception": lambda: future.set_exception(error),
        "cancel": future.cancel,
        "kill": lambda: future._killed(TaskKilled("killed")),
    }
    ends[first]()
    before = (future._state, future._result, future._exception)
    with pytest.raises(InvalidStateError):
        future.set_result(2)
    with pytest.raises(InvalidStateError):
        future.set_exception(KeyError())
    assert future._killed(TaskKilled("late")) is False
    assert (future._state, future._result, future._exception) == before


def test_a_killed_future_counts_as_cancelled_and_says_that_it_was_killed() -> None:
    future: Future[int] = Future()
    future._begin()
    assert future._killed(TaskKilled("by hand")) is True
    assert future.cancelled()
    for ask in (future.result, future.exception):
        with pytest.raises(TaskKilled, match="by hand"):
            ask()
    assert concurrent.futures.wait([future], 0).done == {future}


def test_of_many_ends_at_once_one_wins() -> None:
    for _ in range(50):
        future: Future[int] = Future()
        winners: list[int] = []

        def end(number: int, future: Future[int] = future, winners: list[int] = winners) -> None:
            if future.cancel() if number == 0 else future._succeed(number):
                winners.append(number)

        run_together(4, end)
        assert len(winners) == 1
        assert future.cancelled() == (winners == [0])
        assert future.cancelled() or future.result(0) == winners[0]


# -- waiting --------------------------------------------------------------------------------------


def test_nothing_is_made_for_who_does_not_wait() -> None:
    """What makes a future cheap: no lock, no condition, no list."""
    future: Future[int] = Future()
    future.set_result(7)
    future.result()
    assert vars(future).keys() <= {"_state", "_result", "_exception"}


def test_everybody_who_waits_is_woken() -> None:
    future: Future[int] = Future()
    found: list[int] = []

    def ask(number: int) -> None:
        if number == 4:
            future.set_result(7)
        else:
            found.append(future.result(PATIENCE))

    run_together(5, ask)
    assert found == [7] * 4


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_a_wait_ends_with_its_time_out(timeout: float) -> None:
    future: Future[int] = Future()
    with pytest.raises(TimeoutError):
        future.result(timeout)
    with pytest.raises(TimeoutError):
        future.exception(timeout)
    assert not future._listen().parked  # who went away is forgotten


def test_a_time_out_may_be_longer_than_a_lock_can_wait() -> None:
    future: Future[int] = Future()
    threading.Timer(0.01, future.set_result, [7]).start()
    assert future.result(timeout=1e10) == 7


def test_standard_waits_see_ends_before_and_after_they_begin() -> None:
    futures: list[Future[int]] = [Future() for _ in range(6)]
    futures[0].set_result(0)
    futures[1].set_exception(ValueError())
    futures[2].cancel()
    futures[3]._killed(TaskKilled("killed"))
    waiter = threading.Timer(0.01, lambda: [f.set_result(1) for f in futures[4:]])
    waiter.start()
    assert concurrent.futures.wait(futures, PATIENCE).done == set(futures)
    assert set(concurrent.futures.as_completed(futures, PATIENCE)) == set(futures)


def test_as_completed_sees_every_end_however_they_race() -> None:
    futures: list[Future[int]] = [Future() for _ in range(400)]

    def part(number: int) -> None:
        if number < 4:
            for future in futures[number::4]:
                future._begin()
                future._succeed(1)
        else:
            assert (
                sum(f.result(0) for f in concurrent.futures.as_completed(futures, PATIENCE)) == 400
            )

    run_together(5, part)


def test_standard_and_our_futures_can_be_waited_for_together() -> None:
    ours: Future[int] = Future()
    theirs: concurrent.futures.Future[int] = concurrent.futures.Future()
    ours.set_result(1)
    done, open_ = concurrent.futures.wait(
        [ours, theirs], 0, return_when=concurrent.futures.FIRST_COMPLETED
    )
    assert (done, open_) == ({ours}, {theirs})


# -- callbacks ------------------------------------------------------------------------------------


def test_each_callback_is_called_once_however_it_races_with_the_end() -> None:
    for _ in range(50):
        future: Future[int] = Future()
        heard: list[int] = []

        def act(number: int, future: Future[int] = future, heard: list[int] = heard) -> None:
            if number == 0:
                future.set_result(1)
            else:
                for n in range(10):
                    future.add_done_callback(lambda _, n=n: heard.append(10 * number + n))  # type: ignore[misc]

        run_together(3, act)
        assert sorted(heard) == [*range(10, 20), *range(20, 30)]


def test_a_callback_added_by_a_callback_is_called() -> None:
    future: Future[int] = Future()
    heard: list[str] = []
    future.add_done_callback(
        lambda f: f.add_done_callback(lambda _: heard.append("inner")) or heard.append("outer")
    )
    future.set_result(1)
    assert heard == ["inner", "outer"]


def test_what_a_callback_raises_is_logged_as_the_standard_library_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    future: Future[int] = Future()
    future.add_done_callback(lambda _: 1 / 0)
    heard: list[object] = []
    future.add_done_callback(heard.append)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        future.set_result(1)
    assert heard == [future]
    assert "exception calling callback" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_an_interrupt_in_the_main_thread_is_for_the_caller() -> None:
    """A callback added late runs in the caller's thread: there, Ctrl-C is Ctrl-C."""
    future: Future[int] = Future()
    future.set_result(1)

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        future.add_done_callback(interrupted)


# -- asyncio --------------------------------------------------------------------------------------


def awaited(future: Future[Any]) -> Any:
    async def main() -> Any:
        return await asyncio.wait_for(_await(future), PATIENCE)

    return asyncio.run(main())


async def _await(future: Future[Any]) -> Any:
    return await future


def test_await_gives_the_result_of_one_that_has_ended() -> None:
    future: Future[int] = Future()
    future.set_result(7)
    assert awaited(future) == 7


def test_await_is_woken_by_an_end_in_another_thread() -> None:
    future: Future[int] = Future()
    threading.Timer(0.01, future.set_result, [7]).start()
    assert awaited(future) == 7


def test_await_raises_the_exception_and_the_kill() -> None:
    failed: Future[int] = Future()
    failed.set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        awaited(failed)
    killed: Future[int] = Future()
    killed._killed(TaskKilled("killed"))
    with pytest.raises(TaskKilled):
        awaited(killed)


def test_cancelling_who_awaits_cancels_what_has_not_begun() -> None:
    future: Future[int] = Future()
    asyncio.run(_await_and_cancel(future))
    assert future.cancelled()


def test_cancelling_who_awaits_leaves_alone_what_nobody_can_end() -> None:
    future: Future[int] = Future()
    future._begin()
    asyncio.run(_await_and_cancel(future))
    assert future.running()


def test_an_end_after_the_loop_was_closed_is_heard_by_nobody() -> None:
    future: Future[int] = Future()
    future._begin()
    asyncio.run(_await_and_cancel(future))  # its callback stays
    future.set_result(7)
    assert future.result(0) == 7


async def _await_and_cancel(future: Future[Any]) -> None:
    waiter = asyncio.create_task(_await(future))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter


# -- kill -----------------------------------------------------------------------------------------


def test_kill_of_one_without_a_backend_is_an_error() -> None:
    future: Future[int] = Future()
    future._begin()
    with pytest.raises(RuntimeError, match="belongs to no backend"):
        future.kill()


class _Fake:
    """Stands for a backend: notes what it is asked, and kills at once."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def withdraw(self, future: Future[Any]) -> None:
        self.asked.append("withdraw")

    def request_stop(self, future: Future[Any]) -> None:
        self.asked.append("request_stop")

    def kill(self, future: Future[Any], grace: float | None) -> None:
        self.asked.append(("kill", grace))
        future._killed(TaskKilled("killed"))

    def help_with(self, future: Future[Any], until: float | None = None) -> bool:
        return False


def with_backend() -> tuple[Future[int], list[object]]:
    future: Future[int] = Future()
    backend = _Fake()
    future._backend = backend  # type: ignore[assignment]
    assert all(hasattr(Backend, name) for name in ("withdraw", "request_stop", "kill", "help_with"))
    return future, backend.asked


def test_cancelling_one_that_waits_withdraws_it() -> None:
    future, asked = with_backend()
    assert future.cancel() is True
    assert asked == ["withdraw"]


def test_cancelling_one_that_runs_asks_it_to_stop() -> None:
    future, asked = with_backend()
    future._begin()
    assert future.cancel() is False
    assert asked == ["request_stop"]


def test_killing_one_that_runs_asks_it_to_stop_and_then_kills_it() -> None:
    future, asked = with_backend()
    future._begin()
    assert future.kill(grace=1.5) is True
    assert asked == ["request_stop", ("kill", 1.5)]


def test_killing_one_that_waits_cancels_it() -> None:
    future, asked = with_backend()
    assert future.kill() is True
    assert asked == ["withdraw"]


def test_killing_one_that_has_ended_asks_nobody() -> None:
    future, asked = with_backend()
    future._succeed(1)
    assert future.kill() is False
    assert asked == []


# -- memory ---------------------------------------------------------------------------------------


def test_an_exception_does_not_keep_its_future_alive() -> None:
    """Raising it makes a traceback, which must not lead back."""
    error = ValueError("kept")

    def fail() -> weakref.ref[Future[int]]:
        future: Future[int] = Future()
        future.set_exception(error)
        with pytest.raises(ValueError, match="kept"):
            future.result()
        reference = weakref.ref(future)
        del future  # the traceback holds this frame; those of the future must not hold it
        return reference

    gc.disable()
    try:
        reference = fail()
        assert error.__traceback__ is not None
        assert reference() is None
    finally:
        gc.enable()


def test_callbacks_are_let_go_when_they_have_run() -> None:
    future: Future[int] = Future()

    class Held:
        def __call__(self, _: object) -> None:
            """Called, and then held by nobody."""

    held = Held()
    reference = weakref.ref(held)
    future.add_done_callback(held)
    del held
    future.set_result(1)
    assert reference() is None
