"""Promises about the beginning and the end of an executor: initializers, shutdown, `with`."""

from __future__ import annotations

import concurrent.futures
import gc
import secrets
import threading
from pathlib import Path
from typing import Any

import pytest

from unirun import Executor
from unirun.testing import _subjects as subjects
from unirun.testing._gate import PATIENCE, Gate, comes_true
from unirun.testing._suite import Suite, lacks, needs


class EndingTests(Suite):
    # -- initializers -----------------------------------------------------------------------------

    def test_an_initializer_runs_before_the_first_call(self) -> None:
        """With its arguments, once in the worker that the call runs in."""
        value = secrets.token_hex()  # nobody else's, now or before: forks inherit what was
        with self.make_executor(1, initializer=subjects.initialize, initargs=(value,)) as executor:
            for _ in range(3):
                found = executor.submit(subjects.initialized).result(PATIENCE)
                assert found.count(value) == 1

    def test_an_initializer_that_fails_fails_every_call(self) -> None:
        """With a BrokenExecutor whose cause is the initializer's own exception."""
        settings: Any = {
            "initializer": subjects.fail_with,
            "initargs": (subjects.Refused, "cannot begin"),
        }
        with self.make_executor(**settings) as executor:
            for _ in range(3):
                with pytest.raises(concurrent.futures.BrokenExecutor) as caught:
                    executor.submit(subjects.square, 2).result(PATIENCE)
                assert "cannot begin" in str(caught.value)
                assert isinstance(caught.value.__cause__, subjects.Refused)

    def test_an_initializer_that_exits_fails_every_call(self) -> None:
        """`sys.exit` in it ends neither the program nor the executor's threads."""
        settings: Any = {"initializer": subjects.fail_with, "initargs": (SystemExit, "enough")}
        with self.make_executor(**settings) as executor:
            for _ in range(2):
                with pytest.raises(concurrent.futures.BrokenExecutor) as caught:
                    executor.submit(subjects.square, 2).result(PATIENCE)
                assert isinstance(caught.value.__cause__, SystemExit)

    # -- after the end ----------------------------------------------------------------------------

    def test_after_shutdown_nothing_is_taken(self, executor: Executor) -> None:
        """`submit` and `map` raise RuntimeError, with the standard library's words."""
        executor.submit(subjects.square, 2).result(PATIENCE)
        executor.shutdown()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(subjects.square, 2)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.map(subjects.square, [1])
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.options(timeout=5).submit(subjects.square, 2)

    def test_an_executor_that_was_never_used_shuts_down(self) -> None:
        """At once, and takes nothing any more."""
        executor = self.make_executor()
        executor.shutdown()
        with pytest.raises(RuntimeError):
            executor.submit(subjects.square, 2)

    def test_shutdown_may_be_called_again(self, executor: Executor) -> None:
        """With and without waiting, in any order."""
        future = executor.submit(subjects.square, 7)
        executor.shutdown(wait=False)
        executor.shutdown()
        executor.shutdown(wait=False, cancel_futures=True)
        executor.shutdown(kill=True)
        assert future.result(0) == 49

    def test_results_outlive_the_executor(self, executor: Executor) -> None:
        """All that was submitted has ended when `shutdown` returns."""
        futures = [executor.submit(subjects.square, n) for n in range(20)]
        executor.shutdown()
        assert [future.result(0) for future in futures] == [n * n for n in range(20)]

    # -- what shutdown does with open calls --------------------------------------------------------

    @needs("cooperative")
    def test_shutdown_without_waiting_lets_everything_finish(
        self, single: Executor, gate: Gate
    ) -> None:
        """What runs and what waits; it returns while they do."""
        running = single.submit(subjects.hold, gate.address, "ran")
        waiting = [single.submit(subjects.square, n) for n in range(5)]
        arrival = gate.arrival()
        single.shutdown(wait=False)
        assert running.running()
        arrival.release()
        assert running.result(PATIENCE) == "ran"
        assert [future.result(PATIENCE) for future in waiting] == [0, 1, 4, 9, 16]

    @needs("cooperative")
    def test_shutdown_waits_for_what_runs(self, executor: Executor, gate: Gate) -> None:
        """It has not returned before the call has ended."""
        future = executor.submit(subjects.hold, gate.address, 1)
        arrival = gate.arrival()
        ended: list[bool] = []
        begun = threading.Event()

        def shut_down() -> None:
            begun.set()
            executor.shutdown()
            ended.append(future.done())

        thread = threading.Thread(target=shut_down)
        thread.start()
        assert begun.wait(PATIENCE)
        assert ended == []
        arrival.release()
        thread.join(PATIENCE)
        assert ended == [True]

    @needs("cooperative")
    def test_shutdown_can_cancel_what_waits(
        self, single: Executor, gate: Gate, tmp_path: Path
    ) -> None:
        """`cancel_futures=True`; what runs goes on."""
        running = single.submit(subjects.hold, gate.address, "ran")
        waiting = [single.submit(subjects.note, str(tmp_path / "ran")) for _ in range(5)]
        arrival = gate.arrival()
        single.shutdown(wait=False, cancel_futures=True)
        assert all(_was_cancelled(future) for future in waiting)
        arrival.release()
        single.shutdown()
        assert running.result(0) == "ran"
        assert not (tmp_path / "ran").exists()

    @needs("cooperative")
    def test_shutdown_with_a_time_out_says_what_still_runs(
        self, executor: Executor, gate: Gate
    ) -> None:
        """TimeoutError names the call, which goes on."""
        future = executor.options(name="the long one").submit(subjects.hold, gate.address, 1)
        arrival = gate.arrival()
        with pytest.raises(TimeoutError, match="the long one"):
            executor.shutdown(timeout=0.02)
        arrival.release()
        assert future.result(PATIENCE) == 1

    @needs("killable")
    def test_shutdown_can_kill_what_runs(self, executor: Executor, gate: Gate) -> None:
        """`kill=True`: bodies end, futures are cancelled, also those that wait."""
        futures = [executor.submit(subjects.hold, gate.address) for _ in range(4)]
        arrivals = gate.arrivals(2)
        executor.shutdown(kill=True)
        assert all(arrival.is_gone() for arrival in arrivals)
        assert all(future.cancelled() for future in futures)

    @needs("killable")
    def test_shutdown_can_kill_what_takes_too_long(self, executor: Executor, gate: Gate) -> None:
        """`kill=True` with `timeout`: first it waits that long."""
        future = executor.submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        executor.shutdown(timeout=0.02, kill=True)
        assert arrival.is_gone()
        assert future.cancelled()

    @needs("cooperative")
    @lacks("killable")
    def test_shutdown_gives_up_what_it_cannot_kill(self, executor: Executor, gate: Gate) -> None:
        """`kill=True` returns although a body runs on."""
        executor.submit(subjects.hold, gate.address)
        waiting = [executor.submit(subjects.hold, gate.address) for _ in range(3)]
        arrival = gate.arrivals(2)[0]
        executor.shutdown(kill=True)
        assert arrival.is_there()
        assert all(_was_cancelled(future) for future in waiting[1:])

    # -- from everywhere --------------------------------------------------------------------------

    def test_a_callback_may_shut_down(self, executor: Executor) -> None:
        """Waiting or not, it returns, and so does a later shutdown."""
        ended = threading.Event()

        def shut_down(_: object) -> None:
            executor.shutdown(wait=False)
            executor.shutdown(wait=True, timeout=PATIENCE)
            ended.set()

        executor.submit(subjects.square, 2).add_done_callback(shut_down)
        assert ended.wait(PATIENCE)
        with pytest.raises(RuntimeError):
            executor.submit(subjects.square, 2)

    def test_many_threads_may_shut_down_at_once(self, executor: Executor) -> None:
        """All return, and all that was submitted has ended."""
        futures = [executor.submit(subjects.square, n) for n in range(10)]
        threads = [threading.Thread(target=executor.shutdown) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
        assert all(future.done() for future in futures)

    def test_submit_racing_with_shutdown_is_taken_or_refused(self, executor: Executor) -> None:
        """No future is left open."""
        futures: list[Any] = []
        begun = threading.Event()

        def submit_until_refused() -> None:
            for n in range(100_000):
                try:
                    futures.append(executor.submit(subjects.square, n))
                except RuntimeError:
                    return
                begun.set()

        threads = [threading.Thread(target=submit_until_refused) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert begun.wait(PATIENCE)
        executor.shutdown(cancel_futures=True)
        for thread in threads:
            thread.join(PATIENCE)
        assert all(future.done() for future in futures)

    # -- with -------------------------------------------------------------------------------------

    def test_leaving_with_waits_for_every_call(self) -> None:
        """All futures have ended behind the block."""
        with self.make_executor() as executor:
            futures = [executor.submit(subjects.square, n) for n in range(10)]
        assert [future.result(0) for future in futures] == [n * n for n in range(10)]

    @needs("cooperative")
    def test_leaving_with_by_an_exception_cancels_what_waits(
        self, gate: Gate, tmp_path: Path
    ) -> None:
        """It never runs, and the exception passes through."""
        executor = self.make_executor(1)
        executor.submit(subjects.hold, gate.address)
        waiting = [executor.submit(subjects.note, str(tmp_path / "ran")) for _ in range(3)]
        gate.arrival()
        with pytest.raises(subjects.Refused), executor:
            raise subjects.Refused
        assert all(future.cancelled() for future in waiting)
        assert not (tmp_path / "ran").exists()

    @needs("killable")
    def test_leaving_with_by_an_exception_kills_what_runs(self, gate: Gate) -> None:
        """Its body has ended behind the block."""
        executor = self.make_executor(1)
        future = executor.submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        with pytest.raises(subjects.Refused), executor:
            raise subjects.Refused
        assert future.cancelled()
        assert arrival.is_gone()

    # -- dropped ----------------------------------------------------------------------------------

    @needs("cooperative")
    def test_an_executor_that_is_dropped_finishes_its_work(self, gate: Gate) -> None:
        """What runs and what waits; its workers end by themselves."""
        executor = self.make_executor(1)
        running = executor.submit(subjects.hold, gate.address, "ran")
        waiting = executor.submit(subjects.square, 7)
        arrival = gate.arrival()
        del executor
        gc.collect()
        arrival.release()
        assert running.result(PATIENCE) == "ran"
        assert waiting.result(PATIENCE) == 49

    @needs("isolation")
    def test_the_workers_of_a_dropped_executor_are_gone(self, gate: Gate) -> None:
        """Nothing runs on without an owner."""
        executor = self.make_executor(1)
        executor.submit(subjects.attend, gate.address).result(PATIENCE)
        arrival = gate.arrival()
        del executor
        gc.collect()
        assert arrival.is_gone()

    @needs("isolation")
    def test_the_workers_are_gone_behind_with(self, gate: Gate) -> None:
        """Each of them."""
        with self.make_executor(2) as executor:
            for _ in range(2):
                executor.submit(subjects.attend, gate.address).result(PATIENCE)
            arrivals = gate.arrivals(2)
        assert all(arrival.is_gone() for arrival in arrivals)

    # -- counters ---------------------------------------------------------------------------------

    @needs("cooperative")
    def test_stats_count_what_runs_and_what_waits(self, single: Executor, gate: Gate) -> None:
        """And what has ended."""
        first = single.submit(subjects.hold, gate.address)
        second = single.submit(subjects.square, 2)
        gate.arrival()
        assert comes_true(lambda: self.stats(single).pending == 1)
        found = self.stats(single)
        assert (found.backend, found.max_workers) == (self.engine.name, 1)
        assert (found.workers, found.running, found.pending, found.finished) == (1, 1, 1, 0)
        gate.open()
        first.result(PATIENCE)
        second.result(PATIENCE)
        single.shutdown()
        found = self.stats(single)
        assert (found.running, found.pending, found.finished) == (0, 0, 2)


def _was_cancelled(future: Any) -> bool:
    done, _ = concurrent.futures.wait([future], PATIENCE)
    return bool(done) and future.cancelled()
