"""Promises about a future: its states, cancelling, callbacks, and everybody who waits for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import logging
import pickle
import threading
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from unirun import Executor, Future, UnsupportedByBackend
from unirun.testing import _subjects as subjects
from unirun.testing._gate import PATIENCE, Gate, comes_true
from unirun.testing._suite import Suite, needs


class FutureTests(Suite):
    # -- states -----------------------------------------------------------------------------------

    def test_a_finished_future_says_so(self, common: Executor) -> None:
        """Done, neither running nor cancelled; `exception()` is None."""
        future = common.submit(subjects.square, 7)
        assert future.exception(PATIENCE) is None
        assert (future.done(), future.running(), future.cancelled()) == (True, False, False)

    def test_a_failed_future_says_so(self, common: Executor) -> None:
        """Done, not cancelled; `exception()` gives what `result()` raises."""
        future = common.submit(subjects.fail, subjects.Refused("no"))
        error = future.exception(PATIENCE)
        assert isinstance(error, subjects.Refused)
        assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
        with pytest.raises(subjects.Refused) as caught:
            future.result(PATIENCE)
        assert caught.value is error

    def test_what_a_call_prints_is_kept_or_refused(
        self, common: Executor, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With `capture=True`, on `Future.output`, and nowhere else; without, there is none."""
        captured = common.options(capture=True)
        if not self.engine.captures:
            with pytest.raises(UnsupportedByBackend):
                captured.submit(print, "spam")
            return
        future = captured.submit(print, "spam")
        future.result(PATIENCE)
        assert future.output == "spam\n"
        assert capsys.readouterr().out == ""
        future = common.submit(print, "egg")
        future.result(PATIENCE)
        assert future.output is None
        assert capsys.readouterr().out == "egg\n"

    @needs("cooperative")
    def test_a_future_is_pending_then_running_then_done(self, single: Executor, gate: Gate) -> None:
        """And never two of them."""
        first = single.submit(subjects.hold, gate.address)
        second = single.submit(subjects.square, 2)
        arrival = gate.arrival()
        assert (first.running(), first.done()) == (True, False)
        assert (second.running(), second.done()) == (False, False)
        arrival.release()
        assert second.result(PATIENCE) == 4
        assert (first.running(), first.done()) == (False, True)

    @needs("cooperative")
    def test_waiting_with_a_time_out_leaves_the_call_alone(
        self, common: Executor, gate: Gate
    ) -> None:
        """`result()` and `exception()` raise TimeoutError, and the call goes on."""
        future = common.submit(subjects.hold, gate.address, "late")
        arrival = gate.arrival()
        with pytest.raises(TimeoutError):
            future.result(timeout=0.01)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(timeout=0)
        assert future.running()
        arrival.release()
        assert future.result(PATIENCE) == "late"

    def test_results_may_be_asked_for_again_and_by_many(self, common: Executor) -> None:
        """From several threads at once, and after that."""
        future = common.submit(subjects.square, 7)
        found: list[int] = []
        askers = [
            threading.Thread(target=lambda: found.append(future.result(PATIENCE))) for _ in range(4)
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(PATIENCE)
        assert found == [49] * 4
        assert future.result(0) == 49

    def test_a_future_cannot_be_pickled(self, common: Executor) -> None:
        """A TypeError that says what to send instead."""
        future = common.submit(subjects.square, 7)
        with pytest.raises(TypeError, match=r"Future cannot be pickled; .*result"):
            pickle.dumps(future)

    def test_a_result_is_kept_by_its_future_only(self, common: Executor) -> None:
        """Once the future is dropped, nothing holds what was sent and what came back."""
        argument = subjects.Adder(1)
        future = common.submit(subjects.same, argument)
        gone = [weakref.ref(argument), weakref.ref(future.result(PATIENCE))]
        common.submit(subjects.nothing).result(PATIENCE)  # an idle worker holds the last call
        del argument, future
        assert comes_true(lambda: [ref() for ref in gone] == [None, None])

    # -- cancelling -------------------------------------------------------------------------------

    @needs("cooperative")
    def test_a_waiting_call_can_be_cancelled_and_never_runs(
        self, single: Executor, gate: Gate, tmp_path: Path
    ) -> None:
        """`cancel()` is True, `result()` raises CancelledError, and there is no effect."""
        first = single.submit(subjects.hold, gate.address)
        second = single.submit(subjects.note, str(tmp_path / "ran"))
        arrival = gate.arrival()
        assert second.cancel() is True
        assert (second.cancelled(), second.done(), second.running()) == (True, True, False)
        with pytest.raises(CancelledError):
            second.result(PATIENCE)
        with pytest.raises(CancelledError):
            second.exception(PATIENCE)
        arrival.release()
        first.result(PATIENCE)
        assert single.submit(subjects.square, 2).result(PATIENCE) == 4  # behind the cancelled one
        assert not (tmp_path / "ran").exists()

    @needs("cooperative")
    def test_a_running_call_cannot_be_cancelled(self, common: Executor, gate: Gate) -> None:
        """`cancel()` is False, and the call goes on to its result."""
        future = common.submit(subjects.hold, gate.address, "went on")
        arrival = gate.arrival()
        assert future.cancel() is False
        assert future.running()
        arrival.release()
        assert future.result(PATIENCE) == "went on"
        assert not future.cancelled()

    def test_a_finished_call_cannot_be_cancelled(self, common: Executor) -> None:
        """`cancel()` is False, and the result stays."""
        future = common.submit(subjects.square, 7)
        future.result(PATIENCE)
        assert future.cancel() is False
        assert future.result(0) == 49

    @needs("cooperative")
    def test_a_running_call_can_see_that_it_was_cancelled(
        self, common: Executor, gate: Gate
    ) -> None:
        """`current_task().cancelled` turns True, so that it may stop by itself."""
        future = common.submit(subjects.meet_until_cancelled, gate.address)
        gate.arrival()
        assert future.cancel() is False
        assert future.result(PATIENCE) == "cancelled"
        assert common.submit(subjects.identity).result(PATIENCE)["cancelled"] is False

    @needs("cooperative")
    def test_a_cancelled_call_that_sleeps_wakes_and_stops(
        self, common: Executor, gate: Gate
    ) -> None:
        """`current_task().sleep()` raises TaskCancelled, a CancelledError."""
        future = common.submit(subjects.sleep_until_cancelled, gate.address)
        gate.arrival()
        future.cancel()
        with pytest.raises(CancelledError, match="was cancelled while it ran"):
            future.result(PATIENCE)

    @needs("cooperative")
    def test_many_waiting_calls_can_be_cancelled_at_once(
        self, single: Executor, gate: Gate
    ) -> None:
        """Each of them exactly once, from several threads."""
        first = single.submit(subjects.hold, gate.address, "first")
        futures = [single.submit(subjects.square, n) for n in range(40)]
        gate.arrival()
        threads = [
            threading.Thread(target=lambda: [future.cancel() for future in futures])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert all(future.cancelled() for future in futures)
        gate.open()
        assert first.result(PATIENCE) == "first"
        assert single.submit(subjects.square, 3).result(PATIENCE) == 9

    # -- callbacks --------------------------------------------------------------------------------

    def test_callbacks_run_in_their_order_with_the_future(self, common: Executor) -> None:
        """Each gets the future, which has ended by then."""
        heard, ended = [], threading.Event()
        future = common.submit(subjects.square, 7)
        for n in range(5):
            future.add_done_callback(lambda f, n=n: heard.append((n, f, f.done())))  # type: ignore[misc]
        future.add_done_callback(lambda _: ended.set())
        assert ended.wait(PATIENCE)
        assert heard == [(n, future, True) for n in range(5)]

    def test_a_callback_added_late_runs_at_once(self, common: Executor) -> None:
        """In the thread that adds it."""
        future = common.submit(subjects.square, 7)
        future.result(PATIENCE)
        heard: list[int] = []
        future.add_done_callback(lambda _: heard.append(threading.get_ident()))
        assert heard == [threading.get_ident()]

    @needs("cooperative")
    def test_a_cancelled_future_calls_back(self, single: Executor, gate: Gate) -> None:
        """As every other that ends."""
        single.submit(subjects.hold, gate.address)
        future = single.submit(subjects.square, 7)
        gate.arrival()
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        future.cancel()
        assert ended.wait(PATIENCE)

    @pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
    @needs("cooperative")
    def test_what_a_callback_raises_is_logged_and_harms_nobody(
        self,
        common: Executor,
        gate: Gate,
        caplog: pytest.LogCaptureFixture,
        error: type[BaseException],
    ) -> None:
        """The callbacks after it run, and so do the calls after it."""
        future = common.submit(subjects.hold, gate.address, 1)
        ended = threading.Event()
        future.add_done_callback(lambda _: _raise(error("from a callback")))
        future.add_done_callback(lambda _: ended.set())
        with caplog.at_level(logging.ERROR, "concurrent.futures"):
            gate.arrival().release()
            assert ended.wait(PATIENCE)
        assert "from a callback" in caplog.text
        assert future.result(PATIENCE) == 1
        assert self.still_works(common)

    def test_a_callback_may_submit(self, common: Executor) -> None:
        """And the call it submits runs."""
        made: list[Future[int]] = []
        ended = threading.Event()
        future = common.submit(subjects.square, 2)
        future.add_done_callback(lambda _: made.append(common.submit(subjects.square, 3)))
        future.add_done_callback(lambda _: ended.set())
        assert ended.wait(PATIENCE)
        assert made[0].result(PATIENCE) == 9

    @needs("cooperative")
    def test_a_callback_may_wait_for_another_call(self, common: Executor, gate: Gate) -> None:
        """Whatever thread it runs in, that thread is not needed for the other call."""
        future = common.submit(subjects.hold, gate.address)
        found: list[int] = []
        ended = threading.Event()
        future.add_done_callback(
            lambda _: found.append(common.submit(subjects.square, 3).result(PATIENCE))
        )
        future.add_done_callback(lambda _: ended.set())
        gate.arrival().release()
        assert ended.wait(PATIENCE)
        assert found == [9]

    # -- everybody who waits ----------------------------------------------------------------------

    @needs("cooperative")
    def test_wait_returns_at_the_first_or_at_all(self, common: Executor, gate: Gate) -> None:
        """`concurrent.futures.wait` sees which are done."""
        slow = common.submit(subjects.hold, gate.address)
        quick = common.submit(subjects.square, 2)
        arrival = gate.arrival()
        done, open_ = concurrent.futures.wait(
            [slow, quick], PATIENCE, concurrent.futures.FIRST_COMPLETED
        )
        assert (done, open_) == ({quick}, {slow})
        arrival.release()
        assert concurrent.futures.wait([slow, quick], PATIENCE).done == {slow, quick}

    @needs("cooperative")
    def test_wait_returns_at_the_first_exception(self, common: Executor, gate: Gate) -> None:
        """With FIRST_EXCEPTION, while another call still runs."""
        slow = common.submit(subjects.hold, gate.address)
        gate.arrival()
        bad = common.submit(subjects.fail, subjects.Refused("no"))
        done, open_ = concurrent.futures.wait(
            [slow, bad], PATIENCE, concurrent.futures.FIRST_EXCEPTION
        )
        assert (done, open_) == ({bad}, {slow})

    @needs("cooperative")
    def test_as_completed_yields_in_the_order_of_their_ends(
        self, common: Executor, gate: Gate
    ) -> None:
        """Not in the order of submission; and raises when its time is up."""
        futures: list[Future[int]] = [
            common.submit(subjects.hold, gate.address, n) for n in range(2)
        ]
        first, second = gate.arrivals(2)
        first.release()
        stream = concurrent.futures.as_completed(futures, timeout=PATIENCE)
        quick = next(stream)
        second.release()
        assert {quick, next(stream)} == set(futures)
        assert all(future.done() for future in futures)
        held: Future[int] = common.submit(subjects.hold, gate.address)
        gate.arrival()
        with pytest.raises(TimeoutError):
            next(concurrent.futures.as_completed([held], timeout=0.01))

    def test_a_future_can_be_awaited(self, common: Executor) -> None:
        """Its result, or its exception."""

        async def main() -> list[Any]:
            futures = [common.submit(subjects.square, n) for n in range(3)]
            bad = common.submit(subjects.fail, subjects.Refused("awaited"))
            return await asyncio.wait_for(
                asyncio.gather(*futures, bad, return_exceptions=True), PATIENCE
            )

        *values, error = asyncio.run(main())
        assert values == [0, 1, 4]
        assert isinstance(error, subjects.Refused)

    def test_coroutines_read_a_map(self, common: Executor) -> None:
        """In order and not, lazily, and from inputs that are async iterables."""

        async def numbers() -> AsyncIterator[int]:
            for n in range(5):
                yield n

        async def main() -> list[list[int]]:
            found = [
                [each async for each in common.map(subjects.square, inputs, ordered=ordered)]
                for inputs, ordered in ((range(5), True), (range(5), False), (numbers(), True))
            ]
            endless = common.map(subjects.square, itertools.count())
            found.append([await anext(endless) for _ in range(5)])
            await endless.aclose()
            return found

        found = asyncio.run(main())
        assert [sorted(each) for each in found] == [[0, 1, 4, 9, 16]] * 4
        assert found[0] == found[2] == found[3]

    def test_an_async_with_block_ends_its_calls(self) -> None:
        """It waits for them; one left by an exception does not, where they can be ended."""
        futures: list[Future[Any]] = []

        async def main() -> None:
            async with self.make_executor() as executor:
                futures.append(executor.submit(subjects.square, 3))
            async with self.make_executor(grace=0) as executor:
                futures.append(executor.submit(subjects.square, 4))
                raise subjects.Refused("out")

        with pytest.raises(subjects.Refused, match="out"):
            asyncio.run(main())
        assert futures[0].result(0) == 9
        assert futures[1].done()

    def test_asyncio_wraps_a_future(self, common: Executor) -> None:
        """`asyncio.wrap_future` and `run_in_executor` work as with the standard executors."""

        async def main() -> list[int]:
            wrapped = asyncio.wrap_future(common.submit(subjects.square, 7))
            loop = asyncio.get_running_loop()
            run = loop.run_in_executor(common, subjects.square, 8)
            return [await asyncio.wait_for(each, PATIENCE) for each in (wrapped, run)]

        assert asyncio.run(main()) == [49, 64]

    @needs("cooperative")
    def test_cancelling_who_awaits_a_waiting_call_cancels_it(
        self, single: Executor, gate: Gate
    ) -> None:
        """The call never runs."""
        single.submit(subjects.hold, gate.address)
        future = single.submit(subjects.square, 2)
        gate.arrival()
        asyncio.run(_await_and_cancel(future))
        assert future.cancelled()

    @needs("killable")
    def test_cancelling_who_awaits_a_running_call_kills_it(self, gate: Gate) -> None:
        """Its body has no further effect."""
        executor = self.make_executor(grace=0)
        with self.ended(gate, executor):
            future = executor.submit(subjects.hold, gate.address)
            arrival = gate.arrival()
            asyncio.run(_await_and_cancel(future))
            assert future.cancelled()
            assert arrival.is_gone()


async def _await_and_cancel(future: Future[Any]) -> None:
    async def wait_for_it() -> None:
        await future

    waiter = asyncio.create_task(wait_for_it())
    await asyncio.sleep(0)  # it has reached its await
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiter, PATIENCE)


def _raise(error: BaseException) -> None:
    raise error
